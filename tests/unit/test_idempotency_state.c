/* test_idempotency_state.c - answers under a key as rows: to text and back, and through a state on
 * disk into another server's store. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fail_alloc.h"
#include "http_rig.h"
#include "server/api_json.h"
#include "server/idempotency_state.h"

static const tt_idem_result answer = {
    .status = 201,
    .content_type = "application/json",
    .headers = {{"Location", "/there"}, {"X-Session-Id", "a\"b"}},
    .n_headers = 2,
    .body = "{\"id\":\0 1}",
    .n_body = 10,
};

static void same(const tt_idem_result *a, const tt_idem_result *b)
{
    assert_int_equal(a->status, b->status);
    assert_string_equal(a->content_type, b->content_type);
    assert_int_equal(a->n_headers, b->n_headers);
    for (int i = 0; i < a->n_headers; i++) {
        assert_string_equal(a->headers[i].name, b->headers[i].name);
        assert_string_equal(a->headers[i].value, b->headers[i].value);
    }
    assert_int_equal(a->n_body, b->n_body);
    assert_memory_equal(a->body, b->body, a->n_body);
}

static void round_trip(void **state)
{
    tt_buf json = {0}, blob = {0};
    tt_idem_image im = {.scope = "s", .name = "s\0POST\0/p\0\0k", .n_name = 13, .result = answer};
    tt_idem_image back;
    json_t *keep;
    tt_err err;
    memset(im.body, 0xa5, sizeof im.body);
    tt_idem_row_write(&json, &blob, &im);
    tt_state_row row = {.json = json.p, .blob = blob.p, .n_blob = blob.n};
    assert_int_equal(tt_idem_row_read(&row, &keep, &back, &err), TT_OK);
    assert_int_equal(back.n_name, 13);
    assert_memory_equal(back.name, im.name, 13);
    assert_memory_equal(back.body, im.body, sizeof im.body);
    same(&back.result, &answer);
    json_decref(keep);
    static const struct {
        const char *json;
        size_t n_blob;
        tt_code code;
    } bad[] = {
        {"{\"version\":2}", 13, TT_E_UNSUPPORTED},
        {"{}", 13, TT_E_INVALID},
        {"[", 13, TT_E_INVALID},
        {NULL, 12, TT_E_INVALID}, /* shorter than its name */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        row.json = bad[i].json != NULL ? bad[i].json : json.p;
        row.n_blob = bad[i].n_blob;
        assert_int_equal(tt_idem_row_read(&row, &keep, &back, &err), bad[i].code);
        json_decref(keep);
    }
    tt_buf_finish(&json);
    tt_buf_finish(&blob);
}

/* A row for which memory runs out anywhere is not one that is wrong, and would be deleted. */
static void no_memory(void **state)
{
    tt_buf json = {0}, blob = {0};
    tt_idem_image im = {.scope = "s", .name = "s\0POST\0/p\0\0k", .n_name = 13, .result = answer};
    tt_idem_row_write(&json, &blob, &im);
    tt_state_row row = {.json = json.p, .blob = blob.p, .n_blob = blob.n};
    for (int n = 0, refused = 1; refused != 0; n++) {
        tt_idem_image back;
        json_t *keep;
        tt_err err;
        fail_alloc_at(n);
        tt_code rc = tt_idem_row_read(&row, &keep, &back, &err);
        refused = fail_alloc_off();
        assert_int_equal(rc, refused ? TT_E_NOMEM : TT_OK);
        assert_true(refused || n > 10); /* jansson's are among them */
        json_decref(keep);
    }
    tt_buf_finish(&json);
    tt_buf_finish(&blob);
}

/* ---- through a file ---- */

static char dir[] = "/tmp/qttt-idem-XXXXXX";

static void open_state(void)
{
    tt_err err = {0};
    tt_state_options o = {.dir = dir};
    assert_int_equal(tt_state_open(&o, &rig_server.state, &err), TT_OK);
    assert_int_equal(tt_idem_state_start(&rig_server, &err), TT_OK);
}

static void close_state(void)
{
    tt_state_close(&rig_server.state);
    tt_idem_destroy(&rig_server.idempotency);
}

