/* test_presplit.c - the words of each family's pattern, written down by hand; random text of all
 * Unicode against the patterns themselves, run by PCRE2; and that text may be cut where
 * tt_presplit_may_cut() says so. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "core/nfc.h"
#include "core/presplit.h"
#include "core/rng.h"
#include "core/utf8.h"

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
    tt_presplit_begin(split, text, strlen(text), &it);
    const char *word;
    for (size_t n; (n = tt_presplit_next(&it, &word)) > 0; len += n) {
        if (len > 0) {
            got[len++] = '|';
        }
        memcpy(got + len, word, n);
    }
    got[len] = '\0';
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

/* White_Space, as Oniguruma and Python's regex have it; PCRE2's own \s also has U+180E. */
#define SPACE                                                                                      \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
/* Letters and numbers of Unicode 15 to 16, and of 17 for the digits that are split off one by one.
 */
#define LETTER                                                                                     \
    "\\p{L}\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"         \
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}"         \
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}"           \
    "\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}"          \
    "\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"                    \
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"                     \
    "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"          \
    "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define NUMBER                                                                                     \
    "\\p{N}\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"   \
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"         \
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"
#define NUMBER17 NUMBER "\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}"
#define SPACES_END "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]++"

static const char pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?[" LETTER "]++| ?[" NUMBER "]++"
                                   "| ?[^" SPACE LETTER NUMBER "]++|" SPACES_END;
/* One digit at a time, then the words between them. */
static const char pattern_digits[] = "[" NUMBER17 "]|[^" NUMBER17 "]++";

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD "|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]++"
#define REST "| ?[^" SPACE LETTER NUMBER "]++[\\r\\n]*+|[" SPACE "]*[\\r\\n]++|" SPACES_END
static const char pattern_llama3[] = CONTRACTION WORD "|[" NUMBER "]{1,3}+" REST;
static const char pattern_qwen2[] = CONTRACTION WORD "|[" NUMBER "]" REST;

static const struct {
    const char *name, *windows, *words;
} rows[] = {{"gpt-2", NULL, pattern_gpt2},
            {"smollm", pattern_digits, pattern_gpt2},
            {"llama-bpe", NULL, pattern_llama3},
            {"qwen2", NULL, pattern_qwen2}};
enum { N_ROWS = sizeof rows / sizeof *rows, TEXT = 600 };

static pcre2_code *compile(const char *pattern)
{
    int error;
    PCRE2_SIZE offset;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NO_START_OPTIMIZE, &error, &offset, NULL);
    assert_non_null(code);
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    return code;
}

static size_t match_end(const pcre2_code *code, const char *text, size_t at, size_t n)
{
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    assert_non_null(match);
    assert_true(pcre2_match(code, (PCRE2_SPTR)text, n, at, 0, match, NULL) >= 0);
    size_t end = pcre2_get_ovector_pointer(match)[1];
    pcre2_match_data_free(match);
    assert_true(end > at && end <= n);
    return end;
}

/* Ends of all words, by the patterns. */
static size_t pattern_ends(const pcre2_code *windows, const pcre2_code *words, const char *text,
                           size_t n, size_t *ends)
{
    size_t count = 0, window = 0;
    for (size_t at = 0; at < n; at = ends[count++]) {
        if (at == window) {
            window = windows != NULL ? match_end(windows, text, at, n) : n;
        }
        ends[count] = match_end(words, text, at, window);
    }
    return count;
}

static size_t split_ends(const tt_presplit *split, const char *text, size_t n, size_t *ends)
{
    tt_presplit_iter it;
    const char *word;
    size_t count = 0, at = 0;
    tt_presplit_begin(split, text, n, &it);
    for (size_t len; (len = tt_presplit_next(&it, &word)) > 0; ends[count++] = at) {
        assert_ptr_equal(word, text + at);
        at += len;
    }
    assert_int_equal(at, n);
    return count;
}

/* Mostly what the patterns speak of, in short runs; now and then any code point at all. */
static size_t random_text(tt_rng *rng, char *out)
{
    static const char *const bits[] = {" ",
                                       "  ",
                                       "\n",
                                       "\r\n",
                                       "\t",
                                       "a",
                                       "Bc",
                                       "1",
                                       "22",
                                       ".",
                                       "'",
                                       "'s",
                                       "'LL",
                                       "'\xc5\xbf",
                                       "\xc3\xa9",
                                       "\xd9\xa3",
                                       "\xe3\x80\x80",
                                       "\xc2\xa0",
                                       "\xe2\x80\x99",
                                       "\xe4\xb8\xad",
                                       "-",
                                       "\xcc\x81",
                                       "\xe2\x84\xaa",
                                       "'ve",
                                       "'D",
                                       "\xe1\x84\x80",
                                       "\xe1\x85\xa1",
                                       "\x01",
                                       "\x7f",
                                       "\xc2\x85"};
    size_t n = 0, want = 1 + tt_rng_below(rng, TEXT - 64);
    while (n < want) {
        uint32_t cp = 0;
        if (tt_rng_below(rng, 8) > 0) {
            const char *bit = bits[tt_rng_below(rng, sizeof bits / sizeof *bits)];
            memcpy(out + n, bit, strlen(bit));
            n += strlen(bit);
            continue;
        }
        do {
            cp = (uint32_t)tt_rng_below(rng, tt_rng_below(rng, 2) > 0 ? 0x110000 : 0x3000);
        } while (cp >= 0xd800 && cp <= 0xdfff);
        n += (size_t)tt_utf8_put(cp, out + n);
    }
    return n;
}

