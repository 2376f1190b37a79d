/* presplit.c - see presplit.h. The patterns are those in the tokenizer.json files of the models,
 * written out by hand as scans over the classes of characters (char_class.h); tests/unit compares
 * them with the patterns themselves, run by PCRE2. L, N and S are letters, numbers and spaces:
 *
 *   gpt-2    's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?[^SLN]+|S+(?!\S)|S+
 *   llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nLN]?L+|N{1,3}|
 * ?[^SLN]+[\r\n]*|S*[\r\n]+|S+(?!\S)|S+ qwen2    as llama 3, but one number at a time smollm
 * windows of one digit or of no digits, and gpt-2 within each */
#include "core/presplit.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/char_class.h"
#include "core/utf8.h"

/* numbers: most of them in one word, 0 = the words are GPT-2's */
static const struct family {
    const char *name;
    unsigned numbers;
    bool windows, ignore_merges, nfc;
} families[] = {
    {"gpt-2", 0, false, false, false},           {"gpt2", 0, false, false, false},
    {"smollm", 0, true, false, false},           {"starcoder", 0, true, false, false},
    {"llama-bpe", 3, false, true, false},        {"llama3", 3, false, true, false},
    {"llama-v3", 3, false, true, false},         {"falcon3", 3, false, true, false},
    {"smaug-bpe", 3, false, false, false},       {"qwen2", 1, false, false, true},
    {"deepseek-r1-qwen", 1, false, false, true},
};

struct tt_presplit {
    unsigned numbers;
    bool windows, ignore_merges, nfc;
    uint8_t class_of[TT_CHAR_CLASSES];
};

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
    split->numbers = f->numbers;
    split->windows = f->windows;
    split->ignore_merges = f->ignore_merges;
    split->nfc = f->nfc;
    tt_code rc = tt_char_class_fill(split->class_of, reterr);
    if (rc != TT_OK) {
        tt_presplit_destroy(&split);
        return rc;
    }
    *ret_split = split;
    return TT_OK;
}

void tt_presplit_destroy(tt_presplit **split)
{
    free(*split);
    *split = NULL;
}

bool tt_presplit_ignores_merges(const tt_presplit *split)
{
    return split->ignore_merges;
}

bool tt_presplit_wants_nfc(const tt_presplit *split)
{
    return split->nfc;
}

void tt_presplit_begin(const tt_presplit *split, const char *text, size_t n, tt_presplit_iter *it)
{
    *it = (tt_presplit_iter){.split = split, .text = text, .n = n};
}

