/* rope.c - bias, per-head norm, RoPE and the write of K and V; the transpose of RoPE and norm.
 * Thread: engine.
 *
 * The sine and cosine of an angle are computed in double once per row and pair (positions up to
 * 2^31 lose nothing) and used by all heads; the rotation itself is vectorised for the half-split
 * layout. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <omp.h>

#include "kernels/cpu/kern.h"

/* One row's angles and a head, in a thread's buffer of ROT_FLOATS * head_dim floats. */
typedef struct rot {
    float *c, *s; /* [rot_dim / 2] */
    float *head;  /* [head_dim] */
} rot;

enum { ROT_FLOATS = 2 };

static rot rot_at(const tt_rope *rope, int32_t position, float *buf)
{
    rot r = {.c = buf, .s = buf + rope->rot_dim / 2, .head = buf + rope->rot_dim};
    const float *inv_freq = tt_ptr(rope->inv_freq);
    for (int32_t i = 0; i < rope->rot_dim / 2; i++) {
        double angle = (double)position * (double)inv_freq[i];
        r.c[i] = (float)(cos(angle) * (double)rope->mscale);
        r.s[i] = (float)(sin(angle) * (double)rope->mscale);
    }
    return r;
}

/* sign 1: rotates; -1: the transpose. */
static void rotate(const tt_rope *rope, const rot *r, float sign, float *h)
{
    int32_t half = rope->rot_dim / 2;
    if (rope->kind == TT_ROPE_HALF) {
        const vf sg = vf_set1(sign);
        for (int64_t i = 0; i < half; i += VW) {
            vf c = vf_at(r->c, i, half), s = vf_mul(vf_at(r->s, i, half), sg);
            vf a = vf_at(h, i, half), b = vf_at(h + half, i, half);
            vf_put(h, i, half, vf_sub(vf_mul(a, c), vf_mul(b, s)));
            vf_put(h + half, i, half, vf_add(vf_mul(b, c), vf_mul(a, s)));
        }
        return;
    }
    for (int32_t i = 0; i < half; i++) {
        float a = h[2 * i], b = h[2 * i + 1], s = r->s[i] * sign;
        h[2 * i] = a * r->c[i] - b * s;
        h[2 * i + 1] = b * r->c[i] + a * s;
    }
}

static void add_to(float *x, const float *bias, int64_t n)
{
    for (int64_t i = 0; i < n; i += VW) {
        vf_put(x, i, n, vf_add(vf_at(x, i, n), vf_at(bias, i, n)));
    }
}

/* q[d] and *scale of x (tt_kv_layer); x becomes the rounded quotients. The largest magnitude is
 * found in the bits, where NaN is beyond infinity and that beyond all numbers. */
static void quantise(float *x, int64_t d, int8_t *q, float *scale)
{
    uint32_t most = 0;
    float max;
    for (int64_t i = 0; i < d; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7FFFFFFF;
        most = bits > most ? bits : most;
    }
    memcpy(&max, &most, sizeof max);
    float s = most < 0x7F800000 ? max / 127 : NAN;
    s = s < FLT_MIN ? 0 : s;
    *scale = s;
    if (!(s > 0)) {
        memset(q, 0, (size_t)d);
        return;
    }
    const vf by = vf_set1(s);
    for (int64_t i = 0; i < d; i += VW) {
        vf_put(x, i, d, vf_round(vf_div(vf_at(x, i, d), by)));
    }
    for (int64_t i = 0; i < d; i++) {
        q[i] = (int8_t)x[i];
    }
}

/* One head to its place in the page; x may be overwritten. */
static void store_head(const tt_kv_layer *kv, bool values, int32_t slot, int32_t head, float *x)
{
    int64_t d = kv->head_dim, elem = tt_dtypes[kv->type].block_bytes;
    int64_t row = (int64_t)head * TT_PAGE_TOKENS + slot % TT_PAGE_TOKENS;
    int64_t page = slot / TT_PAGE_TOKENS * kv->page_stride;
    char *to = (char *)tt_ptr(values ? kv->v : kv->k) + page + row * d * elem;
    if (kv->type == TT_I8) {
        char *scales = (char *)tt_ptr(values ? kv->v_scale : kv->k_scale) + page;
        quantise(x, d, (int8_t *)to, (float *)(void *)scales + row);
    } else if (kv->type == TT_BF16) {
        TT_FN(tt_round_bf16)(x, (uint16_t *)(void *)to, d);
    } else {
        memcpy(to, x, (size_t)d * sizeof *x);
    }
}

