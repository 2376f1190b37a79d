/* test_kv_fingerprint.c - the same machine gives the same number, anything else another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/kv_fingerprint.h"
#include "small_engine.h"

static uint64_t of(const mw_model *shape, unsigned isa, tt_dtype kv_type, int n_threads)
{
    small_engine e;
    tt_err err;
    uint64_t a = 0, b = 0;
    small_open(&e, &(small_options){.shape = *shape,
                                    .isa_mask = isa,
                                    .kv_type = kv_type,
                                    .n_pages = 2,
                                    .n_threads = n_threads});
    assert_int_equal(tt_kv_fingerprint(&e.d, e.kv, e.step, &a, &err), TT_OK);
    assert_int_equal(tt_kv_get_stats(e.kv).used, 0);
    assert_int_equal(tt_kv_fingerprint(&e.d, e.kv, e.step, &b, &err), TT_OK);
    assert_true(a == b);
    small_close(&e);
    return a;
}

static void test_what_it_depends_on(void **state)
{
    const mw_model plain = {.layers = 3};
    uint64_t base = of(&plain, TT_ISA_ALL, TT_BF16, 1);
    assert_true(of(&plain, TT_ISA_ALL, TT_BF16, 1) == base);
    assert_true(of(&plain, TT_ISA_ALL, TT_BF16, 2) == base); /* threads decide no bits */
    assert_true(of(&plain, TT_ISA_ALL, TT_F32, 1) != base);
    uint64_t bytes = of(&plain, TT_ISA_ALL, TT_I8, 1);
    assert_true(bytes != base && of(&plain, TT_ISA_ALL, TT_I8, 2) == bytes);
    assert_true(of(&plain, 0, TT_BF16, 1) != base || TT_ISA_ALL == 0);
    const mw_model others[] = {{.layers = 4},
                               {.layers = 3, .rope_freqs = true},
                               {.layers = 3, .eps = 1e-6f},
                               {.layers = 3, .qkv_bias = true, .arch = "qwen2"},
                               {.layers = 3, .changed = "blk.2.ffn_down.weight"},
                               {.layers = 3, .changed = "blk.0.attn_k.weight"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_true(of(&others[i], TT_ISA_ALL, TT_BF16, 1) != base);
    }
}

static void test_models_of_one_layer(void **state)
{
    const mw_model one = {.layers = 1};
    assert_true(of(&one, TT_ISA_ALL, TT_BF16, 1) != 0);
}

/* Only the kernels differ: what they compute is seen, not what they are called. */
static void test_other_kernels(void **state)
{
    small_engine e;
    tt_err err;
    uint64_t a = 0, b = 0;
    small_open(&e,
               &(small_options){.isa_mask = 0, .kv_type = TT_F32, .n_pages = 2, .n_threads = 1});
    assert_int_equal(tt_kv_fingerprint(&e.d, e.kv, e.step, &a, &err), TT_OK);
    e.model->norm_eps *= 1.001f; /* the model's own fingerprint was taken when it was opened */
    assert_int_equal(tt_kv_fingerprint(&e.d, e.kv, e.step, &b, &err), TT_OK);
    assert_true(a != b);
    small_close(&e);
}

static void test_no_page(void **state)
{
    small_engine e;
    tt_err err;
    uint64_t a;
    small_open(&e,
               &(small_options){.isa_mask = 0, .kv_type = TT_F32, .n_pages = 1, .n_threads = 1});
    int32_t page = tt_kv_take(e.kv);
    assert_int_equal(tt_kv_fingerprint(&e.d, e.kv, e.step, &a, &err), TT_E_CAPACITY);
    tt_kv_unref(e.kv, page);
    small_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_it_depends_on),
        cmocka_unit_test(test_models_of_one_layer),
        cmocka_unit_test(test_other_kernels),
        cmocka_unit_test(test_no_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
