/* arena.c - see arena.h. Blocks double from 4 KiB to 1 MiB; a larger request gets a block of its
 * own. */
#include "core/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct tt_arena_block {
    tt_arena_block *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
};

void tt_arena_init(tt_arena *a, size_t limit_bytes)
{
    *a = (tt_arena){.limit = limit_bytes};
}

void tt_arena_finish(tt_arena *a)
{
    for (tt_arena_block *b = a->head; b != NULL;) {
        tt_arena_block *next = b->next;
        free(b);
        b = next;
    }
    a->head = NULL;
    a->used = 0;
}

void *tt_arena_alloc(tt_arena *a, size_t n_bytes)
{
    if (n_bytes > SIZE_MAX / 2) {
        return NULL;
    }
    size_t n = (n_bytes + 16) & ~(size_t)15;
    if (a->limit != 0 && n > a->limit - a->used) {
        return NULL;
    }
    tt_arena_block *b = a->head;
    if (b == NULL || n > b->size - b->used) {
        size_t size = b == NULL ? 4096 : b->size < 512 * 1024 ? b->size * 2 : 1024 * 1024;
        size = n > size ? n : size;
        tt_arena_block *fresh = malloc(sizeof *fresh + size);
        if (fresh == NULL) {
            return NULL;
        }
        *fresh = (tt_arena_block){.next = b, .size = size};
        a->head = b = fresh;
    }
    void *p = b->data + b->used;
    b->used += n;
    a->used += n;
    return p;
}

void *tt_arena_calloc(tt_arena *a, size_t n, size_t elem_bytes)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, elem_bytes, &bytes)) {
        return NULL;
    }
    void *p = tt_arena_alloc(a, bytes);
    if (p != NULL) {
        memset(p, 0, bytes);
    }
    return p;
}

char *tt_arena_strndup(tt_arena *a, const char *s, size_t n)
{
    char *p = n < SIZE_MAX ? tt_arena_alloc(a, n + 1) : NULL;
    if (p != NULL) {
        memcpy(p, s, n);
        p[n] = '\0';
    }
    return p;
}
