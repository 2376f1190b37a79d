/* batch.c - one decode step for many requests: a row each, base product for all rows, adapter terms
 * by neighbours with the same adapter. Rows do not see each other: a request's logits are bit for
 * bit those it would get alone. Thread: engine only. */
#include <stdlib.h>

#include "core/task.h"

typedef struct row {
    tt_task *t;
    int32_t i; /* in the caller's order */
} row;

static int by_adapter(const void *a, const void *b)
{
    const row *x = a, *y = b;
    uint64_t p = x->t->adapter != NULL ? x->t->adapter->id : 0;
    uint64_t q = y->t->adapter != NULL ? y->t->adapter->id : 0;
    return p != q ? (p > q) - (p < q) : (x->i > y->i) - (x->i < y->i);
}

static tt_code run(tt_worker *w, const row *rows, int32_t n, tt_segment *segs,
                   tt_draw_order *orders, tt_err *reterr)
{
    for (int32_t i = 0; i < n; i++) {
        const tt_task *t = rows[i].t;
        tt_generate_order(t, &orders[i]);
        segs[i] = (tt_segment){.ids = t->ids + t->seq.n,
                               .n_rows = 1,
                               .pos0 = t->seq.n,
                               .pages = t->seq.pages,
                               .store = true,
                               .adapter = t->seq.n >= t->seq.n_base ? t->adapter : NULL,
                               .want = tt_generate_wants_logits(t) ? TT_WANT_LAST : TT_WANT_NONE,
                               .draw = &orders[i]};
    }
    tt_code rc =
        tt_step_begin(w->decode_step, segs, n, &(tt_step_options){.family = TT_DECODE}, reterr);
    while (rc == TT_OK && (rc = tt_step_run(w->decode_step, 1 << 20, reterr)) > 0) {
        rc = TT_OK;
    }
    return rc;
}

/* Log-probabilities walk the whole vocabulary for each row that wants them: too long for one
 * thread. */
static void take_drawn(tt_worker *w, const row *rows, int32_t n, tt_drawn *drawn)
{
    int32_t n_logits = 0;
    for (int32_t i = 0; i < n; i++) {
        drawn[i].id = tt_step_token(w->decode_step, i);
        drawn[i].logits =
            tt_generate_wants_logits(rows[i].t) ? tt_step_logits(w->decode_step, n_logits++) : NULL;
    }
#pragma omp parallel for num_threads(w->n_threads) schedule(dynamic, 1) if (n_logits > 1)
    for (int32_t i = 0; i < n; i++) {
        if (drawn[i].logits != NULL) {
            tt_generate_logprobs(w, rows[i].t, drawn[i].logits, &drawn[i]);
        }
    }
}

tt_code tt_batch_decode(tt_worker *w, tt_task *const *tasks, int32_t n, tt_code *outcome,
                        tt_err *errs, tt_err *reterr)
{
    row *rows = malloc((size_t)n * sizeof *rows);
    tt_segment *segs = malloc((size_t)n * sizeof *segs);
    tt_drawn *drawn = malloc((size_t)n * sizeof *drawn);
    tt_draw_order *orders = malloc((size_t)n * sizeof *orders);
    tt_code rc = rows == NULL || segs == NULL || drawn == NULL || orders == NULL
                     ? tt_fail(reterr, TT_E_NOMEM, "no memory for a batch of %d", n)
                     : TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        rows[i] = (row){tasks[i], i};
    }
    if (rc == TT_OK) {
        qsort(rows, (size_t)n, sizeof *rows, by_adapter);
        rc = run(w, rows, n, segs, orders, reterr);
    }
    if (rc == TT_OK) {
        take_drawn(w, rows, n, drawn);
    }
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        tt_task *t = rows[i].t;
        tt_seq_append(&t->seq, t->ids + t->seq.n, 1, true, t->p->keep);
        outcome[rows[i].i] = tt_generate_token(w, t, &drawn[i], &errs[rows[i].i]);
    }
    if (rc == TT_OK) {
        w->totals.decode_steps++;
        w->totals.decode_rows += (uint64_t)n;
    }
    free(rows);
    free(segs);
    free(drawn);
    free(orders);
    return rc;
}
