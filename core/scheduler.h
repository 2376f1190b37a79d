/* scheduler.h - who runs next: a pure function of its state. No I/O, no clock, no K/V: the caller
 * passes the time and the free pages in and tells what each choice cost; tests drive it with fake
 * steps (tests/unit/test_scheduler.c, the simulator). Thread: one at a time.
 *
 * A task is one piece of work: a request (prefill, then decode) or a job (prefill of its context,
 * then training). Its life:
 *   QUEUED -> PREFILL -> DECODE   a request; one that trains goes through TRAIN and PREFILL again
 *   QUEUED -> PREFILL -> TRAIN    a job
 *   running -> PARKED -> running  it waits for another task (a request for its adapter), or for
 *                                 the disk
 *   running -> PARKED, resting    a job whose work is done: what it has made is being written
 *   running -> QUEUED             preempted: its pages are gone, its place in line is not
 * The caller moves a running task on with tt_sched_set(); tt_sched_remove() ends it from any state.
 *
 * The rules, in this order:
 *   1. A queued task starts when there is room for it (max_running, pages, and for jobs max_jobs
 *      and one running job per tag). Turn: round robin over the keys, within a key first come first
 *      served; a preempted task goes first in its key. Requests go before jobs, and
 *      what fits before what lacks pages; but the first in line is passed so only 16 times: then
 * all wait for it (while running jobs are what is in its way, which can take long, only jobs wait
 *      for it). When nothing that runs can go on
 *      (nothing runs, or all of it is parked or paused) the next in line starts whatever its pages:
 *      the caller then evicts, and preempts by tt_sched_victim().
 *   2. Decode first: all decoding tasks in one batch of at most max_batch rows, the longest waiting
 *      first; long work gets at most target_gap seconds between two decode steps.
 *   3. Long work is a prefill piece or a training piece. What jobs do, prefill or training, takes
 * at most train_share of the time while a request decodes or prefills (never nothing: it is not
 *      starved), all of it otherwise; jobs' prefill and training take equal parts of that. A
 * prefill step that has begun is finished before another prefill begins, a training step before
 * another training (each has one workspace); at its end the turn passes, round robin over keys,
 * first come first served within a key.
 *
 * Costs: a choice looks at every running task and, when something could start, at the first tasks
 * of every waiting key; never at the tasks behind them (but paused ones are stepped over). */
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

/* Embedded in the caller's task, zeroed before its first use. */
typedef struct tt_sched_task {
    /* the caller's, before tt_sched_add() */
    uint64_t key;  /* API key: fairness is between these */
    uint64_t tag;  /* jobs with the same tag (a session) run one after another, in order of arrival;
                      0 = none; of a request it is ignored */
    bool job;      /* counts in max_jobs and max_queued_jobs, not in max_running and max_queue */
    int32_t pages; /* K/V pages that must be free (or evictable) for it to start; kept current while
                      it is queued */
    double deadline; /* seconds on the caller's clock; INFINITY = none */
    /* the caller's, at any time */
    int32_t held;  /* pages it holds now: one with 0 is no victim */
    bool paused;   /* it does not start, nor is a piece of its prefill or training chosen but those
                      that end a step that has begun; when it runs it still counts as running */
    bool mid_step; /* its prefill or training step has begun and not ended */
    /* the scheduler's; readable */
    tt_sched_state state;
    uint64_t order; /* of admission: a smaller one is older */
    double queued_at;
    uint64_t served; /* when it last got a turn */
    bool preempted;
    bool resting; /* tt_sched_rest() */
    /* the scheduler's */
    int32_t heap_at;
    struct tt_sched_key *key_queue;
    struct tt_sched_tag *tag_queue;
    struct tt_sched_task *prev, *next;         /* in the list of its state */
    struct tt_sched_task *all_prev, *all_next; /* in order of admission */
} tt_sched_task;

typedef struct tt_sched_options {
    int32_t max_running; /* requests that are not queued */
    int32_t max_queue;   /* requests that wait beyond these; jobs have max_queued_jobs */
    int32_t max_batch;   /* rows of one decode step */
    int32_t max_jobs, max_queued_jobs;
    double target_gap;  /* seconds */
    double train_share; /* 0..1; taken as at least 0.01, at most 0.95: nothing is starved */
} tt_sched_options;

