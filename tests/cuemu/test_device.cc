/* test_device.cc - the device side of the stand-in: orders, barriers, collectives, shared memory,
 * atomics, and the wrappers of compat.cuh against the tables of the PTX manual. Thread: one. */
#include <cstdlib>
#include <kernels/cuda/compat.cuh>

#include "sanitizer_hooks.h"
#include "test_kit.h"

static int order_setting()
{
    const char *text = getenv("CUEMU_ORDER");
    return text != nullptr ? atoi(text) : 0;
}

static __global__ void arrival_kernel(int *order, int *n)
{
    order[atomicAdd(n, 1)] = (int)(blockIdx.x * blockDim.x + threadIdx.x);
}

/* CUEMU_ORDER does what it says, else the three orders are one. */
static void test_order()
{
    kit_stream s;
    kit_array<int> order(128), n(std::vector<int>{0});
    CHECK_OK(gpu_launch(dim3(2), dim3(64), 0, s.s, arrival_kernel, order.p, n.p));
    s.sync();
    std::vector<int> got = order.get();
    bool rising = true, falling = true;
    std::vector<bool> seen(128, false);
    for (int i = 0; i < 128; i++) {
        rising = rising && got[(size_t)i] == i;
        falling = falling && got[(size_t)i] == 127 - i;
        seen[(size_t)got[(size_t)i]] = true;
    }
    for (bool b : seen) {
        CHECK(b);
    }
    if (getenv("CUEMU_THREADS") == nullptr) {
        CHECK(rising == (order_setting() == 0));
        CHECK(falling == (order_setting() == 1));
    }
}

static __global__ void barrier_kernel(int *out)
{
    CU_SHARED(int[96], s);
    int i = (int)threadIdx.x, n = (int)blockDim.x;
    s[i] = i;
    __syncthreads();
    int sum = s[n - 1 - i];
    __syncthreads();
    s[i] = sum;
    __syncthreads();
    out[i] = s[(i + 1) % n];
    out[n + i] = __syncthreads_or(i == 7);
    out[2 * n + i] = __syncthreads_and(i == 7);
    out[3 * n + i] = __syncthreads_count(i < 7);
    out[4 * n + i] = __syncthreads_or(0);
    out[5 * n + i] = __syncthreads_and(1);
}

static void test_barrier()
{
    const int n = 96;
    kit_stream s;
    kit_array<int> out((size_t)(6 * n));
    CHECK_OK(gpu_launch(dim3(1), dim3(n), 0, s.s, barrier_kernel, out.p));
    s.sync();
    std::vector<int> got = out.get();
    for (int i = 0; i < n; i++) {
        CHECK(got[(size_t)i] == n - 1 - (i + 1) % n);
        CHECK(got[(size_t)(n + i)] == 1 && got[(size_t)(2 * n + i)] == 0);
        CHECK(got[(size_t)(3 * n + i)] == 7 && got[(size_t)(4 * n + i)] == 0);
        CHECK(got[(size_t)(5 * n + i)] == 1);
    }
}

static __global__ void shuffle_kernel(double *out)
{
    int lane = (int)threadIdx.x % 32;
    double *o = out + 8 * threadIdx.x, v = 1.0 / 3 + lane;
    o[0] = __shfl_sync(~0u, v, 5);
    o[1] = __shfl_sync(~0u, v, lane + 3, 8);
    o[2] = __shfl_xor_sync(~0u, v, 9);
    o[3] = __shfl_xor_sync(~0u, v, 16, 16);
    o[4] = __shfl_down_sync(~0u, v, 4);
    o[5] = __shfl_up_sync(~0u, v, 4, 8);
    o[6] = __ballot_sync(~0u, lane % 3 == 0) + 0x100000000 * (unsigned)__any_sync(~0u, lane == 4);
    o[7] = 2 * __all_sync(~0u, lane < 32) + __all_sync(~0u, lane < 31);
}

static void test_shuffle()
{
    kit_stream s;
    kit_array<double> out(8 * 64);
    CHECK_OK(gpu_launch(dim3(1), dim3(64), 0, s.s, shuffle_kernel, out.p));
    s.sync();
    std::vector<double> got = out.get();
    for (int t = 0; t < 64; t++) {
        const double *o = got.data() + 8 * t;
        int lane = t % 32;
        CHECK(o[0] == 1.0 / 3 + 5);
        CHECK(o[1] == 1.0 / 3 + (lane / 8 * 8 + (lane + 3) % 8));
        CHECK(o[2] == 1.0 / 3 + (lane ^ 9));
        CHECK(o[3] == 1.0 / 3 + lane % 16); /* of a later group: the lane's own */
        CHECK(o[4] == 1.0 / 3 + (lane + 4 < 32 ? lane + 4 : lane));
        CHECK(o[5] == 1.0 / 3 + (lane % 8 >= 4 ? lane - 4 : lane));
        CHECK(o[6] == (double)0x149249249ull);
        CHECK(o[7] == 2);
    }
}

