/* test_job_record.c - what engine events make of a record, the table's lists and retention, the
 * JSON. The engine's side of the job is played by the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine.h"
#include "server/job_json.h"
#include "server/job_table.h"

static double clock_now;

static double now(void)
{
    return clock_now;
}

static tt_job_table *create(tt_job_table_options o)
{
    tt_job_table *t;
    tt_err err;
    o.now = now;
    clock_now = 1000;
    assert_int_equal(tt_job_table_create(&o, &t, &err), TT_OK);
    return t;
}

static tt_job *new_job(void)
{
    static const int32_t ids[2000];
    tt_job_params p = {.kind = TT_JOB_TRAIN, .prompt = ids, .n_prompt = 2000};
    tt_job *job;
    tt_err err;
    tt_qttt_defaults(&p.qttt);
    p.qttt.steps = 10;
    p.qttt.span_tokens = 64;
    p.qttt.context_tokens = 2000;
    p.qttt.seed = 7;
    assert_int_equal(tt_job_create(&p, NULL, NULL, &job, &err), TT_OK);
    return job;
}

/* A record whose job the table reads; *ret_job: a reference for the test, which plays the engine.
 */
static tt_job_record *open_as(tt_job_table *t, tt_job_open o, tt_job **ret_job)
{
    tt_job_record *r;
    tt_err err;
    tt_job *job = new_job();
    o.jobs = &job;
    o.n_jobs = 1;
    o.model = "m";
    o.scope = o.scope != NULL ? o.scope : "a";
    assert_int_equal(tt_job_table_open(t, &o, &r, &err), TT_OK);
    if (ret_job != NULL) {
        *ret_job = job;
    } else {
        tt_job_unref(&job);
    }
    return r;
}

static void push(tt_job *job, tt_event ev)
{
    tt_event *copy = malloc(sizeof *copy);
    assert_non_null(copy);
    *copy = ev;
    tt_job_push(job, copy);
}

static tt_event step(int32_t i)
{
    tt_event ev = {.type = TT_EV_ADAPT};
    ev.u.adapt.step = i;
    ev.u.adapt.total = 10;
    ev.u.adapt.span_start = 100 * i;
    ev.u.adapt.span_tokens = 64;
    ev.u.adapt.loss = 2.5;
    ev.u.adapt.grad_norm = 0.5;
    ev.u.adapt.learning_rate = 3e-6;
    ev.u.adapt.seconds = 0.5;
    return ev;
}

static tt_event adapted(const char *status, const char *reason, bool kept)
{
    tt_event ev = {.type = TT_EV_ADAPTED};
    tt_qttt_result *q = &ev.u.adapted;
    q->status = status;
    q->reason = reason;
    q->stop_reason = strcmp(status, "succeeded") == 0 ? "steps" : NULL;
    q->kept = kept;
    q->adapter_id = kept ? 9 : 0;
    q->steps_done = 10;
    q->trained_tokens = 640;
    q->have_recall = true;
    q->recall_before = 1.5;
    q->recall_after = 1.25;
    q->recall_se = 0.0625;
    q->recall_segments = 10;
    q->span_loss_before = q->span_loss_after = NAN;
    q->loss_first = 3;
    q->loss_last = 2;
    tt_qttt_defaults(&q->params);
    q->params.steps = 10;
    tt_qttt_resolve(&q->params);
    return ev;
}

static tt_event of_type(tt_event_type type)
{
    return (tt_event){.type = type};
}

static tt_event status_event(const char *status)
{
    tt_event ev = {.type = TT_EV_STATUS};
    ev.u.status.status = status;
    return ev;
}

static tt_event error(tt_code code, const char *msg)
{
    tt_event ev = {.type = TT_EV_ERROR};
    ev.u.error.code = code;
    snprintf(ev.u.error.msg, sizeof ev.u.error.msg, "%s", msg);
    return ev;
}

/* The record as JSON, parsed; freed by the next call. */
static json_t *parsed(const tt_job_record *r)
{
    static json_t *last;
    json_decref(last);
    last = NULL;
    if (r != NULL) {
        tt_buf b = {0};
        tt_job_json_write(&b, r, clock_now);
        last = json_loadb(b.p, b.n, 0, NULL);
        assert_non_null(last);
        tt_buf_finish(&b);
    }
    return last;
}

