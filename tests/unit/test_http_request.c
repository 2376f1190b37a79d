/* test_http_request.c - the life of a request in http.c and http_daemon.c: what its headers alone
 * decide (route, key, type, length), its id, its body and the bounds of bodies, phases of the
 * server, the end of the daemon. What is sent back is test_http_reply.c's, the same over the real
 * handlers test_http.c's, malformed HTTP tests/api/test_hostile.py's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http_rig.h"

#define JSON "Content-Type: application/json\r\n"

static const char *ask(rig_client *c, const char *method, const char *path, const char *headers,
                       const char *body, int status)
{
    const char *a = rig_ask(c, method, path, headers, body);
    if (rig_status(a) != status) {
        fail_msg("%s %s: %s", method, path, a);
    }
    return a;
}

static void test_routes(void **state)
{
    rig_client c = rig_dial();
    ask(&c, "GET", "/nowhere", "", NULL, 404);
    ask(&c, "GET", "/now/", "", NULL, 404);
    ask(&c, "GET", "/items/", "", NULL, 404);
    assert_non_null(strstr(ask(&c, "DELETE", "/now", "", NULL, 405), "Allow: GET"));
    assert_non_null(strstr(ask(&c, "GET", "/echo", "", NULL, 405), "Allow: POST"));
    assert_string_equal(rig_body(ask(&c, "GET", "/items/a%20b%25", "", NULL, 200)), "a b%");
    ask(&c, "GET", "/items/a%2Fb", "", NULL, 404); /* an id is one part of a path */
    char longest[400] = "/items/";
    memset(longest + 7, 'x', sizeof longest - 8);
    ask(&c, "GET", longest, "", NULL, 404); /* whole or not at all */
    rig_hang_up(&c);
}

static void test_request_ids(void **state)
{
    static const char *const bad[] = {"two words", "", "caf\xc3\xa9", "\x7f"};
    rig_client c = rig_dial();
    char given[300], last[64] = "";
    const char *a = rig_ask(&c, "GET", "/now", "X-Request-Id: abc-1.2\r\n", NULL);
    assert_non_null(strstr(a, "X-Request-Id: abc-1.2\r\n"));
    for (int i = 0; i < 5; i++) { /* the last is one byte too long */
        char value[TT_REQUEST_ID_BYTES + 1];
        memset(value, 'i', sizeof value);
        value[TT_REQUEST_ID_BYTES] = '\0';
        snprintf(given, sizeof given, "X-Request-Id: %s\r\n", i < 4 ? bad[i] : value);
        a = strstr(rig_ask(&c, "GET", "/now", given, NULL), "X-Request-Id: req_");
        assert_non_null(a);
        assert_int_equal(strspn(a + 18, "0123456789abcdef"), 24);
        assert_int_not_equal(strncmp(a, last, 42), 0); /* nobody else's */
        snprintf(last, sizeof last, "%.42s", a);
    }
    char value[TT_REQUEST_ID_BYTES];
    memset(value, 'i', sizeof value);
    value[TT_REQUEST_ID_BYTES - 1] = '\0';
    snprintf(given, sizeof given, "X-Request-Id: %s\r\n", value);
    assert_non_null(strstr(rig_ask(&c, "GET", "/now", given, NULL), given));
    rig_hang_up(&c);
}

static void test_types(void **state)
{
    static const char *const good[] = {"application/json", "Application/JSON",
                                       "application/json; charset=utf-8", "application/json ;x"};
    static const char *const bad[] = {"text/plain", "application/jsonx", "application/x-json",
                                      "application/x-www-form-urlencoded", ""};
    rig_client c = rig_dial();
    char header[100];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(header, sizeof header, "Content-Type: %s\r\n", good[i]);
        ask(&c, "POST", "/echo", header, "{}", 200);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(header, sizeof header, "Content-Type: %s\r\n", bad[i]);
        ask(&c, "POST", "/echo", header, "{}", 415);
    }
    ask(&c, "POST", "/echo", "", "{}", 415);
    ask(&c, "POST", "/optional", "", "", 200); /* no body, so no type */
    ask(&c, "POST", "/optional", "", "{}", 415);
    ask(&c, "POST", "/echo", "", "", 415);
    rig_hang_up(&c);
}

