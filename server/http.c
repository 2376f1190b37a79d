/* http.c - the life of a request, see http.h: its id, key, body, route, end. What is sent back is
 * http_reply.c. */
#include "server/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/hex.h"
#include "server/http_commit.h"
#include "server/http_once.h"
#include "server/http_priv.h"
#include "server/listen.h"
#include "server/route.h"

/* A refused body is read and dropped up to this many times server.max_body, so that the client gets
 * to read the answer. */
enum { DISCARD_FACTOR = 4, ARENA_LIMIT = 1 << 30 };

void tt_http_ref(tt_http_request *req)
{
    req->refs++;
}

void tt_http_unref(tt_http_request *req)
{
    if (--req->refs == 0) {
        tt_http_once_release(req);
        tt_http_commit_drop(req);
        tt_buf_finish(&req->body);
        tt_buf_finish(&req->out);
        tt_arena_finish(&req->arena);
        free(req);
    }
}

const char *tt_http_get_header(tt_http_request *req, const char *name)
{
    return req->mhd != NULL ? MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, name) : NULL;
}

/* Probes always, /metrics as the operator decides. */
bool tt_http_is_open(const tt_http_request *req)
{
    return req->route->open || (req->route->metrics && req->server->settings->open_metrics);
}

bool tt_http_accepts(tt_http_request *req, const char *type)
{
    const char *accept = tt_http_get_header(req, "Accept");
    size_t n = strlen(type);
    while (accept != NULL && (strncasecmp(accept, type, n) != 0 ||
                              (accept[n] != '\0' && strchr(",; \t", accept[n]) == NULL))) {
        accept = strchr(accept, ',');
        accept = accept != NULL ? accept + 1 + strspn(accept + 1, " \t") : NULL;
    }
    return accept != NULL;
}

const char *tt_http_get_query(tt_http_request *req, const char *name)
{
    return req->mhd != NULL ? MHD_lookup_connection_value(req->mhd, MHD_GET_ARGUMENT_KIND, name)
                            : NULL;
}

/* The client's own id when it is harmless in a header and a log, else a fresh one. */
static void choose_id(tt_http_request *req)
{
    const char *given = tt_http_get_header(req, "X-Request-Id");
    size_t n = 0;
    while (given != NULL && given[n] > 0x20 && given[n] < 0x7F && n < sizeof req->id - 1) {
        n++;
    }
    if (n > 0 && given[n] == '\0') {
        memcpy(req->id, given, n + 1);
        return;
    }
    strcpy(req->id, "req_");
    tt_hex_random(12, req->id + 4);
}

/* Whether a proxy says that it asks for somebody else. */
static bool is_forwarded(tt_http_request *req)
{
    return tt_http_get_header(req, "X-Forwarded-For") != NULL ||
           tt_http_get_header(req, "Forwarded") != NULL;
}

/* Whether the client sits on this machine: its address is loopback, or the socket has a path, and
 * it is no proxy, whose own clients may be anywhere. */
static bool is_local(tt_http_request *req)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(req->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info != NULL ? info->client_addr : NULL;
    bool near =
        req->server->settings->unix_socket[0] != '\0' || (a != NULL && tt_listen_is_local(a));
    return near && !is_forwarded(req);
}

/* What a route asks of its caller beyond a key. */
static void check_role(tt_http_request *req, tt_http_error *e)
{
    bool admin = req->tenant != NULL ? req->tenant->key.role == TT_ROLE_ADMIN : is_local(req);
    bool wanted = req->route->admin || (req->route->metrics && req->server->keyed);
    if (wanted && !admin) {
        tt_error_set(e, 403, NULL, "admin_only",
                     req->tenant != NULL
                         ? "this needs an API key of role admin"
                         : "without API keys this is for clients on this machine alone");
    }
}

