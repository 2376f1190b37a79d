/* test_session.c - context, branches, appends, generations, fork and extend of one session. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "core/session.h"

static const int32_t context[] = {1, 2, 3, 4};
enum { C = 4 };

static tt_session *fresh(void)
{
    tt_session *s = NULL;
    assert_int_equal(tt_session_create(context, C, 2, &s, NULL), TT_OK);
    return s;
}

static tt_session_plan plan_of(const tt_session *s, const int32_t *ids, int32_t n, int64_t number)
{
    tt_session_generation g;
    tt_session_plan p;
    assert_int_equal(tt_session_choose(s, number, &g), TT_OK);
    assert_int_equal(tt_session_make_plan(s, ids, n, &g, &p, NULL), TT_OK);
    return p;
}

/* A whole request: plan, generate, commit. */
static void turn(tt_session *s, const int32_t *ids, int32_t n, const int32_t *out, int32_t n_out)
{
    tt_session_plan p = plan_of(s, ids, n, -1);
    assert_int_equal(tt_session_commit(s, &p, ids, n, out, n_out, NULL), TT_OK);
    tt_session_plan_finish(&p);
}

static void expect_miss(const tt_session *s, const int32_t *ids, int32_t n, tt_session_miss miss,
                        int32_t position, int32_t matched)
{
    tt_session_plan p = plan_of(s, ids, n, -1);
    assert_int_equal(p.miss, miss);
    assert_int_equal(p.position, position);
    assert_int_equal(p.matched, matched);
    tt_session_plan_finish(&p);
}

static void goes_on_from_an_answer(void **state)
{
    tt_session *s = fresh();
    const int32_t first[] = {1, 2, 3, 4, 10, 11}, answer[] = {20, 21};
    const int32_t second[] = {1, 2, 3, 4, 10, 11, 20, 21, 30};
    turn(s, first, 6, answer, 2);
    assert_int_equal(tt_session_tokens(s), 8);
    tt_session_plan p = plan_of(s, second, 9, -1);
    static const uint8_t want[9] = {0, 0, 0, 0, 0, 0, 1, 1, 0};
    assert_true(p.context_equal);
    assert_int_equal(p.miss, TT_MISS_NONE);
    assert_null(tt_session_miss_text(p.miss));
    assert_int_equal(p.matched, 8);
    assert_int_equal(p.n_base, C);
    assert_memory_equal(p.decoded, want, 9);
    /* Nothing has moved until the commit. */
    assert_int_equal(tt_session_tokens(s), 8);
    assert_int_equal(tt_session_commit(s, &p, second, 9, answer, 1, NULL), TT_OK);
    tt_session_plan_finish(&p);
    const uint8_t *decoded;
    int32_t n;
    uint64_t adapter;
    const int32_t *ids = tt_session_transcript(s, &decoded, &n, &adapter);
    static const int32_t want_ids[] = {10, 11, 20, 21, 30, 20};
    static const uint8_t want_flags[] = {0, 0, 1, 1, 0, 1};
    assert_int_equal(n, 6);
    assert_memory_equal(ids, want_ids, sizeof want_ids);
    assert_memory_equal(decoded, want_flags, 6);
    tt_session_destroy(&s);
}

static void another_context_is_the_base_s(void **state)
{
    tt_session *s = fresh();
    const int32_t other[] = {1, 2, 9, 4, 10}, start[] = {1, 2};
    int32_t number;
    uint64_t dropped;
    tt_session_generation g = {.adapter_id = 7};
    assert_int_equal(tt_session_publish(s, &g, &number, &dropped), TT_OK);
    tt_session_plan p = plan_of(s, other, 5, -1);
    assert_false(p.context_equal);
    assert_int_equal(p.adapter_id, 0);
    assert_int_equal(p.generation, 0);
    assert_int_equal(p.n_base, 0);
    assert_string_equal(tt_session_miss_text(p.miss), "context_diverged");
    assert_int_equal(p.position, 2);
    assert_int_equal(tt_session_commit(s, &p, other, 5, NULL, 0, NULL), TT_SESSION_STALE);
    assert_int_equal(tt_session_tokens(s), C); /* it is not this session's */
    expect_miss(s, start, 2, TT_MISS_CONTEXT, 2, 2);
    tt_session_destroy(&s);
}

