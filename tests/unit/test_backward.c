/* test_backward.c - the gradient of a training step (core/forward.h) against finite differences of
 * the loss, for every architecture and both kinds of adapter; which layers and rows it takes part
 * in. The context's K/V stay as they are while the adapter moves: that is qTTT's definition, and
 * what the differences are taken over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "small_engine.h"

enum { CONTEXT = 100, SPAN = 24, START = 55, RANK = 3 };

static const int32_t pages[2] = {3, 1};
static int32_t ids[CONTEXT], targets[SPAN];

typedef struct fixture {
    small_engine e;
    tt_adapter *a, *g;
    int64_t n[2]; /* elements of D, or of A and B, of a layer */
    float *x;     /* [n[0] + n[1]] scratch */
} fixture;

/* A layer's tensors in one run of floats. */
static void put_layer(fixture *f, const tt_adapter *a, int32_t layer, const float *x)
{
    const tt_adapter_layer *l = &a->layers[layer];
    small_put(&f->e, l->kind == TT_ADAPTER_FULL ? l->d : l->a, x, (size_t)f->n[0] * sizeof *x);
    if (f->n[1] > 0) {
        small_put(&f->e, l->b, x + f->n[0], (size_t)f->n[1] * sizeof *x);
    }
}

static void get_layer(fixture *f, const tt_adapter *a, int32_t layer, float *x)
{
    const tt_adapter_layer *l = &a->layers[layer];
    small_get(&f->e, x, l->kind == TT_ADAPTER_FULL ? l->d : l->a, (size_t)f->n[0] * sizeof *x);
    if (f->n[1] > 0) {
        small_get(&f->e, x + f->n[0], l->b, (size_t)f->n[1] * sizeof *x);
    }
}

static float *new_layer(const fixture *f)
{
    float *x = calloc((size_t)(f->n[0] + f->n[1]), sizeof *x);
    assert_non_null(x);
    return x;
}

/* layers: bit set of the adapted ones, 0 = all. */
static void open_fixture(fixture *f, const char *arch, unsigned isa, bool lora, uint8_t layers)
{
    uint8_t set[32] = {layers};
    tt_err err;
    small_options o = {.shape = {.arch = arch, .layers = 3},
                       .isa_mask = isa,
                       .kv_type = TT_F32,
                       .n_pages = 4,
                       .n_threads = 1};
    *f = (fixture){0};
    small_open(&f->e, &o);
    small_ids(ids, CONTEXT, f->e.model->n_vocab, 17);
    memcpy(targets, ids + START + 1, sizeof targets);
    targets[2] = targets[SPAN - 1] = -1;
    tt_segment context = {.ids = ids, .n_rows = CONTEXT, .pages = pages, .store = true};
    small_run(&f->e, &context, 1, &(tt_step_options){.family = TT_PREFILL});
    tt_adapter_shape shape = {.kind = lora ? TT_ADAPTER_LORA : TT_ADAPTER_FULL,
                              .type = TT_F32,
                              .rank = lora ? RANK : 0,
                              .scale = 1.5f,
                              .layers = set};
    tt_adapter_sizes(f->e.model, shape.kind, shape.rank, f->n);
    assert_int_equal(tt_adapter_create(&f->e.d, &shape, &f->a, &err), TT_OK);
    assert_int_equal(tt_adapter_create(&f->e.d, &shape, &f->g, &err), TT_OK);
    f->x = new_layer(f);
    for (int32_t l = 0; l < f->a->n_layers; l++) {
        if (tt_adapter_has(f->a, l)) {
            small_noise(f->x, f->n[0] + f->n[1], lora ? 0.2f : 0.05f, 30 + (uint64_t)l);
            put_layer(f, f->a, l, f->x);
            for (int64_t i = 0; i < f->n[0] + f->n[1]; i++) {
                f->x[i] = NAN; /* the gradient is overwritten, whatever was there */
            }
            put_layer(f, f->g, l, f->x);
        }
    }
}

