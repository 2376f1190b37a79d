/* case_rope.c - qk_rope and q_rope_bwd: bias, head norm, both layouts of pairs, partial rotation,
 * pages in any order. */
#include "tests/checkops/checkops.h"
#include "tests/checkops/formula.h"

#include <math.h>

#define EPS 1e-6f
#define MSCALE 1.25f /* not 1, so that a kernel that forgets it is seen */

static int32_t rot_of(const co_shape *s)
{
    return s->rot == 0 ? s->dim : s->rot;
}

static tt_rope make_rope(co_test *t)
{
    const co_shape *s = &t->shape;
    int32_t half = rot_of(s) / 2;
    float *f = co_host(t, (size_t)half * sizeof *f);
    for (int32_t i = 0; i < half; i++) {
        f[i] = (float)pow(10000, -(double)i / half);
    }
    co_buf *b = co_bytes(t, "inv_freq", CO_IN, CO_F32, f, half);
    return (tt_rope){.kind = s->flags & CO_INTERLEAVED ? TT_ROPE_INTERLEAVED : TT_ROPE_HALF,
                     .rot_dim = rot_of(s),
                     .inv_freq = b->dev,
                     .mscale = MSCALE};
}

static co_buf *make_positions(co_test *t)
{
    const co_shape *s = &t->shape;
    int32_t *p = co_host(t, (size_t)s->rows * sizeof *p);
    for (int32_t r = 0; r < s->rows; r++) {
        p[r] = r == 0 ? 0 : r == 1 ? 8191 : co_below(&t->rng, 8192);
    }
    return co_ints(t, "positions", p, s->rows);
}

/* Distinct slots in a random order over pages 1.., every fifth row without one. */
static co_buf *make_slots(co_test *t, int32_t n_pages)
{
    const co_shape *s = &t->shape;
    int32_t n = (n_pages - 1) * TT_PAGE_TOKENS, *all = co_host(t, (size_t)n * sizeof *all);
    for (int32_t i = 0; i < n; i++) {
        all[i] = TT_PAGE_TOKENS + i;
    }
    for (int32_t i = 0; i < s->rows; i++) {
        int32_t k = i + co_below(&t->rng, n - i), x = all[i];
        all[i] = all[k];
        all[k] = x;
        if ((s->flags & CO_NO_KV) || i % 5 == 4) {
            all[i] = -1;
        }
    }
    return co_ints(t, "kv_slot", all, s->rows);
}

