/* diagnostics.c - see diagnostics.h. */
#include "server/diagnostics.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/diagnostics_json.h"

static void unlist(tt_diagnostics *d)
{
    if (!d->listed) {
        return;
    }
    d->listed = false;
    *(d->prev != NULL ? &d->prev->next : &d->server->diagnostics) = d->next;
    if (d->next != NULL) {
        d->next->prev = d->prev;
    }
    tt_session_remove_user(d->record, &d->user);
}

static void list(tt_diagnostics *d)
{
    tt_server *s = d->server;
    d->next = s->diagnostics;
    if (s->diagnostics != NULL) {
        s->diagnostics->prev = d;
    }
    s->diagnostics = d;
    d->listed = true;
    tt_session_add_user(d->record, &d->user);
}

static void cancel(tt_diagnostics *d)
{
    for (int i = 0; i < TT_DIAGNOSE_SIDES; i++) {
        if (d->jobs[i] != NULL) {
            tt_job_cancel(d->jobs[i], false);
        }
    }
    if (d->server->engine != NULL) {
        tt_engine_kick(d->server->engine);
    }
}

void tt_diagnostics_destroy(tt_diagnostics **diagnostics)
{
    tt_diagnostics *d = *diagnostics;
    *diagnostics = NULL;
    unlist(d);
    if (d->pinned && d->server->engine != NULL) {
        tt_engine_unpin(d->server->engine, d->chosen.adapter_id);
    }
    for (int i = 0; i < TT_DIAGNOSE_SIDES; i++) {
        tt_job_unref(&d->jobs[i]);
        tt_event_free(d->told[i]);
    }
    tt_session_unref(&d->record);
    tt_session_text_unref(&d->text);
    tt_buf_finish(&d->ignored);
    free(d->before);
    free(d->ids);
    free(d->needle);
    d->http->on_gone = NULL;
    tt_http_unref(d->http);
    free(d);
}

void tt_diagnostics_fail(tt_diagnostics *d, const tt_http_error *e)
{
    cancel(d);
    d->http->on_gone = NULL;
    tt_http_reply_error(d->http, e);
    tt_diagnostics_destroy(&d);
}

static void fail_code(tt_diagnostics *d, tt_code rc, const tt_err *err)
{
    tt_http_error e;
    tt_error_from_code(&e, err);
    if (rc == TT_E_BUSY) {
        e.retry_after = (int)tt_engine_retry_after(d->server->engine);
    }
    tt_diagnostics_fail(d, &e);
}

static void on_gone(void *arg)
{
    tt_diagnostics *d = arg;
    cancel(d);
    tt_diagnostics_destroy(&d);
}

static void on_session_deleted(tt_session_user *u)
{
    tt_http_error e;
    tt_error_set(&e, 404, NULL, "session_deleted", "the session was deleted");
    tt_diagnostics_fail((tt_diagnostics *)(void *)u, &e); /* takes itself off the list */
}

/* ---- the jobs ---- */

/* The prompt under one generation, with the flags that the session has for its tokens. */
static tt_code make_job(tt_diagnostics *d, const tt_session_generation *g, tt_job **ret,
                        tt_err *reterr)
{
    tt_session_plan plan = {0};
    tt_code rc = tt_session_make_plan(d->record->data, d->ids, (int32_t)d->n_ids, g, &plan, reterr);
    if (rc == TT_OK && !plan.context_equal) {
        rc = tt_fail(reterr, TT_E_INVALID,
                     "the chat template changes the context when a question follows it");
    }
    tt_job_params p = {.kind = TT_JOB_DIAGNOSE,
                       .prompt = d->ids,
                       .n_prompt = (int32_t)d->n_ids,
                       .n_logprobs = -1,
                       .n_prompt_logprobs = -1,
                       .qttt = {.context_tokens = plan.n_base},
                       .decoded = plan.decoded,
                       .keep = true,
                       .adapter_id = plan.adapter_id,
                       .timeout_seconds = d->limits.request_timeout,
                       .diagnose = d->asked};
    snprintf(p.adapter_scope, sizeof p.adapter_scope, "%s", d->http->scope);
    rc = rc == TT_OK ? tt_job_create(&p, tt_server_wake, &d->server->wake, ret, reterr) : rc;
    tt_session_plan_finish(&plan);
    return rc;
}

