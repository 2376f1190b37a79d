/* test_err.c - kernels/err.c: codes and texts, cutting at code points, control characters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/err.h"

static void fills_and_returns(void **state)
{
    (void)state;
    tt_err err = {0};
    assert_int_equal(tt_fail(&err, TT_E_MODEL, "tensor %s at %d", "x", 7), TT_E_MODEL);
    assert_int_equal(err.code, TT_E_MODEL);
    assert_string_equal(err.msg, "tensor x at 7");
    assert_int_equal(tt_fail(NULL, TT_E_BUSY, "%s", "nobody listens"), TT_E_BUSY);
}

static void every_code_is_negative_and_has_a_text(void **state)
{
    (void)state;
#define CHECK(name, value, text)                                                                   \
    assert_true(name < 0);                                                                         \
    assert_string_equal(tt_code_text(name), text);
    TT_CODES(CHECK)
#undef CHECK
    assert_string_equal(tt_code_text(TT_OK), "ok");
    assert_string_equal(tt_code_text((tt_code)-999), "unknown");
    assert_string_equal(tt_code_text((tt_code)5), "unknown");
}

/* The buffer holds 255 bytes. n characters before a code point of `len` bytes: it stays whole or
 * goes. */
static void cuts_between_code_points(void **state)
{
    (void)state;
    static const char *const points[] = {"a", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    char text[400];
    for (int p = 0; p < 4; p++) {
        size_t len = strlen(points[p]);
        for (size_t n = 248; n < 258; n++) {
            memset(text, 'x', n);
            size_t at = n;
            for (int k = 0; k < 8; k++, at += len) {
                memcpy(text + at, points[p], len);
            }
            text[at] = '\0';
            tt_err err;
            tt_fail(&err, TT_E_INVALID, "%s", text);
            size_t room = sizeof err.msg - 1;
            size_t want = n >= room ? room : n + (room - n) / len * len;
            assert_int_equal(strlen(err.msg), want);
            assert_memory_equal(err.msg, text, want);
        }
    }
}

static void fits_exactly(void **state)
{
    (void)state;
    char text[256];
    tt_err err;
    memset(text, 'y', 253);
    memcpy(text + 253, "\xC3\xA9", 3);
    tt_fail(&err, TT_E_INVALID, "%s", text);
    assert_string_equal(err.msg, text);
}

/* Bytes that are no UTF-8 must neither loop nor overrun. */
static void survives_broken_utf8(void **state)
{
    (void)state;
    char text[600];
    tt_err err;
    for (int b = 0x80; b <= 0xFF; b++) {
        memset(text, b, sizeof text - 1);
        text[sizeof text - 1] = '\0';
        tt_fail(&err, TT_E_INVALID, "%s", text);
        assert_true(strlen(err.msg) < sizeof err.msg);
    }
}

static void control_characters_become_question_marks(void **state)
{
    (void)state;
    tt_err err;
    tt_fail(&err, TT_E_INVALID, "a\nb\tc\x1B[0m\x7F");
    assert_string_equal(err.msg, "a?b?c?[0m?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_and_returns),
        cmocka_unit_test(every_code_is_negative_and_has_a_text),
        cmocka_unit_test(cuts_between_code_points),
        cmocka_unit_test(fits_exactly),
        cmocka_unit_test(survives_broken_utf8),
        cmocka_unit_test(control_characters_become_question_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
