/* api_sessions.c - /v1/sessions: create, list, get, update, delete, fork, extend, back to the base.
 * What a session is: core/session.h; where it lives: session_store.h; how messages become a
 * context: session_work.c. Thread: the loop thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/api_json.h"
#include "server/http_once.h"
#include "server/list_query.h"
#include "server/quota.h"
#include "server/session_json.h"
#include "server/session_load.h"
#include "server/session_setup.h"
#include "server/session_state.h"
#include "server/session_work.h"

/* What a body that is read on the loop thread may be: metadata at its bounds, in escapes. */
enum { MAX_SMALL_BODY = 128 * 1024, SMALL_JSON_MEMORY = 1 << 16 };

static void reply_session(tt_http_request *req, int status, const tt_session_record *r)
{
    tt_buf b = {0};
    tt_session_write(&b, r, req->server->engine, req->server->served->name);
    tt_http_header(req, req->server->settings->session_header, r->id + TT_SESSION_PREFIX);
    if (status == 201) {
        char path[TT_SESSION_ID_BYTES + 16] = "/v1/sessions/";
        strcat(path, r->id);
        tt_http_header(req, "Location", path);
    }
    tt_http_reply(req, status, "application/json", &b);
}

/* A small body, read on the loop thread: an object, or nothing. False: answered. */
static bool read_body(tt_http_request *req, const char *const *known, json_t **ret)
{
    const tt_settings *set = req->server->settings;
    tt_http_error e = {0};
    tt_buf ignored = {0};
    json_t *body = NULL;
    if (req->body.n > MAX_SMALL_BODY) {
        tt_error_set(&e, 413, NULL, NULL, "the body is larger than %d bytes", MAX_SMALL_BODY);
    } else {
        body = req->body.n > 0 ? tt_json_parse(req->body.p, req->body.n, SMALL_JSON_MEMORY, &e)
                               : json_object();
    }
    bool ok = body != NULL && tt_session_check_names(body, known, set->strict, &ignored, &e);
    tt_http_release_body(req);
    if (ok && ignored.n > 0) {
        tt_buf_putc(&ignored, '\0');
        tt_http_header(req, "X-Qttt-Ignored-Params", ignored.failed ? "" : ignored.p);
    }
    tt_buf_finish(&ignored);
    if (!ok) {
        json_decref(body);
        if (e.status == 0) {
            tt_http_reply_no_memory(req);
        } else {
            tt_http_reply_error(req, &e);
        }
        return false;
    }
    *ret = body;
    return true;
}

/* Takes metadata (NUL is put behind it) and ttl over. */
static void set_common(tt_http_request *req, tt_session_record *r, tt_buf *metadata, double ttl)
{
    if (metadata->n > 0) {
        tt_buf_putc(metadata, '\0');
        if (!metadata->failed) {
            free(r->metadata);
            r->metadata = metadata->p;
            *metadata = (tt_buf){0};
        }
    }
    if (ttl >= 0) {
        r->ttl_seconds = ttl;
    }
    tt_session_touch(r);
    tt_sessions_arm(req->server);
}

/* ---- create ---- */

static void conflict(tt_http_request *req, const char *code, const char *message)
{
    tt_http_error e;
    tt_error_set(&e, 409, NULL, code, "%s", message);
    tt_http_reply_error(req, &e);
}

