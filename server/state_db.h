/* state_db.h - what outlives the process: rows of sessions, jobs, idempotency keys and adapters in
 * one SQLite file (state.db, WAL, synchronous=FULL). The loop thread builds transactions; one
 * writer thread runs them, as many as wait in one commit (an fsync each), in the order of
 * tt_state_commit(). Thread: the loop thread.
 *
 * Memory goes first: a caller changes what it has in memory, commits the rows, and answers in
 * `done`. When that tells of a failure it undoes its change. So that undoing is exact, a failure
 * takes with it whatever was committed after it and not yet reported, and those are told in
 * reverse order, the latest first.
 *
 * Degraded: a failure that opening the file anew does not heal (disk full, read-only, gone). From
 * then on rows are collected in memory, the latest of each key, `done` is told TT_OK, and every
 * few seconds all of them are tried again; when that succeeds everything is in the file and the
 * state is as before.
 *
 * Off: a NULL tt_state_db is legal everywhere; transactions are empty and `done` is told TT_OK. */
#ifndef TT_STATE_DB_H
#define TT_STATE_DB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"

enum { TT_STATE_VERSION = 1 }; /* of the schema: PRAGMA user_version */

typedef struct tt_state_db tt_state_db;
typedef struct tt_state_txn tt_state_txn;

typedef enum tt_state_table {
    TT_STATE_CONTEXT, /* immutable, by content hash, shared by sessions: ids, text; scope "" */
    TT_STATE_SESSION,
    TT_STATE_JOB,
    TT_STATE_IDEMPOTENCY,
    TT_STATE_ADAPTER,
    TT_STATE_TABLES
} tt_state_table;

typedef struct tt_state_row {
    const char *scope, *id;        /* tenant; with it the key of the row. id NULL: there is none */
    double created_at, expires_at; /* Unix seconds; 0 = never */
    const char *json;              /* what the row says: an object with a "version"; NULL = "{}" */
    const void *blob;              /* token ids and the like: [n_blob] bytes, may be NULL */
    size_t n_blob;
} tt_state_row;

typedef struct tt_state_options {
    const char *dir;         /* exists, or will when the disk is back */
    double retry_seconds;    /* between attempts while degraded; 0 = 5 */
    void (*wake)(void *arg); /* writer thread: tt_state_poll() has something to do. May be NULL */
    void *wake_arg;
} tt_state_options;

/* Opens or makes DIR/state.db and takes DIR/lock. TT_E_BUSY: another server has it.
 * TT_E_UNSUPPORTED: a newer version has written it. A corrupt file is kept aside as
 * state.db.corrupt-N and an empty one is begun; a folder that cannot be read or written makes it
 * degraded from the start: both are TT_OK, and tt_state_note() says so. */
tt_code tt_state_open(const tt_state_options *opt, tt_state_db **ret, tt_err *reterr);
/* What was committed before is written, its `done` called, the log of the file is merged into it.
 * *db may be NULL and becomes it. */
void tt_state_close(tt_state_db **db);

/* A sentence for people, or "": what was wrong with the file when it was opened. */
const char *tt_state_note(const tt_state_db *db);
/* *ret_why (may be NULL): what failed. */
bool tt_state_degraded(const tt_state_db *db, tt_err *ret_why);
/* What is acknowledged now survives: it is neither off nor degraded. */
bool tt_state_durable(const tt_state_db *db);
/* All rows of the file could be read when it was opened, so that what is not in memory is not in
 * the file either. */
bool tt_state_complete(const tt_state_db *db);
/* Counts the polls that have told of a failure: what was put before the latest may not be there. */
uint64_t tt_state_failures(const tt_state_db *db);

/* Every row of a table, as they were first put; what row() gets is borrowed for the call, and a
 * negative code ends it. Blocks: while the server starts. */
tt_code tt_state_each(tt_state_db *db, tt_state_table t,
                      tt_code (*row)(void *arg, const tt_state_row *r), void *arg, tt_err *reterr);
/* Likewise with scope and id alone. */
tt_code tt_state_each_key(tt_state_db *db, tt_state_table t,
                          tt_code (*row)(void *arg, const tt_state_row *r), void *arg,
                          tt_err *reterr);

/* Memory that runs out in begin, put or delete is told by them, and by commit once more: it is
 * enough to look there. NULL is a transaction that has failed so. */
tt_state_txn *tt_state_begin(tt_state_db *db);
/* The row is new, or takes the place of the one with its key; created_at stays the first one's
 * order. Copied. */
tt_code tt_state_put(tt_state_txn *x, tt_state_table t, const tt_state_row *row);
tt_code tt_state_delete(tt_state_txn *x, tt_state_table t, const char *scope, const char *id);
/* Memory ran out for a row that belongs to it: as if put had told so. */
void tt_state_spoil(tt_state_txn *x);
void tt_state_abandon(tt_state_txn *x);

typedef void (*tt_state_done)(void *arg, tt_code rc, const tt_err *err);
/* Takes x over. done (may be NULL): on the loop thread, in the order of commits; from within this
 * call when the state is off or degraded or memory ran out, else from tt_state_poll(). rc < 0:
 * nothing of this transaction is in the file (see above for those after it); TT_E_STATE, or
 * TT_E_NOMEM. What undoes a change may not commit another. */
void tt_state_commit(tt_state_txn *x, tt_state_done done, void *arg);

typedef struct tt_state_key {
    tt_state_table table;
    const char *scope, *id;
} tt_state_key;
/* rows: [n] as they were asked for, borrowed for the call; id NULL = there is no such row. */
typedef void (*tt_state_fetched)(void *arg, tt_code rc, const tt_state_row *rows, int32_t n,
                                 const tt_err *err);
/* Reads rows [n] on the writer thread; `done` comes from tt_state_poll(). TT_E_NOMEM. When the
 * state is off there are none, and done is called at once. */
tt_code tt_state_fetch(tt_state_db *db, const tt_state_key *keys, int32_t n, tt_state_fetched done,
                       void *arg, tt_err *reterr);

/* The same at once, on this thread: while the server starts. */
tt_code tt_state_read(tt_state_db *db, const tt_state_key *keys, int32_t n, tt_state_fetched done,
                      void *arg, tt_err *reterr);

/* Calls what is done; when the writer has woken the loop. */
void tt_state_poll(tt_state_db *db);

typedef struct tt_state_counts {
    int64_t commits, transactions; /* groups written, and what was in them */
    int64_t failures;              /* transactions that were not */
    int64_t waiting;               /* transactions */
    int64_t file_bytes;
} tt_state_counts;
tt_state_counts tt_state_get_counts(tt_state_db *db);

#endif
