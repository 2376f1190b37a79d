/* planted_bugs.cu - one deliberate mistake a function: what CUDA code gets wrong. bugs.table says
 * which of them each build has to catch, selfcheck.py looks. `cuemu_planted NAME` exits with 0 when
 * the result is right, 2 when it is wrong, 3 when a call fails; being caught may also be a fault,
 * an abort of the stand-in or a sanitizer's report. Thread: one. */
#include <kernels/cuda/compat.cuh>

#include <cstdio>
#include <cstdlib>
#include <vector>

enum { N = 64 };

/* ---- synchronisation ---- */

static __global__ void no_sync_kernel(float *out)
{
    CU_SHARED(float[N], s);
    s[threadIdx.x] = (float)threadIdx.x;
    out[threadIdx.x] = s[N - 1 - threadIdx.x];
}

static __global__ void no_sync_warp_kernel(float *out)
{
    CU_SHARED(float[32], s);
    s[threadIdx.x] = (float)threadIdx.x;
    out[threadIdx.x] = s[31 - threadIdx.x];
}

static __global__ void shuffle_as_fence_kernel(float *out)
{
    CU_SHARED(float[32], s);
    s[threadIdx.x] = (float)threadIdx.x;
    float one = __shfl_xor_sync(~0u, 1.0f, 1);
    out[threadIdx.x] = one * s[31 - threadIdx.x];
}

/* The second round writes what the first may still be reading. */
static __global__ void write_after_read_kernel(float *out)
{
    CU_SHARED(float[N], s);
    float sum = 0;
    for (int i = 0; i < 2; i++) {
        s[threadIdx.x] = (float)(threadIdx.x + (unsigned)i);
        __syncthreads();
        sum += s[N - 1 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}

static __global__ void divergent_barrier_kernel(float *out)
{
    if (threadIdx.x < 32) {
        out[threadIdx.x] = 1;
        __syncthreads();
    } else {
        out[threadIdx.x] = 1;
        __syncthreads();
    }
}

static __global__ void exit_before_barrier_kernel(float *out)
{
    out[threadIdx.x] = 1;
    if (threadIdx.x == 5) {
        return;
    }
    __syncthreads();
}

static __global__ void shuffle_mask_kernel(float *out)
{
    float v = 1;
    if (threadIdx.x < 16) {
        v = __shfl_xor_sync(0xffffffffu, v, 1);
    }
    out[threadIdx.x] = v;
}

static __global__ void shuffle_non_member_kernel(float *out)
{
    float v = 1;
    if (threadIdx.x % 32 < 16) {
        v = __shfl_xor_sync(0x0000ffffu, v, 16);
    }
    out[threadIdx.x] = v;
}

static __global__ void blocks_write_kernel(float *out)
{
    if (threadIdx.x == 0) {
        out[0] = 1;
    }
}

static __global__ void blocks_add_kernel(float *out)
{
    if (threadIdx.x == 0) {
        out[0] += 1;
    }
}

/* ---- bounds, contents, arithmetic ---- */

static __global__ void global_bound_kernel(float *out)
{
    if (threadIdx.x <= N - 1) {
        out[threadIdx.x + 1] = 1;
    }
}

static __global__ void shared_bound_kernel(float *out)
{
    CU_SHARED(float[N], s);
    s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x + 1];
}

static __global__ void shared_row_kernel(float *out)
{
    CU_SHARED(float[8][8], s);
    s[threadIdx.x / 8][threadIdx.x % 8] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x / 8 % 4][threadIdx.x % 8 + 1];
}

static __global__ void shared_unwritten_kernel(float *out)
{
    CU_SHARED(float[N], s);
    if (threadIdx.x < N - 1) {
        s[threadIdx.x] = 1;
    }
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}

static __global__ void copy_kernel(float *out, const float *in)
{
    out[threadIdx.x] = in[threadIdx.x];
}

static __global__ void misaligned_kernel(float *out, const float *in)
{
    float4 v = *reinterpret_cast<const float4 *>(in + threadIdx.x);
    out[threadIdx.x] = v.x * 0 + 1;
}

static __global__ void overflow_kernel(float *out, int n)
{
    int square = n * n;
    out[threadIdx.x] = square != 12345 ? 1.0f : 0.0f;
}

static __global__ void dynamic_kernel(float *out)
{
    CU_DYN_SHARED(float, s);
    s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}

/* ---- cp.async ---- */

static __global__ void async_no_wait_kernel(float *out, const float *in)
{
    CU_SHARED(float[N][4], s);
    cp_async16(s[threadIdx.x], in, true);
    cp_async_commit();
    cp_async_wait<1>();
    out[threadIdx.x] = s[threadIdx.x][0];
    cp_async_wait<0>();
}

