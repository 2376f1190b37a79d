/* test_error_map.c - every code has a status, type and code of the table in docs/api.md; the object
 * has always four keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <string.h>

#include "server/error_map.h"

#define ROW(name, value, text) name,

static void every_code_is_mapped(void **state)
{
    static const tt_code codes[] = {TT_CODES(ROW)};
    static const int statuses[] = {400, 408, 409, 429, 500, 503};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        tt_err err = {.code = codes[i]};
        tt_http_error e;
        tt_error_from_code(&e, &err);
        bool known = false;
        for (size_t k = 0; k < 6; k++) {
            known = known || e.status == statuses[k];
        }
        assert_true(known);
        assert_string_equal(e.message, tt_code_text(codes[i]));
        assert_int_equal(e.retry_after > 0, e.status == 429 || e.status == 503);
    }
}

static void table(void **state)
{
    static const struct {
        tt_code code;
        int status;
        const char *type, *text;
    } rows[] = {{TT_E_INVALID, 400, "invalid_request_error", NULL},
                {TT_E_UNSUPPORTED, 400, "invalid_request_error", "unsupported_parameter"},
                {TT_E_CONTEXT_LENGTH, 400, "invalid_request_error", "context_length_exceeded"},
                {TT_E_BUSY, 429, "rate_limit_error", "queue_full"},
                {TT_E_CAPACITY, 429, "rate_limit_error", "capacity"},
                {TT_E_TIMEOUT, 408, "timeout_error", "timeout"},
                {TT_E_UNAVAILABLE, 503, "service_unavailable", "loading"},
                {TT_E_ADAPTER_LOST, 409, "conflict_error", "adapter_lost"},
                {TT_E_DIVERGED, 500, "server_error", "diverged"},
                {(tt_code)-99, 500, "server_error", "internal"},
                {(tt_code)5, 500, "server_error", "internal"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tt_err err = {.code = rows[i].code, .msg = "what happened"};
        tt_http_error e;
        tt_error_from_code(&e, &err);
        assert_int_equal(e.status, rows[i].status);
        assert_string_equal(e.type, rows[i].type);
        if (rows[i].text == NULL) {
            assert_null(e.code);
        } else {
            assert_string_equal(e.code, rows[i].text);
        }
        assert_string_equal(e.message, "what happened");
    }
}

static void object_has_four_keys(void **state)
{
    tt_http_error e;
    tt_buf b = {0};
    json_error_t je;
    const char *message, *type;
    json_t *param, *code;
    tt_error_set(&e, 400, NULL, NULL, "a \"quoted\" \xff thing");
    tt_error_write(&b, &e);
    json_t *root = json_loadb(b.p, b.n, 0, &je);
    assert_non_null(root);
    assert_int_equal(json_unpack_ex(root, &je, JSON_STRICT, "{s:{s:s,s:s,s:o,s:o}}", "error",
                                    "message", &message, "type", &type, "param", &param, "code",
                                    &code),
                     0);
    assert_string_equal(message, "a \"quoted\" \xef\xbf\xbd thing");
    assert_true(json_is_null(param) && json_is_null(code));
    json_decref(root);
    tt_buf_clear(&b);
    tt_error_set(&e, 409, "x.y", "busy", "no");
    tt_error_write(&b, &e);
    tt_buf_putc(&b, '\0');
    assert_string_equal(b.p, "{\"error\":{\"message\":\"no\",\"type\":\"conflict_error\",\"param\":"
                             "\"x.y\",\"code\":\"busy\"}}");
    tt_buf_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_code_is_mapped),
                                       cmocka_unit_test(table),
                                       cmocka_unit_test(object_has_four_keys)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
