/* test_rope_scaling.c - core/rope_scaling.c against transformers (4.51.3 and 5.23.0:
 * ROPE_INIT_FUNCTIONS, float32). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/rope_scaling.h"

#define N 8

typedef struct known {
    const char *name;
    tt_rope_spec spec;
    double inv_freq[N], mscale;
} known;

static const known knowns[] = {
    {"llama3",
     {.rot_dim = 16,
      .base = 500000.0,
      .scaling = TT_ROPE_LLAMA3,
      .factor = 8.0,
      .orig_ctx = 256.0,
      .low_freq_factor = 1.0,
      .high_freq_factor = 4.0},
     {1.0, 0.193922758, 0.0105382307, 0.000911583134, 0.000176776681, 3.42810235e-05,
      6.64786967e-06, 1.28917316e-06},
     1.0},
    {"linear",
     {.rot_dim = 16, .base = 1e4, .scaling = TT_ROPE_LINEAR, .factor = 4.0},
     {0.25, 0.079056941, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012,
      7.90569466e-05},
     1.0},
    {"yarn",
     {.rot_dim = 16,
      .base = 1e4,
      .scaling = TT_ROPE_YARN,
      .factor = 4.0,
      .orig_ctx = 512.0,
      .beta_fast = 32.0,
      .beta_slow = 1.0,
      .truncate = true},
     {1.0, 0.25693506, 0.0625, 0.0138349654, 0.00249999994, 0.000790569466, 0.000250000012,
      7.90569466e-05},
     1.138629436111989},
    {"yarn, not truncated",
     {.rot_dim = 16,
      .base = 1e4,
      .scaling = TT_ROPE_YARN,
      .factor = 4.0,
      .orig_ctx = 512.0,
      .beta_fast = 32.0,
      .beta_slow = 1.0},
     {1.0, 0.301406473, 0.0703986362, 0.0143833589, 0.00249999994, 0.000790569466, 0.000250000012,
      7.90569466e-05},
     1.138629436111989},
    {"yarn, its own betas and factor",
     {.rot_dim = 16,
      .base = 1e4,
      .scaling = TT_ROPE_YARN,
      .factor = 8.0,
      .orig_ctx = 256.0,
      .beta_fast = 16.0,
      .beta_slow = 2.0,
      .attn_factor = 1.25,
      .truncate = true},
     {1.0, 0.223994657, 0.0416666642, 0.00395284733, 0.00124999997, 0.000395284733, 0.000125000006,
      3.95284733e-05},
     1.25},
};

static void test_against_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof knowns / sizeof knowns[0]; i++) {
        float f[N], m = 0.0f;
        tt_err err = {0};
        assert_int_equal(tt_rope_frequencies(&knowns[i].spec, f, &m, &err), TT_OK);
        for (int k = 0; k < N; k++) {
            double want = knowns[i].inv_freq[k];
            if (!(fabs(f[k] - want) <= 3e-7 * want)) {
                fail_msg("%s: frequency %d is %.9g, expected %.9g", knowns[i].name, k, (double)f[k],
                         want);
            }
        }
        assert_true(fabs(m - knowns[i].mscale) < 1e-6);
    }
}

static void test_divisors(void **state)
{
    (void)state;
    const float factors[N] = {1, 2, 4, 8, 8, 8, 8, 8};
    tt_rope_spec s = {.rot_dim = 16, .base = 1e4, .freq_factors = factors};
    float plain[N], divided[N], m;
    assert_int_equal(tt_rope_frequencies(&s, divided, &m, NULL), TT_OK);
    s.freq_factors = NULL;
    assert_int_equal(tt_rope_frequencies(&s, plain, &m, NULL), TT_OK);
    assert_true(m == 1.0f);
    for (int i = 0; i < N; i++) {
        assert_true(fabsf(divided[i] * factors[i] - plain[i]) <= 1e-7f * plain[i]);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const float zero[N] = {0}, negative[N] = {1, 1, 1, -1, 1, 1, 1, 1};
    static const tt_rope_spec bad[] = {
        {.rot_dim = 16, .base = 0.0},
        {.rot_dim = 16, .base = -1.0},
        {.rot_dim = 16, .base = NAN},
        {.rot_dim = 16, .base = INFINITY},
        {.rot_dim = 16, .base = 1e-300},
        {.rot_dim = 16, .base = 1e300},
        {.rot_dim = 16, .base = 1e4, .scaling = TT_ROPE_LINEAR},
        {.rot_dim = 16, .base = 1e4, .scaling = TT_ROPE_LINEAR, .factor = -4.0},
        {.rot_dim = 16, .base = 1e4, .scaling = TT_ROPE_LINEAR, .factor = 1e-300},
        {.rot_dim = 16, .base = 1e4, .scaling = TT_ROPE_LLAMA3, .factor = 8.0},
        {.rot_dim = 16,
         .base = 1e4,
         .scaling = TT_ROPE_LLAMA3,
         .factor = 8.0,
         .orig_ctx = 256,
         .low_freq_factor = 4.0,
         .high_freq_factor = 4.0},
        {.rot_dim = 16, .base = 1e4, .scaling = TT_ROPE_YARN, .factor = 4.0, .orig_ctx = 512},
        {.rot_dim = 16,
         .base = 1.0,
         .scaling = TT_ROPE_YARN,
         .factor = 4.0,
         .orig_ctx = 512,
         .beta_fast = 32,
         .beta_slow = 1},
        {.rot_dim = 16,
         .base = 1e4,
         .scaling = TT_ROPE_YARN,
         .factor = 4.0,
         .orig_ctx = 512,
         .beta_fast = 32,
         .beta_slow = 1,
         .attn_factor = NAN},
        {.rot_dim = 16, .base = 1e4, .freq_factors = zero},
        {.rot_dim = 16, .base = 1e4, .freq_factors = negative},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        float f[N], m;
        tt_err err = {0};
        if (tt_rope_frequencies(&bad[i], f, &m, &err) != TT_E_MODEL || strlen(err.msg) < 10) {
            fail_msg("case %zu was not refused", i);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_transformers),
        cmocka_unit_test(test_divisors),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
