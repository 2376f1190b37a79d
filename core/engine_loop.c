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
#include "core/pin.h"

#define PIECE_SECONDS 0.1    /* of long work, although nobody waits: new arrivals and cancels */
#define REFRESH_SECONDS 0.05 /* between two looks at what the cache holds for queued tasks */
#define REFRESH_BUDGET 0.005 /* seconds of one look: in a long queue the last are passed over */

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

/* ---- the choices ---- */

static void start_task(tt_engine *e, tt_task *t)
{
    tt_err err = {0};
    tt_job_set_position(t->job, -1, "");
    if (t->started > 0) {
        return; /* preempted before: it goes on */
    }
    if (!tt_engine_name_adapters(e, t, false)) {
        tt_engine_set_task(e, t, TT_SCHED_QUEUED);
        return;
    }
    tt_code rc = t->t != NULL ? tt_training_start(t, &err) : tt_generate_start(&e->worker, t, &err);
    if (rc < 0) {
        tt_engine_end_task(e, t, rc, &err);
    }
}

/* The request waits for a training of its own, or for one like it that is under way. */
static void park(tt_engine *e, tt_task *r)
{
    tt_err err = {0};
    tt_qttt_params params = r->p->qttt;
    tt_adapter_key key;
    tt_qttt_resolve(&params);
    params.mode = TT_QTTT_ON;
    tt_adapter_key_make(&key, r->p->prompt, params.context_tokens, r->p->adapter_scope, &params);
    tt_task *t = NULL;
    while (r->r.training == NULL && (t = tt_engine_next_task(e, t)) != NULL) {
        tt_training *other = t->t;
        if (other != NULL && other->key.n == key.n && !other->automatic &&
            memcmp(other->key.bytes, key.bytes, key.n) == 0) {
            r->r.training = other;
        }
    }
    t = NULL;
    tt_code rc = TT_OK;
    if (r->r.training == NULL) {
        rc = tt_task_create(&e->worker, r->job, NULL, &t, &err);
        rc = rc == TT_OK ? tt_training_init(&e->worker, t, &err) : rc;
        if (rc == TT_OK) {
            tt_sched_task *one = &t->sched;
            t->named = true;
            t->starting = r->starting;
            if (t->starting != NULL) {
                tt_adapter_ref(t->starting);
            }
            tt_engine_refresh_pages(e, t);
            pthread_mutex_lock(&e->mutex);
            rc = tt_sched_add(e->sched, &one, 1, tt_sys_now(), &err);
            pthread_mutex_unlock(&e->mutex);
        }
        if (rc == TT_OK) {
            r->r.training = t->t;
        }
    }
    if (rc == TT_OK) {
        tt_engine_set_task(e, r, TT_SCHED_PARKED);
        return;
    }
    tt_task_destroy(&e->worker, &t);
    tt_qttt_result none =
        tt_qttt_without(&params, "failed", rc == TT_E_NOMEM ? "out_of_memory" : "queue_full");
    tt_engine_resume_request(e, r, &none, NULL);
}

static void arrived(tt_engine *e, tt_task *t)
{
    tt_err err = {0};
    tt_code rc = t->t != NULL ? tt_training_arrived(&e->worker, t, &err)
                              : tt_generate_arrived(&e->worker, t, &err);
    if (rc < 0) {
        tt_engine_end_task(e, t, rc, &err);
    } else if (rc == (tt_code)TT_TASK_PARKED) {
        park(e, t);
    } else if (rc == (tt_code)TT_TASK_OVER && t->t == NULL) {
        tt_engine_finish_request(e, t);
    } else if (rc == (tt_code)TT_TASK_OVER) {
        tt_engine_end_task(e, t, TT_OK, &(tt_err){.code = TT_OK});
    } else if (rc == TT_OK) {
        tt_engine_set_task(e, t, t->t != NULL ? TT_SCHED_TRAIN : TT_SCHED_DECODE);
    }
}

