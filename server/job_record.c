/* job_record.c - see job_record.h. */
#include "server/job_record.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "server/job_table.h"

enum { OTHER_EVENTS = 1000 }; /* than steps, of one run */

const char *tt_job_status_text(tt_job_status status)
{
    static const char *const texts[] = {
        [TT_JOB_QUEUED] = "queued", [TT_JOB_RUNNING] = "running",
        [TT_JOB_PAUSED] = "paused", [TT_JOB_SUCCEEDED] = "succeeded",
        [TT_JOB_FAILED] = "failed", [TT_JOB_CANCELLED] = "cancelled"};
    return texts[status];
}

uint64_t tt_job_context_hash(const int32_t *ids, int32_t n)
{
    return n > 0 ? XXH3_64bits(ids, (size_t)n * sizeof *ids) : 0;
}

bool tt_job_record_ended(const tt_job_record *r)
{
    return r->status >= TT_JOB_SUCCEEDED;
}

bool tt_job_record_durable(const tt_job_record *r)
{
    return r->table != NULL && !r->unsaved && tt_job_table_durable(r->table);
}

/* ---- references and followers ---- */

static void release(tt_job_record *r)
{
    if (r->release != NULL) {
        r->release(r->arg);
        r->release = NULL;
    }
}

static void drop_jobs(tt_job_record *r)
{
    for (int32_t i = 0; i < r->n_jobs; i++) {
        tt_job_unref(&r->jobs[i]);
    }
    r->n_jobs = 0;
}

void tt_job_record_ref(tt_job_record *r)
{
    r->refs++;
}

void tt_job_record_unref(tt_job_record **record)
{
    tt_job_record *r = *record;
    *record = NULL;
    if (r == NULL || --r->refs > 0) {
        return;
    }
    assert(r->followers == NULL && r->table == NULL);
    release(r);
    drop_jobs(r);
    tt_event_free(r->held);
    free(r->jobs);
    tt_job_log_finish(&r->log);
    free(r->model);
    free(r->metadata);
    free(r);
}

void tt_job_record_follow(tt_job_record *r, tt_job_follower *f)
{
    tt_job_record_ref(r);
    f->record = r;
    f->next = r->followers;
    r->followers = f;
}

void tt_job_record_unfollow(tt_job_follower *f)
{
    if (f->record == NULL) {
        return;
    }
    tt_job_follower **at = &f->record->followers;
    while (*at != f) {
        at = &(*at)->next;
    }
    *at = f->next;
    tt_job_record_unref(&f->record);
}

/* A follower may unfollow itself, and nobody else, while it is called. */
static void notify(tt_job_record *r)
{
    for (tt_job_follower *f = r->followers, *next; f != NULL; f = next) {
        next = f->next;
        f->on_change(f);
    }
}

/* Its row has to follow, and so do those who look. */
static void tell(tt_job_record *r)
{
    if (r->table != NULL) {
        tt_job_table_changed(r->table, r);
    }
    notify(r);
}

/* ---- state ---- */

static void add_event(tt_job_record *r, tt_job_event *ev, double now)
{
    ev->created_at = (int64_t)now;
    tt_job_log_add(&r->log, ev);
}

static void set_status(tt_job_record *r, tt_job_status status, const char *reason, double now)
{
    tt_job_event ev = {.type = TT_JOB_EVENT_STATUS,
                       .level = status == TT_JOB_FAILED ? TT_JOB_ERROR : TT_JOB_INFO};
    r->status = status;
    r->last_step_at = 0;
    if (status == TT_JOB_RUNNING && r->started_at == 0) {
        r->started_at = now;
    }
    ev.u.status.status = tt_job_status_text(status);
    snprintf(ev.u.status.reason, sizeof ev.u.status.reason, "%s", reason != NULL ? reason : "");
    add_event(r, &ev, now);
}

static void end(tt_job_record *r, tt_job_status status, const char *reason, double now)
{
    set_status(r, status, reason, now);
    r->finished_at = now;
    tt_job_log_close(&r->log);
    if (r->table != NULL) {
        tt_job_table_ended(r->table, r);
    }
    release(r);
}

