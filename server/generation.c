/* generation.c - see generation.h. */
#include "server/generation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "server/answer.h"
#include "server/log.h"
#include "server/sse.h"

enum { RETRY_MS = 50 };

struct tt_generation {
    tt_generation *prev, *next;
    tt_server *server;
    tt_prepared *prepared; /* owned, with the HTTP request's reference */
    tt_http_request *http;
    tt_job *job; /* NULL while a later prompt waits for a place in the queue */
    int32_t current;
    char id[48], job_id[48];
    tt_answer answer;
    tt_usage usage;
    tt_buf text;    /* of the current choice: what is not sent yet; whole when not streaming */
    tt_buf choices; /* finished choices of a whole answer */
    tt_logprob_list logprobs;
    bool opened; /* the current choice's first chunk is out */
    bool have_qttt;
    tt_qttt_result qttt;
    double prefill_seconds;
    double last_sent, last_token; /* monotonic; 0 = not yet */
};

static void random_hex(char *out, size_t n_bytes)
{
    unsigned char r[16] = {0};
    n_bytes = n_bytes < sizeof r ? n_bytes : sizeof r;
    if (getrandom(r, n_bytes, GRND_NONBLOCK) != (ssize_t)n_bytes) {
        uint64_t t = uv_hrtime();
        memcpy(r, &t, sizeof t);
    }
    for (size_t i = 0; i < n_bytes; i++) {
        snprintf(out + 2 * i, 3, "%02x", r[i]);
    }
}

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

static void destroy(tt_generation *g)
{
    if (g->job != NULL) {
        tt_job_unref(&g->job);
    }
    unlink_generation(g);
    tt_buf_finish(&g->text);
    tt_buf_finish(&g->choices);
    tt_logprob_list_finish(&g->logprobs);
    g->http->on_gone = NULL;
    g->http->on_drained = NULL;
    tt_prepared_destroy(&g->prepared);
    free(g);
}

static const tt_request *request_of(const tt_generation *g)
{
    return &g->prepared->request;
}

/* The client has left: the engine is told, and drops the job by itself. */
static void on_gone(void *arg)
{
    tt_generation *g = arg;
    if (g->job != NULL) {
        tt_job_cancel(g->job, false);
    }
    g->server->metrics.cancelled++;
    destroy(g);
}

static void send_chunk(tt_generation *g, const tt_chunk *c)
{
    tt_answer_chunk(tt_http_stream_out(g->http), &g->answer, c);
    g->last_sent = tt_now();
}

static bool backlogged(const tt_generation *g)
{
    return tt_http_stream_pending(g->http) >= (size_t)g->server->settings->backlog;
}

/* The first chunk of a choice: chat's role, or the echoed prompt. */
static void open_choice(tt_generation *g)
{
    const tt_prepared_prompt *pr = &g->prepared->prompts[g->current];
    if (g->opened) {
        return;
    }
    g->opened = true;
    if (g->answer.api == TT_API_CHAT) {
        if (request_of(g)->stream) {
            send_chunk(g, &(tt_chunk){.role = true});
        }
    } else if (pr->echo != NULL) {
        tt_buf fresh = {0};
        tt_buf_put(&fresh, pr->echo, pr->n_echo);
        tt_buf_put(&fresh, g->text.p, g->text.n);
        fresh.failed = fresh.failed || g->text.failed;
        tt_buf_finish(&g->text);
        g->text = fresh;
    }
}

/* Sends what is held of the current choice, if the client keeps up (or `force`). */
static void send_text(tt_generation *g, bool force)
{
    bool have_lp = request_of(g)->want_logprobs && !tt_logprob_list_empty(&g->logprobs);
    if (!request_of(g)->stream || (!force && backlogged(g)) ||
        (g->text.n == 0 && !(force && have_lp))) {
        return;
    }
    send_chunk(g, &(tt_chunk){.index = g->current,
                              .text = g->text.n > 0 ? g->text.p : "",
                              .n_text = g->text.n,
                              .logprobs = have_lp ? &g->logprobs : NULL});
    g->text.n = 0;
    tt_logprob_list_clear(&g->logprobs);
}

static void on_drained(void *arg)
{
    tt_generation *g = arg;
    if (g->opened) {
        send_text(g, false);
    }
}

