/* device.h - a table of operations, its lane, and one model's weights on it. Thread: engine only.
 */
#ifndef TT_DEVICE_H
#define TT_DEVICE_H

#include "core/model.h"
#include "kernels/ops.h"

typedef struct tt_device {
    tt_ops ops;
    tt_lane *lane;   /* owned */
    tt_model *model; /* borrowed while the device lives; its w.data and dev fields belong to this
                        device */
    tt_dev vectors;  /* owned: all norms, biases and rope tables in one block */
    /* Owned: where a training keeps parameters, gradient and moments; stays for the next one. Two
     * at a time: the second allocates its own. */
    tt_dev arena;
    size_t arena_bytes;
    bool arena_taken;
} tt_device;

/* Makes the lane and loads the weights. On failure *d is closed again. */
tt_code tt_device_open(tt_device *d, tt_model *model, unsigned isa_mask,
                       const tt_lane_options *lane_options, tt_err *reterr);
/* Legal on a zeroed device and twice. */
void tt_device_close(tt_device *d);

#endif