static tt_code submit(tt_diagnostics *d, tt_err *reterr)
{
    tt_session_generation base = {0};
    tt_code rc = make_job(d, &base, &d->jobs[TT_DIAGNOSE_BASE], reterr);
    if (tt_session_choose(d->record->data, -1, &d->chosen) != TT_OK) {
        d->chosen = base;
    }
    bool adapted = d->chosen.number > 0;
    if (rc == TT_OK && adapted) { /* it answers to the end, whatever becomes of the session */
        rc = tt_engine_pin(d->server->engine, d->chosen.adapter_id, reterr);
        d->pinned = rc == TT_OK;
        rc = rc == TT_OK ? make_job(d, &d->chosen, &d->jobs[TT_DIAGNOSE_ADAPTED], reterr) : rc;
    }
    return rc == TT_OK ? tt_engine_submit_all(d->server->engine, d->jobs, adapted ? 2 : 1, reterr)
                       : rc;
}

void tt_diagnostics_run(tt_diagnostics *d)
{
    tt_err err = {.code = TT_E_NOMEM};
    if (d->record->deleted) {
        tt_http_error e;
        tt_error_set(&e, 404, NULL, "session_not_found", "the session '%s' was deleted",
                     d->record->id);
        tt_diagnostics_fail(d, &e);
        return;
    }
    tt_http_error e;
    if (!tt_tenant_may_read(d->http->tenant, (int64_t)d->n_ids, tt_now(), &e)) {
        tt_diagnostics_fail(d, &e);
        return;
    }
    tt_session_touch(d->record);
    tt_code rc = submit(d, &err);
    if (rc < 0) {
        fail_code(d, rc, &err);
        return;
    }
    tt_tenant_take_prompt(d->http->tenant, (int64_t)d->n_ids, tt_now());
    d->user.on_deleted = on_session_deleted;
    list(d);
    d->http->arg = d;
    d->http->on_gone = on_gone;
}

/* ---- the answer ---- */

static void answer(tt_diagnostics *d)
{
    const tt_event *base = d->told[TT_DIAGNOSE_BASE], *adapted = d->told[TT_DIAGNOSE_ADAPTED];
    tt_diagnostics_answer a = {.session_id = d->record->id,
                               .model = d->served->name,
                               .context_tokens = d->n_context,
                               .prompt_tokens = (int32_t)d->n_ids,
                               .asked = d->asked,
                               .needle = d->needle,
                               .n_needle = d->n_needle,
                               .occurrences = d->occurrences,
                               .generation = d->chosen.number,
                               .adapter_id = d->chosen.adapter_id,
                               .n_layers = base->u.diagnosis.n_layers,
                               .n_heads = base->u.diagnosis.n_heads,
                               .base = base->u.diagnosis.heads,
                               .adapted = adapted != NULL ? adapted->u.diagnosis.heads : NULL};
    tt_buf b = {0};
    d->http->on_gone = NULL;
    if (d->csv) {
        tt_diagnostics_write_csv(&b, &a);
        tt_http_reply(d->http, 200, "text/csv; charset=utf-8", &b);
    } else {
        tt_diagnostics_write_json(&b, &a);
        tt_http_reply_json(d->http, &b);
    }
    tt_session_touch(d->record);
    tt_diagnostics_destroy(&d);
}

/* Takes ev over. False: d is gone. */
static bool on_event(tt_diagnostics *d, int side, tt_event *ev)
{
    tt_event_type type = ev->type;
    if (type == TT_EV_DIAGNOSIS) {
        tt_event_free(d->told[side]);
        d->told[side] = ev;
        return true;
    }
    if (type == TT_EV_DONE || type == TT_EV_ERROR) {
        tt_job_unref(&d->jobs[side]);
    }
    if (type == TT_EV_ERROR) {
        fail_code(d, ev->u.error.code, &ev->u.error);
    }
    tt_event_free(ev);
    return type != TT_EV_ERROR;
}

static void poll_one(tt_diagnostics *d)
{
    tt_event *ev;
    for (int i = 0; i < TT_DIAGNOSE_SIDES; i++) {
        while (d->jobs[i] != NULL && (ev = tt_job_next(d->jobs[i])) != NULL) {
            if (!on_event(d, i, ev)) {
                return;
            }
        }
    }
    if (d->jobs[TT_DIAGNOSE_BASE] == NULL && d->jobs[TT_DIAGNOSE_ADAPTED] == NULL) {
        answer(d);
    }
}

void tt_diagnostics_poll(tt_server *s)
{
    for (tt_diagnostics *d = s->diagnostics, *next; d != NULL; d = next) {
        next = d->next;
        poll_one(d);
    }
}

void tt_diagnostics_cut(tt_server *s)
{
    tt_http_error e;
    tt_error_set(&e, 503, NULL, "draining", "the server is shutting down");
    while (s->diagnostics != NULL) {
        tt_diagnostics_fail(s->diagnostics, &e);
    }
}
