/* test_api_qttt.c - the qttt object in answers, and names for the header of ignored ones. Reading
 * it out of requests is test_api_request.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/api_qttt.h"

static json_t *written(const tt_qttt_result *r, const char *job_id, double prefill_seconds)
{
    tt_buf b = {0};
    json_error_t e;
    tt_qttt_write(&b, r, job_id, prefill_seconds);
    assert_false(b.failed);
    json_t *o = json_loadb(b.p, b.n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &e);
    if (o == NULL) {
        fail_msg("%s in %.*s", e.text, (int)b.n, b.p);
    }
    tt_buf_finish(&b);
    return o;
}

static const char *text(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_string(v) || json_is_null(v)); /* there, and no third thing */
    return json_string_value(v);
}

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_number(v) || json_is_null(v));
    return json_is_null(v) ? NAN : json_number_value(v);
}

static tt_qttt_result success(void)
{
    tt_qttt_result r = {.status = "succeeded",
                        .stop_reason = "steps",
                        .kept = true,
                        .adapter_id = 0x1234abcd,
                        .generation = 1,
                        .steps_done = 32,
                        .n_dropped = 1,
                        .trained_tokens = 4096,
                        .have_recall = true,
                        .recall_before = 2.5,
                        .recall_after = 2.25,
                        .recall_se = 0.0625,
                        .recall_segments = 10,
                        .span_loss_before = 3.5,
                        .span_loss_after = 3.25,
                        .loss_first = 3,
                        .loss_last = 2.75,
                        .delta_norm_relative = 1e-3,
                        .flops = 1.5e12,
                        .equal_cost_tokens = 5000,
                        .adapt_seconds = 6.5,
                        .adapter_bytes = (int64_t)1 << 33};
    tt_qttt_defaults(&r.params);
    r.params.learning_rate = 3e-6;
    r.params.layers[0] = 5;
    r.params.layers[31] = 0x80;
    r.params.seed = 9;
    r.params.context_tokens = 4000;
    tt_qttt_resolve(&r.params);
    return r;
}

static void test_a_success(void **state)
{
    tt_qttt_result r = success();
    json_t *o = written(&r, "qttt_abc", 0.5);
    assert_string_equal(text(o, "job_id"), "qttt_abc");
    assert_string_equal(text(o, "status"), "succeeded");
    assert_null(text(o, "reason"));
    assert_string_equal(text(o, "stop_reason"), "steps");
    assert_true(json_is_true(json_object_get(o, "kept")));
    assert_true(json_is_false(json_object_get(o, "cached")));
    assert_true(number(o, "steps_done") == 32 && number(o, "steps_dropped") == 1);
    assert_true(number(o, "generation") == 1);
    assert_string_equal(text(o, "adapter_id"), "adp_000000001234abcd");
    const json_t *recall = json_object_get(o, "recall");
    assert_true(number(recall, "before") == 2.5 && number(recall, "after") == 2.25);
    assert_true(number(recall, "standard_error") == 0.0625 && number(recall, "segments") == 10);
    assert_true(number(o, "span_loss_before") == 3.5 && number(o, "span_loss_after") == 3.25);
    assert_true(number(o, "loss_first") == 3 && number(o, "loss_last") == 2.75);
    assert_true(number(o, "delta_norm_relative") == 1e-3);
    assert_true(number(o, "trained_tokens") == 4096);
    assert_true(number(o, "adapter_bytes") == 8589934592.0); /* no 32-bit number */
    assert_true(number(o, "flops") == 1.5e12 && number(o, "equal_cost_tokens") == 5000);
    assert_true(number(o, "prefill_seconds") == 0.5 && number(o, "adapt_seconds") == 6.5);
    json_decref(o);
}

