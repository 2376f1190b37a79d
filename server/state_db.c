/* state_db.c - see state_db.h: the loop thread's side. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/state_db_priv.h"
#include "server/state_lock.h"

enum { MAX_KEPT = 1000, RETRY_SECONDS = 5 };

/* ---- open ---- */

/* A corrupt file is moved aside with its log: state.db.corrupt-N. */
static tt_code keep_aside(tt_state_db *db, const char *path, const char *why, tt_err *reterr)
{
    static const char *const suffix[] = {"", "-wal", "-shm"};
    char to[4200], from[4200];
    struct stat sb;
    int n = 1;
    do {
        snprintf(to, sizeof to, "%s.corrupt-%d", path, n);
    } while (stat(to, &sb) == 0 && ++n < MAX_KEPT);
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        snprintf(from, sizeof from, "%s%s", path, suffix[i]);
        snprintf(to, sizeof to, "%s.corrupt-%d%s", path, n, suffix[i]);
        if (rename(from, to) != 0 && (i == 0 || errno != ENOENT)) {
            return tt_fail(reterr, TT_E_IO, "state.dir: cannot rename '%.150s': %s", from,
                           strerror(errno));
        }
    }
    snprintf(db->note, sizeof db->note,
             "%s; it is kept as state.db.corrupt-%d and a new one was "
             "begun",
             why, n);
    return TT_OK;
}

static tt_code open_file(tt_state_db *db, tt_err *reterr)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/state.db", db->dir);
    tt_code rc = mkdir(db->dir, 0700) == 0 || errno == EEXIST
                     ? tt_state_lock(db->dir, &db->lock_fd, reterr)
                     : tt_fail(reterr, TT_E_IO, "state.dir: cannot make '%.150s': %s", db->dir,
                               strerror(errno));
    if (rc == TT_OK) {
        rc = tt_state_sql_open(path, true, &db->sql, reterr);
    }
    if (rc == TT_E_MODEL) {
        tt_err why = *reterr;
        rc = keep_aside(db, path, why.msg, reterr);
        if (rc == TT_OK) {
            rc = tt_state_sql_open(path, false, &db->sql, reterr);
        }
    }
    return rc;
}

static tt_code init(tt_state_db *db, const tt_state_options *opt, tt_err *reterr)
{
    pthread_condattr_t attr;
    db->opt = *opt;
    db->opt.dir = db->dir;
    db->lock_fd = -1;
    if (db->opt.retry_seconds <= 0) {
        db->opt.retry_seconds = RETRY_SECONDS;
    }
    pthread_mutex_init(&db->lock, NULL);
    pthread_mutex_init(&db->sql_lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&db->more, &attr);
    pthread_condattr_destroy(&attr);
    return snprintf(db->dir, sizeof db->dir, "%s", opt->dir) < (int)sizeof db->dir
               ? tt_state_journal_init(db, reterr)
               : tt_fail(reterr, TT_E_INVALID, "the path of state.dir is too long");
}

