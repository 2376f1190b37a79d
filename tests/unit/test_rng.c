/* test_rng.c - the seeded generator: published values of splitmix64, bounds, moments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "core/rng.h"

/* Seed 1234567 and 0 in the author's own splitmix64.c (prng.di.unimi.it). */
static void test_published_values(void **state)
{
    static const uint64_t want[] = {6457827717110365317u, 3203168211198807973u,
                                    9817491932198370423u, 4593380528125082431u,
                                    16408922859458223821u};
    tt_rng r = {1234567};
    for (int i = 0; i < 5; i++) {
        assert_true(tt_rng_u64(&r) == want[i]);
    }
    r = (tt_rng){0};
    assert_true(tt_rng_u64(&r) == 0xE220A8397B1DCDAFu);
    assert_true(tt_rng_u64(&r) == 0x6E789E6AA1B965F4u);
}

static void test_streams(void **state)
{
    tt_rng a = tt_rng_make(7, 1), b = tt_rng_make(7, 1), c = tt_rng_make(7, 2),
           d = tt_rng_make(8, 1), e = tt_rng_make(1, 7);
    for (int i = 0; i < 1000; i++) {
        uint64_t x = tt_rng_u64(&a);
        assert_true(x == tt_rng_u64(&b));
        assert_true(x != tt_rng_u64(&c));
        assert_true(x != tt_rng_u64(&d));
        assert_true(x != tt_rng_u64(&e));
    }
}

static void test_below(void **state)
{
    enum { DRAWS = 70000, N = 7 };
    tt_rng r = tt_rng_make(1, 0);
    int count[N] = {0};
    for (int i = 0; i < DRAWS; i++) {
        uint64_t v = tt_rng_below(&r, N);
        assert_true(v < N);
        count[v]++;
        assert_true(tt_rng_below(&r, 1) == 0);
    }
    for (int i = 0; i < N; i++) { /* 10,000 each, 5 standard deviations of 92 */
        assert_true(abs(count[i] - DRAWS / N) < 460);
    }
    /* a bound over half of the range: a remainder would give the low third twice as often */
    uint64_t n = ((uint64_t)3 << 62);
    int low = 0;
    for (int i = 0; i < 30000; i++) {
        uint64_t v = tt_rng_below(&r, n);
        assert_true(v < n);
        low += v < n / 3;
    }
    assert_true(abs(low - 10000) < 410);
}

static void test_uniform_and_normal(void **state)
{
    enum { DRAWS = 100000 };
    tt_rng r = tt_rng_make(3, 0);
    double sum = 0, sq = 0, cube = 0, fourth = 0, mean = 0;
    for (int i = 0; i < DRAWS; i++) {
        double u = tt_rng_uniform(&r), z = tt_rng_normal(&r);
        assert_true(u >= 0 && u < 1 && isfinite(z));
        mean += u / DRAWS;
        sum += z / DRAWS;
        sq += z * z / DRAWS;
        cube += z * z * z / DRAWS;
        fourth += z * z * z * z / DRAWS;
    }
    /* 5 standard errors: sqrt(1/12), 1, sqrt(2), sqrt(15), sqrt(96) over sqrt(100,000) */
    assert_true(fabs(mean - 0.5) < 0.0046);
    assert_true(fabs(sum) < 0.0158);
    assert_true(fabs(sq - 1) < 0.0224);
    assert_true(fabs(cube) < 0.0612);
    assert_true(fabs(fourth - 3) < 0.155);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_values),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_below),
        cmocka_unit_test(test_uniform_and_normal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
