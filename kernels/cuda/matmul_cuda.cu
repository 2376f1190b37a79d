/* matmul_cuda.cu - products with the model's weights, forward and transposed. Thread: the owner of
 * the stream. */
#include <assert.h>

#include "kernels/cuda/matvec_cuda.h"
#include "kernels/cuda/panel_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

cudaError_t tt_cuda_matmul(cudaStream_t stream, const tt_cuda_products *p, const tt_matmul_args *a)
{
    int32_t cols = (int32_t)a->w[0]->cols;
    const float *x = dev_ptr<const float>(a->x);
    assert(a->n_w >= 1 && a->n_w <= TT_MATMUL_MAX);
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    few_queue q = {};
    product_run r = {};
    q.stream = stream;
    if (a->family == TT_PREFILL) {
        r = product_begin(p, stream);
        product_operand(&r, OPERAND_FIRST, x, a->n_rows, cols);
    }
    for (int i = 0; i < a->n_w; i++) {
        float *y = dev_ptr<float>(a->y[i]);
        assert(a->w[i]->cols == cols);
        if (a->family == TT_PREFILL) {
            product_fwd(&r, a->w[i], OPERAND_FIRST, a->n_rows, 1, y, a->accumulate);
        } else {
            few_add(&q, a->w[i], x, a->n_rows, 1, y, a->accumulate);
        }
    }
    return a->family == TT_PREFILL ? r.err : few_flush(&q);
}

cudaError_t tt_cuda_matmul_bwd(cudaStream_t stream, const tt_cuda_products *p,
                               const tt_matmul_bwd_args *a)
{
    assert(a->n_w >= 1 && a->n_w <= TT_MATMUL_MAX);
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    product_run r = product_begin(p, stream);
    for (int i = 0; i < a->n_w; i++) {
        const tt_weight *w = a->w[i];
        assert(w->cols == a->w[0]->cols);
        product_operand(&r, OPERAND_FIRST, dev_ptr<const float>(a->dy[i]), a->n_rows,
                        (int32_t)w->rows);
        product_bwd(&r, w, OPERAND_FIRST, a->n_rows, 1, dev_ptr<float>(a->dx),
                    a->accumulate || i > 0);
    }
    return r.err;
}
