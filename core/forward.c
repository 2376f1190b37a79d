/* forward.c - see forward.h. The order of the operations of a layer is written once, here, for
 * every architecture and device:
 *   x -> norm -> q,k,v -> adapter -> bias, q/k-norm, RoPE, K/V write -> attention
 *     -> wo (-> post-norm) -> + residual
 *     -> norm -> gate, up -> act * -> down (-> post-norm) -> + residual
 * What a family has or lacks are pointers in tt_layer, not branches on its name. */
#include "core/forward.h"

#include <assert.h>

#include "core/step_priv.h"

/* ---- the layer ---- */

/* The rows of segments with an adapter in this layer, neighbours with the same adapter in one
 * group. */
static int32_t adapter_groups(tt_step *s, int32_t layer)
{
    int32_t n = 0;
    const tt_adapter *prev = NULL;
    for (int32_t i = 0; i < s->n_segs; i++) {
        const tt_adapter *a = s->segs[i].adapter;
        const tt_seg *g = &s->dev_segs_host[i];
        if (!tt_adapter_has(a, layer)) {
            prev = NULL;
        } else if (a == prev) {
            s->groups[n - 1].n_rows += g->n_rows;
        } else {
            s->groups[n++] =
                (tt_adapter_group){.row0 = g->row0, .n_rows = g->n_rows, .layer = a->layers[layer]};
            prev = a;
        }
    }
    return n;
}

static void project_qkv(tt_step *s, tt_layer *l, tt_saved *v, int32_t layer)
{
    const tt_model *m = s->d->model;
    tt_matmul_args a = {
        .x = s->xn,
        .n_rows = s->n_rows,
        .n_w =
            s->any_store ? 3 : 1, /* rows that read all K/V from the cache need no K/V products */
        .w = {&l->wq.w, &l->wk.w, &l->wv.w},
        .y = {v->q, s->k, s->v},
        .family = s->opt.family,
    };
    s->d->ops.matmul(s->d->lane, &a);
    int32_t n_groups = adapter_groups(s, layer);
    if (n_groups > 0) {
        s->d->ops.adapter_fwd(s->d->lane, &(tt_adapter_fwd_args){.x = s->xn,
                                                                 .q = v->q,
                                                                 .h = m->hidden,
                                                                 .nq = m->n_heads * m->head_dim,
                                                                 .groups = s->groups,
                                                                 .n_groups = n_groups,
                                                                 .family = s->opt.family});
    }
    tt_qk_rope_args q = {
        .q = v->q,
        .k = s->any_store ? s->k : 0,
        .v = s->any_store ? s->v : 0,
        .bq = l->bq.dev,
        .bk = l->bk.dev,
        .bv = l->bv.dev,
        .q_norm = l->q_norm.dev,
        .k_norm = l->k_norm.dev,
        .q_pre = s->opt.trainee != NULL ? v->q_pre : 0,
        .positions = s->positions,
        .kv_slot = s->kv_slot,
        .kv = tt_kv_layer_of(s->kv, layer),
        .rope = tt_step_rope(m, l),
        .n_rows = s->n_rows,
        .n_heads = m->n_heads,
        .norm_eps = m->norm_eps,
    };
    s->d->ops.qk_rope(s->d->lane, &q);
}

static void norm(tt_step *s, tt_dev x, const tt_vector *w, tt_dev add, tt_dev y)
{
    s->d->ops.rmsnorm(s->d->lane, &(tt_rmsnorm_args){.x = x,
                                                     .w = w->dev,
                                                     .add = add,
                                                     .y = y,
                                                     .n_rows = s->n_rows,
                                                     .dim = s->d->model->hidden,
                                                     .eps = s->d->model->norm_eps});
}

/* y[R, H] = residual + (post-norm of) in W^T. `keep` receives the product before the post-norm. */
static void project_out(tt_step *s, tt_matrix *w, tt_dev in, const tt_vector *post, tt_dev keep,
                        tt_dev residual, tt_dev y)
{
    tt_matmul_args a = {
        .x = in, .n_rows = s->n_rows, .n_w = 1, .w = {&w->w}, .family = s->opt.family};
    if (post->host == NULL) {
        if (y != residual) {
            s->d->ops.copy(s->d->lane, y, residual,
                           (size_t)s->n_rows * (size_t)s->d->model->hidden * sizeof(float));
        }
        a.y[0] = y;
        a.accumulate = true;
        s->d->ops.matmul(s->d->lane, &a);
        return;
    }
    a.y[0] = keep != 0 ? keep : s->proj;
    s->d->ops.matmul(s->d->lane, &a);
    norm(s, a.y[0], post, residual, y);
}

