/* test_job_row.c - a job's record as a row and back: every member, the log, what a later limit
 * cuts, and rows that are no jobs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine.h"
#include "fail_alloc.h"
#include "server/api_json.h"
#include "server/job_json.h"
#include "server/job_row.h"
#include "server/job_table.h"

static double now(void)
{
    return 1000.25;
}

static tt_job_table *table;
static tt_job *job;

static tt_job_record *open_record(void)
{
    tt_job_table_options o = {.now = now, .max_events = 8};
    tt_job_params p = {.kind = TT_JOB_TRAIN, .n_prompt = 300};
    int32_t ids[300];
    tt_job_record *r;
    tt_err err;
    for (int i = 0; i < 300; i++) {
        ids[i] = i;
    }
    p.prompt = ids;
    tt_qttt_defaults(&p.qttt);
    p.qttt.mode = TT_QTTT_ON;
    p.qttt.lora = p.qttt.sgd = true;
    p.qttt.objective = TT_RECALL;
    p.qttt.steps = 10;
    p.qttt.seed = 0xfedcba9876543210u;
    p.qttt.learning_rate = 0.1 / 3;
    p.qttt.weight_decay = 0.1f;
    p.qttt.layers[3] = 0xa5;
    p.qttt.max_seconds = 1.5;
    p.qttt.max_span_tokens = (int64_t)1 << 40;
    p.qttt.context_tokens = 300;
    p.qttt.start_adapter = 0x8000000000000001u;
    assert_int_equal(tt_job_table_create(&o, &table, &err), TT_OK);
    assert_int_equal(tt_job_create(&p, NULL, NULL, &job, &err), TT_OK);
    tt_job_open open = {.scope = "tenant",
                        .key = "k",
                        .session_id = "ses_k",
                        .model = "a \"model\"",
                        .metadata = "{\"a\":\"\xc3\xa9\"}",
                        .after_n = 4,
                        .generation = 2,
                        .jobs = &job,
                        .n_jobs = 1};
    assert_int_equal(tt_job_table_open(table, &open, &r, &err), TT_OK);
    return r;
}

static void close_record(tt_job_record *r)
{
    tt_job_record_unref(&r);
    tt_job_unref(&job);
    tt_job_table_destroy(&table);
}

static void feed(tt_job_record *r, tt_event ev)
{
    tt_job_record_feed(r, &ev, 1001.5);
}

/* Started, stepped, probed and, when `end`, succeeded. */
static void run(tt_job_record *r, int n_steps, bool end)
{
    tt_event ev = {.type = TT_EV_STARTED};
    feed(r, ev);
    ev = (tt_event){.type = TT_EV_PROBE, .u.probe = {.recall = 1.0 / 3, .span = NAN}};
    feed(r, ev);
    for (int i = 1; i <= n_steps; i++) {
        ev = (tt_event){.type = TT_EV_ADAPT};
        ev.u.adapt.step = i;
        ev.u.adapt.span_start = 7 * i;
        ev.u.adapt.span_tokens = 64;
        ev.u.adapt.loss = i == 2 ? INFINITY : 2.0 / i;
        ev.u.adapt.grad_norm = 0.1 * i;
        ev.u.adapt.learning_rate = 3e-6;
        ev.u.adapt.seconds = 0.25;
        feed(r, ev);
    }
    if (end) {
        ev = (tt_event){.type = TT_EV_ADAPTED};
        tt_qttt_result *q = &ev.u.adapted;
        q->status = "succeeded";
        q->reason = "guard_discarded";
        q->stop_reason = "plateau";
        q->params = r->params;
        q->adapter_id = 0xffffffffffffffffu;
        q->generation = 1;
        q->steps_done = n_steps;
        q->n_dropped = 1;
        q->trained_tokens = 640;
        q->have_recall = true;
        q->recall_before = 1.0 / 3;
        q->recall_after = 0.2;
        q->recall_se = 1e-300;
        q->recall_segments = 10;
        q->span_loss_before = q->span_loss_after = NAN;
        q->loss_first = 3.3;
        q->loss_last = 2.2;
        q->delta_norm_relative = 0.012345678901234567;
        q->flops = 1.23e15;
        q->equal_cost_tokens = 17.5;
        q->adapt_seconds = 9.75;
        q->adapter_bytes = (int64_t)5 << 33;
        q->durable = true;
        strcpy(q->not_durable, "why");
        feed(r, ev);
    }
}

static void write(const tt_job_record *r, tt_buf *json, tt_buf *events)
{
    tt_job_row_write(json, r);
    tt_job_row_write_events(events, &r->log);
    assert_false(json->failed || events->failed);
}

