/* worker.h - what the engine's thread owns and how it runs one request: prefill, adaptation, the
 * question, decoding. Thread: engine only. */
#ifndef TT_WORKER_H
#define TT_WORKER_H

#include "core/adapter_cache.h"
#include "core/engine.h"
#include "core/forward.h"
#include "core/kv.h"

typedef struct tt_worker {
    tt_model *model;            /* owned */
    tt_tokenizer *tokenizer;    /* owned */
    tt_device device;           /* owned */
    tt_kv_pool *kv;             /* owned */
    tt_step *step;              /* owned */
    tt_adapter_cache *adapters; /* owned */
    int32_t max_context, prefill_chunk;
    tt_qttt_caps caps;
    int32_t *eog; /* owned: ids that end a generation, rising */
    int32_t n_eog;
    /* Called after every few layers: tells the watchdog that work moves on and publishes counters.
     */
    void (*progress)(void *arg);
    void *progress_arg;
    tt_engine_stats totals; /* counters only; engine.c adds the rest */
} tt_worker;

/* Loads the model and sizes the pools. On failure *w is closed again. */
tt_code tt_worker_open(tt_worker *w, const tt_engine_options *opt, tt_err *reterr);
/* Legal on a zeroed worker. */
void tt_worker_close(tt_worker *w);

/* Could this request ever run here? Ids, context length, pool size, caps. */
tt_code tt_worker_check(const tt_worker *w, const tt_job_params *p, tt_err *reterr);

/* Runs the job to its end and pushes every event but the last. Fills *ret_last (type, u, owned)
 * with TT_EV_DONE or TT_EV_ERROR; returns the error's code or TT_OK. */
tt_code tt_worker_run(tt_worker *w, tt_job *job, double queue_seconds, tt_event *ret_last);

#endif
