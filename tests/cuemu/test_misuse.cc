/* test_misuse.cc - every rule that the stand-in enforces is broken once, in a child that has to
 * abort and to say why. Thread: one. */
#include <kernels/cuda/compat.cuh>

#include "test_kit.h"

/* One launch, run to its end. */
template <class... P, class... A> static void run(dim3 block, void (*kernel)(P...), A... args)
{
    kit_stream s;
    gpu_launch(dim3(1), block, 0, s.s, kernel, args...);
    s.sync();
}

static __global__ void two_barriers_kernel()
{
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

static __global__ void exit_before_kernel()
{
    if (threadIdx.x != 5) {
        __syncthreads();
    }
}

static __global__ void exit_then_barrier_kernel()
{
    if (threadIdx.x == 0) {
        return;
    }
    for (int i = 0; i < 3; i++) {
        __syncwarp(0xfffffffeu);
    }
    __syncthreads();
}

static void test_barriers()
{
    kit_expect_abort("divergent __syncthreads", [] { run(dim3(64), two_barriers_kernel); });
    kit_expect_abort("__syncthreads", [] { run(dim3(64), exit_before_kernel); });
    kit_expect_abort("__syncthreads", [] { run(dim3(32), exit_then_barrier_kernel); });
}

static __global__ void not_in_mask_kernel()
{
    __syncwarp(0xfffeu);
}

static __global__ void no_such_lane_kernel()
{
    __syncwarp();
}

static __global__ void exited_lane_kernel(int *flag)
{
    /* Whatever the order, lane 0 is gone or goes while the others wait for it. */
    if (threadIdx.x != 0) {
        __syncwarp();
    }
    *flag = 1;
}

static __global__ void overlap_kernel()
{
    __syncwarp(threadIdx.x != 0 && threadIdx.x < 16 ? 0xffffu : 0xffffffffu);
}

static __global__ void divergent_kernel()
{
    if (threadIdx.x < 16) {
        __syncwarp();
    } else {
        __syncwarp();
    }
}

static __global__ void other_operation_kernel(int *out)
{
    int v = 0;
    /* clang-format off: one line, so that only the operations differ */
    if (threadIdx.x < 16) {
        v = __shfl_sync(~0u, 1, 0);
    } else {
        v = (int)__ballot_sync(~0u, 1);
    }
    /* clang-format on */
    out[threadIdx.x] = v;
}

static __global__ void non_member_kernel(int *out)
{
    if (threadIdx.x < 16) {
        out[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
    }
}

/* Lane 0 waits for its warp, its warp for the block. */
static __global__ void stuck_kernel()
{
    if (threadIdx.x == 0) {
        __syncwarp();
    }
    __syncthreads();
}

static void test_collectives()
{
    kit_array<int> out(64);
    int *p = out.p;
    kit_expect_abort("is not in mask", [] { run(dim3(32), not_in_mask_kernel); });
    kit_expect_abort("does not have", [] { run(dim3(24), no_such_lane_kernel); });
    kit_expect_abort("exit", [p] { run(dim3(32), exited_lane_kernel, p); });
    kit_expect_abort("overlaps", [] { run(dim3(32), overlap_kernel); });
    kit_expect_abort("divergent warp collective", [] { run(dim3(32), divergent_kernel); });
    kit_expect_abort("divergent warp collective",
                     [p] { run(dim3(32), other_operation_kernel, p); });
    kit_expect_abort("does not take part", [p] { run(dim3(32), non_member_kernel, p); });
    kit_expect_abort("deadlock", [] { run(dim3(64), stuck_kernel); });
}

static __global__ void large_static_kernel(float *out)
{
    CU_SHARED(float[8192], a);
    CU_SHARED(float[4097], b);
    a[threadIdx.x] = b[threadIdx.x] = 1;
    out[threadIdx.x] = a[0];
}

static __global__ void in_flight_kernel(const float *in)
{
    CU_SHARED(float[4], s);
    if (threadIdx.x == 0) {
        cp_async16(s, in, true);
    }
}

static __global__ void many_copies_kernel(const float *in)
{
    CU_SHARED(float[4], s);
    for (int i = 0; i < 513 && threadIdx.x == 0; i++) {
        cp_async16(s, in, true);
    }
}

static __global__ void crooked_copy_kernel(const float *in)
{
    CU_SHARED(float[8], s);
    cp_async16(s, in + 1, true);
    cp_async_commit();
    cp_async_wait<0>();
}

static __global__ void crooked_matrix_kernel(uint32_t *out)
{
    CU_SHARED(uint16_t[32][12], s);
    uint32_t r[4];
    ldmatrix_x4<false>(r, s[threadIdx.x]);
    out[threadIdx.x] = r[0];
}

static void test_shared()
{
    kit_array<float> data(64);
    kit_array<uint32_t> out(32);
    float *p = data.p;
    uint32_t *o = out.p;
    kit_expect_abort("static shared memory", [p] { run(dim3(32), large_static_kernel, p); });
    kit_expect_abort("in flight", [p] { run(dim3(32), in_flight_kernel, (const float *)p); });
    kit_expect_abort("more than 512", [p] { run(dim3(32), many_copies_kernel, (const float *)p); });
    kit_expect_abort("not aligned", [p] { run(dim3(32), crooked_copy_kernel, (const float *)p); });
    kit_expect_abort("not aligned", [o] { run(dim3(32), crooked_matrix_kernel, o); });
}

struct boxed {
    int64_t n;
    float *p;
};

struct padded {
    float *p;
    int n;
};

static __global__ void padded_kernel(padded s)
{
    s.p[threadIdx.x] = 1;
}

static __global__ void struct_kernel(boxed s)
{
    s.p[threadIdx.x] = 1;
}

static __global__ void fill_kernel(float *p)
{
    p[threadIdx.x] = 1;
}

static void test_arguments()
{
    kit_array<float> data(64);
    float *p = data.p;
    static float on_host[64];
    kit_expect_abort("host pointer", [] { run(dim3(32), fill_kernel, (float *)on_host); });
    kit_expect_abort("host pointer", [] { run(dim3(32), struct_kernel, boxed{1, on_host}); });
    kit_expect_abort("stale", [p] { run(dim3(32), fill_kernel, p + 65); });
    kit_expect_abort("stale", [p] {
        cudaFree(p);
        run(dim3(32), struct_kernel, boxed{1, p});
    });
#if defined __GNUC__ && !defined __clang__
    kit_expect_abort("padding", [p] { run(dim3(32), padded_kernel, padded{p, 1}); });
#else
    run(dim3(32), padded_kernel, padded{p, 1});
#endif
    run(dim3(32), struct_kernel, boxed{1, p});
    CHECK(data.get()[31] == 1);
}

static void test_host()
{
    kit_array<float> data(64);
    float *p = data.p;
    std::vector<float> host(65);
    float *h = host.data();
    auto bad_copy = [](void *dst, const void *src, size_t n, cudaMemcpyKind kind) {
        kit_expect_abort("is not inside one", [=] { cudaMemcpy(dst, src, n, kind); });
    };
    bad_copy(p, h, 65 * 4, cudaMemcpyHostToDevice);
    bad_copy(h, p + 1, 64 * 4, cudaMemcpyDeviceToHost);
    bad_copy(h, p, 64 * 4, cudaMemcpyHostToDevice);
    bad_copy(h, p, 64 * 4, cudaMemcpyHostToHost);
    kit_expect_abort("is not inside one", [p] { cudaMemset(p, 0, 65 * 4); });
    kit_expect_abort("not a live allocation", [p] { cudaFree(p + 1); });
    kit_expect_abort("not a live allocation", [h] { cudaFreeHost(h); });
    kit_expect_abort("legacy default stream",
                     [p] { gpu_launch(dim3(1), dim3(32), 0, nullptr, fill_kernel, p); });
    kit_expect_abort("destroyed stream", [p] {
        cudaStream_t s = nullptr;
        cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
        cudaStreamDestroy(s);
        gpu_launch(dim3(1), dim3(32), 0, s, fill_kernel, p);
    });
    kit_expect_abort("destroyed event", [] {
        kit_stream s;
        cudaEvent_t e = nullptr;
        cudaEventCreate(&e);
        cudaEventDestroy(e);
        cudaEventRecord(e, s.s);
    });
    kit_expect_abort("overlap", [p] {
        kit_stream s;
        cudaMemcpyAsync(p, p + 8, 36, cudaMemcpyDeviceToDevice, s.s);
    });
    kit_expect_abort("pageable", [p, h] {
        kit_stream s;
        cudaMemcpy2DAsync(p, 16, h, 16, 16, 4, cudaMemcpyHostToDevice, s.s);
    });
    kit_expect_fault([p] { *(volatile float *)p = 1; });
    kit_expect_fault([p] {
        kit_stream s;
        gpu_launch(dim3(1), dim3(128), 0, s.s, fill_kernel, p);
        s.sync();
    });
}

static const kit_test tests[] = {
    {"barriers", test_barriers}, {"collectives", test_collectives},
    {"shared", test_shared},     {"arguments", test_arguments},
    {"host", test_host},
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
