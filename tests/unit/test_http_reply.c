/* test_http_reply.c - what goes back to a client: answers at once and later, headers, CORS, streams
 * and their slow or leaving readers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http_rig.h"

static void test_answers_at_once(void **state)
{
    rig_client c = rig_dial();
    const char *a = rig_ask(&c, "GET", "/now?query=1", "", NULL);
    assert_int_equal(rig_status(a), 200);
    assert_string_equal(rig_body(a), "now");
    assert_non_null(strstr(a, "Content-Type: text/plain\r\n"));
    a = rig_ask(&c, "HEAD", "/now", "", NULL); /* on the same connection */
    assert_int_equal(rig_status(a), 200);
    assert_string_equal(rig_body(a), "");
    assert_non_null(strstr(a, "Content-Length: 3\r\n"));
    a = rig_ask(&c, "POST", "/echo", "Content-Type: application/json\r\n", "{\"x\": 1}");
    assert_string_equal(rig_body(a), "{\"x\": 1}");
    assert_non_null(strstr(a, "Content-Type: application/json\r\n"));
    c.p[c.n = 0] = '\0';
    rig_say(&c, "GET /now HTTP/1.1\r\nHost: x\r\n\r\nGET /items/2 HTTP/1.1\r\nHost: x\r\n\r\n");
    rig_pump_until(&c, "\r\n\r\n2"); /* two at once, answered in order */
    assert_non_null(strstr(c.p, "\r\n\r\nnow"));
    assert_true(strstr(c.p, "\r\n\r\nnow") < strstr(c.p, "\r\n\r\n2"));
    rig_hang_up(&c);
    rig_until_active(0);
}

static void test_headers(void **state)
{
    rig_client c = rig_dial();
    const char *a = rig_ask(&c, "GET", "/headers", "", NULL);
    int n = 0;
    for (const char *p = a; (p = strstr(p, "X-Many: v")) != NULL; p += 9, n++) {
        assert_int_equal(p[9], 'a' + n);
    }
    assert_int_equal(n, TT_HTTP_MAX_HEADERS);
    rig_hang_up(&c);
}

static void test_an_answer_that_could_not_be_built(void **state)
{
    rig_client c = rig_dial();
    const char *a = rig_ask(&c, "GET", "/failed", "", NULL);
    assert_int_equal(rig_status(a), 429); /* memory comes back */
    assert_non_null(strstr(a, "Retry-After: 5\r\n"));
    assert_memory_equal(rig_body(a), "{\"error\":{", 10);
    rig_hang_up(&c);
}

static void test_an_answer_that_comes_later(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = rig_wait(&c);
    rig_say(&c, "GET /items/next HTTP/1.1\r\nHost: x\r\n\r\n");
    rig_turns(20);
    assert_int_equal(tt_http_active(rig_server.http), 1); /* the one behind it waits its turn */
    rig_pump(&c, 100);
    assert_int_equal(c.n, 0);
    tt_http_ref(req);
    rig_reply(req, 202, "later");
    rig_reply(req, 500, "twice"); /* the first one counts */
    rig_pump_until(&c, "next");
    assert_int_equal(rig_status(c.p), 202);
    assert_memory_equal(rig_body(c.p), "later", 5);
    assert_null(strstr(c.p, "twice"));
    rig_hang_up(&c);
    rig_until_active(0);
    assert_int_equal(rig_gone, 0); /* it had its answer */
    tt_http_unref(req);
}

static void test_a_client_that_leaves(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = rig_wait(&c);
    tt_http_ref(req);
    rig_hang_up(&c);
    rig_turn_until(&rig_gone, 1);
    rig_until_active(0);
    rig_reply(req, 200, "to nobody"); /* legal, and takes the buffer */
    tt_http_stream_begin(req);
    tt_buf_puts(tt_http_stream_out(req), "text");
    tt_http_stream_flush(req);
    tt_http_stream_end(req);
    rig_turns(5);
    assert_int_equal(rig_gone, 1);
    tt_http_unref(req);
}

static void list(tt_string_list *l, char **v, int32_t n)
{
    *l = (tt_string_list){.v = v, .n = n};
}

static void test_cors(void **state)
{
    char one[] = "https://a.example", two[] = "https://b.example", star[] = "*";
    char *named[] = {one, two}, *any[] = {two, star};
    rig_client c = rig_dial();
    list(&rig_settings.cors_origins, NULL, 0);
    const char *a = rig_ask(&c, "GET", "/now", "Origin: https://b.example\r\n", NULL);
    assert_null(strstr(a, "Access-Control"));
    list(&rig_settings.cors_origins, named, 2);
    a = rig_ask(&c, "GET", "/now", "Origin: https://b.example\r\n", NULL);
    assert_non_null(strstr(a, "Access-Control-Allow-Origin: https://b.example\r\n"));
    assert_non_null(strstr(a, "Vary: Origin\r\n"));
    assert_non_null(strstr(a, "Access-Control-Expose-Headers: X-Request-Id"));
    a = rig_ask(&c, "GET", "/now", "Origin: https://b.example.evil\r\n", NULL);
    assert_int_equal(rig_status(a), 200);
    assert_null(strstr(a, "Access-Control"));
    a = rig_ask(&c, "GET", "/nowhere", "Origin: https://a.example\r\n", NULL);
    assert_int_equal(rig_status(a), 404); /* a browser may read errors too */
    assert_non_null(strstr(a, "Access-Control-Allow-Origin: https://a.example\r\n"));
    a = rig_ask(&c, "OPTIONS", "/echo",
                "Origin: https://a.example\r\nAccess-Control-Request-Headers: x-new\r\n", NULL);
    assert_int_equal(rig_status(a), 204);
    assert_non_null(strstr(a, "Access-Control-Allow-Methods: GET, HEAD, POST"));
    assert_non_null(strstr(a, ", x-new\r\n"));
    list(&rig_settings.cors_origins, any, 2);
    a = rig_ask(&c, "GET", "/now", "", NULL);
    assert_non_null(strstr(a, "Access-Control-Allow-Origin: *\r\n"));
    assert_null(strstr(a, "Vary"));
    list(&rig_settings.cors_origins, NULL, 0);
    rig_hang_up(&c);
}

