/* case_matmul.c - matmul and matmul_bwd over every weight type. */
#include "tests/checkops/checkops.h"
#include "tests/checkops/formula.h"

#include <math.h>

#include "kernels/quant.h"

static const char *const y_names[] = {"y0", "y1", "y2"}, *const dy_names[] = {"dy0", "dy1", "dy2"};

static int count_weights(const co_shape *s)
{
    int n = 1;
    while (n < TT_MATMUL_MAX && s->out[n] > 0) {
        n++;
    }
    return n;
}

static void setup_matmul(co_test *t)
{
    const co_shape *s = &t->shape;
    bool acc = s->flags & CO_ACCUMULATE;
    co_buf *x = co_in(t, "x", s->rows, s->in, 1);
    t->args.matmul = (tt_matmul_args){.x = co_dev(t, x),
                                      .n_rows = t->n_rows,
                                      .n_w = count_weights(s),
                                      .accumulate = acc,
                                      .family = s->family};
    for (int i = 0; i < t->args.matmul.n_w; i++) {
        t->args.matmul.w[i] = co_weight(t, s->type, s->out[i], s->in, 1 / sqrt(s->in));
        co_buf *y = acc ? co_inout(t, y_names[i], s->rows, s->out[i], 1)
                        : co_out(t, y_names[i], CO_F32, s->rows, s->out[i]);
        t->args.matmul.y[i] = co_dev(t, y);
    }
}

static void call_matmul(co_test *t)
{
    t->ops->matmul(t->lane, &t->args.matmul);
}

static void formula_matmul(co_test *t)
{
    const co_shape *s = &t->shape;
    const co_buf *bx = co_find(t, "x");
    double *x = co_host(t, (size_t)s->in * sizeof *x);
    for (int i = 0; i < t->args.matmul.n_w; i++) {
        const double *w = co_weight_values(t, t->args.matmul.w[i]);
        int32_t n = s->out[i];
        double *want = co_host(t, (size_t)s->rows * (size_t)n * sizeof *want);
        for (int32_t r = 0; r < s->rows; r++) {
            for (int32_t c = 0; c < s->in; c++) {
                x[c] = co_sent(bx, (int64_t)r * s->in + c);
            }
            f_matvec(w, x, n, s->in, want + (int64_t)r * n);
            for (int32_t o = 0; (s->flags & CO_ACCUMULATE) && o < n; o++) {
                want[(int64_t)r * n + o] += co_sent(co_find(t, y_names[i]), (int64_t)r * n + o);
            }
        }
        co_expect(t, y_names[i], want, 1e-13);
    }
}

static void setup_matmul_bwd(co_test *t)
{
    const co_shape *s = &t->shape;
    bool acc = s->flags & CO_ACCUMULATE;
    tt_matmul_bwd_args *a = &t->args.matmul_bwd;
    *a = (tt_matmul_bwd_args){.n_rows = t->n_rows, .n_w = count_weights(s), .accumulate = acc};
    for (int i = 0; i < a->n_w; i++) {
        a->w[i] = co_weight(t, s->type, s->out[i], s->in, 1 / sqrt(s->out[i]));
        a->dy[i] = co_dev(t, co_in(t, dy_names[i], s->rows, s->out[i], 1));
    }
    co_buf *dx =
        acc ? co_inout(t, "dx", s->rows, s->in, 1) : co_out(t, "dx", CO_F32, s->rows, s->in);
    a->dx = co_dev(t, dx);
}

static void call_matmul_bwd(co_test *t)
{
    t->ops->matmul_bwd(t->lane, &t->args.matmul_bwd);
}

static void formula_matmul_bwd(co_test *t)
{
    const co_shape *s = &t->shape;
    int32_t n = s->in;
    double *want = co_host(t, (size_t)s->rows * (size_t)n * sizeof *want);
    for (int64_t i = 0; (s->flags & CO_ACCUMULATE) && i < (int64_t)s->rows * n; i++) {
        want[i] = co_sent(co_find(t, "dx"), i);
    }
    for (int i = 0; i < t->args.matmul_bwd.n_w; i++) {
        const double *w = co_weight_values(t, t->args.matmul_bwd.w[i]);
        const co_buf *dy = co_find(t, dy_names[i]);
        for (int32_t r = 0; r < s->rows; r++) {
            for (int32_t c = 0; c < n; c++) {
                for (int32_t o = 0; o < s->out[i]; o++) {
                    want[(int64_t)r * n + c] +=
                        co_sent(dy, (int64_t)r * s->out[i] + o) * w[(int64_t)o * n + c];
                }
            }
        }
    }
    co_expect(t, "dx", want, 1e-13);
}

static double loss_matmul(co_test *t, int64_t row, const double *x)
{
    const co_shape *s = &t->shape;
    double loss = 0;
    for (int i = 0; i < t->args.matmul_bwd.n_w; i++) {
        const tt_weight *w = t->args.matmul_bwd.w[i];
        float values[512];
        for (int64_t o = 0; o < w->rows; o++) {
            double y = 0;
            tt_dequant_row(w->type,
                           t->weight_bytes[w - t->weights] + o * tt_row_bytes(w->type, w->cols),
                           values, w->cols);
            for (int32_t c = 0; c < s->in; c++) {
                y += values[c] * x[c];
            }
            loss += y * co_sent(co_find(t, dy_names[i]), row * w->rows + o);
        }
    }
    return loss;
}