static const char *text_at(const tt_job_record *r, const char *key)
{
    return json_string_value(json_object_get(parsed(r), key));
}

/* The log as "status:queued step:1 ...". */
static const char *log_text(const tt_job_record *r)
{
    static char out[2048];
    int32_t n;
    size_t k = 0;
    const tt_job_event *v = tt_job_log_after(&r->log, 0, &n);
    out[0] = '\0';
    for (int32_t i = 0; i < n; i++) {
        if (v[i].type == TT_JOB_EVENT_STEP) {
            k += (size_t)snprintf(out + k, sizeof out - k, "step:%d ", v[i].u.step.step);
        } else if (v[i].type == TT_JOB_EVENT_PROBE) {
            k += (size_t)snprintf(out + k, sizeof out - k, "probe:%d ", v[i].u.probe.after);
        } else {
            k += (size_t)snprintf(out + k, sizeof out - k, "%s%s%s ", v[i].u.status.status,
                                  v[i].u.status.reason[0] != '\0' ? "/" : "", v[i].u.status.reason);
        }
    }
    return out;
}

static void publish(tt_job_record *r, void *arg)
{
    assert_int_equal(r->result.adapter_id, 9);
    assert_false(tt_job_record_ended(r)); /* nobody sees a success without its generation */
    r->generation_after = 5;
    (*(int *)arg)++;
}

static void success(void **state)
{
    tt_job_table *t = create((tt_job_table_options){0});
    tt_job *job;
    int published = 0;
    tt_job_record *r = open_as(t,
                               (tt_job_open){.key = "k",
                                             .session_id = "ses_k",
                                             .metadata = "{\"a\":\"b\"}",
                                             .generation = 4,
                                             .publish = publish,
                                             .arg = &published},
                               &job);
    assert_string_equal(r->id, "qttt_k_1");
    assert_string_equal(text_at(r, "status"), "queued");
    tt_job_set_position(job, 3, "engine");
    json_t *queue = json_object_get(parsed(r), "queue");
    assert_int_equal(json_integer_value(json_object_get(queue, "position")), 3);
    assert_string_equal(json_string_value(json_object_get(queue, "reason")), "engine");
    assert_true(json_is_null(json_object_get(parsed(r), "estimated_finish")));
    assert_true(json_is_null(json_object_get(parsed(r), "started_at")));
    clock_now = 1010;
    push(job, of_type(TT_EV_STARTED));
    push(job, of_type(TT_EV_PREFILL));
    push(job, (tt_event){.type = TT_EV_PROBE, .u.probe = {.recall = 1.5, .span = NAN}});
    push(job, step(0));
    push(job, step(1));
    tt_job_table_poll(t);
    assert_string_equal(text_at(r, "status"), "running");
    assert_true(json_is_null(json_object_get(parsed(r), "queue")));
    assert_int_equal(json_integer_value(json_object_get(parsed(r), "started_at")), 1010);
    assert_int_equal(tt_job_table_live(t, "a", "ses_k"), 1);
    push(job, (tt_event){.type = TT_EV_PROBE, .u.probe = {.after = true, .recall = 1.25}});
    push(job, adapted("succeeded", NULL, true));
    push(job, of_type(TT_EV_DONE));
    clock_now = 1020;
    tt_job_table_poll(t);
    assert_int_equal(published, 1);
    assert_string_equal(log_text(r), "running probe:0 step:1 probe:1 succeeded/steps ");
    json_t *o = parsed(r), *result = json_object_get(o, "result");
    assert_string_equal(json_string_value(json_object_get(o, "status")), "succeeded");
    assert_string_equal(json_string_value(json_object_get(o, "stop_reason")), "steps");
    assert_string_equal(json_string_value(json_object_get(o, "session_id")), "ses_k");
    assert_int_equal(json_integer_value(json_object_get(o, "created_at")), 1000);
    assert_int_equal(json_integer_value(json_object_get(o, "finished_at")), 1020);
    assert_true(json_is_null(json_object_get(o, "error")));
    assert_int_equal(json_integer_value(json_object_get(result, "generation_before")), 4);
    assert_int_equal(json_integer_value(json_object_get(result, "generation_after")), 5);
    assert_int_equal(json_integer_value(json_object_get(result, "trained_tokens")), 640);
    assert_true(json_is_true(json_object_get(result, "kept")));
    assert_true(json_is_null(json_object_get(result, "span_loss_before")));
    assert_string_equal(json_string_value(json_object_get(json_object_get(o, "metadata"), "a")),
                        "b");
    assert_int_equal(tt_job_table_live(t, NULL, NULL), 0);
    assert_int_equal(r->n_jobs, 0);
    tt_job_record_cancel(r); /* after the end: nothing */
    assert_false(tt_job_cancelled(job));
    tt_job_unref(&job);
    tt_job_record_unref(&r);
    tt_job_table_destroy(&t);
}

