/* test_host.cc - the host side of the stand-in: memory, copies, lazy streams and events, limits of
 * launches, properties, injected failures. Thread: one. */
#include <cstdlib>
#include <kernels/cuda/compat.cuh>

#include "test_kit.h"

static int setting(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text != nullptr ? atoi(text) : otherwise;
}

static bool is_lazy()
{
    return setting("CUEMU_STREAMS", 1) == 1;
}

static bool is_eager()
{
    return setting("CUEMU_STREAMS", 1) == 0;
}

static __global__ void add_kernel(int *p, int v)
{
    p[threadIdx.x] += v;
}

static cudaError_t add(cudaStream_t s, int *p, int v)
{
    return gpu_launch(dim3(1), dim3(32), 0, s, add_kernel, p, v);
}

/* What is queued runs when it has to: pinned memory shows it. */
static void test_lazy_stream()
{
    kit_stream s;
    kit_array<int> data(std::vector<int>(32, 1));
    int *pinned = nullptr;
    CHECK_OK(cudaMallocHost(&pinned, 32 * sizeof(int)));
    pinned[0] = -1;
    CHECK_OK(add(s.s, data.p, 4));
    CHECK_OK(cudaMemcpyAsync(pinned, data.p, 32 * 4, cudaMemcpyDeviceToHost, s.s));
    if (is_lazy() || is_eager()) {
        CHECK(pinned[0] == (is_lazy() ? -1 : 5));
    }
    if (is_lazy()) {
        CHECK(cudaStreamQuery(s.s) == cudaErrorNotReady);
        CHECK(cudaStreamQuery(s.s) == cudaErrorNotReady);
    }
    s.sync();
    CHECK(pinned[0] == 5 && pinned[31] == 5);
    CHECK_OK(cudaStreamQuery(s.s));
    CHECK_OK(cudaFreeHost(pinned));
}

/* An event orders two streams; without it the second one, forced first, sees old data. */
static void test_events()
{
    for (int wait = 0; wait < 2; wait++) {
        kit_stream a, b;
        kit_array<int> data(std::vector<int>(32, 1)), copy(32);
        cudaEvent_t e = nullptr, f = nullptr;
        float ms = -1;
        CHECK_OK(cudaEventCreate(&e));
        CHECK_OK(cudaEventCreateWithFlags(&f, cudaEventDefault));
        CHECK_OK(add(a.s, data.p, 1));
        CHECK_OK(cudaEventRecord(e, a.s));
        CHECK_OK(add(a.s, data.p, 1)); /* behind the event */
        if (wait != 0) {
            CHECK_OK(cudaStreamWaitEvent(b.s, e, 0));
        }
        CHECK_OK(cudaMemcpyAsync(copy.p, data.p, 32 * 4, cudaMemcpyDeviceToDevice, b.s));
        CHECK_OK(cudaEventRecord(f, b.s));
        CHECK_OK(cudaEventSynchronize(f));
        if (is_lazy()) {
            CHECK(copy.get()[0] == (wait != 0 ? 2 : 1));
            CHECK(cudaEventQuery(e) == (wait != 0 ? cudaSuccess : cudaErrorNotReady));
        } else {
            CHECK(copy.get()[0] >= (wait != 0 ? 2 : 1));
        }
        while (cudaEventQuery(e) == cudaErrorNotReady) {
        }
        CHECK_OK(cudaEventElapsedTime(&ms, e, f));
        CHECK_OK(cudaDeviceSynchronize());
        CHECK(data.get()[0] == 3);
        CHECK_OK(cudaEventDestroy(e));
        CHECK_OK(cudaEventDestroy(f));
    }
}

static void test_event_edges()
{
    kit_stream s;
    cudaEvent_t fresh = nullptr, untimed = nullptr;
    float ms = 0;
    CHECK_OK(cudaEventCreate(&fresh));
    CHECK_OK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    CHECK_OK(cudaEventQuery(fresh)); /* never recorded: complete */
    CHECK_OK(cudaEventSynchronize(fresh));
    CHECK_OK(cudaStreamWaitEvent(s.s, fresh, 0));
    CHECK(cudaEventElapsedTime(&ms, fresh, fresh) == cudaErrorInvalidResourceHandle);
    CHECK(cudaEventElapsedTime(&ms, untimed, fresh) == cudaErrorInvalidResourceHandle);
    CHECK_OK(cudaEventRecord(fresh, s.s));
    if (is_lazy()) {
        CHECK(cudaEventElapsedTime(&ms, fresh, fresh) == cudaErrorNotReady);
    }
    s.sync();
    CHECK_OK(cudaEventElapsedTime(&ms, fresh, fresh));
    CHECK(ms == 0);
    CHECK_OK(cudaEventDestroy(fresh));
    CHECK_OK(cudaEventDestroy(untimed));
}

