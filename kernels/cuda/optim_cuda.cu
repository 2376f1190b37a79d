/* optim_cuda.cu - gradient norm, AdamW and SGD predicated on a finite loss and gradient, norm of
 * the delta. Thread: the owner of the stream; device code. Source: as kernels/ref/optim_ref.c.
 *
 * The sums that ops.h wants in FP64 are made in FP64, over blocks of fixed size that a second
 * kernel adds in a fixed order: the same bits on every part. That is free where memory is the
 * bound, and sm_80 and sm_90 have half of FP32's rate in FP64. Rows of a matrix follow each other
 * without gaps and are whole blocks of their type, so a matrix is read as one long row. */
#include <assert.h>
#include <math.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/dequant_cuda.cuh"
#include "kernels/cuda/launch_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum {
    OPTIM_THREADS = 256,
    OPTIM_WARPS = OPTIM_THREADS / 32,
    SQUARES_BLOCK = 32 * OPTIM_THREADS,
    UPDATE_EACH = 4
};

/* The sum of v over the block, in all threads. part: as block_sum's. */
static __device__ __forceinline__ double block_sum_f64(double v, double (&part)[OPTIM_WARPS])
{
    for (int bits = 16; bits > 0; bits /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, bits);
    }
    if (threadIdx.x % 32 == 0) {
        part[threadIdx.x / 32] = v;
    }
    __syncthreads();
    v = 0;
    for (int i = 0; i < OPTIM_WARPS; i++) {
        v += part[i];
    }
    return v;
}

/* out[block] = the squares of SQUARES_BLOCK elements of x[n]. */
template <tt_dtype type>
static __global__ void __launch_bounds__(OPTIM_THREADS)
    squares_kernel(const uint8_t *x, double *out, int64_t n)
{
    CU_SHARED(double[OPTIM_WARPS], part);
    int64_t first = (int64_t)blockIdx.x * SQUARES_BLOCK;
    int64_t end = first + SQUARES_BLOCK < n ? first + SQUARES_BLOCK : n;
    double sum = 0;
    for (int64_t i = first + threadIdx.x; i < end; i += OPTIM_THREADS) {
        double v = row_element<type>(x, i);
        sum += v * v;
    }
    sum = block_sum_f64(sum, part);
    if (threadIdx.x == 0) {
        out[blockIdx.x] = sum;
    }
}

/* The sum of x[n] by one block, in all threads. */
static __device__ __forceinline__ double sum_of(const double *x, int64_t n,
                                                double (&part)[OPTIM_WARPS])
{
    double sum = 0;
    CU_ROLLED
    for (int64_t i = threadIdx.x; i < n; i += OPTIM_THREADS) {
        sum += x[i];
    }
    return block_sum_f64(sum, part);
}

/* One block: the state of a step, from the squares of the gradient and the losses of the rows. */
static __global__ void __launch_bounds__(OPTIM_THREADS)
    begin_kernel(const double *squares, const float *row_loss, const float *row_weight,
                 tt_train_state *state, int64_t n_squares, int64_t n_rows)
{
    CU_SHARED(double[OPTIM_WARPS], part_squares);
    CU_SHARED(double[OPTIM_WARPS], part_loss);
    double grad_sq = sum_of(squares, n_squares, part_squares), loss = 0;
    for (int64_t r = threadIdx.x; r < n_rows; r += OPTIM_THREADS) {
        loss += (double)row_weight[r] * (double)row_loss[r];
    }
    loss = block_sum_f64(loss, part_loss);
    if (threadIdx.x == 0) {
        state->grad_sq = grad_sq;
        state->loss = loss;
        state->finite = isfinite(loss) && isfinite(grad_sq);
    }
}

/* What a step does to one tensor. Argument structs have no padding. */
struct tensor_update {
    const float *g;
    const uint8_t *w; /* or NULL */
    float *d, *m, *v;
    const tt_train_state *state;
    int64_t n;
    float max_norm;                   /* 0: g is not clipped */
    float decay;                      /* AdamW: lr * wd; SGD: wd */
    float step, v_scale, eps;         /* AdamW: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t) */
    float beta1, beta2, rest1, rest2; /* rest = 1 - beta */
    float lr;                         /* SGD */
};

static __device__ __forceinline__ void adamw(const tensor_update &u, int64_t i, float g, float p)
{
    float m = u.beta1 * u.m[i] + u.rest1 * g;
    float v = u.beta2 * u.v[i] + u.rest2 * g * g;
    u.m[i] = m;
    u.v[i] = v;
    u.d[i] -= u.decay * p + u.step * m / (sqrtf(v) * u.v_scale + u.eps);
}

