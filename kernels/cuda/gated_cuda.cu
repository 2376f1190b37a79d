/* gated_cuda.cu - the gated activation of the feed-forward part, forward and backward: one thread
 * an element. Thread: the owner of the stream; device code. Source: arXiv 2002.05202. */
#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/launch_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum { GATED_THREADS = 256 };

/* act(x); its derivative into *ret_slope. */
static __device__ __forceinline__ float activate(tt_act act, float x, float *ret_slope)
{
    if (act == TT_ACT_SILU) {
        float s = 1.0f / (1.0f + expf(-x));
        *ret_slope = s * (1.0f + x * (1.0f - s));
        return x * s;
    }
    /* gelu(x) = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3) */
    const float k = 0.7978845608028654f, c = 0.044715f;
    float t = tanhf(k * (x + c * x * x * x));
    *ret_slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * k * (1.0f + 3.0f * c * x * x);
    return 0.5f * x * (1.0f + t);
}

/* y may be gate or up. */
static __global__ void __launch_bounds__(GATED_THREADS)
    gated_kernel(const float *gate, const float *up, float *y, int64_t n, tt_act act)
{
    int64_t i = (int64_t)blockIdx.x * GATED_THREADS + threadIdx.x;
    if (i < n) {
        float slope;
        y[i] = activate(act, gate[i], &slope) * up[i];
    }
}

/* One of d_gate and d_up may be dy. */
static __global__ void __launch_bounds__(GATED_THREADS)
    gated_bwd_kernel(const float *gate, const float *up, const float *dy, float *d_gate,
                     float *d_up, int64_t n, tt_act act)
{
    int64_t i = (int64_t)blockIdx.x * GATED_THREADS + threadIdx.x;
    if (i < n) {
        float slope, value = activate(act, gate[i], &slope), g = dy[i], u = up[i];
        d_gate[i] = g * u * slope;
        d_up[i] = g * value;
    }
}

static dim3 blocks_for(int64_t n)
{
    return dim3((unsigned)((n + GATED_THREADS - 1) / GATED_THREADS));
}

cudaError_t tt_cuda_gated(cudaStream_t stream, const tt_gated_args *a)
{
    int64_t n = (int64_t)a->n_rows * a->dim;
    if (n == 0) {
        return cudaSuccess;
    }
    return gpu_launch(blocks_for(n), dim3(GATED_THREADS), 0, stream, gated_kernel,
                      dev_ptr<const float>(a->gate), dev_ptr<const float>(a->up),
                      dev_ptr<float>(a->y), n, a->act);
}

cudaError_t tt_cuda_gated_bwd(cudaStream_t stream, const tt_gated_bwd_args *a)
{
    int64_t n = (int64_t)a->n_rows * a->dim;
    if (n == 0) {
        return cudaSuccess;
    }
    return gpu_launch(blocks_for(n), dim3(GATED_THREADS), 0, stream, gated_bwd_kernel,
                      dev_ptr<const float>(a->gate), dev_ptr<const float>(a->up),
                      dev_ptr<const float>(a->dy), dev_ptr<float>(a->d_gate),
                      dev_ptr<float>(a->d_up), n, a->act);
}
