/* generate.c - a request from its first page to its last token, as a machine that the engine's loop
 * pushes on. The order is the method's: prefill the context under the base, adapt to it, run the
 * question under the adapter, decode. Thread: engine only. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/diagnose.h"
#include "core/sysinfo.h"
#include "core/task.h"

/* ---- start ---- */

static int by_id(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* What may not be drawn before min_tokens: everything that would end the generation. */
static tt_code list_banned(const tt_worker *w, tt_task *t, tt_err *reterr)
{
    size_t n_stop = (size_t)t->p->n_stop_ids, n_eog = (size_t)w->n_eog;
    tt_generate_state *r = &t->r;
    r->banned = malloc((n_stop + n_eog + 1) * sizeof *r->banned);
    if (r->banned == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for stop tokens");
    }
    memcpy(r->banned, t->p->stop_ids, n_stop * sizeof *r->banned);
    memcpy(r->banned + n_stop, w->eog, n_eog * sizeof *r->banned);
    r->n_banned = (int32_t)(n_stop + n_eog);
    qsort(r->banned, n_stop + n_eog, sizeof *r->banned, by_id);
    int32_t n = 0;
    for (int32_t i = 0; i < r->n_banned; i++) {
        if (n == 0 || r->banned[n - 1] != r->banned[i]) {
            r->banned[n++] = r->banned[i];
        }
    }
    r->n_banned = n;
    return TT_OK;
}

static tt_code open_text(const tt_worker *w, tt_task *t, tt_err *reterr)
{
    const tt_job_params *p = t->p;
    tt_str *stops = malloc(((size_t)p->n_stops + 1) * sizeof *stops);
    if (stops == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for stop strings");
    }
    for (int32_t i = 0; i < p->n_stops; i++) {
        stops[i] = (tt_str){p->stops[i].p, (uint32_t)p->stops[i].n};
    }
    tt_textout_options o = {.stops = stops,
                            .n_stops = (size_t)p->n_stops,
                            .min_tokens = p->min_tokens,
                            .special = p->special_tokens};
    tt_code rc = tt_textout_create(w->tokenizer, &o, &t->r.text, reterr);
    free(stops);
    return rc;
}

/* The weights of a session's generation. */
static tt_code use_adapter(tt_task *t, tt_err *reterr)
{
    if (t->p->adapter_id == 0) {
        return TT_OK;
    }
    assert(t->named);
    if (t->answering == NULL) {
        return tt_fail(reterr, t->lost[0].code, "%s", t->lost[0].msg);
    }
    tt_adapter_ref(t->answering);
    tt_task_set_adapter(t, t->answering, t->p->qttt.context_tokens);
    return TT_OK;
}

/* Why mode "auto" does not adapt, or NULL. */
static const char *auto_refusal(const tt_worker *w, const tt_task *t)
{
    const tt_auto_rule *a = &w->auto_rule;
    return t->p->qttt.context_tokens < a->min_tokens ? "auto_context_is_short"
           : t->load > a->max_load                   ? "auto_load_is_high"
                                                     : NULL;
}

static tt_code decide(tt_worker *w, tt_task *t, tt_err *reterr)
{
    const tt_qttt_params *q = &t->p->qttt;
    int32_t n_context = q->context_tokens < t->p->n_prompt ? q->context_tokens : t->p->n_prompt - 1;
    const char *refusal = q->mode == TT_QTTT_AUTO ? auto_refusal(w, t) : NULL;
    if (n_context < TT_QTTT_MIN_CONTEXT) {
        refusal = "context_too_short";
    }
    t->r.adapting = q->mode != TT_QTTT_OFF && refusal == NULL;
    t->r.phase = t->r.adapting ? TT_GENERATE_CONTEXT : TT_GENERATE_PROMPT;
    t->until = t->r.adapting ? n_context : t->p->n_prompt;
    t->logits = !t->r.adapting && t->r.n_max > 0;
    if (q->mode != TT_QTTT_OFF && refusal != NULL) {
        tt_qttt_params params = *q;
        tt_qttt_resolve(&params);
        tt_qttt_result none = tt_qttt_without(&params, "skipped", refusal);
        return tt_push_adapted(w, t, &none, reterr);
    }
    return TT_OK;
}

tt_code tt_generate_start(tt_worker *w, tt_task *t, tt_err *reterr)
{
    const tt_job_params *p = t->p;
    int32_t room = w->max_context - p->n_prompt;
    t->started = tt_sys_now();
    tt_event *ev = tt_task_event(TT_EV_STARTED, 0, reterr);
    if (ev == NULL) {
        return TT_E_NOMEM;
    }
    tt_job_push(t->job, ev);
    if (p->kind == TT_JOB_PREFILL || p->kind == TT_JOB_DIAGNOSE) {
        t->r.phase = TT_GENERATE_PROMPT;
        t->until = p->n_prompt;
        return use_adapter(t, reterr);
    }
    tt_draft_odds_init(&t->r.spec.odds);
    t->r.n_max = p->max_tokens >= 0 && p->max_tokens < room ? p->max_tokens : room;
    tt_code rc = tt_sampler_init(&t->r.sampler, &p->sampling, w->model->n_vocab, p->prompt,
                                 p->n_prompt, reterr);
    rc = rc == TT_OK ? open_text(w, t, reterr) : rc;
    rc = rc == TT_OK ? list_banned(w, t, reterr) : rc;
    rc = rc == TT_OK ? decide(w, t, reterr) : rc;
    return rc == TT_OK && !t->r.adapting ? use_adapter(t, reterr) : rc;
}

/* ---- adaptation ---- */

tt_qttt_result tt_qttt_without(const tt_qttt_params *p, const char *status, const char *reason)
{
    return (tt_qttt_result){.status = status,
                            .reason = reason,
                            .params = *p,
                            .span_loss_before = NAN,
                            .span_loss_after = NAN,
                            .loss_first = NAN,
                            .loss_last = NAN};
}

tt_code tt_push_adapted(tt_worker *w, tt_task *t, const tt_qttt_result *result, tt_err *reterr)
{
    tt_event *ev = tt_task_event(TT_EV_ADAPTED, 0, reterr);
    if (ev == NULL) {
        return TT_E_NOMEM;
    }
    ev->u.adapted = *result;
    tt_job_push(t->job, ev);
    bool failed = strcmp(result->status, "failed") == 0;
    w->totals.qttt_failed += failed;
    w->totals.qttt_cached += result->cached;
    w->totals.qttt_kept += !failed && result->kept;
    w->totals.qttt_discarded +=
        !failed && result->reason != NULL && strcmp(result->reason, "guard_discarded") == 0;
    return TT_OK;
}

tt_code tt_generate_adapted(tt_worker *w, tt_task *t, const tt_qttt_result *result,
                            tt_adapter *adapter, tt_err *reterr)
{
    assert(t->adapter == NULL && t->r.phase == TT_GENERATE_CONTEXT);
    int32_t n_context = t->until;
    t->r.adapting_seconds += tt_sys_now() - t->r.adapt_from;
    t->r.phase = TT_GENERATE_PROMPT;
    t->r.adapting = false;
    t->until = t->p->n_prompt;
    t->logits = t->r.n_max > 0;
    t->fresh = true;
    if (adapter != NULL) {
        tt_task_set_adapter(t, adapter, n_context);
        return tt_push_adapted(w, t, result, reterr);
    }
    tt_code rc = use_adapter(t, reterr);
    return rc == TT_OK ? tt_push_adapted(w, t, result, reterr) : rc;
}

tt_code tt_generate_arrived(tt_worker *w, tt_task *t, tt_err *reterr)
{
    tt_generate_state *r = &t->r;
    if (r->phase == TT_GENERATE_CONTEXT) {
        tt_qttt_params params = t->p->qttt;
        tt_qttt_resolve(&params);
        tt_qttt_result result;
        tt_adapter *adapter = NULL;
        r->adapt_from = r->adapt_from > 0 ? r->adapt_from : tt_sys_now();
        if (tt_training_known(w, &params, t->p, true, &result, &adapter) != TT_OK) {
            return (tt_code)TT_TASK_PARKED;
        }
        bool pinned = adapter != NULL && t->p->pin_adapter;
        tt_code rc = tt_generate_adapted(w, t, &result, adapter, reterr);
        if (rc != TT_OK && pinned) {
            tt_adapter_cache_pin(w->adapters, result.adapter_id, -1); /* nobody has heard of it */
        }
        return rc == TT_OK ? (tt_code)TT_TASK_MORE : rc;
    }
    r->phase = TT_GENERATE_DECODE;
    r->reason = TT_FINISH_LENGTH;
    r->prefilled = r->prefilled > 0 ? r->prefilled : tt_sys_now();
    if (t->p->kind != TT_JOB_GENERATE || r->n_max == 0) {
        return (tt_code)TT_TASK_OVER;
    }
    if (r->n_out > 0) {
        return TT_OK; /* back from a preemption: the last token drawn is decoded next */
    }
    tt_drawn drawn = {.id = tt_step_token(w->step, 0)};
    if (tt_generate_wants_logits(t)) {
        const float *logits;
        if (tt_prefill_echoes(t)) {
            tt_code rc = tt_step_logits_block(w->step, t->piece - 1, 1, &logits, reterr);
            if (rc != TT_OK) {
                return rc;
            }
        } else {
            logits = tt_step_logits(w->step, 0);
        }
        tt_generate_logprobs(w, t, logits, &drawn);
    }
    return tt_generate_token(w, t, &drawn, reterr);
}

/* ---- tokens ---- */

bool tt_generate_ends(const tt_worker *w, const tt_task *t, int32_t id)
{
    for (int32_t i = 0; i < t->p->n_stop_ids; i++) {
        if (t->p->stop_ids[i] == id) {
            return true;
        }
    }
    return !t->p->ignore_eos && tt_tokenizer_is_eog(w->tokenizer, id);
}

/* One token's event; sets r.stopped when its text completed a stop string. */
static tt_code push_token(tt_worker *w, tt_task *t, const tt_drawn *drawn, tt_err *reterr)
{
    size_t n_shown, n_piece;
    int32_t id = drawn->id;
    tt_code rc = tt_textout_push(t->r.text, id, reterr);
    if (rc < 0) {
        return rc;
    }
    t->r.stopped = rc == (tt_code)TT_TEXTOUT_STOPPED;
    const char *shown = tt_textout_take(t->r.text, &n_shown);
    const char *piece = tt_tokenizer_piece(w->tokenizer, id, true, &n_piece);
    tt_event *ev = tt_task_event(TT_EV_TOKEN, n_shown + n_piece + 1, reterr);
    if (ev == NULL) {
        return TT_E_NOMEM;
    }
    char *bytes = ev->owned;
    memcpy(bytes, shown, n_shown);
    memcpy(bytes + n_shown, piece, n_piece);
    ev->u.token.id = id;
    ev->u.token.text = bytes;
    ev->u.token.n_text = n_shown;
    ev->u.token.piece = bytes + n_shown;
    ev->u.token.n_piece = n_piece;
    if (t->p->n_logprobs >= 0) {
        ev->u.token.have_logprob = true;
        ev->u.token.n_top = t->p->n_logprobs;
        ev->u.token.logprob = drawn->logprob;
        memcpy(ev->u.token.top, drawn->top, sizeof drawn->top);
    }
    tt_job_push(t->job, ev);
    return TT_OK;
}

void tt_generate_order(const tt_task *t, int32_t ahead, tt_draw_order *ret)
{
    const tt_generate_state *r = &t->r;
    bool early = r->n_out + ahead < t->p->min_tokens;
    tt_sampler_order(&r->sampler, r->banned, early ? r->n_banned : 0, ret);
    ret->draw.counter += (uint32_t)ahead;
}

bool tt_generate_wants_logits(const tt_task *t)
{
    return t->p->n_logprobs >= 0;
}

void tt_generate_logprobs(const tt_worker *w, const tt_task *t, const float *logits, tt_drawn *d)
{
    d->logprob = tt_logprobs(logits, w->model->n_vocab, d->id, d->top, t->p->n_logprobs);
}

tt_code tt_generate_token(tt_worker *w, tt_task *t, const tt_drawn *drawn, tt_err *reterr)
{
    tt_generate_state *r = &t->r;
    int32_t id = drawn->id;
    r->n_out++;
    w->totals.generated_tokens++;
    if (tt_generate_ends(w, t, id)) {
        r->reason = TT_FINISH_STOP;
        return (tt_code)TT_TASK_OVER;
    }
    tt_sampler_accept(&r->sampler, id);
    tt_code rc = push_token(w, t, drawn, reterr);
    if (rc == TT_OK && r->stopped) {
        r->reason = TT_FINISH_STOP;
        return (tt_code)TT_TASK_OVER;
    }
    rc = rc == TT_OK ? tt_task_add_id(t, id, reterr) : rc;
    return rc == TT_OK && r->n_out >= r->n_max ? (tt_code)TT_TASK_OVER : rc;
}

tt_code tt_generate_done(tt_worker *w, tt_task *t, tt_err *reterr)
{
    tt_generate_state *r = &t->r;
    tt_event *last = t->last;
    const char *rest = "";
    size_t n = 0;
    int32_t stop = -1;
    if (r->text != NULL) {
        tt_code rc = tt_textout_flush(r->text, reterr);
        if (rc < 0) {
            return rc;
        }
        rest = tt_textout_take(r->text, &n);
        stop = tt_textout_stop(r->text);
    }
    char *copy = malloc(n + 1);
    if (copy == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an event");
    }
    memcpy(copy, rest, n);
    last->type = TT_EV_DONE;
    last->owned = copy;
    last->u.done.reason = stop >= 0 ? TT_FINISH_STOP : r->reason;
    last->u.done.prompt_tokens = t->p->n_prompt;
    last->u.done.cached_tokens = t->cached;
    last->u.done.completion_tokens = r->n_out;
    last->u.done.drafted_tokens = r->spec.drafted;
    last->u.done.accepted_tokens = r->spec.accepted;
    last->u.done.text = copy;
    last->u.done.n_text = n;
    /* points into the job's params, which outlive its events */
    last->u.done.stop = stop >= 0 ? t->p->stops[stop].p : NULL;
    last->u.done.queue_seconds = t->started - t->submitted;
    last->u.done.prefill_seconds = r->prefilled - t->started - r->adapting_seconds;
    last->u.done.decode_seconds = tt_sys_now() - r->prefilled;
    return TT_OK;
}

void tt_generate_finish(tt_task *t)
{
    tt_textout_destroy(&t->r.text);
    tt_diagnose_end(&t->r.scan);
    tt_event_free(t->r.diagnosis);
    t->r.diagnosis = NULL;
    free(t->r.banned);
    t->r.banned = NULL;
    tt_sampler_finish(&t->r.sampler);
    tt_lookup_finish(&t->r.spec.lookup);
}
