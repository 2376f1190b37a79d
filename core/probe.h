/* probe.h - the recall probe of a context: where it looks, what it measures, and the guard's rule.
 * Ten segments of 48 tokens, one in each tenth of the context, drawn from the context's hash alone.
 * Each is read twice: in place (held-out span loss, reported) and again after the context's end,
 * where the only way to predict it is to find it in the context (recall, decides). Source:
 * docs/qttt.md section 3. Thread: engine only. */
#ifndef TT_PROBE_H
#define TT_PROBE_H

#include "core/forward.h"
#include "core/seq.h"

#define TT_PROBE_SEGMENTS 10
#define TT_PASSAGE_TOKENS 48
#define TT_PASSAGE_CUE 16         /* tokens of a passage that are given, not scored */
#define TT_PROBE_MIN_CONTEXT 1024 /* below: no probe */

typedef struct tt_probe {
    int32_t n_context;
    bool exists;                      /* n_context >= TT_PROBE_MIN_CONTEXT */
    int32_t start[TT_PROBE_SEGMENTS]; /* first token of each segment, rising */
} tt_probe;

typedef struct tt_probe_result {
    double recall[TT_PROBE_SEGMENTS],
        in_place[TT_PROBE_SEGMENTS]; /* mean loss of the 32 targets, nats */
} tt_probe_result;

void tt_probe_make(tt_probe *p, uint64_t context_hash, int32_t n_context);
/* Is token `pos` part of a segment (and so never a training target)? */
bool tt_probe_masks(const tt_probe *p, int32_t pos);

double tt_probe_mean(const double v[TT_PROBE_SEGMENTS]);
/* Mean and standard error of after - before; the guard keeps an adapter only if *ret_mean < -2 *
 * *ret_se. */
void tt_probe_compare(const double before[TT_PROBE_SEGMENTS], const double after[TT_PROBE_SEGMENTS],
                      double *ret_mean, double *ret_se);

/* Passages re-read after the end of a context: the rows, private pages and segments of a step. The
 * context's last partial page is copied, so that the context is never written. */
typedef struct tt_reread {
    tt_kv_pool *kv;
    int32_t n_passages, n_context, n_shared, pages_each; /* shared: full context pages */
    int32_t *pages;   /* owned [n_passages][n_shared + private] */
    int32_t *targets; /* owned [n_passages][47] */
} tt_reread;

/* Takes the private pages. context_pages [ceil(n_context / 64)]. TT_E_CAPACITY when the pool has
 * too few. */
tt_code tt_reread_init(tt_reread *r, tt_kv_pool *kv, const int32_t *context_pages,
                       int32_t n_context, int32_t n_passages, tt_err *reterr);
void tt_reread_finish(tt_reread *r);
/* The segment that re-reads ids[start .. start + 48) as passage i: 47 rows at positions n_context
 * ..; targets are the tokens after the cue that `mask` (NULL = none) does not hold. Returns the
 * number of targets. ids borrowed as by tt_segment. */
int32_t tt_reread_segment(tt_reread *r, int32_t i, const int32_t *ids, int32_t start,
                          const tt_probe *mask, const tt_adapter *adapter, tt_segment *ret_seg);

#endif