tt_rope tt_step_rope(const tt_model *m, const tt_layer *l)
{
    const tt_rope_params *r = &m->rope[l->rope];
    return (tt_rope){
        .kind = r->kind, .rot_dim = r->rot_dim, .inv_freq = r->inv_freq.dev, .mscale = r->mscale};
}

tt_attention_args tt_step_attention_args(const tt_step *s, int32_t layer)
{
    const tt_model *m = s->d->model;
    const tt_saved *v = &s->saved[layer];
    return (tt_attention_args){
        .q = v->q,
        .out = v->o,
        .lse = v->lse,
        .segs = s->dev_segs,
        .segs_host = s->dev_segs_host,
        .page_table = s->page_table,
        .kv = tt_kv_layer_of(s->kv, layer),
        .n_rows = s->n_rows,
        .n_segs = s->n_segs,
        .n_heads = m->n_heads,
        .window = m->layers[layer].window,
        .scale = m->attn_scale,
        .family = s->opt.family,
    };
}

static void feed_forward(tt_step *s, tt_layer *l, tt_saved *v, tt_dev x_mid, tt_dev x_out)
{
    const tt_model *m = s->d->model;
    bool train = s->opt.trainee != NULL;
    norm(s, x_mid, &l->ffn_norm, 0, s->xn);
    tt_matmul_args a = {.x = s->xn,
                        .n_rows = s->n_rows,
                        .n_w = 2,
                        .w = {&l->gate.w, &l->up.w},
                        .y = {v->gate, v->up},
                        .family = s->opt.family};
    s->d->ops.matmul(s->d->lane, &a);
    tt_dev y =
        train ? s->dgate : v->gate; /* a training step keeps gate and up for the backward pass */
    s->d->ops.gated(s->d->lane, &(tt_gated_args){.gate = v->gate,
                                                 .up = v->up,
                                                 .y = y,
                                                 .n_rows = s->n_rows,
                                                 .dim = m->ffn,
                                                 .act = m->act});
    project_out(s, &l->down, y, &l->ffn_post_norm, v->ffn_out, x_mid, x_out);
}

static void layer_fwd(tt_step *s, int32_t layer)
{
    const tt_model *m = s->d->model;
    tt_layer *l = &m->layers[layer];
    tt_saved *v = &s->saved[layer];
    bool train = s->opt.trainee != NULL;
    tt_dev x_in = train ? v->x_in : s->x, x_mid = train ? v->x_mid : s->x;
    tt_dev x_out = train && layer + 1 < m->n_layers ? s->saved[layer + 1].x_in : s->x;
    norm(s, x_in, &l->attn_norm, 0, s->xn);
    project_qkv(s, l, v, layer);
    if (layer + 1 == m->n_layers && s->n_last == 0 && !s->any_all && !s->any_loss) {
        return; /* nobody reads the last layer's output, only its K/V */
    }
    tt_attention_args attention = tt_step_attention_args(s, layer);
    s->d->ops.attention(s->d->lane, &attention);
    project_out(s, &l->wo, v->o, &l->attn_post_norm, v->attn_out, x_in, x_mid);
    feed_forward(s, l, v, x_mid, x_out);
}

/* ---- the ends ---- */

static void embed(tt_step *s)
{
    tt_model *m = s->d->model;
    s->d->ops.embed(s->d->lane,
                    &(tt_embed_args){.ids = s->ids,
                                     .table = &m->embed.w,
                                     .x = s->opt.trainee != NULL ? s->saved[0].x_in : s->x,
                                     .n_rows = s->n_rows,
                                     .scale = m->embed_scale});
}

static tt_weight *head_weight(const tt_step *s)
{
    tt_model *m = s->d->model;
    return m->tied_head ? &m->embed.w : &m->head.w;
}

tt_head_args tt_step_head_args(const tt_step *s, int32_t block)
{
    int32_t col0 = block * TT_HEAD_BLOCK, left = s->d->model->n_vocab - col0;
    return (tt_head_args){.x = s->xn,
                          .w = head_weight(s),
                          .targets = s->targets,
                          .row_weight = s->row_weight,
                          .state = s->head_state,
                          .row_loss = s->row_loss,
                          .dx = s->dxn,
                          .n_rows = s->n_rows,
                          .col0 = col0,
                          .n_cols = left < TT_HEAD_BLOCK ? left : TT_HEAD_BLOCK};
}

int32_t tt_step_head_blocks(const tt_step *s)
{
    return (s->d->model->n_vocab + TT_HEAD_BLOCK - 1) / TT_HEAD_BLOCK;
}

