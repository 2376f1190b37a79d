/* case_adapter.c - the query adapter: forward over groups of rows, transpose, gradient, norm. */
#include "tests/checkops/checkops.h"
#include "tests/checkops/formula.h"

#include <math.h>

#define SCALE 1.75f

/* A matrix of the adapter's type as a buffer. */
static tt_dev make_matrix(co_test *t, const char *name, int64_t rows, int64_t cols, double sigma)
{
    co_buf *b = co_in(t, name, 0, rows * cols, sigma);
    if (!(t->shape.flags & CO_BF16_ADAPTER)) {
        return b->dev;
    }
    uint16_t *h = co_host(t, (size_t)(rows * cols) * sizeof *h);
    for (int64_t i = 0; i < rows * cols; i++) {
        h[i] = tt_f32_to_bf16((float)co_sent(b, i));
    }
    b->name = "unused";
    return co_bytes(t, name, CO_IN, CO_BF16, h, rows * cols)->dev;
}

static tt_adapter_layer make_layer(co_test *t, const char *const names[3])
{
    const co_shape *s = &t->shape;
    tt_adapter_layer l = {.kind = s->flags & CO_LORA ? TT_ADAPTER_LORA : TT_ADAPTER_FULL,
                          .type = s->flags & CO_BF16_ADAPTER ? TT_BF16 : TT_F32};
    if (l.kind == TT_ADAPTER_FULL) {
        l.d = make_matrix(t, names[0], s->out[0], s->in, 1 / sqrt(s->in));
    } else {
        l.rank = s->rank;
        l.scale = SCALE;
        l.a = make_matrix(t, names[1], s->rank, s->in, 1 / sqrt(s->in));
        l.b = make_matrix(t, names[2], s->out[0], s->rank, 1 / sqrt(s->rank));
    }
    return l;
}

static const char *const names_0[] = {"d0", "a0", "b0"}, *const names_1[] = {"d1", "a1", "b1"};

/* The effective delta [nq, h] by the formula. */
static double *delta(co_test *t, const char *const names[3])
{
    const co_shape *s = &t->shape;
    int64_t nq = s->out[0], h = s->in;
    double *d = co_host(t, (size_t)(nq * h) * sizeof *d);
    for (int64_t o = 0; o < nq; o++) {
        for (int64_t c = 0; c < h; c++) {
            if (!(s->flags & CO_LORA)) {
                d[o * h + c] = co_sent(co_find(t, names[0]), o * h + c);
            }
            for (int32_t k = 0; (s->flags & CO_LORA) && k < s->rank; k++) {
                d[o * h + c] += (double)SCALE * co_sent(co_find(t, names[2]), o * s->rank + k) *
                                co_sent(co_find(t, names[1]), k * h + c);
            }
        }
    }
    return d;
}

/* Row 0 and one row in the middle have no adapter, the rows between use the first, those after use
 * the second. */
static int group_of(const co_shape *s, int32_t r)
{
    int32_t middle = s->rows / 2;
    return s->rows == 1 ? 0 : r == 0 || (r == middle && s->rows > 3) ? -1 : r < middle ? 0 : 1;
}

static void setup_adapter_fwd(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_adapter_group *groups = co_host(t, (size_t)(s->rows + 1) * sizeof *groups);
    tt_adapter_layer layers[2] = {make_layer(t, names_0), make_layer(t, names_1)};
    int32_t n = 0, before = -1;
    for (int32_t r = t->row0; r < t->row0 + t->n_rows; r++) {
        int g = group_of(s, r);
        if (g >= 0 && g == before) {
            groups[n - 1].n_rows++;
        } else if (g >= 0) {
            groups[n++] = (tt_adapter_group){.row0 = r - t->row0, .n_rows = 1, .layer = layers[g]};
        }
        before = g;
    }
    t->args.adapter_fwd = (tt_adapter_fwd_args){
        .h = s->in, .nq = s->out[0], .groups = groups, .n_groups = n, .family = s->family};
    t->args.adapter_fwd.x = co_dev(t, co_in(t, "x", s->rows, s->in, 1));
    t->args.adapter_fwd.q = co_dev(t, co_inout(t, "q", s->rows, s->out[0], 1));
}

