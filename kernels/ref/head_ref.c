/* head_ref.c - cross-entropy of the output head in blocks of vocabulary columns, forward and
 * backward. */
#include <assert.h>
#include <math.h>

#include "kernels/ref/product_ref.h"
#include "kernels/ref/ref.h"

enum { STATE_MAX, STATE_SUM, STATE_TARGET, STATE_LEN = 4 };

struct logits {
    double *panels; /* of [n_rows, cols] */
    int64_t cols;
};

static void store_logits(void *ctx, int64_t o, const double *sum, int64_t n_rows)
{
    const struct logits *l = ctx;
    for (int64_t r = 0; r < n_rows; r++) {
        l->panels[tt_ref_panel_index(r, o, l->cols)] = sum[r];
    }
}

/* The block's logits as panels of [n_rows, n_cols]; NULL = sticky failure. */
static double *block_logits(tt_lane *lane, const tt_head_args *a)
{
    const double *x = tt_ref_panels_from(lane, TT_REF_SLOT_IN, tt_ptr(a->x), a->n_rows, a->w->cols);
    struct logits l = {.cols = a->n_cols};
    l.panels = x == NULL ? NULL : tt_ref_panels(lane, TT_REF_SLOT_MID, a->n_rows, a->n_cols);
    if (l.panels != NULL) {
        tt_ref_product(lane, a->w, a->col0, a->n_cols, x, a->n_rows, store_logits, &l);
    }
    return lane->err.code == TT_OK ? l.panels : NULL;
}

void tt_head_fwd_ref(tt_lane *lane, const tt_head_args *a)
{
    const int32_t *targets = tt_ptr(a->targets);
    const double *z = block_logits(lane, a);
    if (z == NULL) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads)
    for (int32_t r = 0; r < a->n_rows; r++) {
        float *state = (float *)tt_ptr(a->state) + STATE_LEN * (size_t)r;
        double old = a->col0 == 0 ? -INFINITY : state[STATE_MAX], max = old;
        for (int32_t c = 0; c < a->n_cols; c++) {
            double v = z[tt_ref_panel_index(r, c, a->n_cols)];
            max = v > max ? v : max;
        }
        float stored = (float)max; /* the sum is relative to the maximum as it is stored */
        double sum = a->col0 == 0 ? 0 : state[STATE_SUM] * exp(old - stored);
        for (int32_t c = 0; c < a->n_cols; c++) {
            sum += exp(z[tt_ref_panel_index(r, c, a->n_cols)] - stored);
        }
        int32_t t = targets[r] - a->col0;
        if (targets[r] >= 0 && t >= 0 && t < a->n_cols) {
            state[STATE_TARGET] = (float)z[tt_ref_panel_index(r, t, a->n_cols)];
        } else if (a->col0 == 0) {
            state[STATE_TARGET] = 0;
        }
        state[STATE_MAX] = stored;
        state[STATE_SUM] = (float)sum;
    }
}

void tt_head_finish_ref(tt_lane *lane, const tt_head_args *a)
{
    (void)lane;
    const int32_t *targets = tt_ptr(a->targets);
    const float *state = tt_ptr(a->state);
    float *loss = tt_ptr(a->row_loss);
    for (int32_t r = 0; r < a->n_rows; r++, state += STATE_LEN) {
        assert(targets[r] < a->w->rows);
        loss[r] =
            targets[r] < 0
                ? 0
                : (float)(state[STATE_MAX] + log((double)state[STATE_SUM]) - state[STATE_TARGET]);
    }
}

void tt_head_bwd_ref(tt_lane *lane, const tt_head_args *a)
{
    const int32_t *targets = tt_ptr(a->targets);
    const float *weight = tt_ptr(a->row_weight);
    double *z = block_logits(lane, a);
    double *sums = z == NULL ? NULL : tt_ref_sums(lane, a->n_rows, a->w->cols);
    if (sums == NULL) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads)
    for (int32_t r = 0; r < a->n_rows; r++) {
        const float *state = (const float *)tt_ptr(a->state) + STATE_LEN * (size_t)r;
        for (int32_t c = 0; c < a->n_cols; c++) {
            double *v = &z[tt_ref_panel_index(r, c, a->n_cols)];
            double p = exp(*v - state[STATE_MAX]) / state[STATE_SUM];
            *v = targets[r] < 0 ? 0 : weight[r] * (p - (a->col0 + c == targets[r] ? 1 : 0));
        }
    }
    tt_ref_product_t(lane, a->w, a->col0, a->n_cols, z, a->n_rows, sums);
    if (lane->err.code == TT_OK) {
        tt_ref_store_sums(lane, sums, a->n_rows, a->w->cols, tt_ptr(a->dx), a->col0 != 0);
    }
}