static void close_fixture(fixture *f)
{
    tt_adapter_unref(&f->e.d, &f->a);
    tt_adapter_unref(&f->e.d, &f->g);
    free(f->x);
    small_close(&f->e);
}

static tt_segment span(const fixture *f)
{
    return (tt_segment){.ids = ids + START,
                        .n_rows = SPAN,
                        .pos0 = START,
                        .pages = pages,
                        .adapter = f->a,
                        .want = TT_WANT_LOSS,
                        .targets = targets};
}

/* The mean loss of the span's targets under the adapter as it is, without a backward pass. */
static double mean_loss(fixture *f)
{
    tt_segment s = span(f);
    double sum = 0;
    int n = 0;
    small_run(&f->e, &s, 1, &(tt_step_options){.family = TT_PREFILL});
    for (int32_t i = 0; i < SPAN; i++) {
        sum += tt_step_losses(f->e.step)[i];
        n += targets[i] >= 0;
    }
    return sum / n;
}

static void train(fixture *f, const tt_segment *segs, int32_t n)
{
    small_run(&f->e, segs, n, &(tt_step_options){.trainee = f->a, .grads = f->g});
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

/* The loss's slope along `u` [n] in one layer, by central differences. */
static double slope(fixture *f, int32_t layer, const float *u, float h)
{
    int64_t n = f->n[0] + f->n[1];
    float *at = new_layer(f);
    double loss[2];
    get_layer(f, f->a, layer, at);
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < n; i++) {
            f->x[i] = at[i] + (k == 0 ? h : -h) * u[i];
        }
        put_layer(f, f->a, layer, f->x);
        loss[k] = mean_loss(f);
    }
    put_layer(f, f->a, layer, at);
    free(at);
    return (loss[0] - loss[1]) / (2 * (double)h);
}

/* Along the gradient itself, where a wrong length or a missing part shows most, and along random
 * directions, within A and within B alone too. */
static void check_differences(const char *arch, bool lora)
{
    fixture f;
    open_fixture(&f, arch, 0, lora, 0);
    int64_t n = f.n[0] + f.n[1];
    float *g = new_layer(&f), *u = new_layer(&f);
    tt_segment s = span(&f);
    train(&f, &s, 1);
    for (int32_t l = 0; l < f.e.model->n_layers; l++) {
        get_layer(&f, f.g, l, g);
        double length = sqrt(dot(g, g, n));
        assert_true(length > 1e-3);
        for (int k = 0; k < 4; k++) {
            small_noise(u, n, 1, 100 + (uint64_t)(10 * l + k));
            memcpy(u, k == 0 ? g : u, (size_t)n * sizeof *u);
            if (lora && k > 1) {
                memset(k == 2 ? u : u + f.n[0], 0, (size_t)(k == 2 ? f.n[0] : f.n[1]) * sizeof *u);
            }
            double unit = sqrt(dot(u, u, n));
            for (int64_t i = 0; i < n; i++) {
                u[i] /= (float)unit;
            }
            double want = slope(&f, l, u, 4e-3f), got = dot(g, u, n);
            assert_true(fabs(got - want) < 3e-3 * length + 2e-5);
        }
    }
    free(g);
    free(u);
    close_fixture(&f);
}

static void test_finite_differences(void **state)
{
    static const char *const archs[] = {"llama", "qwen2", "qwen3", "gemma3"};
    for (int i = 0; i < 4; i++) {
        check_differences(archs[i], false);
        check_differences(archs[i], true);
    }
}

/* Only layer 1 of 3 is trained: its gradient is that of a trainee of all layers whose other deltas
 * are 0, and nothing below it runs. */