static void edit_regenerate_and_side_calls(void **state)
{
    tt_session *s = fresh();
    const int32_t first[] = {1, 2, 3, 4, 10, 11}, answer[] = {20, 21};
    const int32_t edited[] = {1, 2, 3, 4, 10, 12}, side[] = {1, 2, 3, 4, 50, 51, 52};
    const int32_t on[] = {1, 2, 3, 4, 10, 11, 20, 21, 30};
    turn(s, first, 6, answer, 2);
    expect_miss(s, first, 6, TT_MISS_NONE, 0, 6); /* regenerate: a prompt that ends inside */
    expect_miss(s, edited, 6, TT_MISS_TRANSCRIPT, 5, 5);
    expect_miss(s, side, 7, TT_MISS_TRANSCRIPT, 4, 4);
    turn(s, side, 7, answer, 1);
    assert_int_equal(tt_session_tokens(s), 8); /* the head is the side call now */
    tt_session_plan p = plan_of(s, on, 9, -1); /* and the conversation goes on all the same */
    assert_int_equal(p.miss, TT_MISS_NONE);
    assert_int_equal(p.matched, 8);
    assert_int_equal(p.decoded[6] + p.decoded[7], 2);
    tt_session_plan_finish(&p);
    tt_session_destroy(&s);
}

/* The oldest branch goes; one that is gone on from is replaced and does not count twice. */
static void branches_are_bounded(void **state)
{
    tt_session *s = fresh();
    for (int32_t i = 0; i < TT_SESSION_BRANCHES; i++) {
        const int32_t ids[] = {1, 2, 3, 4, 100 + i}, out[] = {200};
        turn(s, ids, 5, out, 1);
    }
    const int32_t grown[] = {1, 2, 3, 4, 101, 200, 5}, out[] = {6};
    turn(s, grown, 7, out, 1);
    for (int32_t i = 0; i < TT_SESSION_BRANCHES; i++) {
        const int32_t ids[] = {1, 2, 3, 4, 100 + i, 200, 9};
        expect_miss(s, ids, 7, i == 1 ? TT_MISS_TRANSCRIPT : TT_MISS_NONE, i == 1 ? 6 : 0, 6);
    }
    const int32_t one_more[] = {1, 2, 3, 4, 300}, old[] = {1, 2, 3, 4, 100, 200, 9};
    turn(s, one_more, 5, out, 1);
    expect_miss(s, old, 7, TT_MISS_TRANSCRIPT, 4, 4);
    tt_session_destroy(&s);
}

static void appends_are_transactions(void **state)
{
    tt_session *s = fresh();
    assert_int_equal(tt_session_begin_append(s, 5), TT_SESSION_MISMATCH);
    assert_false(tt_session_appending(s));
    assert_int_equal(tt_session_begin_append(s, C), TT_OK);
    assert_int_equal(tt_session_begin_append(s, -1), TT_SESSION_BUSY);
    tt_session_end_append(s); /* rolled back */
    assert_int_equal(tt_session_tokens(s), C);
    assert_int_equal(tt_session_begin_append(s, C), TT_OK);
    const int32_t ids[] = {1, 2, 3, 4, 10}, out[] = {20};
    turn(s, ids, 5, out, 1);
    tt_session_end_append(s);
    assert_int_equal(tt_session_begin_append(s, C), TT_SESSION_MISMATCH); /* a retry of the same */
    assert_int_equal(tt_session_begin_append(s, 6), TT_OK);
    tt_session_destroy(&s);
}

static int32_t publish(tt_session *s, uint64_t id, uint64_t want_dropped, int want)
{
    tt_session_generation g = {.adapter_id = id, .adapter_bytes = 64};
    int32_t number = -1;
    uint64_t dropped = 99;
    assert_int_equal(tt_session_publish(s, &g, &number, &dropped), want);
    assert_int_equal(dropped, want_dropped);
    return number;
}

