/* init_avx512.c - overwrites what this set does faster. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kern.h"

void tt_ops_init_avx512(tt_ops *ops)
{
    ops->isa = "avx512";
    ops->embed = tt_embed_avx512;
    ops->rmsnorm = tt_rmsnorm_avx512;
    ops->matmul = tt_matmul_avx512;
    ops->adapter_fwd = tt_adapter_fwd_avx512;
    ops->qk_rope = tt_qk_rope_avx512;
    ops->attention = tt_attention_avx512;
    ops->gated = tt_gated_avx512;
    ops->head_fwd = tt_head_fwd_avx512;
    ops->head_bwd = tt_head_bwd_avx512;
    ops->rmsnorm_bwd = tt_rmsnorm_bwd_avx512;
    ops->matmul_bwd = tt_matmul_bwd_avx512;
    ops->gated_bwd = tt_gated_bwd_avx512;
    ops->attention_bwd = tt_attention_bwd_avx512;
    ops->q_rope_bwd = tt_q_rope_bwd_avx512;
    ops->adapter_bwd = tt_adapter_bwd_avx512;
    ops->adapter_grad = tt_adapter_grad_avx512;
    ops->optim_begin = tt_optim_begin_avx512;
    ops->optim_step = tt_optim_step_avx512;
    ops->delta_norm = tt_delta_norm_avx512;
    ops->to_bf16 = tt_to_bf16_avx512;
}