/* Ends the request with an error: an event in a stream that has begun, else an answer. Frees g. */
static void fail(tt_generation *g, const tt_http_error *e)
{
    g->server->metrics.failed++;
    tt_log(TT_LOG_WARN, "%s failed: %d %s", g->http->id, e->status, e->message);
    g->http->on_gone = NULL;
    g->http->on_drained = NULL;
    if (g->http->streaming) {
        tt_sse_error(tt_http_stream_out(g->http), e);
        tt_http_stream_end(g->http);
    } else {
        tt_http_reply_error(g->http, e);
    }
    destroy(g);
}

static void fail_code(tt_generation *g, const tt_err *err)
{
    tt_http_error e;
    tt_error_from_code(&e, err);
    fail(g, &e);
}

static void wake_loop(void *arg)
{
    uv_async_send(arg); /* engine thread */
}

static tt_code submit(tt_generation *g, tt_err *reterr)
{
    const tt_prepared_prompt *pr = &g->prepared->prompts[g->current];
    tt_job_params params = request_of(g)->job;
    params.prompt = pr->ids;
    params.n_prompt = (int32_t)pr->n_ids;
    params.max_tokens = pr->max_tokens;
    params.qttt = request_of(g)->qttt.params;
    params.qttt.context_tokens = pr->context_tokens;
    snprintf(params.adapter_scope, sizeof params.adapter_scope, "%s", g->http->scope);
    if (!request_of(g)->have_seed &&
        getrandom(&params.sampling.seed, sizeof params.sampling.seed, GRND_NONBLOCK) < 0) {
        params.sampling.seed = uv_hrtime();
    }
    tt_job *job = NULL;
    tt_code rc = tt_job_create(&params, wake_loop, &g->server->wake, &job, reterr);
    if (rc == TT_OK) {
        rc = tt_engine_submit(g->server->engine, job, reterr);
    }
    if (rc < 0) {
        tt_job_unref(&job);
        return rc;
    }
    g->job = job;
    return TT_OK;
}

/* Seconds until a place in the queue is likely: what waits, times the mean time of a request. */
static int retry_after(const tt_server *s)
{
    const tt_histogram *h = &s->metrics.end_to_end;
    uint64_t n = 0;
    for (int i = 0; i < TT_HISTOGRAM_BUCKETS; i++) {
        n += h->count[i];
    }
    double mean = n > 0 ? h->sum / (double)n : 1;
    double wait = mean * 2; /* one place frees with the next finished request; be a little late */
    return wait < 1 ? 1 : wait > 60 ? 60 : (int)(wait + 0.5);
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
    const tt_request *r = request_of(g);
    const char *prefix = r->api == TT_API_CHAT ? "chatcmpl-" : "cmpl-";
    size_t n = strlen(prefix);
    memcpy(g->id, prefix, n);
    random_hex(g->id + n, 12);
    memcpy(g->job_id, "qttt_", 5);
    random_hex(g->job_id + 5, 12);
    g->answer = (tt_answer){.api = r->api,
                            .id = g->id,
                            .model = r->model,
                            .created = (int64_t)time(NULL),
                            .include_usage = r->include_usage};
    tt_logprob_list_init(&g->logprobs, g->prepared->served->tokenizer,
                         r->api == TT_API_COMPLETIONS);
}

void tt_generation_start(tt_prepared *p)
{
    tt_http_request *http = p->http;
    tt_server *s = http->server;
    tt_generation *g = calloc(1, sizeof *g);
    tt_err err = {.code = TT_E_NOMEM};
    tt_http_error e;
    if (g == NULL) {
        tt_error_from_code(&e, &err);
        tt_http_reply_error(http, &e);
        tt_prepared_destroy(&p);
        return;
    }
    g->server = s;
    g->prepared = p;
    g->http = http;
    g->last_sent = tt_now();
    init_answer(g);
    link_generation(g);
    tt_code rc = submit(g, &err);
    if (rc < 0) {
        tt_error_from_code(&e, &err);
        if (rc == TT_E_BUSY) {
            e.retry_after = retry_after(s);
        }
        tt_http_reply_error(http, &e);
        destroy(g);
        return;
    }
    http->arg = g;
    http->on_gone = on_gone;
    if (request_of(g)->stream) {
        http->on_drained = on_drained;
        tt_http_stream_begin(http);
        if (request_of(g)->include_progress) {
            tt_engine_stats st;
            tt_engine_get_stats(s->engine, &st);
            send_chunk(g, &(tt_chunk){.queued = true, .queue_total = st.queued});
            tt_http_stream_flush(http);
        }
    }
    tt_server_arm_tick(s);
}

static void on_progress(tt_generation *g, const tt_event *ev)
{
    if (request_of(g)->include_progress && !backlogged(g)) {
        send_chunk(g, &(tt_chunk){.progress = ev});
    }
}

