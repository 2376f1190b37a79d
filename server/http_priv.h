/* http_priv.h - what http.c (requests) and http_daemon.c (sockets) share. Thread: the loop thread.
 */
#ifndef TT_HTTP_PRIV_H
#define TT_HTTP_PRIV_H

#include <microhttpd.h>
#include <uv.h>

#include "server/http.h"
#include "server/server.h"

/* One TCP connection. Freed by the close callback of `watch`, after libmicrohttpd has let go of it.
 */
typedef struct tt_conn {
    tt_http *http;
    struct MHD_Connection *mhd;
    int fd;          /* borrowed from libmicrohttpd */
    uv_poll_t watch; /* for UV_DISCONNECT */
    bool gone;       /* the client has closed, or shut down its sending side */
    tt_http_request *req;
    struct tt_conn *prev, *next;
    /* ---- http_guard.c ---- */
    double since;  /* monotonic: when the wait for a head, or the request, began */
    bool answered; /* a request before this one */
    bool idle;     /* in the list of those that wait for a head */
    bool closing;  /* it is being closed early */
    struct tt_conn *idle_prev, *idle_next;
} tt_conn;

struct tt_http {
    tt_server *server;
    struct MHD_Daemon *daemon;
    uv_poll_t epoll;     /* the daemon's own epoll descriptor */
    uv_timer_t timer;    /* what MHD_get_timeout asks for */
    uv_prepare_t before; /* the one place that calls MHD_run: just before the loop sleeps */
    bool kick;           /* MHD_run is needed */
    uv_timer_t guard;    /* looks for connections that take too long */
    tt_conn *conns;
    tt_conn *idle_first, *idle_last;   /* those without a request, the longest first */
    int max_conns, n_conns, n_closing; /* n_closing: of n_conns, being closed early */
    int port, n_active, n_closed;      /* n_closed: of the four handles */
    size_t body_bytes;                 /* of all requests, against server.max_bodies */
};

enum MHD_Result tt_http_access(void *cls, struct MHD_Connection *mhd, const char *url,
                               const char *method, const char *version, const char *upload,
                               size_t *n_upload, void **con_cls);
void tt_http_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                       enum MHD_RequestTerminationCode why);
/* The life of a connection: it is there; a head is whole; its request has ended; it is gone. */
void tt_http_guard_opened(tt_conn *c);
void tt_http_guard_request(tt_conn *c);
void tt_http_guard_answered(tt_conn *c);
void tt_http_guard_closed(tt_conn *c);
/* Whether the request needs no key. */
bool tt_http_is_open(const tt_http_request *req);
/* Makes libmicrohttpd notice that the client of a connection without a request has left. */
void tt_http_close_idle(tt_conn *c);
/* Resumes a request that waits, and asks for a run of libmicrohttpd. */
void tt_http_wake(tt_http_request *req);
/* Hands the reply that is set in req, or its stream, to libmicrohttpd. */
enum MHD_Result tt_http_send_reply(tt_http_request *req);
/* Answers req->early while the body is still coming. */
void tt_http_answer_early(tt_http_request *req);
/* The client of `req` has left. */
void tt_http_client_gone(tt_http_request *req);

#endif
