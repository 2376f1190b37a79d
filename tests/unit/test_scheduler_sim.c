/* test_scheduler_sim.c - the scheduler with sequences and K/V pages under random load: 100,000
 * arrivals, cancels, failures, timeouts, pauses, and far fewer pages than wanted; scheduler_sim.h
 * checks every choice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler_sim.h"

enum { N_KEYS = 8, N_DOCS = 4, N_ARRIVALS = 100000 };

static const sim_options base = {
    .sched = {.max_running = 10,
              .max_queue = 40,
              .max_batch = 4,
              .max_jobs = 3,
              .max_queued_jobs = 12,
              .target_gap = 0.1,
              .train_share = 0.3},
    .costs = {.prefill_token = 1e-4,
              .prefill_token_depth = 1e-7,
              .again_factor = 4,
              .decode_step = 0.005,
              .decode_row = 0.001,
              .decode_row_depth = 1e-6,
              .train_step = 0.1,
              .train_step_depth = 1e-4,
              .n_units = 8,
              .prefill_chunk = 128},
    .n_pages = 32,
    .check = true,
};

typedef struct churn {
    tt_rng rng;
    int32_t left;
    double next, rate; /* arrivals a second, in this phase */
    int32_t resumed;
    double adapted; /* share of requests with an adapter */
} churn;

static int32_t below(churn *c, int32_t n)
{
    return (int32_t)tt_rng_below(&c->rng, (uint64_t)n);
}

static bool chance(churn *c, double p)
{
    return tt_rng_uniform(&c->rng) < p;
}

static double churn_next(sim *m, void *arg)
{
    (void)m;
    const churn *c = arg;
    return c->left > 0 ? c->next : INFINITY;
}

static sim_spec churn_spec(churn *c)
{
    static const int32_t doc_tokens[N_DOCS] = {64, 127, 320, 512};
    sim_spec p = {.key = 1 + (uint64_t)below(c, N_KEYS), .job = chance(c, 0.04)};
    int32_t doc = below(c, N_DOCS);
    p.doc = p.key * 100 + (uint64_t)doc;
    p.n_doc = doc_tokens[doc];
    p.steps = 1 + below(c, 6);
    if (p.job) {
        p.tag = p.key * 10 + (uint64_t)below(c, 3);
        p.tag = p.tag % 10 == 0 ? 0 : p.tag;
    } else {
        /* Often another's: what one read the other may have generated, or run under an adapter. */
        p.tail = chance(c, 0.5) ? p.key * 10 + (uint64_t)below(c, 3) : tt_rng_u64(&c->rng);
        p.n_tail = 1 + below(c, 130);
        p.n_out = 1 + below(c, chance(c, 0.1) ? 300 : 30);
        p.keep = chance(c, 0.5);
        p.adapter =
            chance(c, c->adapted) ? 1 + (int32_t)(p.key - 1) * N_DOCS + doc + 32 * below(c, 2) : 0;
    }
    p.timeout = chance(c, 0.1) ? 0.05 + 5 * tt_rng_uniform(&c->rng) : 0;
    return p;
}

/* Something happens to somebody. */
static void disturb(sim *m, churn *c)
{
    sim_task *t = m->live[below(c, m->n_live)];
    double what = tt_rng_uniform(&c->rng);
    if (what < 0.04) {
        sim_end_task(m, t, SIM_CANCELLED);
    } else if (what < 0.06) {
        sim_end_task(m, t, SIM_FAILED);
    } else if (what < 0.5) {
        t->sched.paused = t->sched.job && !t->sched.paused;
    } else if (what < 0.6) {
        for (int i = below(c, 8); i <= SIM_ADAPTERS; i += 8) {
            m->adapter[i].trained = false; /* evicted */
        }
    }
}

static void churn_arrive(sim *m, void *arg)
{
    churn *c = arg;
    sim_spec p = churn_spec(c);
    sim_submit(m, &p);
    if (m->n_live > 0) {
        disturb(m, c);
    }
    if (--c->left % 500 == 0) { /* from idle to three times what can be served */
        static const double rates[] = {1, 6, 12, 40};
        c->rate = rates[below(c, 4)];
    }
    c->next += -log(1 - tt_rng_uniform(&c->rng)) / c->rate;
}

static void resume_all(sim *m, void *arg)
{
    churn *c = arg;
    for (int32_t i = 0; i < m->n_live; i++) {
        c->resumed += m->live[i]->sched.paused;
        m->live[i]->sched.paused = false;
    }
}

