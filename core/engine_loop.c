/* engine_loop.c - the engine's thread: asks the scheduler what is next, does it, tells it what it
 * cost. See engine_priv.h for the lock. */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/engine_priv.h"
#include "core/sysinfo.h"

#define PIECE_SECONDS 0.1    /* of long work, although nobody waits: new arrivals and cancels */
#define REFRESH_SECONDS 0.05 /* between two looks at what the cache holds for queued tasks */

static void set_state(tt_engine *e, tt_engine_state state, const tt_err *err)
{
    pthread_mutex_lock(&e->mutex);
    e->state = state;
    if (err != NULL) {
        e->failure = *err;
    }
    pthread_mutex_unlock(&e->mutex);
    if (e->opt.on_state != NULL) {
        e->opt.on_state(e->opt.on_state_arg, state, err);
    }
}

static tt_task *task_of(tt_sched_task *s)
{
    return (tt_task *)(void *)s;
}

/* Counters and the watchdog's clock. */
static void publish(tt_engine *e)
{
    tt_kv_stats kv = tt_kv_get_stats(e->worker.kv);
    int64_t bytes, adapters;
    tt_adapter_cache_stats(e->worker.adapters, &bytes, &adapters);
    size_t pinned = tt_adapter_cache_pinned(e->worker.adapters);
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
    s.last_progress_seconds = tt_sys_now();
    e->pinned_bytes = pinned;
    e->stats = s;
    pthread_mutex_unlock(&e->mutex);
}

static void set_task(tt_engine *e, tt_task *t, tt_sched_state state)
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

/* The tasks that exist now, oldest first; NULL with *ret_n = -1 when memory ran out. Owned. */
static tt_task **list_tasks(tt_engine *e, int32_t *ret_n)
{
    int32_t n = 0, i = 0;
    pthread_mutex_lock(&e->mutex);
    for (tt_sched_task *s = NULL; (s = tt_sched_walk(e->sched, s)) != NULL;) {
        n++;
    }
    tt_task **list = malloc(((size_t)n + 1) * sizeof *list);
    for (tt_sched_task *s = NULL; list != NULL && (s = tt_sched_walk(e->sched, s)) != NULL;) {
        list[i++] = task_of(s);
    }
    pthread_mutex_unlock(&e->mutex);
    *ret_n = list != NULL ? n : -1;
    return list;
}

/* ---- the end of a task ---- */

static void end_training(tt_engine *e, tt_task *t, const tt_err *err);

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
    publish(e); /* who has seen the end sees its pages free */
    tt_job_push(job, last);
    tt_job_unref(&job);
}

static void end_task(tt_engine *e, tt_task *t, tt_code rc, const tt_err *err)
{
    if (t->t != NULL) {
        tt_err own = *err;
        own.code = rc;
        end_training(e, t, &own);
    } else {
        end_request(e, t, rc, err);
    }
}

static void finish_request(tt_engine *e, tt_task *t)
{
    tt_err err = {0};
    tt_code rc = tt_generate_done(&e->worker, t, &err);
    end_request(e, t, rc, &err);
}

/* A parked request goes on with what its training gave; without a result it asks again. */
static void resume_request(tt_engine *e, tt_task *r, const tt_qttt_result *result,
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
    } else {
        set_task(e, r, TT_SCHED_PREFILL);
    }
}

/* What a request that waited gets. A session's adapter has to stay: pinned, or it is nothing. */
static void hand_over(tt_engine *e, tt_task *r, const tt_task *t, const tt_qttt_result *result)
{
    tt_qttt_result theirs = *result;
    tt_adapter *adapter = t->t->adapter;
    bool own = r->job == t->job;
    theirs.cached = theirs.cached || !own;
    if (!own && adapter != NULL && r->p->pin_adapter &&
        !tt_adapter_cache_pin(e->worker.adapters, adapter->id, 1)) {
        theirs = tt_qttt_without(&t->t->params, "failed", "capacity");
        adapter = NULL;
    }
    resume_request(e, r, &theirs, adapter);
}

/* Those who wait for this training. Without success only the one on whose behalf it ran hears of
 * it, the others ask again. */
static void resume_waiters(tt_engine *e, const tt_task *t, const tt_qttt_result *result, bool ok)
{
    int32_t n;
    tt_task **list = list_tasks(e, &n);
    for (int32_t i = 0; i < n; i++) {
        tt_task *r = list[i];
        if (r->t != NULL || r->r.training != t->t) {
            continue;
        }
        if (ok || r->job == t->job) {
            hand_over(e, r, t, result);
        } else {
            resume_request(e, r, NULL, NULL);
        }
    }
    free(list);
}

