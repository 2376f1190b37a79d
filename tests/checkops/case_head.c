/* case_head.c - the output head's loss and its gradient, in blocks of columns. */
#include "tests/checkops/checkops.h"
#include "tests/checkops/formula.h"

#include <math.h>

#include "kernels/quant.h"

/* Logits of all rows by the formula, [rows, vocab]. */
static double *all_logits(co_test *t, const tt_weight *w)
{
    const co_shape *s = &t->shape;
    bool ready;
    double *z = co_memo(t, "logits", (size_t)s->rows * (size_t)s->vocab * sizeof *z, &ready);
    if (ready) {
        return z;
    }
    const double *wv = co_weight_values(t, w);
    double *x = co_host(t, (size_t)s->in * sizeof *x);
    for (int32_t r = 0; r < s->rows; r++) {
        for (int32_t c = 0; c < s->in; c++) {
            x[c] = co_sent(co_find(t, "x"), (int64_t)r * s->in + c);
        }
        f_matvec(wv, x, s->vocab, s->in, z + (int64_t)r * s->vocab);
    }
    return z;
}

static int32_t target_of(co_test *t, int32_t r)
{
    return (int32_t)co_sent(co_find(t, "targets"), r);
}

/* A state as head_fwd may leave it: any finite maximum with a sum that fits it. */
static co_buf *make_state(co_test *t, const tt_weight *w)
{
    const co_shape *s = &t->shape;
    const double *z = all_logits(t, w);
    co_buf *b = co_in(t, "state", s->rows, 4, 0);
    for (int32_t r = 0; r < s->rows; r++) {
        double max = -INFINITY, lse = f_logsumexp(z + (int64_t)r * s->vocab, s->vocab);
        for (int32_t c = 0; c < s->vocab; c++) {
            max = fmax(max, z[(int64_t)r * s->vocab + c]);
        }
        int32_t target = target_of(t, r);
        float state[4] = {(float)max, (float)exp(lse - (float)max),
                          target < 0 ? 0 : (float)z[(int64_t)r * s->vocab + target], NAN};
        memcpy(b->sent + CO_GUARD + (size_t)r * sizeof state, state, sizeof state);
    }
    return b;
}

/* Inputs that all three ops share; every fourth row has no target. */
static void setup_common(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_head_args *a = &t->args.head;
    int32_t *targets = co_host(t, (size_t)s->rows * sizeof *targets);
    for (int32_t r = 0; r < s->rows; r++) {
        targets[r] = r % 4 == 3 ? -1
                     : r == 0   ? s->vocab - 1
                     : r == 1   ? 0
                                : co_below(&t->rng, s->vocab);
    }
    *a = (tt_head_args){.n_rows = t->n_rows};
    a->x = co_dev(t, co_in(t, "x", s->rows, s->in, 1));
    a->w = co_weight(t, s->type, s->vocab, s->in, 1 / sqrt(s->in));
    a->targets = co_dev(t, co_ints(t, "targets", targets, s->rows));
}

static void call_blocks(co_test *t, void (*op)(tt_lane *lane, const tt_head_args *a))
{
    tt_head_args a = t->args.head;
    for (a.col0 = 0; a.col0 < t->shape.vocab; a.col0 += a.n_cols) {
        a.n_cols =
            t->shape.vocab - a.col0 < t->shape.block ? t->shape.vocab - a.col0 : t->shape.block;
        op(t->lane, &a);
    }
}

static void setup_head_fwd(co_test *t)
{
    setup_common(t);
    co_buf *state = co_out(t, "state", CO_F32, t->shape.rows, 4);
    state->role = CO_SCRATCH; /* only what follows from it is the same in all tables */
    t->args.head.state = co_dev(t, state);
}

static void call_head_fwd(co_test *t)
{
    call_blocks(t, t->ops->head_fwd);
}

static void after_head_fwd(co_test *t)
{
    const co_buf *state = co_find(t, "state");
    co_buf *lse = co_derived(t, "lse", t->shape.rows, 1),
           *z = co_derived(t, "target", t->shape.rows, 1);
    for (int32_t r = t->row0; r < t->row0 + t->n_rows; r++) {
        co_set_got(lse, r, co_got(state, 4 * r) + log(co_got(state, 4 * r + 1)));
        co_set_got(z, r, target_of(t, r) < 0 ? 0 : co_got(state, 4 * r + 2));
    }
}

