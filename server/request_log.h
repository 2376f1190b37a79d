/* request_log.h - the one line that the log has of each HTTP request. What the request's own fields
 * do not say is noted on the way. Thread: the loop thread. */
#ifndef TT_REQUEST_LOG_H
#define TT_REQUEST_LOG_H

#include <stdint.h>

#include "core/arena.h"
#include "server/error_map.h"
#include "server/traceparent.h"

enum { TT_LOGGED_BODY = 2000 /* bytes of a body, with log.prompts */, TT_LOGGED_PATH = 200 };

struct tt_http_request;

typedef struct tt_request_note {
    tt_trace trace;
    const char *model;   /* static while the server lives; NULL = none */
    const char *outcome; /* static: finish_reason or an error's code; NULL = by the status */
    char session[72];    /* "" = none */
    bool generates;      /* the numbers below mean something */
    int64_t prompt_tokens, cached_tokens, generated_tokens, trained_tokens;
    double queue_seconds, first_token_seconds; /* the latter from the request's start; 0 = none */
    size_t received, sent;                     /* bytes of bodies */
    char error[160];                           /* what went wrong on this side; "" = nothing */
    const char *body; /* [n_body] its beginning, in the request's arena; NULL = not wanted */
    size_t n_body;
} tt_request_note;

/* The answer is an error. */
void tt_request_note_error(tt_request_note *note, const tt_http_error *e);
/* Keeps the beginning of a body for the line. */
void tt_request_note_body(tt_request_note *note, tt_arena *arena, const char *body, size_t n);

/* The request is over. complete: its client was there to the end. Probes stand at level debug. */
void tt_request_log(const struct tt_http_request *req, bool complete);

#endif
