/* test_golden_diagnose.c - diagnostics against PyTorch's scores on the tiny models:
 * test_golden_diagnose MODELS VECTORS ISA. Names of the vectors: README.md. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/diagnose.h"
#include "rig.h"
#include "vectors.h"

#define MAX_BYTES 1024 /* of a path */

static const char *models, *vectors, *isa;

/* The deltas that the vectors of the family hold, in the order of the folder's rows. */
static tt_adapter *delta_adapter(rig *r, const vec_file *v)
{
    tt_adapter *a = NULL;
    tt_err err = {0};
    tt_adapter_shape shape = {.kind = TT_ADAPTER_FULL, .type = TT_F32, .scale = 1};
    int64_t n = (int64_t)r->model->n_heads * r->model->head_dim * r->model->hidden;
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    assert_int_equal(tt_adapter_create(&r->d, &shape, &a, &err), TT_OK);
    for (int32_t l = 0; l < r->model->n_layers; l++) {
        vec_to_f32(vec_need(v, VEC_U16, n, "delta.%d", l), x, n);
        rig_put(r, a->layers[l].d, x, n);
    }
    free(x);
    return a;
}

/* heads [n_layers, n_heads] of the last of n question tokens behind the context. */
static void diagnose(rig *r, const int32_t *ids, int32_t n, const tt_adapter *adapter,
                     const tt_diagnose_params *p, tt_head_diagnosis *heads)
{
    tt_err err = {0};
    int32_t n_pages, *pages = rig_fork(r, n, &n_pages), pos = r->n_ids + n - 1;
    tt_segment seg = {.ids = ids,
                      .n_rows = n,
                      .pos0 = r->n_ids,
                      .pages = pages,
                      .store = true,
                      .adapter = adapter};
    rig_run(r, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
    seg = (tt_segment){
        .ids = ids + n - 1, .n_rows = 1, .pos0 = pos, .pages = pages, .adapter = adapter};
    assert_int_equal(tt_step_begin(r->step, &seg, 1, &(tt_step_options){0}, &err), TT_OK);
    for (int32_t l = 0; l < r->model->n_layers; l++) {
        assert_true(tt_step_run(r->step, 1, &err) >= 0);
        assert_int_equal(tt_diagnose_layer(r->step, l, pages, pos, p,
                                           heads + (size_t)l * (size_t)r->model->n_heads, &err),
                         TT_OK);
    }
    rig_unfork(r, &pages, n_pages);
}

static void near(const char *what, double got, double want)
{
    bool same = isnan(want) ? isnan(got) : fabs(got - want) <= 1e-4;
    if (!same) {
        fail_msg("%s: %.9g, PyTorch has %.9g", what, got, want);
    }
}

static void compare(const vec_file *v, const char *name, const tt_head_diagnosis *heads, int64_t n)
{
    char what[160];
    const int32_t *n_keys = vec_i32(v, n, "%s.n_keys", name),
                  *best = vec_i32(v, n, "%s.best", name),
                  *ties = vec_i32(v, n, "%s.near_ties", name);
    static const char *const keys[] = {"needle_mass", "sink_mass", "margin", "gap", "required"};
    for (int64_t i = 0; i < n; i++) {
        const tt_head_diagnosis *h = &heads[i];
        const double got[] = {h->needle_mass, h->sink_mass, h->margin, h->gap, h->required};
        assert_int_equal(h->n_keys, n_keys[i]);
        assert_int_equal(h->best, best[i]);
        assert_int_equal(h->near_ties, ties[i]);
        for (size_t k = 0; k < sizeof got / sizeof got[0]; k++) {
            const double *want = vec_need(v, VEC_F64, n, "%s.%s", name, keys[k])->data;
            snprintf(what, sizeof what, "%s.%s of head %d", name, keys[k], (int)i);
            near(what, got[k], want[i]);
        }
    }
}

static void run_family(const vec_file *v, const char *family)
{
    static const char *const needles[] = {"near", "far"};
    char path[MAX_BYTES], name[64];
    rig r;
    snprintf(path, sizeof path, "%s/%s", models, family);
    rig_open(&r, path, rig_table(isa), TT_F32, 64);
    snprintf(path, sizeof path, "%s/tiny_%s.ttv", vectors, family);
    vec_file *f = vec_open(path);
    assert_non_null(f);
    const vec *ids = vec_need(f, VEC_I32, -1, "ids"),
              *question = vec_need(f, VEC_I32, -1, "question");
    rig_context(&r, ids->data, (int32_t)ids->n, 100);
    tt_adapter *delta = delta_adapter(&r, f);
    int64_t n = (int64_t)r.model->n_layers * r.model->n_heads;
    tt_head_diagnosis *heads = malloc((size_t)n * sizeof *heads);
    assert_non_null(heads);
    for (int i = 0; i < 4; i++) {
        const int32_t *range = vec_i32(v, 2, "%s", needles[i / 2]);
        tt_diagnose_params p = {.needle_start = range[0],
                                .needle_end = range[1],
                                .delta = vec_f64(v, "delta"),
                                .epsilon = vec_f64(v, "epsilon")};
        diagnose(&r, question->data, (int32_t)question->n, i % 2 == 0 ? NULL : delta, &p, heads);
        snprintf(name, sizeof name, "%s.%s.%s", family, i % 2 == 0 ? "base" : "adapted",
                 needles[i / 2]);
        compare(v, name, heads, n);
    }
    free(heads);
    tt_adapter_unref(&r.d, &delta);
    rig_close(&r);
    vec_close(&f);
}

static void test_families(void **state)
{
    static const char *const families[] = {"llama", "qwen2", "qwen3", "gemma3"};
    char path[MAX_BYTES];
    snprintf(path, sizeof path, "%s/tiny_diagnose.ttv", vectors);
    vec_file *v = vec_open(path);
    assert_non_null(v);
    for (int i = 0; i < 4; i++) {
        run_family(v, families[i]);
    }
    vec_close(&v);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families)};
    if (argc != 4) {
        fprintf(stderr, "usage: test_golden_diagnose MODELS VECTORS ISA\n");
        return 2;
    }
    models = argv[1];
    vectors = argv[2];
    isa = argv[3];
    rig_table(isa);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
