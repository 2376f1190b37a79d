/* adapter_cpu.c - the adapter term of the query projection, its transpose and its gradient, by the
 * products of matmul.c and matvec.c. Thread: engine. Where products run in BF16 the operands D, A
 * and B are rounded to it, each by itself: an update of 3e-6 keeps its 8 bits, because it is never
 * added to W before the f32 sum. */
#include <omp.h>

#include "kernels/cpu/kern.h"

enum { SLOT_T = 3 }; /* scratch of the low-rank middle; the products use 0 .. 2 */

static tt_weight view(const tt_adapter_layer *l, tt_dev data, int64_t rows, int64_t cols)
{
    return (tt_weight){.type = l->type, .rows = rows, .cols = cols, .data = data};
}

static void scale_all(float *x, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] *= scale;
    }
}

/* y[n_rows, w->rows] (+)= x W^T */
static void forward(tt_lane *lane, const float *x, tt_weight *w, float *y, int32_t n_rows,
                    bool accumulate, tt_family family)
{
    tt_matmul_args m = {.x = tt_addr(x),
                        .n_rows = n_rows,
                        .n_w = 1,
                        .w = {w},
                        .y = {tt_addr(y)},
                        .accumulate = accumulate,
                        .family = family};
    TT_FN(tt_matmul)(lane, &m);
}

/* dx[n_rows, w->cols] (+)= dy W */
static void backward(tt_lane *lane, const float *dy, tt_weight *w, float *dx, int32_t n_rows,
                     bool accumulate)
{
    tt_matmul_bwd_args m = {.dy = {tt_addr(dy)},
                            .w = {w},
                            .n_rows = n_rows,
                            .n_w = 1,
                            .dx = tt_addr(dx),
                            .accumulate = accumulate};
    TT_FN(tt_product_bwd)(lane, &m);
}

static void forward_group(tt_lane *lane, const tt_adapter_fwd_args *a, const tt_adapter_group *grp)
{
    const tt_adapter_layer *l = &grp->layer;
    const float *x = (const float *)tt_ptr(a->x) + (int64_t)grp->row0 * a->h;
    float *q = (float *)tt_ptr(a->q) + (int64_t)grp->row0 * a->nq;
    if (l->kind == TT_ADAPTER_FULL) {
        tt_weight d = view(l, l->d, a->nq, a->h);
        forward(lane, x, &d, q, grp->n_rows, true, a->family);
        return;
    }
    tt_weight wa = view(l, l->a, l->rank, a->h), wb = view(l, l->b, a->nq, l->rank);
    int64_t n_t = (int64_t)grp->n_rows * l->rank;
    float *t = tt_lane_scratch(lane, SLOT_T, (size_t)n_t * sizeof *t);
    if (t != NULL) {
        forward(lane, x, &wa, t, grp->n_rows, false, a->family);
        scale_all(t, n_t, l->scale);
        forward(lane, t, &wb, q, grp->n_rows, true, a->family);
    }
}

/* ---- decode: few rows of many adapters, all in one parallel region ---- */

enum {
    BLOCK = 32, /* outputs of a full delta in a task */
    SHORT = 32  /* ranks below it are too short for the vectors of tt_matvec_some() */
};

static int64_t tasks_of(const tt_adapter_fwd_args *a, const tt_adapter_group *g)
{
    return g->layer.kind == TT_ADAPTER_FULL ? (a->nq + BLOCK - 1) / BLOCK : 1;
}

/* q[n_rows, nq] += t[n_rows, rank] B^T where a row of B is shorter than a vector is worth. The sum
 * of an output has one order, whatever the number of rows. */
static void add_short(const uint16_t *b, int64_t nq, int64_t rank, const float *t, int32_t n_rows,
                      float *q)
{
    for (int32_t r = 0; r < n_rows; r++, t += rank, q += nq) {
        const uint16_t *row = b;
        for (int64_t n = 0; n < nq; n++, row += rank) {
            float even = 0, odd = 0;
            int64_t i = 0;
            for (; i + 2 <= rank; i += 2) {
                even += tt_bf16_to_f32(row[i]) * t[i];
                odd += tt_bf16_to_f32(row[i + 1]) * t[i + 1];
            }
            even += i < rank ? tt_bf16_to_f32(row[i]) * t[i] : 0;
            q[n] += even + odd;
        }
    }
}

