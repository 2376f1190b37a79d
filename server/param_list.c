/* param_list.c - see param_list.h. */
#include "server/param_list.h"

#include <string.h>

#include "server/api_json.h"
#include "server/api_qttt.h"

/* The value that asks for nothing, besides null, which always does. */
enum neutral { ONLY_NULL, FALSE, ZERO, ONE, EMPTY, NONE, TEXT_FORMAT, TEXT_MODALITY };

enum list { USED, INERT, REFUSED };

struct param {
    const char *name;
    enum list list[2]; /* chat, completions */
    enum neutral neutral;
};

#define BOTH(l)                                                                                    \
    {                                                                                              \
        l, l                                                                                       \
    }

static const struct param params[] = {
    {"model", BOTH(USED), 0},
    {"messages", {USED, REFUSED}, ONLY_NULL},
    {"prompt", {REFUSED, USED}, ONLY_NULL},
    {"stream", BOTH(USED), 0},
    {"stream_options", BOTH(USED), 0},
    {"max_tokens", BOTH(USED), 0},
    {"max_completion_tokens", BOTH(USED), 0},
    {"min_tokens", BOTH(USED), 0},
    {"ignore_eos", BOTH(USED), 0},
    {"temperature", BOTH(USED), 0},
    {"top_p", BOTH(USED), 0},
    {"top_k", BOTH(USED), 0},
    {"min_p", BOTH(USED), 0},
    {"presence_penalty", BOTH(USED), 0},
    {"frequency_penalty", BOTH(USED), 0},
    {"repetition_penalty", BOTH(USED), 0},
    {"seed", BOTH(USED), 0},
    {"n", BOTH(USED), 0},
    {"timeout_seconds", BOTH(USED), 0},
    {"stop", BOTH(USED), 0},
    {"stop_token_ids", BOTH(USED), 0},
    {"logit_bias", BOTH(USED), 0},
    {"logprobs", BOTH(USED), 0},
    {"top_logprobs", {USED, REFUSED}, ONLY_NULL},
    {"echo", {REFUSED, USED}, FALSE},
    {"skip_special_tokens", BOTH(USED), 0},
    {"add_special_tokens", {REFUSED, USED}, FALSE},
    {"add_generation_prompt", {USED, REFUSED}, ONLY_NULL},
    {"chat_template_kwargs", {USED, REFUSED}, ONLY_NULL},
    {"qttt", BOTH(USED), 0},
    {"session", BOTH(USED), 0},
    {"append", {USED, REFUSED}, FALSE},
    {"expected_tokens", {USED, REFUSED}, ONLY_NULL},

    {"user", BOTH(INERT), 0},
    {"metadata", BOTH(INERT), 0},
    {"service_tier", BOTH(INERT), 0},
    {"prompt_cache_key", BOTH(INERT), 0},
    {"prompt_cache_retention", BOTH(INERT), 0},
    {"prompt_cache_options", BOTH(INERT), 0},
    {"safety_identifier", BOTH(INERT), 0},
    {"prediction", BOTH(INERT), 0},
    {"parallel_tool_calls", BOTH(INERT), 0},
    {"cache_prompt", BOTH(INERT), 0},
    {"keep_alive", BOTH(INERT), 0},
    {"request_id", BOTH(INERT), 0},
    {"priority", BOTH(INERT), 0},
    {"spaces_between_special_tokens", BOTH(INERT), 0},

    {"best_of", BOTH(REFUSED), ONE},
    {"store", BOTH(REFUSED), FALSE},
    {"tools", BOTH(REFUSED), EMPTY},
    {"tool_choice", BOTH(REFUSED), NONE},
    {"functions", BOTH(REFUSED), EMPTY},
    {"function_call", BOTH(REFUSED), NONE},
    {"response_format", BOTH(REFUSED), TEXT_FORMAT},
    {"modalities", BOTH(REFUSED), TEXT_MODALITY},
    {"audio", BOTH(REFUSED), ONLY_NULL},
    {"web_search_options", BOTH(REFUSED), ONLY_NULL},
    {"reasoning_effort", BOTH(REFUSED), NONE},
    {"verbosity", BOTH(REFUSED), ONLY_NULL},
    {"suffix", BOTH(REFUSED), EMPTY},
    {"chat_template", BOTH(REFUSED), ONLY_NULL},
    {"documents", BOTH(REFUSED), EMPTY},
    {"continue_final_message", BOTH(REFUSED), FALSE},
    {"truncate_prompt_tokens", BOTH(REFUSED), ONLY_NULL},
    {"truncation", BOTH(REFUSED), ONLY_NULL},
    {"use_beam_search", BOTH(REFUSED), FALSE},
    {"length_penalty", BOTH(REFUSED), ONE},
    {"early_stopping", BOTH(REFUSED), FALSE},
    {"prompt_logprobs", BOTH(REFUSED), ONLY_NULL},
    {"include_stop_str_in_output", BOTH(REFUSED), FALSE},
    {"return_tokens_as_token_ids", BOTH(REFUSED), FALSE},
    {"return_token_ids", BOTH(REFUSED), FALSE},
    {"bad_words", BOTH(REFUSED), EMPTY},
    {"allowed_token_ids", BOTH(REFUSED), EMPTY},
    {"logits_processors", BOTH(REFUSED), EMPTY},
    {"guided_json", BOTH(REFUSED), ONLY_NULL},
    {"guided_regex", BOTH(REFUSED), ONLY_NULL},
    {"guided_choice", BOTH(REFUSED), ONLY_NULL},
    {"guided_grammar", BOTH(REFUSED), ONLY_NULL},
    {"structured_outputs", BOTH(REFUSED), ONLY_NULL},
    {"json_schema", BOTH(REFUSED), ONLY_NULL},
    {"grammar", BOTH(REFUSED), EMPTY},
    {"typical_p", BOTH(REFUSED), ONE},
    {"top_a", BOTH(REFUSED), ZERO},
    {"tfs_z", BOTH(REFUSED), ONE},
    {"mirostat", BOTH(REFUSED), ZERO},
    {"mirostat_mode", BOTH(REFUSED), ZERO},
    {"dry_multiplier", BOTH(REFUSED), ZERO},
    {"xtc_probability", BOTH(REFUSED), ZERO},
    {"dynatemp_range", BOTH(REFUSED), ZERO},
    {"lora", BOTH(REFUSED), EMPTY},
    {"moderation", BOTH(REFUSED), ONLY_NULL},
};

