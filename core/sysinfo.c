/* sysinfo.c - see sysinfo.h. Unknown or unreadable files mean "no bound". */
#include "core/sysinfo.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/cgroup.h"

int tt_sys_cpus(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                        : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = tt_cgroup_cpus(&tt_cgroup_here);
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

size_t tt_sys_free_bytes(void)
{
    size_t left = proc_kib("/proc/meminfo", "MemAvailable:") * 1024;
    if (left == 0) {
        return 0;
    }
    size_t mine = tt_cgroup_free_bytes(&tt_cgroup_here);
    left = mine < left ? mine : left;
    return left > 0 ? left : 1; /* 0 would say that it is not known */
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
