/* session_client.c - see session_client.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "session_client.h"

enum { PAGE = CLIENT_PAGE, LEAST_TURN = 5 };

/* ---- what a client asks for ---- */

/* Tokens of a turn that ends a text of n tokens at a page's end, or one beside it; or any few. */
static int32_t turn_length(world *w, int32_t n)
{
    if (world_chance(w, 50)) {
        int32_t end = (n + LEAST_TURN + 1 + PAGE - 1) / PAGE * PAGE + world_draw(w, 3) - 1;
        if (end - n >= LEAST_TURN) {
            return end - n;
        }
    }
    return LEAST_TURN + world_draw(w, world_chance(w, 30) ? 2 * PAGE - LEAST_TURN : 40);
}

static bool add_turn(world *w, model_text *t, int32_t n_context, bool answer)
{
    int32_t ids[2 * PAGE], n = turn_length(w, n_context + t->n);
    world_draw_ids(w, ids, n);
    return model_text_add(t, ids, n, answer, false);
}

/* An answer as its reader has changed it: its beginning, then something else. */
static void change_answer(world *w, model_text *t)
{
    int32_t last = t->n_turns - 1, from = last > 0 ? t->end[last - 1] : 0;
    int32_t ids[2 * PAGE], kept = world_draw(w, t->n - from + 1);
    kept = kept < PAGE ? kept : PAGE;
    memcpy(ids, t->ids + from, (size_t)kept * sizeof *ids);
    world_draw_ids(w, ids + kept, LEAST_TURN);
    model_text_cut(t, last);
    (void)model_text_add(t, ids, kept + LEAST_TURN, true, false);
}

/* What the client sends behind the context: it goes on from what it remembers, or has changed it.
 */
static void write_text(world *w, const world_session *s, model_text *t)
{
    const model_session *m = &s->model;
    *t = (model_text){.n = 0};
    if (s->lost != NULL && world_chance(w, m->n_branches > 0 ? 15 : 80)) {
        *t = *s->lost;
    } else if (m->n_branches > 0) {
        *t = m->branches[world_chance(w, 70) ? 0 : world_draw(w, m->n_branches)]->text;
    }
    bool answered = t->n_turns > 0 && t->answer[t->n_turns - 1];
    int32_t whim = world_draw(w, 100);
    if (answered && whim < 15) {
        model_text_cut(t, t->n_turns - 1); /* the same again */
        return;
    }
    if (whim < 30) {
        model_text_cut(t, world_draw(w, t->n_turns + 1));
    } else if (answered && whim < 42) {
        change_answer(w, t);
    } else if (whim < 48 && m->n_context + t->n > 0) {
        return; /* as it is: the answer goes on */
    }
    int32_t room = w->max_tokens - WORLD_ANSWER - 2 * PAGE - m->n_context;
    if (t->n > room || t->n_turns > MODEL_TURNS - 4) {
        model_text_cut(t, world_draw(w, 3));
    }
    if (t->n > room) {
        model_text_cut(t, 0);
    }
    (void)add_turn(w, t, m->n_context, false);
}

static void choose_sampling(world *w, tt_job_params *p, int32_t n)
{
    static const int32_t stops[] = {12, 57, 101, 150, 188, 222, 260, 301};
    int32_t to_page = (n + PAGE) / PAGE * PAGE - n + world_draw(w, 3);
    p->max_tokens = world_chance(w, 20) && to_page < WORLD_ANSWER ? to_page : 1 + world_draw(w, 24);
    p->max_tokens = world_chance(w, 20) ? WORLD_ANSWER - 16 : p->max_tokens;
    if (world_chance(w, 30)) { /* it may end before its length */
        p->stop_ids = stops;
        p->n_stop_ids = (int32_t)(sizeof stops / sizeof *stops);
        p->min_tokens = world_draw(w, 4);
    }
    p->sampling.temperature = world_chance(w, 50) ? 1 : 0;
    p->sampling.repetition_penalty = world_chance(w, 20) ? 1.25f : 1;
    p->sampling.seed = (uint64_t)world_draw(w, 3);
    p->n_prompt_logprobs = world_chance(w, 6) ? 0 : -1;
}

static void choose_abort(world *w, world_op *op)
{
    if (world_chance(w, 18)) {
        op->abort_after = world_draw(w, op->p.max_tokens + 1);
        op->hang_up = world_chance(w, 50);
    } else if (world_chance(w, 4)) {
        op->p.timeout_seconds = 0.001 + 0.002 * world_draw(w, 8);
    }
}

