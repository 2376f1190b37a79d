/* init_avx2.c - overwrites what this set does faster. */
#include "kernels/cpu/cpu.h"

void tt_ops_init_avx2(tt_ops *ops)
{
    ops->isa = "avx2";
}