static void add_prompt_token(tt_generation *g, int32_t pos, const tt_logprob *chosen,
                             const tt_logprob *top, int32_t n_top)
{
    const tt_prepared_prompt *pr = &g->prepared->prompts[g->current];
    tt_logprob_entry e = {
        .id = pr->ids[pos], .have_logprob = chosen != NULL, .top = top, .n_top = n_top};
    e.piece = tt_tokenizer_piece(g->prepared->served->tokenizer, e.id, true, &e.n_piece);
    if (pos == 0 && pr->added_bos) {
        e.n_piece = 0; /* ours, not the text's */
    }
    e.logprob = chosen != NULL ? chosen->logprob : 0;
    tt_logprob_list_add(&g->logprobs, &e);
}

static void on_prompt_logprobs(tt_generation *g, const tt_event *ev)
{
    int32_t first = ev->u.prompt_logprobs.first, n_top = ev->u.prompt_logprobs.n_top;
    size_t n_ids = g->prepared->prompts[g->current].n_ids;
    if (first == 1) {
        add_prompt_token(g, 0, NULL, NULL, 0);
    }
    for (int32_t i = 0; i < ev->u.prompt_logprobs.n && (size_t)(first + i) < n_ids; i++) {
        add_prompt_token(g, first + i, &ev->u.prompt_logprobs.chosen[i],
                         ev->u.prompt_logprobs.top + (ptrdiff_t)i * n_top, n_top);
    }
}

static void on_token(tt_generation *g, const tt_event *ev)
{
    double now = tt_now();
    tt_metrics *m = &g->server->metrics;
    if (g->last_token == 0) {
        tt_histogram_add(&m->first_token, now - g->http->started);
    } else {
        tt_histogram_add(&m->inter_token, now - g->last_token);
    }
    g->last_token = now;
    open_choice(g);
    tt_buf_put(&g->text, ev->u.token.text, ev->u.token.n_text);
    if (request_of(g)->want_logprobs && ev->u.token.have_logprob) {
        tt_logprob_entry e = {.id = ev->u.token.id,
                              .piece = ev->u.token.piece,
                              .n_piece = ev->u.token.n_piece,
                              .have_logprob = true,
                              .logprob = ev->u.token.logprob,
                              .top = ev->u.token.top,
                              .n_top = ev->u.token.n_top};
        tt_logprob_list_add(&g->logprobs, &e);
    }
    send_text(g, false);
}

static void account(tt_generation *g, const tt_event *ev)
{
    tt_metrics *m = &g->server->metrics;
    g->usage.prompt_tokens += ev->u.done.prompt_tokens;
    g->usage.cached_tokens += ev->u.done.cached_tokens;
    g->usage.completion_tokens += ev->u.done.completion_tokens;
    g->prefill_seconds += ev->u.done.prefill_seconds;
    tt_histogram_add(&m->queue, ev->u.done.queue_seconds);
    tt_histogram_add(&m->prefill, ev->u.done.prefill_seconds);
    tt_histogram_add(&m->decode, ev->u.done.decode_seconds);
}

/* The last event of a stream, or the whole answer. Frees g. */
static void finish(tt_generation *g, const char *reason)
{
    tt_chunk c = {.index = g->current, .finish_reason = reason};
    const tt_qttt_result *qttt = g->have_qttt ? &g->qttt : NULL;
    g->server->metrics.succeeded++;
    tt_histogram_add(&g->server->metrics.end_to_end, tt_now() - g->http->started);
    g->http->on_gone = NULL;
    g->http->on_drained = NULL;
    if (request_of(g)->stream) {
        tt_chunk last = {.usage = &g->usage};
        tt_chunk *carrier = request_of(g)->include_usage ? &last : &c;
        carrier->qttt = qttt;
        carrier->job_id = g->job_id;
        carrier->prefill_seconds = g->prefill_seconds;
        send_chunk(g, &c);
        if (request_of(g)->include_usage) {
            send_chunk(g, &last);
        }
        tt_sse_done(tt_http_stream_out(g->http));
        tt_http_stream_end(g->http);
    } else {
        tt_buf body = {0};
        tt_answer_whole(&body, &g->answer, &g->choices,
                        &(tt_chunk){.usage = &g->usage,
                                    .qttt = qttt,
                                    .job_id = g->job_id,
                                    .prefill_seconds = g->prefill_seconds});
        tt_http_reply_json(g->http, &body);
    }
    destroy(g);
}

/* The next of several prompts; a full queue is waited for, since this request was admitted long
 * ago. Frees g on failure. */