/* ---- rows ---- */

static int n_changed, n_gone, n_held;

static void count_changed(void *arg, tt_job_record *r)
{
    n_changed++;
}

static void count_gone(void *arg, tt_job_record *r)
{
    n_gone++;
}

static bool hold(void *arg, tt_job_record *r, const tt_event *ev)
{
    n_held++;
    return *(const bool *)arg;
}

/* The end of a job is seen when its row is written, with what followed it; until then its row can
 * be made of what it will be. */
static void ends_that_are_held(void **state)
{
    bool keep = true;
    n_changed = n_gone = n_held = 0;
    tt_job_table *t = create((tt_job_table_options){.changed = count_changed,
                                                    .gone = count_gone,
                                                    .hold = hold,
                                                    .max_finished = 1,
                                                    .arg = &keep});
    int published = 0;
    tt_job *job;
    tt_job_record *r =
        open_as(t, (tt_job_open){.generation = 4, .publish = publish, .arg = &published}, &job);
    tt_job_record after;
    push(job, of_type(TT_EV_STARTED));
    push(job, step(1));
    push(job, adapted("succeeded", NULL, true));
    push(job, of_type(TT_EV_DONE));
    clock_now = 1010;
    tt_job_table_poll(t);
    tt_job_table_poll(t);
    assert_int_equal(n_held, 1);
    assert_int_equal(n_changed, 2);
    assert_int_equal(published, 0);
    assert_string_equal(log_text(r), "running step:1 ");
    assert_int_equal(tt_job_table_live(t, NULL, NULL), 1);
    assert_true(tt_job_record_preview(r, r->held, r->held_at, 7, &after));
    assert_int_equal(after.status, TT_JOB_SUCCEEDED);
    assert_int_equal(after.generation_after, 7);
    assert_string_equal(log_text(&after), "running step:1 succeeded/steps ");
    tt_job_record_preview_finish(&after);
    assert_string_equal(log_text(r), "running step:1 ");
    assert_int_equal(r->status, TT_JOB_RUNNING);
    clock_now = 1020;
    tt_job_table_release(t, r);
    assert_int_equal(published, 1);
    assert_string_equal(log_text(r), "running step:1 succeeded/steps ");
    assert_true(r->finished_at == 1010); /* as its row says */
    assert_int_equal(r->n_jobs, 0);
    tt_job_table_poll(t);
    assert_int_equal(tt_job_table_live(t, NULL, NULL), 0);
    tt_job_unref(&job);
    tt_job_record_unref(&r);
    /* When it cannot be held it goes on as without rows; and one finished job is one too many. */
    keep = false;
    r = open_as(t, (tt_job_open){0}, &job);
    push(job, error(TT_E_DEVICE, "lost"));
    tt_job_table_poll(t);
    assert_int_equal(n_held, 2);
    assert_int_equal(n_gone, 1);
    assert_int_equal(r->status, TT_JOB_FAILED);
    tt_job_unref(&job);
    tt_job_record_unref(&r);
    tt_job_table_destroy(&t); /* the rows stay */
    assert_int_equal(n_gone, 1);
}

static int n_ended;

static void count_ended(void *arg, const tt_job_record *r)
{
    n_ended++;
}

