/* bench_profile.c - where the time of a prefill, of decoding and of a training step goes, by
 * operation; see bench.h and profile.h. Thread: the caller's. */
#include <stdio.h>

#include "core/bench_priv.h"

/* One kind of step; run() does it once. */
typedef struct kind {
    char name[64];
    tt_code (*run)(tt_bench *b, const struct kind *k, tt_err *reterr);
    int32_t from, to; /* tokens */
    int32_t parts;    /* of one run that the figures are divided by; 0 = 1 */
    tt_trainer *trainer;
} kind;

static tt_code run_prefill(tt_bench *b, const kind *k, tt_err *reterr)
{
    return tt_bench_prefill_range(b, k->from, k->to, reterr);
}

static tt_code run_decode(tt_bench *b, const kind *k, tt_err *reterr)
{
    tt_code rc = TT_OK;
    for (int32_t at = k->from; rc == TT_OK && at < k->to; at++) {
        rc = tt_bench_decode_token(b, at, reterr);
    }
    return rc;
}

static tt_code run_train(tt_bench *b, const kind *k, tt_err *reterr)
{
    return tt_bench_train(b, k->trainer, k->to, reterr);
}

/* Once to warm up, then `repeat` times under the clocks. */
static tt_code profile_kind(tt_bench *b, tt_profile *p, const kind *k, tt_err *reterr)
{
    tt_code rc = k->run(b, k, reterr);
    tt_profile_begin(p, k->name);
    for (int32_t i = 0; rc == TT_OK && i < b->repeat; i++) {
        rc = k->run(b, k, reterr);
    }
    const tt_profile_section *s = tt_profile_end(p, b->repeat * (k->parts > 0 ? k->parts : 1));
    if (rc == TT_OK && b->opt->on_profile != NULL) {
        b->opt->on_profile(b->opt->arg, s);
    }
    return rc;
}

static tt_code profile_steps(tt_bench *b, tt_profile *p, int32_t depth, tt_err *reterr)
{
    tt_code rc = TT_OK;
    for (int lora = 0; rc == TT_OK && depth > TT_BENCH_SPAN && lora < 2; lora++) {
        kind k = {.run = run_train, .to = depth};
        snprintf(k.name, sizeof k.name, "qTTT step k=%d at %d%s", TT_BENCH_SPAN, depth,
                 lora ? ", LoRA r8" : "");
        rc = tt_bench_trainer(b, lora, &k.trainer, reterr);
        rc = rc == TT_OK ? profile_kind(b, p, &k, reterr) : rc;
        tt_trainer_destroy(&k.trainer);
    }
    return rc;
}

static tt_code profile_all(tt_bench *b, tt_profile *p, int32_t depth, tt_err *reterr)
{
    int32_t chunk = b->w.prefill_chunk < depth ? b->w.prefill_chunk : depth;
    kind first = {.run = run_prefill, .to = chunk};
    kind last = {.run = run_prefill, .from = depth - chunk, .to = depth};
    kind shallow = {
        .run = run_decode, .to = TT_BENCH_DECODE_TOKENS, .parts = TT_BENCH_DECODE_TOKENS};
    kind deep = {.run = run_decode,
                 .from = depth,
                 .to = depth + TT_BENCH_DECODE_TOKENS,
                 .parts = TT_BENCH_DECODE_TOKENS};
    snprintf(first.name, sizeof first.name, "prefill of %d tokens", chunk);
    snprintf(last.name, sizeof last.name, "prefill of %d tokens up to %d", chunk, depth);
    snprintf(shallow.name, sizeof shallow.name, "decode at depth 0, a token");
    snprintf(deep.name, sizeof deep.name, "decode at depth %d, a token", depth);
    tt_code rc = tt_bench_prefill_range(b, 0, depth, reterr);
    rc = rc == TT_OK ? profile_kind(b, p, &first, reterr) : rc;
    rc = rc == TT_OK && depth > chunk ? profile_kind(b, p, &last, reterr) : rc;
    rc = rc == TT_OK ? profile_steps(b, p, depth, reterr) : rc;
    /* last, from the deepest: decoding writes over the K/V of its tokens */
    rc = rc == TT_OK ? profile_kind(b, p, &deep, reterr) : rc;
    return rc == TT_OK ? profile_kind(b, p, &shallow, reterr) : rc;
}

tt_code tt_bench_profile(tt_bench *b, tt_err *reterr)
{
    tt_profile *p = NULL;
    int32_t room = b->w.max_context - TT_BENCH_DECODE_TOKENS;
    int32_t depth = b->opt->depth > 0 ? b->opt->depth : 2048;
    depth = depth < room ? depth : room;
    if (depth < 1) {
        return tt_fail(reterr, TT_E_INVALID, "a context of %d tokens is too short for a profile",
                       b->w.max_context);
    }
    tt_code rc = tt_seq_reserve(&b->seq, depth + TT_BENCH_DECODE_TOKENS, reterr);
    rc = rc == TT_OK ? tt_profile_attach(&b->w.device, b->flops_rate, b->bytes_rate, &p, reterr)
                     : rc;
    rc = rc == TT_OK ? profile_all(b, p, depth, reterr) : rc;
    tt_profile_detach(&p);
    return rc;
}
