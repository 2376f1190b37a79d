/* cost.h - what rows, steps and an adaptation cost in floating-point operations (a multiply-add
 * counts two): every product and every pass of attention over its keys, to the operation. Left out
 * is what grows with neither weights times rows nor keys times rows: norms, RoPE, softmax, the
 * activation, sampling, the optimiser. The formulas are those of docs/qttt.md, "Cost";
 * tests/unit/test_cost_counted.c holds them against what the engine does. Thread: pure functions.
 */
#ifndef TT_COST_H
#define TT_COST_H

#include "core/adapter.h"
#include "core/model.h"

/* Rows of one sequence at positions pos0 .. pos0 + n_rows - 1, as a segment of a step
 * (core/forward.h). */
typedef struct tt_cost_rows {
    int32_t pos0, n_rows;
    bool kv;          /* the step makes K and V (for all of its rows: any segment stores) */
    bool headless;    /* no row of the step wants logits or losses: of the last layer only K and V
                         are made */
    int32_t n_logits; /* rows that go through the head */
    const tt_adapter *adapter; /* NULL = base */
} tt_cost_rows;

/* The forward pass. */
double tt_cost_forward(const tt_model *m, const tt_cost_rows *r);
/* The backward pass of a training step's rows, all of which have a loss; r->adapter is trained.
 * Recomputed logits and scores included. */
double tt_cost_backward(const tt_model *m, const tt_cost_rows *r);
/* Decoding one token at position `depth` under the base. */
double tt_cost_decode(const tt_model *m, int32_t depth);

#endif
