/* test_http_commit.c - answers that wait for their transaction, against a real connection and a
 * state on disk whose results come when the test looks for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "http_rig.h"
#include "server/http_commit.h"
#include "server/http_once.h"
#include "server/idempotency_state.h"

static char dir[64];
static int ended, ended_rc;

static void on_end(void *arg, tt_code rc)
{
    ended++;
    ended_rc = (int)rc;
    assert_ptr_equal(arg, &ended);
}

static int set_up(void **state)
{
    tt_err err;
    strcpy(dir, "/tmp/qttt-commit-XXXXXX");
    ended = 0;
    return rig_set_up(state) != 0 || mkdtemp(dir) == NULL ||
           tt_state_open(&(tt_state_options){.dir = dir}, &rig_server.state, &err) != TT_OK ||
           tt_idem_state_start(&rig_server, &err) != TT_OK;
}

static int tear_down(void **state)
{
    char command[80];
    int rc = rig_tear_down(state);
    snprintf(command, sizeof command, "rm -r %s", dir);
    tt_state_close(&rig_server.state);
    tt_idem_destroy(&rig_server.idempotency);
    return rc != 0 || system(command) != 0;
}

/* As a handler of something that is created. */
static void put(tt_http_request *req, const char *id)
{
    tt_state_txn *x = tt_http_txn(req);
    assert_ptr_equal(x, tt_http_txn(req)); /* one a request */
    (void)tt_state_put(x, TT_STATE_SESSION, &(tt_state_row){.scope = "", .id = id});
    tt_http_txn_end(req, on_end, &ended);
}

static tt_code count_row(void *arg, const tt_state_row *r)
{
    ++*(int *)arg;
    return TT_OK;
}

static int rows(tt_state_table t)
{
    int n = 0;
    tt_err err;
    assert_int_equal(tt_state_each(rig_server.state, t, count_row, &n, &err), TT_OK);
    return n;
}

/* Turns until the writer has told of `want` transactions in all. */
static void poll_until(int want)
{
    for (int i = 0; i < 30000 && ended < want; i++) {
        struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
        tt_state_poll(rig_server.state);
    }
    assert_int_equal(ended, want);
}

static void an_answer_waits(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = rig_arrive(&c, "");
    put(req, "one");
    rig_reply(req, 201, "made");
    rig_turns(20);
    rig_pump(&c, 1 << 16);
    assert_int_equal(c.n, 0);
    assert_int_equal(ended, 0);
    poll_until(1);
    assert_int_equal(ended_rc, TT_OK);
    rig_pump_until(&c, "made");
    assert_int_equal(rig_status(c.p), 201);
    assert_int_equal(rows(TT_STATE_SESSION), 1);
    rig_hang_up(&c);
}

/* With a key: the answer's row is in the same transaction, and until it is committed the request
 * still runs. */
static void an_answer_under_a_key(void **state)
{
    static const char key[] = "Idempotency-Key: k\r\n";
    rig_client c = rig_dial(), d = rig_dial();
    tt_http_request *req = rig_arrive(&c, key);
    assert_true(tt_http_once(req, ""));
    put(req, "one");
    rig_reply(req, 201, "made");
    assert_false(tt_http_once(rig_arrive(&d, key), ""));
    rig_pump_until(&d, "idempotency_key_in_use");
    poll_until(1);
    rig_pump_until(&c, "made");
    assert_int_equal(rows(TT_STATE_IDEMPOTENCY), 1);
    assert_false(tt_http_once(rig_arrive(&d, key), ""));
    rig_pump_until(&d, "made");
    assert_int_equal(rig_status(d.p), 201);
    rig_hang_up(&c);
    rig_hang_up(&d);
}

static void an_error_commits_nothing(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = rig_arrive(&c, "");
    put(req, "one");
    rig_reply(req, 409, "no");
    rig_pump_until(&c, "no");
    assert_int_equal(ended, 1);
    assert_int_equal(ended_rc, TT_E_CANCELLED);
    req = rig_arrive(&c, "");
    put(req, "two");
    tt_http_ref(req);
    rig_hang_up(&c); /* and its handler gives up */
    rig_until_active(0);
    tt_http_unref(req);
    assert_int_equal(ended, 2);
    assert_int_equal(rows(TT_STATE_SESSION), 0);
}

