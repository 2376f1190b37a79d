/* trainer.h - the state of one running adaptation on the device: parameters, gradient, Adam moments
 * (all FP32), and the optimiser step. Thread: engine only. Source: docs/qttt.md section 1; AdamW as
 * torch.optim.AdamW, SGD as torch.optim.SGD. */
#ifndef TT_TRAINER_H
#define TT_TRAINER_H

#include "core/forward.h"
#include "core/job.h"

typedef struct tt_trainer tt_trainer;

/* params: resolved; borrowed for the call. FULL: D = 0. LoRA: A ~ N(0, 1 / hidden) from the stream
 * (seed, context_hash), B = 0. */
tt_code tt_trainer_create(tt_device *d, const tt_qttt_params *params, uint64_t context_hash,
                          tt_trainer **ret_trainer, tt_err *reterr);
void tt_trainer_destroy(tt_trainer **t);
/* Device memory of a trainer: parameters, gradient and moments, and the optimiser's small state. */
size_t tt_trainer_bytes(const tt_model *m, const tt_qttt_params *params);

/* The trainee and where its gradient goes: the options of a training step. */
const tt_adapter *tt_trainer_params(const tt_trainer *t);
const tt_adapter *tt_trainer_grads(const tt_trainer *t);

typedef struct tt_train_report {
    double loss, grad_norm;
    bool finite; /* false: nothing was updated */
    double
        delta_norm; /* largest |D| / |W_Q| over the trained layers, when it was asked for; else 0 */
} tt_train_report;

/* The update after a training step that has run through. Synchronises. want_norm: also measure the
 * delta. */
tt_code tt_trainer_update(tt_trainer *t, const tt_step *step, bool want_norm,
                          tt_train_report *ret_report, tt_err *reterr);

/* Largest |delta| / |W_Q| over the layers that `a` adapts. Synchronises. */
tt_code tt_trainer_delta_norm(tt_trainer *t, const tt_adapter *a, double *ret_norm, tt_err *reterr);

/* Before the first update: the parameters become those of a published adapter of the same shape
 * (BF16 to FP32, exact). Synchronises. TT_E_NOMEM. */
tt_code tt_trainer_start_from(tt_trainer *t, const tt_adapter *a, tt_err *reterr);

/* Sets the parameters (tests): FULL d [NQ, H] or LoRA a, b of one layer, f32 on the host. */
void tt_trainer_set(tt_trainer *t, int32_t layer, const float *d_or_a, const float *b);

#endif