static void generations(void **state)
{
    tt_session *s = fresh();
    tt_session_generation g;
    assert_int_equal(tt_session_choose(s, -1, &g), TT_OK);
    assert_int_equal(g.number, 0);
    assert_int_equal(publish(s, 11, 0, TT_OK), 1);
    assert_int_equal(publish(s, 12, 0, TT_OK), 2);
    assert_int_equal(publish(s, 11, 0, TT_SESSION_KNOWN), 1);
    assert_int_equal(publish(s, 13, 11, TT_OK), 3); /* two at most: the first goes */
    assert_int_equal(tt_session_choose(s, 1, &g), TT_SESSION_GONE);
    assert_int_equal(tt_session_choose(s, 4, &g), TT_SESSION_UNKNOWN);
    assert_int_equal(tt_session_choose(s, 2, &g), TT_OK);
    assert_int_equal(g.adapter_id, 12);
    assert_int_equal(tt_session_choose(s, -1, &g), TT_OK);
    assert_int_equal(g.adapter_id, 13);
    assert_int_equal(tt_session_choose(s, 0, &g), TT_OK);
    assert_int_equal(g.adapter_id, 0);
    tt_session_reset(s);
    assert_int_equal(tt_session_latest(s), 0);
    assert_int_equal(tt_session_choose(s, 3, &g), TT_SESSION_GONE);
    assert_int_equal(publish(s, 14, 0, TT_OK), 4);
    tt_session_destroy(&s);
}

static void expect_generations(const tt_session *s, int32_t n, const int32_t *numbers)
{
    tt_session_generation g;
    for (int32_t i = 0; i < n; i++) {
        assert_true(tt_session_generation_at(s, i, &g));
        assert_int_equal(g.number, numbers[i]);
        assert_int_equal(g.adapter_id, 10 + numbers[i]);
    }
    assert_false(tt_session_generation_at(s, n, &g));
}

/* Generations come back in their order, and none that was published is lost while there is room. */
static void resets_that_are_undone(void **state)
{
    tt_session *s = fresh(), *first, *second;
    tt_err err;
    publish(s, 11, 0, TT_OK);
    assert_int_equal(tt_session_backup(s, &first, &err), TT_OK);
    tt_session_reset(s);
    publish(s, 12, 0, TT_OK);
    assert_int_equal(tt_session_backup(s, &second, &err), TT_OK);
    tt_session_reset(s);
    publish(s, 13, 0, TT_OK);
    tt_session_revert(s, first, true);
    expect_generations(s, 2, (const int32_t[]){1, 3});
    expect_generations(first, 0, NULL);
    tt_session_revert(s, second, true);
    expect_generations(s, 2, (const int32_t[]){2, 3});
    expect_generations(second, 1, (const int32_t[]){1}); /* two at most */
    tt_session_destroy(&first);
    tt_session_destroy(&second);
    assert_int_equal(tt_session_backup(s, &first, &err), TT_OK);
    tt_session_revert(s, first, false); /* of another change: they are not its business */
    expect_generations(s, 2, (const int32_t[]){2, 3});
    expect_generations(first, 0, NULL);
    tt_session_destroy(&first);
    tt_session_destroy(&s);
}

/* Tokens that were run under one adapter are not the K/V of another; whichever branch fits the
 * adapter is preferred. */
static void a_change_of_adapter_is_a_miss(void **state)
{
    tt_session *s = fresh();
    const int32_t ids[] = {1, 2, 3, 4, 10}, out[] = {20}, on[] = {1, 2, 3, 4, 10, 20, 30};
    turn(s, ids, 5, out, 1);
    publish(s, 11, 0, TT_OK);
    expect_miss(s, on, 7, TT_MISS_ADAPTER, C, 6);
    tt_session_plan p = plan_of(s, on, 7, 0); /* asked for the base: nothing has changed */
    assert_int_equal(p.miss, TT_MISS_NONE);
    assert_int_equal(p.adapter_id, 0);
    tt_session_plan_finish(&p);
    p = plan_of(s, on, 7, -1);
    assert_int_equal(p.adapter_id, 11);
    assert_int_equal(p.generation, 1);
    assert_int_equal(p.decoded[5], 1); /* who made a token does not depend on the adapter */
    tt_session_plan_finish(&p);
    turn(s, ids, 5, out, 1);
    expect_miss(s, on, 7, TT_MISS_NONE, 0, 6);
    tt_session_destroy(&s);
}

