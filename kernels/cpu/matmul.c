/* matmul.c - products of many rows with quantised weights (family PREFILL and backward). Thread:
 * engine.
 *
 * Weights stay as they are in the file. A task dequantises a panel that fits the second-level cache
 * and multiplies all rows by it at once; for SmolLM2 in Q4_1 that costs some 5 ms a pass on one
 * core, less than reading a prepared BF16 copy from memory would, so there are no prepared copies:
 * nothing to build on first use, nothing to account for. F32 and F16 weights are rounded to BF16 on
 * the way where products run in BF16. Activations are rounded once per product. Tasks are cut by
 * shape alone, so the bits do not depend on the number of threads. */
#include <assert.h>
#include <omp.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kern.h"

enum {
    SLICE = 96,       /* outputs of a forward task: six AMX tiles; divides 576 and 1536 */
    FWD_DEPTH = 1024, /* columns of a forward panel, at most */
    BWD_DEPTH = 512,  /* rows of a backward panel, at most */
    ROWS_MAX = TT_GEMM_BF16 ? 512 : 480, /* rows of a pass: whole units of tt_gemm_rows() */
    ROWS_AHEAD = 8,                      /* rows of a panel fetched ahead */
    BLOCK_MAX = 256,                     /* elements of the largest quantisation block */
};

/* x[n_rows, dim] as operands in scratch `slot`, with rows of zeros up to the unit of
 * tt_gemm_rows(). */
