/* test_memory_plan.c - the parts of a device's memory add up, follow the settings, and leave the
 * K/V pool what is left. argv[1]: folder of tiny models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "core/forward.h"
#include "core/memory_plan.h"
#include "core/qttt.h"

static const char *folder;
static tt_model *m;

static int set_up(void **state)
{
    char path[4096];
    tt_err err;
    snprintf(path, sizeof path, "%s/llama.gguf", folder);
    return tt_model_open(path, &m, &err);
}

static int tear_down(void **state)
{
    tt_model_close(&m);
    return 0;
}

static tt_memory_plan plan_of(tt_memory_options o, bool cuda)
{
    tt_memory_plan p;
    tt_memory_plan_make(m, &o, cuda, &p);
    return p;
}

static void test_parts(void **state)
{
    tt_memory_options o = {.kv_type = TT_BF16, .max_context = 1000, .adapter_bytes = 5 << 20};
    tt_memory_plan p = plan_of(o, true);
    assert_int_equal(p.weights, m->weight_bytes);
    assert_int_equal(p.page, 64 * tt_model_kv_bytes_per_token(m, TT_BF16));
    assert_int_equal(p.context, 16 * p.page); /* whole pages */
    assert_int_equal(p.adapters, 5 << 20);
    assert_int_equal(p.training, p.one_training);
    assert_true(p.steps > tt_step_bytes(m, 512, false) && p.scratch > 64 << 20);
    tt_qttt_params q;
    tt_qttt_defaults(&q);
    tt_qttt_resolve(&q);
    assert_int_equal(p.one_training,
                     tt_trainer_bytes(m, &q) + tt_step_bytes(m, q.span_tokens, true));
    assert_int_equal(tt_memory_plan_fixed(&p, false), p.weights + p.steps + p.scratch + p.adapters +
                                                          p.training + p.runtime + p.margin);
    assert_int_equal(tt_memory_plan_fixed(&p, false) - tt_memory_plan_fixed(&p, true),
                     p.weights + p.runtime);
}

static void test_settings(void **state)
{
    tt_memory_options o = {.kv_type = TT_BF16, .max_context = 512};
    tt_memory_plan p = plan_of(o, true), q;
    assert_int_equal(plan_of(o, false).scratch + plan_of(o, false).runtime, 0);
    o.max_jobs = 3;
    assert_int_equal(plan_of(o, true).training, 3 * p.one_training);
    o.lora = true;
    q = plan_of(o, true);
    assert_true(q.one_training < p.one_training && q.adapter < p.adapter);
    o.max_running = 64;
    assert_true(plan_of(o, true).steps > p.steps && plan_of(o, true).scratch > p.scratch);
    o.prefill_chunk = 2048;
    assert_true(plan_of(o, true).steps > p.steps + tt_step_bytes(m, 1024, false));
    o.max_context = 0;
    q = plan_of(o, true);
    assert_int_equal(q.context, (size_t)(m->n_ctx_train + 63) / 64 * q.page);
    o.kv_type = TT_F32;
    assert_int_equal(plan_of(o, true).page, 2 * p.page);
}

static void test_pool(void **state)
{
    tt_memory_plan p = plan_of((tt_memory_options){.kv_type = TT_BF16, .max_context = 512}, true);
    size_t rest = tt_memory_plan_fixed(&p, true);
    assert_int_equal(tt_memory_plan_pool(&p, 10 * rest), 9 * rest);
    assert_int_equal(tt_memory_plan_pool(&p, 2 * rest), rest);
    assert_int_equal(tt_memory_plan_pool(&p, rest + 2), rest / 2 + 1); /* half at least */
    assert_int_equal(tt_memory_plan_pool(&p, 1000), 500);
    assert_int_equal(tt_memory_plan_pool(&p, 0), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_pool),
    };
    folder = argv[1];
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