static void call_adapter_fwd(co_test *t)
{
    t->ops->adapter_fwd(t->lane, &t->args.adapter_fwd);
}

static void formula_adapter_fwd(co_test *t)
{
    const co_shape *s = &t->shape;
    int64_t nq = s->out[0], h = s->in;
    const double *d[2] = {delta(t, names_0), delta(t, names_1)};
    double *want = co_host(t, (size_t)(s->rows * nq) * sizeof *want);
    for (int64_t i = 0; i < s->rows * nq; i++) {
        int g = group_of(s, (int32_t)(i / nq));
        want[i] = co_sent(co_find(t, "q"), i);
        for (int64_t c = 0; g >= 0 && c < h; c++) {
            want[i] += d[g][i % nq * h + c] * co_sent(co_find(t, "x"), i / nq * h + c);
        }
    }
    co_expect(t, "q", want, 1e-13);
}

static void setup_adapter_bwd(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_adapter_bwd_args *a = &t->args.adapter_bwd;
    *a = (tt_adapter_bwd_args){
        .n_rows = t->n_rows, .h = s->in, .nq = s->out[0], .layer = make_layer(t, names_0)};
    a->dq = co_dev(t, co_in(t, "dq", s->rows, s->out[0], 1));
    a->dx = co_dev(t, co_inout(t, "dx", s->rows, s->in, 1));
}

static void call_adapter_bwd(co_test *t)
{
    t->ops->adapter_bwd(t->lane, &t->args.adapter_bwd);
}

static void formula_adapter_bwd(co_test *t)
{
    const co_shape *s = &t->shape;
    int64_t nq = s->out[0], h = s->in;
    const double *d = delta(t, names_0);
    double *want = co_host(t, (size_t)(s->rows * h) * sizeof *want);
    for (int64_t i = 0; i < s->rows * h; i++) {
        want[i] = co_sent(co_find(t, "dx"), i);
        for (int64_t o = 0; o < nq; o++) {
            want[i] += co_sent(co_find(t, "dq"), i / h * nq + o) * d[o * h + i % h];
        }
    }
    co_expect(t, "dx", want, 1e-13);
}

static void setup_adapter_grad(co_test *t)
{
    const co_shape *s = &t->shape;
    bool lora = s->flags & CO_LORA;
    tt_adapter_grad_args *a = &t->args.adapter_grad;
    *a = (tt_adapter_grad_args){
        .n_rows = s->rows, .h = s->in, .nq = s->out[0], .layer = make_layer(t, names_0)};
    a->x = co_in(t, "x", s->rows, s->in, 1)->dev;
    a->dq = co_in(t, "dq", s->rows, s->out[0], 1)->dev;
    a->g = co_out(t, "g", CO_F32, 0, (int64_t)(lora ? s->rank : s->out[0]) * s->in)->dev;
    a->gb = lora ? co_out(t, "gb", CO_F32, 0, (int64_t)s->out[0] * s->rank)->dev : 0;
}

static void call_adapter_grad(co_test *t)
{
    t->ops->adapter_grad(t->lane, &t->args.adapter_grad);
}

static void setup_delta_norm(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_delta_norm_args *a = &t->args.delta_norm;
    *a = (tt_delta_norm_args){.layer = make_layer(t, names_0)};
    a->w = co_weight(t, s->type, s->out[0], s->in, 0.1);
    a->out = co_out(t, "out", CO_F64, 0, 2)->dev;
}

static void call_delta_norm(co_test *t)
{
    t->ops->delta_norm(t->lane, &t->args.delta_norm);
}

static void formula_delta_norm(co_test *t)
{
    const co_shape *s = &t->shape;
    const double *d = delta(t, names_0), *w = co_weight_values(t, t->args.delta_norm.w);
    double want[2] = {0, 0};
    for (int64_t i = 0; i < (int64_t)s->out[0] * s->in; i++) {
        want[0] += d[i] * d[i];
        want[1] += w[i] * w[i];
    }
    co_expect(t, "out", want, 1e-24);
}

