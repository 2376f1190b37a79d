/* api_request.c - see api_request.h. Order of checks: JSON, names of parameters, then values in the
 * order of this file. */
#include "server/api_request.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/api_json.h"

#define LONGEST_TIMEOUT 1e6 /* seconds, when the settings give no bound */

enum {
    MAX_STOPS = 32,
    MAX_STOP_BYTES = 4096,
    MAX_STOP_IDS = 1024,
    MAX_BIASES = 4096,
    DEFAULT_COMPLETION_TOKENS = 16
};

static bool out_of_memory(tt_http_error *e)
{
    tt_err err = {.code = TT_E_NOMEM};
    tt_error_from_code(e, &err);
    return false;
}

bool tt_request_model(const json_t *body, const tt_request_limits *limits, bool *ret_alias,
                      tt_http_error *e)
{
    const char *name = NULL;
    *ret_alias = false;
    if (!tt_json_get_string(body, "", "model", &name, e)) {
        return false;
    }
    if (name == NULL || strcmp(name, limits->model_name) == 0) {
        return true;
    }
    if (limits->alias_name != NULL && strcmp(name, limits->alias_name) == 0) {
        *ret_alias = true;
        return true;
    }
    tt_error_set(e, 404, "model", "model_not_found", "the model '%.100s' does not exist", name);
    return false;
}

static bool parse_stream(const json_t *body, tt_request *r, tt_http_error *e)
{
    const json_t *options = tt_json_get(body, "stream_options");
    if (!tt_json_get_bool(body, "", "stream", &r->stream, e)) {
        return false;
    }
    if (options == NULL) {
        return true;
    }
    if (!json_is_object(options)) {
        return tt_json_refuse(e, "", "stream_options", NULL, "must be an object, not %s",
                              tt_json_type_name(options));
    }
    if (!r->stream) {
        return tt_json_refuse(e, "", "stream_options", NULL, "is only allowed with stream: true");
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)options, key, v)
    {
        if (strcmp(key, "include_usage") != 0 && strcmp(key, "include_progress") != 0) {
            tt_ignored_add(&r->ignored, "stream_options.", key);
        }
    }
    return tt_json_get_bool(options, "stream_options.", "include_usage", &r->include_usage, e) &&
           tt_json_get_bool(options, "stream_options.", "include_progress", &r->include_progress,
                            e);
}

static bool parse_lengths(const json_t *body, tt_request *r, tt_http_error *e)
{
    int64_t min = r->api == TT_API_CHAT ? 1 : 0, max_tokens = -1, min_tokens = 0;
    if (!tt_json_get_int(body, "", "max_tokens", min, INT32_MAX, &max_tokens, e) ||
        !tt_json_get_int(body, "", "max_completion_tokens", min, INT32_MAX, &max_tokens, e) ||
        !tt_json_get_int(body, "", "min_tokens", 0, INT32_MAX, &min_tokens, e) ||
        !tt_json_get_bool(body, "", "ignore_eos", &r->job.ignore_eos, e)) {
        return false;
    }
    r->have_max_tokens = max_tokens >= 0;
    if (r->have_max_tokens && min_tokens > max_tokens) {
        return tt_json_refuse(e, "", "min_tokens", NULL, "is %lld, more than max_tokens (%lld)",
                              (long long)min_tokens, (long long)max_tokens);
    }
    r->job.max_tokens = (int32_t)max_tokens;
    if (!r->have_max_tokens && r->api == TT_API_COMPLETIONS) {
        r->job.max_tokens = DEFAULT_COMPLETION_TOKENS;
    }
    r->job.min_tokens = (int32_t)min_tokens;
    return true;
}

/* Each sample of each prompt takes a place in the queue, and they are admitted together. */
static bool parse_samples(const json_t *body, const tt_request_limits *limits, tt_request *r,
                          tt_http_error *e)
{
    int64_t n = 1;
    if (!tt_json_get_int(body, "", "n", 1, limits->max_samples, &n, e)) {
        return false;
    }
    if (n * r->n_prompts > limits->max_jobs) {
        return tt_json_refuse(e, "", n > 1 ? "n" : "prompt", NULL,
                              "makes %lld answers of %d prompts; at most %d of one request",
                              (long long)n * r->n_prompts, (int)r->n_prompts,
                              (int)limits->max_jobs);
    }
    r->n_samples = (int32_t)n;
    return true;
}

