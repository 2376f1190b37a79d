/* cuda_runtime.h - stand-in for NVIDIA's header of that name: as much of the runtime API as the
 * backend uses, and the device language (device_language.h), so that .cu files compile as C++17 and
 * run on the CPU. Names, values and meanings are those of the CUDA Runtime API 13.0 documentation;
 * nothing is copied. Thread: as cuemu.h. */
#ifndef CUEMU_CUDA_RUNTIME_H
#define CUEMU_CUDA_RUNTIME_H

#define CUEMU 1
#define CUDART_VERSION 13000

#include <cmath>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_error.h"
#include "cuemu.h"

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};

enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

typedef struct CUevent_st *cudaEvent_t;

#define cudaStreamDefault 0u
#define cudaStreamNonBlocking 1u
#define cudaEventDefault 0u
#define cudaEventDisableTiming 2u
#define cudaHostAllocDefault 0u
#define cudaHostAllocPortable 1u
#define cudaHostAllocMapped 2u
#define cudaHostAllocWriteCombined 4u

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz)
    {
    }
};

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
    int regsPerBlock, warpSize, maxThreadsPerBlock, major, minor, multiProcessorCount;
};

struct cudaLaunchAttribute {
    int id;
    char pad[60];
};

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

extern "C" {
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorName(cudaError_t err);
const char *cudaGetErrorString(cudaError_t err);

cudaError_t cudaMalloc(void **p, size_t n_bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t n_bytes);
cudaError_t cudaHostAlloc(void **p, size_t n_bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n_bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream);
cudaError_t cudaMemset(void *dst, int value, size_t n_bytes);
cudaError_t cudaMemsetAsync(void *dst, int value, size_t n_bytes, cudaStream_t stream);

cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaEventDestroy(cudaEvent_t event);

/* For tests, not CUDA's: the n-th call from now (0 = the next) of the runtime or of cuBLAS fails
 * with err and does nothing; n < 0: none does, and a device that a sticky error has taken answers
 * again (what was queued on it is lost). */
void cuemu_fail_after(long n, cudaError_t err);
/* The same, and so does every call after it, cudaGetLastError() too; nothing that is queued runs
 * any more. So CUDA goes on after an error of the device (700 and others): the process has to end.
 */
void cuemu_fail_sticky_after(long n, cudaError_t err);
/* Device memory of each simulated part from now on; less than is in use leaves nothing free. */
void cuemu_set_memory(size_t n_bytes);
/* Calls so far. */
long cuemu_calls(void);
/* Device and pinned allocations, streams, events and cuBLAS handles that were made and not
 * destroyed. */
long cuemu_live(void);
/* Kernels launched so far, products of cuBLAS included. */
long cuemu_launches(void);
/* Calls so far in which the host waits for the device, or may. */
long cuemu_waits(void);
}

template <class T> static inline cudaError_t cudaMalloc(T **p, size_t n_bytes)
{
    return cudaMalloc(reinterpret_cast<void **>(p), n_bytes);
}

template <class T> static inline cudaError_t cudaHostAlloc(T **p, size_t n_bytes, unsigned flags)
{
    return cudaHostAlloc(reinterpret_cast<void **>(p), n_bytes, flags);
}

template <class T> static inline cudaError_t cudaMallocHost(T **p, size_t n_bytes)
{
    return cudaMallocHost(reinterpret_cast<void **>(p), n_bytes);
}

template <class F>
static inline cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute, int value)
{
    return cuemu::allow_shared(reinterpret_cast<const void *>(kernel), value);
}

namespace cuemu
{

/* Padding of a struct holds whatever was there before, which can look like a pointer: argument
 * structs have none. Only some compilers can tell (GCC; not clang 14). */
template <class T> static inline void check_padding(const T &)
{
#if defined __has_builtin
#if __has_builtin(__builtin_clear_padding)
    alignas(T) unsigned char bytes[sizeof(T)];
    memset(bytes, 0xff, sizeof bytes);
    __builtin_clear_padding(reinterpret_cast<T *>(bytes));
    for (unsigned char b : bytes) {
        if (b != 0xff) {
            fail({"launch", 0}, "a kernel argument of %zu bytes has padding", sizeof(T));
        }
    }
#endif
#endif
}

} // namespace cuemu

/* Arguments are converted as in a call, checked word by word, and kept by value until the launch
 * runs. */
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...args)
{
    std::tuple<P...> values{static_cast<P>(std::forward<A>(args))...};
    std::apply(
        [](auto &...v) {
            (cuemu::check_padding(v), ...);
            (cuemu::check_argument(&v, sizeof v, "a kernel argument"), ...);
        },
        values);
    return cuemu::launch(*config, reinterpret_cast<const void *>(kernel),
                         [kernel, values] { std::apply(kernel, values); });
}

#include "device_language.h"

#endif
