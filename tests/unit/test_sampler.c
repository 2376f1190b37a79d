/* test_sampler.c - distributions against a direct computation over the sorted vocabulary, and the
 * edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "core/sampler.h"
#include "kernels/lane.h"
#include "kernels/ref/ref.h"

#define V 1000
#define DRAWS 40000

static float logits[V];
static tt_ops ops;
static tt_lane *lane;

static int open_table(void **state)
{
    tt_err err;
    tt_ops_init_lane(&ops);
    tt_ops_init_ref(&ops);
    return ops.lane_create(&ops, &(tt_lane_options){.n_threads = 1}, &lane, &err) == TT_OK ? 0 : -1;
}

static int close_table(void **state)
{
    ops.lane_destroy(&lane);
    return 0;
}

/* The sampler's next token by the reference table, from `logits`, which stay. */
static int32_t draw(const tt_sampler *s, const int32_t *banned, int32_t n_banned)
{
    static float row[V];
    tt_err err;
    tt_draw_order o;
    int32_t token = -1;
    tt_sampler_order(s, banned, n_banned, &o);
    memcpy(row, logits, sizeof row);
    ops.sample(lane, &(tt_sample_args){.logits = tt_addr(row),
                                       .draws = tt_addr(&o.draw),
                                       .adjusts = tt_addr(o.adjusts),
                                       .banned = tt_addr(o.banned),
                                       .tokens = tt_addr(&token),
                                       .n_draws = 1,
                                       .n_vocab = V});
    assert_int_equal(ops.lane_sync(lane, &err), TT_OK);
    return token;
}

static tt_sampling plain(void)
{
    return (tt_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1};
}

static void fill_logits(void)
{
    tt_rng rng = tt_rng_make(5, 5);
    for (int i = 0; i < V; i++) {
        logits[i] = (float)tt_rng_normal(&rng) * 3;
    }
}

static int by_falling_logit(const void *a, const void *b)
{
    float x = logits[*(const int *)a], y = logits[*(const int *)b];
    return (x < y) - (x > y);
}

/* The definition, over the sorted vocabulary. */
static void expected(const tt_sampling *o, double *p)
{
    int order[V], n = V;
    double sum = 0, mass = 0;
    for (int i = 0; i < V; i++) {
        order[i] = i;
    }
    qsort(order, V, sizeof *order, by_falling_logit);
    memset(p, 0, V * sizeof *p);
    n = o->top_k > 0 && o->top_k < n ? o->top_k : n;
    for (int i = 0; i < n; i++) {
        p[order[i]] = exp(((double)logits[order[i]] - logits[order[0]]) / o->temperature);
        sum += p[order[i]];
    }
    int keep = n;
    for (int i = 0; i < n && o->top_p < 1; i++) {
        mass += p[order[i]] / sum;
        if (mass >= o->top_p) {
            keep = i + 1;
            break;
        }
    }
    for (int i = 0; i < n; i++) {
        if (i >= keep || p[order[i]] < o->min_p) {
            p[order[i]] = 0;
        }
    }
    sum = 0;
    for (int i = 0; i < V; i++) {
        sum += p[i];
    }
    for (int i = 0; i < V; i++) {
        p[i] /= sum;
    }
}

static void check_distribution(tt_sampling o)
{
    static double p[V];
    static int hits[V];
    tt_sampler s;
    tt_err err;
    int32_t prompt = 0;
    assert_int_equal(tt_sampler_init(&s, &o, V, &prompt, 0, &err), TT_OK);
    expected(&o, p);
    memset(hits, 0, sizeof hits);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = draw(&s, NULL, 0);
        hits[id]++;
        tt_sampler_accept(&s, id);
    }
    for (int i = 0; i < V; i++) {
        double sd = sqrt(p[i] * (1 - p[i]) * DRAWS);
        if (p[i] == 0) {
            assert_int_equal(hits[i], 0);
        } else {
            assert_true(fabs(hits[i] - p[i] * DRAWS) < 5 * sd + 3);
        }
    }
    tt_sampler_finish(&s);
}