/* Pages that others gave are taken at once: else one of them could start again with them. */
static void run_prefill(tt_engine *e, tt_task *t, double seconds)
{
    tt_err err = {0};
    double until = tt_sys_now() + seconds;
    tt_code rc;
    for (;;) {
        rc = tt_prefill_run(&e->worker, t, until - tt_sys_now(), &err);
        if (rc == TT_E_NOMEM && tt_worker_reclaim(&e->worker)) {
            tt_prefill_abandon(&e->worker, t); /* the piece is run again */
            continue;
        }
        if (rc != TT_E_CAPACITY) {
            break;
        }
        t->sched.held = t->seq.n_pages;
        if (!tt_engine_make_room(e, t, tt_prefill_need(&e->worker, t))) {
            tt_engine_give_way(e, t);
            return;
        }
    }
    t->sched.held = t->seq.n_pages;
    if (rc < 0) {
        tt_engine_end_task(e, t, rc, &err);
    } else if (rc == (tt_code)TT_TASK_WAITING) {
        tt_engine_wait_for_disk(e, t);
    } else if (rc == TT_OK) {
        tt_engine_save_context(e, t);
        arrived(e, t);
    }
}

static void run_training(tt_engine *e, tt_task *t, double seconds)
{
    tt_err err = {0};
    double until = tt_sys_now() + seconds;
    tt_code rc;
    while ((rc = tt_training_run(&e->worker, t, until - tt_sys_now(), &err)) == TT_E_CAPACITY) {
        if (!tt_engine_make_room(e, t, tt_worker_scratch(t->p))) {
            tt_engine_give_way(e, t);
            return;
        }
    }
    if (rc <= 0) {
        tt_engine_end_task(e, t, rc, &err);
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
        if (tt_seq_need(&t->seq, 1) > tt_engine_free_pages(e) && !tt_engine_make_room(e, t, 1)) {
            tt_engine_give_way(e, t);
            continue;
        }
        tt_code rc = tt_seq_reserve(&t->seq, 1, &err);
        if (rc != TT_OK) {
            tt_engine_end_task(e, t, rc, &err);
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

/* One step. A step that memory is missing for has changed nothing: it is tried again without
 * drafts, when some could be given up, and at last without the youngest, who ends. Returns how many
 * stay. */
static int32_t decode(tt_engine *e, tt_task **batch, int32_t n, tt_code *outcome, tt_err *errs,
                      tt_code *ret_rc, tt_err *reterr)
{
    tt_code rc = TT_OK;
    tt_speculate_plan(&e->worker, batch, n);
    while (n > 0 &&
           (rc = tt_batch_decode(&e->worker, batch, n, outcome, errs, reterr)) == TT_E_NOMEM) {
        if (!tt_speculate_drop(batch, n) && !tt_worker_reclaim(&e->worker)) {
            tt_engine_end_task(e, batch[--n], rc, reterr);
        }
    }
    *ret_rc = rc;
    return n;
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
        batch[i] = tt_engine_task_of(c->batch[i]);
    }
    if (rc == TT_OK) {
        kept = reserve_batch(e, batch, c->n);
        kept = decode(e, batch, kept, outcome, errs, &rc, &err);
    } else {
        tt_engine_end_task(e, tt_engine_task_of(c->batch[0]), rc,
                           &err); /* one request fails, the others go on */
    }
    for (int32_t i = 0; i < kept; i++) {
        if (rc < 0) {
            tt_engine_end_task(e, batch[i], rc, &err);
        } else if (outcome[i] < 0) {
            tt_engine_end_task(e, batch[i], outcome[i], &errs[i]);
        } else if (outcome[i] == (tt_code)TT_TASK_OVER) {
            tt_engine_finish_request(e, batch[i]);
        }
    }
    free(batch);
    free(outcome);
    free(errs);
}

/* ---- between the choices ---- */

static void tell_pause(tt_task *t)
{
    bool paused = tt_job_paused(t->job);
    if (t->t == NULL || paused == t->paused_told || t->sched.mid_step) {
        return;
    }
    if (paused && t->t->run != NULL) {
        tt_qttt_pause(t->t->run);
    }
    tt_event *ev = tt_task_event(TT_EV_STATUS, 0, NULL);
    if (ev == NULL) {
        return; /* it is told at the next look */
    }
    t->paused_told = paused;
    ev->u.status.status = paused                              ? "paused"
                          : t->sched.state == TT_SCHED_QUEUED ? "queued"
                                                              : "running";
    tt_job_push(t->job, ev);
}

/* Why a task still waits. */
static const char *reason_to_wait(const tt_engine *e, const tt_task *t, bool behind_tag)
{
    return behind_tag                                 ? "session_job"
           : t->sched.pages > tt_engine_free_pages(e) ? "kv_pages"
                                                      : "engine";
}

/* A training on behalf of a request that has ended (its time was up): what it would publish and
 * pin, the request would not hear of. */
static bool for_nobody(tt_engine *e, const tt_task *t)
{
    bool alone = t->t != NULL && t->last == NULL;
    for (tt_task *r = NULL; alone && (r = tt_engine_next_task(e, r)) != NULL;) {
        alone = r->t != NULL || r->job != t->job;
    }
    return alone;
}

/* Ends the first task that its client has left, or passes it on. False: there is none. */
static bool end_one_cancelled(tt_engine *e)
{
    for (tt_task *t = NULL; (t = tt_engine_next_task(e, t)) != NULL;) {
        if (tt_job_cancelled(t->job) || for_nobody(e, t) ||
            (t->t != NULL && t->last == NULL && tt_job_adaptation_cancelled(t->job))) {
            tt_err err;
            if (tt_engine_pass_on(e, t)) {
                return true;
            }
            tt_engine_end_task(e, t, tt_task_cancelled(&err), &err);
            return true;
        }
    }
    return false;
}

/* Clients that have left, jobs that were paused, places in the queue. */
static void sweep(tt_engine *e, double now, double *refreshed)
{
    bool restored = false, refresh = now - *refreshed >= REFRESH_SECONDS;
    *refreshed = refresh ? now : *refreshed;
    e->poll_seconds = INFINITY;
    while (end_one_cancelled(e)) { /* it may have resumed or ended others */
    }
    bool first = true; /* the oldest that waits for its adapters gets them */
    for (tt_task *t = NULL; (t = tt_engine_next_task(e, t)) != NULL;) {
        refresh = refresh && tt_sys_now() - now < REFRESH_BUDGET;
        first = tt_engine_name_adapters(e, t, first) && first;
        tell_pause(t);
        restored = restored || tt_engine_poll_disk(e, t, now);
        pthread_mutex_lock(&e->mutex);
        /* a step that has begun is finished first */
        t->sched.held = t->seq.n_pages;
        t->restoring = t->fetch != NULL && t->sched.state == TT_SCHED_PARKED;
        t->sched.paused =
            t->loading || (t->t != NULL && tt_job_paused(t->job) && !t->sched.mid_step);
        bool queued = t->sched.state == TT_SCHED_QUEUED;
        bool behind_tag = queued && tt_sched_behind_tag(&t->sched);
        /* of requests now and then: each looks through the whole queue */
        bool tell = queued && (refresh || (t->t != NULL && t->last != NULL));
        int32_t position = tell ? tt_sched_position(e->sched, &t->sched) : -1;
        pthread_mutex_unlock(&e->mutex);
        if (position >= 0) {
            tt_job_set_position(t->job, position, reason_to_wait(e, t, behind_tag));
        }
        if (queued && (refresh || !t->sized)) {
            tt_engine_refresh_pages(e, t);
        }
    }
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
        tt_engine_end_task(e, tt_engine_task_of(c->task), rc, &err);
        return;
    }
    case TT_SCHED_START:
        start_task(e, tt_engine_task_of(c->task));
        return;
    case TT_SCHED_RUN_DECODE:
        run_decode(e, c);
        break;
    case TT_SCHED_RUN_PREFILL:
        run_prefill(e, tt_engine_task_of(c->task), seconds);
        break;
    case TT_SCHED_RUN_TRAIN:
        run_training(e, tt_engine_task_of(c->task), seconds);
        break;
    }
    pthread_mutex_lock(&e->mutex);
    tt_sched_ran(e->sched, c, t0, tt_sys_now());
    pthread_mutex_unlock(&e->mutex);
}

