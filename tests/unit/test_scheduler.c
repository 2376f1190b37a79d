/* test_scheduler.c - each rule of core/scheduler.h by itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "core/rng.h"
#include "core/scheduler.h"
#include "fail_alloc.h"

enum { MANY = 10000 };

typedef struct fixture {
    tt_sched *s;
    tt_sched_task task[MANY + 1];
    double now;
} fixture;

static const tt_sched_options options = {.max_running = 4,
                                         .max_queue = 20000,
                                         .max_batch = 2,
                                         .max_jobs = 2,
                                         .max_queued_jobs = 20000,
                                         .target_gap = 0.1,
                                         .train_share = 0.25};

static void open_with(fixture *f, tt_sched_options opt)
{
    tt_err err;
    assert_int_equal(tt_sched_create(&opt, &f->s, &err), TT_OK);
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    open_with(f, options);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    for (tt_sched_task *t; (t = tt_sched_walk(f->s, NULL)) != NULL;) {
        tt_sched_remove(f->s, t, f->now);
    }
    tt_sched_destroy(&f->s);
    assert_null(f->s);
    free(f);
    return 0;
}

static tt_code try_add(fixture *f, int i, uint64_t key, int32_t pages)
{
    tt_err err;
    tt_sched_task *t = &f->task[i];
    *t = (tt_sched_task){.key = key, .pages = pages, .deadline = INFINITY};
    return tt_sched_add(f->s, &t, 1, f->now, &err);
}

static tt_sched_task *add(fixture *f, int i, uint64_t key, int32_t pages)
{
    assert_int_equal(try_add(f, i, key, pages), TT_OK);
    return &f->task[i];
}

static tt_sched_task *add_job(fixture *f, int i, uint64_t key, uint64_t tag)
{
    tt_err err;
    tt_sched_task *t = &f->task[i];
    *t = (tt_sched_task){.key = key, .tag = tag, .job = true, .pages = 1, .deadline = INFINITY};
    assert_int_equal(tt_sched_add(f->s, &t, 1, f->now, &err), TT_OK);
    return t;
}

/* The next choice is that task's start. */
static void starts(fixture *f, tt_sched_task *t, int32_t pages_free)
{
    assert_int_equal(tt_sched_position(f->s, t), 0);
    tt_sched_choice c = tt_sched_next(f->s, f->now, pages_free);
    assert_int_equal(c.what, TT_SCHED_START);
    assert_ptr_equal(c.task, t);
    assert_int_equal(t->state, TT_SCHED_PREFILL);
    assert_int_equal(tt_sched_position(f->s, t), -1);
}

/* Runs the next choice for `seconds` and returns what it was. */
static tt_sched_choice runs(fixture *f, double seconds)
{
    tt_sched_choice c = tt_sched_next(f->s, f->now, 1000);
    assert_true(c.what >= TT_SCHED_RUN_DECODE);
    tt_sched_ran(f->s, &c, f->now, f->now + seconds);
    f->now += seconds;
    return c;
}

static void test_idle_and_life(void **state)
{
    fixture *f = *state;
    tt_sched_choice c = tt_sched_next(f->s, 0, 10);
    assert_int_equal(c.what, TT_SCHED_IDLE);
    assert_true(isinf(c.wait));
    tt_sched_task *t = add(f, 0, 1, 3);
    starts(f, t, 10);
    c = runs(f, 0.5);
    assert_int_equal(c.what, TT_SCHED_RUN_PREFILL);
    assert_ptr_equal(c.task, t);
    assert_true(isinf(c.seconds));
    tt_sched_set(f->s, t, TT_SCHED_DECODE);
    c = runs(f, 0.01);
    assert_int_equal(c.what, TT_SCHED_RUN_DECODE);
    assert_int_equal(c.n, 1);
    assert_ptr_equal(c.batch[0], t);
    assert_int_equal(tt_sched_get_counts(f->s).decoding, 1);
    tt_sched_remove(f->s, t, f->now);
    tt_sched_remove(f->s, t, f->now);
    assert_int_equal(tt_sched_next(f->s, f->now, 10).what, TT_SCHED_IDLE);
    assert_int_equal(tt_sched_get_counts(f->s).running, 0);
}

