/* api_diagnostics.c - POST /v1/sessions/{id}/diagnostics: the body, the prompt that the question
 * makes behind what the session holds, and where its needle lies. See diagnostics.h. Thread: the
 * handler on the loop thread, reading and tokenising in a worker. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/api_json.h"
#include "server/diagnostics.h"
#include "server/prepare.h"
#include "server/session_load.h"
#include "server/session_setup.h"
#include "server/session_work.h"

static void fail(tt_diagnostics *d, const tt_err *err, const char *param)
{
    tt_error_from_code(&d->error, err);
    strncpy(d->error.param, param, sizeof d->error.param - 1);
}

/* ---- the prompt ---- */

/* The question as the next user turn of the session's messages. */
static tt_code next_turn(tt_diagnostics *d, const char *question, size_t n, tt_err *err)
{
    json_t *all = json_copy((json_t *)tt_session_text_messages(d->text));
    json_t *turn = json_pack("{s:s, s:s%}", "role", "user", "content", question, n);
    tt_rendered text = {0};
    int32_t kept;
    tt_code rc = TT_OK;
    if (all == NULL || turn == NULL || json_array_append(all, turn) != 0) {
        rc = tt_fail(err, TT_E_NOMEM, "out of memory");
    }
    tt_chat_prompt chat = {
        .messages = all, .kwargs = tt_session_text_kwargs(d->text), .add_generation_prompt = true};
    rc = rc == TT_OK ? tt_prompt_render(d->served, &chat, &text, err) : rc;
    if (rc == TT_OK) {
        rc = tt_session_text_splice(d->text, d->served, &text, &d->ids, &d->n_ids, &kept, err);
        tt_rendered_finish(&text);
    }
    json_decref(turn);
    json_decref(all);
    return rc;
}

/* The question's own tokens behind those of a session without messages. */
static tt_code next_tokens(tt_diagnostics *d, const char *question, size_t n, tt_err *err)
{
    int32_t *ids = NULL;
    size_t n_ids, n_before = (size_t)d->n_before; /* >= 1: the needle is among them */
    tt_text_piece piece = {.p = question, .n = n};
    tt_code rc = tt_prompt_may_fit(d->served, n, err);
    rc = rc == TT_OK ? tt_prompt_more_tokens(d->served, d->before[n_before - 1], &piece, 1, &ids,
                                             &n_ids, err)
                     : rc;
    if (rc < 0) {
        return rc;
    }
    d->ids = malloc((n_before + n_ids + 1) * sizeof *d->ids);
    if (d->ids == NULL) {
        free(ids);
        return tt_fail(err, TT_E_NOMEM, "out of memory");
    }
    memcpy(d->ids, d->before, n_before * sizeof *ids);
    if (n_ids > 0) {
        memcpy(d->ids + n_before, ids, n_ids * sizeof *ids);
    }
    d->n_ids = n_before + n_ids;
    free(ids);
    return TT_OK;
}

static bool read_question(tt_diagnostics *d, const json_t *body)
{
    const json_t *v = tt_json_get(body, "question");
    const char *question = json_string_value(v);
    size_t n = json_string_length(v);
    tt_err err = {0};
    if (question == NULL || n == 0) {
        return tt_json_refuse(&d->error, "", "question", NULL,
                              "is required: a string that is not empty");
    }
    tt_code rc =
        d->text != NULL ? next_turn(d, question, n, &err) : next_tokens(d, question, n, &err);
    if (rc < 0) {
        fail(d, &err, "question");
        return false;
    }
    if (d->n_ids > (size_t)d->served->max_context) {
        tt_error_set(&d->error, 400, "question", "context_length_exceeded",
                     "this model's context is %d tokens; with the question the prompt has %zu",
                     (int)d->served->max_context, d->n_ids);
        return false;
    }
    return true;
}

/* ---- the needle ---- */

/* The context's text, and where each token of it begins: offsets [n_context + 1]. */
typedef struct context_text {
    tt_buf text;
    size_t *offsets; /* owned */
} context_text;

