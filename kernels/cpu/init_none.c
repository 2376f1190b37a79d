/* init_none.c - for processors without a table of their own, and for fuzz targets: no set adds
 * anything to the reference kernels. */
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
