/* small_vocab.c - see small_vocab.h. */
#include "small_vocab.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static tt_str copy(small_vocab *s, const char *p, size_t n)
{
    assert(s->n_text + n <= sizeof s->text);
    memcpy(s->text + s->n_text, p, n);
    tt_str r = {s->text + s->n_text, (uint32_t)n};
    s->n_text += (unsigned)n;
    return r;
}

int32_t small_vocab_add(small_vocab *s, const char *p, unsigned n, uint8_t type, float score)
{
    int32_t id = s->v.n_tokens++;
    assert(id < SMALL_MAX_TOKENS);
    s->tokens[id] = copy(s, p, n);
    s->types[id] = type;
    s->scores[id] = score;
    return id;
}

static int32_t add(small_vocab *s, const char *text, uint8_t type, float score)
{
    return small_vocab_add(s, text, (unsigned)strlen(text), type, score);
}

static bool known(const small_vocab *s, const char *text)
{
    for (int32_t i = 0; i < s->v.n_tokens; i++) {
        if (s->tokens[i].n == strlen(text) && memcmp(s->tokens[i].p, text, strlen(text)) == 0) {
            return true;
        }
    }
    return false;
}

void small_vocab_merge(small_vocab *s, const char *left, const char *right)
{
    char both[512];
    assert(s->v.n_merges < SMALL_MAX_MERGES && known(s, left) && known(s, right));
    snprintf(both, sizeof both, "%s %s", left, right);
    s->merges[s->v.n_merges++] = copy(s, both, strlen(both));
    snprintf(both, sizeof both, "%s%s", left, right);
    if (!known(s, both)) {
        add(s, both, TT_TOKEN_NORMAL, 0);
    }
}

static void begin(small_vocab *s, tt_vocab_kind kind)
{
    memset(s, 0, sizeof *s);
    s->v.kind = kind;
    s->v.tokens = s->tokens;
    s->v.scores = s->scores;
    s->v.types = s->types;
    s->v.bos = s->v.eos = s->v.eot = s->v.unk = s->v.pad = -1;
}

/* The alphabet as GPT-2's encoder builds it: printing bytes stand for themselves, the others follow
 * from U+0100 on. */
static void add_letters(small_vocab *s)
{
    unsigned next = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        bool prints = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        unsigned c = prints ? b : next++;
        char text[2] = {(char)(c < 0x80 ? c : 0xc0 | c >> 6), (char)(0x80 | (c & 0x3f))};
        small_vocab_add(s, text, c < 0x80 ? 1 : 2, TT_TOKEN_NORMAL, 0);
    }
}

#define SP "\xc4\xa0" /* U+0120, the letter of the space */
#define NL "\xc4\x8a" /* U+010A, of the line feed */

void small_vocab_bpe(small_vocab *s, const char *pre)
{
    static const char *const merges[][2] = {
        {"h", "e"},
        {"l", "l"},
        {"he", "ll"},
        {"hell", "o"},
        {SP, "w"},
        {"o", "r"},
        {SP "w", "or"},
        {"l", "d"},
        {SP "wor", "ld"},
        {"t", "h"},
        {"i", "n"},
        {SP, "th"},
        {"a", "a"},
        {"aa", "aa"},
        {"aaaa", "aaaa"},
        {"a", "b"},
        {"b", "a"},
        {"ab", "ab"},
        {SP, SP},
        {SP SP, SP SP},
        {NL, NL},
        {"1", "2"},
        {"12", "3"},
        {"'", "s"},
        {"\xc3\x83", "\xc2\xa9"},
        {"b", "aa"},
        {"aaaaaaaa", "aaaaaaaa"},
        {"=", "="},
        {"==", "=="},
    };
    begin(s, TT_VOCAB_BPE);
    s->v.pre = (tt_str){pre, (uint32_t)strlen(pre)};
    s->v.merges = s->merges;
    add_letters(s);
    for (size_t i = 0; i < sizeof merges / sizeof merges[0]; i++) {
        small_vocab_merge(s, merges[i][0], merges[i][1]);
    }
    s->v.bos = add(s, "<|im_start|>", TT_TOKEN_CONTROL, 0);
    s->v.eos = add(s, "<|im_end|>", TT_TOKEN_CONTROL, 0);
    add(s, "<|end|>", TT_TOKEN_CONTROL, 0);
    add(s, "[[", TT_TOKEN_USER_DEFINED, 0);
}

#define MARK "\xe2\x96\x81" /* U+2581 */

void small_vocab_spm(small_vocab *s, tt_vocab_kind kind)
{
    static const char *const pieces[] = {
        MARK,
        "e",
        "t",
        "a",
        "o",
        "h",
        "l",
        "b",
        "w",
        "r",
        "d",
        MARK "t",
        "he",
        "aa",
        "ab",
        "ba",
        "aaaa",
        "ll",
        "or",
        MARK "w",
        MARK "the",
        "hell",
        "hello",
        "wor",
        "ld",
        "world",
        "aab",
        "\xc3\xa9",
        "\xe4\xb8\xad",
        "a" MARK,
        "aaaaaaaa",
        "abab",
        MARK MARK,
        "o" MARK "w",
        "[",
        "<",
        ">",
        "s",
        "aaa",
    };
    begin(s, kind);
    s->v.pre = (tt_str){"", 0};
    s->v.unk = add(s, "<unk>", TT_TOKEN_UNKNOWN, 0);
    s->v.bos = add(s, "<s>", TT_TOKEN_CONTROL, 0);
    s->v.eos = add(s, "</s>", TT_TOKEN_CONTROL, 0);
    for (unsigned b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", b);
        add(s, text, TT_TOKEN_BYTE, 0);
    }
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        add(s, pieces[i], TT_TOKEN_NORMAL, -1.0f - 0.5f * (float)i);
    }
    add(s, "\n\n", TT_TOKEN_USER_DEFINED, -1000);
    add(s, "[[", TT_TOKEN_USER_DEFINED, -1000);
    s->v.add_bos = true;
    s->v.add_space_prefix = true;
}
