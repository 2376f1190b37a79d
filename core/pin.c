/* pin.c - see pin.h. */
#include "core/pin.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

static void pin_self(int i)
{
    cpu_set_t all, one;
    /* of the first thread: this one may have been pinned before */
    if (sched_getaffinity(getpid(), sizeof all, &all) != 0 || CPU_COUNT(&all) == 0) {
        return;
    }
    i %= CPU_COUNT(&all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &all) && i-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            (void)sched_setaffinity(0, sizeof one, &one);
            return;
        }
    }
}

void tt_pin_threads(int n_threads)
{
#pragma omp parallel num_threads(n_threads)
    pin_self(omp_get_thread_num());
}
