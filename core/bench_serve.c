/* bench_serve.c - the figures of many users at once, see bench.h: whole requests through the
 * engine's thread, seen as a client sees them. Thread: the caller's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/bench_priv.h"
#include "core/rng.h"
#include "core/sysinfo.h"

#define STREAMS 8
#define STREAM_TOKENS 64
#define MAX_TIMES 4096

typedef struct stream {
    tt_job *job;
    double submitted, first, last; /* of tokens; 0 = none yet */
    int32_t n;
    bool over;
    tt_err error; /* code TT_OK = none */
    tt_qttt_result qttt;
    double *times; /* [MAX_TIMES] of tokens, or NULL */
} stream;

typedef struct serving {
    tt_bench *b;
    tt_engine *e;
    int32_t *ids; /* owned [max_context] */
} serving;

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
}

/* Takes the events that are there; true when there was one. */
static bool drain(stream *s)
{
    tt_event *ev = s->over ? NULL : tt_job_next(s->job);
    if (ev == NULL) {
        return false;
    }
    double now = tt_sys_now();
    if (ev->type == TT_EV_TOKEN) {
        s->first = s->first > 0 ? s->first : now;
        s->last = now;
        if (s->times != NULL && s->n < MAX_TIMES) {
            s->times[s->n] = now;
        }
        s->n++;
    } else if (ev->type == TT_EV_ADAPTED) {
        s->qttt = ev->u.adapted;
    } else if (ev->type == TT_EV_ERROR) {
        s->error = ev->u.error;
    }
    s->over = ev->type == TT_EV_DONE || ev->type == TT_EV_ERROR;
    tt_event_free(ev);
    return true;
}

static tt_code submit(serving *v, const tt_job_params *p, stream *ret, tt_err *reterr)
{
    ret->job = NULL;
    ret->submitted = tt_sys_now();
    tt_code rc = tt_job_create(p, NULL, NULL, &ret->job, reterr);
    rc = rc == TT_OK ? tt_engine_submit(v->e, ret->job, reterr) : rc;
    if (rc != TT_OK) {
        tt_job_unref(&ret->job);
    }
    return rc;
}

/* Until all are over. */
static tt_code wait_all(stream *s, int32_t n, tt_err *reterr)
{
    for (int32_t left = n; left > 0;) {
        bool any = false;
        left = 0;
        for (int32_t i = 0; i < n; i++) {
            any = drain(&s[i]) || any;
            left += !s[i].over;
        }
        if (!any) {
            nap();
        }
    }
    tt_code rc = TT_OK;
    for (int32_t i = 0; i < n; i++) {
        if (s[i].error.code != TT_OK && rc == TT_OK) {
            rc = s[i].error.code;
            *reterr = s[i].error;
        }
        tt_job_unref(&s[i].job);
    }
    return rc;
}

static tt_job_params greedy(const serving *v, int32_t first, int32_t n, int32_t max_tokens)
{
    return (tt_job_params){.prompt = v->ids + first,
                           .n_prompt = n,
                           .max_tokens = max_tokens,
                           .ignore_eos = true,
                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                           .n_logprobs = -1,
                           .n_prompt_logprobs = -1};
}

static tt_code run(serving *v, const tt_job_params *p, stream *ret, tt_err *reterr)
{
    *ret = (stream){0};
    tt_code rc = submit(v, p, ret, reterr);
    return rc == TT_OK ? wait_all(ret, 1, reterr) : rc;
}

/* ---- streams ---- */

/* Tokens per second of n streams together, while all of them decode. adapters: [n] or NULL. */
static tt_code rate_of(serving *v, int32_t n, const uint64_t *adapters, double *ret, tt_err *reterr)
{
    stream s[STREAMS] = {0};
    double *times = malloc((size_t)n * MAX_TIMES * sizeof *times), from = 0, to = INFINITY;
    tt_code rc = times == NULL ? tt_fail(reterr, TT_E_NOMEM, "no memory for the bench") : TT_OK;
    int32_t submitted = 0;
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        tt_job_params p = greedy(v, 128 * i, 128, STREAM_TOKENS);
        p.qttt.context_tokens = 64;
        p.adapter_id = adapters != NULL ? adapters[i] : 0;
        s[i].times = times + (size_t)i * MAX_TIMES;
        rc = submit(v, &p, &s[i], reterr);
        submitted += rc == TT_OK;
    }
    tt_code all = wait_all(s, submitted, reterr);
    rc = rc == TT_OK ? all : rc;
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        from = s[i].first > from ? s[i].first : from;
        to = s[i].last < to ? s[i].last : to;
    }
    int32_t tokens = 0;
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        for (int32_t j = 0; j < s[i].n; j++) {
            tokens += times[(size_t)i * MAX_TIMES + (size_t)j] > from &&
                      times[(size_t)i * MAX_TIMES + (size_t)j] <= to;
        }
    }
    *ret = to > from ? tokens / (to - from) : 0;
    free(times);
    return rc;
}