/* Whose request it is, and whether he may make one now. */
static void check_key(tt_http_request *req, tt_http_error *e)
{
    tt_server *s = req->server;
    const char *auth = tt_http_get_header(req, "Authorization");
    if (tt_http_is_open(req)) {
        return;
    }
    if (s->keyed) {
        bool bearer = auth != NULL && strncasecmp(auth, "Bearer ", 7) == 0;
        req->tenant = tt_tenants_find(&s->tenants, bearer ? auth + 7 : "");
        if (req->tenant == NULL) {
            tt_error_set(e, 401, NULL, "invalid_api_key",
                         auth == NULL ? "an API key is required: Authorization: Bearer KEY"
                                      : "the API key is not valid");
            return;
        }
        snprintf(req->scope, sizeof req->scope, "%s", req->tenant->key.scope);
    }
    check_role(req, e);
    req->entered = e->status == 0 && tt_tenant_enter(req->tenant, tt_now(), e);
}

static void check_type(tt_http_request *req, tt_http_error *e)
{
    const char *type = tt_http_get_header(req, "Content-Type");
    size_t n = type != NULL ? strcspn(type, "; ") : 0;
    const char *length = tt_http_get_header(req, "Content-Length");
    bool empty = (length == NULL || strcmp(length, "0") == 0) &&
                 tt_http_get_header(req, "Transfer-Encoding") == NULL;
    if (req->route->optional_body && empty && type == NULL) {
        return;
    }
    if (n != 16 || strncasecmp(type, "application/json", 16) != 0) {
        tt_error_set(e, 415, NULL, NULL, "Content-Type must be application/json, not '%.60s'",
                     type != NULL ? type : "");
    }
}

static void too_large(tt_http_request *req, tt_http_error *e)
{
    tt_error_set(e, 413, NULL, NULL, "the body is larger than %lld bytes",
                 (long long)req->server->settings->max_body);
}

typedef struct framing {
    int n_lengths, n_encodings;
    bool chunked, spaced;
} framing;

static enum MHD_Result note_framing(void *cls, enum MHD_ValueKind kind, const char *name,
                                    const char *value)
{
    framing *f = cls;
    (void)kind;
    f->spaced |= name[strcspn(name, " \t")] != '\0';
    if (strcasecmp(name, "Content-Length") == 0) {
        f->n_lengths++;
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        f->n_encodings++;
        f->chunked = value != NULL && strcasecmp(value, "chunked") == 0;
    }
    return MHD_YES;
}

/* Two lengths, a length beside chunks, an encoding that is not chunks, a name with a blank behind
 * it that one side knows and another does not: what one takes for a body's end another takes for a
 * next request. Proxies refuse these; so do we (RFC 9112, 5.1 and 6.3). */
static bool is_ambiguous(struct MHD_Connection *mhd)
{
    framing f = {0};
    MHD_get_connection_values(mhd, MHD_HEADER_KIND, note_framing, &f);
    return f.spaced || f.n_lengths + f.n_encodings > 1 || (f.n_encodings == 1 && !f.chunked);
}

/* What the headers alone decide. */
static void check_headers(tt_http_request *req)
{
    tt_http_error *e = &req->early;
    char allow[64];
    tt_route_result found =
        tt_route_find(tt_routes, tt_n_routes, req->url, req->method, &req->route, req->param,
                      sizeof req->param, allow, sizeof allow);
    if (found == TT_ROUTE_NO_PATH) {
        tt_error_set(e, 404, NULL, "unknown_url", "unknown path: %s %.100s", req->method, req->url);
        return;
    }
    if (found == TT_ROUTE_NO_METHOD) {
        tt_error_set(e, 405, NULL, "method_not_allowed", "%.100s does not take %.20s; it takes %s",
                     req->url, req->method, allow);
        tt_http_header(req, "Allow", allow);
        return;
    }
    check_key(req, e);
    if (e->status == 0 && strcmp(req->route->methods, "POST") == 0) {
        check_type(req, e);
    }
    const char *length = tt_http_get_header(req, "Content-Length");
    if (e->status == 0 && length != NULL &&
        strtoull(length, NULL, 10) > (unsigned long long)req->server->settings->max_body) {
        too_large(req, e);
    }
}

