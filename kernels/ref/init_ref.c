/* init_ref.c - fills the table with the reference ops, one line each. */
#include "kernels/ref/ref.h"

void tt_ops_init_ref(tt_ops *ops)
{
    ops->isa = "ref";
    ops->embed = tt_embed_ref;
    ops->rmsnorm = tt_rmsnorm_ref;
    ops->matmul = tt_matmul_ref;
    ops->adapter_fwd = tt_adapter_fwd_ref;
    ops->qk_rope = tt_qk_rope_ref;
    ops->attention = tt_attention_ref;
    ops->gated = tt_gated_ref;
    ops->gather = tt_gather_ref;
    ops->head_fwd = tt_head_fwd_ref;
    ops->head_finish = tt_head_finish_ref;
    ops->sample = tt_sample_ref;
    ops->head_bwd = tt_head_bwd_ref;
    ops->rmsnorm_bwd = tt_rmsnorm_bwd_ref;
    ops->matmul_bwd = tt_matmul_bwd_ref;
    ops->gated_bwd = tt_gated_bwd_ref;
    ops->attention_bwd = tt_attention_bwd_ref;
    ops->q_rope_bwd = tt_q_rope_bwd_ref;
    ops->adapter_bwd = tt_adapter_bwd_ref;
    ops->adapter_grad = tt_adapter_grad_ref;
    ops->optim_begin = tt_optim_begin_ref;
    ops->optim_step = tt_optim_step_ref;
    ops->delta_norm = tt_delta_norm_ref;
    ops->to_bf16 = tt_to_bf16_ref;
    ops->checksum = tt_checksum_ref;
}
