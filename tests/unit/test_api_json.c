/* test_api_json.c - parsing within bounds, and checked getters. Oracle for memory: the allocator's
 * own count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api_json.h"

enum { LIMIT = 4 << 20 };

static size_t in_use, peak;

static void *counted_malloc(size_t n)
{
    void *p = malloc(n);
    in_use += p != NULL ? malloc_usable_size(p) + 16 : 0;
    peak = in_use > peak ? in_use : peak;
    return p;
}

static void counted_free(void *p)
{
    in_use -= p != NULL ? malloc_usable_size(p) + 16 : 0;
    free(p);
}

static tt_http_error error;

static json_t *parse(const char *text)
{
    error = (tt_http_error){0};
    return tt_json_parse(text, strlen(text), LIMIT, &error);
}

static void refused(const char *text, const char *part)
{
    assert_null(parse(text));
    assert_int_equal(error.status, 400);
    if (strstr(error.message, part) == NULL) {
        fail_msg("'%s' does not say '%s'", error.message, part);
    }
}

static void bad_bodies(void **state)
{
    refused("", "line 1");
    refused("{", "line 1");
    refused("{\n  \"a\": [,]\n}", "line 2, column");
    refused("[]", "an array");
    refused("null", "");
    refused("{} x", "");
    refused("{\"a\":1,\"a\":2}", "duplicate");
    refused("{\"a\":\"\xff\"}", "");
    refused("{\"a\":\"\\ud800\"}", "");
    refused("{\"a\":1e999}", "");
    refused("{\"a\":NaN}", "");
    refused("{'a':1}", "");
    char deep[200];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    refused(deep, "nested");
}

/* A body of small values may take no more memory than the limit says, whatever the values are. */
static void memory_is_bounded(void **state)
{
    static const char *const units[] = {"0,",   "[],",  "{},",   "\"\",",       "{\"a\":0},",
                                        "[0],", "1.5,", "null,", "\"\\u0000\","};
    json_set_alloc_funcs(counted_malloc, counted_free);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t k = strlen(units[u]);
        for (size_t count = 1000; count < 4000000; count *= 2) {
            size_t n = 6 + count * k + 3;
            char *text = malloc(n + 1);
            assert_non_null(text);
            char *p = text + sprintf(text, "{\"x\":[");
            for (size_t i = 0; i < count; i++, p += k) {
                memcpy(p, units[u], k);
            }
            strcpy(p, "0]}");
            in_use = peak = 0;
            json_t *root = tt_json_parse(text, strlen(text), LIMIT, &error);
            assert_true(peak <= LIMIT + strlen(text) * 3);
            bool accepted = root != NULL;
            json_decref(root);
            free(text);
            assert_int_equal(in_use, 0);
            if (!accepted) {
                assert_non_null(strstr(error.message, "too many"));
                assert_true(count >= 8000); /* honest bodies pass */
                break;
            }
            assert_true(count < 1000000);
        }
    }
    json_set_alloc_funcs(malloc, free);
}

static void text_alone_is_not_counted(void **state)
{
    size_t n = 8 << 20;
    char *text = malloc(n + 16);
    assert_non_null(text);
    int k = sprintf(text, "{\"x\":\"");
    memset(text + k, ',', n);
    strcpy(text + k + n, "\"}");
    json_t *root = tt_json_parse(text, strlen(text), 65536, &error);
    assert_non_null(root);
    json_decref(root);
    free(text);
}

/* Valid JSON that no integer type holds: the field's own check answers, not the parser. */
static void huge_integers(void **state)
{
    json_t *o = parse("{\"i\":[1000000000000000000000000000000,-99999999999999999999,1],"
                      "\"s\":\"\\\"99999999999999999999\",\"d\":0.12345678901234567890}");
    assert_non_null(o);
    json_t *list = json_object_get(o, "i");
    assert_true(json_is_real(json_array_get(list, 0)) &&
                json_real_value(json_array_get(list, 0)) == 1e30);
    assert_true(json_real_value(json_array_get(list, 1)) == -1e20);
    assert_true(json_is_integer(json_array_get(list, 2)));
    assert_string_equal(json_string_value(json_object_get(o, "s")), "\"99999999999999999999");
    int64_t i = 0;
    assert_false(tt_json_get_int(o, "", "d", 0, 9, &i, &error));
    json_decref(o);
}

static void getters(void **state)
{
    static const char *const choices[] = {"one", "two", NULL};
    json_t *o =
        parse("{\"b\":true,\"i\":7,\"d\":0.5,\"s\":\"two\",\"n\":null,\"z\":\"a\\u0000b\"}");
    assert_non_null(o);
    bool b = false;
    int64_t i = 0;
    double d = 0;
    const char *s = NULL;
    int c = -1;
    assert_true(tt_json_get_bool(o, "", "b", &b, &error) && b);
    assert_true(tt_json_get_int(o, "", "i", 7, 7, &i, &error) && i == 7);
    assert_true(tt_json_get_number(o, "", "i", 0, 10, &d, &error) && d == 7);
    assert_true(tt_json_get_number(o, "", "d", 0, 1, &d, &error) && d == 0.5);
    assert_true(tt_json_get_string(o, "", "s", &s, &error) && strcmp(s, "two") == 0);
    assert_true(tt_json_get_choice(o, "", "s", choices, &c, &error) && c == 1);
    i = 42; /* absent and null leave the value alone */
    assert_true(tt_json_get_int(o, "", "n", 0, 1, &i, &error) && i == 42);
    assert_true(tt_json_get_int(o, "", "absent", 0, 1, &i, &error) && i == 42);
    assert_false(tt_json_get_int(o, "q.", "i", 8, 9, &i, &error));
    assert_string_equal(error.param, "q.i");
    assert_string_equal(error.message, "q.i is 7; it must be from 8 to 9");
    assert_int_equal(i, 42);
    assert_false(tt_json_get_int(o, "", "d", 0, 9, &i, &error));
    assert_false(tt_json_get_int(o, "", "b", 0, 9, &i, &error));
    assert_false(tt_json_get_bool(o, "", "i", &b, &error));
    assert_false(tt_json_get_number(o, "", "s", 0, 1, &d, &error));
    assert_false(tt_json_get_number(o, "", "d", 0.6, 1, &d, &error));
    assert_false(tt_json_get_string(o, "", "z", &s, &error));
    assert_false(tt_json_get_choice(o, "", "z", choices, &c, &error));
    json_decref(o);
    o = parse("{\"s\":\"three\"}");
    assert_false(tt_json_get_choice(o, "", "s", choices, &c, &error));
    assert_non_null(strstr(error.message, "\"one\", \"two\""));
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bad_bodies),
                                       cmocka_unit_test(memory_is_bounded),
                                       cmocka_unit_test(text_alone_is_not_counted),
                                       cmocka_unit_test(huge_integers), cmocka_unit_test(getters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
