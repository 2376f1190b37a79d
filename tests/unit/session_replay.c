/* session_replay.c - see session_replay.h. Trainings are deterministic: an adapter is trained again
 * when the first answer needs it, after the one that it starts from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_client.h"
#include "session_replay.h"

enum { BATCH = 32 };

typedef struct replay {
    const world *w;
    tt_engine *cold;
    replay_count *count;
    struct {
        uint64_t warm, cold;
        tt_qttt_result result;
    } adapters[WORLD_PINS];
    int32_t n_adapters;
} replay;

static tt_job_params fresh_params(const world_op *op)
{
    static uint32_t n_tenants;
    tt_job_params p = op->p;
    snprintf(p.adapter_scope, sizeof p.adapter_scope, "replay-%u", (unsigned)++n_tenants);
    p.session_tag = 0;
    p.timeout_seconds = 0;
    p.keep = false;
    return p;
}

static void collect(tt_job *job, int32_t n_prompt, world_outcome *o)
{
    while (o->last != TT_EV_DONE && o->last != TT_EV_ERROR) {
        tt_event *ev = tt_job_next(job);
        if (ev == NULL) {
            client_nap();
            continue;
        }
        world_note(o, n_prompt, ev);
        tt_event_free(ev);
    }
    tt_job_unref(&job);
}

/* ---- trainings ---- */

