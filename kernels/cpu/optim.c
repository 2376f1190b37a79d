/* optim.c - gradient norm, AdamW and SGD, norm of the delta, rounding to BF16. Thread: engine.
 * Source: as kernels/ref/optim_ref.c. Sums are in double, over blocks of fixed size that are added
 * in order, so they do not depend on the number of threads. */
#include <assert.h>
#include <math.h>
#include <omp.h>

#include "kernels/cpu/kern.h"

enum { BLOCK = 4096, PIECE = 512 };

/* sum of x[i]^2, four interleaved sums of four. */
static double sum_squares(const float *x, int64_t n)
{
    __m256d s[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                    _mm256_setzero_pd()};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 4; j++) {
            __m256d v = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * j));
            s[j] = _mm256_fmadd_pd(v, v, s[j]);
        }
    }
    double part[4];
    _mm256_storeu_pd(part, _mm256_add_pd(_mm256_add_pd(s[0], s[1]), _mm256_add_pd(s[2], s[3])));
    double sum = (part[0] + part[1]) + (part[2] + part[3]);
    for (; i < n; i++) {
        sum += (double)x[i] * x[i];
    }
    return sum;
}

static double tensor_squares(tt_lane *lane, const float *g, int64_t n)
{
    int64_t n_blocks = (n + BLOCK - 1) / BLOCK;
    double *part = tt_lane_scratch(lane, 0, (size_t)n_blocks * sizeof *part);
    if (part == NULL) {
        return NAN;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (n_blocks > 4)
    for (int64_t b = 0; b < n_blocks; b++) {
        part[b] = sum_squares(g + b * BLOCK, (b + 1) * BLOCK < n ? BLOCK : n - b * BLOCK);
    }
    double sum = 0;
    for (int64_t b = 0; b < n_blocks; b++) {
        sum += part[b];
    }
    return sum;
}

void TT_FN(tt_optim_begin)(tt_lane *lane, const tt_optim_args *a)
{
    tt_train_state *s = tt_ptr(a->state);
    const float *row_loss = tt_ptr(a->row_loss), *row_weight = tt_ptr(a->row_weight);
    s->grad_sq = 0;
    for (int32_t i = 0; i < a->n_tensors; i++) {
        s->grad_sq += tensor_squares(lane, tt_ptr(a->t[i].g), a->t[i].n);
    }
    s->loss = 0;
    for (int32_t r = 0; r < a->n_rows; r++) {
        s->loss += (double)row_weight[r] * row_loss[r];
    }
    s->finite = isfinite(s->loss) && isfinite(s->grad_sq);
}

/* What one step does to every element, computed once. */
typedef struct update {
    float clip;                       /* factor on g */
    float decay;                      /* AdamW: lr * wd; SGD: wd */
    float step, v_scale, eps;         /* AdamW: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t) */
    float beta1, beta2, rest1, rest2; /* rest = 1 - beta */
    float lr;                         /* SGD */
} update;

static update update_of(const tt_optim_args *a, double grad_sq)
{
    double lr = a->lr, b1 = a->beta1, b2 = a->beta2;
    double clip = a->clip > 0 ? fmin(1, a->clip / (sqrt(grad_sq) + 1e-6)) : 1;
    update u = {.clip = (float)clip, .decay = a->weight_decay, .lr = a->lr};
    if (a->kind == TT_ADAMW) {
        u.decay = (float)(lr * a->weight_decay);
        u.step = (float)(lr / (1 - pow(b1, a->step)));
        u.v_scale = (float)(1 / sqrt(1 - pow(b2, a->step)));
        u.eps = a->eps;
        u.beta1 = a->beta1;
        u.beta2 = a->beta2;
        u.rest1 = (float)(1 - b1);
        u.rest2 = (float)(1 - b2);
    }
    return u;
}

/* Elements [i0, i0 + n) of a tensor; w [n] or NULL. */
static void adamw(const update *u, const tt_optim_tensor *t, int64_t i0, int64_t n, const float *w)
{
    const float *g = (const float *)tt_ptr(t->g) + i0;
    float *d = (float *)tt_ptr(t->d) + i0, *m = (float *)tt_ptr(t->m) + i0,
          *v = (float *)tt_ptr(t->v) + i0;
    for (int64_t i = 0; i < n; i += VW) {
        vf gi = vf_mul(vf_at(g, i, n), vf_set1(u->clip));
        vf mi = vf_fma(vf_set1(u->rest1), gi, vf_mul(vf_at(m, i, n), vf_set1(u->beta1)));
        vf vi =
            vf_fma(vf_mul(vf_set1(u->rest2), gi), gi, vf_mul(vf_at(v, i, n), vf_set1(u->beta2)));
        vf di = vf_at(d, i, n), wd = w == NULL ? di : vf_add(vf_at(w, i, n), di);
        vf by = vf_div(vf_mul(mi, vf_set1(u->step)),
                       vf_fma(vf_sqrt(vi), vf_set1(u->v_scale), vf_set1(u->eps)));
        vf_put(m, i, n, mi);
        vf_put(v, i, n, vi);
        vf_put(d, i, n, vf_sub(di, vf_fma(vf_set1(u->decay), wd, by)));
    }
}

static void sgd(const update *u, const tt_optim_tensor *t, int64_t i0, int64_t n, const float *w)
{
    const float *g = (const float *)tt_ptr(t->g) + i0;
    float *d = (float *)tt_ptr(t->d) + i0;
    for (int64_t i = 0; i < n; i += VW) {
        vf di = vf_at(d, i, n), wd = w == NULL ? di : vf_add(vf_at(w, i, n), di);
        vf by = vf_fma(vf_set1(u->decay), wd, vf_mul(vf_at(g, i, n), vf_set1(u->clip)));
        vf_put(d, i, n, vf_sub(di, vf_mul(by, vf_set1(u->lr))));
    }
}

/* One row of a tensor, in pieces that stay in the first-level cache. */
static void update_row(const tt_optim_args *a, const update *u, const tt_optim_tensor *t,
                       int64_t row, int64_t cols)
{
    float piece[PIECE];
    int64_t end = (row + 1) * cols < t->n ? (row + 1) * cols : t->n;
    for (int64_t i = row * cols; i < end; i += PIECE) {
        int64_t n = end - i < PIECE ? end - i : PIECE;
        const float *w = NULL;
        if (t->w != NULL) {
            const char *src = (const char *)tt_ptr(t->w->data) +
                              row * tt_row_bytes(t->w->type, cols) +
                              tt_row_bytes(t->w->type, i - row * cols);
            TT_FN(tt_dequant)(t->w->type, src, piece, n);
            w = piece;
        }
        if (a->kind == TT_ADAMW) {
            adamw(u, t, i, n, w);
        } else {
            sgd(u, t, i, n, w);
        }
    }
}

void TT_FN(tt_optim_step)(tt_lane *lane, const tt_optim_args *a)
{
    tt_train_state *s = tt_ptr(a->state);
    assert(a->step >= 1);
    if (!s->finite) {
        s->n_dropped++;
        return;
    }
    update u = update_of(a, s->grad_sq);
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const tt_optim_tensor *t = &a->t[i];
        int64_t cols = t->w == NULL ? BLOCK : t->w->cols;
        assert(t->w == NULL || t->n == t->w->rows * t->w->cols);
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (t->n > 4 * BLOCK)
        for (int64_t r = 0; r < (t->n + cols - 1) / cols; r++) {
            update_row(a, &u, t, r, cols);
        }
    }
}

