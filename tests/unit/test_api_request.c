/* test_api_request.c - chat and completions bodies: what is accepted and what arrives, what is
 * refused and how it is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api_request.h"

static tt_request_limits limits = {.json_memory = 1 << 20,
                                   .max_prompts = 3,
                                   .max_samples = 4,
                                   .max_jobs = 9,
                                   .n_vocab = 100,
                                   .n_layers = 4,
                                   .caps = {256, 1024, 64, 1e-3, 0.05},
                                   .model_name = "m",
                                   .alias_name = "m-qttt"};
static tt_arena arena;
static tt_request r;
static tt_http_error e;

static int reset(void **state)
{
    tt_request_finish(&r);
    tt_arena_finish(&arena);
    tt_arena_init(&arena, 0);
    e = (tt_http_error){0};
    limits.strict = false;
    return 0;
}

static bool parse(tt_api api, const char *body)
{
    reset(NULL);
    bool ok = tt_request_parse(body, strlen(body), api, &limits, &arena, &r, &e);
    assert_int_equal(ok, e.status == 0);
    return ok;
}

/* A chat body with one message and `more` fields. */
static bool chat(const char *more)
{
    char body[4096];
    snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]%s%s}",
             *more != '\0' ? "," : "", more);
    return parse(TT_API_CHAT, body);
}

static bool completion(const char *prompt, const char *more)
{
    char body[4096];
    snprintf(body, sizeof body, "{\"prompt\":%s%s%s}", prompt, *more != '\0' ? "," : "", more);
    return parse(TT_API_COMPLETIONS, body);
}

static void refused(bool ok, const char *param, const char *code)
{
    assert_false(ok);
    assert_int_equal(e.status, 400);
    assert_string_equal(e.param, param);
    assert_string_equal(e.code != NULL ? e.code : "", code);
    assert_true(e.message[0] != '\0');
}

static void defaults(void **state)
{
    assert_true(chat(""));
    assert_string_equal(r.model, "m");
    assert_int_equal(r.job.max_tokens, -1);
    assert_false(r.have_max_tokens || r.stream || r.want_logprobs || r.have_seed);
    assert_true(r.add_generation_prompt);
    assert_true(r.job.sampling.temperature == 1 && r.job.sampling.top_p == 1);
    assert_true(r.job.sampling.repetition_penalty == 1);
    assert_int_equal(r.job.n_logprobs, -1);
    assert_int_equal(r.qttt.params.mode, TT_QTTT_OFF);
    assert_int_equal(r.ignored.n, 0);
    assert_true(completion("\"x\"", ""));
    assert_int_equal(r.job.max_tokens, 16);
    assert_int_equal(r.n_prompts, 1);
    assert_true(r.add_special_tokens);
}

static void values_arrive(void **state)
{
    assert_true(chat(
        "\"max_tokens\":5,\"max_completion_tokens\":7,\"temperature\":0,\"top_p\":0.5,"
        "\"top_k\":-1,\"min_p\":0.1,\"seed\":-3,\"presence_penalty\":-2,"
        "\"frequency_penalty\":1.5,\"repetition_penalty\":1.1,\"min_tokens\":2,"
        "\"ignore_eos\":true,\"stop\":[\"a\",\"\",\"bc\"],\"stop_token_ids\":[1,99],"
        "\"logit_bias\":{\"3\":-100,\"4\":1.5},\"logprobs\":true,\"top_logprobs\":20,"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true,\"include_progress\":true},"
        "\"skip_special_tokens\":false,\"model\":\"m\""));
    assert_int_equal(r.job.max_tokens, 7);
    assert_true(r.have_max_tokens && r.have_seed && r.stream && r.include_usage &&
                r.include_progress);
    assert_true(r.job.sampling.temperature == 0 && r.job.sampling.top_k == 0);
    assert_int_equal((int64_t)r.job.sampling.seed, -3);
    assert_int_equal(r.job.n_stops, 2);
    assert_int_equal(r.job.stops[1].n, 2);
    assert_memory_equal(r.job.stops[1].p, "bc", 2);
    assert_int_equal(r.job.n_stop_ids, 2);
    assert_int_equal(r.job.stop_ids[1], 99);
    assert_int_equal(r.job.sampling.n_bias, 2);
    assert_int_equal(r.job.n_logprobs, 20);
    assert_true(r.job.special_tokens && r.job.ignore_eos);
}

