/* test_dtype.c - kernels/dtype.c: every half to float, floats to the nearest half and BF16, by
 * their definitions. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/dtype.h"

/* IEEE 754: (-1)^s 2^(e - 15) (1 + m / 1024), e = 0: 2^-14 m / 1024, e = 31: infinity, NaN. */
static double half_value(unsigned h)
{
    int e = (int)(h >> 10 & 31), m = (int)(h & 1023);
    double v = e == 0    ? ldexp(m, -24)
               : e == 31 ? (m == 0 ? INFINITY : NAN)
                         : ldexp(1024 + m, e - 25);
    return h & 0x8000 ? -v : v;
}

static void every_half_to_float(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x10000; h++) {
        double want = half_value(h), got = tt_f16_to_f32((uint16_t)h);
        if (isnan(want)) {
            assert_true(isnan(got));
            continue;
        }
        assert_true(want == got && signbit(want) == signbit(got));
        assert_int_equal(tt_f32_to_f16((float)want), h); /* and back */
    }
    assert_true(isnan(tt_f16_to_f32(tt_f32_to_f16(NAN))));
}

/* Around each midpoint of neighbours: below, on (to the even one), above. */
static void floats_to_the_nearest_half(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x7C00; h++) {
        double lo = half_value(h), hi = h == 0x7BFF ? 65536 : half_value(h + 1);
        float middle = (float)((lo + hi) / 2);
        unsigned even = h % 2 == 0 ? h : h + 1;
        assert_int_equal(tt_f32_to_f16(middle), even);
        assert_int_equal(tt_f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(tt_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(tt_f32_to_f16(-middle), even | 0x8000);
    }
    assert_int_equal(tt_f32_to_f16(INFINITY), 0x7C00);
    assert_int_equal(tt_f32_to_f16(3e38f), 0x7C00);
    assert_int_equal(tt_f32_to_f16(-1e-30f), 0x8000);
}

static void bfloat16(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x7F80; h++) {
        float lo = tt_bf16_to_f32((uint16_t)h);
        uint32_t u = h << 16 | 0x8000;
        float middle;
        memcpy(&middle, &u, sizeof middle);
        assert_int_equal(tt_f32_to_bf16(lo), h);
        assert_int_equal(tt_f32_to_bf16(middle), h + h % 2);
        assert_int_equal(tt_f32_to_bf16(nextafterf(middle, 0)), h);
        assert_int_equal(tt_f32_to_bf16(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_true(isnan(tt_bf16_to_f32(tt_f32_to_bf16(NAN))));
    uint32_t u = 0x7F800001; /* a NaN whose payload lies in the bits that go */
    float nan_low;
    memcpy(&nan_low, &u, sizeof nan_low);
    assert_true(isnan(tt_bf16_to_f32(tt_f32_to_bf16(nan_low))));
}

static void row_sizes(void **state)
{
    (void)state;
    static const int64_t bytes_of_256[TT_DTYPE_COUNT] = {1024, 512, 512, 272, 144, 160,
                                                         176,  192, 144, 176, 210, 256};
    for (int t = 0; t < TT_DTYPE_COUNT; t++) {
        assert_int_equal(tt_row_bytes((tt_dtype)t, 256), bytes_of_256[t]);
        assert_int_equal(tt_row_bytes((tt_dtype)t, 0), 0);
        assert_non_null(tt_dtypes[t].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_to_float),
        cmocka_unit_test(floats_to_the_nearest_half),
        cmocka_unit_test(bfloat16),
        cmocka_unit_test(row_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
