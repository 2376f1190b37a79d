/* lookup.c - see lookup.h. */
#include "core/lookup.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHAIN = 32,    /* places that a search looks at */
    MIN_BITS = 10, /* of the table of heads, which has at least as many as there are positions */
};

void tt_lookup_finish(tt_lookup *l)
{
    free(l->head);
    free(l->prev);
    *l = (tt_lookup){0};
}

/* Of the three tokens before `at`. */
static uint32_t hash_at(const tt_lookup *l, const int32_t *ids, int32_t at)
{
    uint64_t h = (uint64_t)(uint32_t)ids[at - 3] * 0x9E3779B97F4A7C15u;
    h = (h ^ (h >> 29) ^ (uint32_t)ids[at - 2]) * 0xBF58476D1CE4E5B9u;
    h = (h ^ (h >> 32) ^ (uint32_t)ids[at - 1]) * 0x94D049BB133111EBu;
    return (uint32_t)(h >> (64 - l->bits));
}

static void insert(tt_lookup *l, const int32_t *ids, int32_t at)
{
    uint32_t h = hash_at(l, ids, at);
    l->prev[at] = l->head[h];
    l->head[h] = at;
}

/* Room for n positions; those that were there are put into the larger table again. */
static bool grow(tt_lookup *l, const int32_t *ids, int32_t n)
{
    if (n <= l->cap) {
        return true;
    }
    int32_t cap = n + n / 2 + 64, bits = MIN_BITS;
    while (bits < 30 && 1 << bits < cap) {
        bits++;
    }
    size_t heads = (size_t)1 << bits;
    int32_t *head = malloc(heads * sizeof *head);
    int32_t *prev = malloc((size_t)cap * sizeof *prev);
    if (head == NULL || prev == NULL) {
        free(head);
        free(prev);
        return false;
    }
    free(l->head);
    free(l->prev);
    memset(head, 0xff, heads * sizeof *head);
    l->head = head;
    l->prev = prev;
    l->cap = cap;
    l->bits = bits;
    for (int32_t at = TT_LOOKUP_MIN; at < l->n; at++) {
        insert(l, ids, at);
    }
    return true;
}

/* Tokens before `at` that are those before n. */
static int32_t agreement(const int32_t *ids, int32_t n, int32_t at)
{
    int32_t k = 0, most = at < TT_LOOKUP_MAX ? at : TT_LOOKUP_MAX;
    while (k < most && ids[at - 1 - k] == ids[n - 1 - k]) {
        k++;
    }
    return k;
}

/* The copy under way, with the tokens that have come since: it may be further back than the chain
 * is followed. */
static void go_on(tt_lookup *l, const int32_t *ids, int32_t n)
{
    while (l->source >= 0 && l->end < n) {
        l->source = ids[l->source] == ids[l->end] ? l->source + 1 : -1;
        l->end++;
    }
}

int32_t tt_lookup_find(tt_lookup *l, const int32_t *ids, int32_t n, int32_t *ret_at)
{
    assert(n >= l->n);
    if (l->cap == 0) {
        l->source = -1;
    }
    if (!grow(l, ids, n) || n < TT_LOOKUP_MIN) {
        return 0;
    }
    for (int32_t at = l->n > TT_LOOKUP_MIN ? l->n : TT_LOOKUP_MIN; at < n; at++) {
        insert(l, ids, at);
    }
    l->n = n;
    go_on(l, ids, n);
    int32_t best = l->source >= 0 ? agreement(ids, n, l->source) : 0;
    int32_t found = best >= TT_LOOKUP_MIN ? l->source : -1;
    int32_t at = l->head[hash_at(l, ids, n)];
    for (int32_t i = 0; i < CHAIN && at >= 0 && best < TT_LOOKUP_MAX; i++, at = l->prev[at]) {
        int32_t k = agreement(ids, n, at);
        if (k >= TT_LOOKUP_MIN && (k > best || (k == best && at > found))) {
            best = k;
            found = at;
        }
    }
    l->source = found;
    l->end = n;
    if (found < 0) {
        return 0;
    }
    *ret_at = found;
    return best;
}

void tt_lookup_copy(const int32_t *ids, int32_t n, int32_t at, int32_t *draft, int32_t n_draft)
{
    assert(at >= 0 && at < n);
    for (int32_t i = 0; i < n_draft; i++, at++) {
        draft[i] = at < n ? ids[at] : draft[at - n];
    }
}
