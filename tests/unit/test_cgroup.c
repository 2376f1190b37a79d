/* test_cgroup.c - limits of control groups, from trees of files as the kernel, Docker and systemd
 * show them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/cgroup.h"

static char top[64], groups_path[96], mount_path[96];
static tt_cgroup_place place;

static int begin(void **state)
{
    snprintf(top, sizeof top, "test_cgroup.XXXXXX");
    assert_non_null(mkdtemp(top));
    snprintf(groups_path, sizeof groups_path, "%s/groups", top);
    snprintf(mount_path, sizeof mount_path, "%s/fs", top);
    assert_int_equal(mkdir(mount_path, 0700), 0);
    place = (tt_cgroup_place){.groups = groups_path, .mount = mount_path};
    return 0;
}

static int drop(const char *path, const struct stat *st, int kind, struct FTW *f)
{
    return remove(path);
}

static int end(void **state)
{
    return nftw(top, drop, 16, FTW_DEPTH | FTW_PHYS);
}

static void write_to(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* A file below the mount; makes the folders on the way. */
static void put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", mount_path, name);
    for (char *p = strchr(path + strlen(mount_path) + 1, '/'); p != NULL; p = strchr(p + 1, '/')) {
        *p = '\0';
        assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
        *p = '/';
    }
    write_to(path, text);
}

static void test_nothing_there_is_no_limit(void **state)
{
    assert_int_equal(tt_cgroup_cpus(&place), 0);
    assert_true(tt_cgroup_free_bytes(&place) == SIZE_MAX);
    write_to(groups_path, "0::/\n");
    put("cgroup.procs", "1\n");
    put("cpu.max", "max 100000\n");
    put("memory.max", "max\n");
    put("memory.current", "12345\n");
    assert_int_equal(tt_cgroup_cpus(&place), 0);
    assert_true(tt_cgroup_free_bytes(&place) == SIZE_MAX);
}

/* A container: its own group is the top of what it sees. */
static void test_version_2_container(void **state)
{
    write_to(groups_path, "0::/\n");
    put("cgroup.procs", "1\n");
    put("cpu.max", "150000 100000\n");
    put("memory.max", "1000000\n");
    put("memory.current", "700000\n");
    assert_int_equal(tt_cgroup_cpus(&place), 2);
    assert_int_equal(tt_cgroup_free_bytes(&place), 300000);
    put("memory.stat", "anon 500000\nfile 200000\ninactive_file_x 7\ninactive_file 100000\n");
    assert_int_equal(tt_cgroup_free_bytes(&place), 400000);
    put("memory.high", "800000\n"); /* beyond it the group is throttled */
    assert_int_equal(tt_cgroup_free_bytes(&place), 200000);
    put("memory.current", "950000\n");
    assert_int_equal(tt_cgroup_free_bytes(&place), 0);
    put("cpu.max", "200000 100000\n"); /* exactly two */
    assert_int_equal(tt_cgroup_cpus(&place), 2);
}

/* A systemd unit with CPUQuota and MemoryMax: the limit is in its own folder, and its slice may be
 * narrower. */
static void test_version_2_unit_and_its_slice(void **state)
{
    write_to(groups_path, "0::/system.slice/qttt.service\n");
    put("cgroup.procs", "1\n");
    put("system.slice/qttt.service/cpu.max", "400000 100000\n");
    put("system.slice/qttt.service/memory.max", "9000\n");
    put("system.slice/qttt.service/memory.current", "1000\n");
    assert_int_equal(tt_cgroup_cpus(&place), 4);
    assert_int_equal(tt_cgroup_free_bytes(&place), 8000);
    put("system.slice/cpu.max", "300000 100000\n");
    put("system.slice/memory.max", "20000\n");
    put("system.slice/memory.current", "15000\n"); /* by others too */
    assert_int_equal(tt_cgroup_cpus(&place), 3);
    assert_int_equal(tt_cgroup_free_bytes(&place), 5000);
    put("system.slice/cpu.max", "max 100000\n");
    put("system.slice/memory.max", "max\n");
    assert_int_equal(tt_cgroup_cpus(&place), 4);
    assert_int_equal(tt_cgroup_free_bytes(&place), 8000);
}