/* sum over rows of dq . q(x) with one of the adapter's matrices replaced (NULL: as it is). */
static double loss_adapter(co_test *t, const double *d, const double *a, const double *b)
{
    const co_shape *s = &t->shape;
    const co_buf *x = co_find(t, "x"), *dq = co_find(t, "dq");
    double loss = 0, u[64];
    for (int64_t r = 0; r < s->rows; r++) {
        for (int32_t k = 0; k < s->rank; k++) {
            u[k] = 0;
            for (int64_t c = 0; c < s->in; c++) {
                u[k] += (a != NULL ? a[k * s->in + c] : co_sent(co_find(t, "a0"), k * s->in + c)) *
                        co_sent(x, r * s->in + c);
            }
        }
        for (int64_t o = 0; o < s->out[0]; o++) {
            double q = 0;
            for (int64_t c = 0; d != NULL && c < s->in; c++) {
                q += d[o * s->in + c] * co_sent(x, r * s->in + c);
            }
            for (int32_t k = 0; d == NULL && k < s->rank; k++) {
                q += (double)SCALE * u[k] *
                     (b != NULL ? b[o * s->rank + k] : co_sent(co_find(t, "b0"), o * s->rank + k));
            }
            loss += q * co_sent(dq, r * s->out[0] + o);
        }
    }
    return loss;
}

static double loss_d(co_test *t, int64_t row, const double *x)
{
    (void)row;
    return loss_adapter(t, x, NULL, NULL);
}

static double loss_a(co_test *t, int64_t row, const double *x)
{
    (void)row;
    return loss_adapter(t, NULL, x, NULL);
}

static double loss_b(co_test *t, int64_t row, const double *x)
{
    (void)row;
    return loss_adapter(t, NULL, NULL, x);
}

static const co_grad adapter_grads[] = {{"d0", "g", CO_NEVER, loss_d},
                                        {"a0", "g", CO_NEVER, loss_a},
                                        {"b0", "gb", CO_NEVER, loss_b},
                                        {0}};

static double loss_adapter_x(co_test *t, int64_t row, const double *x)
{
    const co_shape *s = &t->shape;
    const double *d = t->scratch == NULL ? t->scratch = delta(t, names_0) : t->scratch;
    double loss = 0;
    for (int64_t o = 0; o < s->out[0]; o++) {
        for (int64_t c = 0; c < s->in; c++) {
            loss += co_sent(co_find(t, "dq"), row * s->out[0] + o) * d[o * s->in + c] * x[c];
        }
    }
    return loss;
}

/* As with matmul_bwd, any point does. */
static const co_grad adapter_x_grads[] = {{"dx", "dx", CO_ALWAYS, loss_adapter_x}, {0}};

static const co_shape fwd_shapes[] = {
    {.rows = 1, .in = 8, .out = {4}, .families = CO_BOTH_FAMILIES},
    {.rows = 9, .in = 37, .out = {33}, .families = CO_BOTH_FAMILIES, .flags = CO_BF16_ADAPTER},
    {.rows = 17, .in = 96, .out = {64}, .families = CO_BOTH_FAMILIES},
    {.rows = 5, .in = 37, .out = {33}, .rank = 1, .families = CO_BOTH_FAMILIES, .flags = CO_LORA},
    {.rows = 18,
     .in = 64,
     .out = {48},
     .rank = 8,
     .families = CO_BOTH_FAMILIES,
     .flags = CO_LORA | CO_BF16_ADAPTER},
    {.rows = 7, .in = 65, .out = {15}, .rank = 13, .families = CO_BOTH_FAMILIES, .flags = CO_LORA},
    {.rows = 128,
     .in = 576,
     .out = {576},
     .families = CO_BIT(TT_PREFILL),
     .flags = CO_SLOW | CO_BENCH},
    {.rows = 128,
     .in = 576,
     .out = {576},
     .families = CO_BIT(TT_PREFILL),
     .flags = CO_SLOW | CO_BENCH | CO_BF16_ADAPTER},
    {.rows = 1,
     .in = 576,
     .out = {576},
     .families = CO_BIT(TT_DECODE),
     .flags = CO_SLOW | CO_BENCH | CO_BF16_ADAPTER},
    {.rows = 128,
     .in = 576,
     .out = {576},
     .rank = 8,
     .families = CO_BIT(TT_PREFILL),
     .flags = CO_SLOW | CO_BENCH | CO_LORA},
};

