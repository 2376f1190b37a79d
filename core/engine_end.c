/* engine_end.c - how a task ends, and who goes on because of it. Thread: engine only. See
 * engine_priv.h. */
#include <stdlib.h>

#include "core/engine_priv.h"
#include "core/sysinfo.h"

#define MEMORY_SECONDS 1 /* between two looks at a GPU's memory, each a call of the driver */

/* Into the totals, which are published as they are. */
static void read_device_memory(tt_engine *e)
{
    size_t free_bytes, total;
    double now = tt_sys_now();
    if (e->worker.device.choice.cuda == NULL || now < e->memory_read + MEMORY_SECONDS) {
        return;
    }
    e->memory_read = now;
    if (tt_device_memory(&e->worker.device, &free_bytes, &total)) {
        e->worker.totals.device_free_bytes = (int64_t)free_bytes;
        e->worker.totals.device_total_bytes = (int64_t)total;
    }
}

/* Counters and the watchdog's clock. */
void tt_engine_publish(tt_engine *e)
{
    tt_kv_stats kv = tt_kv_get_stats(e->worker.kv);
    int64_t bytes, adapters;
    tt_adapter_cache_stats(e->worker.adapters, &bytes, &adapters);
    size_t pinned = tt_adapter_cache_pinned(e->worker.adapters);
    size_t stuck = tt_adapter_cache_stuck(e->worker.adapters);
    read_device_memory(e);
    pthread_mutex_lock(&e->mutex);
    tt_sched_counts n = tt_sched_get_counts(e->sched);
    tt_engine_stats s = e->worker.totals;
    s.queued = n.queued;
    s.running = n.running;
    s.queued_jobs = n.queued_jobs;
    s.running_jobs = n.running_jobs;
    s.kv_pages_total = kv.total;
    s.kv_pages_used = kv.used;
    s.kv_pages_cached = kv.cached;
    s.kv_bytes_total = (int64_t)kv.bytes_total;
    s.adapter_bytes = bytes;
    s.adapters = adapters;
    s.adapter_pinned_bytes = (int64_t)pinned;
    s.last_progress_seconds = tt_sys_now();
    s.adapters_unsaved = tt_adapter_cache_unsaved(e->worker.adapters);
    e->stuck_bytes = stuck;
    e->arena_bytes = e->worker.device.arena_bytes;
    e->stats = s;
    pthread_mutex_unlock(&e->mutex);
}

void tt_engine_set_task(tt_engine *e, tt_task *t, tt_sched_state state)
{
    pthread_mutex_lock(&e->mutex);
    tt_sched_set(e->sched, &t->sched, state);
    pthread_mutex_unlock(&e->mutex);
}

static void remove_task(tt_engine *e, tt_task *t)
{
    pthread_mutex_lock(&e->mutex);
    tt_sched_remove(e->sched, &t->sched, tt_sys_now());
    pthread_mutex_unlock(&e->mutex);
}

tt_task *tt_engine_next_task(tt_engine *e, tt_task *t)
{
    pthread_mutex_lock(&e->mutex);
    tt_sched_task *s = tt_sched_walk(e->sched, t != NULL ? &t->sched : NULL);
    pthread_mutex_unlock(&e->mutex);
    return s != NULL ? tt_engine_task_of(s) : NULL;
}

/* rc TT_OK: t->last is filled; else err goes to the client. Frees t. */
static void end_request(tt_engine *e, tt_task *t, tt_code rc, const tt_err *err)
{
    tt_engine_stats *total = &e->worker.totals;
    *(rc == TT_OK            ? &total->jobs_done
      : rc == TT_E_CANCELLED ? &total->jobs_cancelled
                             : &total->jobs_failed) += 1;
    remove_task(e, t);
    tt_job_set_position(t->job, -1, "");
    tt_event *last = t->last;
    t->last = NULL;
    if (rc != TT_OK) {
        last->type = TT_EV_ERROR;
        last->u.error = *err;
        last->u.error.code = rc;
    }
    tt_job *job = t->job;
    tt_job_ref(job);
    tt_task_destroy(&e->worker, &t);
    tt_engine_publish(e); /* who has seen the end sees its pages free */
    tt_job_push(job, last);
    tt_job_unref(&job);
}

void tt_engine_finish_request(tt_engine *e, tt_task *t)
{
    tt_err err = {0};
    tt_code rc = tt_generate_done(&e->worker, t, &err);
    end_request(e, t, rc, &err);
}

/* A parked request goes on with what its training gave; without a result it asks again. */
bool tt_engine_resume_request(tt_engine *e, tt_task *r, const tt_qttt_result *result,
                              tt_adapter *adapter)
{
    tt_err err = {0};
    r->r.training = NULL;
    if (adapter != NULL) {
        tt_adapter_ref(adapter);
    }
    tt_code rc = result == NULL ? TT_OK : tt_generate_adapted(&e->worker, r, result, adapter, &err);
    if (rc < 0) {
        end_request(e, r, rc, &err);
        return false;
    }
    tt_engine_set_task(e, r, TT_SCHED_PREFILL);
    return true;
}

/* What a request that waited gets. A session's adapter has to stay: pinned, or it is nothing. Who
 * cannot be told of the pin does not keep it. */
