/* part.cc - the simulated part: how many there are, their properties and limits (CUDA C++
 * Programming Guide, compute capabilities 8.0 and 9.0). Thread: any. */
#include "runtime.h"

using namespace cuemu;

static thread_local int device_now;

static bool is_device(int device)
{
    return device >= 0 && device < conf().devices;
}

int cuemu::current_device()
{
    return device_now;
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    *count = conf().devices;
    return *count > 0 ? cudaSuccess : remember(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    if (!is_device(device)) {
        return remember(cudaErrorInvalidDevice);
    }
    device_now = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    *device = device_now;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    *version = conf().devices > 0 ? CUDART_VERSION : 0; /* 0 = no driver is installed */
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    if (!is_device(device)) {
        return remember(cudaErrorInvalidDevice);
    }
    *prop = cudaDeviceProp{};
    snprintf(prop->name, sizeof prop->name, "cuemu sm_%d", conf().sm);
    prop->totalGlobalMem = conf().memory_bytes;
    prop->sharedMemPerBlock = STATIC_SHARED_LIMIT;
    prop->sharedMemPerBlockOptin = (size_t)shared_optin_limit();
    prop->regsPerBlock = 65536;
    prop->warpSize = WARP;
    prop->maxThreadsPerBlock = MAX_THREADS;
    prop->major = conf().sm / 10;
    prop->minor = conf().sm % 10;
    prop->multiProcessorCount = conf().sm >= 90 ? 132 : 108;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device)
{
    cudaDeviceProp prop;
    cudaError_t err = cudaGetDeviceProperties(&prop, device);
    if (err != cudaSuccess) {
        return err;
    }
    switch (attr) {
    case cudaDevAttrMultiProcessorCount:
        *value = prop.multiProcessorCount;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = prop.major;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = prop.minor;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)prop.sharedMemPerBlockOptin;
        return cudaSuccess;
    }
    return remember(cudaErrorInvalidValue);
}
}