static void null_is_absent(void **state)
{
    assert_true(
        chat("\"max_tokens\":null,\"temperature\":null,\"stop\":null,\"stream\":null,\"seed\":null,"
             "\"stream_options\":null,\"logit_bias\":null,\"qttt\":null,\"tools\":null,\"n\":null,"
             "\"session\":null,\"model\":null,\"response_format\":null,\"logprobs\":null"));
    assert_false(r.have_seed);
}

static void ranges(void **state)
{
    static const struct {
        const char *field, *param;
    } bad[] = {{"\"temperature\":-0.1", "temperature"},
               {"\"temperature\":2.1", "temperature"},
               {"\"temperature\":\"1\"", "temperature"},
               {"\"top_p\":1.1", "top_p"},
               {"\"top_k\":-2", "top_k"},
               {"\"top_k\":1.5", "top_k"},
               {"\"min_p\":-1", "min_p"},
               {"\"max_tokens\":0", "max_tokens"},
               {"\"max_tokens\":-1", "max_tokens"},
               {"\"max_tokens\":2147483648", "max_tokens"},
               {"\"max_tokens\":true", "max_tokens"},
               {"\"max_tokens\":1,\"min_tokens\":2", "min_tokens"},
               {"\"presence_penalty\":2.5", "presence_penalty"},
               {"\"repetition_penalty\":0", "repetition_penalty"},
               {"\"seed\":1.5", "seed"},
               {"\"seed\":\"1\"", "seed"},
               {"\"stop\":7", "stop"},
               {"\"stop\":[1]", "stop"},
               {"\"stop_token_ids\":[100]", "stop_token_ids"},
               {"\"stop_token_ids\":[-1]", "stop_token_ids"},
               {"\"stop_token_ids\":\"x\"", "stop_token_ids"},
               {"\"logit_bias\":{\"100\":1}", "logit_bias"},
               {"\"logit_bias\":{\"x\":1}", "logit_bias"},
               {"\"logit_bias\":{\"1\":101}", "logit_bias"},
               {"\"logit_bias\":{\"1\":\"a\"}", "logit_bias"},
               {"\"logit_bias\":[]", "logit_bias"},
               {"\"top_logprobs\":1", "top_logprobs"},
               {"\"logprobs\":1", "logprobs"},
               {"\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
               {"\"stream\":1", "stream"},
               {"\"stream_options\":{}", "stream_options"},
               {"\"stream\":true,\"stream_options\":1", "stream_options"},
               {"\"chat_template_kwargs\":1", "chat_template_kwargs"},
               {"\"chat_template_kwargs\":{\"messages\":1}", "chat_template_kwargs.messages"},
               {"\"model\":7", "model"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        print_message("%s\n", bad[i].field);
        refused(chat(bad[i].field), bad[i].param, "");
    }
}

static void unsupported_by_name(void **state)
{
    static const char *const bad[][2] = {
        {"\"best_of\":2", "best_of"},
        {"\"tools\":[{}]", "tools"},
        {"\"response_format\":{\"type\":\"json_object\"}", "response_format"},
        {"\"prompt\":\"x\"", "prompt"},
        {"\"echo\":true", "echo"},
        {"\"suffix\":\"x\"", "suffix"},
        {"\"reasoning_effort\":\"low\"", "reasoning_effort"},
        {"\"store\":true", "store"},
        {"\"tool_choice\":\"required\"", "tool_choice"},
        {"\"functions\":[{}]", "functions"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        refused(chat(bad[i][0]), bad[i][1], "unsupported_parameter");
    }
    assert_true(chat(
        "\"n\":1,\"tools\":[],\"tool_choice\":\"auto\",\"append\":false,\"store\":false,"
        "\"response_format\":{\"type\":\"text\"},\"echo\":false,\"suffix\":\"\",\"best_of\":1"));
    assert_true(chat("\"tools\":[{}],\"tool_choice\":\"none\""));
    assert_int_equal(r.ignored.n, 0);
}

static void time_limits(void **state)
{
    assert_true(chat("") && r.job.timeout_seconds == 0);
    assert_true(chat("\"timeout_seconds\":0.25") && r.job.timeout_seconds == 0.25);
    refused(chat("\"timeout_seconds\":0"), "timeout_seconds", "");
    refused(chat("\"timeout_seconds\":-1"), "timeout_seconds", "");
    refused(chat("\"timeout_seconds\":\"1\""), "timeout_seconds", "");
    limits.request_timeout = 20; /* the default, and the most */
    assert_true(chat("") && r.job.timeout_seconds == 20);
    assert_true(completion("\"x\"", "\"timeout_seconds\":null") && r.job.timeout_seconds == 20);
    assert_true(chat("\"timeout_seconds\":20") && r.job.timeout_seconds == 20);
    refused(chat("\"timeout_seconds\":20.5"), "timeout_seconds", "");
    limits.request_timeout = 0;
}

static void number_of_samples(void **state)
{
    assert_true(chat("") && r.n_samples == 1);
    assert_true(chat("\"n\":null") && r.n_samples == 1);
    assert_true(chat("\"n\":4") && r.n_samples == 4);
    refused(chat("\"n\":5"), "n", ""); /* max_samples */
    refused(chat("\"n\":0"), "n", "");
    refused(chat("\"n\":1.5"), "n", "");
    assert_true(completion("[\"a\",\"b\",\"c\"]", "\"n\":3") && r.n_samples == 3);
    refused(completion("[\"a\",\"b\",\"c\"]", "\"n\":4"), "n", ""); /* 12 answers, 9 places */
    limits.max_jobs = 2;
    refused(completion("[\"a\",\"b\",\"c\"]", ""), "prompt", "");
    limits.max_jobs = 9;
}

static void unknown_names(void **state)
{
    assert_true(
        chat("\"foo\":1,\"b a\\r\\nr\":2,\"qttt\":{\"stepz\":1},\"user\":\"x\",\"metadata\":{}"));
    tt_buf_putc(&r.ignored, '\0');
    assert_non_null(strstr(r.ignored.p, "foo"));
    assert_non_null(strstr(r.ignored.p, "b?a??r"));
    assert_non_null(strstr(r.ignored.p, "qttt.stepz"));
    assert_null(strstr(r.ignored.p, "user"));
    reset(NULL);
    limits.strict = true;
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"foo\":1}";
    bool ok = tt_request_parse(body, strlen(body), TT_API_CHAT, &limits, &arena, &r, &e);
    refused(ok, "foo", "unsupported_parameter");
}

static void models(void **state)
{
    assert_true(chat("\"model\":\"m-qttt\""));
    assert_string_equal(r.model, "m-qttt");
    assert_int_equal(r.qttt.params.mode, TT_QTTT_ON);
    assert_true(chat("\"model\":\"m-qttt\",\"qttt\":false"));
    assert_int_equal(r.qttt.params.mode, TT_QTTT_OFF);
    assert_false(chat("\"model\":\"gpt-4\""));
    assert_int_equal(e.status, 404);
    assert_string_equal(e.code, "model_not_found");
}

static void messages(void **state)
{
    assert_true(parse(
        TT_API_CHAT,
        "{\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\",\"content\":"
        "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\\u0000c\"}],\"name\":"
        "\"n\","
        "\"x\":1},{\"role\":\"assistant\",\"content\":null,\"refusal\":null}]}"));
    assert_int_equal(json_array_size(r.messages), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(r.messages, 0), "role")),
                        "system");
    json_t *content = json_object_get(json_array_get(r.messages, 1), "content");
    assert_int_equal(json_string_length(content), 5);
    assert_memory_equal(json_string_value(content), "a\nb\0c", 5);
    assert_string_equal(json_string_value(json_object_get(json_array_get(r.messages, 1), "name")),
                        "n");
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(r.messages, 2), "content")), "");
    assert_memory_equal(r.ignored.p, "messages.x", 10);
    static const char *const bad[][3] = {
        {"null", "messages", ""},
        {"[]", "messages", ""},
        {"7", "messages", ""},
        {"[7]", "messages[0]", ""},
        {"[{}]", "messages[0].role", ""},
        {"[{\"role\":\"x\"}]", "messages[0].role", ""},
        {"[{\"role\":\"tool\",\"content\":\"\"}]", "messages[0].role", "unsupported_parameter"},
        {"[{\"role\":\"user\"}]", "messages[0].content", ""},
        {"[{\"role\":\"user\",\"content\":7}]", "messages[0].content", ""},
        {"[{\"role\":\"user\",\"content\":[7]}]", "messages[0].content[0].type", ""},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", "messages[0].content[0].text",
         ""},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]",
         "messages[0].content[0].type", "unsupported_parameter"},
        {"[{\"role\":\"user\",\"content\":\"\",\"name\":7}]", "messages[0].name", ""},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{}]}]", "messages[0].tool_calls",
         "unsupported_parameter"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char body[512];
        snprintf(body, sizeof body, "{\"messages\":%s}", bad[i][0]);
        print_message("%s\n", body);
        refused(parse(TT_API_CHAT, body), bad[i][1], bad[i][2]);
    }
}