/* Class of the character at p, and its bytes. p: valid UTF-8. */
static unsigned class_at(const tt_presplit *split, const char *p, size_t *ret_bytes)
{
    const unsigned char *s = (const unsigned char *)p;
    if (s[0] < 0x80) {
        *ret_bytes = 1;
        return split->class_of[s[0]];
    }
    uint32_t cp;
    if (s[0] < 0xe0) {
        *ret_bytes = 2;
        cp = (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
    } else if (s[0] < 0xf0) {
        *ret_bytes = 3;
        cp = (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    } else {
        *ret_bytes = 4;
        cp = (s[0] & 0x07u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
    }
    return cp < TT_CHAR_CLASSES ? split->class_of[cp] : TT_CHAR_OTHER;
}

static unsigned kind_at(const tt_presplit *split, const char *p, size_t *ret_bytes)
{
    return class_at(split, p, ret_bytes) & TT_CHAR_KIND;
}

/* End of the run from `at` on of characters whose class has, under the mask, this value. */
static size_t run_end(const tt_presplit *split, const char *t, size_t at, size_t n, unsigned mask,
                      unsigned value)
{
    size_t bytes;
    while (at < n && (class_at(split, t + at, &bytes) & mask) == value) {
        at += bytes;
    }
    return at;
}

static size_t kind_end(const tt_presplit *split, const char *t, size_t at, size_t n, unsigned kind)
{
    return run_end(split, t, at, n, TT_CHAR_KIND, kind);
}

/* Bytes of 's, 't, 're, 've, 'm, 'll or 'd at p[0, n), or 0. Without regard to case the long s,
 * U+017F, is an s too. */
static size_t contraction(const char *p, size_t n, bool any_case)
{
    if (n < 2 || p[0] != '\'') {
        return 0;
    }
    char fold = any_case ? 0x20 : 0, a = p[1], b = n > 2 ? p[2] : '\0';
    if (any_case && a == '\xc5' && b == '\xbf') {
        return 3;
    }
    a = (char)(a | (a >= 'A' && a <= 'Z' ? fold : 0));
    b = (char)(b | (b >= 'A' && b <= 'Z' ? fold : 0));
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
        return 2;
    }
    return (b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l') ? 3 : 0;
}

/* End of a run of spaces that is nobody's prefix: all of it at the end of the text, else all but
 * the last, which the next word may want. */
static size_t spaces_end(const tt_presplit *split, const char *t, size_t at, size_t n)
{
    size_t last = at, end = at, bytes;
    while (end < n && kind_at(split, t + end, &bytes) == TT_CHAR_SPACE) {
        last = end;
        end += bytes;
    }
    return end == n || last == at ? end : last;
}

static size_t end_gpt2(const tt_presplit *split, const char *t, size_t at, size_t n)
{
    size_t bytes, len = contraction(t + at, n - at, false);
    if (len > 0) {
        return at + len;
    }
    size_t start = t[at] == ' ' && at + 1 < n ? at + 1 : at;
    unsigned kind = kind_at(split, t + start, &bytes);
    return kind == TT_CHAR_SPACE ? spaces_end(split, t, at, n)
                                 : kind_end(split, t, start + bytes, n, kind);
}

/* At a space that no word takes: up to the last line feed or carriage return of the run, else as
 * GPT-2 does. */
static size_t blanks_end(const tt_presplit *split, const char *t, size_t at, size_t n)
{
    size_t line = at, bytes;
    for (size_t i = at; i < n && kind_at(split, t + i, &bytes) == TT_CHAR_SPACE; i += bytes) {
        line = t[i] == '\r' || t[i] == '\n' ? i + 1 : line;
    }
    return line > at ? line : spaces_end(split, t, at, n);
}

static size_t end_llama3(const tt_presplit *split, const char *t, size_t at, size_t n)
{
    size_t bytes, next, len = contraction(t + at, n - at, true);
    if (len > 0) {
        return at + len;
    }
    unsigned kind = kind_at(split, t + at, &bytes);
    if (kind == TT_CHAR_LETTER) {
        return kind_end(split, t, at + bytes, n, TT_CHAR_LETTER);
    }
    if (kind == TT_CHAR_NUMBER) {
        size_t end = at + bytes;
        for (unsigned i = 1;
             i < split->numbers && end < n && kind_at(split, t + end, &bytes) == TT_CHAR_NUMBER;
             i++) {
            end += bytes;
        }
        return end;
    }
    unsigned then = at + bytes < n ? kind_at(split, t + at + bytes, &next) : TT_CHAR_SPACE;
    if (then == TT_CHAR_LETTER && t[at] != '\r' && t[at] != '\n') {
        return kind_end(split, t, at + bytes + next, n, TT_CHAR_LETTER);
    }
    if (kind == TT_CHAR_OTHER || (t[at] == ' ' && then == TT_CHAR_OTHER)) {
        size_t end = kind_end(split, t, at + bytes, n, TT_CHAR_OTHER);
        while (end < n && (t[end] == '\r' || t[end] == '\n')) {
            end++;
        }
        return end;
    }
    return blanks_end(split, t, at, n);
}

size_t tt_presplit_next(tt_presplit_iter *it, const char **ret_word)
{
    const tt_presplit *split = it->split;
    size_t at = it->pos, bytes;
    *ret_word = it->text + at;
    if (at == it->n) {
        return 0;
    }
    if (at == it->window_end) {
        it->window_end = it->n;
        if (split->windows) {
            bool digit = (class_at(split, it->text + at, &bytes) & TT_CHAR_ALONE) != 0;
            it->window_end =
                digit ? at + bytes : run_end(split, it->text, at, it->n, TT_CHAR_ALONE, 0);
        }
    }
    it->pos = split->numbers > 0 ? end_llama3(split, it->text, at, it->window_end)
                                 : end_gpt2(split, it->text, at, it->window_end);
    return it->pos - at;
}

/* Kind of the character that ends at `end`; TT_CHAR_SPACE also where that is not UTF-8. */
static unsigned kind_before(const tt_presplit *split, const char *text, size_t end)
{
    size_t at = end - 1, bytes;
    while (at > 0 && end - at < 4 && ((unsigned char)text[at] & 0xc0) == 0x80) {
        at--;
    }
    int len = tt_utf8_next(text + at, end - at, NULL);
    return len > 0 && at + (size_t)len == end ? kind_at(split, text + at, &bytes) : TT_CHAR_SPACE;
}

/* No word holds a space behind anything but spaces, and only a run of spaces looks at what comes
 * after it: so before a space that follows no space. No word goes on with a letter after a line
 * feed, and a line feed that stands alone is a word's end whatever follows. Neither place composes:
 * spaces, line feeds and letters at the beginning of a line change nothing before them. */
bool tt_presplit_may_cut(const tt_presplit *split, const char *text, size_t n, size_t at)
{
    size_t bytes;
    assert(at > 0 && at < n);
    if (text[at] == ' ') {
        return kind_before(split, text, at) != TT_CHAR_SPACE;
    }
    return text[at - 1] == '\n' && at > 1 && tt_utf8_next(text + at, n - at, NULL) > 0 &&
           kind_at(split, text + at, &bytes) == TT_CHAR_LETTER &&
           kind_before(split, text, at - 1) != TT_CHAR_SPACE;
}
