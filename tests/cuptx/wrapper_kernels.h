/* wrapper_kernels.h - see wrapper_kernels.cu. Thread: the owner of the stream. */
#ifndef CUPTX_WRAPPER_KERNELS_H
#define CUPTX_WRAPPER_KERNELS_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>

/* C[16, 16] = A[16, 16 n_steps] B. Rows of A from n_rows on count as 0, whatever they hold. b is
 * [16 n_steps, 16] when b_by_rows, else its transpose, [16, 16 n_steps]. */
cudaError_t wrapper_product(cudaStream_t stream, const __nv_bfloat16 *a, const __nv_bfloat16 *b,
                            float *c, int n_steps, int n_rows, bool b_by_rows);

#endif
