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

tt_code tt_device_open(tt_device *d, tt_model *model, unsigned isa_mask,
                       const tt_lane_options *lane_options, tt_err *reterr)
{
    *d = (tt_device){.model = model};
    tt_ops_get(&d->ops, isa_mask);
    tt_code rc = d->ops.lane_create(&d->ops, lane_options, &d->lane, reterr);
    if (rc == TT_OK) {
        vector_walk walk = {.d = d};
        each_vector(model, measure_vector, &walk);
        rc = d->ops.alloc(d->lane, walk.offset, &d->vectors, reterr);
    }
    if (rc == TT_OK) {
        vector_walk walk = {.d = d};
        each_vector(model, upload_vector, &walk);
        rc = load_matrices(d, reterr);
    }
    if (rc == TT_OK) {
        rc = d->ops.lane_sync(d->lane, reterr);
    }
    if (rc != TT_OK) {
        tt_device_close(d);
    }
    return rc;
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
