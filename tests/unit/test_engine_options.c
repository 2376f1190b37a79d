/* test_engine_options.c - every setting of the engine arrives there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "server/engine_options.h"

static tt_settings settings;

static int set_up(void **state)
{
    tt_err err;
    return tt_settings_init(&settings, &err);
}

static int tear_down(void **state)
{
    tt_settings_finish(&settings);
    return 0;
}

static void set(const char *key, const char *value)
{
    tt_err err;
    for (int i = 0; i < tt_n_settings; i++) {
        if (strcmp(tt_setting_table[i].key, key) == 0) {
            assert_int_equal(tt_settings_set(&settings, &tt_setting_table[i], value, "test", &err),
                             TT_OK);
            return;
        }
    }
    fail_msg("no setting %s", key);
}

static void test_refusals(void **state)
{
    tt_engine_options o;
    tt_device_found device;
    tt_err err = {0};
    assert_int_equal(tt_engine_options_from(&settings, &o, &device, &err), TT_E_INVALID);
    assert_non_null(strstr(err.msg, "--model"));
    set("model.path", "m.gguf");
    set("model.isa", "sse9");
    assert_int_equal(tt_engine_options_from(&settings, &o, &device, &err), TT_E_INVALID);
    assert_non_null(strstr(err.msg, "sse9"));
    assert_non_null(strstr(err.msg, "avx512bf16")); /* and what it may be */
}

static void test_values(void **state)
{
    tt_engine_options o;
    tt_device_found device;
    tt_err err;
    set("model.path", "m.gguf");
    set("model.isa", "auto");
    assert_int_equal(tt_engine_options_from(&settings, &o, &device, &err), TT_OK);
    assert_int_equal(o.isa_mask, TT_ISA_ALL);
    assert_int_equal(o.kv_type, TT_BF16);
    assert_true(o.max_queue == 256 && o.max_running == 32 && o.target_gap == 0.1);
    assert_int_equal(o.max_draft, 15);
    assert_true(o.max_jobs == 1 && o.max_queued_jobs == 64 && o.train_share == 0.3);
    assert_true(o.auto_rule.min_tokens == 2048 && o.auto_rule.min_recall == 0.1 &&
                o.auto_rule.max_load == 4);
    assert_true(o.n_threads == 0 && o.max_context == 0 && o.kv_bytes == 0); /* the engine decides */
    set("model.isa", "ref");
    set("model.threads", "3");
    set("model.max_context", "4096");
    set("model.kv_type", "f32");
    set("model.kv_size", "5GiB");
    set("model.prefill_chunk", "128");
    set("limits.max_requests", "9");
    set("sched.max_running", "8");
    set("sched.target_gap_ms", "250");
    set("sched.draft_tokens", "6");
    set("qttt.share", "0.5");
    set("qttt.max_jobs", "10");
    set("qttt.max_queued_jobs", "11");
    set("qttt.auto_min_tokens", "12");
    set("qttt.auto_min_recall", "0.75");
    set("qttt.auto_max_load", "13");
    set("qttt.adapter_cache", "3GiB");
    set("qttt.max_steps", "17");
    set("qttt.max_span_tokens", "200");
    set("qttt.max_rank", "6");
    set("qttt.max_learning_rate", "0.0002");
    set("qttt.max_delta_norm", "0.25");
    assert_int_equal(tt_engine_options_from(&settings, &o, &device, &err), TT_OK);
    assert_string_equal(o.model_path, "m.gguf");
    assert_int_equal(o.isa_mask, 0);
    assert_true(o.n_threads == 3 && o.max_context == 4096 && o.prefill_chunk == 128);
    assert_int_equal(o.kv_type, TT_F32);
    assert_true(o.kv_bytes == (size_t)5 << 30 && o.adapter_cache_bytes == (size_t)3 << 30);
    assert_int_equal(o.max_queue, 9);
    assert_true(o.caps.max_steps == 17 && o.caps.max_span_tokens == 200 && o.caps.max_rank == 6);
    assert_true(o.caps.max_learning_rate == 2e-4 && o.caps.max_delta_norm == 0.25);
    assert_true(o.max_running == 8 && o.target_gap == 0.25 && o.train_share == 0.5);
    assert_int_equal(o.max_draft, 6);
    assert_true(o.max_jobs == 10 && o.max_queued_jobs == 11);
    assert_true(o.auto_rule.min_tokens == 12 && o.auto_rule.min_recall == 0.75 &&
                o.auto_rule.max_load == 13);
    assert_null(o.on_state);
    set("model.kv_type", "q8");
    set("sched.speculation", "off");
    assert_int_equal(tt_engine_options_from(&settings, &o, &device, &err), TT_OK);
    assert_int_equal(o.kv_type, TT_I8);
    assert_int_equal(o.max_draft, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_values),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