/* Rates of one stream and of eight, and how much more the eight are: the two take turns, since the
 * machine's own speed drifts. adapters: [STREAMS] or NULL. */
static tt_code one_and_all(serving *v, const char *const names[3], const uint64_t *adapters,
                           tt_err *reterr)
{
    double one[TT_BENCH_MAX_REPEAT], all[TT_BENCH_MAX_REPEAT], times[TT_BENCH_MAX_REPEAT];
    tt_code rc = TT_OK;
    int32_t repeat = v->b->repeat;
    for (int32_t i = -1; rc == TT_OK && i < repeat; i++) { /* the first fills the prefix cache */
        int32_t j = i < 0 ? 0 : i;
        rc = rate_of(v, 1, adapters, &one[j], reterr);
        rc = rc == TT_OK ? rate_of(v, STREAMS, adapters, &all[j], reterr) : rc;
        times[j] = rc == TT_OK && one[j] > 0 ? all[j] / one[j] : 0;
    }
    if (rc == TT_OK) {
        double limit = adapters == NULL ? tt_bench_decode_limit(v->b, 160) : 0;
        tt_bench_add(v->b, names[0], "tokens/s", tt_bench_median(one, repeat),
                     limit > 0 ? TT_LIMIT_BYTES : TT_LIMIT_NONE, limit);
        tt_bench_add(v->b, names[1], "tokens/s", tt_bench_median(all, repeat), TT_LIMIT_NONE, 0);
        tt_bench_add(v->b, names[2], "times", tt_bench_median(times, repeat), TT_LIMIT_NONE, 0);
    }
    return rc;
}

/* Eight adapters over a short context, each of its own seed. */
static tt_code train_adapters(serving *v, bool lora, uint64_t adapters[STREAMS], int64_t *ret_bytes,
                              tt_err *reterr)
{
    tt_code rc = TT_OK;
    *ret_bytes = 0;
    for (int32_t i = 0; rc == TT_OK && i < STREAMS; i++) {
        tt_job_params p = greedy(v, 128 * i, 64, 0);
        stream s;
        tt_qttt_defaults(&p.qttt);
        p.kind = TT_JOB_TRAIN;
        p.pin_adapter = true;
        p.qttt.mode = TT_QTTT_ON;
        p.qttt.lora = lora;
        p.qttt.guard = false;
        p.qttt.steps = 1;
        p.qttt.context_tokens = 64;
        p.qttt.seed = (uint64_t)i;
        rc = run(v, &p, &s, reterr);
        adapters[i] = s.qttt.adapter_id;
        *ret_bytes += s.qttt.adapter_bytes;
    }
    return rc;
}

static tt_code adapted_streams(serving *v, bool lora, tt_err *reterr)
{
    static const char *const names[2][3] = {
        {"1 stream, full adapter", "8 streams, 8 full adapters", "  against 1 stream, full"},
        {"1 stream, LoRA adapter", "8 streams, 8 LoRA adapters", "  against 1 stream, LoRA"}};
    uint64_t adapters[STREAMS] = {0};
    int64_t bytes;
    tt_code rc = train_adapters(v, lora, adapters, &bytes, reterr);
    rc = rc == TT_OK ? one_and_all(v, names[lora], adapters, reterr) : rc;
    for (int32_t i = 0; i < STREAMS; i++) {
        tt_engine_unpin(v->e, adapters[i]);
    }
    if (rc == TT_OK) {
        tt_bench_add(v->b, lora ? "  bytes of a LoRA adapter" : "  bytes of a full adapter", "MiB",
                     (double)bytes / STREAMS / 0x1p20, TT_LIMIT_NONE, 0);
    }
    return rc;
}

static tt_code streams(serving *v, tt_err *reterr)
{
    static const char *const base[3] = {"1 stream", "8 streams", "  against 1 stream, base"};
    tt_code rc = one_and_all(v, base, NULL, reterr);
    rc = rc == TT_OK ? adapted_streams(v, true, reterr) : rc;
    return rc == TT_OK ? adapted_streams(v, false, reterr) : rc;
}

