/* test_blas.cc - the products of the stand-in's cuBLAS against loops in double, what it refuses,
 * and its number formats against kernels/dtype.c. Thread: one. */
#include <cmath>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "test_kit.h"

extern "C" {
#include "kernels/dtype.h"
}

/* Every BF16 and half there is to float, and floats of every exponent to both. */
static void test_numbers()
{
    for (unsigned u = 0; u < 65536; u++) {
        uint16_t h = (uint16_t)u;
        float f = __bfloat162float({h}), g = tt_bf16_to_f32(h);
        CHECK(memcmp(&f, &g, 4) == 0);
        f = __half2float(__ushort_as_half(h));
        g = tt_f16_to_f32(h);
        CHECK(memcmp(&f, &g, 4) == 0);
    }
    kit_random rnd = {7};
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = rnd.next();
        float f;
        memcpy(&f, &bits, 4);
        if (std::isnan(f)) {
            CHECK(std::isnan(__bfloat162float(__float2bfloat16(f))));
            CHECK(std::isnan(__half2float(__float2half(f))));
        } else {
            CHECK(__float2bfloat16(f).x == tt_f32_to_bf16(f));
            CHECK(__float2half(f).x == tt_f32_to_f16(f));
        }
    }
    /* Halfway cases go to even. */
    CHECK(__float2bfloat16(1.00390625f).x == 0x3f80 && __float2bfloat16(1.01171875f).x == 0x3f82);
    CHECK(__float2half(0x1p-25f).x == 0 && __float2half(0x1.8p-24f).x == 2);
}

struct sizes {
    int m, n, k, lda, ldb, ldc, n_batch;
    long long sa, sb, sc; /* elements */
};

static double element(const std::vector<__nv_bfloat16> &v, long long i)
{
    return __bfloat162float(v[(size_t)i]);
}

