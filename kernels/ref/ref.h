/* ref.h - the plain table: every op of ops.h, scalar C with sums in double. It is the definition
 * that faster tables are held to, and each function below is documented by its argument struct
 * there.
 *
 * Parallel regions run over independent outputs only and no sum is split among threads or reordered
 * by the number of rows, so a row's bits depend on nothing but its own inputs. */
#ifndef TT_REF_H
#define TT_REF_H

#include "kernels/ops.h"

void tt_ops_init_ref(tt_ops *ops);

void tt_embed_ref(tt_lane *lane, const tt_embed_args *a);
void tt_rmsnorm_ref(tt_lane *lane, const tt_rmsnorm_args *a);
void tt_matmul_ref(tt_lane *lane, const tt_matmul_args *a);
void tt_adapter_fwd_ref(tt_lane *lane, const tt_adapter_fwd_args *a);
void tt_qk_rope_ref(tt_lane *lane, const tt_qk_rope_args *a);
void tt_attention_ref(tt_lane *lane, const tt_attention_args *a);
void tt_gated_ref(tt_lane *lane, const tt_gated_args *a);
void tt_gather_ref(tt_lane *lane, const tt_gather_args *a);
void tt_head_fwd_ref(tt_lane *lane, const tt_head_args *a);
void tt_head_finish_ref(tt_lane *lane, const tt_head_args *a);
void tt_sample_ref(tt_lane *lane, const tt_sample_args *a);
void tt_head_bwd_ref(tt_lane *lane, const tt_head_args *a);
void tt_rmsnorm_bwd_ref(tt_lane *lane, const tt_rmsnorm_bwd_args *a);
void tt_matmul_bwd_ref(tt_lane *lane, const tt_matmul_bwd_args *a);
void tt_gated_bwd_ref(tt_lane *lane, const tt_gated_bwd_args *a);
void tt_attention_bwd_ref(tt_lane *lane, const tt_attention_bwd_args *a);
void tt_q_rope_bwd_ref(tt_lane *lane, const tt_q_rope_bwd_args *a);
void tt_adapter_bwd_ref(tt_lane *lane, const tt_adapter_bwd_args *a);
void tt_adapter_grad_ref(tt_lane *lane, const tt_adapter_grad_args *a);
void tt_optim_begin_ref(tt_lane *lane, const tt_optim_args *a);
void tt_optim_step_ref(tt_lane *lane, const tt_optim_args *a);
void tt_delta_norm_ref(tt_lane *lane, const tt_delta_norm_args *a);
void tt_to_bf16_ref(tt_lane *lane, tt_dev src_f32, tt_dev dst_bf16, int64_t n);
void tt_checksum_ref(tt_lane *lane, const tt_checksum_args *a);

#endif
