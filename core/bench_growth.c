/* bench_growth.c - what a step costs as its context, its streams and their adapters grow; see
 * bench.h. Contexts are not prefilled: their pages are copies of the first ones, which costs the
 * kernels the same. Thread: the caller's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bench_priv.h"
#include "core/cost.h"

enum {
    FIRST_CONTEXT = 1024,
    LAST_CONTEXT = 32768,
    STREAM_DEPTH = 512, /* tokens before those that streams decode */
    MAX_STREAMS = 16,
    ADAPTED_STREAMS = 8, /* of which 0 to 8 have an adapter of their own */
    N_FILLED = 512       /* tokens that are run; their pages are copied */
};

typedef struct growth {
    tt_bench *b;
    tt_profile *p;
    tt_seq stream[MAX_STREAMS];
    tt_adapter *adapter[ADAPTED_STREAMS];
    tt_trainer *trainer;
    int32_t depth, n_streams, n_adapted; /* of the point that is measured */
} growth;

typedef tt_code (*run_fn)(growth *g, tt_err *reterr);

/* ---- one point ---- */

static void split(const tt_profile_section *s, tt_growth_point *p, double *seconds,
                  double *attention, double *adapters)
{
    *seconds = s->seconds / s->runs;
    *attention = *adapters = p->limit_s = 0;
    for (int32_t i = 0; i < s->n_rows; i++) {
        const tt_profile_row *r = &s->row[i];
        if (strncmp(r->op, "attention", 9) == 0) {
            *attention += r->seconds / s->runs;
        } else if (strncmp(r->op, "adapter", 7) == 0) {
            *adapters += r->seconds / s->runs;
        }
        p->limit_s += r->work.flops > 0 ? r->limit_s / s->runs : 0;
    }
}

/* Medians over the repetitions. parts: how many a run is counted as. */
static tt_code take_point(growth *g, const char *series, int32_t x, run_fn run, int32_t parts,
                          tt_growth_point *ret, tt_err *reterr)
{
    double t[3][TT_BENCH_MAX_REPEAT];
    tt_growth_point p = {.series = series, .x = x};
    tt_code rc = run(g, reterr);
    const tt_profile_section *s = NULL;
    char name[sizeof s->name];
    snprintf(name, sizeof name, "%s at %d", series, x);
    for (int32_t i = 0; rc == TT_OK && i < g->b->repeat; i++) {
        tt_profile_begin(g->p, name);
        rc = run(g, reterr);
        s = tt_profile_end(g->p, parts);
        split(s, &p, &t[0][i], &t[1][i], &t[2][i]);
    }
    if (rc == TT_OK && g->b->opt->profile_points && g->b->opt->on_profile != NULL) {
        g->b->opt->on_profile(g->b->opt->arg, s); /* of the last repetition */
    }
    if (rc == TT_OK) {
        p.seconds = tt_bench_median(t[0], g->b->repeat);
        p.attention_s = tt_bench_median(t[1], g->b->repeat);
        p.adapters_s = tt_bench_median(t[2], g->b->repeat);
        *ret = p;
    }
    return rc;
}

static void tell(const growth *g, const tt_growth_point *p)
{
    if (g->b->opt->on_growth != NULL) {
        g->b->opt->on_growth(g->b->opt->arg, p);
    }
}

/* Takes a point and tells it. */
static tt_code point(growth *g, const char *series, int32_t x, run_fn run, int32_t parts,
                     tt_err *reterr)
{
    tt_growth_point p;
    tt_code rc = take_point(g, series, x, run, parts, &p, reterr);
    if (rc == TT_OK) {
        tell(g, &p);
    }
    return rc;
}

/* ---- context ---- */

/* The last chunk of a prefill of so many tokens. */
static tt_code run_chunk(growth *g, tt_err *reterr)
{
    int32_t chunk = g->b->w.prefill_chunk < g->depth ? g->b->w.prefill_chunk : g->depth;
    return tt_bench_prefill_range(g->b, g->depth - chunk, g->depth, reterr);
}

static tt_code run_decode(growth *g, tt_err *reterr)
{
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < TT_BENCH_DECODE_TOKENS; i++) {
        rc = tt_bench_decode_token(g->b, g->depth + i, reterr);
    }
    return rc;
}

