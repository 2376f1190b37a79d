/* batch.c - one decode step for many requests: a row each and one for every token of its draft,
 * base product for all rows, adapter terms by neighbours with the same adapter. Rows of others are
 * not seen: a request's logits are bit for bit those it would get alone. Thread: engine only. */
#include <stdlib.h>

#include "core/sysinfo.h"
#include "core/task.h"

typedef struct row {
    tt_task *t;
    int32_t i;       /* in the caller's order */
    int32_t first;   /* of its rows in the step: one, and its draft */
    int32_t n_taken; /* of these are in its sequence */
} row;

static int by_adapter(const void *a, const void *b)
{
    const row *x = a, *y = b;
    uint64_t p = x->t->adapter != NULL ? x->t->adapter->id : 0;
    uint64_t q = y->t->adapter != NULL ? y->t->adapter->id : 0;
    return p != q ? (p > q) - (p < q) : (x->i > y->i) - (x->i < y->i);
}

static int32_t rows_of(const tt_task *t)
{
    return 1 + t->r.spec.n_draft;
}

static tt_code run(tt_worker *w, const row *rows, int32_t n, int32_t n_rows, tt_segment *segs,
                   tt_draw_order *orders, tt_err *reterr)
{
    for (int32_t i = 0; i < n; i++) {
        const tt_task *t = rows[i].t;
        for (int32_t j = 0; j < rows_of(t); j++) {
            tt_generate_order(t, j, &orders[rows[i].first + j]);
        }
        segs[i] = (tt_segment){.ids = t->ids + t->seq.n,
                               .n_rows = rows_of(t),
                               .pos0 = t->seq.n,
                               .pages = t->seq.pages,
                               .store = true,
                               .adapter = t->seq.n >= t->seq.n_base ? t->adapter : NULL,
                               .want = tt_generate_wants_logits(t) ? TT_WANT_LAST : TT_WANT_NONE,
                               .n_last = rows_of(t),
                               .draw = &orders[rows[i].first]};
    }
    double from = tt_sys_now();
    tt_code rc =
        tt_step_begin(w->decode_step, segs, n, &(tt_step_options){.family = TT_DECODE}, reterr);
    while (rc == TT_OK && (rc = tt_step_run(w->decode_step, 1 << 20, reterr)) > 0) {
        rc = TT_OK;
    }
    if (rc == TT_OK) {
        tt_step_cost_add(&w->step_cost, n_rows, tt_sys_now() - from);
    }
    return rc;
}

/* Log-probabilities walk the whole vocabulary for each row that wants them: too long for one
 * thread. Of drafts only rows that count have any. drawn: [n_rows]. */
static void take_drawn(tt_worker *w, row *rows, int32_t n, tt_drawn *drawn, const tt_task **owner)
{
    int32_t n_logits = 0, n_rows = 0;
    for (int32_t i = 0; i < n; i++) {
        tt_task *t = rows[i].t;
        int32_t n_own = rows_of(t);
        bool logits = tt_generate_wants_logits(t);
        for (int32_t j = 0; j < n_own; j++) {
            drawn[n_rows + j].id = tt_step_token(w->decode_step, n_rows + j);
        }
        rows[i].n_taken = tt_speculate_check(t, drawn + n_rows);
        for (int32_t j = 0; j < n_own; j++, n_rows++) {
            bool walk = logits && j < rows[i].n_taken;
            owner[n_rows] = t;
            drawn[n_rows].logits = walk ? tt_step_logits(w->decode_step, n_logits + j) : NULL;
        }
        n_logits += logits ? n_own : 0;
    }
#pragma omp parallel for num_threads(w->n_threads) schedule(dynamic, 1) if (n_logits > 1)
    for (int32_t i = 0; i < n_rows; i++) {
        if (drawn[i].logits != NULL) {
            tt_generate_logprobs(w, owner[i], drawn[i].logits, &drawn[i]);
        }
    }
}

/* The tokens of one task, in order, until it is over. */
static tt_code take_tokens(tt_worker *w, row *r, const tt_drawn *drawn, tt_err *reterr)
{
    tt_task *t = r->t;
    tt_code rc = TT_OK;
    int32_t j = 0;
    for (; rc == TT_OK && j < r->n_taken; j++) {
        tt_seq_append(&t->seq, t->ids + t->seq.n, 1, true, t->p->keep);
        rc = tt_generate_token(w, t, &drawn[r->first + j], reterr);
    }
    tt_speculate_over(w, t, j);
    return rc;
}

tt_code tt_batch_decode(tt_worker *w, tt_task *const *tasks, int32_t n, tt_code *outcome,
                        tt_err *errs, tt_err *reterr)
{
    size_t n_rows = 0;
    for (int32_t i = 0; i < n; i++) {
        n_rows += (size_t)rows_of(tasks[i]);
    }
    row *rows = malloc((size_t)n * sizeof *rows);
    tt_segment *segs = malloc((size_t)n * sizeof *segs);
    tt_drawn *drawn = malloc(n_rows * sizeof *drawn);
    tt_draw_order *orders = malloc(n_rows * sizeof *orders);
    const tt_task **owner = malloc(n_rows * sizeof *owner);
    tt_code rc = rows == NULL || segs == NULL || drawn == NULL || orders == NULL || owner == NULL
                     ? tt_fail(reterr, TT_E_NOMEM, "no memory for a batch of %d", n)
                     : TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        rows[i] = (row){.t = tasks[i], .i = i};
    }
    if (rc == TT_OK) {
        qsort(rows, (size_t)n, sizeof *rows, by_adapter);
        for (int32_t i = 1; i < n; i++) {
            rows[i].first = rows[i - 1].first + rows_of(rows[i - 1].t);
        }
        rc = run(w, rows, n, (int32_t)n_rows, segs, orders, reterr);
    }
    if (rc == TT_OK) {
        take_drawn(w, rows, n, drawn, owner);
    }
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        outcome[rows[i].i] = take_tokens(w, &rows[i], drawn, &errs[rows[i].i]);
    }
    if (rc == TT_OK) {
        w->totals.decode_steps++;
        w->totals.decode_rows += (uint64_t)n;
    }
    free(rows);
    free(segs);
    free(drawn);
    free(orders);
    free(owner);
    return rc;
}
