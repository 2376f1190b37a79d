/* scheduler.c - see scheduler.h. Every running task hangs in the list of its state, a queued one in
 * scheduler_queue.c; all of them in one list in order of admission. */
#include "core/scheduler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "core/scheduler_queue.h"

enum { MAX_PASSED = 16 };
static const double RATE_SECONDS = 60.0;

struct tt_sched {
    tt_sched_options opt;
    tt_sched_queue queue;
    tt_sched_list list[TT_SCHED_PARKED + 1]; /* by state; NONE's and QUEUED's are empty */
    int32_t n_running[TT_SCHED_KINDS];
    int32_t n_resting;              /* of the jobs among them */
    int32_t passed[TT_SCHED_KINDS]; /* starts of others while a first in line waited */
    uint64_t last_order, last_turn;
    int32_t pages_total;
    tt_sched_task **batch; /* [max_batch] */
    double decode_ended;   /* -INFINITY: never */
    double credit_max;     /* seconds that jobs may be owed */
    double credit;         /* seconds they are owed (overdrawn: negative) */
    double share;          /* of jobs at the last choice; 1 = all, 0 = nothing to do for them */
    bool on_credit;        /* that choice is a job's */
    double trained_more;   /* seconds by which jobs' training is ahead of jobs' prefill */
    double seen;           /* the latest time that was passed in */
    double rate_ended, rate_busy; /* requests that ended, seconds with any: both fade alike */
};

/* What could run now: whose step is next, NULL = nobody's. */
typedef struct work {
    tt_sched_task *begun; /* a prefill step that has begun: no other prefill can */
    tt_sched_task *prefill, *job_prefill, *train;
    bool any;     /* some running task can go on */
    bool request; /* a request decodes or prefills */
} work;

tt_code tt_sched_create(const tt_sched_options *opt, tt_sched **ret_sched, tt_err *reterr)
{
    assert(opt->max_running > 0 && opt->max_batch > 0 && opt->max_jobs > 0);
    assert(opt->max_queue >= 0 && opt->max_queued_jobs >= 0);
    tt_sched *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the scheduler");
    }
    s->opt = *opt;
    double share = s->opt.train_share = fmin(fmax(opt->train_share, 0.01), 0.95);
    s->credit_max = fmax(1, 2 * opt->target_gap * share / (1 - share));
    s->pages_total = INT32_MAX;
    s->decode_ended = -INFINITY;
    tt_code rc = tt_sched_queue_init(&s->queue, reterr);
    s->batch = calloc((size_t)opt->max_batch, sizeof(tt_sched_task *));
    if (rc == TT_OK && s->batch == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for the scheduler");
    }
    if (rc != TT_OK) {
        tt_sched_destroy(&s);
        return rc;
    }
    *ret_sched = s;
    return TT_OK;
}

void tt_sched_destroy(tt_sched **sched)
{
    tt_sched *s = *sched;
    if (s == NULL) {
        return;
    }
    assert(s->queue.all_head == NULL);
    tt_sched_queue_finish(&s->queue);
    free(s->batch);
    free(s);
    *sched = NULL;
}

void tt_sched_set_pages_total(tt_sched *s, int32_t pages)
{
    s->pages_total = pages;
}

/* ---- the measured rate ---- */

static bool busy(const tt_sched *s)
{
    return s->queue.n[TT_SCHED_REQUESTS] + s->n_running[TT_SCHED_REQUESTS] > 0;
}

/* Time in which requests were here counts; the past fades. */
static void see(tt_sched *s, double now)
{
    double passed = now - s->seen;
    if (passed > 0 && busy(s)) {
        double fade = exp(-passed / RATE_SECONDS);
        s->rate_ended *= fade;
        s->rate_busy = s->rate_busy * fade + RATE_SECONDS * (1 - fade);
    }
    s->seen = fmax(s->seen, now);
}

int32_t tt_sched_retry_after(const tt_sched *s)
{
    double seconds = s->rate_ended > 0 ? s->rate_busy / s->rate_ended : s->rate_busy;
    return (int32_t)fmin(fmax(ceil(seconds), 1), 60);
}

