/* session_state.h - sessions outlive the process: when their rows are written, how a change is
 * undone whose write has failed, and how they are read when the server starts. Thread: the loop
 * thread.
 *
 * What a client is told of is committed before (http_commit.h); last_used and what nobody was told
 * of follow within seconds. Tokens and texts are rows of their own (session_content.h): a turn
 * writes its branch, its text and the session's small row. */
#ifndef TT_SESSION_STATE_H
#define TT_SESSION_STATE_H

#include "server/http.h"
#include "server/session_store.h"
#include "server/state_db.h"

enum { TT_SESSION_FLUSH_MS = 3000 };

tt_state_db *tt_session_state_of(const tt_session_store *st);

/* The session as it is now, into x; x NULL is one that memory failed for. What of it is not in
 * memory is on disk already. TT_E_NOMEM, which the commit tells too. */
tt_code tt_session_state_put(tt_state_txn *x, tt_session_record *r);

/* A transaction that it was put into will not be committed. */
void tt_session_state_abandoned(tt_session_record *r);

/* What it is now survives the process. */
bool tt_session_durable(const tt_session_record *r);
/* Likewise in a transaction of its own, when it has a row. dropped: an adapter that is no
 * generation of it any more, 0 = none; its pin is given back when no row tells of it. */
void tt_session_state_put_now(tt_session_record *r, uint64_t dropped);

/* ---- a request changes a session ---- */

typedef struct tt_session_change tt_session_change;
typedef enum tt_change_kind {
    TT_CHANGE_UPDATE,
    TT_CHANGE_CREATE, /* undone by deleting it */
    TT_CHANGE_RESET   /* generations go: their pins are given back once it is written */
} tt_change_kind;
/* Remembers what it is like; before the change. NULL: no memory. */
tt_session_change *tt_session_change_begin(tt_session_record *r, tt_change_kind kind);
/* The change has been made; the request's answer follows: the session's rows go into its
 * transaction, and when that fails the change is undone. Takes c over. */
void tt_session_change_write(tt_session_change *c, tt_http_request *req);
/* Undoes it now. c may be NULL. */
void tt_session_change_undo(tt_session_change *c);
/* The rows go with the request's transaction; when that is written, the session is deleted. */
void tt_session_state_delete(tt_session_record *r, tt_http_request *req);

/* It leaves the store: rows that are left are deleted. */
void tt_session_state_forget(tt_session_record *r);

/* ---- while the server runs ---- */

/* After each tt_state_poll(). */
void tt_session_state_check(tt_session_store *st);
/* Writes what is not written yet, last_used too; a bounded number at a time unless `all`. */
void tt_session_state_flush(tt_session_store *st, bool all);

/* ---- at the start ---- */

typedef struct tt_session_restored {
    int32_t n, unreadable;
} tt_session_restored;
/* Reads every row; deletes contents that no session refers to. */
tt_code tt_session_state_restore(tt_session_store *st, tt_session_restored *ret, tt_err *reterr);

/* The model is known: records made from now on are its, and those of others cannot be used. */
void tt_session_store_set_model(tt_session_store *st, const char *model);

#endif
