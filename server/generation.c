/* generation.c - see generation.h. What one choice collects is in choice.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/generation_priv.h"
#include "server/hex.h"
#include "server/job_table.h"
#include "server/quota.h"
#include "server/session_turn.h"
#include "server/sse.h"

static void unlink_generation(tt_generation *g)
{
    tt_server *s = g->server;
    if (g->prev != NULL) {
        g->prev->next = g->next;
    } else {
        s->generations = g->next;
    }
    if (g->next != NULL) {
        g->next->prev = g->prev;
    }
    s->n_generations--;
}

/* A training that goes on may still pin an adapter for a session. */
static void reap(tt_generation *g, tt_choice *c)
{
    if (g->n_running > 0 && c->job != NULL && tt_job_get_params(c->job)->pin_adapter) {
        tt_session_store_reap(g->server->sessions, c->job);
        c->job = NULL;
    }
}

void tt_generation_destroy(tt_generation *g)
{
    if (g->adapted != NULL) { /* once an answer, however many samples share the adapter */
        tt_metrics_qttt(&g->server->metrics, g->adapted->qttt.status);
    }
    tt_generation_close_record(g);
    unlink_generation(g);
    for (int32_t i = 0; g->choices != NULL && i < g->n_choices; i++) {
        reap(g, &g->choices[i]);
        tt_choice_finish(&g->choices[i]);
    }
    free(g->choices);
    g->http->on_gone = NULL;
    g->http->on_drained = NULL;
    tt_prepared_destroy(&g->prepared);
    free(g);
}

/* Nobody wants the rest: the engine is told, and drops the jobs by itself. */
static void cancel_all(tt_generation *g)
{
    for (int32_t i = 0; i < g->n_choices; i++) {
        if (g->choices[i].job != NULL) {
            tt_job_cancel(g->choices[i].job, false);
        }
    }
    tt_engine_kick(g->server->engine);
}

void tt_generation_fail(tt_generation *g, const tt_http_error *e)
{
    cancel_all(g);
    g->server->metrics.failed++;
    tt_request_note_error(&g->http->note, e);
    g->http->on_gone = NULL;
    g->http->on_drained = NULL;
    if (g->http->streaming) {
        tt_sse_error(tt_http_stream_out(g->http), e);
        tt_http_stream_end(g->http);
    } else {
        tt_http_reply_error(g->http, e);
    }
    tt_generation_destroy(g);
}

/* The client has left. */
static void on_gone(void *arg)
{
    tt_generation *g = arg;
    cancel_all(g);
    g->server->metrics.cancelled++;
    tt_generation_destroy(g);
}

/* All jobs of the request, or none. */
static tt_code submit(tt_generation *g, tt_err *reterr)
{
    tt_job **jobs = calloc((size_t)g->n_choices, sizeof *jobs);
    tt_code rc = jobs != NULL ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "no memory for a request");
    for (int32_t i = 0; rc == TT_OK && i < g->n_choices; i++) {
        rc = tt_choice_create_job(&g->choices[i], g->http->scope, tt_server_wake, &g->server->wake,
                                  reterr);
        jobs[i] = g->choices[i].job;
    }
    if (rc == TT_OK) {
        rc = tt_generation_open_record(g, jobs, reterr);
    }
    if (rc == TT_OK) {
        rc = tt_engine_submit_all(g->server->engine, jobs, g->n_choices, reterr);
    }
    if (rc < 0 && g->record != NULL) {
        tt_job_table_discard(g->server->jobs, g->record);
    }
    g->n_running = rc == TT_OK ? g->n_choices : 0;
    free(jobs);
    return rc;
}

static void link_generation(tt_generation *g)
{
    tt_server *s = g->server;
    g->next = s->generations;
    if (s->generations != NULL) {
        s->generations->prev = g;
    }
    s->generations = g;
    s->n_generations++;
}

static void init_answer(tt_generation *g)
{
    const tt_request *r = &g->prepared->request;
    const char *prefix = r->api == TT_API_CHAT ? "chatcmpl-" : "cmpl-";
    size_t n = strlen(prefix);
    memcpy(g->id, prefix, n);
    tt_hex_random(12, g->id + n);
    g->answer = (tt_answer){.api = r->api,
                            .id = g->id,
                            .model = r->model,
                            .created = (int64_t)time(NULL),
                            .include_usage = r->include_usage};
}

/* The choices, without jobs yet. */
static tt_generation *create(tt_prepared *p)
{
    tt_generation *g = calloc(1, sizeof *g);
    if (g == NULL) {
        return NULL;
    }
    g->n_choices = p->request.n_prompts * p->request.n_samples;
    g->choices = calloc((size_t)g->n_choices, sizeof *g->choices);
    if (g->choices == NULL) {
        free(g);
        return NULL;
    }
    g->server = p->http->server;
    g->prepared = p;
    g->http = p->http;
    g->last_sent = tt_now();
    for (int32_t i = 0; i < g->n_choices; i++) {
        tt_choice_init(&g->choices[i], p, i);
    }
    init_answer(g);
    link_generation(g);
    return g;
}