/* Pageable sources are taken at the call, pinned ones when the copy runs. */
static void test_copies()
{
    kit_stream s;
    kit_array<int> a(4), b(4), c(6);
    int *pinned = nullptr;
    CHECK_OK(cudaMallocHost(&pinned, 16));
    std::vector<int> pageable = {1, 2, 3, 4}, back(4);
    memcpy(pinned, pageable.data(), 16);
    CHECK_OK(cudaMemcpyAsync(a.p, pageable.data(), 16, cudaMemcpyDefault, s.s));
    CHECK_OK(cudaMemcpyAsync(b.p, pinned, 16, cudaMemcpyDefault, s.s));
    pageable[0] = pinned[0] = 9;
    CHECK_OK(cudaMemcpyAsync(back.data(), a.p, 16, cudaMemcpyDefault, s.s)); /* waits */
    CHECK(back == (std::vector<int>{1, 2, 3, 4}));
    s.sync();
    if (is_lazy() || is_eager()) {
        CHECK(b.get()[0] == (is_lazy() ? 9 : 1));
    }
    CHECK_OK(cudaMemset(c.p, 0, 24));
    CHECK(c.get()[5] == 0); /* a blocking copy is behind it; the stream of the next line is not */
    CHECK_OK(cudaMemcpy2DAsync(c.p + 1, 12, a.p, 8, 8, 2, cudaMemcpyDeviceToDevice, s.s));
    s.sync();
    CHECK(c.get() == (std::vector<int>{0, 1, 2, 0, 3, 4}));
    CHECK(cudaMemcpy2DAsync(c.p, 4, a.p, 8, 8, 2, cudaMemcpyDeviceToDevice, s.s) ==
          cudaErrorInvalidValue);
    CHECK_OK(cudaMemsetAsync(c.p, 1, 4, s.s));
    s.sync();
    CHECK(c.get()[0] == 0x01010101);
    CHECK_OK(cudaMemcpy(nullptr, nullptr, 0, cudaMemcpyHostToDevice));
    CHECK_OK(cudaFreeHost(pinned));
}

/* cudaMemset() and copies on the device return before they have run: only blocking calls and
 * blocking streams are behind them. Destroying a stream waits for nothing. */
static void test_not_waited_for()
{
    kit_array<int> a(std::vector<int>(32, 1)), b(32);
    int *seen = nullptr;
    CHECK_OK(cudaMallocHost(&seen, 128));
    kit_stream quiet;
    cudaStream_t blocking = nullptr, gone = nullptr;
    CHECK_OK(cudaStreamCreate(&blocking));
    CHECK_OK(cudaMemset(a.p, 0, 128));
    CHECK_OK(cudaMemcpy(b.p, a.p, 128, cudaMemcpyDeviceToDevice));
    CHECK_OK(cudaMemcpyAsync(seen, a.p, 128, cudaMemcpyDeviceToHost, quiet.s));
    quiet.sync();
    if (is_lazy()) {
        CHECK(seen[0] == 1);
    }
    CHECK_OK(cudaMemcpyAsync(seen, b.p, 128, cudaMemcpyDeviceToHost, blocking));
    CHECK_OK(cudaStreamSynchronize(blocking));
    CHECK(seen[0] == 0 && seen[31] == 0);
    CHECK_OK(cudaStreamCreateWithFlags(&gone, cudaStreamNonBlocking));
    CHECK_OK(add(gone, a.p, 7));
    CHECK_OK(cudaMemcpyAsync(seen, a.p, 128, cudaMemcpyDeviceToHost, gone));
    CHECK_OK(cudaStreamDestroy(gone));
    if (is_lazy()) {
        CHECK(seen[0] == 0);
    }
    CHECK_OK(cudaDeviceSynchronize());
    CHECK(seen[0] == 7);
    CHECK_OK(cudaStreamDestroy(blocking));
    CHECK_OK(cudaFreeHost(seen));
}

/* From host to host an asynchronous copy waits, behind what its stream holds. */
static void test_host_to_host()
{
    kit_stream s;
    kit_array<int> data(std::vector<int>(32, 6));
    int *pinned = nullptr, to[32] = {};
    CHECK_OK(cudaHostAlloc(&pinned, 128, cudaHostAllocPortable));
    CHECK(cudaHostAlloc(&pinned, 128, 64) == cudaErrorInvalidValue);
    CHECK_OK(cudaMemcpyAsync(pinned, data.p, 128, cudaMemcpyDeviceToHost, s.s));
    CHECK_OK(cudaMemcpyAsync(to, pinned, 128, cudaMemcpyHostToHost, s.s));
    CHECK(to[0] == 6 && to[31] == 6);
    CHECK_OK(cudaFreeHost(pinned));
    pinned = to;
    CHECK_OK(cudaHostAlloc(&pinned, 0, cudaHostAllocDefault));
    CHECK(pinned == nullptr);
    cudaGetLastError();
}