/* ---- one stream beside long work ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Gaps between the tokens of a stream while a long prefill and a training run. */
static tt_code gaps(serving *v, int32_t n_long, tt_err *reterr)
{
    enum { STREAM, LONG, JOB, N };
    stream s[N] = {0};
    tt_job_params p[N] = {greedy(v, 0, 128, 1000), greedy(v, 200, n_long, 1),
                          greedy(v, 100, 2048, 0)};
    double *times = malloc(MAX_TIMES * sizeof *times);
    tt_code rc = times == NULL ? tt_fail(reterr, TT_E_NOMEM, "no memory for the bench") : TT_OK;
    s[STREAM].times = times;
    tt_qttt_defaults(&p[JOB].qttt);
    p[JOB].kind = TT_JOB_TRAIN;
    p[JOB].qttt.mode = TT_QTTT_ON;
    p[JOB].qttt.steps = 16;
    p[JOB].qttt.context_tokens = 2048;
    p[STREAM].max_tokens = -1;
    int32_t submitted = 0;
    for (int32_t i = 0; rc == TT_OK && i < N; i++) {
        rc = submit(v, &p[i], &s[i], reterr);
        submitted += rc == TT_OK;
        while (rc == TT_OK && i == STREAM && s[i].n < 4) {
            if (!drain(&s[i])) {
                nap();
            }
        }
    }
    double from = tt_sys_now();
    while (rc == TT_OK && !(s[LONG].over && s[JOB].over) && !s[STREAM].over) {
        bool any = false;
        for (int32_t i = 0; i < N; i++) {
            any = drain(&s[i]) || any;
        }
        if (!any) {
            nap();
        }
    }
    for (int32_t i = 0; i < submitted; i++) {
        tt_job_cancel(s[i].job, false);
    }
    tt_engine_kick(v->e);
    int32_t n = s[STREAM].n < MAX_TIMES ? s[STREAM].n : MAX_TIMES, n_gaps = 0;
    for (int32_t i = 1; rc == TT_OK && i < n; i++) {
        if (times[i] > from) {
            times[n_gaps++] = times[i] - times[i - 1];
        }
    }
    tt_err gone;
    wait_all(s, submitted, &gone);
    if (rc == TT_OK && n_gaps > 0) {
        qsort(times, (size_t)n_gaps, sizeof *times, by_value);
        tt_bench_add(v->b, "gap beside prefill and job, p50", "ms", 1e3 * times[n_gaps / 2],
                     TT_LIMIT_NONE, 0);
        tt_bench_add(v->b, "gap beside prefill and job, p99", "ms",
                     1e3 * times[(int32_t)(0.99 * n_gaps)], TT_LIMIT_NONE, 0);
    }
    free(times);
    return rc;
}

/* ---- sessions ---- */

/* Time to the first token of a document's first and second turn. */
static tt_code turns(serving *v, int32_t n, tt_err *reterr)
{
    int32_t answer = 32, question = 40;
    uint8_t *decoded = calloc((size_t)v->b->max_context, 1);
    stream first, second;
    tt_job_params p = greedy(v, 0, n, answer);
    p.keep = true;
    tt_code rc = decoded == NULL ? tt_fail(reterr, TT_E_NOMEM, "no memory for the bench")
                                 : run(v, &p, &first, reterr);
    if (rc == TT_OK) {
        /* what the model answered is not known here: any ids cost the same, but they are not in
           the cache; a client's second turn is never cheaper than this */
        memset(decoded + n, 0, (size_t)(answer + question));
        p.n_prompt = n + answer + question;
        p.decoded = decoded;
        rc = run(v, &p, &second, reterr);
    }
    if (rc == TT_OK) {
        double a = first.first - first.submitted, b = second.first - second.submitted;
        tt_bench_add(v->b, "first token, turn 1", "s", a, TT_LIMIT_NONE, 0);
        tt_bench_add(v->b, "first token, turn 2", "s", b, TT_LIMIT_NONE, 0);
        tt_bench_add(v->b, "  of turn 1", "%", 100 * b / a, TT_LIMIT_NONE, 0);
    }
    free(decoded);
    return rc;
}