static bool same_bits(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void same_training(const tt_qttt_result *a, const tt_qttt_result *b)
{
    assert_string_equal(a->status, b->status);
    assert_true((a->reason == NULL) == (b->reason == NULL) &&
                (a->reason == NULL || strcmp(a->reason, b->reason) == 0));
    assert_int_equal(a->kept, b->kept);
    assert_int_equal(a->steps_done, b->steps_done);
    assert_int_equal(a->trained_tokens, b->trained_tokens);
    assert_int_equal(a->adapter_bytes, b->adapter_bytes);
    assert_int_equal(a->have_recall, b->have_recall);
    assert_true(same_bits(a->loss_first, b->loss_first));
    assert_true(same_bits(a->loss_last, b->loss_last));
    assert_true(same_bits(a->recall_before, b->recall_before));
    assert_true(same_bits(a->recall_after, b->recall_after));
    assert_true(same_bits(a->delta_norm_relative, b->delta_norm_relative));
}

static uint64_t cold_adapter(replay *r, uint64_t warm);

static tt_qttt_result train(replay *r, const world_op *op)
{
    world_outcome o = {0};
    tt_job_params p = fresh_params(op);
    p.kind = TT_JOB_TRAIN;
    p.n_prompt = p.qttt.context_tokens;
    p.decoded = NULL;
    p.adapter_id = 0;
    p.pin_adapter = true;
    p.n_prompt_logprobs = -1;
    p.qttt.start_adapter = cold_adapter(r, op->p.qttt.start_adapter);
    collect(client_submit(r->cold, &p), p.n_prompt, &o);
    assert_int_equal(o.last, TT_EV_DONE);
    assert_true(o.adapted);
    r->count->trainings++;
    return o.result;
}

static int32_t find_adapter(const replay *r, uint64_t warm)
{
    int32_t i = 0;
    while (i < r->n_adapters && r->adapters[i].warm != warm) {
        i++;
    }
    return i;
}

/* The adapter that op's training gave, trained again at first. */
static uint64_t adapter_of(replay *r, const world_op *op)
{
    uint64_t warm = op->out.result.adapter_id;
    int32_t i = find_adapter(r, warm);
    if (i == r->n_adapters) {
        assert_true(i < WORLD_PINS);
        tt_qttt_result result = train(r, op);
        i = r->n_adapters++; /* one that it starts from may have come before */
        r->adapters[i].result = result;
        r->adapters[i].warm = warm;
        r->adapters[i].cold = result.adapter_id;
    }
    same_training(&op->out.result, &r->adapters[i].result);
    return r->adapters[i].cold;
}

static uint64_t cold_adapter(replay *r, uint64_t warm)
{
    if (warm == 0) {
        return 0;
    }
    for (const world_op *op = r->w->first_over; op != NULL; op = op->next) {
        if (op->out.adapted && op->out.result.kept && op->out.result.adapter_id == warm) {
            return adapter_of(r, op);
        }
    }
    fail_msg("adapter %llu is nobody's", (unsigned long long)warm);
    return 0;
}

static void replay_training(replay *r, const world_op *op)
{
    const tt_qttt_result *result = &op->out.result;
    if (!op->out.adapted || strcmp(result->status, "cancelled") == 0 ||
        (result->reason != NULL && strcmp(result->reason, "capacity") == 0)) {
        return;
    }
    if (result->kept) {
        (void)adapter_of(r, op);
    } else {
        tt_qttt_result again = train(r, op);
        same_training(result, &again);
    }
}

/* ---- answers ---- */

static void describe(const world_op *op, const world_outcome *again, int32_t at)
{
    int32_t made = 0;
    for (int32_t i = 0; i < op->p.n_prompt; i++) {
        made += op->decoded[i];
    }
    print_message("session %u: prompt %d, context %d, generated %d, adapter %llu, asked for %d; "
                  "token %d of %d is %d (%.9g), from scratch %d (%.9g) of %d\n",
                  op->serial, (int)op->p.n_prompt, (int)op->p.qttt.context_tokens, (int)made,
                  (unsigned long long)op->answered_by, (int)op->p.max_tokens, (int)at,
                  (int)op->out.n, (int)op->out.ids[at], (double)op->out.logprob[at],
                  (int)again->ids[at], (double)again->logprob[at], (int)again->n);
}

static void same_answer(replay *r, const world_op *op, const world_outcome *again)
{
    const world_outcome *o = &op->out;
    bool whole = o->last == TT_EV_DONE;
    for (int32_t i = 0; i < o->n; i++) {
        if (i >= again->n || o->ids[i] != again->ids[i] ||
            memcmp(&o->logprob[i], &again->logprob[i], sizeof o->logprob[i]) != 0) {
            describe(op, again, i);
            fail_msg("not what it is from scratch");
        }
    }
    for (int32_t i = 1; whole && o->echo != NULL && i < op->p.n_prompt; i++) {
        assert_true(memcmp(&o->echo[i], &again->echo[i], sizeof o->echo[i]) == 0);
        r->count->prompt_logprobs++;
    }
    if (whole) {
        assert_int_equal(o->n, again->n);
        assert_int_equal(o->finish, again->finish);
    }
    *(whole ? &r->count->answers : &r->count->beginnings) += 1;
    r->count->tokens += o->n;
}

static tt_job *submit_again(replay *r, const world_op *op, world_outcome *o)
{
    tt_job_params p = fresh_params(op);
    p.decoded = op->decoded; /* by the model's account */
    p.adapter_id = cold_adapter(r, op->answered_by);
    p.qttt.mode = TT_QTTT_OFF;
    p.pin_adapter = false;
    *o = (world_outcome){0};
    if (p.n_prompt_logprobs >= 0) {
        o->echo = malloc((size_t)p.n_prompt * sizeof *o->echo);
        assert_non_null(o->echo);
        memset(o->echo, 0xff, (size_t)p.n_prompt * sizeof *o->echo); /* NaN */
    }
    return client_submit(r->cold, &p);
}

static void replay_answers(replay *r, const world_op **batch, int32_t n)
{
    static world_outcome again[BATCH];
    tt_job *jobs[BATCH];
    for (int32_t i = 0; i < n; i++) {
        jobs[i] = submit_again(r, batch[i], &again[i]);
    }
    for (int32_t i = 0; i < n; i++) {
        collect(jobs[i], batch[i]->p.n_prompt, &again[i]);
        assert_int_equal(again[i].last, TT_EV_DONE);
        same_answer(r, batch[i], &again[i]);
        free(again[i].echo);
    }
}

void replay_all(const world *w, tt_engine *cold, replay_count *count)
{
    static replay r;
    const world_op *batch[BATCH];
    int32_t n = 0;
    r = (replay){.w = w, .cold = cold, .count = count};
    for (const world_op *op = w->first_over; op != NULL; op = op->next) {
        replay_training(&r, op);
        bool answers = op->p.kind == TT_JOB_GENERATE;
        if (answers && (op->out.n > 0 || op->out.last == TT_EV_DONE)) {
            batch[n++] = op;
        }
        if (n == BATCH || (op->next == NULL && n > 0)) {
            replay_answers(&r, batch, n);
            n = 0;
        }
    }
    for (int32_t i = 0; i < r.n_adapters; i++) {
        tt_engine_unpin(cold, r.adapters[i].cold);
    }
}