static tt_http_request *create_request(tt_http *h, struct MHD_Connection *mhd, const char *url,
                                       const char *method)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    tt_conn *c = info != NULL ? info->socket_context : NULL;
    tt_http_request *req = c != NULL ? calloc(1, sizeof *req) : NULL;
    if (req == NULL) {
        return NULL;
    }
    req->server = h->server;
    req->refs = 1;
    req->mhd = mhd;
    req->conn = c;
    req->started = tt_now();
    tt_arena_init(&req->arena, ARENA_LIMIT);
    tt_buf_init(&req->body, (size_t)h->server->settings->max_body);
    req->url = tt_arena_strndup(&req->arena, url, strlen(url));
    req->method = tt_arena_strndup(&req->arena, method, strlen(method));
    if (req->url == NULL || req->method == NULL) {
        tt_http_unref(req);
        return NULL;
    }
    c->req = req;
    h->n_active++;
    tt_http_guard_request(c);
    choose_id(req);
    tt_trace_begin(&req->note.trace, tt_http_get_header(req, "traceparent"));
    return req;
}

/* A body whose length is told gets its memory at once, when its first bytes are there: growing, it
 * would take twice as much. What is not written takes none. */
static void reserve_body(tt_http_request *req, size_t n_first)
{
    const char *length = tt_http_get_header(req, "Content-Length");
    unsigned long long n = length != NULL ? strtoull(length, NULL, 10) : 0;
    if (req->body.cap == 0 && n > n_first && n <= (unsigned long long)req->body.limit) {
        tt_buf_reserve(&req->body, (size_t)n);
    }
}

static void take_body(tt_http *h, tt_http_request *req, const char *data, size_t n)
{
    size_t total;
    bool wanted = req->early.status == 0;
    if (wanted && __builtin_add_overflow(h->body_bytes, n, &total) == false &&
        total > (size_t)h->server->settings->max_bodies) {
        tt_error_set(&req->early, 429, NULL, "capacity",
                     "too many large requests at once; try again");
    }
    if (wanted && req->early.status == 0) {
        reserve_body(req, n);
        tt_buf_put(&req->body, data, n);
        if (!req->body.failed) {
            h->body_bytes += n;
            req->n_reserved += n;
            return;
        }
        if (req->body.n + n > (size_t)req->server->settings->max_body) {
            too_large(req, &req->early);
        } else {
            tt_error_from_code(&req->early, &(tt_err){.code = TT_E_NOMEM});
        }
    }
    req->n_discarded += n;
    tt_http_release_body(req);
    bool too_much = req->early.status == 413 || (wanted && req->early.status == 429);
    if (too_much && !req->answered_early) { /* what the headers decided waits for the body's end */
        tt_http_answer_early(req);
    }
}

void tt_http_release_body(tt_http_request *req)
{
    if (req->server->http != NULL) {
        req->server->http->body_bytes -= req->n_reserved;
    }
    req->n_reserved = 0;
    req->body_busy = false;
    tt_buf_finish(&req->body);
}

static void dispatch(tt_http_request *req)
{
    tt_server *s = req->server;
    tt_http_error e;
    req->dispatched = true;
    if (s->settings->log_prompts) {
        tt_request_note_body(&req->note, &req->arena, req->body.p, req->body.n);
    }
    if (strcmp(req->method, "OPTIONS") == 0) {
        tt_buf none = {0};
        tt_http_reply(req, 204, NULL, &none);
    } else if (req->early.status != 0) {
        tt_http_reply_error(req, &req->early);
    } else if (req->route->ready && s->phase >= TT_PHASE_DRAINING) {
        tt_error_set(&e, 503, NULL, "draining", "the server is shutting down");
        e.retry_after = 5;
        req->close = true;
        tt_http_reply_error(req, &e);
    } else if (req->route->ready && s->served == NULL) {
        tt_error_set(&e, 503, NULL, "loading", "the model is loading");
        tt_http_reply_error(req, &e);
    } else {
        req->route->handler(req);
    }
}

