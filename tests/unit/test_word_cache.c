/* test_word_cache.c - the keys of words and pairs, what is found again, what gives way, no memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "core/tokenizer_priv.h"
#include "fail_alloc.h"

/* A word's key holds its bytes and length and nothing of what is behind it. */
static void keys(void **state)
{
    (void)state;
    char a[64], b[64];
    tt_rng rng = tt_rng_make(3, 3);
    for (size_t i = 0; i < sizeof a; i++) {
        a[i] = (char)(1 + tt_rng_below(&rng, 255));
    }
    for (size_t n = 1; n <= TT_WORD_CACHE_BYTES; n++) {
        memset(b, 0x55, sizeof b);
        memcpy(b, a, n);
        tt_word_key far = tt_word_key_of(a, n, sizeof a), near = tt_word_key_of(a, n, n);
        tt_word_key other = tt_word_key_of(b, n, sizeof b);
        assert_memory_equal(&far, &near, sizeof far);
        assert_memory_equal(&far, &other, sizeof far);
        for (size_t i = 0; i < n; i++) {
            b[i] ^= 1;
            other = tt_word_key_of(b, n, sizeof b);
            assert_memory_not_equal(&far, &other, sizeof far);
            b[i] ^= 1;
        }
        if (n > 1) {
            other = tt_word_key_of(a, n - 1, sizeof a);
            assert_memory_not_equal(&far, &other, sizeof far);
        }
    }
    tt_word_key zero = tt_word_key_of("\0\0", 1, 2), zeros = tt_word_key_of("\0\0", 2, 2);
    assert_memory_not_equal(&zero, &zeros, sizeof zero);
}

static tt_word_key number_key(uint32_t i)
{
    return tt_word_key_of((const char *)&i, sizeof i, sizeof i);
}

/* More words than there is room for: the last is always found, whatever is found is right. */
static void words(void **state)
{
    (void)state;
    enum { WORDS = 3000 };
    tt_encoding e = {0};
    tt_word_cache_init(&e.words, 1024, true);
    assert_non_null(e.words.entries);
    int found = 0;
    for (uint32_t i = 0; i < WORDS; i++) {
        tt_word_key k = number_key(i);
        tt_word_entry *place = tt_word_cache_place(&e.words, &k);
        assert_null(tt_word_cache_find(place, &k));
        size_t from = e.n, n = 1 + i % 9;
        for (size_t j = 0; j < n; j++) {
            assert_true(tt_encoding_push(&e, (int32_t)(10 * i + j)));
        }
        tt_encoding_remember(&e, place, &k, from);
        const tt_word_entry *now = tt_word_cache_find(place, &k);
        assert_true((now != NULL) == (n <= TT_WORD_CACHE_IDS));
    }
    for (uint32_t i = 0; i < WORDS; i++) {
        tt_word_key k = number_key(i);
        const tt_word_entry *known = tt_word_cache_find(tt_word_cache_place(&e.words, &k), &k);
        if (known != NULL) {
            size_t from = e.n;
            assert_true(tt_encoding_push_word(&e, known));
            assert_int_equal(e.n - from, 1 + i % 9);
            for (size_t j = from; j < e.n; j++) {
                assert_int_equal(e.ids[j], 10 * i + (j - from));
            }
            found++;
        }
    }
    assert_true(found >= 32 && found <= 64);
    tt_word_cache_finish(&e.words);
    tt_word_cache_finish(&e.words);
    free(e.ids);
}

static void sizes(void **state)
{
    (void)state;
    tt_word_cache c;
    tt_word_cache_init(&c, 1000, true); /* a short text is not worth it */
    assert_null(c.entries);
    tt_word_cache_finish(&c);
    tt_word_cache_init(&c, (size_t)1 << 40, false);
    assert_non_null(c.entries);
    assert_null(c.pairs);
    assert_true((c.mask + 1) * 2 * sizeof *c.entries <= 2 << 20);
    tt_word_cache_finish(&c);
    for (int i = 0; i < 2; i++) {
        fail_alloc_at(i);
        tt_word_cache_init(&c, 1 << 20, true);
        assert_true(fail_alloc_off());
        assert_true((c.entries == NULL) == (i == 0) && (c.pairs == NULL) == (i == 1));
        tt_word_cache_finish(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys),
        cmocka_unit_test(words),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