static void fail(tt_job_record *r, const char *code, const char *message, double now)
{
    snprintf(r->error_code, sizeof r->error_code, "%s", code);
    snprintf(r->error_message, sizeof r->error_message, "%s", message);
    end(r, TT_JOB_FAILED, code, now);
}

/* ---- the engine's events ---- */

static void on_step(tt_job_record *r, const tt_event *ev, double now)
{
    double took = ev->u.adapt.seconds;
    tt_job_event step = {.type = TT_JOB_EVENT_STEP};
    step.u.step.step = ev->u.adapt.step;
    step.u.step.span_start = ev->u.adapt.span_start;
    step.u.step.span_tokens = ev->u.adapt.span_tokens;
    step.u.step.loss = ev->u.adapt.loss;
    step.u.step.grad_norm = ev->u.adapt.grad_norm;
    step.u.step.learning_rate = ev->u.adapt.learning_rate;
    step.u.step.seconds = took;
    step.level =
        isfinite(ev->u.adapt.loss) && isfinite(ev->u.adapt.grad_norm) ? TT_JOB_INFO : TT_JOB_WARN;
    add_event(r, &step, now);
    r->steps_done = ev->u.adapt.step;
    r->trained_tokens += ev->u.adapt.span_tokens;
    r->busy_seconds += took;
    double gap = r->last_step_at > 0 && now > r->last_step_at ? now - r->last_step_at : took;
    r->step_seconds = r->step_seconds > 0 ? 0.7 * r->step_seconds + 0.3 * gap : gap;
    r->last_step_at = now;
}

static void on_probe(tt_job_record *r, const tt_event *ev, double now)
{
    tt_job_event probe = {.type = TT_JOB_EVENT_PROBE};
    probe.u.probe.after = ev->u.probe.after;
    probe.u.probe.recall = ev->u.probe.recall;
    probe.u.probe.span = ev->u.probe.span;
    add_event(r, &probe, now);
}

static void on_status(tt_job_record *r, const char *text, double now)
{
    if (strcmp(text, "paused") == 0 && r->status != TT_JOB_PAUSED) {
        set_status(r, TT_JOB_PAUSED, NULL, now);
    } else if (strcmp(text, "running") == 0 && r->status != TT_JOB_RUNNING) {
        set_status(r, TT_JOB_RUNNING, NULL, now);
    } else if (strcmp(text, "queued") == 0 && r->status != TT_JOB_QUEUED) {
        set_status(r, TT_JOB_QUEUED, r->status == TT_JOB_RUNNING ? "preempted" : NULL, now);
    }
}

/* Why training was skipped or failed, as a sentence. */
static const char *explain(const char *reason)
{
    static const struct {
        const char *reason, *text;
    } rows[] = {
        {"guard_unavailable", "the context is too short for the recall probe that the guard needs"},
        {"context_too_short", "the context is too short to train on"},
        {"diverged", "training diverged: the loss or the weights' change passed their bounds"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].reason, reason) == 0) {
            return rows[i].text;
        }
    }
    return "the adapter could not be trained";
}

static void on_adapted(tt_job_record *r, const tt_qttt_result *result, double now)
{
    const char *reason = result->reason != NULL ? result->reason : "internal";
    r->have_result = true;
    r->result = *result;
    r->params = result->params;
    if (r->steps_done > result->steps_done) { /* the engine does not count for one it has dropped */
        r->result.steps_done = r->steps_done;
        r->result.trained_tokens = r->trained_tokens;
    }
    r->steps_done = r->result.steps_done;
    r->generation_after = r->generation_before;
    if (strcmp(result->status, "succeeded") == 0) {
        if (result->kept && r->publish != NULL) {
            r->publish(r, r->arg);
        } else if (result->kept) {
            r->generation_after = r->generation_before + 1;
        }
        end(r, TT_JOB_SUCCEEDED, result->kept ? result->stop_reason : result->reason, now);
    } else if (strcmp(result->status, "cancelled") == 0) {
        end(r, TT_JOB_CANCELLED, NULL, now);
    } else {
        fail(r, reason, explain(reason), now);
    }
}

