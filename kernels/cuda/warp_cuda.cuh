/* warp_cuda.cuh - sums over a warp and over a block, and typed device addresses. Thread: device
 * code; every lane (thread) of the warp (block) takes part.
 *
 * The order of a sum is fixed by the number of threads alone, so a row's bits do not depend on the
 * other rows of the launch. */
#ifndef TT_WARP_CUDA_CUH
#define TT_WARP_CUDA_CUH

#include "kernels/cuda/compat.cuh"

/* A tt_dev as a pointer; 0 is NULL. */
template <class T> static inline T *dev_ptr(uint64_t address)
{
    return reinterpret_cast<T *>((uintptr_t)address);
}

/* The sum of v over the warp, in all lanes. */
static __device__ __forceinline__ float warp_sum(float v)
{
    for (int bits = 16; bits > 0; bits /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, bits);
    }
    return v;
}

/* The sum of v over a block of `threads`, in all threads. part: shared, not used by others until
 * the next barrier. */
template <int threads>
static __device__ __forceinline__ float block_sum(float v, float (&part)[threads / 32])
{
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) {
        part[threadIdx.x / 32] = v;
    }
    __syncthreads();
    v = 0;
    for (int i = 0; i < threads / 32; i++) {
        v += part[i];
    }
    return v;
}

#endif
