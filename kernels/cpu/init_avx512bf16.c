/* init_avx512bf16.c - overwrites what this set does faster. */
#include "kernels/cpu/cpu.h"

void tt_ops_init_avx512bf16(tt_ops *ops)
{
    ops->isa = "avx512bf16";
}
