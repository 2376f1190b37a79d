/* session_store_priv.h - what session_store.c (the records) and session_engine.c (what they have in
 * the engine) share. Thread: the loop thread. */
#ifndef TT_SESSION_STORE_PRIV_H
#define TT_SESSION_STORE_PRIV_H

#include "server/session_content.h"
#include "server/session_store.h"

enum { TT_SESSION_SLOTS = 1021 };

struct tt_session_store {
    tt_session_store_options opt;
    tt_session_record *first, *last; /* newest first */
    tt_session_record *table[TT_SESSION_SLOTS];
    int32_t n;
    int32_t n_prefills; /* records with a prefill */
    tt_job **orphans;   /* owned: [n_orphans] references */
    int32_t n_orphans, orphans_cap;
    size_t bytes;
    uint64_t last_tag;
    tt_content_table *contents; /* owned */
    bool unreadable;            /* rows stay on disk that nobody could read: with their contents */
    char model[TT_SESSION_MODEL]; /* that is served; "" while it is loading */
    uint64_t failures_seen;
};

/* Monotonic seconds. */
double tt_session_clock(void);
/* Cancels the prefill, if there is one. */
void tt_session_stop_prefill(tt_session_record *r);

#endif
