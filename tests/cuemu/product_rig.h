/* product_rig.h - what the tests of the products share: weights of every type on both sides and as
 * BF16, the workspace with its cuBLAS, and bounds for sums. Thread: one. */
#ifndef CUEMU_PRODUCT_RIG_H
#define CUEMU_PRODUCT_RIG_H

#include <kernels/cuda/product_cuda.h>

#include "kernel_rig.h"

extern "C" {
#include "kernels/quant.h"
}

/* Random contents of a type: every pattern of bits as codes, small halves where scales lie. */
static inline std::vector<uint8_t> random_rows(kit_random *rnd, tt_dtype type, int64_t rows,
                                               int64_t cols)
{
    int64_t row_bytes = tt_row_bytes(type, cols), block = tt_dtypes[type].block_bytes;
    std::vector<uint8_t> bytes((size_t)(rows * row_bytes));
    bool with_min = type == TT_Q4_1 || type == TT_Q5_1 || type == TT_Q4_K || type == TT_Q5_K;
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *row = bytes.data() + r * row_bytes;
        if (tt_dtypes[type].block_elems == 1) {
            std::vector<float> x = random_floats(rnd, (size_t)cols);
            tt_quant_row(type, x.data(), row, cols);
            continue;
        }
        for (int64_t i = 0; i < row_bytes; i++) {
            row[i] = (uint8_t)rnd->next();
        }
        for (int64_t b = 0; b < row_bytes; b += block) {
            uint16_t scale = tt_f32_to_f16(0.01f * (1.5f + rnd->uniform()));
            uint16_t least = tt_f32_to_f16(0.01f * rnd->uniform());
            memcpy(row + b + (type == TT_Q6_K ? 208 : 0), &scale, 2);
            if (with_min) {
                memcpy(row + b + 2, &least, 2);
            }
        }
    }
    return bytes;
}

static inline float rounded(float x)
{
    return tt_bf16_to_f32(tt_f32_to_bf16(x));
}

/* f of every element. */
static inline std::vector<float> each(std::vector<float> v, float (*f)(float))
{
    for (float &x : v) {
        x = f(x);
    }
    return v;
}

/* A weight on both sides; its elements as floats, as they are and rounded to BF16. */
struct test_weight {
    twin<uint8_t> bytes;
    std::vector<float> exact, bf16, size;
    tt_weight host, device;
    tt_weight host_bf16, host_size; /* F32 of those values; size: without signs */

    test_weight(kit_random *rnd, tt_dtype type, int64_t rows, int64_t cols)
        : bytes(random_rows(rnd, type, rows, cols)), exact((size_t)(rows * cols))
    {
        for (int64_t r = 0; r < rows; r++) {
            tt_dequant_row(type, bytes.host.data() + r * tt_row_bytes(type, cols),
                           exact.data() + r * cols, cols);
        }
        bf16 = each(exact, rounded);
        size = each(bf16, fabsf);
        host = {type, rows, cols, bytes.at_host()};
        device = {type, rows, cols, bytes.at_device()};
        host_bf16 = {TT_F32, rows, cols, tt_addr(bf16.data())};
        host_size = {TT_F32, rows, cols, tt_addr(size.data())};
    }
    test_weight(const test_weight &) = delete;
};

/* A stream, cuBLAS on it, and a workspace for these limits: passes of 64 rows and the smallest
 * panel, so that small shapes have several of both. */
struct product_rig {
    static tt_cuda_products limits(int32_t max_rows, int32_t max_dim, int32_t max_rank)
    {
        tt_cuda_products p = {};
        p.max_rows = max_rows;
        p.max_dim = max_dim;
        p.max_rank = max_rank;
        p.pass_rows = 64;
        p.panel_bytes = 64 * ((max_dim + 31) / 32 * 32);
        return p;
    }
    kit_stream s;
    tt_cuda_products p;
    kit_array<uint8_t> space;
    reference ref;

    product_rig(int32_t max_rows, int32_t max_dim, int32_t max_rank)
        : p(limits(max_rows, max_dim, max_rank)), space(tt_cuda_products_bytes(&p))
    {
        p.workspace = tt_addr(space.p);
        CHECK(cublasCreate(&p.blas) == CUBLAS_STATUS_SUCCESS);
        CHECK(cublasSetStream(p.blas, s.s) == CUBLAS_STATUS_SUCCESS);
    }
    ~product_rig()
    {
        CHECK(cublasDestroy(p.blas) == CUBLAS_STATUS_SUCCESS);
    }
    product_rig(const product_rig &) = delete;
};

/* Sums of `terms` products against the same ones of rounded operands (want) and of the operands as
 * they are (exact). size: the sum without signs, which the bounds are fractions of. FP32 sums in
 * any order are within terms * 2^-24 of it, two operands rounded to BF16 (2^-8 each) move it by
 * 2^-7. */
struct expected_sums {
    std::vector<float> want, exact, size;
};

static inline void check_sums(const char *what, const std::vector<float> &got,
                              const expected_sums &e, int terms)
{
    double order = (terms + 2) * 0x1p-23, worst = 0;
    for (size_t i = 0; i < got.size(); i++) {
        double size = e.size[i] + 1e-30;
        double a = fabs((double)got[i] - e.want[i]) / (order * size);
        double b = fabs((double)got[i] - e.exact[i]) / ((1.02 * 0x1p-7 + order) * size);
        worst = a <= worst && b <= worst ? worst : std::isnan(a + b) ? INFINITY : fmax(a, b);
    }
    if (!(worst <= 1)) {
        printf("%s: %g times the bound\n", what, worst);
        kit_check(false, what, cuemu::here());
    }
}

/* test_adapter_cuda.cc */
void test_adapter_decode();
void test_adapter_prefill();
void test_adapter_back();
void test_adapter_floats();
void test_adapter_faults();

#endif
