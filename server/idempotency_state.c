/* idempotency_state.c - see idempotency_state.h. A row's id is the hash of the entry's name; its
 * blob is the name, which can hold any byte but is no secret, and behind it the answer's body. */
#include "server/idempotency_state.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "server/api_json.h"
#include "server/hex.h"
#include "server/log.h"

enum { VERSION = 1 };

/* ---- one row ---- */

void tt_idem_row_write(tt_buf *json, tt_buf *blob, const tt_idem_image *im)
{
    const tt_idem_result *r = &im->result;
    char body[2 * sizeof im->body + 1];
    tt_hex_write(im->body, sizeof im->body, body);
    tt_buf_printf(json, "{\"version\":%d,\"status\":%d,\"name_bytes\":%zu,\"body\":\"%s\"", VERSION,
                  r->status, im->n_name, body);
    tt_buf_member_text(json, "content_type", r->content_type);
    tt_buf_puts(json, ",\"headers\":[");
    for (int i = 0; i < r->n_headers; i++) {
        tt_buf_puts(json, i > 0 ? "," : "");
        tt_buf_puts_json(json, r->headers[i].name);
        tt_buf_putc(json, ',');
        tt_buf_puts_json(json, r->headers[i].value);
    }
    tt_buf_puts(json, "]}");
    tt_buf_putc(json, '\0');
    tt_buf_put(blob, im->name, im->n_name);
    if (r->n_body > 0) {
        tt_buf_put(blob, r->body, r->n_body);
    }
}

static bool read_headers(const json_t *list, tt_idem_result *r)
{
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n % 2 != 0 || n / 2 > TT_IDEM_MAX_HEADERS) {
        return false;
    }
    for (size_t i = 0; i < n; i += 2) {
        const char *name = json_string_value(json_array_get(list, i));
        const char *value = json_string_value(json_array_get(list, i + 1));
        if (name == NULL || value == NULL) {
            return false;
        }
        r->headers[r->n_headers].name = name;
        r->headers[r->n_headers++].value = value;
    }
    return true;
}

tt_code tt_idem_row_read(const tt_state_row *row, json_t **keep, tt_idem_image *ret, tt_err *reterr)
{
    bool no_memory;
    json_t *o = *keep = tt_json_load(row->json, strlen(row->json), 0, NULL, &no_memory);
    json_int_t version = json_integer_value(json_object_get(o, "version"));
    json_int_t status = json_integer_value(json_object_get(o, "status"));
    json_int_t n_name = json_integer_value(json_object_get(o, "name_bytes"));
    *ret = (tt_idem_image){.scope = row->blob, .name = row->blob, .n_name = (size_t)n_name};
    if (no_memory) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an answer");
    }
    if (version > VERSION) {
        return tt_fail(reterr, TT_E_UNSUPPORTED, "its version is %lld", (long long)version);
    }
    if (version < 1 || n_name < 1 || (size_t)n_name > row->n_blob || status < 0 || status >= 300 ||
        !tt_hex_read(json_string_value(json_object_get(o, "body")), ret->body, sizeof ret->body) ||
        !read_headers(json_object_get(o, "headers"), &ret->result)) {
        return tt_fail(reterr, TT_E_INVALID, "it is no answer");
    }
    ret->result.status = (int)status;
    ret->result.content_type = json_string_value(json_object_get(o, "content_type"));
    ret->result.body = (const char *)row->blob + n_name;
    ret->result.n_body = row->n_blob - (size_t)n_name;
    return TT_OK;
}

/* ---- the server's ---- */

bool tt_idem_state_put(tt_server *s, tt_state_txn *x, const tt_idem_image *im)
{
    tt_buf json = {0}, blob = {0};
    double created = tt_unix_now() - (tt_now() - im->begun);
    tt_idem_row_write(&json, &blob, im);
    bool ok = !json.failed && !blob.failed;
    if (ok) {
        tt_state_row row = {.scope = im->scope,
                            .id = im->id,
                            .created_at = created,
                            .expires_at = created + s->settings->idempotency_ttl,
                            .json = json.p,
                            .blob = blob.p,
                            .n_blob = blob.n};
        (void)tt_state_put(x, TT_STATE_IDEMPOTENCY, &row); /* the commit tells */
    }
    tt_buf_finish(&json);
    tt_buf_finish(&blob);
    return ok;
}

static void on_dropped(void *arg, const tt_idem_image *im)
{
    tt_server *s = arg;
    if (s->idem_deletes == NULL) {
        s->idem_deletes = tt_state_begin(s->state);
    }
    (void)tt_state_delete(s->idem_deletes, TT_STATE_IDEMPOTENCY, im->scope, im->id);
}

void tt_idem_state_flush(tt_server *s)
{
    if (s->idem_deletes != NULL) {
        tt_state_commit(s->idem_deletes, NULL, NULL); /* what stays is dropped when it is read */
        s->idem_deletes = NULL;
    }
}

typedef struct restoring {
    tt_server *s;
    double now, unix_now;
    int32_t n;
} restoring;

/* What cannot be used is deleted, but for what a later version wrote. */
static tt_code restore(void *arg, const tt_state_row *row)
{
    restoring *t = arg;
    tt_idem_image im;
    json_t *keep = NULL;
    tt_err err;
    double until = fmin(row->expires_at, row->created_at + t->s->settings->idempotency_ttl);
    tt_code rc = until <= t->unix_now ? TT_E_TIMEOUT : tt_idem_row_read(row, &keep, &im, &err);
    if (rc == TT_OK) {
        im.begun = t->now - (t->unix_now - row->created_at);
        rc = tt_idem_restore(t->s->idempotency, &im, &err);
        t->n += rc == TT_OK;
    }
    if (rc == TT_E_TIMEOUT || rc == TT_E_INVALID || rc == TT_E_CAPACITY) {
        tt_idem_image gone = {.scope = row->scope};
        snprintf(gone.id, sizeof gone.id, "%s", row->id);
        on_dropped(t->s, &gone);
    }
    json_decref(keep);
    return rc == TT_E_NOMEM ? rc : TT_OK;
}

tt_code tt_idem_state_start(tt_server *s, tt_err *reterr)
{
    const tt_settings *set = s->settings;
    restoring t = {.s = s, .now = tt_now(), .unix_now = tt_unix_now()};
    tt_code rc = tt_idem_create(&(tt_idem_options){.ttl_seconds = set->idempotency_ttl,
                                                   .max_entries = (int32_t)set->idempotency_entries,
                                                   .max_bytes = (size_t)set->idempotency_bytes,
                                                   .dropped = on_dropped,
                                                   .arg = s},
                                &s->idempotency, reterr);
    if (rc == TT_OK) {
        rc = tt_state_each(s->state, TT_STATE_IDEMPOTENCY, restore, &t, reterr);
    }
    tt_idem_state_flush(s);
    if (t.n > 0) {
        tt_log(TT_LOG_INFO, "state: %d answers under an Idempotency-Key", (int)t.n);
    }
    return rc;
}