/* ---- tasks in and out ---- */

static bool has_places(const tt_sched *s, tt_sched_task *const *tasks, int32_t n)
{
    int32_t more[TT_SCHED_KINDS] = {0};
    for (int32_t i = 0; i < n; i++) {
        more[tt_sched_kind(tasks[i])]++;
    }
    const int64_t places[TT_SCHED_KINDS] = {
        [TT_SCHED_REQUESTS] = (int64_t)s->opt.max_running + s->opt.max_queue,
        [TT_SCHED_JOBS] = (int64_t)s->opt.max_jobs + s->opt.max_queued_jobs,
    };
    for (int kind = 0; kind < TT_SCHED_KINDS; kind++) {
        if (more[kind] > 0 &&
            (int64_t)s->queue.n[kind] + s->n_running[kind] + more[kind] > places[kind]) {
            return false;
        }
    }
    return true;
}

tt_code tt_sched_add(tt_sched *s, tt_sched_task *const *tasks, int32_t n, double now,
                     tt_err *reterr)
{
    see(s, now);
    if (!has_places(s, tasks, n)) {
        return tt_fail(reterr, TT_E_BUSY, "the queue is full");
    }
    for (int32_t i = 0; i < n; i++) {
        assert(tasks[i]->state == TT_SCHED_NONE);
        tt_code rc = tt_sched_queue_enter(&s->queue, tasks[i], s->last_turn, reterr);
        if (rc != TT_OK) {
            while (i > 0) {
                tt_sched_queue_leave(&s->queue, tasks[--i]);
            }
            return rc;
        }
    }
    for (int32_t i = 0; i < n; i++) {
        tt_sched_task *t = tasks[i];
        t->state = TT_SCHED_QUEUED;
        t->order = ++s->last_order;
        t->queued_at = now;
        t->served = s->last_turn;
        t->preempted = t->mid_step = false;
        t->held = 0;
        tt_sched_queue_admit(&s->queue, t);
        tt_sched_queue_push(&s->queue, t);
    }
    return TT_OK;
}

void tt_sched_remove(tt_sched *s, tt_sched_task *t, double now)
{
    if (t->state == TT_SCHED_NONE) {
        return;
    }
    see(s, now);
    if (t->state == TT_SCHED_QUEUED) {
        tt_sched_queue_pull(&s->queue, t);
    } else {
        tt_sched_list_remove(&s->list[t->state], t);
        s->n_running[tt_sched_kind(t)]--;
        s->n_resting -= t->resting;
        t->resting = false;
    }
    if (!t->job) {
        s->rate_ended += 1;
    }
    tt_sched_queue_dismiss(&s->queue, t);
    tt_sched_queue_leave(&s->queue, t);
    t->state = TT_SCHED_NONE;
}

void tt_sched_set(tt_sched *s, tt_sched_task *t, tt_sched_state state)
{
    assert(t->state > TT_SCHED_QUEUED && state >= TT_SCHED_QUEUED && state <= TT_SCHED_PARKED);
    assert(!t->resting);
    if (t->state == state) {
        return;
    }
    tt_sched_list_remove(&s->list[t->state], t);
    t->state = state;
    if (state != TT_SCHED_QUEUED) {
        tt_sched_list_append(&s->list[state], t);
        return;
    }
    s->n_running[tt_sched_kind(t)]--;
    t->preempted = true;
    t->mid_step = false;
    t->held = 0;
    tt_sched_queue_push(&s->queue, t);
}

void tt_sched_rest(tt_sched *s, tt_sched_task *t)
{
    assert(t->job && !t->resting && !t->mid_step && t->held == 0);
    tt_sched_set(s, t, TT_SCHED_PARKED);
    t->resting = true;
    s->n_resting++;
}

/* ---- what starts ---- */

static tt_sched_task *first_ready(const tt_sched_key *key, int kind)
{
    tt_sched_task *t = key->ready[kind].head;
    while (t != NULL && t->paused) {
        t = t->next;
    }
    return t;
}

