/* test_work.c - work beside the loop thread: in order, bounded, skipped when nobody wants it any
 * more, done() on the loop's thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "server/server.h"
#include "server/work.h"

enum { N = 12 };

typedef struct item {
    tt_work work; /* first: a tt_work * is an item * */
    int index;
    bool unwanted, ran, finished;
} item;

static tt_settings settings;
static tt_server server;
static item items[N];
static int order[N], n_done;
static pthread_t loop_thread;
static atomic_int running, most;
static int meet; /* an item waits (seconds at most) until so many have run at once */

static void run(tt_work *w)
{
    item *it = (item *)w;
    int now = atomic_fetch_add(&running, 1) + 1, seen = atomic_load(&most);
    while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now)) {
    }
    for (int ms = 0; ms < 1 || (ms < 5000 && atomic_load(&most) < meet); ms++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    it->ran = !pthread_equal(pthread_self(), loop_thread);
    atomic_fetch_sub(&running, 1);
}

static void done(tt_work *w)
{
    item *it = (item *)w;
    assert_true(pthread_equal(pthread_self(), loop_thread));
    assert_false(it->finished);
    it->finished = true;
    order[n_done++] = it->index;
}

static bool wanted(tt_work *w)
{
    assert_true(pthread_equal(pthread_self(), loop_thread));
    return !((item *)w)->unwanted;
}

static int set_up(void **state)
{
    loop_thread = pthread_self();
    server = (tt_server){.settings = &settings};
    n_done = meet = 0;
    atomic_store(&most, 0);
    for (int i = 0; i < N; i++) {
        items[i] = (item){.index = i, .work = {.run = run, .done = done}};
    }
    return uv_loop_init(&server.loop);
}

static int tear_down(void **state)
{
    return uv_loop_close(&server.loop); /* refuses when anything is left */
}

static void submit_all(void)
{
    for (int i = 0; i < N; i++) {
        tt_work_submit(&server, &items[i].work);
    }
}

static void all_done(void)
{
    assert_int_equal(uv_run(&server.loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(n_done, N);
    assert_int_equal(server.n_working, 0);
    assert_true(server.work_first == NULL && server.work_last == NULL);
}

static void test_one_at_a_time_in_order(void **state)
{
    settings.workers = 1;
    submit_all();
    assert_int_equal(n_done, 0); /* never from inside submit */
    all_done();
    assert_int_equal(atomic_load(&most), 1);
    for (int i = 0; i < N; i++) {
        assert_int_equal(order[i], i);
        assert_true(items[i].ran);
    }
}

static void test_no_more_than_the_workers(void **state)
{
    settings.workers = meet = 3; /* libuv's pool has four */
    submit_all();
    all_done();
    assert_int_equal(atomic_load(&most), 3);
    for (int i = 0; i < N; i++) {
        assert_true(items[i].ran && items[i].finished);
    }
}

static void test_what_nobody_wants_is_not_run(void **state)
{
    settings.workers = 1;
    for (int i = 0; i < N; i++) {
        items[i].work.wanted = i % 2 == 0 ? wanted : NULL;
        items[i].unwanted = i % 4 == 0;
    }
    items[N - 1].work.wanted = wanted; /* the list's last */
    items[N - 1].unwanted = true;
    submit_all();
    all_done();
    for (int i = 0; i < N; i++) {
        assert_true(items[i].finished);
        assert_int_equal(items[i].ran, !items[i].unwanted);
    }
}

/* done() may submit again, as a pipeline of two stages would. */
static void done_and_again(tt_work *w)
{
    item *it = (item *)w;
    w->done = done;
    it->ran = false;
    tt_work_submit(w->server, w);
}

static void test_done_may_submit(void **state)
{
    settings.workers = 2;
    for (int i = 0; i < N; i++) {
        items[i].work.done = done_and_again;
    }
    submit_all();
    all_done();
    for (int i = 0; i < N; i++) {
        assert_true(items[i].ran);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_at_a_time_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_more_than_the_workers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_nobody_wants_is_not_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_done_may_submit, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
