/* init_avx2.c - overwrites what this set does faster. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kern.h"

void tt_ops_init_avx2(tt_ops *ops)
{
    ops->isa = "avx2";
    ops->rmsnorm = tt_rmsnorm_avx2;
    ops->matmul = tt_matmul_avx2;
    ops->adapter_fwd = tt_adapter_fwd_avx2;
    ops->qk_rope = tt_qk_rope_avx2;
    ops->attention = tt_attention_avx2;
    ops->gated = tt_gated_avx2;
    ops->rmsnorm_bwd = tt_rmsnorm_bwd_avx2;
    ops->matmul_bwd = tt_matmul_bwd_avx2;
    ops->gated_bwd = tt_gated_bwd_avx2;
    ops->q_rope_bwd = tt_q_rope_bwd_avx2;
    ops->adapter_bwd = tt_adapter_bwd_avx2;
    ops->adapter_grad = tt_adapter_grad_avx2;
}
