/* module_hooks.cc - see module_hooks.h. Thread: any. */
#include "module_hooks.h"

#include "cuda_runtime.h"

static void fail_after(long n, int no_memory)
{
    cuemu_fail_after(n, no_memory != 0 ? cudaErrorMemoryAllocation : cudaErrorIllegalAddress);
}

extern "C" {

__attribute__((visibility("default"))) const cuemu_hooks *cuemu_module_hooks(void);

const cuemu_hooks *cuemu_module_hooks(void)
{
    static const cuemu_hooks hooks = {fail_after, cuemu_calls, cuemu_live, cuemu_launches,
                                      cuemu_waits};
    return &hooks;
}
}
