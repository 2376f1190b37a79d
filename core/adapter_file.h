/* adapter_file.h - a published adapter in host memory and in a file, bit for bit: what leaves the
 * device and comes back to it. Thread: tt_adapter_image_take() and _put() the engine's, the rest
 * any; an image is used by one at a time.
 *
 * ADAPTERS/<16 hex digits of the id>.qa is a state file (state_file.h): block 0 says what it is,
 * then one block a tensor in order of layers, FULL: d [NQ, H]; LoRA: a [rank, H], b [NQ, rank];
 * BF16, little-endian, no padding. It belongs to one model, by the fingerprint in its header. */
#ifndef TT_ADAPTER_FILE_H
#define TT_ADAPTER_FILE_H

#include "core/adapter.h"

enum { TT_ADAPTER_FILE_NAME = 20 }; /* bytes of a name with its NUL */

typedef struct tt_adapter_image {
    uint64_t id;
    uint64_t context_hash; /* of what it was trained on, for people who look at files */
    int32_t n_context;
    tt_adapter_kind kind;
    int32_t rank, n_layers; /* layers of the model */
    float scale;
    bool all_layers;
    uint8_t layers[32]; /* bit set, unless all_layers */
    int64_t n[2];       /* elements of the tensors of a layer */
    int32_t n_tensors;
    uint8_t *data; /* owned [n_bytes]: the tensors */
    size_t n_bytes;
} tt_adapter_image;

/* What a file must agree with; both immutable. */
typedef struct tt_adapter_home {
    const char *folder;    /* borrowed */
    const tt_model *model; /* borrowed */
} tt_adapter_home;

/* Copies a published (BF16) adapter from the device; waits for the lane. TT_E_NOMEM, TT_E_DEVICE.
 */
tt_code tt_adapter_image_take(tt_device *d, const tt_adapter *a, uint64_t context_hash,
                              int32_t n_context, tt_adapter_image **ret_image, tt_err *reterr);
/* An adapter of the image's id and bits on the device, refs == 1. TT_E_NOMEM, TT_E_DEVICE. */
tt_code tt_adapter_image_put(tt_device *d, const tt_adapter_image *img, tt_adapter **ret_adapter,
                             tt_err *reterr);
/* NULL is legal. */
void tt_adapter_image_free(tt_adapter_image *img);

/* TT_OK: the file is on disk under its name. TT_E_IO, TT_E_NOMEM: nothing has the name. */
tt_code tt_adapter_file_write(const tt_adapter_home *home, const tt_adapter_image *img,
                              tt_err *reterr);
/* TT_E_ADAPTER_LOST: there is no such file, or it is not what was written, or another model's.
 * TT_E_IO, TT_E_NOMEM: it may be readable another time. */
tt_code tt_adapter_file_read(const tt_adapter_home *home, uint64_t id, tt_adapter_image **ret_image,
                             tt_err *reterr);
/* TT_OK also when it was not there. */
tt_code tt_adapter_file_remove(const tt_adapter_home *home, uint64_t id, tt_err *reterr);

void tt_adapter_file_name(uint64_t id, char ret_name[TT_ADAPTER_FILE_NAME]);
/* False: no adapter's file has this name. */
bool tt_adapter_file_id(const char *name, uint64_t *ret_id);

#endif
