/* test_rate.c - the token bucket, over a clock of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "server/rate.h"

static void near(double a, double b)
{
    if (!(fabs(a - b) < 1e-6)) {
        fail_msg("%.9f is not %.9f", a, b);
    }
}

static void test_a_minute_at_once_then_the_rate(void **state)
{
    tt_rate r;
    tt_rate_init(&r, 60, 100);
    for (int i = 0; i < 60; i++) {
        near(tt_rate_wait(&r, 1, 100), 0);
        tt_rate_take(&r, 1, 100);
    }
    near(tt_rate_left(&r, 100), 0);
    near(tt_rate_wait(&r, 1, 100), 1);
    near(tt_rate_wait(&r, 1, 100.25), 0.75);
    near(tt_rate_reset(&r, 100), 60);
    near(tt_rate_wait(&r, 1, 101), 0); /* as long as one was told */
    tt_rate_take(&r, 1, 101);
    near(tt_rate_wait(&r, 1, 101), 1);
    near(tt_rate_left(&r, 131), 30);
    near(tt_rate_left(&r, 1e6), 60); /* never more than a minute's */
    near(tt_rate_reset(&r, 1e6), 0);
}

/* What nobody knew before makes a debt, which is paid first. */
static void test_debt(void **state)
{
    tt_rate r;
    tt_rate_init(&r, 600, 0);
    tt_rate_take(&r, 1200, 0);
    near(tt_rate_left(&r, 0), 0);
    near(tt_rate_wait(&r, 100, 0), 70);
    near(tt_rate_reset(&r, 0), 120);
    near(tt_rate_left(&r, 90), 300);
    tt_rate_take(&r, -400, 0); /* given back */
    near(tt_rate_wait(&r, 100, 0), 30);
    tt_rate_take(&r, -1e9, 0);
    near(tt_rate_left(&r, 0), 600);
}

/* More than the bucket holds may be had from a full one: else never. */
static void test_more_than_it_holds(void **state)
{
    tt_rate r;
    tt_rate_init(&r, 10, 0);
    near(tt_rate_wait(&r, 1000, 0), 0);
    tt_rate_take(&r, 5, 0);
    near(tt_rate_wait(&r, 1000, 0), 30);
}

static void test_no_limit(void **state)
{
    tt_rate r;
    tt_rate_init(&r, 0, 0);
    tt_rate_take(&r, 1e12, 0);
    near(tt_rate_wait(&r, 1e12, 0), 0);
    near(tt_rate_reset(&r, 0), 0);
}

static void test_change(void **state)
{
    tt_rate r;
    tt_rate_init(&r, 100, 0);
    tt_rate_take(&r, 75, 0);
    tt_rate_change(&r, 1000, 0);
    near(tt_rate_left(&r, 0), 250); /* a quarter, as before: no reload fills a bucket */
    tt_rate_change(&r, 0, 0);
    near(tt_rate_wait(&r, 5, 0), 0);
    tt_rate_change(&r, 60, 0);
    near(tt_rate_left(&r, 0), 60);
}

static void test_a_clock_that_stands_or_goes_back(void **state)
{
    tt_rate r;
    tt_rate_init(&r, 60, 10);
    tt_rate_take(&r, 60, 10);
    near(tt_rate_left(&r, 5), 0);
    tt_rate_take(&r, 0, 5);
    near(tt_rate_left(&r, 11), 1); /* the second before 10 does not come twice */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_minute_at_once_then_the_rate),
        cmocka_unit_test(test_debt),
        cmocka_unit_test(test_more_than_it_holds),
        cmocka_unit_test(test_no_limit),
        cmocka_unit_test(test_change),
        cmocka_unit_test(test_a_clock_that_stands_or_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