static __global__ void partial_kernel(int *out)
{
    int lane = (int)threadIdx.x;
    out[lane] = -1;
    if (lane < 8) {
        out[lane] = __shfl_xor_sync(0xffu, lane, 1);
    } else if (lane < 24) {
        out[lane] = (int)__ballot_sync(0xffff00u, lane % 2);
        __syncwarp(0xffff00u);
    }
}

/* Two collectives of one warp with disjoint masks, in a block that is no multiple of a warp. */
static void test_partial()
{
    kit_stream s;
    kit_array<int> out(24);
    CHECK_OK(gpu_launch(dim3(1), dim3(24), 0, s.s, partial_kernel, out.p));
    s.sync();
    std::vector<int> got = out.get();
    for (int i = 0; i < 24; i++) {
        CHECK(got[(size_t)i] == (i < 8 ? i ^ 1 : 0xaaaa00));
    }
}

static __global__ void atomic_kernel(int *i, float *f, unsigned *u)
{
    int n = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(&i[0], 2);
    atomicMax(&i[1], n);
    atomicAdd(f, 0.5f);
    if (atomicCAS(&u[0], 7u, 8u) == 7u) {
        atomicAdd(&u[1], 1u);
    }
    atomicExch(&u[2], 9u);
}

static void test_atomic()
{
    kit_stream s;
    kit_array<int> i(std::vector<int>{0, 0});
    kit_array<float> f(std::vector<float>{0});
    kit_array<unsigned> u(std::vector<unsigned>{7, 0, 0});
    CHECK_OK(gpu_launch(dim3(3, 2), dim3(32, 2), 0, s.s, atomic_kernel, i.p, f.p, u.p));
    s.sync();
    CHECK(i.get() == (std::vector<int>{2 * 6 * 64, 2 * 32 + 31}));
    CHECK(f.get()[0] == 0.5f * 6 * 64);
    CHECK(u.get() == (std::vector<unsigned>{8, 1, 9}));
}

static __global__ void index_kernel(uint3 *out)
{
    unsigned b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[b * 24 + t] = {threadIdx.x + 100 * blockIdx.x, threadIdx.y + 100 * blockIdx.y,
                       threadIdx.z + 100 * blockIdx.z};
}

static void test_index()
{
    kit_stream s;
    kit_array<uint3> out(24 * 24);
    CHECK_OK(gpu_launch(dim3(2, 3, 4), dim3(4, 3, 2), 0, s.s, index_kernel, out.p));
    s.sync();
    std::vector<uint3> got = out.get();
    for (unsigned b = 0; b < 24; b++) {
        for (unsigned t = 0; t < 24; t++) {
            uint3 v = got[b * 24 + t];
            CHECK(v.x == t % 4 + 100 * (b % 2) && v.y == t / 4 % 3 + 100 * (b / 2 % 3) &&
                  v.z == t / 12 + 100 * (b / 6));
        }
    }
}

struct dynamic_layout {
    float a[64];
    int b[64];
};

static __global__ void fresh_kernel(unsigned *out)
{
    CU_SHARED(unsigned[64], s);
    CU_DYN_SHARED(dynamic_layout, d);
    unsigned i = threadIdx.x;
    out[3 * (blockIdx.x * 64 + i)] = s[i];
    out[3 * (blockIdx.x * 64 + i) + 1] = __float_as_uint(d->a[i]);
    out[3 * (blockIdx.x * 64 + i) + 2] = (unsigned)d->b[i];
    s[i] = 1;
    d->a[i] = 1;
    d->b[i] = 1;
}

/* No block sees what another one left in shared memory. */
static void test_shared_is_fresh()
{
    if (cuemu::UNDEFINED_IS_REPORTED) {
        return;
    }
    kit_stream s;
    kit_array<unsigned> out(3 * 64 * 3);
    CHECK_OK(gpu_launch(dim3(3), dim3(64), sizeof(dynamic_layout), s.s, fresh_kernel, out.p));
    s.sync();
    for (unsigned u : out.get()) {
        CHECK(u == 0xffffffffu);
    }
}

static __global__ void async_kernel(unsigned *out, const uint4 *in)
{
    CU_SHARED(uint4[3], s);
    if (threadIdx.x == 0) {
        cp_async16(&s[0], &in[0], true);
        cp_async_commit();
        cp_async16(&s[1], &in[1], true);
        cp_async16(&s[2], &in[2], false);
        cp_async_commit();
        out[0] = s[0].x;
        cp_async_wait<1>();
        out[1] = s[0].x;
        out[2] = s[1].y;
        cp_async_wait<0>();
        out[3] = s[1].y;
        out[4] = s[2].z;
    }
}

