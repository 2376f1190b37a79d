/* http_reply.c - what goes back to the client: headers, CORS, whole answers, streams. See http.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "server/http_commit.h"
#include "server/http_once.h"
#include "server/http_priv.h"
#include "server/sse.h"

enum { COMPACT_BYTES = 64 * 1024 };

static const char *const allowed_headers =
    "Authorization, Content-Type, Accept, Idempotency-Key, X-Request-Id, X-Session-Id, "
    "X-OpenWebUI-Chat-Id, Traceparent, OpenAI-Organization, OpenAI-Project, OpenAI-Beta, "
    "X-Stainless-Lang, X-Stainless-Package-Version, X-Stainless-OS, X-Stainless-Arch, "
    "X-Stainless-Runtime, X-Stainless-Runtime-Version, X-Stainless-Async, "
    "X-Stainless-Retry-Count, X-Stainless-Read-Timeout, X-Stainless-Timeout, "
    "X-Stainless-Helper-Method, X-Stainless-Poll-Helper, X-Stainless-Custom-Poll-Interval";
static const char *const exposed_headers =
    "X-Request-Id, X-Session-Id, Retry-After, OpenAI-Processing-Ms, X-Qttt-Ignored-Params, "
    "X-Should-Retry, Location, Idempotent-Replayed, Traceparent, X-RateLimit-Limit-Requests, "
    "X-RateLimit-Remaining-Requests, X-RateLimit-Reset-Requests, X-RateLimit-Limit-Tokens, "
    "X-RateLimit-Remaining-Tokens, X-RateLimit-Reset-Tokens";

void tt_http_header(tt_http_request *req, const char *name, const char *value)
{
    char *copy = tt_arena_strndup(&req->arena, value, strlen(value));
    if (copy != NULL && req->n_headers < TT_HTTP_MAX_HEADERS) {
        req->headers[req->n_headers].name = name;
        req->headers[req->n_headers++].value = copy;
    }
}

/* The value of Access-Control-Allow-Origin; NULL: the origin, or its absence, is not allowed. */
static const char *allowed_origin(tt_http_request *req)
{
    const tt_string_list *list = &req->server->settings->cors_origins;
    const char *origin = tt_http_get_header(req, "Origin");
    const char *allow = NULL;
    for (int32_t i = 0; i < list->n && allow == NULL; i++) {
        if (strcmp(list->v[i], "*") == 0) {
            allow = "*";
        } else if (origin != NULL && strcmp(list->v[i], origin) == 0) {
            allow = origin;
        }
    }
    return allow;
}

/* Answers to browsers; without an Origin that is allowed there are none. */
static void add_cors(tt_http_request *req, struct MHD_Response *r)
{
    const char *allow = allowed_origin(req);
    if (allow == NULL) {
        return;
    }
    MHD_add_response_header(r, "Access-Control-Allow-Origin", allow);
    if (strcmp(allow, "*") != 0) {
        MHD_add_response_header(r, "Vary", "Origin");
    }
    MHD_add_response_header(r, "Access-Control-Expose-Headers", exposed_headers);
    if (strcmp(req->method, "OPTIONS") == 0) {
        MHD_add_response_header(r, "Access-Control-Allow-Methods",
                                "GET, HEAD, POST, DELETE, OPTIONS");
        /* What was asked for is echoed too, so that a header which a later SDK invents is not a
         * failure. */
        const char *asked = tt_http_get_header(req, "Access-Control-Request-Headers");
        tt_buf list_text = {0};
        tt_buf_puts(&list_text, allowed_headers);
        if (asked != NULL && *asked != '\0') {
            tt_buf_puts(&list_text, ", ");
            tt_buf_puts(&list_text, asked);
        }
        tt_buf_putc(&list_text, '\0');
        if (!list_text.failed) {
            MHD_add_response_header(r, "Access-Control-Allow-Headers", list_text.p);
        }
        tt_buf_finish(&list_text);
        MHD_add_response_header(r, "Access-Control-Max-Age", "600");
    }
}

/* The next request should go elsewhere rather than to a connection that is about to end; a probe
 * wants to hear more. */
static bool leaves(const tt_http_request *req)
{
    bool probe = req->route != NULL && req->route->open;
    return req->server->phase >= TT_PHASE_LEAVING && !probe;
}

static void put_header(void *arg, const char *name, const char *value)
{
    MHD_add_response_header(arg, name, value);
}

