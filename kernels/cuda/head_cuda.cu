/* head_cuda.cu - cross-entropy of the output head in blocks of vocabulary columns, forward and
 * backward: cuBLAS's products and what lies between them. Thread: the owner of the stream; device
 * code. Source: kernels/ref/head_ref.c.
 *
 * A block's weights become a BF16 panel [n_cols, H] in scratch memory; BF16 weights are used where
 * they lie. x and the gradient of the logits are rounded to BF16, sums are FP32. F32 weights
 * (tests, small models) stay FP32 throughout. The backward pass makes the logits again, by the same
 * product of the same shape as the forward pass, so that exp(z - max) / sum is a probability. */
#include <assert.h>
#include <math.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/dequant_cuda.cuh"
#include "kernels/cuda/launch_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum { HEAD_THREADS = 256, PANEL_EACH = 8 };
enum { STATE_MAX, STATE_SUM, STATE_TARGET, STATE_LEN = 4 };

/* PANEL_EACH elements a thread, so that their loads are under way together. */
template <tt_dtype type>
static __global__ void __launch_bounds__(HEAD_THREADS)
    panel_kernel(const uint8_t *w, __nv_bfloat16 *panel, int64_t n)
{
    int64_t first = (int64_t)blockIdx.x * HEAD_THREADS * PANEL_EACH + threadIdx.x;
    for (int k = 0; k < PANEL_EACH; k++) {
        int64_t i = first + k * HEAD_THREADS;
        if (i < n) {
            panel[i] = __float2bfloat16_rn(row_element<type>(w, i));
        }
    }
}

/* The largest v of the block, in all threads; NaN is passed over. part: as block_sum's. */
static __device__ __forceinline__ float block_max(float v, float (&part)[HEAD_THREADS / 32])
{
    for (int bits = 16; bits > 0; bits /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, v, bits);
        v = other > v ? other : v;
    }
    if (threadIdx.x % 32 == 0) {
        part[threadIdx.x / 32] = v;
    }
    __syncthreads();
    for (int i = 0; i < HEAD_THREADS / 32; i++) {
        v = part[i] > v ? part[i] : v;
    }
    return v;
}

/* Folds a row's block of logits into its state; a block a row. A row is read twice, the second time
 * from cache. */
static __global__ void __launch_bounds__(HEAD_THREADS)
    head_fwd_kernel(const float *z, const int32_t *targets, float *state, int col0, int n_cols)
{
    CU_SHARED(float[HEAD_THREADS / 32], part_max);
    CU_SHARED(float[HEAD_THREADS / 32], part_sum);
    const float *row = z + (size_t)blockIdx.x * (size_t)n_cols;
    float *s = state + (size_t)blockIdx.x * STATE_LEN;
    float old = col0 == 0 ? -INFINITY : s[STATE_MAX], top = old, sum = 0;
    for (int i = (int)threadIdx.x; i < n_cols; i += HEAD_THREADS) {
        top = row[i] > top ? row[i] : top;
    }
    top = block_max(top, part_max);
    for (int i = (int)threadIdx.x; i < n_cols; i += HEAD_THREADS) {
        sum += expf(row[i] - top);
    }
    sum = block_sum<HEAD_THREADS>(sum, part_sum);
    if (threadIdx.x == 0) {
        int target = targets[blockIdx.x], t = target - col0;
        if (target >= 0 && t >= 0 && t < n_cols) {
            s[STATE_TARGET] = row[t];
        } else if (col0 == 0) {
            s[STATE_TARGET] = 0;
        }
        s[STATE_SUM] = col0 == 0 ? sum : s[STATE_SUM] * expf(old - top) + sum;
        s[STATE_MAX] = top;
    }
}

/* The maximum less the target's logit comes first: where the loss is small, that is exact. */
static __global__ void __launch_bounds__(HEAD_THREADS)
    head_finish_kernel(const int32_t *targets, const float *state, float *row_loss, int n_rows)
{
    int r = (int)(blockIdx.x * HEAD_THREADS + threadIdx.x);
    if (r < n_rows) {
        const float *s = state + (size_t)r * STATE_LEN;
        row_loss[r] = targets[r] < 0 ? 0 : (s[STATE_MAX] - s[STATE_TARGET]) + logf(s[STATE_SUM]);
    }
}

static __device__ __forceinline__ void store(float *p, float v)
{
    *p = v;
}

