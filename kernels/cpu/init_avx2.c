/* init_avx2.c - overwrites what this set does faster. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kern.h"

void tt_ops_init_avx2(tt_ops *ops)
{
    ops->isa = "avx2";
    ops->embed = tt_embed_avx2;
    ops->rmsnorm = tt_rmsnorm_avx2;
    ops->matmul = tt_matmul_avx2;
    ops->adapter_fwd = tt_adapter_fwd_avx2;
    ops->qk_rope = tt_qk_rope_avx2;
    ops->attention = tt_attention_avx2;
    ops->gated = tt_gated_avx2;
    ops->head_fwd = tt_head_fwd_avx2;
    ops->head_bwd = tt_head_bwd_avx2;
    ops->rmsnorm_bwd = tt_rmsnorm_bwd_avx2;
    ops->matmul_bwd = tt_matmul_bwd_avx2;
    ops->gated_bwd = tt_gated_bwd_avx2;
    ops->attention_bwd = tt_attention_bwd_avx2;
    ops->q_rope_bwd = tt_q_rope_bwd_avx2;
    ops->adapter_bwd = tt_adapter_bwd_avx2;
    ops->adapter_grad = tt_adapter_grad_avx2;
    ops->optim_begin = tt_optim_begin_avx2;
    ops->optim_step = tt_optim_step_avx2;
    ops->delta_norm = tt_delta_norm_avx2;
    ops->to_bf16 = tt_to_bf16_avx2;
}