static tt_job_record *read_back(const tt_buf *json, const tt_buf *events, int32_t max_events)
{
    tt_job_record *r = NULL;
    tt_err err = {0};
    tt_state_row row = {.scope = "tenant",
                        .id = "qttt_k_5",
                        .json = json->p,
                        .blob = events->p,
                        .n_blob = events->n};
    tt_code rc = tt_job_row_read(&row, max_events, &r, &err);
    assert_string_equal(err.msg, "");
    assert_int_equal(rc, TT_OK);
    return r;
}

/* What clients see of it, events included. */
static void shown(const tt_job_record *r, tt_buf *b)
{
    int32_t n;
    const tt_job_event *v = tt_job_log_after(&r->log, 0, &n);
    tt_buf_clear(b);
    tt_job_json_write(b, r, 1002);
    for (int32_t i = 0; i < n; i++) {
        tt_job_json_event(b, &v[i]);
    }
    tt_buf_putc(b, '\0');
    assert_false(b->failed);
}

static void round_trip(void **state)
{
    for (int i = 0; i < 3; i++) { /* running, succeeded, and with a log that is full */
        tt_buf json = {0}, events = {0}, json2 = {0}, events2 = {0}, a = {0}, b = {0};
        tt_job_record *r = open_record();
        run(r, i == 2 ? 10 : 3, i > 0);
        r->pause_asked = i == 0;
        write(r, &json, &events);
        tt_job_record *back = read_back(&json, &events, 8);
        write(back, &json2, &events2);
        assert_string_equal(json.p, json2.p);
        assert_int_equal(events.n, events2.n);
        assert_memory_equal(events.p, events2.p, events.n);
        if (i > 0) { /* of one that runs, the estimate is not kept */
            shown(r, &a);
            shown(back, &b);
            assert_string_equal(a.p, b.p);
        }
        assert_string_equal(back->id, r->id);
        assert_string_equal(back->scope, "tenant");
        assert_string_equal(back->key, "k");
        assert_int_equal(back->n, 5);
        assert_int_equal(back->status, i == 0 ? TT_JOB_RUNNING : TT_JOB_SUCCEEDED);
        assert_int_equal(back->context_hash, r->context_hash);
        assert_true(back->context_hash != 0);
        assert_int_equal(back->pause_asked, i == 0);
        assert_true(back->created_at == 1000.25);
        assert_int_equal(memcmp(&back->params, &r->params, sizeof r->params), 0);
        assert_int_equal(back->log.last, r->log.last);
        assert_int_equal(back->log.lost, i == 2 ? 5 : 0);
        assert_int_equal(back->n_jobs, 0);
        tt_buf *all[] = {&json, &events, &json2, &events2, &a, &b};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
            tt_buf_finish(all[k]);
        }
        tt_job_record_unref(&back);
        close_record(r);
    }
}

/* Numbers go on where they were, also when the events themselves are cut or lost. */
static void numbers_go_on(void **state)
{
    tt_buf json = {0}, events = {0};
    tt_job_record *r = open_record();
    int32_t n;
    run(r, 4, false); /* six events */
    write(r, &json, &events);
    tt_job_record *back = read_back(&json, &events, 2);
    const tt_job_event *v = tt_job_log_after(&back->log, 0, &n);
    assert_int_equal(n, 2);
    assert_int_equal(v[0].number, 5);
    assert_int_equal(back->log.lost, 4);
    tt_job_record_restart(back, 1010);
    v = tt_job_log_after(&back->log, 6, &n);
    assert_int_equal(n, 1);
    assert_true(v[0].number > 6 + 10); /* what came after the row has its numbers for itself */
    assert_string_equal(v[0].u.status.status, "queued");
    assert_string_equal(v[0].u.status.reason, "server_restarted");
    assert_int_equal(back->steps_done, 0);
    tt_job_record_unref(&back);
    tt_buf_clear(&events);
    tt_buf_puts(&events, "[[1,1001,0,2,\"running\",\"\"],[2,1001,0,9");
    back = read_back(&json, &events, 8); /* half a text: no event, but no number twice */
    (void)tt_job_log_after(&back->log, 0, &n);
    assert_int_equal(n, 0);
    tt_job_record_lost(back, "why", 1010);
    v = tt_job_log_after(&back->log, 0, &n);
    assert_true(v[0].number > 6 + 10);
    assert_int_equal(back->status, TT_JOB_FAILED);
    assert_string_equal(back->error_code, "server_restarted");
    assert_string_equal(back->error_message, "why");
    tt_job_record_unref(&back);
    tt_buf_finish(&json);
    tt_buf_finish(&events);
    close_record(r);
}