static void test_keys(void **state)
{
    char one[] = "secret-1", two[] = "secret-22", *keys[] = {one, two};
    char scope[2][64];
    rig_client c = rig_dial();
    assert_string_equal(rig_body(ask(&c, "GET", "/scope", "", NULL, 200)), "");
    rig_settings.api_keys = (tt_string_list){.v = keys, .n = 2};
    tt_key_list list = {0};
    tt_err err;
    assert_int_equal(tt_tenants_read(&rig_settings, &list, &err), TT_OK);
    assert_int_equal(tt_tenants_update(&rig_server.tenants, &list, 0, NULL, &err), TT_OK);
    rig_server.keyed = true;
    static const char *const bad[] = {
        "",
        "Authorization: Bearer secret-2\r\n",
        "Authorization: Bearer secret-222\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer\r\n",
        "Authorization: Basic secret-1\r\n",
        "Authorization: secret-1\r\n",
        "Authorization: Bearer secret-1secret-1\r\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *a = ask(&c, "GET", "/scope", bad[i], NULL, 401);
        assert_non_null(strstr(a, "WWW-Authenticate: Bearer\r\n"));
        assert_non_null(strstr(a, "invalid_api_key"));
        assert_null(strstr(a, "secret"));
    }
    ask(&c, "GET", "/now", "", NULL, 200);     /* open to everybody */
    ask(&c, "GET", "/nowhere", "", NULL, 404); /* what is not there is no secret */
    for (int i = 0; i < 2; i++) {
        char header[64];
        snprintf(header, sizeof header, "Authorization: bearer %s\r\n", keys[i]);
        snprintf(scope[i], sizeof scope[i], "%s",
                 rig_body(ask(&c, "GET", "/scope", header, NULL, 200)));
        assert_true(strlen(scope[i]) >= 16 && strstr(scope[i], "secret") == NULL);
    }
    assert_string_not_equal(scope[0], scope[1]); /* tenants */
    rig_settings.api_keys = (tt_string_list){0};
    rig_server.keyed = false;
    rig_turns(5); /* every request has ended */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(rig_server.tenants.v[i]->n_open, 0);
        assert_int_equal(rig_server.tenants.v[i]->n_requests, 1);
    }
    tt_tenants_finish(&rig_server.tenants);
    tt_key_list_finish(&list);
    rig_hang_up(&c);
}

static char *letters(size_t n)
{
    char *p = malloc(n + 1);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        p[i] = (char)('a' + i % 26);
    }
    p[n] = '\0';
    return p;
}

static void test_a_body_arrives_whole(void **state)
{
    enum { N = 300000 };
    rig_client c = rig_dial();
    char *body = letters(N), piece[5000];
    assert_string_equal(rig_body(ask(&c, "POST", "/echo", JSON, body, 200)), body);
    c.p[c.n = 0] = '\0';
    rig_say(&c, "POST /echo HTTP/1.1\r\nHost: x\r\n" JSON "Transfer-Encoding: chunked\r\n\r\n");
    for (size_t at = 0; at < N; at += 4001) { /* pieces that end anywhere */
        size_t n = N - at < 4001 ? N - at : 4001;
        snprintf(piece, sizeof piece, "%zx\r\n%.*s\r\n", n, (int)n, body + at);
        rig_say(&c, piece);
    }
    rig_say(&c, "0\r\n\r\n");
    while (c.n < N + 100 || strlen(rig_body(c.p)) < N) {
        rig_pump(&c, 65536);
        assert_false(c.closed);
    }
    assert_string_equal(rig_body(c.p), body);
    free(body);
    rig_hang_up(&c);
}

static void test_bodies_that_are_too_large(void **state)
{
    rig_client c = rig_dial();
    rig_settings.max_body = 1000;
    char *body = letters(1000);
    ask(&c, "POST", "/echo", JSON, body, 200);
    /* announced: answered before a byte of it is there */
    c.p[c.n = 0] = '\0';
    rig_say(&c, "POST /echo HTTP/1.1\r\nHost: x\r\n" JSON "Content-Length: 1001\r\n\r\n");
    rig_pump_until(&c, "}}");
    assert_int_equal(rig_status(c.p), 413);
    assert_non_null(strstr(c.p, "Connection: close"));
    rig_say(&c, body);
    rig_say(&c, "x");
    rig_pump_until_closed(&c);
    rig_hang_up(&c);
    /* not announced: when it has become too much */
    c = rig_dial();
    rig_say(&c,
            "POST /echo HTTP/1.1\r\nHost: x\r\n" JSON "Transfer-Encoding: chunked\r\n\r\n3e8\r\n");
    rig_say(&c, body);
    rig_turns(10);
    rig_pump(&c, 100);
    assert_int_equal(c.n, 0);
    rig_say(&c, "\r\n1\r\nx\r\n0\r\n\r\n");
    rig_pump_until(&c, "}}");
    assert_int_equal(rig_status(c.p), 413);
    rig_hang_up(&c);
    rig_until_active(0);
    free(body);
}