static bool write_context(const tt_diagnostics *d, context_text *c)
{
    c->offsets = malloc(((size_t)d->n_context + 1) * sizeof *c->offsets);
    for (int32_t i = 0; c->offsets != NULL && i < d->n_context; i++) {
        size_t n;
        const char *piece = tt_tokenizer_piece(d->served->tokenizer, d->before[i], true, &n);
        c->offsets[i] = c->text.n;
        tt_buf_put(&c->text, piece, n);
    }
    if (c->offsets == NULL || c->text.failed) {
        return false;
    }
    c->offsets[d->n_context] = c->text.n;
    return true;
}

/* The tokens that hold bytes [at, at + n) of the text. */
static void cover(tt_diagnostics *d, const context_text *c, size_t at, size_t n)
{
    int32_t i = 0;
    while (c->offsets[i + 1] <= at) {
        i++;
    }
    d->asked.needle_start = i;
    while (c->offsets[i + 1] < at + n) {
        i++;
    }
    d->asked.needle_end = i + 1;
}

static bool find_text(tt_diagnostics *d, const context_text *c, const char *needle, size_t n)
{
    const char *text = c->text.p, *end = text + c->text.n, *first = NULL, *p;
    for (const char *from = text; n > 0 && from != NULL && from < end; from = p + n) {
        p = memmem(from, (size_t)(end - from), needle, n);
        if (p == NULL) {
            break;
        }
        first = first == NULL ? p : first;
        d->occurrences++;
    }
    if (first == NULL) {
        return tt_json_refuse(&d->error, "", "needle", "needle_not_found",
                              "is not in the text of the session's context");
    }
    cover(d, c, (size_t)(first - text), n);
    return true;
}

static bool read_range(tt_diagnostics *d, const json_t *v)
{
    const json_t *start = json_array_get(v, 0), *end = json_array_get(v, 1);
    int64_t lo = json_is_integer(start) ? json_integer_value(start) : -1;
    int64_t hi = json_is_integer(end) ? json_integer_value(end) : -1;
    if (json_array_size(v) != 2 || lo < 0 || lo >= hi || hi > d->n_context) {
        return tt_json_refuse(&d->error, "", "needle", NULL,
                              "must be text of the context, or [start, end) with 0 <= start < end "
                              "<= %d, the context's tokens",
                              (int)d->n_context);
    }
    d->asked.needle_start = (int32_t)lo;
    d->asked.needle_end = (int32_t)hi;
    d->occurrences = 1;
    return true;
}

static bool keep_text(tt_diagnostics *d, const context_text *c)
{
    size_t from = c->offsets[d->asked.needle_start];
    d->n_needle = c->offsets[d->asked.needle_end] - from;
    d->needle = malloc(d->n_needle + 1);
    if (d->needle == NULL) {
        return false;
    }
    if (d->n_needle > 0) { /* tokens may have no text */
        memcpy(d->needle, c->text.p + from, d->n_needle);
    }
    return true;
}

static bool read_needle(tt_diagnostics *d, const json_t *body)
{
    const json_t *v = tt_json_get(body, "needle");
    context_text c = {0};
    if (!json_is_string(v) && !json_is_array(v)) {
        return tt_json_refuse(&d->error, "", "needle", NULL,
                              "is required: text of the context, or a range of its tokens as "
                              "[start, end)");
    }
    bool memory = write_context(d, &c);
    bool found =
        memory && (json_is_string(v) ? find_text(d, &c, json_string_value(v), json_string_length(v))
                                     : read_range(d, v));
    memory = memory && (!found || keep_text(d, &c));
    if (!memory) {
        fail(d, &(tt_err){.code = TT_E_NOMEM}, "needle");
    }
    tt_buf_finish(&c.text);
    free(c.offsets);
    return found && memory;
}

/* ---- the worker ---- */

