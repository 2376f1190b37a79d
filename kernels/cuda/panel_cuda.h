/* panel_cuda.h - products of many rows: operands and weights as BF16 in the workspace, cuBLAS over
 * them. Inside kernels/cuda: matmul_cuda.cu and adapter_cuda.cu. Thread: the owner of the stream.
 */
#ifndef TT_PANEL_CUDA_H
#define TT_PANEL_CUDA_H

#include <cuda_bf16.h>

#include "kernels/cuda/product_cuda.h"

/* Activations or gradients of a step as BF16. */
enum operand_slot {
    OPERAND_FIRST,
    OPERAND_SECOND,
    OPERAND_INNER, /* [rows, rank] */
    OPERAND_SLOTS
};

/* One op under way. What goes wrong first stays in err, and what follows does nothing. */
struct product_run {
    const tt_cuda_products *p;
    cudaStream_t stream;
    cudaError_t err;
    int32_t pass_rows;
    int64_t panel_bytes;
    __nv_bfloat16 *panel;                  /* panel_bytes */
    __nv_bfloat16 *operand[OPERAND_SLOTS]; /* rows up to a whole pass, columns up to a group */
    float *tail; /* [pass_rows, tail_cols]: results of a pass that has fewer rows */
    int32_t tail_cols;
    float *inner; /* [max_rows, max_rank]: the low-rank middle */
};

product_run product_begin(const tt_cuda_products *p, cudaStream_t stream);

/* x[n_rows, cols] into a slot. */
void product_operand(product_run *r, operand_slot slot, const float *x, int32_t n_rows,
                     int32_t cols);
/* y[n_rows, w->rows] (+)= scale * x W^T, x in a slot. */
void product_fwd(product_run *r, const tt_weight *w, operand_slot x, int32_t n_rows, float scale,
                 float *y, bool accumulate);
/* dx[n_rows, w->cols] (+)= scale * dy W, dy in a slot. */
void product_bwd(product_run *r, const tt_weight *w, operand_slot dy, int32_t n_rows, float scale,
                 float *dx, bool accumulate);
/* g[m, n] = scale * u^T v, u [n_rows, m] and v [n_rows, n] in slots. */
void product_grad(product_run *r, operand_slot u, int32_t m, operand_slot v, int32_t n,
                  int32_t n_rows, float scale, float *g);

#endif
