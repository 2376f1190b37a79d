/* test_probe.c - where the recall probe looks, what it masks, the guard's arithmetic, private pages
 * of re-read passages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/probe.h"

static void test_one_segment_in_each_tenth(void **state)
{
    for (int32_t n = TT_PROBE_MIN_CONTEXT; n < 9000; n += 997) {
        tt_probe p;
        tt_probe_make(&p, 1234567u * (uint64_t)n, n);
        assert_true(p.exists);
        for (int32_t i = 0; i < TT_PROBE_SEGMENTS; i++) {
            assert_true(p.start[i] >= (int64_t)n * i / TT_PROBE_SEGMENTS);
            assert_true(p.start[i] + TT_PASSAGE_TOKENS <= (int64_t)n * (i + 1) / TT_PROBE_SEGMENTS);
            assert_false(tt_probe_masks(&p, p.start[i] - 1) && i == 0);
            assert_true(tt_probe_masks(&p, p.start[i]));
            assert_true(tt_probe_masks(&p, p.start[i] + TT_PASSAGE_TOKENS - 1));
        }
    }
    tt_probe a, b;
    tt_probe_make(&a, 1, 4000);
    tt_probe_make(&b, 1, 4000);
    assert_memory_equal(a.start, b.start, sizeof a.start);
    tt_probe_make(&b, 2, 4000);
    assert_true(memcmp(a.start, b.start, sizeof a.start) != 0);
    tt_probe_make(&a, 1, TT_PROBE_MIN_CONTEXT - 1);
    assert_false(a.exists);
    assert_false(tt_probe_masks(&a, 0));
}

static void test_guard_arithmetic(void **state)
{
    double before[10] = {0}, after[10] = {-1, -2, -3, -4, -5, -6, -7, -8, -9, -10}, mean, se;
    tt_probe_compare(before, after, &mean, &se);
    assert_true(fabs(mean - -5.5) < 1e-12);
    assert_true(fabs(se - 0.9574271077563381) <
                1e-12); /* sd of 1..10 with n - 1 is 3.0276503540974917; / sqrt(10) */
}

static void test_passages_have_private_tails(void **state)
{
    tt_model model = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 4};
    tt_device d = {.model = &model};
    tt_err err;
    tt_kv_pool *kv;
    tt_ops_get(&d.ops, 0);
    assert_int_equal(d.ops.lane_create(&d.ops, &(tt_lane_options){.n_threads = 1}, &d.lane, &err),
                     TT_OK);
    assert_int_equal(tt_kv_create(&d, &(tt_kv_options){TT_F32, 10}, &kv, &err), TT_OK);
    int32_t context[3], ids[160];
    for (int i = 0; i < 3; i++) {
        context[i] = tt_kv_take(kv);
    }
    for (int i = 0; i < 160; i++) {
        ids[i] = i;
    }
    float page[2 * 64 * 4];
    memset(page, 0, sizeof page);
    page[17] = 4.25f;
    tt_kv_write_page(kv, context[2], page);
    tt_reread r;
    assert_int_equal(tt_reread_init(&r, kv, context, 150, 3, &err),
                     TT_OK); /* 22 + 47 rows: two private pages each */
    assert_int_equal(tt_kv_get_stats(kv).used, 9);
    tt_segment seg;
    assert_int_equal(tt_reread_segment(&r, 1, ids, 100, NULL, NULL, &seg), 32);
    assert_int_equal(seg.pos0, 150);
    assert_int_equal(seg.n_rows, 47);
    assert_int_equal(seg.pages[1], context[1]);
    assert_true(seg.pages[2] != context[2] && seg.pages[3] != seg.pages[2]);
    assert_int_equal(seg.targets[14], -1);
    assert_int_equal(seg.targets[15], 116);
    assert_int_equal(seg.targets[46], 147);
    memset(page, 0xFF, sizeof page);
    assert_int_equal(tt_kv_read_page(kv, seg.pages[2], page, &err), TT_OK);
    assert_true(page[17] == 4.25f);
    tt_reread_finish(&r);
    assert_int_equal(tt_kv_get_stats(kv).used, 3);
    assert_int_equal(tt_reread_init(&r, kv, context, 150, 4, &err), TT_E_CAPACITY);
    assert_int_equal(tt_kv_get_stats(kv).used, 3); /* nothing is lost when it fails half way */
    tt_kv_destroy(&kv);
    d.ops.lane_destroy(&d.lane);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_segment_in_each_tenth),
        cmocka_unit_test(test_guard_arithmetic),
        cmocka_unit_test(test_passages_have_private_tails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
