/* session_setup.c - see session_setup.h. */
#include "server/session_setup.h"

#include <math.h>
#include <stdio.h>

#include "server/job_setup.h"
#include "server/job_table.h"
#include "server/log.h"
#include "server/quota.h"

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

static void wake_loop(void *arg)
{
    uv_async_send(arg); /* engine thread */
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

tt_code tt_sessions_start(tt_server *s, tt_err *reterr)
{
    const tt_settings *set = s->settings;
    return tt_session_store_create(
        &(tt_session_store_options){.max_sessions = (int32_t)set->max_sessions,
                                    .max_bytes = (size_t)set->session_memory,
                                    .ttl_seconds = set->session_ttl,
                                    .max_generations = (int32_t)set->max_generations,
                                    .engine = engine_of,
                                    .may_add = may_add,
                                    .on_prefilled = on_prefilled,
                                    .on_deleted = on_deleted,
                                    .wake = wake_loop,
                                    .arg = s,
                                    .wake_arg = &s->wake},
        &s->sessions, reterr);
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
