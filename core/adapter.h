/* adapter.h - one published adapter of the query projections: immutable, reference-counted. Thread:
 * engine only. */
#ifndef TT_ADAPTER_H
#define TT_ADAPTER_H

#include "core/device.h"

typedef struct tt_adapter {
    uint64_t id; /* drawn at random, so that it is unique over restarts too: keys of K/V pages and
                    names of files hang on it; 0 is the base and never an adapter's */
    int32_t refs, n_layers;
    size_t bytes; /* device memory of its tensors */
    tt_dev block; /* all tensors; owned unless the shape named a place */
    bool placed;
    tt_adapter_layer
        *layers; /* owned [n_layers]; a layer without tensors (d == 0 and a == 0) is not adapted */
} tt_adapter;

static inline bool tt_adapter_has(const tt_adapter *a, int32_t layer)
{
    return a != NULL && (a->layers[layer].d != 0 || a->layers[layer].a != 0);
}

typedef struct tt_adapter_shape {
    tt_adapter_kind kind;
    tt_dtype type;         /* TT_F32 while it is trained, TT_BF16 when published */
    int32_t rank;          /* LoRA */
    float scale;           /* LoRA: alpha / rank */
    const uint8_t *layers; /* bit set; all zero = every layer */
    tt_dev place;          /* tt_adapter_bytes() of memory that outlives it; 0 = its own */
} tt_adapter_shape;

/* Device memory of an adapter's tensors. */
size_t tt_adapter_bytes(const tt_model *m, const tt_adapter_shape *shape);

/* Zeroed tensors of the given shape, refs == 1. TT_E_NOMEM, TT_E_IO (no random number),
 * TT_E_DEVICE.
 */
tt_code tt_adapter_create(tt_device *d, const tt_adapter_shape *shape, tt_adapter **ret_adapter,
                          tt_err *reterr);
/* The same tensors rounded to BF16: what is published. */
tt_code tt_adapter_round(tt_device *d, const tt_adapter *src, tt_adapter **ret_adapter,
                         tt_err *reterr);
/* The shape it was made of (a placed one's without the place). set: becomes the bit set that
 * ret->layers points to, or stays unused when all layers are adapted. */
void tt_adapter_get_shape(const tt_adapter *a, uint8_t set[32], tt_adapter_shape *ret);
void tt_adapter_ref(tt_adapter *a);
/* NULL and *a == NULL are legal. */
void tt_adapter_unref(tt_device *d, tt_adapter **a);

/* Elements of each tensor of a layer: FULL {NQ * H, 0}, LoRA {rank * H, NQ * rank}. */
void tt_adapter_sizes(const tt_model *m, tt_adapter_kind kind, int32_t rank, int64_t ret_n[2]);

#endif