static void check_product(bool ta, bool tb, const sizes &z, cudaDataType c_type, float beta)
{
    kit_random rnd = {3};
    std::vector<__nv_bfloat16> a((size_t)(z.sa * z.n_batch)), b((size_t)(z.sb * z.n_batch));
    for (auto *v : {&a, &b}) {
        for (__nv_bfloat16 &x : *v) {
            x = __float2bfloat16(rnd.uniform());
        }
    }
    std::vector<float> c((size_t)(z.sc * z.n_batch), beta == 0 ? NAN : 2.0f);
    std::vector<__nv_bfloat16> c16(c.size());
    for (size_t i = 0; i < c.size(); i++) {
        c16[i] = __float2bfloat16(c[i]);
    }
    kit_array<__nv_bfloat16> da(a), db(b), dc16(c16);
    kit_array<float> dc(c);
    kit_stream s;
    cublasHandle_t h = nullptr;
    float alpha = 0.5f;
    bool wide = c_type == CUDA_R_32F;
    CHECK(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasSetStream(h, s.s) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasSetMathMode(h, CUBLAS_DEFAULT_MATH) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasSetWorkspace(h, dc.p, 4) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasGemmStridedBatchedEx(
              h, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, z.m, z.n, z.k,
              &alpha, da.p, CUDA_R_16BF, z.lda, z.sa, db.p, CUDA_R_16BF, z.ldb, z.sb, &beta,
              wide ? (void *)dc.p : (void *)dc16.p, c_type, z.ldc, z.sc, z.n_batch,
              CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS);
    s.sync();
    CHECK(cublasDestroy(h) == CUBLAS_STATUS_SUCCESS);
    std::vector<float> got = dc.get();
    std::vector<__nv_bfloat16> got16 = dc16.get();
    for (int e = 0; e < z.n_batch; e++) {
        for (int j = 0; j < z.n; j++) {
            for (int i = 0; i < z.m; i++) {
                double want = beta == 0 ? 0 : beta * 2.0;
                for (int l = 0; l < z.k; l++) {
                    double x = element(a, e * z.sa + (ta ? i * z.lda + l : l * z.lda + i));
                    double y = element(b, e * z.sb + (tb ? l * z.ldb + j : j * z.ldb + l));
                    want += alpha * x * y;
                }
                size_t at = (size_t)(e * z.sc + j * z.ldc + i);
                double v = wide ? got[at] : __bfloat162float(got16[at]);
                CHECK(fabs(v - want) < (wide ? 1e-5 : 2e-2));
            }
        }
    }
    /* Between the columns nothing is written. */
    CHECK(z.ldc == z.m || (beta == 0 ? std::isnan(got[(size_t)z.m]) : got[(size_t)z.m] == 2.0f));
}

static void test_products()
{
    check_product(true, false, {33, 17, 40, 48, 41, 35, 1, 48 * 33, 41 * 17, 35 * 17}, CUDA_R_32F,
                  0);
    check_product(false, false, {5, 7, 9, 6, 9, 5, 3, 54, 63, 35}, CUDA_R_32F, 1.5f);
    check_product(false, true, {8, 3, 4, 8, 5, 9, 2, 32, 20, 27}, CUDA_R_32F, 0);
    check_product(true, true, {4, 4, 16, 16, 4, 4, 1, 64, 64, 16}, CUDA_R_16BF, 0);
}

/* The smallest call that is in order, but for what differs. */
static cublasStatus_t ask(int m, int lda, int ldb, int ldc, cudaDataType a_type,
                          cudaDataType c_type, cublasComputeType_t compute)
{
    kit_stream s;
    kit_array<float> data(std::vector<float>(64, 0.0f));
    cublasHandle_t h = nullptr;
    float one = 1;
    cublasCreate(&h);
    cublasSetStream(h, s.s);
    cublasStatus_t status = cublasGemmEx(h, CUBLAS_OP_N, CUBLAS_OP_N, m, 2, 2, &one, data.p, a_type,
                                         lda, data.p, CUDA_R_16BF, ldb, &one, data.p + 32, c_type,
                                         ldc, compute, CUBLAS_GEMM_DEFAULT);
    s.sync();
    cublasDestroy(h);
    return status;
}

static void test_refusals()
{
    const cudaDataType bf = CUDA_R_16BF, f32 = CUDA_R_32F, f16 = CUDA_R_16F;
    const cublasComputeType_t c32 = CUBLAS_COMPUTE_32F;
    CHECK(ask(2, 2, 2, 2, bf, f32, c32) == CUBLAS_STATUS_SUCCESS);
    CHECK(ask(2, 1, 2, 2, bf, f32, c32) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(ask(2, 2, 1, 2, bf, f32, c32) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(ask(2, 2, 2, 1, bf, f32, c32) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(ask(-1, 2, 2, 2, bf, f32, c32) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(ask(2, 2, 2, 2, f16, f32, c32) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(ask(2, 2, 2, 2, bf, f16, c32) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(ask(2, 2, 2, 2, bf, f32, CUBLAS_COMPUTE_16F) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(strcmp(cublasGetStatusString(CUBLAS_STATUS_SUCCESS), "success") == 0);
    kit_expect_abort("legacy default stream", [] {
        kit_array<float> data(64);
        cublasHandle_t h = nullptr;
        float one = 1;
        cublasCreate(&h);
        cublasGemmEx(h, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, data.p, CUDA_R_32F, 2, data.p,
                     CUDA_R_32F, 2, &one, data.p, CUDA_R_32F, 2, CUBLAS_COMPUTE_32F,
                     CUBLAS_GEMM_DEFAULT);
    });
}

static void test_faults()
{
    cublasHandle_t h = nullptr;
    auto failing = [](auto call) {
        cuemu_fail_after(0, cudaErrorUnknown);
        cublasStatus_t status = call();
        cuemu_fail_after(-1, cudaSuccess);
        return status;
    };
    CHECK(failing([&] { return cublasCreate(&h); }) == CUBLAS_STATUS_NOT_INITIALIZED &&
          h == nullptr);
    CHECK(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS);
    CHECK(failing([&] { return cublasSetStream(h, nullptr); }) == CUBLAS_STATUS_NOT_INITIALIZED);
    CHECK(failing([&] { return cublasSetWorkspace(h, nullptr, 0); }) ==
          CUBLAS_STATUS_NOT_INITIALIZED);
    CHECK(failing([&] { return cublasSetMathMode(h, CUBLAS_PEDANTIC_MATH); }) ==
          CUBLAS_STATUS_NOT_INITIALIZED);
    float one = 1;
    CHECK(failing([&] {
              return cublasGemmEx(h, CUBLAS_OP_N, CUBLAS_OP_N, 0, 0, 0, &one, nullptr, CUDA_R_32F,
                                  1, nullptr, CUDA_R_32F, 1, &one, nullptr, CUDA_R_32F, 1,
                                  CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
          }) == CUBLAS_STATUS_EXECUTION_FAILED);
    CHECK(failing([&] { return cublasDestroy(h); }) == CUBLAS_STATUS_NOT_INITIALIZED);
    cudaGetLastError();
}

static const kit_test tests[] = {
    {"numbers", test_numbers},
    {"products", test_products},
    {"refusals", test_refusals},
    {"faults", test_faults},
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
