/* norm.c - RMSNorm and its backward, a row at a time. Thread: engine. */
#include <math.h>

#include "kernels/cpu/kern.h"

/* sum of a[i] * b[i], or of a[i] * b[i] * c[i]; four sums in a fixed order. */
static float dot2(const float *a, const float *b, int64_t n)
{
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    for (int64_t i = 0, j = 0; i < n; i += VW, j++) {
        s[j & 3] = vf_fma(vf_at(a, i, n), vf_at(b, i, n), s[j & 3]);
    }
    return vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
}

static float dot3(const float *a, const float *b, const float *c, int64_t n)
{
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    for (int64_t i = 0, j = 0; i < n; i += VW, j++) {
        s[j & 3] = vf_fma(vf_mul(vf_at(a, i, n), vf_at(b, i, n)), vf_at(c, i, n), s[j & 3]);
    }
    return vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
}

void TT_FN(tt_norm_row)(const float *x, const float *w, const float *add, float *y, int64_t n,
                        float eps)
{
    vf inv = vf_set1(1.0f / sqrtf(dot2(x, x, n) / (float)n + eps));
    for (int64_t i = 0; i < n; i += VW) {
        vf v = vf_mul(vf_mul(vf_at(x, i, n), inv), vf_at(w, i, n));
        vf_put(y, i, n, add == NULL ? v : vf_add(vf_at(add, i, n), v));
    }
}

/* dx = inv * (w * dy - x * inv^2 / n * sum(w * dy * x)) */
void TT_FN(tt_norm_row_bwd)(const float *x, const float *w, const float *dy, float *dx, int64_t n,
                            float eps, bool accumulate)
{
    float inv = 1.0f / sqrtf(dot2(x, x, n) / (float)n + eps);
    vf vinv = vf_set1(inv), along = vf_set1(-inv * inv * inv / (float)n * dot3(x, w, dy, n));
    for (int64_t i = 0; i < n; i += VW) {
        vf g = vf_mul(vf_mul(vf_at(dy, i, n), vf_at(w, i, n)), vinv);
        g = vf_fma(vf_at(x, i, n), along, g);
        vf_put(dx, i, n, accumulate ? vf_add(vf_at(dx, i, n), g) : g);
    }
}

void TT_FN(tt_rmsnorm)(tt_lane *lane, const tt_rmsnorm_args *a)
{
    const float *x = tt_ptr(a->x), *add = tt_ptr(a->add);
    float *y = tt_ptr(a->y);
    int64_t n = a->dim;
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (a->n_rows > 8)
    for (int32_t r = 0; r < a->n_rows; r++) {
        TT_FN(tt_norm_row)
        (x + r * n, tt_ptr(a->w), add == NULL ? NULL : add + r * n, y + r * n, n, a->eps);
    }
}

void TT_FN(tt_rmsnorm_bwd)(tt_lane *lane, const tt_rmsnorm_bwd_args *a)
{
    const float *x = tt_ptr(a->x), *dy = tt_ptr(a->dy);
    float *dx = tt_ptr(a->dx);
    int64_t n = a->dim;
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (a->n_rows > 8)
    for (int32_t r = 0; r < a->n_rows; r++) {
        TT_FN(tt_norm_row_bwd)
        (x + r * n, tt_ptr(a->w), dy + r * n, dx + r * n, n, a->eps, a->accumulate);
    }
}