static void hand_over(tt_engine *e, tt_task *r, tt_task *t, const tt_qttt_result *result)
{
    tt_qttt_result theirs = *result;
    tt_adapter *adapter = theirs.adapter_id != 0 ? t->t->adapter : NULL;
    bool own = r->job == t->job, pin = adapter != NULL && r->p->pin_adapter;
    theirs.cached = theirs.cached || !own;
    if (pin && !own && !tt_adapter_cache_pin(e->worker.adapters, adapter->id, 1)) {
        theirs = tt_qttt_without(&t->t->params, "failed", "capacity");
        adapter = NULL;
        pin = false;
    }
    theirs.durable = false;
    if (pin) {
        tt_engine_note_durable(e, &theirs);
    }
    bool told = tt_engine_resume_request(e, r, &theirs, adapter);
    if (own && told) {
        t->t->pinned = false; /* the request's from now on */
    } else if (pin && !own && !told) {
        tt_adapter_cache_pin(e->worker.adapters, t->t->adapter->id, -1);
    }
}

/* Those who wait for this training. Without success only the one on whose behalf it ran hears of
 * it, the others ask again: what failed for one may be had by the next. */
static void resume_waiters(tt_engine *e, tt_task *t, const tt_qttt_result *result, bool ok)
{
    for (tt_task *r = tt_engine_next_task(e, NULL), *next; r != NULL; r = next) {
        next = tt_engine_next_task(e, r);
        if (r->t != NULL || r->r.training != t->t) {
            continue;
        }
        if (ok || r->job == t->job) {
            hand_over(e, r, t, result);
        } else {
            tt_engine_resume_request(e, r, NULL, NULL);
        }
    }
}

/* Who has asked for the same and still wants it. */
static tt_task *heir_of(tt_engine *e, const tt_task *t)
{
    tt_task *r = NULL;
    while ((r = tt_engine_next_task(e, r)) != NULL) {
        bool waits = r->t == NULL && r->r.training == t->t && r->job != t->job;
        if (waits && !tt_job_cancelled(r->job) && !tt_job_adaptation_cancelled(r->job)) {
            break;
        }
    }
    return r;
}

/* One that is over and waits for its file is not passed on: who asks again finds what it gave. */
bool tt_engine_pass_on(tt_engine *e, tt_task *t)
{
    tt_task *heir = t->t != NULL && t->last == NULL && !t->t->saving ? heir_of(e, t) : NULL;
    if (heir == NULL) {
        return false;
    }
    tt_job *first = t->job;
    t->job = heir->job;
    tt_job_ref(t->job);
    t->p = heir->p;
    t->paused_told = false;
    for (tt_task *r = NULL; (r = tt_engine_next_task(e, r)) != NULL;) {
        if (r->t == NULL && r->r.training == t->t && r->job == first) {
            tt_qttt_result none = tt_qttt_without(&t->t->params, "cancelled", "cancelled");
            tt_engine_resume_request(e, r, &none, NULL);
            break;
        }
    }
    tt_job_unref(&first);
    return true;
}

/* Nobody will hear of what the training has pinned. */
static void drop_pin(tt_engine *e, tt_task *t, bool drop)
{
    if (drop && t->t->pinned) {
        tt_adapter_cache_pin(e->worker.adapters, t->t->adapter->id, -1);
        t->t->pinned = false;
    }
}

/* Fills the last event of a qTTT job and tells the result first. */
static void end_job(tt_engine *e, tt_task *t, const tt_qttt_result *result, const tt_err *err)
{
    tt_err why = *err;
    tt_code rc = why.code;
    if (rc == TT_OK) {
        rc = tt_push_adapted(&e->worker, t, result, &why);
        drop_pin(e, t, rc != TT_OK);
    }
    if (rc == TT_OK) {
        t->last->type = TT_EV_DONE;
        t->last->u.done.reason = TT_FINISH_STOP;
        t->last->u.done.prompt_tokens = t->p->n_prompt;
        t->last->u.done.cached_tokens = t->cached;
        t->last->u.done.text = "";
        t->last->u.done.queue_seconds = t->started - t->submitted;
    }
    end_request(e, t, rc, &why);
}

/* err->code TT_OK: t->t->result holds. Frees t. */
static void end_training(tt_engine *e, tt_task *t, const tt_err *err)
{
    tt_training *tr = t->t;
    if (err->code == TT_OK && tt_engine_saves_first(e, t)) {
        return;
    }
    drop_pin(e, t, err->code != TT_OK);
    if (tr->pinned) {
        tt_engine_note_durable(e, &tr->result);
    }
    tt_qttt_result result = tr->result;
    if (err->code != TT_OK) {
        const char *reason = err->code == TT_E_NOMEM       ? "out_of_memory"
                             : err->code == TT_E_CAPACITY  ? "capacity"
                             : err->code == TT_E_CANCELLED ? "cancelled"
                             : err->code == TT_E_TIMEOUT   ? "timeout"
                             : err->code == TT_E_INVALID   ? "start_adapter_unusable"
                                                           : "internal";
        result = tt_qttt_without(&tr->params, err->code == TT_E_CANCELLED ? "cancelled" : "failed",
                                 reason);
    }
    resume_waiters(e, t, &result, err->code == TT_OK);
    if (tr->lent_pin) {
        tt_adapter_cache_pin(e->worker.adapters, tr->adapter->id, -1);
    }
    if (t->last != NULL) {
        end_job(e, t, &result, err);
        return;
    }
    drop_pin(e, t, true); /* its request has ended meanwhile */
    remove_task(e, t);
    tt_task_destroy(&e->worker, &t);
}

void tt_engine_end_task(tt_engine *e, tt_task *t, tt_code rc, const tt_err *err)
{
    if (t->t != NULL) {
        tt_err own = *err;
        own.code = rc;
        end_training(e, t, &own);
    } else {
        end_request(e, t, rc, err);
    }
}