static tt_gelem *to_operand(tt_lane *lane, int slot, const float *x, int64_t n_rows, int64_t dim)
{
    int64_t padded = tt_gemm_padded(n_rows, TT_GEMM_BF16);
    tt_gelem *dst = tt_lane_scratch(lane, slot, (size_t)(padded * dim) * sizeof *dst);
    if (dst == NULL) {
        return NULL;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(static)
    for (int64_t r = 0; r < n_rows; r++) {
        to_gelem(x + r * dim, dst + r * dim, dim);
    }
    memset(dst + n_rows * dim, 0, (size_t)((padded - n_rows) * dim) * sizeof *dst);
    return dst;
}

static void prefetch(const char *p, int64_t n_bytes)
{
    for (int64_t i = 0; i < n_bytes; i += 64) {
        _mm_prefetch(p + i, _MM_HINT_T0);
    }
}

/* dst[n_rows, n_cols] = W[row0 .., col0 ..], dense. Rows are short and lie apart, which the
 * hardware's own prefetch does not see through: without ours the wait for memory takes two thirds
 * of the time. */
static void fill_panel(const tt_weight *w, int64_t row0, int64_t n_rows, int64_t col0,
                       int64_t n_cols, tt_gelem *dst)
{
    int64_t stride = tt_row_bytes(w->type, w->cols), bytes = tt_row_bytes(w->type, n_cols);
    const char *src = (const char *)tt_ptr(w->data) + row0 * stride + tt_row_bytes(w->type, col0);
    for (int64_t r = 0; r < n_rows && r < ROWS_AHEAD; r++) {
        prefetch(src + r * stride, bytes);
    }
    for (int64_t r = 0; r < n_rows; r++) {
        if (r + ROWS_AHEAD < n_rows) {
            prefetch(src + (r + ROWS_AHEAD) * stride, bytes);
        }
#if defined(__AVX512BF16__)
        TT_FN(tt_dequant_bf16)(w->type, src + r * stride, dst + r * n_cols, n_cols);
#else
        TT_FN(tt_dequant)(w->type, src + r * stride, dst + r * n_cols, n_cols);
#endif
    }
}

/* The largest panel depth: equal parts of n, in whole quantisation blocks. */
static int64_t depth_of(int64_t n, int64_t most)
{
    int64_t parts = (n + most - 1) / most;
    int64_t each = ((n + parts - 1) / parts + BLOCK_MAX - 1) / BLOCK_MAX * BLOCK_MAX;
    return each < n ? each : n;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* y[n_rows, n] (+)= sum, both with rows ld apart. */
static void store_sum(const float *sum, int64_t n_rows, int64_t n, float *y, int64_t ldy,
                      bool accumulate)
{
    for (int64_t r = 0; r < n_rows; r++) {
        const float *from = sum + r * n;
        float *to = y + r * ldy;
        if (!accumulate) {
            memcpy(to, from, (size_t)n * sizeof *to);
            continue;
        }
        for (int64_t i = 0; i < n; i += VW) {
            vf_put(to, i, n, vf_add(vf_at(to, i, n), vf_at(from, i, n)));
        }
    }
}

/* A thread's buffer: a panel of weights, and the sums of ROWS_MAX rows. */
typedef struct work {
    tt_gelem *panel;
    float *sum;
} work;

static size_t work_bytes(int64_t panel_elems, int64_t slice)
{
    return (size_t)panel_elems * sizeof(tt_gelem) + (size_t)(ROWS_MAX * slice) * sizeof(float);
}

static work work_of(const tt_lane *lane, int thread, int64_t panel_elems)
{
    tt_gelem *panel = tt_lane_thread_buf(lane, thread);
    return (work){.panel = panel, .sum = (float *)(void *)(panel + panel_elems)};
}

typedef struct fwd_job {
    tt_gemm *g;
    const tt_gelem *x;
    int64_t n_rows;
    bool accumulate;
} fwd_job;

/* y[n_rows, slice of w's rows] (+)= x W^T. */
static void fwd_slice(const fwd_job *j, int thread, const tt_weight *w, int64_t row0, float *y,
                      work buf)
{
    int64_t n = min64(SLICE, w->rows - row0), depth = depth_of(w->cols, FWD_DEPTH);
    for (int64_t r = 0; r < j->n_rows; r += ROWS_MAX) {
        int64_t m = min64(ROWS_MAX, j->n_rows - r);
        for (int64_t c = 0; c < w->cols; c += depth) {
            int64_t k = min64(depth, w->cols - c);
            if (r == 0 || k < w->cols) { /* a panel that is all of the slice stays */
                fill_panel(w, row0, n, c, k, buf.panel);
            }
            tt_gemm_call call = {.a = j->x + r * w->cols + c,
                                 .b = buf.panel,
                                 .c = buf.sum,
                                 .m = tt_gemm_padded(m, TT_GEMM_BF16),
                                 .n = n,
                                 .k = k,
                                 .lda = w->cols,
                                 .ldb = k,
                                 .ldc = n,
                                 .bf16 = TT_GEMM_BF16,
                                 .trans_b = true,
                                 .accumulate = c > 0};
            tt_gemm_rows(j->g, thread, &call);
        }
        store_sum(buf.sum, m, n, y + r * w->rows + row0, w->rows, j->accumulate);
    }
}

void TT_FN(tt_product)(tt_lane *lane, const tt_matmul_args *a)
{
    tt_gemm *g = tt_gemm_get(lane);
    const int64_t panel = SLICE * FWD_DEPTH;
    if (g == NULL || a->n_rows == 0 || !tt_lane_reserve_threads(lane, work_bytes(panel, SLICE))) {
        return;
    }
    fwd_job job = {.g = g, .n_rows = a->n_rows, .accumulate = a->accumulate};
    job.x = to_operand(lane, 0, tt_ptr(a->x), a->n_rows, a->w[0]->cols);
    if (job.x == NULL) {
        return;
    }
    int64_t first[TT_MATMUL_MAX + 1] = {0}; /* first task of each weight */
    for (int i = 0; i < a->n_w; i++) {
        assert(a->w[i]->cols == a->w[0]->cols);
        first[i + 1] = first[i] + (a->w[i]->rows + SLICE - 1) / SLICE;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 1)
    for (int64_t t = 0; t < first[a->n_w]; t++) {
        int i = 0, thread = omp_get_thread_num();
        while (t >= first[i + 1]) {
            i++;
        }
        fwd_slice(&job, thread, a->w[i], (t - first[i]) * SLICE, tt_ptr(a->y[i]),
                  work_of(lane, thread, panel));
    }
    tt_gemm_check(lane);
}

/* dx[n_rows, slice of columns] (+)= sum over i of dy_i W_i. */
static void bwd_slice(const tt_matmul_bwd_args *a, tt_gemm *g, tt_gelem *const *dy, int thread,
                      int64_t col0, int64_t n, work buf)
{
    int64_t cols = a->w[0]->cols;
    for (int64_t row = 0; row < a->n_rows; row += ROWS_MAX) {
        int64_t m = min64(ROWS_MAX, a->n_rows - row);
        bool more = false;
        for (int i = 0; i < a->n_w; i++) {
            const tt_weight *w = a->w[i];
            int64_t depth = depth_of(w->rows, BWD_DEPTH);
            for (int64_t r = 0; r < w->rows; r += depth, more = true) {
                int64_t k = min64(depth, w->rows - r);
                fill_panel(w, r, k, col0, n, buf.panel);
                tt_gemm_call call = {.a = dy[i] + row * w->rows + r,
                                     .b = buf.panel,
                                     .c = buf.sum,
                                     .m = tt_gemm_padded(m, TT_GEMM_BF16),
                                     .n = n,
                                     .k = k,
                                     .lda = w->rows,
                                     .ldb = n,
                                     .ldc = n,
                                     .bf16 = TT_GEMM_BF16,
                                     .accumulate = more};
                tt_gemm_rows(g, thread, &call);
            }
        }
        store_sum(buf.sum, m, n, (float *)tt_ptr(a->dx) + row * cols + col0, cols, a->accumulate);
    }
}

void TT_FN(tt_product_bwd)(tt_lane *lane, const tt_matmul_bwd_args *a)
{
    tt_gemm *g = tt_gemm_get(lane);
    const int64_t panel = BLOCK_MAX * BWD_DEPTH;
    if (g == NULL || a->n_rows == 0 ||
        !tt_lane_reserve_threads(lane, work_bytes(panel, BLOCK_MAX))) {
        return;
    }
    tt_gelem *dy[TT_MATMUL_MAX];
    int64_t slice = SLICE;
    for (int i = 0; i < a->n_w; i++) {
        assert(a->w[i]->cols == a->w[0]->cols);
        dy[i] = to_operand(lane, i, tt_ptr(a->dy[i]), a->n_rows, a->w[i]->rows);
        if (dy[i] == NULL) {
            return;
        }
        if (tt_dtypes[a->w[i]->type].block_elems > 32) {
            slice = BLOCK_MAX;
        }
    }
    int64_t cols = a->w[0]->cols, n_tasks = (cols + slice - 1) / slice;
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 1)
    for (int64_t t = 0; t < n_tasks; t++) {
        int thread = omp_get_thread_num();
        bwd_slice(a, g, dy, thread, t * slice, min64(slice, cols - t * slice),
                  work_of(lane, thread, panel));
    }
    tt_gemm_check(lane);
}

void TT_FN(tt_product_grad)(tt_lane *lane, const float *dq, const float *x, float *g,
                            int64_t n_rows, int64_t n_out, int64_t n_in)
{
    if (n_rows == 0) {
        memset(g, 0, (size_t)(n_out * n_in) * sizeof *g);
        return;
    }
    tt_gemm *gemm = tt_gemm_get(lane);
    tt_gelem *a = gemm == NULL ? NULL : to_operand(lane, 0, dq, n_rows, n_out);
    tt_gelem *b = a == NULL ? NULL : to_operand(lane, 1, x, n_rows, n_in);
    if (b == NULL) {
        return;
    }
    int64_t n_tasks = (n_out + SLICE - 1) / SLICE;
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 1)
    for (int64_t t = 0; t < n_tasks; t++) {
        tt_gemm_call call = {.a = a + t * SLICE,
                             .b = b,
                             .c = g + t * SLICE * n_in,
                             .m = min64(SLICE, n_out - t * SLICE),
                             .n = n_in,
                             .k = n_rows,
                             .lda = n_out,
                             .ldb = n_in,
                             .ldc = n_in,
                             .bf16 = TT_GEMM_BF16,
                             .trans_a = true};
        tt_gemm_run(gemm, omp_get_thread_num(), &call);
    }
    tt_gemm_check(lane);
}

void TT_FN(tt_matmul)(tt_lane *lane, const tt_matmul_args *a)
{
    if (a->family == TT_DECODE) {
        TT_FN(tt_matvec)(lane, a);
    } else {
        TT_FN(tt_product)(lane, a);
    }
}

void TT_FN(tt_matmul_bwd)(tt_lane *lane, const tt_matmul_bwd_args *a)
{
    TT_FN(tt_product_bwd)(lane, a);
}
