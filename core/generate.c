/* generate.c - one request from its first page to its last token. The order is the method's:
 * prefill the context under the base, adapt to it, run the question under the adapter, decode.
 * Thread: engine only. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/qttt.h"
#include "core/sampler.h"
#include "core/seq.h"
#include "core/sysinfo.h"
#include "core/textout.h"
#include "core/worker.h"

#define POLL_UNITS 2    /* layers between two looks at the cancel flag */
#define LOGPROB_ROWS 64 /* rows of one block of prompt log-probabilities */

typedef struct generation {
    tt_worker *w;
    tt_job *job;
    const tt_job_params *p;
    tt_seq seq;
    tt_adapter *adapter; /* referenced; NULL = base */
    int32_t cached;      /* prompt tokens whose K/V were found */
    int32_t last_rows;   /* rows of the last prefill step */
    tt_sampler sampler;
    tt_textout *text; /* owned */
    int32_t *banned;  /* owned [n_banned], rising */
    int32_t n_banned;
    int32_t n_out, n_max;
    bool stopped; /* by a stop string */
    double queue_seconds, started, prefilled;
    double adapting; /* seconds between started and prefilled that were no prefill */
} generation;

static tt_code cancelled(tt_err *reterr)
{
    return tt_fail(reterr, TT_E_CANCELLED, "the request was cancelled");
}

static tt_event *new_event(tt_event_type type, size_t owned_bytes, tt_err *reterr)
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

/* Runs a begun step to its end, looking at the cancel flag every few layers. */
static tt_code run_step(generation *g, tt_err *reterr)
{
    for (;;) {
        tt_code rc = tt_step_run(g->w->step, POLL_UNITS, reterr);
        g->w->progress(g->w->progress_arg);
        if (rc != (tt_code)TT_STEP_MORE) {
            return rc;
        }
        if (tt_job_cancelled(g->job)) {
            return cancelled(reterr);
        }
    }
}

/* ---- prefill ---- */

static tt_code push_prefill(generation *g, int32_t done, tt_err *reterr)
{
    tt_event *ev = new_event(TT_EV_PREFILL, 0, reterr);
    if (ev == NULL) {
        return TT_E_NOMEM;
    }
    ev->u.prefill.done = done;
    ev->u.prefill.total = g->p->n_prompt;
    ev->u.prefill.cached = g->cached;
    ev->u.prefill.seconds = tt_sys_now() - g->started - g->adapting;
    tt_job_push(g->job, ev);
    return TT_OK;
}

/* Log-probabilities of the prompt tokens that follow rows [row0, row0 + n) of the step; row 0 is
 * position pos0. */
