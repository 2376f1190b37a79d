/* attention_bwd.c - the gradient of the queries; K and V are constants. Tiles and blocks as in
 * attention.c. Source: FlashAttention, arXiv 2205.14135, appendix B.4, its dQ part. Thread: engine.
 *
 * Per tile and block: S = Q K^T, P = exp(scale S - lse), dP = dO V^T, dS = P (dP - rowsum(dO O)),
 * dQ += dS K. */
#include <assert.h>
#include <math.h>
#include <omp.h>

#include "kernels/cpu/attn_tile.h"

typedef struct bwd_bufs {
    void *q, *d_out, *k, *v,
        *ds; /* operands [m_pad, d] twice, [ATTN_KEYS, d] twice, [m_pad, ATTN_KEYS] */
    float *s, *dp, *dq, *lse, *along; /* [m, ATTN_KEYS] twice, [m, d], [m] twice */
    float *k_scale, *v_scale;         /* [ATTN_KEYS] of keys and values that have scales */
} bwd_bufs;

enum {
    N_BUFS = 12,
    FETCH_ROWS = 8 /* between two pieces of what is fetched ahead */
};

static size_t carve(bwd_bufs *b, char *base, int64_t m, int64_t d)
{
    const int64_t elems[N_BUFS] = {m * d,
                                   m * d,
                                   ATTN_KEYS * d,
                                   ATTN_KEYS * d,
                                   m * ATTN_KEYS,
                                   m * ATTN_KEYS,
                                   m * ATTN_KEYS,
                                   m * d,
                                   m,
                                   m,
                                   ATTN_KEYS,
                                   ATTN_KEYS};
    size_t at = 0, part[N_BUFS];
    for (int i = 0; i < N_BUFS; i++) {
        part[i] = at / sizeof(float);
        at += ((size_t)elems[i] * sizeof(float) + 63) / 64 * 64;
    }
    if (b != NULL) {
        float *f = (float *)(void *)base;
        *b = (bwd_bufs){.q = f + part[0],
                        .d_out = f + part[1],
                        .k = f + part[2],
                        .v = f + part[3],
                        .ds = f + part[4],
                        .s = f + part[5],
                        .dp = f + part[6],
                        .dq = f + part[7],
                        .lse = f + part[8],
                        .along = f + part[9],
                        .k_scale = f + part[10],
                        .v_scale = f + part[11]};
    }
    return at;
}

/* ds[from .. to) = 2^(c s - lse) * (dp - along), lse in powers of two; times the keys' scales where
 * they have them. Whole vectors. */
TT_INLINE void ds_run(const float *s, const float *dp, const float *scale, void *ds, int from,
                      int to, float c, float lse, float along, bool bf16)
{
    const vf vc = vf_set1(c), minus = vf_set1(-lse), valong = vf_set1(along);
    for (int i = from; i < to; i += VW) {
        vf e = vf_exp2(vf_fma(vf_load(s + i), vc, minus));
        e = vf_mul(e, vf_sub(vf_load(dp + i), valong));
        attn_put(ds, i, scale == NULL ? e : vf_mul(e, vf_load(scale + i)), bf16);
    }
}

/* ds[ATTN_KEYS] = exp(scale * s - lse) * (dp - along) for the visible keys [lo, hi), 0 elsewhere.
 */
static void ds_row(const attn_tile *t, const bwd_bufs *b, int64_t row, int lo, int hi, void *ds)
{
    float *s = b->s + row * ATTN_KEYS, *dp = b->dp + row * ATTN_KEYS;
    float lse = b->lse[row] * ATTN_LOG2E, along = b->along[row];
    const float c = t->a->scale * ATTN_LOG2E;
    size_t elem = attn_elem(t);
    if (lo >= hi) {
        memset(ds, 0, ATTN_KEYS * elem);
        return;
    }
    int from = lo / VW * VW, to = (hi + VW - 1) / VW * VW;
    for (int i = from; t->scaled && i < to; i += VW) {
        vf_store(s + i, vf_mul(vf_load(s + i), vf_load(b->k_scale + i)));
        vf_store(dp + i, vf_mul(vf_load(dp + i), vf_load(b->v_scale + i)));
    }
    for (int i = from; i < lo; i++) { /* hide the keys outside */
        s[i] = -INFINITY;
        dp[i] = 0;
    }
    for (int i = hi; i < to; i++) {
        s[i] = -INFINITY;
        dp[i] = 0;
    }
    memset(ds, 0, (size_t)from * elem);
    memset((char *)ds + (size_t)to * elem, 0, (size_t)(ATTN_KEYS - to) * elem);
    const float *scale = t->scaled ? b->k_scale : NULL;
    if (t->bf16) {
        ds_run(s, dp, scale, ds, from, to, c, lse, along, true);
    } else {
        ds_run(s, dp, scale, ds, from, to, c, lse, along, false);
    }
}

