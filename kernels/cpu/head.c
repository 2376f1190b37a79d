/* head.c - cross-entropy of the output head in blocks of vocabulary columns; the products are
 * matmul.c's. Thread: engine. */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/kern.h"

enum { STATE_MAX, STATE_SUM, STATE_TARGET, STATE_LEN = 4 };
enum { SLOT_LOGITS = 3 }; /* scratch; the products use 0 .. 2 */

static tt_weight block_of(const tt_head_args *a)
{
    tt_weight w = *a->w;
    assert(a->col0 >= 0 && a->n_cols > 0 && a->col0 + a->n_cols <= w.rows);
    w.data += (tt_dev)(a->col0 * tt_row_bytes(w.type, w.cols));
    w.rows = a->n_cols;
    return w;
}

/* The block's logits [n_rows, n_cols]; NULL = sticky failure. */
static float *block_logits(tt_lane *lane, const tt_head_args *a, tt_weight *w)
{
    float *z =
        tt_lane_scratch(lane, SLOT_LOGITS, (size_t)a->n_rows * (size_t)a->n_cols * sizeof *z);
    if (z != NULL) {
        tt_matmul_args m = {.x = a->x, .n_rows = a->n_rows, .n_w = 1, .w = {w}, .y = {tt_addr(z)}};
        TT_FN(tt_product)(lane, &m);
    }
    return lane->err.code == TT_OK ? z : NULL;
}

static float max_of(const float *z, int64_t n, float top)
{
    vf m = vf_set1(top);
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        m = vf_max(m, vf_load(z + i));
    }
    top = vf_hmax(m);
    for (; i < n; i++) {
        top = z[i] > top ? z[i] : top;
    }
    return top;
}

static float sum_exp(const float *z, int64_t n, float top)
{
    vf sum = vf_zero(), vtop = vf_set1(top);
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        sum = vf_add(sum, vf_exp(vf_sub(vf_load(z + i), vtop)));
    }
    float s = vf_sum(sum);
    for (; i < n; i++) {
        s += expf(z[i] - top);
    }
    return s;
}

void TT_FN(tt_head_fwd)(tt_lane *lane, const tt_head_args *a)
{
    tt_weight w = block_of(a);
    const float *z = block_logits(lane, a, &w);
    if (z == NULL) {
        return;
    }
    const int32_t *targets = tt_ptr(a->targets);
#pragma omp parallel for num_threads(lane->n_threads) schedule(static)
    for (int32_t r = 0; r < a->n_rows; r++) {
        const float *row = z + (int64_t)r * a->n_cols;
        float *state = (float *)tt_ptr(a->state) + (int64_t)STATE_LEN * r;
        if (a->col0 == 0) {
            state[STATE_MAX] = -INFINITY;
            state[STATE_SUM] = state[STATE_TARGET] = 0;
        }
        float top = max_of(row, a->n_cols, state[STATE_MAX]);
        float kept = state[STATE_SUM] == 0 ? 0 : state[STATE_SUM] * expf(state[STATE_MAX] - top);
        state[STATE_SUM] = kept + sum_exp(row, a->n_cols, top);
        state[STATE_MAX] = top;
        int32_t t = targets[r] - a->col0;
        if (targets[r] >= 0 && t >= 0 && t < a->n_cols) {
            state[STATE_TARGET] = row[t];
        }
    }
}

/* z = weight * (softmax - onehot), in place. */
static void grad_row(const tt_head_args *a, int32_t r, float *z)
{
    int32_t target = ((const int32_t *)tt_ptr(a->targets))[r], t = target - a->col0;
    if (target < 0) {
        memset(z, 0, (size_t)a->n_cols * sizeof *z);
        return;
    }
    const float *state = (const float *)tt_ptr(a->state) + (int64_t)STATE_LEN * r;
    float weight = ((const float *)tt_ptr(a->row_weight))[r];
    vf top = vf_set1(state[STATE_MAX]), scale = vf_set1(weight / state[STATE_SUM]);
    for (int64_t i = 0; i < a->n_cols; i += VW) {
        vf_put(z, i, a->n_cols, vf_mul(vf_exp(vf_sub(vf_at(z, i, a->n_cols), top)), scale));
    }
    if (t >= 0 && t < a->n_cols) {
        z[t] -= weight;
    }
}

void TT_FN(tt_head_bwd)(tt_lane *lane, const tt_head_args *a)
{
    tt_weight w = block_of(a);
    float *z = block_logits(lane, a, &w);
    if (z == NULL) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(static)
    for (int32_t r = 0; r < a->n_rows; r++) {
        grad_row(a, r, z + (int64_t)r * a->n_cols);
    }
    tt_matmul_bwd_args b = {.dy = {tt_addr(z)},
                            .w = {&w},
                            .n_rows = a->n_rows,
                            .n_w = 1,
                            .dx = a->dx,
                            .accumulate = a->col0 != 0};
    TT_FN(tt_product_bwd)(lane, &b);
}