/* Fills the last event of a qTTT job and tells the result first. */
static void end_job(tt_engine *e, tt_task *t, const tt_qttt_result *result, const tt_err *err)
{
    tt_err why = *err;
    tt_code rc = why.code;
    if (rc == TT_OK) {
        rc = tt_push_adapted(&e->worker, t, result, &why);
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
    if (t->last != NULL) {
        end_job(e, t, &result, err);
        return;
    }
    remove_task(e, t);
    tt_task_destroy(&e->worker, &t);
}

/* ---- pages ---- */

static int32_t free_pages(const tt_engine *e)
{
    tt_kv_stats s = tt_kv_get_stats(e->worker.kv);
    return s.total - s.used;
}

/* What it needs to start again (or at all): its tokens so far and a page to go on, less what the
 * cache holds. */
static void refresh_pages(tt_engine *e, tt_task *t)
{
    const tt_job_params *p = t->p;
    int32_t n = t->t != NULL ? p->qttt.context_tokens : t->n_ids;
    int32_t pages = n / TT_PAGE_TOKENS + 1 + (t->t != NULL ? 2 * TT_PROBE_SEGMENTS : 0);
    int32_t total = tt_kv_total(e->worker.kv);
    pages -= tt_engine_cached_tokens(e, p) / TT_PAGE_TOKENS;
    t->sched.pages = pages < 1 ? 1 : pages > total ? total : pages;
}

/* What running tasks have been promised at their start and not yet taken. */
static int32_t promised_pages(const tt_engine *e)
{
    int32_t n = 0;
    for (tt_sched_task *s = NULL; (s = tt_sched_walk(e->sched, s)) != NULL;) {
        bool growing = s->state == TT_SCHED_PREFILL || s->state == TT_SCHED_PARKED;
        n += growing && s->pages > s->held ? s->pages - s->held : 0;
    }
    return n;
}

/* Takes a running task's pages away. It goes back to the queue; a parked one stays parked. */
static void preempt(tt_engine *e, tt_task *t)
{
    tt_err err = {0};
    while (t->t != NULL && t->sched.mid_step) { /* a training is only ever between two steps */
        tt_code rc = tt_training_run(&e->worker, t, 0, &err);
        if (rc != (tt_code)TT_TASK_MORE) {
            end_task(e, t, rc, &err);
            return;
        }
    }
    e->worker.totals.preemptions++;
    tt_task_drop_pages(&e->worker, t);
    t->sched.held = 0;
    if (t->t == NULL && t->r.phase == TT_GENERATE_DECODE) {
        t->r.phase = TT_GENERATE_PROMPT;
        t->until = t->n_ids - 1;
        t->logits = false;
    }
    if (t->sched.state != TT_SCHED_PARKED) {
        refresh_pages(e, t);
        set_task(e, t, TT_SCHED_QUEUED);
    }
}

/* `t` lacks `need` pages: younger tasks give theirs; else it gives way itself. True: they are
 * there. */
static bool make_room(tt_engine *e, tt_task *t, int32_t need)
{
    while (free_pages(e) < need) {
        pthread_mutex_lock(&e->mutex);
        tt_sched_task *victim = tt_sched_victim(e->sched, &t->sched);
        pthread_mutex_unlock(&e->mutex);
        if (victim == NULL) {
            return false;
        }
        preempt(e, task_of(victim));
    }
    return true;
}

/* No room even so. With nobody else there it never will be. */
static void give_way(tt_engine *e, tt_task *t)
{
    pthread_mutex_lock(&e->mutex);
    tt_sched_counts n = tt_sched_get_counts(e->sched);
    pthread_mutex_unlock(&e->mutex);
    if (n.running + n.running_jobs <= 1) {
        tt_err err;
        tt_fail(&err, TT_E_CAPACITY, "the K/V pool is too small for this request");
        end_task(e, t, TT_E_CAPACITY, &err);
        return;
    }
    preempt(e, t);
}

/* ---- the choices ---- */

static void start_task(tt_engine *e, tt_task *t)
{
    tt_err err = {0};
    tt_job_set_position(t->job, -1, "");
    if (t->started > 0) {
        return; /* preempted before: it goes on */
    }
    if (t->t == NULL) {
        pthread_mutex_lock(&e->mutex);
        tt_sched_counts n = tt_sched_get_counts(e->sched);
        pthread_mutex_unlock(&e->mutex);
        tt_code rc = tt_generate_start(&e->worker, t, n.queued + n.running - 1, &err);
        if (rc < 0) {
            end_request(e, t, rc, &err);
        }
        return;
    }
    t->started = tt_sys_now();
    tt_event *ev = t->last != NULL ? tt_task_event(TT_EV_STARTED, 0, NULL) : NULL;
    if (ev != NULL) {
        tt_job_push(t->job, ev);
    }
}

/* The request waits for a training of its own, or for one like it that is under way. */
static void park(tt_engine *e, tt_task *r)
{
    tt_err err = {0};
    int32_t n;
    tt_qttt_params params = r->p->qttt;
    tt_adapter_key key;
    tt_qttt_resolve(&params);
    params.mode = TT_QTTT_ON;
    tt_adapter_key_make(&key, r->p->prompt, params.context_tokens, r->p->adapter_scope, &params);
    tt_task **list = list_tasks(e, &n);
    for (int32_t i = 0; i < n && r->r.training == NULL; i++) {
        tt_training *other = list[i]->t;
        if (other != NULL && other->key.n == key.n && !other->automatic &&
            memcmp(other->key.bytes, key.bytes, key.n) == 0) {
            r->r.training = other;
        }
    }
    free(list);
    tt_task *t = NULL;
    tt_code rc = TT_OK;
    if (r->r.training == NULL) {
        rc = tt_task_create(&e->worker, r->job, NULL, &t, &err);
        rc = rc == TT_OK ? tt_training_init(&e->worker, t, &err) : rc;
        if (rc == TT_OK) {
            tt_sched_task *one = &t->sched;
            refresh_pages(e, t);
            pthread_mutex_lock(&e->mutex);
            rc = tt_sched_add(e->sched, &one, 1, tt_sys_now(), &err);
            pthread_mutex_unlock(&e->mutex);
        }
        if (rc == TT_OK) {
            r->r.training = t->t;
        }
    }
    if (rc == TT_OK) {
        set_task(e, r, TT_SCHED_PARKED);
        return;
    }
    tt_task_destroy(&e->worker, &t);
    tt_qttt_result none =
        tt_qttt_without(&params, "failed", rc == TT_E_NOMEM ? "out_of_memory" : "queue_full");
    resume_request(e, r, &none, NULL);
}

static void arrived(tt_engine *e, tt_task *t)
{
    tt_err err = {0};
    tt_code rc = t->t != NULL ? tt_training_arrived(&e->worker, t, &err)
                              : tt_generate_arrived(&e->worker, t, &err);
    if (rc < 0) {
        end_task(e, t, rc, &err);
    } else if (rc == (tt_code)TT_TASK_PARKED) {
        park(e, t);
    } else if (rc == (tt_code)TT_TASK_OVER && t->t == NULL) {
        finish_request(e, t);
    } else if (rc == (tt_code)TT_TASK_OVER) {
        end_training(e, t, &(tt_err){.code = TT_OK});
    } else if (rc == TT_OK) {
        set_task(e, t, t->t != NULL ? TT_SCHED_TRAIN : TT_SCHED_DECODE);
    }
}

static void run_prefill(tt_engine *e, tt_task *t, double seconds)
{
    tt_err err = {0};
    tt_code rc = tt_prefill_run(&e->worker, t, seconds, &err);
    t->sched.held = t->seq.n_pages;
    if (rc == TT_E_CAPACITY) {
        if (!make_room(e, t, tt_prefill_need(&e->worker, t))) {
            give_way(e, t);
        }
    } else if (rc < 0) {
        end_task(e, t, rc, &err);
    } else if (rc == TT_OK) {
        arrived(e, t);
    }
}

static void run_training(tt_engine *e, tt_task *t, double seconds)
{
    tt_err err = {0};
    tt_code rc = tt_training_run(&e->worker, t, seconds, &err);
    if (rc == TT_E_CAPACITY) {
        if (!make_room(e, t, 2 * TT_PROBE_SEGMENTS)) {
            give_way(e, t);
        }
    } else if (rc <= 0) {
        err.code = rc;
        end_training(e, t, &err);
    }
}

/* Pages for the next token of each; who gets none leaves the batch. Returns how many stay. */
static int32_t reserve_batch(tt_engine *e, tt_task **batch, int32_t n)
{
    tt_err err;
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) {
        tt_task *t = batch[i];
        if (t->sched.state != TT_SCHED_DECODE) {
            continue; /* preempted for one before it */
        }
        if (tt_seq_need(&t->seq, 1) > free_pages(e) && !make_room(e, t, 1)) {
            give_way(e, t);
            continue;
        }
        tt_code rc = tt_seq_reserve(&t->seq, 1, &err);
        if (rc != TT_OK) {
            end_task(e, t, rc, &err);
            continue;
        }
        t->sched.held = t->seq.n_pages;
        batch[kept++] = t;
    }
    /* making room for a later one may have taken an earlier (younger) one's pages */
    n = kept;
    kept = 0;
    for (int32_t i = 0; i < n; i++) {
        if (batch[i]->sched.state == TT_SCHED_DECODE) {
            batch[kept++] = batch[i];
        }
    }
    return kept;
}