/* Training on the session's context; few seeds, so that one finds what another has trained. */
static void choose_training(world *w, world_session *s, world_op *op)
{
    tt_qttt_params *q = &op->p.qttt;
    int32_t n = s->model.n_context;
    tt_qttt_defaults(q);
    q->mode = TT_QTTT_ON;
    q->context_tokens = n;
    q->steps = 1 + world_draw(w, 4);
    q->span_tokens = world_chance(w, 50) ? 32 : 16;
    q->learning_rate = 1e-3;
    q->seed = (uint64_t)world_draw(w, 2);
    q->lora = world_chance(w, 30);
    q->rank = 4;
    q->guard = n >= 1024 && world_chance(w, 50);
    q->objective = n >= 200 && world_chance(w, 20) ? TT_RECALL : TT_NEXT_TOKEN;
    op->p.pin_adapter = true;
    uint64_t latest = model_adapter(&s->model, model_latest(&s->model));
    if (latest != 0 && world_chance(w, 40)) {
        q->start_adapter = latest;
        q->lora = world_is_lora(w, latest);
    }
}

/* The latest generation, the base or any other. */
static void choose_generation(world *w, world_session *s, tt_session_generation *ret)
{
    const model_session *m = &s->model;
    int64_t number = -1;
    if (world_chance(w, 15)) {
        number = 0;
    } else if (m->n_generations > 0 && world_chance(w, 20)) {
        number = m->generations[world_draw(w, m->n_generations)].number;
    }
    int32_t odd = 1 + world_draw(w, m->last_number + 2);
    if (model_adapter(m, odd) == 0) { /* one that is no more, or was never */
        tt_code want = (tt_code)(odd > m->last_number ? TT_SESSION_UNKNOWN : TT_SESSION_GONE);
        assert_int_equal(tt_session_choose(s->data, odd, ret), want);
        w->count.gone += want == (tt_code)TT_SESSION_GONE;
    }
    assert_int_equal(tt_session_choose(s->data, number, ret), TT_OK);
    int32_t want = number < 0 ? model_latest(m) : (int32_t)number;
    assert_int_equal(ret->number, want);
    assert_true(ret->adapter_id == model_adapter(m, want));
}

/* ---- requests ---- */

static void send(world *w, world_op *op, const tt_session_generation *g)
{
    static int32_t ids[2 * MODEL_TOKENS];
    static uint8_t made[2 * MODEL_TOKENS];
    world_session *s = &w->sessions[op->slot];
    const model_session *m = &s->model;
    int32_t n = m->n_context + (op->text != NULL ? op->text->n : 0);
    tt_err err;
    memcpy(ids, m->context, (size_t)m->n_context * sizeof *ids);
    memset(made, 0, (size_t)n);
    if (op->text != NULL) {
        memcpy(ids + m->n_context, op->text->ids, (size_t)op->text->n * sizeof *ids);
        op->want = model_expect(m, op->text, g->adapter_id);
        memcpy(made + m->n_context, op->text->made, (size_t)op->text->n);
    } else { /* another document */
        int32_t at = world_draw(w, n);
        ids[at] = 10 + (ids[at] - 9) % 200;
        op->want = model_expect_stranger(m, at);
        w->count.strangers++;
    }
    assert_int_equal(tt_session_make_plan(s->data, ids, n, g, &op->plan, &err), TT_OK);
    model_same_plan(m, &op->want, op->text, &op->plan, n);
    w->count.misses[op->want.miss]++;
    w->count.edges += n % PAGE <= 1 || n % PAGE == PAGE - 1;
    op->p.keep = op->want.context_equal;
    op->p.adapter_id = op->want.adapter_id;
    choose_sampling(w, &op->p, n);
    choose_abort(w, op);
    bool trains = op->text != NULL && op->text->n > 0 && m->n_context > 0 && world_chance(w, 10);
    if (trains) {
        choose_training(w, s, op);
        w->count.in_request++;
    }
    op->p.qttt.context_tokens = op->plan.n_base;
    (void)world_submit(w, op, ids, op->want.context_equal ? made : NULL, n);
}

void client_chat(world *w, int32_t slot)
{
    tt_session_generation g;
    world_session *s = &w->sessions[slot];
    world_op *op = world_new_op(w, slot);
    if (op == NULL) {
        return;
    }
    choose_generation(w, s, &g);
    if (s->model.n_context == 0 || !world_chance(w, 6)) {
        op->text = malloc(sizeof *op->text);
        assert_non_null(op->text);
        write_text(w, s, op->text);
    }
    w->count.chats++;
    send(w, op, &g);
}

/* True: the append has begun, as the model says that it may. */
static bool begin_append(world *w, world_session *s)
{
    int32_t whim = world_draw(w, 100), tokens = tt_session_tokens(s->data);
    int64_t expected = whim < 60 ? -1 : whim < 85 ? tokens : tokens + 1;
    tt_code want = s->model.appending       ? (tt_code)TT_SESSION_BUSY
                   : expected == tokens + 1 ? (tt_code)TT_SESSION_MISMATCH
                                            : TT_OK;
    assert_int_equal(tt_session_begin_append(s->data, expected), want);
    w->count.busy += want == (tt_code)TT_SESSION_BUSY;
    w->count.mismatched += want == (tt_code)TT_SESSION_MISMATCH;
    s->model.appending |= want == TT_OK;
    return want == TT_OK;
}

