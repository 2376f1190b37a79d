/* job_state.c - see job_state.h. */
#include "server/job_state.h"

#include <stdlib.h>
#include <string.h>

#include "server/job_row.h"
#include "server/job_setup.h"
#include "server/job_table.h"
#include "server/log.h"
#include "server/session_load.h"
#include "server/session_setup.h"
#include "server/session_state.h"

enum {
    BATCH_MS = 1000,
    PATIENCE_SECONDS = 300 /* so long the oldest job may be in the way of the others */
};

/* ---- writing ---- */

/* r may be a preview: nothing of it is changed. */
static tt_code put_row(tt_state_txn *x, const tt_job_record *r)
{
    tt_buf json = {0}, events = {0};
    tt_code rc = TT_E_NOMEM;
    tt_job_row_write(&json, r);
    tt_job_row_write_events(&events, &r->log);
    if (!json.failed && !events.failed) {
        rc = tt_state_put(x, TT_STATE_JOB,
                          &(tt_state_row){.scope = r->scope,
                                          .id = r->id,
                                          .created_at = r->created_at,
                                          .json = json.p,
                                          .blob = events.p,
                                          .n_blob = events.n});
    }
    tt_buf_finish(&json);
    tt_buf_finish(&events);
    return rc;
}

tt_code tt_job_state_put(tt_state_txn *x, tt_job_record *r)
{
    tt_job_record after;
    tt_code rc = TT_E_NOMEM;
    if (r->held == NULL) {
        rc = put_row(x, r);
    } else if (tt_job_record_preview(r, r->held, r->held_at, r->held_generation, &after)) {
        rc = put_row(x, &after); /* its end has been committed, or is about to be */
        tt_job_record_preview_finish(&after);
    }
    if (rc < 0) {
        tt_state_spoil(x);
        return rc;
    }
    r->saved = true;
    r->unwritten = false;
    r->row_status = r->status;
    return TT_OK;
}

static void on_timer(uv_timer_t *t);

static void arm_timer(tt_server *s)
{
    if (!uv_is_active((uv_handle_t *)&s->job_timer)) {
        uv_timer_start(&s->job_timer, on_timer, BATCH_MS, 0);
    }
}

static void write_later(tt_server *s, tt_job_record *r)
{
    r->unwritten = true;
    arm_timer(s);
}

typedef struct writing {
    tt_server *s;
    tt_job_record *r; /* a reference */
    tt_code rc;
} writing;

static writing *begin_writing(tt_server *s, tt_job_record *r)
{
    writing *w = calloc(1, sizeof *w);
    if (w != NULL) {
        w->s = s;
        w->r = r;
        tt_job_record_ref(r);
    }
    return w;
}

static void end_writing(writing *w)
{
    tt_job_record_unref(&w->r);
    free(w);
}

/* What failed is written again with the next batch. */
static void note_result(writing *w, tt_code rc)
{
    w->r->unsaved = rc < 0;
    if (rc < 0 && w->r->table != NULL && !w->s->jobs_frozen) {
        write_later(w->s, w->r);
    }
}

static void on_written(void *arg, tt_code rc, const tt_err *err)
{
    writing *w = arg;
    (void)err;
    note_result(w, rc);
    end_writing(w);
}

static void write_now(tt_server *s, tt_job_record *r)
{
    writing *w = begin_writing(s, r);
    tt_state_txn *x = w != NULL ? tt_state_begin(s->state) : NULL;
    if (w == NULL) {
        write_later(s, r);
        return;
    }
    w->rc = tt_job_state_put(x, r);
    if (w->rc < 0) {
        tt_state_abandon(x);
        on_written(w, w->rc, NULL);
        return;
    }
    tt_state_commit(x, on_written, w);
}

static void write_all(tt_server *s)
{
    for (tt_job_record *r = tt_job_table_first(s->jobs); r != NULL; r = r->next) {
        if (r->unwritten) {
            write_now(s, r);
        }
    }
}

static void on_timer(uv_timer_t *t)
{
    write_all(t->data);
    tt_job_state_resume(t->data);
}

void tt_job_state_changed(void *arg, tt_job_record *r)
{
    tt_server *s = arg;
    if (s->state == NULL || s->jobs_frozen) {
        return;
    }
    if (!r->saved || r->row_status != r->status) {
        write_now(s, r);
    } else {
        write_later(s, r);
    }
}

