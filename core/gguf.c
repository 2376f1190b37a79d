/* gguf.c - see gguf.h. */
#include "core/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little endian and their weights are used in place"
#endif

#define MAX_VALUES 65536
#define MAX_KEY 65535
#define MAX_DIMS 4
#define MAX_STRING ((uint64_t)64 << 20)
#define DEFAULT_ALIGNMENT 32
#define MAX_ALIGNMENT 65536
/* The least that one entry takes: key length + 1 byte + type + 1 byte; name length + 1 byte +
 * n_dims + 1 dim + type + offset. */
#define MIN_VALUE_BYTES (8 + 1 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 1 + 4 + 8 + 4 + 8)

/* The file's numbers of tensor types. type TT_DTYPE_COUNT: known by name only. */
static const struct {
    uint32_t number;
    tt_dtype type;
    const char *name;
} tensor_types[] = {
    {0, TT_F32, "F32"},
    {1, TT_F16, "F16"},
    {2, TT_Q4_0, "Q4_0"},
    {3, TT_Q4_1, "Q4_1"},
    {6, TT_Q5_0, "Q5_0"},
    {7, TT_Q5_1, "Q5_1"},
    {8, TT_Q8_0, "Q8_0"},
    {12, TT_Q4_K, "Q4_K"},
    {13, TT_Q5_K, "Q5_K"},
    {14, TT_Q6_K, "Q6_K"},
    {30, TT_BF16, "BF16"},
    {9, TT_DTYPE_COUNT, "Q8_1"},
    {10, TT_DTYPE_COUNT, "Q2_K"},
    {11, TT_DTYPE_COUNT, "Q3_K"},
    {15, TT_DTYPE_COUNT, "Q8_K"},
    {16, TT_DTYPE_COUNT, "IQ2_XXS"},
    {17, TT_DTYPE_COUNT, "IQ2_XS"},
    {18, TT_DTYPE_COUNT, "IQ3_XXS"},
    {19, TT_DTYPE_COUNT, "IQ1_S"},
    {20, TT_DTYPE_COUNT, "IQ4_NL"},
    {21, TT_DTYPE_COUNT, "IQ3_S"},
    {22, TT_DTYPE_COUNT, "IQ2_S"},
    {23, TT_DTYPE_COUNT, "IQ4_XS"},
    {24, TT_DTYPE_COUNT, "I8"},
    {25, TT_DTYPE_COUNT, "I16"},
    {26, TT_DTYPE_COUNT, "I32"},
    {27, TT_DTYPE_COUNT, "I64"},
    {28, TT_DTYPE_COUNT, "F64"},
    {29, TT_DTYPE_COUNT, "IQ1_M"},
    {34, TT_DTYPE_COUNT, "TQ1_0"},
    {35, TT_DTYPE_COUNT, "TQ2_0"},
    {39, TT_DTYPE_COUNT, "MXFP4"},
};

typedef struct cursor {
    const uint8_t *p;
    uint64_t n, pos;
    tt_err *err;
} cursor;

static tt_code need(cursor *c, uint64_t n_bytes, const char *what)
{
    if (n_bytes > c->n - c->pos) {
        return tt_fail(c->err, TT_E_MODEL,
                       "truncated: %s at byte %" PRIu64 " needs %" PRIu64
                       " bytes, the file has %" PRIu64 " left",
                       what, c->pos, n_bytes, c->n - c->pos);
    }
    return TT_OK;
}

static tt_code read_u32(cursor *c, const char *what, uint32_t *ret)
{
    tt_code rc = need(c, 4, what);
    if (rc == TT_OK) {
        memcpy(ret, c->p + c->pos, 4);
        c->pos += 4;
    }
    return rc;
}

static tt_code read_u64(cursor *c, const char *what, uint64_t *ret)
{
    tt_code rc = need(c, 8, what);
    if (rc == TT_OK) {
        memcpy(ret, c->p + c->pos, 8);
        c->pos += 8;
    }
    return rc;
}

