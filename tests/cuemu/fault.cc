/* fault.cc - how the runtime fails: the sentence and abort() for a broken rule, the injected
 * failure of the n-th call, once or sticky, the last error; and the settings, read once. Thread:
 * any; host state under api_lock. */
#include "runtime.h"

#include <cstdarg>
#include <cstdlib>

namespace cuemu
{

std::recursive_mutex api_lock;
long n_live_objects, n_launches, n_waits;

/* The call that fails, counted from the first; what a sticky error has left of the device. */
static struct {
    long at;
    cudaError_t err;
    bool sticky;
} plan = {-1, cudaSuccess, false};
static cudaError_t dead_with;
static long n_calls;
static thread_local cudaError_t last_error;

static const struct {
    cudaError_t err;
    const char *name;
} errors[] = {
    {cudaSuccess, "cudaSuccess"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver"},
    {cudaErrorNoDevice, "cudaErrorNoDevice"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle"},
    {cudaErrorNotReady, "cudaErrorNotReady"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout"},
    {cudaErrorAssert, "cudaErrorAssert"},
    {cudaErrorHardwareStackError, "cudaErrorHardwareStackError"},
    {cudaErrorIllegalInstruction, "cudaErrorIllegalInstruction"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress"},
    {cudaErrorInvalidAddressSpace, "cudaErrorInvalidAddressSpace"},
    {cudaErrorInvalidPc, "cudaErrorInvalidPc"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure"},
    {cudaErrorUnknown, "cudaErrorUnknown"},
};

/* "To continue using CUDA, the process must be terminated and relaunched": so the documentation of
 * these. */
static bool is_sticky(cudaError_t err)
{
    return err == cudaErrorECCUncorrectable || err == cudaErrorIllegalAddress ||
           err == cudaErrorLaunchTimeout || err == cudaErrorAssert ||
           (err >= cudaErrorHardwareStackError && err <= cudaErrorLaunchFailure);
}

static int from_env(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text != nullptr ? atoi(text) : otherwise;
}

static size_t bytes_from_env(const char *name, size_t otherwise)
{
    const char *text = getenv(name);
    if (text == nullptr) {
        return otherwise;
    }
    char *end;
    unsigned long long n = strtoull(text, &end, 10);
    const char *units = " KMG", *unit = *end != '\0' ? strchr(units, *end) : units;
    if (end == text || unit == nullptr || (*end != '\0' && end[1] != '\0')) {
        fail({name, 0}, "not a number of bytes: %s", text);
    }
    return (size_t)n << 10 * (unit - units);
}

const settings &conf()
{
    static const settings s = {
        from_env("CUEMU_ORDER", 0),   from_env("CUEMU_STREAMS", 1),
        from_env("CUEMU_THREADS", 1), from_env("CUEMU_SM", 80),
        from_env("CUEMU_DEVICES", 1), bytes_from_env("CUEMU_MEMORY", (size_t)1 << 30)};
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

/* "n:error", n counted from the call that comes next. */
static void plan_from_text(const char *where, const char *text)
{
    char *end, *name_end = nullptr;
    long n = strtol(text, &end, 10);
    const char *name = end + 1;
    bool found = end != text && n >= 0 && *end == ':';
    size_t length = found ? strcspn(name, "\n") : 0;
    long number = found ? strtol(name, &name_end, 10) : 0;
    for (const auto &e : errors) {
        bool named = length == strlen(e.name) && strncmp(name, e.name, length) == 0;
        if (found && length != 0 &&
            (named || (name_end == name + length && number == (long)e.err))) {
            plan = {n_calls + n, e.err, is_sticky(e.err)};
            return;
        }
    }
    fail({where, 0}, "not n:error with an error of cuda_error.h: %s", text);
}

static void plan_from_environment()
{
    static bool asked;
    static const char *path;
    if (!asked) {
        asked = true;
        path = getenv("CUEMU_FAIL_FILE");
        if (const char *text = getenv("CUEMU_FAIL_AFTER")) {
            plan_from_text("CUEMU_FAIL_AFTER", text);
        }
    }
    FILE *f = path != nullptr ? fopen(path, "r") : nullptr;
    if (f != nullptr) {
        char text[128] = "";
        size_t n = fread(text, 1, sizeof text - 1, f);
        text[n] = '\0';
        fclose(f);
        remove(path);
        plan_from_text("CUEMU_FAIL_FILE", text);
    }
}

cudaError_t inject()
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    plan_from_environment();
    bool struck = n_calls++ == plan.at;
    if (dead_with == cudaSuccess && struck && plan.sticky) {
        dead_with = plan.err;
    }
    return remember(dead_with != cudaSuccess ? dead_with : struck ? plan.err : cudaSuccess);
}

bool is_dead()
{
    return dead_with != cudaSuccess;
}

static void plan_call(long n, cudaError_t err, bool sticky)
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    plan = {n < 0 ? -1 : n_calls + n, err, sticky};
    if (n < 0 && is_dead()) {
        for (int device = 0; device < conf().devices; device++) {
            drain_device(device);
        }
        dead_with = cudaSuccess;
    }
}

api_wait::api_wait()
{
    n_waits++;
}

} // namespace cuemu

using namespace cuemu;

extern "C" {

void cuemu_fail_after(long n, cudaError_t err)
{
    plan_call(n, err, false);
}

void cuemu_fail_sticky_after(long n, cudaError_t err)
{
    plan_call(n, err, true);
}

long cuemu_calls(void)
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    return n_calls;
}

long cuemu_live(void)
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    return n_live_objects;
}

long cuemu_launches(void)
{
    return n_launches;
}

long cuemu_waits(void)
{
    return n_waits;
}

cudaError_t cudaGetLastError(void)
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    cudaError_t err = is_dead() ? dead_with : last_error;
    last_error = cudaSuccess;
    return err;
}

cudaError_t cudaPeekAtLastError(void)
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    return is_dead() ? dead_with : last_error;
}

const char *cudaGetErrorName(cudaError_t err)
{
    for (const auto &e : errors) {
        if (e.err == err) {
            return e.name;
        }
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t err)
{
    return cudaGetErrorName(err);
}
}
