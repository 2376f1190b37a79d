/* rope_ref.c - what happens to q, k and v between projection and attention: bias, norm per head,
 * rotary embedding, the write into the pages; and the transpose for q. Source: arXiv 2104.09864. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <omp.h>

#include "kernels/lane.h"
#include "kernels/ref/norm_ref.h"
#include "kernels/ref/ref.h"

/* cs[2i], cs[2i + 1] = mscale * (cos, sin) of position * inv_freq[i]. */
static void fill_angles(const tt_rope *rope, int32_t position, double *cs)
{
    const float *inv_freq = tt_ptr(rope->inv_freq);
    for (int32_t i = 0; i < rope->rot_dim / 2; i++) {
        double angle = (double)position * inv_freq[i];
        cs[2 * i] = rope->mscale * cos(angle);
        cs[2 * i + 1] = rope->mscale * sin(angle);
    }
}

/* Rotates one head; sign -1 applies the transpose. Elements from rot_dim on stay. */
static void rotate(const tt_rope *rope, const double *cs, double sign, double *v)
{
    int32_t half = rope->rot_dim / 2;
    for (int32_t i = 0; i < half; i++) {
        int32_t ia = rope->kind == TT_ROPE_HALF ? i : 2 * i;
        int32_t ib = rope->kind == TT_ROPE_HALF ? i + half : 2 * i + 1;
        double a = v[ia], b = v[ib], c = cs[2 * i], s = sign * cs[2 * i + 1];
        v[ia] = a * c - b * s;
        v[ib] = a * s + b * c;
    }
}

/* v[n] = x + bias (NULL: x) */
static void load_biased(const float *x, const float *bias, int32_t n, double *v)
{
    for (int32_t i = 0; i < n; i++) {
        v[i] = (double)x[i] + (bias == NULL ? 0 : bias[i]);
    }
}

static void norm_head(const float *w, double eps, int32_t n, double *v)
{
    if (w == NULL) {
        return;
    }
    double s = tt_ref_rms_scale(v, n, eps);
    for (int32_t i = 0; i < n; i++) {
        v[i] *= s * w[i];
    }
}

/* q[n] and *scale of the vector v, rounded to f32: tt_kv_layer. */
static void quantise(const double *v, int32_t n, int8_t *q, float *scale)
{
    float max = 0;
    bool finite = true;
    for (int32_t i = 0; i < n; i++) {
        float x = fabsf((float)v[i]);
        finite = finite && isfinite(x);
        max = x > max ? x : max;
    }
    float s = max / 127;
    s = finite ? (s < FLT_MIN ? 0 : s) : NAN;
    for (int32_t i = 0; i < n; i++) {
        q[i] = s > 0 ? (int8_t)rintf((float)v[i] / s) : 0;
    }
    *scale = s;
}

/* Stores one head at `slot` of a layer's K or V. */
static void store_kv(const tt_kv_layer *kv, bool values, int32_t slot, int32_t head,
                     const double *v)
{
    int32_t page = slot / TT_PAGE_TOKENS, offset = slot % TT_PAGE_TOKENS, n = kv->head_dim;
    char *dst = (char *)tt_ptr(values ? kv->v : kv->k) + page * kv->page_stride;
    size_t row = (size_t)head * TT_PAGE_TOKENS + (size_t)offset, first = row * (size_t)n;
    if (kv->type == TT_I8) {
        char *scales = (char *)tt_ptr(values ? kv->v_scale : kv->k_scale) + page * kv->page_stride;
        quantise(v, n, (int8_t *)dst + first, (float *)(void *)scales + row);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        if (kv->type == TT_F32) {
            ((float *)(void *)dst)[first + (size_t)i] = (float)v[i];
        } else {
            ((uint16_t *)(void *)dst)[first + (size_t)i] = tt_f32_to_bf16((float)v[i]);
        }
    }
}

static const float *at(tt_dev base, size_t i)
{
    return base == 0 ? NULL : (const float *)tt_ptr(base) + i;
}