static tt_code read_string(cursor *c, const char *what, tt_str *ret)
{
    uint64_t n;
    tt_code rc = read_u64(c, what, &n);
    if (rc != TT_OK || (rc = need(c, n, what)) != TT_OK) {
        return rc;
    }
    if (n > MAX_STRING) {
        return tt_fail(c->err, TT_E_MODEL, "%s at byte %" PRIu64 " has %" PRIu64 " bytes", what,
                       c->pos, n);
    }
    *ret = (tt_str){.p = (const char *)c->p + c->pos, .n = (uint32_t)n};
    c->pos += n;
    return TT_OK;
}

static tt_code read_name(cursor *c, const char *what, uint64_t max, tt_str *ret)
{
    uint64_t at = c->pos;
    tt_code rc = read_string(c, what, ret);
    if (rc == TT_OK && !tt_name_valid(ret->p, ret->n, max)) {
        return tt_fail(c->err, TT_E_MODEL,
                       "%s at byte %" PRIu64 " is not 1 to %" PRIu64 " bytes of printable UTF-8",
                       what, at, max);
    }
    return rc;
}

static tt_code read_count(cursor *c, const char *what, uint64_t min_bytes, int32_t max,
                          int32_t *ret)
{
    uint64_t n, at = c->pos;
    tt_code rc = read_u64(c, what, &n);
    if (rc != TT_OK) {
        return rc;
    }
    if (n > (c->n - c->pos) / min_bytes || n > (uint64_t)max) {
        return tt_fail(c->err, TT_E_MODEL,
                       "%s at byte %" PRIu64 " is %" PRIu64 ", too many for a file of %" PRIu64
                       " bytes",
                       what, at, n, c->n);
    }
    *ret = (int32_t)n;
    return TT_OK;
}

static tt_code read_type(cursor *c, const char *what, tt_gguf_type *ret)
{
    uint32_t t = 0;
    tt_code rc = read_u32(c, what, &t);
    if (rc == TT_OK && t >= TT_GGUF_TYPE_COUNT) {
        return tt_fail(c->err, TT_E_MODEL, "%s at byte %" PRIu64 " is %" PRIu32 ", not a type",
                       what, c->pos - 4, t);
    }
    *ret = (tt_gguf_type)t;
    return rc;
}

static tt_code read_array(cursor *c, tt_gguf_value *v)
{
    tt_code rc = read_type(c, "the element type of an array", &v->elem_type);
    if (rc != TT_OK || (rc = read_u64(c, "the length of an array", &v->n)) != TT_OK) {
        return rc;
    }
    if (v->elem_type == TT_GGUF_ARRAY) {
        return tt_fail(c->err, TT_E_UNSUPPORTED, "array of arrays at byte %" PRIu64, v->offset);
    }
    v->data = c->p + c->pos;
    uint64_t elem = v->elem_type == TT_GGUF_STRING ? 8 : tt_gguf_scalar_bytes[v->elem_type];
    if (v->n > (c->n - c->pos) / elem) {
        return tt_fail(c->err, TT_E_MODEL,
                       "truncated: the array at byte %" PRIu64 " has %" PRIu64
                       " elements, the file has %" PRIu64 " bytes left",
                       v->offset, v->n, c->n - c->pos);
    }
    if (v->elem_type != TT_GGUF_STRING) {
        c->pos += v->n * elem;
        return TT_OK;
    }
    tt_str s;
    for (uint64_t i = 0; i < v->n && rc == TT_OK; i++) {
        rc = read_string(c, "a string of an array", &s);
    }
    return rc;
}

