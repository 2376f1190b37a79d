/* forward.h - one forward pass for everything, in resumable steps. A step is a list of segments:
 * rows of sequences at consecutive positions. A prefill chunk, a decode row and a training span are
 * the same code with different wants. The backward pass of a training step is part of the step
 * (backward.c). Thread: engine only.
 *
 * Life of a step: tt_step_begin(), tt_step_run() until it returns TT_OK, then the results, then
 * tt_step_begin() again. */
#ifndef TT_FORWARD_H
#define TT_FORWARD_H

#include "core/adapter.h"
#include "core/kv.h"

typedef enum tt_want {
    TT_WANT_NONE, /* only K/V: prefill */
    TT_WANT_LAST, /* logits of the last rows, on the host */
    TT_WANT_ALL,  /* the final hidden rows stay, tt_step_logits_block() makes logits of any of them
                   */
    TT_WANT_LOSS  /* per-row loss against targets */
} tt_want;

/* A token to be drawn from the logits of one of a segment's last rows, on the device. */
typedef struct tt_draw_order {
    tt_draw draw;                   /* row, adjust0 and banned0 are the step's to fill in */
    const tt_logit_adjust *adjusts; /* [draw.n_adjust], borrowed like the segment's arrays */
    const int32_t *banned;          /* [draw.n_banned] */
} tt_draw_order;

typedef struct tt_segment {
    const int32_t *ids;   /* [n_rows], within the vocabulary */
    int32_t n_rows, pos0; /* positions pos0 .. pos0 + n_rows - 1 */
    const int32_t *pages; /* [ceil((pos0 + n_rows) / 64)] of the pool */
    bool store; /* K/V of the rows are written (the sequence owns the pages they fall in); false:
                   they are there */
    const tt_adapter *adapter; /* NULL = base; borrowed until the step is over */
    tt_want want;
    const int32_t *targets;    /* LOSS: [n_rows], -1 = no loss */
    int32_t n_last;            /* how many rows at its end LAST and draw speak of, 0 = 1 */
    const tt_draw_order *draw; /* [n_last], NULL = no tokens; not with LOSS */
} tt_segment;

typedef struct tt_step_options {
    tt_family family;
    /* Training: activations are kept and the backward pass runs: dL/dW of the query projections for
     * `trainee`, L = the mean of the row losses over all targets of the step. Every segment must
     * use trainee as its adapter and want LOSS. */
    const tt_adapter *trainee; /* TT_F32, or NULL */
    const tt_adapter *grads;   /* same shape: receives the gradient; overwritten */
} tt_step_options;

enum { TT_STEP_MORE = 1 }; /* outcome of tt_step_run: units are left */

typedef struct tt_step tt_step;

tt_code tt_step_create(tt_device *d, tt_kv_pool *kv, tt_step **ret_step, tt_err *reterr);
void tt_step_destroy(tt_step **step);

/* Copies what it needs of segs (their arrays and draws are read before it returns) and uploads the
 * descriptors. Grows the workspace. */
tt_code tt_step_begin(tt_step *s, const tt_segment *segs, int32_t n_segs,
                      const tt_step_options *opt, tt_err *reterr);
/* Runs at most max_units units; a unit is one layer forward or backward, or one block of head
 * columns. Synchronises the lane once, before it returns; a caller that polls for cancellation
 * chooses small max_units. Returns TT_OK when the step is complete, TT_STEP_MORE when units are
 * left. */
tt_code tt_step_run(tt_step *s, int32_t max_units, tt_err *reterr);
/* Units that the begun step has in all, and how many are done. */
int32_t tt_step_units(const tt_step *s, int32_t *ret_done);

/* Logits [V] of the i-th row whose segment wants LAST, in the order of the rows; valid until the
 * next begin. */
const float *tt_step_logits(const tt_step *s, int32_t i);
/* The token drawn from the i-th row that has a draw, likewise. */
int32_t tt_step_token(const tt_step *s, int32_t i);
/* Logits [n, V] of rows [row0, row0 + n) of the step (WANT_ALL; n <= 64); valid until the next
 * call. */
tt_code tt_step_logits_block(tt_step *s, int32_t row0, int32_t n, const float **ret_logits,
                             tt_err *reterr);
/* q [n_rows, NQ] after RoPE of the layer that ran last, of a step without a trainee between two
 * tt_step_run() or after the last. */
tt_dev tt_step_queries(const tt_step *s);
/* Loss of every row of the step, nats; 0 where there is no target. [n_rows of the step]. */
const float *tt_step_losses(const tt_step *s);
/* Device addresses for the optimiser: row losses and weights (1 / number of targets, 0 without). */
void tt_step_loss_dev(const tt_step *s, tt_dev *ret_loss, tt_dev *ret_weight, int32_t *ret_rows);

/* Bytes of workspace that a step of this size takes on the device. */
size_t tt_step_bytes(const tt_model *m, int32_t n_rows, bool train);

#endif
