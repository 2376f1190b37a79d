/* lane.h - the lane of the CPU tables: thread count, scratch memory, prepared weights and the
 * sticky failure. Thread: one at a time. Nothing here is called from inside a parallel region but
 * tt_lane_thread_buf(): an op reserves its scratch first and gives up (returns) when that fails;
 * the failure comes out of lane_sync(). */
#ifndef TT_LANE_H
#define TT_LANE_H

#include "kernels/ops.h"

#define TT_LANE_ALIGN 64
#define TT_LANE_SLOTS 4

typedef struct tt_lane_buf {
    void *p; /* 64-byte aligned, owned */
    size_t n_bytes;
} tt_lane_buf;

struct tt_lane {
    const tt_ops *ops; /* borrowed, outlives the lane */
    int n_threads;     /* of every parallel region: num_threads(lane->n_threads) */
    tt_err err;        /* first failure since the last lane_sync(); code 0 = none */

    tt_lane_buf scratch[TT_LANE_SLOTS]; /* shared by the threads of a region */
    tt_lane_buf *thread;                /* [n_threads] */

    void *gemm; /* state of the matrix library, owned; freed by gemm_destroy(gemm) */
    void (*gemm_destroy)(void *gemm);

    int64_t
        n_allocs_left; /* for tests: allocations that may succeed before all fail; < 0 = no limit */
};

static inline void *tt_ptr(tt_dev d)
{
    return (void *)(uintptr_t)d;
}

static inline tt_dev tt_addr(const void *p)
{
    return (tt_dev)(uintptr_t)p;
}

/* Fills the lane and memory part of a CPU table. */
void tt_ops_init_lane(tt_ops *ops);

/* Sets the sticky failure; the first one wins. */
void tt_lane_fail(tt_lane *lane, tt_code code, const char *what);

/* Shared scratch: at least n_bytes in `slot`, 64-byte aligned, contents undefined, valid until the
 * next call for the slot. NULL = sticky TT_E_NOMEM (also while an earlier failure is pending): the
 * op returns without touching its outputs. */
void *tt_lane_scratch(tt_lane *lane, int slot, size_t n_bytes);

/* Makes every thread's own buffer at least n_bytes; false = sticky TT_E_NOMEM. */
bool tt_lane_reserve_threads(tt_lane *lane, size_t n_bytes);

/* The buffer of thread omp_get_thread_num(); valid inside and outside regions after a successful
 * reserve. */
static inline void *tt_lane_thread_buf(const tt_lane *lane, int thread)
{
    return lane->thread[thread].p;
}

#endif
