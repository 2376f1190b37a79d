/* buffers.c - random numbers, guarded buffers and weights of one test; see checkops.h. */
#include "tests/checkops/checkops.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

#include "kernels/quant.h"

#define GUARD_BYTE 0xC5

/* Source: splitmix64, Steele, Lea and Flood 2014. */
uint64_t co_next(co_rng *r)
{
    uint64_t z = (r->s += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double co_uniform(co_rng *r)
{
    return (double)(co_next(r) >> 11) * 0x1p-53;
}

/* The sum of twelve uniforms: normal enough, cheap, bounded. */
double co_normal(co_rng *r)
{
    double s = -6;
    for (int i = 0; i < 3; i++) {
        uint64_t u = co_next(r);
        for (int k = 0; k < 4; k++) {
            s += (double)((u >> (16 * k)) & 0xFFFF) * 0x1p-16;
        }
    }
    return s;
}

int32_t co_below(co_rng *r, int32_t n)
{
    return (int32_t)(co_next(r) % (uint64_t)n);
}

void *co_host(co_test *t, size_t n_bytes)
{
    void *p = calloc(1, n_bytes == 0 ? 1 : n_bytes);
    if (p == NULL || t->n_host == CO_MAX_HOST) {
        fprintf(stderr, "checkops: out of memory or of host arrays\n");
        exit(2);
    }
    t->host[t->n_host++] = p;
    return p;
}

static size_t elem_bytes(co_elem e)
{
    static const size_t bytes[] = {
        [CO_F32] = 4, [CO_F64] = 8, [CO_BF16] = 2, [CO_I32] = 4, [CO_U8] = 1};
    return bytes[e];
}

/* rows 0: len elements in all. */
static co_buf *add_buf(co_test *t, const char *name, co_role role, co_elem elem, int64_t rows,
                       int64_t len)
{
    if (t->n_bufs == CO_MAX_BUFS) {
        fprintf(stderr, "checkops: too many buffers\n");
        exit(2);
    }
    co_buf *b = &t->bufs[t->n_bufs++];
    *b = (co_buf){.name = name, .role = role, .elem = elem, .rows = rows, .len = len};
    b->n_bytes = (size_t)(rows == 0 ? len : rows * len) * elem_bytes(elem);
    size_t n = b->n_bytes + 2 * CO_GUARD;
    tt_err err;
    b->sent = malloc(n);
    b->got = malloc(n);
    if (b->sent == NULL || b->got == NULL || t->ops->alloc(t->lane, n, &b->base, &err) < 0) {
        fprintf(stderr, "checkops: out of memory\n");
        exit(2);
    }
    memset(b->sent, GUARD_BYTE, n);
    b->dev = b->base + CO_GUARD;
    return b;
}

static co_buf *add_random(co_test *t, const char *name, co_role role, int64_t rows, int64_t len,
                          double sigma)
{
    co_buf *b = add_buf(t, name, role, CO_F32, rows, len);
    for (size_t i = 0; i < b->n_bytes / sizeof(float); i++) {
        double v = fabs(sigma) * co_normal(&t->rng);
        if (sigma < 0 && co_below(&t->rng, 97) == 0) {
            v *= 50;
        }
        float f = (float)v;
        memcpy(b->sent + CO_GUARD + i * sizeof f, &f, sizeof f);
    }
    return b;
}

co_buf *co_in(co_test *t, const char *name, int64_t rows, int64_t len, double sigma)
{
    return add_random(t, name, CO_IN, rows, len, sigma);
}

co_buf *co_inout(co_test *t, const char *name, int64_t rows, int64_t len, double sigma)
{
    return add_random(t, name, CO_INOUT, rows, len, sigma);
}

co_buf *co_out(co_test *t, const char *name, co_elem elem, int64_t rows, int64_t len)
{
    co_buf *b = add_buf(t, name, CO_OUT, elem, rows, len);
    memset(b->sent + CO_GUARD, 0xFF, b->n_bytes);
    return b;
}

co_buf *co_bytes(co_test *t, const char *name, co_role role, co_elem elem, const void *p,
                 int64_t len)
{
    co_buf *b = add_buf(t, name, role, elem, 0, len);
    if (b->n_bytes > 0) {
        memcpy(b->sent + CO_GUARD, p, b->n_bytes);
    }
    return b;
}

co_buf *co_ints(co_test *t, const char *name, const int32_t *v, int64_t rows)
{
    co_buf *b = add_buf(t, name, CO_IN, CO_I32, rows, 1);
    memcpy(b->sent + CO_GUARD, v, b->n_bytes);
    return b;
}

co_buf *co_derived(co_test *t, const char *name, int64_t rows, int64_t len)
{
    co_buf *b = co_out(t, name, CO_F64, rows, len);
    memcpy(b->got, b->sent, b->n_bytes + 2 * CO_GUARD);
    return b;
}

void co_set_got(co_buf *b, int64_t i, double v)
{
    memcpy(b->got + CO_GUARD + (size_t)i * sizeof v, &v, sizeof v);
}

tt_dev co_dev(const co_test *t, const co_buf *b)
{
    return b->rows == 0 ? b->dev : b->dev + (size_t)(t->row0 * b->len) * elem_bytes(b->elem);
}

co_buf *co_find(co_test *t, const char *name)
{
    for (int i = 0; i < t->n_bufs; i++) {
        if (strcmp(t->bufs[i].name, name) == 0) {
            return &t->bufs[i];
        }
    }
    fprintf(stderr, "checkops: no buffer %s\n", name);
    exit(2);
}

bool co_has(const co_test *t, const char *name)
{
    for (int i = 0; i < t->n_bufs; i++) {
        if (strcmp(t->bufs[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static double elem_at(const uint8_t *bytes, co_elem e, int64_t i)
{
    const uint8_t *p = bytes + CO_GUARD;
    float f;
    double d;
    uint16_t h;
    int32_t n;
    switch (e) {
    case CO_F32:
        memcpy(&f, p + 4 * i, sizeof f);
        return f;
    case CO_F64:
        memcpy(&d, p + 8 * i, sizeof d);
        return d;
    case CO_BF16:
        memcpy(&h, p + 2 * i, sizeof h);
        return tt_bf16_to_f32(h);
    case CO_I32:
        memcpy(&n, p + 4 * i, sizeof n);
        return n;
    default:
        return p[i];
    }
}

/* One value a name is enough: variants of a shape run one after the other. */
static struct memo {
    const char *name;
    uint64_t seed;
    const co_shape *of;
    void *p;
} memos[8];

void *co_memo(co_test *t, const char *name, size_t n_bytes, bool *ret_ready)
{
    for (size_t i = 0; i < sizeof memos / sizeof *memos; i++) {
        struct memo *m = &memos[i];
        if (m->name != NULL && strcmp(m->name, name) != 0) {
            continue;
        }
        *ret_ready = m->name != NULL && m->seed == t->seed && m->of == t->op->shapes;
        if (!*ret_ready) {
            free(m->p);
            *m = (struct memo){name, t->seed, t->op->shapes, calloc(1, n_bytes == 0 ? 1 : n_bytes)};
        }
        if (m->p == NULL) {
            break;
        }
        return m->p;
    }
    fprintf(stderr, "checkops: out of memory\n");
    exit(2);
}

double co_sent(const co_buf *b, int64_t i)
{
    return elem_at(b->sent, b->elem, i);
}

double co_got(const co_buf *b, int64_t i)
{
    return elem_at(b->got, b->elem, i);
}

/* Random bytes are legal contents of the K types but for their halves, which are set to small
 * scales. */
static void random_k_block(co_test *t, tt_dtype type, uint8_t *b, double sigma)
{
    int n = tt_dtypes[type].block_bytes;
    for (int i = 0; i < n; i++) {
        b[i] = (uint8_t)co_next(&t->rng);
    }
    /* Mean square of (scale * code) of the type, so that elements come out near sigma. */
    double spread = type == TT_Q6_K ? 74.0 * 18.5 : type == TT_Q5_K ? 36.0 * 10 : 36.0 * 5;
    uint16_t d = tt_f32_to_f16((float)(sigma / spread * (0.75 + 0.5 * co_uniform(&t->rng))));
    if (type == TT_Q6_K) {
        memcpy(b + n - 2, &d, 2);
    } else {
        double mean_code = type == TT_Q5_K ? 15.5 : 7.5;
        uint16_t dmin = tt_f32_to_f16((float)(tt_f16_to_f32(d) * mean_code));
        memcpy(b, &d, 2);
        memcpy(b + 2, &dmin, 2);
    }
}

tt_weight *co_weight(co_test *t, tt_dtype type, int64_t rows, int64_t cols, double sigma)
{
    if (t->n_weights == CO_MAX_WEIGHTS) {
        fprintf(stderr, "checkops: too many weights\n");
        exit(2);
    }
    size_t row_bytes = (size_t)tt_row_bytes(type, cols);
    float *x = malloc((size_t)cols * sizeof *x);
    uint8_t *bytes = malloc((size_t)rows * row_bytes);
    if (x == NULL || bytes == NULL) {
        fprintf(stderr, "checkops: out of memory\n");
        exit(2);
    }
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *dst = bytes + (size_t)r * row_bytes;
        if (CO_K_TYPES & CO_BIT(type)) {
            for (int64_t c = 0; c < cols; c += tt_dtypes[type].block_elems) {
                random_k_block(t, type, dst + tt_row_bytes(type, c), sigma);
            }
            continue;
        }
        for (int64_t c = 0; c < cols; c++) {
            x[c] = (float)(sigma * co_normal(&t->rng));
        }
        tt_quant_row(type, x, dst, cols);
    }
    free(x);
    t->weight_bytes[t->n_weights] = bytes;
    tt_weight *w = &t->weights[t->n_weights++];
    *w = (tt_weight){.type = type, .rows = rows, .cols = cols};
    tt_err err;
    if (t->ops->weight_load(t->lane, w, bytes, &err) < 0) {
        fprintf(stderr, "checkops: %s\n", err.msg);
        exit(2);
    }
    return w;
}

double *co_weight_values(co_test *t, const tt_weight *w)
{
    double *y = co_host(t, (size_t)(w->rows * w->cols) * sizeof *y);
    float *x = co_host(t, (size_t)w->cols * sizeof *x);
    const uint8_t *bytes = t->weight_bytes[w - t->weights];
    for (int64_t r = 0; r < w->rows; r++) {
        tt_dequant_row(w->type, bytes + r * tt_row_bytes(w->type, w->cols), x, w->cols);
        for (int64_t c = 0; c < w->cols; c++) {
            y[r * w->cols + c] = x[c];
        }
    }
    return y;
}
