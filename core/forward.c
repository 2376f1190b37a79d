/* forward.c - see forward.h. The order of the operations of a layer is written once, here, for
 * every architecture and device: x -> norm -> q,k,v -> adapter -> bias, q/k-norm, RoPE, K/V write
 * -> attention -> wo (-> post-norm) -> + residual
 *     -> norm -> gate, up -> act * -> down (-> post-norm) -> + residual
 * What a family has or lacks are pointers in tt_layer, not branches on its name. */
#include "core/forward.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/step_priv.h"

static size_t pad64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

tt_code tt_step_create(tt_device *d, tt_kv_pool *kv, tt_step **ret_step, tt_err *reterr)
{
    tt_step *s = calloc(1, sizeof *s);
    if (s != NULL) {
        s->saved = calloc((size_t)d->model->n_layers, sizeof *s->saved);
    }
    if (s == NULL || s->saved == NULL) {
        free(s);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a step");
    }
    s->d = d;
    s->kv = kv;
    s->phase = PHASE_DONE;
    *ret_step = s;
    return TT_OK;
}

void tt_step_destroy(tt_step **step)
{
    tt_step *s = *step;
    *step = NULL;
    if (s == NULL) {
        return;
    }
    s->d->ops.free(s->d->lane, s->desc);
    s->d->ops.free(s->d->lane, s->work);
    s->d->ops.free(s->d->lane, s->logits_dev);
    free(s->host_desc);
    free(s->segs);
    free(s->dev_segs_host);
    free(s->groups);
    free(s->saved);
    free(s->logits);
    free(s->losses);
    free(s);
}

/* ---- workspace ---- */

/* Hands out consecutive 64-byte aligned pieces; with base 0 it only measures. */
typedef struct carve {
    tt_dev base;
    size_t used;
} carve;

static tt_dev take(carve *c, int64_t rows, int64_t cols)
{
    tt_dev at = c->base + c->used;
    c->used += pad64((size_t)rows * (size_t)cols * sizeof(float));
    return at;
}

static void carve_saved(carve *c, const tt_model *m, int64_t n, bool train, tt_saved *v)
{
    const tt_layer *l = &m->layers[0];
    int64_t nq = (int64_t)m->n_heads * m->head_dim;
    *v = (tt_saved){0};
    v->q = take(c, n, nq);
    v->o = take(c, n, nq);
    v->gate = take(c, n, m->ffn);
    v->up = take(c, n, m->ffn);
    if (!train) {
        return;
    }
    v->x_in = take(c, n, m->hidden);
    v->x_mid = take(c, n, m->hidden);
    v->lse = take(c, n, m->n_heads);
    v->q_pre = l->q_norm.host != NULL ? take(c, n, nq) : 0;
    v->attn_out = l->attn_post_norm.host != NULL ? take(c, n, m->hidden) : 0;
    v->ffn_out = l->ffn_post_norm.host != NULL ? take(c, n, m->hidden) : 0;
}

/* Lays the workspace of n rows out from c->base; s may be a zeroed dummy with only `saved` set ([1]
 * unless training). */
static void carve_work(carve *c, const tt_model *m, int64_t n, bool train, tt_step *s)
{
    int64_t nq = (int64_t)m->n_heads * m->head_dim, nk = (int64_t)m->n_kv_heads * m->head_dim;
    s->x = take(c, n, m->hidden);
    s->xn = take(c, n, m->hidden);
    s->proj = take(c, n, m->hidden);
    s->k = take(c, n, nk);
    s->v = take(c, n, nk);
    s->head_state = take(c, n, 4);
    s->row_loss = take(c, n, 1);
    if (train) {
        s->dx = take(c, n, m->hidden);
        s->dxn = take(c, n, m->hidden);
        s->dproj = take(c, n, m->hidden);
        s->dq = take(c, n, nq);
        s->d_o = take(c, n, nq);
        s->dgate = take(c, n, m->ffn);
        s->dup = take(c, n, m->ffn);
    }
    for (int32_t i = 0; i < (train ? m->n_layers : 1); i++) {
        carve_saved(c, m, n, train, &s->saved[i]);
    }
}

