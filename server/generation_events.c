/* generation_events.c - what the jobs of a request tell becomes chunks of a stream, or one answer.
 * See generation.h. */
#include <string.h>

#include "server/generation_priv.h"
#include "server/job_record.h"
#include "server/session_turn.h"
#include "server/sse.h"

static const tt_request *request_of(const tt_generation *g)
{
    return &g->prepared->request;
}

void tt_generation_send(tt_generation *g, const tt_chunk *c)
{
    tt_answer_chunk(tt_http_stream_out(g->http), &g->answer, c);
    g->last_sent = tt_now();
}

static bool backlogged(const tt_generation *g)
{
    return tt_http_stream_pending(g->http) >= (size_t)g->server->settings->backlog;
}

/* The first chunk of a chat's choice tells the role. */
static void open_choice(tt_generation *g, tt_choice *c)
{
    if (tt_choice_open(c) && g->answer.api == TT_API_CHAT && request_of(g)->stream) {
        tt_generation_send(g, &(tt_chunk){.index = c->index, .role = true});
    }
}

/* Sends what is held of a choice, if the client keeps up (or `all`). */
static void send_text(tt_generation *g, tt_choice *c, bool all)
{
    tt_chunk chunk;
    if (request_of(g)->stream && (all || !backlogged(g)) && tt_choice_take(c, all, &chunk)) {
        tt_generation_send(g, &chunk);
        tt_choice_sent(c);
    }
}

/* The choices take turns, so that a reader who is always behind gets something of each. */
void tt_generation_on_drained(void *arg)
{
    tt_generation *g = arg;
    for (int32_t i = 0; i < g->n_choices; i++) {
        send_text(g, &g->choices[(g->turn + i) % g->n_choices], false);
    }
    g->turn = (g->turn + 1) % g->n_choices;
}

static void fail_code(tt_generation *g, const tt_err *err)
{
    tt_http_error e;
    tt_error_from_code(&e, err);
    tt_generation_fail(g, &e);
}

static void on_progress(tt_generation *g, const tt_event *ev)
{
    if (request_of(g)->include_progress && !backlogged(g)) {
        tt_generation_send(g, &(tt_chunk){.progress = ev, .job_id = tt_generation_record_id(g)});
    }
}

/* Each sample that is written is paid for, also when its client has left meanwhile. */
static void note_token(tt_generation *g)
{
    g->http->note.generated_tokens++;
    tt_tenant_take_answer(g->http->tenant, 1, tt_now());
}

static void on_token(tt_generation *g, tt_choice *c, const tt_event *ev)
{
    double now = tt_now();
    tt_metrics *m = &g->server->metrics;
    if (!g->any_token) {
        tt_histogram_add(&m->first_token, now - g->http->started);
        g->http->note.first_token_seconds = now - g->http->started;
    } else if (c->last_token > 0) {
        tt_histogram_add(&m->inter_token, now - c->last_token);
    }
    note_token(g);
    g->any_token = true;
    c->last_token = now;
    open_choice(g, c);
    tt_choice_token(c, ev);
    if (g->prepared->turn != NULL) {
        tt_session_turn_token(g->prepared->turn, c->index, ev);
    }
    send_text(g, c, false);
}

static bool trained(const tt_qttt_result *q)
{
    return !q->cached && strcmp(q->status, "skipped") != 0;
}

/* Samples share one adaptation; the one that did the work tells of it. */
static void on_adapted(tt_generation *g, tt_choice *c, const tt_event *ev)
{
    c->qttt = ev->u.adapted;
    if (trained(&c->qttt)) {
        g->http->note.trained_tokens += c->qttt.trained_tokens;
    }
    if (g->prepared->turn != NULL) {
        tt_session_turn_adapted(g->prepared->turn, &c->qttt,
                                g->record != NULL ? g->record->id : NULL);
    }
    if (g->adapted == NULL || (trained(&c->qttt) && !trained(&g->adapted->qttt))) {
        g->adapted = c;
    }
}

/* A prompt counts once, however many samples it has. What of it was cached is what the sample knows
 * that read it first, the least of them: the others find the pages that it has made. */
static tt_usage sum_usage(const tt_generation *g)
{
    tt_usage sum = {0};
    for (int32_t i = 0, n_samples; i < g->n_choices; i += n_samples) {
        int64_t cached = INT64_MAX;
        for (n_samples = 0; i + n_samples < g->n_choices; n_samples++) {
            const tt_choice *c = &g->choices[i + n_samples];
            if (n_samples > 0 && c->sample == 0) {
                break; /* the next prompt's */
            }
            sum.completion_tokens += c->usage.completion_tokens;
            sum.accepted_tokens += c->usage.accepted_tokens;
            cached = c->usage.cached_tokens < cached ? c->usage.cached_tokens : cached;
        }
        sum.prompt_tokens += g->choices[i].usage.prompt_tokens;
        sum.cached_tokens += cached;
    }
    return sum;
}

