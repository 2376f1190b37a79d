/* profile_work.c - what one call of an operation reads, writes and computes, from its arguments;
 * see profile.h. Thread: pure functions. */
#include "core/profile.h"

static double weight_bytes(const tt_weight *w)
{
    return (double)w->rows * (double)tt_row_bytes(w->type, w->cols);
}

static double floats(double n)
{
    return n * (double)sizeof(float);
}

tt_profile_work tt_work_matmul(const tt_matmul_args *a)
{
    tt_profile_work k = {.bytes = floats((double)a->n_rows * (double)a->w[0]->cols)};
    for (int32_t i = 0; i < a->n_w; i++) {
        double y = (double)a->n_rows * (double)a->w[i]->rows;
        k.bytes += weight_bytes(a->w[i]) + floats(y) * (a->accumulate ? 2 : 1);
        k.flops += 2 * y * (double)a->w[i]->cols;
    }
    return k;
}

tt_profile_work tt_work_matmul_bwd(const tt_matmul_bwd_args *a)
{
    double dx = (double)a->n_rows * (double)a->w[0]->cols;
    tt_profile_work k = {.bytes = floats(dx) * (a->accumulate ? 2 : 1)};
    for (int32_t i = 0; i < a->n_w; i++) {
        double dy = (double)a->n_rows * (double)a->w[i]->rows;
        k.bytes += weight_bytes(a->w[i]) + floats(dy);
        k.flops += 2 * dy * (double)a->w[i]->cols;
    }
    return k;
}

/* Elements of an adapter's layer; a product with it takes two operations for each. */
static double elements(const tt_adapter_layer *l, int32_t h, int32_t nq)
{
    return l->kind == TT_ADAPTER_FULL ? (double)h * nq : (double)l->rank * ((double)h + nq);
}

static double adapter_bytes(const tt_adapter_layer *l, int32_t h, int32_t nq)
{
    return (double)tt_row_bytes(l->type, 1) * elements(l, h, nq);
}

tt_profile_work tt_work_adapter_fwd(const tt_adapter_fwd_args *a)
{
    tt_profile_work k = {0};
    for (int32_t i = 0; i < a->n_groups; i++) {
        const tt_adapter_group *g = &a->groups[i];
        k.bytes += adapter_bytes(&g->layer, a->h, a->nq) +
                   floats((double)g->n_rows * ((double)a->h + 2.0 * a->nq));
        k.flops += 2.0 * g->n_rows * elements(&g->layer, a->h, a->nq);
    }
    return k;
}

tt_profile_work tt_work_adapter_bwd(const tt_adapter_bwd_args *a)
{
    return (tt_profile_work){.bytes = adapter_bytes(&a->layer, a->h, a->nq) +
                                      floats((double)a->n_rows * (2.0 * a->h + a->nq)),
                             .flops = 2.0 * a->n_rows * elements(&a->layer, a->h, a->nq)};
}

/* Of LoRA x A^T and dq B come first. */
tt_profile_work tt_work_adapter_grad(const tt_adapter_grad_args *a)
{
    double n = elements(&a->layer, a->h, a->nq), x = (double)a->n_rows * ((double)a->h + a->nq);
    bool full = a->layer.kind == TT_ADAPTER_FULL;
    return (tt_profile_work){.bytes =
                                 floats(x + n) + (full ? 0 : adapter_bytes(&a->layer, a->h, a->nq)),
                             .flops = (full ? 2.0 : 4.0) * a->n_rows * n};
}

/* Of one token in one layer. */
static double kv_token_bytes(const tt_kv_layer *kv)
{
    double head = (double)tt_row_bytes(kv->type, kv->head_dim);
    head += kv->type == TT_I8 ? (double)sizeof(float) : 0;
    return 2 * head * kv->n_kv_heads;
}

tt_profile_work tt_work_qk_rope(const tt_qk_rope_args *a)
{
    double nq = (double)a->n_heads * a->kv->head_dim;
    double k = a->k != 0 ? 2.0 * a->kv->n_kv_heads * a->kv->head_dim : 0;
    double out = a->k != 0 ? kv_token_bytes(a->kv) : 0;
    return (tt_profile_work){.bytes = a->n_rows * (floats((a->q_pre != 0 ? 3 : 2) * nq + k) + out)};
}

/* Keys that the rows of a segment see, summed over them. */
static double seen(const tt_seg *g, int32_t window)
{
    double first = g->pos0 + 1.0, last = g->pos0 + (double)g->n_rows;
    if (window <= 0 || last <= window) {
        return (first + last) * g->n_rows / 2;
    }
    if (first > window) {
        return (double)window * g->n_rows;
    }
    double rising = window - first + 1; /* rows that see less than the window, or just all of it */
    return (first + window) * rising / 2 + window * (g->n_rows - rising);
}

double tt_work_keys(const tt_attention_args *a)
{
    double sum = 0;
    for (int32_t i = 0; i < a->n_segs; i++) {
        sum += seen(&a->segs_host[i], a->window);
    }
    return sum;
}

/* Tokens whose keys and values the segments' rows read, each once for a segment. */
static double tokens_read(const tt_attention_args *a)
{
    double sum = 0;
    for (int32_t i = 0; i < a->n_segs; i++) {
        const tt_seg *g = &a->segs_host[i];
        double end = g->pos0 + (double)g->n_rows, begin = g->pos0 + 1.0 - a->window;
        sum += a->window > 0 && begin > 0 ? end - begin : end;
    }
    return sum;
}

tt_profile_work tt_work_attention(const tt_attention_args *a)
{
    double nq = (double)a->n_heads * a->kv->head_dim;
    return (tt_profile_work){.bytes = tokens_read(a) * kv_token_bytes(a->kv) +
                                      floats(a->n_rows * (2 * nq + (a->lse != 0 ? a->n_heads : 0))),
                             .flops = 4 * nq * tt_work_keys(a)};
}

/* Scores again, dP, dQ. */
tt_profile_work tt_work_attention_bwd(const tt_attention_bwd_args *a)
{
    double nq = (double)a->fwd.n_heads * a->fwd.kv->head_dim;
    return (tt_profile_work){.bytes = tokens_read(&a->fwd) * kv_token_bytes(a->fwd.kv) +
                                      floats(a->fwd.n_rows * (4 * nq + a->fwd.n_heads)),
                             .flops = 6 * nq * tt_work_keys(&a->fwd)};
}

tt_profile_work tt_work_head(const tt_head_args *a, bool backward)
{
    double h = (double)a->w->cols, rows = a->n_rows;
    double w = (double)a->n_cols * (double)tt_row_bytes(a->w->type, a->w->cols);
    return (tt_profile_work){.bytes = w + floats(rows * h) * (backward ? 3 : 1),
                             .flops = (backward ? 4 : 2) * rows * h * a->n_cols};
}

/* begin reads g; a step of Adam reads g, d, m, v and writes the last three, of SGD g, d and d. */
tt_profile_work tt_work_optim(const tt_optim_args *a, bool step)
{
    tt_profile_work k = {0};
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const tt_optim_tensor *t = &a->t[i];
        double passes = !step ? 1 : a->kind == TT_ADAMW ? 7 : 3;
        k.bytes += floats(passes * (double)t->n);
        k.bytes += step && t->w != NULL && a->weight_decay != 0 ? weight_bytes(t->w) : 0;
    }
    return k;
}