static tt_code push_prompt_logprobs(generation *g, int32_t pos0, int32_t row0, int32_t n,
                                    tt_err *reterr)
{
    int32_t n_top = g->p->n_prompt_logprobs, n_vocab = g->w->model->n_vocab;
    int32_t first = pos0 + row0 + 1, left = g->p->n_prompt - first;
    n = n < left ? n : left;
    if (n <= 0) {
        return TT_OK;
    }
    const float *logits;
    tt_code rc = tt_step_logits_block(g->w->step, row0, n, &logits, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_event *ev = new_event(TT_EV_PROMPT_LOGPROBS,
                             (size_t)n * (size_t)(1 + n_top) * sizeof(tt_logprob), reterr);
    if (ev == NULL) {
        return TT_E_NOMEM;
    }
    tt_logprob *chosen = ev->owned, *top = chosen + n;
    for (int32_t i = 0; i < n; i++) {
        int32_t id = g->p->prompt[first + i];
        chosen[i].id = id;
        chosen[i].logprob = tt_logprobs(logits + (size_t)i * (size_t)n_vocab, n_vocab, id,
                                        top + (size_t)i * (size_t)n_top, n_top);
    }
    ev->u.prompt_logprobs.first = first;
    ev->u.prompt_logprobs.n = n;
    ev->u.prompt_logprobs.n_top = n_top;
    ev->u.prompt_logprobs.chosen = chosen;
    ev->u.prompt_logprobs.top = top;
    tt_job_push(g->job, ev);
    return TT_OK;
}

/* One chunk of the prompt, from the sequence's end. */
static tt_code prefill_chunk(generation *g, int32_t n, bool last, tt_err *reterr)
{
    tt_code rc = tt_seq_reserve(&g->seq, n, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    bool echo = g->p->n_prompt_logprobs >= 0;
    int32_t pos0 = g->seq.n;
    tt_segment seg = {.ids = g->p->prompt + pos0,
                      .n_rows = n,
                      .pos0 = pos0,
                      .pages = g->seq.pages,
                      .store = true,
                      .adapter = g->adapter,
                      .want = echo   ? TT_WANT_ALL
                              : last ? TT_WANT_LAST
                                     : TT_WANT_NONE};
    rc = tt_step_begin(g->w->step, &seg, 1, &(tt_step_options){.family = TT_PREFILL}, reterr);
    if (rc == TT_OK) {
        rc = run_step(g, reterr);
    }
    if (rc == TT_OK) {
        g->last_rows = n;
        tt_seq_append(&g->seq, g->p->prompt + pos0, n, false, true);
        g->w->totals.prompt_tokens += (uint64_t)n;
    }
    for (int32_t row = 0; rc == TT_OK && echo && row < n; row += LOGPROB_ROWS) {
        int32_t left = n - row;
        rc = push_prompt_logprobs(g, pos0, row, left < LOGPROB_ROWS ? left : LOGPROB_ROWS, reterr);
        if (rc == TT_OK && tt_job_cancelled(g->job)) {
            rc = cancelled(reterr);
        }
    }
    return rc == TT_OK ? push_prefill(g, g->seq.n, reterr) : rc;
}

static tt_code prefill(generation *g, int32_t until, tt_err *reterr)
{
    tt_code rc = TT_OK;
    while (rc == TT_OK && g->seq.n < until) {
        int32_t n = until - g->seq.n;
        n = n < g->w->prefill_chunk ? n : g->w->prefill_chunk;
        rc = prefill_chunk(g, n, g->seq.n + n == g->p->n_prompt, reterr);
    }
    return rc;
}

/* Every page of the prompt was found: its last token is run again, reading its own K/V, for its
 * logits alone. */
static tt_code rerun_last(generation *g, tt_err *reterr)
{
    tt_segment seg = {.ids = g->p->prompt + g->seq.n - 1,
                      .n_rows = 1,
                      .pos0 = g->seq.n - 1,
                      .pages = g->seq.pages,
                      .adapter = g->adapter,
                      .want = TT_WANT_LAST};
    tt_code rc =
        tt_step_begin(g->w->step, &seg, 1, &(tt_step_options){.family = TT_PREFILL}, reterr);
    return rc == TT_OK ? run_step(g, reterr) : rc;
}

static tt_code find_prefix(generation *g, int32_t n, tt_err *reterr)
{
    if (g->p->n_prompt_logprobs >= 0) {
        return TT_OK; /* every row is wanted: nothing may be skipped */
    }
    tt_code rc = tt_seq_match(&g->seq, g->p->prompt, NULL, n, &g->cached, reterr);
    g->w->totals.cached_tokens += rc == TT_OK ? (uint64_t)g->cached : 0;
    return rc == TT_OK && g->cached > 0 ? push_prefill(g, g->cached, reterr) : rc;
}

/* ---- adaptation ---- */

static void push_adapt(void *arg, int32_t step, int32_t total, int32_t span_start,
                       int32_t span_tokens, const tt_train_report *report, double seconds)
{
    generation *g = arg;
    tt_qttt_params used = g->p->qttt;
    tt_qttt_resolve(&used);
    g->w->totals.qttt_steps++;
    g->w->totals.trained_tokens += (uint64_t)span_tokens;
    tt_event *ev = new_event(TT_EV_ADAPT, 0, NULL);
    if (ev == NULL) {
        return; /* progress may be lost, the answer not */
    }
    ev->u.adapt.step = step;
    ev->u.adapt.total = total;
    ev->u.adapt.span_start = span_start;
    ev->u.adapt.span_tokens = span_tokens;
    ev->u.adapt.loss = report->loss;
    ev->u.adapt.grad_norm = report->grad_norm;
    ev->u.adapt.learning_rate = used.learning_rate;
    ev->u.adapt.seconds = seconds;
    tt_job_push(g->job, ev);
}

static tt_code push_adapted(generation *g, const tt_qttt_result *result, tt_err *reterr)
{
    tt_event *ev = new_event(TT_EV_ADAPTED, 0, reterr);
    if (ev == NULL) {
        return TT_E_NOMEM;
    }
    ev->u.adapted = *result;
    tt_job_push(g->job, ev);
    bool failed = strcmp(result->status, "failed") == 0;
    g->w->totals.qttt_failed += failed;
    g->w->totals.qttt_cached += result->cached;
    g->w->totals.qttt_kept += !failed && result->kept;
    g->w->totals.qttt_discarded +=
        !failed && result->reason != NULL && strcmp(result->reason, "guard_discarded") == 0;
    return TT_OK;
}

/* An adaptation that could not be had: the base answers and the answer says why. */
static tt_qttt_result without(const tt_qttt_params *p, const char *status, const char *reason)
{
    return (tt_qttt_result){.status = status,
                            .reason = reason,
                            .params = *p,
                            .span_loss_before = 0.0 / 0.0,
                            .span_loss_after = 0.0 / 0.0,
                            .loss_first = 0.0 / 0.0,
                            .loss_last = 0.0 / 0.0};
}

/* Trains until it is over, the request is cancelled (an error) or the adaptation alone is (an
 * outcome of the result). */
static tt_code train(generation *g, tt_qttt_run *run, tt_qttt_result *ret_result, tt_err *reterr)
{
    for (;;) {
        tt_code rc = tt_qttt_advance(run, POLL_UNITS, reterr);
        g->w->progress(g->w->progress_arg);
        if (rc == TT_OK) {
            tt_qttt_take(run, ret_result, &g->adapter);
            return TT_OK;
        }
        if (rc < 0) {
            return rc;
        }
        if (tt_job_cancelled(g->job)) {
            return cancelled(reterr);
        }
        if (tt_job_adaptation_cancelled(g->job)) {
            *ret_result = without(&g->p->qttt, "cancelled", "cancelled");
            return TT_OK;
        }
    }
}

static tt_code train_and_remember(generation *g, const tt_adapter_key *key,
                                  const tt_qttt_params *params, tt_qttt_result *ret_result,
                                  tt_err *reterr)
{
    tt_worker *w = g->w;
    int32_t n = params->context_tokens;
    uint64_t hash = tt_context_hash(g->p->prompt, n);
    tt_probe_result before;
    tt_qttt_options o = {
        .d = &w->device,
        .kv = w->kv,
        .step = w->step,
        .ids = g->p->prompt,
        .n_context = n,
        .pages = g->seq.pages,
        .params = params,
        .caps = &w->caps,
        .before = tt_adapter_cache_find_probe(w->adapters, hash, n, &before) ? &before : NULL,
        .now = tt_sys_now,
        .on_step = push_adapt,
        .arg = g};
    tt_qttt_run *run = NULL;
    tt_code rc = tt_qttt_create(&o, &run, reterr);
    if (rc == TT_OK) {
        rc = train(g, run, ret_result, reterr);
    }
    if (run != NULL && tt_qttt_before(run, &before)) {
        tt_adapter_cache_put_probe(w->adapters, hash, n, &before);
    }
    if (rc == TT_OK && strcmp(ret_result->status, "succeeded") == 0) {
        tt_adapter_cache_put(w->adapters, key, ret_result, g->adapter);
    }
    tt_qttt_destroy(&run);
    return rc;
}

static tt_code adapt(generation *g, tt_err *reterr)
{
    tt_qttt_params params = g->p->qttt;
    tt_qttt_resolve(&params);
    tt_qttt_result result;
    tt_adapter_key key;
    tt_adapter_key_make(&key, g->p->prompt, params.context_tokens, g->p->adapter_scope, &params);
    tt_code rc = TT_OK;
    if (tt_adapter_cache_find(g->w->adapters, &key, &result, &g->adapter)) {
        result.cached = true;
        result.flops = result.equal_cost_tokens = result.adapt_seconds = 0;
    } else {
        rc = train_and_remember(g, &key, &params, &result, reterr);
    }
    if (rc == TT_E_CAPACITY || rc == TT_E_NOMEM) {
        result = without(&params, "failed", rc == TT_E_NOMEM ? "out_of_memory" : "capacity");
        rc = TT_OK;
    }
    if (rc == TT_OK && g->adapter != NULL) {
        tt_seq_set_adapter(&g->seq, g->adapter->id, g->seq.n);
    }
    return rc == TT_OK ? push_adapted(g, &result, reterr) : rc;
}

/* ---- decode ---- */

static bool ends(const generation *g, int32_t id)
{
    for (int32_t i = 0; i < g->p->n_stop_ids; i++) {
        if (g->p->stop_ids[i] == id) {
            return true;
        }
    }
    return !g->p->ignore_eos && tt_tokenizer_is_eog(g->w->tokenizer, id);
}

static int by_id(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* What may not be drawn before min_tokens: everything that would end the generation. */
static tt_code list_banned(generation *g, tt_err *reterr)
{
    size_t n_stop = (size_t)g->p->n_stop_ids, n_eog = (size_t)g->w->n_eog;
    g->banned = malloc((n_stop + n_eog + 1) * sizeof *g->banned);
    if (g->banned == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for stop tokens");
    }
    memcpy(g->banned, g->p->stop_ids, n_stop * sizeof *g->banned);
    memcpy(g->banned + n_stop, g->w->eog, n_eog * sizeof *g->banned);
    g->n_banned = (int32_t)(n_stop + n_eog);
    qsort(g->banned, n_stop + n_eog, sizeof *g->banned, by_id);
    return TT_OK;
}

static int32_t draw(generation *g, const float *logits)
{
    return tt_sampler_draw(&g->sampler, logits, g->banned,
                           g->n_out < g->p->min_tokens ? g->n_banned : 0);
}

/* One token's event; sets g->stopped when its text completed a stop string. */
static tt_code push_token(generation *g, int32_t id, const float *logits, tt_err *reterr)
{
    size_t n_shown, n_piece;
    tt_code rc = tt_textout_push(g->text, id, reterr);
    if (rc < 0) {
        return rc;
    }
    g->stopped = rc == TT_TEXTOUT_STOPPED;
    const char *shown = tt_textout_take(g->text, &n_shown);
    const char *piece = tt_tokenizer_piece(g->w->tokenizer, id, true, &n_piece);
    tt_event *ev = new_event(TT_EV_TOKEN, n_shown + n_piece + 1, reterr);
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
    if (g->p->n_logprobs >= 0) {
        ev->u.token.have_logprob = true;
        ev->u.token.n_top = g->p->n_logprobs;
        ev->u.token.logprob =
            tt_logprobs(logits, g->w->model->n_vocab, id, ev->u.token.top, g->p->n_logprobs);
    }
    tt_job_push(g->job, ev);
    return TT_OK;
}

/* Logits after token `id`, which is appended to the sequence. */
static tt_code decode_one(generation *g, int32_t id, const float **ret_logits, tt_err *reterr)
{
    tt_code rc = tt_seq_reserve(&g->seq, 1, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_segment seg = {.ids = &id,
                      .n_rows = 1,
                      .pos0 = g->seq.n,
                      .pages = g->seq.pages,
                      .store = true,
                      .adapter = g->adapter,
                      .want = TT_WANT_LAST};
    rc = tt_step_begin(g->w->step, &seg, 1, &(tt_step_options){.family = TT_DECODE}, reterr);
    if (rc == TT_OK) {
        rc = run_step(g, reterr);
    }
    if (rc == TT_OK) {
        tt_seq_append(&g->seq, &id, 1, true, false);
        *ret_logits = tt_step_logits(g->w->step, 0);
    }
    return rc;
}

static tt_code decode(generation *g, tt_finish *ret_reason, tt_err *reterr)
{
    const float *logits;
    tt_code rc = TT_OK;
    if (g->p->n_prompt_logprobs >= 0 && g->n_max > 0) {
        rc = tt_step_logits_block(g->w->step, g->last_rows - 1, 1, &logits, reterr);
    } else if (g->n_max > 0) {
        logits = tt_step_logits(g->w->step, 0);
    }
    *ret_reason = TT_FINISH_LENGTH;
    while (rc == TT_OK && g->n_out < g->n_max) {
        int32_t id = draw(g, logits);
        g->n_out++;
        g->w->totals.generated_tokens++;
        if (ends(g, id)) {
            *ret_reason = TT_FINISH_STOP;
            return TT_OK;
        }
        tt_sampler_accept(&g->sampler, id);
        rc = push_token(g, id, logits, reterr);
        if (rc == TT_OK && g->stopped) {
            *ret_reason = TT_FINISH_STOP;
            return TT_OK;
        }
        if (rc == TT_OK && tt_job_cancelled(g->job)) {
            return cancelled(reterr);
        }
        if (rc == TT_OK && g->n_out < g->n_max) {
            rc = decode_one(g, id, &logits, reterr);
        }
    }
    return rc;
}

/* ---- the whole ---- */

static tt_code run_prompt(generation *g, tt_err *reterr)
{
    const tt_job_params *p = g->p;
    int32_t n_context =
        p->qttt.context_tokens < p->n_prompt ? p->qttt.context_tokens : p->n_prompt - 1;
    bool adapting = p->qttt.mode == TT_QTTT_ON;
    tt_code rc = TT_OK;
    if (adapting && n_context < TT_QTTT_MIN_CONTEXT) {
        tt_qttt_params params = p->qttt;
        tt_qttt_resolve(&params);
        tt_qttt_result none = without(&params, "skipped", "context_too_short");
        rc = push_adapted(g, &none, reterr);
        adapting = false;
    }
    if (rc == TT_OK) {
        rc = find_prefix(g, adapting ? n_context : p->n_prompt, reterr);
    }
    if (rc == TT_OK && adapting) {
        rc = prefill(g, n_context, reterr);
        double before = tt_sys_now();
        rc = rc == TT_OK ? adapt(g, reterr) : rc;
        g->adapting = tt_sys_now() - before;
    }
    if (rc == TT_OK) {
        rc = g->seq.n == p->n_prompt ? rerun_last(g, reterr) : prefill(g, p->n_prompt, reterr);
    }
    g->prefilled = tt_sys_now();
    return rc;
}

static tt_code finish_done(generation *g, tt_finish reason, tt_event *last, tt_err *reterr)
{
    size_t n;
    tt_code rc = tt_textout_flush(g->text, reterr);
    if (rc < 0) {
        return rc;
    }
    const char *rest = tt_textout_take(g->text, &n);
    char *copy = malloc(n + 1);
    if (copy == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an event");
    }
    memcpy(copy, rest, n);
    int32_t stop = tt_textout_stop(g->text);
    reason = stop >= 0 ? TT_FINISH_STOP : reason;
    last->type = TT_EV_DONE;
    last->owned = copy;
    last->u.done.reason = reason;
    last->u.done.prompt_tokens = g->p->n_prompt;
    last->u.done.cached_tokens = g->cached;
    last->u.done.completion_tokens = g->n_out;
    last->u.done.text = copy;
    last->u.done.n_text = n;
    last->u.done.stop = stop >= 0
                            ? g->p->stops[stop].p
                            : NULL; /* points into the job's params, which outlive its events */
    last->u.done.queue_seconds = g->queue_seconds;
    last->u.done.prefill_seconds = g->prefilled - g->started - g->adapting;
    last->u.done.decode_seconds = tt_sys_now() - g->prefilled;
    return TT_OK;
}

static tt_code open_text(generation *g, tt_err *reterr)
{
    tt_str *stops = malloc(((size_t)g->p->n_stops + 1) * sizeof *stops);
    if (stops == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for stop strings");
    }
    for (int32_t i = 0; i < g->p->n_stops; i++) {
        stops[i] = (tt_str){g->p->stops[i].p, (uint32_t)g->p->stops[i].n};
    }
    tt_textout_options o = {.stops = stops,
                            .n_stops = (size_t)g->p->n_stops,
                            .min_tokens = g->p->min_tokens,
                            .special = g->p->special_tokens};
    tt_code rc = tt_textout_create(g->w->tokenizer, &o, &g->text, reterr);
    free(stops);
    return rc;
}

tt_code tt_worker_run(tt_worker *w, tt_job *job, double queue_seconds, tt_event *last)
{
    tt_err err = {0};
    const tt_job_params *p = tt_job_get_params(job);
    generation g = {
        .w = w, .job = job, .p = p, .queue_seconds = queue_seconds, .started = tt_sys_now()};
    int32_t room = w->max_context - p->n_prompt;
    g.n_max = p->max_tokens >= 0 && p->max_tokens < room ? p->max_tokens : room;
    tt_seq_init(&g.seq, w->kv, p->adapter_scope);
    tt_finish reason = TT_FINISH_LENGTH;
    tt_code rc = tt_job_cancelled(job) ? cancelled(&err) : TT_OK;
    if (rc == TT_OK) {
        tt_event *ev = new_event(TT_EV_STARTED, 0, &err);
        rc = ev == NULL ? TT_E_NOMEM : TT_OK;
        if (ev != NULL) {
            tt_job_push(job, ev);
        }
    }
    if (rc == TT_OK) {
        rc = tt_sampler_init(&g.sampler, &p->sampling, w->model->n_vocab, p->prompt, p->n_prompt,
                             &err);
    }
    if (rc == TT_OK) {
        rc = open_text(&g, &err);
    }
    if (rc == TT_OK) {
        rc = list_banned(&g, &err);
    }
    rc = rc == TT_OK ? run_prompt(&g, &err) : rc;
    rc = rc == TT_OK ? decode(&g, &reason, &err) : rc;
    rc = rc == TT_OK ? finish_done(&g, reason, last, &err) : rc;
    if (rc != TT_OK) {
        last->type = TT_EV_ERROR;
        last->u.error = err;
    }
    tt_textout_destroy(&g.text);
    free(g.banned);
    tt_sampler_finish(&g.sampler);
    tt_adapter_unref(&w->device, &g.adapter);
    tt_seq_finish(&g.seq);
    return rc;
}
