/* token_merge.h - the merge loop of byte-pair encoding over one word, for merges by rank and by
 * score alike. Thread: a workspace belongs to one call of encode. */
#ifndef TT_TOKEN_MERGE_H
#define TT_TOKEN_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* May the neighbours `left` and `right`, spelt together p[0..n), merge? Lower ranks merge first, of
 * equal ranks the leftmost. Never asked about a symbol with a negative id. */
typedef bool (*tt_merge_find)(const void *ctx, int32_t left, int32_t right, const char *p, size_t n,
                              uint32_t *ret_rank, int32_t *ret_merged);

/* Symbols are named by the offset of their first byte in the word; the arrays grow to the longest
 * word. A word of more than a few dozen symbols needs 36 bytes of memory a byte of it, a shorter
 * one only the first two arrays. */
typedef struct tt_merge_space {
    const char *word;
    size_t n_bytes, n_symbols;
    int32_t *ids;   /* [cap] */
    uint32_t *next; /* [cap] offset of the next symbol; n_bytes = none */
    uint32_t *prev; /* [cap_long] UINT32_MAX = none */
    struct tt_merge_candidate {
        uint32_t rank;
        int32_t merged; /* -1 = the symbol cannot merge with the next, or is no more */
    } * best;           /* [cap_long] */
    uint64_t *heap;     /* [2 * cap_long] rank << 32 | offset, smallest first */
    size_t n_heap, cap, cap_long;
    uint32_t head, tail;
} tt_merge_space;

/* Begins a word; it is borrowed until the next one. False: out of memory. n_bytes < UINT32_MAX
 * (asserted). */
bool tt_merge_begin(tt_merge_space *s, const char *word, size_t n_bytes);
/* Appends a symbol; offsets rise. id -1: never merges, the caller gives it its meaning afterwards.
 */
void tt_merge_add(tt_merge_space *s, uint32_t offset, int32_t id);
/* Merges until nothing does: O(n log n) calls of find and of the heap. False: out of memory.
 * Afterwards walk for (uint32_t i = s->head; i != s->n_bytes; i = s->next[i]) s->ids[i] */
bool tt_merge_run(tt_merge_space *s, tt_merge_find find, const void *ctx);
void tt_merge_finish(tt_merge_space *s);

#endif
