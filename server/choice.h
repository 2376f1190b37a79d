/* choice.h - one choice of an answer while its job runs: the text and the log-probabilities that
 * have come and are not sent yet, and what the job told at its end. It writes no bytes:
 * generation.c frames what tt_choice_take() gives. Thread: the loop thread. */
#ifndef TT_CHOICE_H
#define TT_CHOICE_H

#include "server/answer.h"
#include "server/prepare.h"

typedef struct tt_choice {
    int32_t index;                      /* in the answer: prompt * n + sample */
    int32_t sample;                     /* of its prompt */
    const tt_request *request;          /* borrowed */
    const tt_prepared_prompt *prompt;   /* borrowed */
    const tt_tokenizer *tokenizer;      /* borrowed */
    const struct tt_session_turn *turn; /* borrowed; NULL = in no session */
    tt_job *job;                        /* a reference; NULL before admission and after its end */
    tt_buf text;                        /* what is not sent yet; all of it when not streaming */
    tt_logprob_list logprobs;           /* likewise */
    bool started;                       /* its job has left the queue */
    bool opened;                        /* its first chunk may go out, or has */
    double last_token;                  /* monotonic; 0 = none has come */

    /* from TT_EV_ADAPTED */
    tt_qttt_result qttt;
    /* from TT_EV_DONE */
    const char *finish_reason; /* static; NULL before */
    tt_usage usage;            /* of this job alone */
    double prefill_seconds;
} tt_choice;

/* The place of a choice; no job yet. prepared: borrowed while the choice lives. */
void tt_choice_init(tt_choice *c, const tt_prepared *prepared, int32_t index);
/* Drops the reference to the job, which runs on unless it is cancelled. Legal on a zeroed one. */
void tt_choice_finish(tt_choice *c);

/* Makes its job, to be submitted. wake(arg) is called by the engine thread. Sample i of a request
 * with a seed takes seed + i, modulo 2^64; without one each job gets a random seed. TT_E_NOMEM. */
tt_code tt_choice_create_job(tt_choice *c, const char *scope, void (*wake)(void *arg), void *arg,
                             tt_err *reterr);

/* A run of prompt log-probabilities; the first token of all comes with it. */
void tt_choice_prompt_logprobs(tt_choice *c, const tt_event *ev);
void tt_choice_token(tt_choice *c, const tt_event *ev);
/* The job has ended well: its last text, finish_reason, usage. */
void tt_choice_done(tt_choice *c, const tt_event *ev);
/* The choice has its first output: puts the echoed prompt in front. True the first time. */
bool tt_choice_open(tt_choice *c);
/* Memory ran out on the way. */
bool tt_choice_failed(const tt_choice *c);

/* What may go out now as one chunk: false when there is nothing. all: log-probabilities without
 * text too. The chunk borrows from the choice until tt_choice_sent(), which forgets what was taken.
 */
bool tt_choice_take(const tt_choice *c, bool all, tt_chunk *ret);
void tt_choice_sent(tt_choice *c);

#endif