/* a1..a4 wait when b's only one comes: it is second, not fifth; places are those a caller sees. */
static void test_round_robin_over_keys(void **state)
{
    fixture *f = *state;
    for (int i = 0; i < 4; i++) {
        add(f, i, 7, 1);
    }
    tt_sched_task *b = add(f, 4, 8, 1), *c = add(f, 5, 9, 1), *c2 = add(f, 6, 9, 1);
    assert_int_equal(tt_sched_position(f->s, b), 1);
    assert_int_equal(tt_sched_position(f->s, c), 2);
    assert_int_equal(tt_sched_position(f->s, &f->task[1]), 3);
    assert_int_equal(tt_sched_position(f->s, c2), 4);
    assert_int_equal(tt_sched_position(f->s, &f->task[2]), 5);
    assert_int_equal(tt_sched_position(f->s, &f->task[3]), 6);
    starts(f, &f->task[0], 10);
    starts(f, b, 10);
    starts(f, c, 10);
    starts(f, &f->task[1], 10);
    assert_int_equal(tt_sched_next(f->s, f->now, 10).what, TT_SCHED_RUN_PREFILL); /* max_running */
    tt_sched_remove(f->s, c, f->now);
    starts(f, c2, 10);
    tt_sched_remove(f->s, b, f->now);
    starts(f, &f->task[2], 10);
}

static void test_queue_bound_is_all_or_none(void **state)
{
    fixture *f = *state;
    tt_sched_destroy(&f->s);
    tt_sched_options opt = options;
    opt.max_running = 1;
    opt.max_queue = 3;
    open_with(f, opt);
    tt_sched_task *t[5];
    tt_err err;
    for (int i = 0; i < 5; i++) {
        t[i] = &f->task[i];
        *t[i] = (tt_sched_task){.key = 1, .deadline = INFINITY};
    }
    assert_int_equal(tt_sched_add(f->s, t, 5, 0, &err), TT_E_BUSY);
    assert_int_equal(tt_sched_get_counts(f->s).queued, 0);
    assert_int_equal(t[0]->state, TT_SCHED_NONE);
    assert_int_equal(tt_sched_add(f->s, t, 2, 0, &err), TT_OK);
    starts(f, t[0], 1);
    assert_int_equal(tt_sched_add(f->s, t + 2, 3, 0, &err), TT_E_BUSY);
    assert_int_equal(tt_sched_add(f->s, t + 2, 2, 0, &err), TT_OK);
    assert_int_equal(try_add(f, 4, 2, 1), TT_E_BUSY);
    add_job(f, 4, 2, 0); /* jobs have a bound of their own */
    tt_sched_remove(f->s, t[3], 0);
    add(f, 3, 2, 1);
}

static void test_pages_and_passing(void **state)
{
    fixture *f = *state;
    tt_sched_task *first = add(f, 0, 1, 3), *big = NULL;
    starts(f, first, 10);
    big = add(f, 1, 1, 8);
    for (int i = 0; i < 16; i++) { /* others that fit pass it so often */
        tt_sched_task *t = add(f, 2 + i, (uint64_t)(2 + i), 2);
        tt_sched_choice c = tt_sched_next(f->s, f->now, 7);
        assert_int_equal(c.what, TT_SCHED_START);
        assert_ptr_equal(c.task, t);
        tt_sched_remove(f->s, t, f->now);
    }
    tt_sched_task *late = add(f, 20, 50, 2);
    assert_int_equal(tt_sched_next(f->s, f->now, 7).what, TT_SCHED_RUN_PREFILL);
    starts(f, big, 8);
    starts(f, late, 8);
}

/* Requests that always fit do not keep a job from its place. */
static void test_a_job_is_passed_only_so_often(void **state)
{
    fixture *f = *state;
    tt_sched_task *job = add_job(f, 0, 1, 0);
    int n = 0;
    for (; n < 20 && job->state == TT_SCHED_QUEUED; n++) {
        if (n == 8) { /* nor does it matter when another takes its place in line */
            tt_sched_remove(f->s, job, f->now);
            job = add_job(f, 0, 1, 0);
        }
        tt_sched_task *t = add(f, 1, 2, 1);
        tt_sched_choice c = tt_sched_next(f->s, f->now, 1);
        assert_int_equal(c.what, TT_SCHED_START);
        tt_sched_remove(f->s, t, f->now);
    }
    assert_int_equal(n, 17);
}