/* The first in line of a kind that fits, or NULL; the first in line, if there is a place for it, or
 * NULL. */
static tt_sched_task *first_fit(const tt_sched *s, int kind, int32_t pages_free,
                                tt_sched_task **ret_first)
{
    *ret_first = NULL;
    if (kind == TT_SCHED_JOBS ? s->n_running[kind] - s->n_resting >= s->opt.max_jobs
                              : s->n_running[kind] >= s->opt.max_running) {
        return NULL;
    }
    for (const tt_sched_key *key = s->queue.ring[kind]; key != NULL; key = key->ring_next[kind]) {
        tt_sched_task *t = first_ready(key, kind);
        if (t != NULL && *ret_first == NULL) {
            *ret_first = t;
        }
        if (t != NULL && t->pages <= pages_free) {
            return t;
        }
    }
    return NULL;
}

/* Even when all running requests end, the running jobs leave too little. */
static bool jobs_in_the_way(const tt_sched *s, const tt_sched_task *t)
{
    int64_t of_jobs = 0;
    for (int state = TT_SCHED_PREFILL; state <= TT_SCHED_PARKED; state++) {
        for (const tt_sched_task *o = s->list[state].head; o != NULL; o = o->next) {
            if (o->job && !o->paused) {
                of_jobs += o->held > o->pages ? o->held : o->pages;
            }
        }
    }
    return t->pages + of_jobs > s->pages_total;
}

/* Requests go before jobs, but a job too is passed only so often. */
static tt_sched_task *pick_start(tt_sched *s, int32_t pages_free, bool any_goes_on)
{
    tt_sched_task *fit[TT_SCHED_KINDS], *first[TT_SCHED_KINDS];
    for (int kind = 0; kind < TT_SCHED_KINDS; kind++) {
        fit[kind] = first_fit(s, kind, pages_free, &first[kind]);
    }
    for (int kind = 0; kind < TT_SCHED_KINDS; kind++) {
        tt_sched_task *due = first[kind];
        if (due == NULL || s->passed[kind] < MAX_PASSED) {
            continue;
        }
        if (due == fit[kind] || !any_goes_on) {
            s->passed[kind] = 0;
            return due;
        }
        if (!jobs_in_the_way(s, due)) {
            return NULL;
        }
        fit[TT_SCHED_JOBS] = first[TT_SCHED_JOBS] = NULL;
    }
    for (int kind = 0; kind < TT_SCHED_KINDS && !any_goes_on; kind++) {
        fit[kind] = fit[kind] != NULL ? fit[kind] : first[kind];
    }
    tt_sched_task *t = fit[TT_SCHED_REQUESTS] != NULL ? fit[TT_SCHED_REQUESTS] : fit[TT_SCHED_JOBS];
    for (int kind = 0; t != NULL && kind < TT_SCHED_KINDS; kind++) {
        if (first[kind] == t || s->queue.n[kind] == 0) {
            s->passed[kind] = 0;
        } else if (first[kind] != NULL) {
            s->passed[kind]++;
        }
    }
    return t;
}

static void start(tt_sched *s, tt_sched_task *t)
{
    int kind = tt_sched_kind(t);
    tt_sched_queue_pull(&s->queue, t);
    tt_sched_queue_rotate(&s->queue, t->key_queue, kind);
    s->n_running[kind]++;
    t->state = TT_SCHED_PREFILL;
    t->served = s->last_turn;
    tt_sched_list_append(&s->list[TT_SCHED_PREFILL], t);
}

/* ---- what runs ---- */

/* Whose step begins next in a list of long work (turn: 0 prefill, 1 training): of the key that has
 * waited longest the oldest task. kind: of these tasks, or -1. */
static tt_sched_task *pick_long(const tt_sched_list *l, int turn, int kind)
{
    tt_sched_task *best = NULL;
    for (tt_sched_task *t = l->head; t != NULL; t = t->next) {
        if (t->paused || (kind >= 0 && tt_sched_kind(t) != kind)) {
            continue;
        }
        uint64_t mine = t->key_queue->turn[turn];
        uint64_t least = best == NULL ? UINT64_MAX : best->key_queue->turn[turn];
        if (best == NULL || mine < least || (mine == least && t->order < best->order)) {
            best = t;
        }
    }
    return best;
}

