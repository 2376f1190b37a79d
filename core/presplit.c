/* presplit.c - see presplit.h. The patterns are those in the tokenizer.json files of the models.
 * They are written so that a match never backtracks more than one step or once over a run of
 * spaces: linear time on any text. PCRE2 (Unicode 14 in Debian 12) and the models' own libraries
 * differ in the age of their Unicode tables and in what \s means, so \s is spelt out and letters
 * and numbers that came after Unicode 14 are added by range. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/presplit.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

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

/* name, cut into windows first (NULL = no), cut into words, ignore_merges, nfc */
static const struct family {
    const char *name, *windows, *words;
    bool ignore_merges, nfc;
} families[] = {
    {"gpt-2", NULL, pattern_gpt2, false, false},
    {"gpt2", NULL, pattern_gpt2, false, false},
    {"smollm", pattern_digits, pattern_gpt2, false, false},
    {"starcoder", pattern_digits, pattern_gpt2, false, false},
    {"llama-bpe", NULL, pattern_llama3, true, false},
    {"llama3", NULL, pattern_llama3, true, false},
    {"llama-v3", NULL, pattern_llama3, true, false},
    {"falcon3", NULL, pattern_llama3, true, false},
    {"smaug-bpe", NULL, pattern_llama3, false, false},
    {"qwen2", NULL, pattern_qwen2, false, true},
    {"deepseek-r1-qwen", NULL, pattern_qwen2, false, true},
};

struct tt_presplit {
    pcre2_code *windows, *words;
    bool ignore_merges, nfc;
};

static tt_code compile(const char *pattern, pcre2_code **ret_code, tt_err *reterr)
{
    int error;
    PCRE2_SIZE offset;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NO_START_OPTIMIZE, &error, &offset, NULL);
    if (code == NULL) {
        return tt_fail(reterr, error == PCRE2_ERROR_HEAP_FAILED ? TT_E_NOMEM : TT_E_INTERNAL,
                       "PCRE2 refuses a pre-split pattern: error %d at %zu", error, offset);
    }
    (void)pcre2_jit_compile(
        code, PCRE2_JIT_COMPLETE); /* where the machine has no JIT, PCRE2 interprets */
    *ret_code = code;
    return TT_OK;
}

tt_code tt_presplit_create(tt_str name, tt_presplit **ret_split, tt_err *reterr)
{
    const struct family *f = NULL;
    for (size_t i = 0; i < sizeof families / sizeof families[0] && f == NULL; i++) {
        if (strlen(families[i].name) == name.n && memcmp(families[i].name, name.p, name.n) == 0) {
            f = &families[i];
        }
    }
    if (f == NULL) {
        return name.n == 0 ? tt_fail(reterr, TT_E_UNSUPPORTED,
                                     "the vocabulary does not name its pre-split pattern")
                           : tt_fail(reterr, TT_E_UNSUPPORTED, "unknown pre-split pattern \"%.*s\"",
                                     name.n < 64 ? (int)name.n : 64, name.p);
    }
    tt_presplit *split = calloc(1, sizeof *split);
    if (split == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a pre-split pattern");
    }
    split->ignore_merges = f->ignore_merges;
    split->nfc = f->nfc;
    tt_code rc = compile(f->words, &split->words, reterr);
    if (rc == TT_OK && f->windows != NULL) {
        rc = compile(f->windows, &split->windows, reterr);
    }
    if (rc != TT_OK) {
        tt_presplit_destroy(&split);
        return rc;
    }
    *ret_split = split;
    return TT_OK;
}

void tt_presplit_destroy(tt_presplit **split)
{
    if (*split != NULL) {
        pcre2_code_free((*split)->windows);
        pcre2_code_free((*split)->words);
        free(*split);
        *split = NULL;
    }
}

bool tt_presplit_ignores_merges(const tt_presplit *split)
{
    return split->ignore_merges;
}

bool tt_presplit_wants_nfc(const tt_presplit *split)
{
    return split->nfc;
}

tt_code tt_presplit_begin(const tt_presplit *split, const char *text, size_t n,
                          tt_presplit_iter *it, tt_err *reterr)
{
    *it = (tt_presplit_iter){.split = split, .text = text, .n = n};
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    it->context = context;
    it->match = pcre2_match_data_create(1, NULL);
    if (it->match == NULL || context == NULL) {
        tt_presplit_end(it);
        return tt_fail(reterr, TT_E_NOMEM, "no memory to split text");
    }
    /* The interpreter's defaults would refuse a long run of one class; the patterns are linear, so
     * they may run. */
    pcre2_set_match_limit(context, UINT32_MAX);
    pcre2_set_depth_limit(context, UINT32_MAX);
    pcre2_set_heap_limit(context, UINT32_MAX);
    return TT_OK;
}

void tt_presplit_end(tt_presplit_iter *it)
{
    pcre2_match_data_free(it->match);
    pcre2_match_context_free(it->context);
    it->match = NULL;
    it->context = NULL;
}

/* End of the match of `code` at `pos` in text[0..n), which is never past n nor at pos. */
static tt_code match_end(tt_presplit_iter *it, const pcre2_code *code, size_t n, size_t *ret_end,
                         tt_err *reterr)
{
    int rc = pcre2_match(code, (PCRE2_SPTR)it->text, n, it->pos, PCRE2_NO_UTF_CHECK, it->match,
                         it->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        rc = pcre2_match(code, (PCRE2_SPTR)it->text, n, it->pos, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         it->match, it->context);
    }
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        return tt_fail(reterr, rc == PCRE2_ERROR_NOMEMORY ? TT_E_NOMEM : TT_E_INTERNAL,
                       "PCRE2 gave up splitting text: error %d", rc);
    }
    size_t end = rc < 0 ? it->pos : pcre2_get_ovector_pointer(it->match)[1];
    if (end ==
        it->pos) { /* no pattern leaves a character out; should one do, it is a word of its own */
        for (end++; end < n && ((unsigned char)it->text[end] & 0xc0) == 0x80;) {
            end++;
        }
    }
    *ret_end = end;
    return TT_OK;
}

tt_code tt_presplit_next(tt_presplit_iter *it, const char **ret_word, size_t *ret_n, tt_err *reterr)
{
    if (it->pos == it->n) {
        *ret_word = it->text + it->n;
        *ret_n = 0;
        return TT_OK;
    }
    if (it->pos == it->window_end) {
        it->window_end = it->n;
        if (it->split->windows != NULL) {
            tt_code rc = match_end(it, it->split->windows, it->n, &it->window_end, reterr);
            if (rc != TT_OK) {
                return rc;
            }
        }
    }
    size_t end = it->pos;
    tt_code rc = match_end(it, it->split->words, it->window_end, &end, reterr);
    if (rc == TT_OK) {
        *ret_word = it->text + it->pos;
        *ret_n = end - it->pos;
        it->pos = end;
    }
    return rc;
}
