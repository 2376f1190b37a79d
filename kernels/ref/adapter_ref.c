/* adapter_ref.c - the additive term of the query projection, its transpose, its gradient and its
 * norm. LoRA: q += scale * B (A x), source arXiv 2106.09685. */
#include <omp.h>

#include "kernels/quant.h"
#include "kernels/ref/product_ref.h"
#include "kernels/ref/ref.h"

static tt_weight full_weight(const tt_adapter_layer *l, int32_t nq, int32_t h)
{
    return (tt_weight){.type = l->type, .rows = nq, .cols = h, .data = l->d};
}

static tt_weight a_weight(const tt_adapter_layer *l, int32_t h)
{
    return (tt_weight){.type = l->type, .rows = l->rank, .cols = h, .data = l->a};
}

static tt_weight b_weight(const tt_adapter_layer *l, int32_t nq)
{
    return (tt_weight){.type = l->type, .rows = nq, .cols = l->rank, .data = l->b};
}

struct add_ctx {
    float *q;
    int64_t ld;
    double scale;
};

static void add_rows(void *ctx, int64_t o, const double *sum, int64_t n_rows)
{
    const struct add_ctx *s = ctx;
    for (int64_t r = 0; r < n_rows; r++) {
        float *q = s->q + r * s->ld + o;
        *q = (float)(*q + s->scale * sum[r]);
    }
}

struct panel_ctx {
    double *panels;
    int64_t cols;
};

static void store_panel(void *ctx, int64_t o, const double *sum, int64_t n_rows)
{
    const struct panel_ctx *s = ctx;
    for (int64_t r = 0; r < n_rows; r++) {
        s->panels[tt_ref_panel_index(r, o, s->cols)] = sum[r];
    }
}

/* t = x A^T as panels of [n_rows, rank] in TT_REF_SLOT_MID; NULL = sticky failure. */
static double *lora_inner(tt_lane *lane, const tt_adapter_layer *l, const double *x, int64_t n_rows,
                          int32_t h)
{
    tt_weight a = a_weight(l, h);
    struct panel_ctx ctx = {tt_ref_panels(lane, TT_REF_SLOT_MID, n_rows, l->rank), l->rank};
    if (ctx.panels != NULL) {
        tt_ref_product(lane, &a, 0, a.rows, x, n_rows, store_panel, &ctx);
    }
    return lane->err.code == TT_OK ? ctx.panels : NULL;
}

void tt_adapter_fwd_ref(tt_lane *lane, const tt_adapter_fwd_args *a)
{
    for (int32_t i = 0; i < a->n_groups; i++) {
        const tt_adapter_group *g = &a->groups[i];
        const tt_adapter_layer *l = &g->layer;
        const double *x = tt_ref_panels_from(lane, TT_REF_SLOT_IN,
                                             (const float *)tt_ptr(a->x) + (int64_t)g->row0 * a->h,
                                             g->n_rows, a->h);
        struct add_ctx ctx = {(float *)tt_ptr(a->q) + (int64_t)g->row0 * a->nq, a->nq, 1};
        tt_weight w = full_weight(l, a->nq, a->h);
        if (x != NULL && l->kind == TT_ADAPTER_LORA) {
            x = lora_inner(lane, l, x, g->n_rows, a->h);
            w = b_weight(l, a->nq);
            ctx.scale = l->scale;
        }
        if (x == NULL) {
            return;
        }
        tt_ref_product(lane, &w, 0, w.rows, x, g->n_rows, add_rows, &ctx);
    }
}

/* u = dq B as sums [n_rows, rank] in TT_REF_SLOT_SUM. */
static double *lora_outer(tt_lane *lane, const tt_adapter_layer *l, const double *dq,
                          int64_t n_rows, int32_t nq)
{
    tt_weight b = b_weight(l, nq);
    double *u = tt_ref_sums(lane, n_rows, l->rank);
    if (u != NULL) {
        tt_ref_product_t(lane, &b, 0, nq, dq, n_rows, u);
    }
    return lane->err.code == TT_OK ? u : NULL;
}

void tt_adapter_bwd_ref(tt_lane *lane, const tt_adapter_bwd_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    const double *coef = tt_ref_panels_from(lane, TT_REF_SLOT_IN, tt_ptr(a->dq), a->n_rows, a->nq);
    tt_weight w = full_weight(l, a->nq, a->h);
    if (coef != NULL && l->kind == TT_ADAPTER_LORA) {
        const double *u = lora_outer(lane, l, coef, a->n_rows, a->nq);
        double *p = u == NULL ? NULL : tt_ref_panels(lane, TT_REF_SLOT_MID, a->n_rows, l->rank);
        for (int64_t r = 0; p != NULL && r < a->n_rows; r++) {
            for (int32_t c = 0; c < l->rank; c++) {
                p[tt_ref_panel_index(r, c, l->rank)] = l->scale * u[r * l->rank + c];
            }
        }
        coef = p;
        w = a_weight(l, a->h);
    }
    double *sums = coef == NULL ? NULL : tt_ref_sums(lane, a->n_rows, a->h);
    if (sums == NULL) {
        return;
    }
    tt_ref_product_t(lane, &w, 0, w.rows, coef, a->n_rows, sums);
    if (lane->err.code == TT_OK) {
        tt_ref_store_sums(lane, sums, a->n_rows, a->h, tt_ptr(a->dx), true);
    }
}

/* x[n] as doubles in `slot`; NULL = sticky failure. */
static double *as_doubles(tt_lane *lane, int slot, const float *x, size_t n)
{
    double *y = tt_lane_scratch(lane, slot, n * sizeof *y);
    for (size_t i = 0; y != NULL && i < n; i++) {
        y[i] = x[i];
    }
    return y;
}

