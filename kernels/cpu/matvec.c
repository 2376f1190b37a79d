/* matvec.c - products of few rows with quantised weights (family DECODE): bound by the memory that the weights come from.
 * Thread: engine.
 *
 * A task takes GROUP weight rows; each is dequantised in pieces that stay in the first-level cache, and every activation row is
 * multiplied by a piece while it is there. So up to ROWS rows cost one pass over the weights. The sum of one output has one
 * order (four interleaved vector sums over all columns), whatever the number of rows or threads. */
#include <assert.h>
#include <omp.h>

#include "kernels/cpu/kern.h"

enum {
    ROWS = 16,   /* activation rows of one pass */
    GROUP = 16,  /* weight rows of a task */
    PIECE = 512, /* columns dequantised at a time: a multiple of every block size and of 4 * VW */
};

typedef struct sums {
    vf s[4];
} sums;

/* s += w[n] . x[n], element i of vector j into sum j % 4. */
static void dot(sums *s, const float *w, const float *x, int64_t n)
{
    vf s0 = s->s[0], s1 = s->s[1], s2 = s->s[2], s3 = s->s[3];
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        s0 = vf_fma(vf_load(w + i), vf_load(x + i), s0);
        s1 = vf_fma(vf_load(w + i + VW), vf_load(x + i + VW), s1);
        s2 = vf_fma(vf_load(w + i + 2 * VW), vf_load(x + i + 2 * VW), s2);
        s3 = vf_fma(vf_load(w + i + 3 * VW), vf_load(x + i + 3 * VW), s3);
    }
    for (; i < n; i += VW) {
        s0 = vf_fma(vf_at(w, i, n), vf_at(x, i, n), s0);
    }
    *s = (sums){{s0, s1, s2, s3}};
}

static float total(const sums *s)
{
    return vf_sum(vf_add(vf_add(s->s[0], s->s[1]), vf_add(s->s[2], s->s[3])));
}

/* y[r, row] for n_rows activation rows. */
static void one_output(const tt_weight *w, int64_t row, const float *x, int n_rows, float *y, bool accumulate)
{
    float piece[PIECE];
    sums s[ROWS];
    for (int r = 0; r < n_rows; r++) {
        s[r] = (sums){{vf_zero(), vf_zero(), vf_zero(), vf_zero()}};
    }
    const char *src = (const char *)tt_ptr(w->data) + row * tt_row_bytes(w->type, w->cols);
    for (int64_t c = 0; c < w->cols; c += PIECE) {
        int64_t n = w->cols - c < PIECE ? w->cols - c : PIECE;
        TT_FN(tt_dequant)(w->type, src + tt_row_bytes(w->type, c), piece, n);
        for (int r = 0; r < n_rows; r++) {
            dot(&s[r], piece, x + r * w->cols + c, n);
        }
    }
    for (int r = 0; r < n_rows; r++) {
        float *to = y + r * w->rows + row;
        *to = accumulate ? *to + total(&s[r]) : total(&s[r]);
    }
}

void TT_FN(tt_matvec)(tt_lane *lane, const tt_matmul_args *a)
{
    int64_t first[TT_MATMUL_MAX + 1] = {0};
    for (int i = 0; i < a->n_w; i++) {
        assert(a->w[i]->cols == a->w[0]->cols);
        first[i + 1] = first[i] + (a->w[i]->rows + GROUP - 1) / GROUP;
    }
    const float *x = tt_ptr(a->x);
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 4)
    for (int64_t t = 0; t < first[a->n_w]; t++) {
        int i = 0;
        while (t >= first[i + 1]) {
            i++;
        }
        const tt_weight *w = a->w[i];
        float *y = tt_ptr(a->y[i]);
        int64_t row0 = (t - first[i]) * GROUP;
        for (int64_t row = row0; row < row0 + GROUP && row < w->rows; row++) {
            for (int32_t r = 0; r < a->n_rows; r += ROWS) {
                int n = a->n_rows - r < ROWS ? a->n_rows - r : ROWS;
                one_output(w, row, x + r * w->cols, n, y + r * w->rows, a->accumulate);
            }
        }
    }
}