static void test_distributions(void **state)
{
    fill_logits();
    tt_sampling o = plain();
    check_distribution(o);
    o.temperature = 0.7f;
    check_distribution(o);
    o.top_k = 40;
    check_distribution(o);
    o.top_p = 0.9f;
    check_distribution(o);
    o.top_k = 0;
    check_distribution(o);
    o.temperature = 3; /* flat: the kept set is larger than the first sorted head */
    check_distribution(o);
    o.top_p = 1;
    o.min_p = 0.05f;
    check_distribution(o);
}

static int32_t draw_one(tt_sampling o, const int32_t *banned, int32_t n)
{
    tt_sampler s;
    tt_err err;
    int32_t none = 0;
    assert_int_equal(tt_sampler_init(&s, &o, V, &none, 0, &err), TT_OK);
    int32_t id = draw(&s, banned, n);
    tt_sampler_finish(&s);
    return id;
}

static void test_greedy_seed_and_ban(void **state)
{
    fill_logits();
    logits[123] = 50;
    logits[77] = 49;
    tt_sampling o = plain();
    o.temperature = 0;
    int32_t ban = 123;
    assert_int_equal(draw_one(o, NULL, 0), 123);
    assert_int_equal(draw_one(o, &ban, 1), 77);
    fill_logits();
    o.temperature = 1;
    o.seed = 99;
    int32_t a = draw_one(o, NULL, 0);
    assert_int_equal(draw_one(o, NULL, 0), a);
    int differ = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        o.seed = seed;
        differ += draw_one(o, NULL, 0) != a;
    }
    assert_true(differ > 10);
}

static void test_penalties_and_bias(void **state)
{
    tt_sampler s;
    tt_err err;
    tt_sampling o = plain();
    o.temperature = 0;
    memset(logits, 0, sizeof logits);
    logits[1] = 3;
    logits[2] = 2.5f;
    logits[3] = 2.4f;
    o.repetition_penalty = 1.5f; /* 3 / 1.5 = 2 */
    int32_t prompt = 1;
    assert_int_equal(tt_sampler_init(&s, &o, V, &prompt, 1, &err), TT_OK);
    assert_int_equal(draw(&s, NULL, 0), 2);
    tt_sampler_accept(&s, 2);
    assert_int_equal(draw(&s, NULL, 0), 3);
    tt_sampler_finish(&s);
    o.repetition_penalty = 1;
    o.frequency_penalty = 0.3f; /* after two: 3 - 0.6 < 2.5; presence counts once */
    assert_int_equal(tt_sampler_init(&s, &o, V, &prompt, 1, &err), TT_OK);
    tt_sampler_accept(&s, 1);
    assert_int_equal(draw(&s, NULL, 0), 1);
    tt_sampler_accept(&s, 1);
    assert_int_equal(draw(&s, NULL, 0), 2);
    tt_sampler_finish(&s);
    struct tt_logit_bias bias[] = {{1, -100}, {900, 2.45f}};
    o = plain();
    o.temperature = 0;
    o.bias = bias;
    o.n_bias = 2;
    assert_int_equal(tt_sampler_init(&s, &o, V, &prompt, 1, &err), TT_OK);
    assert_int_equal(draw(&s, NULL, 0), 2);
    tt_sampler_finish(&s);
}

static void test_rubbish_logits(void **state)
{
    tt_sampling o = plain();
    for (int i = 0; i < V; i++) {
        logits[i] = NAN;
    }
    int32_t ban[] = {0, 1};
    assert_int_equal(draw_one(o, ban, 2), 2);
    logits[17] = -1000;
    assert_int_equal(draw_one(o, NULL, 0), 17);
    logits[18] = INFINITY;
    assert_int_equal(draw_one(o, NULL, 0), 18);
}

