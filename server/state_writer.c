/* state_writer.c - the thread that writes (state_db.h). It takes all that waits as one group: one
 * BEGIN, one COMMIT, one fsync. A group that fails is rolled back, the file is opened anew and its
 * transactions are run one by one: those before the first that fails again are in the file, it and
 * those after it are not. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/state_db_priv.h"
#include "server/state_lock.h"

void tt_state_queue_push(tt_state_queue *q, tt_state_txn *x)
{
    x->next = NULL;
    *(q->last != NULL ? &q->last->next : &q->first) = x;
    q->last = x;
}

static tt_state_queue take(tt_state_queue *q)
{
    tt_state_queue all = *q;
    *q = (tt_state_queue){0};
    return all;
}

static tt_state_txn *pop(tt_state_queue *q)
{
    tt_state_txn *x = q->first;
    q->first = x->next;
    if (q->first == NULL) {
        q->last = NULL;
    }
    return x;
}

/* ---- under sql_lock ---- */

static tt_code reopen(tt_state_db *db, tt_err *err)
{
    char path[4096];
    tt_state_sql_close(&db->sql);
    tt_code rc = db->lock_fd >= 0 ? TT_OK : tt_state_lock(db->dir, &db->lock_fd, err);
    if (rc < 0) {
        return rc;
    }
    snprintf(path, sizeof path, "%s/state.db", db->dir);
    return tt_state_sql_open(path, false, &db->sql, err);
}

static tt_code run_one(tt_state_db *db, const tt_state_txn *x, tt_err *err)
{
    tt_code rc = x->resume ? tt_state_sql_touch(db->sql, err) : TT_OK;
    for (const tt_state_op *op = x->first; rc == TT_OK && op != NULL; op = op->next) {
        rc = op->remove ? tt_state_sql_delete(db->sql, op->table, &op->row, err)
                        : tt_state_sql_put(db->sql, op->table, &op->row, err);
    }
    return rc;
}

/* Transactions [first, end) in one commit. */
static tt_code run_group(tt_state_db *db, const tt_state_txn *first, const tt_state_txn *end,
                         tt_err *err)
{
    tt_code rc = db->sql != NULL ? TT_OK : reopen(db, err);
    if (rc < 0) {
        return rc;
    }
    rc = tt_state_sql_begin(db->sql, err);
    for (const tt_state_txn *x = first; rc == TT_OK && x != end; x = x->next) {
        rc = run_one(db, x, err);
    }
    if (rc == TT_OK) {
        rc = tt_state_sql_commit(db->sql, err);
    }
    if (rc < 0) {
        tt_state_sql_rollback(db->sql);
    }
    return rc;
}

/* The first that is not in the file; NULL = all are. */
static tt_state_txn *write_all(tt_state_db *db, tt_state_queue *q, tt_err *err)
{
    tt_code rc = run_group(db, q->first, NULL, err);
    if (rc == TT_OK) {
        return NULL;
    }
    if (rc != TT_E_NOMEM && rc != TT_E_INVALID && reopen(db, err) < 0) {
        return q->first;
    }
    tt_state_txn *x = q->first;
    while (x != NULL && run_group(db, x, x->next, err) == TT_OK) {
        x = x->next;
    }
    return x;
}

void tt_state_writer_read(tt_state_db *db, tt_state_txn *x)
{
    x->rc = db->sql != NULL ? TT_OK : reopen(db, &x->err);
    for (tt_state_op *op = x->first; x->rc == TT_OK && op != NULL; op = op->next) {
        if (!op->known) {
            x->rc = tt_state_sql_get(db->sql, op->table, &op->row, &op->found, &x->err);
        }
    }
}

/* ---- results: under lock ---- */