/* The record and its prefill, or an error answer. */
static void finish_create(tt_session_work *w)
{
    tt_http_request *req = w->http;
    tt_server *s = req->server;
    tt_session *data = NULL;
    tt_session_record *r = NULL;
    tt_session_change *change;
    tt_err err = {0};
    if (req->gone) {
        return;
    }
    if (w->error.status != 0) {
        tt_http_reply_error(req, &w->error);
        return;
    }
    if (!tt_tenant_may_read(req->tenant, (int64_t)w->n_context, tt_now(), &w->error)) {
        tt_http_reply_error(req, &w->error);
        return;
    }
    tt_code rc = tt_session_create(w->ids, (int32_t)w->n_context,
                                   (int32_t)s->settings->max_generations, &data, &err);
    if (rc == TT_OK) {
        rc = tt_session_store_add(s->sessions, req->scope, w->key, false, data, w->text, &r, &err);
    }
    if (rc < 0) {
        tt_session_destroy(&data);
        if (rc == TT_E_BUSY) {
            conflict(req, "session_exists", err.msg);
        } else {
            tt_http_reply_code(req, &err);
        }
        return;
    }
    w->text = NULL; /* the record's now */
    r->alias = w->alias;
    r->have_qttt = w->have_qttt;
    r->qttt_parsed = w->qttt;
    r->qttt = json_incref(json_object_get(w->body, "qttt"));
    rc = tt_session_start_prefill(r, &err);
    if (rc < 0) {
        tt_session_store_delete(r);
        tt_http_reply_code(req, &err);
        return;
    }
    change = tt_session_change_begin(r, TT_CHANGE_CREATE);
    if (change == NULL) {
        tt_session_store_delete(r);
        tt_http_reply_no_memory(req);
        return;
    }
    tt_tenant_take_prompt(req->tenant, (int64_t)w->n_context, tt_now());
    set_common(req, r, &w->metadata, w->ttl_seconds);
    tt_session_change_write(change, req);
    reply_session(req, 201, r);
}

void tt_api_sessions_create(tt_http_request *req)
{
    tt_session_work *w;
    if (!tt_http_once(req, "")) {
        return;
    }
    w = tt_session_work_create(req, finish_create);
    if (w == NULL) {
        tt_http_reply_no_memory(req);
        return;
    }
    tt_session_key(tt_sessions_header(req), w->key);
    tt_session_work_submit(w);
}

/* ---- list, get, update, delete ---- */

void tt_api_sessions_list(tt_http_request *req)
{
    tt_server *s = req->server;
    tt_list_query q;
    tt_http_error e;
    tt_session_record *v[TT_LIST_MAX_LIMIT];
    int32_t n;
    bool more;
    if (!tt_list_query_parse(req, false, TT_LIST_MAX_LIMIT, &q, &e)) {
        tt_http_reply_error(req, &e);
        return;
    }
    tt_session_list list = {
        .scope = req->scope, .after = q.after, .limit = q.limit, .ascending = q.ascending};
    if (!tt_session_store_list(s->sessions, &list, v, &n, &more)) {
        tt_error_set(&e, 400, "after", NULL, "there is no session '%.100s' to go on from", q.after);
        tt_http_reply_error(req, &e);
        return;
    }
    tt_buf data = {0}, b = {0};
    for (int32_t i = 0; i < n; i++) {
        if (i > 0) {
            tt_buf_putc(&data, ',');
        }
        tt_session_write(&data, v[i], s->engine, s->served->name);
    }
    tt_list_write(&b, &data, n > 0 ? v[0]->id : NULL, n > 0 ? v[n - 1]->id : NULL, more);
    tt_buf_finish(&data);
    tt_http_reply_json(req, &b);
}

void tt_api_sessions_get(tt_http_request *req)
{
    tt_session_record *r = tt_sessions_of_path(req);
    if (r != NULL) {
        reply_session(req, 200, r);
    }
}

void tt_api_sessions_update(tt_http_request *req)
{
    static const char *const known[] = {"metadata", "ttl_seconds", NULL};
    tt_session_record *r = tt_sessions_of_path(req);
    json_t *body = NULL;
    tt_buf metadata = {0};
    tt_http_error e;
    double ttl = -1;
    tt_session_change *change;
    if (r == NULL || !read_body(req, known, &body)) {
        return;
    }
    if (!tt_session_read_common(body, &metadata, &ttl, &e)) {
        tt_http_reply_error(req, &e);
    } else if ((change = tt_session_change_begin(r, TT_CHANGE_UPDATE)) == NULL) {
        tt_http_reply_no_memory(req);
    } else {
        set_common(req, r, &metadata, ttl);
        tt_session_change_write(change, req);
        reply_session(req, 200, r);
    }
    tt_buf_finish(&metadata);
    json_decref(body);
}

void tt_api_sessions_delete(tt_http_request *req)
{
    tt_session_record *r = tt_sessions_of_path(req);
    tt_buf b = {0};
    if (r == NULL) {
        return;
    }
    tt_buf_puts(&b, "{\"id\":");
    tt_buf_puts_json(&b, r->id);
    tt_buf_puts(&b, ",\"object\":\"session.deleted\",\"deleted\":true}");
    tt_session_state_delete(r, req);
    tt_http_reply_json(req, &b);
}

