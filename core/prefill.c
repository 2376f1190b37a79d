/* prefill.c - how a task's sequence grows to a wanted length: pages of the cache first, then pieces
 * of rows through the forward pass. A piece has one kernel family (a prompt's tokens: prefill;
 * tokens that an answer generated: decode, in blocks) and one set of weights. Thread: engine only.
 */
#include "core/task.h"

#include <assert.h>

#include "core/restore.h"
#include "core/sysinfo.h"

#define LOGPROB_ROWS 64 /* rows of one block of prompt log-probabilities */

bool tt_prefill_echoes(const tt_task *t)
{
    return t->t == NULL && t->p->kind == TT_JOB_GENERATE && t->p->n_prompt_logprobs >= 0;
}

/* The adapter under which the token at `pos` is run. */
static const tt_adapter *adapter_at(const tt_task *t, int32_t pos)
{
    return pos >= t->seq.n_base ? t->adapter : NULL;
}

/* Rows of the next piece. */
static int32_t piece_rows(const tt_worker *w, const tt_task *t)
{
    int32_t at = t->seq.n, most = t->decoded[at] ? TT_DECODE_BLOCK : w->prefill_chunk;
    int32_t end = at + 1;
    while (end < t->until && end - at < most && t->decoded[end] == t->decoded[at] &&
           adapter_at(t, end) == adapter_at(t, at)) {
        end++;
    }
    return end - at;
}

int32_t tt_prefill_need(const tt_worker *w, const tt_task *t)
{
    if (t->fetch != NULL) {
        return 1;
    }
    return t->seq.n < t->until ? tt_seq_need(&t->seq, piece_rows(w, t)) : 0;
}

static tt_code push_progress(tt_task *t, tt_err *reterr)
{
    if (t->last == NULL) {
        return TT_OK; /* the request it trains for has told it */
    }
    tt_event *ev = tt_task_event(TT_EV_PREFILL, 0, reterr);
    if (ev == NULL) {
        return TT_E_NOMEM;
    }
    ev->u.prefill.done = t->seq.n < t->p->n_prompt ? t->seq.n : t->p->n_prompt;
    ev->u.prefill.total = t->p->n_prompt;
    ev->u.prefill.cached = t->cached;
    ev->u.prefill.seconds = tt_sys_now() - t->started - t->r.adapting_seconds;
    tt_job_push(t->job, ev);
    return TT_OK;
}

tt_code tt_prefill_found(tt_worker *w, tt_task *t, int32_t had, tt_err *reterr)
{
    if (t->seq.n == had || t->counted || t->last == NULL) {
        return TT_OK;
    }
    t->cached += t->seq.n - had;
    w->totals.cached_tokens += (uint64_t)(t->seq.n - had);
    return push_progress(t, reterr);
}

/* What the pool holds of the sequence that is wanted, then what the disk does. */
static tt_code ask_cache(tt_worker *w, tt_task *t, tt_err *reterr)
{
    int32_t had = t->seq.n, n;
    t->fresh = false;
    if (tt_prefill_echoes(t)) {
        return TT_OK; /* every row is wanted: nothing may be skipped */
    }
    tt_code rc = tt_seq_match(&t->seq, t->ids, t->decoded, t->until, &n, reterr);
    rc = rc == TT_OK ? tt_prefill_found(w, t, had, reterr) : rc;
    return rc == TT_OK ? tt_restore_ask(w, t) : rc;
}

tt_code tt_prefill_fetched(tt_worker *w, tt_task *t, tt_err *reterr)
{
    tt_code rc = TT_OK;
    while (rc == TT_OK && (t->fetch != NULL || t->fresh)) {
        rc = t->fetch != NULL ? tt_restore_take(w, t, reterr) : ask_cache(w, t, reterr);
        if (rc == (tt_code)TT_TASK_WAITING && tt_page_fetch_done(t->fetch)) {
            rc = TT_OK; /* shared with somebody for whom it has come */
        }
    }
    return rc;
}

/* The row from which a token is drawn although its K/V are there: it reads its own. */
static tt_segment last_row(const tt_task *t)
{
    int32_t pos = t->seq.n - 1;
    return (tt_segment){.ids = t->ids + pos,
                        .n_rows = 1,
                        .pos0 = pos,
                        .pages = t->seq.pages,
                        .adapter = adapter_at(t, pos)};
}

static tt_code begin_piece(tt_worker *w, tt_task *t, tt_err *reterr)
{
    tt_segment seg;
    tt_draw_order order;
    int32_t at = t->seq.n;
    bool last = true;
    t->piece = 0;
    if (at == t->until) {
        seg = last_row(t);
    } else {
        t->piece = piece_rows(w, t);
        tt_code rc = tt_seq_reserve(&t->seq, t->piece, reterr);
        if (rc != TT_OK) {
            return rc;
        }
        last = t->logits && at + t->piece == t->until;
        seg = (tt_segment){.ids = t->ids + at,
                           .n_rows = t->piece,
                           .pos0 = at,
                           .pages = t->seq.pages,
                           .store = true,
                           .adapter = adapter_at(t, at),
                           .want = tt_prefill_echoes(t) && at < t->p->n_prompt ? TT_WANT_ALL
                                                                               : TT_WANT_NONE};
    }
    if (last) {
        tt_generate_order(t, 0, &order);
        seg.draw = &order;
        if (seg.want == TT_WANT_NONE && tt_generate_wants_logits(t)) {
            seg.want = TT_WANT_LAST;
        }
    }
    tt_family family = t->decoded[seg.pos0] ? TT_DECODE : TT_PREFILL;
    tt_code rc = tt_step_begin(w->step, &seg, 1, &(tt_step_options){.family = family}, reterr);
    if (rc == TT_OK) {
        w->step_owner = t;
        t->sched.mid_step = true;
    }
    return rc;
}