static void setup_qk_rope(co_test *t)
{
    const co_shape *s = &t->shape;
    bool kv_rows = !(s->flags & CO_NO_KV), bias = s->flags & CO_BIAS, norm = s->flags & CO_NORM;
    int32_t nq = s->heads * s->dim, nk = s->kv_heads * s->dim;
    int32_t n_pages = 2 + (s->rows + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS;
    tt_kv_layer *kv = co_host(t, sizeof *kv);
    tt_qk_rope_args *a = &t->args.qk_rope;
    *a = (tt_qk_rope_args){.kv = kv, .n_rows = t->n_rows, .n_heads = s->heads, .norm_eps = EPS};
    a->q = co_dev(t, co_inout(t, "q", s->rows, nq, 2));
    co_role role = CO_SCRATCH; /* their contents are undefined afterwards */
    co_buf *k = co_in(t, "k", s->rows, nk, 2), *v = co_in(t, "v", s->rows, nk, 2);
    k->role = v->role = role;
    a->k = kv_rows ? co_dev(t, k) : 0;
    a->v = kv_rows ? co_dev(t, v) : 0;
    co_buf *bq = co_in(t, "bq", 0, nq, 1), *bk = co_in(t, "bk", 0, nk, 1),
           *bv = co_in(t, "bv", 0, nk, 1);
    a->bq = bias ? bq->dev : 0;
    a->bk = bias ? bk->dev : 0;
    a->bv = bias ? bv->dev : 0;
    co_buf *qn = co_in(t, "q_norm", 0, s->dim, 1), *kn = co_in(t, "k_norm", 0, s->dim, 1);
    a->q_norm = norm ? qn->dev : 0;
    a->k_norm = norm ? kn->dev : 0;
    a->q_pre = norm ? co_dev(t, co_out(t, "q_pre", CO_F32, s->rows, nq)) : 0;
    a->positions = co_dev(t, make_positions(t));
    a->kv_slot = co_dev(t, make_slots(t, n_pages));
    a->rope = make_rope(t);
    /* The pages of two layers side by side, this one second: the first must stay untouched. */
    co_buf *pages = co_out(t, "pages", CO_U8, 0, n_pages * co_kv_page_bytes(s));
    pages->role = CO_SCRATCH; /* compared vector by vector */
    *kv = co_kv_layer(s, 1, pages->dev);
}

static void call_qk_rope(co_test *t)
{
    t->ops->qk_rope(t->lane, &t->args.qk_rope);
}

/* Nothing but the rows' vectors may have changed: `mark` has 1 where they lie. */
static void check_rest(co_test *t, const co_buf *pages, const uint8_t *mark)
{
    const uint8_t *got = pages->got + CO_GUARD;
    for (size_t i = 0; i < pages->n_bytes; i++) {
        if (mark[i] == 0 && got[i] != 0xFF) {
            co_fail(t, "pages: byte %zu was written, no row lies there", i);
            return;
        }
    }
}

/* What each row stored, as outputs that are cut by rows. */
static void after_qk_rope(co_test *t)
{
    const co_shape *s = &t->shape;
    const co_buf *pages = co_find(t, "pages"), *slots = co_find(t, "kv_slot");
    const tt_kv_layer *kv = t->args.qk_rope.kv;
    size_t skip = (size_t)(kv->k - pages->dev);
    uint8_t *mark = co_host(t, pages->n_bytes);
    double *x = co_host(t, (size_t)s->dim * sizeof *x);
    for (int part = 0; part < 2; part++) {
        co_buf *b = co_derived(t, part == 0 ? "k_stored" : "v_stored", s->rows,
                               (int64_t)s->kv_heads * s->dim);
        for (int32_t i = 0; i < s->rows * s->kv_heads; i++) {
            int32_t row = i / s->kv_heads, slot = (int32_t)co_sent(slots, row);
            co_kv_at at = {.page = slot / TT_PAGE_TOKENS,
                           .offset = slot % TT_PAGE_TOKENS,
                           .head = i % s->kv_heads,
                           .is_v = part == 1};
            memset(x, 0, (size_t)s->dim * sizeof *x);
            if (slot >= 0) {
                co_kv_get(s, kv, pages->got + CO_GUARD + skip, at, x);
            }
            if (slot >= 0 && row >= t->row0 && row < t->row0 + t->n_rows) {
                co_kv_mark(s, kv, mark + skip, at);
            }
            for (int32_t d = 0; d < s->dim; d++) {
                co_set_got(b, (int64_t)i * s->dim + d, x[d]);
            }
        }
    }
    check_rest(t, pages, mark);
}

static void row_of(const co_buf *x, const co_buf *bias, bool use_bias, int64_t row, int64_t at,
                   int32_t n, double *v)
{
    for (int32_t i = 0; i < n; i++) {
        v[i] = co_sent(x, row * x->len + at + i) + (use_bias ? co_sent(bias, at + i) : 0);
    }
}

/* One head of q or k, from the formulas; v: in/out. */
static void rope_head(co_test *t, const char *norm, double position, double *v)
{
    const co_shape *s = &t->shape;
    double w[512], f[256], x[512];
    if (s->flags & CO_NORM) {
        for (int32_t i = 0; i < s->dim; i++) {
            w[i] = co_sent(co_find(t, norm), i);
            x[i] = v[i];
        }
        f_rmsnorm(x, w, s->dim, EPS, v);
    }
    for (int32_t i = 0; i < rot_of(s) / 2; i++) {
        f[i] = co_sent(co_find(t, "inv_freq"), i);
    }
    f_rope(v, rot_of(s), f, position, MSCALE, s->flags & CO_INTERLEAVED);
}

/* K and V are compared where they lie, after their rounding: half a unit in the last of 8 bits is
 * 2^-8 of the value. With TT_I8 an element in the middle between two whole numbers may go either
 * way. */
static void formula_qk_rope(co_test *t)
{
    const co_shape *s = &t->shape;
    bool bias = s->flags & CO_BIAS;
    int32_t nq = s->heads * s->dim, nk = s->kv_heads * s->dim;
    size_t n_q = (size_t)s->rows * (size_t)nq, n_k = (size_t)s->rows * (size_t)nk;
    double *q = co_host(t, n_q * sizeof *q), *k = co_host(t, n_k * sizeof *k);
    double *v = co_host(t, n_k * sizeof *v), *pre = co_host(t, n_q * sizeof *pre);
    for (int32_t r = 0; r < s->rows; r++) {
        double position = co_sent(co_find(t, "positions"), r);
        for (int32_t h = 0; h < s->heads; h++) {
            double *head = q + (int64_t)r * nq + (int64_t)h * s->dim;
            row_of(co_find(t, "q"), co_find(t, "bq"), bias, r, (int64_t)h * s->dim, s->dim, head);
            memcpy(pre + (head - q), head, (size_t)s->dim * sizeof *head);
            rope_head(t, "q_norm", position, head);
        }
        for (int32_t h = 0; h < s->kv_heads && co_sent(co_find(t, "kv_slot"), r) >= 0; h++) {
            double *head = k + (int64_t)r * nk + (int64_t)h * s->dim;
            row_of(co_find(t, "k"), co_find(t, "bk"), bias, r, (int64_t)h * s->dim, s->dim, head);
            rope_head(t, "k_norm", position, head);
            row_of(co_find(t, "v"), co_find(t, "bv"), bias, r, (int64_t)h * s->dim, s->dim,
                   v + (head - k));
            if (s->type == TT_I8) {
                co_kv_quantise(head, s->dim, head);
                co_kv_quantise(v + (head - k), s->dim, v + (head - k));
            }
        }
    }
    co_expect(t, "q", q, 1e-13);
    if (s->flags & CO_NORM) {
        co_expect(t, "q_pre", pre, 1e-14);
    }
    double limit = s->type == TT_F32 ? 1e-13 : s->type == TT_I8 ? 1e-5 : 1.6e-5;
    co_expect(t, "k_stored", k, limit);
    co_expect(t, "v_stored", v, limit);
}

static void setup_q_rope_bwd(co_test *t)
{
    const co_shape *s = &t->shape;
    int32_t nq = s->heads * s->dim;
    bool norm = s->flags & CO_NORM;
    tt_q_rope_bwd_args *a = &t->args.q_rope_bwd;
    *a = (tt_q_rope_bwd_args){
        .n_rows = t->n_rows, .n_heads = s->heads, .head_dim = s->dim, .norm_eps = EPS};
    a->dq = co_dev(t, co_inout(t, "dq", s->rows, nq, 1));
    co_buf *pre = co_in(t, "q_pre", s->rows, nq, 2), *w = co_in(t, "q_norm", 0, s->dim, 1);
    a->q_pre = norm ? co_dev(t, pre) : 0;
    a->q_norm = norm ? w->dev : 0;
    a->positions = co_dev(t, make_positions(t));
    a->rope = make_rope(t);
}

static void call_q_rope_bwd(co_test *t)
{
    t->ops->q_rope_bwd(t->lane, &t->args.q_rope_bwd);
}

static double loss_q_rope(co_test *t, int64_t row, const double *x)
{
    const co_shape *s = &t->shape;
    double head[512], loss = 0;
    for (int32_t h = 0; h < s->heads; h++) {
        memcpy(head, x + (int64_t)h * s->dim, (size_t)s->dim * sizeof *head);
        rope_head(t, "q_norm", co_sent(co_find(t, "positions"), row), head);
        for (int32_t i = 0; i < s->dim; i++) {
            loss += head[i] *
                    co_sent(co_find(t, "dq"), row * s->heads * s->dim + (int64_t)h * s->dim + i);
        }
    }
    return loss;
}

static const co_grad q_rope_grads[] = {{"q_pre", "dq", CO_NEVER, loss_q_rope}, {0}};

#define KV_TYPES (CO_BIT(TT_BF16) | CO_BIT(TT_F32) | CO_BIT(TT_I8))

static const co_shape qk_rope_shapes[] = {
    {.rows = 1, .heads = 1, .kv_heads = 1, .dim = 64, .types = KV_TYPES},
    {.rows = 3, .heads = 2, .kv_heads = 1, .dim = 2, .types = KV_TYPES, .flags = CO_INTERLEAVED},
    {.rows = 17, .heads = 9, .kv_heads = 3, .dim = 64, .types = KV_TYPES, .flags = CO_INTERLEAVED},
    {.rows = 7,
     .heads = 4,
     .kv_heads = 2,
     .dim = 80,
     .rot = 32,
     .types = KV_TYPES,
     .flags = CO_BIAS},
    {.rows = 7, .heads = 3, .kv_heads = 3, .dim = 96, .types = KV_TYPES, .flags = CO_NORM},
    {.rows = 6,
     .heads = 8,
     .kv_heads = 1,
     .dim = 128,
     .types = KV_TYPES,
     .flags = CO_NORM | CO_BIAS},
    {.rows = 5, .heads = 4, .kv_heads = 1, .dim = 256, .types = KV_TYPES, .flags = CO_NORM},
    {.rows = 9,
     .heads = 2,
     .kv_heads = 2,
     .dim = 20,
     .rot = 6,
     .types = KV_TYPES,
     .flags = CO_INTERLEAVED | CO_NORM},
    {.rows = 9,
     .heads = 9,
     .kv_heads = 3,
     .dim = 64,
     .types = KV_TYPES,
     .flags = CO_NO_KV | CO_NORM},
    {.rows = 130,
     .heads = 9,
     .kv_heads = 3,
     .dim = 64,
     .types = CO_BIT(TT_BF16) | CO_BIT(TT_I8),
     .flags = CO_BENCH | CO_INTERLEAVED},
};

static const co_shape q_rope_bwd_shapes[] = {
    {.rows = 1, .heads = 1, .dim = 64},
    {.rows = 3, .heads = 2, .dim = 2, .flags = CO_INTERLEAVED},
    {.rows = 17, .heads = 9, .dim = 64, .flags = CO_INTERLEAVED},
    {.rows = 7, .heads = 4, .dim = 80, .rot = 32},
    {.rows = 7, .heads = 3, .dim = 96, .flags = CO_NORM},
    {.rows = 6, .heads = 8, .dim = 128, .flags = CO_NORM},
    {.rows = 5, .heads = 4, .dim = 256, .flags = CO_NORM},
    {.rows = 9, .heads = 2, .dim = 20, .rot = 6, .flags = CO_INTERLEAVED | CO_NORM},
    {.rows = 127, .heads = 9, .dim = 64, .flags = CO_BENCH | CO_INTERLEAVED},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

/* 1e-6: two tables may round an element of K to neighbouring BF16 values where it lies near the
 * middle; 1e-5: two neighbouring whole numbers of TT_I8. */
const co_op co_rope_ops[] = {
    {.name = "qk_rope",
     .fn = offsetof(tt_ops, qk_rope),
     .max_nmse = 1e-6,
     .max_i8_nmse = 1e-5,
     .by_row = true,
     .kv_type = true,
     .shapes = qk_rope_shapes,
     .n_shapes = COUNT(qk_rope_shapes),
     .setup = setup_qk_rope,
     .call = call_qk_rope,
     .after = after_qk_rope,
     .formula = formula_qk_rope},
    {.name = "q_rope_bwd",
     .fn = offsetof(tt_ops, q_rope_bwd),
     .max_nmse = 1e-11,
     .by_row = true,
     .shapes = q_rope_bwd_shapes,
     .n_shapes = COUNT(q_rope_bwd_shapes),
     .setup = setup_q_rope_bwd,
     .call = call_q_rope_bwd,
     .grads = q_rope_grads},
    {0},
};