static void run_decode(tt_engine *e, const tt_sched_choice *c)
{
    size_t n = (size_t)c->n;
    tt_task **batch = malloc(n * sizeof *batch);
    tt_code *outcome = malloc(n * sizeof *outcome);
    tt_err *errs = calloc(n, sizeof *errs), err = {0};
    tt_code rc = batch == NULL || outcome == NULL || errs == NULL
                     ? tt_fail(&err, TT_E_NOMEM, "no memory for a batch")
                     : TT_OK;
    int32_t kept = 0;
    for (int32_t i = 0; rc == TT_OK && i < c->n; i++) {
        batch[i] = task_of(c->batch[i]);
    }
    if (rc == TT_OK) {
        kept = reserve_batch(e, batch, c->n);
        rc = kept > 0 ? tt_batch_decode(&e->worker, batch, kept, outcome, errs, &err) : TT_OK;
    } else {
        end_task(e, task_of(c->batch[0]), rc, &err); /* one request fails, the others go on */
    }
    for (int32_t i = 0; i < kept; i++) {
        if (rc < 0) {
            end_task(e, batch[i], rc, &err);
        } else if (outcome[i] < 0) {
            end_task(e, batch[i], outcome[i], &errs[i]);
        } else if (outcome[i] == (tt_code)TT_TASK_OVER) {
            finish_request(e, batch[i]);
        }
    }
    free(batch);
    free(outcome);
    free(errs);
}

