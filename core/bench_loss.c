/* bench_loss.c - what K/V of one byte cost in loss: the same text read with BF16 and with Q8 pages,
 * see bench.h. Thread: the caller's. */
#include <math.h>
#include <stdlib.h>

#include "core/bench_priv.h"
#include "core/file_map.h"

enum { MAX_TOKENS = 2048 };

/* Sum of the losses of ids[1 .. n) given what is before each, read in chunks. */
static tt_code sum_losses(tt_worker *w, tt_seq *seq, const int32_t *ids, int32_t n, double *ret_sum,
                          tt_err *reterr)
{
    tt_code rc = tt_seq_reserve(seq, n, reterr);
    double sum = 0;
    for (int32_t at = 0; rc == TT_OK && at < n - 1;) {
        int32_t rows = n - 1 - at < w->prefill_chunk ? n - 1 - at : w->prefill_chunk;
        tt_segment seg = {.ids = ids + at,
                          .n_rows = rows,
                          .pos0 = at,
                          .pages = seq->pages,
                          .store = true,
                          .want = TT_WANT_LOSS,
                          .targets = ids + at + 1};
        rc = tt_step_begin(w->step, &seg, 1, &(tt_step_options){.family = TT_PREFILL}, reterr);
        do {
            rc = rc >= TT_OK ? tt_step_run(w->step, 1 << 20, reterr) : rc;
        } while (rc == (tt_code)TT_STEP_MORE);
        for (int32_t r = 0; rc == TT_OK && r < rows; r++) {
            sum += tt_step_losses(w->step)[r];
        }
        at += rows;
    }
    if (rc == TT_OK) {
        *ret_sum = sum;
    }
    return rc;
}

/* Nats a token of the text's beginning, on a worker with K/V of this type. */
static tt_code mean_loss(const tt_bench *b, tt_dtype kv_type, const char *text, size_t n_bytes,
                         double *ret_loss, tt_err *reterr)
{
    tt_worker w;
    tt_seq seq;
    tt_engine_options o = *b->opt->engine;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    double sum = 0;
    o.kv_type = kv_type;
    tt_code rc = tt_worker_open(&w, &o, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_seq_init(&seq, w.kv, "");
    rc = tt_tokenizer_encode(w.tokenizer, text, n_bytes, &(tt_encode_options){.add_special = true},
                             &ids, &n_ids, reterr);
    int32_t n = w.max_context < MAX_TOKENS ? w.max_context : MAX_TOKENS;
    n = n_ids < (size_t)n ? (int32_t)n_ids : n;
    if (rc == TT_OK && n < 2) {
        rc = tt_fail(reterr, TT_E_INVALID, "the text has fewer than two tokens: no loss");
    }
    rc = rc == TT_OK ? sum_losses(&w, &seq, ids, n, &sum, reterr) : rc;
    if (rc == TT_OK) {
        *ret_loss = sum / (n - 1);
    }
    free(ids);
    tt_seq_finish(&seq);
    tt_worker_close(&w);
    return rc;
}

tt_code tt_bench_loss(tt_bench *b, tt_err *reterr)
{
    tt_file_map map = {0};
    double plain = 0, q8 = 0;
    tt_code rc = tt_file_map_open(b->opt->loss_text_path, &map, reterr);
    const char *text = (const char *)map.p;
    rc = rc == TT_OK ? mean_loss(b, TT_BF16, text, (size_t)map.n, &plain, reterr) : rc;
    if (rc == TT_OK) {
        tt_bench_add(b, "loss with K/V in BF16", "nats", plain, TT_LIMIT_NONE, 0);
        rc = mean_loss(b, TT_I8, text, (size_t)map.n, &q8, reterr);
    }
    if (rc == TT_OK) {
        tt_bench_add(b, "loss with K/V in Q8", "nats", q8, TT_LIMIT_NONE, 0);
        tt_bench_add(b, "  perplexity against BF16", "%", 100 * exp(q8 - plain), TT_LIMIT_NONE, 0);
    }
    tt_file_map_close(&map);
    return rc;
}