/* Every number of a stream is had from its index alone, and a seed draws the tokens that it has
 * always drawn: recorded from the sampler that walked core/rng.h's generator on the host. */
static void test_seed_has_its_tokens(void **state)
{
    static const int32_t plain_ids[] = {255, 27,  869, 255, 369, 160, 804, 897,
                                        639, 160, 146, 975, 255, 514, 954, 255},
                         top_p_ids[] = {482, 255, 639, 255, 500, 255, 767, 788,
                                        372, 255, 255, 509, 902, 629, 472, 482};
    for (int i = 0; i < 2; i++) {
        tt_sampler s;
        tt_err err;
        tt_sampling o = plain();
        o.temperature = 1.5f;
        o.top_k = i == 0 ? 0 : 200;
        o.top_p = i == 0 ? 1 : 0.9f;
        o.seed = 42;
        fill_logits();
        assert_int_equal(tt_sampler_init(&s, &o, V, NULL, 0, &err), TT_OK);
        for (size_t k = 0; k < sizeof plain_ids / sizeof *plain_ids; k++) {
            assert_int_equal(draw(&s, NULL, 0), (i == 0 ? plain_ids : top_p_ids)[k]);
            tt_sampler_accept(&s, 1);
        }
        tt_sampler_finish(&s);
    }
}

/* A number beyond 2^-43 of the likeliest is none; of equal ones the lower ids are kept; a share
 * that is reached exactly is reached. */
static void test_edges_of_what_is_kept(void **state)
{
    for (int i = 0; i < V; i++) {
        logits[i] = -60;
    }
    logits[500] = logits[501] = logits[502] = logits[503] = 0;
    logits[7] = -40; /* p = 4e-18 */
    for (uint64_t seed = 0; seed < 300; seed++) {
        tt_sampling o = plain();
        o.seed = seed;
        int32_t id = draw_one(o, NULL, 0);
        assert_true(id >= 500 && id <= 503);
        o.top_k = 2;
        assert_in_range(draw_one(o, NULL, 0), 500, 501);
        o.top_k = 0;
        o.top_p = 0.75f;
        assert_in_range(draw_one(o, NULL, 0), 500, 502);
        o.top_p = 0;
        assert_int_equal(draw_one(o, NULL, 0), 500);
        o.top_p = 1;
        o.temperature = 1e-38f;
        assert_in_range(draw_one(o, NULL, 0), 500, 503);
        o.temperature = 30; /* -60 is then e^-2 */
        o.min_p = 1;
        assert_in_range(draw_one(o, NULL, 0), 500, 503);
    }
}

static void test_logprobs(void **state)
{
    fill_logits();
    logits[10] = logits[20] = 12; /* a tie at the top: lower id first */
    tt_logprob top[5];
    float chosen = tt_logprobs(logits, V, 20, top, 5);
    double sum = 0;
    for (int i = 0; i < V; i++) {
        sum += exp(logits[i]);
    }
    assert_int_equal(top[0].id, 10);
    assert_int_equal(top[1].id, 20);
    assert_true(top[1].logprob == chosen); /* the same number, not nearly */
    assert_true(fabs(chosen - (12 - log(sum))) < 1e-5);
    for (int i = 1; i < 5; i++) {
        assert_true(top[i].logprob <= top[i - 1].logprob);
    }
    int better = 0;
    for (int i = 0; i < V; i++) {
        better += logits[i] - log(sum) > top[4].logprob + 1e-6;
    }
    assert_int_equal(better, 4);
    assert_true(tt_logprobs(logits, V, 20, NULL, 0) == chosen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_greedy_seed_and_ban),
        cmocka_unit_test(test_penalties_and_bias),
        cmocka_unit_test(test_rubbish_logits),
        cmocka_unit_test(test_seed_has_its_tokens),
        cmocka_unit_test(test_edges_of_what_is_kept),
        cmocka_unit_test(test_logprobs),
    };
    return cmocka_run_group_tests(tests, open_table, close_table);
}
