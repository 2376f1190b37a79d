/* backward.c - the backward pass of a training step: from the loss down to the query projections
 * and nowhere else. K and V are constants (the span's own included, that is qTTT's definition),
 * every weight but the adapter is frozen, so a layer hands down dX only and keeps G += dq^T x.
 * Below the lowest trained layer nothing runs. Source: docs/qttt.md section 2. Thread: engine only.
 */
#include "core/step_priv.h"

static void norm_bwd(tt_step *s, tt_dev x, const tt_vector *w, tt_dev dy, tt_dev dx,
                     bool accumulate)
{
    s->d->ops.rmsnorm_bwd(s->d->lane, &(tt_rmsnorm_bwd_args){.x = x,
                                                             .w = w->dev,
                                                             .dy = dy,
                                                             .dx = dx,
                                                             .n_rows = s->n_rows,
                                                             .dim = s->d->model->hidden,
                                                             .eps = s->d->model->norm_eps,
                                                             .accumulate = accumulate});
}

/* The gradient at the output of a projection: through its post-norm, if the model has one. */
static tt_dev through_post_norm(tt_step *s, const tt_vector *post, tt_dev before)
{
    if (post->host == NULL) {
        return s->dx;
    }
    norm_bwd(s, before, post, s->dx, s->dproj, false);
    return s->dproj;
}

static void matmul_bwd(tt_step *s, tt_dev dy, tt_matrix *w, tt_dev dx)
{
    s->d->ops.matmul_bwd(
        s->d->lane,
        &(tt_matmul_bwd_args){.dy = {dy}, .w = {&w->w}, .n_rows = s->n_rows, .n_w = 1, .dx = dx});
}

void tt_step_head_bwd(tt_step *s, int32_t block)
{
    tt_head_args a = tt_step_head_args(s, block);
    s->d->ops.head_bwd(s->d->lane, &a);
    if (block + 1 == tt_step_head_blocks(s)) {
        norm_bwd(s, s->x, &s->d->model->final_norm, s->dxn, s->dx, false);
    }
}

static void feed_forward_bwd(tt_step *s, tt_layer *l, tt_saved *v)
{
    const tt_model *m = s->d->model;
    tt_dev dout = through_post_norm(s, &l->ffn_post_norm, v->ffn_out);
    matmul_bwd(s, dout, &l->down, s->dgate);
    s->d->ops.gated_bwd(s->d->lane, &(tt_gated_bwd_args){.gate = v->gate,
                                                         .up = v->up,
                                                         .dy = s->dgate,
                                                         .d_gate = s->dgate,
                                                         .d_up = s->dup,
                                                         .n_rows = s->n_rows,
                                                         .dim = m->ffn,
                                                         .act = m->act});
    s->d->ops.matmul_bwd(s->d->lane, &(tt_matmul_bwd_args){.dy = {s->dgate, s->dup},
                                                           .w = {&l->gate.w, &l->up.w},
                                                           .n_rows = s->n_rows,
                                                           .n_w = 2,
                                                           .dx = s->dxn});
    norm_bwd(s, v->x_mid, &l->ffn_norm, s->dxn, s->dx, true);
}

/* dq at the output of the query projection, before bias, norm and RoPE. */
static void attention_bwd(tt_step *s, tt_layer *l, tt_saved *v, int32_t layer)
{
    const tt_model *m = s->d->model;
    tt_dev dout = through_post_norm(s, &l->attn_post_norm, v->attn_out);
    matmul_bwd(s, dout, &l->wo, s->d_o);
    tt_attention_bwd_args a = {
        .fwd = tt_step_attention_args(s, layer), .d_out = s->d_o, .dq = s->dq};
    s->d->ops.attention_bwd(s->d->lane, &a);
    s->d->ops.q_rope_bwd(s->d->lane, &(tt_q_rope_bwd_args){.dq = s->dq,
                                                           .q_pre = v->q_pre,
                                                           .q_norm = l->q_norm.dev,
                                                           .positions = s->positions,
                                                           .rope = tt_step_rope(m, l),
                                                           .n_rows = s->n_rows,
                                                           .n_heads = m->n_heads,
                                                           .head_dim = m->head_dim,
                                                           .norm_eps = m->norm_eps});
}

static void query_bwd(tt_step *s, tt_layer *l, tt_saved *v, int32_t layer)
{
    const tt_model *m = s->d->model;
    int32_t nq = m->n_heads * m->head_dim;
    bool trained = tt_adapter_has(s->opt.trainee, layer);
    if (trained) {
        const tt_adapter_layer *g = &s->opt.grads->layers[layer];
        bool full = g->kind == TT_ADAPTER_FULL;
        /* the normed input is recomputed: cheaper than keeping [R, H] of every layer */
        s->d->ops.rmsnorm(s->d->lane, &(tt_rmsnorm_args){.x = v->x_in,
                                                         .w = l->attn_norm.dev,
                                                         .y = s->xn,
                                                         .n_rows = s->n_rows,
                                                         .dim = m->hidden,
                                                         .eps = m->norm_eps});
        s->d->ops.adapter_grad(s->d->lane,
                               &(tt_adapter_grad_args){.x = s->xn,
                                                       .dq = s->dq,
                                                       .g = full ? g->d : g->a,
                                                       .gb = full ? 0 : g->b,
                                                       .n_rows = s->n_rows,
                                                       .h = m->hidden,
                                                       .nq = nq,
                                                       .layer = s->opt.trainee->layers[layer]});
    }
    if (layer == s->first_layer) {
        return; /* nothing below is trained */
    }
    matmul_bwd(s, s->dq, &l->wq, s->dxn);
    if (trained) {
        s->d->ops.adapter_bwd(s->d->lane,
                              &(tt_adapter_bwd_args){.dq = s->dq,
                                                     .dx = s->dxn,
                                                     .n_rows = s->n_rows,
                                                     .h = m->hidden,
                                                     .nq = nq,
                                                     .layer = s->opt.trainee->layers[layer]});
    }
    norm_bwd(s, v->x_in, &l->attn_norm, s->dxn, s->dx, true);
}

void tt_step_layer_bwd(tt_step *s, int32_t layer)
{
    tt_layer *l = &s->d->model->layers[layer];
    tt_saved *v = &s->saved[layer];
    feed_forward_bwd(s, l, v);
    attention_bwd(s, l, v, layer);
    query_bwd(s, l, v, layer);
}