static tt_sched_task *begun(const tt_sched_list *l)
{
    tt_sched_task *t = l->head;
    while (t != NULL && !t->mid_step) {
        t = t->next;
    }
    return t;
}

static work look(const tt_sched *s)
{
    const tt_sched_list *prefill = &s->list[TT_SCHED_PREFILL], *train = &s->list[TT_SCHED_TRAIN];
    bool decode = s->list[TT_SCHED_DECODE].n > 0;
    work w = {.begun = begun(prefill),
              .prefill = pick_long(prefill, 0, TT_SCHED_REQUESTS),
              .job_prefill = pick_long(prefill, 0, TT_SCHED_JOBS),
              .train = begun(train)};
    w.train = w.train != NULL ? w.train : pick_long(train, 1, -1);
    w.request = decode || w.prefill != NULL;
    w.any = w.request || w.begun != NULL || w.job_prefill != NULL || w.train != NULL;
    if (w.begun != NULL) { /* a job's, which a request's waits for, is not left to its credit */
        bool waited_for = !w.begun->job || w.prefill != NULL;
        w.prefill = waited_for ? w.begun : NULL;
        w.job_prefill = waited_for ? NULL : w.begun;
    }
    return w;
}

/* The head of the list has waited longest; who gets a turn goes to its end. */
static tt_sched_choice run_decode(tt_sched *s)
{
    tt_sched_list *l = &s->list[TT_SCHED_DECODE];
    int32_t n = l->n < s->opt.max_batch ? l->n : s->opt.max_batch;
    s->last_turn++;
    for (int32_t i = 0; i < n; i++) {
        tt_sched_task *t = l->head;
        tt_sched_list_remove(l, t);
        tt_sched_list_append(l, t);
        t->served = s->last_turn;
        s->batch[i] = t;
    }
    return (tt_sched_choice){.what = TT_SCHED_RUN_DECODE, .batch = s->batch, .n = n};
}

static tt_sched_choice run_long(tt_sched *s, tt_sched_task *t, double seconds)
{
    bool train = t->state == TT_SCHED_TRAIN;
    if (!t->mid_step) {
        t->served = t->key_queue->turn[train] = ++s->last_turn;
    }
    return (tt_sched_choice){
        .what = train ? TT_SCHED_RUN_TRAIN : TT_SCHED_RUN_PREFILL, .task = t, .seconds = seconds};
}

/* What a job could do now: the kind of work that is behind. */
static tt_sched_task *pick_job(tt_sched *s, const work *w)
{
    if (w->train == NULL || w->job_prefill == NULL) {
        s->trained_more = 0;
        return w->train != NULL ? w->train : w->job_prefill;
    }
    return s->trained_more <= 0 ? w->train : w->job_prefill;
}

/* Jobs run on credit: what else runs earns it, their own pieces spend it. */
static tt_sched_choice run_something(tt_sched *s, const work *w, double now, double until_deadline)
{
    bool decode = s->list[TT_SCHED_DECODE].n > 0;
    tt_sched_task *job = pick_job(s, w);
    s->share = job == NULL ? 0 : w->request ? s->opt.train_share : 1;
    if (s->share == 1 || s->share == 0) {
        s->credit = fmin(s->credit, 0);
    }
    bool owed = job != NULL && (s->share == 1 || s->credit > 0);
    tt_sched_task *task = owed ? job : w->prefill;
    double left = s->opt.target_gap;
    if (decode) {
        left -= now - s->decode_ended;
    } else if ((w->train != NULL) + (w->prefill != NULL) + (w->job_prefill != NULL) == 1) {
        left = INFINITY;
    }
    if (task == NULL || (decode && left <= 0)) {
        s->on_credit = false;
        return run_decode(s);
    }
    if (owed && s->share < 1) {
        left = fmin(left, s->credit);
    }
    s->on_credit = task->job || task->state == TT_SCHED_TRAIN;
    return run_long(s, task, fmin(left, until_deadline));
}

