/* api_session_jobs.c - /v1/sessions/{id}/qttt/jobs: a job that trains on the context of a session,
 * and the list of them. The body is the qttt object of docs/api.md with expected_generation and
 * metadata beside its fields. Thread: the loop thread. */
#include <stdio.h>
#include <string.h>

#include "server/api.h"
#include "server/api_jobs.h"
#include "server/api_json.h"
#include "server/http_commit.h"
#include "server/http_once.h"
#include "server/job_setup.h"
#include "server/job_state.h"
#include "server/job_table.h"
#include "server/metadata.h"
#include "server/prepare.h"
#include "server/session_load.h"
#include "server/session_setup.h"

/* What a body may be to be read on the loop thread: metadata at its bounds, written in escapes. */
enum { MAX_BODY = 128 * 1024, JSON_MEMORY = 1 << 16 };

/* What a request asks for. */
typedef struct job_request {
    tt_qttt_request qttt;
    int64_t expected_generation; /* -1 = any */
    tt_buf metadata, ignored;
} job_request;

static void finish(job_request *r)
{
    tt_buf_finish(&r->metadata);
    tt_buf_finish(&r->ignored);
}

/* Here the object is the body, so its fields have no "qttt." in front. */
static void drop_prefix(tt_http_error *e)
{
    static const char prefix[] = "qttt.";
    size_t n = sizeof prefix - 1;
    if (strncmp(e->param, prefix, n) == 0) {
        memmove(e->param, e->param + n, strlen(e->param + n) + 1);
    }
    if (strncmp(e->message, prefix, n) == 0) {
        memmove(e->message, e->message + n, strlen(e->message + n) + 1);
    }
}

/* Fields of a request's qttt object that mean nothing for a job. */
static bool check_fields(const json_t *body, const tt_qttt_request *q, tt_http_error *e)
{
    if (q->params.mode != TT_QTTT_ON) {
        return tt_json_refuse(e, "", "mode", "unsupported_parameter", "of a job is \"on\"");
    }
    if (q->context != TT_CONTEXT_RULE) {
        return tt_json_refuse(e, "", "context", "unsupported_parameter",
                              "of a job is the session's, all of it");
    }
    return tt_json_get(body, "generation") == NULL ||
           tt_json_refuse(e, "", "generation", "unsupported_parameter",
                          "is for requests; a job has start_from");
}

static bool read_fields(tt_http_request *req, json_t *body, job_request *r, tt_http_error *e)
{
    tt_server *s = req->server;
    tt_request_limits limits = tt_limits_of(s->settings, s->served);
    r->expected_generation = -1;
    if (!tt_json_get_int(body, "", "expected_generation", 0, INT32_MAX, &r->expected_generation,
                         e) ||
        !tt_metadata_parse(json_object_get(body, "metadata"), &r->metadata, e)) {
        return false;
    }
    tt_buf_putc(&r->metadata, '\0');
    json_object_del(body, "expected_generation");
    json_object_del(body, "metadata");
    if (!tt_qttt_parse(body, true, &limits.caps, limits.n_layers, &r->qttt, &r->ignored, e) ||
        !check_fields(body, &r->qttt, e)) {
        drop_prefix(e);
        return false;
    }
    tt_buf_putc(&r->ignored, '\0');
    if (r->metadata.failed || r->ignored.failed) {
        tt_error_from_code(e, &(tt_err){.code = TT_E_NOMEM});
        return false;
    }
    if (r->ignored.n > 1 && limits.strict) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(r->ignored.p + 5, ","), r->ignored.p + 5);
        return tt_json_refuse(e, "", name, NULL, "is no parameter of a job");
    }
    return true;
}

/* An empty body asks for a job with every default. */
static bool read_body(tt_http_request *req, job_request *r, tt_http_error *e)
{
    if (req->body.n > MAX_BODY) {
        tt_error_set(e, 413, NULL, NULL, "the body of a job is larger than %d bytes", MAX_BODY);
        return false;
    }
    json_t *body =
        req->body.n > 0 ? tt_json_parse(req->body.p, req->body.n, JSON_MEMORY, e) : json_object();
    if (body == NULL) {
        if (req->body.n == 0) {
            tt_error_from_code(e, &(tt_err){.code = TT_E_NOMEM});
        }
        return false;
    }
    bool ok = read_fields(req, body, r, e);
    json_decref(body);
    return ok;
}