/* UPDATE_EACH elements a thread; type is w's. The factor on g is made by one thread of a block. */
template <tt_dtype type>
static __global__ void __launch_bounds__(OPTIM_THREADS)
    update_kernel(tensor_update u, tt_optim_kind kind)
{
    CU_SHARED(float[1], clip);
    if (threadIdx.x == 0) {
        double factor = u.max_norm > 0 ? u.max_norm / (sqrt(u.state->grad_sq) + 1e-6) : 1;
        clip[0] = factor < 1 ? (float)factor : 1.0f;
    }
    __syncthreads();
    bool finite = u.state->finite != 0;
    int64_t first = (int64_t)blockIdx.x * OPTIM_THREADS * UPDATE_EACH + threadIdx.x;
    for (int k = 0; k < UPDATE_EACH; k++) {
        int64_t i = first + k * OPTIM_THREADS;
        if (finite && i < u.n) {
            float g = clip[0] * u.g[i], p = u.d[i];
            if (u.w != nullptr) {
                p += row_element<type>(u.w, i);
            }
            if (kind == TT_ADAMW) {
                adamw(u, i, g, p);
            } else {
                u.d[i] -= u.lr * (g + u.decay * p);
            }
        }
    }
}

static __global__ void __launch_bounds__(32) count_dropped_kernel(tt_train_state *state)
{
    if (threadIdx.x == 0 && state->finite == 0) {
        state->n_dropped++;
    }
}

/* out[i, j] = (A A^T)[i, j] (B^T B)[i, j], a block a pair: their sum is |B A|^2, without B A. */
template <tt_dtype type>
static __global__ void __launch_bounds__(OPTIM_THREADS)
    gram_kernel(const uint8_t *a, const uint8_t *b, double *out, int64_t h, int64_t nq)
{
    CU_SHARED(double[OPTIM_WARPS], part_a);
    CU_SHARED(double[OPTIM_WARPS], part_b);
    int64_t i = blockIdx.x, j = blockIdx.y, rank = gridDim.x;
    double sum_a = 0, sum_b = 0;
    for (int64_t c = threadIdx.x; c < h; c += OPTIM_THREADS) {
        sum_a += (double)row_element<type>(a, i * h + c) * (double)row_element<type>(a, j * h + c);
    }
    for (int64_t o = threadIdx.x; o < nq; o += OPTIM_THREADS) {
        sum_b +=
            (double)row_element<type>(b, o * rank + i) * (double)row_element<type>(b, o * rank + j);
    }
    sum_a = block_sum_f64(sum_a, part_a);
    sum_b = block_sum_f64(sum_b, part_b);
    if (threadIdx.x == 0) {
        out[i * rank + j] = sum_a * sum_b;
    }
}

/* One block. Rounding may bring a sum of products below 0; a square is not. */
static __global__ void __launch_bounds__(OPTIM_THREADS)
    norms_kernel(const double *delta, const double *w, double *out, int64_t n_delta, int64_t n_w,
                 float scale)
{
    CU_SHARED(double[OPTIM_WARPS], part_delta);
    CU_SHARED(double[OPTIM_WARPS], part_w);
    double d = sum_of(delta, n_delta, part_delta), all = sum_of(w, n_w, part_w);
    if (threadIdx.x == 0) {
        out[0] = d < 0 ? 0 : d * (double)scale * (double)scale;
        out[1] = all;
    }
}

typedef void (*squares_kernel_fn)(const uint8_t *, double *, int64_t);
typedef void (*update_kernel_fn)(tensor_update, tt_optim_kind);

/* In the order of tt_dtype. */
static const squares_kernel_fn squares_kernels[TT_DTYPE_COUNT] = {
    squares_kernel<TT_F32>,  squares_kernel<TT_F16>,  squares_kernel<TT_BF16>,
    squares_kernel<TT_Q8_0>, squares_kernel<TT_Q4_0>, squares_kernel<TT_Q4_1>,
    squares_kernel<TT_Q5_0>, squares_kernel<TT_Q5_1>, squares_kernel<TT_Q4_K>,
    squares_kernel<TT_Q5_K>, squares_kernel<TT_Q6_K>,
};
static const update_kernel_fn update_kernels[TT_DTYPE_COUNT] = {
    update_kernel<TT_F32>,  update_kernel<TT_F16>,  update_kernel<TT_BF16>, update_kernel<TT_Q8_0>,
    update_kernel<TT_Q4_0>, update_kernel<TT_Q4_1>, update_kernel<TT_Q5_0>, update_kernel<TT_Q5_1>,
    update_kernel<TT_Q4_K>, update_kernel<TT_Q5_K>, update_kernel<TT_Q6_K>,
};

static int64_t n_parts(int64_t n)
{
    return (n + SQUARES_BLOCK - 1) / SQUARES_BLOCK;
}

/* The squares of x[n] into out[n_parts(n)]. */
static cudaError_t launch_squares(cudaStream_t stream, tt_dtype type, tt_dev x, tt_dev out,
                                  int64_t n)
{
    return gpu_launch(dim3((unsigned)n_parts(n)), dim3(OPTIM_THREADS), 0, stream,
                      squares_kernels[type], dev_ptr<const uint8_t>(x), dev_ptr<double>(out), n);
}

int64_t tt_cuda_optim_scratch(const tt_optim_args *a)
{
    int64_t n = 0;
    for (int i = 0; i < a->n_tensors; i++) {
        n += n_parts(a->t[i].n);
    }
    return n * (int64_t)sizeof(double);
}

