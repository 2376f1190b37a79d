/* session_engine.c - what a session has in the engine (session_store.h): the prefill of its
 * context, and its pinned adapters. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/session_state.h"
#include "server/session_store_priv.h"

static tt_engine *engine_of(const tt_session_record *r)
{
    return r->store->opt.engine(r->store->opt.arg);
}

/* ---- prefill ---- */

static void end_prefill(tt_session_record *r)
{
    tt_job_unref(&r->prefill);
    r->store->n_prefills--;
}

void tt_session_stop_prefill(tt_session_record *r)
{
    if (r->prefill != NULL) {
        tt_job_cancel(r->prefill, false);
        if (engine_of(r) != NULL) {
            tt_engine_kick(engine_of(r));
        }
        end_prefill(r);
    }
}

tt_code tt_session_start_prefill(tt_session_record *r, tt_err *reterr)
{
    tt_session_store *st = r->store;
    tt_job_params params = {.kind = TT_JOB_PREFILL, .n_logprobs = -1, .n_prompt_logprobs = -1};
    tt_job *job = NULL;
    params.prompt = tt_session_context(r->data, &params.n_prompt);
    tt_session_stop_prefill(r);
    r->done = 0;
    r->total = params.n_prompt;
    if (params.n_prompt == 0) {
        r->status = TT_SESSION_READY;
        return TT_OK;
    }
    params.keep_context = params.n_prompt;
    params.session_tag = r->tag;
    snprintf(params.adapter_scope, sizeof params.adapter_scope, "%s", r->scope);
    tt_code rc = tt_job_create(&params, st->opt.wake, st->opt.wake_arg, &job, reterr);
    if (rc == TT_OK) {
        rc = tt_engine_submit(engine_of(r), job, reterr);
    }
    if (rc < 0) {
        tt_job_unref(&job);
        return rc;
    }
    r->prefill = job;
    r->status = TT_SESSION_QUEUED;
    st->n_prefills++;
    return TT_OK;
}

/* The last event: the record may be used by on_prefilled. */
static void finish_prefill(tt_session_record *r, const tt_event *ev)
{
    tt_session_store *st = r->store;
    end_prefill(r);
    if (ev->type == TT_EV_ERROR) {
        r->status = TT_SESSION_FAILED;
        r->error = ev->u.error;
        return;
    }
    r->status = TT_SESSION_READY;
    r->done = r->total;
    tt_session_touch(r);
    if (st->opt.on_prefilled != NULL) {
        st->opt.on_prefilled(st->opt.arg, r);
    }
}

static void poll_prefill(tt_session_record *r)
{
    tt_event *ev;
    while (r->prefill != NULL && (ev = tt_job_next(r->prefill)) != NULL) {
        switch (ev->type) {
        case TT_EV_STARTED:
            r->status = TT_SESSION_PREFILLING;
            break;
        case TT_EV_PREFILL:
            r->status = TT_SESSION_PREFILLING;
            r->done = ev->u.prefill.done;
            break;
        case TT_EV_DONE:
        case TT_EV_ERROR:
            finish_prefill(r, ev);
            break;
        default: /* a prefill tells nothing else */
            break;
        }
        tt_event_free(ev);
    }
}

/* ---- adapters ---- */

/* The engine is NULL once the server has ended it, and its adapters with it. */
static void unpin(tt_engine *e, uint64_t adapter_id)
{
    if (e != NULL) {
        tt_engine_unpin(e, adapter_id);
    }
}

void tt_session_adopt(tt_session_record *r, const tt_qttt_result *result, const char *job_id,
                      int32_t *ret_number)
{
    tt_engine *e = engine_of(r);
    uint64_t dropped = 0;
    tt_session_generation g = {.adapter_id = result->adapter_id,
                               .adapter_bytes = result->adapter_bytes};
    *ret_number = 0;
    if (r->deleted) { /* nobody can ask for it any more */
        unpin(e, g.adapter_id);
        return;
    }
    snprintf(g.job_id, sizeof g.job_id, "%s", job_id);
    if (tt_session_publish(r->data, &g, ret_number, &dropped) != TT_OK) {
        unpin(e, g.adapter_id); /* it has one already */
    }
    tt_session_touch(r);
    r->dirty = true;
    /* another change may have gone between the job's end and this */
    tt_session_state_put_now(r, dropped);
}

