/* test_token_map.c - the three lookups of a tokenizer against linear searches over random keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "core/token_map.h"
#include "fail_alloc.h"

enum { N = 1500, MAX_BYTES = 6 };

static char text[N][MAX_BYTES];
static tt_str keys[N];

/* Short strings over three bytes, NUL among them: many occur twice, many are prefixes of others. */
static void draw(uint64_t seed)
{
    tt_rng rng = tt_rng_make(seed, 0);
    for (int i = 0; i < N; i++) {
        uint32_t n = (uint32_t)tt_rng_below(&rng, MAX_BYTES + 1);
        for (uint32_t j = 0; j < n; j++) {
            text[i][j] = "a\0\xff"[tt_rng_below(&rng, 3)];
        }
        keys[i] = (tt_str){.p = text[i], .n = n};
    }
}

static int32_t search(const char *p, size_t n, int32_t n_keys)
{
    for (int32_t i = 0; i < n_keys; i++) {
        if (keys[i].n == n && memcmp(keys[i].p, p, n) == 0) {
            return i;
        }
    }
    return -1;
}

static void test_spellings(void **state)
{
    tt_token_map m;
    tt_err err;
    draw(1);
    enum { KNOWN = 500 }; /* the others are asked for and may be missing */
    assert_int_equal(tt_token_map_init(&m, keys, KNOWN, &err), TT_OK);
    int found = 0;
    for (int i = 0; i < N; i++) {
        int32_t want = search(keys[i].p, keys[i].n, KNOWN);
        assert_int_equal(tt_token_map_find(&m, keys[i].p, keys[i].n), want);
        found += want >= 0;
    }
    assert_true(found > KNOWN && found < N);                    /* both answers were asked for */
    assert_int_equal(tt_token_map_find(&m, "aaaaaaaa", 8), -1); /* longer than any */
    tt_token_map_finish(&m);
    tt_token_map_finish(&m);
    static const tt_str longest_first[] = {{"abc", 3}, {"b", 1}};
    assert_int_equal(tt_token_map_init(&m, longest_first, 2, &err), TT_OK);
    assert_int_equal(tt_token_map_find(&m, "abc", 3), 0);
    assert_int_equal(tt_token_map_find(&m, "b", 1), 1);
    tt_token_map_finish(&m);
    assert_int_equal(tt_token_map_init(&m, keys, 0, &err), TT_OK);
    assert_int_equal(tt_token_map_find(&m, "a", 1), -1);
    assert_int_equal(tt_token_map_find(&m, "", 0), -1);
    tt_token_map_finish(&m);
}

static void test_pairs(void **state)
{
    enum { PAIRS = 4000, IDS = 100 };
    tt_pair_map m;
    tt_err err;
    tt_rng rng = tt_rng_make(2, 0);
    static struct {
        bool known;
        uint32_t rank;
        int32_t merged;
    } table[IDS][IDS];
    assert_int_equal(tt_pair_map_init(&m, PAIRS, &err), TT_OK);
    for (uint32_t i = 0; i < PAIRS; i++) {
        int32_t l = (int32_t)tt_rng_below(&rng, IDS), r = (int32_t)tt_rng_below(&rng, IDS);
        tt_pair_map_put(&m, l, r, i, (int32_t)i * 3);
        if (!table[l][r].known) {
            table[l][r].known = true;
            table[l][r].rank = i;
            table[l][r].merged = (int32_t)i * 3;
        }
    }
    int missing = 0;
    for (int32_t l = 0; l < IDS; l++) {
        for (int32_t r = 0; r < IDS; r++) {
            const struct tt_pair_slot *s = tt_pair_map_find(&m, l, r);
            assert_int_equal(s != NULL, table[l][r].known);
            assert_true(s == NULL ||
                        (s->left == l && s->right == r && s->rank == table[l][r].rank &&
                         s->merged == table[l][r].merged));
            missing += s == NULL;
        }
    }
    assert_true(missing > 0);
    assert_null(tt_pair_map_find(&m, INT32_MAX, 0));
    tt_pair_map_finish(&m);
    assert_int_equal(tt_pair_map_init(&m, 0, &err), TT_OK);
    assert_null(tt_pair_map_find(&m, 0, 0));
    tt_pair_map_finish(&m);
}

/* The id at the end of a walk, -1 where it stops or no string ends. */
static int32_t walk(const tt_token_trie *t, const char *p, size_t n)
{
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        node = tt_token_trie_step(t, node, (unsigned char)p[i]);
        if (node == 0) {
            return -1;
        }
        assert_true(node < t->n_nodes);
    }
    return n > 0 ? t->ids[node] : -1;
}

static void test_trie(void **state)
{
    enum { KNOWN = 500 };
    tt_token_trie t;
    tt_err err;
    draw(3);
    assert_int_equal(tt_token_trie_init(&t, &err), TT_OK);
    assert_int_equal(walk(&t, "a", 1), -1);
    for (int i = 0; i < KNOWN; i++) {
        assert_int_equal(tt_token_trie_add(&t, keys[i].p, keys[i].n, i, &err), TT_OK);
    }
    for (int i = 0; i < N; i++) {
        int32_t want = keys[i].n > 0 ? search(keys[i].p, keys[i].n, KNOWN) : -1;
        assert_int_equal(walk(&t, keys[i].p, keys[i].n), want);
    }
    for (int c = 0; c < 256; c++) {
        bool want = c == 'a' || c == 0 || c == 255;
        assert_int_equal(t.first[c], want);
        assert_int_equal(tt_token_trie_step(&t, 0, (unsigned char)c) != 0, want);
    }
    static char longest[70000]; /* far beyond one growth of its tables */
    memset(longest, 'b', sizeof longest);
    assert_int_equal(tt_token_trie_add(&t, longest, sizeof longest, 77777, &err), TT_OK);
    assert_int_equal(walk(&t, longest, sizeof longest), 77777);
    assert_int_equal(walk(&t, longest, sizeof longest - 1), -1);
    int32_t want = search(keys[9].p, keys[9].n, KNOWN);
    assert_int_equal(walk(&t, keys[9].p, keys[9].n), keys[9].n > 0 ? want : -1);
    tt_token_trie_finish(&t);
}

static tt_code make_all(tt_token_map *m, tt_pair_map *p, tt_token_trie *t, tt_err *err)
{
    tt_code rc = tt_token_map_init(m, keys, N, err);
    if (rc == TT_OK) {
        rc = tt_pair_map_init(p, N, err);
    }
    if (rc == TT_OK) {
        rc = tt_token_trie_init(t, err);
    }
    for (int i = 0; rc == TT_OK && i < N; i++) {
        rc = tt_token_trie_add(t, keys[i].p, keys[i].n, i, err);
    }
    return rc;
}

static void test_no_memory(void **state)
{
    tt_err err;
    draw(4);
    for (int n = 0;; n++) {
        tt_token_map m = {0};
        tt_pair_map p = {0};
        tt_token_trie t = {0};
        fail_alloc_at(n);
        tt_code rc = make_all(&m, &p, &t, &err);
        bool refused = fail_alloc_off();
        assert_int_equal(rc, refused ? TT_E_NOMEM : TT_OK);
        tt_token_map_finish(&m);
        tt_pair_map_finish(&p);
        tt_token_trie_finish(&t);
        if (!refused) {
            assert_true(n >= 6);
            break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_trie),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
