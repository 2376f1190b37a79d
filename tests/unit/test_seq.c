/* test_seq.c - a sequence and its pages: what reserving takes, what appending and matching make of
 * it, failures that change nothing. What the cache finds for whom is test_kv.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/rng.h"
#include "core/seq.h"
#include "fail_alloc.h"

enum { N_PAGES = 40, MAX = N_PAGES * TT_PAGE_TOKENS };

static tt_model model = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 2};
static tt_device d;
static tt_kv_pool *kv;
static int32_t ids[MAX];

static int set_up(void **state)
{
    tt_err err;
    d.model = &model;
    tt_ops_get(&d.ops, 0);
    assert_int_equal(d.ops.lane_create(&d.ops, &(tt_lane_options){.n_threads = 1}, &d.lane, &err),
                     TT_OK);
    assert_int_equal(tt_kv_create(&d, &(tt_kv_options){TT_F32, N_PAGES}, &kv, &err), TT_OK);
    for (int32_t i = 0; i < MAX; i++) {
        ids[i] = i * 7 % 1000;
    }
    return 0;
}

static int tear_down(void **state)
{
    assert_int_equal(tt_kv_get_stats(kv).used, 0); /* every test gave its pages back */
    tt_kv_destroy(&kv);
    d.ops.lane_destroy(&d.lane);
    return 0;
}

static tt_seq fresh(void)
{
    tt_seq s;
    tt_seq_init(&s, kv, "t");
    return s;
}

static void extend(tt_seq *s, int32_t n, bool decoded, bool publish)
{
    tt_err err;
    assert_int_equal(tt_seq_reserve(s, n, &err), TT_OK);
    tt_seq_append(s, ids + s->n, n, decoded, publish);
}

static void test_pages_are_taken_as_they_are_needed(void **state)
{
    tt_seq s = fresh();
    static const int32_t steps[] = {1, 62, 1, 1, 63, 64, 65, 0, 100};
    int32_t n = 0;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        tt_err err;
        int32_t had = s.n_pages, need = (n + steps[i] + 63) / 64 - had;
        assert_int_equal(tt_seq_need(&s, steps[i]), need > 0 ? need : 0);
        assert_int_equal(tt_seq_reserve(&s, steps[i], &err), TT_OK);
        assert_int_equal(s.n, n); /* reserved is not appended */
        assert_int_equal(s.n_pages, (n + steps[i] + 63) / 64);
        assert_int_equal(tt_seq_reserve(&s, steps[i], &err), TT_OK); /* twice is once */
        assert_int_equal(s.n_pages, (n + steps[i] + 63) / 64);
        tt_seq_append(&s, ids + n, steps[i], false, false);
        n += steps[i];
        assert_int_equal(s.n, n);
        assert_memory_equal(s.ids, ids, (size_t)n * sizeof *ids);
        assert_int_equal(tt_kv_get_stats(kv).used, s.n_pages);
        for (int32_t a = 0; a < s.n_pages; a++) { /* no page twice */
            for (int32_t b = 0; b < a; b++) {
                assert_int_not_equal(s.pages[a], s.pages[b]);
            }
        }
    }
    tt_seq_finish(&s);
    assert_true(s.pages == NULL && s.ids == NULL && s.n == 0);
    tt_seq_finish(&s);
    assert_int_equal(tt_kv_get_stats(kv).cached, 0); /* nothing was published */
}

static void test_full_pages_are_published(void **state)
{
    tt_seq s = fresh();
    extend(&s, 63, false, true);
    assert_int_equal(s.n_published, 0);
    extend(&s, 1, false, true);
    assert_int_equal(s.n_published, 1);
    uint64_t key = s.key;
    extend(&s, 200, true, false); /* generated, and not to be found */
    assert_true(s.n_published == 1 && s.key == key);
    extend(&s, 1, false, true); /* until all of it may be */
    assert_int_equal(s.n_published, 265 / 64);
    for (int32_t i = 0; i < s.n; i++) {
        assert_int_equal(s.decoded[i], i >= 64 && i < 264);
    }
    tt_seq_finish(&s);
    assert_int_equal(tt_kv_get_stats(kv).cached, 4);
}

