/* test_json_read.c - what is read is what jansson reads: whole documents, and millions of bytes of
 * damaged ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "server/json_read.h"

enum { FLAGS = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL };

static const char *const whole[] = {
    "{}",
    " [ ] ",
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\\n\\t\\\"you\\\" "
    "\\u00e9\"}],"
    "\"max_tokens\":16,\"temperature\":0.7,\"stream\":true,\"stop\":null,\"n\":-3}\n",
    "{\"a\":\"\\u0000\\ud83d\\ude00\\/\\b\\f\\r\\\\\",\"b\":[1,22,333,-4444,0,-0,1e5,1.5E-3,"
    "999999999999999999,-999999999999999999,9223372036854775807]}",
    "[true,false,null,[[[]]],{\"\":{\"x\":{}}},\"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\"]",
    "{\"long\":\"0123456789abcdefghijklmnopqrstuvwxyz 0123456789\\n0123456789 "
    "abcdefgh\xe2\x80\x99s "
    "it\",\"other\":\"0123456\",\"third\":\"01234567\",\"fourth\":\"012345678\"}",
};
enum { N_WHOLE = sizeof whole / sizeof *whole };

/* Left to jansson, all of them: it takes the first three. */
static const char *const rare[] = {"{\"a\\n\":1}",
                                   "{\"\\u0041\":1}",
                                   "{\"a\":1,\"b\\u0020\":[]}",
                                   "{\"a\":1,\"a\":2}",
                                   "\"text\"",
                                   "12",
                                   "{\"a\":\"\\ud83d\"}",
                                   "[01]",
                                   "[1,]",
                                   "[1e999]",
                                   "{\"a\":1}}",
                                   "[\"\\x\"]",
                                   "[\"a\nb\"]",
                                   "[\"\xed\xa0\x80\"]",
                                   "[\"\xc0\x80\"]",
                                   "[-]",
                                   "[\"",
                                   "",
                                   " "};

static void same(const json_t *a, const json_t *b)
{
    char *x = json_dumps(a, JSON_COMPACT), *y = json_dumps(b, JSON_COMPACT);
    assert_non_null(x);
    assert_string_equal(x, y);
    free(x);
    free(y);
}

static void documents(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_WHOLE; i++) {
        json_t *ours = tt_json_read(whole[i], strlen(whole[i]));
        json_t *theirs = json_loadb(whole[i], strlen(whole[i]), FLAGS, NULL);
        assert_non_null(ours);
        same(ours, theirs);
        json_decref(ours);
        json_decref(theirs);
    }
    for (size_t i = 0; i < sizeof rare / sizeof *rare; i++) {
        assert_null(tt_json_read(rare[i], strlen(rare[i])));
    }
}

static void depth(void **state)
{
    (void)state;
    char text[2 * 70];
    memset(text, '[', 70);
    memset(text + 70, ']', 70);
    assert_null(tt_json_read(text, sizeof text));
    json_t *v = tt_json_read(text + 6, sizeof text - 12);
    assert_non_null(v);
    json_decref(v);
}

/* One to three bytes changed, dropped or doubled. */
static size_t damage(tt_rng *rng, char *text, size_t n)
{
    static const char bytes[] = "\"\\{}[]:,0159-+.eEu /\n\x01\x7f\x80\xc3\xed\xf4\xff"
                                "dD8c";
    for (uint64_t k = 1 + tt_rng_below(rng, 3); k > 0 && n > 1; k--) {
        size_t at = tt_rng_below(rng, n);
        switch (tt_rng_below(rng, 3)) {
        case 0:
            text[at] = bytes[tt_rng_below(rng, sizeof bytes - 1)];
            break;
        case 1:
            memmove(text + at, text + at + 1, --n - at);
            break;
        default:
            memmove(text + at + 1, text + at, n++ - at);
        }
    }
    return n;
}

static void damaged(void **state)
{
    (void)state;
    tt_rng rng = tt_rng_make(11, 0);
    size_t read = 0, left = 0;
    for (int round = 0; round < 60000; round++) {
        const char *doc = whole[round % N_WHOLE];
        char *text = malloc(strlen(doc) + 4);
        assert_non_null(text);
        memcpy(text, doc, strlen(doc));
        size_t n = damage(&rng, text, strlen(doc));
        char *exact = malloc(n); /* so that a sanitizer sees every byte too many */
        assert_non_null(exact);
        memcpy(exact, text, n);
        json_t *ours = tt_json_read(exact, n), *theirs = json_loadb(exact, n, FLAGS, NULL);
        if (ours != NULL) {
            assert_non_null(theirs);
            same(ours, theirs);
            read++;
        } else {
            left += theirs != NULL;
        }
        json_decref(ours);
        json_decref(theirs);
        free(exact);
        free(text);
    }
    assert_true(read > 10000 && left < read / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),
        cmocka_unit_test(depth),
        cmocka_unit_test(damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
