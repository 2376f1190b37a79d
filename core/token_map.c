/* token_map.c - see token_map.h. Open addressing, linear probes, at most half full; slots never
 * move once filled. */
#include "core/token_map.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { TRIE_MAX_NODES = 1 << 24 };

static size_t slots_for(size_t n)
{
    size_t cap = 16;
    while (cap < 2 * n) {
        cap *= 2;
    }
    return cap;
}

/* Eight bits or more an entry: one question in eight about what is not there passes, the others end
 * here. */
static uint64_t *new_filter(size_t n_slots, size_t *ret_mask)
{
    size_t bits = 4 * n_slots;
    *ret_mask = bits - 1;
    return calloc(bits / 64, sizeof(uint64_t));
}

static void filter_set(uint64_t *filter, size_t mask, uint64_t hash)
{
    size_t bit = (size_t)(hash >> 20) & mask;
    filter[bit / 64] |= (uint64_t)1 << bit % 64;
}

static bool filter_has(const uint64_t *filter, size_t mask, uint64_t hash)
{
    size_t bit = (size_t)(hash >> 20) & mask;
    return (filter[bit / 64] >> bit % 64 & 1) != 0;
}

tt_code tt_token_map_init(tt_token_map *m, const tt_str *tokens, int32_t n, tt_err *reterr)
{
    size_t cap = slots_for((size_t)n);
    *m = (tt_token_map){.tokens = tokens, .mask = cap - 1};
    m->slots = malloc(cap * sizeof *m->slots);
    m->filter = new_filter(cap, &m->filter_mask);
    if (m->slots == NULL || m->filter == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a vocabulary of %d tokens", n);
    }
    for (size_t i = 0; i < cap; i++) {
        m->slots[i].id = -1;
    }
    for (int32_t id = 0; id < n; id++) {
        uint64_t wide = XXH3_64bits(tokens[id].p, tokens[id].n);
        uint32_t hash = (uint32_t)wide;
        size_t i = hash & m->mask;
        bool known = false;
        while (m->slots[i].id >= 0 && !known) {
            const tt_str *old = &tokens[m->slots[i].id];
            known = m->slots[i].hash == hash && old->n == tokens[id].n &&
                    memcmp(old->p, tokens[id].p, old->n) == 0;
            i = (i + 1) & m->mask;
        }
        if (!known) {
            m->slots[i] = (struct tt_token_slot){hash, id};
            filter_set(m->filter, m->filter_mask, wide);
            m->max_bytes = tokens[id].n > m->max_bytes ? tokens[id].n : m->max_bytes;
        }
    }
    return TT_OK;
}

void tt_token_map_finish(tt_token_map *m)
{
    free(m->slots);
    free(m->filter);
    m->slots = NULL;
    m->filter = NULL;
}

int32_t tt_token_map_find(const tt_token_map *m, const char *p, size_t n)
{
    if (n > m->max_bytes) {
        return -1;
    }
    uint64_t wide = XXH3_64bits(p, n);
    if (!filter_has(m->filter, m->filter_mask, wide)) {
        return -1;
    }
    uint32_t hash = (uint32_t)wide;
    for (size_t i = hash & m->mask; m->slots[i].id >= 0; i = (i + 1) & m->mask) {
        if (m->slots[i].hash == hash) {
            const tt_str *s = &m->tokens[m->slots[i].id];
            if (s->n == n && memcmp(s->p, p, n) == 0) {
                return m->slots[i].id;
            }
        }
    }
    return -1;
}

static uint64_t mix(uint64_t key)
{
    key *= 0x9e3779b97f4a7c15u;
    return key ^ key >> 32;
}

tt_code tt_pair_map_init(tt_pair_map *m, int32_t max_pairs, tt_err *reterr)
{
    size_t cap = slots_for((size_t)max_pairs);
    *m = (tt_pair_map){.mask = cap - 1};
    m->slots = malloc(cap * sizeof *m->slots);
    m->filter = new_filter(cap, &m->filter_mask);
    if (m->slots == NULL || m->filter == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %d merges", max_pairs);
    }
    for (size_t i = 0; i < cap; i++) {
        m->slots[i].left = -1;
    }
    return TT_OK;
}

void tt_pair_map_finish(tt_pair_map *m)
{
    free(m->slots);
    free(m->filter);
    m->slots = NULL;
    m->filter = NULL;
}

static uint64_t pair_hash(int32_t left, int32_t right)
{
    return mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right);
}