static bool parse_timeout(const json_t *body, const tt_request_limits *limits, tt_request *r,
                          tt_http_error *e)
{
    double most = limits->request_timeout > 0 ? limits->request_timeout : LONGEST_TIMEOUT;
    r->job.timeout_seconds = limits->request_timeout;
    return tt_json_get_number(body, "", "timeout_seconds", 1e-3, most, &r->job.timeout_seconds, e);
}

static bool parse_sampling(const json_t *body, tt_request *r, tt_http_error *e)
{
    double temperature = 1, top_p = 1, min_p = 0, presence = 0, frequency = 0, repetition = 1;
    int64_t top_k = 0, seed = INT64_MIN;
    if (!tt_json_get_number(body, "", "temperature", 0, 2, &temperature, e) ||
        !tt_json_get_number(body, "", "top_p", 0, 1, &top_p, e) ||
        !tt_json_get_int(body, "", "top_k", -1, INT32_MAX, &top_k, e) ||
        !tt_json_get_number(body, "", "min_p", 0, 1, &min_p, e) ||
        !tt_json_get_number(body, "", "presence_penalty", -2, 2, &presence, e) ||
        !tt_json_get_number(body, "", "frequency_penalty", -2, 2, &frequency, e) ||
        !tt_json_get_number(body, "", "repetition_penalty", 0.01, 100, &repetition, e) ||
        !tt_json_get_int(body, "", "seed", INT64_MIN, INT64_MAX, &seed, e)) {
        return false;
    }
    bool skip_special = true;
    if (!tt_json_get_bool(body, "", "skip_special_tokens", &skip_special, e)) {
        return false;
    }
    r->job.special_tokens = !skip_special;
    /* top_p 0 keeps the likeliest token alone; a temperature too small for 1/t is greedy. */
    r->job.sampling = (tt_sampling){.temperature = temperature < 1e-5 ? 0 : (float)temperature,
                                    .top_k = top_k > 0 ? (int32_t)top_k : 0,
                                    .top_p = top_p > 0 ? (float)top_p : FLT_MIN,
                                    .min_p = (float)min_p,
                                    .repetition_penalty = (float)repetition,
                                    .presence_penalty = (float)presence,
                                    .frequency_penalty = (float)frequency,
                                    .seed = (uint64_t)seed};
    r->have_seed = tt_json_get(body, "seed") != NULL;
    return true;
}

static bool parse_logit_bias(const json_t *body, int32_t n_vocab, tt_request *r, tt_arena *arena,
                             tt_http_error *e)
{
    const json_t *map = tt_json_get(body, "logit_bias");
    if (map == NULL) {
        return true;
    }
    if (!json_is_object(map) || json_object_size(map) > MAX_BIASES) {
        return tt_json_refuse(e, "", "logit_bias", NULL,
                              "must be an object of at most %d token ids", MAX_BIASES);
    }
    struct tt_logit_bias *bias = tt_arena_calloc(arena, json_object_size(map), sizeof *bias);
    if (bias == NULL) {
        return out_of_memory(e);
    }
    const char *key;
    json_t *v;
    int32_t n = 0;
    json_object_foreach((json_t *)map, key, v)
    {
        char *end;
        long id = strtol(key, &end, 10);
        double d = json_is_number(v) ? json_number_value(v) : NAN;
        if (*key < '0' || *key > '9' || *end != '\0' || id >= n_vocab) {
            return tt_json_refuse(e, "", "logit_bias", NULL,
                                  "has the key \"%.20s\"; keys are token ids from 0 to %d", key,
                                  (int)n_vocab - 1);
        }
        if (!(d >= -100 && d <= 100)) {
            return tt_json_refuse(e, "", "logit_bias", NULL, "values are from -100 to 100");
        }
        bias[n++] = (struct tt_logit_bias){.id = (int32_t)id, .bias = (float)d};
    }
    r->job.sampling.bias = bias;
    r->job.sampling.n_bias = n;
    return true;
}

static bool parse_stop(const json_t *body, tt_request *r, tt_arena *arena, tt_http_error *e)
{
    const json_t *v = tt_json_get(body, "stop");
    if (v == NULL) {
        return true;
    }
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if ((!json_is_array(v) && !json_is_string(v)) || n > MAX_STOPS) {
        return tt_json_refuse(e, "", "stop", NULL,
                              "must be a string or a list of at most %d strings", MAX_STOPS);
    }
    struct tt_stop *stops = tt_arena_calloc(arena, n, sizeof *stops);
    if (stops == NULL) {
        return out_of_memory(e);
    }
    int32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s) || json_string_length(s) > MAX_STOP_BYTES) {
            return tt_json_refuse(e, "", "stop", NULL, "holds strings of at most %d bytes",
                                  MAX_STOP_BYTES);
        }
        if (json_string_length(s) > 0) { /* "" asks for nothing */
            stops[count++] =
                (struct tt_stop){.p = json_string_value(s), .n = json_string_length(s)};
        }
    }
    r->job.stops = stops;
    r->job.n_stops = count;
    return true;
}