static void row_q(const tt_qk_rope_args *a, int32_t r, const rot *angles)
{
    int64_t d = a->kv->head_dim, nq = a->n_heads * d;
    float *q = (float *)tt_ptr(a->q) + r * nq;
    if (a->bq != 0) {
        add_to(q, tt_ptr(a->bq), nq);
    }
    if (a->q_pre != 0) {
        memcpy((float *)tt_ptr(a->q_pre) + r * nq, q, (size_t)nq * sizeof *q);
    }
    for (int32_t h = 0; h < a->n_heads; h++) {
        if (a->q_norm != 0) {
            TT_FN(tt_norm_row)(q + h * d, tt_ptr(a->q_norm), NULL, q + h * d, d, a->norm_eps);
        }
        rotate(&a->rope, angles, 1.0f, q + h * d);
    }
}

static void row_kv(const tt_qk_rope_args *a, int32_t r, int32_t slot, const rot *angles)
{
    int64_t d = a->kv->head_dim, nk = a->kv->n_kv_heads * d;
    const float *k = (const float *)tt_ptr(a->k) + r * nk,
                *v = (const float *)tt_ptr(a->v) + r * nk;
    const float *bk = tt_ptr(a->bk), *bv = tt_ptr(a->bv);
    float *head = angles->head;
    for (int32_t h = 0; h < a->kv->n_kv_heads; h++) {
        memcpy(head, k + h * d, (size_t)d * sizeof(float));
        if (bk != NULL) {
            add_to(head, bk + h * d, d);
        }
        if (a->k_norm != 0) {
            TT_FN(tt_norm_row)(head, tt_ptr(a->k_norm), NULL, head, d, a->norm_eps);
        }
        rotate(&a->rope, angles, 1.0f, head);
        store_head(a->kv, false, slot, h, head);
        memcpy(head, v + h * d, (size_t)d * sizeof(float));
        if (bv != NULL) {
            add_to(head, bv + h * d, d);
        }
        store_head(a->kv, true, slot, h, head);
    }
}

void TT_FN(tt_qk_rope)(tt_lane *lane, const tt_qk_rope_args *a)
{
    assert(a->rope.rot_dim <= a->kv->head_dim);
    if (!tt_lane_reserve_threads(lane, ROT_FLOATS * (size_t)a->kv->head_dim * sizeof(float))) {
        return;
    }
    const int32_t *positions = tt_ptr(a->positions), *slots = tt_ptr(a->kv_slot);
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (a->n_rows > 4)
    for (int32_t r = 0; r < a->n_rows; r++) {
        rot angles = rot_at(&a->rope, positions[r], tt_lane_thread_buf(lane, omp_get_thread_num()));
        row_q(a, r, &angles);
        if (slots[r] >= 0) {
            row_kv(a, r, slots[r], &angles);
        }
    }
}

void TT_FN(tt_q_rope_bwd)(tt_lane *lane, const tt_q_rope_bwd_args *a)
{
    assert(a->rope.rot_dim <= a->head_dim && (a->q_norm == 0 || a->q_pre != 0));
    if (!tt_lane_reserve_threads(lane, ROT_FLOATS * (size_t)a->head_dim * sizeof(float))) {
        return;
    }
    const int32_t *positions = tt_ptr(a->positions);
    int64_t d = a->head_dim, nq = a->n_heads * d;
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (a->n_rows > 4)
    for (int32_t r = 0; r < a->n_rows; r++) {
        rot angles = rot_at(&a->rope, positions[r], tt_lane_thread_buf(lane, omp_get_thread_num()));
        float *dq = (float *)tt_ptr(a->dq) + r * nq;
        const float *pre = a->q_norm == 0 ? NULL : (const float *)tt_ptr(a->q_pre) + r * nq;
        for (int32_t h = 0; h < a->n_heads; h++) {
            rotate(&a->rope, &angles, -1.0f, dq + h * d);
            if (pre != NULL) {
                TT_FN(tt_norm_row_bwd)
                (pre + h * d, tt_ptr(a->q_norm), dq + h * d, dq + h * d, d, a->norm_eps, false);
            }
        }
    }
}
