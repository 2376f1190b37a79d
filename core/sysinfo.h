/* sysinfo.h - what the machine and the control group leave us. Thread: any. Source: Linux /proc and
 * /sys/fs/cgroup. */
#ifndef TT_SYSINFO_H
#define TT_SYSINFO_H

#include <stddef.h>

/* Processors that this process may use: its affinity mask, bounded by the cgroup's CPU quota
 * (rounded up). At least 1. */
int tt_sys_cpus(void);
/* Bytes that can still be allocated: MemAvailable, bounded by what the cgroup's limit leaves. 0 =
 * unknown. */
size_t tt_sys_free_bytes(void);
/* Resident bytes of this process; 0 = unknown. */
size_t tt_sys_resident_bytes(void);
/* Monotonic clock in seconds. */
double tt_sys_now(void);

#endif