typedef enum tt_sched_what {
    TT_SCHED_IDLE,   /* nothing to do until something arrives or a deadline passes */
    TT_SCHED_EXPIRE, /* task's deadline has passed: the caller removes it */
    TT_SCHED_START,  /* task has left the queue: it is in PREFILL now. The caller takes its pages,
                        or counts them as not free, before the next choice */
    TT_SCHED_RUN_DECODE,
    TT_SCHED_RUN_PREFILL,
    TT_SCHED_RUN_TRAIN
} tt_sched_what;

typedef struct tt_sched_choice {
    tt_sched_what what;
    tt_sched_task *task;   /* EXPIRE, START, RUN_PREFILL, RUN_TRAIN */
    tt_sched_task **batch; /* RUN_DECODE: [n], valid until the next call of tt_sched_next() */
    int32_t n;
    double seconds; /* RUN_PREFILL, RUN_TRAIN: stop at the first unit that ends after so long, or at
                       the end of the step; INFINITY = nobody waits (but a new arrival) */
    double wait;    /* IDLE: seconds until the next deadline; INFINITY = none */
} tt_sched_choice;

typedef struct tt_sched tt_sched;

/* Bounds are at least 1, queues at least 0 (asserted: the settings checked them). TT_E_NOMEM. */
tt_code tt_sched_create(const tt_sched_options *opt, tt_sched **ret_sched, tt_err *reterr);
/* Every task has been removed. */
void tt_sched_destroy(tt_sched **sched);

/* Pages of the whole pool, once known; without it, it is taken as endless. */
void tt_sched_set_pages_total(tt_sched *s, int32_t pages);

/* Queues n tasks, all or none. TT_E_BUSY when a kind's tasks, queued and running together, would be
 * more than may run and wait: whether the engine has got round to starting some makes no
 * difference. TT_E_NOMEM. */
tt_code tt_sched_add(tt_sched *s, tt_sched_task *const *tasks, int32_t n, double now,
                     tt_err *reterr);
/* From any state; legal for a task that is not in the scheduler. */
void tt_sched_remove(tt_sched *s, tt_sched_task *task, double now);
/* Moves a running task to another running state, or back to the queue (preempted: mid_step and
 * held are cleared). Nothing when it is in that state. */
void tt_sched_set(tt_sched *s, tt_sched_task *task, tt_sched_state state);

/* A running job that computes no more is PARKED until it is removed, and leaves its place of
 * max_jobs to another; its tag and its place among those that may be admitted it keeps. */
void tt_sched_rest(tt_sched *s, tt_sched_task *task);

/* The next thing to do. pages_free: pages that are free or can be evicted now, without those that
 * started tasks have been promised. Changes state only for START and the turns. */
tt_sched_choice tt_sched_next(tt_sched *s, double now, int32_t pages_free);
/* What a RUN_ choice cost; the caller calls it after each, before the next tt_sched_next(). Tasks
 * of the choice may have been removed meanwhile. started == ended: nothing was run after all (each
 * row of a decode step had to give way). */
void tt_sched_ran(tt_sched *s, const tt_sched_choice *choice, double started, double ended);

/* Whom to preempt so that `needy` can go on, among the running tasks other than needy that hold
 * pages: the youngest paused one, else the youngest that is younger than needy, else the youngest
 * parked one, else NULL: needy itself must give way, for older ones that can go on hold the rest.
 */
tt_sched_task *tt_sched_victim(const tt_sched *s, const tt_sched_task *needy);

/* Seconds until a place in the queue is likely, from the measured rate of requests that
 * ended: 1..60. */
int32_t tt_sched_retry_after(const tt_sched *s);
/* Tasks of its kind that start before it (0 = next); -1 when it is not queued. An estimate: pages
 * are not looked at, and of other jobs behind their tag only its own tag's count. Walks its key's
 * tasks before it and the keys. */
int32_t tt_sched_position(const tt_sched *s, const tt_sched_task *task);
/* It is queued and a job of its tag comes before it. */
bool tt_sched_behind_tag(const tt_sched_task *task);

typedef struct tt_sched_counts {
    int32_t queued, running, queued_jobs, running_jobs; /* jobs are not in queued and running */
    int32_t decoding, prefilling, training, parked;     /* of both kinds */
} tt_sched_counts;
tt_sched_counts tt_sched_get_counts(const tt_sched *s);
/* Over all tasks, the oldest first: `task` NULL = the first; NULL = no more. */
tt_sched_task *tt_sched_walk(const tt_sched *s, const tt_sched_task *task);

#endif
