/* token_map.h - the lookups of a tokenizer: spelling -> id, pair of ids -> merge, and a trie of the
 * added tokens. Thread: filled by one, then immutable. */
#ifndef TT_TOKEN_MAP_H
#define TT_TOKEN_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/vocab.h"
#include "kernels/err.h"

/* Spelling -> id over an array of strings that stays where it is (borrowed while the map lives). */
typedef struct tt_token_map {
    const tt_str *tokens;
    struct tt_token_slot {
        uint32_t hash;
        int32_t id; /* -1 = free */
    } * slots;
    size_t mask;
    uint64_t *filter; /* bit set by hash, small enough for a near cache: most questions are about
                         what is not there */
    size_t filter_mask;
    uint32_t max_bytes; /* longest key */
} tt_token_map;

/* Of equal spellings the first wins. */
tt_code tt_token_map_init(tt_token_map *m, const tt_str *tokens, int32_t n, tt_err *reterr);
void tt_token_map_finish(tt_token_map *m);
int32_t tt_token_map_find(const tt_token_map *m, const char *p, size_t n); /* -1 = none */

/* (left id, right id) -> rank (lower merges first) and the id of the merged token. */
typedef struct tt_pair_map {
    struct tt_pair_slot {
        int32_t left, right; /* left -1 = free */
        uint32_t rank;
        int32_t merged;
    } * slots;
    size_t mask;
    uint64_t *filter; /* as in tt_token_map */
    size_t filter_mask;
} tt_pair_map;

tt_code tt_pair_map_init(tt_pair_map *m, int32_t max_pairs, tt_err *reterr);
void tt_pair_map_finish(tt_pair_map *m);
/* A pair that is there already keeps its rank. At most max_pairs in all (asserted). */
void tt_pair_map_put(tt_pair_map *m, int32_t left, int32_t right, uint32_t rank, int32_t merged);
const struct tt_pair_slot *tt_pair_map_find(const tt_pair_map *m, int32_t left, int32_t right);

/* A set of byte strings walked one byte at a time. Node 0 is the root. */
typedef struct tt_token_trie {
    struct tt_trie_edge {
        uint32_t from; /* node << 8 | byte; UINT32_MAX = free */
        uint32_t to;
    } * edges;
    size_t mask, n_edges;
    int32_t *ids; /* [n_nodes] id of the string that ends here, -1 = none */
    uint32_t n_nodes, cap_nodes;
    bool first[256]; /* a string begins with this byte */
} tt_token_trie;

tt_code tt_token_trie_init(tt_token_trie *t, tt_err *reterr);
void tt_token_trie_finish(tt_token_trie *t);
/* Empty strings are ignored; of equal strings the first wins. TT_E_NOMEM, TT_E_UNSUPPORTED over
 * 2^24 nodes. */
tt_code tt_token_trie_add(tt_token_trie *t, const char *p, size_t n, int32_t id, tt_err *reterr);
/* The node after `byte`, or 0 when no string goes on so. */
uint32_t tt_token_trie_step(const tt_token_trie *t, uint32_t node, unsigned char byte);

#endif
