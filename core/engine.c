/* engine.c - the engine's boundary: admission, cancellation, counters; see engine.h. Thread: any.
 * The thread behind it is engine_loop.c. */
#include "core/engine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/engine_priv.h"
#include "core/sysinfo.h"

static void destroy_parts(tt_engine *e)
{
    tt_sched_destroy(&e->sched);
    pthread_cond_destroy(&e->wake);
    pthread_mutex_destroy(&e->mutex);
    tt_engine_free_pins(&e->pins);
    tt_engine_free_pins(&e->held_unpins);
    free(e->model_path);
    free(e->adapter_folder);
    free(e);
}

static void set_defaults(tt_engine_options *o)
{
    o->max_queue = o->max_queue > 0 ? o->max_queue : 64;
    o->max_running = o->max_running > 0 ? o->max_running : 32;
    o->max_jobs = o->max_jobs > 0 ? o->max_jobs : 1;
    o->max_queued_jobs = o->max_queued_jobs > 0 ? o->max_queued_jobs : 64;
    o->target_gap = o->target_gap > 0 ? o->target_gap : 0.1;
    o->train_share = o->train_share > 0 ? o->train_share : 0.3;
}

static tt_code create_parts(tt_engine *e, tt_err *reterr)
{
    const tt_engine_options *o = &e->opt;
    tt_sched_options s = {.max_running = o->max_running,
                          .max_queue = o->max_queue,
                          .max_batch = o->max_running,
                          .max_jobs = o->max_jobs,
                          .max_queued_jobs = o->max_queued_jobs,
                          .target_gap = o->target_gap,
                          .train_share = o->train_share};
    pthread_condattr_t attr;
    pthread_mutex_init(&e->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&e->wake, &attr);
    pthread_condattr_destroy(&attr);
    return tt_sched_create(&s, &e->sched, reterr);
}

tt_code tt_engine_create(const tt_engine_options *opt, tt_engine **ret_engine, tt_err *reterr)
{
    tt_engine *e = calloc(1, sizeof *e);
    char *path = strdup(opt->model_path);
    char *folder = opt->adapter_folder != NULL ? strdup(opt->adapter_folder) : NULL;
    if (e == NULL || path == NULL || (opt->adapter_folder != NULL && folder == NULL)) {
        free(e);
        free(path);
        free(folder);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the engine");
    }
    e->opt = *opt;
    e->opt.model_path = e->model_path = path;
    e->opt.adapter_folder = e->adapter_folder = folder;
    set_defaults(&e->opt);
    e->pins_tail = &e->pins;
    e->stats.last_progress_seconds = tt_sys_now();
    tt_code rc = create_parts(e, reterr);
    if (rc == TT_OK && pthread_create(&e->thread, NULL, tt_engine_main, e) != 0) {
        rc = tt_fail(reterr, TT_E_NOMEM, "cannot start the engine's thread");
    }
    if (rc != TT_OK) {
        destroy_parts(e);
        return rc;
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
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->mutex);
    pthread_join(e->thread, NULL);
    tt_adapter_store_destroy(&e->adapter_store); /* its thread knows the engine */
    tt_worker_close(&e->worker);
    destroy_parts(e);
}

tt_engine_state tt_engine_get_state(const tt_engine *engine, tt_err *ret_failure)
{
    tt_engine *e = (tt_engine *)engine;
    pthread_mutex_lock(&e->mutex);
    tt_engine_state state = e->state;
    if ((state == TT_ENGINE_FAILED || state == TT_ENGINE_LOST) && ret_failure != NULL) {
        *ret_failure = e->failure;
    }
    pthread_mutex_unlock(&e->mutex);
    return state;
}

