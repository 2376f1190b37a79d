/* api_request.h - a chat or completions body, read and validated: what the client asked for, before
 * anything is tokenised. Needs no engine, only the limits, so it is fuzzed alone. Thread: any; a
 * request belongs to one thread at a time. */
#ifndef TT_API_REQUEST_H
#define TT_API_REQUEST_H

#include <jansson.h>

#include "core/arena.h"
#include "core/job.h"
#include "server/api_qttt.h"
#include "server/param_list.h"

/* What validation needs to know of settings and model. Strings borrowed. */
typedef struct tt_request_limits {
    size_t json_memory;
    bool strict;
    int32_t max_prompts, max_samples;
    int32_t max_jobs;       /* prompts times samples: the places in the engine's queue */
    double request_timeout; /* seconds: of a request that gives none, and the most; 0 = none */
    int32_t n_vocab, n_layers;
    tt_qttt_caps caps;
    const char *model_name, *alias_name; /* alias_name NULL: none */
} tt_request_limits;

/* One prompt of a completions request: text, or ids. */
typedef struct tt_prompt_source {
    const char *text; /* NULL: ids */
    size_t n_text;
    int32_t *ids;
    int32_t n_ids;
} tt_prompt_source;

typedef struct tt_request {
    tt_api api;
    json_t *body;                  /* owned */
    json_t *messages;              /* owned; normalised: role and content are strings */
    const json_t *template_kwargs; /* borrowed from body, or NULL */
    bool add_generation_prompt, add_special_tokens;
    tt_prompt_source *prompts; /* completions: [n_prompts] */
    int32_t n_prompts;         /* chat: 1 */
    int32_t n_samples;         /* "n": choices of each prompt */
    const char *model;         /* the name to answer with: static or borrowed from the limits */
    bool stream, include_usage, include_progress, echo, want_logprobs, have_max_tokens;
    bool have_seed;    /* else the server draws one */
    tt_job_params job; /* prompt and context_tokens are filled later */
    tt_qttt_request qttt;
    bool have_qttt;          /* the request says something of it, if only by its model */
    const char *session;     /* "ses_...", borrowed from body, or NULL */
    bool append;             /* messages are new ones only */
    int64_t expected_tokens; /* of an append; -1 = any */
    tt_buf ignored;          /* names on no list, for x-qttt-ignored-params */
} tt_request;

/* Reads `text` into *ret. Small things live in `arena`. false: *e is the answer. Whatever it
 * returns, tt_request_finish(). */
bool tt_request_parse(const char *text, size_t n, tt_api api, const tt_request_limits *limits,
                      tt_arena *arena, tt_request *ret, tt_http_error *e);
/* Legal on a zeroed request and twice. */
void tt_request_finish(tt_request *r);

/* Checks a messages array and returns a normalised copy: roles "developer" become "system", lists
 * of text parts one string. NULL: *e is filled. Also for /tokenize. New reference. */
json_t *tt_messages_normalise(const json_t *messages, tt_buf *ignored, tt_http_error *e);

/* "model" of a body: absent or null means the served one. false: 404 model_not_found, or 400. */
bool tt_request_model(const json_t *body, const tt_request_limits *limits, bool *ret_alias,
                      tt_http_error *e);

#endif
