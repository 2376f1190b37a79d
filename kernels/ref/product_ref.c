/* product_ref.c - see product_ref.h. */
#include "kernels/ref/product_ref.h"

#include <assert.h>
#include <omp.h>

#include "kernels/quant.h"

#define BLOCK_ROWS                                                                                 \
    8                 /* rows of W that one task multiplies: a panel is read once for all of them  \
                       */
#define CHUNK_ROWS 64 /* rows of W that are dequantised at a time for a transposed product */
#define TILE_COLS                                                                                  \
    64 /* columns of its sums that one task updates: 8 rows of them stay in the first-level cache  \
        */

double *tt_ref_panels(tt_lane *lane, int slot, int64_t n_rows, int64_t cols)
{
    size_t n = (size_t)(tt_ref_panel_rows(n_rows) * cols);
    double *p = tt_lane_scratch(lane, slot, n * sizeof *p);
    if (p != NULL) {
        memset(p, 0, n * sizeof *p);
    }
    return p;
}

double *tt_ref_panels_from(tt_lane *lane, int slot, const float *x, int64_t n_rows, int64_t cols)
{
    double *p = tt_ref_panels(lane, slot, n_rows, cols);
    for (int64_t r = 0; p != NULL && r < n_rows; r++) {
        for (int64_t c = 0; c < cols; c++) {
            p[tt_ref_panel_index(r, c, cols)] = x[r * cols + c];
        }
    }
    return p;
}

/* row[cols] as doubles; tmp[cols]. */
static void weight_row(const tt_weight *w, int64_t o, float *tmp, double *row)
{
    const char *src = (const char *)tt_ptr(w->data) + o * tt_row_bytes(w->type, w->cols);
    tt_dequant_row(w->type, src, tmp, w->cols);
    for (int64_t c = 0; c < w->cols; c++) {
        row[c] = tmp[c];
    }
}

/* The pragma makes the vectors run over the panel's rows, that is over independent sums. */
static void dot_panel(const double *row, const double *panel, int64_t cols, double *sum)
{
    double s[TT_REF_PANEL] = {0};
    for (int64_t c = 0; c < cols; c++) {
#pragma omp simd
        for (int i = 0; i < TT_REF_PANEL; i++) {
            s[i] += row[c] * panel[c * TT_REF_PANEL + i];
        }
    }
    memcpy(sum, s, sizeof s);
}

void tt_ref_product(tt_lane *lane, const tt_weight *w, int64_t row0, int64_t n, const double *x,
                    int64_t n_rows, tt_ref_store store, void *ctx)
{
    assert(row0 >= 0 && row0 + n <= w->rows);
    int64_t cols = w->cols, padded = tt_ref_panel_rows(n_rows);
    size_t n_doubles = (size_t)(BLOCK_ROWS * (cols + padded));
    if (!tt_lane_reserve_threads(lane, n_doubles * sizeof(double) + (size_t)cols * sizeof(float))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 1)
    for (int64_t o0 = 0; o0 < n; o0 += BLOCK_ROWS) {
        int64_t len = n - o0 < BLOCK_ROWS ? n - o0 : BLOCK_ROWS;
        double *row = tt_lane_thread_buf(lane, omp_get_thread_num());
        double *sum = row + BLOCK_ROWS * cols;
        for (int64_t o = 0; o < len; o++) {
            weight_row(w, row0 + o0 + o, (float *)(row + n_doubles), row + o * cols);
        }
        for (int64_t r = 0; r < padded; r += TT_REF_PANEL) {
            for (int64_t o = 0; o < len; o++) {
                dot_panel(row + o * cols, x + r * cols, cols, sum + o * padded + r);
            }
        }
        for (int64_t o = 0; o < len; o++) {
            store(ctx, o0 + o, sum + o * padded, n_rows);
        }
    }
}

double *tt_ref_sums(tt_lane *lane, int64_t n_rows, int64_t cols)
{
    return tt_ref_panels(lane, TT_REF_SLOT_SUM, n_rows, cols);
}

/* sums[r0 .. r0 + 8, c0 .. c0 + n_cols) += the chunk's rows, coef points at the panel's first row
 * of the chunk. */
static void add_tile(const double *chunk, int64_t n, const double *coef, double *sums, int64_t cols,
                     int64_t n_cols)
{
    for (int64_t o = 0; o < n; o++) {
        for (int i = 0; i < TT_REF_PANEL; i++) {
            double k = coef[o * TT_REF_PANEL + i];
            double *s = sums + i * cols;
            const double *row = chunk + o * cols;
            for (int64_t c = 0; c < n_cols; c++) {
                s[c] += k * row[c];
            }
        }
    }
}

void tt_ref_product_t(tt_lane *lane, const tt_weight *w, int64_t row0, int64_t n,
                      const double *coef, int64_t n_rows, double *sums)
{
    assert(row0 >= 0 && row0 + n <= w->rows);
    int64_t cols = w->cols, n_panels = tt_ref_panel_rows(n_rows) / TT_REF_PANEL;
    int64_t n_tiles = (cols + TILE_COLS - 1) / TILE_COLS;
    double *chunk =
        tt_lane_scratch(lane, TT_REF_SLOT_CHUNK, (size_t)(CHUNK_ROWS * cols) * sizeof *chunk);
    if (chunk == NULL || !tt_lane_reserve_threads(lane, (size_t)cols * sizeof(float))) {
        return;
    }
#pragma omp parallel num_threads(lane->n_threads)
    for (int64_t o0 = 0; o0 < n; o0 += CHUNK_ROWS) {
        int64_t len = n - o0 < CHUNK_ROWS ? n - o0 : CHUNK_ROWS;
#pragma omp for schedule(dynamic, 4)
        for (int64_t o = 0; o < len; o++) {
            weight_row(w, row0 + o0 + o, tt_lane_thread_buf(lane, omp_get_thread_num()),
                       chunk + o * cols);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < n_panels * n_tiles; i++) {
            int64_t p = i / n_tiles, c0 = i % n_tiles * TILE_COLS;
            add_tile(chunk + c0, len, coef + (p * n + o0) * TT_REF_PANEL,
                     sums + p * TT_REF_PANEL * cols + c0, cols,
                     cols - c0 < TILE_COLS ? cols - c0 : TILE_COLS);
        }
    }
}

void tt_ref_store_sums(tt_lane *lane, const double *sums, int64_t n_rows, int64_t cols, float *y,
                       bool accumulate)
{
#pragma omp parallel for num_threads(lane->n_threads)
    for (int64_t i = 0; i < n_rows * cols; i++) {
        y[i] = (float)(accumulate ? y[i] + sums[i] : sums[i]);
    }
}
