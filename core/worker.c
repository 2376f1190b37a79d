/* worker.c - opening, sizing and admission, see worker.h. */
#include "core/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory_plan.h"
#include "core/probe.h"
#include "core/qttt.h"
#include "core/sysinfo.h"

#define SCRATCH_PAGES 64 /* private pages of re-read passages, beside the contexts */

enum { MIN_PAGES = 8, MAX_PAGES = 4000000 };

static tt_code list_eog(tt_worker *w, tt_err *reterr)
{
    int32_t n = 0;
    w->eog = malloc((size_t)w->model->n_vocab * sizeof *w->eog);
    if (w->eog == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the vocabulary");
    }
    for (int32_t i = 0; i < w->model->vocab.n_tokens; i++) {
        if (tt_tokenizer_is_eog(w->tokenizer, i)) {
            w->eog[n++] = i;
        }
    }
    w->n_eog = n;
    return TT_OK;
}

/* What the pool gets when the settings leave it open. On the CPU pages for eight full contexts, at
 * most half of what is free: pages that were never used cost nothing. A GPU has no other use for
 * its memory: what the rest of the engine leaves. */
static size_t pool_bytes(const tt_worker *w, const tt_engine_options *opt, size_t page)
{
    size_t free_bytes, total;
    if (tt_device_memory(&w->device, &free_bytes, &total)) {
        tt_memory_plan plan;
        tt_memory_options o = {.kv_type = opt->kv_type,
                               .max_context = w->max_context,
                               .prefill_chunk = w->prefill_chunk,
                               .max_running = opt->max_running,
                               .max_jobs = opt->max_jobs,
                               .adapter_bytes = opt->adapter_cache_bytes};
        tt_memory_plan_make(w->model, &o, true, &plan);
        return tt_memory_plan_pool(&plan, free_bytes);
    }
    int32_t context_pages = (w->max_context + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS;
    size_t half = tt_sys_free_bytes() / 2;
    size_t bytes = page * (size_t)(8 * context_pages + SCRATCH_PAGES);
    return half > 0 && bytes > half ? half : bytes;
}

static void warn_smaller(const tt_engine_options *opt, size_t wanted, size_t got, const tt_err *why)
{
    char text[400];
    snprintf(text, sizeof text, "the K/V pool has %zu MiB of the %zu MiB that it should have: %s",
             got >> 20, wanted >> 20, why->msg);
    if (opt->on_warning != NULL) {
        opt->on_warning(opt->on_warning_arg, text);
    }
}

/* A pool that does not fit into a GPU's memory gets smaller by an eighth until it does. */
static tt_code open_pool(tt_worker *w, const tt_engine_options *opt, tt_err *reterr)
{
    size_t page = tt_kv_page_bytes(w->model, opt->kv_type);
    size_t bytes = opt->kv_bytes > 0 ? opt->kv_bytes : pool_bytes(w, opt, page), n = bytes / page;
    if (n < MIN_PAGES) {
        return tt_fail(reterr, TT_E_CAPACITY,
                       "the K/V pool of %zu MiB holds %zu pages of 64 tokens (%zu KiB each); at "
                       "least %d are needed",
                       bytes >> 20, n, page >> 10, MIN_PAGES);
    }
    n = n > MAX_PAGES ? MAX_PAGES : n;
    size_t wanted = n;
    tt_err err = {0};
    tt_code rc;
    for (;; n -= n / 8 > 0 ? n / 8 : 1) {
        tt_kv_options o = {.type = opt->kv_type, .n_pages = (int32_t)n};
        tt_err why = {0};
        rc = tt_kv_create(&w->device, &o, &w->kv, &why);
        if (rc == TT_OK && n < wanted) {
            warn_smaller(opt, wanted * page, n * page, &err);
        }
        err = why;
        if (rc != TT_E_NOMEM || n <= MIN_PAGES || w->device.choice.cuda == NULL) {
            break;
        }
    }
    return rc == TT_OK ? rc : tt_fail(reterr, rc, "%s", err.msg);
}

/* What is kept for the next training, then adapters that nobody uses now. */
static bool reclaim(void *arg)
{
    tt_worker *w = arg;
    tt_device *d = &w->device;
    bool some = true;
    if (w->spare_step != NULL) {
        tt_step_destroy(&w->spare_step);
    } else if (d->arena != 0 && !d->arena_taken) {
        d->ops.free(d->lane, d->arena);
        d->arena = 0;
        d->arena_bytes = 0;
    } else {
        some = w->adapters != NULL && tt_adapter_cache_reclaim(w->adapters);
    }
    w->totals.device_reclaims += some;
    return some;
}

bool tt_worker_reclaim(tt_worker *w)
{
    bool any = false;
    while (reclaim(w)) {
        any = true;
    }
    return any;
}

/* A model that the GPU has no kernels for runs on the CPU, unless somebody insists. */
static tt_code open_device(tt_worker *w, const tt_engine_options *opt, tt_err *reterr)
{
    const tt_model *m = w->model;
    int32_t dim = m->n_heads * m->head_dim;
    dim = dim > m->hidden ? dim : m->hidden;
    tt_lane_options lane = {.n_threads = w->n_threads,
                            .max_rows = w->prefill_chunk,
                            .max_dim = dim > m->ffn ? dim : m->ffn};
    tt_device_choice c = {
        .isa_mask = opt->isa_mask, .cuda = opt->cuda, .ordinal = opt->cuda_device};
    tt_err err;
    if (opt->cuda_optional && tt_device_check(&c, w->model, &err) == TT_E_UNSUPPORTED) {
        c = (tt_device_choice){.isa_mask = TT_ISA_ALL};
        if (opt->on_warning != NULL) {
            opt->on_warning(opt->on_warning_arg, err.msg);
        }
    }
    tt_code rc = tt_device_open(&w->device, w->model, &c, &lane, reterr);
    if (rc == TT_OK) {
        w->device.reclaim = reclaim;
        w->device.reclaim_arg = w;
        snprintf(w->device_name, sizeof w->device_name, "cpu");
        if (c.cuda != NULL) {
            snprintf(w->device_name, sizeof w->device_name, "cuda:%d", (int)c.ordinal);
        }
    }
    return rc;
}

tt_code tt_worker_open(tt_worker *w, const tt_engine_options *opt, tt_err *reterr)
{
    *w = (tt_worker){.caps = opt->caps,
                     .auto_rule = opt->auto_rule,
                     .prefill_chunk = opt->prefill_chunk > 0 ? opt->prefill_chunk : 512,
                     .max_draft = opt->max_draft == 0  ? TT_DRAFT_MAX
                                  : opt->max_draft < 0 ? 0
                                                       : opt->max_draft,
                     .row_cost = opt->row_cost};
    tt_auto_rule *a = &w->auto_rule;
    a->min_tokens = a->min_tokens > 0 ? a->min_tokens : 2048;
    a->min_recall = a->min_recall > 0 ? a->min_recall : 0.1;
    a->max_load = a->max_load > 0 ? a->max_load : 4;
    tt_code rc = tt_model_open(opt->model_path, &w->model, reterr);
    if (rc == TT_OK) {
        rc = tt_tokenizer_create(&w->model->vocab, &w->tokenizer, reterr);
    }
    if (rc == TT_OK) {
        rc = list_eog(w, reterr);
    }
    if (rc == TT_OK) {
        w->n_threads = opt->n_threads > 0 ? opt->n_threads : tt_sys_cpus();
        tt_tokenizer_set_threads(w->tokenizer, w->n_threads);
        rc = open_device(w, opt, reterr);
    }
    if (rc == TT_OK) {
        bool bounded = opt->max_context > 0 && opt->max_context < w->model->n_ctx_train;
        w->max_context = bounded ? opt->max_context : w->model->n_ctx_train;
        rc = open_pool(w, opt, reterr);
    }
    if (rc == TT_OK) {
        rc = tt_step_create(&w->device, w->kv, &w->step, reterr);
    }
    if (rc == TT_OK) {
        rc = tt_step_create(&w->device, w->kv, &w->decode_step, reterr);
    }
    if (rc == TT_OK) {
        rc = tt_adapter_cache_create(&w->device, opt->adapter_cache_bytes, &w->adapters, reterr);
    }
    if (rc != TT_OK) {
        tt_worker_close(w);
    }
    return rc;
}

void tt_worker_close(tt_worker *w)
{
    if (w->device.lane != NULL) {
        tt_adapter_cache_destroy(&w->adapters);
        tt_step_destroy(&w->step);
        tt_step_destroy(&w->decode_step);
        tt_step_destroy(&w->spare_step);
        tt_kv_destroy(&w->kv);
    }
    tt_device_close(&w->device);
    tt_tokenizer_destroy(&w->tokenizer);
    if (w->model != NULL) {
        tt_model_close(&w->model);
    }
    free(w->eog);
    *w = (tt_worker){0};
}

static tt_code check_ids(const tt_worker *w, const tt_job_params *p, tt_err *reterr)
{
    for (int32_t i = 0; i < p->n_prompt; i++) {
        if (p->prompt[i] < 0 || p->prompt[i] >= w->model->n_vocab) {
            return tt_fail(reterr, TT_E_INVALID,
                           "prompt token %d is %d; the vocabulary has ids 0 to %d", i, p->prompt[i],
                           w->model->n_vocab - 1);
        }
    }
    for (int32_t i = 0; i < p->n_stop_ids; i++) {
        if (p->stop_ids[i] < 0 || p->stop_ids[i] >= w->model->n_vocab) {
            return tt_fail(reterr, TT_E_INVALID,
                           "stop_token_ids names token %d; the vocabulary has ids 0 to %d",
                           p->stop_ids[i], w->model->n_vocab - 1);
        }
    }
    for (int32_t i = 0; i < p->sampling.n_bias; i++) {
        int32_t id = p->sampling.bias[i].id;
        if (id < 0 || id >= w->model->n_vocab) {
            return tt_fail(reterr, TT_E_INVALID,
                           "logit_bias names token %d; the vocabulary has ids 0 to %d", id,
                           w->model->n_vocab - 1);
        }
    }
    return TT_OK;
}

static tt_code check_qttt(const tt_worker *w, const tt_qttt_params *p, tt_err *reterr)
{
    const tt_qttt_caps *c = &w->caps;
    if (p->steps > c->max_steps) {
        return tt_fail(reterr, TT_E_INVALID, "qttt.steps must be 0 to %d", c->max_steps);
    }
    if (p->span_tokens > c->max_span_tokens) {
        return tt_fail(reterr, TT_E_INVALID, "qttt.span_tokens must be 1 to %d",
                       c->max_span_tokens);
    }
    if (p->lora && p->rank > c->max_rank) {
        return tt_fail(reterr, TT_E_INVALID, "qttt.rank must be 1 to %d", c->max_rank);
    }
    if (p->learning_rate > c->max_learning_rate) {
        return tt_fail(reterr, TT_E_INVALID, "qttt.learning_rate must be 0 to %g",
                       c->max_learning_rate);
    }
    if (p->sgd && p->learning_rate < 0) {
        return tt_fail(reterr, TT_E_INVALID,
                       "qttt.learning_rate is required with the sgd optimizer");
    }
    for (int32_t i = w->model->n_layers; i < 256; i++) {
        if (p->layers[i / 8] >> (i % 8) & 1) {
            return tt_fail(reterr, TT_E_INVALID,
                           "qttt.layers names layer %d; the model has layers 0 to %d", i,
                           w->model->n_layers - 1);
        }
    }
    return TT_OK;
}

static tt_code check_needle(const tt_job_params *p, tt_err *reterr)
{
    const tt_diagnose_params *d = &p->diagnose;
    if (d->needle_start < 0 || d->needle_start >= d->needle_end || d->needle_end > p->n_prompt) {
        return tt_fail(reterr, TT_E_INVALID,
                       "the needle [%d, %d) is no range of the prompt's %d tokens", d->needle_start,
                       d->needle_end, p->n_prompt);
    }
    if (!(d->delta >= 0) || !(d->epsilon > 0 && d->epsilon < 1)) {
        return tt_fail(reterr, TT_E_INVALID, "delta must be 0 or more, epsilon between 0 and 1");
    }
    return TT_OK;
}

int32_t tt_worker_scratch(const tt_job_params *p)
{
    if (p->qttt.mode == TT_QTTT_OFF) {
        return 0;
    }
    tt_qttt_params q = p->qttt;
    tt_qttt_resolve(&q);
    int32_t passages = q.objective == TT_RECALL ? q.span_tokens / TT_PASSAGE_TOKENS + 1 : 0;
    bool probe = q.context_tokens >= TT_PROBE_MIN_CONTEXT;
    return 2 * ((probe ? TT_PROBE_SEGMENTS : 0) + passages);
}

int32_t tt_worker_pages(const tt_job_params *p)
{
    int64_t n = p->n_prompt + (p->max_tokens > 0 ? (int64_t)p->max_tokens : 0);
    return (int32_t)((n + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS + tt_worker_scratch(p));
}

size_t tt_worker_adapter_bytes(const tt_worker *w, const tt_qttt_params *p)
{
    int64_t n[2], n_layers = 0;
    for (int i = 0; i < 256; i++) {
        n_layers += p->layers[i / 8] >> (i % 8) & 1;
    }
    n_layers = n_layers == 0 ? w->model->n_layers : n_layers;
    tt_adapter_sizes(w->model, p->lora ? TT_ADAPTER_LORA : TT_ADAPTER_FULL,
                     p->rank > 0 ? p->rank : 8, n);
    return (size_t)n_layers * (size_t)(n[0] + n[1]) * sizeof(uint16_t);
}

size_t tt_worker_training_bytes(const tt_worker *w, const tt_qttt_params *p)
{
    tt_qttt_params r = *p;
    tt_qttt_resolve(&r);
    int32_t rows = r.span_tokens > TT_PASSAGE_TOKENS ? r.span_tokens : TT_PASSAGE_TOKENS;
    return tt_trainer_bytes(w->model, &r) + tt_step_bytes(w->model, rows, true);
}

tt_code tt_worker_check(const tt_worker *w, const tt_job_params *p, tt_err *reterr)
{
    if (p->n_prompt < 1) {
        return tt_fail(reterr, TT_E_INVALID, "the prompt is empty");
    }
    int64_t want = p->n_prompt + (p->max_tokens > 0 ? (int64_t)p->max_tokens : 0);
    bool generates = p->kind == TT_JOB_GENERATE;
    if (p->n_prompt > w->max_context || want > w->max_context ||
        (generates && p->max_tokens < 0 && p->n_prompt >= w->max_context)) {
        return tt_fail(
            reterr, TT_E_CONTEXT_LENGTH,
            "the context is %d tokens; the request needs %lld (%d of the prompt, %d to generate)",
            w->max_context, (long long)want, p->n_prompt, p->max_tokens > 0 ? p->max_tokens : 1);
    }
    int64_t pages = tt_worker_pages(p);
    if (pages > tt_kv_total(w->kv)) {
        return tt_fail(reterr,
                       TT_E_CONTEXT_LENGTH, /* not TT_E_CAPACITY: trying again would never help */
                       "the request needs %lld K/V pages of 64 tokens, the pool has %d (setting "
                       "model.kv_size)",
                       (long long)pages, tt_kv_total(w->kv));
    }
    if (p->qttt.context_tokens < 0 ||
        (p->qttt.mode != TT_QTTT_OFF && p->qttt.context_tokens > p->n_prompt)) {
        return tt_fail(reterr, TT_E_INVALID, "a context of %d tokens in a prompt of %d",
                       p->qttt.context_tokens, p->n_prompt);
    }
    tt_code rc = check_ids(w, p, reterr);
    rc = rc == TT_OK && p->kind == TT_JOB_DIAGNOSE ? check_needle(p, reterr) : rc;
    return rc == TT_OK && p->qttt.mode != TT_QTTT_OFF ? check_qttt(w, &p->qttt, reterr) : rc;
}
