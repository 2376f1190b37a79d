/* session_model.c - see session_model.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "session_model.h"

/* ---- texts ---- */

bool model_text_add(model_text *t, const int32_t *ids, int32_t n, bool answer, bool made)
{
    if (t->n_turns == MODEL_TURNS || t->n + n > MODEL_TOKENS) {
        return false;
    }
    for (int32_t i = 0; i < n; i++) {
        t->ids[t->n] = ids[i];
        t->made[t->n++] = made;
    }
    t->end[t->n_turns] = t->n;
    t->answer[t->n_turns++] = answer;
    return true;
}

void model_text_cut(model_text *t, int32_t n_turns)
{
    t->n_turns = n_turns < t->n_turns ? n_turns : t->n_turns;
    t->n = t->n_turns > 0 ? t->end[t->n_turns - 1] : 0;
}

int32_t model_text_count(const model_text *t, const int32_t *ids, int32_t n)
{
    int32_t found = 0;
    for (int32_t i = 0; i + n <= t->n; i++) {
        found += memcmp(t->ids + i, ids, (size_t)n * sizeof *ids) == 0;
    }
    return found;
}

/* Leading tokens that both have. */
static int32_t shared(const model_text *a, const model_text *b)
{
    for (int32_t i = 0;; i++) {
        if (i == a->n || i == b->n || a->ids[i] != b->ids[i]) {
            return i;
        }
    }
}

/* ---- life ---- */

void model_init(model_session *m, const int32_t *context, int32_t n)
{
    *m = (model_session){.n_context = n};
    assert_true(n <= MODEL_TOKENS);
    memcpy(m->context, context, (size_t)n * sizeof *context);
}

static void forget_branches(model_session *m)
{
    while (m->n_branches > 0) {
        free(m->branches[--m->n_branches]);
    }
}

void model_finish(model_session *m)
{
    forget_branches(m);
}

static model_branch *new_branch(const model_text *text, uint64_t adapter_id)
{
    model_branch *b = malloc(sizeof *b);
    assert_non_null(b);
    b->text = *text;
    b->adapter_id = adapter_id;
    return b;
}

int32_t model_latest(const model_session *m)
{
    return m->n_generations == 0 ? 0 : m->generations[m->n_generations - 1].number;
}

uint64_t model_adapter(const model_session *m, int32_t number)
{
    for (int32_t i = 0; i < m->n_generations; i++) {
        if (m->generations[i].number == number) {
            return m->generations[i].adapter_id;
        }
    }
    return 0;
}

/* ---- plans ---- */

/* The rule of session.h: the longest common beginning; of equals one of the same adapter, else the
 * one that finished last. */
static const model_branch *closest(const model_session *m, const model_text *text,
                                   uint64_t adapter_id)
{
    int32_t longest = 0;
    for (int32_t i = 0; i < m->n_branches; i++) {
        int32_t n = shared(&m->branches[i]->text, text);
        longest = n > longest ? n : longest;
    }
    const model_branch *any = NULL;
    for (int32_t i = 0; i < m->n_branches; i++) {
        const model_branch *b = m->branches[i];
        if (shared(&b->text, text) != longest) {
            continue;
        }
        if (b->adapter_id == adapter_id) {
            return b;
        }
        any = any == NULL ? b : any;
    }
    return any;
}

model_plan model_expect(const model_session *m, model_text *text, uint64_t adapter_id)
{
    model_plan p = {.context_equal = true, .epoch = m->epoch, .adapter_id = adapter_id};
    const model_branch *b = closest(m, text, adapter_id);
    int32_t same = b != NULL ? shared(&b->text, text) : 0;
    for (int32_t i = 0; i < text->n; i++) {
        text->made[i] = i < same ? b->text.made[i] : 0;
    }
    p.matched = m->n_context + same;
    if (same > 0 && b->adapter_id != adapter_id) {
        p.miss = TT_MISS_ADAPTER;
        p.position = m->n_context;
    } else if (b != NULL && same < b->text.n && same < text->n) {
        p.miss = TT_MISS_TRANSCRIPT;
        p.position = p.matched;
    }
    return p;
}

model_plan model_expect_stranger(const model_session *m, int32_t at)
{
    return (model_plan){.matched = at, .position = at, .epoch = m->epoch, .miss = TT_MISS_CONTEXT};
}

void model_same_plan(const model_session *m, const model_plan *want, const model_text *text,
                     const tt_session_plan *got, int32_t n)
{
    assert_int_equal(got->context_equal, want->context_equal);
    assert_int_equal(got->adapter_id, want->adapter_id);
    assert_int_equal(got->n_base, want->context_equal ? m->n_context : 0);
    assert_int_equal(got->matched, want->matched);
    assert_int_equal(got->miss, want->miss);
    assert_int_equal(got->position, want->position);
    for (int32_t i = 0; i < n; i++) {
        int made = want->context_equal && i >= m->n_context && text->made[i - m->n_context] != 0;
        assert_int_equal(got->decoded != NULL && got->decoded[i] != 0, made);
    }
}