/* ---- streams ---- */

static tt_http_request *begin_stream(rig_client *c)
{
    tt_http_request *req = rig_wait(c);
    tt_http_stream_begin(req);
    rig_pump_until(c, "\r\n\r\n"); /* the headers go out before there is any text */
    return req;
}

static void write_stream(tt_http_request *req, const char *text)
{
    tt_buf_puts(tt_http_stream_out(req), text);
    tt_http_stream_flush(req);
}

static void test_a_stream(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = begin_stream(&c);
    assert_int_equal(rig_status(c.p), 200);
    assert_non_null(strstr(c.p, "Content-Type: text/event-stream\r\n"));
    assert_non_null(strstr(c.p, "Cache-Control: no-cache\r\n"));
    write_stream(req, "data: one\n\n");
    assert_int_equal(tt_http_stream_pending(req), 11);
    rig_pump_until(&c, "data: one\n\n"); /* at once, not with the next */
    assert_int_equal(tt_http_stream_pending(req), 0);
    rig_turns(5);
    rig_pump(&c, 100);
    assert_null(strstr(c.p, "\r\n0\r\n"));
    tt_buf_puts(tt_http_stream_out(req), "data: last\n\n");
    tt_http_stream_end(req);
    rig_pump_until(&c, "data: last\n\n\r\n0\r\n\r\n");
    assert_string_equal(rig_body(rig_ask(&c, "GET", "/now", "", NULL)), "now");
    rig_hang_up(&c);
    rig_until_active(0);
    assert_int_equal(rig_gone, 0);
}

static void test_a_stream_whose_reader_leaves(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = begin_stream(&c);
    tt_http_ref(req);
    write_stream(req, "data: one\n\n");
    rig_pump_until(&c, "one");
    rig_hang_up(&c);
    rig_turn_until(&rig_gone, 1);
    rig_until_active(0);
    write_stream(req, "data: two\n\n");
    tt_http_stream_end(req);
    rig_turns(5);
    assert_int_equal(rig_gone, 1);
    tt_http_unref(req);
}

/* Sixteen megabytes in numbered lines, read late: all arrive once and in order, though the buffer
 * is compacted on the way; on_drained says when there is room again. */
static void test_a_slow_reader(void **state)
{
    enum { LINES = 1 << 16, LINE = 256 };
    rig_client c = rig_dial();
    rig_settings.backlog = 100000;
    tt_http_request *req = begin_stream(&c);
    size_t head = (size_t)(rig_body(c.p) - c.p);
    rig_turns(2);
    rig_drained = 0; /* an empty buffer is drained */
    for (int i = 0; i < LINES; i++) {
        tt_buf_printf(tt_http_stream_out(req), "%0*d\n", LINE - 1, i);
    }
    tt_http_stream_flush(req);
    rig_turns(5);
    assert_true(tt_http_stream_pending(req) > (size_t)rig_settings.backlog);
    assert_int_equal(rig_drained, 0);
    while (rig_drained == 0) {
        rig_pump(&c, 1 << 20);
    }
    assert_true(tt_http_stream_pending(req) < (size_t)rig_settings.backlog);
    tt_http_stream_end(req);
    while (c.n < 7 || memcmp(c.p + c.n - 7, "\r\n0\r\n\r\n", 7) != 0) {
        rig_pump(&c, 1 << 20);
        assert_false(c.closed);
    }
    assert_int_equal(rig_dechunk(c.p + head), (size_t)LINES * LINE);
    char line[LINE + 1];
    for (int i = 0; i < LINES; i++) {
        snprintf(line, sizeof line, "%0*d\n", LINE - 1, i);
        assert_memory_equal(c.p + head + (size_t)i * LINE, line, LINE);
    }
    rig_hang_up(&c);
}

/* A stream whose buffer could not grow is cut, not ended: the client sees that it is not whole. */
static void test_a_stream_without_memory(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = begin_stream(&c);
    tt_http_stream_out(req)->limit = 4;
    write_stream(req, "data: more than four\n\n");
    tt_http_stream_end(req);
    rig_pump_until_closed(&c);
    assert_null(strstr(c.p, "\r\n0\r\n\r\n"));
    rig_hang_up(&c);
    rig_until_active(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answers_at_once, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_headers, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_an_answer_that_could_not_be_built, rig_set_up,
                                        rig_tear_down),
        cmocka_unit_test_setup_teardown(test_an_answer_that_comes_later, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_a_client_that_leaves, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_cors, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_a_stream, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_a_stream_whose_reader_leaves, rig_set_up,
                                        rig_tear_down),
        cmocka_unit_test_setup_teardown(test_a_slow_reader, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_a_stream_without_memory, rig_set_up, rig_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
