/* step.c - the life of a step: workspace, descriptors in one upload, begin; see forward.h. What
 * runs is forward.c and backward.c. Thread: engine only. */
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
    free(s->drawn);
    free(s->block);
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

/* The part of the workspace that all layers share. */
static void carve_shared(carve *c, const tt_model *m, int64_t n, bool train, tt_step *s)
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
}

/* Lays the workspace of n rows out from c->base. */
static void carve_work(carve *c, const tt_model *m, int64_t n, bool train, tt_step *s)
{
    carve_shared(c, m, n, train, s);
    for (int32_t i = 0; i < (train ? m->n_layers : 1); i++) {
        carve_saved(c, m, n, train, &s->saved[i]);
    }
}

size_t tt_step_bytes(const tt_model *m, int32_t n_rows, bool train)
{
    tt_saved one;
    tt_step dummy;
    carve shared = {0}, layer = {0};
    carve_shared(&shared, m, n_rows, train, &dummy);
    carve_saved(&layer, m, n_rows, train, &one);
    return shared.used + layer.used * (train ? (size_t)m->n_layers : 1);
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
    tt_code rc = tt_device_alloc(d, n, block, reterr);
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

static int32_t last_rows(const tt_segment *g)
{
    return g->n_last > 0 ? g->n_last : 1;
}

static void count(tt_step *s, const tt_segment *segs, int32_t n_segs)
{
    s->n_rows = s->n_last = s->n_targets = 0;
    s->n_logits = s->n_draws = s->n_adjusts = s->n_banned = 0;
    s->any_store = s->any_all = s->any_loss = false;
    for (int32_t i = 0; i < n_segs; i++) {
        const tt_segment *g = &segs[i];
        assert(g->n_rows > 0 && g->pos0 >= 0);
        s->n_rows += g->n_rows;
        assert(g->draw == NULL || g->want != TT_WANT_LOSS);
        int32_t n_last = last_rows(g);
        assert(n_last <= g->n_rows);
        s->n_logits += g->want == TT_WANT_LAST ? n_last : 0;
        s->n_last += g->want == TT_WANT_LAST || g->draw != NULL ? n_last : 0;
        for (int32_t r = 0; g->draw != NULL && r < n_last; r++) {
            s->n_draws++;
            s->n_adjusts += g->draw[r].draw.n_adjust;
            s->n_banned += g->draw[r].draw.n_banned;
        }
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

typedef struct draw_writer {
    tt_draw *draws; /* the next one */
    tt_logit_adjust *adjusts;
    int32_t *banned;
    int32_t n_adjusts, n_banned;
} draw_writer;

/* What is drawn from a row of the logits. */
static void write_draw(draw_writer *w, const tt_draw_order *o, int32_t row)
{
    tt_draw d = o->draw;
    d.row = row;
    d.adjust0 = w->n_adjusts;
    d.banned0 = w->n_banned;
    if (d.n_adjust > 0) {
        memcpy(w->adjusts + w->n_adjusts, o->adjusts, (size_t)d.n_adjust * sizeof *w->adjusts);
    }
    if (d.n_banned > 0) {
        memcpy(w->banned + w->n_banned, o->banned, (size_t)d.n_banned * sizeof *w->banned);
    }
    w->n_adjusts += d.n_adjust;
    w->n_banned += d.n_banned;
    *w->draws++ = d;
}

/* The last rows that go through the head, and what is drawn from them. */
static void write_last(desc_writer *w)
{
    tt_step *s = w->s;
    int32_t *last = desc_take(w, (size_t)s->n_last * sizeof *last, &s->last_idx);
    draw_writer to = {.draws = desc_take(w, (size_t)s->n_draws * sizeof *to.draws, &s->draws)};
    to.adjusts = desc_take(w, (size_t)s->n_adjusts * sizeof *to.adjusts, &s->adjusts);
    to.banned = desc_take(w, (size_t)s->n_banned * sizeof *to.banned, &s->banned);
    int32_t n_logits = 0, n_rest = s->n_logits;
    for (int32_t i = 0; i < s->n_segs; i++) {
        const tt_seg *g = &s->dev_segs_host[i];
        const tt_draw_order *o = s->segs[i].draw;
        bool logits = s->segs[i].want == TT_WANT_LAST;
        int32_t n = logits || o != NULL ? last_rows(&s->segs[i]) : 0;
        for (int32_t r = 0; r < n; r++) {
            int32_t row = logits ? n_logits++ : n_rest++;
            last[row] = g->row0 + g->n_rows - n + r;
            if (o != NULL) {
                write_draw(&to, &o[r], row);
            }
        }
    }
}

/* Bytes of the descriptors; the tokens that come back lie behind them. */
static size_t desc_bytes(const tt_step *s)
{
    size_t n = (size_t)s->n_rows, n_pages = 0;
    for (int32_t i = 0; i < s->n_segs; i++) {
        n_pages += (size_t)pages_of(&s->segs[i]);
    }
    return 5 * pad64(n * 4) + pad64((size_t)s->n_segs * sizeof(tt_seg)) + pad64(n_pages * 4) +
           pad64((size_t)s->n_last * 4) + pad64((size_t)s->n_draws * sizeof(tt_draw)) +
           pad64((size_t)s->n_adjusts * sizeof(tt_logit_adjust)) + pad64((size_t)s->n_banned * 4) +
           pad64((size_t)s->n_draws * 4);
}

/* One packed upload: everything that kernels need to know of rows and segments. */
static tt_code write_descriptors(tt_step *s, tt_err *reterr)
{
    size_t n = (size_t)s->n_rows, n_segs = (size_t)s->n_segs, need = desc_bytes(s), n_pages = 0;
    for (int32_t i = 0; i < s->n_segs; i++) {
        n_pages += (size_t)pages_of(&s->segs[i]);
    }
    tt_code rc = grow_dev(s->d, &s->desc, &s->desc_cap, need, reterr);
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->host_desc, &s->host_desc_cap, need, reterr);
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
    int32_t row = 0, page = 0;
    for (int32_t i = 0; i < s->n_segs; i++) {
        const tt_segment *g = &s->segs[i];
        segs[i] = (tt_seg){.row0 = row, .n_rows = g->n_rows, .pos0 = g->pos0, .page0 = page};
        memcpy(table + page, g->pages, (size_t)pages_of(g) * 4);
        row += g->n_rows;
        page += pages_of(g);
    }
    memcpy(s->dev_segs_host, segs, n_segs * sizeof *segs);
    write_last(&w);
    s->d->ops.upload(s->d->lane, s->desc, s->host_desc, w.used);
    desc_take(&w, (size_t)s->n_draws * 4, &s->tokens);
    assert(w.used == need);
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
    size_t row_bytes = (size_t)m->n_vocab * sizeof(float);
    rc = grow_dev(s->d, &s->logits_dev, &s->logits_cap, (size_t)s->n_last * row_bytes, reterr);
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->logits, &s->logits_host_cap, (size_t)s->n_logits * row_bytes,
                       reterr);
    }
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->drawn, &s->drawn_cap, (size_t)s->n_draws * sizeof *s->drawn,
                       reterr);
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

