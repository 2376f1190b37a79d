/* gradients.c - the reference's backward ops against finite differences of the formulas. Thread:
 * one.
 *
 * The formulas are in double, so differences of fourth order (five points) are good to some 1e-9 of
 * the derivative and what remains is the rounding of the op's f32 inputs and outputs. */
#include "tests/checkops/driver.h"

#include <math.h>
#include <stdlib.h>

#define MAX_POINTS 16    /* elements that are tried of one buffer */
#define MAX_ERROR 1e-5   /* of the derivative and the buffer's deviation together */
#define MAX_ROW_WORK 2e7 /* multiplications of one loss that are worth trying */

static double derivative(co_test *t, const co_grad *g, int64_t row, double *x, int64_t i)
{
    double x0 = x[i], h = 1e-3 * (fabs(x0) + 0.1), f[4];
    static const double at[] = {-2, -1, 1, 2};
    for (int k = 0; k < 4; k++) {
        x[i] = x0 + at[k] * h;
        f[k] = g->loss(t, row, x);
    }
    x[i] = x0;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
}

static bool added(const co_test *t, const co_grad *g)
{
    return g->adds == CO_ALWAYS || (g->adds == CO_WITH_FLAG && (t->shape.flags & CO_ACCUMULATE));
}

static double deviation(const co_buf *b, bool minus_sent)
{
    int64_t n = b->rows == 0 ? b->len : b->rows * b->len;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = co_got(b, i) - (minus_sent ? co_sent(b, i) : 0);
        sum += v * v / (double)n;
    }
    return sqrt(sum);
}

static void check_grad(co_test *t, const co_grad *g)
{
    const co_buf *in = co_find(t, g->input), *out = co_find(t, g->output);
    int64_t n = in->rows == 0 ? in->len : in->rows * in->len;
    bool minus_sent = added(t, g);
    double rms = deviation(out, minus_sent), *x = malloc((size_t)in->len * sizeof *x);
    if (x == NULL) {
        exit(2);
    }
    for (int k = 0; k < MAX_POINTS && k < n && !t->failed; k++) {
        int64_t i = k == 0 ? 0 : k == 1 ? n - 1 : co_below(&t->rng, (int32_t)n);
        int64_t row = i / in->len;
        for (int64_t c = 0; c < in->len; c++) {
            /* An output that stands for its input starts as NaN: any point does for what is linear.
             */
            double v = co_sent(in, row * in->len + c);
            x[c] = isnan(v) ? 0.25 : v;
        }
        double want = derivative(t, g, row, x, i % in->len);
        double got = co_got(out, i) - (minus_sent ? co_sent(out, i) : 0);
        if (!(fabs(got - want) <=
              MAX_ERROR * (rms + fabs(want)) + 1e-7 * (minus_sent ? fabs(co_sent(out, i)) : 0))) {
            co_fail(t, "%s[%ld] is %.9g, the difference quotient of %s gives %.9g", g->output,
                    (long)i, got, g->input, want);
        }
    }
    free(x);
}

static double work_of(const co_shape *s)
{
    double most = s->n_segs == 0 ? 1 : s->ctx[0] + s->rows;
    double attention = (double)s->heads * s->dim * most;
    double matrix = (double)s->in * (s->vocab + s->out[0] + s->out[1] + s->out[2]);
    return attention + matrix * (s->vocab == 0 ? s->rows : 1);
}

static void check_op(const co_op *op, const tt_ops *ref, uint64_t seed, int *n_passed,
                     int *n_failed)
{
    co_shape s;
    for (int32_t n = 0; co_instance(op, n, &s) != NULL; n++) {
        if ((s.flags & CO_SLOW) || work_of(&s) > MAX_ROW_WORK) {
            continue;
        }
        co_setting set = {.ops = ref, .n_threads = 2, .seed = seed + (uint64_t)n};
        co_test *t = co_test_create(op, &s, &set);
        if (t == NULL) {
            exit(2);
        }
        co_note_running(t);
        co_test_run(t);
        for (const co_grad *g = op->grads; g->input != NULL; g++) {
            if (co_has(t, g->input) && co_has(t, g->output)) {
                check_grad(t, g);
            }
        }
        *n_failed += t->failed;
        *n_passed += !t->failed;
        co_test_destroy(&t);
    }
}

int co_check_gradients(const char *function, uint64_t seed, int *n_passed)
{
    tt_ops ref;
    int n_failed = 0;
    tt_ops_get(&ref, 0);
    for (int i = 0; co_op_at(i) != NULL; i++) {
        const co_op *op = co_op_at(i);
        if (op->grads == NULL || (function != NULL && strcmp(function, op->name) != 0)) {
            continue;
        }
        int before = *n_passed;
        check_op(op, &ref, seed, n_passed, &n_failed);
        printf("%-14s ref         %4d shapes against finite differences\n", op->name,
               *n_passed - before);
    }
    return n_failed;
}
