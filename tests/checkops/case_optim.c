/* case_optim.c - gradient norm, loss and flag; AdamW and SGD, with and without weights under the
 * delta. */
#include "tests/checkops/checkops.h"

#include <math.h>

#define N_TENSORS 3 /* 0: over a weight matrix; 1: alone; 2: over another */

static const char *const g_names[] = {"g0", "g1", "g2"}, *const d_names[] = {"d0", "d1", "d2"};
static const char *const m_names[] = {"m0", "m1", "m2"}, *const v_names[] = {"v0", "v1", "v2"};

/* Second moments are squares. */
static co_buf *make_moment(co_test *t, const char *name, int64_t n)
{
    co_buf *b = co_inout(t, name, 0, n, 0.01);
    for (int64_t i = 0; i < n; i++) {
        float f = (float)(co_sent(b, i) * co_sent(b, i));
        memcpy(b->sent + CO_GUARD + 4 * i, &f, 4);
    }
    return b;
}

/* The state as the ops see it, and what is compared of it. */
static void make_state(co_test *t, double grad_sq, double loss)
{
    tt_train_state s = {grad_sq, loss, !(t->shape.flags & CO_NOT_FINITE), 7};
    co_buf *b = co_bytes(t, "state", CO_SCRATCH, CO_U8, &s, sizeof s);
    t->args.optim.state = b->dev;
}

static void after_optim(co_test *t)
{
    tt_train_state s;
    memcpy(&s, co_find(t, "state")->got + CO_GUARD, sizeof s);
    co_buf *b = co_derived(t, "state_values", 0, 4);
    co_set_got(b, 0, s.grad_sq);
    co_set_got(b, 1, s.loss);
    co_set_got(b, 2, s.finite);
    co_set_got(b, 3, s.n_dropped);
}

static void setup_begin(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_optim_args *a = &t->args.optim;
    tt_optim_tensor *tensors = co_host(t, N_TENSORS * sizeof *tensors);
    *a = (tt_optim_args){.t = tensors, .n_tensors = N_TENSORS, .n_rows = s->rows, .step = 1};
    for (int i = 0; i < N_TENSORS; i++) {
        tensors[i].n = i == 1 ? 5 : s->dim;
        co_buf *g = co_in(t, g_names[i], 0, tensors[i].n, 1);
        tensors[i].g = g->dev;
        if (i == 2 && (s->flags & CO_NOT_FINITE)) {
            float bad = s->step == 0 ? NAN : INFINITY;
            memcpy(g->sent + CO_GUARD + 4 * (tensors[i].n - 1), &bad, 4);
        }
    }
    a->row_loss = co_in(t, "row_loss", 0, s->rows, 3)->dev;
    a->row_weight = co_in(t, "row_weight", 0, s->rows, 1)->dev;
    make_state(t, NAN, NAN);
}

static void call_begin(co_test *t)
{
    t->ops->optim_begin(t->lane, &t->args.optim);
}

static void formula_begin(co_test *t)
{
    double want[4] = {0, 0, 1, 7};
    for (int i = 0; i < N_TENSORS; i++) {
        for (int64_t k = 0; k < t->args.optim.t[i].n; k++) {
            want[0] += pow(co_sent(co_find(t, g_names[i]), k), 2);
        }
    }
    for (int32_t r = 0; r < t->shape.rows; r++) {
        want[1] += co_sent(co_find(t, "row_loss"), r) * co_sent(co_find(t, "row_weight"), r);
    }
    want[2] = isfinite(want[0]) && isfinite(want[1]);
    co_expect(t, "state_values", want, 1e-24);
}

static void setup_step(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_optim_args *a = &t->args.optim;
    tt_optim_tensor *tensors = co_host(t, N_TENSORS * sizeof *tensors);
    *a = (tt_optim_args){.t = tensors,
                         .n_tensors = N_TENSORS,
                         .kind = s->flags & CO_SGD ? TT_SGD : TT_ADAMW,
                         .step = s->step,
                         .lr = 0.01f,
                         .beta1 = 0.9f,
                         .beta2 = 0.999f,
                         .eps = 1e-8f,
                         .weight_decay = 0.5f,
                         .clip = s->flags & CO_NO_CLIP ? 0 : 1};
    for (int i = 0; i < N_TENSORS; i++) {
        tensors[i].w =
            i == 1 ? NULL : co_weight(t, i == 0 ? s->type : TT_F32, s->out[0], s->in, 0.2);
        int64_t n = i == 1 ? 4097 : (int64_t)s->out[0] * s->in;
        tensors[i].n = n;
        tensors[i].g = co_in(t, g_names[i], 0, n, 0.02)->dev;
        tensors[i].d = co_inout(t, d_names[i], 0, n, 0.001)->dev;
        tensors[i].m = co_inout(t, m_names[i], 0, n, 0.01)->dev;
        tensors[i].v = make_moment(t, v_names[i], n)->dev;
    }
    make_state(t, s->flags & CO_ACCUMULATE ? 0.04 : 30.25,
               1.5); /* a norm below or above the clip */
}

