/* session_state.c - see session_state.h. */
#include "server/session_state.h"

#include <stdlib.h>
#include <string.h>

#include "server/http_commit.h"
#include "server/session_load.h"
#include "server/session_row.h"
#include "server/session_store_priv.h"

enum {
    MAX_FLUSHED = 200,   /* records at a time */
    SUSPECT_SECONDS = 60 /* a write that failed was begun this long before at most */
};

tt_state_db *tt_session_state_of(const tt_session_store *st)
{
    return st->opt.state != NULL ? st->opt.state(st->opt.arg) : NULL;
}

/* ---- what a record refers to ---- */

typedef struct key_list {
    char v[TT_SESSION_SAVED][TT_SESSION_PART_KEY];
    int32_t n;
} key_list;

static void add_key(key_list *l, const char *key)
{
    if (key[0] != '\0') {
        strcpy(l->v[l->n++], key);
    }
}

static void list_keys(const tt_session_record *r, key_list *l)
{
    tt_session_part p;
    l->n = 0;
    for (int32_t i = 0; tt_session_part_at(r->data, i, &p); i++) {
        add_key(l, p.key);
    }
    add_key(l, r->text_key);
    add_key(l, r->context_text_key);
}

/* The record refers to these from now on. x: contents that nobody refers to any more are deleted
 * in it; NULL = not now. */
static void set_saved(tt_session_record *r, const key_list *now, tt_state_txn *x)
{
    tt_content_table *t = r->store->contents;
    bool complete = tt_state_complete(tt_session_state_of(r->store)) && !r->store->unreadable;
    for (int32_t i = 0; i < r->n_saved; i++) {
        if (tt_content_unref(t, r->saved[i]) && x != NULL && complete) {
            (void)tt_state_delete(x, TT_STATE_CONTEXT, "", r->saved[i]);
        }
    }
    memcpy(r->saved, now->v, sizeof r->saved);
    r->n_saved = now->n;
}

/* ---- put ---- */

static tt_code put_bytes(tt_state_txn *x, const char *key, const tt_buf *b)
{
    return tt_state_put(x, TT_STATE_CONTEXT,
                        &(tt_state_row){.scope = "",
                                        .id = key,
                                        .created_at = (double)time(NULL),
                                        .json = "{\"version\":1}",
                                        .blob = b->p,
                                        .n_blob = b->n});
}

/* What a record's row refers to: counted, and put where that is not in the file. */
typedef struct contents {
    tt_session_record *r;
    tt_state_txn *x;
    key_list keys; /* counted so far */
} contents;

/* One content: key [TT_SESSION_PART_KEY], "" = it has none yet; part or text, or neither when it
 * is not in memory. */
static tt_code put_content(contents *c, char *key, const tt_session_part *part,
                           const tt_session_text *text)
{
    tt_session_record *r = c->r;
    tt_buf b = {0};
    bool fresh = key[0] == '\0', there = part != NULL || text != NULL;
    tt_code rc = TT_OK;
    if (fresh || (there && (r->suspect || !tt_content_known(r->store->contents, key)))) {
        if (part != NULL) {
            tt_content_pack_part(part, &b);
        } else {
            tt_session_text_pack(text, &b);
        }
        rc = b.failed ? TT_E_NOMEM : TT_OK;
    }
    if (rc == TT_OK && fresh) {
        tt_content_key(b.p, b.n, key);
    }
    if (rc == TT_OK) {
        bool first = tt_content_ref(r->store->contents, key);
        add_key(&c->keys, key);
        rc = (first || r->suspect) && b.n > 0 ? put_bytes(c->x, key, &b) : TT_OK;
    }
    tt_buf_finish(&b);
    return rc;
}

static tt_code put_text(contents *c, tt_session_text *t, char *key)
{
    tt_code rc = TT_OK;
    if (t != NULL) {
        rc = put_content(c, tt_session_text_key(t), NULL, t);
        strcpy(key, tt_session_text_key(t));
    } else if (key[0] != '\0') {
        rc = put_content(c, key, NULL, NULL);
    }
    return rc;
}

/* Every content is counted once more, those of before once less afterwards: what stays is never
 * at zero in between. What memory ran out for is counted as it was. */
static tt_code put_contents(tt_session_record *r, tt_state_txn *x)
{
    contents c = {.r = r, .x = x};
    tt_session_part p;
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && tt_session_part_at(r->data, i, &p); i++) {
        rc = put_content(&c, p.key, p.ids != NULL ? &p : NULL, NULL);
    }
    if (rc == TT_OK) {
        rc = put_text(&c, r->text, r->text_key);
    }
    if (rc == TT_OK) {
        rc = put_text(&c, r->context_text, r->context_text_key);
    }
    if (rc == TT_OK) {
        set_saved(r, &c.keys, x);
        return TT_OK;
    }
    for (int32_t i = 0; i < c.keys.n; i++) {
        (void)tt_content_unref(r->store->contents, c.keys.v[i]);
    }
    return rc;
}