/* A blocking copy waits for blocking streams and not for the others. */
static void test_legacy_order()
{
    kit_stream quiet;
    cudaStream_t blocking = nullptr;
    CHECK_OK(cudaStreamCreate(&blocking));
    kit_array<int> a(std::vector<int>(32, 1)), b(std::vector<int>(32, 1));
    CHECK_OK(add(blocking, a.p, 1));
    CHECK_OK(add(quiet.s, b.p, 1));
    CHECK(a.get()[0] == 2);
    if (is_lazy()) {
        CHECK(b.get()[0] == 1);
    }
    quiet.sync();
    CHECK(b.get()[0] == 2);
    CHECK_OK(cudaStreamDestroy(blocking));
}

static void test_memory()
{
    size_t free_before = 0, free_now = 0, total = 0;
    CHECK_OK(cudaMemGetInfo(&free_before, &total));
    void *p = &total, *none = &total;
    CHECK_OK(cudaMalloc(&p, 1000));
    CHECK(reinterpret_cast<uintptr_t>(p) % 256 == 0);
    CHECK_OK(cudaMemGetInfo(&free_now, &total));
    CHECK(free_now == free_before - 1024);
    CHECK(cudaMalloc(&none, total) == cudaErrorMemoryAllocation && none == &total);
    CHECK(cudaPeekAtLastError() == cudaErrorMemoryAllocation);
    CHECK(strcmp(cudaGetErrorString(cudaGetLastError()), "cudaErrorMemoryAllocation") == 0);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK_OK(cudaMalloc(&none, 0));
    CHECK(none == nullptr);
    CHECK_OK(cudaFree(nullptr));
    CHECK_OK(cudaFreeHost(nullptr));
    void *again = nullptr;
    CHECK_OK(cudaFree(p));
    CHECK_OK(cudaMalloc(&again, 1000));
    CHECK(again != p);
    CHECK_OK(cudaFree(again));
}

static __global__ void touch_kernel(unsigned char *out, int last)
{
    CU_DYN_SHARED(unsigned char, s);
    if (threadIdx.x == 0) {
        s[last] = 3;
        out[0] = s[last];
    }
}

static void test_launch_limits()
{
    kit_stream s;
    kit_array<unsigned char> out(4);
    auto go = [&](dim3 grid, dim3 block, size_t shared) {
        return gpu_launch(grid, block, shared, s.s, touch_kernel, out.p, (int)shared - 1);
    };
    int limit = 0;
    CHECK_OK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    CHECK(limit == (setting("CUEMU_SM", 80) == 90 ? 227 << 10 : 163 << 10));
    CHECK(go(dim3(1), dim3(1025), 16) == cudaErrorInvalidConfiguration);
    CHECK(go(dim3(1), dim3(32, 32, 2), 16) == cudaErrorInvalidConfiguration);
    CHECK(go(dim3(1), dim3(1, 1, 65), 16) == cudaErrorInvalidConfiguration);
    CHECK(go(dim3(0), dim3(32), 16) == cudaErrorInvalidConfiguration);
    CHECK(go(dim3(1, 65536), dim3(32), 16) == cudaErrorInvalidConfiguration);
    CHECK(go(dim3(1, 1, 65536), dim3(32), 16) == cudaErrorInvalidConfiguration);
    CHECK_OK(go(dim3(1), dim3(32), 48 << 10));
    CHECK(go(dim3(1), dim3(32), (48 << 10) + 1) == cudaErrorInvalidValue);
    cudaFuncAttribute dynamic = cudaFuncAttributeMaxDynamicSharedMemorySize;
    CHECK(cudaFuncSetAttribute(touch_kernel, dynamic, limit + 1) == cudaErrorInvalidValue);
    CHECK_OK(cudaFuncSetAttribute(touch_kernel, dynamic, 60 << 10));
    CHECK_OK(cudaFuncSetAttribute(touch_kernel, dynamic, limit));
    CHECK_OK(go(dim3(1), dim3(32), (size_t)limit));
    s.sync();
    CHECK(out.get()[0] == 3);
    cudaGetLastError();
}

