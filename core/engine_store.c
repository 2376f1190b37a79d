/* engine_store.c - the engine and the page store: its opening, tasks that wait for the disk, what
 * is saved between two choices. Thread: engine only, but for the store's calls. See engine_priv.h.
 */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "core/engine_priv.h"
#include "core/kv_fingerprint.h"
#include "core/sysinfo.h"

static const double SAVE_SECONDS = 0.002; /* between two choices: a page or more */
static const double WAIT_SECONDS = 10;    /* for the disk; then a task recomputes */
static const double POLL_SECONDS = 0.5;   /* while a task waits */
static const double CLOSE_SECONDS = 5;    /* for what is not saved yet */

/* ---- life ---- */

static void on_wake(void *arg)
{
    tt_engine_kick(arg);
}

static tt_code open_store(tt_engine *e, tt_err *reterr)
{
    tt_worker *w = &e->worker;
    tt_page_store_options o = {.folder = e->opt.page_folder,
                               .page_bytes = tt_kv_page_bytes(w->model, e->opt.kv_type),
                               .max_bytes = e->opt.page_store_bytes,
                               .wake = on_wake,
                               .wake_arg = e,
                               .warn = e->opt.on_warning,
                               .warn_arg = e->opt.on_warning_arg};
    tt_code rc = tt_kv_fingerprint(&w->device, w->kv, w->step, &o.fingerprint, reterr);
    rc = rc == TT_OK ? tt_saver_create(w, &e->saver, reterr) : rc;
    return rc == TT_OK ? tt_page_store_open(&o, &w->store, reterr) : rc;
}

void tt_engine_open_store(tt_engine *e)
{
    tt_err err;
    if (e->opt.page_folder == NULL || open_store(e, &err) == TT_OK) {
        return;
    }
    tt_saver_destroy(&e->saver);
    if (e->opt.on_warning != NULL) {
        e->opt.on_warning(e->opt.on_warning_arg, err.msg);
    }
}

void tt_engine_close_store(tt_engine *e)
{
    double until = tt_sys_now() + CLOSE_SECONDS;
    if (e->saver == NULL) {
        return;
    }
    bool lost = e->worker.device.failure.code != TT_OK; /* no page can be read any more */
    while (!lost && tt_saver_waiting(e->saver) > 0 && tt_sys_now() < until) {
        if (!tt_saver_run(e->saver, CLOSE_SECONDS)) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* the disk is behind */
        }
    }
    tt_saver_destroy(&e->saver);
    tt_page_store *store = e->worker.store;
    tt_engine_publish(e);
    e->worker.store = NULL;
    tt_page_store_close(&store);
}

/* ---- saving ---- */

void tt_engine_save_context(tt_engine *e, tt_task *t)
{
    int32_t whole = t->p->keep_context / TT_PAGE_TOKENS * TT_PAGE_TOKENS;
    if (e->saver == NULL || t->saved || t->t != NULL || whole <= 0 || t->seq.n < whole) {
        return;
    }
    t->saved = true;
    tt_saver_add(e->saver, t->job);
}

bool tt_engine_save_some(tt_engine *e)
{
    return e->saver != NULL && tt_saver_run(e->saver, SAVE_SECONDS);
}

/* ---- waiting ---- */

void tt_engine_wait_for_disk(tt_engine *e, tt_task *t)
{
    tt_job_set_position(t->job, -1, "restoring");
    pthread_mutex_lock(&e->mutex);
    t->restoring = true;
    tt_sched_set(e->sched, &t->sched, TT_SCHED_PARKED);
    pthread_mutex_unlock(&e->mutex);
}

static void go_on(tt_engine *e, tt_task *t)
{
    tt_job_set_position(t->job, -1, "");
    tt_engine_set_task(e, t, TT_SCHED_PREFILL);
}

bool tt_engine_restoring(const tt_engine *engine, uint64_t session_tag)
{
    tt_engine *e = (tt_engine *)engine;
    bool found = false;
    pthread_mutex_lock(&e->mutex);
    for (tt_sched_task *s = NULL; !found && (s = tt_sched_walk(e->sched, s)) != NULL;) {
        const tt_task *t = tt_engine_task_of(s);
        found = t->restoring && s->state == TT_SCHED_PARKED && t->p->session_tag == session_tag;
    }
    pthread_mutex_unlock(&e->mutex);
    return found;
}

/* What has come goes into the pool at once, whoever's turn it is: it takes the staging that others
 * wait for. */
bool tt_engine_poll_disk(tt_engine *e, tt_task *t, double now)
{
    tt_err err;
    if (t->fetch == NULL || t->sched.state != TT_SCHED_PARKED) {
        return false;
    }
    if (!tt_page_fetch_done(t->fetch)) {
        e->poll_seconds = POLL_SECONDS;
        if (now - t->asked_at > WAIT_SECONDS) {
            tt_restore_forget(t);
            go_on(e, t);
        }
        return false;
    }
    tt_code rc = tt_prefill_fetched(&e->worker, t, &err);
    t->sched.held = t->seq.n_pages;
    e->poll_seconds = 0; /* others may have been passed over */
    if (rc == TT_E_CAPACITY && t->sched.paused) {
        tt_restore_forget(t); /* it asks again when it goes on */
        t->asked = 0;
        t->fresh = true;
        go_on(e, t);
    } else if (rc == TT_OK || rc == TT_E_CAPACITY) {
        go_on(e, t); /* without pages it makes room in its turn */
    } else if (rc < 0) {
        tt_restore_forget(t); /* no memory: the tokens are run instead */
        go_on(e, t);
    }
    return true;
}