static void print(const char *name, const sim_result *r)
{
    printf(
        "%s: %.0f s, %lld done, %lld cancelled, %lld failed, %lld expired, %lld refused; %lld jobs "
        "of %lld; %lld tokens, %lld preemptions, %lld parked, jobs %.3f of %.0f s, late %.4f "
        "s, longest life %.0f s\n",
        name, r->seconds, (long long)r->ended[SIM_DONE], (long long)r->ended[SIM_CANCELLED],
        (long long)r->ended[SIM_FAILED], (long long)r->ended[SIM_EXPIRED],
        (long long)r->ended[SIM_REFUSED], (long long)r->jobs_done, (long long)r->jobs_submitted,
        (long long)r->tokens, (long long)r->preemptions, (long long)r->parked,
        r->contended_jobs / r->contended, r->contended, r->decode_late_max, r->live_max);
}

static void run(const sim_options *opt, sim_result *r)
{
    assert_true(sim_run(opt, r));
    if (r->failure[0] != '\0') {
        print("failed", r);
        fail_msg("%s", r->failure);
    }
}

static void churned(sim_options opt, uint64_t seed, int32_t arrivals, double adapted, sim_result *r)
{
    churn c = {.rng = tt_rng_make(seed, 1), .left = arrivals, .rate = 12, .adapted = adapted};
    opt.next_arrival = churn_next;
    opt.arrive = churn_arrive;
    opt.stuck = resume_all;
    opt.arg = &c;
    run(&opt, r);
    assert_int_equal(r->submitted, arrivals);
}

static void test_random_life(void **state)
{
    (void)state;
    sim_result r;
    churned(base, 7, N_ARRIVALS, 0.1, &r);
    print("random life", &r);
    for (int i = 0; i < SIM_ENDS; i++) {
        assert_true(r.ended[i] > 100); /* all of it was tried */
    }
    assert_true(r.preemptions > 1000 && r.parked > 50 && r.jobs_done > 100);
    assert_true(fabs(r.contended_jobs / r.contended - base.sched.train_share) < 0.02);
}

/* Other bounds, shares, gaps and pools; a pool that holds just one of the largest tasks among
 * them. */
static void test_random_bounds(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        churn c = {.rng = tt_rng_make(seed, 2)};
        sim_options opt = base;
        sim_result r;
        opt.sched.max_running = 1 + below(&c, 16);
        opt.sched.max_queue = below(&c, 60);
        opt.sched.max_batch = 1 + below(&c, 16);
        opt.sched.max_jobs = 1 + below(&c, 4);
        opt.sched.max_queued_jobs = below(&c, 20);
        opt.sched.target_gap = 0.02 + 0.3 * tt_rng_uniform(&c.rng);
        opt.sched.train_share = 0.05 + 0.85 * tt_rng_uniform(&c.rng);
        opt.costs.n_units = 4 + below(&c, 40);
        opt.n_pages = 15 + below(&c, seed % 4 == 0 ? 1 : 60);
        churned(opt, seed, 2000, seed % 5 == 0 ? 0.6 : 0.1, &r);
    }
}

/* One key has a thousand requests waiting; another's one is served as if there were two. */
static double lone_next(sim *m, void *arg)
{
    (void)m;
    const churn *c = arg;
    return c->left > 0 ? c->next : INFINITY;
}

static void lone_arrive(sim *m, void *arg)
{
    churn *c = arg;
    sim_spec p = {.key = 1, .doc = 5, .n_doc = 320, .n_tail = 30, .n_out = 20};
    for (int i = 0; i < 1000 && c->left == 2; i++) {
        p.tail = (uint64_t)i;
        assert_true(sim_submit(m, &p));
    }
    if (c->left == 1) {
        p.key = 2;
        p.user = 1;
        p.tail = 5000;
        assert_true(sim_submit(m, &p));
    }
    c->left--;
    c->next = 5;
}

static void lone_ended(sim *m, const sim_task *t, sim_end how, void *arg)
{
    churn *c = arg;
    assert_int_equal(how, SIM_DONE);
    if (t->spec.user == 1) {
        c->rate = m->now - t->arrived;
    }
}

static void test_one_request_beside_a_thousand(void **state)
{
    (void)state;
    churn c = {.left = 2};
    sim_options opt = base;
    sim_result r;
    opt.sched.max_queue = 2000;
    opt.next_arrival = lone_next;
    opt.arrive = lone_arrive;
    opt.ended = lone_ended;
    opt.arg = &c;
    run(&opt, &r);
    assert_true(r.seconds > 30);
    assert_true(c.rate < 2); /* a place becomes free, and its own time */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_life),
        cmocka_unit_test(test_random_bounds),
        cmocka_unit_test(test_one_request_beside_a_thousand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