static void call_step(co_test *t)
{
    t->ops->optim_step(t->lane, &t->args.optim);
}

/* Torch's documented algorithms on p = w + d, then d = p - w. */
static void formula_tensor(co_test *t, int i, double clip)
{
    const tt_optim_args *a = &t->args.optim;
    int64_t n = a->t[i].n;
    const double *w = a->t[i].w == NULL ? NULL : co_weight_values(t, a->t[i].w);
    double *d = co_host(t, (size_t)n * sizeof *d), *m = co_host(t, (size_t)n * sizeof *m);
    double *v = co_host(t, (size_t)n * sizeof *v);
    for (int64_t k = 0; k < n; k++) {
        double p0 = w == NULL ? 0 : w[k], p = p0 + co_sent(co_find(t, d_names[i]), k);
        double g = clip * co_sent(co_find(t, g_names[i]), k);
        m[k] = co_sent(co_find(t, m_names[i]), k);
        v[k] = co_sent(co_find(t, v_names[i]), k);
        if (t->shape.flags & CO_NOT_FINITE) {
            d[k] = p - p0;
            continue;
        }
        if (a->kind == TT_SGD) {
            g += (double)a->weight_decay * p;
            p -= (double)a->lr * g;
        } else {
            p *= 1 - (double)a->lr * (double)a->weight_decay;
            m[k] += (g - m[k]) * (1 - (double)a->beta1);
            v[k] = (double)a->beta2 * v[k] + (1 - (double)a->beta2) * g * g;
            double m_hat = m[k] / (1 - pow((double)a->beta1, a->step));
            double v_hat = v[k] / (1 - pow((double)a->beta2, a->step));
            p -= (double)a->lr * m_hat / (sqrt(v_hat) + (double)a->eps);
        }
        d[k] = p - p0;
    }
    co_expect(t, d_names[i], d, 1e-13);
    co_expect(t, m_names[i], m, 1e-13);
    co_expect(t, v_names[i], v, 1e-13);
}

static void formula_step(co_test *t)
{
    double norm = sqrt(t->shape.flags & CO_ACCUMULATE ? 0.04 : 30.25);
    double clip = t->shape.flags & CO_NO_CLIP ? 1 : fmin(1, 1 / (norm + 1e-6));
    bool finite = !(t->shape.flags & CO_NOT_FINITE);
    for (int i = 0; i < N_TENSORS; i++) {
        formula_tensor(t, i, clip);
    }
    double want[4] = {norm * norm, 1.5, finite, finite ? 7 : 8};
    co_expect(t, "state_values", want, 1e-24);
}

static const co_shape begin_shapes[] = {
    {.rows = 1, .dim = 1},
    {.rows = 7, .dim = 4095},
    {.rows = 16, .dim = 4096},
    {.rows = 127, .dim = 4097},
    {.rows = 127, .dim = 100, .flags = CO_NOT_FINITE},
    {.rows = 127, .dim = 9000, .flags = CO_NOT_FINITE, .step = 1},
    {.rows = 127, .dim = 331776, .flags = CO_SLOW | CO_BENCH},
};

static const co_shape step_shapes[] = {
    {.rows = 1, .in = 256, .out = {3}, .step = 1, .types = CO_ALL_TYPES},
    {.rows = 1, .in = 37, .out = {33}, .step = 2, .types = CO_PLAIN},
    {.rows = 1, .in = 64, .out = {17}, .step = 10, .flags = CO_ACCUMULATE},
    {.rows = 1, .in = 64, .out = {17}, .step = 100, .flags = CO_NO_CLIP},
    {.rows = 1, .in = 64, .out = {17}, .step = 3, .flags = CO_NOT_FINITE},
    {.rows = 1, .in = 64, .out = {17}, .step = 3, .flags = CO_SGD | CO_NOT_FINITE},
    {.rows = 1, .in = 256, .out = {3}, .step = 1, .types = CO_ALL_TYPES, .flags = CO_SGD},
    {.rows = 1, .in = 37, .out = {33}, .step = 9, .flags = CO_SGD | CO_ACCUMULATE},
    {.rows = 1, .in = 37, .out = {33}, .step = 9, .flags = CO_SGD | CO_NO_CLIP},
    {.rows = 1,
     .in = 576,
     .out = {576},
     .step = 5,
     .types = CO_BIT(TT_Q4_1),
     .flags = CO_SLOW | CO_BENCH},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

const co_op co_optim_ops[] = {
    {.name = "optim_begin",
     .fn = offsetof(tt_ops, optim_begin),
     .max_nmse = 1e-14,
     .shapes = begin_shapes,
     .n_shapes = COUNT(begin_shapes),
     .setup = setup_begin,
     .call = call_begin,
     .after = after_optim,
     .formula = formula_begin},
    {.name = "optim_step",
     .fn = offsetof(tt_ops, optim_step),
     .max_nmse = 1e-10,
     .shapes = step_shapes,
     .n_shapes = COUNT(step_shapes),
     .setup = setup_step,
     .call = call_step,
     .after = after_optim,
     .formula = formula_step},
    {0},
};
