/* panel_cuda.cu - see panel_cuda.h. Thread: the owner of the stream; device code.
 *
 * cuBLAS is column-major: a row-major [r, c] is its [c, r]. Columns of operands and panels are
 * filled up with zeros to whole groups, which adds nothing to a sum and gives every leading
 * dimension the alignment that tensor cores want.
 *
 * A forward product is cut into slices of outputs, so each element of y is one sum inside one call;
 * a backward product into slices of its depth, which add up in FP32 in dx. Slices depend on the
 * shape of W alone. */
#include <assert.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/group_cuda.cuh"
#include "kernels/cuda/panel_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum { PANEL_THREADS = 256 };

struct panel_shape {
    int64_t row_bytes;
    int32_t type, aligned;
    int32_t rows, cols;      /* there are; the rest of the panel is zero */
    int32_t n_out, n_groups; /* of the panel */
};

static __device__ __forceinline__ void any_group(const panel_shape &s, const uint8_t *row,
                                                 int group, uint32_t pairs[GROUP_PAIRS])
{
    bool aligned = s.aligned != 0;
    switch (s.type) {
    case TT_F32:
        return load_group<TT_F32>(row, group, s.cols, aligned, pairs);
    case TT_F16:
        return load_group<TT_F16>(row, group, s.cols, aligned, pairs);
    case TT_BF16:
        return load_group<TT_BF16>(row, group, s.cols, aligned, pairs);
    case TT_Q8_0:
        return load_group<TT_Q8_0>(row, group, s.cols, aligned, pairs);
    case TT_Q4_0:
        return load_group<TT_Q4_0>(row, group, s.cols, aligned, pairs);
    case TT_Q4_1:
        return load_group<TT_Q4_1>(row, group, s.cols, aligned, pairs);
    case TT_Q5_0:
        return load_group<TT_Q5_0>(row, group, s.cols, aligned, pairs);
    case TT_Q5_1:
        return load_group<TT_Q5_1>(row, group, s.cols, aligned, pairs);
    case TT_Q4_K:
        return load_group<TT_Q4_K>(row, group, s.cols, aligned, pairs);
    case TT_Q5_K:
        return load_group<TT_Q5_K>(row, group, s.cols, aligned, pairs);
    default:
        return load_group<TT_Q6_K>(row, group, s.cols, aligned, pairs);
    }
}

/* A thread a group. */
static __global__ void __launch_bounds__(PANEL_THREADS)
    panel_kernel(const uint8_t *src, __nv_bfloat16 *panel, panel_shape s)
{
    unsigned i = blockIdx.x * PANEL_THREADS + threadIdx.x;
    int row = (int)(i / (unsigned)s.n_groups), group = (int)(i % (unsigned)s.n_groups);
    if (row >= s.n_out) {
        return;
    }
    uint32_t pairs[GROUP_PAIRS] = {};
    if (row < s.rows) {
        any_group(s, src + row * s.row_bytes, group, pairs);
    }
    uint4 *to = reinterpret_cast<uint4 *>(panel + (size_t)i * GROUP);
    for (int j = 0; j < GROUP_PAIRS / 4; j++) {
        to[j] = make_uint4(pairs[4 * j], pairs[4 * j + 1], pairs[4 * j + 2], pairs[4 * j + 3]);
    }
}

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int32_t padded(int64_t cols)
{
    return (int32_t)round_up(cols, GROUP);
}

static int32_t at_most(int64_t n, int32_t most)
{
    return n < most ? (int32_t)n : most;
}

/* Cuts the workspace, which may be 0; returns its size. */
static size_t cut(const tt_cuda_products *p, product_run *r)
{
    uint64_t base = p->workspace, at = base;
    auto take = [&at](int64_t n_bytes) {
        uint64_t got = at;
        at += (uint64_t)round_up(n_bytes, 256);
        return got;
    };
    r->pass_rows = p->pass_rows != 0 ? p->pass_rows : TT_CUDA_PASS_ROWS;
    r->panel_bytes = p->panel_bytes != 0 ? p->panel_bytes : TT_CUDA_PANEL_BYTES;
    int64_t rows = round_up(p->max_rows, r->pass_rows), dim = padded(p->max_dim);
    int64_t rank = padded(p->max_rank);
    int64_t panel =
        p->max_panel > 0 && p->max_panel < r->panel_bytes ? p->max_panel : r->panel_bytes;
    int32_t most = padded(at_most(p->max_out, TT_CUDA_SLICE_ROWS));
    r->tail_cols = most > dim ? most : (int32_t)dim;
    r->panel = dev_ptr<__nv_bfloat16>(take(panel));
    r->operand[OPERAND_FIRST] = dev_ptr<__nv_bfloat16>(take(rows * dim * 2));
    r->operand[OPERAND_SECOND] = dev_ptr<__nv_bfloat16>(take(rows * dim * 2));
    r->operand[OPERAND_INNER] = dev_ptr<__nv_bfloat16>(take(rows * rank * 2));
    r->tail = dev_ptr<float>(take((int64_t)r->pass_rows * r->tail_cols * 4));
    r->inner = dev_ptr<float>(take((int64_t)p->max_rows * p->max_rank * 4));
    return (size_t)(at - base);
}