/* Backward and gradient run on a job's own rows in f32; a published adapter in BF16 only in probes,
 * but is legal. */
static const co_shape bwd_shapes[] = {
    {.rows = 1, .in = 8, .out = {4}},
    {.rows = 9, .in = 37, .out = {33}, .flags = CO_BF16_ADAPTER},
    {.rows = 17, .in = 96, .out = {64}},
    {.rows = 5, .in = 37, .out = {33}, .rank = 1, .flags = CO_LORA},
    {.rows = 18, .in = 64, .out = {48}, .rank = 8, .flags = CO_LORA | CO_BF16_ADAPTER},
    {.rows = 7, .in = 65, .out = {15}, .rank = 13, .flags = CO_LORA},
    {.rows = 127, .in = 576, .out = {576}, .flags = CO_SLOW | CO_BENCH},
    {.rows = 127, .in = 576, .out = {576}, .rank = 8, .flags = CO_SLOW | CO_BENCH | CO_LORA},
};

static const co_shape delta_shapes[] = {
    {.rows = 1, .in = 256, .out = {3}, .types = CO_ALL_TYPES},
    {.rows = 1, .in = 37, .out = {33}, .types = CO_PLAIN, .flags = CO_BF16_ADAPTER},
    {.rows = 1, .in = 64, .out = {48}, .rank = 8, .types = CO_BIT(TT_Q4_0), .flags = CO_LORA},
    {.rows = 1, .in = 37, .out = {17}, .rank = 5, .flags = CO_LORA | CO_BF16_ADAPTER},
    {.rows = 1, .in = 576, .out = {576}, .types = CO_BIT(TT_Q4_1), .flags = CO_SLOW | CO_BENCH},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

const co_op co_adapter_ops[] = {
    {.name = "adapter_fwd",
     .fn = offsetof(tt_ops, adapter_fwd),
     .scale = 1,
     .max_nmse = 4e-5,
     .max_decode_nmse = 1e-9,
     .max_device_decode_nmse = 4e-5,
     .by_row = true,
     .shapes = fwd_shapes,
     .n_shapes = COUNT(fwd_shapes),
     .setup = setup_adapter_fwd,
     .call = call_adapter_fwd,
     .formula = formula_adapter_fwd},
    {.name = "adapter_bwd",
     .fn = offsetof(tt_ops, adapter_bwd),
     .scale = 1,
     .max_nmse = 4e-5,
     .by_row = true,
     .shapes = bwd_shapes,
     .n_shapes = COUNT(bwd_shapes),
     .setup = setup_adapter_bwd,
     .call = call_adapter_bwd,
     .grads = adapter_x_grads,
     .formula = formula_adapter_bwd},
    {.name = "adapter_grad",
     .fn = offsetof(tt_ops, adapter_grad),
     .scale = 1,
     .max_nmse = 4e-5,
     .shapes = bwd_shapes,
     .n_shapes = COUNT(bwd_shapes),
     .setup = setup_adapter_grad,
     .call = call_adapter_grad,
     .grads = adapter_grads},
    {.name = "delta_norm",
     .fn = offsetof(tt_ops, delta_norm),
     .max_nmse = 1e-10,
     .shapes = delta_shapes,
     .n_shapes = COUNT(delta_shapes),
     .setup = setup_delta_norm,
     .call = call_delta_norm,
     .formula = formula_delta_norm},
    {0},
};