void tt_api_sessions_reset(tt_http_request *req)
{
    tt_session_record *r = tt_sessions_of_path(req);
    tt_session_change *change;
    if (r == NULL) {
        return;
    }
    change = tt_session_change_begin(r, TT_CHANGE_RESET);
    if (change == NULL) {
        tt_http_reply_no_memory(req);
        return;
    }
    tt_session_reset(r->data);
    tt_session_touch(r);
    tt_session_change_write(change, req);
    reply_session(req, 200, r);
}

/* ---- fork ---- */

static void copy_record(tt_session_record *to, const tt_session_record *from)
{
    to->qttt = json_incref(from->qttt);
    to->have_qttt = from->have_qttt;
    to->alias = from->alias;
    strcpy(to->model, from->model);
    to->foreign = from->foreign;
    to->qttt_parsed = from->qttt_parsed;
    to->ttl_seconds = from->ttl_seconds;
    to->status = from->status;
    to->error = from->error;
}

/* The key of a fork: the header's, unless there is none or that is the parent's own (a client or
 * proxy that routes by it), then one that proxies send to this server, where the parent is. */
static void fork_key(tt_http_request *req, const tt_session_record *parent,
                     char key[TT_SESSION_KEY_BYTES])
{
    const char *asked = tt_sessions_header(req), *own = parent->id + TT_SESSION_PREFIX;
    tt_session_key(asked, key);
    if (asked == NULL || strcmp(key, own) == 0) {
        tt_session_key_beside(own, key);
    }
}

static tt_code make_fork(tt_http_request *req, tt_session_record *parent,
                         const tt_session_fork_options *opt, tt_session_record **ret, tt_err *err)
{
    tt_server *s = req->server;
    char key[TT_SESSION_KEY_BYTES];
    tt_session *data = NULL;
    tt_session_text *text = NULL;
    tt_code rc = tt_session_fork(parent->data, opt, &data, err);
    if (rc < 0) {
        return rc;
    }
    fork_key(req, parent, key);
    if (parent->context_text != NULL) {
        text = tt_session_text_ref(parent->context_text);
    }
    rc = tt_session_store_add(s->sessions, req->scope, key, false, data, text, ret, err);
    if (rc < 0) {
        tt_session_destroy(&data);
        tt_session_text_unref(&text);
        return rc;
    }
    strcpy((*ret)->context_text_key, parent->context_text_key);
    strcpy((*ret)->text_key, opt->transcript ? parent->text_key : parent->context_text_key);
    if (opt->transcript && parent->text != NULL) {
        tt_session_text_unref(&(*ret)->text);
        (*ret)->text = tt_session_text_ref(parent->text);
    }
    copy_record(*ret, parent);
    rc = tt_session_pin_adapters(s->engine, data, err); /* each copy is a pin more */
    return rc == TT_OK && parent->prefill != NULL ? tt_session_start_prefill(*ret, err) : rc;
}

void tt_api_sessions_fork(tt_http_request *req)
{
    static const char *const known[] = {"adapter", "transcript", "metadata", "ttl_seconds", NULL};
    static const char *const adapters[] = {"base", "copy", NULL};
    tt_session_record *parent = tt_sessions_of_path(req), *r = NULL;
    json_t *body = NULL;
    tt_buf metadata = {0};
    tt_http_error e;
    tt_err err = {0};
    int adapter = 1;
    double ttl = -1;
    tt_session_change *change;
    tt_session_fork_options opt = {.transcript = true};
    if (parent == NULL || !tt_session_load_first(req, parent) || !tt_http_once(req, "") ||
        !read_body(req, known, &body)) {
        return;
    }
    if (!tt_json_get_choice(body, "", "adapter", adapters, &adapter, &e) ||
        !tt_json_get_bool(body, "", "transcript", &opt.transcript, &e) ||
        !tt_session_read_common(body, &metadata, &ttl, &e)) {
        tt_http_reply_error(req, &e);
    } else {
        opt.adapter = adapter == 1;
        tt_session_ref(parent);
        tt_code rc = make_fork(req, parent, &opt, &r, &err);
        if (rc < 0 && r != NULL) {
            tt_session_store_delete(r);
        }
        if (rc == TT_E_BUSY && r == NULL) {
            conflict(req, "session_exists", err.msg);
        } else if (rc < 0) {
            tt_http_reply_code(req, &err);
        } else if ((change = tt_session_change_begin(r, TT_CHANGE_CREATE)) == NULL) {
            tt_session_store_delete(r);
            tt_http_reply_no_memory(req);
        } else {
            set_common(req, r, &metadata, ttl);
            tt_session_change_write(change, req);
            reply_session(req, 201, r);
        }
        tt_session_unref(&parent);
    }
    tt_buf_finish(&metadata);
    json_decref(body);
}

