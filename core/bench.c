/* bench.c - see bench.h. One sequence is prefilled as deep as the context allows; decoding and
 * training at a depth then use its first pages. Decoding at depth d writes over the K/V of token d,
 * which no later measurement reads before it is written again. */
#include "core/bench_priv.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cost.h"
#include "core/qttt.h"
#include "core/rng.h"
#include "core/seq.h"
#include "core/sysinfo.h"
#include "core/worker.h"

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double tt_bench_median(double *v, int32_t n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

void tt_bench_add(tt_bench *b, const char *name, const char *unit, double value,
                  tt_bench_limit kind, double limit)
{
    assert(b->r->n < TT_BENCH_MAX_FIGURES);
    tt_bench_figure *f = &b->r->figure[b->r->n++];
    *f = (tt_bench_figure){.unit = unit, .value = value, .kind = kind, .limit = limit};
    snprintf(f->name, sizeof f->name, "%s", name);
    if (kind != TT_LIMIT_NONE && limit > 0 && value > 0) {
        f->percent = 100 * (strcmp(unit, "s") == 0 ? limit / value : value / limit);
    }
    if (b->opt->on_figure != NULL) {
        b->opt->on_figure(b->opt->arg, f);
    }
}

/* ---- the machine ---- */

/* The rate of the table's own large product, the bound of prefill and spans. */
static tt_code gemm_rate(tt_bench *b, tt_err *reterr)
{
    enum { ROWS = 1024, N = 2048, K = 2048 };
    tt_device *d = &b->w.device;
    size_t n_w = (size_t)N * K, n_x = (size_t)ROWS * K, n_y = (size_t)ROWS * N;
    uint16_t *w = malloc(n_w * sizeof *w);
    float *x = malloc(n_x * sizeof *x);
    tt_dev xd = 0, yd = 0;
    double t[TT_BENCH_MAX_REPEAT];
    tt_weight weight = {.type = TT_BF16, .rows = N, .cols = K};
    tt_code rc =
        w == NULL || x == NULL ? tt_fail(reterr, TT_E_NOMEM, "no memory for the GEMM rate") : TT_OK;
    for (size_t i = 0; rc == TT_OK && i < n_w; i++) {
        w[i] = tt_f32_to_bf16((float)(i % 7) - 3);
        x[i % n_x] = (float)(i % 5) - 2;
    }
    rc = rc == TT_OK ? d->ops.weight_load(d->lane, &weight, w, reterr) : rc;
    rc = rc == TT_OK ? tt_device_alloc(d, n_x * sizeof *x, &xd, reterr) : rc;
    rc = rc == TT_OK ? tt_device_alloc(d, n_y * sizeof(float), &yd, reterr) : rc;
    if (rc == TT_OK) {
        d->ops.upload(d->lane, xd, x, n_x * sizeof *x);
    }
    for (int32_t i = -1; rc == TT_OK && i < b->repeat; i++) {
        double t0 = tt_sys_now();
        d->ops.matmul(d->lane, &(tt_matmul_args){
                                   .x = xd, .n_rows = ROWS, .n_w = 1, .w = {&weight}, .y = {yd}});
        rc = tt_device_sync(d, reterr);
        t[i < 0 ? 0 : i] = tt_sys_now() - t0;
    }
    if (rc == TT_OK) {
        b->flops_rate = b->r->flops_rate = 2.0 * ROWS * N * K / tt_bench_median(t, b->repeat);
        tt_bench_add(b, "machine: matrix product", "GFLOP/s", b->flops_rate / 1e9, TT_LIMIT_NONE,
                     0);
    }
    d->ops.free(d->lane, xd);
    d->ops.free(d->lane, yd);
    free(w);
    free(x);
    return rc;
}

/* Bytes read per second by all threads: a sum over 256 MiB, which no cache of today holds for a
 * process of two cores. */
static tt_code read_rate(tt_bench *b, tt_err *reterr)
{
    const size_t n = (size_t)32 << 20; /* doubles */
    double *p = malloc(n * sizeof *p), t[TT_BENCH_MAX_REPEAT];
    volatile double sink = 0;
    if (p == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the read rate");
    }
    for (size_t i = 0; i < n; i++) {
        p[i] = (double)(i & 3);
    }
    for (int32_t r = 0; r < b->repeat; r++) {
        double t0 = tt_sys_now(), sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(tt_sys_cpus()) schedule(static)
        for (size_t block = 0; block < n; block += 4096) {
            double s[8] = {0};
            for (size_t i = 0; i < 4096; i += 8) {
                for (int k = 0; k < 8; k++) {
                    s[k] += p[block + i + (size_t)k];
                }
            }
            sum += s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
        }
        sink += sum;
        (void)sink;
        t[r] = tt_sys_now() - t0;
    }
    free(p);
    b->bytes_rate = b->r->bytes_rate = (double)(n * sizeof *p) / tt_bench_median(t, b->repeat);
    tt_bench_add(b, "machine: memory read", "GB/s", b->bytes_rate / 1e9, TT_LIMIT_NONE, 0);
    return TT_OK;
}

/* ---- the model ---- */

tt_code tt_bench_run_to_end(tt_bench *b, tt_err *reterr)
{
    tt_code rc;
    do {
        rc = tt_step_run(b->w.step, 1 << 20, reterr);
    } while (rc == (tt_code)TT_STEP_MORE);
    return rc;
}

tt_code tt_bench_prefill_range(tt_bench *b, int32_t from, int32_t to, tt_err *reterr)
{
    tt_code rc = TT_OK;
    for (int32_t at = from; rc == TT_OK && at < to;) {
        int32_t n = to - at < b->w.prefill_chunk ? to - at : b->w.prefill_chunk;
        tt_segment seg = {.ids = b->ids + at,
                          .n_rows = n,
                          .pos0 = at,
                          .pages = b->seq.pages,
                          .store = true,
                          .want = at + n == to ? TT_WANT_LAST : TT_WANT_NONE};
        rc = tt_step_begin(b->w.step, &seg, 1, &(tt_step_options){.family = TT_PREFILL}, reterr);
        rc = rc == TT_OK ? tt_bench_run_to_end(b, reterr) : rc;
        at += n;
    }
    return rc;
}

/* As prefill_range() does it: of all chunks but the last nobody reads the last layer's output. */
static double prefill_flops(const tt_bench *b, int32_t n)
{
    double sum = 0;
    for (int32_t at = 0, chunk; at < n; at += chunk) {
        chunk = n - at < b->w.prefill_chunk ? n - at : b->w.prefill_chunk;
        bool last = at + chunk == n;
        sum += tt_cost_forward(
            b->w.model,
            &(tt_cost_rows){
                .pos0 = at, .n_rows = chunk, .kv = true, .headless = !last, .n_logits = last});
    }
    return sum;
}

static tt_code bench_prefill(tt_bench *b, int32_t n, tt_err *reterr)
{
    double t[TT_BENCH_MAX_REPEAT];
    int32_t repeat = n > 2048 ? (b->repeat + 1) / 2 : b->repeat;
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < repeat; i++) {
        double t0 = tt_sys_now();
        rc = tt_bench_prefill_range(b, 0, n, reterr);
        t[i] = tt_sys_now() - t0;
    }
    if (rc == TT_OK) {
        char name[32];
        snprintf(name, sizeof name, "prefill %d", n);
        tt_bench_add(b, name, "tokens/s", n / tt_bench_median(t, repeat), TT_LIMIT_FLOPS,
                     n * b->flops_rate / prefill_flops(b, n));
    }
    return rc;
}