size_t tt_step_bytes(const tt_model *m, int32_t n_rows, bool train)
{
    tt_saved one;
    tt_step dummy = {.saved = &one};
    carve c = {0};
    carve_work(&c, m, n_rows, false, &dummy);
    if (train) {
        carve per_layer = {0};
        carve_saved(&per_layer, m, n_rows, true, &one);
        size_t bwd = (size_t)n_rows * sizeof(float) *
                     ((size_t)m->hidden * 3 + (size_t)m->ffn * 2 +
                      (size_t)m->n_heads * (size_t)m->head_dim * 2);
        return c.used + bwd + 7 * 64 + per_layer.used * (size_t)m->n_layers;
    }
    return c.used;
}

/* Grows a device block to at least n bytes; its content is lost. */
static tt_code grow_dev(tt_device *d, tt_dev *block, size_t *cap, size_t n, tt_err *reterr)
{
    if (n <= *cap) {
        return TT_OK;
    }
    d->ops.free(d->lane, *block);
    *block = 0;
    *cap = 0;
    tt_code rc = d->ops.alloc(d->lane, n, block, reterr);
    *cap = rc == TT_OK ? n : 0;
    return rc;
}

static tt_code grow_host(void **block, size_t *cap, size_t n, tt_err *reterr)
{
    if (n <= *cap) {
        return TT_OK;
    }
    void *p = realloc(*block, n);
    if (p == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a step of %zu bytes", n);
    }
    *block = p;
    *cap = n;
    return TT_OK;
}

static tt_code grow_segs(tt_step *s, int32_t n, tt_err *reterr)
{
    if (n <= s->segs_cap) {
        return TT_OK;
    }
    size_t caps[3] = {0};
    tt_code rc = grow_host((void **)&s->segs, &caps[0], (size_t)n * sizeof *s->segs, reterr);
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->dev_segs_host, &caps[1], (size_t)n * sizeof *s->dev_segs_host,
                       reterr);
    }
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->groups, &caps[2], (size_t)n * sizeof *s->groups, reterr);
    }
    s->segs_cap = rc == TT_OK ? n : s->segs_cap;
    return rc;
}

/* ---- descriptors ---- */

