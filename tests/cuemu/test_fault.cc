/* test_fault.cc - what the stand-in does when a device is in trouble, or is one of two: sticky
 * errors, failures that the environment asks for, a bound of memory, streams and memory of another
 * device. Thread: one. */
#include <cstdlib>
#include <kernels/cuda/compat.cuh>
#include <string>
#include <unistd.h>

#include "test_kit.h"

static char fail_file[64];

static __global__ void add_kernel(int *p, int v)
{
    p[threadIdx.x] += v;
}

static cudaError_t add(cudaStream_t s, int *p, int v)
{
    return gpu_launch(dim3(1), dim3(32), 0, s, add_kernel, p, v);
}

/* From the n-th call on each one fails, and what was queued is lost. */
static void test_sticky()
{
    int *p = nullptr, *seen = nullptr, n = 0;
    size_t some = 0;
    {
        kit_stream s;
        CHECK_OK(cudaMalloc(&p, 128));
        CHECK_OK(cudaMallocHost(&seen, 128));
        CHECK_OK(cudaMemset(p, 0, 128));
        CHECK_OK(cudaDeviceSynchronize());
        seen[0] = -2;
        CHECK_OK(add(s.s, p, 5));
        CHECK_OK(cudaMemcpyAsync(seen, p, 128, cudaMemcpyDeviceToHost, s.s));
        cuemu_fail_sticky_after(1, cudaErrorIllegalAddress);
        CHECK_OK(cudaGetDevice(&n));
        CHECK(cudaStreamSynchronize(s.s) == cudaErrorIllegalAddress);
        if (getenv("CUEMU_STREAMS") != nullptr && atoi(getenv("CUEMU_STREAMS")) == 1) {
            CHECK(seen[0] == -2);
        }
        CHECK(cudaStreamSynchronize(s.s) == cudaErrorIllegalAddress);
        CHECK(add(s.s, p, 1) == cudaErrorIllegalAddress);
        CHECK(cudaMemGetInfo(&some, &some) == cudaErrorIllegalAddress);
        CHECK(cudaGetDeviceCount(&n) == cudaErrorIllegalAddress);
        for (int i = 0; i < 2; i++) {
            CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
            CHECK(cudaPeekAtLastError() == cudaErrorIllegalAddress);
        }
        CHECK(cudaFree(p) == cudaErrorIllegalAddress);
        CHECK(cudaFreeHost(seen) == cudaErrorIllegalAddress);
        cuemu_fail_after(-1, cudaSuccess);
        cudaGetLastError();
        CHECK_OK(cudaStreamQuery(s.s));
    }
    /* An error that the function is told to give once is given once, whatever it is. */
    cuemu_fail_after(0, cudaErrorIllegalAddress);
    CHECK(cudaGetDevice(&n) == cudaErrorIllegalAddress);
    CHECK_OK(cudaGetDevice(&n));
    CHECK(cudaGetLastError() == cudaErrorIllegalAddress && cudaGetLastError() == cudaSuccess);
}

static void test_memory_bound()
{
    size_t bytes = 0, total = 0, mib = (size_t)1 << 20;
    char *p = nullptr, *none = nullptr;
    cuemu_set_memory(16 * mib + 100);
    CHECK_OK(cudaMemGetInfo(&bytes, &total));
    CHECK(total == 16 * mib + 100 && bytes == total);
    CHECK(cudaMalloc(&none, bytes) == cudaErrorMemoryAllocation); /* nine pieces of 2 MiB */
    CHECK_OK(cudaMalloc(&p, 15 * mib));
    CHECK_OK(cudaMemGetInfo(&bytes, &total));
    CHECK(bytes == 100);
    CHECK(cudaMalloc(&none, 1) == cudaErrorMemoryAllocation);
    cuemu_set_memory(8 * mib);
    CHECK_OK(cudaMemGetInfo(&bytes, &total));
    CHECK(bytes == 0 && total == 8 * mib);
    CHECK_OK(cudaFree(p));
    CHECK_OK(cudaMemGetInfo(&bytes, &total));
    CHECK(bytes == total);
    CHECK(cudaMalloc(&none, 9 * mib) == cudaErrorMemoryAllocation && none == nullptr);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    cuemu_set_memory((size_t)1 << 30);
}

/* Two parts: the thread's device is that of what it makes; launches want a stream of the device
 * that is current, and its memory. */
