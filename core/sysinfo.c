/* sysinfo.c - see sysinfo.h. Unknown or unreadable files mean "no bound": a missing cgroup is not
 * an error. */
#include "core/sysinfo.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The first line of a small file; "" when it cannot be read. */
static void read_line(const char *path, char *buf, size_t cap)
{
    buf[0] = '\0';
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        if (fgets(buf, (int)cap, f) == NULL) {
            buf[0] = '\0';
        }
        fclose(f);
    }
}

/* Quota of the cgroup in processors, rounded up; 0 = none. Version 2 first, then 1. */
static int cgroup_cpus(void)
{
    char line[128];
    double quota = 0, period = 0;
    read_line("/sys/fs/cgroup/cpu.max", line, sizeof line);
    if (sscanf(line, "%lf %lf", &quota, &period) != 2) {
        char other[128];
        read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", line, sizeof line);
        read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", other, sizeof other);
        quota = atof(line);
        period = atof(other);
    }
    return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int tt_sys_cpus(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                        : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = cgroup_cpus();
    n = quota > 0 && quota < n ? quota : n;
    return n > 0 ? n : 1;
}

static size_t proc_kib(const char *path, const char *key)
{
    char line[256];
    size_t kib = 0, n = strlen(key);
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, key, n) == 0) {
            kib = strtoull(line + n, NULL, 10);
            break;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return kib;
}

static size_t cgroup_left(const char *limit_path, const char *used_path, size_t left)
{
    char limit[64], used[64];
    read_line(limit_path, limit, sizeof limit);
    read_line(used_path, used, sizeof used);
    unsigned long long l = strtoull(limit, NULL, 10), u = strtoull(used, NULL, 10);
    if (limit[0] < '0' || limit[0] > '9' || l == 0 || used[0] == '\0') {
        return left; /* "max", or no such file */
    }
    size_t mine = l > u ? (size_t)(l - u) : 0;
    return mine < left ? mine : left;
}

size_t tt_sys_free_bytes(void)
{
    size_t left = proc_kib("/proc/meminfo", "MemAvailable:") * 1024;
    if (left == 0) {
        return 0;
    }
    left = cgroup_left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", left);
    return cgroup_left("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                       "/sys/fs/cgroup/memory/memory.usage_in_bytes", left);
}

size_t tt_sys_resident_bytes(void)
{
    return proc_kib("/proc/self/status", "VmRSS:") * 1024;
}

double tt_sys_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