static void begin_stream(tt_generation *g)
{
    g->http->on_drained = tt_generation_on_drained;
    tt_http_stream_begin(g->http);
    if (g->prepared->request.include_progress) {
        tt_engine_stats st;
        tt_engine_get_stats(g->server->engine, &st);
        tt_generation_send(g, &(tt_chunk){.queued = true, .queue_total = st.queued});
        tt_http_stream_flush(g->http);
    }
}

static void on_session_deleted(void *arg)
{
    tt_http_error e;
    tt_error_set(&e, 404, NULL, "session_deleted", "the session was deleted");
    tt_generation_fail(arg, &e);
}

static tt_code enter_session(tt_generation *g, tt_err *reterr)
{
    tt_session_turn *t = g->prepared->turn;
    if (t == NULL) {
        return TT_OK;
    }
    tt_code rc = tt_session_turn_start(t, g->n_choices, on_session_deleted, g, reterr);
    if (rc == TT_OK && tt_session_turn_skipped(t, &g->choices[0].qttt)) {
        g->adapted = &g->choices[0];
    }
    return rc;
}

/* What the log says of it, whatever becomes of it. */
static int64_t note_request(const tt_prepared *p)
{
    tt_request_note *note = &p->http->note;
    note->generates = true;
    note->model = p->request.model;
    note->prompt_tokens = 0;
    for (int32_t i = 0; i < p->request.n_prompts; i++) {
        note->prompt_tokens += (int64_t)p->prompts[i].n_ids;
    }
    if (p->turn != NULL && tt_session_turn_record(p->turn) != NULL) {
        snprintf(note->session, sizeof note->session, "%s", tt_session_turn_record(p->turn)->id);
    }
    return note->prompt_tokens;
}

/* The limits of the key; false: *e is the answer. */
static bool may_start(const tt_prepared *p, int64_t n_prompt, tt_http_error *e)
{
    tt_err err = {0};
    if (p->turn != NULL && tt_quota_bytes(p->http->server, p->http->scope, 0, &err) < 0) {
        tt_error_from_code(e, &err);
        return false;
    }
    return tt_tenant_may_read(p->http->tenant, n_prompt, tt_now(), e);
}

void tt_generation_start(tt_prepared *p)
{
    tt_http_request *http = p->http;
    tt_server *s = http->server;
    tt_err err = {.code = TT_E_NOMEM};
    tt_http_error e;
    int64_t n_prompt = note_request(p);
    if (!may_start(p, n_prompt, &e)) {
        tt_http_reply_error(http, &e);
        tt_prepared_destroy(&p);
        return;
    }
    tt_generation *g = create(p);
    if (g == NULL) {
        tt_http_reply_no_memory(http);
        tt_prepared_destroy(&p);
        return;
    }
    tt_code rc = enter_session(g, &err);
    if (rc == TT_OK) {
        rc = submit(g, &err);
    }
    if (rc < 0) {
        tt_error_from_code(&e, &err);
        if (rc == TT_E_BUSY) {
            e.retry_after = (int)tt_engine_retry_after(s->engine);
        }
        tt_http_reply_error(http, &e);
        tt_generation_destroy(g);
        return;
    }
    tt_tenant_take_prompt(http->tenant, n_prompt, tt_now());
    http->arg = g;
    http->on_gone = on_gone;
    if (g->prepared->request.stream) {
        begin_stream(g);
    }
    tt_server_arm_tick(s);
}

static void poll_one(tt_generation *g)
{
    tt_http_request *http = g->http;
    tt_event *ev;
    bool alive = true;
    tt_http_ref(http);
    for (int32_t i = 0; alive && i < g->n_choices; i++) {
        tt_choice *c = &g->choices[i];
        while (alive && c->job != NULL && (ev = tt_job_next(c->job)) != NULL) {
            alive = tt_generation_on_event(g, c, ev);
            tt_event_free(ev);
        }
    }
    if (alive && tt_http_stream_pending(http) > 0) {
        tt_http_stream_flush(http);
    }
    tt_http_unref(http);
}

void tt_generations_poll(tt_server *s)
{
    for (tt_generation *g = s->generations, *next; g != NULL; g = next) {
        next = g->next;
        poll_one(g);
    }
}

uint64_t tt_generations_tick(tt_server *s)
{
    double wait = 1e9;
    for (tt_generation *g = s->generations; g != NULL; g = g->next) {
        if (g->prepared->request.stream) {
            double due = tt_http_stream_heartbeat(g->http, &g->last_sent);
            wait = due < wait ? due : wait;
        }
    }
    return wait > 1e8 ? 0 : (uint64_t)(wait * 1000) + 1;
}

void tt_generations_cut(tt_server *s)
{
    tt_http_error e;
    tt_error_set(&e, 503, NULL, "draining", "the server is shutting down");
    while (s->generations != NULL) {
        tt_generation_fail(s->generations, &e);
    }
}
