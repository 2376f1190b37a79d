/* case_norm.c - rmsnorm and rmsnorm_bwd. Inputs carry outliers, as the residual stream of real
 * models does. */
#include "tests/checkops/checkops.h"
#include "tests/checkops/formula.h"

#define EPS 1e-5f

static void setup_rmsnorm(co_test *t)
{
    const co_shape *s = &t->shape;
    bool add = s->flags & CO_ACCUMULATE, in_place = s->flags & CO_IN_PLACE;
    co_buf *w = co_in(t, "w", 0, s->dim, 1);
    co_buf *x = add || !in_place ? co_in(t, "x", s->rows, s->dim, -3)
                                 : co_inout(t, "y", s->rows, s->dim, -3);
    co_buf *sum = !add       ? NULL
                  : in_place ? co_inout(t, "y", s->rows, s->dim, 1)
                             : co_in(t, "add", s->rows, s->dim, 1);
    co_buf *y = !in_place ? co_out(t, "y", CO_F32, s->rows, s->dim) : add ? sum : x;
    t->args.rmsnorm = (tt_rmsnorm_args){.x = co_dev(t, x),
                                        .w = co_dev(t, w),
                                        .add = sum == NULL ? 0 : co_dev(t, sum),
                                        .y = co_dev(t, y),
                                        .n_rows = t->n_rows,
                                        .dim = s->dim,
                                        .eps = EPS};
}

static void call_rmsnorm(co_test *t)
{
    t->ops->rmsnorm(t->lane, &t->args.rmsnorm);
}

static void formula_rmsnorm(co_test *t)
{
    const co_shape *s = &t->shape;
    bool add = s->flags & CO_ACCUMULATE, in_place = s->flags & CO_IN_PLACE;
    const co_buf *bx = co_find(t, !add && in_place ? "y" : "x"), *bw = co_find(t, "w");
    size_t n = (size_t)s->dim;
    double *want = co_host(t, (size_t)s->rows * n * sizeof *want);
    double *x = co_host(t, n * sizeof *x), *w = co_host(t, n * sizeof *w);
    for (int32_t r = 0; r < s->rows; r++) {
        for (int32_t i = 0; i < s->dim; i++) {
            x[i] = co_sent(bx, r * s->dim + i);
            w[i] = co_sent(bw, i);
        }
        f_rmsnorm(x, w, s->dim, EPS, want + (size_t)r * n);
        for (int32_t i = 0; add && i < s->dim; i++) {
            want[(size_t)r * n + (size_t)i] +=
                co_sent(co_find(t, in_place ? "y" : "add"), r * s->dim + i);
        }
    }
    co_expect(t, "y", want, 1e-14);
}

static void setup_rmsnorm_bwd(co_test *t)
{
    const co_shape *s = &t->shape;
    bool acc = s->flags & CO_ACCUMULATE, in_place = s->flags & CO_IN_PLACE;
    co_buf *w = co_in(t, "w", 0, s->dim, 1);
    co_buf *x = co_in(t, "x", s->rows, s->dim, -3);
    co_buf *dy =
        in_place ? co_inout(t, "dx", s->rows, s->dim, 1) : co_in(t, "dy", s->rows, s->dim, 1);
    co_buf *dx = in_place ? dy
                 : acc    ? co_inout(t, "dx", s->rows, s->dim, 1)
                          : co_out(t, "dx", CO_F32, s->rows, s->dim);
    t->args.rmsnorm_bwd = (tt_rmsnorm_bwd_args){.x = co_dev(t, x),
                                                .w = co_dev(t, w),
                                                .dy = co_dev(t, dy),
                                                .dx = co_dev(t, dx),
                                                .n_rows = t->n_rows,
                                                .dim = s->dim,
                                                .eps = EPS,
                                                .accumulate = acc};
}

static void call_rmsnorm_bwd(co_test *t)
{
    t->ops->rmsnorm_bwd(t->lane, &t->args.rmsnorm_bwd);
}

static double loss_rmsnorm(co_test *t, int64_t row, const double *x)
{
    const co_shape *s = &t->shape;
    const co_buf *dy = co_find(t, s->flags & CO_IN_PLACE ? "dx" : "dy"), *bw = co_find(t, "w");
    double w[1024], y[1024], loss = 0;
    for (int32_t i = 0; i < s->dim; i++) {
        w[i] = co_sent(bw, i);
    }
    f_rmsnorm(x, w, s->dim, EPS, y);
    for (int32_t i = 0; i < s->dim; i++) {
        loss += y[i] * co_sent(dy, row * s->dim + i);
    }
    return loss;
}

static const co_grad rmsnorm_grads[] = {{"x", "dx", CO_WITH_FLAG, loss_rmsnorm}, {0}};

/* Sizes around every vector length up to 16 and their unrolled multiples. */
static const co_shape norm_shapes[] = {
    {.rows = 1, .dim = 1},
    {.rows = 3, .dim = 7},
    {.rows = 2, .dim = 15, .flags = CO_IN_PLACE},
    {.rows = 2, .dim = 16, .flags = CO_ACCUMULATE},
    {.rows = 2, .dim = 17, .flags = CO_ACCUMULATE | CO_IN_PLACE},
    {.rows = 2, .dim = 31},
    {.rows = 2, .dim = 33, .flags = CO_ACCUMULATE},
    {.rows = 9, .dim = 63},
    {.rows = 5, .dim = 65, .flags = CO_ACCUMULATE | CO_IN_PLACE},
    {.rows = 20, .dim = 257, .flags = CO_IN_PLACE},
    {.rows = 17, .dim = 640, .flags = CO_ACCUMULATE},
    {.rows = 70, .dim = 576, .flags = CO_BENCH},
};

static const co_shape norm_bwd_shapes[] = {
    {.rows = 1, .dim = 1},
    {.rows = 3, .dim = 7, .flags = CO_ACCUMULATE},
    {.rows = 2, .dim = 15, .flags = CO_IN_PLACE},
    {.rows = 2, .dim = 16},
    {.rows = 2, .dim = 17, .flags = CO_ACCUMULATE},
    {.rows = 2, .dim = 31},
    {.rows = 2, .dim = 33, .flags = CO_IN_PLACE},
    {.rows = 9, .dim = 65, .flags = CO_ACCUMULATE},
    {.rows = 20, .dim = 257},
    {.rows = 70, .dim = 576, .flags = CO_ACCUMULATE | CO_BENCH},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

const co_op co_norm_ops[] = {
    {.name = "rmsnorm",
     .fn = offsetof(tt_ops, rmsnorm),
     .max_nmse = 1e-12,
     .by_row = true,
     .shapes = norm_shapes,
     .n_shapes = COUNT(norm_shapes),
     .setup = setup_rmsnorm,
     .call = call_rmsnorm,
     .formula = formula_rmsnorm},
    {.name = "rmsnorm_bwd",
     .fn = offsetof(tt_ops, rmsnorm_bwd),
     .scale = 0.1,
     .max_nmse = 1e-11,
     .by_row = true,
     .shapes = norm_bwd_shapes,
     .n_shapes = COUNT(norm_bwd_shapes),
     .setup = setup_rmsnorm_bwd,
     .call = call_rmsnorm_bwd,
     .grads = rmsnorm_grads},
    {0},
};
