/* test_http_once.c - requests under an Idempotency-Key against a real connection: what is kept of
 * whole answers and of streams, also of slow readers' and of those who leave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http_rig.h"
#include "server/http_once.h"
#include "server/idempotency.h"

static int set_up(void **state)
{
    tt_err err;
    tt_idem_options o = {.max_bytes = 64 << 20};
    return rig_set_up(state) != 0 || tt_idem_create(&o, &rig_server.idempotency, &err) != TT_OK;
}

static int tear_down(void **state)
{
    int rc = rig_tear_down(state);
    tt_idem_destroy(&rig_server.idempotency);
    return rc;
}

#define KEY "Idempotency-Key: k\r\n"

/* The whole answer to a request that the store answers by itself. */
static const char *answered(rig_client *c, const char *headers)
{
    assert_false(tt_http_once(rig_arrive(c, headers), ""));
    rig_pump_until(c, "\r\n\r\n");
    rig_turns(5);
    rig_pump(c, 1 << 16);
    return c->p;
}

static void running(tt_http_request *req)
{
    assert_true(tt_http_once(req, ""));
    assert_non_null(req->once);
}

static int32_t n_entries(void)
{
    return tt_idem_get_stats(rig_server.idempotency).entries;
}

static void whole_answers(void **state)
{
    rig_client a = rig_dial(), b = rig_dial();
    tt_http_request *req = rig_arrive(&a, "");
    assert_true(tt_http_once(req, "")); /* no key, nothing to remember */
    rig_reply(req, 201, "stateless");
    rig_pump_until(&a, "stateless");
    assert_int_equal(n_entries(), 0);
    req = rig_arrive(&a, KEY);
    running(req);
    const char *text = answered(&b, KEY);
    assert_int_equal(rig_status(text), 409);
    assert_non_null(strstr(text, "X-Should-Retry: false\r\n"));
    assert_non_null(strstr(text, "idempotency_key_in_use"));
    tt_http_header(req, "Location", "/there");
    rig_reply(req, 201, "made");
    rig_pump_until(&a, "made");
    assert_null(strstr(a.p, "Idempotent-Replayed: true"));
    for (int i = 0; i < 2; i++) {
        text = answered(i == 0 ? &a : &b, KEY);
        assert_int_equal(rig_status(text), 201);
        assert_string_equal(rig_body(text), "made");
        assert_non_null(strstr(text, "Location: /there\r\n"));
        assert_non_null(strstr(text, "Idempotent-Replayed: true\r\n"));
    }
    req = rig_arrive(&a, KEY); /* the same key, but about something else */
    assert_true(tt_http_once(req, "other"));
    rig_reply(req, 201, "also");
    rig_pump_until(&a, "also");
    assert_int_equal(n_entries(), 2);
    rig_hang_up(&a);
    rig_hang_up(&b);
}

static void keys(void **state)
{
    char text[400];
    rig_client c = rig_dial();
    static const char *const bad[] = {"", "a b", "\xc3\xa9", "x\x7f"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(text, sizeof text, "Idempotency-Key: %s\r\n", bad[i]);
        assert_int_equal(rig_status(answered(&c, text)), 400);
    }
    memset(text, 'x', sizeof text);
    memcpy(text, "Idempotency-Key: ", 17);
    strcpy(text + 17 + TT_IDEM_MAX_KEY, "\r\n");
    running(rig_arrive(&c, text));
    rig_reply(rig_held, 200, "long");
    rig_pump_until(&c, "long");
    strcpy(text + 17 + TT_IDEM_MAX_KEY, "y\r\n");
    assert_int_equal(rig_status(answered(&c, text)), 400);
    rig_hang_up(&c);
}

/* What did nothing leaves the key free. */
static void failures(void **state)
{
    static const int statuses[] = {400, 404, 409, 429, 500, 503};
    rig_client c = rig_dial();
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        running(rig_arrive(&c, KEY));
        rig_reply(rig_held, statuses[i], "no");
        rig_pump_until(&c, "no");
        assert_int_equal(n_entries(), 0);
    }
    running(rig_arrive(&c, KEY));
    rig_hang_up(&c); /* while it runs, and its handler gives up */
    rig_turn_until(&rig_gone, 1);
    rig_until_active(0);
    assert_int_equal(n_entries(), 0);
}