static void patterns(void **state)
{
    (void)state;
    static char text[TEXT];
    static size_t want[TEXT], got[TEXT];
    tt_rng rng = tt_rng_make(8, 1);
    for (size_t i = 0; i < N_ROWS; i++) {
        tt_presplit *split = make(rows[i].name);
        pcre2_code *windows = rows[i].windows != NULL ? compile(rows[i].windows) : NULL;
        pcre2_code *words = compile(rows[i].words);
        for (int round = 0; round < 4000; round++) {
            size_t n = random_text(&rng, text);
            size_t k = pattern_ends(windows, words, text, n, want);
            assert_int_equal(split_ends(split, text, n, got), k);
            assert_memory_equal(got, want, k * sizeof *want);
        }
        pcre2_code_free(windows);
        pcre2_code_free(words);
        tt_presplit_destroy(&split);
    }
}

/* Every code point between letters, digits and spaces. */
static void every_code_point(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ROWS; i++) {
        tt_presplit *split = make(rows[i].name);
        pcre2_code *windows = rows[i].windows != NULL ? compile(rows[i].windows) : NULL;
        pcre2_code *words = compile(rows[i].words);
        for (uint32_t cp = 0; cp<0x110000; cp += cp> 0x40000 ? 101
                              : i == 0 || cp < 0x3000        ? 1
                                                             : 7) {
            char text[32] = "a";
            size_t n = 1, want[32], got[32];
            if (cp >= 0xd800 && cp <= 0xdfff) {
                continue;
            }
            n += (size_t)tt_utf8_put(cp, text + n);
            text[n++] = '1';
            n += (size_t)tt_utf8_put(cp, text + n);
            memcpy(text + n, "b- ", 3);
            n += 3;
            n += (size_t)tt_utf8_put(cp, text + n);
            size_t k = pattern_ends(windows, words, text, n, want);
            assert_int_equal(split_ends(split, text, n, got), k);
            assert_memory_equal(got, want, k * sizeof *want);
        }
        pcre2_code_free(windows);
        pcre2_code_free(words);
        tt_presplit_destroy(&split);
    }
}

/* Composes text[0, n) where the family does; *ret is text or malloc'ed. */
static size_t compose(const tt_presplit *split, char *text, size_t n, char **ret)
{
    size_t len = 0;
    *ret = NULL;
    if (tt_presplit_wants_nfc(split)) {
        assert_int_equal(tt_nfc(text, n, ret, &len, NULL), TT_OK);
    }
    if (*ret == NULL) {
        *ret = malloc(n);
        assert_non_null(*ret);
        memcpy(*ret, text, n);
        len = n;
    }
    return len;
}

static void cuts(void **state)
{
    (void)state;
    static char text[TEXT];
    static size_t whole[4 * TEXT], part[4 * TEXT];
    tt_rng rng = tt_rng_make(8, 2);
    size_t n_cuts = 0;
    for (int round = 0; round < 3000; round++) {
        tt_presplit *split = NULL;
        static tt_presplit *all[N_ROWS];
        for (size_t i = 0; i < N_ROWS; i++) {
            all[i] = all[i] != NULL ? all[i] : make(rows[i].name);
        }
        split = all[round % N_ROWS];
        size_t n = random_text(&rng, text), at = 1 + tt_rng_below(&rng, n);
        while (at < n && !tt_presplit_may_cut(split, text, n, at)) {
            at++;
        }
        if (at < n) {
            char *w, *l, *r;
            size_t nw = compose(split, text, n, &w), nl = compose(split, text, at, &l);
            size_t nr = compose(split, text + at, n - at, &r);
            assert_int_equal(nl + nr, nw);
            assert_memory_equal(w, l, nl);
            assert_memory_equal(w + nl, r, nr);
            size_t k = split_ends(split, w, nw, whole), a = split_ends(split, l, nl, part);
            size_t b = split_ends(split, r, nr, part + a);
            assert_int_equal(a + b, k);
            for (size_t i = 0; i < k; i++) {
                assert_int_equal(whole[i], part[i] + (i < a ? 0 : nl));
            }
            free(w);
            free(l);
            free(r);
            n_cuts++;
        }
        if (round == 2999) {
            for (size_t i = 0; i < N_ROWS; i++) {
                tt_presplit_destroy(&all[i]);
            }
        }
    }
    assert_true(n_cuts > 1000);
}

/* Where a cut would change words: spaces in a row, an end that the pattern looks past. */
static void no_cuts(void **state)
{
    (void)state;
    tt_presplit *split = make("gpt-2");
    assert_true(tt_presplit_may_cut(split, "a b", 3, 1));
    assert_false(tt_presplit_may_cut(split, "a b", 3, 2));
    assert_false(tt_presplit_may_cut(split, "a  b", 4, 2));
    assert_false(tt_presplit_may_cut(split, "a\n b", 4, 2));
    assert_true(tt_presplit_may_cut(split, "a\nb", 3, 2));
    assert_false(tt_presplit_may_cut(split, "a\n\nb", 4, 3));
    assert_false(tt_presplit_may_cut(split, "\nb", 2, 1));
    assert_false(tt_presplit_may_cut(split, "\xff b", 3, 1));
    assert_false(tt_presplit_may_cut(split, "a\n\xcc", 3, 2));
    tt_presplit_destroy(&split);
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
        cmocka_unit_test(words), cmocka_unit_test(patterns), cmocka_unit_test(every_code_point),
        cmocka_unit_test(cuts),  cmocka_unit_test(no_cuts),  cmocka_unit_test(unknown_names),
        cmocka_unit_test(flags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
