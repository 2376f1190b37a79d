/* qttt.c - see qttt.h. The run is a small state machine over steps of forward.h:
 *   BEFORE -> TRAIN (N times) -> AFTER -> OVER
 * BEFORE and AFTER are one forward step each over 20 segments: every probe segment in place and
 * re-read. */
#include "core/qttt.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/cost.h"
#include "core/rng.h"

#define PLATEAU_STEPS 32 /* two windows of so many steps are compared */
#define PLATEAU_GAIN 0.005
#define MAX_PASSAGES 32 /* of one training step: caps.max_span_tokens / 48 and more */

typedef enum run_phase { RUN_BEFORE, RUN_TRAIN, RUN_AFTER, RUN_OVER } run_phase;

struct tt_qttt_run {
    tt_qttt_options o;
    tt_qttt_params params;
    tt_qttt_caps caps;
    uint64_t hash;
    tt_rng rng; /* spans */
    run_phase phase;
    bool begun; /* the phase's step is under way */
    tt_probe probe;
    bool have_before;
    tt_probe_result before, after;
    tt_reread reread; /* of the step under way */
    int32_t *targets; /* owned: span targets, or in-place probe targets */
    tt_trainer *trainer;
    tt_adapter *published;
    tt_qttt_result result;
    int32_t span_start, span_tokens;
    double step_flops; /* of the step under way */
    double started, step_started;
    double paused_at;       /* 0 = running */
    double window, earlier; /* summed loss of this window of steps and of the one before */
    tt_segment segs[2 * TT_PROBE_SEGMENTS > MAX_PASSAGES ? 2 * TT_PROBE_SEGMENTS : MAX_PASSAGES];
};

uint64_t tt_context_hash(const int32_t *ids, int32_t n)
{
    return XXH3_64bits(ids, (size_t)n * sizeof *ids);
}

void tt_qttt_defaults(tt_qttt_params *p)
{
    *p = (tt_qttt_params){
        .guard = true, .steps = -1, .learning_rate = -1, .weight_decay = -1, .grad_clip = -1};
}

/* The values of docs/qttt.md section 1. */
void tt_qttt_resolve(tt_qttt_params *p)
{
    p->steps = p->steps < 0 ? 32 : p->steps;
    p->span_tokens = p->span_tokens <= 0 ? 128 : p->span_tokens;
    p->rank = p->rank <= 0 ? 8 : p->rank;
    p->lora_alpha = p->lora_alpha <= 0 ? 16.0f : p->lora_alpha;
    p->weight_decay = p->weight_decay < 0 ? 0.01f : p->weight_decay;
    p->grad_clip = p->grad_clip < 0 ? 1.0f : p->grad_clip;
    p->beta1 = p->beta1 <= 0 ? 0.9f : p->beta1;
    p->beta2 = p->beta2 <= 0 ? 0.999f : p->beta2;
    p->adam_eps = p->adam_eps <= 0 ? 1e-8f : p->adam_eps;
    if (p->learning_rate < 0) {
        p->learning_rate = p->objective == TT_RECALL || p->lora ? 3e-5 : 3e-6;
    }
}

/* ---- spans ---- */

static tt_rng span_rng(const tt_qttt_params *p, uint64_t hash)
{
    return tt_rng_make(p->seed, hash ^ 0x7370616E);
}

/* One draw; the whole context when it is no longer than a span. */
static void draw_span(tt_rng *rng, const tt_qttt_params *p, int32_t n_context, int32_t *ret_start,
                      int32_t *ret_n)
{
    int32_t n = p->span_tokens < n_context - 1 ? p->span_tokens : n_context - 1;
    *ret_n = n;
    *ret_start = (int32_t)tt_rng_below(rng, (uint64_t)(n_context - n));
}

static int32_t span_targets(const tt_probe *probe, const int32_t *ids, int32_t start, int32_t n,
                            int32_t *targets)
{
    int32_t n_targets = 0;
    for (int32_t i = 0; i < n; i++) {
        targets[i] = tt_probe_masks(probe, start + i + 1) ? -1 : ids[start + i + 1];
        n_targets += targets[i] >= 0;
    }
    return n_targets;
}

static void next_span(tt_rng *rng, const tt_qttt_params *p, const tt_probe *probe,
                      const int32_t *ids, int32_t n_context, int32_t *ret_start, int32_t *ret_n,
                      int32_t *targets)
{
    do { /* a probe covers at most 480 of 1,024 tokens: this ends */
        draw_span(rng, p, n_context, ret_start, ret_n);
    } while (span_targets(probe, ids, *ret_start, *ret_n, targets) == 0);
}