double tt_bench_decode_limit(const tt_bench *b, int32_t depth)
{
    return b->bytes_rate / (b->weight_bytes + depth * b->kv_bytes);
}

/* A decoded token reads every matrix once (the embedding is one row unless it is the head) and the
 * K/V before it. */
static void count_bytes(tt_bench *b)
{
    const tt_model *m = b->w.model;
    double embed = m->tied_head ? 0
                                : (double)m->embed.w.rows *
                                      (double)tt_row_bytes(m->embed.w.type, m->embed.w.cols);
    b->weight_bytes = (double)m->weight_bytes - embed;
    b->kv_bytes = (double)tt_model_kv_bytes_per_token(m, b->opt->engine->kv_type);
}

tt_code tt_bench_decode_token(tt_bench *b, int32_t at, tt_err *reterr)
{
    tt_segment seg = {.ids = b->ids + at,
                      .n_rows = 1,
                      .pos0 = at,
                      .pages = b->seq.pages,
                      .store = true,
                      .want = TT_WANT_LAST};
    tt_code rc = tt_step_begin(b->w.step, &seg, 1, &(tt_step_options){.family = TT_DECODE}, reterr);
    return rc == TT_OK ? tt_bench_run_to_end(b, reterr) : rc;
}

static tt_code bench_decode(tt_bench *b, int32_t depth, tt_err *reterr)
{
    double t[TT_BENCH_MAX_REPEAT * TT_BENCH_DECODE_TOKENS];
    tt_code rc = TT_OK;
    int32_t n = 0;
    for (int32_t r = 0; r < b->repeat; r++) {
        for (int32_t i = 0; rc == TT_OK && i < TT_BENCH_DECODE_TOKENS; i++) {
            double t0 = tt_sys_now();
            rc = tt_bench_decode_token(b, depth + i, reterr);
            t[n++] = tt_sys_now() - t0;
        }
    }
    if (rc == TT_OK) {
        char name[32];
        snprintf(name, sizeof name, "decode at depth %d", depth);
        tt_bench_add(b, name, "tokens/s", 1 / tt_bench_median(t, n), TT_LIMIT_BYTES,
                     tt_bench_decode_limit(b, depth + TT_BENCH_DECODE_TOKENS / 2));
    }
    return rc;
}