static void restore(tt_job_table *t, double created_at, int32_t n, tt_job_status status)
{
    tt_job_record *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->refs = 1;
    tt_job_log_init(&r->log, 8);
    strcpy(r->scope, "a");
    r->model = strdup("m");
    r->metadata = strdup("{}");
    r->created_at = created_at;
    r->finished_at = status >= TT_JOB_SUCCEEDED ? created_at : 0;
    r->status = status;
    r->n = n;
    tt_job_table_restore(t, &r);
    assert_null(r);
}

/* Those that ended before a restart are as many as any; who hears of ends has heard of theirs. */
static void restored_ends(void **state)
{
    tt_job_table *t = create((tt_job_table_options){
        .max_finished = 2, .retention_seconds = 1e9, .on_ended = count_ended});
    tt_job_list q = {.scope = "a", .after = "", .limit = 8};
    tt_job_record *v[8];
    int32_t n;
    bool more;
    n_ended = 0;
    restore(t, 900, 1, TT_JOB_SUCCEEDED);
    restore(t, 920, 2, TT_JOB_FAILED);
    restore(t, 800, 3, TT_JOB_QUEUED);
    restore(t, 910, 4, TT_JOB_CANCELLED);
    assert_int_equal(n_ended, 0);
    assert_true(tt_job_table_list(t, &q, v, &n, &more));
    assert_int_equal(n, 3);
    assert_true(v[0]->n == 2 && v[1]->n == 4 && v[2]->n == 3);
    tt_job_record_cancel(v[2]);
    assert_int_equal(n_ended, 1);
    tt_job_table_destroy(&t);
}

/* Records of before a restart: their places in the list, and the engine's job that goes on. */
static void restored(void **state)
{
    static const struct {
        double created_at;
        int32_t n;
    } rows[] = {{900, 1}, {950, 3}, {950, 2}, {800, 4}};
    tt_job_table *t = create((tt_job_table_options){0});
    tt_job_record *newest = open_as(t, (tt_job_open){.key = "k"}, NULL), *v[8];
    tt_err err;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        restore(t, rows[i].created_at, rows[i].n, TT_JOB_QUEUED);
    }
    tt_job_list q = {.scope = "a", .after = "", .limit = 8};
    int32_t n;
    bool more;
    assert_true(tt_job_table_list(t, &q, v, &n, &more));
    static const int32_t order[] = {1, 3, 2, 1, 4};
    assert_int_equal(n, 5);
    assert_ptr_equal(v[0], newest);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(v[i]->n, order[i]);
    }
    tt_job_table_poll(t); /* nothing to read yet: it stays as it is */
    assert_int_equal(v[3]->status, TT_JOB_QUEUED);
    tt_job *job = new_job();
    assert_int_equal(tt_job_table_attach(t, v[3], job, &err), TT_OK);
    push(job, of_type(TT_EV_STARTED));
    tt_job_table_poll(t);
    assert_int_equal(v[3]->status, TT_JOB_RUNNING);
    tt_job_record_cancel(v[3]);
    assert_true(tt_job_cancelled(job));
    tt_job_record_cancel(v[4]); /* the engine does not know it */
    assert_int_equal(v[4]->status, TT_JOB_CANCELLED);
    tt_job_unref(&job);
    tt_job_record_unref(&newest);
    tt_job_table_destroy(&t);
}

