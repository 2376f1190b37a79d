/* device.c - see device.h. */
#include "core/device.h"

#include <assert.h>

/* Calls f for every vector of the model, in a fixed order. */
static void each_vector(tt_model *m, void (*f)(void *arg, tt_vector *v), void *arg)
{
    for (int32_t i = 0; i < m->n_ropes; i++) {
        f(arg, &m->rope[i].inv_freq);
    }
    f(arg, &m->final_norm);
    for (int32_t i = 0; i < m->n_layers; i++) {
        tt_layer *l = &m->layers[i];
        tt_vector *all[] = {
            &l->attn_norm,      &l->bq,       &l->bk,           &l->bv, &l->q_norm, &l->k_norm,
            &l->attn_post_norm, &l->ffn_norm, &l->ffn_post_norm};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) {
            f(arg, all[j]);
        }
    }
}

typedef struct vector_walk {
    tt_device *d;
    size_t offset; /* bytes, every vector 64-byte aligned */
} vector_walk;

static void measure_vector(void *arg, tt_vector *v)
{
    vector_walk *w = arg;
    if (v->host != NULL) {
        w->offset += ((size_t)v->n * sizeof(float) + 63) & ~(size_t)63;
    }
}

static void upload_vector(void *arg, tt_vector *v)
{
    vector_walk *w = arg;
    v->dev = 0;
    if (v->host != NULL) {
        v->dev = w->d->vectors + w->offset;
        w->d->ops.upload(w->d->lane, v->dev, v->host, (size_t)v->n * sizeof(float));
        measure_vector(arg, v);
    }
}

static tt_code load_matrix(tt_device *d, tt_matrix *x, tt_err *reterr)
{
    if (x->host == NULL) {
        return TT_OK;
    }
    return d->ops.weight_load(d->lane, &x->w, x->host, reterr);
}

static tt_code load_matrices(tt_device *d, tt_err *reterr)
{
    tt_model *m = d->model;
    tt_code rc = load_matrix(d, &m->embed, reterr);
    if (rc == TT_OK && !m->tied_head) {
        rc = load_matrix(d, &m->head, reterr);
    }
    for (int32_t i = 0; rc == TT_OK && i < m->n_layers; i++) {
        tt_layer *l = &m->layers[i];
        tt_matrix *all[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate, &l->up, &l->down};
        for (size_t j = 0; rc == TT_OK && j < sizeof all / sizeof *all; j++) {
            rc = load_matrix(d, all[j], reterr);
        }
    }
    return rc;
}

tt_code tt_device_check(const tt_device_choice *choice, const tt_model *m, tt_err *reterr)
{
#define IS_OR(D) m->head_dim == D ||
#define NAME_OF(D) " " #D
    bool made = choice->cuda == NULL || TT_CUDA_HEAD_DIMS(IS_OR) false;
    return made ? TT_OK
                : tt_fail(reterr, TT_E_UNSUPPORTED,
                          "heads of %d elements have no CUDA kernels; there are some "
                          "for" TT_CUDA_HEAD_DIMS(NAME_OF),
                          (int)m->head_dim);
#undef NAME_OF
#undef IS_OR
}

static tt_code open_table(tt_device *d, tt_err *reterr)
{
    const tt_device_choice *c = &d->choice;
    if (c->cuda != NULL) {
        tt_code rc = tt_device_check(c, d->model, reterr);
        return rc == TT_OK ? c->cuda->ops(c->ordinal, &d->ops, reterr) : rc;
    }
    tt_ops_get(&d->ops, c->isa_mask);
    return TT_OK;
}

tt_code tt_device_open(tt_device *d, tt_model *model, const tt_device_choice *choice,
                       const tt_lane_options *lane_options, tt_err *reterr)
{
    *d = (tt_device){.model = model, .choice = *choice};
    tt_code rc = open_table(d, reterr);
    rc = rc == TT_OK ? d->ops.lane_create(&d->ops, lane_options, &d->lane, reterr) : rc;
    if (rc == TT_OK) {
        vector_walk walk = {.d = d};
        each_vector(model, measure_vector, &walk);
        rc = tt_device_alloc(d, walk.offset, &d->vectors, reterr);
    }
    if (rc == TT_OK) {
        vector_walk walk = {.d = d};
        each_vector(model, upload_vector, &walk);
        rc = load_matrices(d, reterr);
    }
    if (rc == TT_OK) {
        rc = tt_device_sync(d, reterr);
    }
    if (rc != TT_OK) {
        tt_device_close(d);
    }
    return rc;
}

static tt_code note_failure(tt_device *d, tt_code rc, const tt_err *err)
{
    if (rc == TT_E_DEVICE && d->failure.code == TT_OK) {
        d->failure = *err;
    }
    return rc;
}

tt_code tt_device_sync(tt_device *d, tt_err *reterr)
{
    tt_err err = {0};
    tt_code rc = note_failure(d, d->ops.lane_sync(d->lane, &err), &err);
    return rc == TT_OK ? rc : tt_fail(reterr, rc, "%s", err.msg);
}

tt_code tt_device_alloc(tt_device *d, size_t n_bytes, tt_dev *ret_addr, tt_err *reterr)
{
    tt_err err = {0};
    tt_code rc;
    while ((rc = d->ops.alloc(d->lane, n_bytes, ret_addr, &err)) == TT_E_NOMEM &&
           d->reclaim != NULL && d->reclaim(d->reclaim_arg)) {
    }
    note_failure(d, rc, &err);
    return rc == TT_OK ? rc : tt_fail(reterr, rc, "%s", err.msg);
}

bool tt_device_memory(const tt_device *d, size_t *ret_free, size_t *ret_total)
{
    tt_err err;
    tt_cuda_info info;
    if (d->choice.cuda == NULL || d->choice.cuda->info(d->choice.ordinal, &info, &err) != TT_OK) {
        return false;
    }
    *ret_free = info.free_bytes;
    *ret_total = info.total_bytes;
    return true;
}

void tt_device_close(tt_device *d)
{
    if (d->lane != NULL) {
        d->ops.free(d->lane, d->vectors);
        d->ops.free(d->lane, d->arena);
        d->ops.lane_destroy(&d->lane);
    }
    *d = (tt_device){0};
}
