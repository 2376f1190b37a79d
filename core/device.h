/* device.h - a table of operations, its lane, and one model's weights on it. Thread: engine only.
 */
#ifndef TT_DEVICE_H
#define TT_DEVICE_H

#include "core/model.h"
#include "kernels/cuda_module.h"

/* Which table of operations: the CPU's, or one GPU's. core/device_choice.h finds one. */
typedef struct tt_device_choice {
    unsigned isa_mask;          /* of enum tt_isa: the CPU's */
    const tt_cuda_module *cuda; /* NULL = the CPU */
    int32_t ordinal;            /* of the GPU */
} tt_device_choice;

typedef struct tt_device {
    tt_ops ops;
    tt_device_choice choice;
    tt_lane *lane;   /* owned */
    tt_model *model; /* borrowed while the device lives; its w.data and dev fields belong to this
                        device */
    tt_dev vectors;  /* owned: all norms, biases and rope tables in one block */
    /* Owned: where a training keeps parameters, gradient and moments; stays for the next one. Two
     * at a time: the second allocates its own. */
    tt_dev arena;
    size_t arena_bytes;
    bool arena_taken;
    /* Gives some memory of the device back that is kept for later only; false = there is none.
     * Called when an allocation fails, before it is tried again; NULL = nobody can. */
    bool (*reclaim)(void *arg);
    void *reclaim_arg;
    tt_err failure; /* code TT_E_DEVICE once the device has failed: it stays lost. Else TT_OK */
} tt_device;

/* Makes the lane and loads the weights. On failure *d is closed again. TT_E_UNSUPPORTED: the
 * device has no kernels for this model. TT_E_NOMEM: the weights do not fit. */
tt_code tt_device_open(tt_device *d, tt_model *model, const tt_device_choice *choice,
                       const tt_lane_options *lane_options, tt_err *reterr);
/* Legal on a zeroed device and twice. */
void tt_device_close(tt_device *d);

/* What the device has no kernels for: TT_E_UNSUPPORTED. The CPU has them for every model. */
tt_code tt_device_check(const tt_device_choice *choice, const tt_model *model, tt_err *reterr);

/* ops.alloc, tried again as long as something can be given back. */
tt_code tt_device_alloc(tt_device *d, size_t n_bytes, tt_dev *ret_addr, tt_err *reterr);
/* ops.lane_sync; remembers a failure that stays. */
tt_code tt_device_sync(tt_device *d, tt_err *reterr);

/* Memory of the device in bytes, now; false = it has none of its own, or does not say. */
bool tt_device_memory(const tt_device *d, size_t *ret_free, size_t *ret_total);

#endif
