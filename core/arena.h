/* arena.h - one region of memory with a byte limit, freed as a whole. Thread: one at a time. */
#ifndef TT_ARENA_H
#define TT_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct tt_arena_block tt_arena_block;

typedef struct tt_arena {
    tt_arena_block *head;
    size_t used, limit; /* bytes handed out (with padding); limit 0 = none */
} tt_arena;

void tt_arena_init(tt_arena *a, size_t limit_bytes);
/* Frees everything; legal on a zeroed arena and twice. */
void tt_arena_finish(tt_arena *a);

/* 16-byte aligned memory, not zeroed; NULL when the limit or the machine is out. n == 0 gives a
 * unique address. */
void *tt_arena_alloc(tt_arena *a, size_t n_bytes);
/* Zeroed array; the product is checked for overflow. */
void *tt_arena_calloc(tt_arena *a, size_t n, size_t elem_bytes);
/* Copies n bytes and adds a NUL. */
char *tt_arena_strndup(tt_arena *a, const char *s, size_t n);

#endif