static void next_prompt(tt_generation *g)
{
    tt_err err = {0};
    tt_code rc = submit(g, &err);
    if (rc < 0 && rc != TT_E_BUSY) {
        fail_code(g, &err);
    } else if (rc == TT_E_BUSY) {
        tt_server_arm_tick(g->server);
    }
}

/* TT_EV_DONE of the current prompt. May free g. */
static void on_done(tt_generation *g, const tt_event *ev)
{
    const char *reason = tt_finish_text(ev->u.done.reason);
    account(g, ev);
    open_choice(g);
    tt_buf_put(&g->text, ev->u.done.text, ev->u.done.n_text);
    bool oom = g->text.failed || tt_logprob_list_failed(&g->logprobs);
    if (oom) {
        fail_code(g, &(tt_err){.code = TT_E_NOMEM});
        return;
    }
    send_text(g, true);
    if (!request_of(g)->stream) {
        tt_answer_choice(&g->choices, &g->answer,
                         &(tt_chunk){.index = g->current,
                                     .text = g->text.p,
                                     .n_text = g->text.n,
                                     .logprobs = request_of(g)->want_logprobs ? &g->logprobs : NULL,
                                     .finish_reason = reason});
    }
    if (g->current + 1 == request_of(g)->n_prompts) {
        finish(g, reason);
        return;
    }
    if (request_of(g)->stream) {
        send_chunk(g, &(tt_chunk){.index = g->current, .finish_reason = reason});
        tt_http_stream_flush(g->http);
    }
    tt_job_unref(&g->job);
    g->current++;
    g->opened = false;
    g->last_token = 0;
    tt_buf_clear(&g->text);
    tt_logprob_list_finish(&g->logprobs);
    tt_logprob_list_init(&g->logprobs, g->prepared->served->tokenizer, true);
    next_prompt(g);
}

/* Returns false when g is gone. */
static bool on_event(tt_generation *g, const tt_event *ev)
{
    switch (ev->type) {
    case TT_EV_STARTED:
    case TT_EV_PROBE:
    case TT_EV_STATUS:
        break;
    case TT_EV_ADAPT:
        tt_histogram_add(&g->server->metrics.qttt_step, ev->u.adapt.seconds);
        on_progress(g, ev);
        break;
    case TT_EV_PREFILL:
        on_progress(g, ev);
        break;
    case TT_EV_PROMPT_LOGPROBS:
        on_prompt_logprobs(g, ev);
        break;
    case TT_EV_ADAPTED:
        g->qttt = ev->u.adapted;
        g->have_qttt = true;
        tt_metrics_qttt(&g->server->metrics, ev->u.adapted.status);
        break;
    case TT_EV_TOKEN:
        on_token(g, ev);
        break;
    case TT_EV_DONE:
        on_done(g, ev);
        return false;
    case TT_EV_ERROR:
        fail_code(g, &ev->u.error);
        return false;
    }
    return true;
}

static void poll_one(tt_generation *g)
{
    tt_http_request *http = g->http;
    tt_event *ev;
    bool alive = true;
    tt_http_ref(http);
    while (alive && g->job != NULL && (ev = tt_job_next(g->job)) != NULL) {
        alive = on_event(g, ev);
        tt_event_free(ev);
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
    double now = tt_now(), period = s->settings->heartbeat_seconds, wait = 1e9;
    for (tt_generation *g = s->generations, *next; g != NULL; g = next) {
        next = g->next;
        if (g->job == NULL) {
            next_prompt(g);
            wait = RETRY_MS / 1000.0 < wait ? RETRY_MS / 1000.0 : wait;
            continue;
        }
        if (!request_of(g)->stream) {
            continue;
        }
        double due = g->last_sent + period - now;
        if (due <= 0.0005) {
            if (tt_http_stream_pending(g->http) ==
                0) { /* else the client has something to read already */
                tt_sse_heartbeat(tt_http_stream_out(g->http));
                tt_http_stream_flush(g->http);
            }
            g->last_sent = now;
            due = period;
        }
        wait = due < wait ? due : wait;
    }
    return wait > 1e8 ? 0 : (uint64_t)(wait * 1000) + 1;
}

void tt_generations_cut(tt_server *s)
{
    tt_http_error e;
    tt_error_set(&e, 503, NULL, "draining", "the server is shutting down");
    while (s->generations != NULL) {
        if (s->generations->job != NULL) {
            tt_job_cancel(s->generations->job, false);
        }
        fail(s->generations, &e);
    }
}
