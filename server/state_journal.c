/* state_journal.c - ops and transactions as memory, and the rows that wait while the file is away:
 * the latest op of each key, in a table of chains, so that hours of it hold no more than what there
 * is. Thread: the loop thread; an op is constant once it is queued. */
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "server/state_db_priv.h"

/* ---- ops ---- */

void tt_state_op_free(tt_state_op *op)
{
    free(op->found);
    free(op);
}

void tt_state_txn_free(tt_state_txn *x)
{
    if (x != NULL) {
        for (tt_state_op *op = x->first, *next; op != NULL; op = next) {
            next = op->next;
            tt_state_op_free(op);
        }
        free(x);
    }
}

tt_state_op *tt_state_op_create(tt_state_table t, bool remove, const tt_state_row *row)
{
    const char *json = row->json != NULL ? row->json : "{}";
    size_t n_scope = strlen(row->scope) + 1, n_id = strlen(row->id) + 1, n_json = strlen(json) + 1;
    size_t n_blob = row->blob != NULL ? row->n_blob : 0;
    tt_state_op *op = malloc(sizeof *op + n_blob + n_scope + n_id + n_json);
    if (op == NULL) {
        return NULL;
    }
    char *p = (char *)(op + 1);
    *op = (tt_state_op){.table = t, .remove = remove, .row = *row};
    op->row.blob = row->blob != NULL ? p : NULL;
    op->row.n_blob = n_blob;
    if (n_blob > 0) {
        memcpy(p, row->blob, n_blob);
    }
    p += n_blob;
    op->row.scope = memcpy(p, row->scope, n_scope);
    op->row.id = memcpy(p + n_scope, row->id, n_id);
    op->row.json = memcpy(p + n_scope + n_id, json, n_json);
    return op;
}

void tt_state_txn_add(tt_state_txn *x, tt_state_op *op)
{
    op->next = NULL;
    op->prev = x->last;
    *(x->last != NULL ? &x->last->next : &x->first) = op;
    x->last = op;
}

/* ---- the journal ---- */

static size_t slot_of(tt_state_table t, const char *scope, const char *id)
{
    uint64_t h = XXH3_64bits_withSeed(scope, strlen(scope), (uint64_t)t);
    return (size_t)(XXH3_64bits_withSeed(id, strlen(id), h) % TT_STATE_SLOTS);
}

static bool same_key(const tt_state_op *a, tt_state_table t, const char *scope, const char *id)
{
    return a->table == t && strcmp(a->row.id, id) == 0 && strcmp(a->row.scope, scope) == 0;
}

static tt_state_op **find_slot(tt_state_journal *j, tt_state_table t, const char *scope,
                               const char *id)
{
    tt_state_op **p = &j->slots[slot_of(t, scope, id)];
    while (*p != NULL && !same_key(*p, t, scope, id)) {
        p = &(*p)->chain;
    }
    return p;
}

/* The op of a slot goes. */
static void drop(tt_state_journal *j, tt_state_op **slot)
{
    tt_state_op *op = *slot;
    tt_state_txn *x = j->txn;
    *slot = op->chain;
    *(op->prev != NULL ? &op->prev->next : &x->first) = op->next;
    *(op->next != NULL ? &op->next->prev : &x->last) = op->prev;
    tt_state_op_free(op);
}

static void merge(tt_state_db *db, tt_state_txn *x, bool newer)
{
    tt_state_journal *j = &db->journal;
    for (tt_state_op *op = x->first, *next; op != NULL; op = next) {
        next = op->next;
        op->chain = NULL;
        tt_state_op **slot = find_slot(j, op->table, op->row.scope, op->row.id);
        if (*slot != NULL && !newer) {
            tt_state_op_free(op);
            continue;
        }
        if (*slot != NULL) {
            drop(j, slot);
            slot = find_slot(j, op->table, op->row.scope, op->row.id);
        }
        *slot = op;
        tt_state_txn_add(j->txn, op);
    }
    x->first = x->last = NULL;
}

tt_code tt_state_journal_init(tt_state_db *db, tt_err *reterr)
{
    db->journal.txn = calloc(1, sizeof *db->journal.txn);
    return db->journal.txn != NULL ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "out of memory");
}

void tt_state_journal_merge(tt_state_db *db, tt_state_txn *x)
{
    merge(db, x, true);
}

void tt_state_journal_merge_older(tt_state_db *db, tt_state_txn *x)
{
    merge(db, x, false);
}

bool tt_state_journal_empty(const tt_state_db *db)
{
    return db->journal.txn->first == NULL;
}

tt_state_txn *tt_state_journal_take(tt_state_db *db)
{
    tt_state_txn *x = db->journal.txn;
    tt_state_txn *empty = x->first != NULL ? calloc(1, sizeof *empty) : NULL;
    if (empty == NULL) {
        return NULL;
    }
    memset(&db->journal, 0, sizeof db->journal);
    db->journal.txn = empty;
    return x;
}

void tt_state_journal_finish(tt_state_db *db)
{
    tt_state_txn_free(db->journal.txn);
    db->journal.txn = NULL;
}

const tt_state_op *tt_state_journal_find(const tt_state_db *db, const tt_state_key *key)
{
    const tt_state_op *op = db->journal.slots[slot_of(key->table, key->scope, key->id)];
    while (op != NULL && !same_key(op, key->table, key->scope, key->id)) {
        op = op->chain;
    }
    if (op == NULL && db->syncing != NULL) {
        op = db->syncing->first;
        while (op != NULL && !same_key(op, key->table, key->scope, key->id)) {
            op = op->next;
        }
    }
    return op;
}