/* Log-probabilities of the prompt tokens that follow rows [row0, row0 + n) of the step; row 0 is
 * position pos0. */
static tt_code push_logprobs(tt_worker *w, tt_task *t, int32_t pos0, int32_t row0, int32_t n,
                             tt_err *reterr)
{
    int32_t n_top = t->p->n_prompt_logprobs, n_vocab = w->model->n_vocab;
    int32_t first = pos0 + row0 + 1, left = t->p->n_prompt - first;
    int32_t told = t->r.echoed + 1 - first; /* before a preemption, or before an adaptation */
    told = told > 0 ? told : 0;
    n = (n < left ? n : left) - told;
    if (n <= 0) {
        return TT_OK;
    }
    first += told;
    row0 += told;
    const float *logits;
    tt_code rc = tt_step_logits_block(w->step, row0, n, &logits, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_event *ev = tt_task_event(TT_EV_PROMPT_LOGPROBS,
                                 (size_t)n * (size_t)(1 + n_top) * sizeof(tt_logprob), reterr);
    if (ev == NULL) {
        return TT_E_NOMEM;
    }
    tt_logprob *chosen = ev->owned, *top = chosen + n;
    for (int32_t i = 0; i < n; i++) {
        int32_t id = t->ids[first + i];
        chosen[i].id = id;
        chosen[i].logprob = tt_logprobs(logits + (size_t)i * (size_t)n_vocab, n_vocab, id,
                                        top + (size_t)i * (size_t)n_top, n_top);
    }
    ev->u.prompt_logprobs.first = first;
    ev->u.prompt_logprobs.n = n;
    ev->u.prompt_logprobs.n_top = n_top;
    ev->u.prompt_logprobs.chosen = chosen;
    ev->u.prompt_logprobs.top = top;
    tt_job_push(t->job, ev);
    t->r.echoed = first + n - 1;
    return TT_OK;
}

static tt_code end_piece(tt_worker *w, tt_task *t, tt_err *reterr)
{
    int32_t at = t->seq.n, n = t->piece;
    w->step_owner = NULL;
    t->sched.mid_step = false;
    if (n == 0) {
        t->logits = false;
        return TT_OK;
    }
    bool decoded = t->decoded[at] != 0, echo = tt_prefill_echoes(t) && at < t->p->n_prompt;
    tt_seq_append(&t->seq, t->ids + at, n, decoded, !decoded || t->p->keep);
    w->totals.prompt_tokens += at < t->p->n_prompt && !t->counted ? (uint64_t)n : 0;
    tt_code rc = TT_OK;
    for (int32_t row = 0; rc == TT_OK && echo && row < n; row += LOGPROB_ROWS) {
        int32_t left = n - row;
        rc = push_logprobs(w, t, at, row, left < LOGPROB_ROWS ? left : LOGPROB_ROWS, reterr);
        if (rc == TT_OK && tt_job_cancelled(t->job)) {
            rc = tt_task_cancelled(reterr);
        }
    }
    if (t->seq.n == t->until) {
        t->logits = false;
    }
    return rc == TT_OK ? push_progress(t, reterr) : rc;
}

void tt_prefill_abandon(tt_worker *w, tt_task *t)
{
    if (w->step_owner == t) {
        w->step_owner = NULL;
    }
    t->sched.mid_step = false;
}

tt_code tt_prefill_run(tt_worker *w, tt_task *t, double seconds, tt_err *reterr)
{
    double until = tt_sys_now() + seconds;
    tt_code rc = tt_prefill_fetched(w, t, reterr);
    assert(w->step_owner == NULL || w->step_owner == t);
    while (rc == TT_OK && (t->seq.n < t->until || t->logits)) {
        rc = w->step_owner == t ? TT_OK : begin_piece(w, t, reterr);
        rc = rc == TT_OK ? tt_step_run(w->step, TT_POLL_UNITS, reterr) : rc;
        if (rc == (tt_code)TT_STEP_MORE) {
            if (tt_job_cancelled(t->job)) {
                return tt_task_cancelled(reterr);
            }
            rc = TT_OK;
        } else if (rc == TT_OK) {
            rc = end_piece(w, t, reterr);
        }
        if (rc == TT_OK && tt_sys_now() >= until && (t->seq.n < t->until || t->logits)) {
            return (tt_code)TT_TASK_MORE;
        }
    }
    return rc == TT_OK && t->p->kind == TT_JOB_DIAGNOSE ? tt_diagnose_run(w, t, until, reterr) : rc;
}