void tt_qttt_span(const tt_qttt_params *params, const int32_t *ids, int32_t n_context, int32_t i,
                  int32_t *ret_start, int32_t *ret_n)
{
    uint64_t hash = tt_context_hash(ids, n_context);
    tt_rng rng = span_rng(params, hash);
    tt_probe probe;
    tt_probe_make(&probe, hash, n_context);
    int32_t *targets = malloc((size_t)params->span_tokens * sizeof *targets);
    for (int32_t j = 0; targets != NULL && j <= i; j++) {
        next_span(&rng, params, &probe, ids, n_context, ret_start, ret_n, targets);
    }
    free(targets);
}

/* ---- life ---- */

static void judge_start(tt_qttt_run *r);

static int32_t passages_per_step(const tt_qttt_params *p)
{
    int32_t n = p->span_tokens / TT_PASSAGE_TOKENS;
    return n < 1 ? 1 : n > MAX_PASSAGES ? MAX_PASSAGES : n;
}

static void skip(tt_qttt_run *r, const char *reason)
{
    r->result.status = "skipped";
    r->result.reason = reason;
    r->phase = RUN_OVER;
}

bool tt_qttt_can_start(const tt_model *m, const tt_qttt_params *p, const tt_adapter *a)
{
    bool any = false;
    for (int i = 0; i < 32; i++) {
        any = any || p->layers[i] != 0;
    }
    for (int32_t i = 0; i < m->n_layers; i++) {
        bool wanted = !any || (i < 256 && (p->layers[i / 8] >> (i % 8) & 1) != 0);
        const tt_adapter_layer *l = &a->layers[i];
        if (wanted != tt_adapter_has(a, i) || (wanted && ((l->kind == TT_ADAPTER_LORA) != p->lora ||
                                                          (p->lora && l->rank != p->rank)))) {
            return false;
        }
    }
    return true;
}

tt_code tt_qttt_create(const tt_qttt_options *opt, tt_qttt_run **ret_run, tt_err *reterr)
{
    tt_qttt_run *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an adaptation");
    }
    r->o = *opt;
    r->params = *opt->params;
    r->caps = *opt->caps;
    r->hash = tt_context_hash(opt->ids, opt->n_context);
    r->rng = span_rng(&r->params, r->hash);
    r->result = (tt_qttt_result){.status = "succeeded",
                                 .params = r->params,
                                 .span_loss_before = NAN,
                                 .span_loss_after = NAN,
                                 .loss_first = NAN,
                                 .loss_last = NAN};
    r->result.params.context_tokens = opt->n_context;
    tt_probe_make(&r->probe, r->hash, opt->n_context);
    r->started = opt->now();
    bool too_short = opt->n_context <
                     (r->params.objective == TT_RECALL ? TT_PASSAGE_TOKENS : TT_QTTT_MIN_CONTEXT);
    if (too_short) {
        skip(r, "context_too_short");
    } else if (r->params.guard && !r->probe.exists) {
        skip(r, "guard_unavailable");
    }
    size_t n_targets =
        (size_t)TT_PROBE_SEGMENTS * TT_PASSAGE_TOKENS + (size_t)r->params.span_tokens;
    r->targets = malloc(n_targets * sizeof *r->targets);
    tt_code rc =
        r->targets == NULL ? tt_fail(reterr, TT_E_NOMEM, "no memory for an adaptation") : TT_OK;
    if (rc == TT_OK && r->phase != RUN_OVER) {
        rc = tt_trainer_create(opt->d, &r->params, r->hash, &r->trainer, reterr);
        rc = rc == TT_OK && opt->start != NULL
                 ? tt_trainer_start_from(r->trainer, opt->start, reterr)
                 : rc;
    }
    if (rc != TT_OK) {
        tt_qttt_destroy(&r);
        return rc;
    }
    if (opt->before != NULL && r->probe.exists) {
        r->have_before = true;
        r->before = *opt->before;
    }
    if (r->phase != RUN_OVER && (!r->probe.exists || r->have_before)) {
        r->phase = RUN_TRAIN;
    }
    if (r->phase != RUN_OVER && r->have_before) {
        judge_start(r);
    }
    *ret_run = r;
    return TT_OK;
}

void tt_qttt_destroy(tt_qttt_run **run)
{
    tt_qttt_run *r = *run;
    *run = NULL;
    if (r == NULL) {
        return;
    }
    tt_reread_finish(&r->reread);
    tt_trainer_destroy(&r->trainer);
    tt_adapter_unref(r->o.d, &r->published);
    free(r->targets);
    free(r);
}

