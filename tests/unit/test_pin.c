/* test_pin.c - pinned threads have a processor each and keep it from region to region; the thread
 * that did not ask keeps all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "core/pin.h"

enum { N = 3 };

static atomic_int allowed[N], cpu_of[N];

static void look(void)
{
#pragma omp parallel num_threads(N)
    {
        cpu_set_t set;
        int i = omp_get_thread_num();
        if (sched_getaffinity(0, sizeof set, &set) == 0) {
            int cpu = 0;
            while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &set)) {
                cpu++;
            }
            atomic_store(&allowed[i], CPU_COUNT(&set));
            atomic_store(&cpu_of[i], cpu);
        }
    }
}

static void *work(void *arg)
{
    (void)arg;
    tt_pin_threads(N);
    look();
    return NULL;
}

static void test_each_has_its_own(void **state)
{
    (void)state;
    cpu_set_t before, after;
    pthread_t thread;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(pthread_create(&thread, NULL, work, NULL), 0);
    pthread_join(thread, NULL);
    int n = CPU_COUNT(&before);
    for (int i = 0; i < N; i++) {
        assert_int_equal(allowed[i], 1);
        assert_true(CPU_ISSET(cpu_of[i], &before));
        for (int j = 0; j < i; j++) { /* as many as there are differ, then they come again */
            assert_int_equal(cpu_of[i] == cpu_of[j], i % n == j % n);
        }
    }
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_has_its_own)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