/* ---- extend ---- */

/* The limits of the key; what was context already costs nothing again. False: *e is the answer. */
static bool may_extend(const tt_session_work *w, int64_t *ret_tokens, tt_http_error *e)
{
    tt_http_request *req = w->http;
    tt_err err = {0};
    int32_t n_before;
    (void)tt_session_context(w->record->data, &n_before);
    int64_t n = (int64_t)w->n_context - n_before;
    *ret_tokens = n > 0 ? n : 0;
    size_t n_bytes = (size_t)*ret_tokens * sizeof *w->ids;
    if (tt_quota_bytes(req->server, req->scope, n_bytes, &err) < 0) {
        tt_error_from_code(e, &err);
        return false;
    }
    return tt_tenant_may_read(req->tenant, *ret_tokens, tt_now(), e);
}

/* Extends and answers, or answers why not. */
static void extend(tt_session_work *w)
{
    int64_t n_tokens;
    tt_http_request *req = w->http;
    tt_session_record *r = w->record;
    tt_err err = {0};
    if (w->error.status != 0) {
        tt_http_reply_error(req, &w->error);
        return;
    }
    if (r->deleted) {
        tt_http_error e;
        tt_error_set(&e, 404, NULL, "session_not_found", "the session '%s' was deleted", r->id);
        tt_http_reply_error(req, &e);
        return;
    }
    if (!may_extend(w, &n_tokens, &w->error)) {
        tt_http_reply_error(req, &w->error);
        return;
    }
    tt_session_change *change = tt_session_change_begin(r, TT_CHANGE_UPDATE);
    tt_code rc = change != NULL ? tt_session_extend(r->data, w->ids, (int32_t)w->n_context, &err)
                                : tt_fail(&err, TT_E_NOMEM, "out of memory");
    if (rc < 0) {
        tt_session_change_undo(change);
        tt_http_reply_code(req, &err);
        return;
    }
    tt_tenant_take_prompt(req->tenant, n_tokens, tt_now());
    tt_session_set_context_text(r, w->text);
    w->text = NULL;
    rc = tt_session_start_prefill(r, &err);
    if (rc < 0) { /* the next request in it reads what this prefill would have */
        r->status = TT_SESSION_READY;
    }
    tt_session_touch(r);
    tt_session_change_write(change, req);
    reply_session(req, 200, r);
}

/* The appends that wait go on from what is there afterwards. */
static void finish_extend(tt_session_work *w)
{
    if (!w->http->gone) {
        extend(w);
    }
    tt_session_end_append(w->record->data);
    tt_session_append_ended(w->record);
}

void tt_api_sessions_extend(tt_http_request *req)
{
    tt_session_record *r = tt_sessions_of_path(req);
    tt_http_error e;
    if (r == NULL || !tt_session_load_first(req, r) || !tt_http_once(req, "")) {
        return;
    }
    if (r->text == NULL) {
        tt_error_set(&e, 400, NULL, "no_messages",
                     "the session '%s' has no messages: it was made from a prompt", r->id);
        tt_http_reply_error(req, &e);
        return;
    }
    if (tt_session_begin_append(r->data, -1) != TT_OK) {
        conflict(req, "session_busy", "an append to the session is running");
        return;
    }
    tt_session_work *w = tt_session_work_create(req, finish_extend);
    if (w == NULL) {
        tt_session_end_append(r->data);
        tt_http_reply_no_memory(req);
        return;
    }
    tt_session_ref(r);
    w->record = r;
    w->old = tt_session_text_ref(r->text);
    tt_session_work_submit(w);
}
