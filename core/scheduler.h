/* scheduler.h - who runs next: a pure function of its state. No I/O, no clock, no K/V: the caller
 * passes the time and the free pages in and tells what each choice cost; tests drive it with fake
 * steps (tests/unit/test_scheduler.c, the simulator). Thread: one at a time.
 *
 * A task is one piece of work: a request (prefill, then decode) or a job (prefill of its context,
 * then training). Its life: QUEUED -> PREFILL -> DECODE            a request QUEUED -> PREFILL ->
 * TRAIN             a job any running state -> PARKED -> any     it waits for another task (a
 * request for its adapter) any running state -> QUEUED            preempted: its pages are gone,
 * its place in line is not The caller moves a task on with tt_sched_set(); tt_sched_remove() ends
 * it from any state.
 *
 * The rules, in this order:
 *   1. A queued task starts when there is room for it (max_running, pages, and for jobs max_jobs
 * and one running job per tag). Turn: round robin over the keys, within a key first come first
 *      served; a preempted task goes first in its key. With nothing running the next in line starts
 *      whatever its pages: the caller then evicts everything that can be evicted.
 *   2. Decode first: all decoding tasks in one batch of at most max_batch rows, the longest waiting
 *      first; long work gets at most target_gap seconds between two decode steps.
 *   3. Long work is a prefill piece or a training piece. Training takes at most train_share of the
 *      time while a request decodes or prefills (never nothing: it is not starved), all of it
 *      otherwise. A prefill step that has begun is finished before another begins (one workspace);
 * at its end the turn passes, round robin over keys, first come first served within a key. */
#ifndef TT_SCHEDULER_H
#define TT_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/err.h"

typedef enum tt_sched_state {
    TT_SCHED_NONE, /* not in the scheduler */
    TT_SCHED_QUEUED,
    TT_SCHED_PREFILL,
    TT_SCHED_TRAIN,
    TT_SCHED_DECODE,
    TT_SCHED_PARKED
} tt_sched_state;

/* Embedded in the caller's task. */
typedef struct tt_sched_task {
    /* the caller's, before tt_sched_add() */
    uint64_t key;  /* API key: fairness is between these */
    uint64_t tag;  /* jobs with the same tag (a session) run one after another; 0 = none */
    bool job;      /* trains */
    int32_t pages; /* K/V pages that must be free (or evictable) for it to start; kept current while
                      it is queued */
    double deadline; /* seconds on the caller's clock; INFINITY = none */
    /* the caller's, at any time */
    bool paused;   /* a job: no piece of it is chosen; it still counts as running */
    bool mid_step; /* its prefill or training step has begun and not ended */
    /* the scheduler's; readable */
    tt_sched_state state;
    uint64_t order; /* of admission: a smaller one is older */
    double queued_at;
    uint64_t served; /* when it last got a turn, for "longest waiting" */
    bool preempted;
    struct tt_sched_task *prev, *next;
} tt_sched_task;

typedef struct tt_sched_options {
    int32_t max_running; /* requests that are not queued */
    int32_t max_queue;   /* requests that are queued; jobs have max_queued_jobs */
    int32_t max_batch;   /* rows of one decode step */
    int32_t max_jobs, max_queued_jobs;
    double target_gap;  /* seconds */
    double train_share; /* 0..1 */
} tt_sched_options;

typedef enum tt_sched_what {
    TT_SCHED_IDLE,   /* nothing to do until something arrives or a deadline passes */
    TT_SCHED_EXPIRE, /* task's deadline has passed: the caller ends it */
    TT_SCHED_START,  /* task leaves the queue: it is in PREFILL now */
    TT_SCHED_RUN_DECODE,
    TT_SCHED_RUN_PREFILL,
    TT_SCHED_RUN_TRAIN
} tt_sched_what;

typedef struct tt_sched_choice {
    tt_sched_what what;
    tt_sched_task *task;   /* EXPIRE, START, RUN_PREFILL, RUN_TRAIN */
    tt_sched_task **batch; /* RUN_DECODE: [n], valid until the next call */
    int32_t n;
    double seconds; /* RUN_PREFILL, RUN_TRAIN: stop at the first unit that ends after so long;
                       INFINITY = nobody waits (but a new arrival) */
    double wait;    /* IDLE: seconds until the next deadline; INFINITY = none */
} tt_sched_choice;

typedef struct tt_sched tt_sched;

tt_code tt_sched_create(const tt_sched_options *opt, tt_sched **ret_sched, tt_err *reterr);
/* Every task has been removed. */
void tt_sched_destroy(tt_sched **sched);

/* Queues n tasks, all or none: TT_E_BUSY when their queue would be longer than its bound.
 * TT_E_NOMEM.
 */
tt_code tt_sched_add(tt_sched *s, tt_sched_task *const *tasks, int32_t n, double now,
                     tt_err *reterr);
/* From any state; legal for a task that is not in the scheduler. */
void tt_sched_remove(tt_sched *s, tt_sched_task *task, double now);
/* Moves a running task to another running state, or back to the queue (preempted). */
void tt_sched_set(tt_sched *s, tt_sched_task *task, tt_sched_state state);

/* The next thing to do. pages_free: pages that are free or can be evicted now. Changes state only
 * for START and the turns. */
tt_sched_choice tt_sched_next(tt_sched *s, double now, int32_t pages_free);
/* What a RUN_ choice cost; the caller calls it after each, before the next tt_sched_next(). */
void tt_sched_ran(tt_sched *s, const tt_sched_choice *choice, double started, double ended);

/* Whom to preempt so that `needy` can go on: the youngest running task other than needy that is
 * younger than it and holds pages (not PARKED jobs' waiters: PARKED counts too), or NULL: needy
 * itself must give way when older ones hold the rest. */
tt_sched_task *tt_sched_victim(const tt_sched *s, const tt_sched_task *needy);

/* Seconds until a place in the queue is likely, from the measured rate of requests that
 * ended: 1..60.
 */
int32_t tt_sched_retry_after(const tt_sched *s);
/* Tasks of its kind that start before it (0 = next); -1 when it is not queued. */
int32_t tt_sched_position(const tt_sched *s, const tt_sched_task *task);

typedef struct tt_sched_counts {
    int32_t queued, running, queued_jobs, running_jobs, decoding, prefilling;
} tt_sched_counts;
tt_sched_counts tt_sched_get_counts(const tt_sched *s);
/* The oldest first; for walking all tasks: `task` NULL = the first. */
tt_sched_task *tt_sched_walk(const tt_sched *s, const tt_sched_task *task);

#endif
