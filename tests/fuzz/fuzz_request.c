/* fuzz_request.c - the body of a chat or completions request through parser and validator, without
 * an engine. The first byte chooses the endpoint and strictness. What is accepted must be within
 * the limits that the engine relies on. */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "server/api_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_VOCAB = 1000, N_LAYERS = 30, MAX_PROMPTS = 8, MAX_SAMPLES = 4 };

static void check_ids(const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        assert(ids[i] >= 0 && ids[i] < N_VOCAB);
    }
}

static void check_accepted(const tt_request *r, const tt_request_limits *limits)
{
    const tt_qttt_params *q = &r->qttt.params;
    const tt_sampling *s = &r->job.sampling;
    assert(r->n_prompts >= 1 && r->n_prompts <= MAX_PROMPTS);
    assert(r->api == TT_API_CHAT ? json_array_size(r->messages) > 0 : r->prompts != NULL);
    for (int32_t i = 0; r->api == TT_API_COMPLETIONS && i < r->n_prompts; i++) {
        check_ids(r->prompts[i].ids, r->prompts[i].n_ids);
    }
    check_ids(r->job.stop_ids, r->job.n_stop_ids);
    for (int32_t i = 0; i < s->n_bias; i++) {
        assert(s->bias[i].id >= 0 && s->bias[i].id < N_VOCAB && fabsf(s->bias[i].bias) <= 100);
    }
    for (int32_t i = 0; i < r->job.n_stops; i++) {
        assert(r->job.stops[i].n > 0);
    }
    assert(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1);
    assert(r->job.n_logprobs >= -1 && r->job.n_logprobs <= TT_MAX_TOP_LOGPROBS);
    assert(q->steps <= limits->caps.max_steps && q->span_tokens <= limits->caps.max_span_tokens);
    assert(q->learning_rate <= limits->caps.max_learning_rate && q->rank <= limits->caps.max_rank);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tt_request_limits limits = {.json_memory = 1 << 20,
                                .max_prompts = MAX_PROMPTS,
                                .max_samples = MAX_SAMPLES,
                                .max_jobs = MAX_PROMPTS * 2,
                                .n_vocab = N_VOCAB,
                                .n_layers = N_LAYERS,
                                .caps = {256, 1024, 64, 1e-3, 0.05},
                                .model_name = "m",
                                .alias_name = "m-qttt"};
    if (size == 0) {
        return 0;
    }
    tt_arena arena;
    tt_request r = {0};
    tt_http_error e = {0};
    tt_arena_init(&arena, 1 << 22);
    limits.strict = (data[0] & 2) != 0;
    tt_api api = (data[0] & 1) != 0 ? TT_API_COMPLETIONS : TT_API_CHAT;
    bool ok = tt_request_parse((const char *)data + 1, size - 1, api, &limits, &arena, &r, &e);
    assert(ok == (e.status == 0));
    if (ok) {
        check_accepted(&r, &limits);
    } else { /* the answer itself must be writable */
        tt_buf b = {0};
        tt_error_write(&b, &e);
        assert(!b.failed && e.status >= 400 && e.status < 600 && e.message[0] != '\0');
        tt_buf_finish(&b);
    }
    tt_request_finish(&r);
    tt_arena_finish(&arena);
    return 0;
}
