/* engine_adapters.c - adapters between the cache and the tasks: who pins what, who waits for a file
 * to be read or written. Thread: engine only. See engine_priv.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine_priv.h"

static void wake(void *engine)
{
    tt_engine_kick(engine);
}

tt_code tt_engine_open_adapters(tt_engine *e, tt_err *reterr)
{
    if (e->adapter_folder == NULL) {
        return TT_OK;
    }
    tt_adapter_home home = {.folder = e->adapter_folder, .model = e->worker.model};
    tt_code rc = tt_adapter_store_create(&home, wake, e, &e->adapter_store, reterr);
    if (rc == TT_OK) {
        tt_adapter_cache_set_store(e->worker.adapters, e->adapter_store);
    }
    return rc;
}

static void warn(void *engine, const tt_err *err)
{
    const tt_engine *e = engine;
    if (e->opt.on_warning != NULL) {
        e->opt.on_warning(e->opt.on_warning_arg, err->msg);
    }
}

/* ---- pins ---- */

void tt_engine_free_pins(tt_pin_order **list)
{
    while (*list != NULL) {
        tt_pin_order *o = *list;
        *list = o->next;
        free(o->ids);
        free(o);
    }
}

static bool awaits(const tt_task *t, uint64_t id)
{
    return !t->named && (t->p->adapter_id == id ||
                         (t->p->qttt.mode != TT_QTTT_OFF && t->p->qttt.start_adapter == id));
}

/* A task that was submitted before the unpin keeps what it names, also what is still being read. */
static bool must_hold(tt_engine *e, const tt_pin_order *o)
{
    tt_task *t = o->add < 0 ? tt_engine_next_task(e, NULL) : NULL;
    while (t != NULL && !awaits(t, o->id)) {
        t = tt_engine_next_task(e, t);
    }
    return t != NULL;
}

static void do_order(tt_engine *e, tt_pin_order **at)
{
    tt_pin_order *o = *at;
    *at = o->next;
    o->next = NULL;
    if (o->add == 0) {
        tt_adapter_cache_keep(e->worker.adapters, o->ids, o->n);
    } else {
        tt_adapter_cache_pin(e->worker.adapters, o->id, o->add);
    }
    tt_engine_free_pins(&o);
}

void tt_engine_do_pins(tt_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    tt_pin_order *fresh = e->pins, **tail = &e->held_unpins;
    e->pins = NULL;
    e->pins_tail = &e->pins;
    pthread_mutex_unlock(&e->mutex);
    while (*tail != NULL) {
        tail = &(*tail)->next;
    }
    *tail = fresh;
    if (e->held_unpins == NULL) {
        return;
    }
    for (tt_pin_order **at = &e->held_unpins;
         *at != NULL;) { /* pins first: nothing goes too early */
        if ((*at)->add > 0) {
            do_order(e, at);
        } else {
            at = &(*at)->next;
        }
    }
    /* all that came before these orders are among the tasks */
    for (tt_task *t = NULL; (t = tt_engine_next_task(e, t)) != NULL;) {
        tt_engine_name_adapters(e, t, false);
    }
    for (tt_pin_order **at = &e->held_unpins; *at != NULL;) {
        if (must_hold(e, *at)) {
            at = &(*at)->next;
        } else {
            do_order(e, at);
        }
    }
}

bool tt_engine_name_adapters(tt_engine *e, tt_task *t, bool must)
{
    if (!t->named) {
        t->loading = tt_task_name_adapters(&e->worker, t, must) != TT_OK;
        pthread_mutex_lock(&e->mutex);
        t->sched.paused = t->sched.paused || t->loading;
        pthread_mutex_unlock(&e->mutex);
    }
    return !t->loading;
}

/* ---- files ---- */

void tt_engine_note_durable(const tt_engine *e, tt_qttt_result *result)
{
    tt_err why;
    result->durable =
        tt_adapter_cache_home(e->worker.adapters, result->adapter_id, &why) == TT_ADAPTER_DURABLE;
    snprintf(result->not_durable, sizeof result->not_durable, "%.*s",
             (int)sizeof result->not_durable - 1, result->durable ? "" : why.msg);
}

/* Does its job, or a request that waits for it, pin what it gives? */
static bool is_pinned_by_any(tt_engine *e, const tt_task *t)
{
    bool any = t->t->pinned;
    for (tt_task *r = NULL; !any && (r = tt_engine_next_task(e, r)) != NULL;) {
        any = r->t == NULL && r->r.training == t->t && r->p->pin_adapter;
    }
    return any;
}

bool tt_engine_saves_first(tt_engine *e, tt_task *t)
{
    tt_training *tr = t->t;
    tt_err why;
    if (e->adapter_store == NULL || tr->adapter == NULL || tr->saving || !is_pinned_by_any(e, t)) {
        return false;
    }
    uint64_t id = tr->adapter->id;
    bool own = tr->pinned || tt_adapter_cache_pin(e->worker.adapters, id, 1);
    if (!own || tt_adapter_cache_save(e->worker.adapters, id, &why) != TT_ADAPTER_WRITING) {
        if (own && !tr->pinned) {
            tt_adapter_cache_pin(e->worker.adapters, id, -1);
        }
        return false;
    }
    tr->lent_pin = !tr->pinned;
    tr->saving = true;
    tt_task_drop_pages(&e->worker, t);
    tt_training_rest(&e->worker, t); /* another may train while the disk is slow */
    t->sched.held = 0;
    pthread_mutex_lock(&e->mutex);
    tt_sched_rest(e->sched, &t->sched);
    pthread_mutex_unlock(&e->mutex);
    return true;
}

/* The first training whose file is written, or could not be. */
static tt_task *next_saved(tt_engine *e)
{
    tt_err why;
    tt_task *t = NULL;
    while ((t = tt_engine_next_task(e, t)) != NULL) {
        bool waits = t->t != NULL && t->t->saving && t->sched.state == TT_SCHED_PARKED;
        if (waits && tt_adapter_cache_home(e->worker.adapters, t->t->adapter->id, &why) !=
                         TT_ADAPTER_WRITING) {
            break;
        }
    }
    return t;
}

void tt_engine_tend_adapters(tt_engine *e)
{
    tt_task *t;
    bool any = tt_adapter_cache_tend(e->worker.adapters, warn, e, &e->tend_wait);
    while (any && (t = next_saved(e)) != NULL) {
        tt_engine_end_task(e, t, TT_OK, &(tt_err){.code = TT_OK});
    }
}

void tt_engine_settle_adapters(tt_engine *e)
{
    if (e->adapter_store != NULL) {
        tt_adapter_store_flush(e->adapter_store);
        tt_engine_tend_adapters(e);
    }
}
