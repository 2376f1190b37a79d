/* matvec_cuda.cu - products of few rows with weights of any type (family DECODE): bound by the
 * memory that the weights come from, which they leave once for up to FEW_ROWS rows of x. Thread:
 * the owner of the stream; device code.
 *
 * A block owns FEW_OUT outputs. Its warps share the columns: warp i takes steps i, i + 8, .. of
 * 128. In a step the four lanes of an output unpack a group of 32 columns each, straight into the
 * registers that mma.m16n8k16 wants of its B operand; the rows of x are A. Which of the tile's
 * sixteen columns an element stands for is free as long as both operands agree, so nothing is
 * exchanged between lanes. The warps' sums meet in shared memory, in the order of the warps.
 *
 * What a row of y is made of depends on the shape of W alone: the other rows of x stand in other
 * rows of the tile, those beyond FEW_ROWS in other blocks (neighbours, so that they find the
 * weights in the second-level cache). */
#include <assert.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/group_cuda.cuh"
#include "kernels/cuda/matvec_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum {
    FEW_WARPS = 8,
    FEW_THREADS = 32 * FEW_WARPS,
    FEW_TILES = 2, /* of eight outputs: x is rounded once for both */
    FEW_OUT = 8 * FEW_TILES,
    FEW_LANES = 4 /* that share the columns of a tile */
};
static_assert(FEW_THREADS == FEW_ROWS * FEW_OUT, "a thread stores one element");

/* A group of row `row` of x; zeros beyond the rows there are. */
static __device__ __forceinline__ void x_group(const few_product &p, int row, int group,
                                               uint32_t pairs[GROUP_PAIRS])
{
    if (row < p.n_rows) {
        const float *x = p.x + (size_t)row * (size_t)p.cols;
        load_group<TT_F32>(reinterpret_cast<const uint8_t *>(x), group, p.cols, p.x_aligned != 0,
                           pairs);
    }
}

/* sum += x[16, 32 columns a lane] times eight outputs from `out0`. */
template <tt_dtype type>
static __device__ __forceinline__ void
few_tile(const few_product &p, int out0, int group, const uint32_t (&low)[GROUP_PAIRS],
         const uint32_t (&high)[GROUP_PAIRS], float (&sum)[4])
{
    int out = out0 + (int)threadIdx.x % 32 / FEW_LANES;
    uint32_t w[GROUP_PAIRS] = {};
    if (group * GROUP < p.cols && out < p.rows) {
        load_group<type>(p.w + out * p.row_bytes, group, p.cols, p.w_aligned != 0, w);
    }
    for (int i = 0; i < GROUP_PAIRS; i += 2) {
        uint32_t x[4] = {low[i], high[i], low[i + 1], high[i + 1]};
        mma_bf16(sum, x, w[i], w[i + 1]);
    }
}

/* sum += this warp's part of the product; lane l has rows l / 4 and l / 4 + 8, outputs 2 (l % 4)
 * and the next of each tile. */
template <tt_dtype type>
static __device__ __forceinline__ void few_sums(const few_product &p, int row0, int out0,
                                                float (&sum)[FEW_TILES][4])
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int n_groups = (p.cols + GROUP - 1) / GROUP;
    for (int step = warp * FEW_LANES; step < n_groups; step += FEW_WARPS * FEW_LANES) {
        int group = step + lane % FEW_LANES;
        uint32_t low[GROUP_PAIRS] = {}, high[GROUP_PAIRS] = {};
        if (group < n_groups) {
            x_group(p, row0 + lane / FEW_LANES, group, low);
            x_group(p, row0 + lane / FEW_LANES + 8, group, high);
        }
        few_tile<type>(p, out0, group, low, high, sum[0]); /* not a loop: sums in registers */
        few_tile<type>(p, out0 + 8, group, low, high, sum[1]);
    }
}

