/* safetensors_json.c - see safetensors_json.h. */
#include "core/safetensors_json.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* jansson takes some 40 bytes of memory for each byte of a hostile header; a model of 1,000 layers
 * needs 2 MB. */
#define MAX_HEADER ((uint64_t)16 << 20)
#define MAX_FILES 1024

/* Bits of an element; type TT_DTYPE_COUNT: good for its size only. */
static const struct {
    const char *name;
    tt_dtype type;
    int32_t bits;
} dtypes[] = {
    {"F32", TT_F32, 32},
    {"F16", TT_F16, 16},
    {"BF16", TT_BF16, 16},
    {"F64", TT_DTYPE_COUNT, 64},
    {"I64", TT_DTYPE_COUNT, 64},
    {"U64", TT_DTYPE_COUNT, 64},
    {"I32", TT_DTYPE_COUNT, 32},
    {"U32", TT_DTYPE_COUNT, 32},
    {"I16", TT_DTYPE_COUNT, 16},
    {"U16", TT_DTYPE_COUNT, 16},
    {"I8", TT_DTYPE_COUNT, 8},
    {"U8", TT_DTYPE_COUNT, 8},
    {"BOOL", TT_DTYPE_COUNT, 8},
    {"F8_E4M3", TT_DTYPE_COUNT, 8},
    {"F8_E5M2", TT_DTYPE_COUNT, 8},
    {"F8_E8M0", TT_DTYPE_COUNT, 8},
    {"F4", TT_DTYPE_COUNT, 4},
    {"C64", TT_DTYPE_COUNT, 64},
};

typedef struct reader {
    const uint8_t *data; /* after the header */
    uint64_t n_data, data_at;
    tt_arena *arena;
    tt_err *err;
} reader;

static tt_code read_dtype(reader *r, const json_t *entry, tt_file_tensor *t, int32_t *ret_bits)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (name == NULL) {
        return tt_fail(r->err, TT_E_MODEL, "tensor %s has no dtype in the header", t->name.p);
    }
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            t->type = dtypes[i].type;
            strncpy(t->type_name, name, sizeof t->type_name - 1);
            *ret_bits = dtypes[i].bits;
            return TT_OK;
        }
    }
    return tt_fail(r->err, TT_E_UNSUPPORTED, "tensor %s has an unknown dtype (\"%s\")", t->name.p,
                   name);
}

/* Sets the shape and the bytes that follow from it. */
static tt_code read_shape(reader *r, const json_t *entry, int32_t bits, tt_file_tensor *t)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) {
        return tt_fail(r->err, TT_E_MODEL, "tensor %s has no shape in the header", t->name.p);
    }
    size_t n = json_array_size(shape);
    if (n > TT_TENSOR_MAX_DIMS) {
        return tt_fail(r->err, TT_E_MODEL, "tensor %s has %zu dimensions", t->name.p, n);
    }
    int64_t n_bits = bits;
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(shape, i);
        json_int_t x = json_integer_value(d);
        if (!json_is_integer(d) || x < 0 || __builtin_mul_overflow(n_bits, (int64_t)x, &n_bits)) {
            return tt_fail(r->err, TT_E_MODEL, "tensor %s has an impossible dimension (number %zu)",
                           t->name.p, i);
        }
        t->dims[i] = (int64_t)x;
    }
    t->n_dims = (int32_t)n;
    t->n_bytes = ((uint64_t)n_bits + 7) / 8;
    return TT_OK;
}

static tt_code read_offsets(reader *r, const json_t *entry, tt_file_tensor *t)
{
    const json_t *pair = json_object_get(entry, "data_offsets");
    const json_t *a = json_array_get(pair, 0), *b = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(a) || !json_is_integer(b) ||
        json_integer_value(a) < 0 || json_integer_value(b) < json_integer_value(a)) {
        return tt_fail(r->err, TT_E_MODEL, "tensor %s has no valid data_offsets in the header",
                       t->name.p);
    }
    uint64_t begin = (uint64_t)json_integer_value(a), end = (uint64_t)json_integer_value(b);
    if (end > r->n_data) {
        return tt_fail(r->err, TT_E_MODEL,
                       "truncated: tensor %s ends at byte %" PRIu64 ", the file at byte %" PRIu64,
                       t->name.p, r->data_at + end, r->data_at + r->n_data);
    }
    if (end - begin != t->n_bytes) {
        return tt_fail(r->err, TT_E_MODEL,
                       "tensor %s (byte %" PRIu64 ") has %" PRIu64
                       " bytes, its shape needs %" PRIu64,
                       t->name.p, r->data_at + begin, end - begin, t->n_bytes);
    }
    t->offset = r->data_at + begin;
    t->data = r->data + begin;
    return TT_OK;
}

