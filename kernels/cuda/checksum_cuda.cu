/* checksum_cuda.cu - the sum over bytes in device memory. Thread: the owner of the stream; device
 * code. Source: as kernels/ref/checksum_ref.c. The sum is one of integers, so blocks add theirs to
 * it in any order. */
#include <assert.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/launch_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum { CHECKSUM_THREADS = 256, CHECKSUM_EACH = 16 /* words a thread */ };

typedef unsigned long long checksum_u64; /* as atomicAdd has it */

struct checksum_shape {
    int64_t row_bytes, stride, group_stride;
    uint32_t row_words, n_rows; /* rows of a group */
    int64_t n_words;            /* in all; less than 2^32, for the divisions' sake */
};

static __device__ __forceinline__ uint64_t word_at(const uint8_t *row, int64_t i, int64_t row_bytes)
{
    int64_t left = row_bytes - 8 * i;
    if (left >= 8) {
        return reinterpret_cast<const uint64_t *>(row)[i];
    }
    uint64_t word = 0;
    for (int64_t k = 0; k < left; k++) {
        word |= (uint64_t)row[8 * i + k] << 8 * k;
    }
    return word;
}

static __global__ void __launch_bounds__(CHECKSUM_THREADS)
    checksum_kernel(const uint8_t *data, checksum_u64 *sum, checksum_shape s)
{
    int64_t first = (int64_t)blockIdx.x * CHECKSUM_THREADS * CHECKSUM_EACH + threadIdx.x;
    checksum_u64 own = 0;
    for (int k = 0; k < CHECKSUM_EACH; k++) {
        int64_t i = first + k * CHECKSUM_THREADS;
        if (i < s.n_words) {
            uint32_t r = (uint32_t)i / s.row_words, group = r / s.n_rows;
            const uint8_t *row =
                data + group * s.group_stride + (int64_t)(r - group * s.n_rows) * s.stride;
            uint64_t z = word_at(row, (uint32_t)i - r * s.row_words, s.row_bytes) +
                         (uint64_t)(i + 1) * 0x9E3779B97F4A7C15u;
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
            z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
            own += z ^ (z >> 31);
        }
    }
    for (int bits = 16; bits > 0; bits /= 2) {
        own += __shfl_xor_sync(0xffffffffu, own, bits);
    }
    if (threadIdx.x % 32 == 0) {
        atomicAdd(sum, own);
    }
}

cudaError_t tt_cuda_checksum(cudaStream_t stream, const tt_checksum_args *a)
{
    assert(a->data % 8 == 0 && a->stride % 8 == 0 && a->group_stride % 8 == 0);
    int64_t row_words = (a->row_bytes + 7) / 8;
    checksum_shape s = {a->row_bytes,        a->stride,           a->group_stride,
                        (uint32_t)row_words, (uint32_t)a->n_rows, 0};
    s.n_words = row_words * a->n_rows * a->n_groups;
    assert(s.n_words < (int64_t)1 << 32);
    cudaError_t err = cudaMemsetAsync(dev_ptr<void>(a->sum), 0, sizeof(checksum_u64), stream);
    if (err != cudaSuccess || s.n_words == 0) {
        return err;
    }
    const int64_t each = CHECKSUM_THREADS * CHECKSUM_EACH;
    return gpu_launch(dim3((unsigned)((s.n_words + each - 1) / each)), dim3(CHECKSUM_THREADS), 0,
                      stream, checksum_kernel, dev_ptr<const uint8_t>(a->data),
                      dev_ptr<checksum_u64>(a->sum), s);
}