tt_code tt_state_open(const tt_state_options *opt, tt_state_db **ret, tt_err *reterr)
{
    tt_err err = {0};
    tt_state_db *db = calloc(1, sizeof *db);
    if (db == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    tt_code rc = init(db, opt, &err);
    if (rc == TT_OK) {
        rc = open_file(db, &err);
        db->complete = rc == TT_OK;
    }
    if (rc == TT_E_IO || rc == TT_E_MODEL) {
        snprintf(db->note, sizeof db->note, "%s; nothing of before was read", err.msg);
        db->mode = TT_STATE_AWAY;
        db->why = db->failure = err;
        db->broken = true;
        rc = TT_OK;
    }
    if (rc == TT_OK) {
        rc = tt_state_writer_start(db, &err);
    }
    if (rc < 0) {
        tt_state_close(&db);
        return tt_fail(reterr, err.code, "%s", err.msg);
    }
    *ret = db;
    return TT_OK;
}

/* The last attempt to write what waits: the file may be back. */
static void write_journal(tt_state_db *db)
{
    tt_state_txn *x = tt_state_journal_take(db);
    if (x != NULL) {
        x->db = db;
        x->resume = true;
        db->syncing = x;
        db->mode = TT_STATE_SYNCING;
        db->broken = db->failing = false; /* the thread has ended */
        tt_state_queue_push(&db->queue, x);
        db->ending = false;
        tt_err err;
        if (tt_state_writer_start(db, &err) == TT_OK) {
            tt_state_writer_stop(db);
        }
        tt_state_poll(db);
    }
}

void tt_state_close(tt_state_db **state)
{
    tt_state_db *db = *state;
    tt_err err;
    if (db == NULL) {
        return;
    }
    do { /* what is told of may commit more */
        tt_state_writer_stop(db);
        tt_state_poll(db);
    } while (db->queue.first != NULL && tt_state_writer_start(db, &err) == TT_OK);
    if (db->mode != TT_STATE_HEALTHY) {
        write_journal(db);
    }
    tt_state_journal_finish(db);
    tt_state_sql_close(&db->sql);
    if (db->lock_fd >= 0) {
        close(db->lock_fd);
    }
    pthread_cond_destroy(&db->more);
    pthread_mutex_destroy(&db->lock);
    pthread_mutex_destroy(&db->sql_lock);
    free(db);
    *state = NULL;
}

/* ---- what it is like ---- */

const char *tt_state_note(const tt_state_db *db)
{
    return db != NULL ? db->note : "";
}

bool tt_state_degraded(const tt_state_db *db, tt_err *ret_why)
{
    bool away = db != NULL && db->mode != TT_STATE_HEALTHY;
    if (away && ret_why != NULL) {
        *ret_why = db->why;
    }
    return away;
}

bool tt_state_durable(const tt_state_db *db)
{
    return db != NULL && db->mode == TT_STATE_HEALTHY;
}

bool tt_state_complete(const tt_state_db *db)
{
    return db == NULL || db->complete;
}

uint64_t tt_state_failures(const tt_state_db *db)
{
    return db != NULL ? db->failures : 0;
}

static tt_code each(tt_state_db *db, tt_state_table t, bool keys_only,
                    tt_code (*row)(void *arg, const tt_state_row *r), void *arg, tt_err *reterr)
{
    tt_code rc = TT_OK;
    if (db != NULL) {
        pthread_mutex_lock(&db->sql_lock);
        if (db->sql != NULL) {
            rc = tt_state_sql_each(db->sql, t, keys_only, row, arg, reterr);
        }
        pthread_mutex_unlock(&db->sql_lock);
    }
    return rc;
}

tt_code tt_state_each(tt_state_db *db, tt_state_table t,
                      tt_code (*row)(void *arg, const tt_state_row *r), void *arg, tt_err *reterr)
{
    return each(db, t, false, row, arg, reterr);
}

tt_code tt_state_each_key(tt_state_db *db, tt_state_table t,
                          tt_code (*row)(void *arg, const tt_state_row *r), void *arg,
                          tt_err *reterr)
{
    return each(db, t, true, row, arg, reterr);
}

tt_state_counts tt_state_get_counts(tt_state_db *db)
{
    tt_state_counts c = {0};
    if (db != NULL) {
        pthread_mutex_lock(&db->lock);
        c = db->counts;
        for (const tt_state_txn *x = db->queue.first; x != NULL; x = x->next) {
            c.waiting++;
        }
        pthread_mutex_unlock(&db->lock);
    }
    return c;
}

/* ---- transactions ---- */

tt_state_txn *tt_state_begin(tt_state_db *db)
{
    tt_state_txn *x = calloc(1, sizeof *x);
    if (x != NULL) {
        x->db = db;
    }
    return x;
}

static tt_code add(tt_state_txn *x, tt_state_table t, bool remove, const tt_state_row *row)
{
    if (x == NULL || x->failed) {
        return TT_E_NOMEM;
    }
    if (x->db == NULL) {
        return TT_OK;
    }
    tt_state_op *op = tt_state_op_create(t, remove, row);
    if (op == NULL) {
        x->failed = true;
        return TT_E_NOMEM;
    }
    tt_state_txn_add(x, op);
    return TT_OK;
}

tt_code tt_state_put(tt_state_txn *x, tt_state_table t, const tt_state_row *row)
{
    return add(x, t, false, row);
}

tt_code tt_state_delete(tt_state_txn *x, tt_state_table t, const char *scope, const char *id)
{
    return add(x, t, true, &(tt_state_row){.scope = scope, .id = id});
}

void tt_state_spoil(tt_state_txn *x)
{
    if (x != NULL) {
        x->failed = x->db != NULL;
    }
}

void tt_state_abandon(tt_state_txn *x)
{
    tt_state_txn_free(x);
}

static void submit(tt_state_db *db, tt_state_queue *q, tt_state_txn *x)
{
    pthread_mutex_lock(&db->lock);
    tt_state_queue_push(q, x);
    pthread_cond_signal(&db->more);
    pthread_mutex_unlock(&db->lock);
}

void tt_state_commit(tt_state_txn *x, tt_state_done done, void *arg)
{
    tt_err err = {0};
    tt_code rc = TT_OK;
    if (x == NULL || x->failed) {
        rc = tt_fail(&err, TT_E_NOMEM, "out of memory for the state on disk");
    } else if (x->db != NULL && x->db->mode == TT_STATE_HEALTHY) {
        x->done = done;
        x->arg = arg;
        submit(x->db, &x->db->queue, x);
        return;
    } else if (x->db != NULL) {
        tt_state_journal_merge(x->db, x);
    }
    tt_state_txn_free(x);
    if (done != NULL) {
        done(arg, rc, &err);
    }
}

/* *ret: not queued yet. */
static tt_code make_fetch(tt_state_db *db, const tt_state_key *keys, int32_t n,
                          tt_state_fetched done, void *arg, tt_state_txn **ret, tt_err *reterr)
{
    tt_state_txn *x = tt_state_begin(db);
    for (int32_t i = 0; i < n; i++) {
        const tt_state_op *known = tt_state_journal_find(db, &keys[i]);
        tt_state_row key = {.scope = keys[i].scope, .id = keys[i].id};
        bool gone = known != NULL && known->remove;
        if (add(x, keys[i].table, gone, known != NULL && !gone ? &known->row : &key) < 0) {
            break;
        }
        x->last->known = known != NULL;
    }
    if (x == NULL || x->failed) {
        tt_state_abandon(x);
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    x->fetched = done;
    x->arg = arg;
    *ret = x;
    return TT_OK;
}

static void report_rows(tt_state_txn *x);

tt_code tt_state_fetch(tt_state_db *db, const tt_state_key *keys, int32_t n, tt_state_fetched done,
                       void *arg, tt_err *reterr)
{
    tt_state_txn *x;
    if (db == NULL) {
        done(arg, TT_OK, NULL, 0, &(tt_err){0});
        return TT_OK;
    }
    tt_code rc = make_fetch(db, keys, n, done, arg, &x, reterr);
    if (rc == TT_OK) {
        submit(db, &db->reads, x);
    }
    return rc;
}

tt_code tt_state_read(tt_state_db *db, const tt_state_key *keys, int32_t n, tt_state_fetched done,
                      void *arg, tt_err *reterr)
{
    tt_state_txn *x;
    if (db == NULL) {
        return tt_state_fetch(db, keys, n, done, arg, reterr);
    }
    tt_code rc = make_fetch(db, keys, n, done, arg, &x, reterr);
    if (rc == TT_OK) {
        pthread_mutex_lock(&db->sql_lock);
        tt_state_writer_read(db, x);
        pthread_mutex_unlock(&db->sql_lock);
        report_rows(x);
        tt_state_txn_free(x);
    }
    return rc;
}

/* ---- results ---- */

static void report_rows(tt_state_txn *x)
{
    int32_t n = 0, i = 0;
    for (const tt_state_op *op = x->first; op != NULL; op = op->next) {
        n++;
    }
    tt_state_row *rows = calloc((size_t)n + 1, sizeof *rows);
    if (rows == NULL) {
        x->rc = tt_fail(&x->err, TT_E_NOMEM, "out of memory");
    }
    for (const tt_state_op *op = x->first; rows != NULL && op != NULL; op = op->next, i++) {
        if (op->found != NULL) {
            rows[i] = op->found->row;
        } else if (op->known && !op->remove) {
            rows[i] = op->row;
        }
    }
    x->fetched(x->arg, x->rc, rows, x->rc == TT_OK ? n : 0, &x->err);
    free(rows);
}

/* Memory ran out for the journal's transaction: it is tried again as if the file were away. */
static void stay_away(tt_state_db *db)
{
    db->mode = TT_STATE_AWAY;
    (void)tt_fail(&db->why, TT_E_NOMEM, "out of memory for the state on disk");
    pthread_mutex_lock(&db->lock);
    db->broken = true; /* the writer tells when to try */
    pthread_cond_signal(&db->more);
    pthread_mutex_unlock(&db->lock);
}

static void report_done(tt_state_db *db, tt_state_txn *x)
{
    if (x->fetched != NULL) {
        report_rows(x);
    } else if (x->done != NULL) {
        x->done(x->arg, TT_OK, &x->err);
    }
    if (x != db->syncing) {
        return;
    }
    db->syncing = NULL; /* the file is back; what came meanwhile goes before anything new */
    db->mode = TT_STATE_HEALTHY;
    tt_state_txn *rest = tt_state_journal_take(db);
    if (rest == NULL && !tt_state_journal_empty(db)) {
        stay_away(db);
    } else if (rest != NULL) {
        rest->db = db;
        rest->resume = true;
        submit(db, &db->queue, rest);
    }
}

static void report_failed(tt_state_db *db, tt_state_txn *x, const tt_err *why)
{
    tt_err err;
    if (x->resume) { /* its rows stay, older than those that came since */
        db->syncing = NULL;
        db->mode = TT_STATE_AWAY;
        db->why = *why;
        tt_state_journal_merge_older(db, x);
        return;
    }
    bool memory = why->code == TT_E_NOMEM;
    (void)tt_fail(&err, memory ? TT_E_NOMEM : TT_E_STATE, "%s", why->msg);
    if (x->done != NULL) {
        x->done(x->arg, err.code, &err);
    }
}

static void start_sync(tt_state_db *db)
{
    tt_state_txn *x = tt_state_journal_take(db);
    if (x == NULL && tt_state_journal_empty(db)) {
        x = tt_state_begin(db); /* an attempt all the same */
    }
    if (x != NULL) {
        x->db = db;
        x->resume = true;
        db->syncing = x;
        db->mode = TT_STATE_SYNCING;
        submit(db, &db->queue, x);
    }
}

void tt_state_poll(tt_state_db *db)
{
    if (db == NULL) {
        return;
    }
    pthread_mutex_lock(&db->lock);
    tt_state_txn *finished = db->finished.first, *failed = db->failed;
    tt_err why = db->failure;
    bool broken = db->broken, retry = db->retry_due;
    db->finished = (tt_state_queue){0};
    while (db->failing && db->queue.first != NULL) {
        tt_state_txn *x = db->queue.first;
        db->queue.first = x->next;
        x->next = failed;
        failed = x;
        db->counts.failures++;
    }
    if (db->failing) {
        db->queue.last = NULL;
    }
    db->failed = NULL;
    db->failing = db->retry_due = false;
    pthread_cond_signal(&db->more);
    pthread_mutex_unlock(&db->lock);
    if (broken && failed != NULL && db->mode == TT_STATE_HEALTHY) {
        db->mode = TT_STATE_AWAY;
        db->why = why;
    }
    db->failures += failed != NULL;
    for (tt_state_txn *x = finished, *next; x != NULL; x = next) {
        next = x->next;
        report_done(db, x);
        tt_state_txn_free(x);
    }
    for (tt_state_txn *x = failed, *next; x != NULL; x = next) {
        next = x->next;
        report_failed(db, x, &why);
        tt_state_txn_free(x);
    }
    if (retry && db->mode == TT_STATE_AWAY) {
        start_sync(db);
    }
}
