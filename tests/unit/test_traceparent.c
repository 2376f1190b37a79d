/* test_traceparent.c - the header of W3C Trace Context: what is valid, what goes on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "server/traceparent.h"

#define TRACE "0af7651916cd43dd8448eb211c80319c"
#define SPAN "b7ad6b7169203331"

static void test_valid(void **state)
{
    char out[TT_TRACEPARENT_BYTES], want[TT_TRACEPARENT_BYTES];
    tt_trace t, u;
    assert_true(tt_trace_begin(&t, "00-" TRACE "-" SPAN "-01"));
    assert_string_equal(t.trace_id, TRACE);
    assert_string_equal(t.parent_id, SPAN);
    assert_int_equal(strlen(t.span_id), 16);
    assert_string_not_equal(t.span_id, SPAN);
    tt_trace_write(&t, out);
    snprintf(want, sizeof want, "00-" TRACE "-%s-01", t.span_id);
    assert_string_equal(out, want);
    assert_true(tt_trace_begin(&u, out)); /* ours is valid in its turn */
    assert_string_equal(u.parent_id, t.span_id);
    assert_string_not_equal(u.span_id, t.span_id);
}

/* Flags that version 00 does not know are not ours to pass on. */
static void test_flags(void **state)
{
    static const char *const in[] = {"00", "01", "ff", "fe", "a3"};
    static const char *const want[] = {"00", "01", "01", "00", "01"};
    for (int i = 0; i < 5; i++) {
        char header[64], out[TT_TRACEPARENT_BYTES];
        tt_trace t;
        snprintf(header, sizeof header, "00-" TRACE "-" SPAN "-%s", in[i]);
        assert_true(tt_trace_begin(&t, header));
        tt_trace_write(&t, out);
        assert_string_equal(out + 53, want[i]);
    }
}

static void test_later_versions(void **state)
{
    tt_trace t;
    char out[TT_TRACEPARENT_BYTES];
    assert_true(tt_trace_begin(&t, "cc-" TRACE "-" SPAN "-01"));
    assert_true(tt_trace_begin(&t, "cc-" TRACE "-" SPAN "-01-what-the-future-holds"));
    tt_trace_write(&t, out);
    assert_memory_equal(out, "00-" TRACE, 35);
    assert_false(tt_trace_begin(&t, "cc-" TRACE "-" SPAN "-01.what"));
    assert_false(tt_trace_begin(&t, "cc-" TRACE "-" SPAN "-011"));
}

static void test_invalid(void **state)
{
    static const char *const bad[] = {
        "",
        "00",
        "00-" TRACE "-" SPAN,
        "00-" TRACE "-" SPAN "-",
        "00-" TRACE "-" SPAN "-1",
        "00-" TRACE "-" SPAN "-0x",
        "00-" TRACE "-" SPAN "-01-",
        "00-" TRACE "-" SPAN "-01 ",
        " 00-" TRACE "-" SPAN "-01",
        "ff-" TRACE "-" SPAN "-01",
        "FF-" TRACE "-" SPAN "-01",
        "0g-" TRACE "-" SPAN "-01",
        "00-00000000000000000000000000000000-" SPAN "-01",
        "00-" TRACE "-0000000000000000-01",
        "00-0AF7651916cd43dd8448eb211c80319c-" SPAN "-01",
        "00-" TRACE "-B7ad6b7169203331-01",
        "00-" TRACE "-" SPAN "-0A",
        "00_" TRACE "-" SPAN "-01",
        "00-" TRACE "_" SPAN "-01",
        "00-" TRACE "-" SPAN "_01",
        "00-0af7651916cd43dd8448eb211c80319-" SPAN "-011",
        "00-" TRACE "-" SPAN "-01\r\nx: y",
    };
    char out[TT_TRACEPARENT_BYTES];
    tt_trace t;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (tt_trace_begin(&t, bad[i])) {
            fail_msg("taken: '%s'", bad[i]);
        }
        assert_string_equal(t.trace_id, "");
        tt_trace_write(&t, out);
        assert_string_equal(out, "");
    }
    assert_false(tt_trace_begin(&t, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_later_versions),
        cmocka_unit_test(test_invalid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