static void q_row(const tt_qk_rope_args *a, size_t r, const double *cs, double *v)
{
    int32_t d = a->kv->head_dim;
    for (int32_t h = 0; h < a->n_heads; h++) {
        size_t col = (size_t)h * (size_t)d, first = r * (size_t)a->n_heads * (size_t)d + col;
        float *q = (float *)tt_ptr(a->q) + first;
        load_biased(q, at(a->bq, col), d, v);
        for (int32_t i = 0; a->q_pre != 0 && i < d; i++) {
            ((float *)tt_ptr(a->q_pre))[first + (size_t)i] = (float)v[i];
        }
        norm_head(at(a->q_norm, 0), a->norm_eps, d, v);
        rotate(&a->rope, cs, 1, v);
        for (int32_t i = 0; i < d; i++) {
            q[i] = (float)v[i];
        }
    }
}

static void kv_row(const tt_qk_rope_args *a, size_t r, int32_t slot, const double *cs, double *v)
{
    const tt_kv_layer *kv = a->kv;
    int32_t d = kv->head_dim;
    for (int32_t h = 0; h < kv->n_kv_heads; h++) {
        size_t col = (size_t)h * (size_t)d, first = r * (size_t)kv->n_kv_heads * (size_t)d + col;
        load_biased(at(a->k, first), at(a->bk, col), d, v);
        norm_head(at(a->k_norm, 0), a->norm_eps, d, v);
        rotate(&a->rope, cs, 1, v);
        store_kv(kv, false, slot, h, v);
        load_biased(at(a->v, first), at(a->bv, col), d, v);
        store_kv(kv, true, slot, h, v);
    }
}

void tt_qk_rope_ref(tt_lane *lane, const tt_qk_rope_args *a)
{
    int32_t d = a->kv->head_dim;
    const int32_t *positions = tt_ptr(a->positions), *slots = tt_ptr(a->kv_slot);
    assert(a->rope.rot_dim % 2 == 0 && a->rope.rot_dim <= d);
    assert(a->kv->type == TT_F32 || a->kv->type == TT_BF16 || a->kv->type == TT_I8);
    if (!tt_lane_reserve_threads(lane, 2 * (size_t)d * sizeof(double))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads)
    for (int32_t r = 0; r < a->n_rows; r++) {
        double *v = tt_lane_thread_buf(lane, omp_get_thread_num());
        double *cs = v + d;
        fill_angles(&a->rope, positions[r], cs);
        q_row(a, (size_t)r, cs, v);
        if (slots[r] >= 0) {
            kv_row(a, (size_t)r, slots[r], cs, v);
        }
    }
}

void tt_q_rope_bwd_ref(tt_lane *lane, const tt_q_rope_bwd_args *a)
{
    int32_t d = a->head_dim;
    const int32_t *positions = tt_ptr(a->positions);
    assert(a->rope.rot_dim % 2 == 0 && a->rope.rot_dim <= d);
    assert(a->q_norm == 0 || a->q_pre != 0);
    if (!tt_lane_reserve_threads(lane, 3 * (size_t)d * sizeof(double))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads)
    for (int32_t r = 0; r < a->n_rows; r++) {
        double *g = tt_lane_thread_buf(lane, omp_get_thread_num());
        double *cs = g + d, *x = cs + d;
        fill_angles(&a->rope, positions[r], cs);
        for (int32_t h = 0; h < a->n_heads; h++) {
            size_t first = ((size_t)r * (size_t)a->n_heads + (size_t)h) * (size_t)d;
            float *dq = (float *)tt_ptr(a->dq) + first;
            load_biased(dq, NULL, d, g);
            rotate(&a->rope, cs, -1, g);
            if (a->q_norm != 0) {
                load_biased(at(a->q_pre, first), NULL, d, x);
                tt_ref_rms_bwd(x, tt_ptr(a->q_norm), g, g, d, a->norm_eps);
            }
            for (int32_t i = 0; i < d; i++) {
                dq[i] = (float)g[i];
            }
        }
    }
}