static bool is_text(const json_t *v, const char *text)
{
    return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static bool is_neutral(const json_t *v, enum neutral neutral)
{
    if (json_is_null(v)) {
        return true;
    }
    switch (neutral) {
    case ONLY_NULL:
        return false;
    case FALSE:
        return json_is_false(v);
    case ZERO:
        return json_is_number(v) && json_number_value(v) == 0;
    case ONE:
        return json_is_number(v) && json_number_value(v) == 1;
    case EMPTY:
        return (json_is_array(v) && json_array_size(v) == 0) || is_text(v, "");
    case NONE:
        return is_text(v, "none");
    case TEXT_FORMAT:
        return is_text(json_object_get(v, "type"), "text");
    case TEXT_MODALITY:
        return json_array_size(v) == 1 && is_text(json_array_get(v, 0), "text");
    }
    return false;
}

/* Tools may be listed when none of them may be called, and "auto" chooses among no tools. */
static bool tools_idle(const json_t *body, const char *key, const json_t *v)
{
    if (strcmp(key, "tools") == 0) {
        return is_text(json_object_get(body, "tool_choice"), "none");
    }
    return strcmp(key, "tool_choice") == 0 && is_text(v, "auto") &&
           json_array_size(json_object_get(body, "tools")) == 0;
}

bool tt_params_check(const json_t *body, tt_api api, bool strict, tt_buf *ignored, tt_http_error *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)body, key, v)
    {
        const struct param *p = NULL;
        for (size_t i = 0; p == NULL && i < sizeof params / sizeof *params; i++) {
            p = strcmp(params[i].name, key) == 0 ? &params[i] : NULL;
        }
        if (p == NULL) {
            if (strict) {
                return tt_json_refuse(e, "", key, "unsupported_parameter",
                                      "is not a parameter of this server");
            }
            tt_ignored_add(ignored, "", key);
        } else if (p->list[api == TT_API_COMPLETIONS] == REFUSED && !is_neutral(v, p->neutral) &&
                   !tools_idle(body, key, v)) {
            return tt_json_refuse(e, "", key, "unsupported_parameter",
                                  "is not supported by this server");
        }
    }
    return true;
}