/* A list of token ids, each below n_vocab, into the arena. */
static bool parse_ids(const json_t *v, const char *key, size_t max, int32_t n_vocab,
                      tt_arena *arena, int32_t **ret, int32_t *ret_n, tt_http_error *e)
{
    size_t i, n = json_array_size(v);
    json_t *item;
    if (!json_is_array(v) || n > max) {
        return tt_json_refuse(e, "", key, NULL, "must be a list of at most %zu token ids", max);
    }
    int32_t *ids = tt_arena_calloc(arena, n, sizeof *ids);
    if (ids == NULL) {
        return out_of_memory(e);
    }
    json_array_foreach((json_t *)v, i, item)
    {
        int64_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id >= n_vocab) {
            return tt_json_refuse(e, "", key, NULL,
                                  "holds token ids, integers from 0 to %d (entry %zu)",
                                  (int)n_vocab - 1, i);
        }
        ids[i] = (int32_t)id;
    }
    *ret = ids;
    *ret_n = (int32_t)n;
    return true;
}

static bool parse_chat_logprobs(const json_t *body, tt_request *r, tt_http_error *e)
{
    int64_t top = 0;
    if (!tt_json_get_bool(body, "", "logprobs", &r->want_logprobs, e) ||
        !tt_json_get_int(body, "", "top_logprobs", 0, TT_MAX_TOP_LOGPROBS, &top, e)) {
        return false;
    }
    if (tt_json_get(body, "top_logprobs") != NULL && !r->want_logprobs) {
        return tt_json_refuse(e, "", "top_logprobs", NULL, "needs logprobs: true");
    }
    r->job.n_logprobs = r->want_logprobs ? (int32_t)top : -1;
    r->job.n_prompt_logprobs = -1;
    return true;
}

static bool parse_legacy_logprobs(const json_t *body, tt_request *r, tt_http_error *e)
{
    int64_t top = -1;
    if (!json_is_false(json_object_get(body, "logprobs")) &&
        !tt_json_get_int(body, "", "logprobs", 0, TT_MAX_TOP_LOGPROBS, &top, e)) {
        return false;
    }
    r->want_logprobs = top >= 0;
    r->job.n_logprobs = (int32_t)top;
    r->job.n_prompt_logprobs = r->echo ? (int32_t)top : -1;
    return true;
}

static bool parse_chat(const json_t *body, tt_request *r, tt_http_error *e)
{
    static const char *const reserved[] = {"messages", "tools", "add_generation_prompt",
                                           "bos_token", "eos_token"};
    r->messages = tt_messages_normalise(tt_json_get(body, "messages"), &r->ignored, e);
    if (r->messages == NULL) {
        return false;
    }
    r->n_prompts = 1;
    r->add_generation_prompt = true;
    const json_t *kwargs = tt_json_get(body, "chat_template_kwargs");
    if (kwargs != NULL && !json_is_object(kwargs)) {
        return tt_json_refuse(e, "", "chat_template_kwargs", NULL, "must be an object, not %s",
                              tt_json_type_name(kwargs));
    }
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++) {
        if (json_object_get(kwargs, reserved[i]) != NULL) {
            return tt_json_refuse(e, "chat_template_kwargs.", reserved[i], NULL,
                                  "is set by the server");
        }
    }
    r->template_kwargs = kwargs;
    return tt_json_get_bool(body, "", "add_generation_prompt", &r->add_generation_prompt, e) &&
           parse_chat_logprobs(body, r, e);
}

static bool parse_prompt(const json_t *v, const tt_request_limits *limits, tt_arena *arena,
                         tt_prompt_source *ret, tt_http_error *e)
{
    if (json_is_string(v)) {
        ret->text = json_string_value(v);
        ret->n_text = json_string_length(v);
        return true;
    }
    return parse_ids(v, "prompt", INT32_MAX, limits->n_vocab, arena, &ret->ids, &ret->n_ids, e);
}

