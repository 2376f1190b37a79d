/* state_db_priv.h - what state_db.c (the loop's side), state_journal.c (rows while the file is
 * away) and state_writer.c (the thread) share. Thread: see each field. */
#ifndef TT_STATE_DB_PRIV_H
#define TT_STATE_DB_PRIV_H

#include <pthread.h>

#include "server/state_db.h"
#include "server/state_sql.h"

/* One row to put, delete or read, in one block of memory with its strings. Constant once its
 * transaction is queued, but for `found`. */
typedef struct tt_state_op {
    struct tt_state_op *next, *prev;
    struct tt_state_op *chain; /* of a journal's slot */
    tt_state_table table;
    bool remove;
    tt_state_row row;
    bool known;            /* a read: the journal has it, `row` or that it is removed */
    tt_state_found *found; /* owned: what a read has found in the file, NULL = nothing */
} tt_state_op;

struct tt_state_txn {
    tt_state_txn *next;
    tt_state_db *db; /* NULL = off */
    tt_state_op *first, *last;
    bool failed; /* memory ran out */
    bool resume; /* the journal: tried although the file is away, kept when that fails */
    tt_state_done done;
    tt_state_fetched fetched;
    void *arg;
    tt_code rc;
    tt_err err;
};

typedef struct tt_state_queue {
    tt_state_txn *first, *last;
} tt_state_queue;

enum { TT_STATE_SLOTS = 4096 };

/* The latest op of each key. */
typedef struct tt_state_journal {
    tt_state_op *slots[TT_STATE_SLOTS];
    tt_state_txn *txn; /* owned, never NULL: the ops */
} tt_state_journal;

typedef enum tt_state_mode {
    TT_STATE_HEALTHY,
    TT_STATE_AWAY,   /* degraded: commits go to the journal */
    TT_STATE_SYNCING /* as AWAY, while the writer tries the journal of before */
} tt_state_mode;

struct tt_state_db {
    /* ---- constant ---- */
    char dir[4000];
    tt_state_options opt;
    char note[400];
    bool complete;
    /* ---- the loop's ---- */
    tt_state_mode mode;
    tt_err why; /* of AWAY */
    uint64_t failures;
    tt_state_journal journal;
    const tt_state_txn *syncing; /* the writer has it; ops are constant */
    /* ---- the writer's, under sql_lock ---- */
    pthread_mutex_t sql_lock; /* taken before `lock`, never while it is held */
    tt_state_sql *sql;        /* NULL while the file cannot be opened */
    int lock_fd;              /* -1 = none */
    /* ---- shared, under lock ---- */
    pthread_mutex_t lock;
    pthread_cond_t more;
    tt_state_queue queue, reads;
    tt_state_queue finished;
    tt_state_txn *failed; /* the latest first */
    bool failing;         /* what is queued fails too, until the loop has heard of it */
    bool broken;          /* the file is away */
    bool retry_due, ending;
    tt_err failure; /* of the latest that failed */
    tt_state_counts counts;
    pthread_t thread;
    bool started;
};

/* ---- state_journal.c ---- */

void tt_state_op_free(tt_state_op *op);
void tt_state_txn_free(tt_state_txn *x);
tt_state_op *tt_state_op_create(tt_state_table t, bool remove, const tt_state_row *row);
void tt_state_txn_add(tt_state_txn *x, tt_state_op *op);
tt_code tt_state_journal_init(tt_state_db *db, tt_err *reterr);
/* Takes the ops of x; x stays. */
void tt_state_journal_merge(tt_state_db *db, tt_state_txn *x);
/* As merge, for rows older than what the journal has. */
void tt_state_journal_merge_older(tt_state_db *db, tt_state_txn *x);
bool tt_state_journal_empty(const tt_state_db *db);
/* The journal as a transaction, and an empty one in its place; NULL: it is empty, or
 * memory ran out. */
tt_state_txn *tt_state_journal_take(tt_state_db *db);
void tt_state_journal_finish(tt_state_db *db);
/* The op for a key in the journal, or in what the writer tries now; NULL = none. */
const tt_state_op *tt_state_journal_find(const tt_state_db *db, const tt_state_key *key);

/* ---- state_writer.c ---- */

void tt_state_queue_push(tt_state_queue *q, tt_state_txn *x);
tt_code tt_state_writer_start(tt_state_db *db, tt_err *reterr);
void tt_state_writer_stop(tt_state_db *db);
/* A fetch; under sql_lock. */
void tt_state_writer_read(tt_state_db *db, tt_state_txn *x);

#endif
