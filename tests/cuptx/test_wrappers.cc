/* test_wrappers.cc - every wrapper of inline PTX in kernels/cuda/compat.cuh, by a product that has
 * to be exact; and the parts of the runtime that only a program of nvcc's sees. Thread: one. */
#include "tests/cuemu/test_kit.h"

#include <cublas_v2.h>

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

/* Column-major: C[2, 2] = A[2, 3] B[3, 2], through NVIDIA's names of cuBLAS where nvcc builds it.
 */
static void test_cublas()
{
    kit_stream s;
    cublasHandle_t handle;
    kit_array<float> a(std::vector<float>{1, 2, 3, 4, 5, 6}),
        b(std::vector<float>{1, 0, 2, -1, 3, 1}), c(4);
    const float one = 1, zero = 0;
    CHECK(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasSetStream(handle, s.s) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 3, &one, a.p, CUDA_R_32F, 2, b.p,
                       CUDA_R_32F, 3, &zero, c.p, CUDA_R_32F, 2, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS);
    s.sync();
    CHECK((c.get() == std::vector<float>{11, 14, 13, 16}));
    CHECK(cublasDestroy(handle) == CUBLAS_STATUS_SUCCESS);
}

static const kit_test tests[] = {
    {"product", test_product}, {"properties", test_properties}, {"cublas", test_cublas}};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