tt_code tt_session_state_put(tt_state_txn *x, tt_session_record *r)
{
    tt_buf json = {0};
    if (r->deleted || r->deleting || tt_session_state_of(r->store) == NULL) {
        return TT_OK;
    }
    tt_code rc = put_contents(r, x);
    if (rc == TT_OK) {
        tt_session_row_write(&json, r);
        tt_buf_putc(&json, '\0');
        rc = json.failed ? TT_E_NOMEM
                         : tt_state_put(x, TT_STATE_SESSION,
                                        &(tt_state_row){.scope = r->scope,
                                                        .id = r->id,
                                                        .created_at = (double)r->created_at,
                                                        .json = json.p});
    }
    tt_buf_finish(&json);
    r->in_db = true;
    r->dirty = r->suspect = rc < 0;
    r->saved_at = tt_session_clock();
    r->saved_used = r->last_used;
    if (rc < 0) {
        tt_state_spoil(x);
    }
    return rc;
}

void tt_session_state_abandoned(tt_session_record *r)
{
    r->suspect = r->dirty = true;
}

bool tt_session_durable(const tt_session_record *r)
{
    return r->in_db && !r->suspect && tt_state_durable(tt_session_state_of(r->store));
}

static void unpin(const tt_session_store *st, uint64_t adapter_id)
{
    tt_engine *e = st->opt.engine(st->opt.arg);
    if (e != NULL && adapter_id != 0) {
        tt_engine_unpin(e, adapter_id);
    }
}

typedef struct dropped_pin {
    const tt_session_store *st;
    uint64_t adapter_id;
} dropped_pin;

static void on_put(void *arg, tt_code rc, const tt_err *err)
{
    dropped_pin *d = arg;
    if (rc >= 0) {
        unpin(d->st, d->adapter_id);
    }
    free(d);
}

/* A pin that is not given back keeps a file until the next start. */
void tt_session_state_put_now(tt_session_record *r, uint64_t dropped)
{
    tt_state_db *db = tt_session_state_of(r->store);
    if (!r->in_db || r->deleted || r->deleting || db == NULL) {
        unpin(r->store, dropped);
        return;
    }
    dropped_pin *d = dropped != 0 ? malloc(sizeof *d) : NULL;
    if (d != NULL) {
        *d = (dropped_pin){.st = r->store, .adapter_id = dropped};
    }
    tt_state_txn *x = tt_state_begin(db);
    (void)tt_session_state_put(x, r);
    tt_state_commit(x, d != NULL ? on_put : NULL, d);
}

/* ---- delete ---- */

static void put_deletion(tt_session_record *r, tt_state_txn *x)
{
    key_list none = {.n = 0};
    set_saved(r, &none, x);
    (void)tt_state_delete(x, TT_STATE_SESSION, r->scope, r->id);
}

void tt_session_state_forget(tt_session_record *r)
{
    tt_state_db *db = tt_session_state_of(r->store);
    if (r->in_db && db != NULL) {
        tt_state_txn *x = tt_state_begin(db);
        put_deletion(r, x);
        tt_state_commit(x, NULL, NULL);
    }
    r->in_db = false;
}

static void on_deletion(void *arg, tt_code rc)
{
    tt_session_record *r = arg;
    r->deleting = false;
    if (!r->deleted && rc >= 0) {
        r->in_db = false;
        tt_session_store_delete(r);
    } else if (!r->deleted) { /* it is still there, and so is its row */
        key_list now;
        list_keys(r, &now);
        for (int32_t i = 0; i < now.n; i++) {
            (void)tt_content_ref(r->store->contents, now.v[i]);
        }
        set_saved(r, &now, NULL);
        r->dirty = true;
    }
    tt_session_unref(&r);
}

void tt_session_state_delete(tt_session_record *r, tt_http_request *req)
{
    tt_state_txn *x = tt_http_txn(req);
    if (!r->deleting) { /* else a request before this one does it */
        if (r->in_db) {
            put_deletion(r, x);
        }
        r->deleting = true;
    }
    tt_session_ref(r);
    tt_http_txn_end(req, on_deletion, r);
}

/* ---- changes ---- */

struct tt_session_change {
    tt_session_record *r; /* a reference */
    tt_change_kind kind;
    tt_session *data; /* owned: as it was */
    tt_session_text *text, *context_text;
    char text_key[TT_SESSION_PART_KEY], context_text_key[TT_SESSION_PART_KEY];
    tt_session_status status;
    tt_err error;
    char *metadata;
    double ttl_seconds;
    bool answered, in_db;
};

static tt_session_text *ref_text(tt_session_text *t)
{
    return t != NULL ? tt_session_text_ref(t) : NULL;
}

static void free_change(tt_session_change *c)
{
    tt_session_destroy(&c->data);
    tt_session_text_unref(&c->text);
    tt_session_text_unref(&c->context_text);
    free(c->metadata);
    tt_session_unref(&c->r);
    free(c);
}

