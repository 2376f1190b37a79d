/* session_store.c - see session_store.h. Records hang in a list, newest first, and in a table of
 * chains by tenant and id. What prefills and adapters a record has in the engine is
 * session_engine.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <uv.h>
#include <xxhash.h>

#include "server/hex.h"
#include "server/session_load.h"
#include "server/session_state.h"
#include "server/session_store_priv.h"

double tt_session_clock(void)
{
    return (double)uv_hrtime() * 1e-9;
}

tt_code tt_session_store_create(const tt_session_store_options *opt, tt_session_store **ret,
                                tt_err *reterr)
{
    tt_session_store *st = calloc(1, sizeof *st);
    if (st == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    st->opt = *opt;
    tt_code rc = tt_content_create(&st->contents, reterr);
    if (rc < 0) {
        free(st);
        return rc;
    }
    *ret = st;
    return TT_OK;
}

void tt_session_store_destroy(tt_session_store **store)
{
    tt_session_store *st = *store;
    if (st != NULL) {
        while (st->first != NULL) {
            tt_session_store_delete(st->first);
        }
        for (int32_t i = 0; i < st->n_orphans; i++) {
            tt_job_unref(&st->orphans[i]);
        }
        free(st->orphans);
        tt_content_destroy(&st->contents);
        free(st);
        *store = NULL;
    }
}

/* ---- keys ---- */

bool tt_session_is_key(const char *s)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t n = strspn(s, allowed);
    return n > 0 && n < TT_SESSION_KEY_BYTES && s[n] == '\0';
}

void tt_session_key(const char *given, char ret[TT_SESSION_KEY_BYTES])
{
    const char *key = given;
    while (key != NULL && strncmp(key, "ses_", TT_SESSION_PREFIX) == 0) {
        key += TT_SESSION_PREFIX;
    }
    if (key != NULL && tt_session_is_key(key)) {
        strcpy(ret, key);
    } else if (given != NULL && given[0] != '\0') {
        XXH128_canonical_t c;
        XXH128_canonicalFromHash(&c, XXH3_128bits(given, strlen(given)));
        tt_hex_write(c.digest, sizeof c.digest, ret);
    } else {
        tt_hex_random(12, ret);
    }
}

void tt_session_key_beside(const char *key, char ret[TT_SESSION_KEY_BYTES])
{
    enum { N_RANDOM = 12 };
    char random[TT_SESSION_KEY_BYTES];
    const char *mark = key[0] != '\0' ? strstr(key + 1, "--") : NULL;
    size_t n = mark != NULL ? (size_t)(mark - key) : strlen(key);
    tt_session_key(NULL, random);
    if (n == 0 || n + 2 + N_RANDOM >= TT_SESSION_KEY_BYTES) {
        strcpy(ret, random);
        return;
    }
    memmove(ret, key, n);
    memcpy(ret + n, "--", 2);
    memcpy(ret + n + 2, random, N_RANDOM);
    ret[n + 2 + N_RANDOM] = '\0';
}

/* ---- the table ---- */

static tt_session_record **slot_of(tt_session_store *st, const char *scope, const char *id)
{
    uint64_t h = XXH3_64bits_withSeed(id, strlen(id), XXH3_64bits(scope, strlen(scope)));
    return &st->table[h % TT_SESSION_SLOTS];
}

tt_session_record *tt_session_store_find(tt_session_store *st, const char *scope, const char *id)
{
    tt_session_record *r = *slot_of(st, scope, id);
    while (r != NULL && (strcmp(r->id, id) != 0 || strcmp(r->scope, scope) != 0)) {
        r = r->chain;
    }
    return r;
}

static void link_record(tt_session_store *st, tt_session_record *r)
{
    tt_session_record **slot = slot_of(st, r->scope, r->id);
    r->store = st;
    r->chain = *slot;
    *slot = r;
    r->next = st->first;
    if (st->first != NULL) {
        st->first->prev = r;
    } else {
        st->last = r;
    }
    st->first = r;
    st->n++;
}

static void unlink_record(tt_session_record *r)
{
    tt_session_store *st = r->store;
    tt_session_record **slot = slot_of(st, r->scope, r->id);
    while (*slot != r) {
        slot = &(*slot)->chain;
    }
    *slot = r->chain;
    *(r->prev != NULL ? &r->prev->next : &st->first) = r->next;
    *(r->next != NULL ? &r->next->prev : &st->last) = r->prev;
    st->n--;
    st->bytes -= r->bytes;
    r->bytes = 0;
    r->deleted = true;
}

/* ---- life of a record ---- */

void tt_session_ref(tt_session_record *r)
{
    r->refs++;
}

void tt_session_unref(tt_session_record **record)
{
    tt_session_record *r = *record;
    *record = NULL;
    if (r != NULL && --r->refs == 0) {
        tt_session_destroy(&r->data);
        tt_session_text_unref(&r->text);
        tt_session_text_unref(&r->context_text);
        json_decref(r->qttt);
        free(r->metadata);
        free(r);
    }
}