static tt_code read_value(cursor *c, tt_gguf_value *v)
{
    v->offset = c->pos;
    tt_code rc = read_name(c, "a metadata key", MAX_KEY, &v->key);
    if (rc != TT_OK || (rc = read_type(c, "the type of a value", &v->type)) != TT_OK) {
        return rc;
    }
    if (v->type == TT_GGUF_ARRAY) {
        return read_array(c, v);
    }
    if (v->type == TT_GGUF_STRING) {
        tt_str s = {0};
        rc = read_string(c, "a metadata string", &s);
        v->data = (const uint8_t *)s.p;
        v->n = s.n;
        return rc;
    }
    rc = need(c, tt_gguf_scalar_bytes[v->type], "a metadata value");
    if (rc == TT_OK) {
        v->data = c->p + c->pos;
        v->n = 1;
        c->pos += tt_gguf_scalar_bytes[v->type];
    }
    return rc;
}

static int by_key(const void *a, const void *b)
{
    return tt_str_compare(((const tt_gguf_value *)a)->key, ((const tt_gguf_value *)b)->key);
}

static tt_code read_values(cursor *c, tt_gguf *g)
{
    g->values = calloc((size_t)g->n_values + 1, sizeof *g->values);
    if (g->values == NULL) {
        return tt_fail(c->err, TT_E_NOMEM, "no memory for %d metadata values", (int)g->n_values);
    }
    for (int32_t i = 0; i < g->n_values; i++) {
        tt_code rc = read_value(c, &g->values[i]);
        if (rc != TT_OK) {
            return rc;
        }
    }
    qsort(g->values, (size_t)g->n_values, sizeof *g->values, by_key);
    for (int32_t i = 1; i < g->n_values; i++) {
        const tt_gguf_value *v = &g->values[i];
        if (tt_str_compare(v[-1].key, v->key) == 0) {
            return tt_fail(c->err, TT_E_MODEL,
                           "two values have the key \"%.*s\" (byte %" PRIu64 ")", (int)v->key.n,
                           v->key.p, v->offset);
        }
    }
    return TT_OK;
}

static tt_code set_type(cursor *c, tt_file_tensor *t, uint32_t number)
{
    for (size_t i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++) {
        if (tensor_types[i].number != number) {
            continue;
        }
        if (tensor_types[i].type == TT_DTYPE_COUNT) {
            return tt_fail(c->err, TT_E_UNSUPPORTED,
                           "tensor %.*s has type %s, which is not supported", (int)t->name.n,
                           t->name.p, tensor_types[i].name);
        }
        t->type = tensor_types[i].type;
        strncpy(t->type_name, tensor_types[i].name, sizeof t->type_name - 1);
        return TT_OK;
    }
    return tt_fail(c->err, TT_E_UNSUPPORTED, "tensor %.*s has an unknown type (%" PRIu32 ")",
                   (int)t->name.n, t->name.p, number);
}

static tt_code read_dims(cursor *c, tt_file_tensor *t)
{
    uint32_t n;
    tt_code rc = read_u32(c, "the number of dimensions of a tensor", &n);
    if (rc != TT_OK) {
        return rc;
    }
    if (n < 1 || n > MAX_DIMS) {
        return tt_fail(c->err, TT_E_MODEL,
                       "tensor %.*s has %" PRIu32 " dimensions (byte %" PRIu64 ")", (int)t->name.n,
                       t->name.p, n, c->pos - 4);
    }
    t->n_dims = (int32_t)n;
    int64_t n_elems = 1;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t d;
        if ((rc = read_u64(c, "a dimension of a tensor", &d)) != TT_OK) {
            return rc;
        }
        if (d < 1 || d > INT64_MAX || __builtin_mul_overflow(n_elems, (int64_t)d, &n_elems)) {
            return tt_fail(c->err, TT_E_MODEL,
                           "tensor %.*s has an impossible dimension of %" PRIu64 " (byte %" PRIu64
                           ")",
                           (int)t->name.n, t->name.p, d, c->pos - 8);
        }
        t->dims[n - 1 - i] = (int64_t)d; /* the file has the innermost first */
    }
    return TT_OK;
}

