/* matvec.c - products of few rows with quantised weights (family DECODE): bound by the memory that
 * the weights come from. Thread: engine.
 *
 * A task takes GROUP weight rows, SOME at a time; every activation row is multiplied by a weight
 * row while it is in the first-level cache, so up to any number of rows costs one pass over the
 * weights. The sum of one output has one order (QV vector sums, each over its part of every group
 * of 32), whatever the number of rows or threads. */
#include <assert.h>
#include <omp.h>

#include "kernels/cpu/kern.h"
#include "kernels/cpu/qblock.h"

enum {
    ROWS =
        VW == 16 ? 8 : 2, /* activation rows whose sums are in registers: 8 * 2 or 2 * 4 vectors */
    SOME = 4,             /* weight rows whose vector sums are added up together */
    GROUP = 16,           /* weight rows of a task */
    PIECE = 512,          /* columns at a time of plain types */
    AHEAD = 4096, /* bytes between what is read and what is fetched: the hardware's own prefetch
                     stops at each page */
};

/* What the scales of a format look like; see q_scaler. */
typedef enum form {
    FORM_SCALE,     /* a scale a block */
    FORM_MINIMUM,   /* and a minimum */
    FORM_K_MINIMUM, /* eight of each */
    FORM_K_HALVES,  /* a scale for 16 elements */
} form;

/* A quantised format, constant in each of the functions that are made of it. */
typedef struct format {
    q32_whole_loader load;
    q_scaler scales;
    form form;
    int n_groups, block_bytes;
} format;

TT_INLINE vf add_up(const vf s[QV])
{
    vf sum = s[0];
    for (int j = 1; j < QV; j++) {
        sum = vf_add(sum, s[j]);
    }
    return sum;
}

/* s: the scales of the block. */
TT_INLINE q32 load_group(const format f, const uint8_t *b, int pair, int odd, const float *s)
{
    q32 w = f.load(b, pair, odd);
    int g = 2 * pair + odd;
    for (int j = 0; j < QV; j++) {
        switch (f.form) {
        case FORM_SCALE:
            w.v[j] = vf_mul(w.v[j], vf_set1(s[0]));
            break;
        case FORM_MINIMUM:
            w.v[j] = vf_fma(w.v[j], vf_set1(s[0]), vf_set1(s[Q_MIN_AT]));
            break;
        case FORM_K_MINIMUM:
            w.v[j] = vf_fma(w.v[j], vf_set1(s[g]), vf_set1(s[Q_MIN_AT_K + g]));
            break;
        case FORM_K_HALVES:
            w.v[j] = vf_mul(w.v[j], vf_set1(s[2 * g + 2 * j / QV]));
            break;
        }
    }
    return w;
}

TT_INLINE void add_group(q32 w, const float *x, int64_t ldx, int n_rows, vf s[ROWS][QV])
{
    for (int r = 0; r < n_rows; r++) {
        for (int j = 0; j < QV; j++) {
            s[r][j] = vf_fma(w.v[j], vf_load(x + r * ldx + j * VW), s[r][j]);
        }
    }
}

/* to[r * SOME] = the vector sum of w . x[r] for n_rows <= ROWS rows of x, ldx apart. */
TT_INLINE void dot_rows(const format f, const uint8_t *b, const float *x, int64_t ldx, int64_t n,
                        int n_rows, vf *to)
{
    float scale[Q_SCALES];
    vf s[ROWS][QV];
    for (int r = 0; r < n_rows; r++) {
        for (int j = 0; j < QV; j++) {
            s[r][j] = vf_zero();
        }
    }
    for (int64_t left = n / (32 * f.n_groups), m; left > 0; left -= m) {
        m = left < Q_CHUNK / f.n_groups ? left : Q_CHUNK / f.n_groups;
        f.scales(b, (int)m, scale);
        for (int64_t k = 0; k < m; k++, b += f.block_bytes) {
            if (f.n_groups == 1) {
                _mm_prefetch((const char *)b + AHEAD, _MM_HINT_T1);
                add_group(load_group(f, b, 0, 0, scale + k), x, ldx, n_rows, s);
                x += 32;
                continue;
            }
            for (int pair = 0; pair < f.n_groups / 2; pair++, x += 64) {
                const float *sc = scale + k * Q_SCALES_K;
                _mm_prefetch((const char *)b + AHEAD + 64 * pair, _MM_HINT_T1);
                add_group(load_group(f, b, pair, 0, sc), x, ldx, n_rows, s);
                add_group(load_group(f, b, pair, 1, sc), x + 32, ldx, n_rows, s);
            }
        }
    }
    for (int r = 0; r < n_rows; r++) {
        to[r * SOME] = add_up(s[r]);
    }
}

/* The sum of weight row k < n_w <= SOME, stride apart, and row r of x at to[r * SOME + k]. As many
 * rows of x at a time as there are, each number a constant, so that the sums stay in registers. */
