/* formula.h - the formulas of the ops once more, in double and in the plainest words, written from
 * the papers and not from kernels/ref: the second opinion on the reference. Thread: pure functions.
 */
#ifndef TT_FORMULA_H
#define TT_FORMULA_H

#include <stdbool.h>

/* y = x / sqrt(mean(x^2) + eps) * w */
void f_rmsnorm(const double *x, const double *w, int n, double eps, double *y);

/* Multiplies pair i of v by mscale * e^(i * position * inv_freq[i]) as a complex number. */
void f_rope(double *v, int rot, const double *inv_freq, double position, double mscale,
            bool interleaved);

/* silu(x) = x sigmoid(x), or gelu's tanh form. */
double f_act(bool gelu, double x);

/* out[d] = sum_j softmax(scale * K q)_j V_j; K, V: [n, d]. Returns the log-sum-exp. */
double f_attention(const double *q, const double *k, const double *v, int n, int d, double scale,
                   double *out);

double f_logsumexp(const double *z, int n);

/* z[rows] = W[rows, cols] x[cols] */
void f_matvec(const double *w, const double *x, int rows, int cols, double *z);

#endif
