/* lookup.h - where in a text its own end has occurred before: the source of drafts. An index over
 * every three tokens in a row, in chains from the latest occurrence back, as in LZ77: taking a
 * token in and a search are both O(1). Source of the idea: Saxena, "Prompt lookup decoding" (2023).
 * Thread: a lookup belongs to its request. */
#ifndef TT_LOOKUP_H
#define TT_LOOKUP_H

#include <stdint.h>

#define TT_LOOKUP_MIN 3  /* tokens of the shortest match */
#define TT_LOOKUP_MAX 32 /* longer ones are not told apart */

typedef struct tt_lookup {
    int32_t *head;  /* owned [1 << bits]: by hash of three tokens, what last followed them; -1 */
    int32_t *prev;  /* owned [cap]: by position, the one before it in its chain; -1 */
    int32_t n, cap; /* positions that are in the index: [MIN, n) */
    int32_t bits;
    int32_t source; /* where the copy under way goes on if its next token is right; -1 = none */
    int32_t end;    /* n of the find that found it */
} tt_lookup;

/* Legal on a zeroed lookup and twice. */
void tt_lookup_finish(tt_lookup *l);

/* The earlier place in ids[0, n) whose tokens before it agree with the end of ids for longest, of
 * several the latest: returns for how many tokens, MIN..MAX, *ret_at what followed there (the
 * draft's first token is ids[*ret_at]); 0: none, or no memory for the index. Of places that agree
 * for MAX the one that is being copied from stays. The text is that of the last call, with more
 * tokens at its end. */
int32_t tt_lookup_find(tt_lookup *l, const int32_t *ids, int32_t n, int32_t *ret_at);
/* What a copy from `at` on would append to ids[0, n): draft[n_draft]; what it reads may be what it
 * has just appended. */
void tt_lookup_copy(const int32_t *ids, int32_t n, int32_t at, int32_t *draft, int32_t n_draft);

#endif