static void run(tt_work *work)
{
    static const char *const known[] = {"model", "question", "needle", "delta", "epsilon", NULL};
    tt_diagnostics *d = (tt_diagnostics *)(void *)((char *)work - offsetof(tt_diagnostics, work));
    const tt_buf *b = &d->http->body;
    tt_http_error *e = &d->error;
    bool alias;
    json_t *body = tt_json_parse(b->n > 0 ? b->p : "", b->n, d->limits.json_memory, e);
    if (body != NULL && tt_session_check_names(body, known, d->limits.strict, &d->ignored, e) &&
        tt_request_model(body, &d->limits, &alias, e) &&
        tt_json_get_number(body, "", "delta", 0, 1000, &d->asked.delta, e) &&
        tt_json_get_number(body, "", "epsilon", 1e-9, 1 - 1e-9, &d->asked.epsilon, e) &&
        read_needle(d, body)) {
        (void)read_question(d, body);
    }
    json_decref(body);
}

static bool wanted(tt_work *work)
{
    const tt_diagnostics *d =
        (tt_diagnostics *)(void *)((char *)work - offsetof(tt_diagnostics, work));
    return !d->http->gone;
}

static void done(tt_work *work)
{
    tt_diagnostics *d = (tt_diagnostics *)(void *)((char *)work - offsetof(tt_diagnostics, work));
    tt_http_release_body(d->http);
    tt_buf_putc(&d->ignored, '\0');
    if (d->ignored.n > 1 && !d->ignored.failed) {
        tt_http_header(d->http, "X-Qttt-Ignored-Params", d->ignored.p);
    }
    if (d->http->gone) {
        tt_diagnostics_destroy(&d);
    } else if (d->error.status != 0) {
        tt_http_reply_error(d->http, &d->error);
        tt_diagnostics_destroy(&d);
    } else {
        tt_diagnostics_run(d);
    }
}

/* ---- the handler ---- */

/* What the worker reads of the session, which may change meanwhile. */
static bool copy_session(tt_diagnostics *d)
{
    const tt_session *s = d->record->data;
    const uint8_t *flags;
    uint64_t adapter_id;
    int32_t n_rest;
    const int32_t *context = tt_session_context(s, &d->n_context);
    const int32_t *rest = tt_session_transcript(s, &flags, &n_rest, &adapter_id);
    d->text = d->record->text != NULL ? tt_session_text_ref(d->record->text) : NULL;
    n_rest = d->text == NULL ? n_rest : 0;
    d->n_before = d->n_context + n_rest;
    d->before = malloc(((size_t)d->n_before + 1) * sizeof *d->before);
    if (d->before == NULL) {
        return false;
    }
    if (d->n_context > 0) {
        memcpy(d->before, context, (size_t)d->n_context * sizeof *d->before);
    }
    if (n_rest > 0) {
        memcpy(d->before + d->n_context, rest, (size_t)n_rest * sizeof *d->before);
    }
    return true;
}

static void start(tt_http_request *req, tt_session_record *r)
{
    tt_server *s = req->server;
    tt_diagnostics *d = calloc(1, sizeof *d);
    tt_http_error e;
    tt_error_from_code(&e, &(tt_err){.code = TT_E_NOMEM});
    if (d == NULL) {
        tt_http_reply_error(req, &e);
        return;
    }
    tt_http_ref(req);
    tt_session_ref(r);
    d->http = req;
    d->server = s;
    d->record = r;
    d->csv = tt_http_accepts(req, "text/csv");
    d->served = s->served;
    d->limits = tt_limits_of(s->settings, s->served);
    d->asked = (tt_diagnose_params){.delta = 1.0, .epsilon = 0.1};
    d->work.wanted = wanted;
    d->work.run = run;
    d->work.done = done;
    tt_http_header(req, s->settings->session_header, r->id + TT_SESSION_PREFIX);
    if (!copy_session(d)) {
        tt_diagnostics_fail(d, &e);
        return;
    }
    req->body_busy = true;
    tt_work_submit(s, &d->work);
}

void tt_api_session_diagnostics(tt_http_request *req)
{
    tt_session_record *r = tt_sessions_of_path(req);
    if (r != NULL && tt_session_load_first(req, r)) {
        start(req, r);
    }
}