static size_t bytes_of(const tt_session_record *r)
{
    return sizeof *r + tt_session_bytes(r->data) +
           (r->text != NULL ? tt_session_text_bytes(r->text) : 0) +
           (r->context_text != NULL && r->context_text != r->text
                ? tt_session_text_bytes(r->context_text)
                : 0) +
           (r->metadata != NULL ? strlen(r->metadata) : 0);
}

void tt_session_touch(tt_session_record *r)
{
    r->last_used = tt_session_clock();
    tt_session_recount(r);
}

void tt_session_recount(tt_session_record *r)
{
    if (!r->deleted) {
        r->store->bytes -= r->bytes;
        r->bytes = bytes_of(r);
        r->store->bytes += r->bytes;
    }
}

/* Nothing is lost with it that the client cannot do without: nobody asked for it by name. */
static bool can_go(const tt_session_record *r)
{
    return r->implicit && r->users == NULL && r->refs == 1 && tt_session_latest(r->data) == 0;
}

/* Deletes the one of them that was used least recently, of a tenant unless scope is NULL; false:
 * there is none. */
static bool drop_oldest(tt_session_store *st, const char *scope)
{
    tt_session_record *oldest = NULL;
    for (tt_session_record *r = st->first; r != NULL; r = r->next) {
        bool ours = scope == NULL || strcmp(r->scope, scope) == 0;
        if (ours && can_go(r) && (oldest == NULL || r->last_used < oldest->last_used)) {
            oldest = r;
        }
    }
    if (oldest != NULL) {
        tt_session_store_delete(oldest);
    }
    return oldest != NULL;
}

/* Room for one more of n bytes. */
static bool make_room(tt_session_store *st, size_t n)
{
    while (st->bytes > st->opt.max_bytes || n > st->opt.max_bytes - st->bytes) {
        if (!tt_session_unload_oldest(st) && !drop_oldest(st, NULL)) {
            return false;
        }
    }
    while (st->n >= st->opt.max_sessions) {
        if (!drop_oldest(st, NULL)) {
            return false;
        }
    }
    return true;
}

void tt_session_store_trim(tt_session_store *st)
{
    while (st->bytes > st->opt.max_bytes &&
           (tt_session_unload_oldest(st) || drop_oldest(st, NULL))) {
    }
}

/* Around `data`, in no list. NULL: memory ran out. */
static tt_session_record *make_record(const char *scope, const char *id, tt_session *data)
{
    tt_session_record *r = calloc(1, sizeof *r);
    if (r == NULL || (r->metadata = strdup("{}")) == NULL) {
        free(r);
        return NULL;
    }
    snprintf(r->id, sizeof r->id, "%s", id);
    snprintf(r->scope, sizeof r->scope, "%s", scope);
    r->data = data;
    r->refs = 1;
    r->status = TT_SESSION_READY;
    return r;
}

static void free_record(tt_session_record *r)
{
    free(r->metadata);
    free(r);
}

