/* matvec_cuda.h - products of few rows with weights as they lie in device memory, several in one
 * launch. Inside kernels/cuda: matmul_cuda.cu and adapter_cuda.cu. Thread: the owner of the stream.
 */
#ifndef TT_MATVEC_CUDA_H
#define TT_MATVEC_CUDA_H

#include "kernels/cuda/launch_cuda.h"

enum {
    FEW_ROWS = 16,    /* rows of x that read a weight together: the height of a tensor-core tile */
    FEW_PRODUCTS = 32 /* of one launch: their 2 KiB go as a kernel argument, of 4 KiB at most */
};

/* y[n_rows, rows] (+)= scale * x[n_rows, cols] W^T */
struct few_product {
    const float *x;
    const uint8_t *w;
    float *y;
    int64_t row_bytes; /* of w */
    int32_t type, rows, cols, n_rows;
    int32_t first_block;
    int16_t n_chunks, accumulate; /* chunks: of FEW_ROWS rows */
    int16_t w_aligned, x_aligned; /* as group_cuda.cuh's plain_group() has it */
    float scale;
};

struct few_batch {
    few_product p[FEW_PRODUCTS];
    int32_t n, n_blocks;
};

/* Products that wait for their launch; they may run in any order among themselves. */
struct few_queue {
    cudaStream_t stream;
    cudaError_t err; /* the first failure; what follows it is dropped */
    few_batch batch;
};

void few_add(few_queue *q, const tt_weight *w, const float *x, int32_t n_rows, float scale,
             float *y, bool accumulate);
/* Launches what waits; returns and keeps q->err. */
cudaError_t few_flush(few_queue *q);

#endif
