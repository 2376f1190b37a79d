/* test_diagnose.c - what is made of one head's scores, by numbers that can be worked out by hand.
 * Real heads are held against PyTorch in tests/golden, whole jobs in test_engine_diagnose.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/diagnose.h"
#include "fail_alloc.h"
#include "small_engine.h"

static void near(double got, double want)
{
    assert_true(fabs(got - want) < 1e-10 * fmax(1, fabs(want)));
}

static tt_head_diagnosis head(const double *z, int32_t first, int32_t n, int32_t lo, int32_t hi)
{
    tt_diagnose_params p = {.needle_start = lo, .needle_end = hi, .delta = 1, .epsilon = 0.1};
    tt_head_diagnosis h;
    tt_diagnose_scores(z, first, n, &p, &h);
    return h;
}

/* docs/qttt.md: a score of 5 against 100 distractors at 4 leaves 1 / (1 + 100 / e) = 0.026. */
static void test_one_against_a_hundred(void **state)
{
    double z[101];
    for (int i = 0; i < 101; i++) {
        z[i] = i == 60 ? 5 : 4;
    }
    tt_head_diagnosis h = head(z, 0, 101, 60, 61);
    near(h.needle_mass, 1 / (1 + 100 / exp(1)));
    near(h.sink_mass, 1 / (exp(1) + 100));
    near(h.margin, 1 - log(100));
    near(1 / (1 + exp(-h.margin)), h.needle_mass);
    near(h.gap, 1);
    near(h.required, log(100 * 9.0));
    assert_int_equal(h.near_ties, 100); /* exactly delta away counts */
    assert_int_equal(h.best, 60);
    assert_int_equal(h.n_keys, 101);
    z[60] = 5.0000001;
    assert_int_equal(head(z, 0, 101, 60, 61).near_ties, 0);
}

/* The gap that is required is enough, and no more than that. */
static void test_the_required_gap(void **state)
{
    double z[16384];
    tt_head_diagnosis h = {.required = 0};
    for (int i = 0; i < 16384; i++) {
        z[i] = -3;
    }
    h = head(z, 0, 16384, 7, 8);
    assert_true(fabs(h.required - 11.9) < 0.01); /* docs/qttt.md */
    z[7] = -3 + h.required;
    near(head(z, 0, 16384, 7, 8).needle_mass, 0.9);
    near(head(z, 0, 16384, 7, 8).gap, h.required);
}

/* The best key's own neighbours in the needle are others of its margin, not of its gap and ties. */
static void test_a_needle_of_several_tokens(void **state)
{
    const double z[] = {0, log(2), log(3), log(4), 0};
    tt_head_diagnosis h = head(z, 0, 5, 1, 4);
    near(h.needle_mass, 9.0 / 11);
    near(h.sink_mass, 1.0 / 11);
    near(h.margin, log(4.0 / 7));
    near(h.gap, log(4));
    assert_int_equal(h.best, 3);
    assert_int_equal(h.near_ties, 0);
}

static void test_windows(void **state)
{
    const double z[] = {1, 2, 3, 4};
    tt_head_diagnosis h = head(z, 10, 4, 3, 12); /* its first keys have left the window */
    assert_int_equal(h.best, 11);
    near(h.needle_mass, (exp(1) + exp(2)) / (exp(1) + exp(2) + exp(3) + exp(4)));
    near(h.gap, -2);
    assert_int_equal(h.near_ties, 2);
    assert_true(h.sink_mass == 0);
    h = head(z, 10, 4, 3, 10); /* all of them have */
    assert_int_equal(h.best, -1);
    assert_true(h.needle_mass == 0 && h.near_ties == 0 && isnan(h.margin) && isnan(h.gap));
}