static void prompts(void **state)
{
    assert_true(completion("\"a\"", "") && r.n_prompts == 1 && r.prompts[0].n_text == 1);
    assert_true(completion("[\"a\",\"b\"]", "") && r.n_prompts == 2);
    assert_true(completion("[1,2,3]", "") && r.n_prompts == 1 && r.prompts[0].n_ids == 3);
    assert_true(completion("[[1],[2,3],\"x\"]", "") && r.n_prompts == 3 &&
                r.prompts[1].ids[1] == 3);
    static const char *const bad[] = {
        "null",       "[]",      "7",     "{}",     "[100]",  "[-1]",
        "[1,\"a\"]",  "[[1],7]", "[1.5]", "[null]", "[true]", "[\"a\",\"b\",\"c\",\"d\"]",
        "[[1],[100]]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        refused(completion(bad[i], ""), "prompt", "");
    }
    assert_true(completion("\"a\"", "\"max_tokens\":0,\"echo\":true,\"logprobs\":0"));
    assert_int_equal(r.job.n_prompt_logprobs, 0);
    assert_int_equal(r.job.max_tokens, 0);
    assert_true(completion("\"a\"", "\"logprobs\":false") && !r.want_logprobs);
    assert_true(completion("\"a\"", "\"logprobs\":5") && r.job.n_prompt_logprobs == -1);
    refused(completion("\"a\"", "\"logprobs\":true"), "logprobs", "");
    refused(completion("\"a\"", "\"messages\":[]"), "messages", "unsupported_parameter");
    refused(completion("[\"a\",\"b\"]", "\"qttt\":{\"mode\":\"on\"}"), "qttt",
            "unsupported_parameter");
}