static void ds_block(const attn_tile *t, const bwd_bufs *b, int32_t key0)
{
    size_t elem = attn_elem(t);
    for (int64_t i = 0; i < t->m; i++) {
        int32_t row = (int32_t)(i / t->group), lo = attn_first_key(t, row) - key0,
                hi = t->pos0 + row + 1 - key0;
        lo = lo < 0 ? 0 : lo;
        hi = hi > ATTN_KEYS ? ATTN_KEYS : hi;
        char *ds = (char *)b->ds + (size_t)(i * ATTN_KEYS) * elem;
        if (i % FETCH_ROWS == 0) {
            TT_FN(tt_attn_fetch)
            (t, key0 + ATTN_KEYS, i / FETCH_ROWS, (t->m + FETCH_ROWS - 1) / FETCH_ROWS);
        }
        ds_row(t, b, i, lo, hi, ds);
    }
    memset((char *)b->ds + (size_t)(t->m * ATTN_KEYS) * elem, 0,
           (size_t)((t->m_pad - t->m) * ATTN_KEYS) * elem);
}

static int64_t row_head(const attn_tile *t, int64_t i)
{
    return (t->row0 + i / t->group) * t->a->n_heads + (int64_t)t->kv_head * t->group + i % t->group;
}

static void begin_tile(const attn_tile *t, const tt_attention_bwd_args *a, const bwd_bufs *b)
{
    const float *out = tt_ptr(t->a->out), *lse = tt_ptr(t->a->lse), *d_out = tt_ptr(a->d_out);
    TT_FN(tt_attn_load_rows)(t, tt_ptr(t->a->q), b->q);
    TT_FN(tt_attn_load_rows)(t, d_out, b->d_out);
    memset(b->dq, 0, (size_t)(t->m_pad * t->d) * sizeof *b->dq);
    for (int64_t i = 0; i < t->m; i++) {
        const float *o = out + row_head(t, i) * t->d, *g = d_out + row_head(t, i) * t->d;
        vf sum = vf_zero();
        for (int64_t e = 0; e < t->d; e += VW) {
            sum = vf_fma(vf_at(o, e, t->d), vf_at(g, e, t->d), sum);
        }
        b->along[i] = vf_sum(sum);
        if (t->bf16) { /* dP is made of the rounded d_out: so must its mean be, or the two do not
                          cancel */
            const uint16_t *rounded = (const uint16_t *)b->d_out + i * t->d;
            b->along[i] = 0;
            for (int64_t e = 0; e < t->d; e++) {
                b->along[i] += o[e] * tt_bf16_to_f32(rounded[e]);
            }
        }
        b->lse[i] = lse[row_head(t, i)];
    }
}

static void run_tile(const attn_tile *t, const tt_attention_bwd_args *a, tt_gemm *g, int thread,
                     const bwd_bufs *b)
{
    begin_tile(t, a, b);
    tt_gemm_call qk = attn_scores(t, b->q, b->k, b->s);
    tt_gemm_call dov = attn_scores(t, b->d_out, b->v, b->dp);
    tt_gemm_call dsk = attn_sums(t, b->ds, b->k, b->dq);
    int32_t end = t->pos0 + t->n_rows;
    for (int32_t key0 = attn_first_key(t, 0) / ATTN_KEYS * ATTN_KEYS; key0 < end;
         key0 += ATTN_KEYS) {
        TT_FN(tt_attn_load_keys)(t, false, key0, b->k, b->k_scale);
        TT_FN(tt_attn_load_keys)(t, true, key0, b->v, b->v_scale);
        tt_gemm_rows(g, thread, &qk);
        tt_gemm_rows(g, thread, &dov);
        ds_block(t, b, key0);
        tt_gemm_rows(g, thread, &dsk);
    }
    vf scale = vf_set1(t->a->scale);
    for (int64_t i = 0; i < t->m; i++) {
        float *to = (float *)tt_ptr(a->dq) + row_head(t, i) * t->d;
        for (int64_t e = 0; e < t->d; e += VW) {
            vf_put(to, e, t->d, vf_mul(vf_at(b->dq + i * t->d, e, t->d), scale));
        }
    }
}

void TT_FN(tt_attention_bwd)(tt_lane *lane, const tt_attention_bwd_args *a)
{
    const tt_attention_args *f = &a->fwd;
    assert(f->lse != 0);
    tt_gemm *g = tt_gemm_get(lane);
    int64_t n_tiles = TT_FN(tt_attn_tiles)(f), d = f->kv->head_dim;
    int64_t m_max = TT_FN(tt_attn_tile_rows)(f) * (int64_t)(f->n_heads / f->kv->n_kv_heads) + 48;
    if (g == NULL || n_tiles == 0 || !tt_lane_reserve_threads(lane, carve(NULL, NULL, m_max, d))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < n_tiles; i++) {
        int thread = omp_get_thread_num();
        bwd_bufs b;
        carve(&b, tt_lane_thread_buf(lane, thread), m_max, d);
        attn_tile t = TT_FN(tt_attn_tile_at)(f, i);
        run_tile(&t, a, g, thread, &b);
    }
    tt_gemm_check(lane);
}
