/* token_merge.c - see token_merge.h. Short words scan for the lowest rank; long ones keep a heap of
 * candidates that is never searched: a candidate that is no longer the best of its place is
 * recognised when it comes out. */
#include "core/token_merge.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT_WORD = 32 }; /* symbols; the scan is quadratic, but below this faster than the heap */

bool tt_merge_begin(tt_merge_space *s, const char *word, size_t n_bytes)
{
    assert(n_bytes < UINT32_MAX);
    if (n_bytes > s->cap) {
        size_t cap = n_bytes < 256 ? 256 : n_bytes;
        int32_t *ids = realloc(s->ids, cap * sizeof *ids);
        s->ids = ids != NULL ? ids : s->ids;
        uint32_t *next = realloc(s->next, cap * sizeof *next);
        s->next = next != NULL ? next : s->next;
        if (ids == NULL || next == NULL) {
            return false;
        }
        s->cap = cap;
    }
    s->word = word;
    s->n_bytes = n_bytes;
    s->n_symbols = 0;
    s->head = (uint32_t)n_bytes;
    s->tail = UINT32_MAX;
    return true;
}

void tt_merge_add(tt_merge_space *s, uint32_t offset, int32_t id)
{
    assert(offset < s->n_bytes && (s->n_symbols == 0 || offset > s->tail));
    if (s->n_symbols++ == 0) {
        s->head = offset;
    } else {
        s->next[s->tail] = offset;
    }
    s->ids[offset] = id;
    s->next[offset] = (uint32_t)s->n_bytes;
    s->tail = offset;
}

static bool find_at(const tt_merge_space *s, tt_merge_find find, const void *ctx, uint32_t a,
                    uint32_t *ret_rank, int32_t *ret_merged)
{
    uint32_t b = s->next[a];
    if (b == s->n_bytes || s->ids[a] < 0 || s->ids[b] < 0) {
        return false;
    }
    return find(ctx, s->ids[a], s->ids[b], s->word + a, s->next[b] - a, ret_rank, ret_merged);
}

static void run_short(tt_merge_space *s, tt_merge_find find, const void *ctx)
{
    uint32_t at[SHORT_WORD], rank[SHORT_WORD];
    int32_t merged[SHORT_WORD]; /* -1 = the symbol does not merge with the next */
    size_t n = 0;
    for (uint32_t i = s->head; i != s->n_bytes; i = s->next[i], n++) {
        at[n] = i;
        if (!find_at(s, find, ctx, i, &rank[n], &merged[n])) {
            merged[n] = -1;
        }
    }
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i < n; i++) {
            if (merged[i] >= 0 && (best == n || rank[i] < rank[best])) {
                best = i;
            }
        }
        if (best == n) {
            return;
        }
        s->ids[at[best]] = merged[best];
        s->next[at[best]] = s->next[at[best + 1]];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            at[i] = at[i + 1];
            rank[i] = rank[i + 1];
            merged[i] = merged[i + 1];
        }
        for (size_t i = best > 0 ? best - 1 : 0; i <= best; i++) {
            if (!find_at(s, find, ctx, at[i], &rank[i], &merged[i])) {
                merged[i] = -1;
            }
        }
    }
}

/* A heap with four children a node: half the levels of a binary one, and the children share a cache
 * line. */
static void sift_down(uint64_t *heap, size_t n, size_t i, uint64_t key)
{
    for (size_t first; (first = 4 * i + 1) < n;) {
        size_t least = first, end = first + 4 < n ? first + 4 : n;
        for (size_t child = first + 1; child < end; child++) {
            least = heap[child] < heap[least] ? child : least;
        }
        if (heap[least] >= key) {
            break;
        }
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = key;
}

static void heap_push(tt_merge_space *s, uint64_t key)
{
    assert(s->n_heap < 2 * s->cap_long);
    size_t i = s->n_heap++;
    for (; i > 0 && s->heap[(i - 1) / 4] > key; i = (i - 1) / 4) {
        s->heap[i] = s->heap[(i - 1) / 4];
    }
    s->heap[i] = key;
}

static uint64_t heap_pop(tt_merge_space *s)
{
    uint64_t top = s->heap[0];
    s->n_heap--;
    if (s->n_heap > 0) {
        sift_down(s->heap, s->n_heap, 0, s->heap[s->n_heap]);
    }
    return top;
}

static bool reserve_long(tt_merge_space *s)
{
    if (s->cap_long >= s->cap) {
        return true;
    }
    uint32_t *prev = realloc(s->prev, s->cap * sizeof *prev);
    s->prev = prev != NULL ? prev : s->prev;
    struct tt_merge_candidate *best = realloc(s->best, s->cap * sizeof *best);
    s->best = best != NULL ? best : s->best;
    uint64_t *heap = realloc(s->heap, 2 * s->cap * sizeof *heap);
    s->heap = heap != NULL ? heap : s->heap;
    if (prev == NULL || best == NULL || heap == NULL) {
        return false;
    }
    s->cap_long = s->cap;
    return true;
}

/* What the symbol at `a` may do with its neighbour, or merged -1. */
static bool look(tt_merge_space *s, tt_merge_find find, const void *ctx, uint32_t a)
{
    if (find_at(s, find, ctx, a, &s->best[a].rank, &s->best[a].merged)) {
        return true;
    }
    s->best[a].merged = -1;
    return false;
}

static uint64_t key_of(const tt_merge_space *s, uint32_t a)
{
    return (uint64_t)s->best[a].rank << 32 | a;
}

/* At most one candidate a symbol at first, and each merge takes one out and puts two in: the heap
 * never holds over 2n. */
static void run_long(tt_merge_space *s, tt_merge_find find, const void *ctx)
{
    s->n_heap = 0;
    uint32_t before = UINT32_MAX;
    for (uint32_t i = s->head; i != s->n_bytes; before = i, i = s->next[i]) {
        s->prev[i] = before;
        if (look(s, find, ctx, i)) {
            s->heap[s->n_heap++] = key_of(s, i);
        }
    }
    for (size_t i = s->n_heap / 4 + 1; i-- > 0 && s->n_heap > 0;) {
        sift_down(s->heap, s->n_heap, i, s->heap[i]);
    }
    while (s->n_heap > 0) {
        uint64_t key = heap_pop(s);
        uint32_t a = (uint32_t)key;
        if (s->best[a].merged < 0 || s->best[a].rank != key >> 32) {
            continue; /* `a` has grown since, or is part of another symbol */
        }
        uint32_t b = s->next[a], c = s->next[b];
        s->ids[a] = s->best[a].merged;
        s->next[a] = c;
        s->best[b].merged = -1;
        if (c != s->n_bytes) {
            s->prev[c] = a;
        }
        if (s->prev[a] != UINT32_MAX && look(s, find, ctx, s->prev[a])) {
            heap_push(s, key_of(s, s->prev[a]));
        }
        if (look(s, find, ctx, a)) {
            heap_push(s, key_of(s, a));
        }
    }
}

bool tt_merge_run(tt_merge_space *s, tt_merge_find find, const void *ctx)
{
    if (s->n_symbols <= SHORT_WORD) {
        run_short(s, find, ctx);
        return true;
    }
    if (!reserve_long(s)) {
        return false;
    }
    run_long(s, find, ctx);
    return true;
}

void tt_merge_finish(tt_merge_space *s)
{
    free(s->ids);
    free(s->next);
    free(s->prev);
    free(s->best);
    free(s->heap);
    *s = (tt_merge_space){0};
}