/* Bytes of the tensor; its rows are whole blocks. */
static tt_code set_size(cursor *c, tt_file_tensor *t)
{
    const tt_dtype_info *info = &tt_dtypes[t->type];
    int64_t cols = t->dims[t->n_dims - 1], n_elems = 1, n_bytes;
    for (int32_t i = 0; i < t->n_dims; i++) {
        n_elems *= t->dims[i]; /* read_dims() checked the product */
    }
    if (cols % info->block_elems != 0) {
        return tt_fail(c->err, TT_E_MODEL,
                       "tensor %.*s has rows of %" PRId64 " elements, not a multiple of %s's %d",
                       (int)t->name.n, t->name.p, cols, info->name, (int)info->block_elems);
    }
    if (__builtin_mul_overflow(n_elems / info->block_elems, (int64_t)info->block_bytes, &n_bytes)) {
        return tt_fail(c->err, TT_E_MODEL, "tensor %.*s is too large", (int)t->name.n, t->name.p);
    }
    t->n_bytes = (uint64_t)n_bytes;
    return TT_OK;
}

/* t->offset is left relative to the tensor data, which begins after the last entry. */
static tt_code read_tensor(cursor *c, tt_file_tensor *t)
{
    uint32_t type;
    tt_code rc = read_name(c, "the name of a tensor", TT_TENSOR_MAX_NAME, &t->name);
    if (rc != TT_OK || (rc = read_dims(c, t)) != TT_OK ||
        (rc = read_u32(c, "the type of a tensor", &type)) != TT_OK ||
        (rc = set_type(c, t, type)) != TT_OK || (rc = set_size(c, t)) != TT_OK) {
        return rc;
    }
    return read_u64(c, "the offset of a tensor", &t->offset);
}

static tt_code place_tensors(cursor *c, tt_gguf *g)
{
    uint64_t pad = g->alignment - 1;
    uint64_t base = (c->pos + pad) & ~pad; /* c->pos <= file size: no overflow */
    if (base > c->n) {
        base = c->n; /* a file without tensor data may end before the padding */
    }
    for (int32_t i = 0; i < g->tensors.n; i++) {
        tt_file_tensor *t = &g->tensors.t[i];
        if ((t->offset & pad) != 0) {
            return tt_fail(c->err, TT_E_MODEL,
                           "tensor %.*s has offset %" PRIu64
                           ", not a multiple of the alignment %" PRIu32,
                           (int)t->name.n, t->name.p, t->offset, g->alignment);
        }
        if (t->offset > c->n - base || t->n_bytes > c->n - base - t->offset) {
            return tt_fail(c->err, TT_E_MODEL,
                           "truncated: tensor %.*s (%" PRIu64 " bytes at offset %" PRIu64
                           " from byte %" PRIu64 ") runs past the end of the file (%" PRIu64
                           " bytes)",
                           (int)t->name.n, t->name.p, t->n_bytes, t->offset, base, c->n);
        }
        t->offset += base;
        t->data = c->p + t->offset;
    }
    return TT_OK;
}

typedef struct span {
    uint64_t begin, end;
    tt_str name;
} span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Two tensors in one place would be read without harm, but one of them cannot be what its name
 * says. */
static tt_code check_overlap(cursor *c, const tt_tensor_list *l)
{
    span *s = malloc(((size_t)l->n + 1) * sizeof *s);
    if (s == NULL) {
        return tt_fail(c->err, TT_E_NOMEM, "no memory for %d tensors", (int)l->n);
    }
    for (int32_t i = 0; i < l->n; i++) {
        const tt_file_tensor *t = &l->t[i];
        s[i] = (span){.begin = t->offset, .end = t->offset + t->n_bytes, .name = t->name};
    }
    qsort(s, (size_t)l->n, sizeof *s, by_begin);
    tt_code rc = TT_OK;
    for (int32_t i = 1; i < l->n && rc == TT_OK; i++) {
        if (s[i].begin < s[i - 1].end) {
            rc = tt_fail(c->err, TT_E_MODEL, "tensors %.*s and %.*s overlap at byte %" PRIu64,
                         (int)s[i - 1].name.n, s[i - 1].name.p, (int)s[i].name.n, s[i].name.p,
                         s[i].begin);
        }
    }
    free(s);
    return rc;
}

