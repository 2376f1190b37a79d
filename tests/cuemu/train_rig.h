/* train_rig.h - what the tests of training's kernels share: weights of every type, comparison of
 * numbers. Thread: one. */
#ifndef CUEMU_TRAIN_RIG_H
#define CUEMU_TRAIN_RIG_H

#include "kernel_rig.h"

extern "C" {
#include "kernels/quant.h"
}

static const tt_dtype all_types[] = {TT_F32,  TT_F16,  TT_BF16, TT_Q8_0, TT_Q4_0, TT_Q4_1,
                                     TT_Q5_0, TT_Q5_1, TT_Q4_K, TT_Q5_K, TT_Q6_K};

/* A matrix in a type, of values around `size`: real ones where there is a quantiser, else random
 * bytes with small halves in the places of the scales. */
static inline std::vector<uint8_t> random_weights(kit_random *rnd, tt_dtype type, int64_t rows,
                                                  int64_t cols, float size)
{
    int64_t row_bytes = tt_row_bytes(type, cols);
    std::vector<uint8_t> bytes((size_t)(rows * row_bytes));
    std::vector<float> x((size_t)cols);
    for (int64_t r = 0; r < rows; r++) {
        for (float &v : x) {
            v = rnd->uniform() * size;
        }
        uint8_t *row = bytes.data() + r * row_bytes;
        if (tt_quant_row(type, x.data(), row, cols) == 0) {
            continue;
        }
        for (int64_t i = 0; i < row_bytes; i++) {
            row[i] = (uint8_t)rnd->next();
        }
        /* Six bits of scale times four of value; Q6_K's scales have eight. */
        float step = size / (type == TT_Q6_K ? 2048.0f : 512.0f);
        for (int64_t b = 0; b < row_bytes; b += tt_dtypes[type].block_bytes) {
            uint16_t scale = tt_f32_to_f16(step * (1.5f + rnd->uniform()));
            memcpy(row + b + (type == TT_Q6_K ? 208 : 0), &scale, 2);
            if (type != TT_Q6_K) {
                uint16_t least = tt_f32_to_f16(step * (8.0f + rnd->uniform()));
                memcpy(row + b + 2, &least, 2);
            }
        }
    }
    return bytes;
}

static inline std::vector<float> values_of(tt_dtype type, const std::vector<uint8_t> &bytes,
                                           int64_t rows, int64_t cols)
{
    std::vector<float> v((size_t)(rows * cols));
    for (int64_t r = 0; r < rows; r++) {
        tt_dequant_row(type, bytes.data() + r * tt_row_bytes(type, cols), v.data() + r * cols,
                       cols);
    }
    return v;
}

static inline std::vector<float> even_floats(kit_random *rnd, size_t n, float size)
{
    std::vector<float> v(n);
    for (float &x : v) {
        x = rnd->uniform() * size;
    }
    return v;
}

static inline void check_number(const char *what, double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want))) {
        printf("%s: %.17g, not %.17g\n", what, got, want);
        kit_check(false, what, cuemu::here());
    }
}

/* test_head.cc */
void test_head();
void test_head_precision();
void test_head_rows();
/* test_optim.cc */
void test_optim_begin();
void test_optim_step();
void test_optim_dropped();
void test_delta_norm();
#ifdef CUEMU
void test_head_faults();
void test_optim_faults();
#else
void test_optim_unrolled();
#endif

#endif