tt_code tt_bench_trainer(tt_bench *b, bool lora, tt_trainer **ret, tt_err *reterr)
{
    tt_qttt_params p;
    tt_qttt_defaults(&p);
    p.lora = lora;
    tt_qttt_resolve(&p);
    return tt_trainer_create(&b->w.device, &p, 1, ret, reterr);
}

tt_code tt_bench_train(tt_bench *b, tt_trainer *tr, int32_t depth, tt_err *reterr)
{
    int32_t start = (depth - TT_BENCH_SPAN) / 2;
    tt_segment seg = {.ids = b->ids + start,
                      .n_rows = TT_BENCH_SPAN,
                      .pos0 = start,
                      .pages = b->seq.pages,
                      .adapter = tt_trainer_params(tr),
                      .want = TT_WANT_LOSS,
                      .targets = b->ids + start + 1};
    tt_step_options o = {.trainee = tt_trainer_params(tr), .grads = tt_trainer_grads(tr)};
    tt_train_report rep;
    tt_code rc = tt_step_begin(b->w.step, &seg, 1, &o, reterr);
    rc = rc == TT_OK ? tt_bench_run_to_end(b, reterr) : rc;
    return rc == TT_OK ? tt_trainer_update(tr, b->w.step, false, &rep, reterr) : rc;
}

static tt_code bench_step(tt_bench *b, int32_t depth, bool lora, tt_err *reterr)
{
    double t[TT_BENCH_MAX_REPEAT];
    tt_trainer *tr = NULL;
    tt_code rc = tt_bench_trainer(b, lora, &tr, reterr);
    for (int32_t i = -1; rc == TT_OK && i < b->repeat; i++) {
        double t0 = tt_sys_now();
        rc = tt_bench_train(b, tr, depth, reterr);
        t[i < 0 ? 0 : i] = tt_sys_now() - t0;
    }
    if (rc == TT_OK) {
        char name[48];
        snprintf(name, sizeof name, "qTTT step k=128 at %d%s", depth, lora ? ", LoRA r8" : "");
        tt_cost_rows rows = {.pos0 = (depth - TT_BENCH_SPAN) / 2,
                             .n_rows = TT_BENCH_SPAN,
                             .n_logits = TT_BENCH_SPAN,
                             .adapter = tt_trainer_params(tr)};
        double flops = tt_cost_forward(b->w.model, &rows) + tt_cost_backward(b->w.model, &rows);
        tt_bench_add(b, name, "s", tt_bench_median(t, b->repeat), TT_LIMIT_FLOPS,
                     flops / b->flops_rate);
    }
    tt_trainer_destroy(&tr);
    return rc;
}

