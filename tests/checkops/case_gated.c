/* case_gated.c - gated and gated_bwd. */
#include "tests/checkops/checkops.h"
#include "tests/checkops/formula.h"

static tt_act act_of(const co_shape *s)
{
    return s->flags & CO_GELU ? TT_ACT_GELU_TANH : TT_ACT_SILU;
}

/* In place: y is gate (ACCUMULATE set: up). */
static void setup_gated(co_test *t)
{
    const co_shape *s = &t->shape;
    bool in_place = s->flags & CO_IN_PLACE, on_up = s->flags & CO_ACCUMULATE;
    co_buf *gate = in_place && !on_up ? co_inout(t, "y", s->rows, s->dim, 4)
                                      : co_in(t, "gate", s->rows, s->dim, 4);
    co_buf *up = in_place && on_up ? co_inout(t, "y", s->rows, s->dim, 1)
                                   : co_in(t, "up", s->rows, s->dim, 1);
    co_buf *y = !in_place ? co_out(t, "y", CO_F32, s->rows, s->dim) : on_up ? up : gate;
    t->args.gated = (tt_gated_args){.gate = co_dev(t, gate),
                                    .up = co_dev(t, up),
                                    .y = co_dev(t, y),
                                    .n_rows = t->n_rows,
                                    .dim = s->dim,
                                    .act = act_of(s)};
}

static void call_gated(co_test *t)
{
    t->ops->gated(t->lane, &t->args.gated);
}

static void formula_gated(co_test *t)
{
    const co_shape *s = &t->shape;
    bool in_place = s->flags & CO_IN_PLACE, on_up = s->flags & CO_ACCUMULATE;
    const co_buf *gate = co_find(t, in_place && !on_up ? "y" : "gate");
    const co_buf *up = co_find(t, in_place && on_up ? "y" : "up");
    int64_t n = (int64_t)s->rows * s->dim;
    double *want = co_host(t, (size_t)n * sizeof *want);
    for (int64_t i = 0; i < n; i++) {
        want[i] = f_act(s->flags & CO_GELU, co_sent(gate, i)) * co_sent(up, i);
    }
    co_expect(t, "y", want, 1e-14);
}

/* In place: d_gate is dy (ACCUMULATE set: d_up). */
static void setup_gated_bwd(co_test *t)
{
    const co_shape *s = &t->shape;
    bool in_place = s->flags & CO_IN_PLACE, on_up = s->flags & CO_ACCUMULATE;
    co_buf *gate = co_in(t, "gate", s->rows, s->dim, 3), *up = co_in(t, "up", s->rows, s->dim, 1);
    co_buf *dy = !in_place ? co_in(t, "dy", s->rows, s->dim, 1)
                           : co_inout(t, on_up ? "d_up" : "d_gate", s->rows, s->dim, 1);
    co_buf *d_gate = in_place && !on_up ? dy : co_out(t, "d_gate", CO_F32, s->rows, s->dim);
    co_buf *d_up = in_place && on_up ? dy : co_out(t, "d_up", CO_F32, s->rows, s->dim);
    t->args.gated_bwd = (tt_gated_bwd_args){.gate = co_dev(t, gate),
                                            .up = co_dev(t, up),
                                            .dy = co_dev(t, dy),
                                            .d_gate = co_dev(t, d_gate),
                                            .d_up = co_dev(t, d_up),
                                            .n_rows = t->n_rows,
                                            .dim = s->dim,
                                            .act = act_of(s)};
}

static void call_gated_bwd(co_test *t)
{
    t->ops->gated_bwd(t->lane, &t->args.gated_bwd);
}

static const co_buf *upstream(co_test *t)
{
    unsigned f = t->shape.flags;
    return co_find(t, !(f & CO_IN_PLACE) ? "dy" : f & CO_ACCUMULATE ? "d_up" : "d_gate");
}

static double loss_gate(co_test *t, int64_t row, const double *x)
{
    double loss = 0;
    int32_t n = t->shape.dim;
    for (int32_t i = 0; i < n; i++) {
        double y = f_act(t->shape.flags & CO_GELU, x[i]) * co_sent(co_find(t, "up"), row * n + i);
        loss += y * co_sent(upstream(t), row * n + i);
    }
    return loss;
}

static double loss_up(co_test *t, int64_t row, const double *x)
{
    double loss = 0;
    int32_t n = t->shape.dim;
    for (int32_t i = 0; i < n; i++) {
        double y = f_act(t->shape.flags & CO_GELU, co_sent(co_find(t, "gate"), row * n + i)) * x[i];
        loss += y * co_sent(upstream(t), row * n + i);
    }
    return loss;
}

static const co_grad gated_grads[] = {
    {"gate", "d_gate", CO_NEVER, loss_gate}, {"up", "d_up", CO_NEVER, loss_up}, {0}};

static const co_shape gated_shapes[] = {
    {.rows = 1, .dim = 1},
    {.rows = 3, .dim = 7, .flags = CO_GELU},
    {.rows = 2, .dim = 15, .flags = CO_IN_PLACE},
    {.rows = 2, .dim = 16, .flags = CO_IN_PLACE | CO_ACCUMULATE},
    {.rows = 2, .dim = 17, .flags = CO_GELU | CO_IN_PLACE},
    {.rows = 7, .dim = 33, .flags = CO_GELU | CO_IN_PLACE | CO_ACCUMULATE},
    {.rows = 17, .dim = 100},
    {.rows = 66, .dim = 1536, .flags = CO_BENCH},
    {.rows = 66, .dim = 2048, .flags = CO_GELU | CO_BENCH},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

const co_op co_gated_ops[] = {
    {.name = "gated",
     .fn = offsetof(tt_ops, gated),
     .max_nmse = 1e-12,
     .by_row = true,
     .shapes = gated_shapes,
     .n_shapes = COUNT(gated_shapes),
     .setup = setup_gated,
     .call = call_gated,
     .formula = formula_gated},
    {.name = "gated_bwd",
     .fn = offsetof(tt_ops, gated_bwd),
     .max_nmse = 1e-11,
     .by_row = true,
     .shapes = gated_shapes,
     .n_shapes = COUNT(gated_shapes),
     .setup = setup_gated_bwd,
     .call = call_gated_bwd,
     .grads = gated_grads},
    {0},
};