static tt_code read_tensor(reader *r, const char *name, const json_t *entry, tt_file_tensor *t)
{
    size_t n = strlen(name);
    if (!tt_name_valid(name, n, TT_TENSOR_MAX_NAME)) {
        return tt_fail(r->err, TT_E_MODEL,
                       "the header has a tensor name that is not 1 to %d bytes of printable UTF-8",
                       TT_TENSOR_MAX_NAME);
    }
    char *copy = tt_arena_strndup(r->arena, name, n);
    if (copy == NULL) {
        return tt_fail(r->err, TT_E_NOMEM, "no memory for a tensor's name");
    }
    t->name = (tt_str){.p = copy, .n = (uint32_t)n};
    if (!json_is_object(entry)) {
        return tt_fail(r->err, TT_E_MODEL, "the header's entry of tensor %s is not an object",
                       copy);
    }
    int32_t bits = 0;
    tt_code rc = read_dtype(r, entry, t, &bits);
    if (rc != TT_OK || (rc = read_shape(r, entry, bits, t)) != TT_OK) {
        return rc;
    }
    return read_offsets(r, entry, t);
}

typedef struct span {
    uint64_t begin, end;
    const char *name;
} span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    int c = (x->begin > y->begin) - (x->begin < y->begin);
    return c != 0 ? c : (x->end > y->end) - (x->end < y->end);
}

static tt_code check_cover(reader *r, const tt_file_tensor *t, int32_t n)
{
    span *s = malloc(((size_t)n + 1) * sizeof *s);
    if (s == NULL) {
        return tt_fail(r->err, TT_E_NOMEM, "no memory for %d tensors", (int)n);
    }
    for (int32_t i = 0; i < n; i++) {
        s[i] = (span){t[i].offset, t[i].offset + t[i].n_bytes, t[i].name.p};
    }
    qsort(s, (size_t)n, sizeof *s, by_begin);
    tt_code rc = TT_OK;
    uint64_t at = r->data_at;
    for (int32_t i = 0; i < n && rc == TT_OK; i++) {
        if (s[i].begin != at) {
            rc = tt_fail(r->err, TT_E_MODEL,
                         "tensor %s begins at byte %" PRIu64
                         ", the one before it ends at byte %" PRIu64,
                         s[i].name, s[i].begin, at);
        }
        at = s[i].end;
    }
    free(s);
    if (rc == TT_OK && at != r->data_at + r->n_data) {
        return tt_fail(r->err, TT_E_MODEL,
                       "the tensors end at byte %" PRIu64 ", the file at byte %" PRIu64, at,
                       r->data_at + r->n_data);
    }
    return rc;
}

static tt_code read_tensors(reader *r, json_t *root, tt_tensor_list *list)
{
    int32_t first = list->n;
    size_t n = json_object_size(root) - (json_object_get(root, "__metadata__") != NULL);
    if (n > TT_TENSOR_LIST_MAX) {
        return tt_fail(r->err, TT_E_MODEL, "the header lists %zu tensors", n);
    }
    tt_code rc = tt_tensor_list_grow(list, (int32_t)n, r->err);
    if (rc != TT_OK) {
        return rc;
    }
    int32_t i = first;
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) {
            continue;
        }
        if ((rc = read_tensor(r, name, entry, &list->t[i++])) != TT_OK) {
            return rc;
        }
    }
    return check_cover(r, list->t + first, (int32_t)n);
}

static tt_code load_json(const uint8_t *bytes, uint64_t n, uint64_t at, tt_err *reterr,
                         json_t **ret)
{
    json_error_t e;
    json_t *root = json_loadb((const char *)bytes, (size_t)n, JSON_REJECT_DUPLICATES, &e);
    if (root == NULL && json_error_code(&e) == json_error_out_of_memory) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %" PRIu64 " bytes of JSON", n);
    }
    if (root == NULL) {
        return tt_fail(reterr, TT_E_MODEL, "JSON error at byte %" PRIu64 ": %s",
                       at + (uint64_t)(e.position > 0 ? e.position : 0), e.text);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return tt_fail(reterr, TT_E_MODEL, "the JSON at byte %" PRIu64 " is not an object", at);
    }
    *ret = root;
    return TT_OK;
}

