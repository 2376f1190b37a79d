/* optim_ref.c - global gradient norm, AdamW and SGD on the device, predicated on a finite loss and
 * gradient. Source: torch.optim.AdamW (decoupled weight decay first), torch.optim.SGD,
 * torch.nn.utils.clip_grad_norm_. */
#include <assert.h>
#include <math.h>
#include <omp.h>

#include "kernels/lane.h"
#include "kernels/quant.h"
#include "kernels/ref/ref.h"

/* Elements whose squares are summed in one go. Sums of blocks are added in order, so the norm does
 * not depend on the number of threads. */
#define BLOCK 4096

static double sum_squares(tt_lane *lane, const float *g, int64_t n)
{
    int64_t n_blocks = (n + BLOCK - 1) / BLOCK;
    double *part = tt_lane_scratch(lane, 0, (size_t)n_blocks * sizeof *part);
    if (part == NULL) {
        return NAN;
    }
#pragma omp parallel for num_threads(lane->n_threads)
    for (int64_t b = 0; b < n_blocks; b++) {
        int64_t end = (b + 1) * BLOCK < n ? (b + 1) * BLOCK : n;
        part[b] = 0;
        for (int64_t i = b * BLOCK; i < end; i++) {
            part[b] += (double)g[i] * g[i];
        }
    }
    double sum = 0;
    for (int64_t b = 0; b < n_blocks; b++) {
        sum += part[b];
    }
    return sum;
}

void tt_optim_begin_ref(tt_lane *lane, const tt_optim_args *a)
{
    tt_train_state *s = tt_ptr(a->state);
    const float *row_loss = tt_ptr(a->row_loss), *row_weight = tt_ptr(a->row_weight);
    s->grad_sq = 0;
    for (int32_t i = 0; i < a->n_tensors; i++) {
        s->grad_sq += sum_squares(lane, tt_ptr(a->t[i].g), a->t[i].n);
    }
    s->loss = 0;
    for (int32_t r = 0; r < a->n_rows; r++) {
        s->loss += (double)row_weight[r] * row_loss[r];
    }
    s->finite = isfinite(s->loss) && isfinite(s->grad_sq);
}

/* What one step does to every element, computed once. */
struct update {
    const tt_optim_args *a;
    double clip;          /* factor on g */
    double decay;         /* AdamW: lr * wd; SGD: wd */
    double step, v_scale; /* AdamW: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t) */
};

static void adamw(const struct update *u, const tt_optim_tensor *t, int64_t i, double w)
{
    float *d = tt_ptr(t->d), *m = tt_ptr(t->m), *v = tt_ptr(t->v);
    double g = u->clip * ((const float *)tt_ptr(t->g))[i];
    double mi = u->a->beta1 * (double)m[i] + (1 - (double)u->a->beta1) * g;
    double vi = u->a->beta2 * (double)v[i] + (1 - (double)u->a->beta2) * g * g;
    m[i] = (float)mi;
    v[i] = (float)vi;
    d[i] =
        (float)(d[i] - u->decay * (w + d[i]) - u->step * mi / (sqrt(vi) * u->v_scale + u->a->eps));
}

static void sgd(const struct update *u, const tt_optim_tensor *t, int64_t i, double w)
{
    float *d = tt_ptr(t->d);
    double g = u->clip * ((const float *)tt_ptr(t->g))[i] + u->decay * (w + d[i]);
    d[i] = (float)(d[i] - u->a->lr * g);
}

/* Elements [i0, i0 + n) of a tensor; w [n] or NULL. */
static void update_range(const struct update *u, const tt_optim_tensor *t, int64_t i0, int64_t n,
                         const float *w)
{
    for (int64_t i = 0; i < n; i++) {
        double wi = w == NULL ? 0 : w[i];
        if (u->a->kind == TT_ADAMW) {
            adamw(u, t, i0 + i, wi);
        } else {
            sgd(u, t, i0 + i, wi);
        }
    }
}

static void update_tensor(tt_lane *lane, const struct update *u, const tt_optim_tensor *t)
{
    const tt_weight *w = t->w;
    int64_t cols = w == NULL ? BLOCK : w->cols;
    assert(w == NULL || t->n == w->rows * w->cols);
#pragma omp parallel for num_threads(lane->n_threads)
    for (int64_t r = 0; r < (t->n + cols - 1) / cols; r++) {
        float *row = NULL;
        if (w != NULL) {
            row = tt_lane_thread_buf(lane, omp_get_thread_num());
            tt_dequant_row(w->type, (const char *)tt_ptr(w->data) + r * tt_row_bytes(w->type, cols),
                           row, cols);
        }
        update_range(u, t, r * cols, t->n - r * cols < cols ? t->n - r * cols : cols, row);
    }
}

void tt_optim_step_ref(tt_lane *lane, const tt_optim_args *a)
{
    tt_train_state *s = tt_ptr(a->state);
    assert(a->step >= 1);
    if (!s->finite) {
        s->n_dropped++;
        return;
    }
    size_t widest = 1; /* reserved for all tensors at once: either all are updated or none */
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const tt_weight *w = a->t[i].w;
        widest = w != NULL && (size_t)w->cols > widest ? (size_t)w->cols : widest;
    }
    if (!tt_lane_reserve_threads(lane, widest * sizeof(float))) {
        return;
    }
    double lr = a->lr;
    struct update u = {.a = a, .clip = 1, .decay = a->weight_decay};
    if (a->clip > 0) {
        u.clip = fmin(1, a->clip / (sqrt(s->grad_sq) + 1e-6));
    }
    if (a->kind == TT_ADAMW) {
        u.decay *= lr;
        u.step = lr / (1 - pow(a->beta1, a->step));
        u.v_scale = 1 / sqrt(1 - pow(a->beta2, a->step));
    }
    for (int32_t i = 0; i < a->n_tensors; i++) {
        update_tensor(lane, &u, &a->t[i]);
    }
}
