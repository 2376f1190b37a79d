/* launch_cuda.h - the CUDA kernels as the host side sees them: one function an op, which checks the
 * shapes and queues its launches on a stream. Semantics, shapes and overlaps are those of the op's
 * argument struct in kernels/ops.h; tt_dev are device addresses, host pointers in the structs (the
 * tt_weight of a table, the tt_kv_layer) are read during the call.
 *
 * Thread: the owner of the stream. Outcome: cudaSuccess, or the first failure, in which case the
 * outputs are undefined once the stream has run. Nothing is allocated and nothing is waited for. A
 * step without rows is done at once. C++ only: included by .cu files and their tests. */
#ifndef TT_LAUNCH_CUDA_H
#define TT_LAUNCH_CUDA_H

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern "C" {
#include "kernels/cuda_module.h"
#include "kernels/ops.h"
}

/* norm_cuda.cu */
cudaError_t tt_cuda_rmsnorm(cudaStream_t stream, const tt_rmsnorm_args *a);
cudaError_t tt_cuda_rmsnorm_bwd(cudaStream_t stream, const tt_rmsnorm_bwd_args *a);

/* rope_cuda.cu: head_dim <= 256, positions < 2^24. */
cudaError_t tt_cuda_qk_rope(cudaStream_t stream, const tt_qk_rope_args *a);
cudaError_t tt_cuda_q_rope_bwd(cudaStream_t stream, const tt_q_rope_bwd_args *a);

/* gated_cuda.cu */
cudaError_t tt_cuda_gated(cudaStream_t stream, const tt_gated_args *a);
cudaError_t tt_cuda_gated_bwd(cudaStream_t stream, const tt_gated_bwd_args *a);

/* embed_cuda.cu: tables of every type of kernels/dtype.h. An id outside the table is an assertion
 * on the CPU; here its row becomes NaN. */
cudaError_t tt_cuda_embed(cudaStream_t stream, const tt_embed_args *a);
cudaError_t tt_cuda_gather(cudaStream_t stream, const tt_gather_args *a);
cudaError_t tt_cuda_to_bf16(cudaStream_t stream, tt_dev src_f32, tt_dev dst_bf16, int64_t n);

/* attention_cuda.cu, attn_decode_cuda.cu, attention_bwd_cuda.cu: pages of BF16 or TT_I8, 16-byte
 * aligned; head_dim one of TT_CUDA_HEAD_DIMS, else cudaErrorInvalidValue; scale > 0. scratch: as
 * many bytes of device memory as the first function says, in use until the launches have run; 0 for
 * TT_PREFILL. A row's bits depend on its family, position, query, keys and values alone. */
size_t tt_cuda_attention_scratch(const tt_attention_args *a);
cudaError_t tt_cuda_attention(cudaStream_t stream, const tt_attention_args *a, tt_dev scratch);
cudaError_t tt_cuda_attention_bwd(cudaStream_t stream, const tt_attention_bwd_args *a);

/* sample_cuda.cu, checksum_cuda.cu: the tokens and the sums are the reference's, bit for bit. */
cudaError_t tt_cuda_sample(cudaStream_t stream, const tt_sample_args *a);
cudaError_t tt_cuda_checksum(cudaStream_t stream, const tt_checksum_args *a);

/* matmul_cuda.cu, adapter_cuda.cu: product_cuda.h, since they want cuBLAS and a workspace. */

/* head_cuda.cu: `blas` works on `stream`; scratch is tt_cuda_head_scratch(a) bytes, aligned to 256,
 * that are nobody else's until the stream has run the call. */
int64_t tt_cuda_head_scratch(const tt_head_args *a);
cudaError_t tt_cuda_head_fwd(cudaStream_t stream, cublasHandle_t blas, tt_dev scratch,
                             const tt_head_args *a);
cudaError_t tt_cuda_head_finish(cudaStream_t stream, const tt_head_args *a);
cudaError_t tt_cuda_head_bwd(cudaStream_t stream, cublasHandle_t blas, tt_dev scratch,
                             const tt_head_args *a);

/* optim_cuda.cu: scratch as above, of the size that the function before says, aligned to 8. */
int64_t tt_cuda_optim_scratch(const tt_optim_args *a);
cudaError_t tt_cuda_optim_begin(cudaStream_t stream, tt_dev scratch, const tt_optim_args *a);
cudaError_t tt_cuda_optim_step(cudaStream_t stream, const tt_optim_args *a);
int64_t tt_cuda_delta_norm_scratch(const tt_delta_norm_args *a);
cudaError_t tt_cuda_delta_norm(cudaStream_t stream, tt_dev scratch, const tt_delta_norm_args *a);

#endif
