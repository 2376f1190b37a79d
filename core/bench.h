/* bench.h - the figures of `qttt bench`: what a model does on this machine, each beside the limit
 * of the machine measured in the same run. Thread: the caller's, which becomes the engine's thread
 * for the time. */
#ifndef TT_BENCH_H
#define TT_BENCH_H

#include "core/engine.h"
#include "core/profile.h"

typedef enum tt_bench_limit { TT_LIMIT_NONE, TT_LIMIT_FLOPS, TT_LIMIT_BYTES } tt_bench_limit;

typedef struct tt_bench_figure {
    char name[64];       /* "prefill 512" */
    const char *unit;    /* "tokens/s", "s", "ms", "GFLOP/s", "GB/s", "MB/s", "MiB", "nats", "%" */
    double value;        /* median over the repetitions */
    tt_bench_limit kind; /* what bounds it */
    double limit;        /* value at the machine's measured rate, same unit; 0 with TT_LIMIT_NONE */
    double percent;      /* share of the limit that is reached, 0..100 */
} tt_bench_figure;

#define TT_BENCH_MAX_FIGURES 64

/* MODEL: one sequence at a time. SERVE: many users at once. TOKENISE: the tokenizer
 * alone. ALL has these three. PROFILE: where the time of a step goes. DRAFTS: quotes and
 * free text, with drafts and without. GROWTH: what a step costs as
 * its context, its streams or their adapters grow. */
typedef enum tt_bench_part {
    TT_BENCH_ALL,
    TT_BENCH_MODEL,
    TT_BENCH_SERVE,
    TT_BENCH_TOKENISE,
    TT_BENCH_PROFILE,
    TT_BENCH_DRAFTS,
    TT_BENCH_GROWTH,
    TT_BENCH_GROWTH_CONTEXT,
    TT_BENCH_GROWTH_STREAMS,
    TT_BENCH_GROWTH_ADAPTERS,
    TT_BENCH_PARTS
} tt_bench_part;

/* One point of a curve. All times are medians, in seconds. */
typedef struct tt_growth_point {
    /* "prefill" (the last chunk), "decode" (a token), "step" (qTTT): x = tokens of context.
     * "streams" (a decode step of x streams), "full adapters", "LoRA adapters" (of 8 streams, x of
     * them adapted). */
    const char *series;
    int32_t x;
    double seconds, attention_s, adapters_s; /* the last two are parts of the first */
    double limit_s;                          /* of its products and keys at the machine's rates */
    double equal_cost_tokens; /* step: decoding so many at that depth takes as many FLOPs; else 0 */
} tt_growth_point;

typedef struct tt_bench_options {
    const tt_engine_options *engine;
    int32_t repeat; /* 0 = 5 */
    tt_bench_part part;
    const char *text_path;      /* what is tokenised; NULL = text that is made up */
    const char *loss_text_path; /* with MODEL: what losses are measured on; NULL = none are */
    int32_t depth;              /* PROFILE: of decoding and of the context of steps; 0 = 2,048 */
    bool profile_points;        /* GROWTH: the operations of each point too */
    void (*on_profile)(void *arg, const tt_profile_section *s); /* each when it ends; may be NULL */
    void (*on_growth)(void *arg, const tt_growth_point *p);     /* likewise */
    void (*on_figure)(void *arg, const tt_bench_figure *f);     /* as each is ready; may be NULL */
    void *arg;
} tt_bench_options;

typedef struct tt_bench_report {
    tt_bench_figure figure[TT_BENCH_MAX_FIGURES];
    int32_t n;
    char model[64], isa[16];
    int threads;
    double flops_rate, bytes_rate; /* the machine's, per second; 0 = not measured in this part */
} tt_bench_report;

/* Depths beyond the model's context are left out. TT_E_CAPACITY when the K/V pool is too small for
 * the deepest. */
tt_code tt_bench_run(const tt_bench_options *opt, tt_bench_report *ret_report, tt_err *reterr);

#endif
