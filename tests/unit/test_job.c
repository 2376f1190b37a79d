/* test_job.c - the object between the threads: copies, order, wake-ups, references, cancellation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/job.h"

static void count_wake(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static tt_event *event(tt_event_type type, int32_t id)
{
    tt_event *ev = calloc(1, sizeof *ev);
    ev->type = type;
    ev->u.token.id = id;
    ev->owned = malloc(8); /* freed with the event: the sanitizer run sees a leak otherwise */
    return ev;
}

static void test_params_are_copied(void **state)
{
    int32_t prompt[] = {1, 2, 3}, stop_ids[] = {9};
    char text[] = "END";
    struct tt_stop stop = {text, 3};
    struct tt_logit_bias bias = {5, 1.5f};
    tt_job_params p = {.prompt = prompt,
                       .n_prompt = 3,
                       .stops = &stop,
                       .n_stops = 1,
                       .stop_ids = stop_ids,
                       .n_stop_ids = 1};
    p.sampling.bias = &bias;
    p.sampling.n_bias = 1;
    tt_job *job;
    tt_err err;
    assert_int_equal(tt_job_create(&p, NULL, NULL, &job, &err), TT_OK);
    prompt[0] = stop_ids[0] = bias.id = -1;
    text[0] = '?';
    const tt_job_params *q = tt_job_get_params(job);
    assert_int_equal(q->prompt[0], 1);
    assert_int_equal(q->stop_ids[0], 9);
    assert_int_equal(q->sampling.bias[0].id, 5);
    assert_string_equal(q->stops[0].p, "END");
    tt_job_unref(&job);
    assert_null(job);
    tt_job_unref(&job);
}

static void test_wake_only_from_empty(void **state)
{
    atomic_int wakes = 0;
    tt_job *job;
    tt_err err;
    assert_int_equal(tt_job_create(&(tt_job_params){0}, count_wake, &wakes, &job, &err), TT_OK);
    assert_null(tt_job_next(job));
    tt_job_push(job, event(TT_EV_TOKEN, 1));
    tt_job_push(job, event(TT_EV_TOKEN, 2));
    assert_int_equal(wakes, 1);
    for (int32_t i = 1; i <= 2; i++) {
        tt_event *ev = tt_job_next(job);
        assert_int_equal(ev->u.token.id, i);
        tt_event_free(ev);
    }
    assert_null(tt_job_next(job));
    tt_job_push(job, event(TT_EV_DONE, 3));
    assert_int_equal(wakes, 2);
    tt_job_ref(job);
    tt_job *second = job;
    tt_job_unref(&job);
    tt_job_push(second, event(TT_EV_DONE, 4)); /* still alive; both events are freed with it */
    tt_job_unref(&second);
}

static void test_cancel_flags(void **state)
{
    tt_job *job;
    tt_err err;
    assert_int_equal(tt_job_create(&(tt_job_params){0}, NULL, NULL, &job, &err), TT_OK);
    assert_false(tt_job_cancelled(job));
    tt_job_cancel(job, true);
    assert_false(tt_job_cancelled(job));
    assert_true(tt_job_adaptation_cancelled(job));
    tt_job_cancel(job, false);
    assert_true(tt_job_cancelled(job));
    tt_job_unref(&job);
}

static void *producer(void *arg)
{
    for (int32_t i = 0; i < 20000; i++) {
        tt_job_push(arg, event(i == 19999 ? TT_EV_DONE : TT_EV_TOKEN, i));
    }
    return NULL;
}

static void test_two_threads_keep_order(void **state)
{
    tt_job *job;
    tt_err err;
    pthread_t t;
    assert_int_equal(tt_job_create(&(tt_job_params){0}, NULL, NULL, &job, &err), TT_OK);
    assert_int_equal(pthread_create(&t, NULL, producer, job), 0);
    for (int32_t want = 0; want < 20000;) {
        tt_event *ev = tt_job_next(job);
        if (ev != NULL) {
            assert_int_equal(ev->u.token.id, want);
            want++;
            tt_event_free(ev);
        }
    }
    pthread_join(t, NULL);
    tt_job_unref(&job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_params_are_copied),
        cmocka_unit_test(test_wake_only_from_empty),
        cmocka_unit_test(test_cancel_flags),
        cmocka_unit_test(test_two_threads_keep_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
