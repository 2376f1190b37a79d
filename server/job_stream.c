/* job_stream.c - see job_stream.h. */
#include "server/job_stream.h"

#include <stdlib.h>

#include "server/job_json.h"
#include "server/sse.h"

typedef struct tt_job_stream {
    tt_job_follower follower; /* first: on_change finds the stream by it */
    tt_server *server;
    tt_http_request *http; /* a reference */
    int64_t sent;          /* number of the last event that was written */
    double last_sent;      /* monotonic */
    struct tt_job_stream *prev, *next;
} tt_job_stream;

static void destroy(tt_job_stream *st)
{
    *(st->prev != NULL ? &st->prev->next : &st->server->job_streams) = st->next;
    if (st->next != NULL) {
        st->next->prev = st->prev;
    }
    tt_job_record_unfollow(&st->follower);
    st->http->on_gone = NULL;
    st->http->on_drained = NULL;
    tt_http_unref(st->http);
    free(st);
}

/* Writes what the client has room for; ends the stream, and frees it, behind the last event of a
 * job that has ended. */
static void pump(tt_job_stream *st)
{
    const tt_job_record *r = st->follower.record;
    size_t backlog = (size_t)st->server->settings->backlog;
    tt_buf *out = tt_http_stream_out(st->http);
    int32_t n, i = 0;
    const tt_job_event *v = tt_job_log_after(&r->log, st->sent, &n);
    for (; i < n && tt_http_stream_pending(st->http) < backlog; i++) {
        tt_sse_begin(out);
        tt_job_json_event(out, &v[i]);
        tt_sse_end(out);
        st->sent = v[i].number;
        st->last_sent = tt_now();
    }
    if (i == n && tt_job_record_ended(r)) {
        tt_sse_done(out);
        tt_http_stream_end(st->http);
        destroy(st);
    } else if (i > 0) {
        tt_http_stream_flush(st->http);
    }
}

static void on_change(tt_job_follower *f)
{
    pump((tt_job_stream *)(void *)f);
}

static void on_drained(void *arg)
{
    pump(arg);
}

static void on_gone(void *arg)
{
    destroy(arg);
}

void tt_job_stream_start(tt_http_request *req, tt_job_record *r, int64_t after)
{
    tt_server *s = req->server;
    tt_job_stream *st = calloc(1, sizeof *st);
    if (st == NULL) {
        tt_http_reply_no_memory(req);
        return;
    }
    st->server = s;
    st->http = req;
    tt_http_ref(req);
    st->sent = after;
    st->last_sent = tt_now();
    st->follower.on_change = on_change;
    tt_job_record_follow(r, &st->follower);
    st->next = s->job_streams;
    if (st->next != NULL) {
        st->next->prev = st;
    }
    s->job_streams = st;
    req->arg = st;
    req->on_gone = on_gone;
    req->on_drained = on_drained;
    tt_http_stream_begin(req);
    pump(st);
    tt_server_arm_tick(s);
}

uint64_t tt_job_streams_tick(tt_server *s)
{
    double wait = 1e9;
    for (tt_job_stream *st = s->job_streams; st != NULL; st = st->next) {
        double due = tt_http_stream_heartbeat(st->http, &st->last_sent);
        wait = due < wait ? due : wait;
    }
    return wait > 1e8 ? 0 : (uint64_t)(wait * 1000) + 1;
}

void tt_job_streams_cut(tt_server *s)
{
    tt_http_error e;
    tt_error_set(&e, 503, NULL, "draining", "the server is shutting down");
    while (s->job_streams != NULL) {
        tt_job_stream *st = s->job_streams;
        tt_sse_error(tt_http_stream_out(st->http), &e);
        tt_http_stream_end(st->http);
        destroy(st);
    }
}