/* Every way to end: the last event of the engine, and what clients see. */
static void endings(void **state)
{
    const struct {
        tt_event last;
        const char *status, *code, *log;
    } rows[] = {
        {adapted("succeeded", "guard_discarded", false), "succeeded", NULL,
         "running succeeded/guard_discarded "},
        {adapted("failed", "diverged", false), "failed", "diverged", "running failed/diverged "},
        {adapted("skipped", "guard_unavailable", false), "failed", "guard_unavailable",
         "running failed/guard_unavailable "},
        {adapted("cancelled", NULL, false), "cancelled", NULL, "running cancelled "},
        {error(TT_E_CANCELLED, ""), "cancelled", NULL, "running cancelled "},
        {error(TT_E_DEVICE, "lost"), "failed", "device_failure", "running failed/device_failure "},
        {error(TT_E_CAPACITY, "full"), "failed", "capacity", "running failed/capacity "},
        {of_type(TT_EV_DONE), "failed", "internal", "running failed/internal "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tt_job_table *t = create((tt_job_table_options){0});
        tt_job *job;
        int published = 0;
        tt_job_record *r = open_as(t, (tt_job_open){.publish = publish, .arg = &published}, &job);
        push(job, of_type(TT_EV_STARTED));
        push(job, rows[i].last);
        tt_job_table_poll(t);
        assert_string_equal(text_at(r, "status"), rows[i].status);
        assert_string_equal(log_text(r), rows[i].log);
        json_t *e = json_object_get(parsed(r), "error");
        if (rows[i].code != NULL) {
            assert_string_equal(json_string_value(json_object_get(e, "code")), rows[i].code);
            assert_true(json_string_length(json_object_get(e, "message")) > 0);
        } else {
            assert_true(json_is_null(e));
        }
        push(job, of_type(TT_EV_DONE)); /* the engine's own end changes nothing */
        tt_job_table_poll(t);
        assert_string_equal(log_text(r), rows[i].log);
        assert_int_equal(published, 0);
        tt_job_unref(&job);
        tt_job_record_unref(&r);
        tt_job_table_destroy(&t);
    }
}

static void pauses_and_estimates(void **state)
{
    tt_job_table *t = create((tt_job_table_options){0});
    tt_job *job;
    tt_job_record *r = open_as(t, (tt_job_open){0}, &job);
    tt_job_record_pause(r, true);
    assert_true(tt_job_paused(job));
    tt_job_record_pause(r, true);
    tt_job_record_pause(r, false);
    assert_false(tt_job_paused(job));
    push(job, of_type(TT_EV_STARTED));
    for (int i = 1; i <= 3; i++) { /* half a second each, but two seconds apart */
        clock_now = 1000 + 2 * i;
        push(job, step(i));
        tt_job_table_poll(t);
    }
    double left = tt_job_record_estimate(r, clock_now) - clock_now;
    assert_true(left > 7 * 0.5 && left <= 7 * 2); /* seven steps are left */
    for (int i = 4; i <= 9; i++) {
        clock_now += 2;
        push(job, step(i));
        tt_job_table_poll(t);
    }
    left = tt_job_record_estimate(r, clock_now) - clock_now;
    assert_true(left > 1.7 && left <= 2);
    push(job, status_event("paused"));
    tt_job_table_poll(t);
    assert_string_equal(text_at(r, "status"), "paused");
    assert_true(json_is_null(json_object_get(parsed(r), "estimated_finish")));
    clock_now += 1000;
    push(job, status_event("running"));
    push(job, step(9));
    tt_job_table_poll(t);
    left = tt_job_record_estimate(r, clock_now) - clock_now;
    assert_true(left > 0.5 && left < 2);     /* the pause is no step's time */
    r->params.max_span_tokens = 64 * 10 + 1; /* ten steps were counted; one more ends it */
    left = tt_job_record_estimate(r, clock_now) - clock_now;
    assert_true(left > 0.5 && left < 2);
    r->params.steps = 100;
    r->params.max_span_tokens = 0;
    r->params.max_seconds = r->busy_seconds + 3;
    assert_true(fabs(tt_job_record_estimate(r, clock_now) - clock_now - 3) < 1e-6);
    push(job, status_event("queued"));
    tt_job_table_poll(t);
    assert_non_null(strstr(log_text(r), "paused running step:9 queued/preempted "));
    tt_job_unref(&job);
    tt_job_record_unref(&r);
    tt_job_table_destroy(&t);
}

/* The training of a request: fed by whoever runs the request, cancelled without it. */
static void in_request(void **state)
{
    tt_job_table *t = create((tt_job_table_options){0});
    tt_job *job;
    tt_job_record *r = open_as(t, (tt_job_open){.in_request = true}, &job);
    tt_event ev = of_type(TT_EV_STARTED);
    tt_job_record_feed(r, &ev, clock_now);
    push(job, step(1));
    tt_job_table_poll(t); /* not the table's to read */
    tt_event *pushed = tt_job_next(job);
    tt_job_record_feed(r, pushed, clock_now);
    tt_event_free(pushed);
    assert_string_equal(log_text(r), "running step:1 ");
    tt_job_record_cancel(tt_job_table_find(t, "a", r->id));
    assert_true(tt_job_adaptation_cancelled(job));
    assert_false(tt_job_cancelled(job));
    ev = adapted("cancelled", NULL, false);
    tt_job_record_feed(r, &ev, clock_now);
    ev = of_type(TT_EV_TOKEN);
    tt_job_record_feed(r, &ev, clock_now);
    ev = of_type(TT_EV_DONE);
    tt_job_record_feed(r, &ev, clock_now);
    assert_string_equal(log_text(r), "running step:1 cancelled ");
    tt_job_record_close(r, clock_now);
    assert_string_equal(log_text(r), "running step:1 cancelled ");
    tt_job_record_unref(&r);
    tt_job_unref(&job);
    /* The client leaves: the record says so, and is still to be found. */
    r = open_as(t, (tt_job_open){.in_request = true}, NULL);
    char id[TT_JOB_ID_BYTES];
    snprintf(id, sizeof id, "%s", r->id);
    tt_job_record_close(r, clock_now);
    tt_job_record_unref(&r);
    assert_string_equal(text_at(tt_job_table_find(t, "a", id), "status"), "cancelled");
    /* Nothing was adapted: no trace. */
    r = open_as(t, (tt_job_open){.in_request = true}, NULL);
    snprintf(id, sizeof id, "%s", r->id);
    tt_job_table_discard(t, r);
    assert_null(tt_job_table_find(t, "a", id));
    assert_int_equal(tt_job_table_live(t, NULL, NULL), 0);
    tt_job_record_unref(&r);
    tt_job_table_destroy(&t);
}

static void names(void **state)
{
    tt_job_table *t = create((tt_job_table_options){0});
    char long_key[80];
    memset(long_key, 'k', 64);
    long_key[64] = '\0';
    const struct {
        tt_job_open o;
        const char *id;
    } rows[] = {
        {{.key = "k"}, "qttt_k_1"},
        {{.key = "k"}, "qttt_k_2"},
        {{.key = "k", .scope = "b"}, "qttt_k_1"}, /* another tenant's session of the same key */
        {{.key = "k", .after_n = 7}, "qttt_k_8"}, /* the session has had more than are kept */
        {{.key = "k", .after_n = 3}, "qttt_k_9"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tt_job_record *r = open_as(t, rows[i].o, NULL);
        assert_string_equal(r->id, rows[i].id);
        tt_job_record_unref(&r);
    }
    tt_job_record *r = open_as(t, (tt_job_open){.key = long_key, .after_n = 2000000000}, NULL);
    assert_int_equal(strlen(r->id), 5 + 64 + 11); /* whole: it can be found */
    assert_ptr_equal(tt_job_table_find(t, "a", r->id), r);
    tt_job_record_unref(&r);
    tt_job_record *x = open_as(t, (tt_job_open){0}, NULL), *y = open_as(t, (tt_job_open){0}, NULL);
    assert_string_not_equal(x->id, y->id);
    assert_null(tt_job_table_find(t, "b", x->id));
    assert_null(tt_job_table_find(t, "a", "qttt_"));
    tt_job_record_unref(&x);
    tt_job_record_unref(&y);
    tt_job_table_destroy(&t);
}

/* The last parts of the ids of a page: "3 2 +" when more follow. */
static const char *page(tt_job_table *t, tt_job_list q)
{
    static char out[256];
    tt_job_record *v[100];
    int32_t n = -1;
    bool more = false;
    size_t k = 0;
    q.after = q.after != NULL ? q.after : "";
    q.scope = q.scope != NULL ? q.scope : "a";
    if (!tt_job_table_list(t, &q, v, &n, &more)) {
        return "unknown";
    }
    out[0] = '\0';
    for (int32_t i = 0; i < n; i++) {
        k += (size_t)snprintf(out + k, sizeof out - k, "%s%s", i > 0 ? " " : "",
                              strrchr(v[i]->id, '_') + 1);
    }
    snprintf(out + k, sizeof out - k, "%s", more ? " +" : "");
    return out;
}

static void lists(void **state)
{
    tt_job_table *t = create((tt_job_table_options){0});
    for (int i = 1; i <= 5; i++) {
        tt_job_open o = {.key = "k", .session_id = i % 2 == 0 ? "ses_k" : NULL};
        tt_job_record *r = open_as(t, o, NULL);
        tt_job_record_unref(&r);
        o.scope = "b";
        r = open_as(t, o, NULL);
        tt_job_record_unref(&r);
    }
    assert_string_equal(page(t, (tt_job_list){.limit = 10}), "5 4 3 2 1");
    assert_string_equal(page(t, (tt_job_list){.limit = 5}), "5 4 3 2 1");
    assert_string_equal(page(t, (tt_job_list){.limit = 2}), "5 4 +");
    assert_string_equal(page(t, (tt_job_list){.limit = 2, .after = "qttt_k_4"}), "3 2 +");
    assert_string_equal(page(t, (tt_job_list){.limit = 2, .after = "qttt_k_2"}), "1");
    assert_string_equal(page(t, (tt_job_list){.limit = 2, .after = "qttt_k_1"}), "");
    assert_string_equal(page(t, (tt_job_list){.limit = 2, .after = "qttt_k_9"}), "unknown");
    assert_string_equal(page(t, (tt_job_list){.limit = 3, .ascending = true}), "1 2 3 +");
    assert_string_equal(page(t, (tt_job_list){.limit = 3, .ascending = true, .after = "qttt_k_3"}),
                        "4 5");
    assert_string_equal(page(t, (tt_job_list){.limit = 9, .session_id = "ses_k"}), "4 2");
    assert_string_equal(page(t, (tt_job_list){.limit = 1, .session_id = "ses_k"}), "4 +");
    assert_string_equal(page(t, (tt_job_list){.limit = 9, .session_id = "ses_x"}), "");
    assert_string_equal(page(t, (tt_job_list){.limit = 9, .scope = "c"}), "");
    tt_job_table_cancel_session(t, "a", "ses_k");
    tt_job_record *v[10];
    int32_t n;
    bool more;
    assert_true(
        tt_job_table_list(t, &(tt_job_list){.scope = "a", .after = "", .limit = 10}, v, &n, &more));
    for (int32_t i = 0; i < n; i++) {
        assert_int_equal(tt_job_cancelled(v[i]->jobs[0]), v[i]->n % 2 == 0);
    }
    tt_job_table_destroy(&t);
}

static void end_one(tt_job_table *t, const char *scope)
{
    tt_job_record *r =
        open_as(t, (tt_job_open){.key = "k", .scope = scope, .in_request = true}, NULL);
    tt_job_record_close(r, clock_now);
    tt_job_record_unref(&r);
}

static void retention(void **state)
{
    tt_job_table *t = create((tt_job_table_options){.retention_seconds = 100, .max_finished = 3});
    tt_job_record *runs = open_as(t, (tt_job_open){.key = "k"}, NULL);
    end_one(t, "b");
    for (int i = 0; i < 10; i++) {
        clock_now += 1;
        end_one(t, "a");
    }
    /* Three that are over, and the one that runs; another tenant's are not counted. */
    assert_string_equal(page(t, (tt_job_list){.limit = 10}), "11 10 9 1");
    assert_string_equal(page(t, (tt_job_list){.limit = 10, .scope = "b"}), "1");
    clock_now = 1000 + 100;
    assert_string_equal(page(t, (tt_job_list){.limit = 10, .scope = "b"}), "");
    clock_now = 1010 + 99.5;
    assert_string_equal(page(t, (tt_job_list){.limit = 10}), "11 1");
    /* Fewer from now on: the next that ends takes all that are too many with it. */
    for (int i = 0; i < 3; i++) {
        end_one(t, "a");
    }
    assert_string_equal(page(t, (tt_job_list){.limit = 10}), "14 13 12 1");
    tt_job_table_set_retention(t, 100, 1);
    end_one(t, "a");
    assert_string_equal(page(t, (tt_job_list){.limit = 10}), "15 1");
    clock_now = 5000;
    assert_null(tt_job_table_find(t, "a", "qttt_k_15"));
    assert_string_equal(page(t, (tt_job_list){.limit = 10}), "1");
    tt_job_record_close(runs, clock_now); /* the last reference may be ours */
    clock_now = 6000;
    assert_string_equal(page(t, (tt_job_list){.limit = 10}), "");
    assert_string_equal(text_at(runs, "status"), "cancelled");
    tt_job_table_poll(t);
    tt_job_record_unref(&runs);
    tt_job_table_destroy(&t);
}

typedef struct follower {
    tt_job_follower base;
    int calls, leave_after;
} follower;

static void on_change(tt_job_follower *f)
{
    follower *me = (follower *)(void *)f;
    if (++me->calls == me->leave_after) {
        tt_job_record_unfollow(f);
    }
}

static void following(void **state)
{
    tt_job_table *t = create((tt_job_table_options){.retention_seconds = 1});
    tt_job *job;
    tt_job_record *r = open_as(t, (tt_job_open){0}, &job);
    follower f[3] = {{.base.on_change = on_change},
                     {.base.on_change = on_change, .leave_after = 2},
                     {.base.on_change = on_change}};
    for (int i = 0; i < 3; i++) {
        tt_job_record_follow(r, &f[i].base);
    }
    tt_job_record_unref(&r);
    push(job, of_type(TT_EV_STARTED));
    push(job, of_type(TT_EV_PREFILL)); /* nothing to see */
    push(job, step(1));
    push(job, error(TT_E_CANCELLED, ""));
    tt_job_table_poll(t);
    assert_int_equal(f[0].calls, 3);
    assert_int_equal(f[1].calls, 2);
    assert_null(f[1].base.record);
    assert_int_equal(f[2].calls, 3);
    clock_now += 100;
    assert_string_equal(page(t, (tt_job_list){.limit = 1}), ""); /* gone, but not for followers */
    assert_string_equal(log_text(f[0].base.record), "running step:1 cancelled ");
    for (int i = 0; i < 3; i++) {
        tt_job_record_unfollow(&f[i].base);
    }
    tt_job_unref(&job);
    tt_job_table_destroy(&t);
}

static void events_as_json(void **state)
{
    tt_job_event ev = {.number = 3, .created_at = 99, .type = TT_JOB_EVENT_STEP};
    tt_buf b = {0};
    ev.level = TT_JOB_WARN;
    ev.u.step.step = 2;
    ev.u.step.span_start = 640;
    ev.u.step.span_tokens = 128;
    ev.u.step.loss = NAN;
    ev.u.step.grad_norm = 0.5;
    ev.u.step.learning_rate = 0.25;
    ev.u.step.seconds = 0.125;
    tt_job_json_event(&b, &ev);
    tt_buf_putc(&b, '\0');
    assert_string_equal(b.p, "{\"sequence_number\":3,\"object\":\"qttt.job.event\",\"created_at\":"
                             "99,\"level\":\"warn\",\"type\":\"step\",\"data\":{\"step\":2,"
                             "\"span_start\":640,\"span_tokens\":128,\"loss\":null,\"grad_norm\":"
                             "0.5,\"learning_rate\":0.25,\"seconds\":0.125}}");
    tt_buf_clear(&b);
    ev = (tt_job_event){.number = 4, .created_at = 99, .type = TT_JOB_EVENT_STATUS};
    ev.u.status.status = "running";
    tt_job_json_event(&b, &ev);
    tt_buf_putc(&b, '\0');
    assert_non_null(strstr(b.p, "\"type\":\"status\",\"data\":{\"status\":\"running\","
                                "\"reason\":null}}"));
    tt_buf_finish(&b);
}

static int forget_json(void **state)
{
    parsed(NULL);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(success),
        cmocka_unit_test(ends_that_are_held),
        cmocka_unit_test(restored),
        cmocka_unit_test(restored_ends),
        cmocka_unit_test(endings),
        cmocka_unit_test(in_request),
        cmocka_unit_test(pauses_and_estimates),
        cmocka_unit_test(names),
        cmocka_unit_test(lists),
        cmocka_unit_test(retention),
        cmocka_unit_test(following),
        cmocka_unit_test(events_as_json),
    };
    return cmocka_run_group_tests(tests, NULL, forget_json);
}
