/* task.c - the life of a task, see task.h. Thread: engine only, but for tt_task_create(). */
#include "core/task.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/restore.h"
#include "core/sysinfo.h"

tt_event *tt_task_event(tt_event_type type, size_t owned_bytes, tt_err *reterr)
{
    tt_event *ev = calloc(1, sizeof *ev);
    void *owned = owned_bytes > 0 ? malloc(owned_bytes) : NULL;
    if (ev == NULL || (owned_bytes > 0 && owned == NULL)) {
        free(ev);
        free(owned);
        tt_fail(reterr, TT_E_NOMEM, "no memory for an event");
        return NULL;
    }
    ev->type = type;
    ev->owned = owned;
    return ev;
}

tt_code tt_task_cancelled(tt_err *reterr)
{
    return tt_fail(reterr, TT_E_CANCELLED, "the request was cancelled");
}

/* xxh3 would do as well; a tenant's name is short. */
static uint64_t key_of(const char *scope)
{
    return tt_kv_root(scope);
}

tt_code tt_task_create(tt_worker *w, tt_job *job, tt_event *last, tt_task **ret_task,
                       tt_err *reterr)
{
    tt_task *t = calloc(1, sizeof *t);
    const tt_job_params *p = tt_job_get_params(job);
    size_t n = (size_t)p->n_prompt;
    if (t != NULL) {
        t->ids = malloc((n + 1) * sizeof *t->ids);
        t->decoded = calloc(n + 1, 1);
    }
    if (t == NULL || t->ids == NULL || t->decoded == NULL) {
        if (t != NULL) {
            free(t->ids);
            free(t->decoded);
        }
        free(t);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a request");
    }
    memcpy(t->ids, p->prompt, n * sizeof *t->ids);
    if (p->decoded != NULL) {
        memcpy(t->decoded, p->decoded, n);
    }
    t->n_ids = p->n_prompt;
    t->cap = p->n_prompt + 1;
    t->job = job;
    tt_job_ref(job);
    t->p = p;
    t->last = last;
    t->fresh = true;
    t->submitted = tt_sys_now();
    t->sched.key = key_of(p->adapter_scope);
    t->sched.tag = p->session_tag;
    t->sched.deadline =
        last != NULL && p->timeout_seconds > 0 ? t->submitted + p->timeout_seconds : INFINITY;
    tt_seq_init(&t->seq, w->kv, p->adapter_scope);
    *ret_task = t;
    return TT_OK;
}

void tt_task_destroy(tt_worker *w, tt_task **task)
{
    tt_task *t = *task;
    *task = NULL;
    if (t == NULL) {
        return;
    }
    if (t->t != NULL) {
        tt_training_finish(w, t);
    } else {
        tt_generate_finish(t);
    }
    if (t->sched.mid_step) { /* it has run: this is the engine's thread */
        tt_prefill_abandon(w, t);
    }
    tt_restore_forget(t);
    tt_adapter_unref(&w->device, &t->adapter);
    tt_adapter_unref(&w->device, &t->answering);
    tt_adapter_unref(&w->device, &t->starting);
    tt_seq_finish(&t->seq);
    tt_job_unref(&t->job);
    tt_event_free(t->last);
    free(t->ids);
    free(t->decoded);
    free(t);
}

tt_code tt_task_name_adapters(tt_worker *w, tt_task *t, bool must)
{
    uint64_t ids[2] = {t->p->adapter_id,
                       t->p->qttt.mode != TT_QTTT_OFF ? t->p->qttt.start_adapter : 0};
    tt_adapter **found[2] = {&t->answering, &t->starting};
    bool all = true;
    for (int i = 0; !t->named && i < 2; i++) {
        if (ids[i] == 0 || *found[i] != NULL || t->lost[i].code != TT_OK) {
            continue;
        }
        tt_err err;
        tt_code rc =
            tt_adapter_cache_fetch(w->adapters, ids[i], &t->tickets[i], must, found[i], &err);
        if (rc < 0) {
            t->lost[i] = err;
        }
        all = all && rc <= 0;
    }
    t->named = all;
    return all ? TT_OK : (tt_code)TT_TASK_MORE;
}

void tt_task_drop_pages(tt_worker *w, tt_task *t)
{
    tt_prefill_abandon(w, t);
    tt_restore_forget(t);
    t->asked = 0;
    tt_seq_finish(&t->seq);
    tt_seq_init(&t->seq, w->kv, t->p->adapter_scope);
    t->fresh = t->counted = true;
    if (t->adapter != NULL) {
        tt_seq_set_adapter(&t->seq, t->adapter->id, t->n_base);
    }
}

void tt_task_set_adapter(tt_task *t, tt_adapter *a, int32_t n_base)
{
    t->adapter = a;
    t->n_base = n_base;
    tt_seq_set_adapter(&t->seq, a->id, n_base);
}

tt_code tt_task_reserve_ids(tt_task *t, int32_t n, tt_err *reterr)
{
    int32_t need = t->n_ids + n;
    if (need > t->cap) {
        int32_t cap = need + need / 2 + 64;
        int32_t *ids = realloc(t->ids, (size_t)cap * sizeof *ids);
        t->ids = ids != NULL ? ids : t->ids;
        uint8_t *decoded = ids != NULL ? realloc(t->decoded, (size_t)cap) : NULL;
        if (decoded == NULL) {
            return tt_fail(reterr, TT_E_NOMEM, "no memory for %d tokens", cap);
        }
        t->decoded = decoded;
        t->cap = cap;
    }
    return TT_OK;
}

tt_code tt_task_add_id(tt_task *t, int32_t id, tt_err *reterr)
{
    tt_code rc = tt_task_reserve_ids(t, 1, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    t->ids[t->n_ids] = id;
    t->decoded[t->n_ids++] = 1;
    return TT_OK;
}