void client_append(world *w, int32_t slot)
{
    static model_text text;
    tt_session_generation g;
    world_session *s = &w->sessions[slot];
    const model_session *m = &s->model;
    text = (model_text){.n = 0};
    if (m->n_branches > 0) {
        text = m->branches[0]->text;
    }
    if (s->n_retry > 0) {
        (void)model_text_add(&text, s->retry, s->n_retry, false, false);
    } else {
        (void)add_turn(w, &text, m->n_context, false);
    }
    bool long_enough =
        m->n_context + text.n > w->max_tokens - WORLD_ANSWER || text.n_turns > MODEL_TURNS - 4;
    world_op *op = long_enough ? NULL : world_new_op(w, slot);
    if (op == NULL) {
        return;
    }
    if (!begin_append(w, s)) {
        free(op);
        return;
    }
    choose_generation(w, s, &g);
    op->append = true;
    op->text = malloc(sizeof *op->text);
    assert_non_null(op->text);
    *op->text = text;
    w->count.appends++;
    w->count.retried += s->n_retry > 0;
    send(w, op, &g);
}

void client_train(world *w, int32_t slot)
{
    world_session *s = &w->sessions[slot];
    world_op *op = s->model.n_context > 0 ? world_new_op(w, slot) : NULL;
    if (op == NULL) {
        return;
    }
    op->p.kind = TT_JOB_TRAIN;
    choose_training(w, s, op);
    w->count.trainings++;
    if (world_submit(w, op, s->model.context, NULL, s->model.n_context) && world_chance(w, 15)) {
        tt_job_pause(op->job, true);
        w->count.pauses++;
    }
}

/* ---- sessions ---- */

void client_create(world *w, int32_t slot)
{
    static int32_t ids[MODEL_TOKENS];
    int32_t most = w->max_tokens - WORLD_ANSWER - 4 * PAGE, shared = 0;
    int32_t n = PAGE * (1 + world_draw(w, most / PAGE - 1)) + world_draw(w, 3) - 1;
    n = world_chance(w, 30) ? 1 + world_draw(w, most) : n;
    n = world_chance(w, 5) ? 0 : n;
    world_draw_ids(w, ids, n);
    int32_t other = world_draw(w, WORLD_SESSIONS);
    if (w->sessions[other].alive && world_chance(w, 60)) { /* the same document, or its beginning */
        const model_session *m = &w->sessions[other].model;
        shared = m->n_context < n ? m->n_context : n;
        n = world_chance(w, 50) ? shared : n;
        memcpy(ids, m->context, (size_t)shared * sizeof *ids);
    }
    world_create_session(w, slot, ids, n);
}

/* The context takes the beginning of the first user turn in; the client asks the rest again: the
 * same tokens as before, of which more are the base's now. */
static void extend_into_turn(world *w, int32_t slot, int32_t *ids)
{
    static model_text text;
    tt_session_generation g;
    world_session *s = &w->sessions[slot];
    const model_session *m = &s->model;
    const model_text *head = &m->branches[0]->text;
    int32_t n = m->n_context, taken = 1 + world_draw(w, head->end[0] - 1);
    memcpy(ids + n, head->ids, (size_t)taken * sizeof *ids);
    text = (model_text){.n = 0};
    (void)model_text_add(&text, head->ids + taken, head->end[0] - taken, false, false);
    world_extend(w, slot, ids, n + taken);
    world_op *op = world_new_op(w, slot);
    if (op != NULL) {
        assert_int_equal(tt_session_choose(s->data, -1, &g), TT_OK);
        op->text = malloc(sizeof *op->text);
        assert_non_null(op->text);
        *op->text = text;
        w->count.chats++;
        send(w, op, &g);
    }
}

void client_extend(world *w, int32_t slot)
{
    static int32_t ids[2 * MODEL_TOKENS];
    const model_session *m = &w->sessions[slot].model;
    const model_text *head = m->n_branches > 0 ? &m->branches[0]->text : NULL;
    int32_t n = m->n_context, more = turn_length(w, n);
    memcpy(ids, m->context, (size_t)n * sizeof *ids);
    bool adapted = head != NULL && m->n_generations > 0 &&
                   m->branches[0]->adapter_id == model_adapter(m, model_latest(m));
    if (head != NULL && head->n_turns > 0 && !head->answer[0] && head->end[0] > 1 &&
        world_chance(w, adapted ? 75 : 10)) {
        extend_into_turn(w, slot, ids);
        return;
    }
    if (head != NULL) {
        memcpy(ids + n, head->ids, (size_t)head->n * sizeof *ids);
        n += head->n;
    }
    world_draw_ids(w, ids + n, more);
    if (n + more <= w->max_tokens - WORLD_ANSWER - 3 * PAGE) {
        world_extend(w, slot, ids, n + more);
    }
}

void client_fork(world *w, int32_t slot)
{
    int32_t spare = world_free_slot(w);
    bool adapter = world_chance(w, 60), transcript = world_chance(w, 60);
    if (spare < 0) {
        spare = (slot + 1 + world_draw(w, WORLD_SESSIONS - 1)) % WORLD_SESSIONS;
        world_delete(w, spare);
    }
    world_fork(w, slot, spare, adapter, transcript);
}
