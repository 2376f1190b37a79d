/* prepare.h - from the body of a generation request to jobs that can be queued: parse, validate,
 * template, tokenise, context rule; in a worker. Thread: see each field. */
#ifndef TT_PREPARE_H
#define TT_PREPARE_H

#include "server/api_request.h"
#include "server/http.h"
#include "server/prompt.h"
#include "server/session_store.h"
#include "server/settings.h"
#include "server/work.h"

/* One prompt, tokenised. */
typedef struct tt_prepared_prompt {
    int32_t *ids; /* malloc'ed */
    size_t n_ids;
    int32_t max_tokens; /* -1: until the context ends */
    int32_t context_tokens;
    char *echo; /* malloc'ed: what echo prints, or NULL */
    size_t n_echo;
    bool added_bos; /* ids[0] is not in the text */
} tt_prepared_prompt;

typedef struct tt_prepared {
    tt_work work;
    tt_http_request *http; /* a reference */
    const tt_served *served;
    tt_request_limits limits;
    tt_request request;
    tt_prepared_prompt *prompts; /* [request.n_prompts], in the request's arena */
    tt_http_error error;         /* status 0: fine */
    bool bad_context;            /* the error is about qttt.context, not about the prompt */
    /* ---- sessions ---- */
    char session_key[TT_SESSION_KEY_BYTES]; /* of the header; "" = none */
    bool want_context;                      /* the context rule applies whatever the mode */
    tt_rendered rendered;                   /* chat with a session: the prompt's text */
    int32_t n_kept;                         /* an append: leading ids taken over from the session */
    struct tt_session_turn *turn;           /* owned, NULL = in no session */
} tt_prepared;

/* Starts it; ends in an error answer, or in tt_generation_start, which takes the tt_prepared over.
 * Loop thread. */
void tt_prepare_start(tt_http_request *req, tt_api api);
/* An append may go on: renders the session's messages and the new ones, then as above. */
void tt_prepare_append(tt_prepared *p);
void tt_prepared_destroy(tt_prepared **prepared);

/* The limits of this server. */
tt_request_limits tt_limits_of(const tt_settings *settings, const tt_served *served);

#endif