/* A request that a training keeps from its pages does not keep other requests waiting, but other
 * jobs. */
static void test_jobs_in_the_way(void **state)
{
    fixture *f = *state;
    tt_sched_set_pages_total(f->s, 10);
    tt_sched_task *job = add_job(f, 0, 1, 0), *big;
    job->pages = 6;
    starts(f, job, 10);
    job->held = 6;
    big = add(f, 1, 1, 5);
    add_job(f, 2, 2, 0)->pages = 5; /* lacks them for now */
    for (int i = 0; i < 40; i++) {
        tt_sched_task *t = add(f, 3, 3, 1);
        tt_sched_choice c = tt_sched_next(f->s, f->now, 4);
        f->task[2].pages = i < 18 ? 5 : 1;
        assert_int_equal(c.what, TT_SCHED_START);
        assert_ptr_equal(c.task, t);
        tt_sched_remove(f->s, t, f->now);
    }
    assert_int_equal(tt_sched_next(f->s, f->now, 4).what, TT_SCHED_RUN_PREFILL);
    tt_sched_remove(f->s, job, f->now);
    starts(f, big, 10);
}

/* An allocation that fails leaves nothing behind: no task queued, no record kept. */
static void test_no_memory(void **state)
{
    fixture *f = *state;
    tt_sched *s = NULL;
    tt_err err;
    tt_sched_task *t[100];
    for (int n = 0;; n++) {
        fail_alloc_at(n);
        tt_code rc = tt_sched_create(&options, &s, &err);
        if (!fail_alloc_off()) {
            assert_int_equal(rc, TT_OK);
            break;
        }
        assert_int_equal(rc, TT_E_NOMEM);
    }
    int n = 0, refused = 0, done = 0;
    for (; !done; n++) { /* keys, tags, deadlines and a table that grows */
        for (int i = 0; i < 100; i++) {
            t[i] = &f->task[i];
            *t[i] =
                (tt_sched_task){.key = (uint64_t)i, .tag = 1 + (uint64_t)i / 2, .job = i % 3 > 0};
            t[i]->deadline = i;
        }
        fail_alloc_at(n);
        tt_code rc = tt_sched_add(s, t, 100, 0, &err);
        done = !fail_alloc_off();
        if (rc == TT_OK) { /* a table that could not grow only has longer chains */
            assert_int_equal(tt_sched_next(s, 1e9, 0).what, TT_SCHED_EXPIRE);
            for (int i = 0; i < 100; i++) {
                tt_sched_remove(s, t[i], 0);
            }
        } else {
            assert_int_equal(rc, TT_E_NOMEM);
            assert_null(tt_sched_walk(s, NULL));
            assert_int_equal(t[0]->state, TT_SCHED_NONE);
            refused++;
        }
    }
    assert_true(refused > 100);
    tt_sched_destroy(&s); /* asserts that no record is left */
}

static void test_next_starts_when_nothing_can_go_on(void **state)
{
    fixture *f = *state;
    tt_sched_task *a = add(f, 0, 1, 30), *b, *job = add_job(f, 1, 1, 0);
    starts(f, a, 0);
    b = add(f, 2, 1, 30);
    starts(f, job, 1);
    assert_int_equal(tt_sched_next(f->s, f->now, 0).what, TT_SCHED_RUN_PREFILL);
    tt_sched_set(f->s, a, TT_SCHED_PARKED);
    assert_int_equal(tt_sched_next(f->s, f->now, 0).what, TT_SCHED_RUN_PREFILL);
    job->paused = true;
    starts(f, b, 0);
}

