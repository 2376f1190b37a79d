/* init_none.c - for processors without a table of their own: tt_isa_detect() finds no set there, so
 * nothing is called. */
#include "kernels/cpu/cpu.h"

void tt_ops_init_avx2(tt_ops *ops)
{
    (void)ops;
}

void tt_ops_init_avx512(tt_ops *ops)
{
    (void)ops;
}

void tt_ops_init_avx512bf16(tt_ops *ops)
{
    (void)ops;
}