/* gram[rank, rank] = X X^T of rows (row_stride 1: of columns) of x, in double. */
static void gram(const tt_adapter_layer *l, tt_dev data, int64_t n, bool by_rows, double *out)
{
    const float *f = tt_ptr(data);
    const uint16_t *h = tt_ptr(data);
    int64_t r = l->rank, along = by_rows ? 1 : r, across = by_rows ? n : 1;
    for (int64_t i = 0; i < r; i++) {
        for (int64_t j = 0; j < r; j++) {
            double sum = 0;
            for (int64_t k = 0; k < n; k++) {
                int64_t p = i * across + k * along, q = j * across + k * along;
                sum += l->type == TT_F32 ? (double)f[p] * f[q]
                                         : (double)tt_bf16_to_f32(h[p]) * tt_bf16_to_f32(h[q]);
            }
            out[i * r + j] = sum;
        }
    }
}

/* |scale B A|^2 = scale^2 * sum over i, j of (B^T B)[i, j] (A A^T)[i, j]: rank^2 sums instead of
 * the whole matrix. */
static double lora_squares(tt_lane *lane, const tt_adapter_layer *l, const tt_weight *w)
{
    size_t n = (size_t)l->rank * (size_t)l->rank;
    double *g = tt_lane_scratch(lane, 1, 2 * n * sizeof *g);
    if (g == NULL) {
        return NAN;
    }
    gram(l, l->b, w->rows, false, g);
    gram(l, l->a, w->cols, true, g + n);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += g[i] * g[n + i];
    }
    return sum < 0 ? 0 : sum * l->scale * l->scale;
}

/* Squares of row `row` of a matrix [rows, n] in the file's format. */
static double row_squares(tt_dtype type, tt_dev matrix, int64_t row, int64_t n)
{
    const char *src = (const char *)tt_ptr(matrix) + row * tt_row_bytes(type, n);
    float piece[PIECE];
    double sum = 0;
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t m = n - i < PIECE ? n - i : PIECE;
        TT_FN(tt_dequant)(type, src + tt_row_bytes(type, i), piece, m);
        sum += sum_squares(piece, m);
    }
    return sum;
}

void TT_FN(tt_delta_norm)(tt_lane *lane, const tt_delta_norm_args *a)
{
    const tt_weight *w = a->w;
    const tt_adapter_layer *l = &a->layer;
    bool full = l->kind == TT_ADAPTER_FULL;
    double *sq = tt_lane_scratch(lane, 0, 2 * (size_t)w->rows * sizeof *sq);
    if (sq == NULL) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(static)
    for (int64_t r = 0; r < w->rows; r++) {
        sq[2 * r] = full ? row_squares(l->type, l->d, r, w->cols) : 0;
        sq[2 * r + 1] = row_squares(w->type, w->data, r, w->cols);
    }
    double sum[2] = {0, 0};
    for (int64_t r = 0; r < w->rows; r++) {
        sum[0] += sq[2 * r];
        sum[1] += sq[2 * r + 1];
    }
    if (!full) {
        sum[0] = lora_squares(lane, l, w);
    }
    double *out = tt_ptr(a->out);
    out[0] = sum[0];
    out[1] = sum[1];
}

void TT_FN(tt_to_bf16)(tt_lane *lane, tt_dev src_f32, tt_dev dst_bf16, int64_t n)
{
    const float *src = tt_ptr(src_f32);
    uint16_t *dst = tt_ptr(dst_bf16);
#pragma omp parallel for num_threads(lane->n_threads) schedule(static) if (n > 4 * BLOCK)
    for (int64_t i = 0; i < n; i += BLOCK) {
        TT_FN(tt_round_bf16)(src + i, dst + i, n - i < BLOCK ? n - i : BLOCK);
    }
}
