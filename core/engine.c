/* engine.c - the engine's thread and its queue: admission from any thread, one request after the
 * other here. See engine.h. Lock order: e->mutex is never held while a job's mutex is taken or a
 * callback runs. */
#include "core/engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/sysinfo.h"
#include "core/worker.h"

typedef struct waiting {
    struct waiting *next;
    tt_job *job; /* referenced */
    tt_event *
        last; /* owned: the final event exists before the job is admitted, so that it cannot fail */
    double since;
} waiting;

struct tt_engine {
    tt_engine_options opt;
    char *model_path; /* owned */
    pthread_t thread;
    pthread_mutex_t mutex; /* guards everything below but `worker` */
    pthread_cond_t wake;
    bool stopping;
    waiting *head, **tail;
    tt_job *running; /* referenced by the thread */
    tt_engine_state state;
    tt_err failure;
    tt_engine_stats stats;
    /* Written by the thread before TT_ENGINE_READY, then immutable model and tokenizer; all else is
     * the thread's own. */
    tt_worker worker;
};

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

/* Counters and the watchdog's clock. */
static void publish(tt_engine *e)
{
    tt_kv_stats kv = tt_kv_get_stats(e->worker.kv);
    int64_t bytes, adapters;
    tt_adapter_cache_stats(e->worker.adapters, &bytes, &adapters);
    pthread_mutex_lock(&e->mutex);
    tt_engine_stats s = e->worker.totals;
    s.queued = e->stats.queued;
    s.running = e->running != NULL;
    s.kv_pages_total = kv.total;
    s.kv_pages_used = kv.used;
    s.kv_pages_cached = kv.cached;
    s.kv_bytes_total = (int64_t)kv.bytes_total;
    s.adapter_bytes = bytes;
    s.adapters = adapters;
    s.last_progress_seconds = tt_sys_now();
    e->stats = s;
    pthread_mutex_unlock(&e->mutex);
}

static void finish(tt_engine *e, waiting *w, tt_code rc)
{
    tt_engine_stats *t = &e->worker.totals;
    *(rc == TT_OK            ? &t->jobs_done
      : rc == TT_E_CANCELLED ? &t->jobs_cancelled
                             : &t->jobs_failed) += 1;
    publish(e);
    tt_job_push(w->job, w->last);
    tt_job_unref(&w->job);
    free(w);
}

static void finish_unrun(tt_engine *e, waiting *w, tt_code code, const char *why)
{
    w->last->type = TT_EV_ERROR;
    tt_fail(&w->last->u.error, code, "%s", why);
    finish(e, w, code);
}

/* Requests whose client left while they waited give their place up at once, not when their turn
 * comes. */
static void sweep(tt_engine *e)
{
    waiting *gone = NULL;
    pthread_mutex_lock(&e->mutex);
    for (waiting **at = &e->head; *at != NULL;) {
        waiting *w = *at;
        if (!tt_job_cancelled(w->job)) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        e->tail = e->tail == &w->next ? at : e->tail;
        w->next = gone;
        gone = w;
        e->stats.queued--;
    }
    pthread_mutex_unlock(&e->mutex);
    while (gone != NULL) {
        waiting *w = gone;
        gone = w->next;
        finish_unrun(e, w, TT_E_CANCELLED, "the request was cancelled");
    }
}

/* Every few layers of a running request. */
static void on_progress(void *arg)
{
    publish(arg);
    sweep(arg);
}

/* The next request; waits. NULL when the engine stops. */
static waiting *next(tt_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    while (e->head == NULL && !e->stopping) {
        pthread_cond_wait(&e->wake, &e->mutex);
        e->stats.last_progress_seconds = tt_sys_now();
    }
    waiting *w = e->stopping ? NULL : e->head;
    if (w != NULL) {
        e->head = w->next;
        e->tail = e->head == NULL ? &e->head : e->tail;
        e->stats.queued--;
        e->running = w->job;
    }
    pthread_mutex_unlock(&e->mutex);
    return w;
}

static void drain(tt_engine *e)
{
    for (;;) {
        pthread_mutex_lock(&e->mutex);
        waiting *w = e->head;
        if (w != NULL) {
            e->head = w->next;
            e->tail = e->head == NULL ? &e->head : e->tail;
            e->stats.queued--;
        }
        pthread_mutex_unlock(&e->mutex);
        if (w == NULL) {
            return;
        }
        finish_unrun(e, w, TT_E_UNAVAILABLE, "the server is stopping");
    }
}

static void *engine_main(void *arg)
{
    tt_engine *e = arg;
    tt_err err = {0};
    tt_code rc = tt_worker_open(&e->worker, &e->opt, &err);
    if (rc != TT_OK) {
        set_state(e, TT_ENGINE_FAILED, &err);
        return NULL;
    }
    e->worker.progress = on_progress;
    e->worker.progress_arg = e;
    publish(e);
    set_state(e, TT_ENGINE_READY, NULL);
    for (waiting *w; (w = next(e)) != NULL;) {
        rc = tt_worker_run(&e->worker, w->job, tt_sys_now() - w->since, w->last);
        pthread_mutex_lock(&e->mutex);
        e->running = NULL;
        pthread_mutex_unlock(&e->mutex);
        finish(e, w, rc);
    }
    drain(e);
    return NULL;
}

static void destroy_parts(tt_engine *e)
{
    pthread_cond_destroy(&e->wake);
    pthread_mutex_destroy(&e->mutex);
    free(e->model_path);
    free(e);
}