/* What is immutable from READY on can be read. */
static bool ready(const tt_engine *e)
{
    tt_engine_state state = tt_engine_get_state(e, NULL);
    return state == TT_ENGINE_READY || state == TT_ENGINE_LOST;
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

const char *tt_engine_device(const tt_engine *e)
{
    return ready(e) ? e->worker.device_name : "";
}

int tt_engine_threads(const tt_engine *e)
{
    return e->opt.n_threads > 0 ? e->opt.n_threads : tt_sys_cpus();
}

static tt_code make_task(tt_engine *e, tt_job *job, tt_task **ret_task, tt_err *reterr)
{
    tt_event *last = tt_task_event(TT_EV_ERROR, 0, reterr);
    if (last == NULL) {
        return TT_E_NOMEM;
    }
    tt_code rc = tt_task_create(&e->worker, job, last, ret_task, reterr);
    if (rc != TT_OK) {
        tt_event_free(last);
        return rc;
    }
    rc = tt_job_get_params(job)->kind == TT_JOB_TRAIN
             ? tt_training_init(&e->worker, *ret_task, reterr)
             : TT_OK;
    int32_t pages = tt_engine_pages_of(*ret_task), total = tt_kv_total(e->worker.kv);
    (*ret_task)->sched.pages = pages < total ? pages : total; /* until the thread knows better */
    return rc;
}

/* Adapters that sessions keep may fill their budget; then no job can publish. The mutex is held. */
static tt_code check_adapter_room(const tt_engine *e, const tt_job_params *p, tt_err *reterr)
{
    if (p->kind != TT_JOB_TRAIN || !p->pin_adapter) {
        return TT_OK;
    }
    size_t need = tt_worker_adapter_bytes(&e->worker, &p->qttt);
    size_t room = e->opt.adapter_cache_bytes;
    room = e->stuck_bytes < room ? room - e->stuck_bytes : 0;
    return need <= room
               ? TT_OK
               : tt_fail(reterr, TT_E_CAPACITY,
                         "the adapter needs %zu KiB, %zu KiB are left for adapters (setting "
                         "qttt.adapter_cache)",
                         need >> 10, room >> 10);
}

static bool trains(const tt_job_params *p)
{
    return p->kind == TT_JOB_TRAIN || p->qttt.mode == TT_QTTT_ON;
}

/* What a training takes must be there (room: free memory of the host, bytes; 0 = not known), but
 * for what the last one left to the next. A GPU's memory was free when it was last asked, and
 * adapters that nobody has pinned can leave it. The mutex is held. */
static tt_code check_training_room(const tt_engine *e, const tt_job_params *p, size_t room,
                                   tt_err *reterr)
{
    const tt_engine_stats *s = &e->stats;
    if (s->device_total_bytes > 0) {
        room = (size_t)(s->device_free_bytes + s->adapter_bytes - s->adapter_pinned_bytes);
    }
    size_t need = trains(p) ? tt_worker_training_bytes(&e->worker, &p->qttt) : 0;
    if (need <= e->arena_bytes || room == 0 || need <= room + e->arena_bytes) {
        return TT_OK;
    }
    return tt_fail(reterr, TT_E_CAPACITY, "the training needs %zu MiB, %zu MiB of memory are free",
                   need >> 20, room >> 20);
}

/* The thread shall look again. From here on it is the watchdog's business whether it does. The
 * mutex is held. */
static void rouse(tt_engine *e)
{
    if (e->sleeping) {
        e->sleeping = false;
        e->stats.last_progress_seconds = tt_sys_now();
    }
    pthread_cond_signal(&e->wake);
}

static tt_code queue(tt_engine *e, tt_sched_task *const *tasks, tt_job *const *jobs, int32_t n,
                     tt_err *reterr)
{
    tt_code rc = TT_OK;
    size_t room = 0;
    for (int32_t i = 0; i < n && room == 0; i++) { /* reads files: not while the thread waits */
        room = trains(tt_job_get_params(jobs[i])) ? tt_sys_free_bytes() : 0;
    }
    pthread_mutex_lock(&e->mutex);
    if (e->stopping || e->state == TT_ENGINE_LOST) {
        rc = tt_fail(reterr, TT_E_UNAVAILABLE,
                     e->stopping ? "the server is stopping" : "the device has failed");
    }
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        rc = check_adapter_room(e, tt_job_get_params(jobs[i]), reterr);
        rc = rc == TT_OK ? check_training_room(e, tt_job_get_params(jobs[i]), room, reterr) : rc;
    }
    tt_sched_counts before = tt_sched_get_counts(e->sched);
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        ((tt_task *)(void *)tasks[i])->load = before.queued + before.running;
    }
    rc = rc == TT_OK ? tt_sched_add(e->sched, tasks, n, tt_sys_now(), reterr) : rc;
    if (rc == TT_OK) {
        tt_sched_counts c = tt_sched_get_counts(e->sched);
        e->stats.queued = c.queued;
        e->stats.queued_jobs = c.queued_jobs;
        e->kicked = true;
        rouse(e);
    }
    pthread_mutex_unlock(&e->mutex);
    return rc;
}

