/* embed_cuda.cu - rows picked from a table (dequantised) or a matrix, and the rounding of a vector
 * to BF16. Thread: the owner of the stream; device code. */
#include <assert.h>
#include <math.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/dequant_cuda.cuh"
#include "kernels/cuda/launch_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum { EMBED_THREADS = 256 };

struct embed_shape {
    int64_t rows, cols, row_bytes; /* of the table */
};

/* A block a row of x. */
template <tt_dtype type>
static __global__ void __launch_bounds__(EMBED_THREADS)
    embed_kernel(const int32_t *ids, const uint8_t *table, float *x, embed_shape s, float scale)
{
    int64_t id = ids[blockIdx.x];
    bool known = id >= 0 && id < s.rows;
    const uint8_t *row = table + (known ? id : 0) * s.row_bytes;
    float *out = x + (int64_t)blockIdx.x * s.cols;
    for (int64_t i = threadIdx.x; i < s.cols; i += EMBED_THREADS) {
        out[i] = known ? row_element<type>(row, i) * scale : NAN;
    }
}

static __global__ void __launch_bounds__(EMBED_THREADS)
    gather_kernel(const int32_t *idx, const float *x, float *y, int64_t dim)
{
    const float *from = x + idx[blockIdx.x] * dim;
    float *to = y + (int64_t)blockIdx.x * dim;
    for (int64_t i = threadIdx.x; i < dim; i += EMBED_THREADS) {
        to[i] = from[i];
    }
}

static __global__ void __launch_bounds__(EMBED_THREADS)
    to_bf16_kernel(const float *src, __nv_bfloat16 *dst, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * EMBED_THREADS + threadIdx.x;
    if (i < n) {
        dst[i] = __float2bfloat16_rn(src[i]);
    }
}

typedef void (*embed_kernel_fn)(const int32_t *, const uint8_t *, float *, embed_shape, float);

static embed_kernel_fn embed_kernel_for(tt_dtype type)
{
    switch (type) {
    case TT_F32:
        return embed_kernel<TT_F32>;
    case TT_F16:
        return embed_kernel<TT_F16>;
    case TT_BF16:
        return embed_kernel<TT_BF16>;
    case TT_Q8_0:
        return embed_kernel<TT_Q8_0>;
    case TT_Q4_0:
        return embed_kernel<TT_Q4_0>;
    case TT_Q4_1:
        return embed_kernel<TT_Q4_1>;
    case TT_Q5_0:
        return embed_kernel<TT_Q5_0>;
    case TT_Q5_1:
        return embed_kernel<TT_Q5_1>;
    case TT_Q4_K:
        return embed_kernel<TT_Q4_K>;
    case TT_Q5_K:
        return embed_kernel<TT_Q5_K>;
    default:
        assert(type == TT_Q6_K);
        return embed_kernel<TT_Q6_K>;
    }
}

cudaError_t tt_cuda_embed(cudaStream_t stream, const tt_embed_args *a)
{
    const tt_weight *t = a->table;
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    embed_shape s = {t->rows, t->cols, tt_row_bytes(t->type, t->cols)};
    return gpu_launch(dim3((unsigned)a->n_rows), dim3(EMBED_THREADS), 0, stream,
                      embed_kernel_for(t->type), dev_ptr<const int32_t>(a->ids),
                      dev_ptr<const uint8_t>(t->data), dev_ptr<float>(a->x), s, a->scale);
}

cudaError_t tt_cuda_gather(cudaStream_t stream, const tt_gather_args *a)
{
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    return gpu_launch(dim3((unsigned)a->n_rows), dim3(EMBED_THREADS), 0, stream, gather_kernel,
                      dev_ptr<const int32_t>(a->idx), dev_ptr<const float>(a->x),
                      dev_ptr<float>(a->y), (int64_t)a->dim);
}

cudaError_t tt_cuda_to_bf16(cudaStream_t stream, tt_dev src_f32, tt_dev dst_bf16, int64_t n)
{
    if (n == 0) {
        return cudaSuccess;
    }
    return gpu_launch(dim3((unsigned)((n + EMBED_THREADS - 1) / EMBED_THREADS)),
                      dim3(EMBED_THREADS), 0, stream, to_bf16_kernel, dev_ptr<const float>(src_f32),
                      dev_ptr<__nv_bfloat16>(dst_bf16), n);
}