tt_code tt_engine_create(const tt_engine_options *opt, tt_engine **ret_engine, tt_err *reterr)
{
    tt_engine *e = calloc(1, sizeof *e);
    char *path = strdup(opt->model_path);
    if (e == NULL || path == NULL) {
        free(e);
        free(path);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the engine");
    }
    e->opt = *opt;
    e->opt.model_path = e->model_path = path;
    e->opt.max_queue = opt->max_queue > 0 ? opt->max_queue : 64;
    e->tail = &e->head;
    e->stats.last_progress_seconds = tt_sys_now();
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->wake, NULL);
    if (pthread_create(&e->thread, NULL, engine_main, e) != 0) {
        destroy_parts(e);
        return tt_fail(reterr, TT_E_NOMEM, "cannot start the engine's thread");
    }
    *ret_engine = e;
    return TT_OK;
}

void tt_engine_destroy(tt_engine **engine)
{
    tt_engine *e = *engine;
    *engine = NULL;
    if (e == NULL) {
        return;
    }
    pthread_mutex_lock(&e->mutex);
    e->stopping = true;
    tt_job *running = e->running;
    if (running != NULL) {
        tt_job_cancel(running, false); /* atomic flag, no lock of the job's is taken */
    }
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->mutex);
    pthread_join(e->thread, NULL);
    tt_worker_close(&e->worker);
    destroy_parts(e);
}

tt_engine_state tt_engine_get_state(const tt_engine *engine, tt_err *ret_failure)
{
    tt_engine *e = (tt_engine *)engine;
    pthread_mutex_lock(&e->mutex);
    tt_engine_state state = e->state;
    if (state == TT_ENGINE_FAILED && ret_failure != NULL) {
        *ret_failure = e->failure;
    }
    pthread_mutex_unlock(&e->mutex);
    return state;
}

static bool ready(const tt_engine *e)
{
    return tt_engine_get_state(e, NULL) == TT_ENGINE_READY;
}

const tt_model *tt_engine_model(const tt_engine *e)
{
    return ready(e) ? e->worker.model : NULL;
}

const tt_tokenizer *tt_engine_tokenizer(const tt_engine *e)
{
    return ready(e) ? e->worker.tokenizer : NULL;
}

int32_t tt_engine_max_context(const tt_engine *e)
{
    return ready(e) ? e->worker.max_context : 0;
}

const char *tt_engine_isa(const tt_engine *e)
{
    return ready(e) ? e->worker.device.ops.isa : "";
}

int tt_engine_threads(const tt_engine *e)
{
    return e->opt.n_threads > 0 ? e->opt.n_threads : tt_sys_cpus();
}

tt_code tt_engine_submit(tt_engine *e, tt_job *job, tt_err *reterr)
{
    if (!ready(e)) {
        return tt_fail(reterr, TT_E_UNAVAILABLE, "the model is loading");
    }
    tt_code rc = tt_worker_check(&e->worker, tt_job_get_params(job), reterr);
    if (rc != TT_OK) {
        return rc;
    }
    waiting *w = calloc(1, sizeof *w);
    tt_event *last = calloc(1, sizeof *last);
    if (w == NULL || last == NULL) {
        free(w);
        free(last);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a request");
    }
    *w = (waiting){.job = job, .last = last, .since = tt_sys_now()};
    tt_job_ref(job);
    pthread_mutex_lock(&e->mutex);
    if (e->stopping) {
        rc = tt_fail(reterr, TT_E_UNAVAILABLE, "the server is stopping");
    } else if (e->stats.queued >= e->opt.max_queue) {
        rc = tt_fail(reterr, TT_E_BUSY, "%d requests are waiting already", e->stats.queued);
    } else {
        if (e->stats.queued == 0 && e->running == NULL) {
            e->stats.last_progress_seconds = tt_sys_now();
        }
        *e->tail = w;
        e->tail = &w->next;
        e->stats.queued++;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->mutex);
    if (rc != TT_OK) {
        tt_job_unref(&w->job);
        free(last);
        free(w);
    }
    return rc;
}

void tt_engine_get_stats(const tt_engine *engine, tt_engine_stats *ret_stats)
{
    tt_engine *e = (tt_engine *)engine;
    pthread_mutex_lock(&e->mutex);
    *ret_stats = e->stats;
    ret_stats->running = e->running != NULL;
    pthread_mutex_unlock(&e->mutex);
}

tt_code tt_engine_submit_all(tt_engine *e, tt_job *const *jobs, int32_t n, tt_err *reterr)
{
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        rc = tt_engine_submit(e, jobs[i], reterr);
    }
    return rc;
}

void tt_engine_kick(tt_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->mutex);
}

int32_t tt_engine_retry_after(const tt_engine *e)
{
    (void)e;
    return 1;
}

void tt_engine_pin(tt_engine *e, uint64_t adapter_id)
{
    (void)e;
    (void)adapter_id;
}

void tt_engine_unpin(tt_engine *e, uint64_t adapter_id)
{
    (void)e;
    (void)adapter_id;
}

int32_t tt_engine_cached_tokens(const tt_engine *e, const tt_job_params *params)
{
    (void)e;
    (void)params;
    return 0;
}

size_t tt_engine_page_bytes(const tt_engine *e)
{
    return ready(e) ? tt_kv_page_bytes(e->worker.model, e->opt.kv_type) : 0;
}