static tt_code run_step(growth *g, tt_err *reterr)
{
    return tt_bench_train(g->b, g->trainer, g->depth, reterr);
}

/* Tokens whose decoding at that depth takes as many FLOPs as a step. */
static double equal_cost_tokens(const growth *g)
{
    const tt_model *m = g->b->w.model;
    tt_cost_rows rows = {.pos0 = (g->depth - TT_BENCH_SPAN) / 2,
                         .n_rows = TT_BENCH_SPAN,
                         .n_logits = TT_BENCH_SPAN,
                         .adapter = tt_trainer_params(g->trainer)};
    double flops = tt_cost_forward(m, &rows) + tt_cost_backward(m, &rows);
    return flops / tt_cost_decode(m, g->depth);
}

static tt_code at_context(growth *g, tt_err *reterr)
{
    tt_growth_point step;
    tt_code rc = point(g, "prefill", g->depth, run_chunk, 1, reterr);
    rc =
        rc == TT_OK ? point(g, "decode", g->depth, run_decode, TT_BENCH_DECODE_TOKENS, reterr) : rc;
    rc = rc == TT_OK ? take_point(g, "step", g->depth, run_step, 1, &step, reterr) : rc;
    if (rc == TT_OK) {
        step.equal_cost_tokens = equal_cost_tokens(g);
        tell(g, &step);
    }
    return rc;
}

/* Pages [first, n) get what is in `from` [n_filled]. */
static void copy_pages(tt_kv_pool *kv, const int32_t *from, int32_t n_filled, int32_t *pages,
                       int32_t first, int32_t n)
{
    for (int32_t i = first; i < n; i++) {
        tt_kv_copy_page(kv, pages[i], from[i % n_filled]);
    }
}

static tt_code growth_context(growth *g, tt_err *reterr)
{
    tt_bench *b = g->b;
    int32_t room = b->w.max_context - TT_BENCH_DECODE_TOKENS;
    int32_t deepest = room < LAST_CONTEXT ? room : LAST_CONTEXT;
    tt_code rc = tt_seq_reserve(&b->seq, deepest + TT_BENCH_DECODE_TOKENS, reterr);
    rc = rc == TT_OK ? tt_bench_prefill_range(b, 0, N_FILLED, reterr) : rc;
    if (rc == TT_OK) {
        copy_pages(b->w.kv, b->seq.pages, N_FILLED / TT_PAGE_TOKENS, b->seq.pages,
                   N_FILLED / TT_PAGE_TOKENS, b->seq.n_pages);
        rc = tt_device_sync(&b->w.device, reterr);
    }
    rc = rc == TT_OK ? tt_bench_trainer(b, false, &g->trainer, reterr) : rc;
    for (int32_t c = FIRST_CONTEXT; rc == TT_OK && c < 2 * deepest; c *= 2) {
        g->depth = c < deepest ? c : deepest;
        /* a context that ends just below a power of two counts; one just above adds nothing */
        rc = g->depth > c / 4 * 3 ? at_context(g, reterr) : TT_OK;
    }
    tt_trainer_destroy(&g->trainer);
    return rc;
}

/* ---- streams ---- */

/* Decode steps of so many streams, the first of them adapted. */
static tt_code run_streams(growth *g, tt_err *reterr)
{
    tt_bench *b = g->b;
    tt_segment seg[MAX_STREAMS];
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < TT_BENCH_DECODE_TOKENS; i++) {
        for (int32_t s = 0; s < g->n_streams; s++) {
            seg[s] = (tt_segment){.ids = b->ids + (s * 64 + i) % b->max_context,
                                  .n_rows = 1,
                                  .pos0 = g->depth + i,
                                  .pages = g->stream[s].pages,
                                  .store = true,
                                  .adapter = s < g->n_adapted ? g->adapter[s] : NULL,
                                  .want = TT_WANT_LAST};
        }
        rc = tt_step_begin(b->w.step, seg, g->n_streams, &(tt_step_options){.family = TT_DECODE},
                           reterr);
        rc = rc == TT_OK ? tt_bench_run_to_end(b, reterr) : rc;
    }
    return rc;
}

