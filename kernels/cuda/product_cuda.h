/* product_cuda.h - matmul, its transpose and the adapters' products as the host side sees them,
 * with what they need besides a stream. Rules, semantics and outcomes: launch_cuda.h. Thread: the
 * owner of the stream.
 *
 * Family DECODE reads the weights as they lie in memory (matvec_cuda.cu). PREFILL, the backward
 * products and gradients unpack a slice of the weight to a BF16 panel and leave the rest to cuBLAS,
 * FP32 sums throughout (panel_cuda.cu). */
#ifndef TT_PRODUCT_CUDA_H
#define TT_PRODUCT_CUDA_H

#include <cublas_v2.h>

#include "kernels/cuda/launch_cuda.h"

/* Rows of one call of cuBLAS. Every call has as many, a short pass is filled up: so the call for a
 * weight has one shape and cuBLAS one reason to choose its kernel, however many rows a step has.
 * 512 rows are where an H100 begins to be bound by arithmetic: filling up costs little below. */
#define TT_CUDA_PASS_ROWS 512
/* Bytes of a panel. 64 MiB hold every matrix of a 4B model whole (2560 x 9728: 47.5 MiB), so that a
 * call has tiles enough for all multiprocessors: 512 x 2560 outputs are 80 tiles of 128 x 128, half
 * the matrix would be 40. Larger matrices go in slices of rows. */
#define TT_CUDA_PANEL_BYTES ((int64_t)64 << 20)
/* Outputs of a slice at most: they bound the results of a pass that was filled up. */
#define TT_CUDA_SLICE_ROWS 16384

/* What products need: borrowed for the call, the workspace until the stream has run. How a product
 * is cut depends on its weight, pass_rows and panel_bytes alone. */
typedef struct tt_cuda_products {
    cublasHandle_t blas; /* on the stream of the calls, host pointer mode, a workspace of its own */
    tt_dev workspace;    /* tt_cuda_products_bytes(), aligned to 256 */
    int32_t max_rows;    /* of a step */
    int32_t max_dim;     /* columns of a weight; rows of one in a backward product */
    int32_t max_rank;    /* of a LoRA adapter; 0 = there are none */
    int32_t pass_rows;   /* 0 = TT_CUDA_PASS_ROWS */
    int64_t panel_bytes; /* 0 = TT_CUDA_PANEL_BYTES; else at least 64 * max_dim rounded up to 32 */
    int64_t max_panel;   /* bytes of the largest panel that is made; 0 = panel_bytes */
    int32_t max_out;     /* rows of a weight in a forward product, where they exceed max_dim */
} tt_cuda_products;

/* Bytes of workspace for these limits; what p->workspace is does not matter. */
size_t tt_cuda_products_bytes(const tt_cuda_products *p);
/* Bytes of w as one panel; 0 where it is used as it lies. Larger ones than panel_bytes are cut. */
int64_t tt_cuda_panel_bytes(const tt_weight *w);

/* matmul_cuda.cu. Quantised weights begin at multiples of 16 bytes. */
cudaError_t tt_cuda_matmul(cudaStream_t stream, const tt_cuda_products *p, const tt_matmul_args *a);
cudaError_t tt_cuda_matmul_bwd(cudaStream_t stream, const tt_cuda_products *p,
                               const tt_matmul_bwd_args *a);

/* adapter_cuda.cu */
cudaError_t tt_cuda_adapter_fwd(cudaStream_t stream, const tt_cuda_products *p,
                                const tt_adapter_fwd_args *a);
cudaError_t tt_cuda_adapter_bwd(cudaStream_t stream, const tt_cuda_products *p,
                                const tt_adapter_bwd_args *a);
cudaError_t tt_cuda_adapter_grad(cudaStream_t stream, const tt_cuda_products *p,
                                 const tt_adapter_grad_args *a);

#endif