static void tell_failed(tt_state_db *db, tt_state_queue *q, tt_state_txn *from, const tt_err *err)
{
    db->failing = true;
    db->failure = *err;
    /* Another attempt helps against neither a row that is too big nor a lack of memory. */
    db->broken = db->broken || (err->code != TT_E_NOMEM && err->code != TT_E_INVALID);
    while (q->first != NULL) {
        tt_state_txn *x = pop(q);
        if (x == from) {
            from = NULL;
        }
        if (from != NULL) {
            tt_state_queue_push(&db->finished, x);
            continue;
        }
        db->broken = db->broken || x->resume;
        db->counts.failures++;
        x->next = db->failed;
        db->failed = x;
    }
}

static void tell_done(tt_state_db *db, tt_state_queue *q)
{
    db->broken = false;
    while (q->first != NULL) {
        db->counts.transactions++;
        tt_state_queue_push(&db->finished, pop(q));
    }
}

/* ---- the thread ---- */

static void wake(tt_state_db *db)
{
    if (db->opt.wake != NULL) {
        db->opt.wake(db->opt.wake_arg);
    }
}

static void work(tt_state_db *db, tt_state_queue *writes, tt_state_queue *reads)
{
    tt_err err = {0};
    tt_state_txn *bad = NULL;
    bool any = writes->first != NULL;
    pthread_mutex_lock(&db->sql_lock);
    if (any) {
        bad = write_all(db, writes, &err);
    }
    for (tt_state_txn *x = reads->first; x != NULL; x = x->next) {
        tt_state_writer_read(db, x);
    }
    int64_t bytes = any && db->sql != NULL ? tt_state_sql_file_bytes(db->sql) : -1;
    pthread_mutex_unlock(&db->sql_lock);
    pthread_mutex_lock(&db->lock);
    db->counts.commits += any;
    db->counts.file_bytes = bytes >= 0 ? bytes : db->counts.file_bytes;
    if (bad != NULL) {
        tell_failed(db, writes, bad, &err);
    } else if (any) {
        tell_done(db, writes);
    }
    while (reads->first != NULL) {
        tt_state_queue_push(&db->finished, pop(reads));
    }
    pthread_mutex_unlock(&db->lock);
    wake(db);
}

/* Waits for something to do, or for the next attempt's time. */
static void wait_for_more(tt_state_db *db)
{
    struct timespec at;
    if (!db->broken || db->retry_due) {
        pthread_cond_wait(&db->more, &db->lock);
        return;
    }
    double seconds = db->opt.retry_seconds;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += (time_t)seconds;
    at.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    if (pthread_cond_timedwait(&db->more, &db->lock, &at) == ETIMEDOUT) {
        db->retry_due = true;
        pthread_mutex_unlock(&db->lock);
        wake(db);
        pthread_mutex_lock(&db->lock);
    }
}

static void *run(void *arg)
{
    tt_state_db *db = arg;
    pthread_mutex_lock(&db->lock);
    for (;;) {
        bool writes = db->queue.first != NULL && !db->failing;
        if (!writes && db->reads.first == NULL) {
            if (db->ending) {
                break;
            }
            wait_for_more(db);
            continue;
        }
        tt_state_queue q = writes ? take(&db->queue) : (tt_state_queue){0};
        tt_state_queue r = take(&db->reads);
        pthread_mutex_unlock(&db->lock);
        work(db, &q, &r);
        pthread_mutex_lock(&db->lock);
    }
    pthread_mutex_unlock(&db->lock);
    return NULL;
}

tt_code tt_state_writer_start(tt_state_db *db, tt_err *reterr)
{
    int rc = pthread_create(&db->thread, NULL, run, db);
    if (rc != 0) {
        return tt_fail(reterr, TT_E_NOMEM, "cannot start a thread: %s", strerror(rc));
    }
    db->started = true;
    return TT_OK;
}

void tt_state_writer_stop(tt_state_db *db)
{
    if (db->started) {
        pthread_mutex_lock(&db->lock);
        db->ending = true;
        pthread_cond_signal(&db->more);
        pthread_mutex_unlock(&db->lock);
        pthread_join(db->thread, NULL);
        db->started = false;
    }
}
