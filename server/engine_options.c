/* engine_options.c - see engine_options.h. */
#include "server/engine_options.h"

tt_code tt_engine_options_from(const tt_settings *s, tt_engine_options *ret,
                               tt_device_found *ret_device, tt_err *reterr)
{
    static const tt_dtype kv_types[] = {TT_BF16, TT_F32,
                                        TT_I8}; /* as the settings table has them */
    tt_device_wish wish = {.device = s->device,
                           .module = s->cuda_module,
                           .isa = s->isa,
                           .kv_type = kv_types[s->kv_type]};
    tt_device_found found;
    if (s->model_path[0] == '\0') {
        return tt_fail(reterr, TT_E_INVALID,
                       "no model: give --model PATH (a GGUF file or a Hugging Face folder) or set "
                       "model.path");
    }
    tt_code rc = tt_device_find(&wish, &found, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    *ret = (tt_engine_options){.model_path = s->model_path,
                               .isa_mask = found.choice.isa_mask,
                               .cuda = found.choice.cuda,
                               .cuda_device = found.choice.ordinal,
                               .cuda_optional = found.automatic,
                               .n_threads = (int)s->threads,
                               .pin_threads = s->pin_threads,
                               .max_context = (int32_t)s->max_context,
                               .kv_bytes = (size_t)s->kv_size,
                               .kv_type = wish.kv_type,
                               .adapter_cache_bytes = (size_t)s->adapter_cache,
                               .prefill_chunk = (int32_t)s->prefill_chunk,
                               .max_draft = s->speculation == 0 ? (int32_t)s->draft_tokens : -1,
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
    *ret_device = found;
    return TT_OK;
}

int tt_exit_status(tt_code rc)
{
    switch (rc) {
    case TT_E_INVALID:
    case TT_E_MODEL:
    case TT_E_UNSUPPORTED:
    case TT_E_IO:
    case TT_E_CONTEXT_LENGTH:
        return TT_EXIT_USAGE;
    case TT_E_UNAVAILABLE:
    case TT_E_DEVICE:
        return TT_EXIT_DEVICE;
    default:
        return TT_EXIT_FAILED;
    }
}