/* ---- between the choices ---- */

static void do_pins(tt_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    tt_pin_order *o = e->pins;
    e->pins = NULL;
    e->pins_tail = &e->pins;
    pthread_mutex_unlock(&e->mutex);
    while (o != NULL) {
        tt_pin_order *next = o->next;
        tt_adapter_cache_pin(e->worker.adapters, o->id, o->add);
        free(o);
        o = next;
    }
}

static void tell_pause(tt_task *t)
{
    bool paused = tt_job_paused(t->job);
    if (t->t == NULL || paused == t->paused_told || t->sched.mid_step) {
        return;
    }
    t->paused_told = paused;
    if (paused && t->t->run != NULL) {
        tt_qttt_pause(t->t->run);
    }
    tt_event *ev = tt_task_event(TT_EV_STATUS, 0, NULL);
    if (ev != NULL) {
        ev->u.status.status = paused                              ? "paused"
                              : t->sched.state == TT_SCHED_QUEUED ? "queued"
                                                                  : "running";
        tt_job_push(t->job, ev);
    }
}

/* Why a task still waits. */
static const char *reason_to_wait(const tt_engine *e, const tt_task *t, bool behind_tag)
{
    return behind_tag ? "session_job" : t->sched.pages > free_pages(e) ? "kv_pages" : "engine";
}

/* Ends the first task whose client has left. False: there is none. */
static bool end_one_cancelled(tt_engine *e, tt_task *const *list, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        tt_task *t = list[i];
        if (tt_job_cancelled(t->job) ||
            (t->t != NULL && t->last == NULL && tt_job_adaptation_cancelled(t->job))) {
            tt_err err;
            end_task(e, t, tt_task_cancelled(&err), &err);
            return true;
        }
    }
    return false;
}

