/* test_device_choice.c - what is taken for what is asked, and what is said of it. argv[1]: a module
 * whose devices are the CPU (gpu_module.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/device_choice.h"

static const char *module;

static tt_device_wish wish(const char *device)
{
    return (tt_device_wish){.device = device, .module = module, .isa = "auto", .kv_type = TT_BF16};
}

static int forget(void **state)
{
    unsetenv("GPU_DEVICES");
    unsetenv("GPU_DEAF");
    return 0;
}

static tt_device_found found(const tt_device_wish *w)
{
    tt_device_found f;
    tt_err err = {0};
    assert_int_equal(tt_device_find(w, &f, &err), TT_OK);
    return f;
}

static void refused(const tt_device_wish *w, tt_code want, const char *says)
{
    tt_device_found f;
    tt_err err = {0};
    assert_int_equal(tt_device_find(w, &f, &err), want);
    if (strstr(err.msg, says) == NULL) {
        fail_msg("'%s' does not say '%s'", err.msg, says);
    }
}

static void test_cpu(void **state)
{
    tt_device_wish w = wish("cpu");
    w.isa = "ref";
    w.module = "/nowhere/module.so"; /* it is not looked for */
    tt_device_found f = found(&w);
    assert_null(f.choice.cuda);
    assert_int_equal(f.choice.isa_mask, 0);
    assert_string_equal(f.name, "cpu");
    assert_false(f.automatic || f.wanted);
    assert_non_null(strstr(f.why, "model.device"));
    assert_string_equal(f.info.name, "");
}

static void test_cuda(void **state)
{
    tt_device_wish w = wish("cuda");
    tt_device_found f = found(&w);
    assert_non_null(f.choice.cuda);
    assert_int_equal(f.choice.ordinal, 0);
    assert_string_equal(f.name, "cuda:0");
    assert_string_equal(f.info.name, "Pretended GPU 0");
    assert_non_null(strstr(f.why,
                           "Pretended GPU 0 (sm_90, 132 multiprocessors), 1.0 of 1.0 GiB free, "
                           "driver 13.0, runtime 13.0"));
    assert_false(f.automatic);
    tt_ops ops;
    tt_err err;
    assert_int_equal(f.choice.cuda->ops(0, &ops, &err), TT_OK);
    assert_string_equal(ops.isa, "cuda");
}

static void test_ordinal(void **state)
{
    setenv("GPU_DEVICES", "3", 1);
    tt_device_wish w = wish("cuda:2");
    tt_device_found f = found(&w);
    assert_int_equal(f.choice.ordinal, 2);
    assert_string_equal(f.name, "cuda:2");
    assert_string_equal(f.info.name, "Pretended GPU 2");
    w = wish("cuda:3");
    refused(&w, TT_E_UNAVAILABLE, "there are 3 GPUs");
    setenv("GPU_DEAF", "2", 1);
    w = wish("cuda:2");
    refused(&w, TT_E_UNAVAILABLE, "device 2 does not answer");
}

static void test_automatic(void **state)
{
    tt_device_wish w = wish("auto");
    tt_device_found f = found(&w);
    assert_non_null(f.choice.cuda);
    assert_true(f.automatic && !f.wanted);
    setenv("GPU_DEVICES", "2", 1); /* the first that answers */
    setenv("GPU_DEAF", "0", 1);
    f = found(&w);
    assert_int_equal(f.choice.ordinal, 1);
    setenv("GPU_DEVICES", "0", 1);
    f = found(&w);
    assert_null(f.choice.cuda);
    assert_int_equal(f.choice.isa_mask, TT_ISA_ALL);
    assert_true(f.wanted);
    assert_non_null(strstr(f.why, "device cpu: no CUDA device"));
    w.module = "/nowhere/module.so";
    f = found(&w);
    assert_null(f.choice.cuda);
    assert_true(f.wanted);
    assert_non_null(strstr(f.why, "/nowhere/module.so"));
}

/* What only the CPU has is taken from it, without a look at GPUs. */
static void test_automatic_for_the_cpu(void **state)
{
    tt_device_wish w = wish("auto");
    w.isa = "ref";
    tt_device_found f = found(&w);
    assert_null(f.choice.cuda);
    assert_int_equal(f.choice.isa_mask, 0);
    assert_false(f.wanted);
    assert_non_null(strstr(f.why, "model.isa"));
    w = wish("auto");
    w.kv_type = TT_F32;
    f = found(&w);
    assert_null(f.choice.cuda);
    assert_non_null(strstr(f.why, "model.kv_type"));
    w.kv_type = TT_I8;
    f = found(&w);
    assert_non_null(f.choice.cuda);
}

/* Without a driver the installed module is not even looked for. */
static void test_automatic_without_a_driver(void **state)
{
    if (tt_device_driver_seen()) {
        skip();
    }
    tt_device_wish w = wish("auto");
    w.module = "";
    tt_device_found f = found(&w);
    assert_null(f.choice.cuda);
    assert_false(f.wanted);
    assert_non_null(strstr(f.why, "no sign of an NVIDIA driver"));
}

static void test_refusals(void **state)
{
    static const char *const bad[] = {"",        "gpu",      "cuda:",      "cuda:x",  "cuda:-1",
                                      "cuda:1x", "cuda:256", "cuda:99999", "cudafoo", "CUDA"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tt_device_wish w = wish(bad[i]);
        refused(&w, TT_E_INVALID, "expected auto, cpu, cuda or cuda:N");
    }
    tt_device_wish w = wish("cuda");
    w.isa = "avx2";
    refused(&w, TT_E_INVALID, "model.isa");
    w.isa = "sse9";
    refused(&w, TT_E_INVALID, "sse9");
    w = wish("cuda:0");
    w.kv_type = TT_F32;
    refused(&w, TT_E_INVALID, "model.kv_type");
    w = wish("cuda");
    w.module = "/nowhere/module.so";
    refused(&w, TT_E_UNAVAILABLE, "model.device is cuda, but");
    setenv("GPU_DEVICES", "0", 1);
    w = wish("cuda");
    refused(&w, TT_E_UNAVAILABLE, "no CUDA-capable device is detected");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_cpu, forget),
        cmocka_unit_test_teardown(test_cuda, forget),
        cmocka_unit_test_teardown(test_ordinal, forget),
        cmocka_unit_test_teardown(test_automatic, forget),
        cmocka_unit_test_teardown(test_automatic_for_the_cpu, forget),
        cmocka_unit_test_teardown(test_automatic_without_a_driver, forget),
        cmocka_unit_test_teardown(test_refusals, forget),
    };
    module = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
