/* quant.h - (de)quantisation of one row, the definition that every faster path is held to.
 * Block layouts: ggml's on-disk formats (little endian). Thread: pure functions. */
#ifndef TT_QUANT_H
#define TT_QUANT_H

#include "kernels/dtype.h"

/* y[n] = the values of one row of type t stored at src. n: a multiple of the type's block_elems.
 * src needs no alignment. Every type of dtype.h is supported. */
void tt_dequant_row(tt_dtype t, const void *src, float *y, int64_t n);

/* dst = x[n] in type t, round to nearest; used by tools and tests (model files come quantised).
 * F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 are supported and return 0; K types return -1. */
int tt_quant_row(tt_dtype t, const float *x, void *dst, int64_t n);

#endif