static __device__ __forceinline__ void store(__nv_bfloat16 *p, float v)
{
    *p = __float2bfloat16_rn(v);
}

/* grad = weight (softmax - onehot), a block a row; 0 without a target, whatever the weight. grad
 * may be z: each element is read by the thread that writes it. */
template <class T>
static __global__ void __launch_bounds__(HEAD_THREADS)
    head_bwd_kernel(const float *z, const int32_t *targets, const float *row_weight,
                    const float *state, T *grad, int col0, int n_cols)
{
    const float *row = z + (size_t)blockIdx.x * (size_t)n_cols;
    const float *s = state + (size_t)blockIdx.x * STATE_LEN;
    T *out = grad + (size_t)blockIdx.x * (size_t)n_cols;
    float top = s[STATE_MAX], sum = s[STATE_SUM], weight = row_weight[blockIdx.x];
    int target = targets[blockIdx.x];
    for (int i = (int)threadIdx.x; i < n_cols; i += HEAD_THREADS) {
        float p = expf(row[i] - top) / sum;
        float v = weight * (col0 + i == target ? p - 1.0f : p);
        store(out + i, target < 0 ? 0.0f : v);
    }
}

typedef void (*panel_kernel_fn)(const uint8_t *, __nv_bfloat16 *, int64_t);

/* In the order of tt_dtype. */
static const panel_kernel_fn panel_kernels[TT_DTYPE_COUNT] = {
    nullptr,
    panel_kernel<TT_F16>,
    nullptr,
    panel_kernel<TT_Q8_0>,
    panel_kernel<TT_Q4_0>,
    panel_kernel<TT_Q4_1>,
    panel_kernel<TT_Q5_0>,
    panel_kernel<TT_Q5_1>,
    panel_kernel<TT_Q4_K>,
    panel_kernel<TT_Q5_K>,
    panel_kernel<TT_Q6_K>,
};

/* Where things lie in the scratch memory; all offsets are multiples of 256. */
struct head_scratch {
    int64_t logits; /* f32 [R, n_cols] */
    int64_t grad;   /* bf16 [R, n_cols] */
    int64_t x;      /* bf16 [R, H] */
    int64_t panel;  /* bf16 [n_cols, H] */
    int64_t end;
};

static head_scratch scratch_of(const tt_head_args *a)
{
    int64_t rows = a->n_rows, cols = a->n_cols, h = a->w->cols;
    bool f32 = a->w->type == TT_F32, panel = panel_kernels[a->w->type] != nullptr;
    auto after = [](int64_t at, int64_t n_bytes) { return (at + n_bytes + 255) / 256 * 256; };
    head_scratch s = {};
    s.grad = after(s.logits, rows * cols * 4);
    s.x = after(s.grad, f32 ? 0 : rows * cols * 2);
    s.panel = after(s.x, f32 ? 0 : rows * h * 2);
    s.end = after(s.panel, panel ? cols * h * 2 : 0);
    return s;
}

int64_t tt_cuda_head_scratch(const tt_head_args *a)
{
    return scratch_of(a).end;
}

static cudaError_t error_of(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS        ? cudaSuccess
           : status == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation
                                                  : cudaErrorUnknown;
}

/* What the products of a call read. */
struct head_operands {
    const void *w, *x; /* [n_cols, H], [R, H] */
    cudaDataType type; /* of both, and of the gradient of the logits */
};

static cudaError_t make_operands(cudaStream_t stream, tt_dev scratch, const tt_head_args *a,
                                 head_operands *ret)
{
    const tt_weight *w = a->w;
    assert(a->col0 >= 0 && a->n_cols > 0 && a->col0 + a->n_cols <= w->rows);
    head_scratch s = scratch_of(a);
    tt_dev block = w->data + (tt_dev)(a->col0 * tt_row_bytes(w->type, w->cols));
    ret->w = dev_ptr<const void>(block);
    ret->x = dev_ptr<const void>(a->x);
    ret->type = CUDA_R_32F;
    if (w->type == TT_F32) {
        return cudaSuccess;
    }
    ret->x = dev_ptr<const void>(scratch + (tt_dev)s.x);
    ret->type = CUDA_R_16BF;
    cudaError_t err = tt_cuda_to_bf16(stream, a->x, scratch + (tt_dev)s.x, a->n_rows * w->cols);
    if (err == cudaSuccess && panel_kernels[w->type] != nullptr) {
        int64_t n = a->n_cols * w->cols, each = HEAD_THREADS * PANEL_EACH;
        ret->w = dev_ptr<const void>(scratch + (tt_dev)s.panel);
        err = gpu_launch(dim3((unsigned)((n + each - 1) / each)), dim3(HEAD_THREADS), 0, stream,
                         panel_kernels[w->type], dev_ptr<const uint8_t>(block),
                         dev_ptr<__nv_bfloat16>(scratch + (tt_dev)s.panel), n);
    }
    return err;
}