void tt_job_state_gone(void *arg, tt_job_record *r)
{
    tt_server *s = arg;
    if (r->saved && !s->jobs_frozen) {
        tt_state_txn *x = tt_state_begin(s->state);
        r->saved = false;
        (void)tt_state_delete(x, TT_STATE_JOB, r->scope, r->id);
        tt_state_commit(x, NULL, NULL); /* a row that stays is too old when it is read */
    }
}

void tt_job_state_freeze(tt_server *s)
{
    if (s->jobs != NULL && s->state != NULL && !s->jobs_frozen) {
        write_all(s);
    }
    s->jobs_frozen = true;
    uv_timer_stop(&s->job_timer);
}

/* ---- the end ---- */

/* The session's rows as they will be once it has taken the adapter over. */
static tt_code put_generation(tt_state_txn *x, tt_session_record *ses, tt_job_record *r,
                              const tt_qttt_result *result)
{
    tt_session *after = NULL, *now = ses->data;
    tt_session_fork_options all = {.adapter = true, .transcript = true};
    tt_session_generation g = {.adapter_id = result->adapter_id,
                               .adapter_bytes = result->adapter_bytes};
    uint64_t dropped;
    tt_err err;
    tt_code rc = tt_session_fork(now, &all, &after, &err);
    strcpy(g.job_id, r->id);
    if (rc == TT_OK) {
        rc = tt_session_publish(after, &g, &r->held_generation, &dropped);
    }
    if (rc == TT_OK) {
        ses->data = after;
        rc = tt_session_state_put(x, ses);
        ses->data = now;
    }
    tt_session_destroy(&after);
    return rc < 0 ? rc : TT_OK; /* it has this generation already */
}

/* Jobs whose events the table reads are those of sessions: job_setup.c. */
static bool becomes_generation(const tt_job_record *r, const tt_event *ev)
{
    const tt_session_record *ses = r->arg;
    return ev->type == TT_EV_ADAPTED && ev->u.adapted.kept && r->publish != NULL && !ses->deleted &&
           strcmp(ev->u.adapted.status, "succeeded") == 0;
}

static void on_end_written(void *arg, tt_code rc, const tt_err *err)
{
    writing *w = arg;
    tt_job_record *r = w->r;
    int32_t generation = r->held_generation;
    if (rc < 0) {
        tt_log(TT_LOG_WARN, "job %s: its end is not in the state: %s", r->id, err->msg);
    }
    tt_job_table_release(w->s->jobs, r);
    bool same = generation == 0 || r->generation_after == generation;
    if (rc >= 0 && same && tt_job_record_ended(r)) {
        r->unwritten = false;
        r->row_status = r->status;
    } else if (rc >= 0 && r->table != NULL) { /* another training of the session came first */
        write_now(w->s, r);
    }
    note_result(w, rc);
    end_writing(w);
}

bool tt_job_state_hold(void *arg, tt_job_record *r, const tt_event *ev)
{
    tt_server *s = arg;
    if (s->state == NULL || r->table == NULL) {
        return false;
    }
    if (s->jobs_frozen) { /* nobody will hear of it: it runs again in the next process */
        return true;
    }
    writing *w = begin_writing(s, r);
    tt_state_txn *x = w != NULL ? tt_state_begin(s->state) : NULL;
    if (w == NULL) {
        return false;
    }
    r->held_generation = 0;
    bool generation = becomes_generation(r, ev);
    if (generation) {
        w->rc = put_generation(x, r->arg, r, &ev->u.adapted);
    }
    if (w->rc == TT_OK) {
        w->rc = tt_job_state_put(x, r);
    }
    if (w->rc < 0) {
        tt_err err = {.code = w->rc, .msg = "no memory"};
        tt_state_abandon(x);
        if (generation) {
            tt_session_state_abandoned(r->arg);
        }
        on_end_written(w, w->rc, &err);
    } else {
        tt_state_commit(x, on_end_written, w);
    }
    return true;
}

/* ---- a new process ---- */

typedef struct restoring {
    tt_server *s;
    double now;
    int32_t n;
} restoring;

static void delete_row(tt_server *s, const tt_state_row *row)
{
    tt_state_txn *x = tt_state_begin(s->state);
    (void)tt_state_delete(x, TT_STATE_JOB, row->scope, row->id);
    tt_state_commit(x, NULL, NULL);
}

