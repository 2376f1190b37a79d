/* scheduler_queue.h - the tasks of a scheduler in order: the waiting ones by key and by tag, all of
 * them by deadline and by age. Thread: as scheduler.h; used by scheduler.c alone.
 *
 * Each key has a list of ready tasks per kind (requests, jobs) in order of admission; the keys with
 * ready tasks of a kind form a ring, whose first key has the next turn. Of the jobs with one tag
 * only the oldest, its `current`, is ready or running; the others wait behind it. */
#ifndef TT_SCHEDULER_QUEUE_H
#define TT_SCHEDULER_QUEUE_H

#include "core/scheduler.h"

typedef struct tt_sched_list {
    tt_sched_task *head, *tail;
    int32_t n;
} tt_sched_list;

void tt_sched_list_append(tt_sched_list *l, tt_sched_task *t);
void tt_sched_list_remove(tt_sched_list *l, tt_sched_task *t);

/* A record found by its id; keys and tags begin with one. */
typedef struct tt_sched_node {
    uint64_t id;
    int32_t refs; /* tasks in the scheduler */
    struct tt_sched_node *chain;
} tt_sched_node;

typedef struct tt_sched_table {
    tt_sched_node **buckets;
    uint32_t n_buckets; /* a power of two */
    uint32_t n;
} tt_sched_table;

enum { TT_SCHED_REQUESTS, TT_SCHED_JOBS, TT_SCHED_KINDS };

typedef struct tt_sched_key {
    tt_sched_node node;
    tt_sched_list ready[TT_SCHED_KINDS];
    struct tt_sched_key *ring_prev[TT_SCHED_KINDS], *ring_next[TT_SCHED_KINDS];
    uint64_t turn[2]; /* when it last got a prefill, a training step */
} tt_sched_key;

typedef struct tt_sched_tag {
    tt_sched_node node;
    tt_sched_task *current;
    tt_sched_list behind;
} tt_sched_tag;

typedef struct tt_sched_queue {
    tt_sched_table keys, tags;
    tt_sched_key *ring[TT_SCHED_KINDS], *ring_tail[TT_SCHED_KINDS]; /* head: the next turn */
    int32_t n[TT_SCHED_KINDS];                                      /* queued */
    tt_sched_task *all_head, *all_tail; /* queued or running, in order of admission */
    tt_sched_task **heap;               /* all tasks with a deadline, the earliest at 0 */
    int32_t n_heap, heap_cap;
} tt_sched_queue;

tt_code tt_sched_queue_init(tt_sched_queue *q, tt_err *reterr);
void tt_sched_queue_finish(tt_sched_queue *q);

static inline int tt_sched_kind(const tt_sched_task *t)
{
    return t->job ? TT_SCHED_JOBS : TT_SCHED_REQUESTS;
}

/* Makes the records that a new task needs; `turn` is that of a key not seen before. */
tt_code tt_sched_queue_enter(tt_sched_queue *q, tt_sched_task *t, uint64_t turn, tt_err *reterr);
/* The task is in no list of the queue: lets go of its records, and lets the next of its tag in. */
void tt_sched_queue_leave(tt_sched_queue *q, tt_sched_task *t);
/* Into the list of all tasks, as the youngest; out of it. */
void tt_sched_queue_admit(tt_sched_queue *q, tt_sched_task *t);
void tt_sched_queue_dismiss(tt_sched_queue *q, tt_sched_task *t);
/* An entered task waits: from now on, or again. */
void tt_sched_queue_push(tt_sched_queue *q, tt_sched_task *t);
/* Out of the queue: it starts or ends. */
void tt_sched_queue_pull(tt_sched_queue *q, tt_sched_task *t);
/* The turn passes to the next key. */
void tt_sched_queue_rotate(tt_sched_queue *q, tt_sched_key *key, int kind);
int32_t tt_sched_queue_position(const tt_sched_queue *q, const tt_sched_task *t);

#endif