static tt_code open_streams(growth *g, int32_t n, tt_err *reterr)
{
    tt_bench *b = g->b;
    tt_code rc = TT_OK;
    g->depth = STREAM_DEPTH;
    for (int32_t s = 0; rc == TT_OK && s < n; s++) {
        tt_seq *q = &g->stream[s];
        tt_seq_init(q, b->w.kv, "");
        rc = tt_seq_reserve(q, STREAM_DEPTH + TT_BENCH_DECODE_TOKENS, reterr);
        if (rc == TT_OK) {
            copy_pages(b->w.kv, b->seq.pages, N_FILLED / TT_PAGE_TOKENS, q->pages, 0, q->n_pages);
        }
    }
    return rc == TT_OK ? tt_device_sync(&b->w.device, reterr) : rc;
}

static void close_streams(growth *g)
{
    for (int32_t s = 0; s < MAX_STREAMS; s++) {
        tt_seq_finish(&g->stream[s]);
    }
}

static tt_code fill(growth *g, tt_err *reterr)
{
    tt_code rc = tt_seq_reserve(&g->b->seq, N_FILLED, reterr);
    return rc == TT_OK ? tt_bench_prefill_range(g->b, 0, N_FILLED, reterr) : rc;
}

static tt_code growth_streams(growth *g, tt_err *reterr)
{
    tt_code rc = fill(g, reterr);
    rc = rc == TT_OK ? open_streams(g, MAX_STREAMS, reterr) : rc;
    for (int32_t n = 1; rc == TT_OK && n <= MAX_STREAMS; n *= 2) {
        g->n_streams = n;
        rc = point(g, "streams", n, run_streams, TT_BENCH_DECODE_TOKENS, reterr);
    }
    close_streams(g);
    return rc;
}

static tt_code with_adapters(growth *g, tt_adapter_kind kind, tt_err *reterr)
{
    bool lora = kind == TT_ADAPTER_LORA;
    tt_adapter_shape shape = {
        .kind = kind, .type = TT_BF16, .rank = lora ? 8 : 0, .scale = lora ? 2 : 1};
    tt_device *d = &g->b->w.device;
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < ADAPTED_STREAMS; i++) {
        rc = tt_adapter_create(d, &shape, &g->adapter[i], reterr);
    }
    for (int32_t n = 0; rc == TT_OK && n <= ADAPTED_STREAMS; n += n < 2 ? 1 : n) {
        g->n_adapted = n;
        rc = point(g, lora ? "LoRA adapters" : "full adapters", n, run_streams,
                   TT_BENCH_DECODE_TOKENS, reterr);
    }
    for (int32_t i = 0; i < ADAPTED_STREAMS; i++) {
        tt_adapter_unref(d, &g->adapter[i]);
    }
    return rc;
}

static tt_code growth_adapters(growth *g, tt_err *reterr)
{
    tt_code rc = fill(g, reterr);
    rc = rc == TT_OK ? open_streams(g, ADAPTED_STREAMS, reterr) : rc;
    g->n_streams = ADAPTED_STREAMS;
    rc = rc == TT_OK ? with_adapters(g, TT_ADAPTER_LORA, reterr) : rc;
    rc = rc == TT_OK ? with_adapters(g, TT_ADAPTER_FULL, reterr) : rc;
    close_streams(g);
    return rc;
}

tt_code tt_bench_growth(tt_bench *b, tt_err *reterr)
{
    growth g = {.b = b};
    tt_bench_part part = b->opt->part;
    if (b->w.max_context < FIRST_CONTEXT) {
        return tt_fail(reterr, TT_E_INVALID,
                       "a context of %d tokens is too short to see growth: 1,024 are needed",
                       b->w.max_context);
    }
    bool all = part == TT_BENCH_GROWTH;
    tt_code rc = tt_profile_attach(&b->w.device, b->flops_rate, b->bytes_rate, &g.p, reterr);
    if (rc == TT_OK && (all || part == TT_BENCH_GROWTH_STREAMS)) {
        rc = growth_streams(&g, reterr);
    }
    if (rc == TT_OK && (all || part == TT_BENCH_GROWTH_ADAPTERS)) {
        rc = growth_adapters(&g, reterr);
    }
    tt_seq_finish(&b->seq);
    tt_seq_init(&b->seq, b->w.kv, "");
    if (rc == TT_OK && (all || part == TT_BENCH_GROWTH_CONTEXT)) {
        rc = growth_context(&g, reterr);
    }
    tt_profile_detach(&g.p);
    return rc;
}