/* K/V of eight adapted sessions over one context, against one such context. */
static tt_code shared_context(serving *v, int32_t n, tt_err *reterr)
{
    stream s[STREAMS] = {0};
    tt_engine_stats st;
    tt_code rc = TT_OK;
    int32_t submitted = 0, question = 32;
    for (int32_t i = 0; rc == TT_OK && i < STREAMS; i++) {
        tt_job_params p = greedy(v, 0, n + question, 200);
        tt_qttt_defaults(&p.qttt);
        p.qttt.mode = TT_QTTT_ON;
        p.qttt.lora = true;
        p.qttt.guard = false;
        p.qttt.steps = 1;
        p.qttt.context_tokens = n;
        p.qttt.seed = (uint64_t)(100 + i);
        rc = submit(v, &p, &s[i], reterr);
        submitted += rc == TT_OK;
    }
    int64_t most = 0;
    for (int32_t decoding = 0; rc == TT_OK && decoding < STREAMS;) {
        decoding = 0;
        for (int32_t i = 0; i < STREAMS; i++) {
            while (drain(&s[i])) {
            }
            decoding += s[i].n > 0 || s[i].over;
        }
        tt_engine_get_stats(v->e, &st);
        most = st.kv_pages_used > most ? st.kv_pages_used : most;
        nap();
    }
    for (int32_t i = 0; i < submitted; i++) {
        tt_job_cancel(s[i].job, false);
    }
    tt_engine_kick(v->e);
    tt_err gone;
    wait_all(s, submitted, &gone);
    if (rc == TT_OK) {
        double page = (double)tt_engine_page_bytes(v->e) / 0x1p20;
        tt_bench_add(v->b, "K/V of one context", "MiB",
                     page * ((n + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS), TT_LIMIT_NONE, 0);
        tt_bench_add(v->b, "K/V of 8 adapted sessions on it", "MiB", page * (double)most,
                     TT_LIMIT_NONE, 0);
    }
    return rc;
}

/* From a client's leaving in the middle of a prefill until the engine works for nobody. */
static tt_code leaving(serving *v, int32_t n, tt_err *reterr)
{
    double t[TT_BENCH_MAX_REPEAT];
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < v->b->repeat; i++) {
        stream s = {0};
        tt_engine_stats st;
        tt_job_params p = greedy(v, 300 + i, n, 1);
        rc = submit(v, &p, &s, reterr);
        if (rc != TT_OK) {
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        double t0 = tt_sys_now();
        tt_job_cancel(s.job, false);
        tt_engine_kick(v->e);
        do {
            nap();
            tt_engine_get_stats(v->e, &st);
        } while (st.running > 0);
        t[i] = tt_sys_now() - t0;
        tt_err gone;
        wait_all(&s, 1, &gone);
    }
    if (rc == TT_OK) {
        tt_bench_add(v->b, "client leaves, engine stops", "ms",
                     1e3 * tt_bench_median(t, v->b->repeat), TT_LIMIT_NONE, 0);
    }
    return rc;
}

static tt_code measure(serving *v, tt_err *reterr)
{
    int32_t room = v->b->max_context - 512;
    int32_t document = room < 4096 ? room : 4096, longest = room < 7500 ? room : 7500;
    if (room < 0) {
        return TT_OK; /* a context this short serves nobody */
    }
    tt_code rc = streams(v, reterr);
    rc = rc == TT_OK && longest > 2560 ? gaps(v, longest, reterr) : rc;
    rc = rc == TT_OK && document > 512 ? turns(v, document, reterr) : rc;
    rc = rc == TT_OK && document > 512 ? shared_context(v, document, reterr) : rc;
    return rc == TT_OK && longest > 2560 ? leaving(v, longest - 400, reterr) : rc;
}

tt_code tt_bench_serve(tt_bench *b, tt_err *reterr)
{
    serving v = {.b = b};
    tt_engine_options o = *b->opt->engine;
    /* room for eight full adapters and the sessions' K/V, whatever the settings say */
    o.adapter_cache_bytes =
        o.adapter_cache_bytes > ((size_t)1 << 30) ? o.adapter_cache_bytes : (size_t)1 << 30;
    o.caps = o.caps.max_steps > 0 ? o.caps : (tt_qttt_caps){256, 1024, 64, 1e-3, 0.05};
    tt_code rc = tt_engine_create(&o, &v.e, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_engine_state state;
    while ((state = tt_engine_get_state(v.e, reterr)) == TT_ENGINE_LOADING) {
        nap();
    }
    rc = state == TT_ENGINE_READY ? TT_OK : reterr->code;
    v.ids = malloc(((size_t)b->max_context + 1024) * sizeof *v.ids);
    if (rc == TT_OK && v.ids == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for the bench");
    }
    tt_rng rng = tt_rng_make(3, 4);
    for (int32_t i = 0; rc == TT_OK && i < b->max_context + 1024; i++) {
        v.ids[i] = (int32_t)tt_rng_below(&rng, (uint64_t)tt_engine_model(v.e)->n_vocab);
    }
    rc = rc == TT_OK ? measure(&v, reterr) : rc;
    tt_engine_destroy(&v.e);
    int32_t document = b->max_context < 4096 + 512 ? b->max_context - 512 : 4096;
    rc = rc == TT_OK && document > 512 ? tt_bench_restore(b, &o, v.ids, document, reterr) : rc;
    free(v.ids);
    return rc;
}
