/* job.c - see job.h. Params and everything they point to live in the job's own arena. Lock order: a
 * job's mutex is a leaf. */
#include "core/job.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"

struct tt_job {
    tt_job_params params; /* immutable after create */
    tt_arena arena;       /* memory behind params */
    void (*wake)(void *arg);
    void *wake_arg;
    atomic_int refs;
    atomic_bool cancelled, adaptation_cancelled, paused;
    atomic_int position;
    _Atomic(const char *) reason; /* static */
    pthread_mutex_t mutex;        /* guards the queue */
    tt_event *head, *tail;
};

static void *copy_bytes(tt_arena *a, const void *src, size_t n)
{
    void *p = tt_arena_alloc(a, n);
    if (p != NULL && n > 0) {
        memcpy(p, src, n);
    }
    return p;
}

static bool copy_params(tt_job *job, const tt_job_params *src)
{
    tt_arena *a = &job->arena;
    tt_job_params *p = &job->params;
    *p = *src;
    p->prompt = copy_bytes(a, src->prompt, (size_t)src->n_prompt * sizeof *src->prompt);
    if (src->decoded != NULL) {
        p->decoded = copy_bytes(a, src->decoded, (size_t)src->n_prompt);
    }
    p->stop_ids = copy_bytes(a, src->stop_ids, (size_t)src->n_stop_ids * sizeof *src->stop_ids);
    p->sampling.bias = copy_bytes(a, src->sampling.bias,
                                  (size_t)src->sampling.n_bias * sizeof *src->sampling.bias);
    struct tt_stop *stops = tt_arena_calloc(a, (size_t)src->n_stops, sizeof *stops);
    bool ok = (src->decoded == NULL || p->decoded != NULL) && p->prompt != NULL &&
              p->stop_ids != NULL && p->sampling.bias != NULL && stops != NULL;
    for (int32_t i = 0; ok && i < src->n_stops; i++) {
        stops[i].n = src->stops[i].n;
        stops[i].p = tt_arena_strndup(a, src->stops[i].p, src->stops[i].n);
        ok = stops[i].p != NULL;
    }
    p->stops = stops;
    return ok;
}

tt_code tt_job_create(const tt_job_params *params, void (*wake)(void *arg), void *arg,
                      tt_job **ret_job, tt_err *reterr)
{
    assert(params->n_prompt >= 0 && params->n_stops >= 0 && params->n_stop_ids >= 0);
    tt_job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a request");
    }
    job->wake = wake;
    job->wake_arg = arg;
    atomic_init(&job->refs, 1);
    atomic_init(&job->position, -1);
    atomic_init(&job->reason, "");
    pthread_mutex_init(&job->mutex, NULL);
    tt_arena_init(&job->arena, 0);
    if (!copy_params(job, params)) {
        tt_job_unref(&job);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a request");
    }
    *ret_job = job;
    return TT_OK;
}

void tt_job_ref(tt_job *job)
{
    atomic_fetch_add(&job->refs, 1);
}

void tt_job_unref(tt_job **j)
{
    tt_job *job = *j;
    *j = NULL;
    if (job == NULL || atomic_fetch_sub(&job->refs, 1) > 1) {
        return;
    }
    while (job->head != NULL) {
        tt_event *next = job->head->next;
        tt_event_free(job->head);
        job->head = next;
    }
    pthread_mutex_destroy(&job->mutex);
    tt_arena_finish(&job->arena);
    free(job);
}

tt_event *tt_job_next(tt_job *job)
{
    pthread_mutex_lock(&job->mutex);
    tt_event *ev = job->head;
    if (ev != NULL) {
        job->head = ev->next;
        if (job->head == NULL) {
            job->tail = NULL;
        }
        ev->next = NULL;
    }
    pthread_mutex_unlock(&job->mutex);
    return ev;
}

void tt_event_free(tt_event *ev)
{
    if (ev != NULL) {
        free(ev->owned);
        free(ev);
    }
}

void tt_job_push(tt_job *job, tt_event *ev)
{
    ev->next = NULL;
    pthread_mutex_lock(&job->mutex);
    bool was_empty = job->head == NULL;
    *(was_empty ? &job->head : &job->tail->next) = ev;
    job->tail = ev;
    pthread_mutex_unlock(&job->mutex);
    if (was_empty && job->wake != NULL) {
        job->wake(job->wake_arg);
    }
}

void tt_job_cancel(tt_job *job, bool adaptation_only)
{
    atomic_store(adaptation_only ? &job->adaptation_cancelled : &job->cancelled, true);
}

bool tt_job_cancelled(const tt_job *job)
{
    return atomic_load(&job->cancelled);
}

bool tt_job_adaptation_cancelled(const tt_job *job)
{
    return atomic_load(&job->adaptation_cancelled);
}

const tt_job_params *tt_job_get_params(const tt_job *job)
{
    return &job->params;
}

void tt_job_pause(tt_job *job, bool paused)
{
    atomic_store(&job->paused, paused);
}

bool tt_job_paused(const tt_job *job)
{
    return atomic_load(&job->paused);
}

int32_t tt_job_position(const tt_job *job, const char **ret_reason)
{
    *ret_reason = atomic_load(&job->reason);
    return atomic_load(&job->position);
}

void tt_job_set_position(tt_job *job, int32_t position, const char *reason)
{
    atomic_store(&job->position, position);
    atomic_store(&job->reason, reason);
}
