/* http_once.c - see http_once.h. */
#include "server/http_once.h"

#include <string.h>

#include "server/idempotency.h"
#include "server/idempotency_state.h"
#include "server/server.h"

/* Visible ASCII, so that it is harmless in a log. */
static bool legal_key(const char *key)
{
    size_t n = 0;
    while (key[n] > 0x20 && key[n] < 0x7F) {
        n++;
    }
    return n > 0 && n <= TT_IDEM_MAX_KEY && key[n] == '\0';
}

static bool refuse(tt_http_request *req, const tt_http_error *e)
{
    tt_http_release_body(req);
    tt_http_reply_error(req, e);
    return false;
}

/* The store may drop an entry before its answer has gone out. */
static const char *copy(tt_http_request *req, const char *text)
{
    return text != NULL ? tt_arena_strndup(&req->arena, text, strlen(text)) : NULL;
}

static bool replay(tt_http_request *req, const tt_idem_result *r)
{
    tt_buf body = {0};
    tt_http_error e;
    if (r->status == 0) {
        tt_error_set(&e, 409, NULL, "idempotency_key_used",
                     "the request was carried out; its answer was too large to be kept");
        return refuse(req, &e);
    }
    for (int i = 0; i < r->n_headers; i++) {
        const char *name = copy(req, r->headers[i].name);
        if (name != NULL) {
            tt_http_header(req, name, r->headers[i].value);
        }
    }
    tt_http_header(req, "Idempotent-Replayed", "true");
    tt_buf_put(&body, r->body, r->n_body);
    tt_http_release_body(req);
    tt_http_reply(req, r->status, copy(req, r->content_type), &body);
    return false;
}

bool tt_http_once(tt_http_request *req, const char *of)
{
    const char *key = tt_http_get_header(req, "Idempotency-Key");
    tt_idem_result result;
    tt_http_error e;
    tt_err err = {0};
    if (key == NULL) {
        return true;
    }
    if (!legal_key(key)) {
        tt_error_set(&e, 400, "Idempotency-Key", NULL,
                     "an Idempotency-Key has 1 to %d visible ASCII characters", TT_IDEM_MAX_KEY);
        return refuse(req, &e);
    }
    tt_idem_request r = {.scope = req->scope,
                         .method = req->method,
                         .path = req->url,
                         .of = of,
                         .key = key,
                         .body = req->body.p,
                         .n_body = req->body.n};
    tt_code rc = tt_idem_begin(req->server->idempotency, &r, tt_now(), &req->once, &result, &err);
    tt_idem_state_flush(req->server); /* before a row of this key's can follow */
    switch ((int)rc) {
    case TT_IDEM_NEW:
        return true;
    case TT_IDEM_STORED:
        return replay(req, &result);
    case TT_IDEM_RUNNING:
        tt_error_set(&e, 409, "Idempotency-Key", "idempotency_key_in_use",
                     "the request with this Idempotency-Key is still running");
        break;
    case TT_IDEM_OTHER_BODY:
        tt_error_set(&e, 400, "Idempotency-Key", "idempotency_key_used",
                     "this Idempotency-Key was used with another body");
        break;
    default:
        tt_error_from_code(&e, &err);
        break;
    }
    return refuse(req, &e);
}

/* What is kept of the answer; a stream whose text memory failed for is not, but it ran. */
static tt_idem_result result_of(const tt_http_request *req)
{
    const tt_buf *body = req->streaming ? &req->kept : &req->out;
    tt_idem_result r = {.status = req->status,
                        .content_type = req->content_type,
                        .body = body->p,
                        .n_body = body->n};
    for (int i = 0; i < req->n_headers && r.n_headers < TT_IDEM_MAX_HEADERS; i++) {
        r.headers[r.n_headers].name = req->headers[i].name;
        r.headers[r.n_headers++].value = req->headers[i].value;
    }
    return body->failed ? (tt_idem_result){0} : r;
}

bool tt_http_once_put(tt_http_request *req, tt_state_txn *x)
{
    tt_idem_image im;
    if (req->once == NULL) {
        return true;
    }
    tt_idem_result r = result_of(req);
    tt_idem_get_image(req->server->idempotency, req->once, &r, &im);
    return tt_idem_state_put(req->server, x, &im);
}

void tt_http_once_keep(tt_http_request *req)
{
    if (req->once != NULL) {
        tt_idem_result r = result_of(req);
        tt_idem_finish(req->server->idempotency, req->once, &r);
        req->once = NULL;
        tt_idem_state_flush(req->server);
    }
}

void tt_http_once_stream(tt_http_request *req)
{
    if (req->once != NULL && req->out.n > req->n_kept) {
        tt_buf_put(&req->kept, req->out.p + req->n_kept, req->out.n - req->n_kept);
        req->n_kept = req->out.n;
    }
}

void tt_http_once_stream_end(tt_http_request *req)
{
    static const char done[] = "data: [DONE]\n\n";
    size_t n = sizeof done - 1;
    if (req->once == NULL) {
        return;
    }
    tt_http_once_stream(req);
    if (!req->kept.failed &&
        (req->kept.n < n || memcmp(req->kept.p + req->kept.n - n, done, n) != 0)) {
        tt_http_once_release(req);
    }
}

void tt_http_once_release(tt_http_request *req)
{
    if (req->once != NULL) {
        tt_idem_abandon(req->server->idempotency, req->once);
        req->once = NULL;
    }
    tt_buf_finish(&req->kept);
}