enum MHD_Result tt_http_access(void *cls, struct MHD_Connection *mhd, const char *url,
                               const char *method, const char *version, const char *upload,
                               size_t *n_upload, void **con_cls)
{
    tt_http *h = cls;
    tt_http_request *req = *con_cls;
    (void)version;
    if (req == NULL) {
        *con_cls = req = create_request(h, mhd, url, method);
        if (req == NULL) {
            return MHD_NO;
        }
        bool ambiguous = is_ambiguous(mhd);
        if (ambiguous) {
            tt_error_set(&req->early, 400, NULL, NULL, "the length of the body is ambiguous");
        } else if (strcmp(method, "OPTIONS") != 0) {
            check_headers(req);
        }
        if (ambiguous || (req->early.status != 0 && tt_http_get_header(req, "Expect") != NULL)) {
            req->close = true; /* the client has not begun to send, or nobody knows where it ends */
            dispatch(req);
            return tt_http_send_reply(req);
        }
        if (req->early.status == 413) {
            tt_http_answer_early(req);
        }
        if (req->conn->gone) { /* seen before the head was: what follows the head, or its end, needs
                                  an edge of its own */
            tt_http_close_idle(req->conn);
        }
        return MHD_YES;
    }
    if (*n_upload > 0) {
        req->note.received += *n_upload;
        take_body(h, req, upload, *n_upload);
        *n_upload = 0;
        if (req->conn->gone) {
            tt_http_close_idle(req->conn);
        }
        return req->n_discarded / DISCARD_FACTOR > (size_t)h->server->settings->max_body ? MHD_NO
                                                                                         : MHD_YES;
    }
    if (req->answered_early) {
        return MHD_NO; /* closes */
    }
    if (!req->dispatched) {
        dispatch(req);
        if (!req->replied && req->conn->gone) {
            tt_http_client_gone(req);
        }
    }
    if (req->gone) {
        return MHD_NO;
    }
    if (req->replied) {
        return tt_http_send_reply(req);
    }
    req->suspended = true;
    MHD_suspend_connection(mhd);
    return MHD_YES;
}

void tt_http_wake(tt_http_request *req)
{
    if (req->suspended && req->mhd != NULL) {
        req->suspended = false;
        MHD_resume_connection(req->mhd);
    }
    if (req->conn != NULL) {
        req->conn->http->kick = true;
    }
}

void tt_http_client_gone(tt_http_request *req)
{
    void (*on_gone)(void *arg) = req->on_gone;
    if (req->gone) {
        return;
    }
    bool done = req->streaming ? req->stream_ended : req->replied;
    req->on_gone = NULL;
    req->on_drained = NULL;
    if (!done || req->suspended) {
        req->gone = true;
    }
    if (!done && on_gone != NULL) {
        on_gone(req->arg);
    }
    tt_http_wake(req);
}

void tt_http_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                       enum MHD_RequestTerminationCode why)
{
    tt_http *h = cls;
    tt_http_request *req = *con_cls;
    (void)mhd;
    if (req == NULL) {
        return;
    }
    *con_cls = NULL;
    req->suspended = false;
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK) {
        tt_http_client_gone(req);
    }
    if (!req->body_busy) {
        tt_http_release_body(req);
    }
    bool ok = why == MHD_REQUEST_TERMINATED_COMPLETED_OK || req->answered_early;
    tt_request_log(req, ok);
    if (req->entered) {
        tt_tenant_leave(req->tenant);
    }
    tt_metrics_request(&h->server->metrics, req->status, ok);
    if (req->conn->gone) {
        tt_http_close_idle(req->conn);
    }
    req->mhd = NULL;
    req->conn->req = NULL;
    tt_http_guard_answered(req->conn);
    req->conn = NULL;
    h->n_active--;
    tt_http_unref(req);
}
