/* cuemu.h - what the stand-in CUDA headers (cuda_runtime.h, cublas_v2.h, compat.cuh) call: CUDA
 * threads as fibers, barriers and warp collectives as real rendezvous, memory and streams with
 * checks. The runtime behind it is in this folder's .cc files, one noun each; docs/cuda.md has the
 * overview.
 *
 * Thread: functions of the device side are called by fibers of a running block; those of the host
 * side by any thread, one at a time (one lock). A rule of CUDA that is broken ends the program with
 * a sentence on stderr that names file, line, block and thread.
 *
 * Environment, read once:
 *   CUEMU_ORDER    0 threads and blocks first-in first-out, 1 reversed, else a seed
 *   CUEMU_STREAMS  0 operations run at once, 1 as late as is legal (the default), else a seed
 *   CUEMU_THREADS  OS threads that share the blocks of a launch (1)
 *   CUEMU_SM       80 or 90: limits of the simulated part (75 = one that is too old)
 *   CUEMU_DEVICES  devices that answer (1); 0 = a machine without one
 *   CUEMU_MEMORY   device memory of each, in bytes or with K, M, G (1G)
 *   CUEMU_FAIL_AFTER  n:error, the n-th call of the process (0 = the first) fails with that error,
 *                  a name or number of cuda_error.h; an error that CUDA calls sticky stays
 *   CUEMU_FAIL_FILE  a path; when a file appears there, `n:error` is read from it as above, n
 *                  counted from that call, and the file is removed: failures in a running server */
#ifndef CUEMU_CUEMU_H
#define CUEMU_CUEMU_H

#include <cstddef>
#include <cstdint>
#include <functional>

#include "cuda_error.h"

typedef struct CUstream_st *cudaStream_t;
struct cudaLaunchConfig_t;
struct uint3 {
    unsigned x, y, z;
};

namespace cuemu
{

/* A line of the caller's source. As a default argument, here() is the line of the call. */
struct place {
    const char *file;
    int line;
};

static constexpr place here(const char *file = __builtin_FILE(), int line = __builtin_LINE())
{
    return {file, line};
}

[[noreturn]] void fail(place at, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- device side ---- */

struct thread_view {
    uint3 tid;
    int lane, warp;
};
extern __thread thread_view *current; /* the running CUDA thread; nullptr in host code */

enum reduce_op { REDUCE_OR, REDUCE_AND, REDUCE_COUNT };

void sync_threads(place at);
int sync_reduce(place at, int value, reduce_op op);

enum warp_op { WARP_SHUFFLE = 1, WARP_VOTE, WARP_MMA, WARP_LDMATRIX, WARP_SYNC };

struct payload {
    uint32_t w[6]; /* a shuffle needs two words, an mma six */
};
struct meeting; /* one rendezvous of lanes of a warp */

/* Publishes `mine` and waits for every lane in `mask`; then each lane may peek until its leave().
 * Only WARP_SYNC orders memory: a program that takes a shuffle for a fence is wrong. */
meeting *meet(unsigned mask, warp_op op, const payload &mine, place at);
uint64_t peek(const meeting *m, int lane); /* first two words; the lane must have taken part */
void leave(meeting *m);

void sync_warp(unsigned mask, place at);
uint64_t shuffle(unsigned mask, uint64_t value, int from_lane, place at);
unsigned ballot(unsigned mask, bool vote, place at);
/* d += A B, mma.m16n8k16: a lane holds four registers of A, two of B, four floats of D. */
void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, place at);

/* Shared memory: fresh for each block, filled with 0xFF, a red zone around each array. `key` names
 * the declaration. */
void *static_shared(const void *key, size_t n_bytes, size_t align);
void *dynamic_shared(size_t align);
void check_aligned(const void *p, size_t n_bytes, place at);

/* cp.async as the most hostile legal hardware does it: the destination is lost at once, the bytes
 * arrive when they are waited for. */
void async_copy(void *dst, const void *src, size_t n_bytes, size_t n_valid, place at);
void async_commit();
void async_wait(int n_pending);

/* ---- host side ---- */

/* The next point at which cuemu_fail_after() may strike. */
cudaError_t inject();
cudaError_t remember(cudaError_t err); /* for cudaGetLastError() */
/* Aborts when one of the aligned words is a host pointer or no live device pointer. */
void check_argument(const void *bytes, size_t n_bytes, const char *what);
/* cudaErrorInvalidResourceHandle where the stream belongs to another device than the thread's. */
cudaError_t launch(const cudaLaunchConfig_t &c, const void *kernel, std::function<void()> body);
cudaError_t enqueue(cudaStream_t stream, std::function<void()> op);
cudaError_t allow_shared(const void *kernel, int n_bytes);

} // namespace cuemu

#endif
