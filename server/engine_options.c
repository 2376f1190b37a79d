/* engine_options.c - see engine_options.h. */
#include "server/engine_options.h"

#include <string.h>

tt_code tt_engine_options_from(const tt_settings *s, tt_engine_options *ret, tt_err *reterr)
{
    int mask = tt_isa_parse(s->isa); /* of enum tt_isa, which core/engine.h brings along */
    if (s->model_path[0] == '\0') {
        return tt_fail(reterr, TT_E_INVALID,
                       "no model: give --model PATH (a GGUF file or a Hugging Face folder) or set "
                       "model.path");
    }
    if (mask < 0) {
        return tt_fail(reterr, TT_E_INVALID,
                       "model.isa is '%.40s'; expected auto, ref, avx2, avx512 or avx512bf16",
                       s->isa);
    }
    static const tt_dtype kv_types[] = {TT_BF16, TT_F32,
                                        TT_I8}; /* as the settings table has them */
    *ret = (tt_engine_options){.model_path = s->model_path,
                               .isa_mask = (unsigned)mask,
                               .n_threads = (int)s->threads,
                               .max_context = (int32_t)s->max_context,
                               .kv_bytes = (size_t)s->kv_size,
                               .kv_type = kv_types[s->kv_type],
                               .adapter_cache_bytes = (size_t)s->adapter_cache,
                               .prefill_chunk = (int32_t)s->prefill_chunk,
                               .max_queue = (int32_t)s->max_requests,
                               .max_running = (int32_t)s->max_running,
                               .max_jobs = (int32_t)s->qttt_max_jobs,
                               .max_queued_jobs = (int32_t)s->qttt_max_queued_jobs,
                               .target_gap = s->target_gap_ms / 1000,
                               .train_share = s->qttt_share,
                               .auto_rule = {.min_tokens = (int32_t)s->auto_min_tokens,
                                             .min_recall = s->auto_min_recall,
                                             .max_load = (int32_t)s->auto_max_load},
                               .caps = {.max_steps = (int32_t)s->qttt_max_steps,
                                        .max_span_tokens = (int32_t)s->qttt_max_span_tokens,
                                        .max_rank = (int32_t)s->qttt_max_rank,
                                        .max_learning_rate = s->qttt_max_learning_rate,
                                        .max_delta_norm = s->qttt_max_delta_norm}};
    return TT_OK;
}
