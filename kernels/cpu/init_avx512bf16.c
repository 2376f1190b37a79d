/* init_avx512bf16.c - overwrites what this set does faster: products of matrices in BF16. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kern.h"

void tt_ops_init_avx512bf16(tt_ops *ops)
{
    ops->isa = "avx512bf16";
    ops->matmul = tt_matmul_avx512bf16;
    ops->adapter_fwd = tt_adapter_fwd_avx512bf16;
    ops->attention = tt_attention_avx512bf16;
    ops->head_fwd = tt_head_fwd_avx512bf16;
    ops->head_bwd = tt_head_bwd_avx512bf16;
    ops->matmul_bwd = tt_matmul_bwd_avx512bf16;
    ops->attention_bwd = tt_attention_bwd_avx512bf16;
    ops->adapter_bwd = tt_adapter_bwd_avx512bf16;
    ops->adapter_grad = tt_adapter_grad_avx512bf16;
}
