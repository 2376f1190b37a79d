/* model_summary.h - what is derived from a whole model: its counts and its fingerprint. Private to
 * the loaders. Thread: one at a time per model. */
#ifndef TT_MODEL_SUMMARY_H
#define TT_MODEL_SUMMARY_H

#include "core/model.h"

/* Sets m->n_params, weight_bytes, quant and fingerprint from the tensors that the model uses. */
void tt_model_summarise(tt_model *m);

#endif
