/* adapter_cuda.cu - the adapter term of the query projection, its transpose and its gradient, by
 * the products of matvec_cuda.cu and panel_cuda.cu. Thread: the owner of the stream. Source: arXiv
 * 2106.09685.
 *
 * D, A and B are rounded to BF16 each by itself: an update of 3e-6 keeps its 8 bits, because it is
 * never added to W before the FP32 sum. So is the low-rank middle. */
#include <assert.h>

#include "kernels/cuda/matvec_cuda.h"
#include "kernels/cuda/panel_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

static tt_weight view(const tt_adapter_layer *l, tt_dev data, int32_t rows, int32_t cols)
{
    tt_weight w = {l->type, rows, cols, data};
    return w;
}

/* All groups of a decode step in two launches (more from FEW_PRODUCTS groups on): what is
 * multiplied by x, then what is multiplied by the low-rank middle. */
static cudaError_t decode_groups(product_run *r, const tt_adapter_fwd_args *a)
{
    const float *x = dev_ptr<const float>(a->x);
    float *q = dev_ptr<float>(a->q), *t = r->inner;
    few_queue queue = {};
    queue.stream = r->stream;
    for (int second = 0; second < 2; second++, t = r->inner) {
        for (int32_t i = 0; i < a->n_groups; i++) {
            const tt_adapter_group *g = &a->groups[i];
            const tt_adapter_layer *l = &g->layer;
            const float *gx = x + (int64_t)g->row0 * a->h;
            float *gq = q + (int64_t)g->row0 * a->nq;
            if (l->kind == TT_ADAPTER_FULL) {
                tt_weight d = view(l, l->d, a->nq, a->h);
                if (second == 0) {
                    few_add(&queue, &d, gx, g->n_rows, 1, gq, true);
                }
                continue;
            }
            tt_weight wa = view(l, l->a, l->rank, a->h), wb = view(l, l->b, a->nq, l->rank);
            if (second == 0) {
                few_add(&queue, &wa, gx, g->n_rows, 1, t, false);
            } else {
                few_add(&queue, &wb, t, g->n_rows, l->scale, gq, true);
            }
            t += (int64_t)g->n_rows * l->rank;
            assert(t <= r->inner + (int64_t)r->p->max_rows * r->p->max_rank);
        }
        few_flush(&queue);
    }
    return queue.err;
}

/* inner = x A^T as an operand, x in a slot. */
static void lora_inner(product_run *r, const tt_adapter_layer *l, operand_slot x, int32_t n_rows,
                       int32_t h)
{
    tt_weight wa = view(l, l->a, l->rank, h);
    product_fwd(r, &wa, x, n_rows, 1, r->inner, false);
    product_operand(r, OPERAND_INNER, r->inner, n_rows, l->rank);
}

/* inner = dq B as an operand, dq in a slot. */
static void lora_outer(product_run *r, const tt_adapter_layer *l, operand_slot dq, int32_t n_rows,
                       int32_t nq)
{
    tt_weight wb = view(l, l->b, nq, l->rank);
    product_bwd(r, &wb, dq, n_rows, 1, r->inner, false);
    product_operand(r, OPERAND_INNER, r->inner, n_rows, l->rank);
}

cudaError_t tt_cuda_adapter_fwd(cudaStream_t stream, const tt_cuda_products *p,
                                const tt_adapter_fwd_args *a)
{
    product_run r = product_begin(p, stream);
    if (a->family == TT_DECODE) {
        return decode_groups(&r, a);
    }
    for (int32_t i = 0; i < a->n_groups; i++) {
        const tt_adapter_group *g = &a->groups[i];
        const tt_adapter_layer *l = &g->layer;
        float *q = dev_ptr<float>(a->q) + (int64_t)g->row0 * a->nq;
        if (g->n_rows == 0) {
            continue;
        }
        product_operand(&r, OPERAND_FIRST, dev_ptr<const float>(a->x) + (int64_t)g->row0 * a->h,
                        g->n_rows, a->h);
        if (l->kind == TT_ADAPTER_FULL) {
            tt_weight d = view(l, l->d, a->nq, a->h);
            product_fwd(&r, &d, OPERAND_FIRST, g->n_rows, 1, q, true);
        } else {
            tt_weight wb = view(l, l->b, a->nq, l->rank);
            lora_inner(&r, l, OPERAND_FIRST, g->n_rows, a->h);
            product_fwd(&r, &wb, OPERAND_INNER, g->n_rows, l->scale, q, true);
        }
    }
    return r.err;
}

cudaError_t tt_cuda_adapter_bwd(cudaStream_t stream, const tt_cuda_products *p,
                                const tt_adapter_bwd_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    float *dx = dev_ptr<float>(a->dx);
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    product_run r = product_begin(p, stream);
    product_operand(&r, OPERAND_FIRST, dev_ptr<const float>(a->dq), a->n_rows, a->nq);
    if (l->kind == TT_ADAPTER_FULL) {
        tt_weight d = view(l, l->d, a->nq, a->h);
        product_bwd(&r, &d, OPERAND_FIRST, a->n_rows, 1, dx, true);
    } else {
        tt_weight wa = view(l, l->a, l->rank, a->h);
        lora_outer(&r, l, OPERAND_FIRST, a->n_rows, a->nq);
        product_bwd(&r, &wa, OPERAND_INNER, a->n_rows, l->scale, dx, true);
    }
    return r.err;
}

/* Without rows the gradient is zero. */
static cudaError_t grad_of_nothing(cudaStream_t stream, const tt_adapter_grad_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    bool full = l->kind == TT_ADAPTER_FULL;
    size_t n = (size_t)(full ? a->nq : l->rank) * (size_t)a->h;
    cudaError_t err = cudaMemsetAsync(dev_ptr<float>(a->g), 0, n * sizeof(float), stream);
    if (err == cudaSuccess && !full) {
        n = (size_t)a->nq * (size_t)l->rank;
        err = cudaMemsetAsync(dev_ptr<float>(a->gb), 0, n * sizeof(float), stream);
    }
    return err;
}

cudaError_t tt_cuda_adapter_grad(cudaStream_t stream, const tt_cuda_products *p,
                                 const tt_adapter_grad_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    float *g = dev_ptr<float>(a->g), *gb = dev_ptr<float>(a->gb);
    if (a->n_rows == 0) {
        return grad_of_nothing(stream, a);
    }
    product_run r = product_begin(p, stream);
    product_operand(&r, OPERAND_FIRST, dev_ptr<const float>(a->dq), a->n_rows, a->nq);
    product_operand(&r, OPERAND_SECOND, dev_ptr<const float>(a->x), a->n_rows, a->h);
    if (l->kind == TT_ADAPTER_FULL) {
        product_grad(&r, OPERAND_FIRST, a->nq, OPERAND_SECOND, a->h, a->n_rows, 1, g);
        return r.err;
    }
    lora_outer(&r, l, OPERAND_FIRST, a->n_rows, a->nq);
    product_grad(&r, OPERAND_INNER, l->rank, OPERAND_SECOND, a->h, a->n_rows, l->scale, g);
    lora_inner(&r, l, OPERAND_SECOND, a->n_rows, a->h);
    product_grad(&r, OPERAND_FIRST, a->nq, OPERAND_INNER, l->rank, a->n_rows, l->scale, gb);
    return r.err;
}
