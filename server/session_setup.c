/* session_setup.c - see session_setup.h. */
#include "server/session_setup.h"

#include <math.h>
#include <stdio.h>

#include <xxhash.h>

#include "server/job_setup.h"
#include "server/job_table.h"
#include "server/log.h"
#include "server/quota.h"
#include "server/prepare.h"
#include "server/session_load.h"
#include "server/session_state.h"

static void on_sweep(uv_timer_t *t);

/* A little late rather than early: then one sweep is enough. */
void tt_sessions_arm(tt_server *s)
{
    double wait = tt_session_store_sweep(s->sessions);
    if (wait < 1e9) {
        uv_timer_start(&s->session_timer, on_sweep, (uint64_t)(wait * 1000) + 20, 0);
    } else {
        uv_timer_stop(&s->session_timer);
    }
}

static void on_sweep(uv_timer_t *t)
{
    tt_sessions_arm(t->data);
}

static tt_engine *engine_of(void *arg)
{
    return ((tt_server *)arg)->engine;
}

static tt_state_db *state_of(void *arg)
{
    return ((tt_server *)arg)->state;
}

static void on_flush(uv_timer_t *t)
{
    tt_session_state_flush(((tt_server *)t->data)->sessions, false);
}

static tt_code may_add(void *arg, const char *scope, size_t n_bytes, tt_err *reterr)
{
    return tt_quota_session(arg, scope, n_bytes, reterr);
}

static void on_prefilled(void *arg, tt_session_record *r)
{
    tt_jobs_session_prefilled(arg, r);
}

static void on_deleted(void *arg, tt_session_record *r)
{
    tt_server *s = arg;
    tt_job_table_cancel_session(s->jobs, r->scope, r->id);
    if (s->engine != NULL) {
        tt_engine_kick(s->engine);
    }
    tt_log(TT_LOG_DEBUG, "session %s is deleted", r->id);
}

/* The sessions of the processes before. */
static tt_code restore(tt_server *s, tt_err *reterr)
{
    tt_session_restored n = {0};
    double begin = tt_now();
    tt_code rc = tt_session_state_restore(s->sessions, &n, reterr);
    s->sessions_unreadable = n.unreadable > 0;
    if (n.unreadable > 0) {
        tt_log(TT_LOG_WARN, "state: %d sessions cannot be read; they are left on the disk",
               (int)n.unreadable);
    }
    if (rc == TT_OK && n.n > 0) {
        tt_log(TT_LOG_INFO, "state: %d sessions, %.2f s", (int)n.n, tt_now() - begin);
    }
    return rc;
}

tt_code tt_sessions_start(tt_server *s, tt_err *reterr)
{
    const tt_settings *set = s->settings;
    tt_code rc = tt_session_store_create(
        &(tt_session_store_options){.max_sessions = (int32_t)set->max_sessions,
                                    .max_bytes = (size_t)set->session_memory,
                                    .ttl_seconds = set->session_ttl,
                                    .max_generations = (int32_t)set->max_generations,
                                    .engine = engine_of,
                                    .may_add = may_add,
                                    .state = state_of,
                                    .on_prefilled = on_prefilled,
                                    .on_deleted = on_deleted,
                                    .wake = tt_server_wake,
                                    .arg = s,
                                    .wake_arg = &s->wake},
        &s->sessions, reterr);
    if (rc == TT_OK) {
        rc = restore(s, reterr);
    }
    if (rc == TT_OK && s->state != NULL) {
        uv_timer_start(&s->flush_timer, on_flush, TT_SESSION_FLUSH_MS, TT_SESSION_FLUSH_MS);
    }
    return rc;
}

/* What decides which tokens a session's ids are, and what their K/V are. */
static void name_model(const tt_served *sv, char name[TT_SESSION_MODEL])
{
    uint64_t h = 0;
    for (int32_t i = 0; i < sv->model->n_vocab; i++) {
        size_t n = 0;
        const char *piece = tt_tokenizer_piece(sv->tokenizer, i, true, &n);
        h = XXH3_64bits_withSeed(piece, n, h);
    }
    snprintf(name, TT_SESSION_MODEL, "%016llx-%016llx", (unsigned long long)sv->model->fingerprint,
             (unsigned long long)h);
}

/* The default of its requests is read anew: what is allowed may be less now. */
static void read_default(tt_server *s, tt_session_record *r)
{
    tt_request_limits limits = tt_limits_of(s->settings, s->served);
    tt_buf ignored = {0};
    tt_http_error e = {0};
    if (!r->have_qttt || !r->in_db || r->foreign) {
        return;
    }
    if (!tt_qttt_parse(r->qttt, r->alias, &limits.caps, limits.n_layers, &r->qttt_parsed, &ignored,
                       &e)) {
        tt_log(TT_LOG_WARN, "session %s: its default is not used: %s", r->id, e.message);
        r->have_qttt = false;
    }
    tt_buf_finish(&ignored);
}

/* Its job was to start when its context had been read, which the process before did not live to. */
static void start_first_job(tt_session_record *r)
{
    tt_err err = {0};
    if (!r->have_qttt || r->foreign || r->n_jobs > 0 || r->qttt_parsed.params.mode != TT_QTTT_ON) {
        return;
    }
    if (tt_session_load_now(r, &err) < 0 || tt_session_start_prefill(r, &err) < 0) {
        tt_log(TT_LOG_WARN, "session %s: its job does not start: %s", r->id, err.msg);
    }
}

void tt_sessions_ready(tt_server *s)
{
    char model[TT_SESSION_MODEL];
    tt_err err;
    bool all = tt_state_complete(s->state) && !s->sessions_unreadable;
    name_model(s->served, model);
    tt_session_store_set_model(s->sessions, model);
    if (tt_session_store_pin(s->sessions, all, &err) < 0) {
        tt_log(TT_LOG_WARN, "state: %s", err.msg);
    }
    for (tt_session_record *r = tt_session_store_first(s->sessions); r != NULL; r = r->next) {
        read_default(s, r);
        start_first_job(r);
    }
    tt_sessions_arm(s);
}

void tt_sessions_flush(tt_server *s)
{
    uv_timer_stop(&s->flush_timer);
    if (s->sessions != NULL) {
        tt_session_state_flush(s->sessions, true);
    }
}

void tt_sessions_end(tt_server *s)
{
    tt_session_store_destroy(&s->sessions);
}

const char *tt_sessions_header(tt_http_request *req)
{
    const char *v = tt_http_get_header(req, req->server->settings->session_header);
    if (v == NULL || v[0] == '\0') {
        v = tt_http_get_header(req, "X-OpenWebUI-Chat-Id");
    }
    return v != NULL && v[0] != '\0' ? v : NULL;
}

tt_session_record *tt_sessions_of_path(tt_http_request *req)
{
    tt_session_record *r = tt_session_store_find(req->server->sessions, req->scope, req->param);
    if (r == NULL) {
        tt_http_error e;
        tt_error_set(&e, 404, NULL, "session_not_found", "the session '%.100s' does not exist",
                     req->param);
        tt_http_reply_error(req, &e);
    }
    if (r != NULL) {
        snprintf(req->note.session, sizeof req->note.session, "%s", r->id);
    }
    return r;
}