tt_sched_choice tt_sched_next(tt_sched *s, double now, int32_t pages_free)
{
    see(s, now);
    double until_deadline = INFINITY;
    if (s->queue.n_heap > 0) {
        tt_sched_task *first = s->queue.heap[0];
        until_deadline = first->deadline - now;
        if (until_deadline <= 0) {
            return (tt_sched_choice){.what = TT_SCHED_EXPIRE, .task = first};
        }
    }
    work w = look(s);
    tt_sched_task *t = pick_start(s, pages_free, w.any);
    if (t != NULL) {
        start(s, t);
        return (tt_sched_choice){.what = TT_SCHED_START, .task = t};
    }
    if (!w.any) {
        s->share = 0;
        return (tt_sched_choice){.what = TT_SCHED_IDLE, .wait = until_deadline};
    }
    return run_something(s, &w, now, until_deadline);
}

void tt_sched_ran(tt_sched *s, const tt_sched_choice *choice, double started, double ended)
{
    double took = fmax(ended - started, 0);
    if (choice->what == TT_SCHED_RUN_DECODE && took > 0) {
        s->decode_ended = ended;
    }
    if (s->on_credit) {
        s->credit -= s->share < 1 ? took : 0;
        s->trained_more += choice->what == TT_SCHED_RUN_TRAIN ? took : -took;
    } else if (s->share > 0 && s->share < 1) {
        s->credit = fmin(s->credit + took * s->share / (1 - s->share), s->credit_max);
    }
    see(s, ended);
}

/* ---- who gives way ---- */

tt_sched_task *tt_sched_victim(const tt_sched *s, const tt_sched_task *needy)
{
    enum { PAUSED, YOUNGER, PARKED, N_REASONS };
    tt_sched_task *found[N_REASONS] = {0};
    for (int state = TT_SCHED_PREFILL; state <= TT_SCHED_PARKED; state++) {
        for (tt_sched_task *t = s->list[state].head; t != NULL; t = t->next) {
            if (t == needy || t->held <= 0) {
                continue;
            }
            bool stands = t->paused && !t->mid_step && state != TT_SCHED_DECODE;
            int reason = stands                     ? PAUSED
                         : t->order > needy->order  ? YOUNGER
                         : state == TT_SCHED_PARKED ? PARKED
                                                    : N_REASONS;
            if (reason < N_REASONS && (found[reason] == NULL || found[reason]->order < t->order)) {
                found[reason] = t;
            }
        }
    }
    return found[PAUSED] != NULL    ? found[PAUSED]
           : found[YOUNGER] != NULL ? found[YOUNGER]
                                    : found[PARKED];
}

/* ---- to look at ---- */

int32_t tt_sched_position(const tt_sched *s, const tt_sched_task *task)
{
    return task->state == TT_SCHED_QUEUED ? tt_sched_queue_position(&s->queue, task) : -1;
}

bool tt_sched_behind_tag(const tt_sched_task *t)
{
    return t->state == TT_SCHED_QUEUED && t->tag_queue != NULL && t->tag_queue->current != t;
}

tt_sched_counts tt_sched_get_counts(const tt_sched *s)
{
    return (tt_sched_counts){
        .queued = s->queue.n[TT_SCHED_REQUESTS],
        .running = s->n_running[TT_SCHED_REQUESTS],
        .queued_jobs = s->queue.n[TT_SCHED_JOBS],
        .running_jobs = s->n_running[TT_SCHED_JOBS],
        .decoding = s->list[TT_SCHED_DECODE].n,
        .prefilling = s->list[TT_SCHED_PREFILL].n,
        .training = s->list[TT_SCHED_TRAIN].n,
        .parked = s->list[TT_SCHED_PARKED].n,
    };
}

tt_sched_task *tt_sched_walk(const tt_sched *s, const tt_sched_task *task)
{
    return task == NULL ? s->queue.all_head : task->all_next;
}