static void on_error(tt_job_record *r, const tt_err *err, double now)
{
    if (err->code == TT_E_CANCELLED) {
        end(r, TT_JOB_CANCELLED, NULL, now);
        return;
    }
    const char *code = err->code == TT_E_CAPACITY || err->code == TT_E_NOMEM ? "capacity"
                       : err->code == TT_E_DEVICE                            ? "device_failure"
                       : err->code == TT_E_TIMEOUT                           ? "timeout"
                       : err->code == TT_E_DIVERGED                          ? "diverged"
                       : err->code == TT_E_INVALID                           ? "invalid"
                                                                             : "internal";
    fail(r, code, err->msg[0] != '\0' ? err->msg : tt_code_text(err->code), now);
}

void tt_job_record_feed(tt_job_record *r, const tt_event *ev, double now)
{
    if (tt_job_record_ended(r)) {
        return;
    }
    int64_t before = r->log.last;
    tt_job_record_ref(r); /* the table may let go of it when it ends */
    switch (ev->type) {
    case TT_EV_STARTED:
        if (r->status == TT_JOB_QUEUED || (r->status == TT_JOB_PAUSED && !r->pause_asked)) {
            set_status(r, TT_JOB_RUNNING, NULL, now);
        }
        break;
    case TT_EV_ADAPT:
        if (ev->u.adapt.step > 0) { /* 0 announces the run */
            on_step(r, ev, now);
        }
        break;
    case TT_EV_PROBE:
        on_probe(r, ev, now);
        break;
    case TT_EV_STATUS:
        on_status(r, ev->u.status.status, now);
        break;
    case TT_EV_ADAPTED:
        on_adapted(r, &ev->u.adapted, now);
        break;
    case TT_EV_DONE: /* without a result nothing was asked for */
        fail(r, "internal", "the job ended without a result", now);
        break;
    case TT_EV_ERROR:
        on_error(r, &ev->u.error, now);
        break;
    case TT_EV_PREFILL:
    case TT_EV_PROMPT_LOGPROBS:
    case TT_EV_TOKEN:
    case TT_EV_DIAGNOSIS:
        break;
    }
    if (r->log.last != before) {
        tell(r);
    }
    if (r->in_request && tt_job_record_ended(r)) {
        drop_jobs(r);
    }
    tt_job_record_unref(&r);
}

bool tt_job_record_ends(const tt_job_record *r, const tt_event *ev)
{
    return !tt_job_record_ended(r) &&
           (ev->type == TT_EV_ADAPTED || ev->type == TT_EV_DONE || ev->type == TT_EV_ERROR);
}

/* ---- what it will be ---- */

static void publish_preview(tt_job_record *r, void *arg)
{
    r->generation_after = *(const int32_t *)arg;
}

bool tt_job_record_preview(const tt_job_record *r, const tt_event *ev, double now,
                           int32_t generation, tt_job_record *ret)
{
    *ret = *r;
    ret->log.v = calloc((size_t)r->log.max, sizeof *r->log.v);
    if (ret->log.v == NULL) {
        return false;
    }
    ret->log.cap = r->log.max;
    if (r->log.n > 0) {
        memcpy(ret->log.v, r->log.v, (size_t)r->log.n * sizeof *r->log.v);
    }
    ret->refs = 2; /* it is nobody's to free */
    ret->table = NULL;
    ret->followers = NULL;
    ret->jobs = NULL;
    ret->n_jobs = 0;
    ret->held = NULL;
    ret->release = NULL;
    ret->publish = r->publish != NULL ? publish_preview : NULL;
    ret->arg = &generation;
    tt_job_record_feed(ret, ev, now);
    ret->arg = NULL;
    return true;
}

void tt_job_record_preview_finish(tt_job_record *preview)
{
    tt_job_log_finish(&preview->log);
}

/* ---- after a restart ---- */

/* Numbers that were given since the row was written are not given again: a run has at most one
 * event a step, and some. */
static void skip_numbers(tt_job_record *r)
{
    r->log.last += r->params.steps + OTHER_EVENTS;
}