static void formula_head_fwd(co_test *t)
{
    const co_shape *s = &t->shape;
    const double *z = all_logits(t, t->args.head.w);
    double *lse = co_host(t, (size_t)s->rows * sizeof *lse),
           *zt = co_host(t, (size_t)s->rows * sizeof *zt);
    for (int32_t r = 0; r < s->rows; r++) {
        lse[r] = f_logsumexp(z + (int64_t)r * s->vocab, s->vocab);
        zt[r] = target_of(t, r) < 0 ? 0 : z[(int64_t)r * s->vocab + target_of(t, r)];
    }
    co_expect(t, "lse", lse, 1e-13);
    co_expect(t, "target", zt, 1e-13);
}

static void setup_head_finish(co_test *t)
{
    setup_common(t);
    t->args.head.state = co_dev(t, make_state(t, t->args.head.w));
    t->args.head.row_loss = co_dev(t, co_out(t, "row_loss", CO_F32, t->shape.rows, 1));
}

static void call_head_finish(co_test *t)
{
    t->ops->head_finish(t->lane, &t->args.head);
}

/* From the state as it was given: what its rounding to f32 costs a small loss is head_fwd's affair.
 */
static void formula_head_finish(co_test *t)
{
    const co_shape *s = &t->shape;
    const co_buf *state = co_find(t, "state");
    double *loss = co_host(t, (size_t)s->rows * sizeof *loss);
    for (int32_t r = 0; r < s->rows; r++) {
        double m = co_sent(state, 4 * r), sum = co_sent(state, 4 * r + 1),
               z = co_sent(state, 4 * r + 2);
        loss[r] = target_of(t, r) < 0 ? 0 : m - z + log(sum);
    }
    co_expect(t, "row_loss", loss, 1e-14);
}

static void setup_head_bwd(co_test *t)
{
    const co_shape *s = &t->shape;
    setup_common(t);
    t->args.head.state = co_dev(t, make_state(t, t->args.head.w));
    t->args.head.row_weight = co_dev(t, co_in(t, "row_weight", s->rows, 1, 1));
    t->args.head.dx = co_dev(t, co_out(t, "dx", CO_F32, s->rows, s->in));
}

static void call_head_bwd(co_test *t)
{
    call_blocks(t, t->ops->head_bwd);
}

static double loss_head(co_test *t, int64_t row, const double *x)
{
    const co_shape *s = &t->shape;
    const tt_weight *w = t->args.head.w;
    int32_t target = target_of(t, (int32_t)row);
    double z[1024] = {0};
    float values[1024];
    for (int32_t o = 0; o < s->vocab; o++) {
        tt_dequant_row(w->type, t->weight_bytes[0] + o * tt_row_bytes(w->type, w->cols), values,
                       w->cols);
        for (int32_t c = 0; c < s->in; c++) {
            z[o] += values[c] * x[c];
        }
    }
    return target < 0
               ? 0
               : co_sent(co_find(t, "row_weight"), row) * (f_logsumexp(z, s->vocab) - z[target]);
}

static const co_grad head_grads[] = {{"x", "dx", CO_NEVER, loss_head}, {0}};

static const co_shape head_shapes[] = {
    {.rows = 1, .vocab = 20, .in = 256, .block = 20, .types = CO_ALL_TYPES},
    {.rows = 9, .vocab = 100, .in = 256, .block = 37, .types = CO_ALL_TYPES},
    {.rows = 5, .vocab = 33, .in = 7, .block = 1, .types = CO_PLAIN},
    {.rows = 17, .vocab = 65, .in = 33, .block = 64, .types = CO_PLAIN},
    {.rows = 66, .vocab = 500, .in = 64, .block = 128, .types = CO_BIT(TT_Q8_0)},
    {.rows = 127,
     .vocab = 1024,
     .in = 576,
     .block = 1024,
     .types = CO_BIT(TT_Q8_0),
     .flags = CO_SLOW | CO_BENCH},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

const co_op co_head_ops[] = {
    {.name = "head_fwd",
     .fn = offsetof(tt_ops, head_fwd),
     .scale = 1,
     .max_nmse = 4e-5,
     .by_row = true,
     .shapes = head_shapes,
     .n_shapes = COUNT(head_shapes),
     .setup = setup_head_fwd,
     .call = call_head_fwd,
     .after = after_head_fwd,
     .formula = formula_head_fwd},
    {.name = "head_finish",
     .fn = offsetof(tt_ops, head_finish),
     .max_nmse = 1e-11,
     .by_row = true,
     .shapes = head_shapes,
     .n_shapes = COUNT(head_shapes),
     .setup = setup_head_finish,
     .call = call_head_finish,
     .formula = formula_head_finish},
    {.name = "head_bwd",
     .fn = offsetof(tt_ops, head_bwd),
     .scale = 0.1,
     .max_nmse = 4e-5,
     .by_row = true,
     .shapes = head_shapes,
     .n_shapes = COUNT(head_shapes),
     .setup = setup_head_bwd,
     .call = call_head_bwd,
     .grads = head_grads},
    {0},
};