tt_code tt_session_store_add(tt_session_store *st, const char *scope, const char *key,
                             bool implicit, tt_session *data, tt_session_text *text,
                             tt_session_record **ret, tt_err *reterr)
{
    char id[TT_SESSION_ID_BYTES] = "ses_";
    strncat(id, key, sizeof id - 5);
    if (tt_session_store_find(st, scope, id) != NULL) {
        return tt_fail(reterr, TT_E_BUSY, "the session '%s' exists already", id);
    }
    tt_session_record *r = make_record(scope, id, data);
    if (r == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    tt_code rc =
        st->opt.may_add != NULL ? st->opt.may_add(st->opt.arg, scope, bytes_of(r), reterr) : TT_OK;
    if (rc < 0) {
        free_record(r);
        return rc;
    }
    size_t n_bytes = bytes_of(r) + (text != NULL ? tt_session_text_bytes(text) : 0);
    if (!make_room(st, n_bytes)) {
        free_record(r);
        return tt_fail(reterr, TT_E_CAPACITY, "no room for a session more: there are %d",
                       (int)st->n);
    }
    if (text != NULL) {
        tt_session_set_context_text(r, text);
    }
    r->tag = ++st->last_tag;
    r->implicit = implicit;
    r->created_at = (int64_t)time(NULL);
    r->ttl_seconds = st->opt.ttl_seconds;
    strcpy(r->model, st->model);
    link_record(st, r);
    tt_session_touch(r);
    *ret = r;
    return TT_OK;
}

tt_code tt_session_store_restore(tt_session_store *st, const char *scope, const char *id,
                                 bool implicit, tt_session *data, tt_session_record **ret,
                                 tt_err *reterr)
{
    if (tt_session_store_find(st, scope, id) != NULL) {
        return tt_fail(reterr, TT_E_BUSY, "the session '%s' exists already", id);
    }
    tt_session_record *r = make_record(scope, id, data);
    if (r == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    r->tag = ++st->last_tag;
    r->implicit = implicit;
    link_record(st, r);
    tt_session_recount(r);
    *ret = r;
    return TT_OK;
}

void tt_session_set_context_text(tt_session_record *r, tt_session_text *text)
{
    tt_session_text_unref(&r->text);
    tt_session_text_unref(&r->context_text);
    r->text = text;
    r->context_text = tt_session_text_ref(text);
    r->text_key[0] = r->context_text_key[0] = '\0'; /* until it is stored */
}

void tt_session_store_delete(tt_session_record *r)
{
    tt_session_store *st = r->store;
    if (r->deleted) {
        return;
    }
    tt_session_state_forget(r);
    tt_session_stop_prefill(r);
    tt_session_drop_adapters(r);
    unlink_record(r);
    if (st->opt.on_deleted != NULL) {
        st->opt.on_deleted(st->opt.arg, r);
    }
    while (r->users != NULL) {
        tt_session_user *u = r->users;
        u->on_deleted(u);
        if (r->users == u) { /* it did not take itself off */
            tt_session_remove_user(r, u);
        }
    }
    tt_session_append_ended(r);
    tt_session_unref(&r);
}

void tt_session_wait(tt_session_record *r, tt_session_waiter *w)
{
    w->next = NULL;
    *(r->waiting_last != NULL ? &r->waiting_last->next : &r->waiting_first) = w;
    r->waiting_last = w;
}

void tt_session_stop_waiting(tt_session_record *r, tt_session_waiter *w)
{
    tt_session_waiter *before = NULL;
    for (tt_session_waiter *v = r->waiting_first; v != NULL; before = v, v = v->next) {
        if (v == w) {
            *(before != NULL ? &before->next : &r->waiting_first) = w->next;
            r->waiting_last = r->waiting_last == w ? before : r->waiting_last;
            return;
        }
    }
}

/* The one that goes on takes the session, or gives it to the next by calling this again. */
void tt_session_append_ended(tt_session_record *r)
{
    tt_session_ref(r);
    while (r->waiting_first != NULL && (r->deleted || !tt_session_appending(r->data))) {
        tt_session_waiter *w = r->waiting_first;
        tt_session_stop_waiting(r, w);
        w->go(w);
    }
    tt_session_unref(&r);
}

void tt_session_add_user(tt_session_record *r, tt_session_user *u)
{
    u->prev = NULL;
    u->next = r->users;
    if (r->users != NULL) {
        r->users->prev = u;
    }
    r->users = u;
}

void tt_session_remove_user(tt_session_record *r, tt_session_user *u)
{
    *(u->prev != NULL ? &u->prev->next : &r->users) = u->next;
    if (u->next != NULL) {
        u->next->prev = u->prev;
    }
    u->prev = u->next = NULL;
}

/* ---- time ---- */

int64_t tt_session_last_used_at(const tt_session_record *r)
{
    return (int64_t)time(NULL) - (int64_t)(tt_session_clock() - r->last_used);
}

int64_t tt_session_expires_at(const tt_session_record *r)
{
    return r->ttl_seconds > 0 ? tt_session_last_used_at(r) + (int64_t)ceil(r->ttl_seconds) : 0;
}

double tt_session_store_sweep(tt_session_store *st)
{
    double now = tt_session_clock(), wait = INFINITY;
    for (tt_session_record *r = st->first, *next; r != NULL; r = next) {
        next = r->next;
        if (r->ttl_seconds <= 0) {
            continue;
        }
        if (r->users != NULL || r->prefill != NULL || r->refs > 1) { /* it is not idle */
            r->last_used = now;
        }
        double left = r->last_used + r->ttl_seconds - now;
        if (left <= 0) {
            tt_session_store_delete(r);
        } else {
            wait = fmin(wait, left);
        }
    }
    return wait;
}

/* ---- lists ---- */

tt_session_record *tt_session_store_first(tt_session_store *st)
{
    return st->first;
}

bool tt_session_store_list(tt_session_store *st, const tt_session_list *q, tt_session_record **v,
                           int32_t *ret_n, bool *ret_more)
{
    tt_session_record *r = q->ascending ? st->last : st->first;
    int32_t n = 0;
    bool more = false;
    if (q->after[0] != '\0') {
        r = tt_session_store_find(st, q->scope, q->after);
        if (r == NULL) {
            return false;
        }
        r = q->ascending ? r->prev : r->next;
    }
    for (; r != NULL && !more; r = q->ascending ? r->prev : r->next) {
        if (strcmp(r->scope, q->scope) != 0) {
            continue;
        }
        more = n == q->limit;
        if (!more) {
            v[n++] = r;
        }
    }
    *ret_n = n;
    *ret_more = more;
    return true;
}

void tt_session_store_each(const tt_session_store *st,
                           void (*each)(void *arg, const tt_session_record *r), void *arg)
{
    for (const tt_session_record *r = st->first; r != NULL; r = r->next) {
        each(arg, r);
    }
}

bool tt_session_store_shed(tt_session_store *st, const char *scope)
{
    return drop_oldest(st, scope);
}

void tt_session_store_set_ttl(tt_session_store *st, double seconds)
{
    st->opt.ttl_seconds = seconds;
}

tt_session_counts tt_session_store_counts(const tt_session_store *st)
{
    return (tt_session_counts){.sessions = st->n, .bytes = st->bytes};
}