static tt_code restore_row(void *arg, const tt_state_row *row)
{
    restoring *t = arg;
    const tt_settings *set = t->s->settings;
    tt_job_record *r = NULL;
    tt_err err;
    tt_code rc = tt_job_row_read(row, (int32_t)set->jobs_max_events, &r, &err);
    if (rc < 0) {
        tt_log(TT_LOG_WARN, "state: the job %s cannot be read: %s", row->id, err.msg);
        if (rc == TT_E_INVALID) {
            delete_row(t->s, row);
        }
        return rc == TT_E_NOMEM ? rc : TT_OK;
    }
    if (tt_job_record_ended(r) && r->finished_at <= t->now - set->jobs_retention) {
        delete_row(t->s, row);
        tt_job_record_unref(&r);
        return TT_OK;
    }
    r->saved = r->restored = true;
    r->row_status = r->status;
    t->n++;
    tt_job_table_restore(t->s->jobs, &r);
    return TT_OK;
}

/* What failed may succeed a moment later: nothing is wrong with the job or its session. */
static bool may_pass(const tt_session_record *ses, tt_code rc)
{
    tt_err why;
    return rc == TT_E_BUSY || rc == TT_E_NOMEM || rc == TT_E_CAPACITY || rc == TT_E_UNAVAILABLE ||
           rc == TT_E_IO || (rc == TT_E_STATE && tt_session_usable(ses, &why) == TT_OK);
}

/* Whether a job can go on; TT_E_INVALID: why not. TT_E_BUSY: its session could not be read now. */
static tt_code check_restored(tt_server *s, const tt_job_record *r, tt_err *reterr)
{
    int32_t n = 0;
    tt_session_generation g;
    if (r->in_request) {
        return tt_fail(reterr, TT_E_INVALID,
                       "the server was restarted while the request was running");
    }
    tt_session_record *ses = tt_session_store_find(s->sessions, r->scope, r->session_id);
    tt_err why;
    tt_code rc = ses != NULL ? tt_session_load_now(ses, &why) : TT_E_INVALID;
    if (rc < 0) {
        return ses != NULL && may_pass(ses, rc)
                   ? tt_fail(reterr, TT_E_BUSY, "the server was restarted; %s", why.msg)
                   : tt_fail(reterr, TT_E_INVALID,
                             "the server was restarted and the session is gone");
    }
    const int32_t *ids = tt_session_context(ses->data, &n);
    if (n != r->n_context || tt_job_context_hash(ids, n) != r->context_hash) {
        return tt_fail(reterr, TT_E_INVALID,
                       "the server was restarted and the session's context is another");
    }
    bool found = r->params.start_adapter == 0;
    for (int32_t i = 0; !found && tt_session_generation_at(ses->data, i, &g); i++) {
        found = g.adapter_id == r->params.start_adapter;
    }
    return found ? TT_OK
                 : tt_fail(reterr, TT_E_INVALID,
                           "the server was restarted and the adapter that it goes on from is gone");
}

/* Numbers are given once. */
static void count_numbers(tt_server *s)
{
    for (const tt_job_record *r = tt_job_table_first(s->jobs); r != NULL; r = r->next) {
        tt_session_record *ses = tt_session_store_find(s->sessions, r->scope, r->session_id);
        if (ses != NULL && ses->n_jobs < r->n) {
            ses->n_jobs = r->n;
        }
    }
}

static tt_job_record *first_restored(const tt_server *s)
{
    tt_job_record *r = tt_job_table_first(s->jobs);
    while (r != NULL && (!r->restored || tt_job_record_ended(r))) {
        r = r->next;
    }
    return r;
}

static void settle(tt_server *s, tt_job_record *r, double now)
{
    tt_err err;
    r->restored = false;
    tt_code rc = r->cancel_asked && !r->in_request ? TT_OK : check_restored(s, r, &err);
    r->unchecked = rc == TT_E_BUSY;
    if (rc < 0 && !r->unchecked) {
        tt_job_record_lost(r, err.msg, now);
        return;
    }
    tt_job_record_ref(r);
    tt_job_record_restart(r, now);
    s->jobs_waiting += !tt_job_record_ended(r);
    tt_job_record_unref(&r);
}

tt_code tt_job_state_restore(tt_server *s, tt_err *reterr)
{
    restoring t = {.s = s, .now = tt_unix_now()};
    tt_code rc = tt_state_each(s->state, TT_STATE_JOB, restore_row, &t, reterr);
    if (rc < 0) {
        return rc;
    }
    count_numbers(s);
    for (tt_job_record *r; (r = first_restored(s)) != NULL;) { /* the list may lose others to it */
        settle(s, r, t.now);
    }
    if (t.n > 0) {
        tt_log(TT_LOG_INFO, "state: %d jobs, %d of them go on", (int)t.n, (int)s->jobs_waiting);
    }
    return TT_OK;
}

