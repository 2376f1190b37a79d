/* session_load.c - see session_load.h. A row of content is named by the hash of what is in it, so
 * that one that was damaged is noticed, and never answered from. */
#include "server/session_load.h"

#include <stdlib.h>
#include <string.h>

#include "server/server.h"
#include "server/session_state.h"
#include "server/session_store_priv.h"

bool tt_session_has_text(const tt_session_record *r)
{
    return r->text != NULL || r->text_key[0] != '\0';
}

tt_code tt_session_usable(const tt_session_record *r, tt_err *reterr)
{
    if (r->foreign || (r->status == TT_SESSION_FAILED && r->error.code == TT_E_STATE)) {
        return tt_fail(reterr, TT_E_STATE, "%s", r->error.msg);
    }
    return TT_OK;
}

static bool text_missing(const tt_session_text *t, const char *key)
{
    return t == NULL && key[0] != '\0';
}

bool tt_session_in_memory(const tt_session_record *r)
{
    return tt_session_loaded(r->data) && !text_missing(r->text, r->text_key) &&
           !text_missing(r->context_text, r->context_text_key);
}

/* ---- what is missing ---- */

/* What a row that is read is for. */
typedef struct wanted {
    tt_session_record *r; /* a reference */
    int32_t n;
    int32_t part[TT_SESSION_SAVED]; /* of core/session.h, -1: the text, -2: the context's */
    char key[TT_SESSION_SAVED][TT_SESSION_PART_KEY];
} wanted;

static void want(wanted *w, int32_t part, const char *key)
{
    w->part[w->n] = part;
    strcpy(w->key[w->n++], key);
}

static void list_missing(tt_session_record *r, wanted *w)
{
    tt_session_part p;
    *w = (wanted){.r = r};
    for (int32_t i = 0; tt_session_part_at(r->data, i, &p); i++) {
        if (p.ids == NULL) {
            want(w, i, p.key);
        }
    }
    if (text_missing(r->text, r->text_key)) {
        want(w, -1, r->text_key);
    }
    if (text_missing(r->context_text, r->context_text_key)) {
        want(w, -2, r->context_text_key);
    }
}

static int32_t fill_keys(const wanted *w, tt_state_key *keys)
{
    for (int32_t i = 0; i < w->n; i++) {
        keys[i] = (tt_state_key){TT_STATE_CONTEXT, "", w->key[i]};
    }
    return w->n;
}

/* ---- taking rows in ---- */

static tt_code take_part(tt_session_record *r, int32_t i, const tt_state_row *row, tt_err *reterr)
{
    const int32_t *ids;
    const uint8_t *decoded;
    int32_t n;
    tt_session_part p;
    if (!tt_session_part_at(r->data, i, &p) || p.ids != NULL) {
        return TT_OK; /* it has changed, or a fork has read it */
    }
    if (!tt_content_unpack_part(row->blob, row->n_blob, &ids, &decoded, &n) || n != p.n) {
        return tt_fail(reterr, TT_E_INVALID, "tokens cannot be read");
    }
    return tt_session_load_part(r->data, i, ids, decoded, reterr);
}

static tt_code take_text(tt_session_record *r, bool context, const tt_state_row *row,
                         tt_err *reterr)
{
    tt_session_text **slot = context ? &r->context_text : &r->text;
    tt_session_text *other = context ? r->text : r->context_text;
    tt_session_text *t = NULL;
    if (*slot != NULL) {
        return TT_OK;
    }
    if (other != NULL && strcmp(tt_session_text_key(other), row->id) == 0) {
        *slot = tt_session_text_ref(other);
        return TT_OK;
    }
    tt_code rc = tt_session_text_unpack(row->blob, row->n_blob, &t, reterr);
    if (rc == TT_OK) {
        strcpy(tt_session_text_key(t), row->id);
        *slot = t;
    }
    return rc;
}

/* TT_E_STATE: what is on disk is damaged or gone; the session has failed then. */
static tt_code take_rows(const wanted *w, const tt_state_row *rows, tt_err *reterr)
{
    char key[TT_SESSION_PART_KEY];
    tt_session_record *r = w->r;
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < w->n; i++) {
        if (rows[i].id == NULL || rows[i].blob == NULL) {
            rc = tt_fail(reterr, TT_E_INVALID, "rows are missing");
            break;
        }
        tt_content_key(rows[i].blob, rows[i].n_blob, key);
        rc = strcmp(key, w->key[i]) != 0
                 ? tt_fail(reterr, TT_E_INVALID, "a checksum is wrong")
                 : (w->part[i] >= 0 ? take_part(r, w->part[i], &rows[i], reterr)
                                    : take_text(r, w->part[i] == -2, &rows[i], reterr));
    }
    if (rc == TT_E_INVALID) {
        tt_err why = *reterr;
        r->status = TT_SESSION_FAILED;
        (void)tt_fail(&r->error, TT_E_STATE,
                      "the session's state on disk is damaged (%s); delete it and make it anew",
                      why.msg);
        *reterr = r->error;
        rc = TT_E_STATE;
    }
    tt_session_recount(r);
    return rc;
}

/* ---- on use ---- */

static void end_loading(tt_session_record *r, const tt_err *err)
{
    r->loading = false;
    while (r->load_first != NULL) {
        tt_session_loader *l = r->load_first;
        tt_session_stop_loading(r, l);
        l->go(l, err);
    }
}

static void on_fetched(void *arg, tt_code rc, const tt_state_row *rows, int32_t n,
                       const tt_err *why)
{
    wanted *w = arg;
    tt_session_record *r = w->r;
    tt_err err = *why;
    if (rc == TT_OK && n == w->n) {
        rc = take_rows(w, rows, &err);
    } else {
        rc = tt_fail(&err, TT_E_STATE, "the session cannot be read: %.150s",
                     why->msg[0] != '\0' ? why->msg : "there is no state");
    }
    free(w);
    end_loading(r, rc < 0 ? &err : NULL);
    if (!r->deleted) {
        tt_session_store_trim(r->store);
    }
    tt_session_unref(&r);
}