static __global__ void async_no_sync_kernel(float *out, const float *in)
{
    CU_SHARED(float[N][4], s);
    cp_async16(s[threadIdx.x], in, true);
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = s[N - 1 - threadIdx.x][0];
}

/* No barrier before the other buffer is filled again. */
static __global__ void double_buffer_kernel(float *out, const float *in)
{
    CU_SHARED(float[2][N][4], s);
    float sum = 0;
    cp_async16(s[0][threadIdx.x], in, true);
    cp_async_commit();
    for (int i = 0; i < 4; i++) {
        if (i < 3) {
            cp_async16(s[(i + 1) % 2][threadIdx.x], in, true);
            cp_async_commit();
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        sum += s[i % 2][N - 1 - threadIdx.x][0] / 4;
    }
    out[threadIdx.x] = sum;
}

static __global__ void fill_kernel(float *out)
{
    out[threadIdx.x] = 1;
}

/* ---- the program ---- */

/* Streams, an output full of NaN, an input full of ones. */
struct rig {
    cudaStream_t s, other;
    float *out, *in;
    const float *ones;
};

typedef float (*expectation)(int i);

static float one(int)
{
    return 1;
}

static float falling(int i)
{
    return (float)(N - 1 - i);
}

static float falling_warp(int i)
{
    return (float)(31 - i);
}

static float two_rounds(int i)
{
    return (float)(2 * (N - 1 - i) + 1);
}

[[noreturn]] static void end(int code, const char *why)
{
    printf("%s\n", why);
    exit(code);
}

static void check(cudaError_t err)
{
    if (err != cudaSuccess) {
        end(3, cudaGetErrorString(err));
    }
}

static void expect_values(const float *v, int n, expectation want)
{
    for (int i = 0; i < n; i++) {
        if (!(v[i] == want(i))) {
            end(2, "a wrong value");
        }
    }
}

/* Launches, waits, and compares the first n_checked values. */
template <class... P, class... A>
static void run(const rig &r, unsigned blocks, unsigned threads, size_t shared, int n_checked,
                expectation want, void (*kernel)(P...), A... args)
{
    std::vector<float> v(N);
    check(gpu_launch(dim3(blocks), dim3(threads), shared, r.s, kernel, args...));
    check(cudaStreamSynchronize(r.s));
    check(cudaMemcpy(v.data(), r.out, N * sizeof(float), cudaMemcpyDeviceToHost));
    expect_values(v.data(), n_checked, want);
}

/* The host reads pinned memory before the copy into it has been waited for. */
static void no_stream_sync(const rig &r)
{
    float *pinned = nullptr, seen[N];
    check(cudaMallocHost(&pinned, sizeof seen));
    memset(pinned, 0xff, sizeof seen);
    check(gpu_launch(dim3(1), dim3(N), 0, r.s, fill_kernel, r.out));
    check(cudaMemcpyAsync(pinned, r.out, sizeof seen, cudaMemcpyDeviceToHost, r.s));
    memcpy(seen, pinned, sizeof seen);
    check(cudaStreamSynchronize(r.s));
    expect_values(seen, N, one);
}

static void no_cross_stream(const rig &r)
{
    std::vector<float> v(N);
    check(gpu_launch(dim3(1), dim3(N), 0, r.s, fill_kernel, r.out));
    check(gpu_launch(dim3(1), dim3(N), 0, r.other, copy_kernel, r.in, (const float *)r.out));
    check(cudaStreamSynchronize(r.other));
    check(cudaStreamSynchronize(r.s));
    check(cudaMemcpy(v.data(), r.in, N * sizeof(float), cudaMemcpyDeviceToHost));
    expect_values(v.data(), N, one);
}

static void use_after_free(const rig &r)
{
    check(gpu_launch(dim3(1), dim3(N), 0, r.s, fill_kernel, r.out));
    check(cudaFree(r.out));
    check(gpu_launch(dim3(1), dim3(N), 0, r.s, fill_kernel, r.out));
    check(cudaStreamSynchronize(r.s));
}

static void unwritten_global(const rig &r)
{
    float *fresh = nullptr;
    check(cudaMalloc(&fresh, N * sizeof(float)));
    run(r, 1, N, 0, N, one, copy_kernel, r.out, (const float *)fresh);
}

static void copy_too_long(const rig &r)
{
    std::vector<float> v(N + 1, 1.0f);
    check(cudaMemcpy(r.out, v.data(), v.size() * sizeof(float), cudaMemcpyHostToDevice));
}

static float on_host[N];

static const struct {
    const char *name;
    void (*go)(const rig &r);
} bugs[] = {
    {"none", [](const rig &r) { run(r, 1, N, 0, N, one, fill_kernel, r.out); }},
    {"no_sync", [](const rig &r) { run(r, 1, N, 0, N, falling, no_sync_kernel, r.out); }},
    {"no_sync_warp",
     [](const rig &r) { run(r, 1, 32, 0, 32, falling_warp, no_sync_warp_kernel, r.out); }},
    {"shuffle_as_fence",
     [](const rig &r) { run(r, 1, 32, 0, 32, falling_warp, shuffle_as_fence_kernel, r.out); }},
    {"write_after_read",
     [](const rig &r) { run(r, 1, N, 0, N, two_rounds, write_after_read_kernel, r.out); }},
    {"global_bound", [](const rig &r) { run(r, 1, N, 0, 0, one, global_bound_kernel, r.out); }},
    {"shared_bound", [](const rig &r) { run(r, 1, N, 0, N - 1, one, shared_bound_kernel, r.out); }},
    {"shared_row", [](const rig &r) { run(r, 1, N, 0, N, one, shared_row_kernel, r.out); }},
    {"shared_unwritten",
     [](const rig &r) { run(r, 1, N, 0, N, one, shared_unwritten_kernel, r.out); }},
    {"global_unwritten", unwritten_global},
    {"divergent_barrier",
     [](const rig &r) { run(r, 1, N, 0, N, one, divergent_barrier_kernel, r.out); }},
    {"exit_before_barrier",
     [](const rig &r) { run(r, 1, N, 0, N, one, exit_before_barrier_kernel, r.out); }},
    {"shuffle_mask", [](const rig &r) { run(r, 1, 32, 0, 32, one, shuffle_mask_kernel, r.out); }},
    {"shuffle_non_member",
     [](const rig &r) { run(r, 1, 32, 0, 32, one, shuffle_non_member_kernel, r.out); }},
    {"blocks_write", [](const rig &r) { run(r, 4, 32, 0, 1, one, blocks_write_kernel, r.out); }},
    {"blocks_add", [](const rig &r) { run(r, 4, 32, 0, 0, one, blocks_add_kernel, r.out); }},
    {"misaligned", [](const rig &r) { run(r, 1, N, 0, N, one, misaligned_kernel, r.out, r.ones); }},
    {"overflow", [](const rig &r) { run(r, 1, N, 0, N, one, overflow_kernel, r.out, 65537); }},
    {"async_no_wait",
     [](const rig &r) { run(r, 1, N, 0, N, one, async_no_wait_kernel, r.out, r.ones); }},
    {"async_no_sync",
     [](const rig &r) { run(r, 1, N, 0, N, one, async_no_sync_kernel, r.out, r.ones); }},
    {"double_buffer",
     [](const rig &r) { run(r, 1, N, 0, N, one, double_buffer_kernel, r.out, r.ones); }},
    {"dynamic_too_small",
     [](const rig &r) { run(r, 1, N, (N - 1) * sizeof(float), N, one, dynamic_kernel, r.out); }},
    {"host_pointer", [](const rig &r) { run(r, 1, N, 0, 0, one, fill_kernel, (float *)on_host); }},
    {"host_reads_device", [](const rig &r) { on_host[0] = *(volatile float *)r.out; }},
    {"no_stream_sync", no_stream_sync},
    {"no_cross_stream", no_cross_stream},
    {"use_after_free", use_after_free},
    {"copy_too_long", copy_too_long},
    {"threads_1025", [](const rig &r) { run(r, 1, 1025, 0, N, one, fill_kernel, r.out); }},
    {"shared_49k", [](const rig &r) { run(r, 1, N, 49 << 10, N, one, dynamic_kernel, r.out); }},
};

int main(int argc, char **argv)
{
    rig r = {};
    std::vector<float> ones(N + 4, 1.0f);
    check(cudaStreamCreateWithFlags(&r.s, cudaStreamNonBlocking));
    check(cudaStreamCreateWithFlags(&r.other, cudaStreamNonBlocking));
    check(cudaMalloc(&r.out, N * sizeof(float)));
    check(cudaMalloc(&r.in, ones.size() * sizeof(float)));
    check(cudaMemcpy(r.in, ones.data(), ones.size() * sizeof(float), cudaMemcpyHostToDevice));
    r.ones = r.in;
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (const auto &bug : bugs) {
            printf("%s\n", bug.name);
        }
        return 0;
    }
    for (const auto &bug : bugs) {
        if (argc > 1 && strcmp(argv[1], bug.name) == 0) {
            bug.go(r);
            return 0;
        }
    }
    fprintf(stderr, "usage: cuemu_planted NAME | --list\n");
    return 1;
}
