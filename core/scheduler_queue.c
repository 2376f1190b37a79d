/* scheduler_queue.c - see scheduler_queue.h. */
#include "core/scheduler_queue.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void tt_sched_list_append(tt_sched_list *l, tt_sched_task *t)
{
    t->prev = l->tail;
    t->next = NULL;
    *(l->tail == NULL ? &l->head : &l->tail->next) = t;
    l->tail = t;
    l->n++;
}

void tt_sched_list_remove(tt_sched_list *l, tt_sched_task *t)
{
    *(t->prev == NULL ? &l->head : &t->prev->next) = t->next;
    *(t->next == NULL ? &l->tail : &t->next->prev) = t->prev;
    t->prev = t->next = NULL;
    l->n--;
}

/* A new task is younger than all; one that comes back is older than most. */
static void insert_by_order(tt_sched_list *l, tt_sched_task *t)
{
    if (l->tail == NULL || l->tail->order < t->order) {
        tt_sched_list_append(l, t);
        return;
    }
    tt_sched_task *at = l->head;
    while (at->order < t->order) {
        at = at->next;
    }
    t->next = at;
    t->prev = at->prev;
    *(at->prev == NULL ? &l->head : &at->prev->next) = t;
    at->prev = t;
    l->n++;
}

/* ---- records by id ---- */

static uint32_t bucket_of(const tt_sched_table *t, uint64_t id)
{
    return (uint32_t)((id * 0x9E3779B97F4A7C15u) >> 32) & (t->n_buckets - 1);
}

/* Without memory the chains just get longer. */
static void grow_table(tt_sched_table *t)
{
    tt_sched_table big = {.n_buckets = t->n_buckets * 2, .n = t->n};
    big.buckets = calloc(big.n_buckets, sizeof(tt_sched_node *));
    if (big.buckets == NULL) {
        return;
    }
    for (uint32_t i = 0; i < t->n_buckets; i++) {
        for (tt_sched_node *node = t->buckets[i], *next; node != NULL; node = next) {
            next = node->chain;
            tt_sched_node **at = &big.buckets[bucket_of(&big, node->id)];
            node->chain = *at;
            *at = node;
        }
    }
    free(t->buckets);
    *t = big;
}

/* The record of an id, made when there is none (`size` bytes, zeroed), referenced once more; NULL =
 * no memory. */
static void *take_node(tt_sched_table *t, uint64_t id, size_t size)
{
    tt_sched_node *node = t->buckets[bucket_of(t, id)];
    while (node != NULL && node->id != id) {
        node = node->chain;
    }
    if (node == NULL) {
        node = calloc(1, size);
        if (node == NULL) {
            return NULL;
        }
        if (t->n >= t->n_buckets) {
            grow_table(t);
        }
        tt_sched_node **at = &t->buckets[bucket_of(t, id)];
        *node = (tt_sched_node){.id = id, .chain = *at};
        *at = node;
        t->n++;
    }
    node->refs++;
    return node;
}

static void drop_node(tt_sched_table *t, tt_sched_node *node)
{
    assert(node->refs > 0);
    if (--node->refs > 0) {
        return;
    }
    tt_sched_node **at = &t->buckets[bucket_of(t, node->id)];
    while (*at != node) {
        at = &(*at)->chain;
    }
    *at = node->chain;
    t->n--;
    free(node);
}

/* ---- deadlines: a binary heap ---- */

static void heap_put(tt_sched_queue *q, int32_t at, tt_sched_task *t)
{
    q->heap[at] = t;
    t->heap_at = at;
}