static bool parse_completion(const json_t *body, const tt_request_limits *limits, tt_request *r,
                             tt_arena *arena, tt_http_error *e)
{
    const json_t *v = tt_json_get(body, "prompt");
    if (!json_is_string(v) && !(json_is_array(v) && json_array_size(v) > 0)) {
        return tt_json_refuse(e, "", "prompt", NULL,
                              "is required: a string, a list of strings, a list of token ids, or "
                              "a list of such lists");
    }
    bool many = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = many ? json_array_size(v) : 1;
    if (n > (size_t)limits->max_prompts) {
        return tt_json_refuse(e, "", "prompt", NULL, "holds %zu prompts; at most %d", n,
                              (int)limits->max_prompts);
    }
    r->prompts = tt_arena_calloc(arena, n, sizeof *r->prompts);
    if (r->prompts == NULL) {
        return out_of_memory(e);
    }
    r->n_prompts = (int32_t)n;
    for (size_t i = 0; i < n; i++) {
        if (!parse_prompt(many ? json_array_get(v, i) : v, limits, arena, &r->prompts[i], e)) {
            return false;
        }
    }
    r->add_special_tokens = true;
    return tt_json_get_bool(body, "", "echo", &r->echo, e) &&
           tt_json_get_bool(body, "", "add_special_tokens", &r->add_special_tokens, e) &&
           parse_legacy_logprobs(body, r, e);
}

static bool parse_session(const json_t *body, tt_request *r, tt_http_error *e)
{
    r->expected_tokens = -1;
    if (!tt_json_get_string(body, "", "session", &r->session, e)) {
        return false;
    }
    if (r->api != TT_API_CHAT) { /* raw prompts are not appended to */
        return true;
    }
    if (!tt_json_get_bool(body, "", "append", &r->append, e) ||
        !tt_json_get_int(body, "", "expected_tokens", 0, INT32_MAX, &r->expected_tokens, e)) {
        return false;
    }
    if (!r->append && r->expected_tokens >= 0) {
        return tt_json_refuse(e, "", "expected_tokens", NULL, "needs append: true");
    }
    if (r->append && r->n_samples > 1) {
        return tt_json_refuse(e, "", "n", NULL, "is %d; an append has one answer",
                              (int)r->n_samples);
    }
    return true;
}

bool tt_request_parse(const char *text, size_t n, tt_api api, const tt_request_limits *limits,
                      tt_arena *arena, tt_request *ret, tt_http_error *e)
{
    bool alias;
    *ret = (tt_request){.api = api};
    tt_buf_init(&ret->ignored, 0);
    json_t *body = ret->body = tt_json_parse(text, n, limits->json_memory, e);
    if (body == NULL || !tt_request_model(body, limits, &alias, e) ||
        !tt_params_check(body, api, limits->strict, &ret->ignored, e)) {
        return false;
    }
    ret->model = alias ? limits->alias_name : limits->model_name;
    if (!(api == TT_API_CHAT ? parse_chat(body, ret, e)
                             : parse_completion(body, limits, ret, arena, e))) {
        return false;
    }
    if (!parse_samples(body, limits, ret, e) || !parse_stream(body, ret, e) ||
        !parse_lengths(body, ret, e) || !parse_timeout(body, limits, ret, e) ||
        !parse_sampling(body, ret, e) || !parse_logit_bias(body, limits->n_vocab, ret, arena, e) ||
        !parse_stop(body, ret, arena, e)) {
        return false;
    }
    const json_t *stop_ids = tt_json_get(body, "stop_token_ids");
    int32_t *ids = NULL;
    if (stop_ids != NULL && !parse_ids(stop_ids, "stop_token_ids", MAX_STOP_IDS, limits->n_vocab,
                                       arena, &ids, &ret->job.n_stop_ids, e)) {
        return false;
    }
    ret->job.stop_ids = ids;
    if (!tt_qttt_parse(json_object_get(body, "qttt"), alias, &limits->caps, limits->n_layers,
                       &ret->qttt, &ret->ignored, e)) {
        return false;
    }
    ret->have_qttt = alias || tt_json_get(body, "qttt") != NULL;
    if (!parse_session(body, ret, e)) {
        return false;
    }
    if (ret->qttt.params.mode != TT_QTTT_OFF &&
        ret->n_prompts > 1) { /* an answer has one qttt object */
        return tt_json_refuse(e, "", "qttt", "unsupported_parameter",
                              "with mode on or auto takes one prompt, not %d", (int)ret->n_prompts);
    }
    return true;
}

void tt_request_finish(tt_request *r)
{
    json_decref(r->messages);
    json_decref(r->body);
    r->messages = r->body = NULL;
    tt_buf_finish(&r->ignored);
}
