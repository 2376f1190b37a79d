/* speculate.c - drafts of requests: tokens that followed the same words earlier in their text, run
 * as further rows of the decode step. A draft token counts as drawn if it is the token that the
 * draw before it gives; with the first that is not, what follows it is forgotten. So what is drawn
 * is what would be drawn without drafts, greedily and with a seed. Thread: engine only. */
#include <assert.h>

#include "core/task.h"

/* Penalties on how often a token was generated would need what the draft adds to the counts, row by
 * row. A repetition penalty does not: a draft has no token that the text has not. */
static int32_t most_tokens(const tt_worker *w, const tt_task *t)
{
    const tt_generate_state *r = &t->r;
    if (t->seq.n < t->seq.n_base || tt_sampler_counts(&r->sampler)) {
        return 0;
    }
    int32_t left = r->n_max - r->n_out - 1; /* the draft's last token is followed by one more */
    return left < w->max_draft ? left : w->max_draft;
}

/* Foretells up to n tokens, behind the task's own in its ids; none that would end the generation,
 * nor any after it: nothing follows those. */
static void foretell(const tt_worker *w, tt_task *t, int32_t n)
{
    tt_speculation *s = &t->r.spec;
    tt_err none;
    int32_t at;
    if (n <= 0 || tt_task_reserve_ids(t, n, &none) != TT_OK) {
        return; /* drafts can be done without */
    }
    s->n_match = tt_lookup_find(&s->lookup, t->ids, t->n_ids, &at);
    if (s->n_match == 0) {
        return;
    }
    tt_lookup_copy(t->ids, t->n_ids, at, t->ids + t->n_ids, n);
    while (s->n_guess < n && !tt_generate_ends(w, t, t->ids[t->n_ids + s->n_guess])) {
        s->n_guess++;
    }
}

/* Pages for the draft if there are any: nobody gives way for it. */
static void reserve(tt_task *t)
{
    tt_speculation *s = &t->r.spec;
    tt_err none;
    if (s->n_draft > 0 && tt_seq_reserve(&t->seq, 1 + s->n_draft, &none) != TT_OK) {
        int32_t room = t->seq.n_pages * TT_PAGE_TOKENS - t->seq.n - 1;
        s->n_draft = room < s->n_draft ? room : s->n_draft;
        if (tt_seq_reserve(&t->seq, 1 + s->n_draft, &none) != TT_OK) {
            s->n_draft = 0;
        }
    }
}

void tt_speculate_plan(tt_worker *w, tt_task *const *tasks, int32_t n)
{
    tt_draft_wish wish[TT_DRAFT_ROWS];
    for (int32_t i = 0; i < n; i++) {
        tasks[i]->r.spec.n_guess = tasks[i]->r.spec.n_draft = 0;
    }
    if (w->max_draft == 0 || n >= TT_DRAFT_ROWS) {
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        tt_task *t = tasks[i];
        assert(t->n_ids == t->seq.n + 1);
        foretell(w, t, most_tokens(w, t));
        tt_speculation *s = &t->r.spec;
        wish[i] =
            (tt_draft_wish){.odds = s->n_guess > 0 ? tt_draft_odds_of(&s->odds, s->n_match) : 0,
                            .n_most = s->n_guess};
    }
    tt_draft_share(wish, n, w->row_cost > 0 ? w->row_cost : tt_step_cost_row(&w->step_cost));
    for (int32_t i = 0; i < n; i++) {
        tasks[i]->r.spec.n_draft = wish[i].n;
        reserve(tasks[i]);
    }
}

bool tt_speculate_drop(tt_task *const *tasks, int32_t n)
{
    bool any = false;
    for (int32_t i = 0; i < n; i++) {
        any = any || tasks[i]->r.spec.n_draft > 0;
        tasks[i]->r.spec.n_draft = 0;
        tt_seq_trim(&tasks[i]->seq, 1);
    }
    return any;
}

int32_t tt_speculate_check(tt_task *t, const tt_drawn *drawn)
{
    tt_speculation *s = &t->r.spec;
    const int32_t *guess = t->ids + t->n_ids;
    int32_t right = 0, known = s->n_guess < 1 + s->n_draft ? s->n_guess : 1 + s->n_draft;
    while (right < known && drawn[right].id == guess[right]) {
        right++;
    }
    tt_draft_odds_learn(&s->odds, s->n_match, right, known);
    return 1 + (right < s->n_draft ? right : s->n_draft);
}

void tt_speculate_over(tt_worker *w, tt_task *t, int32_t n_taken)
{
    tt_speculation *s = &t->r.spec;
    tt_seq_trim(&t->seq, 0);
    s->drafted += s->n_draft;
    s->accepted += n_taken - 1;
    w->totals.drafted_tokens += (uint64_t)s->n_draft;
    w->totals.accepted_tokens += (uint64_t)(n_taken - 1);
    s->n_guess = s->n_draft = 0;
}