static void heap_up(tt_sched_queue *q, int32_t at, tt_sched_task *t)
{
    while (at > 0 && q->heap[(at - 1) / 2]->deadline > t->deadline) {
        heap_put(q, at, q->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_put(q, at, t);
}

static void heap_remove(tt_sched_queue *q, tt_sched_task *t)
{
    int32_t at = t->heap_at;
    t->heap_at = -1;
    tt_sched_task *last = q->heap[--q->n_heap];
    if (last == t) {
        return;
    }
    for (int32_t child; (child = 2 * at + 1) < q->n_heap; at = child) {
        if (child + 1 < q->n_heap && q->heap[child + 1]->deadline < q->heap[child]->deadline) {
            child++;
        }
        if (q->heap[child]->deadline >= last->deadline) {
            break;
        }
        heap_put(q, at, q->heap[child]);
    }
    heap_up(q, at, last);
}

static bool heap_room(tt_sched_queue *q)
{
    if (q->n_heap < q->heap_cap) {
        return true;
    }
    int32_t cap = q->heap_cap == 0 ? 64 : q->heap_cap * 2;
    tt_sched_task **heap = realloc(q->heap, (size_t)cap * sizeof *heap);
    if (heap == NULL) {
        return false;
    }
    q->heap = heap;
    q->heap_cap = cap;
    return true;
}

/* ---- the queue ---- */

tt_code tt_sched_queue_init(tt_sched_queue *q, tt_err *reterr)
{
    *q = (tt_sched_queue){0};
    q->keys.n_buckets = q->tags.n_buckets = 64;
    q->keys.buckets = calloc(64, sizeof(tt_sched_node *));
    q->tags.buckets = calloc(64, sizeof(tt_sched_node *));
    if (q->keys.buckets == NULL || q->tags.buckets == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the scheduler");
    }
    return TT_OK;
}

void tt_sched_queue_finish(tt_sched_queue *q)
{
    assert(q->keys.n == 0 && q->tags.n == 0 && q->n_heap == 0);
    free(q->keys.buckets);
    free(q->tags.buckets);
    free(q->heap);
    *q = (tt_sched_queue){0};
}

tt_code tt_sched_queue_enter(tt_sched_queue *q, tt_sched_task *t, uint64_t turn, tt_err *reterr)
{
    t->heap_at = -1;
    t->tag_queue = NULL;
    t->key_queue = take_node(&q->keys, t->key, sizeof *t->key_queue);
    bool ok = t->key_queue != NULL;
    if (ok && t->key_queue->node.refs == 1) {
        t->key_queue->turn[0] = t->key_queue->turn[1] = turn;
    }
    if (ok && t->job && t->tag != 0) {
        t->tag_queue = take_node(&q->tags, t->tag, sizeof *t->tag_queue);
        ok = t->tag_queue != NULL;
    }
    if (ok && t->deadline < INFINITY) {
        ok = heap_room(q);
    }
    if (!ok) {
        tt_sched_queue_leave(q, t);
        return tt_fail(reterr, TT_E_NOMEM, "no memory to queue a request");
    }
    if (t->deadline < INFINITY) {
        heap_up(q, q->n_heap++, t);
    }
    return TT_OK;
}

void tt_sched_queue_admit(tt_sched_queue *q, tt_sched_task *t)
{
    t->all_prev = q->all_tail;
    t->all_next = NULL;
    *(q->all_tail == NULL ? &q->all_head : &q->all_tail->all_next) = t;
    q->all_tail = t;
}

void tt_sched_queue_dismiss(tt_sched_queue *q, tt_sched_task *t)
{
    *(t->all_prev == NULL ? &q->all_head : &t->all_prev->all_next) = t->all_next;
    *(t->all_next == NULL ? &q->all_tail : &t->all_next->all_prev) = t->all_prev;
    t->all_prev = t->all_next = NULL;
}

static void ring_remove(tt_sched_queue *q, tt_sched_key *key, int kind)
{
    tt_sched_key *prev = key->ring_prev[kind], *next = key->ring_next[kind];
    *(prev == NULL ? &q->ring[kind] : &prev->ring_next[kind]) = next;
    *(next == NULL ? &q->ring_tail[kind] : &next->ring_prev[kind]) = prev;
    key->ring_prev[kind] = key->ring_next[kind] = NULL;
}

static void ring_append(tt_sched_queue *q, tt_sched_key *key, int kind)
{
    key->ring_prev[kind] = q->ring_tail[kind];
    key->ring_next[kind] = NULL;
    *(q->ring_tail[kind] == NULL ? &q->ring[kind] : &q->ring_tail[kind]->ring_next[kind]) = key;
    q->ring_tail[kind] = key;
}

static void make_ready(tt_sched_queue *q, tt_sched_task *t)
{
    int kind = tt_sched_kind(t);
    if (t->key_queue->ready[kind].n == 0) {
        ring_append(q, t->key_queue, kind);
    }
    insert_by_order(&t->key_queue->ready[kind], t);
}

void tt_sched_queue_push(tt_sched_queue *q, tt_sched_task *t)
{
    tt_sched_tag *tag = t->tag_queue;
    q->n[tt_sched_kind(t)]++;
    if (tag != NULL && tag->current != NULL && tag->current != t) {
        insert_by_order(&tag->behind, t);
        return;
    }
    if (tag != NULL) {
        tag->current = t;
    }
    make_ready(q, t);
}

void tt_sched_queue_pull(tt_sched_queue *q, tt_sched_task *t)
{
    int kind = tt_sched_kind(t);
    q->n[kind]--;
    if (t->tag_queue != NULL && t->tag_queue->current != t) {
        tt_sched_list_remove(&t->tag_queue->behind, t);
        return;
    }
    tt_sched_list_remove(&t->key_queue->ready[kind], t);
    if (t->key_queue->ready[kind].n == 0) {
        ring_remove(q, t->key_queue, kind);
    }
}

void tt_sched_queue_leave(tt_sched_queue *q, tt_sched_task *t)
{
    tt_sched_tag *tag = t->tag_queue;
    if (t->heap_at >= 0) {
        heap_remove(q, t);
    }
    if (tag != NULL && tag->current == t) {
        tag->current = tag->behind.head;
        if (tag->current != NULL) {
            tt_sched_list_remove(&tag->behind, tag->current);
            make_ready(q, tag->current);
        }
    }
    if (tag != NULL) {
        drop_node(&q->tags, &tag->node);
    }
    if (t->key_queue != NULL) {
        drop_node(&q->keys, &t->key_queue->node);
    }
    t->tag_queue = NULL;
    t->key_queue = NULL;
}

void tt_sched_queue_rotate(tt_sched_queue *q, tt_sched_key *key, int kind)
{
    if (key->ready[kind].n > 0) { /* else it is not in the ring */
        ring_remove(q, key, kind);
        ring_append(q, key, kind);
    }
}

int32_t tt_sched_queue_position(const tt_sched_queue *q, const tt_sched_task *t)
{
    int kind = tt_sched_kind(t);
    const tt_sched_tag *tag = t->tag_queue;
    int32_t rank = 0; /* tasks of its key before it */
    for (const tt_sched_task *o = t->key_queue->ready[kind].head; o != NULL && o->order < t->order;
         o = o->next) {
        rank++;
    }
    if (tag != NULL && tag->current != t) {
        for (const tt_sched_task *o = tag->behind.head; o != t; o = o->next) {
            rank++;
        }
    }
    int32_t before = rank;
    bool passed = false; /* keys behind its own in the ring have one turn fewer before it */
    for (const tt_sched_key *k = q->ring[kind]; k != NULL; k = k->ring_next[kind]) {
        int32_t turns = passed ? rank : rank + 1;
        if (k == t->key_queue) {
            passed = true;
        } else {
            before += k->ready[kind].n < turns ? k->ready[kind].n : turns;
        }
    }
    return before;
}
