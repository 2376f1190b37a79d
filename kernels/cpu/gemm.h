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

/* Rows of A that tt_gemm_rows() works on at a time: A's buffer has a multiple of it, C needs not.
 */
static inline int64_t tt_gemm_unit(bool bf16)
{
    return bf16 ? 16 : 48;
}

/* Elements of the buffer `tail` of tt_gemm_rows(). */
static inline size_t tt_gemm_tail_elems(int64_t n)
{
    return (size_t)(48 * n);
}

/* The lane's products, made on first use. NULL = sticky failure (TT_E_NOMEM or TT_E_DEVICE): the op
 * returns. */
tt_gemm *tt_gemm_get(tt_lane *lane);

/* Sets the lane's sticky failure if a product failed since the last call. After every region that
 * ran products. */
void tt_gemm_check(tt_lane *lane);

/* Failures are remembered for tt_gemm_check(); C is then undefined. */
void tt_gemm_run(tt_gemm *g, int thread, const tt_gemm_call *call);

/* The same, not transposed in A, but a row's bits do not depend on m: see gemm_onednn.c. Rows of A
 * between m and the next multiple of the unit are read and must be finite. tail: f32
 * [tt_gemm_tail_elems(n)], the thread's own. */
void tt_gemm_rows(tt_gemm *g, int thread, const tt_gemm_call *call, float *tail);

#endif