size_t tt_cuda_products_bytes(const tt_cuda_products *p)
{
    product_run r = {};
    return cut(p, &r);
}

product_run product_begin(const tt_cuda_products *p, cudaStream_t stream)
{
    product_run r = {};
    r.p = p;
    r.stream = stream;
    r.err = cudaSuccess;
    cut(p, &r);
    assert(p->workspace % 256 == 0 && r.panel_bytes >= 64 * (int64_t)padded(p->max_dim));
    return r;
}

/* panel[n_out, padded(cols)] from `rows` rows at src, zeros below. */
static void unpack(product_run *r, tt_dtype type, const void *src, int32_t rows, int32_t cols,
                   __nv_bfloat16 *panel, int32_t n_out)
{
    bool plain = tt_dtypes[type].block_elems == 1;
    bool aligned = cols % GROUP == 0 && (uintptr_t)src % 16 == 0;
    assert(plain || aligned);
    panel_shape s = {};
    s.row_bytes = tt_row_bytes(type, cols);
    s.type = type;
    s.aligned = aligned;
    s.rows = rows;
    s.cols = cols;
    s.n_out = n_out;
    s.n_groups = padded(cols) / GROUP;
    int64_t n = (int64_t)n_out * s.n_groups;
    assert(n <= INT32_MAX - PANEL_THREADS);
    if (r->err == cudaSuccess) {
        r->err = gpu_launch(dim3((unsigned)((n + PANEL_THREADS - 1) / PANEL_THREADS)),
                            dim3(PANEL_THREADS), 0, r->stream, panel_kernel,
                            static_cast<const uint8_t *>(src), panel, s);
    }
}

void product_operand(product_run *r, operand_slot slot, const float *x, int32_t n_rows,
                     int32_t cols)
{
    assert(n_rows <= r->p->max_rows &&
           cols <= (slot == OPERAND_INNER ? r->p->max_rank : r->p->max_dim));
    unpack(r, TT_F32, x, n_rows, cols, r->operand[slot], (int32_t)round_up(n_rows, r->pass_rows));
}

/* A weight that is a panel already. */
static bool lies_as_panel(const tt_weight *w)
{
    return w->type == TT_BF16 && w->cols % GROUP == 0 && w->data % 16 == 0;
}

int64_t tt_cuda_panel_bytes(const tt_weight *w)
{
    return lies_as_panel(w) ? 0 : 2 * w->rows * padded(w->cols);
}

/* Rows of w in a slice: equal parts, whole groups, small enough for the panel and for the tail. */
static int32_t slice_rows(const product_run *r, const tt_weight *w)
{
    int64_t most = r->panel_bytes / (2 * padded(w->cols)) / GROUP * GROUP;
    most = at_most(most, TT_CUDA_SLICE_ROWS);
    int64_t n_slices = (w->rows + most - 1) / most;
    return padded((w->rows + n_slices - 1) / n_slices);
}

/* Rows [row0, row0 + n) of w as BF16; a weight that is a panel already is used where it lies. */
static const __nv_bfloat16 *weight_panel(product_run *r, const tt_weight *w, int32_t row0,
                                         int32_t n)
{
    uint64_t src = w->data + (uint64_t)(row0 * tt_row_bytes(w->type, w->cols));
    if (lies_as_panel(w)) {
        return dev_ptr<const __nv_bfloat16>(src);
    }
    unpack(r, w->type, dev_ptr<const void>(src), n, (int32_t)w->cols, r->panel, n);
    return r->panel;
}

