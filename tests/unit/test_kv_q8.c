/* test_kv_q8.c - what is stored in pages of TT_I8, element by element, in every table of this
 * machine: ties, zeros, the smallest and the largest numbers, NaN. Random vectors: checkops. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/lane.h"

enum { DIM = 20, SLOT = TT_PAGE_TOKENS + 3 };

/* Two pages of one head. */
typedef struct store {
    int8_t k[2][TT_PAGE_TOKENS][DIM], v[2][TT_PAGE_TOKENS][DIM];
    float k_scale[2][TT_PAGE_TOKENS], v_scale[2][TT_PAGE_TOKENS];
} store;

static store pages;

/* Stores v as the value at SLOT; K is zeros. */
static void write_value(unsigned isa, const float *v)
{
    tt_ops ops;
    tt_lane *lane = NULL;
    tt_err err;
    float q[DIM] = {0}, k[DIM] = {0}, freq[1] = {1}, copy[DIM];
    int32_t position = 5, slot = SLOT;
    tt_kv_layer kv = {.k = tt_addr(pages.k),
                      .v = tt_addr(pages.v),
                      .k_scale = tt_addr(pages.k_scale),
                      .v_scale = tt_addr(pages.v_scale),
                      .page_stride = sizeof pages.k[0],
                      .type = TT_I8,
                      .n_kv_heads = 1,
                      .head_dim = DIM};
    /* Scales of page 1 lie a page's stride behind those of page 0, as vectors do. */
    kv.k_scale = tt_addr(pages.k_scale[1]) - (tt_dev)kv.page_stride;
    kv.v_scale = tt_addr(pages.v_scale[1]) - (tt_dev)kv.page_stride;
    memcpy(copy, v, sizeof copy);
    memset(&pages, 0x55, sizeof pages);
    tt_ops_get(&ops, isa);
    assert_int_equal(ops.lane_create(&ops, &(tt_lane_options){.n_threads = 1}, &lane, &err), TT_OK);
    ops.qk_rope(lane,
                &(tt_qk_rope_args){.q = tt_addr(q),
                                   .k = tt_addr(k),
                                   .v = tt_addr(copy),
                                   .positions = tt_addr(&position),
                                   .kv_slot = tt_addr(&slot),
                                   .kv = &kv,
                                   .rope = {.rot_dim = 2, .inv_freq = tt_addr(freq), .mscale = 1},
                                   .n_rows = 1,
                                   .n_heads = 1});
    assert_int_equal(ops.lane_sync(lane, &err), TT_OK);
    ops.lane_destroy(&lane);
    assert_true(pages.k_scale[1][3] == 0 && pages.k[1][3][0] == 0);
}

static const unsigned isas[] = {0, TT_ISA_AVX2, TT_ISA_AVX2 | TT_ISA_AVX512, TT_ISA_ALL};

static void expect(const float *v, float scale, const int8_t *q)
{
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        write_value(isas[i], v);
        float got = pages.v_scale[1][3];
        assert_true(isnan(scale) ? isnan(got) : memcmp(&got, &scale, sizeof got) == 0);
        for (int d = 0; d < DIM; d++) {
            assert_int_equal(pages.v[1][3][d], q[d]);
        }
        /* The neighbours are left alone. */
        assert_int_equal(pages.v[1][4][0], 0x55);
        assert_int_equal(pages.v[1][2][DIM - 1], 0x55);
        assert_int_equal(((uint8_t *)&pages.v_scale[1][4])[0], 0x55);
        assert_int_equal(((uint8_t *)&pages.v_scale[1][2])[3], 0x55);
    }
}

static void test_ties_to_even(void **state)
{
    const float v[DIM] = {127,  0.5f,  1.5f,  2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f, 125.5f,
                          -127, 3.49f, 3.51f, 0,    100,   64.5f, 65.5f, -64.5f, 1,       -1};
    const int8_t q[DIM] = {127,  0, 2, 2, 0,   -2, -2, 126, -126, 126,
                           -127, 3, 4, 0, 100, 64, 66, -64, 1,    -1};
    expect(v, 1, q);
    float small[DIM];
    for (int i = 0; i < DIM; i++) {
        small[i] = ldexpf(v[i], -100);
    }
    expect(small, 0x1p-100f, q);
}

static void test_ends_of_the_range(void **state)
{
    const int8_t zeros[DIM] = {0}, first[DIM] = {127}, last[DIM] = {[DIM - 1] = -127};
    float v[DIM] = {0};
    expect(v, 0, zeros);
    v[0] = 0x1p-125f; /* its scale would be subnormal */
    expect(v, 0, zeros);
    v[0] = 127 * 0x1p-126f;
    expect(v, 0x1p-126f, first);
    v[0] = 0;
    v[DIM - 1] = -3.4e38f;
    expect(v, 3.4e38f / 127, last);
}

static void test_not_finite(void **state)
{
    const int8_t zeros[DIM] = {0};
    const float bad[] = {INFINITY, -INFINITY, NAN, -NAN};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        for (int at = 0; at < DIM; at += 7) {
            float v[DIM] = {1, 2, 3};
            v[at] = bad[i];
            expect(v, NAN, zeros);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ties_to_even),
        cmocka_unit_test(test_ends_of_the_range),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