static void finish_whole(tt_generation *g, tt_chunk *tail)
{
    tt_buf body = {0}, choices = {0};
    for (int32_t i = 0; i < g->n_choices; i++) {
        tt_choice *c = &g->choices[i];
        tt_answer_choice(&choices, &g->answer,
                         &(tt_chunk){.index = c->index,
                                     .text = c->text.p,
                                     .n_text = c->text.n,
                                     .logprobs = request_of(g)->want_logprobs ? &c->logprobs : NULL,
                                     .finish_reason = c->finish_reason});
    }
    tt_answer_whole(&body, &g->answer, &choices, tail);
    tt_http_reply_json(g->http, &body);
    tt_buf_finish(&choices);
}

/* The last events of a stream (`last` is the choice that ends it), or the whole answer. Frees g. */
static void finish(tt_generation *g, const tt_choice *last)
{
    tt_usage usage = sum_usage(g);
    tt_chunk end = {.index = last->index, .finish_reason = last->finish_reason};
    tt_chunk tail = {.usage = &usage};
    bool two = !request_of(g)->stream || request_of(g)->include_usage;
    tt_chunk *carrier = two ? &tail : &end;
    carrier->session = g->prepared->turn;
    if (g->adapted != NULL) {
        carrier->qttt = &g->adapted->qttt;
        carrier->job_id = tt_generation_settle_record(g);
        carrier->prefill_seconds = g->adapted->prefill_seconds;
    }
    g->http->note.cached_tokens = usage.cached_tokens;
    g->http->note.outcome = last->finish_reason;
    g->server->metrics.succeeded++;
    tt_histogram_add(&g->server->metrics.end_to_end, tt_now() - g->http->started);
    g->http->on_gone = NULL;
    g->http->on_drained = NULL;
    if (request_of(g)->stream) {
        tt_generation_send(g, &end);
        if (two) {
            tt_generation_send(g, &tail);
        }
        tt_sse_done(tt_http_stream_out(g->http));
        tt_http_stream_end(g->http);
    } else {
        finish_whole(g, &tail);
    }
    tt_generation_destroy(g);
}

/* TT_EV_DONE of a choice. Returns false when g is gone. */
static bool on_done(tt_generation *g, tt_choice *c, const tt_event *ev)
{
    tt_metrics *m = &g->server->metrics;
    tt_histogram_add(&m->queue, ev->u.done.queue_seconds);
    g->http->note.queue_seconds = ev->u.done.queue_seconds;
    tt_histogram_add(&m->prefill, ev->u.done.prefill_seconds);
    tt_histogram_add(&m->decode, ev->u.done.decode_seconds);
    open_choice(g, c);
    tt_choice_done(c, ev);
    if (tt_choice_failed(c)) {
        fail_code(g, &(tt_err){.code = TT_E_NOMEM});
        return false;
    }
    if (g->prepared->turn != NULL) {
        tt_session_turn_done(g->prepared->turn, c->index, ev);
    }
    send_text(g, c, true);
    tt_job_unref(&c->job);
    if (--g->n_running == 0) {
        tt_err err = {0};
        if (g->prepared->turn != NULL && tt_session_turn_commit(g->prepared->turn, &err) < 0) {
            fail_code(g, &err);
            return false;
        }
        finish(g, c);
        return false;
    }
    if (request_of(g)->stream) {
        tt_generation_send(g, &(tt_chunk){.index = c->index, .finish_reason = c->finish_reason});
    }
    return true;
}

bool tt_generation_on_event(tt_generation *g, tt_choice *c, const tt_event *ev)
{
    if (ev->type == TT_EV_ADAPTED) { /* the session first: it numbers what the record tells of */
        on_adapted(g, c, ev);
    }
    tt_generation_tell_record(g, ev);
    switch (ev->type) {
    case TT_EV_STARTED:
        c->started = true;
        break;
    case TT_EV_PROBE:
    case TT_EV_STATUS:
    case TT_EV_ADAPTED:
    case TT_EV_DIAGNOSIS:
        break;
    case TT_EV_ADAPT:
        tt_histogram_add(&g->server->metrics.qttt_step, ev->u.adapt.seconds);
        on_progress(g, ev);
        break;
    case TT_EV_PREFILL:
        if (c->sample == 0) { /* the others share its pages */
            on_progress(g, ev);
        }
        break;
    case TT_EV_PROMPT_LOGPROBS:
        tt_choice_prompt_logprobs(c, ev);
        break;
    case TT_EV_TOKEN:
        on_token(g, c, ev);
        break;
    case TT_EV_DONE:
        return on_done(g, c, ev);
    case TT_EV_ERROR:
        tt_job_unref(&c->job); /* it has ended */
        fail_code(g, &ev->u.error);
        return false;
    }
    return true;
}
