/* test_lookup.c - the index of drafts against a search through the whole text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/lookup.h"
#include "core/rng.h"

/* Tokens before `at` that are those before n, MAX at most. */
static int32_t agreement(const int32_t *ids, int32_t n, int32_t at)
{
    int32_t k = 0;
    while (k < at && k < TT_LOOKUP_MAX && ids[at - 1 - k] == ids[n - 1 - k]) {
        k++;
    }
    return k;
}

/* The longest match and the latest place that has it; 0: none of three tokens. */
static int32_t search(const int32_t *ids, int32_t n, int32_t *ret_at)
{
    int32_t best = 0;
    for (int32_t at = n - 1; at >= TT_LOOKUP_MIN; at--) {
        int32_t k = agreement(ids, n, at);
        if (k >= TT_LOOKUP_MIN && k > best) {
            best = k;
            *ret_at = at;
        }
    }
    return best;
}

/* Few enough occurrences that the chains show all of them. */
static void test_longest_then_latest(void **state)
{
    enum { N = 700 };
    int32_t ids[N], n_found = 0;
    tt_rng rng = tt_rng_make(11, 5);
    for (int32_t i = 0; i < N; i++) { /* noise with copies of what came before */
        int32_t from = i > 40 ? (int32_t)tt_rng_below(&rng, (uint64_t)i - 30) : 0;
        ids[i] = (int32_t)tt_rng_below(&rng, 50);
        for (int32_t j = 0; i > 40 && j < 12 && i + 1 < N && tt_rng_below(&rng, 10) > 0; j++) {
            ids[i + 1] = ids[from + j];
            i++;
        }
    }
    tt_lookup l = {0};
    for (int32_t n = 1; n <= N; n += 1 + (int32_t)tt_rng_below(&rng, 4)) {
        int32_t at = -1, want_at = -1, want = search(ids, n, &want_at);
        int32_t got = tt_lookup_find(&l, ids, n, &at);
        assert_int_equal(got, want);
        if (want < TT_LOOKUP_MAX) { /* of those that long it may go on with the same one */
            assert_int_equal(at, want_at);
        }
        n_found += got > 0;
    }
    assert_in_range(n_found, 30, N - 30);
    tt_lookup_finish(&l);
    tt_lookup_finish(&l);
}

/* More occurrences since than a chain is followed back: the copy under way goes on all the same. */
static void test_a_copy_goes_on(void **state)
{
    enum { TEXT = 60, NOISE = 400 };
    int32_t ids[TEXT + NOISE + TEXT], n = 0, at = -1;
    for (; n < TEXT + NOISE; n++) {
        ids[n] = n % 4 == 3 ? 1000 + n : 7;
    }
    tt_lookup l = {0};
    for (int32_t i = 0; i < TEXT; i++) { /* the text again, from its beginning */
        if (i >= 4) {                    /* 7 7 7 may go on anyhow, but this is behind 1003 */
            assert_int_equal(tt_lookup_find(&l, ids, n, &at), i < 32 ? i : 32);
            assert_int_equal(at, i);
        }
        ids[n++] = ids[i];
    }
    tt_lookup_finish(&l);
}

/* A search costs the same however long the text is, and however often its end occurs in it. */
static void test_a_text_of_one_token(void **state)
{
    enum { N = 100000 };
    static int32_t ids[N];
    tt_lookup l = {0};
    int32_t at = 0;
    for (int32_t n = 4; n <= N; n++) { /* a scan for each would take minutes */
        int32_t got = tt_lookup_find(&l, ids, n, &at);
        assert_int_equal(got, n - 1 < TT_LOOKUP_MAX ? n - 1 : TT_LOOKUP_MAX);
    }
    tt_lookup_finish(&l);
}

static void test_short_texts(void **state)
{
    int32_t ids[] = {5, 5, 5, 5}, at = -7;
    tt_lookup l = {0};
    for (int32_t n = 1; n < 4; n++) {
        assert_int_equal(tt_lookup_find(&l, ids, n, &at), 0);
        assert_int_equal(at, -7);
    }
    assert_int_equal(tt_lookup_find(&l, ids, 4, &at), 3);
    assert_int_equal(at, 3);
    tt_lookup_finish(&l);
}

static void test_a_copy_may_read_itself(void **state)
{
    int32_t ids[12] = {9, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0};
    const int32_t want[8] = {2, 3, 2, 3, 2, 3, 2, 3};
    tt_lookup_copy(ids, 4, 2, ids + 4, 8);
    assert_memory_equal(ids + 4, want, sizeof want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_longest_then_latest),    cmocka_unit_test(test_a_copy_goes_on),
        cmocka_unit_test(test_a_text_of_one_token),    cmocka_unit_test(test_short_texts),
        cmocka_unit_test(test_a_copy_may_read_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