tt_code tt_safetensors_read(const uint8_t *bytes, uint64_t n_bytes, tt_arena *arena,
                            tt_tensor_list *list, tt_err *reterr)
{
    uint64_t n_header;
    if (n_bytes < sizeof n_header) {
        return tt_fail(reterr, TT_E_MODEL, "truncated: %" PRIu64 " bytes are no safetensors file",
                       n_bytes);
    }
    memcpy(&n_header, bytes, sizeof n_header);
    if (n_header > n_bytes - sizeof n_header) {
        return tt_fail(reterr, TT_E_MODEL,
                       "truncated: the header (byte 8) has %" PRIu64 " bytes, the file %" PRIu64,
                       n_header, n_bytes);
    }
    if (n_header > MAX_HEADER) {
        return tt_fail(reterr, TT_E_MODEL, "the header has %" PRIu64 " bytes, at most %" PRIu64,
                       n_header, MAX_HEADER);
    }
    json_t *root = NULL;
    tt_code rc = load_json(bytes + 8, n_header, 8, reterr, &root);
    if (rc != TT_OK) {
        return rc;
    }
    reader r = {.data = bytes + 8 + n_header,
                .n_data = n_bytes - 8 - n_header,
                .data_at = 8 + n_header,
                .arena = arena,
                .err = reterr};
    rc = read_tensors(&r, root, list);
    json_decref(root);
    return rc;
}

/* A name from the index is opened inside the model's folder and nowhere else. */
static bool is_plain_file_name(const char *s)
{
    size_t n = strlen(s);
    const char *suffix = ".safetensors";
    return tt_name_valid(s, n, 255) && strchr(s, '/') == NULL && s[0] != '.' &&
           n > strlen(suffix) && strcmp(s + n - strlen(suffix), suffix) == 0;
}

/* Index of the file, which is added when it is new; -1: no memory; -2: too many. */
static int32_t file_index(tt_safetensors_index *x, tt_arena *arena, const char *file)
{
    /* shards follow each other, so the last one is looked at first */
    for (int32_t i = x->n_files - 1; i >= 0; i--) {
        if (strcmp(x->files[i], file) == 0) {
            return i;
        }
    }
    if (x->n_files == MAX_FILES) {
        return -2;
    }
    char *copy = tt_arena_strndup(arena, file, strlen(file));
    if (copy == NULL) {
        return -1;
    }
    x->files[x->n_files] = copy;
    return x->n_files++;
}

static tt_code read_map(const json_t *map, tt_arena *arena, tt_safetensors_index *x, tt_err *reterr)
{
    size_t n = json_object_size(map);
    if (n == 0 || n > TT_TENSOR_LIST_MAX) {
        return tt_fail(reterr, TT_E_MODEL, "weight_map lists %zu tensors", n);
    }
    x->files = tt_arena_calloc(arena, n < MAX_FILES ? n : MAX_FILES, sizeof *x->files);
    x->tensors = tt_arena_calloc(arena, n, sizeof *x->tensors);
    x->file_of = tt_arena_calloc(arena, n, sizeof *x->file_of);
    if (x->files == NULL || x->tensors == NULL || x->file_of == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an index of %zu tensors", n);
    }
    const char *name;
    json_t *file;
    json_object_foreach((json_t *)map, name, file)
    {
        if (!tt_name_valid(name, strlen(name), TT_TENSOR_MAX_NAME)) {
            return tt_fail(reterr, TT_E_MODEL, "weight_map has a name that is not printable UTF-8");
        }
        if (!json_is_string(file) || !is_plain_file_name(json_string_value(file))) {
            return tt_fail(reterr, TT_E_MODEL,
                           "weight_map: %s is not in a file of this folder named *.safetensors",
                           name);
        }
        int32_t i = file_index(x, arena, json_string_value(file));
        x->tensors[x->n_tensors] = tt_arena_strndup(arena, name, strlen(name));
        if (i == -2) {
            return tt_fail(reterr, TT_E_MODEL, "weight_map names more than %d files", MAX_FILES);
        }
        if (i < 0 || x->tensors[x->n_tensors] == NULL) {
            return tt_fail(reterr, TT_E_NOMEM, "no memory for an index of %zu tensors", n);
        }
        x->file_of[x->n_tensors++] = i;
    }
    return TT_OK;
}

tt_code tt_safetensors_read_index(const uint8_t *bytes, uint64_t n_bytes, tt_arena *arena,
                                  tt_safetensors_index *ret_index, tt_err *reterr)
{
    if (n_bytes > MAX_HEADER) {
        return tt_fail(reterr, TT_E_MODEL, "the index has %" PRIu64 " bytes, at most %" PRIu64,
                       n_bytes, MAX_HEADER);
    }
    json_t *root = NULL;
    tt_code rc = load_json(bytes, n_bytes, 0, reterr, &root);
    if (rc != TT_OK) {
        return rc;
    }
    const json_t *map = json_object_get(root, "weight_map");
    tt_safetensors_index x = {0};
    rc = json_is_object(map) ? read_map(map, arena, &x, reterr)
                             : tt_fail(reterr, TT_E_MODEL, "the index has no weight_map");
    json_decref(root);
    if (rc == TT_OK) {
        *ret_index = x;
    }
    return rc;
}