/* ---- results ---- */

const float *tt_step_logits(const tt_step *s, int32_t i)
{
    assert(s->phase == PHASE_DONE && i >= 0 && i < s->n_logits);
    return s->logits + (size_t)i * (size_t)s->d->model->n_vocab;
}

int32_t tt_step_token(const tt_step *s, int32_t i)
{
    assert(s->phase == PHASE_DONE && i >= 0 && i < s->n_draws);
    return s->drawn[i];
}

tt_code tt_step_logits_block(tt_step *s, int32_t row0, int32_t n, const float **ret_logits,
                             tt_err *reterr)
{
    assert(s->phase == PHASE_DONE && s->any_all && n > 0 && row0 >= 0 && row0 + n <= s->n_rows);
    const tt_model *m = s->d->model;
    size_t bytes = (size_t)n * (size_t)m->n_vocab * sizeof(float);
    tt_code rc = grow_dev(s->d, &s->logits_dev, &s->logits_cap, bytes, reterr);
    if (rc == TT_OK) {
        rc = grow_host((void **)&s->block, &s->block_cap, bytes, reterr);
    }
    if (rc != TT_OK) {
        return rc;
    }
    tt_matmul_args a = {.x = s->xn + (size_t)row0 * (size_t)m->hidden * sizeof(float),
                        .n_rows = n,
                        .n_w = 1,
                        .w = {tt_step_head_args(s, 0).w},
                        .y = {s->logits_dev},
                        .family = s->opt.family};
    s->d->ops.matmul(s->d->lane, &a);
    s->d->ops.download(s->d->lane, s->block, s->logits_dev, bytes);
    rc = tt_device_sync(s->d, reterr);
    if (rc == TT_OK) {
        *ret_logits = s->block;
    }
    return rc;
}

tt_dev tt_step_queries(const tt_step *s)
{
    assert(s->opt.trainee == NULL);
    return s->saved[0].q; /* all layers share it */
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