static void add_headers(tt_http_request *req, struct MHD_Response *r)
{
    char ms[32], trace[TT_TRACEPARENT_BYTES];
    if (req->content_type != NULL) {
        MHD_add_response_header(r, "Content-Type", req->content_type);
    }
    MHD_add_response_header(r, "X-Request-Id", req->id);
    snprintf(ms, sizeof ms, "%.0f", (tt_now() - req->started) * 1000);
    MHD_add_response_header(r, "OpenAI-Processing-Ms", ms);
    tt_trace_write(&req->note.trace, trace);
    if (trace[0] != '\0') {
        MHD_add_response_header(r, "Traceparent", trace);
    }
    tt_tenant_headers(req->tenant, tt_now(), put_header, r);
    for (int i = 0; i < req->n_headers; i++) {
        MHD_add_response_header(r, req->headers[i].name, req->headers[i].value);
    }
    if (req->streaming) {
        MHD_add_response_header(r, "Cache-Control", "no-cache");
        MHD_add_response_header(r, "X-Accel-Buffering", "no");
    }
    if (req->close || req->conn->gone || leaves(req)) {
        MHD_add_response_header(r, "Connection", "close");
    }
    add_cors(req, r);
}

/* libmicrohttpd asks for more of a stream. */
static ssize_t read_stream(void *cls, uint64_t pos, char *out, size_t max)
{
    tt_http_request *req = cls;
    (void)pos;
    if (req->n_read > COMPACT_BYTES &&
        req->n_read > req->out.n / 2) { /* each byte moves once at most */
        tt_buf_consume(&req->out, req->n_read);
        req->n_kept -= req->n_kept < req->n_read ? req->n_kept : req->n_read;
        tt_http_commit_consumed(req, req->n_read);
        req->n_read = 0;
    } else if (req->n_read == req->out.n) {
        tt_http_commit_consumed(req, req->n_read);
        req->out.n = req->n_read = req->n_kept = 0;
    }
    if (req->out.n - req->n_read < (size_t)req->server->settings->backlog / 2 &&
        req->on_drained != NULL) {
        req->on_drained(req->arg);
    }
    tt_http_once_stream(req); /* all that is read below is kept before it can be dropped */
    if (req->gone || req->out.failed) {
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    size_t n = tt_http_commit_readable(req);
    if (n > 0) {
        n = n < max ? n : max;
        memcpy(out, req->out.p + req->n_read, n);
        req->n_read += n;
        req->note.sent += n;
        return (ssize_t)n;
    }
    if (req->stream_ended && !req->held) {
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    req->suspended = true;
    MHD_suspend_connection(req->mhd);
    return 0;
}

enum MHD_Result tt_http_send_reply(tt_http_request *req)
{
    struct MHD_Response *r;
    if (req->streaming) {
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 * 1024, read_stream, req, NULL);
    } else {
        r = MHD_create_response_from_buffer(req->out.n, req->out.p, MHD_RESPMEM_MUST_FREE);
        if (r != NULL) {
            req->out = (tt_buf){0}; /* the response owns the memory */
        }
    }
    if (r == NULL) {
        return MHD_NO;
    }
    add_headers(req, r);
    enum MHD_Result ok = MHD_queue_response(req->mhd, (unsigned)req->status, r);
    MHD_destroy_response(r);
    return ok;
}

/* Written past libmicrohttpd, which can answer only before or behind a body. What
 * comes after is read and dropped, because closing at once would reset the connection and take the
 * answer with it. */
void tt_http_answer_early(tt_http_request *req)
{
    const tt_http_error *e = &req->early;
    const char *allow = allowed_origin(req);
    tt_buf body = {0}, out = {0};
    tt_error_write(&body, e);
    tt_buf_printf(&out,
                  "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                  "Connection: close\r\nX-Request-Id: %s\r\n",
                  e->status, MHD_get_reason_phrase_for((unsigned)e->status), body.n, req->id);
    if (allow != NULL) { /* one of the settings' own strings, or equal to one */
        tt_buf_printf(&out,
                      "Access-Control-Allow-Origin: %s\r\nAccess-Control-Expose-Headers: %s\r\n%s",
                      allow, exposed_headers, strcmp(allow, "*") != 0 ? "Vary: Origin\r\n" : "");
    }
    if (e->retry_after > 0) {
        tt_buf_printf(&out, "Retry-After: %d\r\n", e->retry_after);
    }
    tt_buf_puts(&out, "\r\n");
    tt_buf_put(&out, body.p, body.n);
    if (!out.failed && !body.failed &&
        send(req->conn->fd, out.p, out.n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)out.n) {
        req->answered_early = true;
        req->status = e->status;
        req->note.sent = body.n;
        tt_request_note_error(&req->note, e);
        tt_metrics_rejected(&req->server->metrics, e->status, e->code);
    }
    tt_buf_finish(&body);
    tt_buf_finish(&out);
}

static void add_retry_after(tt_http_request *req, const tt_http_error *e)
{
    char seconds[16];
    if (e->retry_after > 0) {
        snprintf(seconds, sizeof seconds, "%d", e->retry_after);
        tt_http_header(req, "Retry-After", seconds);
    }
}

void tt_http_reply(tt_http_request *req, int status, const char *content_type, tt_buf *body)
{
    if (req->replied || req->committing) {
        tt_buf_finish(body);
        return;
    }
    if (body->failed) {
        tt_err err = {.code = TT_E_NOMEM};
        tt_http_error e;
        tt_buf_finish(body);
        tt_buf_init(body, 0); /* without the limit that it may have met */
        tt_error_from_code(&e, &err);
        add_retry_after(req, &e);
        status = e.status;
        tt_error_write(body, &e);
        content_type = "application/json";
    }
    req->status = status;
    req->content_type = content_type;
    req->note.sent = body->n;
    req->out = *body;
    *body = (tt_buf){0};
    req->on_gone = NULL;
    if (status < 300 && tt_http_commit_reply(req)) { /* also when the client has left */
        return;
    }
    tt_http_commit_drop(req);
    tt_http_once_release(req);
    tt_http_send_committed(req);
}

void tt_http_send_committed(tt_http_request *req)
{
    if (req->streaming) {
        tt_http_stream_flush(req);
    } else if (!req->gone) {
        req->replied = true;
        tt_http_wake(req);
    }
}

void tt_http_reply_error(tt_http_request *req, const tt_http_error *e)
{
    tt_buf b = {0};
    tt_error_write(&b, e);
    add_retry_after(req, e);
    if (e->status == 401) {
        tt_http_header(req, "WWW-Authenticate", "Bearer");
    }
    if (e->status == 408 || e->status == 409) { /* SDKs would send it again, for nothing */
        tt_http_header(req, "X-Should-Retry", "false");
    }
    tt_metrics_rejected(&req->server->metrics, e->status, e->code);
    tt_request_note_error(&req->note, e);
    tt_http_reply(req, e->status, "application/json", &b);
}

void tt_http_reply_code(tt_http_request *req, const tt_err *err)
{
    tt_http_error e;
    tt_error_from_code(&e, err);
    tt_http_reply_error(req, &e);
}

void tt_http_reply_no_memory(tt_http_request *req)
{
    tt_http_reply_code(req, &(tt_err){.code = TT_E_NOMEM});
}

void tt_http_reply_json(tt_http_request *req, tt_buf *body)
{
    tt_http_reply(req, 200, "application/json", body);
}

void tt_http_stream_begin(tt_http_request *req)
{
    if (req->gone || req->replied) {
        return;
    }
    req->status = 200;
    req->content_type = "text/event-stream";
    req->streaming = req->replied = true;
    tt_http_wake(req);
}

tt_buf *tt_http_stream_out(tt_http_request *req)
{
    return &req->out;
}

size_t tt_http_stream_pending(const tt_http_request *req)
{
    return req->out.n - req->n_read;
}

void tt_http_stream_flush(tt_http_request *req)
{
    if (req->streaming && !req->gone) {
        tt_http_wake(req);
    }
}

double tt_http_stream_heartbeat(tt_http_request *req, double *last_sent)
{
    double now = tt_now(), period = req->server->settings->heartbeat_seconds;
    double due = *last_sent + period - now;
    if (due > 0.0005) {
        return due;
    }
    if (tt_http_stream_pending(req) == 0) {
        tt_sse_heartbeat(tt_http_stream_out(req));
        tt_http_stream_flush(req);
    }
    *last_sent = now;
    return period;
}

void tt_http_stream_end(tt_http_request *req)
{
    tt_http_once_stream_end(req);
    req->stream_ended = true;
    req->on_gone = NULL;
    req->on_drained = NULL;
    if (!tt_http_commit_stream(req)) {
        tt_http_stream_flush(req);
    }
}