static void test_extremes(void **state)
{
    const double z[] = {-800, 900, 880};
    tt_head_diagnosis h = head(z, 0, 3, 2, 3); /* no overflow, no underflow of the margin */
    near(h.margin, -20);
    near(h.needle_mass, exp(-20) / (1 + exp(-20)));
    h = head(z, 0, 1, 0, 1); /* the only key */
    assert_true(h.needle_mass == 1 && h.sink_mass == 1);
    assert_true(isinf(h.margin) && h.margin > 0 && isinf(h.gap) && h.gap > 0);
    assert_true(isinf(h.required) && h.required < 0);
    h = head(z, 0, 3, 0, 3); /* everything is needle */
    near(h.needle_mass, 1);
    near(h.margin, 20);
    assert_true(isinf(h.gap) && h.near_ties == 0);
}

/* Every allocation of a layer's heads fails once; then, as if nothing had been, it succeeds. */
static void test_no_memory(void **state)
{
    enum { N = 70 };
    small_engine e;
    int32_t ids[N], pages[2];
    tt_err err = {0};
    tt_head_diagnosis heads[4];
    tt_diagnose_params p = {.needle_start = 3, .needle_end = 5, .delta = 1, .epsilon = 0.1};
    small_open(&e, &(small_options){.kv_type = TT_BF16, .n_pages = 4, .n_threads = 1});
    small_ids(ids, N, e.model->n_vocab, 3);
    for (int i = 0; i < 2; i++) {
        pages[i] = tt_kv_take(e.kv);
    }
    tt_segment seg = {.ids = ids, .n_rows = N, .pages = pages, .store = true};
    small_run(&e, &seg, 1, &(tt_step_options){0});
    seg = (tt_segment){.ids = ids + N - 1, .n_rows = 1, .pos0 = N - 1, .pages = pages};
    assert_int_equal(tt_step_begin(e.step, &seg, 1, &(tt_step_options){0}, &err), TT_OK);
    assert_int_equal(tt_step_run(e.step, 1, &err), TT_STEP_MORE);
    assert_int_equal(e.model->n_heads, 4);
    tt_code rc;
    int n = 0;
    for (; fail_alloc_at(n), rc = tt_diagnose_layer(e.step, 0, pages, N - 1, &p, heads, &err),
                             fail_alloc_off();
         n++) {
        assert_int_equal(rc, TT_E_NOMEM);
    }
    assert_int_equal(rc, TT_OK);
    assert_true(n > 4);
    assert_int_equal(heads[3].n_keys, N);
    assert_true(heads[3].best == 3 || heads[3].best == 4);
    small_close(&e);
}

enum { N_KEYS = 70 };

/* The same heads in the smallest pieces, as where others want to decode. */
static void in_pieces(const small_engine *e, const int32_t *pages, const tt_diagnose_params *p,
                      const tt_head_diagnosis want[4])
{
    tt_head_diagnosis heads[4];
    tt_diagnose_scan *scan;
    tt_err err;
    int n = 1;
    memset(heads, 0, sizeof heads);
    assert_int_equal(tt_diagnose_begin(e->step, 0, N_KEYS - 1, &scan, &err), TT_OK);
    while (tt_diagnose_some(scan, pages, p, 0, heads, &err) == (tt_code)TT_DIAGNOSE_MORE) {
        n++;
    }
    assert_int_equal(n, 1 + 4); /* a block of keys, four heads */
    for (int h = 0; h < 4; h++) {
        assert_true(heads[h].best == want[h].best && heads[h].margin == want[h].margin &&
                    heads[h].needle_mass == want[h].needle_mass && heads[h].gap == want[h].gap);
    }
    tt_diagnose_end(&scan);
    assert_null(scan);
    assert_int_equal(tt_diagnose_begin(e->step, 0, N_KEYS - 1, &scan, &err), TT_OK);
    assert_int_equal(tt_diagnose_some(scan, pages, p, 0, heads, &err), TT_DIAGNOSE_MORE);
    tt_diagnose_end(&scan); /* in its middle */
}

