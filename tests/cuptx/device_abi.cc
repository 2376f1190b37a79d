/* device_abi.cc - cudaGetDeviceProperties() with NVIDIA's struct, which is larger than the
 * stand-in's: the one file of the stand-in that is compiled with NVIDIA's header. What the stand-in
 * does not know stays 0. Thread: any. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

static cudaError_t fill(struct cudaDeviceProp *prop, int device)
{
    const struct {
        enum cudaDeviceAttr attr;
        int *value;
    } numbers[] = {
        {cudaDevAttrMultiProcessorCount, &prop->multiProcessorCount},
        {cudaDevAttrComputeCapabilityMajor, &prop->major},
        {cudaDevAttrComputeCapabilityMinor, &prop->minor},
    };
    for (const auto &n : numbers) {
        cudaError_t err = cudaDeviceGetAttribute(n.value, n.attr, device);
        if (err != cudaSuccess) {
            return err;
        }
    }
    int optin = 0;
    cudaError_t err =
        cudaDeviceGetAttribute(&optin, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    size_t free_bytes = 0;
    if (err == cudaSuccess) {
        err = cudaMemGetInfo(&free_bytes, &prop->totalGlobalMem);
    }
    prop->sharedMemPerBlockOptin = (size_t)optin;
    return err;
}

extern "C" cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    memset(prop, 0, sizeof *prop);
    cudaError_t err = fill(prop, device);
    if (err != cudaSuccess) {
        return err;
    }
    snprintf(prop->name, sizeof prop->name, "cuptx sm_%d%d", prop->major, prop->minor);
    prop->sharedMemPerBlock = 48 << 10;
    prop->regsPerBlock = 65536;
    prop->warpSize = 32;
    prop->maxThreadsPerBlock = 1024;
    prop->maxThreadsDim[0] = prop->maxThreadsDim[1] = 1024;
    prop->maxThreadsDim[2] = 64;
    prop->maxGridSize[0] = 0x7fffffff;
    prop->maxGridSize[1] = prop->maxGridSize[2] = 65535;
    return cudaSuccess;
}
