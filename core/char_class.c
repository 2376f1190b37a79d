/* char_class.c - see char_class.h. PCRE2 is asked once, at the start, about all code points in a
 * row: some milliseconds. PCRE2 (Unicode 14 in Debian 12) and the models' own libraries differ in
 * the age of their Unicode tables and in what \s means, so \s is spelt out and letters and numbers
 * that came after Unicode 14 are added by range. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/char_class.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "core/utf8.h"

/* White_Space, as Oniguruma and Python's regex have it; PCRE2's own \s also has U+180E. */
#define SPACE                                                                                      \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
/* Letters and numbers of Unicode 15 to 16. */
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

/* Runs of one kind; the group that matched says which. */
static const char pattern[] =
    "([" LETTER "]++)|([" NUMBER "]++)|([" SPACE "]++)|[^" LETTER NUMBER SPACE "]++";
static const uint8_t group_class[] = {TT_CHAR_OTHER, TT_CHAR_LETTER, TT_CHAR_NUMBER, TT_CHAR_SPACE};

/* Digits of Unicode 17, which only the digits that are split off one by one know yet. */
static const uint32_t digits17[][2] = {{0x11de0, 0x11de9}, {0x16ff4, 0x16ff6}};

/* Every code point but surrogates, in order; *ret_n bytes, malloc'ed. */
static char *all_of_them(size_t *ret_n)
{
    char *text = malloc((size_t)TT_CHAR_CLASSES * 4);
    size_t n = 0;
    for (uint32_t cp = 0; text != NULL && cp < TT_CHAR_CLASSES; cp++) {
        if (cp < 0xd800 || cp > 0xdfff) {
            n += (size_t)tt_utf8_put(cp, text + n);
        }
    }
    *ret_n = n;
    return text;
}

static uint32_t mark(uint8_t *of, uint32_t cp, const char *text, size_t n, uint8_t kind)
{
    for (size_t i = 0; i < n; i++) {
        if (((unsigned char)text[i] & 0xc0) != 0x80) {
            of[cp] = kind == TT_CHAR_NUMBER ? TT_CHAR_NUMBER | TT_CHAR_ALONE : kind;
            cp = cp == 0xd7ff ? 0xe000 : cp + 1;
        }
    }
    return cp;
}

static tt_code match_all(const pcre2_code *code, pcre2_match_data *match, const char *text,
                         size_t n, uint8_t *of, tt_err *reterr)
{
    uint32_t cp = 0;
    memset(of, TT_CHAR_OTHER, TT_CHAR_CLASSES);
    for (size_t at = 0; at < n;) {
        int rc = pcre2_match(code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, match, NULL);
        size_t end = rc > 0 ? pcre2_get_ovector_pointer(match)[1] : at;
        if (rc < 1 || rc > 4 || end <= at) {
            return tt_fail(reterr, rc == PCRE2_ERROR_NOMEMORY ? TT_E_NOMEM : TT_E_INTERNAL,
                           "PCRE2 gave up classing characters: error %d", rc);
        }
        cp = mark(of, cp, text + at, end - at, group_class[rc - 1]);
        at = end;
    }
    for (size_t i = 0; i < sizeof digits17 / sizeof *digits17; i++) {
        for (uint32_t c = digits17[i][0]; c <= digits17[i][1]; c++) {
            of[c] |= TT_CHAR_ALONE;
        }
    }
    return TT_OK;
}

tt_code tt_char_class_fill(uint8_t *of, tt_err *reterr)
{
    int error;
    size_t n;
    PCRE2_SIZE offset;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NO_START_OPTIMIZE, &error, &offset, NULL);
    if (code == NULL) {
        return tt_fail(reterr, error == PCRE2_ERROR_HEAP_FAILED ? TT_E_NOMEM : TT_E_INTERNAL,
                       "PCRE2 refuses the classes of characters: error %d at %zu", error, offset);
    }
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without it PCRE2 interprets */
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, NULL);
    char *text = all_of_them(&n);
    tt_code rc = match == NULL || text == NULL
                     ? tt_fail(reterr, TT_E_NOMEM, "no memory for the classes of characters")
                     : match_all(code, match, text, n, of, reterr);
    free(text);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
    return rc;
}
