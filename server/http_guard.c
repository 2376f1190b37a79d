/* http_guard.c - connections that give nothing: heads and bodies that never end, and more silent
 * connections than there is room for. libmicrohttpd's own timeout starts anew with every byte, so
 * here a head and a body have a time in which they must be whole. And before connections run out,
 * the one that has waited longest without a request makes way, so that whoever asks is served.
 * Thread: the loop thread. Source of the ideas: h2o's request deadlines, nginx's reuse of idle
 * connections. */
#include "server/http_priv.h"

enum {
    TICK_MS = 500,
    RESERVE = 16,         /* a sixteenth of the connections, or so many, are kept free */
    BODY_RATE = 64 * 1024 /* bytes for which a body gets a second more */
};

/* ---- connections without a request, the one that waits longest first ---- */

static void unlink_idle(tt_conn *c)
{
    tt_http *h = c->http;
    if (!c->idle) {
        return;
    }
    c->idle = false;
    *(c->idle_prev != NULL ? &c->idle_prev->idle_next : &h->idle_first) = c->idle_next;
    *(c->idle_next != NULL ? &c->idle_next->idle_prev : &h->idle_last) = c->idle_prev;
}

static void link_idle(tt_conn *c)
{
    tt_http *h = c->http;
    c->idle = true;
    c->since = tt_now();
    c->idle_prev = h->idle_last;
    c->idle_next = NULL;
    *(h->idle_last != NULL ? &h->idle_last->idle_next : &h->idle_first) = c;
    h->idle_last = c;
}

static void close_early(tt_conn *c, uint64_t *counter)
{
    unlink_idle(c);
    c->closing = true;
    c->http->n_closing++;
    ++*counter;
    tt_http_close_idle(c);
}

/* The longest waiting ones go while less than the reserve is free. */
static void make_room(tt_http *h)
{
    int reserve = h->max_conns / 16 < RESERVE ? h->max_conns / 16 : RESERVE;
    while (h->n_conns - h->n_closing > h->max_conns - reserve && h->idle_first != NULL) {
        close_early(h->idle_first, &h->server->metrics.connections_shed);
    }
}

/* ---- times ---- */

/* A connection that has been answered once may wait as long as any idle one before its next head
 * begins. */
static double head_limit(const tt_conn *c)
{
    const tt_settings *set = c->http->server->settings;
    return set->head_seconds + (c->answered ? set->idle_seconds : 0);
}

static void check_body(tt_conn *c, double now)
{
    tt_http_request *req = c->req;
    const tt_settings *set = req->server->settings;
    if (req->dispatched) { /* a worker may be reading the body, and free it */
        return;
    }
    double received = (double)(req->body.n + req->n_discarded);
    if (now - c->since < set->body_seconds + received / BODY_RATE) {
        return;
    }
    if (!req->answered_early) {
        tt_error_set(&req->early, 408, NULL, "timeout", "the body did not arrive in time");
        tt_http_release_body(req);
        tt_http_answer_early(req);
    }
    close_early(c, &req->server->metrics.connections_late);
}

static void on_tick(uv_timer_t *t)
{
    tt_http *h = t->data;
    double now = tt_now();
    for (tt_conn *c = h->conns; c != NULL; c = c->next) {
        if (c->idle && now - c->since >= head_limit(c)) {
            close_early(c, &h->server->metrics.connections_late);
        } else if (c->req != NULL && !c->closing) {
            check_body(c, now);
        }
    }
}

/* ---- the life of a connection ---- */

void tt_http_guard_opened(tt_conn *c)
{
    tt_http *h = c->http;
    if (h->n_conns++ == 0) {
        uv_timer_start(&h->guard, on_tick, TICK_MS, TICK_MS);
    }
    link_idle(c);
    make_room(h);
}

void tt_http_guard_request(tt_conn *c)
{
    unlink_idle(c);
    c->since = tt_now();
}

void tt_http_guard_answered(tt_conn *c)
{
    c->answered = true;
    if (!c->closing && !c->gone) {
        link_idle(c);
    }
}

void tt_http_guard_closed(tt_conn *c)
{
    tt_http *h = c->http;
    unlink_idle(c);
    h->n_closing -= c->closing;
    if (--h->n_conns == 0) {
        uv_timer_stop(&h->guard);
    }
}
