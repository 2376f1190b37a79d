/* fault.cc - how the runtime fails: the sentence and abort() for a broken rule, the injected
 * failure of the n-th call, the last error; and the settings, read once. Thread: any; host state
 * under api_lock. */
#include "runtime.h"

#include <cstdarg>
#include <cstdlib>

namespace cuemu
{

std::recursive_mutex api_lock;
long n_live_objects;

static long n_calls, fail_at = -1;
static cudaError_t fail_with;
static thread_local cudaError_t last_error;

static int from_env(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text != nullptr ? atoi(text) : otherwise;
}

const settings &conf()
{
    static const settings s = {from_env("CUEMU_ORDER", 0), from_env("CUEMU_STREAMS", 1),
                               from_env("CUEMU_THREADS", 1), from_env("CUEMU_SM", 80),
                               from_env("CUEMU_DEVICES", 1)};
    return s;
}

int shared_optin_limit()
{
    return (conf().sm >= 90 ? 227 : 163) << 10;
}

void fail(place at, const char *fmt, ...)
{
    fprintf(stderr, "cuemu: %s:%d: ", at.file, at.line);
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    if (current != nullptr) {
        fprintf(stderr, " [block %u,%u,%u thread %u,%u,%u]", blockIdx.x, blockIdx.y, blockIdx.z,
                current->tid.x, current->tid.y, current->tid.z);
    }
    fputc('\n', stderr);
    abort();
}

cudaError_t remember(cudaError_t err)
{
    if (err != cudaSuccess) {
        last_error = err;
    }
    return err;
}

cudaError_t inject()
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    return n_calls++ == fail_at ? remember(fail_with) : cudaSuccess;
}

} // namespace cuemu

using namespace cuemu;

extern "C" {

void cuemu_fail_after(long n, cudaError_t err)
{
    fail_at = n < 0 ? -1 : n_calls + n;
    fail_with = err;
}

long cuemu_calls(void)
{
    return n_calls;
}

long cuemu_live(void)
{
    return n_live_objects;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t err = last_error;
    last_error = cudaSuccess;
    return err;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

const char *cudaGetErrorName(cudaError_t err)
{
    static const struct {
        cudaError_t err;
        const char *name;
    } names[] = {
        {cudaSuccess, "cudaSuccess"},
        {cudaErrorInvalidValue, "cudaErrorInvalidValue"},
        {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"},
        {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration"},
        {cudaErrorNoDevice, "cudaErrorNoDevice"},
        {cudaErrorInvalidDevice, "cudaErrorInvalidDevice"},
        {cudaErrorNotReady, "cudaErrorNotReady"},
        {cudaErrorIllegalAddress, "cudaErrorIllegalAddress"},
        {cudaErrorLaunchFailure, "cudaErrorLaunchFailure"},
    };
    for (const auto &n : names) {
        if (n.err == err) {
            return n.name;
        }
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t err)
{
    return cudaGetErrorName(err);
}
}
