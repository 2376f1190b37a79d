/* embed.c - rows of the embedding table. Thread: engine. */
#include <assert.h>

#include "kernels/cpu/kern.h"

void TT_FN(tt_embed)(tt_lane *lane, const tt_embed_args *a)
{
    const int32_t *ids = tt_ptr(a->ids);
    const tt_weight *t = a->table;
    int64_t n = t->cols;
    vf scale = vf_set1(a->scale);
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (a->n_rows > 4)
    for (int32_t r = 0; r < a->n_rows; r++) {
        assert(ids[r] >= 0 && ids[r] < t->rows);
        float *y = (float *)tt_ptr(a->x) + r * n;
        TT_FN(tt_dequant)
        (t->type, (const char *)tt_ptr(t->data) + ids[r] * tt_row_bytes(t->type, n), y, n);
        for (int64_t i = 0; i < n; i += VW) {
            vf_put(y, i, n, vf_mul(vf_at(y, i, n), scale));
        }
    }
}
