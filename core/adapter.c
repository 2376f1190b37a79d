/* adapter.c - see adapter.h. */
#include "core/adapter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* 64 random bits: with a million adapters in a lifetime two are equal once in 37 million lifetimes.
 * A counter would begin again with the process, and what is on disk outlives that. */
static tt_code draw_id(uint64_t *ret_id, tt_err *reterr)
{
    uint64_t id = 0;
    while (id == 0) {
        ssize_t n = getrandom(&id, sizeof id, 0);
        if (n != (ssize_t)sizeof id && errno != EINTR) {
            return tt_fail(reterr, TT_E_IO, "no random number for an adapter: %s", strerror(errno));
        }
        id = n == (ssize_t)sizeof id ? id : 0;
    }
    *ret_id = id;
    return TT_OK;
}

void tt_adapter_sizes(const tt_model *m, tt_adapter_kind kind, int32_t rank, int64_t ret_n[2])
{
    int64_t nq = (int64_t)m->n_heads * m->head_dim;
    ret_n[0] = kind == TT_ADAPTER_FULL ? nq * m->hidden : (int64_t)rank * m->hidden;
    ret_n[1] = kind == TT_ADAPTER_FULL ? 0 : nq * rank;
}

static bool wants_layer(const uint8_t *set, int32_t layer)
{
    bool any = false;
    for (int i = 0; set != NULL && i < 32; i++) {
        any = any || set[i] != 0;
    }
    return !any || (layer < 256 && (set[layer / 8] >> (layer % 8) & 1) != 0);
}

/* Bytes of each tensor of a layer, padded. */
static void parts_of(const tt_model *m, const tt_adapter_shape *shape, size_t part[2])
{
    int64_t n[2];
    size_t es = (size_t)tt_dtypes[shape->type].block_bytes;
    tt_adapter_sizes(m, shape->kind, shape->rank, n);
    for (int i = 0; i < 2; i++) {
        part[i] = ((size_t)n[i] * es + 63) & ~(size_t)63;
    }
}

size_t tt_adapter_bytes(const tt_model *m, const tt_adapter_shape *shape)
{
    size_t part[2], bytes = 0;
    parts_of(m, shape, part);
    for (int32_t i = 0; i < m->n_layers; i++) {
        bytes += wants_layer(shape->layers, i) ? part[0] + part[1] : 0;
    }
    return bytes;
}

tt_code tt_adapter_create(tt_device *d, const tt_adapter_shape *shape, tt_adapter **ret_adapter,
                          tt_err *reterr)
{
    const tt_model *m = d->model;
    uint64_t id = 0;
    tt_code rc = draw_id(&id, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_adapter *a = calloc(1, sizeof *a);
    tt_adapter_layer *layers = calloc((size_t)m->n_layers, sizeof *layers);
    if (a == NULL || layers == NULL) {
        free(a);
        free(layers);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an adapter");
    }
    *a = (tt_adapter){.id = id, .refs = 1, .n_layers = m->n_layers, .layers = layers};
    size_t part[2];
    parts_of(m, shape, part);
    a->bytes = tt_adapter_bytes(m, shape);
    a->block = shape->place;
    a->placed = shape->place != 0;
    rc = a->placed ? TT_OK : tt_device_alloc(d, a->bytes, &a->block, reterr);
    if (rc != TT_OK) {
        tt_adapter_unref(d, &a);
        return rc;
    }
    d->ops.zero(d->lane, a->block, a->bytes);
    tt_dev at = a->block;
    for (int32_t i = 0; i < m->n_layers; i++) {
        if (!wants_layer(shape->layers, i)) {
            continue;
        }
        bool full = shape->kind == TT_ADAPTER_FULL;
        layers[i] = (tt_adapter_layer){
            .kind = shape->kind,
            .type = shape->type,
            .d = full ? at : 0,
            .a = full ? 0 : at,
            .b = full ? 0 : at + part[0],
            .rank = full ? 0 : shape->rank,
            .scale = full ? 1.0f : shape->scale,
        };
        at += part[0] + part[1];
    }
    *ret_adapter = a;
    return TT_OK;
}

/* The bit set of the layers that an adapter has; NULL = all, the only choice that goes beyond the
 * set's last bit. */
static const uint8_t *layer_set(const tt_adapter *a, uint8_t set[32])
{
    bool all = true;
    for (int32_t i = 0; i < a->n_layers; i++) {
        bool has = tt_adapter_has(a, i);
        all = all && has;
        if (i < 256) {
            set[i / 8] |= (uint8_t)(has << (i % 8));
        }
    }
    return all ? NULL : set;
}

void tt_adapter_get_shape(const tt_adapter *a, uint8_t set[32], tt_adapter_shape *ret)
{
    const tt_adapter_layer *first = NULL;
    for (int32_t i = 0; i < a->n_layers && first == NULL; i++) {
        first = tt_adapter_has(a, i) ? &a->layers[i] : NULL;
    }
    assert(first != NULL);
    memset(set, 0, 32);
    *ret = (tt_adapter_shape){.kind = first->kind,
                              .type = first->type,
                              .rank = first->rank,
                              .scale = first->scale,
                              .layers = layer_set(a, set)};
}

tt_code tt_adapter_round(tt_device *d, const tt_adapter *src, tt_adapter **ret_adapter,
                         tt_err *reterr)
{
    uint8_t set[32];
    tt_adapter_shape shape;
    tt_adapter_get_shape(src, set, &shape);
    assert(shape.type == TT_F32);
    shape.type = TT_BF16;
    tt_adapter *a = NULL;
    tt_code rc = tt_adapter_create(d, &shape, &a, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    int64_t n[2];
    tt_adapter_sizes(d->model, shape.kind, shape.rank, n);
    for (int32_t i = 0; i < src->n_layers; i++) {
        const tt_adapter_layer *s = &src->layers[i], *t = &a->layers[i];
        if (!tt_adapter_has(src, i)) {
            continue;
        }
        if (s->kind == TT_ADAPTER_FULL) {
            d->ops.to_bf16(d->lane, s->d, t->d, n[0]);
        } else {
            d->ops.to_bf16(d->lane, s->a, t->a, n[0]);
            d->ops.to_bf16(d->lane, s->b, t->b, n[1]);
        }
    }
    *ret_adapter = a;
    return TT_OK;
}

void tt_adapter_ref(tt_adapter *a)
{
    a->refs++;
}

void tt_adapter_unref(tt_device *d, tt_adapter **adapter)
{
    tt_adapter *a = adapter != NULL ? *adapter : NULL;
    if (a == NULL) {
        return;
    }
    *adapter = NULL;
    if (--a->refs > 0) {
        return;
    }
    if (!a->placed) {
        d->ops.free(d->lane, a->block);
    }
    free(a->layers);
    free(a);
}
