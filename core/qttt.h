/* qttt.h - query-only test-time training of one context, as a resumable run: probe, N steps, probe,
 * guard. The context's K/V are read only. Source: arXiv:2512.13898 and docs/qttt.md. Thread: engine
 * only. */
#ifndef TT_QTTT_H
#define TT_QTTT_H

#include "core/engine.h"
#include "core/forward.h"
#include "core/probe.h"
#include "core/trainer.h"

#define TT_QTTT_MIN_CONTEXT 17 /* fewer tokens: no adaptation */

typedef struct tt_qttt_run tt_qttt_run;

typedef struct tt_qttt_options {
    tt_device *d;
    tt_kv_pool *kv;
    tt_step *step;      /* borrowed, used by nobody else while the run lives */
    const int32_t *ids; /* the context's tokens, borrowed while the run lives */
    int32_t n_context;
    const int32_t *pages;          /* its pages, referenced by the caller while a step is under way;
                                      tt_qttt_set_pages() replaces them between steps */
    const tt_qttt_params *params;  /* resolved; copied */
    const tt_qttt_caps *caps;      /* copied */
    const tt_probe_result *before; /* the context's probe under the base, if known; copied */
    const tt_adapter
        *start; /* training goes on from this published adapter (same kind, rank and
                   layers: tt_qttt_can_start()); borrowed for the call; NULL = the base */
    double
        min_recall; /* mode auto: a context with a smaller recall loss is not trained on; 0 = any */
    double (*now)(void); /* monotonic seconds; tests set a fake one */
    /* Called after each optimiser step; may be NULL. */
    void (*on_step)(void *arg, int32_t step, int32_t total, int32_t span_start, int32_t span_tokens,
                    const tt_train_report *report, double seconds);
    /* Called after each probe that was taken; may be NULL. */
    void (*on_probe)(void *arg, bool after, const tt_probe_result *probe);
    void *arg;
} tt_qttt_options;

enum { TT_QTTT_MORE = 1 };

/* xxh3 of the token ids: what spans, probe and cache keys hang on. */
uint64_t tt_context_hash(const int32_t *ids, int32_t n);

/* TT_E_CAPACITY, TT_E_NOMEM: nothing was started. */
tt_code tt_qttt_create(const tt_qttt_options *opt, tt_qttt_run **ret_run, tt_err *reterr);
void tt_qttt_destroy(tt_qttt_run **run);

/* Runs at most max_units units of the current step (forward.h). TT_QTTT_MORE: call again. TT_OK:
 * the run is over and the result is ready. A failure of training (diverged, non-finite) is a result
 * with status "failed", not an error code; an error code means the device or memory. */
tt_code tt_qttt_advance(tt_qttt_run *run, int32_t max_units, tt_err *reterr);

/* No step is under way: the context's pages may be given back, until the next tt_qttt_advance(),
 * and come back elsewhere. */
bool tt_qttt_between_steps(const tt_qttt_run *run);
void tt_qttt_set_pages(tt_qttt_run *run, const int32_t *pages);
/* Seconds do not count while it is paused; resumed by the next advance. */
void tt_qttt_pause(tt_qttt_run *run);

/* Whether training with params may start from `a`. */
bool tt_qttt_can_start(const tt_model *m, const tt_qttt_params *params, const tt_adapter *a);

/* After TT_OK. The result's strings are static. *ret_adapter: transferred, NULL when nothing is
 * kept. */
void tt_qttt_take(tt_qttt_run *run, tt_qttt_result *ret_result, tt_adapter **ret_adapter);
/* The probe under the base (for other adaptations of the same context); false when there is none.
 */
bool tt_qttt_before(const tt_qttt_run *run, tt_probe_result *ret_before);

/* The span of step i (0-based) as drawn: start and length, for tests. Next-token objective only. */
void tt_qttt_span(const tt_qttt_params *params, const int32_t *ids, int32_t n_context, int32_t i,
                  int32_t *ret_start, int32_t *ret_n);

#endif