cudaError_t tt_cuda_optim_begin(cudaStream_t stream, tt_dev scratch, const tt_optim_args *a)
{
    tt_dev at = scratch;
    for (int i = 0; i < a->n_tensors; i++) {
        assert(a->t[i].n > 0);
        cudaError_t err = launch_squares(stream, TT_F32, a->t[i].g, at, a->t[i].n);
        if (err != cudaSuccess) {
            return err;
        }
        at += (tt_dev)n_parts(a->t[i].n) * sizeof(double);
    }
    return gpu_launch(dim3(1), dim3(OPTIM_THREADS), 0, stream, begin_kernel,
                      dev_ptr<const double>(scratch), dev_ptr<const float>(a->row_loss),
                      dev_ptr<const float>(a->row_weight), dev_ptr<tt_train_state>(a->state),
                      (int64_t)((at - scratch) / sizeof(double)), (int64_t)a->n_rows);
}

/* All but the tensor. */
static tensor_update update_of(const tt_optim_args *a)
{
    double b1 = a->beta1, b2 = a->beta2;
    tensor_update u = {};
    u.state = dev_ptr<const tt_train_state>(a->state);
    u.max_norm = a->clip;
    u.decay = a->weight_decay;
    u.lr = a->lr;
    if (a->kind == TT_ADAMW) {
        u.decay = (float)((double)a->lr * a->weight_decay);
        u.step = (float)(a->lr / (1 - pow(b1, a->step)));
        u.v_scale = (float)(1 / sqrt(1 - pow(b2, a->step)));
        u.eps = a->eps;
        u.beta1 = a->beta1;
        u.beta2 = a->beta2;
        u.rest1 = (float)(1 - b1);
        u.rest2 = (float)(1 - b2);
    }
    return u;
}

cudaError_t tt_cuda_optim_step(cudaStream_t stream, const tt_optim_args *a)
{
    assert(a->step >= 1);
    tensor_update u = update_of(a);
    for (int i = 0; i < a->n_tensors; i++) {
        const tt_optim_tensor *t = &a->t[i];
        const int64_t each = OPTIM_THREADS * UPDATE_EACH;
        assert(t->n > 0 && (t->w == nullptr || t->n == t->w->rows * t->w->cols));
        u.g = dev_ptr<const float>(t->g);
        u.w = t->w == nullptr ? nullptr : dev_ptr<const uint8_t>(t->w->data);
        u.d = dev_ptr<float>(t->d);
        u.m = dev_ptr<float>(t->m);
        u.v = dev_ptr<float>(t->v);
        u.n = t->n;
        cudaError_t err =
            gpu_launch(dim3((unsigned)((t->n + each - 1) / each)), dim3(OPTIM_THREADS), 0, stream,
                       update_kernels[t->w == nullptr ? TT_F32 : t->w->type], u, a->kind);
        if (err != cudaSuccess) {
            return err;
        }
    }
    return gpu_launch(dim3(1), dim3(32), 0, stream, count_dropped_kernel,
                      dev_ptr<tt_train_state>(a->state));
}

/* Sums that the delta's norm is made of. */
static int64_t delta_parts(const tt_delta_norm_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    return l->kind == TT_ADAPTER_FULL ? n_parts(a->w->rows * a->w->cols)
                                      : (int64_t)l->rank * l->rank;
}

int64_t tt_cuda_delta_norm_scratch(const tt_delta_norm_args *a)
{
    return (delta_parts(a) + n_parts(a->w->rows * a->w->cols)) * (int64_t)sizeof(double);
}

cudaError_t tt_cuda_delta_norm(cudaStream_t stream, tt_dev scratch, const tt_delta_norm_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    const tt_weight *w = a->w;
    assert(l->type == TT_F32 || l->type == TT_BF16);
    int64_t n = w->rows * w->cols, n_delta = delta_parts(a);
    tt_dev squares = scratch + (tt_dev)n_delta * sizeof(double);
    bool full = l->kind == TT_ADAPTER_FULL;
    cudaError_t err =
        full ? launch_squares(stream, l->type, l->d, scratch, n)
             : gpu_launch(dim3((unsigned)l->rank, (unsigned)l->rank), dim3(OPTIM_THREADS), 0,
                          stream, l->type == TT_F32 ? gram_kernel<TT_F32> : gram_kernel<TT_BF16>,
                          dev_ptr<const uint8_t>(l->a), dev_ptr<const uint8_t>(l->b),
                          dev_ptr<double>(scratch), w->cols, w->rows);
    if (err == cudaSuccess) {
        err = launch_squares(stream, w->type, w->data, squares, n);
    }
    if (err != cudaSuccess) {
        return err;
    }
    return gpu_launch(dim3(1), dim3(OPTIM_THREADS), 0, stream, norms_kernel,
                      dev_ptr<const double>(scratch), dev_ptr<const double>(squares),
                      dev_ptr<double>(a->out), n_delta, n_parts(n), full ? 1.0f : l->scale);
}
