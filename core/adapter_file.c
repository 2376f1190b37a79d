/* adapter_file.c - see adapter_file.h. The first block is read and checked against the model before
 * anything is allocated for the tensors: a file is untrusted until its sums and sizes agree. */
#include "core/adapter_file.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/state_file.h"

#define VERSION 1

/* Block 0. Fixed sizes, no padding, little-endian like every machine that is supported. */
typedef struct head {
    uint64_t id, context_hash;
    int32_t n_context, kind, rank, n_layers, hidden, nq;
    float scale;
    uint32_t all_layers;
    uint8_t layers[32];
    int64_t n[2];
} head;
_Static_assert(sizeof(head) == 96, "the head of an adapter's file has no padding");

static tt_state_kind kind_of(const tt_adapter_home *home)
{
    return (tt_state_kind){
        .name = "ADPT", .version = VERSION, .fingerprint = home->model->fingerprint};
}

static int32_t count_layers(const tt_adapter_image *img)
{
    int32_t n = 0;
    for (int i = 0; i < 256; i++) {
        n += img->layers[i / 8] >> (i % 8) & 1;
    }
    return img->all_layers ? img->n_layers : n;
}

/* Sets what follows from the shape and makes room for the tensors. */
static tt_code make_data(tt_adapter_image *img, const tt_model *m, tt_err *reterr)
{
    int32_t each = img->kind == TT_ADAPTER_FULL ? 1 : 2;
    tt_adapter_sizes(m, img->kind, img->rank, img->n);
    img->n_tensors = each * count_layers(img);
    img->n_bytes = (size_t)count_layers(img) * (size_t)(img->n[0] + img->n[1]) * sizeof(uint16_t);
    img->data = malloc(img->n_bytes);
    return img->data != NULL ? TT_OK
                             : tt_fail(reterr, TT_E_NOMEM, "no memory for an adapter of %zu KiB",
                                       img->n_bytes >> 10);
}

/* The device addresses of a layer's tensors; how many there are. */
static int tensors_of(const tt_adapter_layer *l, tt_dev ret[2])
{
    bool full = l->kind == TT_ADAPTER_FULL;
    ret[0] = full ? l->d : l->a;
    ret[1] = full ? 0 : l->b;
    return full ? 1 : 2;
}

tt_code tt_adapter_image_take(tt_device *d, const tt_adapter *a, uint64_t context_hash,
                              int32_t n_context, tt_adapter_image **ret_image, tt_err *reterr)
{
    tt_adapter_image *img = calloc(1, sizeof *img);
    if (img == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an adapter");
    }
    tt_adapter_shape shape;
    tt_adapter_get_shape(a, img->layers, &shape);
    assert(shape.type == TT_BF16);
    img->id = a->id;
    img->context_hash = context_hash;
    img->n_context = n_context;
    img->kind = shape.kind;
    img->rank = shape.rank;
    img->scale = shape.scale;
    img->n_layers = a->n_layers;
    img->all_layers = shape.layers == NULL;
    tt_code rc = make_data(img, d->model, reterr);
    uint8_t *at = img->data;
    for (int32_t i = 0; rc == TT_OK && i < a->n_layers; i++) {
        tt_dev part[2];
        int n = tt_adapter_has(a, i) ? tensors_of(&a->layers[i], part) : 0;
        for (int k = 0; k < n; k++) {
            size_t bytes = (size_t)img->n[k] * sizeof(uint16_t);
            d->ops.download(d->lane, at, part[k], bytes);
            at += bytes;
        }
    }
    assert(rc != TT_OK || at == img->data + img->n_bytes);
    rc = rc == TT_OK ? tt_device_sync(d, reterr) : rc;
    if (rc != TT_OK) {
        tt_adapter_image_free(img);
        return rc;
    }
    *ret_image = img;
    return TT_OK;
}

