/* formula.c - see formula.h. */
#include "tests/checkops/formula.h"

#include <complex.h>
#include <math.h>

void f_rmsnorm(const double *x, const double *w, int n, double eps, double *y)
{
    double mean = 0;
    for (int i = 0; i < n; i++) {
        mean += x[i] * x[i] / n;
    }
    for (int i = 0; i < n; i++) {
        y[i] = x[i] / sqrt(mean + eps) * w[i];
    }
}

void f_rope(double *v, int rot, const double *inv_freq, double position, double mscale,
            bool interleaved)
{
    for (int i = 0; i < rot / 2; i++) {
        double *re = interleaved ? &v[2 * i] : &v[i];
        double *im = interleaved ? &v[2 * i + 1] : &v[i + rot / 2];
        double complex z = (*re + *im * I) * mscale * cexp(I * position * inv_freq[i]);
        *re = creal(z);
        *im = cimag(z);
    }
}

double f_act(bool gelu, double x)
{
    if (gelu) {
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * pow(x, 3))));
    }
    return x * 0.5 * (1 + tanh(x / 2)); /* sigmoid as a hyperbolic tangent */
}

double f_logsumexp(const double *z, int n)
{
    double max = z[0], sum = 0;
    for (int i = 1; i < n; i++) {
        max = fmax(max, z[i]);
    }
    for (int i = 0; i < n; i++) {
        sum += exp(z[i] - max);
    }
    return max + log(sum);
}

double f_attention(const double *q, const double *k, const double *v, int n, int d, double scale,
                   double *out)
{
    double lse = -INFINITY;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; pass == 1 && i < d; i++) {
            out[i] = 0;
        }
        for (int j = 0; j < n; j++) {
            double score = 0;
            for (int i = 0; i < d; i++) {
                score += scale * q[i] * k[j * d + i];
            }
            if (pass == 0) { /* log(e^lse + e^score), from the larger of the two */
                double hi = fmax(lse, score), lo = fmin(lse, score);
                lse = hi + log1p(exp(lo - hi));
                continue;
            }
            for (int i = 0; i < d; i++) {
                out[i] += exp(score - lse) * v[j * d + i];
            }
        }
    }
    return lse;
}

void f_matvec(const double *w, const double *x, int rows, int cols, double *z)
{
    for (int o = 0; o < rows; o++) {
        z[o] = 0;
        for (int c = 0; c < cols; c++) {
            z[o] += w[(long)o * cols + c] * x[c];
        }
    }
}
