/* matvec.c - products of few rows with quantised weights (family DECODE): bound by the memory that
 * the weights come from. Thread: engine.
 *
 * A task takes GROUP weight rows, one after the other; every activation row is multiplied by a
 * weight row while it is in the first-level cache, so up to any number of rows costs one pass over
 * the weights. The sum of one output has one order (QV vector sums, each over its part of every
 * group of 32), whatever the number of rows or threads. */
#include <assert.h>
#include <omp.h>

#include "kernels/cpu/kern.h"
#include "kernels/cpu/qblock.h"

enum {
    ROWS =
        VW == 16 ? 8 : 2, /* activation rows whose sums are in registers: 8 * 2 or 2 * 4 vectors */
    GROUP = 16,           /* weight rows of a task */
    PIECE = 512,          /* columns at a time of plain types */
    AHEAD = 1536, /* bytes between what is read and what is fetched: the hardware's own prefetch
                     stops at each page */
};

static inline float total(const vf s[QV])
{
    vf sum = s[0];
    for (int j = 1; j < QV; j++) {
        sum = vf_add(sum, s[j]);
    }
    return vf_sum(sum);
}

/* y[r] = w . x[r] for n_rows <= ROWS rows of x, ldx apart. */
TT_INLINE void dot_rows(q32_loader load, const tt_dtype_info *info, const uint8_t *b,
                        const float *x, int64_t ldx, int64_t n, int n_rows, float *y)
{
    int n_groups = info->block_elems / 32;
    vf s[ROWS][QV];
    for (int r = 0; r < ROWS; r++) {
        for (int j = 0; j < QV; j++) {
            s[r][j] = vf_zero();
        }
    }
    for (int64_t i = 0; i < n; b += info->block_bytes) {
        _mm_prefetch((const char *)b + AHEAD, _MM_HINT_T0);
        for (int g = 0; g < n_groups; g++, i += 32) {
            q32 w = load(b, g);
            for (int r = 0; r < n_rows; r++) {
                for (int j = 0; j < QV; j++) {
                    s[r][j] = vf_fma(w.v[j], vf_load(x + r * ldx + i + j * VW), s[r][j]);
                }
            }
        }
    }
    for (int r = 0; r < n_rows; r++) {
        y[r] = total(s[r]);
    }
}

/* As many rows at a time as there are, each number a constant, so that the sums stay in registers.
 */
TT_INLINE void dot_some(q32_loader load, const tt_dtype_info *info, const uint8_t *b,
                        const float *x, int64_t ldx, int64_t n, int n_rows, float *y)
{
    int r = 0;
    if (ROWS >= 8 && n_rows - r >= 8) {
        dot_rows(load, info, b, x + r * ldx, ldx, n, ROWS, y + r);
        r += 8;
    }
    if (ROWS >= 4 && n_rows - r >= 4) {
        dot_rows(load, info, b, x + r * ldx, ldx, n, ROWS >= 4 ? 4 : 1, y + r);
        r += 4;
    }
    if (n_rows - r >= 2) {
        dot_rows(load, info, b, x + r * ldx, ldx, n, 2, y + r);
        r += 2;
    }
    if (n_rows - r >= 1) {
        dot_rows(load, info, b, x + r * ldx, ldx, n, 1, y + r);
    }
}

/* Plain types: the same, in pieces, with the same order of sums. */
TT_INLINE void plain_rows(tt_dtype t, const char *src, const float *x, int64_t ldx, int64_t n,
                          int n_rows, float *y)
{
    float piece[PIECE];
    vf s[ROWS][QV];
    for (int r = 0; r < n_rows; r++) {
        for (int j = 0; j < QV; j++) {
            s[r][j] = vf_zero();
        }
    }
    for (int64_t c = 0; c < n; c += PIECE) {
        int64_t m = n - c < PIECE ? n - c : PIECE, bytes = tt_row_bytes(t, m);
        for (int64_t i = 0; i < bytes; i += 64) {
            _mm_prefetch(src + tt_row_bytes(t, c) + AHEAD + i, _MM_HINT_T0);
        }
        TT_FN(tt_dequant)(t, src + tt_row_bytes(t, c), piece, m);
        const float *xc = x + c;
        int64_t i = 0;
        for (; i + 32 <= m; i += 32) {
            for (int r = 0; r < n_rows; r++) {
                for (int j = 0; j < QV; j++) {
                    s[r][j] = vf_fma(vf_load(piece + i + j * VW),
                                     vf_load(xc + r * ldx + i + j * VW), s[r][j]);
                }
            }
        }
        for (; i < m; i += VW) {
            for (int r = 0; r < n_rows; r++) {
                s[r][0] = vf_fma(vf_at(piece, i, m), vf_at(xc + r * ldx, i, m), s[r][0]);
            }
        }
    }
    for (int r = 0; r < n_rows; r++) {
        y[r] = total(s[r]);
    }
}

