/* gated_ref.c - the gated activation of the feed-forward part, forward and backward. Source: arXiv
 * 2002.05202. */
#include <math.h>

#include "kernels/lane.h"
#include "kernels/ref/ref.h"

/* act(x) and, where d is not NULL, its derivative. */
static double act(tt_act kind, double x, double *d)
{
    if (kind == TT_ACT_SILU) {
        double s = 1 / (1 + exp(-x));
        if (d != NULL) {
            *d = s * (1 + x * (1 - s));
        }
        return x * s;
    }
    /* gelu(x) = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3) */
    const double k = 0.79788456080286535588, c = 0.044715;
    double t = tanh(k * (x + c * x * x * x));
    if (d != NULL) {
        *d = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * c * x * x);
    }
    return 0.5 * x * (1 + t);
}

void tt_gated_ref(tt_lane *lane, const tt_gated_args *a)
{
    const float *gate = tt_ptr(a->gate), *up = tt_ptr(a->up);
    float *y = tt_ptr(a->y);
    int64_t n = (int64_t)a->n_rows * a->dim;
#pragma omp parallel for num_threads(lane->n_threads)
    for (int64_t i = 0; i < n; i++) {
        y[i] = (float)(act(a->act, gate[i], NULL) * up[i]);
    }
}

void tt_gated_bwd_ref(tt_lane *lane, const tt_gated_bwd_args *a)
{
    const float *gate = tt_ptr(a->gate), *up = tt_ptr(a->up), *dy = tt_ptr(a->dy);
    float *d_gate = tt_ptr(a->d_gate), *d_up = tt_ptr(a->d_up);
    int64_t n = (int64_t)a->n_rows * a->dim;
#pragma omp parallel for num_threads(lane->n_threads)
    for (int64_t i = 0; i < n; i++) {
        double d, y = act(a->act, gate[i], &d), g = dy[i], u = up[i];
        d_gate[i] = (float)(g * u * d);
        d_up[i] = (float)(g * y);
    }
}
