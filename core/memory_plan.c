/* memory_plan.c - see memory_plan.h. The scratch of CUDA operations follows the formulas of
 * docs/cuda.md ("Products", "Attention", "Loss and optimiser"): core knows no file of kernels/cuda.
 */
#include "core/memory_plan.h"

#include "core/draft.h"
#include "core/forward.h"
#include "core/kv.h"
#include "core/qttt.h"
#include "core/step_priv.h"

#define MIB ((size_t)1 << 20)

enum {
    PASS_ROWS = 512,   /* of a product by cuBLAS */
    SPLIT_TOKENS = 256 /* keys of one split of a decoded row's attention */
};
#define PANEL_BYTES (64 * MIB)
#define RUNTIME_BYTES (600 * MIB) /* context, code of kernels and of cuBLAS, its workspace */
#define MARGIN_BYTES (128 * MIB)

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t or_else(int32_t value, int32_t otherwise)
{
    return (size_t)(value > 0 ? value : otherwise);
}

/* Operations run one after the other and share their scratch by kind. */
static size_t scratch_bytes(const tt_model *m, size_t rows, size_t running, size_t context)
{
    size_t hidden = (size_t)m->hidden, nq = (size_t)m->n_heads * (size_t)m->head_dim;
    size_t dim = largest(largest(hidden, (size_t)m->ffn), nq);
    size_t products = PANEL_BYTES + 2 * rows * dim * 2 + PASS_ROWS * dim * 4;
    size_t splits = (context + SPLIT_TOKENS - 1) / SPLIT_TOKENS;
    size_t attention = running * splits * (size_t)m->n_heads * ((size_t)m->head_dim + 2) * 4;
    size_t head = TT_HEAD_BLOCK * hidden * 2 + PASS_ROWS * (TT_HEAD_BLOCK * 6 + hidden * 2);
    return products + attention + head;
}

static tt_qttt_params defaults_of(bool lora)
{
    tt_qttt_params p;
    tt_qttt_defaults(&p);
    p.lora = lora;
    tt_qttt_resolve(&p);
    return p;
}

size_t tt_memory_plan_optimiser(const tt_model *m, bool lora)
{
    tt_qttt_params p = defaults_of(lora);
    return tt_trainer_bytes(m, &p);
}

size_t tt_memory_plan_adapter(const tt_model *m, bool lora)
{
    tt_adapter_shape shape = {.kind = lora ? TT_ADAPTER_LORA : TT_ADAPTER_FULL,
                              .type = TT_BF16,
                              .rank = defaults_of(lora).rank};
    return tt_adapter_bytes(m, &shape);
}

static size_t training_bytes(const tt_model *m, bool lora)
{
    tt_qttt_params p = defaults_of(lora);
    int32_t rows = p.span_tokens > TT_PASSAGE_TOKENS ? p.span_tokens : TT_PASSAGE_TOKENS;
    return tt_memory_plan_optimiser(m, lora) + tt_step_bytes(m, rows, true);
}

void tt_memory_plan_make(const tt_model *m, const tt_memory_options *opt, bool cuda,
                         tt_memory_plan *ret_plan)
{
    size_t rows = or_else(opt->prefill_chunk, 512), running = or_else(opt->max_running, 32);
    running = largest(running, TT_DRAFT_ROWS);
    size_t context = or_else(opt->max_context, m->n_ctx_train);
    size_t page = tt_kv_page_bytes(m, opt->kv_type);
    size_t one_training = training_bytes(m, opt->lora);
    *ret_plan = (tt_memory_plan){.weights = m->weight_bytes,
                                 .steps = tt_step_bytes(m, (int32_t)rows, false) +
                                          tt_step_bytes(m, (int32_t)running, false) +
                                          (running + 1) * (size_t)m->n_vocab * sizeof(float),
                                 .scratch = cuda ? scratch_bytes(m, rows, running, context) : 0,
                                 .adapters = opt->adapter_bytes,
                                 .training = or_else(opt->max_jobs, 1) * one_training,
                                 .runtime = cuda ? RUNTIME_BYTES : 0,
                                 .margin = cuda ? MARGIN_BYTES : 0,
                                 .page = page,
                                 .context = (context + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS * page,
                                 .adapter = tt_memory_plan_adapter(m, opt->lora),
                                 .one_training = one_training};
}

size_t tt_memory_plan_fixed(const tt_memory_plan *p, bool loaded)
{
    return p->steps + p->scratch + p->adapters + p->training + p->margin +
           (loaded ? 0 : p->weights + p->runtime);
}

size_t tt_memory_plan_pool(const tt_memory_plan *p, size_t free_bytes)
{
    size_t rest = tt_memory_plan_fixed(p, true), half = free_bytes / 2;
    return free_bytes > rest ? largest(free_bytes - rest, half) : half;
}
