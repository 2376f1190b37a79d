/* engine_pages.c - K/V pages between tasks: what a task needs, who gives way when there are too
 * few. Thread: engine only. */
#include "core/engine_priv.h"

int32_t tt_engine_free_pages(const tt_engine *e)
{
    tt_kv_stats s = tt_kv_get_stats(e->worker.kv);
    return s.total - s.used;
}

int32_t tt_engine_pages_of(const tt_task *t)
{
    int32_t n = t->t != NULL ? t->until - 1 : t->n_ids;
    return n / TT_PAGE_TOKENS + 1 + (t->t != NULL ? tt_worker_scratch(t->p) : 0);
}

void tt_engine_refresh_pages(tt_engine *e, tt_task *t)
{
    int32_t n = t->t != NULL ? t->until : t->n_ids, total = tt_kv_total(e->worker.kv);
    int32_t pages = tt_engine_pages_of(t);
    if (!tt_prefill_echoes(t)) {
        pages -= tt_seq_shared(e->worker.kv, t->p->adapter_scope, t->seq.adapter_id, t->seq.n_base,
                               t->ids, t->decoded, n) /
                 TT_PAGE_TOKENS;
    }
    t->sched.pages = pages < 1 ? 1 : pages > total ? total : pages;
    t->sized = true;
}

/* What running tasks have still to take until they decode or train. One that has not asked the
 * cache yet holds nothing of what others hold for it. */
int32_t tt_engine_promised_pages(const tt_engine *e)
{
    int32_t n = 0;
    for (tt_sched_task *s = NULL; (s = tt_sched_walk(e->sched, s)) != NULL;) {
        const tt_task *t = tt_engine_task_of(s);
        bool growing = s->state == TT_SCHED_PREFILL || s->state == TT_SCHED_PARKED;
        int32_t need = t->fresh ? s->pages : tt_engine_pages_of(t) - t->seq.n_pages;
        n += growing && need > 0 ? need : 0;
    }
    return n;
}

/* Takes a running task's pages away. It goes back to the queue; a parked one stays parked. */
static void preempt(tt_engine *e, tt_task *t)
{
    tt_err err = {0};
    /* a training gives its pages back between two steps; a piece of its prefill is just dropped */
    while (t->sched.state == TT_SCHED_TRAIN && t->sched.mid_step) {
        tt_code rc = tt_training_run(&e->worker, t, 0, &err);
        if (rc != (tt_code)TT_TASK_MORE) {
            tt_engine_end_task(e, t, rc, &err);
            return;
        }
    }
    e->worker.totals.preemptions++;
    bool waited = t->fetch != NULL; /* parked, but for no training: it asks again when it starts */
    tt_task_drop_pages(&e->worker, t);
    t->sched.held = 0;
    if (t->t == NULL && t->r.phase == TT_GENERATE_DECODE) {
        t->r.phase = TT_GENERATE_PROMPT;
        t->until = t->n_ids - 1;
        t->logits = false;
    }
    if (t->sched.state != TT_SCHED_PARKED || waited) {
        tt_engine_refresh_pages(e, t);
        tt_engine_set_task(e, t, TT_SCHED_QUEUED);
    }
}

/* `t` lacks `need` pages: younger tasks give theirs; else it gives way itself. True: they are
 * there. */
bool tt_engine_make_room(tt_engine *e, tt_task *t, int32_t need)
{
    while (tt_engine_free_pages(e) < need) {
        pthread_mutex_lock(&e->mutex);
        tt_sched_task *victim = tt_sched_victim(e->sched, &t->sched);
        pthread_mutex_unlock(&e->mutex);
        if (victim == NULL) {
            return false;
        }
        preempt(e, tt_engine_task_of(victim));
    }
    return true;
}

/* No room even so. With nobody else there it never will be. */
void tt_engine_give_way(tt_engine *e, tt_task *t)
{
    pthread_mutex_lock(&e->mutex);
    tt_sched_counts n = tt_sched_get_counts(e->sched);
    pthread_mutex_unlock(&e->mutex);
    if (n.running + n.running_jobs <= 1) {
        tt_err err;
        tt_fail(&err, TT_E_CAPACITY, "the K/V pool is too small for this request");
        tt_engine_end_task(e, t, TT_E_CAPACITY, &err);
        return;
    }
    preempt(e, t);
}