/* The first layer's heads, whose queries do not depend on K; pages: as they are to be, or NULL. */
static void heads_of(small_engine *e, uint8_t *const *content, tt_head_diagnosis heads[4])
{
    int32_t ids[N_KEYS], pages[2];
    tt_err err = {0};
    tt_diagnose_params p = {.needle_start = 3, .needle_end = 5, .delta = 1, .epsilon = 0.1};
    small_ids(ids, N_KEYS, e->model->n_vocab, 3);
    for (int i = 0; i < 2; i++) {
        pages[i] = tt_kv_take(e->kv);
    }
    tt_segment seg = {.ids = ids, .n_rows = N_KEYS, .pages = pages, .store = true};
    small_run(e, &seg, 1, &(tt_step_options){0});
    for (int i = 0; content != NULL && i < 2; i++) {
        tt_kv_write_page(e->kv, pages[i], content[i]);
    }
    seg = (tt_segment){.ids = ids + N_KEYS - 1, .n_rows = 1, .pos0 = N_KEYS - 1, .pages = pages};
    assert_int_equal(tt_step_begin(e->step, &seg, 1, &(tt_step_options){0}, &err), TT_OK);
    assert_int_equal(tt_step_run(e->step, 1, &err), TT_STEP_MORE);
    assert_int_equal(tt_diagnose_layer(e->step, 0, pages, N_KEYS - 1, &p, heads, &err), TT_OK);
    in_pieces(e, pages, &p, heads);
}

/* The K of a page of TT_I8 as F32, layer after layer; V stays zero. */
static uint8_t *widened(small_engine *e, int32_t page)
{
    const tt_model *m = e->model;
    size_t n = (size_t)m->n_kv_heads * TT_PAGE_TOKENS, dim = (size_t)m->head_dim;
    uint8_t *from = malloc(tt_kv_page_bytes(m, TT_I8)),
            *to = calloc(1, tt_kv_page_bytes(m, TT_F32));
    tt_err err;
    assert_true(from != NULL && to != NULL);
    assert_int_equal(tt_kv_read_page(e->kv, page, from, &err), TT_OK);
    for (int32_t l = 0; l < m->n_layers; l++) {
        const tt_kv_layer *kv = tt_kv_layer_of(e->kv, l);
        tt_dev base = tt_kv_layer_of(e->kv, 0)->k;
        const int8_t *q = (const int8_t *)from + (kv->k - base);
        const float *scale = (const float *)(const void *)(from + (kv->k_scale - base));
        float *x = (float *)(void *)to + 2 * n * dim * (size_t)l;
        for (size_t i = 0; i < n * dim; i++) {
            x[i] = scale[i / dim] * (float)q[i];
        }
    }
    free(from);
    return to;
}

/* Scores of bytes with scales are those of the same numbers as F32. */
static void test_keys_of_one_byte(void **state)
{
    small_engine e;
    tt_head_diagnosis a[4], b[4];
    uint8_t *pages[2];
    small_open(&e, &(small_options){.kv_type = TT_I8, .n_pages = 4, .n_threads = 1});
    heads_of(&e, NULL, a);
    for (int i = 0; i < 2; i++) {
        pages[i] = widened(&e, i);
    }
    small_close(&e);
    small_open(&e, &(small_options){.kv_type = TT_F32, .n_pages = 4, .n_threads = 1});
    heads_of(&e, pages, b);
    small_close(&e);
    for (int h = 0; h < 4; h++) {
        assert_int_equal(a[h].best, b[h].best);
        assert_true(isfinite(a[h].margin));
        assert_true(a[h].margin == b[h].margin && a[h].gap == b[h].gap);
        assert_true(a[h].needle_mass == b[h].needle_mass && a[h].sink_mass == b[h].sink_mass);
    }
    free(pages[0]);
    free(pages[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_of_one_byte), cmocka_unit_test(test_one_against_a_hundred),
        cmocka_unit_test(test_the_required_gap), cmocka_unit_test(test_a_needle_of_several_tokens),
        cmocka_unit_test(test_windows),          cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
