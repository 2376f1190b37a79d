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

/* p[from .. to) = 2^(c s - top), times the values' scales where they have them; returns the sum
 * without these. Whole vectors. */
TT_INLINE float exp_run(const float *s, const float *scale, void *p, int from, int to, float c,
                        float top, bool bf16)
{
    const vf vc = vf_set1(c), minus = vf_set1(-top);
    vf total = vf_zero();
    for (int i = from; i < to; i += VW) {
        vf e = vf_exp2(vf_fma(vf_load(s + i), vc, minus));
        total = vf_add(total, e);
        attn_put(p, i, scale == NULL ? e : vf_mul(e, vf_load(scale + i)), bf16);
    }
    return vf_sum(total);
}

/* p[ATTN_KEYS] = 2^(c s - new maximum) for the visible keys [lo, hi) of the block, 0 elsewhere; o
 * is corrected. c is the scale in powers of two, and so are the maxima. */
static void softmax_row(const attn_tile *t, const fwd_bufs *b, float *s, void *p, int lo, int hi,
                        float *o, float *max, float *sum)
{
    const float c = t->a->scale * ATTN_LOG2E;
    size_t elem = attn_elem(t);
    int from = lo / VW * VW, to = (hi + VW - 1) / VW * VW;
    for (int i = from; t->scaled && i < to; i += VW) {
        vf_store(s + i, vf_mul(vf_load(s + i), vf_load(b->k_scale + i)));
    }
    for (int i = from; i < lo; i++) { /* hide the keys outside */
        s[i] = -INFINITY;
    }
    for (int i = hi; i < to; i++) {
        s[i] = -INFINITY;
    }
    vf m = vf_load(s + from);
    for (int i = from + VW; i < to; i += VW) {
        m = vf_max(m, vf_load(s + i));
    }
    float top = vf_hmax(m) * c, old = *max;
    top = top > old ? top : old;
    if (!(top > -INFINITY)) { /* all scores -inf (or NaN): keep the argument of the power defined */
        top = 0;
    }
    memset(p, 0, (size_t)from * elem);
    memset((char *)p + (size_t)to * elem, 0, (size_t)(ATTN_KEYS - to) * elem);
    const float *scale = t->scaled ? b->v_scale : NULL;
    float total = t->bf16 ? exp_run(s, scale, p, from, to, c, top, true)
                          : exp_run(s, scale, p, from, to, c, top, false);
    if (top != old) {
        float fix[VW];
        vf vfix = vf_exp2(vf_set1(old - top));
        vf_store(fix, vfix);
        *sum *= fix[0];
        for (int64_t i = 0; i < t->d; i += VW) {
            vf_put(o, i, t->d, vf_mul(vf_at(o, i, t->d), vfix));
        }
    }
    *sum += total;
    *max = top;
}

static void softmax_block(const attn_tile *t, const fwd_bufs *b, int32_t key0)
{
    size_t elem = attn_elem(t);
    for (int64_t i = 0; i < t->m; i++) {
        int32_t row = (int32_t)(i / t->group), lo = attn_first_key(t, row) - key0,
                hi = t->pos0 + row + 1 - key0;
        lo = lo < 0 ? 0 : lo;
        hi = hi > ATTN_KEYS ? ATTN_KEYS : hi;
        char *p = (char *)b->p + (size_t)(i * ATTN_KEYS) * elem;
        if (lo >= hi) {
            memset(p, 0, ATTN_KEYS * elem);
        } else {
            softmax_row(t, b, b->s + i * ATTN_KEYS, p, lo, hi, b->o + i * t->d, b->max + i,
                        b->sum + i);
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