/* ---- changes ---- */

void model_commit(model_session *m, const model_plan *plan, const model_text *text)
{
    if (!plan->context_equal || plan->epoch != m->epoch) {
        return;
    }
    int32_t out = 0;
    while (out < m->n_branches &&
           shared(&m->branches[out]->text, text) < m->branches[out]->text.n) {
        out++;
    }
    if (out == MODEL_BRANCHES) {
        out--;
    }
    if (out < m->n_branches) {
        free(m->branches[out]);
    } else {
        m->n_branches++;
    }
    for (; out > 0; out--) {
        m->branches[out] = m->branches[out - 1];
    }
    m->branches[0] = new_branch(text, plan->adapter_id);
}

bool model_publish(model_session *m, uint64_t adapter_id, uint64_t *ret_dropped)
{
    *ret_dropped = 0;
    for (int32_t i = 0; i < m->n_generations; i++) {
        if (m->generations[i].adapter_id == adapter_id) {
            return true;
        }
    }
    if (m->n_generations == MODEL_GENERATIONS) {
        *ret_dropped = m->generations[0].adapter_id;
        for (int32_t i = 1; i < MODEL_GENERATIONS; i++) {
            m->generations[i - 1] = m->generations[i];
        }
        m->n_generations--;
    }
    m->generations[m->n_generations].number = ++m->last_number;
    m->generations[m->n_generations++].adapter_id = adapter_id;
    return false;
}

void model_reset(model_session *m)
{
    m->n_generations = 0;
}

void model_fork(model_session *to, const model_session *from, bool adapter, bool transcript)
{
    model_init(to, from->context, from->n_context);
    if (adapter) {
        memcpy(to->generations, from->generations, sizeof to->generations);
        to->n_generations = from->n_generations;
        to->last_number = from->last_number;
    }
    for (int32_t i = 0; transcript && i < from->n_branches; i++) {
        to->branches[to->n_branches++] =
            new_branch(&from->branches[i]->text, from->branches[i]->adapter_id);
    }
}

void model_extend(model_session *m, const int32_t *context, int32_t n)
{
    assert_true(n <= MODEL_TOKENS);
    memcpy(m->context, context, (size_t)n * sizeof *context);
    m->n_context = n;
    m->epoch++;
    forget_branches(m);
}

/* ---- comparison ---- */

static void same_head(const model_session *m, const tt_session *s)
{
    const uint8_t *made;
    int32_t n;
    uint64_t adapter_id;
    const int32_t *ids = tt_session_transcript(s, &made, &n, &adapter_id);
    if (m->n_branches == 0) {
        assert_int_equal(n, 0);
        return;
    }
    const model_branch *head = m->branches[0];
    assert_int_equal(n, head->text.n);
    assert_int_equal(adapter_id, head->adapter_id);
    assert_memory_equal(ids, head->text.ids, (size_t)n * sizeof *ids);
    assert_memory_equal(made, head->text.made, (size_t)n);
}

/* What it answers to a request that goes on from one of its branches. */
static void same_branch(const model_session *m, const tt_session *s, const model_branch *b)
{
    static model_text text;
    static int32_t ids[2 * MODEL_TOKENS];
    const int32_t more[] = {5, 5};
    tt_session_generation g = {.adapter_id = b->adapter_id};
    tt_session_plan got;
    tt_err err;
    text = b->text;
    if (!model_text_add(&text, more, 2, false, false)) {
        return;
    }
    memcpy(ids, m->context, (size_t)m->n_context * sizeof *ids);
    memcpy(ids + m->n_context, text.ids, (size_t)text.n * sizeof *ids);
    model_plan want = model_expect(m, &text, b->adapter_id);
    assert_int_equal(tt_session_make_plan(s, ids, m->n_context + text.n, &g, &got, &err), TT_OK);
    model_same_plan(m, &want, &text, &got, m->n_context + text.n);
    tt_session_plan_finish(&got);
}

void model_same(const model_session *m, const tt_session *s)
{
    int32_t n;
    const int32_t *context = tt_session_context(s, &n);
    assert_int_equal(n, m->n_context);
    assert_memory_equal(context, m->context, (size_t)n * sizeof *context);
    assert_int_equal(tt_session_tokens(s),
                     m->n_context + (m->n_branches > 0 ? m->branches[0]->text.n : 0));
    same_head(m, s);
    for (int32_t i = 0; i < m->n_branches; i++) {
        same_branch(m, s, m->branches[i]);
    }
    tt_session_generation g;
    for (int32_t i = 0; i < m->n_generations; i++) {
        assert_true(tt_session_generation_at(s, i, &g));
        assert_int_equal(g.number, m->generations[i].number);
        assert_int_equal(g.adapter_id, m->generations[i].adapter_id);
    }
    assert_false(tt_session_generation_at(s, m->n_generations, &g));
    assert_int_equal(tt_session_latest(s), model_latest(m));
    assert_int_equal(tt_session_appending(s), m->appending);
}