/* Docker without a namespace of its own: the path in /proc is not under the mount. */
static void test_path_that_the_mount_does_not_show(void **state)
{
    write_to(groups_path, "0::/docker/0123456789abcdef\n");
    put("cgroup.procs", "1\n");
    put("cpu.max", "50000 100000\n");
    put("memory.max", "4096\n");
    put("memory.current", "96\n");
    assert_int_equal(tt_cgroup_cpus(&place), 1);
    assert_int_equal(tt_cgroup_free_bytes(&place), 4000);
    write_to(groups_path, "0::/../../other\n"); /* outside of our namespace */
    assert_int_equal(tt_cgroup_cpus(&place), 1);
    assert_int_equal(tt_cgroup_free_bytes(&place), 4000);
}

static void test_version_1(void **state)
{
    write_to(groups_path, "5:cpuset:/\n4:cpu,cpuacct:/box\n3:name=systemd:/box\n2:memory:/box\n");
    put("cpu/cgroup.procs", "1\n");
    put("memory/cgroup.procs", "1\n");
    put("cpu/box/cpu.cfs_quota_us", "-1\n");
    put("cpu/box/cpu.cfs_period_us", "100000\n");
    put("memory/box/memory.limit_in_bytes", "9223372036854771712\n");
    put("memory/box/memory.usage_in_bytes", "5000\n");
    assert_int_equal(tt_cgroup_cpus(&place), 0);
    assert_true(tt_cgroup_free_bytes(&place) == SIZE_MAX);
    put("cpu/box/cpu.cfs_quota_us", "250000\n");
    put("memory/box/memory.limit_in_bytes", "8000\n");
    assert_int_equal(tt_cgroup_cpus(&place), 3);
    assert_int_equal(tt_cgroup_free_bytes(&place), 3000);
    put("memory/box/memory.stat", "inactive_file 9\ntotal_inactive_file 500\n");
    assert_int_equal(tt_cgroup_free_bytes(&place), 3500);
}

/* Both versions mounted, controllers in version 1; cpu under the name of its pair only. */
static void test_hybrid(void **state)
{
    write_to(groups_path, "4:cpu,cpuacct:/\n2:memory:/\n0::/user.slice\n");
    put("unified/cgroup.procs", "1\n");
    put("cpu,cpuacct/cgroup.procs", "1\n");
    put("cpu,cpuacct/cpu.cfs_quota_us", "100000\n");
    put("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    put("memory/cgroup.procs", "1\n");
    put("memory/memory.limit_in_bytes", "700\n");
    put("memory/memory.usage_in_bytes", "100\n");
    assert_int_equal(tt_cgroup_cpus(&place), 1);
    assert_int_equal(tt_cgroup_free_bytes(&place), 600);
}

static void test_rubbish_is_no_limit(void **state)
{
    write_to(groups_path, "\n:\nx\n0:\n0::/a\n");
    put("cgroup.procs", "1\n");
    put("a/cpu.max", "100000\n"); /* half a line */
    put("a/memory.max", "12k\n");
    put("a/memory.current", "1\n");
    put("cpu.max", "0 0\n");
    put("memory.max", "-5\n");
    put("memory.current", "1\n");
    assert_int_equal(tt_cgroup_cpus(&place), 0);
    assert_true(tt_cgroup_free_bytes(&place) == SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing_there_is_no_limit, begin, end),
        cmocka_unit_test_setup_teardown(test_version_2_container, begin, end),
        cmocka_unit_test_setup_teardown(test_version_2_unit_and_its_slice, begin, end),
        cmocka_unit_test_setup_teardown(test_path_that_the_mount_does_not_show, begin, end),
        cmocka_unit_test_setup_teardown(test_version_1, begin, end),
        cmocka_unit_test_setup_teardown(test_hybrid, begin, end),
        cmocka_unit_test_setup_teardown(test_rubbish_is_no_limit, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
