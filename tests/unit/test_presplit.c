/* test_presplit.c - the words of each family's pattern, written down by hand from the patterns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/presplit.h"

static tt_presplit *make(const char *name)
{
    tt_presplit *split = NULL;
    tt_str s = {name, (uint32_t)strlen(name)};
    assert_int_equal(tt_presplit_create(s, &split, NULL), TT_OK);
    return split;
}

/* expected: the words, joined by '|'. */
static void check(const char *name, const char *text, const char *expected)
{
    tt_presplit *split = make(name);
    tt_presplit_iter it;
    char got[1024] = "";
    size_t len = 0;
    assert_int_equal(tt_presplit_begin(split, text, strlen(text), &it, NULL), TT_OK);
    for (;;) {
        const char *word;
        size_t n;
        assert_int_equal(tt_presplit_next(&it, &word, &n, NULL), TT_OK);
        if (n == 0) {
            break;
        }
        if (len > 0) {
            got[len++] = '|';
        }
        memcpy(got + len, word, n);
        len += n;
    }
    got[len] = '\0';
    tt_presplit_end(&it);
    tt_presplit_end(&it);
    tt_presplit_destroy(&split);
    assert_string_equal(got, expected);
}

static void words(void **state)
{
    (void)state;
    check("gpt-2", "", "");
    check("gpt-2", "Hello world  12 it's!", "Hello| world| | 12| it|'s|!");
    check("gpt-2", "a   b\n\n c", "a|  | b|\n\n| c");
    check("gpt-2", "I'LL \xc3\xa9t\xc3\xa9 \xd9\xa3", "I|'|LL| \xc3\xa9t\xc3\xa9| \xd9\xa3");
    check("gpt-2",
          "a\xc2\xa0\xe3\x80\x80"
          "b",
          "a|\xc2\xa0|\xe3\x80\x80|b"); /* U+00A0 and U+3000 are spaces */
    check("gpt-2",
          "a\xe1\xa0\x8e"
          "b",
          "a|\xe1\xa0\x8e|b"); /* U+180E is none */
    check("smollm", "a 1234", "a| |1|2|3|4");
    check("smollm", "a  1b  c", "a|  |1|b| | c"); /* spaces before a digit end a window */
    check("smollm", "\xc2\xbd\xe2\x85\xa7", "\xc2\xbd|\xe2\x85\xa7");
    check("llama-bpe", "I'LL it's 12345", "I|'LL| it|'s| |123|45");
    check("llama-bpe", "(hello) x\r\n\r\n  y", "(hello|)| x|\r\n\r\n| | y");
    check("llama-bpe", "end.\n\n  \n z", "end|.\n\n|  \n| z");
    check("llama-bpe", "\tx\ty", "\tx|\ty");
    check("qwen2", "I'M 12", "I|'M| |1|2");
    check("qwen2", "a'\xc5\xbf", "a|'\xc5\xbf"); /* the long s is a small s, whatever the case */
    /* CJK extension H and I, letters since Unicode 15, and a digit since 15 */
    check("gpt-2", "\xf0\xb1\x8d\x90\xf0\xae\xaf\xb0 x", "\xf0\xb1\x8d\x90\xf0\xae\xaf\xb0| x");
    check("smollm", "\xf0\x91\xbd\x90\xf0\x91\xbd\x91", "\xf0\x91\xbd\x90|\xf0\x91\xbd\x91");
}

static void unknown_names(void **state)
{
    (void)state;
    static const char *const names[] = {"", "gpt-3", "qwen", "smollm2", "LLAMA-BPE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        tt_presplit *split = NULL;
        tt_err err;
        tt_str s = {names[i], (uint32_t)strlen(names[i])};
        assert_int_equal(tt_presplit_create(s, &split, &err), TT_E_UNSUPPORTED);
        assert_null(split);
        assert_non_null(strstr(err.msg, names[i]));
        tt_presplit_destroy(&split);
    }
}

static void flags(void **state)
{
    (void)state;
    tt_presplit *llama = make("llama-bpe"), *qwen = make("qwen2"), *smollm = make("smollm");
    assert_true(tt_presplit_ignores_merges(llama) && !tt_presplit_wants_nfc(llama));
    assert_true(!tt_presplit_ignores_merges(qwen) && tt_presplit_wants_nfc(qwen));
    assert_true(!tt_presplit_ignores_merges(smollm) && !tt_presplit_wants_nfc(smollm));
    tt_presplit_destroy(&llama);
    tt_presplit_destroy(&qwen);
    tt_presplit_destroy(&smollm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words),
        cmocka_unit_test(unknown_names),
        cmocka_unit_test(flags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