void tt_session_load(tt_session_record *r, tt_session_loader *l)
{
    tt_state_key keys[TT_SESSION_SAVED];
    tt_err err = {.code = TT_E_NOMEM};
    l->next = NULL;
    *(r->load_last != NULL ? &r->load_last->next : &r->load_first) = l;
    r->load_last = l;
    if (r->loading) {
        return;
    }
    wanted *w = malloc(sizeof *w);
    r->loading = true;
    tt_session_ref(r);
    if (w != NULL) {
        list_missing(r, w);
        if (tt_state_fetch(tt_session_state_of(r->store), keys, fill_keys(w, keys), on_fetched, w,
                           &err) == TT_OK) {
            return;
        }
        free(w);
    }
    end_loading(r, &err);
    tt_session_unref(&r);
}

void tt_session_stop_loading(tt_session_record *r, tt_session_loader *l)
{
    tt_session_loader *before = NULL;
    for (tt_session_loader *v = r->load_first; v != NULL; before = v, v = v->next) {
        if (v == l) {
            *(before != NULL ? &before->next : &r->load_first) = l->next;
            r->load_last = r->load_last == l ? before : r->load_last;
            return;
        }
    }
}

typedef struct now_result {
    wanted w;
    tt_code rc;
    tt_err *err;
} now_result;

static void on_read_now(void *arg, tt_code rc, const tt_state_row *rows, int32_t n,
                        const tt_err *why)
{
    now_result *res = arg;
    res->rc = rc == TT_OK && n == res->w.n
                  ? take_rows(&res->w, rows, res->err)
                  : tt_fail(res->err, TT_E_STATE, "the session cannot be read: %.150s", why->msg);
}

tt_code tt_session_load_now(tt_session_record *r, tt_err *reterr)
{
    tt_state_key keys[TT_SESSION_SAVED];
    now_result res = {.rc = TT_OK, .err = reterr};
    tt_code rc = tt_session_usable(r, reterr);
    if (rc < 0 || tt_session_in_memory(r)) {
        return rc;
    }
    list_missing(r, &res.w);
    rc = tt_state_read(tt_session_state_of(r->store), keys, fill_keys(&res.w, keys), on_read_now,
                       &res, reterr);
    return rc < 0 ? rc : res.rc;
}

/* ---- a handler that needs them ---- */

typedef struct waiting_request {
    tt_session_loader loader;
    tt_http_request *req; /* a reference */
    tt_session_record *r; /* a reference */
} waiting_request;

static void on_loaded(tt_session_loader *l, const tt_err *err)
{
    waiting_request *w = (waiting_request *)(void *)l;
    tt_http_request *req = w->req;
    tt_session_record *r = w->r;
    free(w);
    if (!req->gone && err != NULL) {
        tt_http_reply_code(req, err);
    } else if (!req->gone) {
        req->route->handler(req);
    }
    tt_session_unref(&r);
    tt_http_unref(req);
}

bool tt_session_load_first(tt_http_request *req, tt_session_record *r)
{
    tt_err err = {.code = TT_E_NOMEM};
    if (tt_session_usable(r, &err) < 0) {
        tt_http_error e;
        tt_error_from_code(&e, &err);
        if (r->foreign) {
            tt_error_set(&e, 409, NULL, "session_of_another_model", "%s", err.msg);
        }
        tt_http_reply_error(req, &e);
        return false;
    }
    if (tt_session_in_memory(r)) {
        return true;
    }
    waiting_request *w = malloc(sizeof *w);
    if (w == NULL) {
        tt_http_reply_no_memory(req);
        return false;
    }
    *w = (waiting_request){.loader = {.go = on_loaded}, .req = req, .r = r};
    tt_http_ref(req);
    tt_session_ref(r);
    tt_session_load(r, &w->loader);
    return false;
}

/* ---- out of memory ---- */

static bool all_on_disk(const tt_session_record *r)
{
    tt_session_part p;
    bool stored =
        r->in_db && !r->suspect && !r->deleting && tt_state_durable(tt_session_state_of(r->store));
    for (int32_t i = 0; stored && tt_session_part_at(r->data, i, &p); i++) {
        stored = p.key[0] != '\0';
    }
    return stored && (r->text == NULL || r->text_key[0] != '\0') &&
           (r->context_text == NULL || r->context_text_key[0] != '\0');
}

static bool is_idle(const tt_session_record *r)
{
    return r->refs == 1 && r->users == NULL && !r->loading && r->waiting_first == NULL &&
           !tt_session_appending(r->data);
}

bool tt_session_unload_record(tt_session_record *r)
{
    if (!is_idle(r) || !tt_session_loaded(r->data) || !all_on_disk(r)) {
        return false;
    }
    tt_session_unload(r->data);
    tt_session_text_unref(&r->text);
    tt_session_text_unref(&r->context_text);
    tt_session_recount(r);
    return !tt_session_loaded(r->data); /* but for a lack of memory */
}

bool tt_session_unload_oldest(tt_session_store *st)
{
    tt_session_record *oldest = NULL;
    if (!tt_state_durable(tt_session_state_of(st))) {
        return false;
    }
    for (tt_session_record *r = st->first; r != NULL; r = r->next) {
        if ((oldest == NULL || r->last_used < oldest->last_used) && is_idle(r) &&
            tt_session_loaded(r->data) && all_on_disk(r)) {
            oldest = r;
        }
    }
    return oldest != NULL && tt_session_unload_record(oldest);
}