static void last_logits(tt_step *s)
{
    const tt_model *m = s->d->model;
    s->d->ops.gather(
        s->d->lane,
        &(tt_gather_args){
            .x = s->xn, .idx = s->last_idx, .y = s->proj, .n_rows = s->n_last, .dim = m->hidden});
    tt_matmul_args a = {.x = s->proj,
                        .n_rows = s->n_last,
                        .n_w = 1,
                        .w = {head_weight(s)},
                        .y = {s->logits_dev},
                        .family = s->opt.family};
    s->d->ops.matmul(s->d->lane, &a);
    if (s->n_logits > 0) {
        s->d->ops.download(s->d->lane, s->logits, s->logits_dev,
                           (size_t)s->n_logits * (size_t)m->n_vocab * sizeof(float));
    }
    if (s->n_draws > 0) { /* after the download: it takes the rows for its own */
        s->d->ops.sample(s->d->lane, &(tt_sample_args){.logits = s->logits_dev,
                                                       .draws = s->draws,
                                                       .adjusts = s->adjusts,
                                                       .banned = s->banned,
                                                       .tokens = s->tokens,
                                                       .n_draws = s->n_draws,
                                                       .n_vocab = m->n_vocab});
        s->d->ops.download(s->d->lane, s->drawn, s->tokens, (size_t)s->n_draws * sizeof *s->drawn);
    }
}

/* Head units: with losses one per column block; else one for the last rows' logits; none when
 * nothing is wanted. */
static int32_t head_units(const tt_step *s)
{
    if (s->any_loss) {
        return tt_step_head_blocks(s);
    }
    return s->n_last > 0 || s->any_all ? 1 : 0;
}

static void head_unit(tt_step *s, int32_t unit)
{
    if (unit == 0) {
        /* norm of all rows is cheap; the head is not: only the wanted rows go through it */
        norm(s, s->x, &s->d->model->final_norm, 0, s->xn);
        if (s->n_last > 0) {
            last_logits(s);
        }
    }
    if (!s->any_loss) {
        return;
    }
    tt_head_args a = tt_step_head_args(s, unit);
    s->d->ops.head_fwd(s->d->lane, &a);
    if (unit + 1 == tt_step_head_blocks(s)) {
        s->d->ops.head_finish(s->d->lane, &a);
        s->d->ops.download(s->d->lane, s->losses, s->row_loss, (size_t)s->n_rows * sizeof(float));
    }
}

int32_t tt_step_units(const tt_step *s, int32_t *ret_done)
{
    int32_t n = s->d->model->n_layers + head_units(s);
    if (s->opt.trainee != NULL) {
        n += tt_step_head_blocks(s) + s->d->model->n_layers - s->first_layer;
    }
    if (ret_done != NULL) {
        *ret_done = s->done_units;
    }
    return n;
}

/* Units of a phase, in a table so that the cursor's walk below reads as one loop. */
static int32_t phase_units(const tt_step *s, tt_phase phase)
{
    bool train = s->opt.trainee != NULL;
    switch (phase) {
    case PHASE_FORWARD:
        return s->d->model->n_layers;
    case PHASE_HEAD:
        return head_units(s);
    case PHASE_HEAD_BWD:
        return train ? tt_step_head_blocks(s) : 0;
    case PHASE_BACKWARD:
        return train ? s->d->model->n_layers - s->first_layer : 0;
    case PHASE_DONE:
        break;
    }
    return 0;
}

static void run_unit(tt_step *s)
{
    switch (s->phase) {
    case PHASE_FORWARD:
        if (s->cursor == 0) {
            embed(s);
        }
        layer_fwd(s, s->cursor);
        break;
    case PHASE_HEAD:
        head_unit(s, s->cursor);
        break;
    case PHASE_HEAD_BWD:
        tt_step_head_bwd(s, s->cursor);
        break;
    case PHASE_BACKWARD:
        tt_step_layer_bwd(s, s->d->model->n_layers - 1 - s->cursor);
        break;
    case PHASE_DONE:
        break;
    }
    s->cursor++;
    s->done_units++;
}

tt_code tt_step_run(tt_step *s, int32_t max_units, tt_err *reterr)
{
    for (int32_t n = 0;;) {
        while (s->phase != PHASE_DONE && s->cursor >= phase_units(s, s->phase)) {
            s->phase++;
            s->cursor = 0;
        }
        if (s->phase == PHASE_DONE || n++ >= max_units) {
            break;
        }
        run_unit(s);
    }
    tt_code rc = tt_device_sync(s->d, reterr);
    if (rc != TT_OK) {
        s->phase = PHASE_DONE;
        return rc;
    }
    return s->phase == PHASE_DONE ? TT_OK : (tt_code)TT_STEP_MORE;
}
