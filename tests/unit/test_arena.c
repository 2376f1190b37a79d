/* test_arena.c - core/arena.c: alignment, limits, overflow, growth. Run under ASan it also proves
 * the bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"

static void aligned_and_distinct(void **state)
{
    (void)state;
    tt_arena a;
    tt_arena_init(&a, 0);
    unsigned char *p[300];
    for (size_t i = 0; i < 300; i++) {
        p[i] = tt_arena_alloc(&a, i);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        memset(p[i], (int)(i & 0xFF), i);
    }
    for (size_t i = 0; i < 300; i++) {
        for (size_t k = 0; k < i; k++) {
            assert_int_equal(p[i][k], i & 0xFF);
        }
        if (i > 0) {
            assert_ptr_not_equal(p[i], p[i - 1]);
        }
    }
    tt_arena_finish(&a);
    tt_arena_finish(&a);
}

static void nothing_still_has_an_address(void **state)
{
    (void)state;
    tt_arena a;
    tt_arena_init(&a, 0);
    void *p = tt_arena_alloc(&a, 0), *q = tt_arena_alloc(&a, 0);
    assert_non_null(p);
    assert_non_null(q);
    assert_ptr_not_equal(p, q);
    tt_arena_finish(&a);
}

static void the_limit_holds(void **state)
{
    (void)state;
    tt_arena a;
    tt_arena_init(&a, 1000);
    size_t n = 0;
    while (tt_arena_alloc(&a, 100) != NULL) {
        n++;
        assert_true(n <= 10);
    }
    assert_true(n >= 8); /* padding costs something, not everything */
    assert_true(a.used <= 1000);
    assert_null(tt_arena_alloc(&a, 2000));
    assert_null(tt_arena_alloc(&a, SIZE_MAX));
    size_t used = a.used;
    assert_null(tt_arena_calloc(&a, 1, 2000));
    assert_int_equal(a.used, used);
    tt_arena_finish(&a);
    assert_int_equal(a.used, 0);
    assert_non_null(tt_arena_alloc(&a, 500)); /* usable again, same limit */
    assert_null(tt_arena_alloc(&a, 600));
    tt_arena_finish(&a);
}

static void products_that_overflow_are_refused(void **state)
{
    (void)state;
    tt_arena a;
    tt_arena_init(&a, 0);
    assert_null(tt_arena_calloc(&a, SIZE_MAX / 2, 4));
    assert_null(tt_arena_calloc(&a, (size_t)1 << 33, (size_t)1 << 33));
    assert_null(tt_arena_alloc(&a, SIZE_MAX));
    assert_null(tt_arena_alloc(&a, SIZE_MAX - 15));
    assert_null(tt_arena_strndup(&a, "x", SIZE_MAX));
    assert_int_equal(a.used, 0);
    tt_arena_finish(&a);
}

static void large_ones_get_blocks_of_their_own(void **state)
{
    (void)state;
    tt_arena a;
    tt_arena_init(&a, 0);
    char *small = tt_arena_alloc(&a, 10);
    char *large = tt_arena_alloc(&a, 3 << 20);
    char *after = tt_arena_alloc(&a, 10);
    assert_non_null(small);
    assert_non_null(large);
    assert_non_null(after);
    memset(large, 1, 3 << 20);
    memset(small, 2, 10);
    memset(after, 3, 10);
    assert_int_equal(large[0], 1);
    assert_int_equal(large[(3 << 20) - 1], 1);
    tt_arena_finish(&a);
}

static void calloc_zeroes_and_strndup_copies(void **state)
{
    (void)state;
    tt_arena a;
    tt_arena_init(&a, 0);
    memset(tt_arena_alloc(&a, 4000), 0xAA, 4000);
    tt_arena_finish(&a); /* the next block may be the same memory */
    unsigned char *z = tt_arena_calloc(&a, 100, 7);
    assert_non_null(z);
    for (int i = 0; i < 700; i++) {
        assert_int_equal(z[i], 0);
    }
    const char text[] = {'a', '\0', 'b', 'c'};
    char *s = tt_arena_strndup(&a, text, 3);
    assert_memory_equal(s, "a\0b\0", 4);
    assert_string_equal(tt_arena_strndup(&a, "", 0), "");
    tt_arena_finish(&a);
}

static void finish_on_zeroes(void **state)
{
    (void)state;
    tt_arena a = {0};
    tt_arena_finish(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(aligned_and_distinct),
        cmocka_unit_test(nothing_still_has_an_address),
        cmocka_unit_test(the_limit_holds),
        cmocka_unit_test(products_that_overflow_are_refused),
        cmocka_unit_test(large_ones_get_blocks_of_their_own),
        cmocka_unit_test(calloc_zeroes_and_strndup_copies),
        cmocka_unit_test(finish_on_zeroes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