static void dot_plain(tt_dtype t, const char *src, const float *x, int64_t ldx, int64_t n,
                      int n_rows, float *y)
{
    int r = 0;
    if (n_rows == ROWS) {
        plain_rows(t, src, x, ldx, n, ROWS, y);
        return;
    }
    for (; n_rows - r >= 2; r += 2) {
        plain_rows(t, src, x + r * ldx, ldx, n, 2, y + r);
    }
    if (r < n_rows) {
        plain_rows(t, src, x + r * ldx, ldx, n, 1, y + r);
    }
}

/* A function for each type behind a table, not cases of one: so no stack frame holds the sums of
 * all of them, which AddressSanitizer would mark for every weight row. */
typedef void (*dot_fn)(const void *src, const float *x, int64_t ldx, int64_t n, int n_rows,
                       float *y);

#define QUANTISED(X)                                                                               \
    X(TT_Q8_0, q8_0)                                                                               \
    X(TT_Q4_0, q4_0)                                                                               \
    X(TT_Q4_1, q4_1)                                                                               \
    X(TT_Q5_0, q5_0)                                                                               \
    X(TT_Q5_1, q5_1)                                                                               \
    X(TT_Q4_K, q4_k)                                                                               \
    X(TT_Q5_K, q5_k)                                                                               \
    X(TT_Q6_K, q6_k)

#define DOT_OF(type, name)                                                                         \
    static void dot_##name(const void *src, const float *x, int64_t ldx, int64_t n, int n_rows,    \
                           float *y)                                                               \
    {                                                                                              \
        dot_some(q32_##name, &tt_dtypes[type], src, x, ldx, n, n_rows, y);                         \
    }
QUANTISED(DOT_OF)

#define ENTRY_OF(type, name) [type] = dot_##name,
static const dot_fn dots[TT_DTYPE_COUNT] = {QUANTISED(ENTRY_OF)};

static void dot_type(tt_dtype t, const void *src, const float *x, int64_t ldx, int64_t n,
                     int n_rows, float *y)
{
    if (dots[t]) {
        dots[t](src, x, ldx, n, n_rows, y);
    } else {
        dot_plain(t, src, x, ldx, n, n_rows, y);
    }
}

/* Outputs [0, n_rows) of weight row `row`. */
static void one_output(const tt_weight *w, int64_t row, const float *x, int32_t n_rows, float *y,
                       bool accumulate)
{
    const char *src = (const char *)tt_ptr(w->data) + row * tt_row_bytes(w->type, w->cols);
    float out[ROWS];
    for (int32_t r = 0; r < n_rows; r += ROWS) {
        int n = n_rows - r < ROWS ? n_rows - r : ROWS;
        dot_type(w->type, src, x + r * w->cols, w->cols, w->cols, n, out);
        for (int i = 0; i < n; i++) {
            float *to = y + (r + i) * w->rows + row;
            *to = accumulate ? *to + out[i] : out[i];
        }
    }
}

void TT_FN(tt_matvec_some)(const tt_weight *w, int64_t row0, int64_t row1, const float *x,
                           int32_t n_rows, float *y, bool accumulate)
{
    for (int64_t row = row0; row < row1; row++) {
        one_output(w, row, x, n_rows, y, accumulate);
    }
}

void TT_FN(tt_matvec)(tt_lane *lane, const tt_matmul_args *a)
{
    int64_t first[TT_MATMUL_MAX + 1] = {0};
    for (int i = 0; i < a->n_w; i++) {
        assert(a->w[i]->cols == a->w[0]->cols);
        first[i + 1] = first[i] + (a->w[i]->rows + GROUP - 1) / GROUP;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 4)
    for (int64_t t = 0; t < first[a->n_w]; t++) {
        int i = 0;
        while (t >= first[i + 1]) {
            i++;
        }
        const tt_weight *w = a->w[i];
        int64_t row0 = (t - first[i]) * GROUP;
        int64_t row1 = row0 + GROUP < w->rows ? row0 + GROUP : w->rows;
        TT_FN(tt_matvec_some)
        (w, row0, row1, tt_ptr(a->x), a->n_rows, tt_ptr(a->y[i]), a->accumulate);
    }
}
