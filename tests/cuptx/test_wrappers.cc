/* test_wrappers.cc - every wrapper of inline PTX in kernels/cuda/compat.cuh, by a product that has
 * to be exact; and the parts of the runtime that only a program of nvcc's sees. Thread: one. */
#include "test_kit.h"

#include "wrapper_kernels.h"

static __nv_bfloat16 bf16(float f)
{
    uint32_t bits;
    __nv_bfloat16 h;
    memcpy(&bits, &f, sizeof bits);
    uint16_t high = (uint16_t)(bits >> 16);
    memcpy(&h, &high, sizeof h);
    return h;
}

static void check_product(int n_steps, int n_rows, bool b_by_rows)
{
    const int k = 16 * n_steps;
    kit_random rnd = {(uint64_t)(n_steps * 100 + n_rows)};
    std::vector<float> a((size_t)(16 * k)), b((size_t)(16 * k));
    std::vector<__nv_bfloat16> a_bits, b_bits;
    for (float &v : a) {
        v = (float)(rnd.below(15) - 7);
        a_bits.push_back(bf16(v));
    }
    for (float &v : b) {
        v = (float)(rnd.below(15) - 7);
        b_bits.push_back(bf16(v));
    }
    kit_array<__nv_bfloat16> at_a(a_bits), at_b(b_bits);
    kit_array<float> at_c(256);
    kit_stream s;
    CHECK_OK(wrapper_product(s.s, at_a.p, at_b.p, at_c.p, n_steps, n_rows, b_by_rows));
    s.sync();
    std::vector<float> got = at_c.get();
    for (int y = 0; y < 16; y++) {
        for (int x = 0; x < 16; x++) {
            float want = 0;
            for (int i = 0; i < k && y < n_rows; i++) {
                want += a[(size_t)(y * k + i)] * b[(size_t)(b_by_rows ? i * 16 + x : x * k + i)];
            }
            CHECK(got[(size_t)(y * 16 + x)] == want);
        }
    }
}

static void test_product()
{
    for (int n_steps : {1, 2, 3, 5}) {
        for (int n_rows : {16, 9, 1}) {
            check_product(n_steps, n_rows, false);
            check_product(n_steps, n_rows, true);
        }
    }
}

static void test_properties()
{
    cudaDeviceProp prop;
    int major = 0;
    CHECK_OK(cudaGetDeviceProperties(&prop, 0));
    CHECK_OK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    CHECK(prop.major == major && prop.major >= 8 && prop.warpSize == 32);
    CHECK(prop.totalGlobalMem > 0 && prop.sharedMemPerBlockOptin > prop.sharedMemPerBlock);
    CHECK(prop.multiProcessorCount > 0 && prop.maxThreadsPerBlock == 1024);
}

static const kit_test tests[] = {{"product", test_product}, {"properties", test_properties}};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