/* Waits for something to arrive, at most `seconds`. The mutex is held. */
static void wait_for_work(tt_engine *e, double seconds)
{
    e->sleeping = true;
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
    e->sleeping = false;
    e->stats.last_progress_seconds = tt_sys_now();
}

/* The device has failed for good. What ran ends, and requests that waited; trainings that had not
 * begun stay, since the next process takes them up again. */
static void lose_device(tt_engine *e)
{
    tt_err err = e->worker.device.failure;
    for (int trainings = 0; trainings <= 1; trainings++) { /* requests first, as in drain() */
        for (tt_task *t = tt_engine_next_task(e, NULL), *next; t != NULL; t = next) {
            next = tt_engine_next_task(e, t);
            bool waits = t->t != NULL && t->last != NULL && t->started <= 0;
            if ((t->t != NULL) == (trainings == 1) && !waits) {
                tt_engine_end_task(e, t, TT_E_DEVICE, &err);
            }
        }
    }
    set_state(e, TT_ENGINE_LOST, &err);
    pthread_mutex_lock(&e->mutex);
    e->sleeping = true;
    while (!e->stopping) {
        pthread_cond_wait(&e->wake, &e->mutex);
    }
    pthread_mutex_unlock(&e->mutex);
}

/* Until the engine is told to stop, or its device fails. */
static void serve(tt_engine *e)
{
    double refreshed = 0;
    tt_sched_set_pages_total(e->sched, tt_kv_total(e->worker.kv)); /* nobody else asks it yet */
    while (e->worker.device.failure.code == TT_OK) {
        tt_engine_tend_adapters(e);
        tt_engine_do_pins(e);
        sweep(e, tt_sys_now(), &refreshed);
        bool more = tt_engine_save_some(e);
        tt_engine_publish(e);
        int32_t pages = tt_engine_free_pages(e);
        pthread_mutex_lock(&e->mutex);
        if (e->stopping) {
            pthread_mutex_unlock(&e->mutex);
            return;
        }
        tt_sched_choice c =
            tt_sched_next(e->sched, tt_sys_now(), pages - tt_engine_promised_pages(e));
        if (c.what == TT_SCHED_IDLE && !e->kicked && e->pins == NULL && !more) {
            double poll = e->poll_seconds < e->tend_wait ? e->poll_seconds : e->tend_wait;
            wait_for_work(e, c.wait < poll ? c.wait : poll);
        }
        e->kicked = false;
        pthread_mutex_unlock(&e->mutex);
        run_choice(e, &c);
    }
}

