/* attention.c - attention of prompt and span rows: tiles of rows against blocks of keys, softmax
 * with a running maximum. Source: FlashAttention, arXiv 2205.14135. Thread: engine.
 *
 * Per tile and block: S = Q K^T, P = 2^(c S - maximum so far), O = O * correction + P V; both
 * products by gemm.h, in BF16 where K and V are BF16 and the machine multiplies it (P is then
 * rounded to BF16, its sum is not). Keys and values of TT_I8 go into the products as whole numbers;
 * their scales are factors of S's and P's columns. */
#include <math.h>
#include <omp.h>

#include "kernels/cpu/attn_tile.h"

typedef struct fwd_bufs {
    void *q, *k, *v, *p;      /* operands [m_pad, d], [ATTN_KEYS, d] twice, [m_pad, ATTN_KEYS] */
    float *s, *o, *max, *sum; /* [m_pad, ATTN_KEYS], [m_pad, d], [m], [m] */
    float *k_scale, *v_scale; /* [ATTN_KEYS] of keys and values that have scales */
} fwd_bufs;

enum { N_BUFS = 10 };

static size_t carve(fwd_bufs *b, char *base, int64_t m, int64_t d)
{
    size_t at = 0, part[N_BUFS];
    const int64_t elems[N_BUFS] = {
        m * d, ATTN_KEYS * d, ATTN_KEYS * d, m * ATTN_KEYS, m * ATTN_KEYS, m * d, m,
        m,     ATTN_KEYS,     ATTN_KEYS};
    for (int i = 0; i < N_BUFS; i++) {
        part[i] = at;
        at += ((size_t)elems[i] * sizeof(float) + 63) / 64 * 64;
    }
    if (b != NULL) {
        *b = (fwd_bufs){.q = base + part[0],
                        .k = base + part[1],
                        .v = base + part[2],
                        .p = base + part[3],
                        .s = (float *)(void *)(base + part[4]),
                        .o = (float *)(void *)(base + part[5]),
                        .max = (float *)(void *)(base + part[6]),
                        .sum = (float *)(void *)(base + part[7]),
                        .k_scale = (float *)(void *)(base + part[8]),
                        .v_scale = (float *)(void *)(base + part[9])};
    }
    return at;
}

/* A row of a block on its way through softmax: the columns [from, to) of visible keys in whole
 * vectors, none when from == to; the maximum before the block and with it. */
typedef struct row_span {
    int from, to;
    float old, top;
} row_span;

/* Rows whose maxima are found before their powers are: one row's chain of vectors waits for itself
 * several times over. */
enum { SOFT_ROWS = 8 };

/* The largest of s[from .. to), whole vectors. */
static float max_run(const float *s, int from, int to)
{
    vf m[4];
    int i = from;
    for (int j = 0; j < 4; j++) {
        m[j] = vf_load(s + from);
    }
    for (; i + 4 * VW <= to; i += 4 * VW) {
        for (int j = 0; j < 4; j++) {
            m[j] = vf_max(m[j], vf_load(s + i + j * VW));
        }
    }
    for (; i < to; i += VW) {
        m[0] = vf_max(m[0], vf_load(s + i));
    }
    return vf_hmax(vf_max(vf_max(m[0], m[1]), vf_max(m[2], m[3])));
}

TT_INLINE vf exp_vector(const float *s, const float *scale, void *p, int i, vf c, vf minus,
                        bool bf16)
{
    vf e = vf_exp2(vf_fma(vf_load(s + i), c, minus));
    attn_put(p, i, scale == NULL ? e : vf_mul(e, vf_load(scale + i)), bf16);
    return e;
}

/* p[from .. to) = 2^(c s - top), times the values' scales where they have them; returns the sum
 * without these. Whole vectors. */
TT_INLINE float exp_run(const float *s, const float *scale, void *p, const row_span *r, float c,
                        bool bf16)
{
    const vf vc = vf_set1(c), minus = vf_set1(-r->top);
    vf total[2] = {vf_zero(), vf_zero()};
    int i = r->from;
    for (; i + 2 * VW <= r->to; i += 2 * VW) {
        for (int j = 0; j < 2; j++) {
            total[j] = vf_add(total[j], exp_vector(s, scale, p, i + j * VW, vc, minus, bf16));
        }
    }
    if (i < r->to) {
        total[0] = vf_add(total[0], exp_vector(s, scale, p, i, vc, minus, bf16));
    }
    return vf_sum(vf_add(total[0], total[1]));
}

/* The row's scores of the visible keys [lo, hi) of the block become final, those beside them -inf;
 * c is the scale in powers of two, and so are the maxima. */
static row_span begin_row(const attn_tile *t, const fwd_bufs *b, float *s, int lo, int hi,
                          float old, float c)
{
    row_span r = {.old = old, .top = old};
    if (lo >= hi) {
        return r;
    }
    r.from = lo / VW * VW;
    r.to = (hi + VW - 1) / VW * VW;
    for (int i = r.from; t->scaled && i < r.to; i += VW) {
        vf_store(s + i, vf_mul(vf_load(s + i), vf_load(b->k_scale + i)));
    }
    for (int i = r.from; i < lo; i++) { /* hide the keys outside */
        s[i] = -INFINITY;
    }
    for (int i = hi; i < r.to; i++) {
        s[i] = -INFINITY;
    }
    float top = max_run(s, r.from, r.to) * c;
    r.top = top > old ? top : old;
    if (!(r.top >
          -INFINITY)) { /* all scores -inf (or NaN): keep the argument of the power defined */
        r.top = 0;
    }
    return r;
}

