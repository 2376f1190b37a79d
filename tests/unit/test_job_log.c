/* test_job_log.c - numbers, what gives way in a full log, reading from a number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/job_log.h"

static void add(tt_job_log *log, tt_job_event_type type)
{
    tt_job_event ev = {.type = type, .number = -7};
    ev.u.step.step = (int32_t)log->last + 1;
    tt_job_log_add(log, &ev);
}

static void reading(void **state)
{
    tt_job_log log;
    int32_t n;
    tt_job_log_init(&log, 100);
    assert_null(tt_job_log_after(&log, 0, &n));
    assert_int_equal(n, 0);
    for (int i = 0; i < 40; i++) {
        add(&log, TT_JOB_EVENT_STEP);
    }
    for (int64_t after = -1; after < 42; after++) {
        const tt_job_event *v = tt_job_log_after(&log, after, &n);
        assert_int_equal(n, after < 0 ? 40 : after < 40 ? 40 - after : 0);
        assert_true((v != NULL) == (n > 0));
        for (int32_t i = 0; i < n; i++) {
            assert_int_equal(v[i].number, (after < 0 ? 0 : after) + 1 + i);
            assert_int_equal(v[i].u.step.step, v[i].number);
        }
    }
    tt_job_log_close(&log);
    assert_int_equal(log.cap, 40);
    assert_non_null(tt_job_log_after(&log, 39, &n));
    assert_int_equal(log.lost, 0);
    tt_job_log_finish(&log);
}

/* The oldest steps go; probes and statuses stay; the numbers tell. */
static void bounded(void **state)
{
    enum { MAX = 10 };
    static const tt_job_event_type kept_types[] = {TT_JOB_EVENT_STATUS, TT_JOB_EVENT_PROBE};
    tt_job_log log;
    int32_t n;
    tt_job_log_init(&log, MAX);
    add(&log, TT_JOB_EVENT_STATUS);
    add(&log, TT_JOB_EVENT_PROBE);
    for (int i = 0; i < 1000; i++) {
        add(&log, TT_JOB_EVENT_STEP);
    }
    add(&log, TT_JOB_EVENT_STATUS);
    const tt_job_event *v = tt_job_log_after(&log, 0, &n);
    assert_int_equal(n, MAX);
    assert_int_equal(log.cap, MAX);
    assert_int_equal(v[0].number, 1);
    assert_int_equal(v[1].number, 2);
    for (int i = 2; i < MAX; i++) {
        assert_int_equal(v[i].number, 1003 - (MAX - 1 - i));
        assert_int_equal(v[i].type, i < MAX - 1 ? TT_JOB_EVENT_STEP : TT_JOB_EVENT_STATUS);
    }
    assert_int_equal(log.lost, 1003 - MAX);
    v = tt_job_log_after(&log, 2, &n); /* a reader across the gap */
    assert_int_equal(v[0].number, 1003 - (MAX - 3));
    for (int i = 0; i < 50; i++) { /* nothing but statuses: bounded all the same */
        add(&log, kept_types[i % 2]);
    }
    v = tt_job_log_after(&log, 0, &n);
    assert_int_equal(n, MAX);
    for (int i = 0; i < MAX; i++) {
        assert_int_equal(v[i].number, 1053 - (MAX - 1 - i));
    }
    tt_job_log_finish(&log);
    tt_job_log_init(&log, 1);
    add(&log, TT_JOB_EVENT_STEP);
    add(&log, TT_JOB_EVENT_STATUS);
    v = tt_job_log_after(&log, 0, &n);
    assert_int_equal(n, 1);
    assert_int_equal(v[0].number, 2);
    tt_job_log_finish(&log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(reading), cmocka_unit_test(bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
