/* session_turn.h - one chat or completions request in a session: which session it belongs to, what
 * its jobs get from it, and what becomes of the session when they end. A request without a session
 * has no turn. Thread: the loop thread, but for tt_session_turn_old().
 *
 * Life: begin (finds or makes the session; an append first waits for its turn and for the kept
 * text)
 * -> plan (the prompts are token ids now) -> start (the jobs are submitted) -> token, adapted, done
 * -> commit -> destroy. Until an answer is done nothing of the session changes, so that an abort at
 * any point leaves no trace. */
#ifndef TT_SESSION_TURN_H
#define TT_SESSION_TURN_H

#include "server/prepare.h"
#include "server/session_store.h"

typedef struct tt_session_turn tt_session_turn;

typedef enum tt_turn_next {
    TT_TURN_GO,      /* on with the request; p->turn NULL: it is in no session */
    TT_TURN_LATER,   /* tt_prepare_append() or tt_prepare_go_on() is called when it may go on */
    TT_TURN_REFUSED, /* p->error is the answer */
    TT_TURN_ANSWERED /* the answer has gone out */
} tt_turn_next;

/* After parsing; of a whole-history request after tokenising. */
tt_turn_next tt_session_turn_begin(tt_prepared *p);
/* The prompts are known: chooses the generation and compares. TT_TURN_GO or TT_TURN_REFUSED. */
tt_turn_next tt_session_turn_plan(tt_prepared *p);
/* prepare.c: goes on with what TT_TURN_LATER had put off, or ends p. */
void tt_prepare_go_on(tt_prepared *p, tt_turn_next next);
/* Also undoes an append that is not done, and a session that was made for nothing. */
void tt_session_turn_destroy(tt_session_turn **turn);

/* What an append goes on from. Constant while the turn lives: any thread. */
const tt_session_text *tt_session_turn_old(const tt_session_turn *t);

/* The request runs: n_choices answers. on_deleted(arg) ends it when the session is deleted.
 * TT_E_NOMEM. */
tt_code tt_session_turn_start(tt_session_turn *t, int32_t n_choices, void (*on_deleted)(void *arg),
                              void *arg, tt_err *reterr);
/* Fills what of a job's parameters comes from the session; what they point to lives as long as the
 * turn. */
void tt_session_turn_params(const tt_session_turn *t, int32_t prompt, tt_job_params *params);
/* Training was asked for, but the prompt has another context: *ret tells so, in place of an event.
 */
bool tt_session_turn_skipped(const tt_session_turn *t, tt_qttt_result *ret);

/* Events of choice i's job. */
void tt_session_turn_token(tt_session_turn *t, int32_t i, const tt_event *ev);
/* A kept adapter becomes the next generation; *result tells its number, or what answers instead.
 * job_id: NULL = none. */
void tt_session_turn_adapted(tt_session_turn *t, tt_qttt_result *result, const char *job_id);
void tt_session_turn_done(tt_session_turn *t, int32_t i, const tt_event *ev);
/* All choices are done and the answer's end follows: commits them, in memory and with the answer's
 * transaction. TT_E_NOMEM: the session is as it was before. */
tt_code tt_session_turn_commit(tt_session_turn *t, tt_err *reterr);

/* The answer's "session". */
void tt_session_turn_write(tt_buf *b, const tt_session_turn *t);
/* The generation that answers. */
int32_t tt_session_turn_generation(const tt_session_turn *t);
tt_session_record *tt_session_turn_record(const tt_session_turn *t);

#endif
