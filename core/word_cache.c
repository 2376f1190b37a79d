/* word_cache.c - see word_cache.h. */
#include "core/word_cache.h"

#include <stdlib.h>

enum { SMALLEST_TEXT = 1024, MOST_ENTRIES = 32768 }; /* 64 bytes each */

void tt_word_cache_init(tt_word_cache *c, size_t text_bytes, bool want_pairs)
{
    size_t n = 64;
    *c = (tt_word_cache){0};
    if (text_bytes < SMALLEST_TEXT) {
        return;
    }
    while (n < MOST_ENTRIES && n < text_bytes / 16) {
        n *= 2;
    }
    c->entries = calloc(n, sizeof *c->entries);
    c->mask = n / 2 - 1;
    if (want_pairs) {
        c->pairs = malloc(TT_PAIR_CACHE_ENTRIES * sizeof *c->pairs);
    }
    for (size_t i = 0; c->pairs != NULL && i < TT_PAIR_CACHE_ENTRIES; i++) {
        c->pairs[i].left = -1; /* nobody asks about it */
    }
}

void tt_word_cache_finish(tt_word_cache *c)
{
    free(c->entries);
    free(c->pairs);
    c->entries = NULL;
    c->pairs = NULL;
}
