/* matmul_ref.c - products with weight matrices of any type, forward and transposed. */
#include <assert.h>

#include "kernels/ref/product_ref.h"
#include "kernels/ref/ref.h"

struct store_ctx {
    float *y;
    int64_t ld; /* row length of y */
    bool accumulate;
};

static void store_rows(void *ctx, int64_t o, const double *sum, int64_t n_rows)
{
    const struct store_ctx *s = ctx;
    for (int64_t r = 0; r < n_rows; r++) {
        float *y = s->y + r * s->ld + o;
        *y = (float)(s->accumulate ? *y + sum[r] : sum[r]);
    }
}

void tt_matmul_ref(tt_lane *lane, const tt_matmul_args *a)
{
    assert(a->n_w >= 1 && a->n_w <= TT_MATMUL_MAX);
    const double *x =
        tt_ref_panels_from(lane, TT_REF_SLOT_IN, tt_ptr(a->x), a->n_rows, a->w[0]->cols);
    if (x == NULL) {
        return;
    }
    for (int i = 0; i < a->n_w; i++) {
        const tt_weight *w = a->w[i];
        assert(w->cols == a->w[0]->cols);
        struct store_ctx ctx = {tt_ptr(a->y[i]), w->rows, a->accumulate};
        tt_ref_product(lane, w, 0, w->rows, x, a->n_rows, store_rows, &ctx);
    }
}

void tt_matmul_bwd_ref(tt_lane *lane, const tt_matmul_bwd_args *a)
{
    assert(a->n_w >= 1 && a->n_w <= TT_MATMUL_MAX);
    int64_t cols = a->w[0]->cols;
    double *sums = tt_ref_sums(lane, a->n_rows, cols);
    for (int i = 0; sums != NULL && i < a->n_w; i++) {
        const tt_weight *w = a->w[i];
        assert(w->cols == cols);
        const double *dy =
            tt_ref_panels_from(lane, TT_REF_SLOT_IN, tt_ptr(a->dy[i]), a->n_rows, w->rows);
        if (dy == NULL) {
            return;
        }
        tt_ref_product_t(lane, w, 0, w->rows, dy, a->n_rows, sums);
    }
    if (sums != NULL && lane->err.code == TT_OK) {
        tt_ref_store_sums(lane, sums, a->n_rows, cols, tt_ptr(a->dx), a->accumulate);
    }
}
