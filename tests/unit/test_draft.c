/* test_draft.c - how many rows drafts get. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>

#include "core/draft.h"
#include "core/rng.h"

static void test_odds_follow_what_happens(void **state)
{
    tt_draft_odds o;
    tt_draft_odds_init(&o);
    float before = tt_draft_odds_of(&o, 3), other = tt_draft_odds_of(&o, 12);
    assert_true(before < other); /* a longer match is likelier to be right */
    for (int i = 0; i < 20; i++) {
        tt_draft_odds_learn(&o, 3, 4, 4);
    }
    assert_true(tt_draft_odds_of(&o, 3) > 0.97f);
    assert_true(tt_draft_odds_of(&o, 12) == other);
    for (int i = 0; i < 20; i++) {
        tt_draft_odds_learn(&o, 3, 0, 9); /* one wrong token each, whatever was behind it */
    }
    float after = tt_draft_odds_of(&o, 3);
    assert_true(after < 0.1f && after > 0.05f);
    tt_draft_odds_learn(&o, 3, 0, 0);
    assert_true(tt_draft_odds_of(&o, 3) == after);
}

static double learned_row(double base, double row, double noise, bool stopped)
{
    tt_step_cost c = {0};
    tt_rng rng = tt_rng_make(3, 1);
    for (int i = 0; i < 200; i++) {
        int32_t n = 1 + (int32_t)tt_rng_below(&rng, 8);
        tt_step_cost_add(&c, n, (base + row * n) * (1 + noise * (tt_rng_uniform(&rng) - 0.5)));
    }
    if (stopped) { /* the process was, for a while */
        tt_step_cost_add(&c, 3, 1000);
    }
    return tt_step_cost_row(&c);
}

static void test_cost_of_a_row(void **state)
{
    tt_step_cost none = {0}, same = {0};
    assert_true(fabs(tt_step_cost_row(&none) - 0.35) < 1e-9);
    for (int i = 0; i < 100; i++) {
        tt_step_cost_add(&same, 5, 0.01); /* says nothing of what a row costs */
    }
    assert_true(fabs(tt_step_cost_row(&same) - 0.35) < 1e-6);
    tt_step_cost_add(&same, 9, 0.014); /* once more rows, and a row is a tenth of a step */
    for (int i = 0; i < 300; i++) {
        tt_step_cost_add(&same, 1, 0.006); /* it is remembered */
    }
    assert_true(fabs(tt_step_cost_row(&same) - 1.0 / 6) < 0.05);
    assert_true(fabs(learned_row(0.009, 0.001, 0, false) - 0.1) < 0.02);
    assert_true(fabs(learned_row(0.006, 0.004, 0, false) - 0.4) < 0.03);
    assert_true(fabs(learned_row(0.009, 0.001, 0.1, false) - 0.1) < 0.05);
    assert_true(fabs(learned_row(0.009, 0.001, 0, true) - 0.1) < 0.07);
    assert_true(learned_row(0.01, 0, 0, false) == 0.03);
    assert_true(learned_row(0, 0.01, 0, false) == 0.75);
}

static void test_one_stream(void **state)
{
    tt_draft_wish w = {.odds = 0.98f, .n_most = 15};
    tt_draft_share(&w, 1, 0.1);
    assert_int_equal(w.n, 15);
    w.n_most = 6;
    tt_draft_share(&w, 1, 0.1);
    assert_int_equal(w.n, 6);
    w = (tt_draft_wish){.odds = 0.6f, .n_most = 15};
    tt_draft_share(&w, 1, 0.1);
    assert_in_range(w.n, 2, 6);
    int32_t cheap = w.n;
    tt_draft_share(&w, 1, 0.3); /* the dearer a row, the fewer */
    assert_in_range(w.n, 1, cheap - 1);
    w.odds = 0.3f;
    tt_draft_share(&w, 1, 0.3);
    assert_int_equal(w.n, 0);
    w = (tt_draft_wish){.odds = 0, .n_most = 0};
    tt_draft_share(&w, 1, 0.03);
    assert_int_equal(w.n, 0);
}

static double speed(const tt_draft_wish *w, int32_t n, int32_t i, double row)
{
    double tokens = 1, p = 1, step = 1 - row;
    for (int32_t j = 0; j < n; j++) {
        step += row * (1 + w[j].n);
    }
    for (int32_t j = 0; j < w[i].n; j++) {
        p *= w[i].odds;
        tokens += p;
    }
    return tokens / step;
}

/* Whatever the others are likely to gain, nobody falls behind by more than a fifth; all rows
 * together are bounded; the step yields no less than without drafts. */
static void test_streams_in_company(void **state)
{
    tt_rng rng = tt_rng_make(9, 2);
    int32_t n_drafted = 0;
    for (int i = 0; i < 3000; i++) {
        int32_t n = 1 + (int32_t)tt_rng_below(&rng, 20), rows = n;
        double row = 0.03 + 0.57 * tt_rng_uniform(&rng), with = 0;
        tt_draft_wish w[20];
        for (int32_t j = 0; j < n; j++) {
            w[j] = (tt_draft_wish){.odds = (float)tt_rng_uniform(&rng),
                                   .n_most = (int32_t)tt_rng_below(&rng, 16)};
        }
        tt_draft_share(w, n, row);
        double alone = 1 / (1 + row * (n - 1));
        for (int32_t j = 0; j < n; j++) {
            assert_in_range(w[j].n, 0, w[j].n_most);
            rows += w[j].n;
            n_drafted += w[j].n;
            with += speed(w, n, j, row);
            assert_true(speed(w, n, j, row) >= 0.8 * alone - 1e-9);
        }
        assert_true(rows <= (n > TT_DRAFT_ROWS ? n : TT_DRAFT_ROWS));
        assert_true(with >= n * alone - 1e-9);
    }
    assert_true(n_drafted > 1000);
}

static void test_equals_get_the_same(void **state)
{
    tt_draft_wish w[2] = {{.odds = 0.97f, .n_most = 15}, {.odds = 0.97f, .n_most = 15}};
    tt_draft_share(w, 2, 0.1);
    assert_int_equal(w[0].n, 7);
    assert_int_equal(w[1].n, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_odds_follow_what_happens),
        cmocka_unit_test(test_cost_of_a_row),
        cmocka_unit_test(test_one_stream),
        cmocka_unit_test(test_streams_in_company),
        cmocka_unit_test(test_equals_get_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
