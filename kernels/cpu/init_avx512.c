/* init_avx512.c - overwrites what this set does faster. */
#include "kernels/cpu/cpu.h"

void tt_ops_init_avx512(tt_ops *ops)
{
    ops->isa = "avx512";
}
