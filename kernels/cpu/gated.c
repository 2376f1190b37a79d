/* gated.c - act(gate) * up and its backward, element by element. Thread: engine.
 * Source of the tanh form of GELU: Hendrycks and Gimpel, arXiv 1606.08415; tanh(z) = 1 - 2 /
 * (e^(2z) + 1). */
#include "kernels/cpu/kern.h"

enum { PIECE = 4096 }; /* elements of a task */

typedef struct act_value {
    vf y, dy; /* act(x), act'(x) */
} act_value;

static act_value silu(vf x)
{
    const vf one = vf_set1(1.0f);
    vf s = vf_div(one, vf_add(one, vf_exp(vf_sub(vf_zero(), x))));
    vf y = vf_mul(x, s);
    return (act_value){y, vf_fma(y, vf_sub(one, s), s)};
}

static act_value gelu_tanh(vf x)
{
    const vf one = vf_set1(1.0f), half = vf_set1(0.5f), c = vf_set1(0.7978845608f),
             c3 = vf_set1(0.044715f);
    vf x2 = vf_mul(x, x);
    vf z = vf_mul(vf_mul(c, x), vf_fma(c3, x2, one));
    /* e^(2z) is infinite for large z (t = 1) and 0 for very negative z (t = -1). */
    vf t = vf_sub(one, vf_div(vf_set1(2.0f), vf_add(vf_exp(vf_add(z, z)), one)));
    vf h = vf_mul(half, vf_add(one, t));
    vf dz = vf_mul(c, vf_fma(vf_set1(3.0f * 0.044715f), x2, one));
    vf sech2 = vf_fma(vf_sub(vf_zero(), t), t, one);
    return (act_value){vf_mul(x, h), vf_fma(vf_mul(vf_mul(half, x), sech2), dz, h)};
}

static act_value act_of(tt_act act, vf x)
{
    return act == TT_ACT_SILU ? silu(x) : gelu_tanh(x);
}

void TT_FN(tt_gated)(tt_lane *lane, const tt_gated_args *a)
{
    const float *gate = tt_ptr(a->gate), *up = tt_ptr(a->up);
    float *y = tt_ptr(a->y);
    int64_t n = (int64_t)a->n_rows * a->dim;
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (n > 4 * PIECE)
    for (int64_t p = 0; p < n; p += PIECE) {
        int64_t end = p + PIECE < n ? p + PIECE : n;
        for (int64_t i = p; i < end; i += VW) {
            act_value v = act_of(a->act, vf_at(gate, i, end));
            vf_put(y, i, end, vf_mul(v.y, vf_at(up, i, end)));
        }
    }
}

void TT_FN(tt_gated_bwd)(tt_lane *lane, const tt_gated_bwd_args *a)
{
    const float *gate = tt_ptr(a->gate), *up = tt_ptr(a->up), *dy = tt_ptr(a->dy);
    float *d_gate = tt_ptr(a->d_gate), *d_up = tt_ptr(a->d_up);
    int64_t n = (int64_t)a->n_rows * a->dim;
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (n > 4 * PIECE)
    for (int64_t p = 0; p < n; p += PIECE) {
        int64_t end = p + PIECE < n ? p + PIECE : n;
        for (int64_t i = p; i < end; i += VW) {
            act_value v = act_of(a->act, vf_at(gate, i, end));
            vf d = vf_at(dy, i, end);
            vf dg = vf_mul(vf_mul(d, vf_at(up, i, end)), v.dy);
            vf_put(d_up, i, end, vf_mul(d, v.y));
            vf_put(d_gate, i, end, dg);
        }
    }
}
