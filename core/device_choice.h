/* device_choice.h - which device an engine is to run on: what the settings ask for against what is
 * there. Thread: any, before the engine starts. */
#ifndef TT_DEVICE_CHOICE_H
#define TT_DEVICE_CHOICE_H

#include "core/device.h"

/* Strings as in the settings; none is NULL. */
typedef struct tt_device_wish {
    const char
        *device; /* "cpu", "cuda", "cuda:N"; "auto": the first GPU that answers, else the CPU */
    const char *module; /* path of the CUDA module; "" = the one installed with this program */
    const char *isa;    /* "auto", or kernels of the CPU by name */
    tt_dtype kv_type;
} tt_device_wish;

typedef struct tt_device_found {
    tt_device_choice choice;
    char name[20];     /* "cpu", "cuda:1" */
    tt_cuda_info info; /* of a GPU */
    char why[400];     /* one sentence: what was taken and why */
    bool automatic;    /* nobody insisted on this device */
    bool wanted;       /* the CPU was taken although there are signs of a GPU */
} tt_device_found;

/* TT_E_INVALID: a wish that makes no sense. TT_E_UNAVAILABLE: a GPU is insisted on, and there is
 * none that can be used; the sentence says why. */
tt_code tt_device_find(const tt_device_wish *wish, tt_device_found *ret, tt_err *reterr);

/* Is there an NVIDIA driver? Looks for its device file and its library, loads nothing else. */
bool tt_device_driver_seen(void);

#endif