static void qttt_object(void **state)
{
    assert_true(chat(
        "\"qttt\":{\"mode\":\"on\",\"steps\":7,\"span_tokens\":64,\"learning_rate\":1e-4,"
        "\"adapter\":\"lora\",\"rank\":4,\"layers\":[0,3],\"objective\":\"recall\",\"optimizer\":"
        "\"sgd\","
        "\"weight_decay\":0,\"grad_clip\":2,\"seed\":9,\"guard\":false,\"start_from\":\"base\","
        "\"generation\":\"latest\",\"budget\":{\"max_seconds\":1.5,\"max_span_tokens\":100},"
        "\"context\":{\"messages\":1}}"));
    const tt_qttt_params *p = &r.qttt.params;
    assert_int_equal(p->mode, TT_QTTT_ON);
    assert_int_equal(p->steps, 7);
    assert_int_equal(p->span_tokens, 64);
    assert_true(p->learning_rate == 1e-4 && p->lora && p->sgd && !p->guard);
    assert_int_equal(p->layers[0], 9);
    assert_int_equal(p->objective, TT_RECALL);
    assert_true(p->weight_decay == 0 && p->grad_clip == 2 && p->max_seconds == 1.5);
    assert_int_equal(p->max_span_tokens, 100);
    assert_int_equal(r.qttt.context, TT_CONTEXT_MESSAGES);
    assert_true(chat("\"qttt\":{\"mode\":\"on\"}"));
    tt_qttt_params q = r.qttt.params;
    tt_qttt_resolve(&q);
    assert_int_equal(q.steps, 32);
    assert_int_equal(q.span_tokens, 128);
    assert_true(q.guard && q.weight_decay == 0.01f && q.learning_rate == 3e-6);
}

static void generations(void **state)
{
    static const struct {
        const char *field;
        int64_t generation;
        bool from_latest;
    } good[] = {{"{}", -1, false},
                {"{\"generation\":\"latest\"}", -1, false},
                {"{\"generation\":\"base\"}", 0, false},
                {"{\"generation\":7}", 7, false},
                {"false", 0, false},
                {"{\"mode\":\"on\",\"start_from\":\"latest\"}", -1, true}};
    char field[128];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(field, sizeof field, "\"qttt\":%s", good[i].field);
        assert_true(chat(field));
        assert_int_equal(r.qttt.generation, good[i].generation);
        assert_int_equal(r.qttt.from_latest, good[i].from_latest);
        assert_true(r.have_qttt);
    }
    assert_true(chat("\"qttt\":null"));
    assert_false(r.have_qttt);
}

