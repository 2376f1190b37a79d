/* memory_plan.h - what a model takes of a device's memory, part by part: the one sum by which the
 * K/V pool is sized and `qttt inspect --device cuda` prints its table. Thread: pure functions. */
#ifndef TT_MEMORY_PLAN_H
#define TT_MEMORY_PLAN_H

#include "core/job.h"
#include "core/model.h"

typedef struct tt_memory_options {
    tt_dtype kv_type;
    int32_t max_context;   /* tokens of one sequence, 0 = the model's */
    int32_t prefill_chunk; /* rows, 0 = 512 */
    int32_t max_running;   /* rows of a decode step, 0 = 32 */
    int32_t max_jobs;      /* trainings at a time, 0 = 1 */
    size_t adapter_bytes;  /* all adapters in memory together */
    bool lora;             /* trainings are of LoRA adapters with the default rank */
} tt_memory_options;

/* All in bytes. */
typedef struct tt_memory_plan {
    size_t weights;      /* as in the file */
    size_t steps;        /* activations of a prefill step and of a decode step, their logits */
    size_t scratch;      /* of CUDA operations; none on the CPU, where it is small */
    size_t adapters;     /* the budget */
    size_t training;     /* of max_jobs trainings with default spans: optimiser and activations */
    size_t runtime;      /* of driver and libraries, before anything else; an estimate */
    size_t margin;       /* left alone: what allocations lose at their ends */
    size_t page;         /* one K/V page of 64 tokens, all layers */
    size_t context;      /* K/V pages of one context of max_context tokens */
    size_t adapter;      /* one adapter as it is published (BF16) */
    size_t one_training; /* optimiser and activations of one */
} tt_memory_plan;

/* cuda: with the scratch and the runtime of a GPU. */
void tt_memory_plan_make(const tt_model *m, const tt_memory_options *opt, bool cuda,
                         tt_memory_plan *ret_plan);

/* Of the default parameters: one adapter as it is published (BF16), and the state of the optimiser
 * that makes it. */
size_t tt_memory_plan_adapter(const tt_model *m, bool lora);
size_t tt_memory_plan_optimiser(const tt_model *m, bool lora);

/* Everything but the K/V pool; `loaded`: what weights and runtime take is taken already. */
size_t tt_memory_plan_fixed(const tt_memory_plan *plan, bool loaded);

/* Bytes for the K/V pool in `free_bytes` of a device whose weights are loaded: what the rest
 * leaves, but at least half of it, since trainings can wait and a server without K/V cannot serve.
 */
size_t tt_memory_plan_pool(const tt_memory_plan *plan, size_t free_bytes);

#endif
