/* session_work.h - from the body of POST /v1/sessions or .../extend to what the session is made of:
 * parse, validate, template, tokenise; in a worker. Thread: see each field. */
#ifndef TT_SESSION_WORK_H
#define TT_SESSION_WORK_H

#include "server/api_request.h"
#include "server/http.h"
#include "server/session_store.h"
#include "server/work.h"

typedef struct tt_session_work {
    tt_work work;
    tt_http_request *http; /* a reference */
    /* ---- set by the handler ---- */
    const tt_served *served;
    tt_request_limits limits;
    char key[TT_SESSION_KEY_BYTES];
    tt_session_record *record;                 /* extend: a reference; else NULL */
    tt_session_text *old;                      /* extend: a reference to what it goes on from */
    void (*finish)(struct tt_session_work *w); /* loop thread: answers */
    /* ---- what the worker made ---- */
    json_t *body, *messages; /* owned */
    int32_t *ids;            /* owned: the context */
    size_t n_ids, n_context;
    tt_session_text *text; /* NULL: raw tokens */
    tt_buf metadata;       /* JSON text; empty = not given */
    double ttl_seconds;    /* < 0: not given */
    bool have_qttt, alias; /* the default of its requests */
    tt_qttt_request qttt;
    tt_buf ignored;
    tt_http_error error; /* status 0: fine */
} tt_session_work;

/* Starts it; `finish` is called in the end, unless the client has left. NULL: no memory. */
tt_session_work *tt_session_work_create(tt_http_request *req,
                                        void (*finish)(struct tt_session_work *w));
void tt_session_work_submit(tt_session_work *w);
void tt_session_work_destroy(tt_session_work **work);

/* The fields that create, update and fork have in common. ttl: untouched when not given. */
bool tt_session_read_common(const json_t *body, tt_buf *metadata, double *ttl, tt_http_error *e);
/* Names that are not in `known` (NULL-terminated): to `ignored`, or refused when strict. */
bool tt_session_check_names(const json_t *body, const char *const *known, bool strict,
                            tt_buf *ignored, tt_http_error *e);

#endif