/* Lost when issued, there when waited for, zeros where not valid. */
static void test_async()
{
    if (cuemu::UNDEFINED_IS_REPORTED) {
        return;
    }
    kit_stream s;
    kit_array<unsigned> out(5);
    kit_array<uint4> in(std::vector<uint4>{{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 9, 9, 9}});
    CHECK_OK(gpu_launch(dim3(1), dim3(32), 0, s.s, async_kernel, out.p, (const uint4 *)in.p));
    s.sync();
    CHECK(out.get() == (std::vector<unsigned>{~0u, 1, ~0u, 6, 0}));
}

static __global__ void ldmatrix_kernel(unsigned *out)
{
    CU_SHARED(uint16_t[32][8], s);
    int lane = (int)threadIdx.x;
    for (int c = 0; c < 8; c++) {
        s[lane][c] = (uint16_t)(lane * 8 + c);
    }
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4<false>(r, s[lane]);
    for (int i = 0; i < 4; i++) {
        out[lane * 8 + i] = r[i];
    }
    ldmatrix_x4<true>(r, s[lane]);
    for (int i = 0; i < 4; i++) {
        out[lane * 8 + 4 + i] = r[i];
    }
}

static void test_ldmatrix()
{
    kit_stream s;
    kit_array<unsigned> out(32 * 8);
    CHECK_OK(gpu_launch(dim3(1), dim3(32), 0, s.s, ldmatrix_kernel, out.p));
    s.sync();
    std::vector<unsigned> got = out.get();
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned row = lane / 4, col = lane % 4 * 2;
        for (unsigned i = 0; i < 4; i++) {
            unsigned first = 64 * i + 8 * row + col;
            CHECK(got[lane * 8 + i] == (first | (first + 1) << 16));
            unsigned down = 64 * i + 8 * col + row;
            CHECK(got[lane * 8 + 4 + i] == (down | (down + 8) << 16));
        }
    }
}

static __global__ void mma_kernel(float *d, const uint32_t *a, const uint32_t *b)
{
    int lane = (int)threadIdx.x;
    mma_bf16(d + 4 * lane, a + 4 * lane, b[2 * lane], b[2 * lane + 1]);
}

/* Of a number that is one. */
static uint32_t bf16_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits >> 16;
}

/* Fragments are written and read by the formulas of the PTX manual, which number the elements (a0
 * to a7) and not the registers. */
static void test_mma()
{
    float a[16][16], b[16][8], c[16][8];
    kit_random rnd = {42};
    for (auto &row : a) {
        for (float &v : row) {
            v = (float)(rnd.below(31) - 15);
        }
    }
    for (auto &row : b) {
        for (float &v : row) {
            v = (float)(rnd.below(31) - 15) / 4;
        }
    }
    std::vector<uint32_t> ra(128), rb(64);
    std::vector<float> rd(128);
    for (int lane = 0; lane < 32; lane++) {
        int group = lane / 4, t = lane % 4;
        for (int i = 0; i < 8; i++) {
            int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
            int col = t * 2 + (i & 1) + (i >= 4 ? 8 : 0);
            ra[(size_t)(lane * 4 + i / 2)] |= bf16_bits(a[row][col]) << (i % 2 * 16);
        }
        for (int i = 0; i < 4; i++) {
            int row = t * 2 + (i & 1) + (i >= 2 ? 8 : 0);
            rb[(size_t)(lane * 2 + i / 2)] |= bf16_bits(b[row][group]) << (i % 2 * 16);
            rd[(size_t)(lane * 4 + i)] = (float)(lane - i);
        }
    }
    kit_stream s;
    kit_array<uint32_t> da(ra), db(rb);
    kit_array<float> dd(rd);
    CHECK_OK(gpu_launch(dim3(1), dim3(32), 0, s.s, mma_kernel, dd.p, (const uint32_t *)da.p,
                        (const uint32_t *)db.p));
    s.sync();
    std::vector<float> got = dd.get();
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + (i >= 2 ? 8 : 0), col = lane % 4 * 2 + (i & 1);
            c[row][col] = (float)(lane - i);
            for (int k = 0; k < 16; k++) {
                c[row][col] += a[row][k] * b[k][col];
            }
            CHECK(got[(size_t)(lane * 4 + i)] == c[row][col]);
        }
    }
}

static const kit_test tests[] = {
    {"order", test_order},
    {"barrier", test_barrier},
    {"shuffle", test_shuffle},
    {"partial", test_partial},
    {"atomic", test_atomic},
    {"index", test_index},
    {"shared_is_fresh", test_shared_is_fresh},
    {"async", test_async},
    {"ldmatrix", test_ldmatrix},
    {"mma", test_mma},
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