static __device__ __forceinline__ void few_sums_of(const few_product &p, int row0, int out0,
                                                   float (&sum)[FEW_TILES][4])
{
    switch (p.type) {
    case TT_F32:
        return few_sums<TT_F32>(p, row0, out0, sum);
    case TT_F16:
        return few_sums<TT_F16>(p, row0, out0, sum);
    case TT_BF16:
        return few_sums<TT_BF16>(p, row0, out0, sum);
    case TT_Q8_0:
        return few_sums<TT_Q8_0>(p, row0, out0, sum);
    case TT_Q4_0:
        return few_sums<TT_Q4_0>(p, row0, out0, sum);
    case TT_Q4_1:
        return few_sums<TT_Q4_1>(p, row0, out0, sum);
    case TT_Q5_0:
        return few_sums<TT_Q5_0>(p, row0, out0, sum);
    case TT_Q5_1:
        return few_sums<TT_Q5_1>(p, row0, out0, sum);
    case TT_Q4_K:
        return few_sums<TT_Q4_K>(p, row0, out0, sum);
    case TT_Q5_K:
        return few_sums<TT_Q5_K>(p, row0, out0, sum);
    default:
        return few_sums<TT_Q6_K>(p, row0, out0, sum);
    }
}

/* One kernel for all types, since the weights of one launch may differ in theirs. */
static __global__ void __launch_bounds__(FEW_THREADS, 2) few_rows_kernel(few_batch batch)
{
    CU_SHARED(float[FEW_WARPS][FEW_ROWS][FEW_OUT], part);
    int index = 0;
    while (index + 1 < batch.n && (int)blockIdx.x >= batch.p[index + 1].first_block) {
        index++;
    }
    few_product p = batch.p[index];
    int block = (int)blockIdx.x - p.first_block, thread = (int)threadIdx.x;
    int row0 = block % p.n_chunks * FEW_ROWS, out0 = block / p.n_chunks * FEW_OUT;
    float sum[FEW_TILES][4] = {};
    few_sums_of(p, row0, out0, sum);

    int row = thread % 32 / FEW_LANES, out = thread % FEW_LANES * 2;
    for (int tile = 0; tile < FEW_TILES; tile++) {
        for (int i = 0; i < 4; i++) {
            part[thread / 32][row + i / 2 * 8][8 * tile + out + i % 2] = sum[tile][i];
        }
    }
    __syncthreads();
    row = thread / FEW_OUT;
    out = thread % FEW_OUT;
    float total = 0;
    for (int warp = 0; warp < FEW_WARPS; warp++) {
        total += part[warp][row][out];
    }
    if (row0 + row < p.n_rows && out0 + out < p.rows) {
        float *y = p.y + (size_t)(row0 + row) * (size_t)p.rows + (size_t)(out0 + out);
        *y = p.accumulate != 0 ? fmaf(p.scale, total, *y) : p.scale * total;
    }
}

cudaError_t few_flush(few_queue *q)
{
    if (q->err == cudaSuccess && q->batch.n > 0) {
        q->err = gpu_launch(dim3((unsigned)q->batch.n_blocks), dim3(FEW_THREADS), 0, q->stream,
                            few_rows_kernel, q->batch);
    }
    q->batch = few_batch{};
    return q->err;
}

void few_add(few_queue *q, const tt_weight *w, const float *x, int32_t n_rows, float scale,
             float *y, bool accumulate)
{
    if (n_rows == 0) {
        return;
    }
    bool whole = w->cols % GROUP == 0, plain = tt_dtypes[w->type].block_elems == 1;
    bool w_aligned = whole && w->data % 16 == 0;
    assert(w->type < TT_DTYPE_COUNT && w->rows > 0 && w->cols > 0 && (plain || w_aligned));
    int32_t n_chunks = (n_rows + FEW_ROWS - 1) / FEW_ROWS;
    assert(n_chunks <= INT16_MAX);
    few_product p = {};
    p.x = x;
    p.w = dev_ptr<const uint8_t>(w->data);
    p.y = y;
    p.row_bytes = tt_row_bytes(w->type, w->cols);
    p.type = w->type;
    p.rows = (int32_t)w->rows;
    p.cols = (int32_t)w->cols;
    p.n_rows = n_rows;
    p.first_block = q->batch.n_blocks;
    p.n_chunks = (int16_t)n_chunks;
    p.accumulate = accumulate;
    p.w_aligned = w_aligned;
    p.x_aligned = whole && (uintptr_t)x % 16 == 0;
    p.scale = scale;
    q->batch.p[q->batch.n++] = p;
    q->batch.n_blocks += n_chunks * (int32_t)((w->rows + FEW_OUT - 1) / FEW_OUT);
    if (q->batch.n == FEW_PRODUCTS) {
        few_flush(q);
    }
}
