/* cuda_module.h - the CUDA backend as a module that is loaded when it is wanted: a shared library
 * of kernels/cuda, which needs libcudart and libcublas. The program itself links neither, so that
 * one binary runs with and without a GPU and a server on the CPU does not map half a gigabyte of
 * libraries. The same kernels built for the CPU (tests/cuemu) are a module too.
 *
 * Thread: any; a module stays loaded until the process ends. */
#ifndef TT_CUDA_MODULE_H
#define TT_CUDA_MODULE_H

#include "kernels/ops.h"

/* Of this header and everything in ops.h: another number is another build's module. */
#define TT_CUDA_ABI 1

/* Head sizes that attention is compiled for; 16 and 32 are those of small models in tests. Builds
 * of one mistake (tests/cuemu) are content with fewer. */
#ifndef TT_CUDA_HEAD_DIMS
#define TT_CUDA_HEAD_DIMS(X) X(16) X(32) X(64) X(80) X(96) X(128) X(256)
#endif

typedef struct tt_cuda_info {
    char name[128];
    int32_t sm; /* compute capability, 80, 90, ... */
    int32_t n_multiprocessors;
    size_t free_bytes, total_bytes; /* of device memory, now */
    int32_t driver, runtime;        /* as CUDA counts: 13000 is 13.0 */
} tt_cuda_info;

/* What a module exports, as the function tt_cuda_module_get() of type tt_cuda_module_fn. */
typedef struct tt_cuda_module {
    int32_t abi;       /* TT_CUDA_ABI */
    uint32_t ops_size; /* sizeof(tt_ops) */
    /* Devices that answer. 0 with a reason in *reterr where there is none or no driver. */
    int32_t (*count)(tt_err *reterr);
    /* TT_E_INVALID: no such device, or older than sm_80. TT_E_DEVICE: it does not answer;
     * TT_E_NOMEM: for lack of memory. */
    tt_code (*info)(int32_t device, tt_cuda_info *ret, tt_err *reterr);
    /* Fills every entry of the table; lanes that it creates are on `device`. Failures as info's. */
    tt_code (*ops)(int32_t device, tt_ops *ret_ops, tt_err *reterr);
} tt_cuda_module;

typedef const tt_cuda_module *(*tt_cuda_module_fn)(void);

/* Loads the module at `path`, or (NULL or "") the one installed with this program: beside it in a
 * build folder, else in its library folder. TT_E_UNAVAILABLE with the reason when there is none, it
 * is of another build, or a library that it needs is missing. */
tt_code tt_cuda_module_load(const char *path, const tt_cuda_module **ret_module, tt_err *reterr);

#endif
