/* api_jobs.c - /v1/qttt/jobs: the jobs of an API key, one of them, its cancellation, pause and
 * events. Thread: the loop thread. */
#include "server/api_jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/http_commit.h"
#include "server/job_json.h"
#include "server/job_state.h"
#include "server/job_stream.h"
#include "server/job_table.h"
#include "server/list_query.h"
#include "server/server.h"

enum { MAX_EVENTS_LIMIT = 1000 };

void tt_api_job_reply(tt_http_request *req, int status, const tt_job_record *r)
{
    tt_buf b = {0};
    tt_job_json_write(&b, r, tt_unix_now());
    tt_http_reply(req, status, "application/json", &b);
}

/* The record of the path's {id}; NULL: answered with 404. */
static tt_job_record *find(tt_http_request *req)
{
    tt_job_record *r = tt_job_table_find(req->server->jobs, req->scope, req->param);
    if (r == NULL) {
        tt_http_error e;
        tt_error_set(&e, 404, "id", "job_not_found", "there is no job '%.100s'", req->param);
        tt_http_reply_error(req, &e);
    }
    return r;
}

void tt_api_jobs_get(tt_http_request *req)
{
    tt_job_record *r = find(req);
    if (r != NULL) {
        tt_api_job_reply(req, 200, r);
    }
}

/* ---- lists ---- */

void tt_api_jobs_list_of(tt_http_request *req, const char *session_id)
{
    tt_list_query q;
    tt_http_error e;
    tt_job_record *v[TT_LIST_MAX_LIMIT];
    tt_buf data = {0}, b = {0};
    int32_t n = 0;
    bool more = false;
    if (!tt_list_query_parse(req, false, TT_LIST_MAX_LIMIT, &q, &e)) {
        tt_http_reply_error(req, &e);
        return;
    }
    tt_job_list list = {.scope = req->scope,
                        .session_id = session_id,
                        .after = q.after,
                        .limit = q.limit,
                        .ascending = q.ascending};
    if (!tt_job_table_list(req->server->jobs, &list, v, &n, &more)) {
        tt_error_set(&e, 400, "after", NULL, "after: there is no job '%.100s'", q.after);
        tt_http_reply_error(req, &e);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        if (i > 0) {
            tt_buf_putc(&data, ',');
        }
        tt_job_json_write(&data, v[i], tt_unix_now());
    }
    tt_list_write(&b, &data, n > 0 ? v[0]->id : NULL, n > 0 ? v[n - 1]->id : NULL, more);
    tt_buf_finish(&data);
    tt_http_reply_json(req, &b);
}

void tt_api_jobs_list(tt_http_request *req)
{
    tt_api_jobs_list_of(req, NULL);
}

/* ---- cancel, pause, resume: what the job is now, whatever it was; the engine follows within a
 * step ---- */

typedef struct action {
    tt_server *server;
    tt_job_record *record; /* a reference */
    bool cancel, pause, cancel_before, pause_before;
} action;

/* The wish is in the file: the engine hears of it. */
static void on_written(void *arg, tt_code rc)
{
    action *a = arg;
    tt_job_record *r = a->record;
    if (rc < 0) {
        r->cancel_asked = a->cancel_before;
        r->pause_asked = a->pause_before;
    } else if (a->cancel) {
        tt_job_record_cancel(r);
    } else {
        tt_job_record_pause(r, a->pause);
    }
    if (rc >= 0 && a->server->engine != NULL) {
        tt_engine_kick(a->server->engine);
    }
    tt_job_record_unref(&a->record);
    free(a);
}

static void act(tt_http_request *req, tt_job_record *r, bool cancel, bool pause)
{
    if (tt_job_record_ended(r)) {
        tt_api_job_reply(req, 200, r);
        return;
    }
    action *a = malloc(sizeof *a);
    if (a == NULL) {
        tt_http_reply_no_memory(req);
        return;
    }
    *a = (action){req->server, r, cancel, pause, r->cancel_asked, r->pause_asked};
    tt_job_record_ref(r);
    r->cancel_asked = cancel;
    r->pause_asked = pause;
    (void)tt_job_state_put(tt_http_txn(req), r); /* the commit tells of a failure */
    tt_http_txn_end(req, on_written, a);
    tt_api_job_reply(req, 200, r);
}

void tt_api_jobs_cancel(tt_http_request *req)
{
    tt_job_record *r = find(req);
    if (r != NULL) {
        act(req, r, true, r->pause_asked);
    }
}

static void set_paused(tt_http_request *req, bool paused)
{
    tt_job_record *r = find(req);
    if (r != NULL) {
        act(req, r, r->cancel_asked, paused);
    }
}

void tt_api_jobs_pause(tt_http_request *req)
{
    set_paused(req, true);
}

void tt_api_jobs_resume(tt_http_request *req)
{
    set_paused(req, false);
}

/* ---- events ---- */

/* A sequence number, 0 when `text` is NULL. */
static bool read_number(const char *text, const char *param, int64_t *ret, tt_http_error *e)
{
    size_t digits = text != NULL ? strspn(text, "0123456789") : 0;
    if (text != NULL && (digits == 0 || digits > 18 || text[digits] != '\0')) {
        tt_error_set(e, 400, param, NULL, "%s is '%.30s'; it must be a sequence number", param,
                     text);
        return false;
    }
    *ret = text != NULL ? strtoll(text, NULL, 10) : 0;
    return true;
}

static void list_events(tt_http_request *req, const tt_job_record *r, int64_t after)
{
    tt_list_query q;
    tt_http_error e;
    tt_buf data = {0}, b = {0};
    char first[24], last[24];
    int32_t n;
    if (!tt_list_query_read(NULL, tt_http_get_query(req, "limit"), NULL, true, MAX_EVENTS_LIMIT, &q,
                            &e)) {
        tt_http_reply_error(req, &e);
        return;
    }
    const tt_job_event *v = tt_job_log_after(&r->log, after, &n);
    int32_t shown = n < q.limit ? n : q.limit;
    for (int32_t i = 0; i < shown; i++) {
        if (i > 0) {
            tt_buf_putc(&data, ',');
        }
        tt_job_json_event(&data, &v[i]);
    }
    if (shown > 0) {
        snprintf(first, sizeof first, "%lld", (long long)v[0].number);
        snprintf(last, sizeof last, "%lld", (long long)v[shown - 1].number);
    }
    tt_list_write(&b, &data, shown > 0 ? first : NULL, shown > 0 ? last : NULL, shown < n);
    tt_buf_finish(&data);
    tt_http_reply_json(req, &b);
}

void tt_api_jobs_events(tt_http_request *req)
{
    const char *query = tt_http_get_query(req, "after");
    const char *header = tt_http_get_header(req, "Last-Event-ID");
    tt_http_error e;
    int64_t after;
    tt_job_record *r = find(req);
    if (r == NULL) {
        return;
    }
    bool stream = tt_http_accepts(req, "text/event-stream");
    bool by_header = stream && query == NULL;
    if (!read_number(by_header ? header : query, by_header ? "Last-Event-ID" : "after", &after,
                     &e)) {
        tt_http_reply_error(req, &e);
    } else if (stream) {
        tt_job_stream_start(req, r, after);
    } else {
        list_events(req, r, after);
    }
}
