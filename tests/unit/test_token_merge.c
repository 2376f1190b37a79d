/* test_token_merge.c - the merge loop, with its heap, against a plain search for the lowest rank.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/token_merge.h"

enum { MAX_N = 600 };

/* Symbols are numbers; some pairs merge into a further one, with any rank. */
struct language {
    struct {
        uint32_t rank;
        int32_t merged; /* 0 = none */
    } pairs[64][64];
    int32_t n;
};

static uint64_t seed = 0x1234;

static unsigned below(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

static void make_language(struct language *l, bool equal_ranks)
{
    memset(l, 0, sizeof *l);
    l->n = 3;
    for (int merges = 10 + (int)below(50); merges > 0 && l->n < 64; merges--) {
        int32_t a = (int32_t)below((unsigned)l->n), b = (int32_t)below((unsigned)l->n);
        if (l->pairs[a][b].merged == 0) {
            l->pairs[a][b].merged = l->n++;
            l->pairs[a][b].rank = equal_ranks ? below(3) : below(1000000);
        }
    }
}

static bool find(const void *ctx, int32_t left, int32_t right, const char *p, size_t n,
                 uint32_t *ret_rank, int32_t *ret_merged)
{
    const struct language *l = ctx;
    assert_true(left >= 0 && right >= 0 && n >= 2 && p != NULL);
    *ret_rank = l->pairs[left][right].rank;
    *ret_merged = l->pairs[left][right].merged;
    return l->pairs[left][right].merged != 0;
}

static size_t naive(const struct language *l, int32_t *ids, size_t n)
{
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++) {
            if (ids[i] >= 0 && ids[i + 1] >= 0 && l->pairs[ids[i]][ids[i + 1]].merged != 0 &&
                (best == n ||
                 l->pairs[ids[i]][ids[i + 1]].rank < l->pairs[ids[best]][ids[best + 1]].rank)) {
                best = i;
            }
        }
        if (best == n) {
            return n;
        }
        ids[best] = l->pairs[ids[best]][ids[best + 1]].merged;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

static void random_words(void **state)
{
    (void)state;
    static struct language l;
    static char word[MAX_N];
    static int32_t expected[MAX_N], got[MAX_N];
    tt_merge_space space = {0};
    memset(word, 'x', sizeof word);
    for (int round = 0; round < 4000; round++) {
        if (round % 10 == 0) {
            make_language(&l, round % 20 == 0);
        }
        size_t n = below(4) == 0 ? below(MAX_N) : below(60), n_symbols = 0, n_got = 0;
        unsigned letters = 1 + below(3);
        assert_true(tt_merge_begin(&space, word, n));
        for (size_t i = 0; i < n; i++) {
            if (below(20) == 0) {
                continue; /* a byte without a symbol: its neighbours are neighbours */
            }
            int32_t id = below(30) == 0 ? -1 : (int32_t)below(letters);
            tt_merge_add(&space, (uint32_t)i, id);
            expected[n_symbols++] = id;
        }
        assert_true(tt_merge_run(&space, find, &l));
        for (uint32_t i = space.head; i != n; i = space.next[i]) {
            got[n_got++] = space.ids[i];
        }
        n_symbols = naive(&l, expected, n_symbols);
        assert_int_equal(n_got, n_symbols);
        assert_memory_equal(got, expected, n_got * sizeof *got);
    }
    tt_merge_finish(&space);
    tt_merge_finish(&space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_words)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