static void test_jobs_one_per_tag_and_max_jobs(void **state)
{
    fixture *f = *state;
    tt_sched_task *j[5];
    for (int i = 0; i < 4; i++) {
        j[i] = add_job(f, i, 1, i < 3 ? 5 : 6);
    }
    j[4] = add_job(f, 4, 1, 0);
    assert_true(tt_sched_behind_tag(j[1]) && !tt_sched_behind_tag(j[0]));
    starts(f, j[0], 10);
    starts(f, j[3], 10);
    assert_int_equal(tt_sched_next(f->s, f->now, 10).what, TT_SCHED_RUN_PREFILL); /* max_jobs */
    tt_sched_remove(f->s, j[3], f->now);
    tt_sched_remove(f->s, j[1], f->now); /* cancelled behind its tag */
    starts(f, j[4], 10);
    tt_sched_remove(f->s, j[4], f->now);
    assert_int_equal(tt_sched_next(f->s, f->now, 10).what, TT_SCHED_RUN_PREFILL);
    tt_sched_set(f->s, j[0], TT_SCHED_QUEUED); /* preempted: still before j[2] */
    starts(f, j[0], 10);
    tt_sched_remove(f->s, j[0], f->now);
    assert_false(tt_sched_behind_tag(j[2]));
    j[2]->paused = true;
    assert_int_equal(tt_sched_next(f->s, f->now, 10).what, TT_SCHED_IDLE);
    j[2]->paused = false;
    starts(f, j[2], 10);
}

/* What a job has made is being written: another one runs meanwhile, but none of its tag. */
static void test_a_job_that_rests(void **state)
{
    fixture *f = *state;
    tt_sched_task *j[4];
    for (int i = 0; i < 4; i++) {
        j[i] = add_job(f, i, 1, i < 2 ? 5 : 0);
    }
    starts(f, j[0], 10);
    starts(f, j[2], 10);
    assert_int_equal(tt_sched_next(f->s, f->now, 10).what, TT_SCHED_RUN_PREFILL); /* max_jobs */
    tt_sched_rest(f->s, j[0]);
    assert_int_equal(j[0]->state, TT_SCHED_PARKED);
    assert_true(tt_sched_behind_tag(j[1]));
    starts(f, j[3], 10);
    assert_int_equal(tt_sched_get_counts(f->s).running_jobs, 3);
    tt_sched_remove(f->s, j[0], f->now); /* its place is taken; j[1] waits for one */
    assert_false(tt_sched_behind_tag(j[1]));
    assert_int_equal(tt_sched_next(f->s, f->now, 10).what, TT_SCHED_RUN_PREFILL);
    tt_sched_remove(f->s, j[2], f->now);
    starts(f, j[1], 10);
    tt_sched_remove(f->s, j[3], f->now);
    add_job(f, 0, 1, 0); /* the same record again: nothing is left of its rest */
    starts(f, &f->task[0], 10);
    add_job(f, 2, 1, 0);
    assert_int_equal(tt_sched_next(f->s, f->now, 10).what, TT_SCHED_RUN_PREFILL);
}

static void test_preempted_goes_first_in_its_key(void **state)
{
    fixture *f = *state;
    tt_sched_task *a = add(f, 0, 1, 1), *b = add(f, 1, 1, 1), *c = add(f, 2, 1, 1);
    starts(f, a, 5);
    starts(f, b, 5);
    tt_sched_set(f->s, b, TT_SCHED_DECODE);
    b->held = 4;
    tt_sched_set(f->s, b, TT_SCHED_QUEUED);
    assert_true(b->preempted && b->held == 0);
    assert_int_equal(tt_sched_position(f->s, c), 1);
    starts(f, b, 5);
    starts(f, c, 5);
}

static void test_victims(void **state)
{
    fixture *f = *state;
    tt_sched_task *t[4];
    for (int i = 0; i < 4; i++) {
        t[i] = add(f, i, 1, 1);
        starts(f, t[i], 9);
        tt_sched_set(f->s, t[i], TT_SCHED_DECODE);
        t[i]->held = 1;
    }
    assert_ptr_equal(tt_sched_victim(f->s, t[1]), t[3]);
    t[3]->held = 0;
    assert_ptr_equal(tt_sched_victim(f->s, t[1]), t[2]);
    assert_null(tt_sched_victim(f->s, t[2]));
    tt_sched_set(f->s, t[0], TT_SCHED_PARKED);
    assert_ptr_equal(tt_sched_victim(f->s, t[2]), t[0]); /* it cannot go on without somebody */
    assert_ptr_equal(tt_sched_victim(f->s, t[1]), t[2]);
    tt_sched_set(f->s, t[0], TT_SCHED_TRAIN);
    t[0]->paused = true;
    assert_ptr_equal(tt_sched_victim(f->s, t[1]), t[0]);
}

