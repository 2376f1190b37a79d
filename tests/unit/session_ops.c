/* session_ops.c - the requests of session_world.h: from submission to what they leave behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/sysinfo.h"
#include "engine_client.h"
#include "session_world.h"

#define PATIENCE 60.0 /* seconds */

void world_note(world_outcome *o, int32_t n_prompt, const tt_event *ev)
{
    o->last = ev->type;
    switch (ev->type) {
    case TT_EV_TOKEN:
        assert_true(o->n < WORLD_ANSWER && ev->u.token.have_logprob);
        o->ids[o->n] = ev->u.token.id;
        o->logprob[o->n++] = ev->u.token.logprob;
        break;
    case TT_EV_PROMPT_LOGPROBS:
        for (int32_t i = 0; i < ev->u.prompt_logprobs.n; i++) {
            int32_t at = ev->u.prompt_logprobs.first + i;
            assert_true(o->echo != NULL && at < n_prompt && isnan(o->echo[at]));
            o->echo[at] = ev->u.prompt_logprobs.chosen[i].logprob;
        }
        break;
    case TT_EV_ADAPTED:
        assert_false(o->adapted);
        o->adapted = true;
        o->result = ev->u.adapted;
        break;
    case TT_EV_DONE:
        o->finish = ev->u.done.reason;
        assert_true(ev->u.done.cached_tokens <= ev->u.done.prompt_tokens);
        break;
    case TT_EV_ERROR:
        o->error = ev->u.error;
        break;
    default:
        break;
    }
}

world_op *world_new_op(world *w, int32_t slot)
{
    if (w->n_ops == WORLD_OPS) {
        return NULL;
    }
    world_op *op = calloc(1, sizeof *op);
    assert_non_null(op);
    op->slot = slot;
    op->serial = w->sessions[slot].serial;
    op->abort_after = -1;
    op->p = (tt_job_params){.sampling = {.top_p = 1, .repetition_penalty = 1},
                            .ignore_eos = true,
                            .n_prompt_logprobs = -1,
                            .session_tag = op->serial};
    memcpy(op->p.adapter_scope, w->sessions[slot].scope, sizeof w->sessions[slot].scope);
    return op;
}

/* What remains of it is for the replay. */
static void lay_by(world *w, world_op *op)
{
    op->next = NULL;
    *w->last_over = op;
    w->last_over = &op->next;
}

bool world_submit(world *w, world_op *op, const int32_t *prompt, const uint8_t *decoded, int32_t n)
{
    tt_err err = {0};
    op->ids = malloc((size_t)n * sizeof *op->ids);
    op->decoded = calloc((size_t)n, 1);
    assert_true(op->ids != NULL && op->decoded != NULL);
    memcpy(op->ids, prompt, (size_t)n * sizeof *op->ids);
    if (decoded != NULL) {
        memcpy(op->decoded, decoded, (size_t)n);
    }
    op->p.prompt = op->ids;
    op->p.n_prompt = n;
    op->p.decoded = decoded != NULL ? op->decoded : NULL;
    if (op->p.n_prompt_logprobs >= 0) {
        op->out.echo = malloc((size_t)n * sizeof *op->out.echo);
        assert_non_null(op->out.echo);
        for (int32_t i = 0; i < n; i++) {
            op->out.echo[i] = NAN;
        }
    }
    op->answered_by = op->p.adapter_id;
    op->deadline = op->p.timeout_seconds > 0;
    assert_int_equal(tt_job_create(&op->p, NULL, NULL, &op->job, &err), TT_OK);
    tt_code rc = tt_engine_submit(w->engine, op->job, &err);
    if (rc != TT_OK) {
        tt_job_unref(&op->job);
        op->out.last = TT_EV_ERROR;
        lay_by(w, op);
        if (rc != TT_E_CAPACITY || op->p.kind != TT_JOB_TRAIN) {
            fail_msg("refused: %s", err.msg);
        }
        w->count.refused++;
        return false;
    }
    for (int32_t i = 0; i < WORLD_OPS; i++) {
        if (w->ops[i] == NULL) {
            w->ops[i] = op;
            w->n_ops++;
            break;
        }
    }
    return true;
}

static world_session *session_of(world *w, const world_op *op)
{
    world_session *s = &w->sessions[op->slot];
    return s->alive && s->serial == op->serial ? s : NULL;
}

static void remove_op(world *w, world_op *op)
{
    for (int32_t i = 0; i < WORLD_OPS; i++) {
        if (w->ops[i] == op) {
            w->ops[i] = NULL;
            w->n_ops--;
        }
    }
    tt_job_unref(&op->job);
}

static void end_append(world *w, world_op *op)
{
    world_session *s = session_of(w, op);
    if (op->append && s != NULL) {
        tt_session_end_append(s->data);
        s->model.appending = false;
    }
    op->append = false;
}

