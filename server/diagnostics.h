/* diagnostics.h - one POST /v1/sessions/{id}/diagnostics: api_diagnostics.c reads the request and
 * makes its prompt, diagnostics.c runs one job under the base and one under the session's latest
 * generation and answers. The session is not changed. Thread: see each field; functions: the loop
 * thread. */
#ifndef TT_DIAGNOSTICS_H
#define TT_DIAGNOSTICS_H

#include "server/api_request.h"
#include "server/http.h"
#include "server/server.h"
#include "server/session_store.h"
#include "server/work.h"

enum { TT_DIAGNOSE_BASE, TT_DIAGNOSE_ADAPTED, TT_DIAGNOSE_SIDES };

typedef struct tt_diagnostics {
    tt_session_user user;               /* first: what a deleted session finds */
    struct tt_diagnostics *prev, *next; /* of server->diagnostics, while jobs run */
    tt_work work;
    tt_http_request *http; /* a reference */
    tt_server *server;
    tt_session_record *record; /* a reference */
    bool csv;
    /* ---- set by the handler, read by the worker ---- */
    const tt_served *served;
    tt_request_limits limits;
    tt_session_text *text; /* a reference; NULL: raw tokens */
    int32_t *before; /* owned: the context's ids; of raw tokens the transcript's behind them */
    int32_t n_context, n_before;
    /* ---- what the worker made ---- */
    int32_t *ids; /* owned: the prompt */
    size_t n_ids;
    tt_diagnose_params asked;
    char *needle; /* owned: its text */
    size_t n_needle;
    int32_t occurrences;
    tt_buf ignored;
    tt_http_error error; /* status 0: fine */
    /* ---- while jobs run ---- */
    tt_session_generation chosen; /* pinned */
    bool pinned, listed;
    tt_job *jobs[TT_DIAGNOSE_SIDES];   /* references; NULL = over, or none */
    tt_event *told[TT_DIAGNOSE_SIDES]; /* owned */
} tt_diagnostics;

/* The prompt is there: submits the jobs; ends in an answer. Takes d over. */
void tt_diagnostics_run(tt_diagnostics *d);
void tt_diagnostics_destroy(tt_diagnostics **d);
/* Answers with an error. Frees d; what still runs of it is cancelled. */
void tt_diagnostics_fail(tt_diagnostics *d, const tt_http_error *e);

/* Reads the events of all; called when the engine has woken the loop. */
void tt_diagnostics_poll(tt_server *s);
/* The bound of draining has passed: every one gets an error. */
void tt_diagnostics_cut(tt_server *s);

#endif
