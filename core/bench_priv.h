/* bench_priv.h - shared by bench.c (the model's figures), bench_serve.c (many users at once),
 * bench_restore.c (contexts from disk), bench_profile.c (time by operation), bench_growth.c
 * (curves) and bench_tokenise.c. */
#ifndef TT_BENCH_PRIV_H
#define TT_BENCH_PRIV_H

#include "core/bench.h"
#include "core/seq.h"
#include "core/trainer.h"
#include "core/worker.h"

#define TT_BENCH_MAX_REPEAT 25
#define TT_BENCH_DECODE_TOKENS 16 /* decoded one after the other at a depth */
#define TT_BENCH_SPAN 128         /* rows of a training step */

typedef struct tt_bench {
    const tt_bench_options *opt;
    tt_bench_report *r;
    tt_worker w; /* closed before tt_bench_serve() */
    tt_seq seq;
    int32_t *ids; /* owned [max_context] */
    int32_t repeat, max_context;
    double flops_rate, bytes_rate; /* the machine's, per second */
    double weight_bytes, kv_bytes; /* read per decoded token: all weights; per token of depth */
} tt_bench;

double tt_bench_median(double *v, int32_t n);
/* limit 0 = none. Rates are better when larger, seconds when smaller. */
void tt_bench_add(tt_bench *b, const char *name, const char *unit, double value,
                  tt_bench_limit kind, double limit);
/* Tokens per second of one stream at this depth, were memory the only bound. */
double tt_bench_decode_limit(const tt_bench *b, int32_t depth);

/* The step that has begun in b->w.step. */
tt_code tt_bench_run_to_end(tt_bench *b, tt_err *reterr);
/* Tokens [from, to) of the sequence, in chunks; their pages exist. */
tt_code tt_bench_prefill_range(tt_bench *b, int32_t from, int32_t to, tt_err *reterr);
/* One token at position `at`, whose K/V are written over. */
tt_code tt_bench_decode_token(tt_bench *b, int32_t at, tt_err *reterr);
/* A trainer with default parameters. Then one step with its update on the span at the mean position
 * of a context of `depth` tokens. */
tt_code tt_bench_trainer(tt_bench *b, bool lora, tt_trainer **ret, tt_err *reterr);
tt_code tt_bench_train(tt_bench *b, tt_trainer *tr, int32_t depth, tt_err *reterr);
/* The operations of each kind of step; the limits of the machine are known. */
tt_code tt_bench_profile(tt_bench *b, tt_err *reterr);
/* Costs as work grows, likewise. */
tt_code tt_bench_growth(tt_bench *b, tt_err *reterr);

/* Losses with K/V of each type, on workers of its own; b->w is closed. */
tt_code tt_bench_loss(tt_bench *b, tt_err *reterr);

/* The figures of many users at once. */
tt_code tt_bench_serve(tt_bench *b, tt_err *reterr);
/* Decoding with drafts and without. */
tt_code tt_bench_drafts(tt_bench *b, tt_err *reterr);
/* A context of n tokens from disk, on engines of its own. ids: [n + 128]. */
tt_code tt_bench_restore(tt_bench *b, const tt_engine_options *opt, const int32_t *ids, int32_t n,
                         tt_err *reterr);

/* The tokenizer's speed; nothing of the model is run. */
tt_code tt_bench_tokenise(tt_bench *b, tt_err *reterr);

#endif