static void session_fields(void **state)
{
    static const char *const bad[][2] = {
        {"\"session\":7", "session"},
        {"\"append\":1", "append"},
        {"\"append\":true,\"expected_tokens\":-1", "expected_tokens"},
        {"\"expected_tokens\":5", "expected_tokens"},
        {"\"append\":true,\"n\":2", "n"}};
    assert_true(chat("\"session\":\"ses_x\",\"append\":true,\"expected_tokens\":5"));
    assert_string_equal(r.session, "ses_x");
    assert_true(r.append);
    assert_int_equal(r.expected_tokens, 5);
    assert_true(chat("\"append\":false"));
    assert_true(r.session == NULL && !r.append && r.expected_tokens == -1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        refused(chat(bad[i][0]), bad[i][1], "");
    }
}

static void qttt_refusals(void **state)
{
    static const char *const bad[][3] = {
        {"true", "qttt", ""},
        {"7", "qttt", ""},
        {"[]", "qttt", ""},
        {"{\"mode\":\"auto\",\"optimizer\":\"sgd\"}", "qttt.learning_rate", ""},
        {"{\"mode\":\"auto\",\"generation\":\"base\"}", "qttt.generation", "unsupported_parameter"},
        {"{\"mode\":\"yes\"}", "qttt.mode", ""},
        {"{\"mode\":\"on\",\"generation\":1}", "qttt.generation", "unsupported_parameter"},
        {"{\"generation\":-1}", "qttt.generation", ""},
        {"{\"generation\":1.5}", "qttt.generation", ""},
        {"{\"generation\":\"x\"}", "qttt.generation", ""},
        {"{\"start_from\":\"first\"}", "qttt.start_from", ""},
        {"{\"steps\":0}", "qttt.steps", ""},
        {"{\"steps\":257}", "qttt.steps", ""},
        {"{\"span_tokens\":15}", "qttt.span_tokens", ""},
        {"{\"span_tokens\":1025}", "qttt.span_tokens", ""},
        {"{\"rank\":65}", "qttt.rank", ""},
        {"{\"learning_rate\":0}", "qttt.learning_rate", ""},
        {"{\"learning_rate\":0.002}", "qttt.learning_rate", ""},
        {"{\"learning_rate\":\"x\"}", "qttt.learning_rate", ""},
        {"{\"mode\":\"on\",\"optimizer\":\"sgd\"}", "qttt.learning_rate", ""},
        {"{\"layers\":[4]}", "qttt.layers", ""},
        {"{\"layers\":[]}", "qttt.layers", ""},
        {"{\"layers\":\"some\"}", "qttt.layers", ""},
        {"{\"budget\":7}", "qttt.budget", ""},
        {"{\"budget\":{\"max_seconds\":-1}}", "qttt.budget.max_seconds", ""},
        {"{\"context\":{}}", "qttt.context", ""},
        {"{\"context\":{\"messages\":1,\"tokens\":1}}", "qttt.context", ""},
        {"{\"context\":{\"tokens\":0}}", "qttt.context.tokens", ""},
        {"{\"guard\":1}", "qttt.guard", ""},
        {"{\"weight_decay\":-1}", "qttt.weight_decay", ""},
        {"{\"seed\":-1}", "qttt.seed", ""}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char field[256];
        snprintf(field, sizeof field, "\"qttt\":%s", bad[i][0]);
        print_message("%s\n", field);
        refused(chat(field), bad[i][1], bad[i][2]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(defaults),
                                       cmocka_unit_test(values_arrive),
                                       cmocka_unit_test(null_is_absent),
                                       cmocka_unit_test(ranges),
                                       cmocka_unit_test(unsupported_by_name),
                                       cmocka_unit_test(number_of_samples),
                                       cmocka_unit_test(time_limits),
                                       cmocka_unit_test(unknown_names),
                                       cmocka_unit_test(models),
                                       cmocka_unit_test(messages),
                                       cmocka_unit_test(prompts),
                                       cmocka_unit_test(qttt_object),
                                       cmocka_unit_test(generations),
                                       cmocka_unit_test(session_fields),
                                       cmocka_unit_test(qttt_refusals)};
    int rc = cmocka_run_group_tests(tests, reset, NULL);
    reset(NULL);
    return rc;
}