static struct tt_pair_slot *pair_slot(const tt_pair_map *m, uint64_t hash, int32_t left,
                                      int32_t right)
{
    size_t i = (size_t)hash & m->mask;
    while (m->slots[i].left >= 0 && (m->slots[i].left != left || m->slots[i].right != right)) {
        i = (i + 1) & m->mask;
    }
    return &m->slots[i];
}

void tt_pair_map_put(tt_pair_map *m, int32_t left, int32_t right, uint32_t rank, int32_t merged)
{
    assert(left >= 0 && right >= 0 && merged >= 0);
    uint64_t hash = pair_hash(left, right);
    struct tt_pair_slot *s = pair_slot(m, hash, left, right);
    if (s->left < 0) {
        *s = (struct tt_pair_slot){left, right, rank, merged};
        filter_set(m->filter, m->filter_mask, hash);
    }
}

const struct tt_pair_slot *tt_pair_map_find(const tt_pair_map *m, int32_t left, int32_t right)
{
    uint64_t hash = pair_hash(left, right);
    if (!filter_has(m->filter, m->filter_mask, hash)) {
        return NULL;
    }
    const struct tt_pair_slot *s = pair_slot(m, hash, left, right);
    return s->left < 0 ? NULL : s;
}

static struct tt_trie_edge *trie_edge(const tt_token_trie *t, uint32_t from)
{
    size_t i = mix(from) & t->mask;
    while (t->edges[i].from != UINT32_MAX && t->edges[i].from != from) {
        i = (i + 1) & t->mask;
    }
    return &t->edges[i];
}

static struct tt_trie_edge *new_edges(size_t cap)
{
    struct tt_trie_edge *edges = malloc(cap * sizeof *edges);
    if (edges != NULL) {
        memset(edges, 0xff, cap * sizeof *edges);
    }
    return edges;
}

tt_code tt_token_trie_init(tt_token_trie *t, tt_err *reterr)
{
    *t = (tt_token_trie){.mask = 63, .n_nodes = 1, .cap_nodes = 64};
    t->edges = new_edges(t->mask + 1);
    t->ids = malloc(t->cap_nodes * sizeof *t->ids);
    if (t->edges == NULL || t->ids == NULL) {
        tt_token_trie_finish(t);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the added tokens");
    }
    t->ids[0] = -1;
    return TT_OK;
}

void tt_token_trie_finish(tt_token_trie *t)
{
    free(t->edges);
    free(t->ids);
    t->edges = NULL;
    t->ids = NULL;
}

/* Room for one more node and its edge. */
static bool trie_reserve(tt_token_trie *t)
{
    if (t->n_nodes == t->cap_nodes) {
        int32_t *ids = realloc(t->ids, 2 * (size_t)t->cap_nodes * sizeof *ids);
        if (ids == NULL) {
            return false;
        }
        t->ids = ids;
        t->cap_nodes *= 2;
    }
    if (2 * (t->n_edges + 1) <= t->mask + 1) {
        return true;
    }
    tt_token_trie grown = *t;
    grown.mask = 2 * (t->mask + 1) - 1;
    grown.edges = new_edges(grown.mask + 1);
    if (grown.edges == NULL) {
        return false;
    }
    for (size_t i = 0; i <= t->mask; i++) {
        if (t->edges[i].from != UINT32_MAX) {
            *trie_edge(&grown, t->edges[i].from) = t->edges[i];
        }
    }
    free(t->edges);
    *t = grown;
    return true;
}

tt_code tt_token_trie_add(tt_token_trie *t, const char *p, size_t n, int32_t id, tt_err *reterr)
{
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t from = node << 8 | (unsigned char)p[i];
        struct tt_trie_edge *e = trie_edge(t, from);
        if (e->from == UINT32_MAX) {
            if (t->n_nodes >= TRIE_MAX_NODES - 1) {
                return tt_fail(reterr, TT_E_UNSUPPORTED, "the added tokens are too long in all");
            }
            if (!trie_reserve(t)) {
                return tt_fail(reterr, TT_E_NOMEM, "no memory for the added tokens");
            }
            e = trie_edge(t, from);
            *e = (struct tt_trie_edge){from, t->n_nodes};
            t->ids[t->n_nodes++] = -1;
            t->n_edges++;
        }
        node = e->to;
    }
    if (n > 0) {
        t->first[(unsigned char)p[0]] = true;
        if (t->ids[node] < 0) {
            t->ids[node] = id;
        }
    }
    return TT_OK;
}

uint32_t tt_token_trie_step(const tt_token_trie *t, uint32_t node, unsigned char byte)
{
    const struct tt_trie_edge *e = trie_edge(t, node << 8 | byte);
    return e->from == UINT32_MAX ? 0 : e->to;
}