/* Done, though nobody hears of it. */
static void a_client_that_leaves(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = rig_arrive(&c, "");
    put(req, "one");
    rig_reply(req, 201, "made");
    rig_hang_up(&c);
    rig_until_active(0);
    poll_until(1);
    assert_int_equal(rows(TT_STATE_SESSION), 1);
    c = rig_dial();
    req = rig_arrive(&c, "");
    tt_http_ref(req);
    rig_hang_up(&c);
    rig_until_active(0);
    put(req, "two"); /* it had begun before */
    rig_reply(req, 201, "made");
    tt_http_unref(req);
    poll_until(2);
    assert_int_equal(rows(TT_STATE_SESSION), 2);
}

/* What comes before the transaction goes out, what comes after it waits. */
static void a_stream_waits(void **state)
{
    rig_client c = rig_dial();
    tt_http_request *req = rig_arrive(&c, "");
    tt_http_stream_begin(req);
    for (int i = 0; i < 20000; i++) { /* more than is dropped at once */
        tt_buf_printf(tt_http_stream_out(req), "data: %05d\n\n", i);
    }
    put(req, "one");
    tt_buf_puts(tt_http_stream_out(req), "data: last\n\ndata: [DONE]\n\n");
    tt_http_stream_end(req);
    rig_pump_until(&c, "data: 19999");
    rig_turns(20);
    rig_pump(&c, 1 << 16);
    assert_null(strstr(c.p, "last"));
    poll_until(1);
    rig_pump_until(&c, "[DONE]\n\n");
    rig_pump_until(&c, "\r\n0\r\n\r\n");
    rig_hang_up(&c);
}

/* A row of this id cannot be written from now on. */
static void refuse_rows(const char *id)
{
    char path[100], sql[200];
    sqlite3 *c = NULL;
    snprintf(path, sizeof path, "%s/state.db", dir);
    snprintf(sql, sizeof sql,
             "CREATE TRIGGER t BEFORE INSERT ON session WHEN new.id = '%s' "
             "BEGIN SELECT zeroblob(2000000000); END",
             id);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    assert_int_equal(sqlite3_exec(c, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(c);
}

static void a_failure(void **state)
{
    rig_client c = rig_dial();
    refuse_rows("bad");
    tt_http_request *req = rig_arrive(&c, "Idempotency-Key: k\r\n");
    assert_true(tt_http_once(req, ""));
    put(req, "bad");
    tt_http_header(req, "Location", "/nowhere");
    rig_reply(req, 201, "made");
    poll_until(1);
    assert_int_equal(ended_rc, TT_E_STATE);
    rig_pump_until(&c, "}}");
    assert_int_equal(rig_status(c.p), 500);
    assert_non_null(strstr(c.p, "state_unavailable"));
    assert_null(strstr(c.p, "/nowhere"));
    assert_int_equal(rows(TT_STATE_SESSION), 0);
    assert_int_equal(rows(TT_STATE_IDEMPOTENCY), 0);
    assert_int_equal(tt_idem_get_stats(rig_server.idempotency).entries, 0); /* the key is free */
    req = rig_arrive(&c, "");
    tt_http_stream_begin(req);
    tt_buf_puts(tt_http_stream_out(req), "data: first\n\n");
    put(req, "bad");
    tt_buf_puts(tt_http_stream_out(req), "data: last\n\ndata: [DONE]\n\n");
    tt_http_stream_end(req);
    poll_until(2);
    rig_pump_until(&c, "\r\n0\r\n\r\n");
    assert_non_null(strstr(c.p, "data: first"));
    assert_non_null(strstr(c.p, "state_unavailable"));
    assert_null(strstr(c.p, "last"));
    assert_null(strstr(c.p, "[DONE]"));
    rig_hang_up(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_answer_waits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_answer_under_a_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_error_commits_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_client_that_leaves, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_waits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failure, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
