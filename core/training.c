/* training.c - one adaptation as a task: a qTTT job, or what a request with mode "on" waits for.
 * Its context is prefilled like any prompt (most often the pages are there), then qttt.c's run is
 * pushed on piece by piece. Between two steps it holds no K/V that it could not give back.
 * Thread: engine only. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/sysinfo.h"
#include "core/task.h"

tt_code tt_training_known(tt_worker *w, const tt_qttt_params *params, const tt_job_params *p,
                          bool settled, tt_qttt_result *ret_result, tt_adapter **ret_adapter)
{
    tt_adapter_key key;
    tt_err why;
    tt_adapter_key_make(&key, p->prompt, params->context_tokens, p->adapter_scope, params);
    if (!tt_adapter_cache_find(w->adapters, &key, ret_result, ret_adapter)) {
        return (tt_code)TT_TASK_MORE;
    }
    bool pin = p->pin_adapter && *ret_adapter != NULL;
    bool durable =
        pin && tt_adapter_cache_home(w->adapters, (*ret_adapter)->id, &why) == TT_ADAPTER_DURABLE;
    if (settled && pin && !durable && tt_adapter_cache_has_store(w->adapters)) {
        tt_adapter_unref(&w->device, ret_adapter);
        return (tt_code)TT_TASK_MORE;
    }
    ret_result->cached = true;
    ret_result->flops = ret_result->equal_cost_tokens = ret_result->adapt_seconds = 0;
    ret_result->durable = durable;
    if (pin) {
        tt_adapter_cache_pin(w->adapters, (*ret_adapter)->id, 1);
    }
    return TT_OK;
}

tt_code tt_training_init(tt_worker *w, tt_task *t, tt_err *reterr)
{
    tt_training *tr = calloc(1, sizeof *tr);
    if (tr == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an adaptation");
    }
    t->t = tr;
    tr->totals = &w->totals;
    t->sched.job = true;
    tr->params = t->p->qttt;
    tr->automatic = tr->params.mode == TT_QTTT_AUTO;
    tr->params.mode = TT_QTTT_ON;
    tt_qttt_resolve(&tr->params);
    t->until = tr->params.context_tokens;
    tt_adapter_key_make(&tr->key, t->p->prompt, t->until, t->p->adapter_scope, &tr->params);
    return TT_OK;
}

tt_code tt_training_start(tt_task *t, tt_err *reterr)
{
    t->started = tt_sys_now();
    if (t->last == NULL) {
        return TT_OK; /* the request on whose behalf it runs has told of its own start */
    }
    tt_event *ev = tt_task_event(TT_EV_STARTED, 0, reterr);
    if (ev == NULL) {
        return TT_E_NOMEM;
    }
    tt_job_push(t->job, ev);
    return TT_OK;
}

static void on_step(void *arg, int32_t step, int32_t total, int32_t span_start, int32_t span_tokens,
                    const tt_train_report *report, double seconds)
{
    tt_task *t = arg;
    t->t->totals->qttt_steps++;
    t->t->totals->trained_tokens += (uint64_t)span_tokens;
    tt_event *ev = tt_task_event(TT_EV_ADAPT, 0, NULL);
    if (ev == NULL) {
        return; /* progress may be lost, the answer not */
    }
    ev->u.adapt.step = step;
    ev->u.adapt.total = total;
    ev->u.adapt.span_start = span_start;
    ev->u.adapt.span_tokens = span_tokens;
    ev->u.adapt.loss = report->loss;
    ev->u.adapt.grad_norm = report->grad_norm;
    ev->u.adapt.learning_rate = t->t->params.learning_rate;
    ev->u.adapt.seconds = seconds;
    tt_job_push(t->job, ev);
}

static void on_probe(void *arg, bool after, const tt_probe_result *probe)
{
    tt_task *t = arg;
    tt_event *ev = tt_task_event(TT_EV_PROBE, 0, NULL);
    if (ev != NULL) {
        ev->u.probe.after = after;
        ev->u.probe.recall = tt_probe_mean(probe->recall);
        ev->u.probe.span = tt_probe_mean(probe->in_place);
        tt_job_push(t->job, ev);
    }
}