static tt_code measure(tt_bench *b, tt_err *reterr)
{
    static const int32_t prefills[] = {512, 4096}, decodes[] = {0, 2048, 7000},
                         steps[] = {2048, 7000};
    int32_t room = b->w.max_context - TT_BENCH_DECODE_TOKENS;
    tt_code rc = TT_OK;
    if (b->opt->part != TT_BENCH_SERVE && b->opt->part < TT_BENCH_PROFILE) {
        rc = tt_bench_tokenise(b, reterr);
    }
    if (rc != TT_OK || b->opt->part == TT_BENCH_TOKENISE || b->opt->part == TT_BENCH_DRAFTS) {
        return rc;
    }
    rc = read_rate(b, reterr);
    if (rc != TT_OK || b->opt->part == TT_BENCH_SERVE) {
        return rc;
    }
    rc = gemm_rate(b, reterr);
    if (rc == TT_OK && b->opt->part == TT_BENCH_PROFILE) {
        return tt_bench_profile(b, reterr);
    }
    if (rc == TT_OK && b->opt->part >= TT_BENCH_GROWTH) {
        return tt_bench_growth(b, reterr);
    }
    int32_t deepest = room < 7000 ? room : 7000;
    rc = rc == TT_OK ? tt_seq_reserve(&b->seq, deepest + TT_BENCH_DECODE_TOKENS, reterr) : rc;
    /* weights are prepared on their first use; a context may be shorter than that */
    rc = rc == TT_OK ? tt_bench_prefill_range(b, 0, deepest < 64 ? deepest : 64, reterr) : rc;
    for (size_t i = 0; rc == TT_OK && i < sizeof prefills / sizeof *prefills; i++) {
        rc = prefills[i] <= deepest ? bench_prefill(b, prefills[i], reterr) : rc;
        if (rc == TT_OK && prefills[i] == 4096 && prefills[i] <= deepest) {
            tt_bench_add(b, "resident after 4096 tokens", "MiB",
                         (double)tt_sys_resident_bytes() / 0x1p20, TT_LIMIT_NONE, 0);
        }
    }
    rc = rc == TT_OK ? tt_bench_prefill_range(b, 0, deepest, reterr) : rc;
    for (size_t i = 0; rc == TT_OK && i < sizeof steps / sizeof *steps; i++) {
        rc = steps[i] <= deepest ? bench_step(b, steps[i], false, reterr) : rc;
    }
    rc = rc == TT_OK && deepest >= 2048 ? bench_step(b, 2048, true, reterr) : rc;
    for (size_t i = sizeof decodes / sizeof *decodes; rc == TT_OK && i-- > 0;) {
        rc = decodes[i] <= deepest ? bench_decode(b, decodes[i], reterr) : rc;
    }
    return rc;
}

tt_code tt_bench_run(const tt_bench_options *opt, tt_bench_report *r, tt_err *reterr)
{
    tt_bench b = {.opt = opt,
                  .r = r,
                  .repeat =
                      opt->repeat > 0 && opt->repeat <= TT_BENCH_MAX_REPEAT ? opt->repeat : 5};
    *r = (tt_bench_report){.threads =
                               opt->engine->n_threads > 0 ? opt->engine->n_threads : tt_sys_cpus()};
    double t0 = tt_sys_now();
    tt_code rc = tt_worker_open(&b.w, opt->engine, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_bench_add(&b, "model ready (files cached)", "s", tt_sys_now() - t0, TT_LIMIT_NONE, 0);
    snprintf(r->model, sizeof r->model, "%s", b.w.model->name);
    snprintf(r->isa, sizeof r->isa, "%s", b.w.device.ops.isa);
    b.max_context = b.w.max_context;
    count_bytes(&b);
    tt_seq_init(&b.seq, b.w.kv, "");
    b.ids = malloc((size_t)b.w.max_context * sizeof *b.ids);
    tt_rng rng = tt_rng_make(1, 2);
    for (int32_t i = 0; b.ids != NULL && i < b.w.max_context; i++) {
        b.ids[i] = (int32_t)tt_rng_below(&rng, (uint64_t)b.w.model->n_vocab);
    }
    rc = b.ids == NULL ? tt_fail(reterr, TT_E_NOMEM, "no memory for the bench")
                       : measure(&b, reterr);
    tt_seq_finish(&b.seq);
    free(b.ids);
    tt_worker_close(&b.w);
    if (rc == TT_OK && opt->part == TT_BENCH_DRAFTS) {
        return tt_bench_drafts(&b, reterr);
    }
    if (rc == TT_OK && opt->loss_text_path != NULL && opt->part <= TT_BENCH_MODEL) {
        rc = tt_bench_loss(&b, reterr);
    }
    return rc == TT_OK && (opt->part == TT_BENCH_ALL || opt->part == TT_BENCH_SERVE)
               ? tt_bench_serve(&b, reterr)
               : rc;
}