tt_session_change *tt_session_change_begin(tt_session_record *r, tt_change_kind kind)
{
    tt_err err;
    tt_session_change *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return NULL;
    }
    tt_session_ref(r);
    c->r = r;
    c->kind = kind;
    c->metadata = strdup(r->metadata);
    if (c->metadata == NULL || tt_session_backup(r->data, &c->data, &err) < 0) {
        free_change(c);
        return NULL;
    }
    c->text = ref_text(r->text);
    c->context_text = ref_text(r->context_text);
    strcpy(c->text_key, r->text_key);
    strcpy(c->context_text_key, r->context_text_key);
    c->status = r->status;
    c->error = r->error;
    c->ttl_seconds = r->ttl_seconds;
    c->answered = r->answered;
    c->in_db = r->in_db;
    return c;
}

static void swap_texts(tt_session_text **a, tt_session_text **b)
{
    tt_session_text *t = *a;
    *a = *b;
    *b = t;
}

static void revert(tt_session_change *c)
{
    tt_session_record *r = c->r;
    key_list now;
    tt_session_generation over;
    tt_session_revert(r->data, c->data, c->kind == TT_CHANGE_RESET);
    swap_texts(&r->text, &c->text);
    swap_texts(&r->context_text, &c->context_text);
    strcpy(r->text_key, c->text_key);
    strcpy(r->context_text_key, c->context_text_key);
    r->status = c->status;
    r->error = c->error;
    r->ttl_seconds = c->ttl_seconds;
    r->answered = c->answered;
    free(r->metadata);
    r->metadata = c->metadata;
    c->metadata = NULL;
    r->in_db = c->in_db;
    list_keys(r, &now);
    if (!r->in_db) {
        now.n = 0;
    }
    if (!r->deleting && tt_session_state_of(r->store) != NULL) {
        for (int32_t i = 0; i < now.n; i++) {
            (void)tt_content_ref(r->store->contents, now.v[i]);
        }
        set_saved(r, &now, NULL);
    }
    tt_session_recount(r);
    r->dirty = true;
    for (int32_t i = 0; tt_session_generation_at(c->data, i, &over); i++) {
        tt_session_state_put_now(r, over.adapter_id);
    }
}

/* A session that was made for a request of which nothing came: its row was not written. */
static void drop_created(tt_session_record *r)
{
    key_list none = {.n = 0};
    set_saved(r, &none, NULL);
    r->in_db = false;
    tt_session_store_delete(r);
}

void tt_session_change_undo(tt_session_change *c)
{
    if (c == NULL) {
        return;
    }
    if (!c->r->deleted && c->kind == TT_CHANGE_CREATE) {
        drop_created(c->r);
    } else if (!c->r->deleted) {
        revert(c);
        if (c->r->implicit && !c->r->answered && c->r->users == NULL) { /* made for this turn */
            tt_session_store_delete(c->r);
        }
    }
    free_change(c);
}

/* Of the generations that are gone. */
static void give_pins_back(const tt_session_change *c)
{
    tt_session_generation g;
    for (int32_t i = 0; tt_session_generation_at(c->data, i, &g); i++) {
        unpin(c->r->store, g.adapter_id);
    }
}

static void on_written(void *arg, tt_code rc)
{
    tt_session_change *c = arg;
    if (rc < 0) {
        tt_session_change_undo(c);
        return;
    }
    if (c->kind == TT_CHANGE_RESET && !c->r->deleted) {
        give_pins_back(c);
    }
    free_change(c);
}

void tt_session_change_write(tt_session_change *c, tt_http_request *req)
{
    (void)tt_session_state_put(tt_http_txn(req), c->r); /* the commit tells of a failure */
    tt_http_txn_end(req, on_written, c);
}

/* ---- while the server runs ---- */

/* Nothing of what was put since then may be in the file. */
static void suspect_since(tt_session_store *st, double since)
{
    for (tt_session_record *r = st->first; r != NULL; r = r->next) {
        if (r->in_db && r->saved_at >= since) {
            r->suspect = r->dirty = true;
        }
    }
}

void tt_session_state_check(tt_session_store *st)
{
    uint64_t failures = tt_state_failures(tt_session_state_of(st));
    if (failures == st->failures_seen) {
        return;
    }
    st->failures_seen = failures;
    suspect_since(st, tt_session_clock() - SUSPECT_SECONDS);
}

static bool wants_write(const tt_session_record *r)
{
    return r->in_db && !r->deleting && (r->dirty || r->last_used > r->saved_used);
}

void tt_session_state_flush(tt_session_store *st, bool all)
{
    tt_state_db *db = tt_session_state_of(st);
    tt_state_txn *x = NULL;
    int32_t n = 0;
    bool failed = false;
    double begun = tt_session_clock();
    for (tt_session_record *r = st->first; db != NULL && r != NULL && (all || n < MAX_FLUSHED);
         r = r->next) {
        if (wants_write(r)) {
            x = x != NULL ? x : tt_state_begin(db);
            failed = tt_session_state_put(x, r) < 0 || failed;
            n++;
        }
    }
    if (failed) { /* none of them is written: the next time */
        tt_state_abandon(x);
        suspect_since(st, begun);
    } else if (n > 0) {
        tt_state_commit(x, NULL, NULL);
    }
}
