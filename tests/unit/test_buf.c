/* test_buf.c - growth, limits, JSON strings and numbers. Oracle: jansson reads back what was
 * written; the table of Unicode 15, section 3.9, for maximal invalid parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/buf.h"

static void grows_and_keeps_its_limit(void **state)
{
    tt_buf b;
    tt_buf_init(&b, 1000);
    for (int i = 0; i < 100; i++) {
        tt_buf_puts(&b, "0123456789");
    }
    assert_false(b.failed);
    assert_int_equal(b.n, 1000);
    tt_buf_putc(&b, 'x');
    assert_true(b.failed);
    tt_buf_puts(&b, "");
    assert_int_equal(b.n, 1000);
    tt_buf_clear(&b);
    assert_false(b.failed);
    tt_buf_printf(&b, "%0*d|", 600, 7); /* longer than the stack buffer */
    assert_int_equal(b.n, 601);
    assert_int_equal(b.p[600], '|');
    tt_buf_consume(&b, 599);
    assert_int_equal(b.n, 2);
    assert_memory_equal(b.p, "7|", 2);
    tt_buf_consume(&b, 99);
    assert_int_equal(b.n, 0);
    tt_buf_finish(&b);
    tt_buf_finish(&b);
}

static void expect_json(const char *text, size_t n, const char *want)
{
    tt_buf b = {0};
    tt_buf_put_json(&b, text, n);
    assert_false(b.failed);
    assert_int_equal(b.n, strlen(want));
    assert_memory_equal(b.p, want, b.n);
    tt_buf_finish(&b);
}

static void json_strings(void **state)
{
    expect_json("", 0, "\"\"");
    expect_json("a\"b\\c\n\r\t\b\f", 10, "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\"");
    expect_json("\x01\x1f\x7f\0", 4, "\"\\u0001\\u001f\\u007f\\u0000\"");
    expect_json("\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x99", 9,
                "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x99\"");
    /* One U+FFFD for each maximal part. */
    expect_json("\xff", 1, "\"\xef\xbf\xbd\"");
    expect_json("\xc0\xaf", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    expect_json("\xe2\x82", 2, "\"\xef\xbf\xbd\"");
    expect_json("\xe2\x82"
                "A",
                3,
                "\"\xef\xbf\xbd"
                "A\"");
    expect_json("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    expect_json("\xf0\x9f\xa6", 3, "\"\xef\xbf\xbd\"");
    expect_json("\xf4\x90\x80\x80", 4, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

/* Every byte string of a few lengths out of awkward bytes reads back as valid JSON. */
static void any_bytes_are_valid_json(void **state)
{
    static const unsigned char awkward[] = {0,    '"',  '\\', 0x1F, 'a',  0x7F, 0x80, 0xBF, 0xC0,
                                            0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0xF5, 0xFF, 0x9F, 0xA0};
    size_t k = sizeof awkward;
    for (size_t i = 0; i < k * k * k; i++) {
        char s[3] = {(char)awkward[i % k], (char)awkward[i / k % k], (char)awkward[i / k / k]};
        tt_buf b = {0};
        tt_buf_put_json(&b, s, 3);
        json_error_t e;
        json_t *v = json_loadb(b.p, b.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
        assert_non_null(v);
        assert_int_equal(tt_utf8_count(s, 3),
                         tt_utf8_count(json_string_value(v), json_string_length(v)));
        json_decref(v);
        tt_buf_finish(&b);
    }
}

static void numbers_read_back(void **state)
{
    static const float floats[] = {0,       -0.0f,         1,       0.1f,
                                   -1e-30f, 3.4028235e38f, FLT_MIN, -0.586372316f};
    static const double doubles[] = {0, 0.1, 1.0 / 3, 1e300, 5e-324, 123456789012345678.0, -2.5};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        tt_buf b = {0};
        tt_buf_put_float(&b, floats[i]);
        tt_buf_putc(&b, '\0');
        assert_true(strtof(b.p, NULL) == floats[i]);
        tt_buf_finish(&b);
    }
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
        tt_buf b = {0};
        tt_buf_put_double(&b, doubles[i]);
        tt_buf_putc(&b, '\0');
        assert_true(strtod(b.p, NULL) == doubles[i]);
        tt_buf_finish(&b);
    }
    tt_buf b = {0};
    tt_buf_put_double(&b, (double)NAN);
    tt_buf_put_float(&b, INFINITY);
    assert_memory_equal(b.p, "nullnull", 8);
    tt_buf_clear(&b);
    tt_buf_put_double(&b, 0.25);
    assert_memory_equal(b.p, "0.25", 4);
    assert_int_equal(b.n, 4);
    tt_buf_clear(&b);
    tt_buf_member_text(&b, "a", "x\"");
    tt_buf_member_text(&b, "b", NULL);
    tt_buf_member_text(&b, "c", "");
    tt_buf_member_double(&b, "d", 0.5);
    tt_buf_member_double(&b, "e", (double)NAN);
    tt_buf_putc(&b, '\0');
    assert_string_equal(b.p, ",\"a\":\"x\\\"\",\"b\":null,\"c\":null,\"d\":0.5,\"e\":null");
    tt_buf_finish(&b);
}

static void code_points(void **state)
{
    assert_int_equal(tt_utf8_count("", 0), 0);
    assert_int_equal(tt_utf8_count("a\xc3\xa9\xf0\x9f\xa6\x99", 7), 3);
    assert_int_equal(tt_utf8_count("\xe2\x82", 2), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_keeps_its_limit),
        cmocka_unit_test(json_strings),
        cmocka_unit_test(any_bytes_are_valid_json),
        cmocka_unit_test(numbers_read_back),
        cmocka_unit_test(code_points),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
