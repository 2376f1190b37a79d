/* inspect_memory.h - `qttt inspect --device ...`: what a model and its sessions take of a device's
 * memory, part by part, and how many sessions fit. Thread: main. */
#ifndef TT_INSPECT_MEMORY_H
#define TT_INSPECT_MEMORY_H

#include <jansson.h>

#include "core/model.h"

typedef struct tt_inspect_options {
    const char *device; /* as model.device; NULL = no table */
    const char *module; /* as model.cuda_module; "" = the installed one */
    int64_t contexts;   /* 0 = 1 */
    int64_t tokens;     /* of each; 0 = the model's context */
    int64_t memory;     /* bytes of a GPU that is not asked; 0 = the device is asked */
} tt_inspect_options;

/* The table as an object, which is what tt_inspect_memory_print() prints. New reference.
 * TT_E_INVALID, TT_E_UNAVAILABLE: the device; TT_E_UNSUPPORTED: it has no kernels for this model;
 * TT_E_NOMEM. */
tt_code tt_inspect_memory(const tt_model *m, const tt_inspect_options *opt, json_t **ret,
                          tt_err *reterr);
void tt_inspect_memory_print(const json_t *table);

#endif