tt_code tt_session_pin_adapters(tt_engine *e, tt_session *s, tt_err *reterr)
{
    tt_session_generation g;
    int32_t n = 0;
    tt_code rc = TT_OK;
    while (rc == TT_OK && tt_session_generation_at(s, n, &g)) {
        rc = tt_engine_pin(e, g.adapter_id, reterr);
        n += rc == TT_OK;
    }
    if (rc == TT_OK) {
        return TT_OK;
    }
    for (int32_t i = 0; i < n && tt_session_generation_at(s, i, &g); i++) {
        tt_engine_unpin(e, g.adapter_id);
    }
    tt_session_reset(s);
    return rc;
}

/* A session whose pins memory was missing for has its generations no more, but in its rows. */
tt_code tt_session_store_pin(tt_session_store *st, bool all, tt_err *reterr)
{
    tt_engine *e = st->opt.engine(st->opt.arg);
    tt_session_generation g;
    size_t n = 0;
    uint64_t *ids = malloc(((size_t)st->n * (size_t)st->opt.max_generations + 1) * sizeof *ids);
    bool failed = ids == NULL;
    for (tt_session_record *r = st->first; r != NULL; r = r->next) {
        failed = tt_session_pin_adapters(e, r->data, reterr) < 0 || failed;
        for (int32_t i = 0; ids != NULL && tt_session_generation_at(r->data, i, &g); i++) {
            ids[n++] = g.adapter_id;
        }
    }
    if (!failed && all) {
        tt_engine_keep_adapters(e, ids, n);
    }
    free(ids);
    return failed ? tt_fail(reterr, TT_E_NOMEM, "out of memory for the list of adapters") : TT_OK;
}

void tt_session_drop_adapters(tt_session_record *r)
{
    tt_engine *e = engine_of(r);
    tt_session_generation g;
    for (int32_t i = 0; tt_session_generation_at(r->data, i, &g); i++) {
        unpin(e, g.adapter_id);
    }
    tt_session_reset(r->data);
}

/* ---- events ---- */

/* False when the job has ended. */
static bool poll_orphan(tt_session_store *st, tt_job *job)
{
    tt_event *ev;
    bool alive = true;
    while (alive && (ev = tt_job_next(job)) != NULL) {
        if (ev->type == TT_EV_ADAPTED && ev->u.adapted.kept) {
            unpin(st->opt.engine(st->opt.arg), ev->u.adapted.adapter_id);
        }
        alive = ev->type != TT_EV_DONE && ev->type != TT_EV_ERROR;
        tt_event_free(ev);
    }
    return alive;
}

void tt_session_store_reap(tt_session_store *st, tt_job *job)
{
    if (st->n_orphans == st->orphans_cap) {
        int32_t cap = 2 * st->orphans_cap + 8;
        tt_job **more = realloc(st->orphans, (size_t)cap * sizeof *more);
        if (more == NULL) { /* its pin stays: memory is lost, nothing else */
            tt_job_unref(&job);
            return;
        }
        st->orphans = more;
        st->orphans_cap = cap;
    }
    st->orphans[st->n_orphans++] = job;
    tt_session_store_poll(st);
}

void tt_session_store_poll(tt_session_store *st)
{
    for (int32_t i = st->n_orphans - 1; i >= 0; i--) {
        if (!poll_orphan(st, st->orphans[i])) {
            tt_job_unref(&st->orphans[i]);
            st->orphans[i] = st->orphans[--st->n_orphans];
        }
    }
    if (st->n_prefills == 0) {
        return;
    }
    for (tt_session_record *r = st->first, *next; r != NULL; r = next) {
        next = r->next;
        tt_session_ref(r);
        poll_prefill(r);
        tt_session_unref(&r);
    }
}
