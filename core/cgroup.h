/* cgroup.h - what the control groups of this process let it have: its own group and every one above
 * it, the narrowest counts. Versions 1, 2 and both at once. Thread: any. Source: Linux,
 * Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst. */
#ifndef TT_CGROUP_H
#define TT_CGROUP_H

#include <stddef.h>
#include <stdint.h>

/* Where the kernel shows them; tests have trees of their own. */
typedef struct tt_cgroup_place {
    const char *groups; /* lines "ID:CONTROLLERS:/PATH" */
    const char *mount;
} tt_cgroup_place;

/* /proc/self/cgroup and /sys/fs/cgroup. */
extern const tt_cgroup_place tt_cgroup_here;

/* Processors' worth of time, rounded up; 0 = not limited. */
int tt_cgroup_cpus(const tt_cgroup_place *at);

/* Bytes that may still be allocated below the narrowest limit: what is used counts without file
 * pages that the kernel would give back first. SIZE_MAX = not limited. */
size_t tt_cgroup_free_bytes(const tt_cgroup_place *at);

#endif