tt_code tt_adapter_image_put(tt_device *d, const tt_adapter_image *img, tt_adapter **ret_adapter,
                             tt_err *reterr)
{
    tt_adapter_shape shape = {.kind = img->kind,
                              .type = TT_BF16,
                              .rank = img->rank,
                              .scale = img->scale,
                              .layers = img->all_layers ? NULL : img->layers};
    tt_adapter *a = NULL;
    tt_code rc = tt_adapter_create(d, &shape, &a, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    a->id = img->id;
    const uint8_t *from = img->data;
    for (int32_t i = 0; i < a->n_layers; i++) {
        tt_dev part[2];
        int n = tt_adapter_has(a, i) ? tensors_of(&a->layers[i], part) : 0;
        for (int k = 0; k < n; k++) {
            size_t bytes = (size_t)img->n[k] * sizeof(uint16_t);
            d->ops.upload(d->lane, part[k], from, bytes);
            from += bytes;
        }
    }
    assert(from == img->data + img->n_bytes);
    *ret_adapter = a;
    return TT_OK;
}

void tt_adapter_image_free(tt_adapter_image *img)
{
    if (img != NULL) {
        free(img->data);
        free(img);
    }
}

/* ---- names ---- */

void tt_adapter_file_name(uint64_t id, char ret_name[TT_ADAPTER_FILE_NAME])
{
    snprintf(ret_name, TT_ADAPTER_FILE_NAME, "%016llx.qa", (unsigned long long)id);
}

bool tt_adapter_file_id(const char *name, uint64_t *ret_id)
{
    char again[TT_ADAPTER_FILE_NAME];
    uint64_t id = strtoull(name, NULL, 16);
    tt_adapter_file_name(id, again);
    *ret_id = id;
    return id != 0 && strcmp(name, again) == 0;
}

/* ---- writing ---- */

static head head_of(const tt_adapter_home *home, const tt_adapter_image *img)
{
    const tt_model *m = home->model;
    head h = {.id = img->id,
              .context_hash = img->context_hash,
              .n_context = img->n_context,
              .kind = (int32_t)img->kind,
              .rank = img->rank,
              .n_layers = img->n_layers,
              .hidden = (int32_t)m->hidden,
              .nq = (int32_t)m->n_heads * (int32_t)m->head_dim,
              .scale = img->scale,
              .all_layers = img->all_layers,
              .n = {img->n[0], img->n[1]}};
    memcpy(h.layers, img->layers, sizeof h.layers);
    return h;
}

tt_code tt_adapter_file_write(const tt_adapter_home *home, const tt_adapter_image *img,
                              tt_err *reterr)
{
    char name[TT_ADAPTER_FILE_NAME];
    tt_state_kind kind = kind_of(home);
    head h = head_of(home, img);
    tt_state_block *blocks = calloc((size_t)img->n_tensors + 1, sizeof *blocks);
    if (blocks == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an adapter's file");
    }
    blocks[0] = (tt_state_block){&h, sizeof h};
    const uint8_t *at = img->data;
    int each = img->kind == TT_ADAPTER_FULL ? 1 : 2;
    for (int32_t i = 0; i < img->n_tensors; i++) {
        size_t bytes = (size_t)img->n[i % each] * sizeof(uint16_t);
        blocks[i + 1] = (tt_state_block){at, bytes};
        at += bytes;
    }
    tt_adapter_file_name(img->id, name);
    tt_code rc = tt_state_make_folder(home->folder, reterr);
    rc = rc == TT_OK
             ? tt_state_file_write(home->folder, name, &kind, blocks, img->n_tensors + 1, reterr)
             : rc;
    free(blocks);
    return rc;
}

/* ---- reading ---- */

static tt_code lost(tt_err *reterr, uint64_t id, const char *why)
{
    return tt_fail(reterr, TT_E_ADAPTER_LOST, "the adapter adp_%016llx is lost: %s",
                   (unsigned long long)id, why);
}

/* Fills img from the head, if that fits the model. */
static tt_code accept(const tt_adapter_home *home, const head *h, uint64_t id,
                      tt_adapter_image *img, tt_err *reterr)
{
    const tt_model *m = home->model;
    bool kind = h->kind == (int32_t)TT_ADAPTER_FULL || h->kind == (int32_t)TT_ADAPTER_LORA;
    bool lora = h->kind == (int32_t)TT_ADAPTER_LORA;
    if (h->id != id || !kind || h->n_layers != m->n_layers || h->hidden != m->hidden ||
        h->nq != m->n_heads * m->head_dim || (lora && (h->rank < 1 || h->rank > h->nq))) {
        return lost(reterr, id, "its file is another adapter's");
    }
    *img = (tt_adapter_image){.id = id,
                              .context_hash = h->context_hash,
                              .n_context = h->n_context,
                              .kind = (tt_adapter_kind)h->kind,
                              .rank = h->rank,
                              .n_layers = h->n_layers,
                              .scale = h->scale,
                              .all_layers = h->all_layers != 0};
    memcpy(img->layers, h->layers, sizeof img->layers);
    bool fits = count_layers(img) > 0;
    for (int i = m->n_layers; i < 256; i++) {
        fits = fits && (h->layers[i / 8] >> (i % 8) & 1) == 0;
    }
    tt_code rc = fits ? make_data(img, m, reterr) : lost(reterr, id, "its file names other layers");
    if (rc == TT_OK && (img->n[0] != h->n[0] || img->n[1] != h->n[1])) {
        rc = lost(reterr, id, "its file has tensors of other sizes");
    }
    return rc;
}

static tt_code read_image(const tt_adapter_home *home, tt_state_reader *r, uint64_t id,
                          tt_adapter_image *img, tt_err *reterr)
{
    head h;
    if (tt_state_reader_blocks(r) < 1) {
        return lost(reterr, id, "its file is empty");
    }
    tt_code rc = tt_state_reader_read(r, 0, &h, sizeof h, reterr);
    rc = rc == TT_OK ? accept(home, &h, id, img, reterr) : rc;
    if (rc == TT_OK && tt_state_reader_blocks(r) != img->n_tensors + 1) {
        rc = lost(reterr, id, "its file has another number of tensors");
    }
    uint8_t *at = img->data;
    int each = img->kind == TT_ADAPTER_FULL ? 1 : 2;
    for (int32_t i = 0; rc == TT_OK && i < img->n_tensors; i++) {
        size_t bytes = (size_t)img->n[i % each] * sizeof(uint16_t);
        rc = tt_state_reader_read(r, i + 1, at, bytes, reterr);
        at += bytes;
    }
    return rc;
}

static bool is_missing(const tt_adapter_home *home, const char *name)
{
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", home->folder, name);
    return n > 0 && n < (int)sizeof path && stat(path, &st) != 0 && errno == ENOENT;
}

tt_code tt_adapter_file_read(const tt_adapter_home *home, uint64_t id, tt_adapter_image **ret_image,
                             tt_err *reterr)
{
    char name[TT_ADAPTER_FILE_NAME];
    tt_state_kind kind = kind_of(home);
    tt_state_reader *r = NULL;
    tt_err err = {0};
    tt_adapter_file_name(id, name);
    tt_adapter_image *img = calloc(1, sizeof *img);
    if (img == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an adapter");
    }
    tt_code rc = tt_state_reader_open(home->folder, name, &kind, &r, &err);
    if (rc == TT_E_IO && is_missing(home, name)) {
        rc = lost(&err, id, "it has no file");
    }
    rc = rc == TT_OK ? read_image(home, r, id, img, &err) : rc;
    tt_state_reader_close(&r);
    if (rc == TT_OK) {
        *ret_image = img;
        return TT_OK;
    }
    tt_adapter_image_free(img);
    if (rc == TT_E_INVALID) {
        return lost(reterr, id, err.msg);
    }
    return tt_fail(reterr, rc, "%s", err.msg);
}

tt_code tt_adapter_file_remove(const tt_adapter_home *home, uint64_t id, tt_err *reterr)
{
    char name[TT_ADAPTER_FILE_NAME];
    tt_adapter_file_name(id, name);
    return tt_state_remove(home->folder, name, reterr);
}