TT_INLINE void dot_some(const format f, const uint8_t *b, int64_t stride, int n_w, const float *x,
                        int64_t ldx, int64_t n, int n_rows, vf *to)
{
    for (int k = 0; k < n_w; k++, b += stride) {
        int r = 0;
        if (ROWS >= 8 && n_rows - r >= 8) {
            dot_rows(f, b, x + r * ldx, ldx, n, ROWS, to + r * SOME + k);
            r += 8;
        }
        if (ROWS >= 4 && n_rows - r >= 4) {
            dot_rows(f, b, x + r * ldx, ldx, n, ROWS >= 4 ? 4 : 1, to + r * SOME + k);
            r += 4;
        }
        if (n_rows - r >= 2) {
            dot_rows(f, b, x + r * ldx, ldx, n, 2, to + r * SOME + k);
            r += 2;
        }
        if (n_rows - r >= 1) {
            dot_rows(f, b, x + r * ldx, ldx, n, 1, to + r * SOME + k);
        }
    }
}

/* Plain types: the same, in pieces, with the same order of sums. */
TT_INLINE void plain_rows(tt_dtype t, const char *src, const float *x, int64_t ldx, int64_t n,
                          int n_rows, vf *to)
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
        to[r * SOME] = add_up(s[r]);
    }
}

static void dot_plain(tt_dtype t, const char *src, const float *x, int64_t ldx, int64_t n,
                      int n_rows, vf *to)
{
    int r = 0;
    if (n_rows == ROWS) {
        plain_rows(t, src, x, ldx, n, ROWS, to);
        return;
    }
    for (; n_rows - r >= 2; r += 2) {
        plain_rows(t, src, x + r * ldx, ldx, n, 2, to + r * SOME);
    }
    if (r < n_rows) {
        plain_rows(t, src, x + r * ldx, ldx, n, 1, to + r * SOME);
    }
}

/* A function for each type behind a table, not cases of one: so no stack frame holds the sums of
 * all of them, which AddressSanitizer would mark for every weight row. */
typedef void (*dot_fn)(const uint8_t *src, int64_t stride, int n_w, const float *x, int64_t ldx,
                       int64_t n, int n_rows, vf *to);

/* Type, name, and what `format` holds of it. */
#define QUANTISED(X)                                                                               \
    X(TT_Q8_0, q8_0, FORM_SCALE, 1, 34)                                                            \
    X(TT_Q4_0, q4_0, FORM_MINIMUM, 1, 18)                                                          \
    X(TT_Q4_1, q4_1, FORM_MINIMUM, 1, 20)                                                          \
    X(TT_Q5_0, q5_0, FORM_MINIMUM, 1, 22)                                                          \
    X(TT_Q5_1, q5_1, FORM_MINIMUM, 1, 24)                                                          \
    X(TT_Q4_K, q4_k, FORM_K_MINIMUM, 8, 144)                                                       \
    X(TT_Q5_K, q5_k, FORM_K_MINIMUM, 8, 176)                                                       \
    X(TT_Q6_K, q6_k, FORM_K_HALVES, 8, 210)

#define DOT_OF(type, name, form, n_groups, block_bytes)                                            \
    static void dot_##name(const uint8_t *src, int64_t stride, int n_w, const float *x,            \
                           int64_t ldx, int64_t n, int n_rows, vf *to)                             \
    {                                                                                              \
        const format f = {q32_whole_##name, q_scales_##name, form, n_groups, block_bytes};         \
        dot_some(f, src, stride, n_w, x, ldx, n, n_rows, to);                                      \
    }
QUANTISED(DOT_OF)

#define ENTRY_OF(type, name, form, n_groups, block_bytes) [type] = dot_##name,
static const dot_fn dots[TT_DTYPE_COUNT] = {QUANTISED(ENTRY_OF)};

/* y[r][0 .. n_w) (+)= from[n_rows, SOME] added up, rows of y ldy apart. */
static void put_sums(vf *from, int n_rows, int n_w, float *y, int64_t ldy, bool accumulate)
{
    for (int r = 0; r < n_rows; r++, from += SOME, y += ldy) {
        float out[SOME];
        for (int k = n_w; k < SOME; k++) {
            from[k] = vf_zero();
        }
        vf_sum4(from, out);
        for (int k = 0; k < n_w; k++) {
            y[k] = accumulate ? y[k] + out[k] : out[k];
        }
    }
}

void TT_FN(tt_matvec_some)(const tt_weight *w, int64_t row0, int64_t row1, const float *x,
                           int32_t n_rows, float *y, bool accumulate)
{
    int64_t stride = tt_row_bytes(w->type, w->cols);
    vf to[ROWS * SOME];
    for (int64_t row = row0; row < row1; row += SOME) {
        const char *src = (const char *)tt_ptr(w->data) + row * stride;
        int n_w = row1 - row < SOME ? (int)(row1 - row) : SOME;
        for (int32_t r = 0; r < n_rows; r += ROWS) {
            int n = n_rows - r < ROWS ? n_rows - r : ROWS;
            const float *xr = x + r * w->cols;
            if (dots[w->type]) {
                dots[w->type]((const uint8_t *)src, stride, n_w, xr, w->cols, w->cols, n, to);
            } else {
                for (int k = 0; k < n_w; k++) {
                    dot_plain(w->type, src + k * stride, xr, w->cols, w->cols, n, to + k);
                }
            }
            put_sums(to, n, n_w, y + r * w->rows + row, w->rows, accumulate);
        }
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