static void test_deadlines(void **state)
{
    fixture *f = *state;
    tt_err err;
    static const double when[] = {5, 3, 9, 1, 4, 8, 2, 7, 6};
    for (int i = 0; i < 9; i++) {
        tt_sched_task *t = &f->task[i];
        *t = (tt_sched_task){.key = 1, .pages = 1, .job = i == 3, .paused = i == 3};
        t->deadline = when[i];
        assert_int_equal(tt_sched_add(f->s, &t, 1, 0, &err), TT_OK);
    }
    tt_sched_remove(f->s, &f->task[4], 0);
    tt_sched_choice c = tt_sched_next(f->s, 0.25, 1);
    assert_int_equal(c.what, TT_SCHED_START);
    c = tt_sched_next(f->s, 0.25, 0);
    assert_int_equal(c.what, TT_SCHED_RUN_PREFILL);
    assert_true(c.seconds == 0.75); /* the job's deadline is looked at in time */
    double last = 0;
    int n = 0;
    while ((c = tt_sched_next(f->s, 20, 0)).what == TT_SCHED_EXPIRE) {
        assert_true(c.task->deadline > last);
        last = c.task->deadline;
        tt_sched_remove(f->s, c.task, 20);
        n++;
    }
    assert_int_equal(n, 8);
    assert_int_equal(c.what, TT_SCHED_IDLE);
}

/* Half of a thousand deadlines are withdrawn in any order; the others pass in theirs. */
static void test_many_deadlines(void **state)
{
    fixture *f = *state;
    tt_rng rng = tt_rng_make(3, 0);
    for (int i = 0; i < 1000; i++) {
        tt_sched_task *t = &f->task[i];
        tt_err err;
        *t = (tt_sched_task){.key = 1, .pages = 1};
        t->deadline = 1 + (double)tt_rng_below(&rng, 500);
        assert_int_equal(tt_sched_add(f->s, &t, 1, 0, &err), TT_OK);
    }
    int n = 1000;
    for (int i = 0; i < 500; i++) {
        tt_sched_task *t = &f->task[tt_rng_below(&rng, 1000)];
        n -= t->state != TT_SCHED_NONE;
        tt_sched_remove(f->s, t, 0);
    }
    double last = 0;
    for (tt_sched_choice c; (c = tt_sched_next(f->s, 1000, 0)).what == TT_SCHED_EXPIRE; n--) {
        assert_true(c.task->deadline >= last);
        last = c.task->deadline;
        tt_sched_remove(f->s, c.task, 1000);
    }
    assert_int_equal(n, 0);
}

static void test_decode_takes_turns(void **state)
{
    fixture *f = *state;
    int rows[3] = {0};
    for (int i = 0; i < 3; i++) {
        starts(f, add(f, i, 1, 1), 9);
        tt_sched_set(f->s, &f->task[i], TT_SCHED_DECODE);
    }
    for (int i = 0; i < 30; i++) {
        tt_sched_choice c = runs(f, 0.01);
        assert_int_equal(c.what, TT_SCHED_RUN_DECODE);
        assert_int_equal(c.n, 2);
        rows[c.batch[0] - f->task]++;
        rows[c.batch[1] - f->task]++;
    }
    assert_true(rows[0] == 20 && rows[1] == 20 && rows[2] == 20);
}

