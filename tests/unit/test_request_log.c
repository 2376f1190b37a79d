/* test_request_log.c - the log's line of a request: its fields, and that it is one line of valid
 * JSON (or one line of text) whatever a client has sent. stderr goes to a file meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/http.h"
#include "server/log.h"
#include "server/server.h"

static char caught[1 << 16];

/* The line that this request gets. */
static const char *line_of(const tt_http_request *req, bool complete, int json)
{
    char name[] = "/tmp/qttt_test_request_log_XXXXXX";
    int file = mkstemp(name), saved = dup(STDERR_FILENO);
    assert_true(file >= 0 && saved >= 0);
    unlink(name);
    tt_log_configure(TT_LOG_INFO, json);
    assert_true(dup2(file, STDERR_FILENO) >= 0);
    tt_request_log(req, complete);
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t n = pread(file, caught, sizeof caught - 1, 0);
    close(file);
    assert_true(n >= 0);
    caught[n] = '\0';
    return caught;
}

static json_t *object_of(const char *line)
{
    json_error_t e;
    size_t n = strlen(line);
    assert_true(n > 1 && strchr(line, '\n') == line + n - 1);
    json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, &e);
    if (o == NULL) {
        fail_msg("%s: %s", e.text, line);
    }
    return o;
}

static const char *text_at(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s != NULL ? s : "";
}

