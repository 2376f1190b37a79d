/* test_answer.c - the JSON of chat and completions answers, whole and in chunks, against the
 * documents of openapi.yaml written out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/answer.h"

static const tt_answer chat = {
    .api = TT_API_CHAT, .id = "chatcmpl-1", .model = "m\"x", .created = 1700000000};
static const tt_answer text = {
    .api = TT_API_COMPLETIONS, .id = "cmpl-1", .model = "m", .created = 4102444800};

/* Are the two JSON texts the same value? Prints both when not. */
static void same_json(const char *got, size_t n, const char *want)
{
    json_error_t e;
    json_t *a = json_loadb(got, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (a == NULL) {
        fail_msg("%s in %.*s", e.text, (int)n, got);
    }
    json_t *b = json_loads(want, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (b == NULL) {
        fail_msg("the test's own text: %s", e.text);
    }
    if (!json_equal(a, b)) {
        fail_msg("got  %.*s\nwant %s", (int)n, got, want);
    }
    json_decref(a);
    json_decref(b);
}

/* One event of a stream: "data: ", a text without line breaks, and a blank line. */
static void chunk_is(const tt_answer *a, const tt_chunk *c, const char *want)
{
    tt_buf b = {0};
    tt_answer_chunk(&b, a, c);
    assert_false(b.failed);
    assert_true(b.n > 8 && memcmp(b.p, "data: ", 6) == 0);
    assert_true(memcmp(b.p + b.n - 2, "\n\n", 2) == 0);
    assert_null(memchr(b.p, '\n', b.n - 2));
    assert_null(memchr(b.p, '\r', b.n));
    same_json(b.p + 6, b.n - 8, want);
    tt_buf_finish(&b);
}

#define CHAT_HEAD                                                                                  \
    "\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"           \
    "\"model\":\"m\\\"x\""
#define TEXT_HEAD                                                                                  \
    "\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":4102444800,\"model\":\"m\""

static void test_chat_chunks(void **state)
{
    chunk_is(&chat, &(tt_chunk){.role = true},
             "{" CHAT_HEAD ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
             "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}");
    chunk_is(&chat, &(tt_chunk){.text = "a\nb\"\xc3\xa9\xff", .n_text = 7},
             "{" CHAT_HEAD ",\"choices\":[{\"index\":0,\"delta\":{\"content\":"
             "\"a\\nb\\\"\xc3\xa9\xef\xbf\xbd\"},\"logprobs\":null,\"finish_reason\":null}]}");
    chunk_is(&chat, &(tt_chunk){.index = 3, .finish_reason = "stop"},
             "{" CHAT_HEAD ",\"choices\":[{\"index\":3,\"delta\":{},\"logprobs\":null,"
             "\"finish_reason\":\"stop\"}]}");
    chunk_is(&chat, &(tt_chunk){.text = "", .n_text = 0}, /* an empty text is a text */
             "{" CHAT_HEAD ",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},"
             "\"logprobs\":null,\"finish_reason\":null}]}");
}

static void test_completion_chunks(void **state)
{
    chunk_is(&text, &(tt_chunk){.index = 1, .text = "x\0y", .n_text = 3},
             "{" TEXT_HEAD ",\"choices\":[{\"index\":1,\"text\":\"x\\u0000y\",\"logprobs\":null,"
             "\"finish_reason\":null}]}");
}

static void test_usage(void **state)
{
    tt_answer a = chat;
    tt_usage u = {.prompt_tokens = 3000000000, .completion_tokens = 7, .cached_tokens = 64};
    a.include_usage = true;
    chunk_is(&a, &(tt_chunk){.text = "t", .n_text = 1},
             "{" CHAT_HEAD ",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"t\"},"
             "\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}");
    chunk_is(&a, &(tt_chunk){.usage = &u},
             "{" CHAT_HEAD ",\"choices\":[],\"usage\":{\"prompt_tokens\":3000000000,"
             "\"completion_tokens\":7,\"total_tokens\":3000000007,"
             "\"prompt_tokens_details\":{\"cached_tokens\":64}}}");
    u.accepted_tokens = 5;
    chunk_is(&a, &(tt_chunk){.usage = &u},
             "{" CHAT_HEAD ",\"choices\":[],\"usage\":{\"prompt_tokens\":3000000000,"
             "\"completion_tokens\":7,\"total_tokens\":3000000007,"
             "\"prompt_tokens_details\":{\"cached_tokens\":64},"
             "\"completion_tokens_details\":{\"accepted_prediction_tokens\":5}}}");
}

static void test_progress(void **state)
{
    chunk_is(&chat, &(tt_chunk){.queued = true, .queue_total = 4},
             "{" CHAT_HEAD ",\"choices\":[],\"progress\":{\"phase\":\"queued\",\"done\":0,"
             "\"total\":4}}");
    tt_event prefill = {.type = TT_EV_PREFILL,
                        .u.prefill = {.done = 512, .total = 4000, .cached = 64, .seconds = 0.25}};
    chunk_is(&chat, &(tt_chunk){.progress = &prefill},
             "{" CHAT_HEAD ",\"choices\":[],\"progress\":{\"phase\":\"prefill\",\"done\":512,"
             "\"total\":4000,\"cached\":64,\"seconds\":0.25}}");
    tt_event adapt = {.type = TT_EV_ADAPT,
                      .u.adapt = {.step = 3,
                                  .total = 32,
                                  .span_start = 100,
                                  .span_tokens = 128,
                                  .loss = 2.5,
                                  .grad_norm = NAN, /* JSON has no NaN */
                                  .learning_rate = 3e-06,
                                  .seconds = 0.5}};
    chunk_is(&text, &(tt_chunk){.progress = &adapt},
             "{" TEXT_HEAD ",\"choices\":[],\"progress\":{\"phase\":\"adapt\",\"done\":3,"
             "\"total\":32,\"loss\":2.5,\"grad_norm\":null,\"learning_rate\":3e-06,"
             "\"seconds\":0.5,\"span_start\":100,\"span_tokens\":128}}");
}

static void test_whole_answers(void **state)
{
    tt_buf choices = {0}, b = {0};
    tt_usage u = {.prompt_tokens = 5, .completion_tokens = 2};
    tt_chunk c = {.text = "one", .n_text = 3, .finish_reason = "length", .usage = &u};
    tt_answer_choice(&choices, &text, &c);
    c.index = 1;
    c.text = NULL; /* nothing was generated */
    c.n_text = 0;
    tt_answer_choice(&choices, &text, &c);
    tt_answer_whole(&b, &text, &choices, &c);
    assert_false(b.failed);
    same_json(b.p, b.n,
              "{" TEXT_HEAD ",\"choices\":[{\"index\":0,\"text\":\"one\",\"logprobs\":null,"
              "\"finish_reason\":\"length\"},{\"index\":1,\"text\":\"\",\"logprobs\":null,"
              "\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":5,"
              "\"completion_tokens\":2,\"total_tokens\":7,"
              "\"prompt_tokens_details\":{\"cached_tokens\":0}}}");
    tt_buf_clear(&choices);
    tt_buf_clear(&b);
    c = (tt_chunk){.text = "hi", .n_text = 2, .finish_reason = "stop", .usage = &u};
    tt_answer_choice(&choices, &chat, &c);
    tt_answer_whole(&b, &chat, &choices, &c);
    same_json(b.p, b.n,
              "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,"
              "\"model\":\"m\\\"x\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
              "\"content\":\"hi\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
              "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7,"
              "\"prompt_tokens_details\":{\"cached_tokens\":0}}}");
    tt_buf_finish(&choices);
    tt_buf_finish(&b);
}

static void test_qttt_rides_along(void **state)
{
    tt_qttt_result r = {.status = "skipped", .reason = "context_too_short"};
    tt_usage u = {.prompt_tokens = 1};
    tt_chunk c = {.qttt = &r, .job_id = "qttt_7", .usage = &u, .prefill_seconds = 1.5};
    tt_buf b = {0}, none = {0};
    for (int whole = 0; whole < 2; whole++) {
        json_error_t e;
        tt_buf_clear(&b);
        if (whole) {
            tt_answer_whole(&b, &chat, &none, &c);
        } else {
            tt_answer_chunk(&b, &chat, &c);
        }
        json_t *o = json_loadb(b.p + (whole ? 0 : 6), b.n - (whole ? 0 : 8), 0, &e);
        const json_t *q = json_object_get(o, "qttt");
        assert_string_equal(json_string_value(json_object_get(q, "job_id")), "qttt_7");
        assert_string_equal(json_string_value(json_object_get(q, "status")), "skipped");
        assert_true(json_number_value(json_object_get(q, "prefill_seconds")) == 1.5);
        json_decref(o);
    }
    tt_buf_finish(&b);
}

static void test_failed_buffers_show(void **state)
{
    tt_usage u = {0};
    tt_chunk c = {.text = "some text", .n_text = 9, .usage = &u};
    tt_buf choices, b = {0};
    tt_buf_init(&choices, 10); /* smaller than any choice */
    tt_answer_choice(&choices, &chat, &c);
    assert_true(choices.failed);
    tt_answer_whole(&b, &chat, &choices, &c);
    assert_true(b.failed); /* nobody may send what lacks a choice */
    tt_buf_finish(&choices);
    tt_buf_finish(&b);
}

static void test_finish_texts(void **state)
{
    assert_string_equal(tt_finish_text(TT_FINISH_STOP), "stop");
    assert_string_equal(tt_finish_text(TT_FINISH_LENGTH), "length");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_chunks),
        cmocka_unit_test(test_completion_chunks),
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_whole_answers),
        cmocka_unit_test(test_qttt_rides_along),
        cmocka_unit_test(test_failed_buffers_show),
        cmocka_unit_test(test_finish_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