static void forks(void **state)
{
    static const struct {
        tt_session_fork_options opt;
        int32_t tokens, latest;
    } cases[] = {
        {{false, false}, C, 0}, {{true, false}, C, 1}, {{false, true}, 6, 0}, {{true, true}, 6, 1}};
    tt_session *s = fresh();
    const int32_t ids[] = {1, 2, 3, 4, 10}, out[] = {20}, on[] = {1, 2, 3, 4, 10, 20, 30};
    publish(s, 11, 0, TT_OK);
    turn(s, ids, 5, out, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tt_session *f = NULL;
        assert_int_equal(tt_session_fork(s, &cases[i].opt, &f, NULL), TT_OK);
        assert_int_equal(tt_session_tokens(f), cases[i].tokens);
        assert_int_equal(tt_session_latest(f), cases[i].latest);
        tt_session_plan p = plan_of(f, on, 7, -1);
        assert_true(p.context_equal);
        assert_int_equal(p.decoded != NULL, cases[i].opt.transcript);
        assert_int_equal(p.miss, cases[i].opt.transcript && !cases[i].opt.adapter ? TT_MISS_ADAPTER
                                                                                  : TT_MISS_NONE);
        tt_session_plan_finish(&p);
        turn(f, on, 7, out, 1); /* and what it does is its own */
        tt_session_destroy(&f);
        assert_int_equal(tt_session_tokens(s), 6);
    }
    tt_session_destroy(&s);
}

static void extends(void **state)
{
    tt_session *s = fresh();
    const int32_t ids[] = {1, 2, 3, 4, 10}, out[] = {20}, more[] = {1, 2, 3, 4, 10, 20, 40};
    const int32_t on[] = {1, 2, 3, 4, 10, 20, 40, 50};
    publish(s, 11, 0, TT_OK);
    turn(s, ids, 5, out, 1);
    tt_session_plan running = plan_of(s, ids, 5, -1);
    assert_int_equal(tt_session_extend(s, more, 7, NULL), TT_OK);
    assert_int_equal(tt_session_tokens(s), 7);
    assert_int_equal(tt_session_latest(s), 1);
    tt_session_plan p = plan_of(s, on, 8, -1);
    assert_int_equal(p.n_base, 7);
    assert_null(p.decoded); /* the context is the base's prefill, generated or not */
    tt_session_plan_finish(&p);
    /* A request that began on the old context leaves the new one alone. */
    assert_int_equal(tt_session_commit(s, &running, ids, 5, out, 1, NULL), TT_SESSION_STALE);
    tt_session_plan_finish(&running);
    assert_int_equal(tt_session_tokens(s), 7);
    expect_miss(s, ids, 5, TT_MISS_CONTEXT, 5, 5);
    tt_session_destroy(&s);
}

static void a_session_without_context(void **state)
{
    tt_session *s = NULL;
    assert_int_equal(tt_session_create(NULL, 0, 1, &s, NULL), TT_OK);
    const int32_t ids[] = {5, 6}, out[] = {7}, on[] = {5, 6, 7, 8}, other[] = {9};
    expect_miss(s, ids, 2, TT_MISS_NONE, 0, 0);
    turn(s, ids, 2, out, 1);
    expect_miss(s, on, 4, TT_MISS_NONE, 0, 3);
    expect_miss(s, other, 1, TT_MISS_TRANSCRIPT, 0, 0);
    tt_session_destroy(&s);
    tt_session_destroy(&s);
}

/* ---- random conversations against a plain model: every prompt and answer ever committed ---- */