/* Bodies of all requests together are bounded, and what left is free again. */
static void test_bodies_together(void **state)
{
    rig_client slow = rig_dial(), c = rig_dial();
    rig_settings.max_bodies = 1500;
    char *body = letters(1000);
    rig_say(&slow, "POST /echo HTTP/1.1\r\nHost: x\r\n" JSON "Content-Length: 1200\r\n\r\n");
    rig_say(&slow, body);
    rig_turns(20);
    const char *a = ask(&c, "POST", "/echo", JSON, body, 429);
    assert_non_null(strstr(a, "\"capacity\""));
    rig_hang_up(&c);
    rig_hang_up(&slow); /* in the middle of its body */
    rig_until_active(0);
    c = rig_dial();
    for (int i = 0; i < 5; i++) {
        ask(&c, "POST", "/echo", JSON, body, 200);
    }
    rig_hang_up(&c);
    free(body);
}

static void test_expectations(void **state)
{
    rig_client c = rig_dial();
    rig_say(&c, "POST /echo HTTP/1.1\r\nHost: x\r\n" JSON
                "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    rig_pump_until(&c, "100 Continue\r\n\r\n");
    c.p[c.n = 0] = '\0';
    rig_say(&c, "{}");
    rig_pump_until(&c, "{}");
    assert_int_equal(rig_status(c.p), 200);
    /* a body that nobody wants is not sent for */
    c.p[c.n = 0] = '\0';
    rig_say(&c, "POST /nowhere HTTP/1.1\r\nHost: x\r\n" JSON
                "Content-Length: 100000000\r\nExpect: 100-continue\r\n\r\n");
    rig_pump_until(&c, "}}");
    assert_int_equal(rig_status(c.p), 404);
    assert_null(strstr(c.p, "100 Continue"));
    rig_pump_until_closed(&c);
    rig_hang_up(&c);
}

static void test_phases(void **state)
{
    rig_client c = rig_dial();
    assert_non_null(strstr(ask(&c, "GET", "/ready", "", NULL, 503), "\"loading\""));
    ask(&c, "GET", "/now", "", NULL, 200); /* needs no model */
    tt_served served = {0};
    rig_server.served = &served;
    ask(&c, "GET", "/ready", "", NULL, 200);
    rig_server.phase =
        TT_PHASE_LEAVING; /* work is still taken, over connections that end with it */
    assert_non_null(strstr(ask(&c, "GET", "/ready", "", NULL, 200), "Connection: close\r\n"));
    rig_pump_until_closed(&c);
    rig_hang_up(&c);
    c = rig_dial();
    rig_server.phase = TT_PHASE_DRAINING;
    ask(&c, "GET", "/now", "", NULL, 200);
    const char *a = ask(&c, "GET", "/ready", "", NULL, 503);
    assert_non_null(strstr(a, "\"draining\""));
    assert_non_null(strstr(a, "Retry-After: 5\r\n"));
    assert_non_null(strstr(a, "Connection: close\r\n"));
    rig_pump_until_closed(&c); /* a client goes elsewhere */
    rig_hang_up(&c);
    rig_server.served = NULL;
}

static void test_leaving_in_the_middle(void **state)
{
    static const char *const parts[] = {"", "GET /no", "GET /wait HTTP/1.1\r\nHost: x\r\n",
                                        "POST /echo HTTP/1.1\r\nHost: x\r\n" JSON
                                        "Content-Length: 10\r\n\r\n{\"a"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        rig_client c = rig_dial();
        rig_say(&c, parts[i]);
        rig_turns(3);
        rig_hang_up(&c);
        rig_until_active(0);
        rig_turns(3);
    }
    assert_int_equal(rig_gone, 0); /* nothing had begun to wait */
}

/* Requests that wait when the daemon stops hear of it once; their clients' connections close. */
static void test_stopping(void **state)
{
    rig_client a = rig_dial(), b = rig_dial(), idle = rig_dial();
    tt_http_request *wait = rig_wait(&a), *stream = rig_wait(&b);
    tt_http_ref(wait);
    tt_http_ref(stream);
    tt_http_stream_begin(stream);
    tt_buf_puts(tt_http_stream_out(stream), "data: x\n\n");
    tt_http_stream_flush(stream);
    rig_pump_until(&b, "data: x\n\n");
    assert_int_equal(tt_http_active(rig_server.http), 2);
    tt_http_stop(&rig_server.http);
    assert_null(rig_server.http);
    assert_int_equal(rig_gone, 2);
    rig_client *all[] = {&a, &b, &idle};
    for (int i = 0; i < 3; i++) {
        rig_pump_until_closed(all[i]);
        rig_hang_up(all[i]);
    }
    rig_reply(wait, 200, "late");
    tt_http_stream_end(stream);
    tt_http_release_body(wait); /* a worker that ends after the daemon */
    tt_http_unref(wait);
    tt_http_unref(stream);
    assert_int_equal(rig_gone, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_routes, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_request_ids, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_types, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_keys, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_a_body_arrives_whole, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_bodies_that_are_too_large, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_bodies_together, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_expectations, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_phases, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_leaving_in_the_middle, rig_set_up, rig_tear_down),
        cmocka_unit_test_setup_teardown(test_stopping, rig_set_up, rig_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