static int32_t pages_of(const tt_segment *g)
{
    return (g->pos0 + g->n_rows + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS;
}

static void count(tt_step *s, const tt_segment *segs, int32_t n_segs)
{
    s->n_rows = s->n_last = s->n_targets = 0;
    s->any_store = s->any_all = s->any_loss = false;
    for (int32_t i = 0; i < n_segs; i++) {
        const tt_segment *g = &segs[i];
        assert(g->n_rows > 0 && g->pos0 >= 0);
        s->n_rows += g->n_rows;
        s->n_last += g->want == TT_WANT_LAST;
        s->any_store = s->any_store || g->store;
        s->any_all = s->any_all || g->want == TT_WANT_ALL;
        s->any_loss = s->any_loss || g->want == TT_WANT_LOSS;
        for (int32_t r = 0; g->want == TT_WANT_LOSS && r < g->n_rows; r++) {
            s->n_targets += g->targets[r] >= 0;
        }
    }
}

typedef struct desc_writer {
    tt_step *s;
    size_t used;
} desc_writer;

static void *desc_take(desc_writer *w, size_t n_bytes, tt_dev *ret_dev)
{
    void *p = w->s->host_desc + w->used;
    *ret_dev = w->s->desc + w->used;
    w->used += pad64(n_bytes);
    return p;
}

static void write_rows(tt_step *s, int32_t *ids, int32_t *pos, int32_t *slot, int32_t *targets,
                       float *weight)
{
    int32_t row = 0;
    float w = s->n_targets > 0 ? 1.0f / (float)s->n_targets : 0.0f;
    for (int32_t i = 0; i < s->n_segs; i++) {
        const tt_segment *g = &s->segs[i];
        for (int32_t r = 0; r < g->n_rows; r++, row++) {
            int32_t p = g->pos0 + r;
            ids[row] = g->ids[r];
            pos[row] = p;
            slot[row] =
                g->store ? g->pages[p / TT_PAGE_TOKENS] * TT_PAGE_TOKENS + p % TT_PAGE_TOKENS : -1;
            targets[row] = g->want == TT_WANT_LOSS ? g->targets[r] : -1;
            weight[row] = targets[row] >= 0 ? w : 0.0f;
        }
    }
}

/* One packed upload: everything that kernels need to know of rows and segments. */
static tt_code write_descriptors(tt_step *s, tt_err *reterr)
{
    size_t n = (size_t)s->n_rows, n_segs = (size_t)s->n_segs, n_pages = 0;
    for (int32_t i = 0; i < s->n_segs; i++) {
        n_pages += (size_t)pages_of(&s->segs[i]);
    }
    size_t need =
        5 * pad64(n * 4) + pad64(n_segs * sizeof(tt_seg)) + pad64(n_pages * 4) + pad64(n_segs * 4);
    size_t host_cap = s->desc_cap;
    tt_code rc = grow_dev(s->d, &s->desc, &s->desc_cap, need, reterr);
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->host_desc, &host_cap, need, reterr);
    }
    if (rc != TT_OK) {
        return rc;
    }
    desc_writer w = {.s = s};
    int32_t *ids = desc_take(&w, n * 4, &s->ids), *pos = desc_take(&w, n * 4, &s->positions);
    int32_t *slot = desc_take(&w, n * 4, &s->kv_slot), *targets = desc_take(&w, n * 4, &s->targets);
    float *weight = desc_take(&w, n * 4, &s->row_weight);
    write_rows(s, ids, pos, slot, targets, weight);
    tt_seg *segs = desc_take(&w, n_segs * sizeof *segs, &s->dev_segs);
    int32_t *table = desc_take(&w, n_pages * 4, &s->page_table);
    int32_t *last = desc_take(&w, n_segs * 4, &s->last_idx);
    int32_t row = 0, page = 0, n_last = 0;
    for (int32_t i = 0; i < s->n_segs; i++) {
        const tt_segment *g = &s->segs[i];
        segs[i] = (tt_seg){.row0 = row, .n_rows = g->n_rows, .pos0 = g->pos0, .page0 = page};
        memcpy(table + page, g->pages, (size_t)pages_of(g) * 4);
        row += g->n_rows;
        page += pages_of(g);
        if (g->want == TT_WANT_LAST) {
            last[n_last++] = row - 1;
        }
    }
    memcpy(s->dev_segs_host, segs, n_segs * sizeof *segs);
    s->d->ops.upload(s->d->lane, s->desc, s->host_desc, w.used);
    return TT_OK;
}

static int32_t lowest_trained(const tt_step *s)
{
    int32_t l = 0;
    while (l < s->d->model->n_layers && !tt_adapter_has(s->opt.trainee, l)) {
        l++;
    }
    return l;
}

tt_code tt_step_begin(tt_step *s, const tt_segment *segs, int32_t n_segs,
                      const tt_step_options *opt, tt_err *reterr)
{
    assert(n_segs > 0 && (opt->trainee == NULL) == (opt->grads == NULL));
    const tt_model *m = s->d->model;
    s->phase = PHASE_DONE;
    s->opt = *opt;
    tt_code rc = grow_segs(s, n_segs, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    memcpy(s->segs, segs, (size_t)n_segs * sizeof *segs);
    s->n_segs = n_segs;
    count(s, segs, n_segs);
    if ((rc = write_descriptors(s, reterr)) != TT_OK) {
        return rc;
    }
    bool train = opt->trainee != NULL;
    carve c = {0};
    carve_work(&c, m, s->n_rows, train, s);
    if ((rc = grow_dev(s->d, &s->work, &s->work_cap, c.used, reterr)) != TT_OK) {
        return rc;
    }
    c = (carve){.base = s->work};
    carve_work(&c, m, s->n_rows, train, s);
    for (int32_t i = 1; !train && i < m->n_layers; i++) {
        s->saved[i] = s->saved[0];
    }
    size_t n_logits = (size_t)s->n_last * (size_t)m->n_vocab * sizeof(float);
    rc = grow_dev(s->d, &s->logits_dev, &s->logits_cap, n_logits, reterr);
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->logits, &s->logits_host_cap, n_logits, reterr);
    }
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->losses, &s->losses_cap, (size_t)s->n_rows * sizeof(float),
                       reterr);
    }
    s->phase = rc == TT_OK ? PHASE_FORWARD : PHASE_DONE;
    s->cursor = s->done_units = 0;
    s->first_layer = train ? lowest_trained(s) : 0;
    return rc;
}

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
    const tt_rope_params *r = &m->rope[l->rope];
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
        .rope = {.kind = r->kind,
                 .rot_dim = r->rot_dim,
                 .inv_freq = r->inv_freq.dev,
                 .mscale = r->mscale},
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

