/* word_cache.h - what was found out a moment ago while text was encoded: the ids of words, and
 * which pairs of tokens merge. Text repeats its words and its pairs, and finding them here costs
 * less than merging, or asking the vocabulary, again. Hash tables of one entry a place, where the
 * newer wins: bounded, and never wrong. Thread: one. */
#ifndef TT_WORD_CACHE_H
#define TT_WORD_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { TT_WORD_CACHE_BYTES = 31, TT_WORD_CACHE_IDS = 7, TT_PAIR_CACHE_ENTRIES = 16384 };

/* The bytes of a word, zeros behind them, its length in the last; the first byte is the lowest
 * (little-endian machines, as everywhere). */
typedef struct tt_word_key {
    uint64_t part[4];
} tt_word_key;

typedef struct tt_word_entry {
    tt_word_key key;
    int32_t ids[TT_WORD_CACHE_IDS];
    int32_t n; /* 0 = free */
} tt_word_entry;

typedef struct tt_pair_entry {
    int32_t left, right;
    uint32_t rank;
    int32_t merged; /* -1: they do not merge */
} tt_pair_entry;

typedef struct tt_word_cache {
    tt_word_entry *entries; /* places of two, the newer first; NULL = nothing is remembered */
    tt_pair_entry *pairs;   /* [TT_PAIR_CACHE_ENTRIES] or NULL */
    size_t mask;
} tt_word_cache;

/* For a text of so many bytes; at most 2.3 MiB, pairs included, which are wanted by vocabularies
 * that look merges up by their spelling. When there is no memory, nothing is remembered. */
void tt_word_cache_init(tt_word_cache *c, size_t text_bytes, bool want_pairs);
/* Legal on a zeroed cache and twice. */
void tt_word_cache_finish(tt_word_cache *c);

/* p[0, n), 1 <= n <= TT_WORD_CACHE_BYTES; p[0, room) may be read, room >= n. */
static inline tt_word_key tt_word_key_of(const char *p, size_t n, size_t room)
{
    tt_word_key k = {{0}};
    if (room < sizeof k) {
        memcpy(&k, p, n);
    } else {
        memcpy(&k, p, sizeof k);
        for (size_t i = 0; i < 4; i++) { /* what is behind the word is none of its business */
            size_t have = n > 8 * i ? n - 8 * i : 0;
            k.part[i] &= have >= 8 ? UINT64_MAX : ((uint64_t)1 << 8 * have) - 1;
        }
    }
    k.part[3] |= (uint64_t)n << 56;
    return k;
}

/* The two entries that a word may have. */
static inline tt_word_entry *tt_word_cache_place(const tt_word_cache *c, const tt_word_key *k)
{
    uint64_t h = k->part[0] * 0x9e3779b97f4a7c15u ^ k->part[1] * 0xc2b2ae3d27d4eb4fu ^
                 k->part[2] * 0x165667b19e3779f9u ^ k->part[3] * 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return &c->entries[2 * ((size_t)(h >> 40) & c->mask)];
}

static inline const tt_word_entry *tt_word_cache_find(const tt_word_entry *place,
                                                      const tt_word_key *k)
{
    for (int i = 0; i < 2; i++) {
        const uint64_t *part = place[i].key.part;
        if (((part[0] ^ k->part[0]) | (part[1] ^ k->part[1]) | (part[2] ^ k->part[2]) |
             (part[3] ^ k->part[3])) == 0) {
            return &place[i];
        }
    }
    return NULL;
}

static inline tt_pair_entry *tt_pair_cache_place(const tt_word_cache *c, int32_t left,
                                                 int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return &c->pairs[(size_t)(h >> 40) % TT_PAIR_CACHE_ENTRIES];
}

#endif