static tt_code read_header(cursor *c, tt_gguf *g, int32_t *ret_n_tensors)
{
    uint32_t version;
    tt_code rc = need(c, 4, "the header");
    if (rc != TT_OK) {
        return rc;
    }
    if (memcmp(c->p, "GGUF", 4) != 0) {
        return tt_fail(c->err, TT_E_MODEL, "not a GGUF file: it does not begin with \"GGUF\"");
    }
    c->pos = 4;
    if ((rc = read_u32(c, "the version", &version)) != TT_OK) {
        return rc;
    }
    if ((version & 0xFFFFu) == 0 && version != 0) {
        return tt_fail(c->err, TT_E_UNSUPPORTED, "big-endian GGUF files are not supported");
    }
    if (version != 2 && version != 3) {
        return tt_fail(c->err, TT_E_UNSUPPORTED,
                       "GGUF version %" PRIu32 " is not supported (2 and 3 are)", version);
    }
    g->version = version;
    rc =
        read_count(c, "the number of tensors", MIN_TENSOR_BYTES, TT_TENSOR_LIST_MAX, ret_n_tensors);
    if (rc != TT_OK) {
        return rc;
    }
    return read_count(c, "the number of metadata values", MIN_VALUE_BYTES, MAX_VALUES,
                      &g->n_values);
}

static tt_code read_alignment(cursor *c, tt_gguf *g)
{
    int64_t a = DEFAULT_ALIGNMENT;
    tt_code rc = tt_gguf_get_int(g, "general.alignment", 8, MAX_ALIGNMENT, &a, c->err);
    if (rc < 0) {
        return rc;
    }
    if ((a & (a - 1)) != 0) {
        return tt_fail(c->err, TT_E_MODEL, "general.alignment is %" PRId64 ", not a power of two",
                       a);
    }
    g->alignment = (uint32_t)a;
    return TT_OK;
}

static tt_code read_all(cursor *c, tt_gguf *g)
{
    int32_t n_tensors = 0;
    tt_code rc = read_header(c, g, &n_tensors);
    if (rc != TT_OK || (rc = read_values(c, g)) != TT_OK || (rc = read_alignment(c, g)) != TT_OK ||
        (rc = tt_tensor_list_grow(&g->tensors, n_tensors, c->err)) != TT_OK) {
        return rc;
    }
    for (int32_t i = 0; i < n_tensors; i++) {
        if ((rc = read_tensor(c, &g->tensors.t[i])) != TT_OK) {
            return rc;
        }
    }
    if ((rc = place_tensors(c, g)) != TT_OK ||
        (rc = tt_tensor_list_index(&g->tensors, c->err)) != TT_OK) {
        return rc;
    }
    return check_overlap(c, &g->tensors);
}

tt_code tt_gguf_open(const uint8_t *bytes, uint64_t n_bytes, tt_gguf **ret_gguf, tt_err *reterr)
{
    tt_gguf *g = calloc(1, sizeof *g);
    if (g == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the reader");
    }
    cursor c = {.p = bytes, .n = n_bytes, .err = reterr};
    tt_code rc = read_all(&c, g);
    if (rc != TT_OK) {
        tt_gguf_close(&g);
        return rc;
    }
    *ret_gguf = g;
    return TT_OK;
}

void tt_gguf_close(tt_gguf **gguf)
{
    tt_gguf *g = *gguf;
    if (g != NULL) {
        free(g->values);
        tt_tensor_list_finish(&g->tensors);
        free(g);
        *gguf = NULL;
    }
}
