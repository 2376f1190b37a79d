/* http.h - requests and responses over libmicrohttpd, driven by the libuv loop. Thread: the loop
 * thread only, but for reading a request's constant fields in work.c's functions.
 *
 * Life of a request: headers -> route -> body (bounded) -> handler. A handler either replies at
 * once (tt_http_reply), or starts something and returns: the connection is then suspended until
 * tt_http_reply or tt_http_stream_begin. A suspended connection notices nothing, so each socket
 * also has a uv_poll for its client's leaving: it calls on_gone. */
#ifndef TT_HTTP_H
#define TT_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include "core/arena.h"
#include "server/buf.h"
#include "server/error_map.h"
#include "server/request_log.h"

struct tt_server;
struct MHD_Connection;
typedef struct tt_http tt_http;
typedef struct tt_http_request tt_http_request;

typedef void (*tt_handler)(tt_http_request *req);

typedef struct tt_route {
    const char *path;    /* "/v1/sessions/{id}/fork", "/v1/models/{id...}"; see route.h */
    const char *methods; /* "GET", "POST" */
    tt_handler handler;
    bool open;          /* needs no API key */
    bool admin;         /* needs one of role admin; without keys a client on this machine */
    bool metrics;       /* open, or for admins: server.open_metrics */
    bool ready;         /* needs the model: 503 before, and while draining */
    bool optional_body; /* a POST that may come without a body, and then without its type */
} tt_route;

enum { TT_HTTP_MAX_HEADERS = 8, TT_REQUEST_ID_BYTES = 129 };

struct tt_http_request {
    struct tt_server *server;
    const tt_route *route;
    char id[TT_REQUEST_ID_BYTES]; /* x-request-id */
    char param[256];              /* what {id} matched, percent-decoded */
    char scope[40];               /* tenant of what it makes (tt_key.scope), "" without keys */
    struct tt_tenant *tenant;     /* borrowed from the server; NULL without keys */
    tt_request_note note;         /* for the log */
    tt_buf body;
    bool body_busy; /* a worker reads body: it stays although the client leaves;
                       tt_http_release_body ends it */
    tt_arena arena; /* freed with the request */
    double started; /* monotonic */

    /* Set by the handler that waits; called once when the client has left before the answer ended,
     * never after the last tt_http_reply or tt_http_stream_end. The request may not be used
     * afterwards but for tt_http_unref. */
    void (*on_gone)(void *arg);
    /* A stream's reader has taken the backlog down: more may be written. */
    void (*on_drained)(void *arg);
    void *arg;

    /* private to http.c */
    int refs;
    struct MHD_Connection *mhd;
    struct tt_conn *conn;
    const char *method, *url;
    struct {
        const char *name, *value;
    } headers[TT_HTTP_MAX_HEADERS];
    int n_headers;
    tt_http_error early; /* decided from the headers, sent after the body */
    size_t n_discarded, n_reserved, n_read;
    int status;
    const char *content_type;
    tt_buf out;                 /* a whole reply, or what of a stream is not yet read */
    struct tt_idem_entry *once; /* http_once.h; NULL without an Idempotency-Key */
    tt_buf kept;                /* a stream's text so far, for its entry */
    size_t n_kept;              /* bytes of out that are in it */
    struct tt_state_txn *txn;   /* http_commit.h */
    void (*txn_end)(void *arg, tt_code rc);
    void *txn_arg;
    size_t hold_at; /* bytes of a stream's out that may go out before its transaction */
    bool has_txn, committing, held;
    bool dispatched, suspended, replied, streaming, stream_ended, gone, close, answered_early;
    bool entered; /* has its place with its tenant */
};

/* Binds, listens, starts the daemon and its handles in server->loop. */
tt_code tt_http_start(struct tt_server *s, tt_http **ret_http, tt_err *reterr);
/* TCP port, 0 for a Unix socket. */
int tt_http_port(const tt_http *h);
/* Resumes everything that waits, cuts what runs, stops the daemon, closes its handles (the loop
 * must run once more). */
void tt_http_stop(tt_http **http);
/* Open requests, streams included. */
int tt_http_active(const tt_http *h);

/* A further reference keeps the request's memory for a worker or a generation after the client has
 * gone. */
void tt_http_ref(tt_http_request *req);
void tt_http_unref(tt_http_request *req);

/* Adds a response header; name is static, value is copied into the arena. Ignored beyond
 * TT_HTTP_MAX_HEADERS. */
void tt_http_header(tt_http_request *req, const char *name, const char *value);
/* Answers. `body` is taken over (and emptied). A request that is gone is left alone. */
void tt_http_reply(tt_http_request *req, int status, const char *content_type, tt_buf *body);
void tt_http_reply_error(tt_http_request *req, const tt_http_error *e);
/* Likewise with what a failure is to HTTP (error_map.h). */
void tt_http_reply_code(tt_http_request *req, const tt_err *err);
void tt_http_reply_no_memory(tt_http_request *req);
/* 200 with JSON text. */
void tt_http_reply_json(tt_http_request *req, tt_buf *body);

/* Sends status 200 and the headers of an event stream; text follows by tt_http_stream_out. */
void tt_http_stream_begin(tt_http_request *req);
/* The stream's outgoing buffer: append, then tt_http_stream_flush. */
tt_buf *tt_http_stream_out(tt_http_request *req);
void tt_http_stream_flush(tt_http_request *req);
/* Bytes that the client has not taken yet. */
size_t tt_http_stream_pending(const tt_http_request *req);
/* A comment line when nothing was sent for server.heartbeat_seconds (and the client has nothing
 * left to read); *last_sent: monotonic, moved on then. Returns seconds until the next one is due.
 */
double tt_http_stream_heartbeat(tt_http_request *req, double *last_sent);
/* Nothing more will be written; what is in the buffer still goes out. */
void tt_http_stream_end(tt_http_request *req);

/* Frees the body; a handler calls it as soon as it has read it. */
void tt_http_release_body(tt_http_request *req);

/* A request header's value or NULL; valid while the request is being dispatched. */
const char *tt_http_get_header(tt_http_request *req, const char *name);
/* Whether Accept names this type (types are told apart without case); while it is being dispatched.
 */
bool tt_http_accepts(tt_http_request *req, const char *type);
/* An argument of the query ("after"), percent-decoded, or NULL; valid likewise. */
const char *tt_http_get_query(tt_http_request *req, const char *name);

#endif
