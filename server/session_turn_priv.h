/* session_turn_priv.h - what session_turn.c (a request comes into a session) and session_answer.c
 * (what its jobs do there) share. Thread: the loop thread. */
#ifndef TT_SESSION_TURN_PRIV_H
#define TT_SESSION_TURN_PRIV_H

#include "server/server.h"
#include "server/session_turn.h"

/* What one choice has generated so far. */
typedef struct tt_turn_answer {
    int32_t *ids; /* owned */
    int32_t n, cap;
    tt_buf text; /* of a chat's message */
    bool failed; /* memory ran out */
    bool done;
} tt_turn_answer;

struct tt_session_turn {
    tt_session_user user;
    tt_session_waiter waiter;
    tt_prepared *prepared;     /* that it belongs to */
    tt_session_record *record; /* a reference */
    bool created;              /* the session was made by this request */
    tt_session_loader loader;
    bool waiting, loading, appending, running, pinned;
    bool warm; /* the session's K/V had been computed when the request came */
    tt_session_text *old;
    tt_session_generation chosen; /* pinned from plan to destroy */
    tt_session_plan *plans;       /* owned: [n_plans], one a prompt */
    int32_t n_plans;
    tt_turn_answer *answers; /* owned: [n_answers], one a choice */
    int32_t n_answers;
    int32_t generation; /* that answers */
    int32_t cached;     /* tokens of the first prompt that were there; -1 = not known yet */
    tt_session_miss miss;
    bool evicted;
    int32_t position; /* of the miss */
    void (*on_deleted)(void *arg);
    void *arg;
};

#endif
