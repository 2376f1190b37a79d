/* test_hex.c - bytes as digits and back, and names that nobody else has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "server/hex.h"

static void both_ways(void **state)
{
    unsigned char p[3] = {0x00, 0x9f, 0xa5}, q[3];
    char text[7];
    tt_hex_write(p, 3, text);
    assert_string_equal(text, "009fa5");
    assert_true(tt_hex_read(text, q, 3));
    assert_memory_equal(p, q, 3);
    assert_false(tt_hex_read("009fa", q, 3));
    assert_false(tt_hex_read("009fa50", q, 3));
    assert_false(tt_hex_read("009FA5", q, 3));
    assert_false(tt_hex_read("009fa ", q, 3));
    assert_false(tt_hex_read(NULL, q, 3));
    assert_false(tt_hex_read(NULL, q, 0));
    assert_true(tt_hex_read("", q, 0));
}

static void random_names(void **state)
{
    char a[33], b[33];
    for (size_t n = 8; n <= 16; n++) {
        tt_hex_random(n, a);
        tt_hex_random(n, b);
        assert_int_equal(strlen(a), 2 * n);
        assert_int_equal(strspn(a, "0123456789abcdef"), 2 * n);
        assert_string_not_equal(a, b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways),
        cmocka_unit_test(random_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
