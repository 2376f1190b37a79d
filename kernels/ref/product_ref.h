/* product_ref.h - the two matrix products that all reference ops share. Thread: the lane's; each
 * call is one parallel region.
 *
 * Rows of activations are regrouped into panels of 8: element (r, c) of an [R, cols] matrix lies at
 * panel[((r / 8) * cols + c) * 8 + r % 8], rows past R are zero. Eight sums then run side by side,
 * one a row: fast enough, and no row's sum knows how many rows there are. */
#ifndef TT_PRODUCT_REF_H
#define TT_PRODUCT_REF_H

#include "kernels/lane.h"

#define TT_REF_PANEL 8

/* Scratch slots of the lane, so that nested users do not collide. */
enum tt_ref_slot {
    TT_REF_SLOT_IN,    /* panels of a product's input */
    TT_REF_SLOT_MID,   /* a second input: LoRA's inner product, the head's logits */
    TT_REF_SLOT_SUM,   /* sums of a transposed product */
    TT_REF_SLOT_CHUNK, /* dequantised rows of a transposed product */
};

static inline int64_t tt_ref_panel_rows(int64_t n_rows)
{
    return (n_rows + TT_REF_PANEL - 1) / TT_REF_PANEL * TT_REF_PANEL;
}

static inline size_t tt_ref_panel_index(int64_t r, int64_t c, int64_t cols)
{
    return (size_t)(((r / TT_REF_PANEL) * cols + c) * TT_REF_PANEL + r % TT_REF_PANEL);
}

/* Panels for [n_rows, cols] in `slot`, zeroed; NULL = sticky failure. */
double *tt_ref_panels(tt_lane *lane, int slot, int64_t n_rows, int64_t cols);
/* The same, filled with x. */
double *tt_ref_panels_from(tt_lane *lane, int slot, const float *x, int64_t n_rows, int64_t cols);

/* Receives sum[r] = W[o, :] . x[r, :] for r < n_rows, once for every o, from any thread of the
 * region. */
typedef void (*tt_ref_store)(void *ctx, int64_t o, const double *sum, int64_t n_rows);

/* For o in [row0, row0 + n): store(ctx, o - row0, W[o, :] . x^T); x: panels of [n_rows, w->cols].
 */
void tt_ref_product(tt_lane *lane, const tt_weight *w, int64_t row0, int64_t n, const double *x,
                    int64_t n_rows, tt_ref_store store, void *ctx);

/* Sums of a transposed product in TT_REF_SLOT_SUM, [tt_ref_panel_rows(n_rows), cols], zeroed; NULL
 * = sticky failure. */
double *tt_ref_sums(tt_lane *lane, int64_t n_rows, int64_t cols);

/* sums[r, :] += sum over o in [row0, row0 + n), rising, of coef[r, o - row0] W[o, :]; coef: panels
 * of [n_rows, n]. */
void tt_ref_product_t(tt_lane *lane, const tt_weight *w, int64_t row0, int64_t n,
                      const double *coef, int64_t n_rows, double *sums);

/* y[i] = sums[i], or y[i] += sums[i]; rows [0, n_rows) of [., cols]. */
void tt_ref_store_sums(tt_lane *lane, const double *sums, int64_t n_rows, int64_t cols, float *y,
                       bool accumulate);

#endif
