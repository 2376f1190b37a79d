/* worker.h - what the engine's thread works with: model, device, pages, workspaces, adapters.
 * Thread: engine only, but for tt_worker_check(). */
#ifndef TT_WORKER_H
#define TT_WORKER_H

#include "core/adapter_cache.h"
#include "core/draft.h"
#include "core/engine.h"
#include "core/forward.h"
#include "core/kv.h"
#include "core/page_store.h"

typedef struct tt_worker {
    tt_model *model;            /* owned */
    tt_tokenizer *tokenizer;    /* owned */
    tt_device device;           /* owned */
    tt_kv_pool *kv;             /* owned */
    tt_step *step;              /* owned: prefill, one piece at a time */
    struct tt_task *step_owner; /* whose piece has begun in `step`, or NULL */
    tt_step *decode_step;       /* owned */
    tt_step *spare_step;        /* owned: a training's that is over; NULL while one runs */
    tt_adapter_cache *adapters; /* owned */
    tt_page_store *store;       /* owned: pages on disk; NULL = none */
    int n_threads;
    char device_name[20]; /* "cpu", "cuda:0" */
    int32_t max_context, prefill_chunk;
    int32_t max_draft;      /* tokens of a draft; 0 = none are made */
    tt_step_cost step_cost; /* of decode steps */
    double row_cost;        /* in place of it; 0 = measured */
    tt_qttt_caps caps;
    tt_auto_rule auto_rule;
    int32_t *eog; /* owned: ids that end a generation, rising */
    int32_t n_eog;
    tt_engine_stats totals; /* counters only; engine.c adds the rest */
} tt_worker;

/* Loads the model and sizes the pools. On failure *w is closed again. */
tt_code tt_worker_open(tt_worker *w, const tt_engine_options *opt, tt_err *reterr);
/* Legal on a zeroed worker. */
void tt_worker_close(tt_worker *w);

/* Gives up what is kept in device memory for later only: adapters that nobody uses, a training's
 * arena. False: there was nothing. */
bool tt_worker_reclaim(tt_worker *w);

/* Could this request ever run here? Ids, context length, pool size, caps. */
tt_code tt_worker_check(const tt_worker *w, const tt_job_params *p, tt_err *reterr);

/* Pages that a request of so many tokens can come to need, with a training's scratch; the scratch
 * alone, which re-read passages take. */
int32_t tt_worker_pages(const tt_job_params *p);
int32_t tt_worker_scratch(const tt_job_params *p);

/* Device memory that training with these parameters takes while it runs: the optimiser's arena and
 * the workspace of its steps. Any thread. */
size_t tt_worker_training_bytes(const tt_worker *w, const tt_qttt_params *p);

/* Bytes of the adapter that training with these parameters publishes. */
size_t tt_worker_adapter_bytes(const tt_worker *w, const tt_qttt_params *p);

#endif