static void test_layers_below_the_lowest_are_left_alone(void **state)
{
    fixture all, one;
    open_fixture(&all, "qwen3", TT_ISA_ALL, false, 0);
    open_fixture(&one, "qwen3", TT_ISA_ALL, false, 1 << 1);
    int64_t n = all.n[0];
    float *d = new_layer(&all), *g = new_layer(&all), *zero = new_layer(&all);
    get_layer(&one, one.a, 1, d);
    put_layer(&all, all.a, 0, zero);
    put_layer(&all, all.a, 1, d);
    put_layer(&all, all.a, 2, zero);
    tt_segment s = span(&all), t = span(&one);
    train(&all, &s, 1);
    train(&one, &t, 1);
    get_layer(&all, all.g, 1, d);
    get_layer(&one, one.g, 1, g);
    assert_true(dot(d, d, n) > 0);
    assert_memory_equal(d, g, (size_t)n * sizeof *d);
    assert_int_equal(tt_step_units(all.e.step, NULL), 3 + 1 + 1 + 3);
    assert_int_equal(tt_step_units(one.e.step, NULL), 3 + 1 + 1 + 2);
    free(d);
    free(g);
    free(zero);
    close_fixture(&all);
    close_fixture(&one);
}

/* L is the mean over the targets of the step, not of its segments. */
static void test_two_spans_make_the_mean_of_their_targets(void **state)
{
    fixture f;
    open_fixture(&f, "llama", 0, false, 0);
    int64_t n = f.n[0];
    float *g[3] = {new_layer(&f), new_layer(&f), new_layer(&f)};
    tt_segment two[2] = {span(&f), span(&f)};
    two[1].ids = ids;
    two[1].pos0 = 0;
    two[1].n_rows = 6;
    two[1].targets = ids + 1;
    for (int i = 0; i < 3; i++) {
        train(&f, i < 2 ? &two[i] : two, i < 2 ? 1 : 2);
        get_layer(&f, f.g, 0, g[i]);
    }
    double n0 = SPAN - 2, n1 = 6;
    for (int64_t i = 0; i < n; i++) {
        double want = (n0 * (double)g[0][i] + n1 * (double)g[1][i]) / (n0 + n1);
        assert_true(fabs((double)g[2][i] - want) < 1e-6);
    }
    for (int i = 0; i < 3; i++) {
        free(g[i]);
    }
    close_fixture(&f);
}

static void test_pieces_do_not_show(void **state)
{
    fixture f;
    tt_err err;
    open_fixture(&f, "gemma3", TT_ISA_ALL, true, 0);
    int64_t n = f.n[0] + f.n[1];
    float *whole = new_layer(&f), *cut = new_layer(&f);
    tt_segment s = span(&f);
    for (int32_t l = 0; l < 3; l++) {
        train(&f, &s, 1);
        get_layer(&f, f.g, l, whole);
        assert_int_equal(
            tt_step_begin(f.e.step, &s, 1, &(tt_step_options){.trainee = f.a, .grads = f.g}, &err),
            TT_OK);
        int calls = 1;
        while (tt_step_run(f.e.step, 1 + l, &err) == (tt_code)TT_STEP_MORE) {
            calls++;
        }
        assert_int_equal(calls, (3 + 1 + 1 + 3 + l) / (1 + l));
        get_layer(&f, f.g, l, cut);
        assert_memory_equal(cut, whole, (size_t)n * sizeof *cut);
    }
    free(whole);
    free(cut);
    close_fixture(&f);
}

static void test_without_targets_nothing_pulls(void **state)
{
    fixture f;
    open_fixture(&f, "qwen2", TT_ISA_ALL, false, 0);
    for (int i = 0; i < SPAN; i++) {
        targets[i] = -1;
    }
    tt_segment s = span(&f);
    train(&f, &s, 1);
    for (int32_t i = 0; i < SPAN; i++) {
        assert_true(tt_step_losses(f.e.step)[i] == 0);
    }
    for (int32_t l = 0; l < 3; l++) {
        get_layer(&f, f.g, l, f.x);
        for (int64_t i = 0; i < f.n[0]; i++) {
            assert_true(f.x[i] == 0);
        }
    }
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_layers_below_the_lowest_are_left_alone),
        cmocka_unit_test(test_two_spans_make_the_mean_of_their_targets),
        cmocka_unit_test(test_pieces_do_not_show),
        cmocka_unit_test(test_without_targets_nothing_pulls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