static void test_two_devices()
{
    int n = 0, *there = nullptr;
    size_t bytes = 0, total = 0;
    cudaEvent_t e = nullptr;
    kit_stream here;
    kit_array<int> data(std::vector<int>(32, 1));
    CHECK_OK(cudaGetDeviceCount(&n));
    CHECK(n == 2);
    CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice &&
          cudaSetDevice(-1) == cudaErrorInvalidDevice);
    CHECK_OK(cudaSetDevice(1));
    CHECK_OK(cudaGetDevice(&n));
    CHECK(n == 1);
    CHECK_OK(cudaMemGetInfo(&bytes, &total));
    CHECK(bytes == total);
    CHECK_OK(cudaMalloc(&there, 128));
    CHECK_OK(cudaEventCreate(&e));
    CHECK(cudaEventRecord(e, here.s) == cudaErrorInvalidResourceHandle);
    CHECK(add(here.s, there, 1) == cudaErrorInvalidResourceHandle);
    {
        kit_stream s;
        CHECK_OK(cudaMemsetAsync(there, 0, 128, s.s));
        CHECK_OK(add(s.s, there, 3));
        CHECK_OK(cudaEventRecord(e, s.s));
        CHECK_OK(cudaStreamWaitEvent(here.s, e, 0)); /* across devices: legal */
        CHECK_OK(cudaMemcpyAsync(data.p, there, 128, cudaMemcpyDeviceToDevice, here.s));
        here.sync();
        CHECK(data.get()[31] == 3);
        int *far = data.p;
        cudaStream_t stream = s.s;
        kit_expect_abort("memory of device 0", [stream, far] { add(stream, far, 1); });
        CHECK_OK(cudaFree(there));
    }
    CHECK_OK(cudaEventDestroy(e));
    CHECK_OK(cudaSetDevice(0));
    cudaGetLastError();
}

/* What a process with these variables sees of six calls. */
static std::string child_with(const char *variables)
{
    char self[256] = "", line[512];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    snprintf(line, sizeof line, "%s '%.*s' child 2>&1", variables, (int)length, self);
    std::string said;
    FILE *f = popen(line, "r");
    for (int c; f != nullptr && (c = fgetc(f)) != EOF;) {
        said += (char)c;
    }
    if (f != nullptr) {
        pclose(f);
    }
    return said;
}

static int child()
{
    for (int i = 0; i < 6; i++) {
        int n;
        cudaError_t err = cudaGetDevice(&n);
        printf("%d ", (int)err);
    }
    size_t bytes = 0, total = 0;
    bool told = cudaMemGetInfo(&bytes, &total) == cudaSuccess;
    printf("%zu\n", told ? total : 0);
    return 0;
}

static void test_environment()
{
    CHECK(child_with("CUEMU_MEMORY=3M") == "0 0 0 0 0 0 3145728\n");
    CHECK(child_with("CUEMU_MEMORY=70000") == "0 0 0 0 0 0 70000\n");
    CHECK(child_with("CUEMU_MEMORY=1G CUEMU_FAIL_AFTER=2:cudaErrorMemoryAllocation") ==
          "0 0 2 0 0 0 1073741824\n");
    CHECK(child_with("CUEMU_MEMORY=1G CUEMU_FAIL_AFTER=0:999") == "999 0 0 0 0 0 1073741824\n");
    CHECK(child_with("CUEMU_FAIL_AFTER=3:700") == "0 0 0 700 700 700 0\n");
    CHECK(child_with("CUEMU_FAIL_AFTER=5:cudaErrorLaunchFailure") == "0 0 0 0 0 719 0\n");
    for (const char *wrong :
         {"CUEMU_FAIL_AFTER=700", "CUEMU_FAIL_AFTER=1:", "CUEMU_FAIL_AFTER=1:7x",
          "CUEMU_FAIL_AFTER=-1:700", "CUEMU_FAIL_AFTER=1:cudaErrorNone"}) {
        CHECK(child_with(wrong).find("not n:error") != std::string::npos);
    }
    CHECK(child_with("CUEMU_MEMORY=3X").find("not a number of bytes") != std::string::npos);
}

/* A file that appears while the process runs. */
static void test_fail_file()
{
    int n;
    CHECK_OK(cudaGetDevice(&n));
    FILE *f = fopen(fail_file, "w");
    CHECK(f != nullptr);
    if (f == nullptr) {
        return;
    }
    fprintf(f, "1:cudaErrorMemoryAllocation\n");
    fclose(f);
    CHECK_OK(cudaGetDevice(&n));
    CHECK(access(fail_file, F_OK) != 0);
    CHECK(cudaGetDevice(&n) == cudaErrorMemoryAllocation);
    CHECK_OK(cudaGetDevice(&n));
    cudaGetLastError();
}

static void test_versions()
{
    int driver = 0, runtime = 0;
    CHECK_OK(cudaDriverGetVersion(&driver));
    CHECK_OK(cudaRuntimeGetVersion(&runtime));
    CHECK(driver == 13000 && runtime == CUDART_VERSION);
    for (cudaError_t err : {cudaErrorInsufficientDriver, cudaErrorECCUncorrectable}) {
        CHECK(strncmp(cudaGetErrorName(err), "cudaError", 9) == 0);
    }
}

static const kit_test tests[] = {
    {"sticky", test_sticky},           {"memory_bound", test_memory_bound},
    {"two_devices", test_two_devices}, {"environment", test_environment},
    {"fail_file", test_fail_file},     {"versions", test_versions},
};

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "child") == 0) {
        return child();
    }
    snprintf(fail_file, sizeof fail_file, "/tmp/cuemu_fail_%d", (int)getpid());
    setenv("CUEMU_DEVICES", "2", 1);
    setenv("CUEMU_FAIL_FILE", fail_file, 1);
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