static void attend(tt_step *s, tt_layer *l, tt_saved *v, int32_t layer)
{
    const tt_model *m = s->d->model;
    tt_attention_args a = {
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
        .window = l->window,
        .scale = m->attn_scale,
        .family = s->opt.family,
    };
    s->d->ops.attention(s->d->lane, &a);
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
    attend(s, l, v, layer);
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
    /* norm of all rows is cheap; the head is not: only the wanted rows go through it */
    norm(s, s->x, &m->final_norm, 0, s->xn);
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
    s->d->ops.download(s->d->lane, s->logits, s->logits_dev,
                       (size_t)s->n_last * (size_t)m->n_vocab * sizeof(float));
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
    if (!s->any_loss) {
        if (s->n_last > 0) {
            last_logits(s);
        } else {
            norm(s, s->x, &s->d->model->final_norm, 0, s->xn);
        }
        return;
    }
    if (unit == 0) {
        norm(s, s->x, &s->d->model->final_norm, 0, s->xn);
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
    tt_code rc = s->d->ops.lane_sync(s->d->lane, reterr);
    if (rc != TT_OK) {
        s->phase = PHASE_DONE;
        return rc;
    }
    return s->phase == PHASE_DONE ? TT_OK : (tt_code)TT_STEP_MORE;
}

/* ---- results ---- */

const float *tt_step_logits(const tt_step *s, int32_t i)
{
    assert(s->phase == PHASE_DONE && i >= 0 && i < s->n_last);
    return s->logits + (size_t)i * (size_t)s->d->model->n_vocab;
}

tt_code tt_step_logits_block(tt_step *s, int32_t row0, int32_t n, const float **ret_logits,
                             tt_err *reterr)
{
    assert(s->phase == PHASE_DONE && s->any_all && n > 0 && row0 >= 0 && row0 + n <= s->n_rows);
    const tt_model *m = s->d->model;
    size_t bytes = (size_t)n * (size_t)m->n_vocab * sizeof(float);
    tt_code rc = grow_dev(s->d, &s->logits_dev, &s->logits_cap, bytes, reterr);
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->logits, &s->logits_host_cap, bytes, reterr);
    }
    if (rc != TT_OK) {
        return rc;
    }
    tt_matmul_args a = {.x = s->xn + (size_t)row0 * (size_t)m->hidden * sizeof(float),
                        .n_rows = n,
                        .n_w = 1,
                        .w = {head_weight(s)},
                        .y = {s->logits_dev},
                        .family = s->opt.family};
    s->d->ops.matmul(s->d->lane, &a);
    s->d->ops.download(s->d->lane, s->logits, s->logits_dev, bytes);
    rc = s->d->ops.lane_sync(s->d->lane, reterr);
    if (rc == TT_OK) {
        *ret_logits = s->logits;
    }
    return rc;
}

const float *tt_step_losses(const tt_step *s)
{
    assert(s->phase == PHASE_DONE && s->any_loss);
    return s->losses;
}

void tt_step_loss_dev(const tt_step *s, tt_dev *ret_loss, tt_dev *ret_weight, int32_t *ret_rows)
{
    *ret_loss = s->row_loss;
    *ret_weight = s->row_weight;
    *ret_rows = s->n_rows;
}