static bool waits(const tt_job_record *r)
{
    return !tt_job_record_ended(r) && r->n_jobs == 0 && !r->in_request;
}

static tt_job_record *oldest_waiting(const tt_server *s)
{
    tt_job_record *found = NULL;
    for (tt_job_record *r = tt_job_table_first(s->jobs); r != NULL; r = r->next) {
        found = waits(r) ? r : found;
    }
    return found;
}

/* Asked before the context is copied. What it says may be a moment old. */
static bool queue_is_full(const tt_server *s)
{
    tt_engine_stats n;
    tt_engine_get_stats(s->engine, &n);
    return (int64_t)n.queued_jobs + n.running_jobs >=
           s->settings->qttt_max_queued_jobs + s->settings->qttt_max_jobs;
}

/* False: not now. Else it is queued, or has failed. */
static bool resume(tt_server *s, tt_job_record *r)
{
    tt_err err = {0};
    const tt_session_record *ses = tt_session_store_find(s->sessions, r->scope, r->session_id);
    tt_code rc = TT_OK;
    if (strcmp(r->model, s->served->name) != 0) {
        rc = tt_fail(&err, TT_E_INVALID, "the server was restarted with the model %s",
                     s->served->name);
    } else if (r->unchecked) {
        rc = check_restored(s, r, &err);
        r->unchecked = rc == TT_E_BUSY;
    }
    rc = rc == TT_OK ? tt_jobs_go_on(s, r, &err) : rc;
    if (ses != NULL && may_pass(ses, rc)) {
        double now = tt_now();
        bool full = rc == TT_E_BUSY && !r->unchecked; /* the queue: it takes more sooner or later */
        s->jobs_stuck_since = full || s->jobs_stuck_since == 0 ? now : s->jobs_stuck_since;
        if (now - s->jobs_stuck_since < PATIENCE_SECONDS) {
            s->jobs_retry_at = full ? 0 : now + BATCH_MS * 1e-3;
            return false;
        }
    }
    s->jobs_stuck_since = s->jobs_retry_at = 0;
    if (rc < 0) {
        tt_job_record_lost(r, err.msg, tt_unix_now());
    }
    return true;
}

typedef struct waiting_job {
    tt_session_loader loader;
    tt_server *s;
} waiting_job;

static void resume_all(tt_server *s, bool read);

/* Whether they could be read or not: who looks for them now is told why. */
static void on_loaded(tt_session_loader *l, const tt_err *err)
{
    waiting_job *w = (waiting_job *)(void *)l;
    tt_server *s = w->s;
    free(w);
    s->jobs_loading = false;
    resume_all(s, true);
}

/* The session's tokens left memory while its job waited for a place in the queue. True: they are
 * being read, and this thread does not wait for the one that writes. */
static bool load_first(tt_server *s, const tt_job_record *r)
{
    tt_err err;
    tt_session_record *ses = tt_session_store_find(s->sessions, r->scope, r->session_id);
    if (ses == NULL || tt_session_usable(ses, &err) < 0 || tt_session_in_memory(ses)) {
        return false;
    }
    waiting_job *w = malloc(sizeof *w);
    if (w != NULL) {
        *w = (waiting_job){.loader = {.go = on_loaded}, .s = s};
        s->jobs_loading = true;
        tt_session_load(ses, &w->loader);
    }
    return w != NULL;
}

/* read: the oldest's session has just been read. */
static void resume_all(tt_server *s, bool read)
{
    tt_job_record *r;
    while (s->served != NULL && s->jobs_waiting > 0 && !s->jobs_frozen && !s->jobs_loading &&
           (r = oldest_waiting(s)) != NULL) {
        bool later = tt_now() < s->jobs_retry_at || queue_is_full(s);
        if (!later && !read && load_first(s, r)) {
            return;
        }
        read = false;
        if (later || !resume(s, r)) {
            arm_timer(s);
            return;
        }
        s->jobs_waiting--;
    }
    if (s->served != NULL && s->jobs_waiting > 0 && oldest_waiting(s) == NULL) {
        s->jobs_waiting = 0; /* the others were cancelled meanwhile */
    }
}

void tt_job_state_resume(tt_server *s)
{
    resume_all(s, false);
}
