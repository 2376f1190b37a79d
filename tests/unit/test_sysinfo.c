/* test_sysinfo.c - what the machine says is plausible and follows what this process does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/sysinfo.h"

static void test_affinity_bounds_the_processors(void **state)
{
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_in_range(tt_sys_cpus(), 1, CPU_COUNT(&all));
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all)) {
        cpu++;
    }
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(tt_sys_cpus(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

static void test_resident_memory_grows_with_use(void **state)
{
    size_t n = (size_t)64 << 20, before = tt_sys_resident_bytes();
    char *p = malloc(n);
    assert_non_null(p);
    memset(p, 1, n);
    size_t after = tt_sys_resident_bytes();
    assert_true(p[n / 2] == 1);
    free(p);
    assert_true(before > 0 && after > before + n / 2);
    assert_true(tt_sys_free_bytes() > 0);
}

static void test_clock_does_not_go_back(void **state)
{
    double t = tt_sys_now();
    for (int i = 0; i < 1000; i++) {
        double u = tt_sys_now();
        assert_true(u >= t);
        t = u;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_affinity_bounds_the_processors),
        cmocka_unit_test(test_resident_memory_grows_with_use),
        cmocka_unit_test(test_clock_does_not_go_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