/* C[n, m] = alpha op(B)^T op(A)^T + beta C in our order of rows and columns. */
struct product_call {
    cublasOperation_t op_a, op_b;
    int32_t m, n, k;
    float alpha;
    const __nv_bfloat16 *a;
    int32_t lda;
    const __nv_bfloat16 *b;
    int32_t ldb;
    float beta;
};

static void multiply(product_run *r, const product_call *c, float *y, int64_t ldy)
{
    if (r->err != cudaSuccess) {
        return;
    }
    cublasStatus_t status =
        cublasGemmEx(r->p->blas, c->op_a, c->op_b, c->m, c->n, c->k, &c->alpha, c->a, CUDA_R_16BF,
                     c->lda, c->b, CUDA_R_16BF, c->ldb, &c->beta, y, CUDA_R_32F, (int)ldy,
                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS) {
        r->err = status == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation
                                                      : cudaErrorLaunchFailure;
    }
}

static void copy_rows(product_run *r, float *dst, int64_t ld_dst, const float *src, int64_t ld_src,
                      int32_t n_rows, int32_t cols)
{
    if (r->err == cudaSuccess) {
        r->err = cudaMemcpy2DAsync(dst, (size_t)ld_dst * sizeof *dst, src,
                                   (size_t)ld_src * sizeof *src, (size_t)cols * sizeof *dst,
                                   (size_t)n_rows, cudaMemcpyDeviceToDevice, r->stream);
    }
}

/* One pass into y[n_rows, m], rows ldy apart. A short one goes through the tail, there and back, so
 * that its sums are made and rounded like those of a whole one. */
static void pass(product_run *r, const product_call *c, float *y, int64_t ldy, int32_t n_rows)
{
    if (n_rows == c->n) {
        multiply(r, c, y, ldy);
        return;
    }
    assert(c->m <= r->tail_cols);
    if (c->beta != 0) {
        copy_rows(r, r->tail, c->m, y, ldy, n_rows, c->m);
    }
    multiply(r, c, r->tail, c->m);
    copy_rows(r, y, ldy, r->tail, c->m, n_rows, c->m);
}

void product_fwd(product_run *r, const tt_weight *w, operand_slot x, int32_t n_rows, float scale,
                 float *y, bool accumulate)
{
    int32_t each = slice_rows(r, w), k = padded(w->cols), n = r->pass_rows;
    assert(w->cols <= r->p->max_dim);
    for (int32_t o = 0; o < w->rows; o += each) {
        int32_t m = at_most(w->rows - o, each);
        const __nv_bfloat16 *panel = weight_panel(r, w, o, m);
        for (int32_t row = 0; row < n_rows; row += n) {
            const __nv_bfloat16 *b = r->operand[x] + (int64_t)row * k;
            product_call c = {CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, scale, panel, k, b, k, 0};
            c.beta = accumulate ? 1.0f : 0.0f;
            pass(r, &c, y + row * w->rows + o, w->rows, at_most(n_rows - row, n));
        }
    }
}

void product_bwd(product_run *r, const tt_weight *w, operand_slot dy, int32_t n_rows, float scale,
                 float *dx, bool accumulate)
{
    int32_t each = slice_rows(r, w), m = (int32_t)w->cols, n = r->pass_rows;
    int32_t lda = padded(w->cols), ldb = padded(w->rows);
    assert(w->cols <= r->p->max_dim);
    for (int32_t o = 0; o < w->rows; o += each) {
        int32_t k = at_most(w->rows - o, each);
        const __nv_bfloat16 *panel = weight_panel(r, w, o, k);
        for (int32_t row = 0; row < n_rows; row += n) {
            const __nv_bfloat16 *b = r->operand[dy] + (int64_t)row * ldb + o;
            product_call c = {CUBLAS_OP_N, CUBLAS_OP_N, m, n, k, scale, panel, lda, b, ldb, 0};
            c.beta = accumulate || o > 0 ? 1.0f : 0.0f;
            pass(r, &c, dx + (int64_t)row * m, m, at_most(n_rows - row, n));
        }
    }
}

void product_grad(product_run *r, operand_slot u, int32_t m, operand_slot v, int32_t n,
                  int32_t n_rows, float scale, float *g)
{
    product_call c = {CUBLAS_OP_N, CUBLAS_OP_T,   n,         m, n_rows, scale, r->operand[v],
                      padded(n),   r->operand[u], padded(m), 0};
    multiply(r, &c, g, n);
}