/* The input itself is no argument of the transposed product: any point does, and dx has its shape.
 */
static const co_grad matmul_grads[] = {{"dx", "dx", CO_WITH_FLAG, loss_matmul}, {0}};

/* Rows and columns around tiles of 4, 8, 16, 48 and 64; slices of 1, 2, 7, 16, 64 and 512 rows come
 * from the driver. */
static const co_shape matmul_shapes[] = {
    {.rows = 1, .in = 256, .out = {1}, .types = CO_ALL_TYPES, .families = CO_BOTH_FAMILIES},
    {.rows = 17, .in = 512, .out = {33}, .types = CO_ALL_TYPES, .families = CO_BOTH_FAMILIES},
    {.rows = 4,
     .in = 256,
     .out = {64, 16, 16},
     .types = CO_ALL_TYPES,
     .families = CO_BOTH_FAMILIES,
     .flags = CO_ACCUMULATE},
    {.rows = 5,
     .in = 32,
     .out = {15, 17},
     .types = CO_LEGACY | CO_PLAIN,
     .families = CO_BOTH_FAMILIES},
    {.rows = 16,
     .in = 96,
     .out = {31},
     .types = CO_LEGACY | CO_PLAIN,
     .families = CO_BOTH_FAMILIES},
    {.rows = 3, .in = 1, .out = {3}, .types = CO_PLAIN, .families = CO_BOTH_FAMILIES},
    {.rows = 15, .in = 37, .out = {65}, .types = CO_PLAIN, .families = CO_BOTH_FAMILIES},
    {.rows = 49,
     .in = 65,
     .out = {7, 9, 11},
     .types = CO_PLAIN,
     .families = CO_BOTH_FAMILIES,
     .flags = CO_ACCUMULATE},
    {.rows = 2,
     .in = 576,
     .out = {576, 192, 192},
     .types = CO_BIT(TT_Q4_1) | CO_BIT(TT_Q8_0),
     .families = CO_BIT(TT_DECODE),
     .flags = CO_BENCH},
    {.rows = 1,
     .in = 576,
     .out = {4096},
     .types = CO_BIT(TT_Q8_0),
     .families = CO_BIT(TT_DECODE),
     .flags = CO_BENCH | CO_SLOW},
    {.rows = 512,
     .in = 576,
     .out = {192},
     .types = CO_BIT(TT_Q4_1) | CO_BIT(TT_F32),
     .families = CO_BIT(TT_PREFILL),
     .flags = CO_BENCH | CO_SLOW},
    {.rows = 130,
     .in = 1536,
     .out = {576},
     .types = CO_BIT(TT_Q4_1),
     .families = CO_BIT(TT_PREFILL),
     .flags = CO_BENCH | CO_SLOW},
    {.rows = 64,
     .in = 2048,
     .out = {640},
     .types = CO_BIT(TT_Q4_K) | CO_BIT(TT_Q5_0),
     .families = CO_BIT(TT_PREFILL),
     .flags = CO_SLOW},
};

static const co_shape matmul_bwd_shapes[] = {
    {.rows = 1, .in = 256, .out = {1}, .types = CO_ALL_TYPES},
    {.rows = 17, .in = 512, .out = {33}, .types = CO_ALL_TYPES},
    {.rows = 4, .in = 256, .out = {64, 16, 16}, .types = CO_ALL_TYPES, .flags = CO_ACCUMULATE},
    {.rows = 5, .in = 32, .out = {15, 17}, .types = CO_LEGACY | CO_PLAIN},
    {.rows = 3, .in = 1, .out = {3}, .types = CO_PLAIN},
    {.rows = 15, .in = 37, .out = {65}, .types = CO_PLAIN, .flags = CO_ACCUMULATE},
    {.rows = 127, .in = 576, .out = {576}, .types = CO_BIT(TT_Q4_1), .flags = CO_BENCH | CO_SLOW},
    {.rows = 127,
     .in = 576,
     .out = {1536, 1536},
     .types = CO_BIT(TT_Q4_1),
     .flags = CO_BENCH | CO_SLOW},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

/* 4e-5: products of two operands rounded to BF16, 2^-8 at most each, what the fastest tables do. */
const co_op co_matmul_ops[] = {
    {.name = "matmul",
     .fn = offsetof(tt_ops, matmul),
     .scale = 1,
     .max_nmse = 4e-5,
     .max_decode_nmse = 1e-9,
     .max_device_decode_nmse = 4e-5,
     .by_row = true,
     .shapes = matmul_shapes,
     .n_shapes = COUNT(matmul_shapes),
     .setup = setup_matmul,
     .call = call_matmul,
     .formula = formula_matmul},
    {.name = "matmul_bwd",
     .fn = offsetof(tt_ops, matmul_bwd),
     .scale = 1,
     .max_nmse = 4e-5,
     .by_row = true,
     .shapes = matmul_bwd_shapes,
     .n_shapes = COUNT(matmul_bwd_shapes),
     .setup = setup_matmul_bwd,
     .call = call_matmul_bwd,
     .grads = matmul_grads,
     .formula = formula_matmul_bwd},
    {0},
};
