/* work.c - see work.h. */
#include "server/work.h"

#include "server/server.h"

static void on_run(uv_work_t *req)
{
    tt_work *w = req->data;
    w->run(w);
}

static void start_next(tt_server *s);

static void on_done(uv_work_t *req, int status)
{
    tt_work *w = req->data;
    tt_server *s = w->server;
    (void)status; /* never cancelled once queued */
    s->n_working--;
    w->done(w);
    start_next(s);
}

static void start_next(tt_server *s)
{
    while (s->work_first != NULL && s->n_working < s->settings->workers) {
        tt_work *w = s->work_first;
        s->work_first = w->next;
        if (s->work_first == NULL) {
            s->work_last = NULL;
        }
        if (w->wanted != NULL && !w->wanted(w)) {
            w->done(w);
            continue;
        }
        s->n_working++;
        uv_queue_work(&s->loop, &w->req, on_run, on_done);
    }
}

void tt_work_submit(tt_server *s, tt_work *w)
{
    w->server = s;
    w->req.data = w;
    w->next = NULL;
    if (s->work_last != NULL) {
        s->work_last->next = w;
    } else {
        s->work_first = w;
    }
    s->work_last = w;
    start_next(s);
}