static void test_fields(void **state)
{
    tt_tenant alice = {.key = {.name = "alice"}};
    tt_http_request req = {.id = "req_1",
                           .tenant = &alice,
                           .method = "POST",
                           .url = "/v1/chat/completions",
                           .status = 200,
                           .started = tt_now() - 2};
    req.note = (tt_request_note){.model = "m",
                                 .outcome = "stop",
                                 .session = "ses_x",
                                 .generates = true,
                                 .prompt_tokens = 7,
                                 .cached_tokens = 6,
                                 .generated_tokens = 5,
                                 .trained_tokens = 4,
                                 .queue_seconds = 0.25,
                                 .first_token_seconds = 0.5,
                                 .received = 11,
                                 .sent = 12};
    tt_trace_begin(&req.note.trace, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    json_t *o = object_of(line_of(&req, true, 1));
    static const char *const texts[][2] = {
        {"level", "info"},
        {"message", "request"},
        {"request_id", "req_1"},
        {"trace_id", "0af7651916cd43dd8448eb211c80319c"},
        {"parent_id", "b7ad6b7169203331"},
        {"key", "alice"},
        {"method", "POST"},
        {"path", "/v1/chat/completions"},
        {"outcome", "stop"},
        {"model", "m"},
        {"session", "ses_x"},
    };
    static const struct {
        const char *key;
        double value;
    } numbers[] = {{"status", 200},         {"prompt_tokens", 7},  {"cached_tokens", 6},
                   {"generated_tokens", 5}, {"trained_tokens", 4}, {"queue_ms", 250},
                   {"ttft_ms", 500},        {"bytes_in", 11},      {"bytes_out", 12}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_string_equal(text_at(o, texts[i][0]), texts[i][1]);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        assert_true(json_number_value(json_object_get(o, numbers[i].key)) == numbers[i].value);
    }
    assert_true(json_number_value(json_object_get(o, "total_ms")) >= 2000);
    assert_null(json_object_get(o, "body")); /* prompts never */
    json_decref(o);
    const char *s = line_of(&req, false, 0);
    assert_non_null(
        strstr(s, " request request_id=req_1 trace_id=0af7651916cd43dd8448eb211c80319c "));
    assert_non_null(strstr(s, " key=alice method=POST path=/v1/chat/completions status=200 "
                              "outcome=cancelled model=m session=ses_x prompt_tokens=7 "));
}

static void test_little_to_say(void **state)
{
    tt_http_request req = {.method = "GET", .url = "/x", .status = 404, .started = tt_now()};
    json_t *o = object_of(line_of(&req, true, 1));
    assert_string_equal(text_at(o, "outcome"), "error");
    assert_null(json_object_get(o, "key"));
    assert_null(json_object_get(o, "trace_id"));
    assert_null(json_object_get(o, "prompt_tokens"));
    json_decref(o);
    req.status = 201;
    o = object_of(line_of(&req, true, 1));
    assert_string_equal(text_at(o, "outcome"), "ok");
    json_decref(o);
}

/* What went wrong here is told; what a client did wrong may quote it, and is not. */
static void test_errors(void **state)
{
    tt_http_request req = {.method = "GET", .url = "/x", .status = 500, .started = tt_now()};
    tt_http_error e = {.status = 500, .type = "server_error", .code = "io", .message = "a disk"};
    tt_request_note_error(&req.note, &e);
    json_t *o = object_of(line_of(&req, true, 1));
    assert_string_equal(text_at(o, "outcome"), "io");
    assert_string_equal(text_at(o, "error"), "a disk");
    assert_string_equal(text_at(o, "level"), "warn");
    json_decref(o);
    req.note = (tt_request_note){0};
    e = (tt_http_error){.status = 400, .type = "invalid_request_error", .message = "'secret'?"};
    req.status = 400;
    tt_request_note_error(&req.note, &e);
    const char *s = line_of(&req, true, 1);
    assert_null(strstr(s, "secret"));
    assert_non_null(strstr(s, "\"outcome\":\"invalid_request_error\""));
}

/* Probes would drown the rest. */
static void test_probes_are_silent(void **state)
{
    static const tt_route probe = {.path = "/livez", .open = true};
    tt_http_request req = {.route = &probe, .method = "GET", .url = "/livez", .status = 200};
    assert_string_equal(line_of(&req, true, 1), "");
}

/* No byte of a request forges a line, breaks the JSON or acts on a terminal. */
static void test_rubbish(void **state)
{
    char url[300], body[TT_LOGGED_BODY + 100];
    uint32_t x = 12345;
    tt_http_request req = {.method = "POST", .url = url, .status = 200, .started = tt_now()};
    for (int round = 0; round < 400; round++) {
        size_t n = 0;
        for (; n < sizeof url - 1; n++) {
            x = x * 1664525 + 1013904223;
            char c = (char)(x >> 24);
            url[n] = c != '\0' ? c : '\n';
        }
        url[n] = '\0';
        for (size_t i = 0; i < sizeof body; i++) {
            x = x * 1664525 + 1013904223;
            body[i] = (char)(x >> 24);
        }
        tt_arena_init(&req.arena, 1 << 20);
        tt_request_note_body(&req.note, &req.arena, body, round % 2 == 0 ? sizeof body : 20);
        assert_int_equal(req.note.n_body, round % 2 == 0 ? TT_LOGGED_BODY : 20);
        json_decref(object_of(line_of(&req, true, 1)));
        const char *line = line_of(&req, true, 0);
        assert_true(line[0] != '\0' && strchr(line, '\n')[1] == '\0');
        tt_arena_finish(&req.arena);
        req.note = (tt_request_note){0};
    }
}

static void test_what_acts_is_escaped(void **state)
{
    static const char url[] = "/\x1b[2J\r\n\x7f\xc2\x85\xe2\x80\xae\xe2\x80\xa8\xe2\x81\xa6"
                              "\"\\ =\xc3\xa9\xff";
    tt_http_request req = {.method = "GET", .url = url, .status = 200, .started = tt_now()};
    const char *s = line_of(&req, true, 0);
    assert_non_null(strstr(s, " path=\"/\\u001b[2J\\u000d\\u000a\\u007f\\u0085\\u202e\\u2028\\u2066"
                              "\\\"\\\\ =\xc3\xa9\xef\xbf\xbd\" "));
    for (; s[1] != '\0'; s++) {
        assert_true((unsigned char)*s >= 0x20 && *s != 0x7f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),  cmocka_unit_test(test_little_to_say),
        cmocka_unit_test(test_errors),  cmocka_unit_test(test_probes_are_silent),
        cmocka_unit_test(test_rubbish), cmocka_unit_test(test_what_acts_is_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