/* p[ATTN_KEYS] = 2^(c s - new maximum) for the row's keys, 0 elsewhere; o is corrected. */
static void finish_row(const attn_tile *t, const fwd_bufs *b, const row_span *r, int64_t i, float c)
{
    size_t elem = attn_elem(t);
    const float *s = b->s + i * ATTN_KEYS, *scale = t->scaled ? b->v_scale : NULL;
    char *p = (char *)b->p + (size_t)(i * ATTN_KEYS) * elem;
    if (r->from > 0) {
        memset(p, 0, (size_t)r->from * elem);
    }
    if (r->to < ATTN_KEYS) {
        memset(p + (size_t)r->to * elem, 0, (size_t)(ATTN_KEYS - r->to) * elem);
    }
    if (r->from == r->to) {
        return;
    }
    float total = t->bf16 ? exp_run(s, scale, p, r, c, true) : exp_run(s, scale, p, r, c, false);
    if (r->top != r->old) {
        float fix[VW], *o = b->o + i * t->d;
        vf vfix = vf_exp2(vf_set1(r->old - r->top));
        vf_store(fix, vfix);
        b->sum[i] *= fix[0];
        for (int64_t e = 0; e < t->d; e += VW) {
            vf_put(o, e, t->d, vf_mul(vf_at(o, e, t->d), vfix));
        }
    }
    b->sum[i] += total;
    b->max[i] = r->top;
}

static void softmax_block(const attn_tile *t, const fwd_bufs *b, int32_t key0)
{
    const float c = t->a->scale * ATTN_LOG2E;
    size_t elem = attn_elem(t);
    for (int64_t i0 = 0; i0 < t->m; i0 += SOFT_ROWS) {
        row_span spans[SOFT_ROWS];
        int n = t->m - i0 < SOFT_ROWS ? (int)(t->m - i0) : SOFT_ROWS;
        TT_FN(tt_attn_fetch)
        (t, key0 + ATTN_KEYS, i0 / SOFT_ROWS, (t->m + SOFT_ROWS - 1) / SOFT_ROWS);
        for (int j = 0; j < n; j++) {
            int64_t i = i0 + j;
            int32_t row = (int32_t)(i / t->group), lo = attn_first_key(t, row) - key0,
                    hi = t->pos0 + row + 1 - key0;
            lo = lo < 0 ? 0 : lo;
            hi = hi > ATTN_KEYS ? ATTN_KEYS : hi;
            spans[j] = begin_row(t, b, b->s + i * ATTN_KEYS, lo, hi, b->max[i], c);
        }
        for (int j = 0; j < n; j++) {
            finish_row(t, b, &spans[j], i0 + j, c);
        }
    }
    memset((char *)b->p + (size_t)(t->m * ATTN_KEYS) * elem, 0,
           (size_t)((t->m_pad - t->m) * ATTN_KEYS) * elem);
}

static void finish_tile(const attn_tile *t, const fwd_bufs *b)
{
    float *out = tt_ptr(t->a->out), *lse = tt_ptr(t->a->lse);
    for (int64_t i = 0; i < t->m; i++) {
        int64_t row = t->row0 + i / t->group, head = (int64_t)t->kv_head * t->group + i % t->group;
        float *to = out + (row * t->a->n_heads + head) * t->d;
        vf inv = vf_set1(1.0f / b->sum[i]);
        for (int64_t e = 0; e < t->d; e += VW) {
            vf_put(to, e, t->d, vf_mul(vf_at(b->o + i * t->d, e, t->d), inv));
        }
        if (lse != NULL) {
            lse[row * t->a->n_heads + head] = b->max[i] * ATTN_LN2 + logf(b->sum[i]);
        }
    }
}

static void run_tile(const attn_tile *t, tt_gemm *g, int thread, const fwd_bufs *b)
{
    TT_FN(tt_attn_load_rows)(t, tt_ptr(t->a->q), b->q);
    memset(b->o, 0, (size_t)(t->m_pad * t->d) * sizeof *b->o);
    for (int64_t i = 0; i < t->m; i++) {
        b->max[i] = -INFINITY;
        b->sum[i] = 0;
    }
    tt_gemm_call qk = attn_scores(t, b->q, b->k, b->s);
    tt_gemm_call pv = attn_sums(t, b->p, b->v, b->o);
    int32_t end = t->pos0 + t->n_rows;
    for (int32_t key0 = attn_first_key(t, 0) / ATTN_KEYS * ATTN_KEYS; key0 < end;
         key0 += ATTN_KEYS) {
        TT_FN(tt_attn_load_keys)(t, false, key0, b->k, b->k_scale);
        TT_FN(tt_attn_load_keys)(t, true, key0, b->v, b->v_scale);
        tt_gemm_rows(g, thread, &qk);
        softmax_block(t, b, key0);
        tt_gemm_rows(g, thread, &pv);
    }
    finish_tile(t, b);
}

void TT_FN(tt_attention)(tt_lane *lane, const tt_attention_args *a)
{
    if (a->family == TT_DECODE) {
        TT_FN(tt_attention_decode)(lane, a);
        return;
    }
    tt_gemm *g = tt_gemm_get(lane);
    int64_t n_tiles = TT_FN(tt_attn_tiles)(a);
    int64_t m_max = (int64_t)TT_FN(tt_attn_tile_rows)(a) * (a->n_heads / a->kv->n_kv_heads) + 48;
    if (g == NULL || n_tiles == 0 ||
        !tt_lane_reserve_threads(lane, carve(NULL, NULL, m_max, a->kv->head_dim))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < n_tiles; i++) {
        int thread = omp_get_thread_num();
        fwd_bufs b;
        carve(&b, tt_lane_thread_buf(lane, thread), m_max, a->kv->head_dim);
        attn_tile t = TT_FN(tt_attn_tile_at)(a, i);
        run_tile(&t, g, thread, &b);
    }
    tt_gemm_check(lane);
}