static void test_hyperparameters(void **state)
{
    tt_qttt_result r = success();
    json_t *o = written(&r, "j", 0);
    const json_t *h = json_object_get(o, "hyperparameters");
    assert_true(number(h, "steps") == r.params.steps && number(h, "seed") == 9);
    assert_true(number(h, "learning_rate") == 3e-6);
    assert_true((float)number(h, "weight_decay") == 0.01f); /* the same float */
    assert_string_equal(text(h, "adapter"), "full");
    assert_null(json_object_get(h, "rank")); /* a full adapter has none */
    assert_string_equal(text(h, "objective"), "next_token");
    assert_string_equal(text(h, "optimizer"), "adamw");
    assert_true(json_is_true(json_object_get(h, "guard")));
    assert_true(number(h, "context_tokens") == 4000);
    const json_t *layers = json_object_get(h, "layers");
    assert_int_equal(json_array_size(layers), 3);
    static const double want[] = {0, 2, 255};
    for (size_t i = 0; i < 3; i++) {
        assert_true(json_number_value(json_array_get(layers, i)) == want[i]);
    }
    const json_t *budget = json_object_get(h, "budget");
    assert_true(isnan(number(budget, "max_seconds")) && isnan(number(budget, "max_span_tokens")));
    json_decref(o);

    memset(r.params.layers, 0, sizeof r.params.layers);
    r.params.lora = r.params.sgd = true;
    r.params.objective = TT_RECALL;
    r.params.rank = 4;
    r.params.lora_alpha = 8;
    r.params.max_seconds = 1.5;
    r.params.max_span_tokens = (int64_t)1 << 40;
    o = written(&r, "j", 0);
    h = json_object_get(o, "hyperparameters");
    assert_string_equal(text(h, "layers"), "all");
    assert_string_equal(text(h, "adapter"), "lora");
    assert_true(number(h, "rank") == 4 && number(h, "alpha") == 8);
    assert_string_equal(text(h, "objective"), "recall");
    assert_string_equal(text(h, "optimizer"), "sgd");
    budget = json_object_get(h, "budget");
    assert_true(number(budget, "max_seconds") == 1.5);
    assert_true(number(budget, "max_span_tokens") == 1099511627776.0);
    json_decref(o);
}

/* Whatever is missing or not a number is null, and every key is there all the same. */
static void test_what_did_not_happen(void **state)
{
    tt_qttt_result full = success();
    tt_qttt_result r = {.status = "failed",
                        .reason = "diverged",
                        .loss_first = NAN,
                        .loss_last = INFINITY,
                        .span_loss_before = NAN,
                        .span_loss_after = -INFINITY,
                        .delta_norm_relative = NAN};
    json_t *a = written(&full, "j", 0), *b = written(&r, "j\"x", NAN);
    const char *key;
    json_t *v;
    json_object_foreach(a, key, v)
    {
        if (json_object_get(b, key) == NULL) {
            fail_msg("%s is missing", key);
        }
    }
    assert_int_equal(json_object_size(a), json_object_size(b));
    assert_string_equal(text(b, "job_id"), "j\"x");
    assert_string_equal(text(b, "reason"), "diverged");
    assert_null(text(b, "stop_reason"));
    assert_null(text(b, "adapter_id"));
    assert_true(json_is_null(json_object_get(b, "recall")));
    static const char *const none[] = {"loss_first",      "loss_last",           "span_loss_before",
                                       "span_loss_after", "delta_norm_relative", "prefill_seconds"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        assert_true(json_is_null(json_object_get(b, none[i])));
    }
    json_decref(a);
    json_decref(b);
}

static void test_names_for_the_header(void **state)
{
    tt_buf b = {0};
    tt_ignored_add(&b, "", "one");
    tt_ignored_add(&b, "qttt.", "two words");
    tt_ignored_add(&b, "", "\r\n,\x7f\xc3\xa9");
    tt_buf_putc(&b, '\0');
    assert_string_equal(b.p, "one, qttt.two?words, ??????");
    tt_buf_clear(&b);
    char name[1100];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    tt_ignored_add(&b, "", name);
    assert_int_equal(b.n, 0); /* whole or not at all */
    for (int i = 0; i < 500; i++) {
        tt_ignored_add(&b, "qttt.", "name");
    }
    assert_true(b.n <= 1024 && b.n > 1000);
    assert_memory_equal(b.p + b.n - 9, "qttt.name", 9);
    tt_buf_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_success),
        cmocka_unit_test(test_hyperparameters),
        cmocka_unit_test(test_what_did_not_happen),
        cmocka_unit_test(test_names_for_the_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