typedef struct kept {
    int32_t ids[64], n;
    uint8_t flags[64];
} kept;

static int32_t same_start(const kept *k, const int32_t *ids, int32_t n)
{
    int32_t same = 0;
    while (same < n && same < k->n && ids[same] == k->ids[same]) {
        same++;
    }
    return same;
}

/* A prompt that goes on from, or cuts, one of those before. */
static int32_t random_prompt(tt_rng *rng, const kept *all, int32_t n_all, int32_t *ids)
{
    int32_t n = C;
    memcpy(ids, context, sizeof context);
    if (n_all > 0) {
        const kept *k = &all[tt_rng_below(rng, (uint64_t)n_all)];
        n = C + (int32_t)tt_rng_below(rng, (uint64_t)(k->n - C + 1));
        memcpy(ids, k->ids, (size_t)n * sizeof *ids);
    }
    for (uint64_t more = 1 + tt_rng_below(rng, 3); more > 0; more--) {
        ids[n++] = (int32_t)tt_rng_below(rng, 3);
    }
    return n;
}

/* The match is the longest there is; the flags are those of one that matches so far, 0 behind. */
static void check_plan(const tt_session_plan *p, const kept *all, int32_t n_all, const int32_t *ids,
                       int32_t n, uint8_t *ret_flags)
{
    int32_t longest = C;
    bool flags_found = n_all == 0;
    memset(ret_flags, 0, (size_t)n);
    if (p->decoded != NULL) {
        memcpy(ret_flags, p->decoded, (size_t)n);
    }
    for (int32_t k = 0; k < n_all; k++) {
        int32_t same = same_start(&all[k], ids, n);
        longest = same > longest ? same : longest;
        flags_found = flags_found || (same == p->matched &&
                                      memcmp(ret_flags, all[k].flags, (size_t)p->matched) == 0);
    }
    assert_int_equal(p->matched, longest);
    assert_true(flags_found);
    for (int32_t i = p->matched; i < n; i++) {
        assert_int_equal(ret_flags[i], 0);
    }
}

static void random_turns(void **state)
{
    tt_rng rng = tt_rng_make(42, 0);
    for (int round = 0; round < 300; round++) {
        tt_session *s = fresh();
        kept all[TT_SESSION_BRANCHES];
        for (int32_t t = 0; t < TT_SESSION_BRANCHES; t++) { /* so many that none is forgotten */
            kept *k = &all[t];
            int32_t n = random_prompt(&rng, all, t, k->ids);
            int32_t n_out = 1 + (int32_t)tt_rng_below(&rng, 4);
            tt_session_plan p = plan_of(s, k->ids, n, -1);
            check_plan(&p, all, t, k->ids, n, k->flags);
            for (k->n = n; k->n < n + n_out; k->n++) {
                k->ids[k->n] = (int32_t)tt_rng_below(&rng, 3);
                k->flags[k->n] = 1;
            }
            assert_int_equal(tt_session_commit(s, &p, k->ids, n, k->ids + n, n_out, NULL), TT_OK);
            tt_session_plan_finish(&p);
            const uint8_t *flags;
            int32_t head_n;
            uint64_t adapter;
            const int32_t *head = tt_session_transcript(s, &flags, &head_n, &adapter);
            assert_int_equal(head_n, k->n - C);
            assert_memory_equal(head, k->ids + C, (size_t)head_n * sizeof *head);
            assert_memory_equal(flags, k->flags + C, (size_t)head_n);
        }
        tt_session_destroy(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_on_from_an_answer),
        cmocka_unit_test(another_context_is_the_base_s),
        cmocka_unit_test(edit_regenerate_and_side_calls),
        cmocka_unit_test(branches_are_bounded),
        cmocka_unit_test(appends_are_transactions),
        cmocka_unit_test(generations),
        cmocka_unit_test(a_change_of_adapter_is_a_miss),
        cmocka_unit_test(resets_that_are_undone),
        cmocka_unit_test(forks),
        cmocka_unit_test(extends),
        cmocka_unit_test(a_session_without_context),
        cmocka_unit_test(random_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
