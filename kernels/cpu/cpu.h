/* cpu.h - what each instruction set adds to the table of operations. Thread: pure functions.
 * Called by tt_ops_get() only, in rising order and only where the machine has the set. */
#ifndef TT_CPU_H
#define TT_CPU_H

#include "kernels/ops.h"

void tt_ops_init_avx2(tt_ops *ops);
void tt_ops_init_avx512(tt_ops *ops);
void tt_ops_init_avx512bf16(tt_ops *ops);

#endif
