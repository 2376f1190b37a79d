/* test_nfc.c - composed form: examples out of Unicode Standard Annex 15, and long runs of marks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/nfc.h"

static void check(const char *text, const char *expected)
{
    char *out = NULL;
    size_t n = 0;
    assert_int_equal(tt_nfc(text, strlen(text), &out, &n, NULL), TT_OK);
    if (out == NULL) {
        assert_string_equal(text, expected);
        return;
    }
    assert_int_equal(n, strlen(expected));
    assert_memory_equal(out, expected, n);
    free(out);
}

static void examples(void **state)
{
    (void)state;
    check("", "");
    check("plain \xc3\xa9", "plain \xc3\xa9");
    check("e\xcc\x81", "\xc3\xa9");
    check("\xe2\x84\xab", "\xc3\x85");                             /* Angstrom sign */
    check("s\xcc\x87\xcc\xa3", "\xe1\xb9\xa9");                    /* marks in the other order */
    check("\xe1\xb8\x8b\xcc\xa3", "\xe1\xb8\x8d\xcc\x87");         /* d with dot above, dot below */
    check("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"); /* Hangul */
    check("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc");             /* excluded from composition */
    check("\xef\xac\x81", "\xef\xac\x81"); /* a ligature is compatibility, not composition */
    check("\xf0\x9f\x98\x80 \xcc\x81", "\xf0\x9f\x98\x80 \xcc\x81");
}

/* 512 Ki marks in falling order of their class. */
static void long_run(void **state)
{
    (void)state;
    enum { PAIRS = 1 << 18 };
    char *text = malloc(4 * PAIRS + 1), *out = NULL;
    size_t n;
    assert_non_null(text);
    text[0] = 'x';
    for (int i = 0; i < PAIRS; i++) {
        memcpy(text + 1 + 4 * i, "\xcc\x81\xcc\xa3", 4); /* above (230), below (220) */
    }
    clock_t start = clock();
    assert_int_equal(tt_nfc(text, 4 * PAIRS + 1, &out, &n, NULL), TT_OK);
    const char *factor = getenv("QTTT_TIME_FACTOR");
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC <
                10 * (factor != NULL ? atof(factor) : 1));
    assert_int_equal(n, 4 * PAIRS + 1);
    assert_memory_equal(out + n - 2, "\xcc\x81", 2);
    assert_memory_equal(out + 1, "\xcc\xa3\xcc\xa3", 4);
    free(out);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(examples), cmocka_unit_test(long_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