static int set_up(void **state)
{
    strcpy(dir, "/tmp/qttt-idem-XXXXXX");
    return rig_set_up(state) != 0 || mkdtemp(dir) == NULL;
}

static int tear_down(void **state)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return rig_tear_down(state) != 0 || system(command) != 0;
}

static tt_idem_entry *entry;
static tt_idem_result found;

static int begin(const char *key, const char *body)
{
    tt_err err;
    tt_idem_request r = {"a", "POST", "/p", "", key, body, strlen(body)};
    return (int)tt_idem_begin(rig_server.idempotency, &r, tt_now(), &entry, &found, &err);
}

/* The row goes in before the entry is finished, as with a request. */
static void answer_with(const tt_idem_result *r)
{
    tt_idem_image im;
    tt_state_txn *x = tt_state_begin(rig_server.state);
    tt_idem_get_image(rig_server.idempotency, entry, r, &im);
    assert_true(tt_idem_state_put(&rig_server, x, &im));
    tt_state_commit(x, NULL, NULL);
    tt_idem_finish(rig_server.idempotency, entry, r);
    tt_idem_state_flush(&rig_server);
}

static int32_t n_rows;

static tt_code count_row(void *arg, const tt_state_row *r)
{
    n_rows++;
    return TT_OK;
}

static int32_t rows(void)
{
    tt_err err;
    n_rows = 0;
    assert_int_equal(tt_state_each(rig_server.state, TT_STATE_IDEMPOTENCY, count_row, NULL, &err),
                     TT_OK);
    return n_rows;
}

static void restarts(void **state)
{
    rig_settings.idempotency_ttl = 1000;
    rig_settings.idempotency_entries = 3;
    rig_settings.idempotency_bytes = 1 << 16;
    open_state();
    assert_int_equal(begin("k", "{}"), TT_IDEM_NEW);
    answer_with(&answer);
    assert_int_equal(begin("large", "{}"), TT_IDEM_NEW);
    static char text[20000];
    tt_idem_result large = answer;
    large.body = text;
    large.n_body = sizeof text;
    answer_with(&large);
    assert_int_equal(begin("running", "{}"), TT_IDEM_NEW);
    close_state();
    open_state();
    assert_int_equal(begin("k", "{}"), TT_IDEM_STORED);
    same(&found, &answer);
    assert_int_equal(begin("k", "[]"), TT_IDEM_OTHER_BODY);
    assert_int_equal(begin("large", "{}"), TT_IDEM_STORED); /* it ran, without an answer to give */
    assert_int_equal(found.status, 0);
    assert_int_equal(begin("running", "{}"), TT_IDEM_NEW); /* free again: nothing came of it */
    tt_idem_abandon(rig_server.idempotency, entry);
    assert_int_equal(rows(), 2);
    for (int i = 0; i < 2; i++) { /* the oldest gives way, and its row with it */
        assert_int_equal(begin(i == 0 ? "x" : "y", "{}"), TT_IDEM_NEW);
        answer_with(&answer);
    }
    close_state();
    open_state();
    assert_int_equal(rows(), 3);
    assert_int_equal(begin("large", "{}"), TT_IDEM_STORED);
    assert_int_equal(begin("y", "{}"), TT_IDEM_STORED);
    close_state();
    rig_settings.idempotency_entries = 2; /* a smaller store takes the older ones */
    open_state();
    close_state();
    open_state();
    assert_int_equal(rows(), 2);
    close_state();
}

/* Age is counted over a restart. */
static void age(void **state)
{
    rig_settings.idempotency_ttl = 2; /* longer than the disk takes until it is asked again */
    open_state();
    assert_int_equal(begin("k", "{}"), TT_IDEM_NEW);
    answer_with(&answer);
    close_state();
    rig_settings.idempotency_ttl = 1000;
    open_state();
    assert_int_equal(begin("k", "{}"), TT_IDEM_STORED);
    close_state();
    nanosleep(&(struct timespec){.tv_sec = 2}, NULL);
    open_state();
    assert_int_equal(begin("k", "{}"), TT_IDEM_NEW);
    close_state();
    open_state();
    assert_int_equal(rows(), 0);
    close_state();
}

int main(void)
{
    tt_json_watch_memory();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(no_memory),
        cmocka_unit_test_setup_teardown(restarts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(age, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
