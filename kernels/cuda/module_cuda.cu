/* module_cuda.cu - what the shared library exports; see kernels/cuda_module.h. Thread: any. */
#include "kernels/cuda/lane_cuda.h"

#include <stdio.h>

extern "C" {
#include "kernels/cuda_module.h"
}

enum { LEAST_SM = 80 };

/* How many answer; why there is none. */
static cudaError_t count_devices(int32_t *ret_n, tt_err *reterr)
{
    int n = 0;
    cudaError_t err = cudaGetDeviceCount(&n);
    err = err == cudaSuccess && n <= 0 ? cudaErrorNoDevice : err;
    *ret_n = err == cudaSuccess ? n : 0;
    if (err != cudaSuccess) {
        cudaGetLastError();
        tt_fail(reterr, TT_E_UNAVAILABLE, "no CUDA device: %s",
                err == cudaErrorInsufficientDriver ? "the driver is missing or too old"
                                                   : cudaGetErrorString(err));
    }
    return err;
}

static int32_t module_count(tt_err *reterr)
{
    int32_t n = 0;
    count_devices(&n, reterr);
    return n;
}

/* TT_E_NOMEM: the driver has none for us. */
static tt_code not_answering(int32_t device, cudaError_t err, tt_err *reterr)
{
    cudaGetLastError();
    return tt_fail(reterr, lane_code(err), "CUDA device %d does not answer: %s", (int)device,
                   cudaGetErrorString(err));
}

/* A device that exists and is not too old. */
static tt_code find(int32_t device, cudaDeviceProp *ret_prop, tt_err *reterr)
{
    tt_err why;
    int32_t n = 0;
    cudaError_t counted = count_devices(&n, &why);
    if (counted != cudaSuccess) {
        return tt_fail(reterr, lane_code(counted), "%s", why.msg);
    }
    if (device < 0 || device >= n) {
        return tt_fail(reterr, TT_E_INVALID, "there is no CUDA device %d: %d answer", (int)device,
                       (int)n);
    }
    cudaError_t got = cudaGetDeviceProperties(ret_prop, device);
    if (got != cudaSuccess) {
        return not_answering(device, got, reterr);
    }
    int sm = 10 * ret_prop->major + ret_prop->minor;
    if (sm < LEAST_SM) {
        return tt_fail(reterr, TT_E_INVALID, "CUDA device %d, %s, has sm_%d, less than sm_%d",
                       (int)device, ret_prop->name, sm, (int)LEAST_SM);
    }
    return TT_OK;
}

static tt_code module_info(int32_t device, tt_cuda_info *ret, tt_err *reterr)
{
    cudaDeviceProp prop;
    tt_code rc = find(device, &prop, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_cuda_info info = {};
    int driver = 0, runtime = 0;
    cudaError_t err = lane_choose(device);
    err = err == cudaSuccess ? cudaMemGetInfo(&info.free_bytes, &info.total_bytes) : err;
    err = err == cudaSuccess ? cudaDriverGetVersion(&driver) : err;
    err = err == cudaSuccess ? cudaRuntimeGetVersion(&runtime) : err;
    if (err != cudaSuccess) {
        return not_answering(device, err, reterr);
    }
    snprintf(info.name, sizeof info.name, "%.127s", prop.name);
    info.sm = 10 * prop.major + prop.minor;
    info.n_multiprocessors = prop.multiProcessorCount;
    info.driver = driver;
    info.runtime = runtime;
    *ret = info;
    return TT_OK;
}

static tt_code module_ops(int32_t device, tt_ops *ret_ops, tt_err *reterr)
{
    cudaDeviceProp prop;
    tt_code rc = find(device, &prop, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_ops ops = {};
    ops.isa = "cuda";
    ops.device = device;
    table_init_lane(&ops);
    table_init_memory(&ops);
    table_init_ops(&ops);
    *ret_ops = ops;
    return TT_OK;
}

extern "C" {

/* All else in the library is hidden. */
__attribute__((visibility("default"))) const tt_cuda_module *tt_cuda_module_get(void);

const tt_cuda_module *tt_cuda_module_get(void)
{
    static const tt_cuda_module module = {TT_CUDA_ABI, sizeof(tt_ops), module_count, module_info,
                                          module_ops};
    return &module;
}
}
