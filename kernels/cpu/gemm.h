/* gemm.h - one matrix product on one thread; gemm_onednn.c is behind it.
 * Thread: tt_gemm_get() belongs to the engine thread, outside parallel regions; tt_gemm_run() is
 * called by any thread of a region with its own number. The ops split their work themselves, in
 * pieces that depend on shapes alone, so no result depends on the number of threads. */
#ifndef TT_GEMM_H
#define TT_GEMM_H

#include "kernels/lane.h"

typedef struct tt_gemm tt_gemm;

/* C[m, n] (+)= op(A)[m, k] op(B)[k, n], C f32. ld* is the distance between stored rows in elements.
 */
typedef struct tt_gemm_call {
    const void *a; /* [m, k], with trans_a [k, m] */
    const void *b; /* [k, n], with trans_b [n, k] */
    float *c;
    int64_t m, n, k, lda, ldb, ldc;
    bool bf16; /* A and B are BF16, else f32 */
    bool trans_a, trans_b, accumulate;
} tt_gemm_call;

/* Rows that tt_gemm_rows() works on at a time: the buffers of A and C have a multiple of it. */
static inline int64_t tt_gemm_unit(bool bf16)
{
    return bf16 ? 16 : 48;
}

static inline int64_t tt_gemm_padded(int64_t m, bool bf16)
{
    int64_t unit = tt_gemm_unit(bf16);
    return (m + unit - 1) / unit * unit;
}

/* The lane's products, made on first use. NULL = sticky failure (TT_E_NOMEM or TT_E_DEVICE): the op
 * returns. */
tt_gemm *tt_gemm_get(tt_lane *lane);

/* Sets the lane's sticky failure if a product failed since the last call. After every region that
 * ran products. */
void tt_gemm_check(tt_lane *lane);

/* Failures are remembered for tt_gemm_check(); C is then undefined. */
void tt_gemm_run(tt_gemm *g, int thread, const tt_gemm_call *call);

/* The same, not transposed in A, but a row's bits do not depend on m: see gemm_onednn.c. m is a
 * multiple of the unit; what the rows that only fill it up hold must be finite. Fastest with ldc ==
 * n. */
void tt_gemm_rows(tt_gemm *g, int thread, const tt_gemm_call *call);

#endif