/* Clients that have left, jobs that were paused, places in the queue. */
static void sweep(tt_engine *e, double now, double *refreshed)
{
    int32_t n;
    bool refresh = now - *refreshed >= REFRESH_SECONDS;
    *refreshed = refresh ? now : *refreshed;
    tt_task **list = list_tasks(e, &n);
    while (end_one_cancelled(e, list, n)) { /* it may have resumed or ended others */
        free(list);
        list = list_tasks(e, &n);
    }
    for (int32_t i = 0; i < n; i++) {
        tt_task *t = list[i];
        tell_pause(t);
        pthread_mutex_lock(&e->mutex);
        /* a step that has begun is finished first */
        t->sched.held = t->seq.n_pages;
        t->sched.paused = t->t != NULL && tt_job_paused(t->job) && !t->sched.mid_step;
        bool queued = t->sched.state == TT_SCHED_QUEUED;
        bool behind_tag = queued && tt_sched_behind_tag(&t->sched);
        int32_t position = queued && t->last != NULL ? tt_sched_position(e->sched, &t->sched) : -1;
        pthread_mutex_unlock(&e->mutex);
        if (position >= 0) {
            tt_job_set_position(t->job, position, reason_to_wait(e, t, behind_tag));
        }
        if (queued && refresh) {
            refresh_pages(e, t);
        }
    }
    free(list);
}

static void run_choice(tt_engine *e, const tt_sched_choice *c)
{
    double seconds = c->seconds < PIECE_SECONDS ? c->seconds : PIECE_SECONDS, t0 = tt_sys_now();
    switch (c->what) {
    case TT_SCHED_IDLE:
        return;
    case TT_SCHED_EXPIRE: {
        tt_err err;
        tt_code rc = tt_fail(&err, TT_E_TIMEOUT, "timeout_seconds have passed");
        end_task(e, task_of(c->task), rc, &err);
        return;
    }
    case TT_SCHED_START:
        start_task(e, task_of(c->task));
        return;
    case TT_SCHED_RUN_DECODE:
        run_decode(e, c);
        break;
    case TT_SCHED_RUN_PREFILL:
        run_prefill(e, task_of(c->task), seconds);
        break;
    case TT_SCHED_RUN_TRAIN:
        run_training(e, task_of(c->task), seconds);
        break;
    }
    pthread_mutex_lock(&e->mutex);
    tt_sched_ran(e->sched, c, t0, tt_sys_now());
    pthread_mutex_unlock(&e->mutex);
}

/* Waits for something to arrive, at most `seconds`. The mutex is held. */
static void wait_for_work(tt_engine *e, double seconds)
{
    e->stats.last_progress_seconds = tt_sys_now();
    if (isinf(seconds)) {
        pthread_cond_wait(&e->wake, &e->mutex);
    } else {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        double whole = floor(seconds);
        at.tv_sec += (time_t)whole;
        at.tv_nsec += (long)((seconds - whole) * 1e9);
        if (at.tv_nsec >= 1000000000) {
            at.tv_sec++;
            at.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&e->wake, &e->mutex, &at);
    }
    e->stats.last_progress_seconds = tt_sys_now();
}

static void serve(tt_engine *e)
{
    double refreshed = 0;
    for (;;) {
        do_pins(e);
        sweep(e, tt_sys_now(), &refreshed);
        publish(e);
        int32_t pages = free_pages(e);
        pthread_mutex_lock(&e->mutex);
        if (e->stopping) {
            pthread_mutex_unlock(&e->mutex);
            return;
        }
        tt_sched_choice c = tt_sched_next(e->sched, tt_sys_now(), pages - promised_pages(e));
        if (c.what == TT_SCHED_IDLE && !e->kicked && e->pins == NULL) {
            wait_for_work(e, c.wait);
        }
        e->kicked = false;
        pthread_mutex_unlock(&e->mutex);
        run_choice(e, &c);
    }
}

/* Every task gets its last event. */
static void drain(tt_engine *e)
{
    int32_t n;
    tt_task **list = list_tasks(e, &n);
    for (int trainings = 0; trainings <= 1;
         trainings++) { /* requests first: no waiter is resumed */
        for (int32_t i = 0; i < n; i++) {
            tt_task *t = list[i];
            if (t == NULL || (t->t != NULL) != (trainings == 1)) {
                continue;
            }
            list[i] = NULL;
            tt_err err;
            tt_code rc = t->started > 0 ? tt_task_cancelled(&err)
                                        : tt_fail(&err, TT_E_UNAVAILABLE, "the server is stopping");
            end_task(e, t, rc, &err);
        }
    }
    free(list);
    do_pins(e);
}

void *tt_engine_main(void *arg)
{
    tt_engine *e = arg;
    tt_err err = {0};
    tt_code rc = tt_worker_open(&e->worker, &e->opt, &err);
    if (rc != TT_OK) {
        set_state(e, TT_ENGINE_FAILED, &err);
        return NULL;
    }
    publish(e);
    set_state(e, TT_ENGINE_READY, NULL);
    serve(e);
    drain(e);
    return NULL;
}
