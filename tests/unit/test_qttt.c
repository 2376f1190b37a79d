/* test_qttt.c - defaults, and the spans that a run draws: where they lie, what decides them, what
 * is never trained on. The mathematics is held against PyTorch in tests/golden, whole runs in
 * test_engine.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/qttt.h"

static int32_t ids[4000];

static tt_qttt_params defaults(void)
{
    tt_qttt_params p;
    tt_qttt_defaults(&p);
    tt_qttt_resolve(&p);
    return p;
}

static void test_defaults(void **state)
{
    tt_qttt_params p = defaults();
    assert_int_equal(p.steps, 32);
    assert_int_equal(p.span_tokens, 128);
    assert_true(p.guard && p.learning_rate == 3e-6 && p.weight_decay == 0.01f &&
                p.grad_clip == 1.0f);
    assert_true(p.beta1 == 0.9f && p.beta2 == 0.999f && p.adam_eps == 1e-8f);
    tt_qttt_defaults(&p);
    p.lora = true;
    tt_qttt_resolve(&p);
    assert_true(p.learning_rate == 3e-5 && p.rank == 8 && p.lora_alpha == 16);
    tt_qttt_defaults(&p);
    p.objective = TT_RECALL;
    p.steps = 0;
    p.weight_decay = 0;
    tt_qttt_resolve(&p);
    assert_true(p.learning_rate == 3e-5);
    assert_true(p.steps == 0 && p.weight_decay == 0); /* chosen, not missing */
    p.learning_rate = 0;
    tt_qttt_resolve(&p);
    assert_true(p.learning_rate == 0);
}

static void fill(void)
{
    for (int32_t i = 0; i < 4000; i++) {
        ids[i] = i * 31 % 97;
    }
}

static void test_spans_lie_in_the_context(void **state)
{
    fill();
    tt_qttt_params p = defaults();
    int32_t start, n, lowest = 4000, highest = 0;
    for (int32_t i = 0; i < 200; i++) {
        tt_qttt_span(&p, ids, 3000, i, &start, &n);
        assert_int_equal(n, 128);
        assert_true(start >= 0 && start + n + 1 <= 3000); /* k targets need k + 1 tokens */
        lowest = start < lowest ? start : lowest;
        highest = start > highest ? start : highest;
    }
    assert_true(lowest < 150 && highest > 2700); /* both ends are reached */
    tt_qttt_span(&p, ids, 100, 0, &start, &n);   /* a short context is one span of all of it */
    assert_int_equal(start, 0);
    assert_int_equal(n, 99);
}

static void test_seed_and_context_decide_the_spans(void **state)
{
    fill();
    tt_qttt_params p = defaults();
    int32_t a[8], b[8], n;
    for (int32_t i = 0; i < 8; i++) {
        tt_qttt_span(&p, ids, 3000, i, &a[i], &n);
        tt_qttt_span(&p, ids, 3000, i, &b[i], &n);
    }
    assert_memory_equal(a, b, sizeof a);
    p.seed = 1;
    for (int32_t i = 0; i < 8; i++) {
        tt_qttt_span(&p, ids, 3000, i, &b[i], &n);
    }
    assert_true(memcmp(a, b, sizeof a) != 0);
    p.seed = 0;
    ids[2999]++;
    for (int32_t i = 0; i < 8; i++) {
        tt_qttt_span(&p, ids, 3000, i, &b[i], &n);
    }
    assert_true(memcmp(a, b, sizeof a) != 0);
}

/* Short spans often fall into a probe segment whole: such a span is drawn again. */
static void test_a_span_always_has_a_target(void **state)
{
    fill();
    tt_qttt_params p = defaults();
    p.span_tokens = 16;
    tt_probe probe;
    tt_probe_make(&probe, tt_context_hash(ids, 1100), 1100);
    for (int32_t i = 0; i < 300; i++) {
        int32_t start, n, free_targets = 0;
        tt_qttt_span(&p, ids, 1100, i, &start, &n);
        for (int32_t j = 1; j <= n; j++) {
            free_targets += !tt_probe_masks(&probe, start + j);
        }
        assert_true(free_targets > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_spans_lie_in_the_context),
        cmocka_unit_test(test_seed_and_context_decide_the_spans),
        cmocka_unit_test(test_a_span_always_has_a_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
