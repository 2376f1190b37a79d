/* cuda_module_stub.c - a module that is no backend, for test_cuda_module.c: with STUB_ABI another
 * build's, with STUB_SIZE one of another table, with neither one that fits. Thread: any. */
#include "kernels/cuda_module.h"

#ifndef STUB_ABI
#define STUB_ABI TT_CUDA_ABI
#endif
#ifndef STUB_SIZE
#define STUB_SIZE sizeof(tt_ops)
#endif

static int32_t count(tt_err *reterr)
{
    tt_fail(reterr, TT_E_UNAVAILABLE, "a stub has no devices");
    return 0;
}

const tt_cuda_module *tt_cuda_module_get(void);

const tt_cuda_module *tt_cuda_module_get(void)
{
    static const tt_cuda_module module = {
        .abi = STUB_ABI, .ops_size = (uint32_t)(STUB_SIZE), .count = count};
    return &module;
}