/* Task i of a group; t: [n_rows, rank] of this thread. */
static void decode_task(const tt_adapter_fwd_args *a, const tt_adapter_group *g, int64_t i,
                        float *t)
{
    const tt_adapter_layer *l = &g->layer;
    const float *x = (const float *)tt_ptr(a->x) + (int64_t)g->row0 * a->h;
    float *q = (float *)tt_ptr(a->q) + (int64_t)g->row0 * a->nq;
    if (l->kind == TT_ADAPTER_FULL) {
        tt_weight d = view(l, l->d, a->nq, a->h);
        int64_t end = (i + 1) * BLOCK < a->nq ? (i + 1) * BLOCK : a->nq;
        TT_FN(tt_matvec_some)(&d, i * BLOCK, end, x, g->n_rows, q, true);
        return;
    }
    tt_weight wa = view(l, l->a, l->rank, a->h), wb = view(l, l->b, a->nq, l->rank);
    TT_FN(tt_matvec_some)(&wa, 0, l->rank, x, g->n_rows, t, false);
    scale_all(t, (int64_t)g->n_rows * l->rank, l->scale);
    if (l->type == TT_BF16 && l->rank < SHORT) {
        add_short(tt_ptr(l->b), a->nq, l->rank, t, g->n_rows, q);
    } else {
        TT_FN(tt_matvec_some)(&wb, 0, a->nq, t, g->n_rows, q, true);
    }
}

static void decode_groups(tt_lane *lane, const tt_adapter_fwd_args *a)
{
    int64_t *first = tt_lane_scratch(lane, SLOT_T, ((size_t)a->n_groups + 1) * sizeof *first);
    size_t most = 1;
    for (int32_t i = 0; i < a->n_groups; i++) {
        size_t n = (size_t)a->groups[i].n_rows * (size_t)a->groups[i].layer.rank;
        most = n > most ? n : most;
    }
    if (first == NULL || !tt_lane_reserve_threads(lane, most * sizeof(float))) {
        return;
    }
    first[0] = 0;
    for (int32_t i = 0; i < a->n_groups; i++) {
        first[i + 1] = first[i] + tasks_of(a, &a->groups[i]);
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < first[a->n_groups]; task++) {
        int32_t i = 0;
        while (task >= first[i + 1]) {
            i++;
        }
        decode_task(a, &a->groups[i], task - first[i],
                    tt_lane_thread_buf(lane, omp_get_thread_num()));
    }
}

void TT_FN(tt_adapter_fwd)(tt_lane *lane, const tt_adapter_fwd_args *a)
{
    if (a->family == TT_DECODE) {
        decode_groups(lane, a);
        return;
    }
    for (int32_t i = 0; i < a->n_groups; i++) {
        if (a->groups[i].n_rows > 0) {
            forward_group(lane, a, &a->groups[i]);
        }
    }
}

void TT_FN(tt_adapter_bwd)(tt_lane *lane, const tt_adapter_bwd_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    if (l->kind == TT_ADAPTER_FULL) {
        tt_weight d = view(l, l->d, a->nq, a->h);
        backward(lane, tt_ptr(a->dq), &d, tt_ptr(a->dx), a->n_rows, true);
        return;
    }
    tt_weight wa = view(l, l->a, l->rank, a->h), wb = view(l, l->b, a->nq, l->rank);
    int64_t n_t = (int64_t)a->n_rows * l->rank;
    float *t = tt_lane_scratch(lane, SLOT_T, (size_t)n_t * sizeof *t);
    if (t != NULL) {
        backward(lane, tt_ptr(a->dq), &wb, t, a->n_rows, false);
        scale_all(t, n_t, l->scale);
        backward(lane, t, &wa, tt_ptr(a->dx), a->n_rows, true);
    }
}

void TT_FN(tt_adapter_grad)(tt_lane *lane, const tt_adapter_grad_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    const float *x = tt_ptr(a->x), *dq = tt_ptr(a->dq);
    if (l->kind == TT_ADAPTER_FULL) {
        TT_FN(tt_product_grad)(lane, dq, x, tt_ptr(a->g), a->n_rows, a->nq, a->h);
        return;
    }
    tt_weight wa = view(l, l->a, l->rank, a->h), wb = view(l, l->b, a->nq, l->rank);
    int64_t n_t = (int64_t)a->n_rows * l->rank;
    float *t = tt_lane_scratch(lane, SLOT_T, (size_t)n_t * sizeof *t);
    if (t == NULL) {
        return;
    }
    backward(lane, dq, &wb, t, a->n_rows, false);
    scale_all(t, n_t, l->scale);
    TT_FN(tt_product_grad)(lane, t, x, tt_ptr(a->g), a->n_rows, l->rank, a->h);
    forward(lane, x, &wa, t, a->n_rows, false, TT_PREFILL);
    scale_all(t, n_t, l->scale);
    TT_FN(tt_product_grad)(lane, dq, t, tt_ptr(a->gb), a->n_rows, a->nq, l->rank);
}
