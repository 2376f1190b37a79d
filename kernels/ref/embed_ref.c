/* embed_ref.c - rows picked from a table: embed, gather; and the rounding of a vector to BF16. */
#include <assert.h>

#include "kernels/lane.h"
#include "kernels/quant.h"
#include "kernels/ref/ref.h"

void tt_embed_ref(tt_lane *lane, const tt_embed_args *a)
{
    const int32_t *ids = tt_ptr(a->ids);
    const tt_weight *t = a->table;
    float *x = tt_ptr(a->x);
#pragma omp parallel for num_threads(lane->n_threads)
    for (int32_t r = 0; r < a->n_rows; r++) {
        assert(ids[r] >= 0 && ids[r] < t->rows);
        float *y = x + r * t->cols;
        const char *row = (const char *)tt_ptr(t->data) + ids[r] * tt_row_bytes(t->type, t->cols);
        tt_dequant_row(t->type, row, y, t->cols);
        for (int64_t i = 0; i < t->cols; i++) {
            y[i] *= a->scale;
        }
    }
}

void tt_gather_ref(tt_lane *lane, const tt_gather_args *a)
{
    const int32_t *idx = tt_ptr(a->idx);
    const float *x = tt_ptr(a->x);
    float *y = tt_ptr(a->y);
    size_t dim = (size_t)a->dim;
#pragma omp parallel for num_threads(lane->n_threads)
    for (int32_t r = 0; r < a->n_rows; r++) {
        assert(idx[r] >= 0);
        memcpy(y + (size_t)r * dim, x + (size_t)idx[r] * dim, dim * sizeof *y);
    }
}

void tt_to_bf16_ref(tt_lane *lane, tt_dev src_f32, tt_dev dst_bf16, int64_t n)
{
    const float *x = tt_ptr(src_f32);
    uint16_t *y = tt_ptr(dst_bf16);
#pragma omp parallel for num_threads(lane->n_threads)
    for (int64_t i = 0; i < n; i++) {
        y[i] = tt_f32_to_bf16(x[i]);
    }
}
