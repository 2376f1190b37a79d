/* test_list_query.c - queries of lists at and beyond their bounds, and the envelope. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "server/list_query.h"

static void legal(void **state)
{
    tt_list_query q;
    tt_http_error e = {0};
    assert_true(tt_list_query_read(NULL, NULL, NULL, false, 100, &q, &e));
    assert_string_equal(q.after, "");
    assert_int_equal(q.limit, TT_LIST_LIMIT);
    assert_false(q.ascending);
    assert_true(tt_list_query_read("ses_1", "100", "asc", false, 100, &q, &e));
    assert_string_equal(q.after, "ses_1");
    assert_int_equal(q.limit, 100);
    assert_true(q.ascending);
    assert_true(tt_list_query_read(NULL, "1", "desc", true, 100, &q, &e));
    assert_int_equal(q.limit, 1);
    assert_false(q.ascending);
}

static void refused(void **state)
{
    static const char *const limits[] = {"", "0", "101", "-1", "1 ", "x", "9999999999", "1.5"};
    tt_list_query q;
    tt_http_error e = {0};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        assert_false(tt_list_query_read(NULL, limits[i], NULL, false, 100, &q, &e));
        assert_int_equal(e.status, 400);
        assert_string_equal(e.param, "limit");
    }
    assert_false(tt_list_query_read(NULL, NULL, "up", false, 100, &q, &e));
    assert_string_equal(e.param, "order");
}

static void envelope(void **state)
{
    tt_buf b = {0}, data = {0};
    tt_list_write(&b, &data, NULL, NULL, false);
    tt_buf_putc(&b, '\0');
    assert_string_equal(b.p, "{\"object\":\"list\",\"data\":[],\"first_id\":null,\"last_id\":null,"
                             "\"has_more\":false}");
    tt_buf_clear(&b);
    tt_buf_puts(&data, "{},{}");
    tt_list_write(&b, &data, "a", "b", true);
    tt_buf_putc(&b, '\0');
    assert_string_equal(b.p, "{\"object\":\"list\",\"data\":[{},{}],\"first_id\":\"a\","
                             "\"last_id\":\"b\",\"has_more\":true}");
    data.failed = true;
    tt_list_write(&b, &data, NULL, NULL, false);
    assert_true(b.failed); /* a page that memory cut is no answer */
    tt_buf_finish(&b);
    tt_buf_finish(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(legal),
        cmocka_unit_test(refused),
        cmocka_unit_test(envelope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