/* x-qttt-ignored-params names fields of the body: without "qttt." */
static void tell_ignored(tt_http_request *req, const tt_buf *ignored)
{
    tt_buf names = {0};
    for (const char *p = ignored->p; ignored->n > 1 && p != NULL;) {
        const char *comma = strchr(p, ',');
        tt_buf_puts(&names, names.n > 0 ? ", " : "");
        tt_buf_put(&names, p + 5, comma != NULL ? (size_t)(comma - p - 5) : strlen(p + 5));
        p = comma != NULL ? comma + 2 : NULL;
    }
    tt_buf_putc(&names, '\0');
    if (names.n > 1 && !names.failed) {
        tt_http_header(req, "X-Qttt-Ignored-Params", names.p);
    }
    tt_buf_finish(&names);
}

static bool check_generation(const tt_session_record *ses, int64_t expected, tt_http_error *e)
{
    int32_t latest = tt_session_latest(ses->data);
    if (expected < 0 || expected == latest) {
        return true;
    }
    tt_error_set(e, 409, "expected_generation", "generation_mismatch",
                 "the session's generation is %d, not %lld", (int)latest, (long long)expected);
    return false;
}

/* A job that could not be written never was. */
static void on_written(void *arg, tt_code rc)
{
    tt_job_record *job = arg;
    if (rc < 0) {
        job->saved = false;
        tt_job_record_cancel(job);
        if (job->table != NULL) {
            tt_job_table_discard(job->table, job);
        }
    }
    tt_job_record_unref(&job);
}

static void put_row(tt_http_request *req, tt_job_record *job)
{
    tt_state_txn *x = tt_http_txn(req);
    (void)tt_job_state_put(x, job); /* the commit tells of a failure */
    tt_job_record_ref(job);
    tt_http_txn_end(req, on_written, job);
}

static void start(tt_http_request *req, tt_session_record *ses, const job_request *r)
{
    tt_server *s = req->server;
    tt_job_record *job = NULL;
    tt_err err = {0};
    tt_code rc = tt_jobs_train(s, ses, &r->qttt, r->metadata.p, &job, &err);
    if (rc < 0) {
        tt_http_error e;
        tt_error_from_code(&e, &err);
        if (rc == TT_E_BUSY) {
            e.retry_after = (int)tt_engine_retry_after(s->engine);
        }
        tt_http_reply_error(req, &e);
        return;
    }
    char path[TT_JOB_ID_BYTES + 16];
    snprintf(path, sizeof path, "/v1/qttt/jobs/%s", job->id);
    tt_http_header(req, "Location", path);
    tell_ignored(req, &r->ignored);
    put_row(req, job);
    tt_api_job_reply(req, 202, job);
    tt_job_record_unref(&job);
}

void tt_api_session_jobs_create(tt_http_request *req)
{
    job_request r = {0};
    tt_http_error e = {0};
    tt_session_record *ses = tt_session_store_find(req->server->sessions, req->scope, req->param);
    if ((ses != NULL && !tt_session_load_first(req, ses)) || !tt_http_once(req, "")) {
        return;
    }
    ses = tt_sessions_of_path(req);
    if (ses == NULL) {
        return;
    }
    bool ok = read_body(req, &r, &e) && check_generation(ses, r.expected_generation, &e);
    tt_http_release_body(req);
    if (ok) {
        start(req, ses, &r);
    } else {
        tt_http_reply_error(req, &e);
    }
    finish(&r);
}

void tt_api_session_jobs_list(tt_http_request *req)
{
    tt_session_record *ses = tt_sessions_of_path(req);
    if (ses != NULL) {
        tt_api_jobs_list_of(req, ses->id);
    }
}