static void test_properties()
{
    cudaDeviceProp prop;
    int n = 0, sm = setting("CUEMU_SM", 80), v = 0;
    CHECK_OK(cudaGetDeviceCount(&n));
    CHECK(n == 1);
    CHECK_OK(cudaSetDevice(0));
    CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
    CHECK_OK(cudaGetDevice(&n));
    CHECK(n == 0);
    CHECK_OK(cudaGetDeviceProperties(&prop, 0));
    CHECK(prop.major == sm / 10 && prop.warpSize == 32 && prop.maxThreadsPerBlock == 1024);
    CHECK(cudaGetDeviceProperties(&prop, 1) == cudaErrorInvalidDevice);
    CHECK_OK(cudaDeviceGetAttribute(&v, cudaDevAttrComputeCapabilityMajor, 0));
    CHECK(v == sm / 10);
    CHECK_OK(cudaDeviceGetAttribute(&v, cudaDevAttrComputeCapabilityMinor, 0));
    CHECK(v == sm % 10);
    CHECK_OK(cudaDeviceGetAttribute(&v, cudaDevAttrMultiProcessorCount, 0));
    CHECK(v > 100);
    CHECK(cudaDeviceGetAttribute(&v, (cudaDeviceAttr)99, 0) == cudaErrorInvalidValue);
    CHECK(cudaDeviceGetAttribute(&v, cudaDevAttrMultiProcessorCount, 3) == cudaErrorInvalidDevice);
    CHECK(strcmp(cudaGetErrorName((cudaError_t)1000), "unrecognized error code") == 0);
    cudaGetLastError();
}

/* What a careful host function does; gives everything back whatever fails. */
static cudaError_t many_calls(int *ret_value)
{
    cudaStream_t s = nullptr;
    cudaEvent_t e = nullptr;
    int *p = nullptr, *pinned = nullptr;
    size_t some;
    cudaError_t err = cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    auto next = [&err](auto call) {
        if (err == cudaSuccess) {
            err = call();
        }
    };
    next([&] { return cudaEventCreate(&e); });
    next([&] { return cudaMemGetInfo(&some, &some); });
    next([&] { return cudaMalloc(&p, 128); });
    next([&] { return cudaMallocHost(&pinned, 128); });
    next([&] { return cudaMemset(p, 0, 128); });
    next([&] { return cudaDeviceSynchronize(); }); /* the stream is not behind it */
    next([&] { return cudaMemsetAsync(p, 0, 128, s); });
    next([&] { return add(s, p, 5); });
    next([&] { return cudaEventRecord(e, s); });
    next([&] {
        return cudaEventQuery(e) == cudaErrorNotReady ? cudaSuccess : cudaPeekAtLastError();
    });
    next([&] { return cudaStreamWaitEvent(s, e, 0); });
    next([&] { return cudaMemcpyAsync(pinned, p, 128, cudaMemcpyDeviceToHost, s); });
    next([&] { return cudaEventSynchronize(e); });
    next([&] { return cudaStreamSynchronize(s); });
    next([&] { return cudaMemcpy2DAsync(p, 8, p + 16, 8, 8, 2, cudaMemcpyDefault, s); });
    next([&] { return cudaDeviceSynchronize(); });
    next([&] { return cudaMemcpy(pinned, p, 4, cudaMemcpyDeviceToHost); });
    int value = err == cudaSuccess ? pinned[0] : 0;
    cudaError_t ends[] = {p != nullptr ? cudaFree(p) : cudaSuccess,
                          pinned != nullptr ? cudaFreeHost(pinned) : cudaSuccess,
                          e != nullptr ? cudaEventDestroy(e) : cudaSuccess,
                          s != nullptr ? cudaStreamDestroy(s) : cudaSuccess};
    for (cudaError_t end : ends) {
        err = err != cudaSuccess ? err : end;
    }
    if (err == cudaSuccess) {
        *ret_value = value;
    }
    return err;
}

/* Every call in turn fails once, says so, and leaves nothing behind. */
static void test_faults()
{
    int value = 0;
    long n = 0, first = cuemu_calls(), live = cuemu_live();
    CHECK_OK(many_calls(&value));
    long n_calls = cuemu_calls() - first;
    CHECK(value == 5 && n_calls >= 19);
    for (; n < n_calls; n++) {
        cudaGetLastError();
        value = 0;
        cuemu_fail_after(n, cudaErrorLaunchFailure);
        CHECK(many_calls(&value) == cudaErrorLaunchFailure && value == 0);
        CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
        CHECK(cuemu_live() == live);
    }
    cuemu_fail_after(-1, cudaSuccess);
    CHECK_OK(many_calls(&value));
    CHECK(value == 5);
}

static const kit_test tests[] = {
    {"lazy_stream", test_lazy_stream},
    {"events", test_events},
    {"event_edges", test_event_edges},
    {"copies", test_copies},
    {"legacy_order", test_legacy_order},
    {"not_waited_for", test_not_waited_for},
    {"host_to_host", test_host_to_host},
    {"memory", test_memory},
    {"launch_limits", test_launch_limits},
    {"properties", test_properties},
    {"faults", test_faults},
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