/* g[m, n] = scale * u^T v for u [n_rows, m], v [n_rows, n]; sum is [n] a thread. */
static void outer_product(tt_lane *lane, const double *u, int64_t m, const double *v, int64_t n,
                          int64_t n_rows, double scale, float *g)
{
    if (!tt_lane_reserve_threads(lane, (size_t)n * sizeof(double))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads)
    for (int64_t i = 0; i < m; i++) {
        double *sum = tt_lane_thread_buf(lane, omp_get_thread_num());
        memset(sum, 0, (size_t)n * sizeof *sum);
        for (int64_t r = 0; r < n_rows; r++) {
            for (int64_t j = 0; j < n; j++) {
                sum[j] += u[r * m + i] * v[r * n + j];
            }
        }
        for (int64_t j = 0; j < n; j++) {
            g[i * n + j] = (float)(scale * sum[j]);
        }
    }
}

/* gb = scale * dq^T (x A^T). */
static void lora_grad_b(tt_lane *lane, const tt_adapter_grad_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    const double *x = tt_ref_panels_from(lane, TT_REF_SLOT_IN, tt_ptr(a->x), a->n_rows, a->h);
    const double *p = x == NULL ? NULL : lora_inner(lane, l, x, a->n_rows, a->h);
    double *t = p == NULL ? NULL : tt_ref_sums(lane, a->n_rows, l->rank);
    for (int64_t r = 0; t != NULL && r < a->n_rows; r++) {
        for (int32_t c = 0; c < l->rank; c++) {
            t[r * l->rank + c] = p[tt_ref_panel_index(r, c, l->rank)];
        }
    }
    size_t n_dq = (size_t)a->n_rows * (size_t)a->nq;
    const double *dq = t == NULL ? NULL : as_doubles(lane, TT_REF_SLOT_IN, tt_ptr(a->dq), n_dq);
    if (dq != NULL) {
        outer_product(lane, dq, a->nq, t, l->rank, a->n_rows, l->scale, tt_ptr(a->gb));
    }
}

void tt_adapter_grad_ref(tt_lane *lane, const tt_adapter_grad_args *a)
{
    const tt_adapter_layer *l = &a->layer;
    size_t n_dq = (size_t)a->n_rows * (size_t)a->nq, n_x = (size_t)a->n_rows * (size_t)a->h;
    const double *u;
    int64_t m = a->nq;
    double scale = 1;
    if (l->kind == TT_ADAPTER_LORA) {
        lora_grad_b(lane, a);
        const double *dq =
            tt_ref_panels_from(lane, TT_REF_SLOT_IN, tt_ptr(a->dq), a->n_rows, a->nq);
        u = dq == NULL ? NULL : lora_outer(lane, l, dq, a->n_rows, a->nq);
        m = l->rank;
        scale = l->scale;
    } else {
        u = as_doubles(lane, TT_REF_SLOT_SUM, tt_ptr(a->dq), n_dq);
    }
    const double *x = u == NULL ? NULL : as_doubles(lane, TT_REF_SLOT_IN, tt_ptr(a->x), n_x);
    if (x != NULL) {
        outer_product(lane, u, m, x, a->h, a->n_rows, scale, tt_ptr(a->g));
    }
}

/* Squared norm of row o of the effective delta. row, tmp: [h]. */
static double delta_row_sq(const tt_adapter_layer *l, int64_t o, int64_t h, float *tmp, double *row)
{
    double sq = 0;
    if (l->kind == TT_ADAPTER_FULL) {
        tt_dequant_row(l->type, (const char *)tt_ptr(l->d) + o * tt_row_bytes(l->type, h), tmp, h);
        for (int64_t c = 0; c < h; c++) {
            sq += (double)tmp[c] * tmp[c];
        }
        return sq;
    }
    memset(row, 0, (size_t)h * sizeof *row);
    int64_t b_bytes = tt_row_bytes(l->type, 1);
    for (int64_t k = 0; k < l->rank; k++) {
        float b;
        tt_dequant_row(l->type, (const char *)tt_ptr(l->b) + (o * l->rank + k) * b_bytes, &b, 1);
        tt_dequant_row(l->type, (const char *)tt_ptr(l->a) + k * tt_row_bytes(l->type, h), tmp, h);
        for (int64_t c = 0; c < h; c++) {
            row[c] += l->scale * (double)b * tmp[c];
        }
    }
    for (int64_t c = 0; c < h; c++) {
        sq += row[c] * row[c];
    }
    return sq;
}

void tt_delta_norm_ref(tt_lane *lane, const tt_delta_norm_args *a)
{
    const tt_weight *w = a->w;
    int64_t h = w->cols;
    double *sq = tt_lane_scratch(lane, TT_REF_SLOT_SUM, 2 * (size_t)w->rows * sizeof *sq);
    if (sq == NULL ||
        !tt_lane_reserve_threads(lane, (size_t)h * (sizeof(double) + sizeof(float)))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads)
    for (int64_t o = 0; o < w->rows; o++) {
        double *row = tt_lane_thread_buf(lane, omp_get_thread_num());
        float *tmp = (float *)(row + h);
        sq[2 * o] = delta_row_sq(&a->layer, o, h, tmp, row);
        tt_dequant_row(w->type, (const char *)tt_ptr(w->data) + o * tt_row_bytes(w->type, h), tmp,
                       h);
        sq[2 * o + 1] = 0;
        for (int64_t c = 0; c < h; c++) {
            sq[2 * o + 1] += (double)tmp[c] * tmp[c];
        }
    }
    double *out = tt_ptr(a->out);
    out[0] = out[1] = 0;
    for (int64_t o = 0; o < w->rows; o++) {
        out[0] += sq[2 * o];
        out[1] += sq[2 * o + 1];
    }
}
