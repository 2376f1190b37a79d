/* cost.h - what a row, a step and an adaptation cost in floating-point operations (a multiply-add
 * counts two). The formulas are those of docs/qttt.md, "Cost". Thread: pure functions. */
#ifndef TT_COST_H
#define TT_COST_H

#include "core/job.h"
#include "core/model.h"

/* One row at position `pos` (it sees min(pos + 1, window) keys per layer): products and attention;
 * `kv` with the K/V products, `head` with the vocabulary product. */
double tt_cost_row(const tt_model *m, int32_t pos, bool kv, bool head);
/* Forward and backward of one training row whose gradient goes down to first_layer; recomputed
 * scores and logits included. */
double tt_cost_train_row(const tt_model *m, int32_t pos, bool kv, int32_t first_layer,
                         int32_t lora_rank);
/* Decoding one token at this depth. */
double tt_cost_decode(const tt_model *m, int32_t depth);

#endif