tt_code tt_engine_submit_all(tt_engine *e, tt_job *const *jobs, int32_t n, tt_err *reterr)
{
    if (!ready(e)) {
        return tt_fail(reterr, TT_E_UNAVAILABLE, "the model is loading");
    }
    tt_task **tasks = calloc((size_t)n, sizeof *tasks);
    tt_sched_task **s = calloc((size_t)n, sizeof *s);
    tt_code rc =
        tasks == NULL || s == NULL ? tt_fail(reterr, TT_E_NOMEM, "no memory for a request") : TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        rc = tt_worker_check(&e->worker, tt_job_get_params(jobs[i]), reterr);
        rc = rc == TT_OK ? make_task(e, jobs[i], &tasks[i], reterr) : rc;
        s[i] = tasks[i] != NULL ? &tasks[i]->sched : NULL;
    }
    rc = rc == TT_OK ? queue(e, s, jobs, n, reterr) : rc;
    for (int32_t i = 0; rc != TT_OK && tasks != NULL && i < n; i++) {
        tt_task_destroy(&e->worker, &tasks[i]);
    }
    free(tasks);
    free(s);
    return rc;
}

tt_code tt_engine_submit(tt_engine *e, tt_job *job, tt_err *reterr)
{
    return tt_engine_submit_all(e, &job, 1, reterr);
}

void tt_engine_kick(tt_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    e->kicked = true;
    rouse(e);
    pthread_mutex_unlock(&e->mutex);
}

int32_t tt_engine_retry_after(const tt_engine *engine)
{
    tt_engine *e = (tt_engine *)engine;
    pthread_mutex_lock(&e->mutex);
    int32_t seconds = tt_sched_retry_after(e->sched);
    pthread_mutex_unlock(&e->mutex);
    return seconds;
}

/* False: no memory. */
static bool order(tt_engine *e, const tt_pin_order *what)
{
    tt_pin_order *o = malloc(sizeof *o);
    if (o == NULL) {
        free(what->ids);
        return false;
    }
    *o = *what;
    pthread_mutex_lock(&e->mutex);
    *e->pins_tail = o;
    e->pins_tail = &o->next;
    rouse(e);
    pthread_mutex_unlock(&e->mutex);
    return true;
}

tt_code tt_engine_pin(tt_engine *e, uint64_t adapter_id, tt_err *reterr)
{
    return adapter_id == 0 || order(e, &(tt_pin_order){.id = adapter_id, .add = 1})
               ? TT_OK
               : tt_fail(reterr, TT_E_NOMEM, "no memory to keep an adapter");
}

/* An order that memory is missing for leaves the adapter where it is: never too early gone. */
void tt_engine_unpin(tt_engine *e, uint64_t adapter_id)
{
    if (adapter_id != 0) {
        (void)order(e, &(tt_pin_order){.id = adapter_id, .add = -1});
    }
}

void tt_engine_keep_adapters(tt_engine *e, const uint64_t *ids, size_t n)
{
    uint64_t *copy = malloc((n + 1) * sizeof *copy);
    if (copy != NULL) {
        if (n > 0) {
            memcpy(copy, ids, n * sizeof *copy);
        }
        (void)order(e, &(tt_pin_order){.ids = copy, .n = n});
    }
}

int32_t tt_engine_cached_tokens(const tt_engine *e, const tt_job_params *p)
{
    return ready(e) ? tt_seq_cached(e->worker.kv, p->adapter_scope, p->adapter_id,
                                    p->qttt.context_tokens, p->prompt, p->decoded, p->n_prompt)
                    : 0;
}

int32_t tt_engine_stored_tokens(const tt_engine *e, const tt_job_params *p)
{
    return ready(e) ? tt_restore_stored(&e->worker, p) : 0;
}

size_t tt_engine_page_bytes(const tt_engine *e)
{
    return ready(e) ? tt_kv_page_bytes(e->worker.model, e->opt.kv_type) : 0;
}

/* The store's threads count on while the engine's sleeps. */
static void add_store_stats(const tt_engine *e, tt_engine_stats *s)
{
    if (!ready(e) || e->worker.store == NULL) {
        return;
    }
    tt_page_store_stats d = tt_page_store_get_stats(e->worker.store);
    s->page_runs = d.runs;
    s->page_run_bytes = d.bytes;
    s->pages_written_bytes = d.written_bytes;
    s->pages_read_bytes = d.read_bytes;
    s->page_runs_corrupt = d.corrupt_runs;
    s->page_runs_evicted = d.evicted_runs;
    s->page_write_failures = d.write_failures;
}

void tt_engine_get_stats(const tt_engine *engine, tt_engine_stats *ret_stats)
{
    tt_engine *e = (tt_engine *)engine;
    pthread_mutex_lock(&e->mutex);
    *ret_stats = e->stats;
    ret_stats->pending = !e->sleeping;
    pthread_mutex_unlock(&e->mutex);
    add_store_stats(e, ret_stats);
}
