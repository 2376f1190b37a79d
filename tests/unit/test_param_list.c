/* test_param_list.c - what becomes of each parameter of a request: implemented, inert, refused but
 * for what asks for nothing, unknown. That the lists are openapi.yaml's is checked by tests/api. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "server/param_list.h"

static tt_buf ignored;
static tt_http_error err;

static bool check(tt_api api, bool strict, const char *text)
{
    json_t *body = json_loads(text, 0, NULL);
    if (body == NULL) {
        fail_msg("not JSON: %s", text);
    }
    tt_buf_clear(&ignored);
    err = (tt_http_error){0};
    bool ok = tt_params_check(body, api, strict, &ignored, &err);
    assert_int_equal(ok, err.status == 0);
    json_decref(body);
    return ok;
}

static void refused(tt_api api, const char *text, const char *param)
{
    if (check(api, false, text)) {
        fail_msg("%s is let through", text);
    }
    assert_int_equal(err.status, 400);
    assert_string_equal(err.code, "unsupported_parameter");
    assert_string_equal(err.type, "invalid_request_error");
    assert_string_equal(err.param, param);
    assert_non_null(strstr(err.message, param));
}

static void let_through(tt_api api, const char *text)
{
    if (!check(api, true, text)) { /* strict: a known name is known */
        fail_msg("%s: %s", text, err.message);
    }
    assert_int_equal(ignored.n, 0);
}

static void test_implemented_and_inert(void **state)
{
    let_through(TT_API_CHAT, "{}");
    let_through(TT_API_CHAT, "{\"model\":1,\"messages\":2,\"stream\":[],\"seed\":{},\"stop\":0,"
                             "\"max_completion_tokens\":\"x\",\"top_logprobs\":9,\"qttt\":false}");
    let_through(TT_API_COMPLETIONS, "{\"prompt\":\"x\",\"echo\":true,\"logprobs\":3}");
    for (int api = TT_API_CHAT; api <= TT_API_COMPLETIONS; api++) {
        let_through((tt_api)api, "{\"user\":\"u\",\"metadata\":{\"a\":1},\"service_tier\":\"flex\","
                                 "\"priority\":7,\"parallel_tool_calls\":true,\"keep_alive\":-1}");
    }
}

/* Each refused with a value that asks for something, let through with every one that does not. */
static void test_refused_but_for_nothing(void **state)
{
    static const struct {
        const char *name, *asks, *nothing[3];
    } rows[] = {
        {"best_of", "2", {"1", "1.0"}},
        {"store", "true", {"false"}},
        {"tools", "[{}]", {"[]"}},
        {"tool_choice", "\"required\"", {"\"none\"", "\"auto\""}},
        {"functions", "[{}]", {"[]"}},
        {"function_call", "\"auto\"", {"\"none\""}},
        {"response_format", "{\"type\":\"json_object\"}", {"{\"type\":\"text\"}"}},
        {"modalities", "[\"text\",\"audio\"]", {"[\"text\"]"}},
        {"audio", "{}", {NULL}},
        {"reasoning_effort", "\"low\"", {"\"none\""}},
        {"suffix", "\"x\"", {"\"\"", "[]"}},
        {"documents", "[1]", {"[]"}},
        {"use_beam_search", "true", {"false"}},
        {"length_penalty", "1.1", {"1"}},
        {"mirostat", "2", {"0", "0.0"}},
        {"guided_json", "{}", {NULL}},
        {"grammar", "\"root\"", {"\"\""}},
        {"typical_p", "0.5", {"1.0"}},
        {"return_token_ids", "1", {"false"}},
        {"lora", "[{\"id\":0}]", {"[]"}},
    };
    char text[128];
    for (int api = TT_API_CHAT; api <= TT_API_COMPLETIONS; api++) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            snprintf(text, sizeof text, "{\"%s\":%s}", rows[i].name, rows[i].asks);
            refused((tt_api)api, text, rows[i].name);
            snprintf(text, sizeof text, "{\"%s\":null}", rows[i].name);
            let_through((tt_api)api, text);
            for (int k = 0; k < 3 && rows[i].nothing[k] != NULL; k++) {
                snprintf(text, sizeof text, "{\"%s\":%s}", rows[i].name, rows[i].nothing[k]);
                let_through((tt_api)api, text);
            }
            snprintf(text, sizeof text, "{\"%s\":{\"type\":[]}}", rows[i].name);
            refused((tt_api)api, text, rows[i].name); /* of no sensible type */
        }
    }
}