/* What the step of segs[n_segs] costs. One segment that stores its K and V makes the step's
 * products run over all rows. */
static void count_step(tt_qttt_run *r, int32_t n_segs, bool train)
{
    bool kv = false;
    r->step_flops = 0;
    for (int32_t i = 0; i < n_segs; i++) {
        kv = kv || r->segs[i].store;
    }
    for (int32_t i = 0; i < n_segs; i++) {
        const tt_segment *g = &r->segs[i];
        tt_cost_rows rows = {.pos0 = g->pos0,
                             .n_rows = g->n_rows,
                             .kv = kv,
                             .n_logits = g->n_rows,
                             .adapter = g->adapter};
        r->step_flops += tt_cost_forward(r->o.d->model, &rows);
        r->step_flops += train ? tt_cost_backward(r->o.d->model, &rows) : 0;
    }
}

/* ---- the probe's step ---- */

static tt_code begin_probe(tt_qttt_run *r, tt_err *reterr)
{
    const tt_qttt_options *o = &r->o;
    tt_code rc =
        tt_reread_init(&r->reread, o->kv, o->pages, o->n_context, TT_PROBE_SEGMENTS, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    for (int32_t i = 0; i < TT_PROBE_SEGMENTS; i++) {
        int32_t *targets = r->targets + (size_t)i * TT_PASSAGE_TOKENS, start = r->probe.start[i];
        for (int32_t j = 0; j < TT_PASSAGE_TOKENS - 1; j++) {
            targets[j] = j + 1 >= TT_PASSAGE_CUE ? o->ids[start + j + 1] : -1;
        }
        r->segs[i] = (tt_segment){.ids = o->ids + start,
                                  .n_rows = TT_PASSAGE_TOKENS - 1,
                                  .pos0 = start,
                                  .pages = o->pages,
                                  .adapter = r->published,
                                  .want = TT_WANT_LOSS,
                                  .targets = targets};
        tt_reread_segment(&r->reread, i, o->ids, start, NULL, r->published,
                          &r->segs[TT_PROBE_SEGMENTS + i]);
    }
    count_step(r, 2 * TT_PROBE_SEGMENTS, false);
    return tt_step_begin(o->step, r->segs, 2 * TT_PROBE_SEGMENTS, &(tt_step_options){0}, reterr);
}

static void read_probe(const tt_qttt_run *r, tt_probe_result *ret)
{
    const float *loss = tt_step_losses(r->o.step);
    int32_t n_rows = TT_PASSAGE_TOKENS - 1, n_scored = TT_PASSAGE_TOKENS - TT_PASSAGE_CUE;
    for (int32_t i = 0; i < 2 * TT_PROBE_SEGMENTS; i++) {
        double sum = 0;
        for (int32_t j = 0; j < n_rows; j++) {
            sum += loss[(size_t)i * (size_t)n_rows + (size_t)j];
        }
        bool recall = i >= TT_PROBE_SEGMENTS;
        (recall ? ret->recall : ret->in_place)[i % TT_PROBE_SEGMENTS] = sum / n_scored;
    }
}

/* ---- training ---- */

static int32_t begin_passages(tt_qttt_run *r)
{
    const tt_qttt_options *o = &r->o;
    int32_t n = r->reread.n_passages;
    for (int32_t i = 0; i < n; i++) {
        int32_t start;
        do {
            start =
                (int32_t)tt_rng_below(&r->rng, (uint64_t)(o->n_context - TT_PASSAGE_TOKENS + 1));
            if (i == 0) {
                r->span_start = start;
            }
        } while (tt_reread_segment(&r->reread, i, o->ids, start, &r->probe,
                                   tt_trainer_params(r->trainer), &r->segs[i]) == 0);
    }
    r->span_tokens = n * (TT_PASSAGE_TOKENS - 1);
    return n;
}

static int32_t begin_span(tt_qttt_run *r)
{
    const tt_qttt_options *o = &r->o;
    next_span(&r->rng, &r->params, &r->probe, o->ids, o->n_context, &r->span_start, &r->span_tokens,
              r->targets);
    r->segs[0] = (tt_segment){.ids = o->ids + r->span_start,
                              .n_rows = r->span_tokens,
                              .pos0 = r->span_start,
                              .pages = o->pages,
                              .adapter = tt_trainer_params(r->trainer),
                              .want = TT_WANT_LOSS,
                              .targets = r->targets};
    return 1;
}

static tt_code begin_train(tt_qttt_run *r, tt_err *reterr)
{
    bool recall = r->params.objective == TT_RECALL;
    tt_code rc = TT_OK;
    if (recall) {
        rc = tt_reread_init(&r->reread, r->o.kv, r->o.pages, r->o.n_context,
                            passages_per_step(&r->params), reterr);
    }
    if (rc != TT_OK) {
        return rc;
    }
    int32_t n = recall ? begin_passages(r) : begin_span(r);
    count_step(r, n, true);
    tt_step_options opt = {.trainee = tt_trainer_params(r->trainer),
                           .grads = tt_trainer_grads(r->trainer)};
    r->step_started = r->o.now();
    return tt_step_begin(r->o.step, r->segs, n, &opt, reterr);
}

static void fail_run(tt_qttt_run *r, const char *reason)
{
    r->result.status = "failed";
    r->result.reason = reason;
    r->result.kept = false;
    tt_adapter_unref(r->o.d, &r->published);
    r->phase = RUN_OVER;
}

/* A run away from its start, or beyond what the caps allow, is worth nothing: the base answers. */
static bool diverged(const tt_qttt_run *r, const tt_train_report *rep)
{
    return !rep->finite || rep->loss > 2 * r->result.loss_first + 4 ||
           !(rep->delta_norm <= r->caps.max_delta_norm);
}

/* The reason to stop after `done` steps, or NULL. */
static const char *budget_spent(const tt_qttt_run *r, int32_t done)
{
    int32_t window = done % PLATEAU_STEPS;
    int64_t next =
        r->result.trained_tokens + (r->span_tokens > 0 ? r->span_tokens : r->params.span_tokens);
    if (done >= r->params.steps) {
        return "steps";
    }
    if (r->params.max_span_tokens > 0 && next > r->params.max_span_tokens) {
        return "span_tokens";
    }
    if (r->params.max_seconds > 0 && r->o.now() - r->started >= r->params.max_seconds) {
        return "seconds";
    }
    /* spans differ in difficulty, so single losses say nothing: whole windows that no longer fall
     */
    if (window == 0 && done >= 2 * PLATEAU_STEPS && r->window > r->earlier * (1 - PLATEAU_GAIN)) {
        return "plateau";
    }
    return NULL;
}

static tt_code finish_training(tt_qttt_run *r, tt_err *reterr)
{
    tt_code rc = tt_adapter_round(r->o.d, tt_trainer_params(r->trainer), &r->published, reterr);
    if (rc == TT_OK) {
        rc =
            tt_trainer_delta_norm(r->trainer, r->published, &r->result.delta_norm_relative, reterr);
    }
    if (rc == TT_OK) {
        r->result.adapter_bytes = (int64_t)r->published->bytes;
        r->result.kept = r->result.steps_done > 0;
        r->phase = r->probe.exists ? RUN_AFTER : RUN_OVER;
    }
    return rc;
}

static tt_code end_train(tt_qttt_run *r, tt_err *reterr)
{
    int32_t step = r->result.steps_done;
    if (step % PLATEAU_STEPS == 0) {
        r->earlier = r->window;
        r->window = 0;
    }
    bool norm = step % 8 == 7 || step + 1 >= r->params.steps;
    tt_train_report rep;
    tt_code rc = tt_trainer_update(r->trainer, r->o.step, norm, &rep, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    r->result.steps_done++;
    r->result.trained_tokens += r->span_tokens;
    r->result.loss_first = step == 0 ? rep.loss : r->result.loss_first;
    r->result.loss_last = rep.loss;
    r->window += rep.loss;
    r->result.n_dropped += !rep.finite;
    if (r->o.on_step != NULL) {
        r->o.on_step(r->o.arg, step + 1, r->params.steps, r->span_start, r->span_tokens, &rep,
                     r->o.now() - r->step_started);
    }
    if (diverged(r, &rep)) {
        fail_run(r, "diverged");
    }
    return TT_OK;
}

/* ---- the machine ---- */

static void judge(tt_qttt_run *r)
{
    tt_qttt_result *res = &r->result;
    double mean, se;
    tt_probe_compare(r->before.recall, r->after.recall, &mean, &se);
    res->have_recall = true;
    res->recall_segments = TT_PROBE_SEGMENTS;
    res->recall_before = tt_probe_mean(r->before.recall);
    res->recall_after = tt_probe_mean(r->after.recall);
    res->recall_se = se;
    res->span_loss_before = tt_probe_mean(r->before.in_place);
    res->span_loss_after = tt_probe_mean(r->after.in_place);
    if (r->params.guard && !(mean < -2 * se)) {
        res->kept = false;
        res->reason = "guard_discarded";
        tt_adapter_unref(r->o.d, &r->published);
    }
}

static void tell_probe(tt_qttt_run *r, bool after, const tt_probe_result *probe)
{
    if (r->o.on_probe != NULL) {
        r->o.on_probe(r->o.arg, after, probe);
    }
}

/* Mode auto: is there something to gain? */
static void judge_start(tt_qttt_run *r)
{
    if (r->o.min_recall > 0 && tt_probe_mean(r->before.recall) < r->o.min_recall) {
        r->result.have_recall = true;
        r->result.recall_segments = TT_PROBE_SEGMENTS;
        r->result.recall_before = r->result.recall_after = tt_probe_mean(r->before.recall);
        skip(r, "auto_recall_is_low");
    }
}

/* Begins the step of the current phase, or moves on when the phase has none left. */
static tt_code begin(tt_qttt_run *r, tt_err *reterr)
{
    if (r->phase == RUN_TRAIN && r->params.steps == 0) {
        r->result.stop_reason = "steps";
        r->phase = RUN_OVER;
        return TT_OK;
    }
    if (r->phase == RUN_TRAIN &&
        (r->result.stop_reason = budget_spent(r, r->result.steps_done)) != NULL) {
        return r->result.steps_done > 0 ? finish_training(r, reterr) : (r->phase = RUN_OVER, TT_OK);
    }
    tt_code rc = r->phase == RUN_TRAIN ? begin_train(r, reterr) : begin_probe(r, reterr);
    r->begun = rc == TT_OK;
    return rc;
}

static tt_code end(tt_qttt_run *r, tt_err *reterr)
{
    r->begun = false;
    r->result.flops += r->step_flops;
    tt_reread_finish(&r->reread);
    switch (r->phase) {
    case RUN_BEFORE:
        read_probe(r, &r->before);
        r->have_before = true;
        r->phase = RUN_TRAIN;
        tell_probe(r, false, &r->before);
        judge_start(r);
        return TT_OK;
    case RUN_TRAIN:
        return end_train(r, reterr);
    case RUN_AFTER:
        read_probe(r, &r->after);
        tell_probe(r, true, &r->after);
        judge(r);
        r->phase = RUN_OVER;
        return TT_OK;
    case RUN_OVER:
        break;
    }
    return TT_OK;
}

bool tt_qttt_between_steps(const tt_qttt_run *r)
{
    return !r->begun;
}

void tt_qttt_set_pages(tt_qttt_run *r, const int32_t *pages)
{
    assert(!r->begun);
    r->o.pages = pages;
}

void tt_qttt_pause(tt_qttt_run *r)
{
    r->paused_at = r->paused_at > 0 ? r->paused_at : r->o.now();
}

static void unpause(tt_qttt_run *r)
{
    if (r->paused_at > 0) {
        r->started += r->o.now() - r->paused_at;
        r->paused_at = 0;
    }
}

tt_code tt_qttt_advance(tt_qttt_run *r, int32_t max_units, tt_err *reterr)
{
    tt_code rc = TT_OK;
    unpause(r);
    if (r->phase != RUN_OVER && !r->begun) {
        rc = begin(r, reterr);
    }
    if (rc == TT_OK && r->begun) {
        rc = tt_step_run(r->o.step, max_units, reterr);
        if (rc == (tt_code)TT_STEP_MORE) {
            return (tt_code)TT_QTTT_MORE;
        }
        rc = rc == TT_OK ? end(r, reterr) : rc;
    }
    if (rc < 0) { /* the step can be begun again: the run is as it was before it */
        r->begun = false;
        tt_reread_finish(&r->reread);
        return rc;
    }
    return r->phase == RUN_OVER ? TT_OK : (tt_code)TT_QTTT_MORE;
}

void tt_qttt_take(tt_qttt_run *r, tt_qttt_result *ret_result, tt_adapter **ret_adapter)
{
    assert(r->phase == RUN_OVER);
    r->result.adapt_seconds = r->o.now() - r->started;
    r->result.adapter_id = r->published != NULL ? r->published->id : 0;
    r->result.generation = r->published != NULL;
    r->result.kept = r->published != NULL;
    double decode = tt_cost_decode(r->o.d->model, r->o.n_context);
    r->result.equal_cost_tokens = r->result.flops / decode;
    *ret_result = r->result;
    *ret_adapter = r->published;
    r->published = NULL;
}

bool tt_qttt_before(const tt_qttt_run *r, tt_probe_result *ret_before)
{
    if (r->have_before) {
        *ret_before = r->before;
    }
    return r->have_before;
}