static void test_a_match_goes_on_where_the_sequence_is(void **state)
{
    tt_seq a = fresh(), b = fresh();
    tt_err err;
    int32_t n = -1;
    extend(&a, 5 * 64 + 10, false, true);
    extend(&b, 64 + 20, false, false); /* its own copy of the first pages, the second one partial */
    int32_t mine = b.pages[1];
    assert_int_equal(tt_seq_match(&b, ids, NULL, MAX, &n, &err), TT_OK);
    assert_int_equal(n, 64 + 20); /* full pages that nobody knows have no successors */
    assert_int_equal(b.pages[1], mine);
    tt_seq_finish(&b);

    b = fresh();
    extend(&b, 20, false, false); /* a private page that is not full makes way */
    assert_int_equal(tt_seq_match(&b, ids, NULL, 4 * 64 + 63, &n, &err), TT_OK);
    assert_true(n == 4 * 64 && b.n == n && b.n_pages == 4 && b.n_published == 4);
    assert_memory_equal(b.pages, a.pages, 4 * sizeof *b.pages);
    assert_memory_equal(b.ids, ids, (size_t)n * sizeof *ids);
    assert_int_equal(tt_kv_get_stats(kv).used, 6);
    assert_int_equal(tt_seq_match(&b, ids, NULL, MAX, &n, &err), TT_OK); /* further, later */
    assert_int_equal(n, 5 * 64);
    assert_int_equal(tt_seq_match(&b, ids, NULL, 64, &n, &err), TT_OK); /* it only ever grows */
    assert_int_equal(n, 5 * 64);
    assert_int_equal(tt_seq_cached(kv, "t", 0, 0, ids, NULL, MAX), 5 * 64);
    assert_int_equal(tt_seq_shared(kv, "t", 0, 0, ids, NULL, MAX), 5 * 64);
    assert_int_equal(tt_seq_shared(kv, "t", 0, 0, ids, NULL, 100), 64);
    tt_seq_finish(&a);
    tt_seq_finish(&b);
    assert_int_equal(tt_seq_cached(kv, "t", 0, 0, ids, NULL, MAX), 5 * 64);
    assert_int_equal(tt_seq_shared(kv, "t", 0, 0, ids, NULL, MAX), 0); /* nobody's any more */
    assert_int_equal(tt_seq_cached(kv, "u", 0, 0, ids, NULL, MAX), 0);
}

static void test_no_room_in_the_pool(void **state)
{
    tt_seq a = fresh(), b = fresh();
    tt_err err;
    extend(&a, 64 * (N_PAGES - 3) - 5, false, false);
    extend(&b, 65, false, false);
    assert_int_equal(tt_seq_need(&b, 128), 2);
    assert_int_equal(tt_seq_reserve(&b, 128, &err), TT_E_CAPACITY); /* one is left */
    assert_true(b.n == 65 && b.n_pages == 2);
    assert_memory_equal(b.ids, ids, 65 * sizeof *ids);
    assert_int_equal(tt_kv_get_stats(kv).used, N_PAGES - 1);
    extend(&b, 127, false, false);
    tt_seq_finish(&a);
    tt_seq_finish(&b);
}

/* Lists grow at 1,024 entries: every allocation on the way fails once and changes nothing. */
static void test_no_memory(void **state)
{
    for (int n = 0;; n++) {
        tt_seq s = fresh();
        tt_err err = {0};
        tt_code rc = TT_OK;
        fail_alloc_at(n);
        while (rc == TT_OK && s.n < MAX - 100) {
            int32_t before = s.n, pages = s.n_pages;
            rc = tt_seq_reserve(&s, 90, &err);
            if (rc == TT_OK) {
                tt_seq_append(&s, ids + s.n, 90, false, true);
            } else {
                assert_true(s.n == before && s.n_pages == pages);
                assert_int_equal(err.code, TT_E_NOMEM);
            }
        }
        bool refused = fail_alloc_off();
        assert_int_equal(rc, refused ? TT_E_NOMEM : TT_OK);
        assert_true(s.n == 0 || memcmp(s.ids, ids, (size_t)s.n * sizeof *ids) == 0);
        tt_seq_finish(&s);
        tt_kv_drop_cached(kv);
        if (!refused) {
            assert_true(n >= 4); /* ids, decoded and pages once, tokens at least once more */
            break;
        }
    }
    tt_seq s = fresh(), t = fresh();
    tt_err err;
    int32_t found = -1;
    extend(&s, 10 * 64, false, true);
    for (int n = 0; n < 3; n++) {
        fail_alloc_at(n);
        tt_code rc = tt_seq_match(&t, ids, NULL, MAX, &found, &err);
        assert_true(fail_alloc_off());
        assert_int_equal(rc, TT_E_NOMEM);
        assert_true(t.n == 0 && t.n_pages == 0);
        tt_seq_finish(&t);
        t = fresh();
    }
    tt_seq_finish(&t);
    tt_seq_finish(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pages_are_taken_as_they_are_needed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_pages_are_published, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_match_goes_on_where_the_sequence_is, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_no_room_in_the_pool, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_memory, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
