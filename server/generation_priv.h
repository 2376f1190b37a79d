/* generation_priv.h - what generation.c (the life of a request) and generation_events.c (what its
 * jobs tell, and what goes out) share. Thread: the loop thread. */
#ifndef TT_GENERATION_PRIV_H
#define TT_GENERATION_PRIV_H

#include "server/choice.h"
#include "server/generation.h"

struct tt_generation {
    tt_generation *prev, *next;
    tt_server *server;
    tt_prepared *prepared; /* owned, with the HTTP request's reference */
    tt_http_request *http;
    tt_choice *choices; /* [n_choices], owned */
    int32_t n_choices, n_running;
    int32_t turn; /* the choice that is served first when a slow reader has caught up */
    char id[48];
    struct tt_job_record *record; /* of its training; a reference, NULL = none was asked for */
    tt_answer answer;
    const tt_choice *adapted; /* whose qttt the answer reports; NULL = none has come */
    bool any_token;
    double last_sent; /* monotonic */
};

/* One event of the job of choice c. Returns false when g is gone. */
bool tt_generation_on_event(tt_generation *g, tt_choice *c, const tt_event *ev);
/* For tt_http_request.on_drained; arg is the generation. */
void tt_generation_on_drained(void *arg);
/* Appends a chunk to the stream. */
void tt_generation_send(tt_generation *g, const tt_chunk *c);

/* Ends the request with an error: an event in a stream that has begun, else an answer. What still
 * runs of it is cancelled. Frees g. */
void tt_generation_fail(tt_generation *g, const tt_http_error *e);
/* Frees g; its jobs, if there are any left, run on. */
void tt_generation_destroy(tt_generation *g);

/* ---- generation_job.c ---- */

/* The record of the training that the jobs [n_choices] ask for, if they do; before they are
 * submitted. TT_E_NOMEM. */
tt_code tt_generation_open_record(tt_generation *g, tt_job *const *jobs, tt_err *reterr);
void tt_generation_tell_record(tt_generation *g, const tt_event *ev);
/* By which the training can be cancelled while it runs; NULL = there is none. */
const char *tt_generation_record_id(const tt_generation *g);
/* The answer is being written: the job's id, or NULL when there was nothing to train. */
const char *tt_generation_settle_record(tt_generation *g);
/* The request is over, however it ended. */
void tt_generation_close_record(tt_generation *g);

#endif
