/* http_daemon.c - libmicrohttpd inside the libuv loop. Its epoll descriptor is a uv_poll, its
 * timeout a uv_timer; both only ask for a run, which happens in a uv_prepare, so that every path
 * (traffic, a timeout, a resumed connection) meets in one place before the loop sleeps. Thread: the
 * loop thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http_priv.h"
#include "server/listen.h"
#include "server/log.h"

enum { MAX_RUNS = 16, CONNECTION_MEMORY = 32 * 1024 };

static void on_epoll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    ((tt_http *)p->data)->kick = true;
}

static void on_timer(uv_timer_t *t)
{
    ((tt_http *)t->data)->kick = true;
}

static void before_sleep(uv_prepare_t *p)
{
    tt_http *h = p->data;
    MHD_UNSIGNED_LONG_LONG ms = 0;
    if (!h->kick) {
        return;
    }
    bool waits = false;
    for (int i = 0; i < MAX_RUNS && (i == 0 || h->kick || (waits && ms == 0)); i++) {
        h->kick = false;
        MHD_run(h->daemon);
        waits = MHD_get_timeout(h->daemon, &ms) == MHD_YES;
    }
    if (h->kick) {
        waits = true;
        ms = 0; /* others get their turn first */
    }
    if (waits) {
        uv_timer_start(&h->timer, on_timer, ms, 0);
    } else {
        uv_timer_stop(&h->timer);
    }
}

static void on_watch_closed(uv_handle_t *handle)
{
    free(handle->data);
}

/* libmicrohttpd watches edges, and may have read what came and the end of the stream behind it at
 * one of them: it would keep the connection until its timeout. A second end of stream is a second
 * edge; the short timeout is for what is read later. */
void tt_http_close_idle(tt_conn *c)
{
    shutdown(c->fd, SHUT_RD);
    MHD_set_connection_option(c->mhd, MHD_CONNECTION_OPTION_TIMEOUT, 1u);
    c->http->kick = true;
}

/* Level-triggered: it would fire for ever, so the first time stops it. */
static void on_disconnect(uv_poll_t *p, int status, int events)
{
    tt_conn *c = p->data;
    if (status < 0 || (events & UV_DISCONNECT) != 0) {
        uv_poll_stop(p);
        c->gone = true;
        if (c->req != NULL) {
            tt_http_client_gone(c->req);
        }
        if (c->req == NULL || !c->req->dispatched) { /* nothing came, or not the whole body */
            tt_http_close_idle(c);
        }
    }
}

static void open_conn(tt_http *h, struct MHD_Connection *mhd, void **socket_context)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    tt_conn *c = calloc(1, sizeof *c);
    *socket_context = NULL;
    if (c == NULL || info == NULL) {
        free(c);
        return; /* tt_http_access refuses a connection without its tt_conn */
    }
    *c = (tt_conn){.http = h, .mhd = mhd, .fd = info->connect_fd, .next = h->conns};
    if (uv_poll_init(&h->server->loop, &c->watch, info->connect_fd) != 0) {
        free(c);
        return;
    }
    c->watch.data = c;
    uv_poll_start(&c->watch, UV_DISCONNECT, on_disconnect);
    if (h->conns != NULL) {
        h->conns->prev = c;
    }
    h->conns = c;
    *socket_context = c;
    tt_http_guard_opened(c);
}

/* Called before libmicrohttpd closes the socket, so that libuv never watches a descriptor that is
 * somebody else's. */
static void close_conn(tt_http *h, tt_conn *c)
{
    tt_http_guard_closed(c);
    if (c->prev != NULL) {
        c->prev->next = c->next;
    } else {
        h->conns = c->next;
    }
    if (c->next != NULL) {
        c->next->prev = c->prev;
    }
    uv_poll_stop(&c->watch);
    uv_close((uv_handle_t *)&c->watch, on_watch_closed);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        open_conn(cls, mhd, socket_context);
    } else if (*socket_context != NULL) {
        close_conn(cls, *socket_context);
        *socket_context = NULL;
    }
}

static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
    char text[400];
    (void)cls;
    if (vsnprintf(text, sizeof text, fmt, ap) > 0) {
        text[strcspn(text, "\n")] = '\0';
        tt_log(TT_LOG_DEBUG, "http: %s", text);
    }
}

static struct MHD_Daemon *start_daemon(tt_http *h, int fd)
{
    const tt_settings *set = h->server->settings;
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, tt_http_access,
        h, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_NOTIFY_COMPLETED, tt_http_completed, h, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, h, MHD_OPTION_CONNECTION_LIMIT, (unsigned)h->max_conns,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(set->idle_seconds + 0.5),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_END);
}

tt_code tt_http_start(tt_server *s, tt_http **ret_http, tt_err *reterr)
{
    tt_http *h = calloc(1, sizeof *h);
    int fd = -1;
    if (h == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    h->server = s;
    h->max_conns = tt_listen_limit((int)s->settings->max_connections);
    if (h->max_conns < s->settings->max_connections) {
        tt_log(TT_LOG_WARN, "open files are limited: %d connections at most, not %d", h->max_conns,
               (int)s->settings->max_connections);
    }
    tt_code rc = tt_listen_open(s->settings, &fd, &h->port, reterr);
    if (rc < 0) {
        free(h);
        return rc;
    }
    h->daemon = start_daemon(h, fd);
    const union MHD_DaemonInfo *info =
        h->daemon != NULL ? MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (info == NULL) {
        if (h->daemon != NULL) {
            MHD_stop_daemon(h->daemon);
        } else {
            close(fd);
        }
        free(h);
        return tt_fail(reterr, TT_E_IO, "cannot start the HTTP daemon: %s", strerror(errno));
    }
    uv_poll_init(&s->loop, &h->epoll, info->epoll_fd);
    uv_timer_init(&s->loop, &h->timer);
    uv_timer_init(&s->loop, &h->guard);
    uv_prepare_init(&s->loop, &h->before);
    h->epoll.data = h->timer.data = h->before.data = h->guard.data = h;
    uv_poll_start(&h->epoll, UV_READABLE, on_epoll);
    uv_prepare_start(&h->before, before_sleep);
    h->kick = true;
    *ret_http = h;
    return TT_OK;
}

int tt_http_port(const tt_http *h)
{
    return h->port;
}

int tt_http_active(const tt_http *h)
{
    return h->n_active;
}

/* The four handles lie in one struct, and libuv still looks at each of them after the callback of
 * another: the last one frees it. */
static void on_handle_closed(uv_handle_t *handle)
{
    tt_http *h = handle->data;
    if (++h->n_closed == 4) {
        free(h);
    }
}

void tt_http_stop(tt_http **http)
{
    tt_http *h = *http;
    if (h == NULL) {
        return;
    }
    for (tt_conn *c = h->conns; c != NULL; c = c->next) {
        if (c->req != NULL) {
            tt_http_client_gone(c->req); /* resumes it */
        }
    }
    MHD_run(h->daemon);
    uv_poll_stop(&h->epoll);
    uv_close((uv_handle_t *)&h->epoll, on_handle_closed);
    uv_prepare_stop(&h->before);
    uv_close((uv_handle_t *)&h->before, on_handle_closed);
    uv_timer_stop(&h->timer);
    MHD_stop_daemon(h->daemon); /* closes the listening socket and every connection */
    *http = NULL;               /* not before: a last probe may still have been answered */
    uv_close((uv_handle_t *)&h->timer, on_handle_closed);
    uv_timer_stop(&h->guard); /* the last connection has done so, if there was one */
    uv_close((uv_handle_t *)&h->guard, on_handle_closed);
}