void tt_job_record_restart(tt_job_record *r, double now)
{
    assert(r->n_jobs == 0 && !tt_job_record_ended(r));
    tt_job_record_ref(r);
    skip_numbers(r);
    r->steps_done = 0;
    r->trained_tokens = 0;
    r->busy_seconds = r->step_seconds = 0;
    if (r->cancel_asked) {
        end(r, TT_JOB_CANCELLED, NULL, now);
    } else {
        set_status(r, r->pause_asked ? TT_JOB_PAUSED : TT_JOB_QUEUED, "server_restarted", now);
    }
    tell(r);
    tt_job_record_unref(&r);
}

void tt_job_record_lost(tt_job_record *r, const char *why, double now)
{
    tt_job_record_ref(r);
    skip_numbers(r);
    fail(r, "server_restarted", why, now);
    tell(r);
    tt_job_record_unref(&r);
}

tt_code tt_job_record_attach(tt_job_record *r, tt_job *const *jobs, int32_t n, tt_err *reterr)
{
    assert(r->n_jobs == 0 && n > 0);
    free(r->jobs);
    r->jobs = calloc((size_t)n, sizeof *r->jobs);
    if (r->jobs == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a job");
    }
    for (; r->n_jobs < n; r->n_jobs++) {
        r->jobs[r->n_jobs] = jobs[r->n_jobs];
        tt_job_ref(r->jobs[r->n_jobs]);
    }
    return TT_OK;
}

void tt_job_record_close(tt_job_record *r, double now)
{
    tt_job_record_ref(r);
    if (!tt_job_record_ended(r)) {
        end(r, TT_JOB_CANCELLED, NULL, now);
        tell(r);
    }
    drop_jobs(r);
    tt_job_record_unref(&r);
}

void tt_job_record_cancel(tt_job_record *r)
{
    if (tt_job_record_ended(r)) {
        return;
    }
    r->cancel_asked = true;
    if (r->n_jobs == 0 && !r->in_request) { /* of before a restart: nobody has it yet */
        tt_job_record_ref(r);
        end(r, TT_JOB_CANCELLED, NULL, r->table != NULL ? tt_job_table_now(r->table) : 0);
        tell(r);
        tt_job_record_unref(&r);
        return;
    }
    for (int32_t i = 0; i < r->n_jobs; i++) {
        tt_job_cancel(r->jobs[i], r->in_request);
    }
}

void tt_job_record_pause(tt_job_record *r, bool paused)
{
    if (tt_job_record_ended(r)) {
        return;
    }
    r->pause_asked = paused;
    tt_job_status status = paused ? TT_JOB_PAUSED : TT_JOB_QUEUED;
    if (r->n_jobs == 0 && !r->in_request && r->status != status) {
        set_status(r, status, NULL, r->table != NULL ? tt_job_table_now(r->table) : 0);
        tell(r);
    }
    for (int32_t i = 0; i < r->n_jobs; i++) {
        tt_job_pause(r->jobs[i], paused);
    }
}

/* ---- what it looks like ---- */

double tt_job_record_estimate(const tt_job_record *r, double now)
{
    if (r->status != TT_JOB_RUNNING || r->step_seconds <= 0) {
        return 0;
    }
    double steps = r->params.steps - r->steps_done;
    if (r->params.max_span_tokens > 0 && r->trained_tokens > 0) {
        double each = (double)r->trained_tokens / r->steps_done;
        steps = fmin(steps, ceil((double)(r->params.max_span_tokens - r->trained_tokens) / each));
    }
    double left = fmax(steps, 0) * r->step_seconds;
    if (r->params.max_seconds > 0) {
        left = fmin(left, fmax(r->params.max_seconds - r->busy_seconds, 0));
    }
    return now + left;
}

int32_t tt_job_record_position(const tt_job_record *r, const char **ret_reason)
{
    *ret_reason = "";
    return r->status == TT_JOB_QUEUED && r->n_jobs > 0 ? tt_job_position(r->jobs[0], ret_reason)
                                                       : -1;
}