/* What was asked for before the restart holds after it. */
static void wishes(void **state)
{
    const struct {
        bool cancel, pause;
        tt_job_status status;
    } rows[] = {{false, false, TT_JOB_QUEUED},
                {false, true, TT_JOB_PAUSED},
                {true, false, TT_JOB_CANCELLED},
                {true, true, TT_JOB_CANCELLED}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tt_buf json = {0}, events = {0};
        tt_job_record *r = open_record();
        run(r, 1, false);
        r->cancel_asked = rows[i].cancel;
        r->pause_asked = rows[i].pause;
        write(r, &json, &events);
        tt_job_record *back = read_back(&json, &events, 8);
        tt_job_record_restart(back, 1010);
        assert_int_equal(back->status, rows[i].status);
        if (rows[i].status == TT_JOB_PAUSED) { /* nobody has it yet: it changes at once */
            tt_job_record_pause(back, false);
            assert_int_equal(back->status, TT_JOB_QUEUED);
            tt_job_record_cancel(back);
            assert_int_equal(back->status, TT_JOB_CANCELLED);
        }
        tt_job_record_unref(&back);
        tt_buf_finish(&json);
        tt_buf_finish(&events);
        close_record(r);
    }
}

static void replace(tt_buf *b, const char *what, const char *by)
{
    char *at = strstr(b->p, what);
    assert_non_null(at);
    tt_buf rest = {0};
    tt_buf_puts(&rest, at + strlen(what));
    b->n = (size_t)(at - b->p);
    tt_buf_puts(b, by);
    tt_buf_put(b, rest.p, rest.n);
    tt_buf_putc(b, '\0');
    tt_buf_finish(&rest);
}

static void rows_that_are_none(void **state)
{
    static const struct {
        const char *what, *by;
        tt_code code;
    } rows[] = {
        {"{\"version\":1", "{\"version\":2", TT_E_UNSUPPORTED},
        {"{\"version\":1", "{\"version\":0", TT_E_INVALID},
        {"{\"version\":1", "\"version\":1", TT_E_INVALID},
        {"\"n\":5", "\"n\":99999999999", TT_E_INVALID},
        {"\"n\":5", "\"n\":\"5\"", TT_E_INVALID},
        {"\"status\":3", "\"status\":6", TT_E_INVALID},
        {"\"status\":3", "\"status\":-1", TT_E_INVALID},
        {"\"seed\":\"fed", "\"seed\":\"xed", TT_E_INVALID},
        {"\"layers\":\"", "\"layers\":\"0", TT_E_INVALID},
        {"\"in_request\":false", "\"in_request\":0", TT_E_INVALID},
        {"\"stop_reason\":\"plateau\"", "\"stop_reason\":1", TT_E_INVALID},
        {"\"status\":\"succeeded\"", "\"status\":null", TT_E_INVALID},
        {"\"metadata\":{", "\"metadata\":1,\"x\":{", TT_E_INVALID},
        {"\"last\":6", "\"last\":-6", TT_E_INVALID},
        {"\"key\":\"k\"", "\"key\":null", TT_E_INVALID},
        {"\"result\":{", "\"results\":{", TT_E_INVALID},
    };
    tt_job_record *r = open_record(), *back = NULL;
    run(r, 3, true);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tt_buf json = {0};
        tt_err err = {0};
        tt_job_row_write(&json, r);
        replace(&json, rows[i].what, rows[i].by);
        tt_state_row row = {.scope = "tenant", .id = "qttt_k_5", .json = json.p};
        assert_int_equal(tt_job_row_read(&row, 8, &back, &err), rows[i].code);
        assert_true(err.msg[0] != '\0');
        assert_null(back);
        tt_buf_finish(&json);
    }
    close_record(r);
}

/* A row for which memory runs out anywhere is not one that is wrong, and would be deleted. */
static void no_memory(void **state)
{
    tt_buf json = {0}, events = {0};
    tt_job_record *r = open_record(), *back = NULL;
    run(r, 3, true);
    write(r, &json, &events);
    tt_state_row row = {
        .scope = "tenant", .id = "qttt_k_5", .json = json.p, .blob = events.p, .n_blob = events.n};
    for (int n = 0, refused = 1; refused != 0; n++) {
        tt_err err = {0};
        fail_alloc_at(n);
        tt_code rc = tt_job_row_read(&row, 8, &back, &err);
        refused = fail_alloc_off();
        assert_int_equal(rc, refused ? TT_E_NOMEM : TT_OK);
        assert_true(refused || n > 100); /* jansson's are among them */
    }
    tt_job_record_unref(&back);
    tt_buf_finish(&json);
    tt_buf_finish(&events);
    close_record(r);
}

int main(void)
{
    tt_json_watch_memory();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip), cmocka_unit_test(numbers_go_on),
        cmocka_unit_test(wishes),     cmocka_unit_test(rows_that_are_none),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
