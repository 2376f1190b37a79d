/* norm_ref.c - RMSNorm over rows, forward and backward. Source: arXiv 1910.07467. */
#include "kernels/ref/norm_ref.h"

#include <math.h>
#include <omp.h>

#include "kernels/lane.h"
#include "kernels/ref/ref.h"

double tt_ref_rms_scale(const double *x, int32_t n, double eps)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += x[i] * x[i];
    }
    return 1 / sqrt(sum / n + eps);
}

void tt_ref_rms_bwd(const double *x, const float *w, const double *dy, double *dx, int32_t n,
                    double eps)
{
    double s = tt_ref_rms_scale(x, n, eps), dot = 0;
    for (int32_t i = 0; i < n; i++) {
        dot += w[i] * dy[i] * x[i];
    }
    double k = s * s * s / n * dot;
    for (int32_t i = 0; i < n; i++) {
        dx[i] = s * w[i] * dy[i] - k * x[i];
    }
}

void tt_rmsnorm_ref(tt_lane *lane, const tt_rmsnorm_args *a)
{
    int32_t n = a->dim;
    const float *w = tt_ptr(a->w);
    if (!tt_lane_reserve_threads(lane, (size_t)n * sizeof(double))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads)
    for (int32_t r = 0; r < a->n_rows; r++) {
        double *x = tt_lane_thread_buf(lane, omp_get_thread_num());
        size_t row = (size_t)r * (size_t)n;
        const float *in = (const float *)tt_ptr(a->x) + row;
        const float *add = a->add == 0 ? NULL : (const float *)tt_ptr(a->add) + row;
        float *y = (float *)tt_ptr(a->y) + row;
        for (int32_t i = 0; i < n; i++) {
            x[i] = in[i];
        }
        double s = tt_ref_rms_scale(x, n, a->eps);
        for (int32_t i = 0; i < n; i++) {
            y[i] = (float)(x[i] * s * w[i] + (add == NULL ? 0 : add[i]));
        }
    }
}

void tt_rmsnorm_bwd_ref(tt_lane *lane, const tt_rmsnorm_bwd_args *a)
{
    int32_t n = a->dim;
    if (!tt_lane_reserve_threads(lane, 2 * (size_t)n * sizeof(double))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads)
    for (int32_t r = 0; r < a->n_rows; r++) {
        double *x = tt_lane_thread_buf(lane, omp_get_thread_num());
        double *g = x + n;
        size_t row = (size_t)r * (size_t)n;
        const float *in = (const float *)tt_ptr(a->x) + row,
                    *dy = (const float *)tt_ptr(a->dy) + row;
        float *dx = (float *)tt_ptr(a->dx) + row;
        for (int32_t i = 0; i < n; i++) {
            x[i] = in[i];
            g[i] = dy[i];
        }
        tt_ref_rms_bwd(x, tt_ptr(a->w), g, g, n, a->eps);
        for (int32_t i = 0; i < n; i++) {
            dx[i] = (float)(a->accumulate ? dx[i] + g[i] : g[i]);
        }
    }
}
