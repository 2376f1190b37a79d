/* compat.cuh - the one file that knows which compiler builds the CUDA backend: nvcc, or a C++
 * compiler with the stand-in headers of tests/cuemu (which define CUEMU). It has the declarations
 * of shared memory, the launch, and every line of inline PTX, each beside a twin in C++ that does
 * the same. Needs sm_80. Thread: gpu_launch() the owner of the stream; the rest, device code.
 *
 * Source of the instructions' meaning: PTX ISA 8.x, cp.async, ldmatrix, mma.m16n8k16. */
#ifndef TT_COMPAT_CUH
#define TT_COMPAT_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

/* CU_SHARED(float[64][65], tile): a block's own array. CU_DYN_SHARED(struct layout, s): a pointer
 * to what the launch asked for; a struct of typed arrays, so that every index has a bound.
 * CU_ROLLED before a loop of few turns: the compiler would unroll it for many and keep code for the
 * rest, none of which ever runs. */
#ifdef CUEMU
#define CU_SHARED(type, name)                                                                      \
    using name##_shared_type = type;                                                               \
    static const char name##_shared_key = 0;                                                       \
    name##_shared_type &name = *static_cast<name##_shared_type *>(                                 \
        ::cuemu::static_shared(&name##_shared_key, sizeof(name##_shared_type), 16))
#define CU_DYN_SHARED(type, name)                                                                  \
    type *name = static_cast<type *>(::cuemu::dynamic_shared(alignof(type)))
#define CU_ROLLED
#else
#define CU_SHARED(type, name)                                                                      \
    using name##_shared_type = type;                                                               \
    __shared__ __align__(16) name##_shared_type name
#define CU_DYN_SHARED(type, name)                                                                  \
    extern __shared__ __align__(128) unsigned char cu_dynamic_shared[];                            \
    asm volatile("// dynamic shared %0" ::"n"(sizeof(type))); /* tests/custatic reads it */        \
    type *name = reinterpret_cast<type *>(cu_dynamic_shared)
#define CU_ROLLED _Pragma("unroll 1")
#endif

/* The only way to launch: no <<<>>>, never the default stream. */
template <class... P, class... A>
static inline cudaError_t gpu_launch(dim3 grid, dim3 block, size_t shared_bytes,
                                     cudaStream_t stream, void (*kernel)(P...), A... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, args...);
}

/* 16 bytes from global to shared memory, both aligned to 16; zeros when not valid. They are there
 * after a commit, a wait and (for other threads) a barrier. */
static __device__ __forceinline__ void cp_async16(void *dst, const void *src, bool valid)
{
#ifdef CUEMU
    cuemu::async_copy(dst, src, 16, valid ? 16 : 0, {__FILE__, __LINE__});
#else
    unsigned to = (unsigned)__cvta_generic_to_shared(dst);
    int n = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(src), "r"(n)
                 : "memory");
#endif
}

static __device__ __forceinline__ void cp_async_commit()
{
#ifdef CUEMU
    cuemu::async_commit();
#else
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

/* All groups of this thread but the latest N have arrived. */
template <int N> static __device__ __forceinline__ void cp_async_wait()
{
#ifdef CUEMU
    cuemu::async_wait(N);
#else
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
#endif
}

/* Four 8x8 matrices of 16-bit elements: lane l gives row l % 8 of matrix l / 8 (16 bytes, aligned)
 * and gets elements 2 (l % 4), 2 (l % 4) + 1 of row l / 4 of each, transposed: of each column. */
template <bool transposed>
static __device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row)
{
#ifdef CUEMU
    cuemu::place at = {__FILE__, __LINE__};
    cuemu::check_aligned(row, 16, at);
    uint64_t address = reinterpret_cast<uintptr_t>(row);
    cuemu::payload mine{{(uint32_t)address, (uint32_t)(address >> 32)}};
    cuemu::meeting *m = cuemu::meet(~0u, cuemu::WARP_LDMATRIX, mine, at);
    int major = cuemu::current->lane / 4, minor = cuemu::current->lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
        auto element = [&](int y, int x) {
            return (uint32_t) reinterpret_cast<const uint16_t *>(cuemu::peek(m, i * 8 + y))[x];
        };
        uint32_t low = transposed ? element(minor, major) : element(major, minor);
        uint32_t high = transposed ? element(minor + 1, major) : element(major, minor + 1);
        r[i] = low | high << 16;
    }
    cuemu::leave(m);
#else
    unsigned from = (unsigned)__cvta_generic_to_shared(row);
    if (transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(from)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(from)
                     : "memory");
    }
#endif
}

/* D[16, 8] += A[16, 16] B[16, 8] of a warp, BF16 operands, FP32 sums. Lane l, g = l / 4, t = l % 4:
 * a = A rows g, g + 8, g, g + 8 at columns 2t, 2t, 2t + 8, 2t + 8 (and the next); b0, b1 = B rows
 * 2t, 2t + 8 (and the next) of column g; d = D rows g, g, g + 8, g + 8 at columns 2t, 2t + 1. */
static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], uint32_t b0,
                                                uint32_t b1)
{
#ifdef CUEMU
    cuemu::mma_m16n8k16_bf16(d, a, b0, b1, {__FILE__, __LINE__});
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

#endif