static void test_one_apis_parameter_is_not_the_others(void **state)
{
    refused(TT_API_COMPLETIONS, "{\"messages\":[]}", "messages");
    refused(TT_API_CHAT, "{\"prompt\":\"\"}", "prompt");
    refused(TT_API_CHAT, "{\"echo\":true}", "echo");
    let_through(TT_API_CHAT, "{\"echo\":false}");
    refused(TT_API_COMPLETIONS, "{\"top_logprobs\":0}", "top_logprobs");
    refused(TT_API_COMPLETIONS, "{\"chat_template_kwargs\":{}}", "chat_template_kwargs");
}

static void test_tools_that_nobody_may_call(void **state)
{
    let_through(TT_API_CHAT, "{\"tools\":[{}],\"tool_choice\":\"none\"}");
    refused(TT_API_CHAT, "{\"tools\":[{}],\"tool_choice\":\"auto\"}", "tools");
    refused(TT_API_CHAT, "{\"tools\":[{}],\"tool_choice\":null}", "tools");
    let_through(TT_API_CHAT, "{\"tools\":[],\"tool_choice\":\"auto\"}");
    let_through(TT_API_CHAT, "{\"tools\":null,\"tool_choice\":\"auto\"}");
    refused(TT_API_CHAT, "{\"tool_choice\":{\"type\":\"function\"}}", "tool_choice");
}

static void test_unknown_names(void **state)
{
    assert_true(check(TT_API_CHAT, false, "{\"temprature\":1,\"model\":\"m\",\"N\":2,\"\":3}"));
    assert_int_equal(ignored.n, strlen("temprature, N, "));
    assert_memory_equal(ignored.p, "temprature, N, ", ignored.n);
    assert_true(check(TT_API_CHAT, false, "{\"a,b\\r\\nSet-Cookie: x\":1}"));
    assert_null(memchr(ignored.p, '\r', ignored.n)); /* it becomes a header's value */
    assert_null(memchr(ignored.p, '\n', ignored.n));
    assert_null(memchr(ignored.p, ',', ignored.n));
    assert_false(check(TT_API_CHAT, true, "{\"temprature\":null}"));
    assert_string_equal(err.code, "unsupported_parameter");
    assert_string_equal(err.param, "temprature");
}

static void test_many_and_long_names(void **state)
{
    json_t *body = json_object();
    char name[3000];
    memset(name, 'k', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    json_object_set_new(body, name, json_null());
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "unknown%d", i);
        json_object_set_new(body, name, json_null());
    }
    tt_buf_clear(&ignored);
    assert_true(tt_params_check(body, TT_API_CHAT, false, &ignored, &err));
    assert_true(ignored.n > 900 && ignored.n <= 1024 && !ignored.failed); /* a header has an end */
    memset(name, 'k', sizeof name - 1);
    json_object_clear(body);
    json_object_set_new(body, name, json_null());
    assert_false(tt_params_check(body, TT_API_CHAT, true, &ignored, &err));
    assert_true(strlen(err.param) < sizeof err.param && err.param[0] == 'k');
    json_decref(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_implemented_and_inert),
        cmocka_unit_test(test_refused_but_for_nothing),
        cmocka_unit_test(test_one_apis_parameter_is_not_the_others),
        cmocka_unit_test(test_tools_that_nobody_may_call),
        cmocka_unit_test(test_unknown_names),
        cmocka_unit_test(test_many_and_long_names),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tt_buf_finish(&ignored);
    return failed;
}