static tt_code create_run(tt_worker *w, tt_task *t, tt_err *reterr)
{
    tt_training *tr = t->t;
    tt_code rc = TT_OK;
    if (tr->params.start_adapter != 0) {
        assert(t->named);
        if (t->starting == NULL || !tt_qttt_can_start(w->model, &tr->params, t->starting)) {
            return tt_fail(reterr, TT_E_INVALID,
                           t->starting == NULL ? "the adapter to start from is gone: %s"
                                               : "the adapter to start from has another shape%s",
                           t->starting == NULL ? t->lost[1].msg : "");
        }
    }
    tr->step = w->spare_step;
    w->spare_step = NULL;
    rc = tr->step == NULL ? tt_step_create(&w->device, w->kv, &tr->step, reterr) : TT_OK;
    if (rc != TT_OK) {
        return rc;
    }
    int32_t n = t->until;
    uint64_t hash = tt_context_hash(t->p->prompt, n);
    tt_probe_result before;
    tt_qttt_options o = {
        .d = &w->device,
        .kv = w->kv,
        .step = tr->step,
        .ids = t->p->prompt,
        .n_context = n,
        .pages = t->seq.pages,
        .params = &tr->params,
        .caps = &w->caps,
        .before = tt_adapter_cache_find_probe(w->adapters, hash, n, &before) ? &before : NULL,
        .start = t->starting,
        .min_recall = tr->automatic ? w->auto_rule.min_recall : 0,
        .now = tt_sys_now,
        .on_step = on_step,
        .on_probe = on_probe,
        .arg = t};
    rc = tt_qttt_create(&o, &tr->run, reterr);
    if (rc == TT_OK) {
        tr->read = t->job;
        tt_job_ref(tr->read);
    }
    return rc;
}

tt_code tt_training_arrived(tt_worker *w, tt_task *t, tt_err *reterr)
{
    tt_training *tr = t->t;
    if (tr->run != NULL) {
        tt_qttt_set_pages(tr->run, t->seq.pages);
        return TT_OK;
    }
    if (t->until < TT_QTTT_MIN_CONTEXT) {
        tr->result = tt_qttt_without(&tr->params, "skipped", "context_too_short");
        return (tt_code)TT_TASK_OVER;
    }
    if (tt_training_known(w, &tr->params, t->p, false, &tr->result, &tr->adapter) == TT_OK) {
        tr->pinned = t->p->pin_adapter && tr->adapter != NULL;
        return (tt_code)TT_TASK_OVER; /* somebody else has trained it meanwhile */
    }
    return create_run(w, t, reterr);
}

/* The run is over: what it gave goes into the cache, where other requests find it. */
static tt_code publish(tt_worker *w, tt_task *t)
{
    tt_training *tr = t->t;
    tt_probe_result before;
    tt_qttt_take(tr->run, &tr->result, &tr->adapter);
    if (tt_qttt_before(tr->run, &before)) {
        tt_adapter_cache_put_probe(w->adapters, tt_context_hash(t->p->prompt, t->until), t->until,
                                   &before);
    }
    if (strcmp(tr->result.status, "succeeded") != 0) {
        return TT_OK;
    }
    bool pin = t->p->pin_adapter && tr->adapter != NULL;
    bool put = tt_adapter_cache_put(w->adapters, &tr->key, &tr->result, tr->adapter, pin);
    tr->pinned = pin && put;
    if (pin && !put) {
        tt_adapter_unref(&w->device, &tr->adapter);
        tr->result.status = "failed";
        tr->result.reason = "capacity";
        tr->result.kept = false;
        tr->result.adapter_id = 0;
        tr->result.generation = 0;
    }
    return TT_OK;
}

tt_code tt_training_run(tt_worker *w, tt_task *t, double seconds, tt_err *reterr)
{
    double until = tt_sys_now() + seconds;
    tt_training *tr = t->t;
    for (;;) {
        tt_code rc = tt_qttt_advance(tr->run, TT_POLL_UNITS, reterr);
        t->sched.mid_step = !tt_qttt_between_steps(tr->run);
        if (rc < 0) {
            return rc;
        }
        if (rc == TT_OK) {
            return publish(w, t);
        }
        bool stop = tt_job_cancelled(t->job) || tt_job_adaptation_cancelled(t->job) ||
                    tt_job_paused(t->job);
        if (stop || tt_sys_now() >= until) {
            return (tt_code)TT_TASK_MORE;
        }
    }
}

void tt_training_rest(tt_worker *w, tt_task *t)
{
    tt_training *tr = t->t;
    tt_qttt_destroy(&tr->run);
    tt_job_unref(&tr->read);
    if (tr->step != NULL && w->spare_step == NULL) {
        w->spare_step = tr->step; /* its workspace serves the next training */
        tr->step = NULL;
    } else {
        tt_step_destroy(&tr->step); /* NULL: it never ran */
    }
}

void tt_training_finish(tt_worker *w, tt_task *t)
{
    tt_training *tr = t->t;
    if (tr == NULL) {
        return;
    }
    tt_training_rest(w, t);
    tt_adapter_unref(&w->device, &tr->adapter);
    free(tr);
    t->t = NULL;
}
