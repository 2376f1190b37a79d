/* test_metadata.c - what comes is given back; bounds in characters, not bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "server/metadata.h"

/* The JSON text, or the field that was refused behind a '!'. */
static const char *parsed(const char *json)
{
    static char out[4096];
    tt_buf b = {0};
    tt_http_error e = {0};
    json_t *v = json != NULL ? json_loads(json, JSON_DECODE_ANY, NULL) : NULL;
    assert_true(json == NULL || v != NULL);
    if (tt_metadata_parse(v, &b, &e)) {
        assert_true(b.n < sizeof out);
        memcpy(out, b.p, b.n);
        out[b.n] = '\0';
    } else {
        assert_int_equal(e.status, 400);
        snprintf(out, sizeof out, "!%s", e.param);
    }
    json_decref(v);
    tt_buf_finish(&b);
    return out;
}

static void kept(void **state)
{
    assert_string_equal(parsed(NULL), "{}");
    assert_string_equal(parsed("null"), "{}");
    assert_string_equal(parsed("{}"), "{}");
    assert_string_equal(parsed("{\"a\": \"b\\n\\\"\", \"\\u00e9\": \"\"}"),
                        "{\"a\":\"b\\n\\\"\",\"\xc3\xa9\":\"\"}");
}

static void bounds(void **state)
{
    char text[4096];
    char key[TT_METADATA_KEY * 2 + 3] = "", value[TT_METADATA_VALUE * 2 + 3] = "";
    for (int i = 0; i < TT_METADATA_KEY; i++) {
        strcat(key, "\xc3\xa9");
    }
    for (int i = 0; i < TT_METADATA_VALUE; i++) {
        strcat(value, "\xc3\xa9");
    }
    snprintf(text, sizeof text, "{\"%s\":\"%s\"}", key, value);
    assert_string_equal(parsed(text), text);
    snprintf(text, sizeof text, "{\"%sx\":\"\"}", key);
    assert_string_equal(parsed(text), "!metadata");
    snprintf(text, sizeof text, "{\"k\":\"%sx\"}", value);
    assert_string_equal(parsed(text), "!metadata.k");
    size_t n = 0;
    for (int i = 0; i < TT_METADATA_PAIRS; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%c\"%d\":\"\"", i == 0 ? '{' : ',', i);
    }
    strcpy(text + n, "}");
    assert_string_equal(parsed(text), text);
    strcpy(text + n, ",\"x\":\"\"}");
    assert_string_equal(parsed(text), "!metadata");
    assert_string_equal(parsed("[]"), "!metadata");
    assert_string_equal(parsed("\"x\""), "!metadata");
    assert_string_equal(parsed("{\"a\":1}"), "!metadata.a");
    assert_string_equal(parsed("{\"a\":null}"), "!metadata.a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kept), cmocka_unit_test(bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