/* What the client of an answer that was cut remembers. */
static void remember_cut(world *w, world_op *op)
{
    world_session *s = session_of(w, op);
    if (s == NULL || op->text == NULL || op->want.epoch != s->model.epoch) {
        return;
    }
    if (op->append) {
        int32_t from = op->text->n_turns > 1 ? op->text->end[op->text->n_turns - 2] : 0;
        s->n_retry = op->text->n - from;
        memcpy(s->retry, op->text->ids + from, (size_t)s->n_retry * sizeof *s->retry);
        return;
    }
    model_text *lost = malloc(sizeof *lost);
    assert_non_null(lost);
    *lost = *op->text;
    if (op->out.n > 0) {
        (void)model_text_add(lost, op->out.ids, op->out.n, true, false);
    }
    free(s->lost);
    s->lost = lost;
}

/* A retried append has left one user turn. */
static void check_retry(world_session *s, const world_op *op)
{
    if (!op->append || s->n_retry == 0) {
        return;
    }
    static model_text got;
    const uint8_t *made;
    uint64_t adapter_id;
    int32_t n;
    const int32_t *ids = tt_session_transcript(s->data, &made, &n, &adapter_id);
    got = (model_text){.n = 0};
    assert_true(model_text_add(&got, ids, n, false, false));
    assert_int_equal(model_text_count(&got, s->retry, s->n_retry), 1);
    s->n_retry = 0;
}

static void commit(world *w, world_op *op)
{
    world_session *s = session_of(w, op);
    tt_err err;
    if (s == NULL || op->p.kind != TT_JOB_GENERATE) {
        return;
    }
    w->count.stale += op->plan.epoch != s->model.epoch;
    bool current = op->want.context_equal && op->want.epoch == s->model.epoch;
    assert_int_equal(tt_session_commit(s->data, &op->plan, op->ids, op->p.n_prompt, op->out.ids,
                                       op->out.n, &err),
                     current ? TT_OK : (tt_code)TT_SESSION_STALE);
    if (op->text != NULL) {
        if (model_text_add(op->text, op->out.ids, op->out.n, true, true)) {
            model_commit(&s->model, &op->want, op->text);
        }
        if (current) {
            check_retry(s, op);
        }
    }
    model_same(&s->model, s->data);
}

void world_cancel(world *w, world_op *op, bool hang_up)
{
    op->cancelled = true;
    tt_job_cancel(op->job, false);
    tt_engine_kick(w->engine);
    if (!hang_up || op->p.qttt.mode != TT_QTTT_OFF) {
        return; /* what a training has pinned has to be heard of */
    }
    w->count.hung_up++;
    remember_cut(w, op);
    end_append(w, op);
    remove_op(w, op);
    op->out.last = TT_EV_ERROR;
    lay_by(w, op);
}

static void check_error(const world *w, const world_op *op)
{
    tt_code rc = op->out.error.code;
    if ((rc == TT_E_CANCELLED && op->cancelled) || (rc == TT_E_TIMEOUT && op->deadline)) {
        return;
    }
    fail_msg("a job of kind %d over %d tokens (session %u, context %d, adapter %llu) failed: %d %s",
             (int)op->p.kind, (int)op->p.n_prompt, op->serial, (int)op->p.qttt.context_tokens,
             (unsigned long long)op->p.adapter_id, rc, op->out.error.msg);
    (void)w;
}

static void end_op(world *w, world_op *op)
{
    if (op->out.last == TT_EV_DONE) {
        commit(w, op);
        w->count.answers += op->p.kind == TT_JOB_GENERATE;
    } else {
        check_error(w, op);
        remember_cut(w, op);
        w->count.aborted += op->cancelled;
        w->count.expired += op->out.error.code == TT_E_TIMEOUT;
    }
    end_append(w, op);
    remove_op(w, op);
    lay_by(w, op);
}

static void adapted(world *w, world_op *op)
{
    const tt_qttt_result *r = &op->out.result;
    if (r->kept) {
        assert_true(r->adapter_id != 0);
        world_adopt(w, op);
        op->answered_by = op->plan.adapter_id = op->want.adapter_id = r->adapter_id;
    }
}

/* False: it is over. */
static bool poll_op(world *w, world_op *op)
{
    tt_event *ev;
    while ((ev = tt_job_next(op->job)) != NULL) {
        world_note(&op->out, op->p.n_prompt, ev);
        tt_event_type type = ev->type;
        tt_event_free(ev);
        if (type == TT_EV_ADAPTED) {
            adapted(w, op);
        } else if (type == TT_EV_DONE || type == TT_EV_ERROR) {
            end_op(w, op);
            return false;
        }
    }
    if (op->abort_after >= 0 && op->out.n >= op->abort_after && !op->cancelled) {
        world_cancel(w, op, op->hang_up);
    }
    return true;
}

void world_poll(world *w)
{
    for (int32_t i = 0; i < WORLD_OPS; i++) {
        if (w->ops[i] != NULL) {
            (void)poll_op(w, w->ops[i]);
        }
    }
}

void world_wait(world *w, int32_t n)
{
    double t0 = tt_sys_now();
    for (world_poll(w); w->n_ops >= n; world_poll(w)) {
        if (tt_sys_now() - t0 > PATIENCE) {
            fail_msg("%d requests do not end", w->n_ops);
        }
        client_nap();
    }
}
