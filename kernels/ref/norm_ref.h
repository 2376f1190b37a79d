/* norm_ref.h - RMSNorm of one vector and its transpose, shared by the norms of rows and of heads.
 * Thread: pure functions. */
#ifndef TT_NORM_REF_H
#define TT_NORM_REF_H

#include <stdint.h>

/* 1 / sqrt(mean(x^2) + eps) */
double tt_ref_rms_scale(const double *x, int32_t n, double eps);

/* dx = J^T dy of y_i = s x_i w_i, s = (mean(x^2) + eps)^(-1/2):
 *   dx_i = s w_i dy_i - x_i s^3 / n * sum_j w_j dy_j x_j. dx may be dy. */
void tt_ref_rms_bwd(const double *x, const float *w, const double *dy, double *dx, int32_t n,
                    double eps);

#endif
