/* norm_cuda.cu - RMSNorm over rows, forward and backward: one block a row, sums in FP32. Thread:
 * the owner of the stream; device code. Source: arXiv 1910.07467. */
#include <assert.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/launch_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum { NORM_THREADS = 256 };

/* y may be x or add: each element is read by the thread that writes it, and the sum is complete
 * before the first is written. */
static __global__ void __launch_bounds__(NORM_THREADS)
    rmsnorm_kernel(const float *x, const float *w, const float *add, float *y, int dim, float eps)
{
    CU_SHARED(float[NORM_THREADS / 32], part);
    size_t row = (size_t)blockIdx.x * (size_t)dim;
    float sum = 0;
    for (int i = (int)threadIdx.x; i < dim; i += NORM_THREADS) {
        sum += x[row + i] * x[row + i];
    }
    sum = block_sum<NORM_THREADS>(sum, part);
    float scale = rsqrtf(sum / (float)dim + eps);
    for (int i = (int)threadIdx.x; i < dim; i += NORM_THREADS) {
        float v = x[row + i] * scale * w[i];
        y[row + i] = add != nullptr ? v + add[row + i] : v;
    }
}

/* dx_i = s w_i dy_i - x_i s^3 / n sum_j w_j dy_j x_j, s = (mean(x^2) + eps)^(-1/2). dx may be dy,
 * for the same reason as above. */
static __global__ void __launch_bounds__(NORM_THREADS)
    rmsnorm_bwd_kernel(const float *x, const float *w, const float *dy, float *dx, int dim,
                       float eps, bool accumulate)
{
    CU_SHARED(float[NORM_THREADS / 32], part_square);
    CU_SHARED(float[NORM_THREADS / 32], part_dot);
    size_t row = (size_t)blockIdx.x * (size_t)dim;
    float square = 0, dot = 0;
    for (int i = (int)threadIdx.x; i < dim; i += NORM_THREADS) {
        square += x[row + i] * x[row + i];
        dot += w[i] * dy[row + i] * x[row + i];
    }
    square = block_sum<NORM_THREADS>(square, part_square);
    dot = block_sum<NORM_THREADS>(dot, part_dot);
    float s = rsqrtf(square / (float)dim + eps);
    float k = s * s * s / (float)dim * dot;
    for (int i = (int)threadIdx.x; i < dim; i += NORM_THREADS) {
        float v = s * w[i] * dy[row + i] - k * x[row + i];
        dx[row + i] = accumulate ? dx[row + i] + v : v;
    }
}

cudaError_t tt_cuda_rmsnorm(cudaStream_t stream, const tt_rmsnorm_args *a)
{
    assert(a->dim > 0);
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    return gpu_launch(dim3((unsigned)a->n_rows), dim3(NORM_THREADS), 0, stream, rmsnorm_kernel,
                      dev_ptr<const float>(a->x), dev_ptr<const float>(a->w),
                      dev_ptr<const float>(a->add), dev_ptr<float>(a->y), a->dim, a->eps);
}

cudaError_t tt_cuda_rmsnorm_bwd(cudaStream_t stream, const tt_rmsnorm_bwd_args *a)
{
    assert(a->dim > 0);
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    return gpu_launch(dim3((unsigned)a->n_rows), dim3(NORM_THREADS), 0, stream, rmsnorm_bwd_kernel,
                      dev_ptr<const float>(a->x), dev_ptr<const float>(a->w),
                      dev_ptr<const float>(a->dy), dev_ptr<float>(a->dx), a->dim, a->eps,
                      a->accumulate);
}