/* It was done, though its client did not hear of it: that is what keys are for. */
static void a_client_that_leaves(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = rig_arrive(&c, KEY);
    running(req);
    tt_http_ref(req);
    rig_hang_up(&c);
    rig_turn_until(&rig_gone, 1);
    rig_until_active(0);
    assert_int_equal(n_entries(), 1);
    rig_reply(req, 201, "made");
    tt_http_unref(req);
    c = rig_dial();
    const char *text = answered(&c, KEY);
    assert_int_equal(rig_status(text), 201);
    assert_string_equal(rig_body(text), "made");
    rig_hang_up(&c);
}

/* Numbered lines in bursts, read in pieces of which none is a burst: the buffer is compacted, and
 * emptied, and what is kept is the whole. */
static void streams(void **state)
{
    enum { BURSTS = 30, LINES = 4000, LINE = 64 };
    rig_client c = rig_dial(), d = rig_dial();
    rig_settings.backlog = 100000;
    tt_http_request *req = rig_arrive(&c, KEY);
    running(req);
    tt_http_stream_begin(req);
    rig_pump_until(&c, "\r\n\r\n");
    size_t head = (size_t)(rig_body(c.p) - c.p);
    for (int i = 0; i < BURSTS * LINES; i++) {
        tt_buf_printf(tt_http_stream_out(req), "data: %0*d\n\n", LINE - 8, i);
        if (i < 20) { /* event by event: the buffer is emptied each time */
            tt_http_stream_flush(req);
            while (tt_http_stream_pending(req) > 0) {
                rig_pump(&c, 1 << 20);
            }
        }
        if (i % LINES == LINES - 1) {
            tt_http_stream_flush(req);
            for (int k = 0; k < i / LINES % 7; k++) {
                rig_pump(&c, 100000);
            }
            while (i / LINES % 7 == 6 && tt_http_stream_pending(req) > 0) {
                rig_pump(&c, 1 << 20);
            }
        }
    }
    assert_int_equal(rig_status(answered(&d, KEY)), 409);
    tt_buf_puts(tt_http_stream_out(req), "data: [DONE]\n\n");
    tt_http_stream_end(req);
    while (c.n < 7 || memcmp(c.p + c.n - 7, "\r\n0\r\n\r\n", 7) != 0) {
        rig_pump(&c, 1 << 20);
    }
    size_t n = rig_dechunk(c.p + head), want = (size_t)BURSTS * LINES * LINE + 14;
    assert_int_equal(n, want);
    assert_false(tt_http_once(rig_arrive(&d, KEY), ""));
    do {
        rig_pump(&d, 1 << 20);
        assert_false(d.closed);
    } while (strstr(d.p, "[DONE]\n\n") == NULL);
    assert_non_null(strstr(d.p, "Content-Type: text/event-stream\r\n"));
    assert_non_null(strstr(d.p, "Idempotent-Replayed: true\r\n"));
    assert_int_equal(strlen(rig_body(d.p)), want);
    assert_memory_equal(rig_body(d.p), c.p + head, want);
    rig_hang_up(&c);
    rig_hang_up(&d);
}

static void streams_that_fail(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = rig_arrive(&c, KEY);
    running(req);
    tt_http_stream_begin(req);
    tt_buf_puts(tt_http_stream_out(req), "data: 1\n\ndata: {\"error\":{}}\n\n");
    tt_http_stream_end(req);
    rig_pump_until(&c, "error");
    assert_int_equal(n_entries(), 0); /* what it was has been rolled back */
    rig_turns(5);
    rig_hang_up(&c);
    rig_until_active(0);
    c = rig_dial();
    req = rig_arrive(&c, KEY);
    running(req);
    tt_http_stream_begin(req);
    tt_buf_puts(tt_http_stream_out(req), "data: 1\n\n");
    tt_http_stream_flush(req);
    rig_pump_until(&c, "data: 1");
    rig_hang_up(&c); /* in the middle */
    rig_turn_until(&rig_gone, 1);
    rig_until_active(0);
    assert_int_equal(n_entries(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(whole_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keys, set_up, tear_down),
        cmocka_unit_test_setup_teardown(failures, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_client_that_leaves, set_up, tear_down),
        cmocka_unit_test_setup_teardown(streams, set_up, tear_down),
        cmocka_unit_test_setup_teardown(streams_that_fail, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