/* z[R, n_cols] = x W^T. cuBLAS has columns first: z^T = W x^T. */
static cudaError_t make_logits(cudaStream_t stream, cublasHandle_t blas, tt_dev scratch,
                               const tt_head_args *a, head_operands *ret)
{
    cudaError_t err = make_operands(stream, scratch, a, ret);
    if (err != cudaSuccess) {
        return err;
    }
    const float one = 1, zero = 0;
    int h = (int)a->w->cols;
    return error_of(cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, a->n_cols, a->n_rows, h, &one,
                                 ret->w, ret->type, h, ret->x, ret->type, h, &zero,
                                 dev_ptr<float>(scratch), CUDA_R_32F, a->n_cols, CUBLAS_COMPUTE_32F,
                                 CUBLAS_GEMM_DEFAULT));
}

cudaError_t tt_cuda_head_fwd(cudaStream_t stream, cublasHandle_t blas, tt_dev scratch,
                             const tt_head_args *a)
{
    head_operands in;
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    cudaError_t err = make_logits(stream, blas, scratch, a, &in);
    if (err != cudaSuccess) {
        return err;
    }
    return gpu_launch(dim3((unsigned)a->n_rows), dim3(HEAD_THREADS), 0, stream, head_fwd_kernel,
                      dev_ptr<const float>(scratch), dev_ptr<const int32_t>(a->targets),
                      dev_ptr<float>(a->state), a->col0, a->n_cols);
}

cudaError_t tt_cuda_head_finish(cudaStream_t stream, const tt_head_args *a)
{
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    return gpu_launch(dim3((unsigned)((a->n_rows + HEAD_THREADS - 1) / HEAD_THREADS)),
                      dim3(HEAD_THREADS), 0, stream, head_finish_kernel,
                      dev_ptr<const int32_t>(a->targets), dev_ptr<const float>(a->state),
                      dev_ptr<float>(a->row_loss), a->n_rows);
}

template <class T>
static cudaError_t launch_bwd(cudaStream_t stream, tt_dev z, tt_dev grad, const tt_head_args *a)
{
    return gpu_launch(dim3((unsigned)a->n_rows), dim3(HEAD_THREADS), 0, stream, head_bwd_kernel<T>,
                      dev_ptr<const float>(z), dev_ptr<const int32_t>(a->targets),
                      dev_ptr<const float>(a->row_weight), dev_ptr<const float>(a->state),
                      dev_ptr<T>(grad), a->col0, a->n_cols);
}

/* dx[R, H] (+)= grad W: dx^T (+)= W^T grad^T. */
cudaError_t tt_cuda_head_bwd(cudaStream_t stream, cublasHandle_t blas, tt_dev scratch,
                             const tt_head_args *a)
{
    head_operands in;
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    cudaError_t err = make_logits(stream, blas, scratch, a, &in);
    if (err != cudaSuccess) {
        return err;
    }
    bool f32 = in.type == CUDA_R_32F;
    tt_dev grad = f32 ? scratch : scratch + (tt_dev)scratch_of(a).grad;
    err = f32 ? launch_bwd<float>(stream, scratch, grad, a)
              : launch_bwd<__nv_bfloat16>(stream, scratch, grad, a);
    if (err != cudaSuccess) {
        return err;
    }
    const float one = 1, keep = a->col0 == 0 ? 0.0f : 1.0f;
    int h = (int)a->w->cols;
    return error_of(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, h, a->n_rows, a->n_cols, &one,
                                 in.w, in.type, h, dev_ptr<const void>(grad), in.type, a->n_cols,
                                 &keep, dev_ptr<float>(a->dx), CUDA_R_32F, h, CUBLAS_COMPUTE_32F,
                                 CUBLAS_GEMM_DEFAULT));
}
