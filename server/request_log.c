/* request_log.c - see request_log.h. */
#include "server/request_log.h"

#include <stdio.h>
#include <string.h>

#include "server/http.h"
#include "server/log.h"
#include "server/server.h"
#include "server/tenant.h"

void tt_request_note_error(tt_request_note *note, const tt_http_error *e)
{
    note->outcome = e->code != NULL ? e->code : e->type;
    if (e->status >= 500) { /* below, the sentence may quote what the client has sent */
        snprintf(note->error, sizeof note->error, "%.159s", e->message);
    }
}

void tt_request_note_body(tt_request_note *note, tt_arena *arena, const char *body, size_t n)
{
    n = n < TT_LOGGED_BODY ? n : TT_LOGGED_BODY;
    note->body = n > 0 ? tt_arena_strndup(arena, body, n) : NULL;
    note->n_body = note->body != NULL ? n : 0;
}

static void put_trace(tt_log_record *r, const tt_trace *t)
{
    tt_log_text(r, "trace_id", t->trace_id);
    tt_log_text(r, "span_id", t->span_id);
    tt_log_text(r, "parent_id", t->parent_id);
}

static void put_generation(tt_log_record *r, const tt_request_note *n)
{
    if (!n->generates) {
        return;
    }
    tt_log_int(r, "prompt_tokens", n->prompt_tokens);
    tt_log_int(r, "cached_tokens", n->cached_tokens);
    tt_log_int(r, "generated_tokens", n->generated_tokens);
    tt_log_int(r, "trained_tokens", n->trained_tokens);
    tt_log_ms(r, "queue_ms", n->queue_seconds);
    if (n->first_token_seconds > 0) {
        tt_log_ms(r, "ttft_ms", n->first_token_seconds);
    }
}

void tt_request_log(const tt_http_request *req, bool complete)
{
    tt_log_record r;
    const tt_request_note *n = &req->note;
    const char *outcome = n->outcome != NULL ? n->outcome : req->status < 400 ? "ok" : "error";
    bool probe = req->route != NULL && (req->route->open || req->route->metrics);
    bool failed = n->error[0] != '\0' && req->status != 503;
    tt_log_level level = failed ? TT_LOG_WARN : probe ? TT_LOG_DEBUG : TT_LOG_INFO;
    if (!tt_log_begin(&r, level, "request")) {
        return;
    }
    tt_log_text(&r, "request_id", req->id);
    put_trace(&r, &n->trace);
    tt_log_text(&r, "key", tt_tenant_name(req->tenant));
    tt_log_text(&r, "method", req->method);
    tt_log_bytes(&r, "path", req->url, strnlen(req->url, TT_LOGGED_PATH));
    tt_log_int(&r, "status", req->status);
    tt_log_text(&r, "outcome", complete ? outcome : "cancelled");
    tt_log_text(&r, "error", n->error);
    tt_log_text(&r, "model", n->model);
    tt_log_text(&r, "session", n->session);
    put_generation(&r, n);
    tt_log_ms(&r, "total_ms", tt_now() - req->started);
    tt_log_int(&r, "bytes_in", (int64_t)n->received);
    tt_log_int(&r, "bytes_out", (int64_t)n->sent);
    if (n->body != NULL) {
        tt_log_bytes(&r, "body", n->body, n->n_body);
    }
    tt_log_end(&r);
}