/* Every task gets its last event. */
static void drain(tt_engine *e)
{
    tt_engine_settle_adapters(e);
    for (int trainings = 0; trainings <= 1;
         trainings++) { /* requests first: no waiter is resumed */
        for (tt_task *t = tt_engine_next_task(e, NULL), *next; t != NULL; t = next) {
            next = tt_engine_next_task(e, t);
            if ((t->t != NULL) != (trainings == 1)) {
                continue;
            }
            tt_err err;
            tt_code rc = t->started > 0 ? tt_task_cancelled(&err)
                                        : tt_fail(&err, TT_E_UNAVAILABLE, "the server is stopping");
            tt_engine_end_task(e, t, rc, &err);
        }
    }
    tt_engine_do_pins(e);
}

void *tt_engine_main(void *arg)
{
    tt_engine *e = arg;
    tt_err err = {0};
    pthread_setname_np(pthread_self(), "qttt-engine"); /* its row threads inherit it */
    tt_code rc = tt_worker_open(&e->worker, &e->opt, &err);
    rc = rc == TT_OK ? tt_engine_open_adapters(e, &err) : rc;
    if (rc != TT_OK) {
        set_state(e, TT_ENGINE_FAILED, &err);
        return NULL;
    }
    tt_engine_open_store(e);
    if (e->opt.pin_threads && e->worker.device.ops.memory == NULL) {
        tt_pin_threads(e->worker.n_threads);
    }
    tt_engine_publish(e);
    set_state(e, TT_ENGINE_READY, NULL);
    serve(e);
    if (e->worker.device.failure.code != TT_OK) {
        lose_device(e);
    }
    drain(e);
    tt_engine_close_store(e);
    return NULL;
}