static void test_long_work_between_decode_steps(void **state)
{
    fixture *f = *state;
    tt_sched_task *d = add(f, 0, 1, 1), *p = add(f, 1, 2, 1);
    starts(f, d, 9);
    starts(f, p, 9);
    tt_sched_set(f->s, d, TT_SCHED_DECODE);
    assert_int_equal(runs(f, 0.01).what, TT_SCHED_RUN_DECODE); /* decode first */
    tt_sched_choice c = runs(f, 0.06);
    assert_int_equal(c.what, TT_SCHED_RUN_PREFILL);
    assert_true(fabs(c.seconds - 0.1) < 1e-9);
    c = runs(f, 0.05); /* a second piece gets what is left */
    assert_int_equal(c.what, TT_SCHED_RUN_PREFILL);
    assert_true(fabs(c.seconds - 0.04) < 1e-9);
    assert_int_equal(runs(f, 0.01).what, TT_SCHED_RUN_DECODE);
}

/* a begun prefill step is finished first; then the other key's turn, whatever the number of tasks.
 */
static void test_prefill_turns(void **state)
{
    fixture *f = *state;
    tt_sched_task *a = add(f, 0, 1, 1), *a2 = add(f, 1, 1, 1), *b = add(f, 2, 2, 1);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(tt_sched_next(f->s, 0, 9).what, TT_SCHED_START);
    }
    assert_ptr_equal(runs(f, 0.1).task, a);
    a->mid_step = true;
    assert_ptr_equal(runs(f, 0.1).task, a);
    assert_ptr_equal(runs(f, 0.1).task, a);
    a->mid_step = false;
    assert_ptr_equal(runs(f, 0.1).task, b);
    assert_ptr_equal(runs(f, 0.1).task, a);
    assert_ptr_equal(runs(f, 0.1).task, b);
    tt_sched_remove(f->s, a, 0);
    assert_ptr_equal(runs(f, 0.1).task, a2);
}

/* Seconds of training among `seconds` seconds of everything; pieces end at the first unit of
 * `unit`. */
static double trained(fixture *f, double seconds, double unit, double decode_step)
{
    double start = f->now, train = 0;
    while (f->now < start + seconds) {
        tt_sched_choice c = tt_sched_next(f->s, f->now, 9);
        assert_true(c.what >= TT_SCHED_RUN_DECODE);
        double took = decode_step;
        if (c.what != TT_SCHED_RUN_DECODE) {
            double budget = fmin(c.seconds, 0.4); /* the length of a step */
            took = unit * fmax(1, ceil(budget / unit));
        }
        train += c.what == TT_SCHED_RUN_TRAIN ? took : 0;
        tt_sched_ran(f->s, &c, f->now, f->now + took);
        f->now += took;
    }
    return train / (f->now - start);
}

static void test_train_share(void **state)
{
    fixture *f = *state;
    tt_sched_task *job = add_job(f, 0, 1, 0), *d = add(f, 1, 1, 1), *p;
    starts(f, d, 9);
    starts(f, job, 9);
    tt_sched_set(f->s, job, TT_SCHED_TRAIN);
    tt_sched_set(f->s, d, TT_SCHED_DECODE);
    assert_true(fabs(trained(f, 50, 0.02, 0.01) - 0.25) < 0.01);
    assert_true(fabs(trained(f, 50, 0.001, 0.03) - 0.25) < 0.01);
    p = add(f, 2, 2, 1);
    starts(f, p, 9);
    assert_true(fabs(trained(f, 50, 0.02, 0.01) - 0.25) < 0.01);
    tt_sched_remove(f->s, d, f->now);
    assert_true(fabs(trained(f, 50, 0.02, 0.01) - 0.25) < 0.01);
    tt_sched_remove(f->s, p, f->now);
    assert_true(trained(f, 50, 0.02, 0.01) > 1 - 1e-9);
    starts(f, add_job(f, 3, 2, 0), 9); /* its prefill */
    assert_true(fabs(trained(f, 50, 0.02, 0.01) - 0.5) < 0.01);
}

/* The prefill of jobs counts as theirs, but a step that a request's prefill waits for is finished.
 */
