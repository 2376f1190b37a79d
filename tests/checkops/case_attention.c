/* case_attention.c - attention and attention_bwd: head sizes, query groups, windows, several
 * sequences, shuffled pages, contexts that end around a page's end. Whatever no row may see is NaN.
 */
#include "tests/checkops/checkops.h"
#include "tests/checkops/formula.h"

#include <math.h>
#include <stdlib.h>

#define TABLE_START 2 /* entries of the page table that belong to nobody */
#define MAX_SEGS 4

static int32_t seg_rows(const co_shape *s)
{
    return s->rows / s->n_segs;
}

static int32_t pages_of(const co_shape *s, int i)
{
    return (s->ctx[i] + seg_rows(s) + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS;
}

/* The page table: a random choice out of more pages than there are. Returns the number of pages in
 * the pool. */
static int32_t make_table(co_test *t, const int32_t **ret_table, int32_t *ret_len)
{
    int32_t n = TABLE_START, pool;
    for (int i = 0; i < t->shape.n_segs; i++) {
        n += pages_of(&t->shape, i);
    }
    pool = n + 3;
    int32_t *p = co_host(t, (size_t)pool * sizeof *p);
    for (int32_t i = 0; i < pool; i++) {
        p[i] = i;
    }
    for (int32_t i = 0; i < n; i++) {
        int32_t k = i + co_below(&t->rng, pool - i), x = p[i];
        p[i] = p[k];
        p[k] = x;
    }
    p[0] = p[1] = -1; /* never to be read */
    *ret_table = p;
    *ret_len = n;
    return pool;
}

static int32_t first_page(const co_shape *s, int seg)
{
    int32_t at = TABLE_START;
    for (int i = 0; i < seg; i++) {
        at += pages_of(s, i);
    }
    return at;
}

/* Pages with random keys and values up to each sequence's last position; all else is NaN. */
static co_buf *make_pages(co_test *t, const int32_t *table, int32_t pool)
{
    const co_shape *s = &t->shape;
    int64_t n = pool * co_kv_page_bytes(s);
    uint8_t *bytes = co_host(t, (size_t)n);
    double *x = co_host(t, (size_t)s->dim * sizeof *x);
    tt_kv_layer kv = co_kv_layer(s, 0, 0);
    memset(bytes, 0xFF, (size_t)n);
    for (int g = 0; g < s->n_segs; g++) {
        for (int32_t p = 0; p < s->ctx[g] + seg_rows(s); p++) {
            co_kv_at at = {.page = table[first_page(s, g) + p / TT_PAGE_TOKENS],
                           .offset = p % TT_PAGE_TOKENS};
            for (int32_t k = 0; k < 2 * s->kv_heads; k++) {
                at.head = k / 2;
                at.is_v = k % 2;
                for (int32_t d = 0; d < s->dim; d++) {
                    x[d] = co_normal(&t->rng);
                }
                co_kv_put(s, &kv, bytes, at, x);
            }
        }
    }
    return co_bytes(t, "pages", CO_IN, CO_U8, bytes, n);
}

/* The segments within the slice, their rows counted from its first. */
static int32_t cut_segs(co_test *t, tt_seg *segs)
{
    const co_shape *s = &t->shape;
    int32_t n = 0, each = seg_rows(s), end = t->row0 + t->n_rows;
    for (int g = 0; g < s->n_segs; g++) {
        int32_t lo = g * each > t->row0 ? g * each : t->row0;
        int32_t hi = (g + 1) * each < end ? (g + 1) * each : end;
        if (lo < hi) {
            segs[n++] = (tt_seg){.row0 = lo - t->row0,
                                 .n_rows = hi - lo,
                                 .pos0 = s->ctx[g] + lo - g * each,
                                 .page0 = first_page(s, g)};
        }
    }
    return n;
}

static void setup_common(co_test *t, tt_attention_args *a)
{
    const co_shape *s = &t->shape;
    const int32_t *table;
    int32_t table_len, pool = make_table(t, &table, &table_len);
    tt_kv_layer *kv = co_host(t, sizeof *kv);
    tt_seg *segs = co_host(t, MAX_SEGS * sizeof *segs);
    co_buf *pages = make_pages(t, table, pool);
    *kv = co_kv_layer(s, 0, pages->dev);
    int32_t n_segs = cut_segs(t, segs);
    co_buf *segs_dev =
        co_bytes(t, "segs", CO_IN, CO_U8, segs, (int64_t)(n_segs * (int32_t)sizeof *segs));
    *a = (tt_attention_args){.segs = segs_dev->dev,
                             .segs_host = segs,
                             .page_table =
                                 co_bytes(t, "table", CO_IN, CO_I32, table, table_len)->dev,
                             .kv = kv,
                             .n_rows = t->n_rows,
                             .n_segs = n_segs,
                             .n_heads = s->heads,
                             .window = s->window,
                             .scale = (float)(1.5 / sqrt(s->dim)),
                             .family = s->family};
    a->q = co_dev(t, co_in(t, "q", s->rows, (int64_t)s->heads * s->dim, 1));
}

static void setup_attention(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_attention_args *a = &t->args.attention;
    setup_common(t, a);
    a->out = co_dev(t, co_out(t, "out", CO_F32, s->rows, (int64_t)s->heads * s->dim));
    co_buf *lse = co_out(t, "lse", CO_F32, s->rows, s->heads);
    if (s->flags & CO_NORM) { /* one shape without lse */
        lse->role = CO_SCRATCH;
    } else {
        a->lse = co_dev(t, lse);
    }
}

static void call_attention(co_test *t)
{
    t->ops->attention(t->lane, &t->args.attention);
}

/* Keys and values that row r's head h sees, [n, dim] each; returns n. */
static int32_t visible(co_test *t, int32_t r, int32_t h, double *k, double *v)
{
    const co_shape *s = &t->shape;
    int32_t seg = r / seg_rows(s), pos = s->ctx[seg] + r % seg_rows(s), n = 0;
    const co_buf *pages = co_find(t, "pages"), *table = co_find(t, "table");
    tt_kv_layer kv = co_kv_layer(s, 0, 0);
    for (int32_t p = 0; p <= pos; p++) {
        if (s->window > 0 && pos - p >= s->window) {
            continue;
        }
        co_kv_at at = {.page = (int32_t)co_sent(table, first_page(s, seg) + p / TT_PAGE_TOKENS),
                       .head = h * s->kv_heads / s->heads,
                       .offset = p % TT_PAGE_TOKENS};
        co_kv_get(s, &kv, pages->sent + CO_GUARD, at, k + (int64_t)n * s->dim);
        at.is_v = true;
        co_kv_get(s, &kv, pages->sent + CO_GUARD, at, v + (int64_t)n * s->dim);
        n++;
    }
    return n;
}

/* Everything by the formula, for all rows: out [rows, heads, dim], lse [rows, heads]. */
static void attend_all(co_test *t, double *out, double *lse)
{
    const co_shape *s = &t->shape;
    const co_buf *bq = co_find(t, "q");
    int32_t most = 0;
    for (int g = 0; g < s->n_segs; g++) {
        most = s->ctx[g] + seg_rows(s) > most ? s->ctx[g] + seg_rows(s) : most;
    }
    size_t n_kv = (size_t)most * (size_t)s->dim * sizeof(double);
    double *k = malloc(n_kv), *v = malloc(n_kv), *q = malloc((size_t)s->dim * sizeof *q);
    if (k == NULL || v == NULL || q == NULL) {
        fprintf(stderr, "checkops: out of memory\n");
        exit(2);
    }
    for (int32_t i = 0; i < s->rows * s->heads; i++) {
        int32_t n = visible(t, i / s->heads, i % s->heads, k, v);
        for (int32_t d = 0; d < s->dim; d++) {
            q[d] = co_sent(bq, (int64_t)i * s->dim + d);
        }
        lse[i] =
            f_attention(q, k, v, n, s->dim, (float)(1.5 / sqrt(s->dim)), out + (int64_t)i * s->dim);
    }
    free(k);
    free(v);
    free(q);
}

static void formula_attention(co_test *t)
{
    const co_shape *s = &t->shape;
    size_t n = (size_t)s->rows * (size_t)s->heads;
    double *out = co_host(t, n * (size_t)s->dim * sizeof *out), *lse = co_host(t, n * sizeof *lse);
    attend_all(t, out, lse);
    co_expect(t, "out", out, 1e-13);
    if (t->args.attention.lse != 0) {
        co_expect(t, "lse", lse, 1e-13);
    }
}

/* An input [rows, len] with given values. */
static co_buf *in_values(co_test *t, const char *name, int64_t rows, int64_t len, const double *v)
{
    co_buf *b = co_in(t, name, rows, len, 0);
    for (int64_t i = 0; i < rows * len; i++) {
        float f = (float)v[i];
        memcpy(b->sent + CO_GUARD + 4 * i, &f, 4);
    }
    return b;
}

static void setup_attention_bwd(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_attention_bwd_args *a = &t->args.attention_bwd;
    int64_t nq = (int64_t)s->heads * s->dim;
    setup_common(t, &a->fwd);
    bool ready;
    double *lse = co_memo(t, "attention lse", (size_t)(s->rows * s->heads) * sizeof *lse, &ready);
    double *out = co_memo(t, "attention out", (size_t)(s->rows * nq) * sizeof *out, &ready);
    if (!ready) {
        attend_all(t, out, lse);
    }
    a->fwd.out = co_dev(t, in_values(t, "out", s->rows, nq, out));
    a->fwd.lse = co_dev(t, in_values(t, "lse", s->rows, s->heads, lse));
    a->d_out = co_dev(t, co_in(t, "d_out", s->rows, nq, 1));
    a->dq = co_dev(t, co_out(t, "dq", CO_F32, s->rows, nq));
}

static void call_attention_bwd(co_test *t)
{
    t->ops->attention_bwd(t->lane, &t->args.attention_bwd);
}

static double loss_attention(co_test *t, int64_t row, const double *x)
{
    const co_shape *s = &t->shape;
    int32_t most = s->ctx[row / seg_rows(s)] + seg_rows(s);
    double *k = malloc((size_t)most * (size_t)s->dim * sizeof *k),
           *v = malloc((size_t)most * (size_t)s->dim * sizeof *v);
    double out[512], loss = 0;
    if (k == NULL || v == NULL) {
        fprintf(stderr, "checkops: out of memory\n");
        exit(2);
    }
    for (int32_t h = 0; h < s->heads; h++) {
        int32_t n = visible(t, (int32_t)row, h, k, v);
        f_attention(x + (int64_t)h * s->dim, k, v, n, s->dim, (float)(1.5 / sqrt(s->dim)), out);
        for (int32_t d = 0; d < s->dim; d++) {
            loss += out[d] * co_sent(co_find(t, "d_out"), (row * s->heads + h) * s->dim + d);
        }
    }
    free(k);
    free(v);
    return loss;
}

static const co_grad attention_grads[] = {{"q", "dq", CO_NEVER, loss_attention}, {0}};

#define KV_TYPES (CO_BIT(TT_BF16) | CO_BIT(TT_F32) | CO_BIT(TT_I8))

static const co_shape attention_shapes[] = {
    {.rows = 1,
     .heads = 1,
     .kv_heads = 1,
     .dim = 64,
     .n_segs = 1,
     .types = CO_BIT(TT_BF16) | CO_BIT(TT_F32),
     .families = CO_BOTH_FAMILIES},
    {.rows = 1,
     .heads = 2,
     .kv_heads = 1,
     .dim = 64,
     .n_segs = 1,
     .types = CO_BIT(TT_I8),
     .families = CO_BOTH_FAMILIES},
    {.rows = 2,
     .heads = 2,
     .kv_heads = 2,
     .dim = 64,
     .n_segs = 1,
     .ctx = {61},
     .types = KV_TYPES,
     .families = CO_BOTH_FAMILIES},
    {.rows = 3,
     .heads = 4,
     .kv_heads = 2,
     .dim = 80,
     .n_segs = 3,
     .ctx = {62, 63, 64},
     .types = KV_TYPES,
     .families = CO_BOTH_FAMILIES},
    {.rows = 4,
     .heads = 3,
     .kv_heads = 1,
     .dim = 96,
     .n_segs = 2,
     .ctx = {127, 0},
     .types = KV_TYPES,
     .families = CO_BOTH_FAMILIES},
    {.rows = 3,
     .heads = 8,
     .kv_heads = 1,
     .dim = 128,
     .n_segs = 1,
     .ctx = {126},
     .types = KV_TYPES,
     .families = CO_BOTH_FAMILIES},
    {.rows = 4,
     .heads = 4,
     .kv_heads = 1,
     .dim = 256,
     .n_segs = 4,
     .ctx = {0, 1, 63, 191},
     .window = 64,
     .types = KV_TYPES,
     .families = CO_BOTH_FAMILIES},
    {.rows = 33,
     .heads = 2,
     .kv_heads = 1,
     .dim = 64,
     .n_segs = 1,
     .ctx = {50},
     .window = 17,
     .types = KV_TYPES,
     .families = CO_BOTH_FAMILIES},
    {.rows = 6,
     .heads = 2,
     .kv_heads = 1,
     .dim = 64,
     .n_segs = 2,
     .ctx = {190, 5},
     .window = 1,
     .types = KV_TYPES,
     .families = CO_BOTH_FAMILIES},
    {.rows = 65,
     .heads = 9,
     .kv_heads = 3,
     .dim = 64,
     .n_segs = 1,
     .ctx = {64},
     .types = KV_TYPES,
     .families = CO_BIT(TT_PREFILL),
     .flags = CO_NORM},
    {.rows = 40,
     .heads = 8,
     .kv_heads = 1,
     .dim = 128,
     .n_segs = 2,
     .ctx = {300, 17},
     .window = 100,
     .types = CO_BIT(TT_BF16) | CO_BIT(TT_I8),
     .families = CO_BIT(TT_PREFILL)},
    {.rows = 128,
     .heads = 9,
     .kv_heads = 3,
     .dim = 64,
     .n_segs = 1,
     .ctx = {900},
     .types = CO_BIT(TT_BF16) | CO_BIT(TT_I8),
     .families = CO_BIT(TT_PREFILL),
     .flags = CO_SLOW | CO_BENCH},
    {.rows = 2,
     .heads = 9,
     .kv_heads = 3,
     .dim = 64,
     .n_segs = 2,
     .ctx = {2047, 1000},
     .types = CO_BIT(TT_BF16) | CO_BIT(TT_I8),
     .families = CO_BIT(TT_DECODE),
     .flags = CO_BENCH},
    {.rows = 2,
     .heads = 4,
     .kv_heads = 1,
     .dim = 256,
     .n_segs = 1,
     .ctx = {2000},
     .window = 512,
     .types = CO_BIT(TT_BF16) | CO_BIT(TT_I8),
     .families = CO_BIT(TT_DECODE),
     .flags = CO_BENCH},
};

static const co_shape attention_bwd_shapes[] = {
    {.rows = 1, .heads = 1, .kv_heads = 1, .dim = 64, .n_segs = 1, .types = KV_TYPES},
    {.rows = 2, .heads = 2, .kv_heads = 2, .dim = 64, .n_segs = 1, .ctx = {61}, .types = KV_TYPES},
    {.rows = 3,
     .heads = 4,
     .kv_heads = 2,
     .dim = 80,
     .n_segs = 3,
     .ctx = {62, 63, 64},
     .types = KV_TYPES},
    {.rows = 4,
     .heads = 3,
     .kv_heads = 1,
     .dim = 96,
     .n_segs = 2,
     .ctx = {127, 0},
     .types = KV_TYPES},
    {.rows = 3,
     .heads = 8,
     .kv_heads = 1,
     .dim = 128,
     .n_segs = 1,
     .ctx = {126},
     .types = KV_TYPES},
    {.rows = 4,
     .heads = 4,
     .kv_heads = 1,
     .dim = 256,
     .n_segs = 4,
     .ctx = {0, 1, 63, 191},
     .window = 64,
     .types = KV_TYPES},
    {.rows = 33,
     .heads = 2,
     .kv_heads = 1,
     .dim = 64,
     .n_segs = 1,
     .ctx = {50},
     .window = 17,
     .types = KV_TYPES},
    {.rows = 47,
     .heads = 9,
     .kv_heads = 3,
     .dim = 64,
     .n_segs = 1,
     .ctx = {400},
     .types = CO_BIT(TT_BF16) | CO_BIT(TT_I8)},
    {.rows = 128,
     .heads = 9,
     .kv_heads = 3,
     .dim = 64,
     .n_segs = 1,
     .ctx = {500},
     .types = CO_BIT(TT_BF16) | CO_BIT(TT_I8),
     .flags = CO_SLOW | CO_BENCH},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

/* 8e-5: tables may take scores of rounded queries and multiply rounded probabilities (BF16) with V.
 */
const co_op co_attention_ops[] = {
    {.name = "attention",
     .fn = offsetof(tt_ops, attention),
     .max_nmse = 8e-5,
     .max_decode_nmse = 1e-9,
     .by_row = true,
     .kv_type = true,
     .shapes = attention_shapes,
     .n_shapes = COUNT(attention_shapes),
     .setup = setup_attention,
     .call = call_attention,
     .formula = formula_attention},
    {.name = "attention_bwd",
     .fn = offsetof(tt_ops, attention_bwd),
     .scale = 0.1,
     .max_nmse = 4e-5,
     .by_row = true,
     .kv_type = true,
     .shapes = attention_bwd_shapes,
     .n_shapes = COUNT(attention_bwd_shapes),
     .setup = setup_attention_bwd,
     .call = call_attention_bwd,
     .grads = attention_grads},
    {0},
};
