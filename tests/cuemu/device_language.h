/* device_language.h - the device side of CUDA C++ as plain C++: qualifiers, vector types, barriers,
 * warp collectives, atomics, arithmetic. Included by cuda_runtime.h. Meanings: CUDA C++ Programming
 * Guide 13.0. Thread: a fiber of a running block.
 *
 * Shared memory is declared with CU_SHARED and CU_DYN_SHARED (kernels/cuda/compat.cuh): a plain
 * __shared__ does not exist here, so that using it does not compile. */
#ifndef CUEMU_DEVICE_LANGUAGE_H
#define CUEMU_DEVICE_LANGUAGE_H

#include "cuda_runtime.h"

#define __host__
#define __device__
#define __global__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct __align__(8) float2
{
    float x, y;
};
struct __align__(16) float4
{
    float x, y, z, w;
};
struct __align__(8) int2
{
    int x, y;
};
struct __align__(16) int4
{
    int x, y, z, w;
};
struct __align__(8) uint2
{
    unsigned x, y;
};
struct __align__(16) uint4
{
    unsigned x, y, z, w;
};

static inline float2 make_float2(float x, float y)
{
    return {x, y};
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

/* One block at a time per OS thread; only threadIdx differs between its fibers. */
extern __thread uint3 blockIdx;
extern __thread dim3 blockDim, gridDim;
static const int warpSize = 32;
#define threadIdx (::cuemu::current->tid)

/* ---- barriers and warp collectives ---- */

#define __syncthreads() ::cuemu::sync_threads({__FILE__, __LINE__})
#define __syncthreads_or(v) ::cuemu::sync_reduce({__FILE__, __LINE__}, (v), ::cuemu::REDUCE_OR)
#define __syncthreads_and(v) ::cuemu::sync_reduce({__FILE__, __LINE__}, (v), ::cuemu::REDUCE_AND)
#define __syncthreads_count(v)                                                                     \
    ::cuemu::sync_reduce({__FILE__, __LINE__}, (v), ::cuemu::REDUCE_COUNT)

static inline void __syncwarp(unsigned mask = ~0u, cuemu::place at = cuemu::here())
{
    cuemu::sync_warp(mask, at);
}

namespace cuemu
{

template <class T> static inline T exchange(unsigned mask, T value, int from_lane, place at)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "what a shuffle takes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = shuffle(mask, bits, from_lane, at);
    T got;
    memcpy(&got, &bits, sizeof got);
    return got;
}

/* The lane itself where `lane` lies outside its group of `width`. */
static inline int in_group(int lane, int width)
{
    int own = current->lane, first = own & ~(width - 1);
    return lane < first || lane >= first + width ? own : lane;
}

} // namespace cuemu

template <class T>
static inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32,
                            cuemu::place at = cuemu::here())
{
    int first = cuemu::current->lane & ~(width - 1);
    return cuemu::exchange(mask, v, first | (lane & (width - 1)), at);
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32,
                                cuemu::place at = cuemu::here())
{
    int own = cuemu::current->lane, from = own ^ bits;
    /* Lanes of earlier groups may be read, those of later ones give the lane's own value. */
    return cuemu::exchange(mask, v, from < (own | (width - 1)) + 1 ? from : own, at);
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32,
                                 cuemu::place at = cuemu::here())
{
    return cuemu::exchange(mask, v, cuemu::in_group(cuemu::current->lane + (int)delta, width), at);
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32,
                               cuemu::place at = cuemu::here())
{
    return cuemu::exchange(mask, v, cuemu::in_group(cuemu::current->lane - (int)delta, width), at);
}

static inline unsigned __ballot_sync(unsigned mask, int vote, cuemu::place at = cuemu::here())
{
    return cuemu::ballot(mask, vote != 0, at);
}

static inline int __any_sync(unsigned mask, int vote, cuemu::place at = cuemu::here())
{
    return cuemu::ballot(mask, vote != 0, at) != 0;
}

static inline int __all_sync(unsigned mask, int vote, cuemu::place at = cuemu::here())
{
    return cuemu::ballot(mask, vote == 0, at) == 0;
}

/* ---- arithmetic ---- */

/* glibc declares functions of these two names. */
#define __expf(x) expf(x)
#define __logf(x) logf(x)

static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

/* sin(pi x), cos(pi x) */
static inline void sincospif(float x, float *ret_sin, float *ret_cos)
{
    double angle = (double)x * 3.14159265358979323846;
    *ret_sin = (float)sin(angle);
    *ret_cos = (float)cos(angle);
}

static inline float __fdividef(float a, float b)
{
    return a / b;
}

/* Rounded each, whatever the compiler would contract. */
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}

static inline float __fmul_rn(float a, float b)
{
    return a * b;
}

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t mid = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (uint32_t)mid;
    return a1 * b1 + (mid >> 32) + (other >> 32);
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}

namespace cuemu
{

template <class To, class From> static inline To same_bits(From v)
{
    static_assert(sizeof(To) == sizeof(From), "reinterpretation");
    To to;
    memcpy(&to, &v, sizeof to);
    return to;
}

} // namespace cuemu

static inline unsigned __float_as_uint(float f)
{
    return cuemu::same_bits<unsigned>(f);
}

static inline float __uint_as_float(unsigned u)
{
    return cuemu::same_bits<float>(u);
}

static inline int __float_as_int(float f)
{
    return cuemu::same_bits<int>(f);
}

static inline float __int_as_float(int i)
{
    return cuemu::same_bits<float>(i);
}

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}

static inline int min(int a, int b)
{
    return a < b ? a : b;
}

static inline int max(int a, int b)
{
    return a > b ? a : b;
}

static inline unsigned min(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

static inline unsigned max(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

/* ---- atomics: relaxed, as CUDA's are ---- */

template <class T> static inline T atomicAdd(T *p, std::common_type_t<T> v)
{
    if constexpr (std::is_integral<T>::value) {
        return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
    } else {
        using bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
        bits *at = reinterpret_cast<bits *>(p);
        bits old = __atomic_load_n(at, __ATOMIC_RELAXED), sum;
        do {
            sum = cuemu::same_bits<bits>((T)(cuemu::same_bits<T>(old) + v));
        } while (
            !__atomic_compare_exchange_n(at, &old, sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
        return cuemu::same_bits<T>(old);
    }
}

template <class T> static inline T atomicMax(T *p, std::common_type_t<T> v)
{
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < v &&
           !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

template <class T>
static inline T atomicCAS(T *p, std::common_type_t<T> want, std::common_type_t<T> v)
{
    T old = want;
    __atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return old;
}

template <class T> static inline T atomicExch(T *p, std::common_type_t<T> v)
{
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}

#endif
