/* kern.h - the kernels that are compiled once per instruction set: helpers they share, and the ops,
 * which kernels/ops.h specifies. Thread: the ops on the engine thread; helpers anywhere. */
#ifndef TT_KERN_H
#define TT_KERN_H

#include "kernels/cpu/simd.h"
#include "kernels/lane.h"

/* BF16 products where the instruction set has them; f32 elsewhere (oneDNN only emulates BF16 there,
 * slowly). */
#if defined(__AVX512BF16__)
enum { TT_GEMM_BF16 = 1 };
typedef uint16_t tt_gelem; /* an operand of tt_gemm_run() */
#else
enum { TT_GEMM_BF16 = 0 };
typedef float tt_gelem;
#endif

/* ---- dequant.c ---- */

/* y[n] = a row of type t at src (any alignment), n a multiple of its block. */
void TT_FN(tt_dequant)(tt_dtype t, const void *src, float *y, int64_t n);
/* The same, rounded to BF16. */
void TT_FN(tt_dequant_bf16)(tt_dtype t, const void *src, uint16_t *y, int64_t n);
/* dst[n] = src[n] to nearest even. */
void TT_FN(tt_round_bf16)(const float *src, uint16_t *dst, int64_t n);

/* dst[n] = src[n] as operands of a product. */
static inline void to_gelem(const float *src, tt_gelem *dst, int64_t n)
{
#if defined(__AVX512BF16__)
    TT_FN(tt_round_bf16)(src, dst, n);
#else
    memcpy(dst, src, (size_t)n * sizeof *dst);
#endif
}

/* ---- matmul.c ---- */

/* tt_ops.matmul of the family PREFILL. Scratch slot 0. */
void TT_FN(tt_product)(tt_lane *lane, const tt_matmul_args *a);
/* tt_ops.matmul_bwd. Scratch slots 0 .. n_w - 1. */
void TT_FN(tt_product_bwd)(tt_lane *lane, const tt_matmul_bwd_args *a);
/* g[n_out, n_in] = dq[n_rows, n_out]^T x[n_rows, n_in]. Scratch slots 0 and 1. */
void TT_FN(tt_product_grad)(tt_lane *lane, const float *dq, const float *x, float *g,
                            int64_t n_rows, int64_t n_out, int64_t n_in);

/* ---- matvec.c ---- */

/* Weight rows [row0, row1) of a product of the family DECODE, by the calling thread alone: the sums
 * are those of tt_ops.matmul. */
void TT_FN(tt_matvec_some)(const tt_weight *w, int64_t row0, int64_t row1, const float *x,
                           int32_t n_rows, float *y, bool accumulate);

/* ---- norm.c ---- */

/* y[n] = (add +) x / sqrt(mean(x^2) + eps) * w; add may be NULL; y may be x or add. */
void TT_FN(tt_norm_row)(const float *x, const float *w, const float *add, float *y, int64_t n,
                        float eps);
/* dx[n] (+)= the transpose of its derivative times dy; dx may be dy. */
void TT_FN(tt_norm_row_bwd)(const float *x, const float *w, const float *dy, float *dx, int64_t n,
                            float eps, bool accumulate);

/* ---- ops ---- */

void TT_FN(tt_matmul)(tt_lane *lane, const tt_matmul_args *a);
void TT_FN(tt_matmul_bwd)(tt_lane *lane, const tt_matmul_bwd_args *a);
void TT_FN(tt_matvec)(tt_lane *lane, const tt_matmul_args *a);
void TT_FN(tt_adapter_fwd)(tt_lane *lane, const tt_adapter_fwd_args *a);
void TT_FN(tt_adapter_bwd)(tt_lane *lane, const tt_adapter_bwd_args *a);
void TT_FN(tt_adapter_grad)(tt_lane *lane, const tt_adapter_grad_args *a);
void TT_FN(tt_embed)(tt_lane *lane, const tt_embed_args *a);
void TT_FN(tt_rmsnorm)(tt_lane *lane, const tt_rmsnorm_args *a);
void TT_FN(tt_rmsnorm_bwd)(tt_lane *lane, const tt_rmsnorm_bwd_args *a);
void TT_FN(tt_gated)(tt_lane *lane, const tt_gated_args *a);
void TT_FN(tt_gated_bwd)(tt_lane *lane, const tt_gated_bwd_args *a);
void TT_FN(tt_qk_rope)(tt_lane *lane, const tt_qk_rope_args *a);
void TT_FN(tt_q_rope_bwd)(tt_lane *lane, const tt_q_rope_bwd_args *a);
void TT_FN(tt_attention)(tt_lane *lane, const tt_attention_args *a);
void TT_FN(tt_attention_decode)(tt_lane *lane, const tt_attention_args *a);
void TT_FN(tt_attention_bwd)(tt_lane *lane, const tt_attention_bwd_args *a);
void TT_FN(tt_head_fwd)(tt_lane *lane, const tt_head_args *a);
void TT_FN(tt_head_bwd)(tt_lane *lane, const tt_head_args *a);
void TT_FN(tt_optim_begin)(tt_lane *lane, const tt_optim_args *a);
void TT_FN(tt_optim_step)(tt_lane *lane, const tt_optim_args *a);
void TT_FN(tt_delta_norm)(tt_lane *lane, const tt_delta_norm_args *a);
void TT_FN(tt_to_bf16)(tt_lane *lane, tt_dev src_f32, tt_dev dst_bf16, int64_t n);

#endif