static void test_prefill_of_jobs(void **state)
{
    fixture *f = *state;
    tt_sched_task *d = add(f, 0, 1, 1), *job = add_job(f, 1, 2, 0), *p;
    starts(f, d, 9);
    starts(f, job, 9);
    tt_sched_set(f->s, d, TT_SCHED_DECODE);
    double start = f->now, of_job = 0;
    while (f->now < start + 50) {
        tt_sched_choice c = tt_sched_next(f->s, f->now, 9);
        double took = c.what == TT_SCHED_RUN_PREFILL ? 0.02 : 0.01;
        of_job += c.what == TT_SCHED_RUN_PREFILL ? took : 0;
        job->mid_step = true;
        tt_sched_ran(f->s, &c, f->now, f->now + took);
        f->now += took;
    }
    assert_true(fabs(of_job / (f->now - start) - 0.25) < 0.01);
    p = add(f, 2, 3, 1);
    starts(f, p, 9);
    tt_sched_remove(f->s, d, f->now);
    assert_ptr_equal(runs(f, 5).task, job); /* far more than its share */
    assert_ptr_equal(runs(f, 0.1).task, job);
    job->mid_step = false;
    assert_ptr_equal(runs(f, 0.1).task, p);
    assert_ptr_equal(runs(f, 0.1).task, p); /* what it took is not given again */
}

static void test_a_paused_job_ends_its_step(void **state)
{
    fixture *f = *state;
    tt_sched_task *j = add_job(f, 0, 1, 0), *k = add_job(f, 1, 2, 0);
    starts(f, j, 9);
    starts(f, k, 9);
    tt_sched_set(f->s, j, TT_SCHED_TRAIN);
    tt_sched_set(f->s, k, TT_SCHED_TRAIN);
    assert_ptr_equal(runs(f, 0.1).task, j);
    j->mid_step = j->paused = true;
    assert_ptr_equal(runs(f, 0.1).task, j);
    j->mid_step = false;
    assert_ptr_equal(runs(f, 0.1).task, k);
    assert_ptr_equal(runs(f, 0.1).task, k);
    k->paused = true;
    assert_int_equal(tt_sched_next(f->s, f->now, 9).what, TT_SCHED_IDLE);
}

static void test_retry_after(void **state)
{
    fixture *f = *state;
    assert_int_equal(tt_sched_retry_after(f->s), 1);
    for (int i = 0; i < 40; i++) { /* one ends every 4 seconds */
        add(f, i, 1, 1);
    }
    for (int i = 0; i < 39; i++) {
        f->now += 4;
        tt_sched_remove(f->s, &f->task[i], f->now);
    }
    assert_in_range(tt_sched_retry_after(f->s), 3, 5);
    f->now += 1000; /* nothing ends any more */
    tt_sched_next(f->s, f->now, 9);
    assert_int_equal(tt_sched_retry_after(f->s), 60);
}

/* Ten thousand wait: all start, each once, and the records of keys and deadlines hold them. */
static void test_a_long_queue(void **state)
{
    fixture *f = *state;
    for (int i = 0; i < MANY; i++) {
        f->task[i] = (tt_sched_task){.key = i < MANY / 2 ? 1 : 2, .job = i % 3 == 0, .pages = 1};
        f->task[i].deadline = 1e9 + i % 97;
        tt_sched_task *t = &f->task[i];
        tt_err err;
        assert_int_equal(tt_sched_add(f->s, &t, 1, f->now, &err), TT_OK);
    }
    int n = 0;
    for (tt_sched_choice c; (c = tt_sched_next(f->s, f->now, 9)).what != TT_SCHED_IDLE;) {
        n += c.what == TT_SCHED_START;
        if (c.what != TT_SCHED_START) {
            tt_sched_remove(f->s, c.task, f->now);
        }
    }
    assert_int_equal(n, MANY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_idle_and_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_round_robin_over_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queue_bound_is_all_or_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pages_and_passing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_job_is_passed_only_so_often, setup, teardown),
        cmocka_unit_test_setup_teardown(test_jobs_in_the_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_next_starts_when_nothing_can_go_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_jobs_one_per_tag_and_max_jobs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_job_that_rests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_preempted_goes_first_in_its_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_victims, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadlines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_deadlines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_decode_takes_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_work_between_decode_steps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prefill_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_train_share, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prefill_of_jobs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_paused_job_ends_its_step, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry_after, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_long_queue, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
