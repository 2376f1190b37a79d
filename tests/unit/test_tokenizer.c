/* test_tokenizer.c - encoding over small vocabularies: what Hugging Face's library cannot be asked
 * (trust, bytes that are not UTF-8, hostile vocabularies, time). The comparison with that library
 * is tests/tools/compare_tokenizer.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/tokenizer.h"
#include "small_vocab.h"

static small_vocab vocab;

static tt_tokenizer *make(void)
{
    tt_tokenizer *tok = NULL;
    tt_err err = {.msg = ""};
    if (tt_tokenizer_create(&vocab.v, &tok, &err) != TT_OK) {
        fail_msg("%s", err.msg);
    }
    return tok;
}

static tt_tokenizer *make_bpe(const char *pre)
{
    small_vocab_bpe(&vocab, pre);
    return make();
}

static tt_tokenizer *make_spm(tt_vocab_kind kind)
{
    small_vocab_spm(&vocab, kind);
    return make();
}

/* The spellings of the ids, joined by '|'. */
static void join(const int32_t *ids, size_t n, char *out, size_t cap)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        const tt_str *s = &vocab.tokens[ids[i]];
        assert_true(ids[i] >= 0 && ids[i] < vocab.v.n_tokens && len + s->n + 2 < cap);
        if (i > 0) {
            out[len++] = '|';
        }
        memcpy(out + len, s->p, s->n);
        len += s->n;
    }
    out[len] = '\0';
}

static void check_bytes(const tt_tokenizer *tok, const char *text, size_t n, bool parse, bool ends,
                        const char *expected)
{
    char got[1024];
    int32_t *ids = NULL;
    size_t n_ids;
    tt_encode_options opt = {.add_special = ends, .parse_special = parse};
    assert_int_equal(tt_tokenizer_encode(tok, text, n, &opt, &ids, &n_ids, NULL), TT_OK);
    assert_non_null(ids);
    join(ids, n_ids, got, sizeof got);
    assert_string_equal(got, expected);
    free(ids);
}

static void check(const tt_tokenizer *tok, const char *text, bool parse, const char *expected)
{
    check_bytes(tok, text, strlen(text), parse, false, expected);
}

#define SP "\xc4\xa0"
#define NL "\xc4\x8a"
#define MARK "\xe2\x96\x81"

static void byte_level(void **state)
{
    (void)state;
    tt_tokenizer *tok = make_bpe("gpt-2");
    check(tok, "", false, "");
    check(tok, "hello world", false, "hello|" SP "world");
    check(tok, "hell the thin", false,
          "hell|" SP "|t|he|" SP "th|in"); /* "h e" has the lower rank */
    check(tok, "\xc3\xa9 12345", false, "\xc3\x83\xc2\xa9|" SP "|123|4|5");
    check(tok, "a      b", false,
          "a|" SP SP SP SP "|" SP "|" SP "|b"); /* five spaces, then one with b */
    check_bytes(tok, "\0a", 2, false, false, "\xc4\x80|a");
    tt_tokenizer_destroy(&tok);
    tok = make_bpe("smollm");
    check(tok, "12 123", false, "1|2|" SP "|1|2|3");
    tt_tokenizer_destroy(&tok);
    assert_null(tok);
}

/* Bytes that are not UTF-8 become their letters, whatever stands around them. */
static void not_utf8(void **state)
{
    (void)state;
    tt_tokenizer *tok = make_bpe("gpt-2");
    check(tok, "a\xff\xfe hello", false, "a|\xc3\xbf|\xc3\xbe|" SP "|hello");
    check(tok, "\xc3", false, "\xc3\x83");
    check(tok, "\xe4\xb8", false, "\xc3\xa4|\xc2\xb8");
    check(tok, "\xed\xa0\x80", false, "\xc3\xad|\xc5\x82|\xc4\xa2"); /* a surrogate */
    tt_tokenizer_destroy(&tok);
    tok = make_spm(TT_VOCAB_SPM);
    check(tok, "a\xff\xc3", false, MARK "|a|<0xFF>|<0xC3>");
    tt_tokenizer_destroy(&tok);
}

static void ignore_merges(void **state)
{
    (void)state;
    small_vocab_bpe(&vocab, "llama-bpe");
    small_vocab_add(&vocab, "qqq", 3, TT_TOKEN_NORMAL, 0); /* no merge makes it */
    tt_tokenizer *tok = make();
    check(tok, "qqq qqq", false, "qqq|" SP "|q|q|q");
    tt_tokenizer_destroy(&tok);
    vocab.v.ignore_merges = TT_FLAG_OFF;
    tok = make();
    check(tok, "qqq", false, "q|q|q");
    tt_tokenizer_destroy(&tok);
}

static void special_tokens(void **state)
{
    (void)state;
    tt_tokenizer *tok = make_bpe("gpt-2");
    check(tok, "<|im_end|>", true, "<|im_end|>");
    check(tok, "<|im_end|>", false, "<|||i|m|_|e|n|d|||>");
    check(tok, "hello<|end|><|im_end|>[[x", true, "hello|<|end|>|<|im_end|>|[[|x");
    check(tok, "a[[[b", false, "a|[[|[|b"); /* user-defined: in any text, leftmost */
    check(tok, "<|end", true, "<|||e|n|d");
    vocab.v.add_bos = vocab.v.add_eos = true;
    check_bytes(tok, "he", 2, false, true, "<|im_start|>|he|<|im_end|>");
    check_bytes(tok, "", 0, false, true, "<|im_start|>|<|im_end|>");
    int32_t end = tt_tokenizer_find(tok, "<|end|>", 7), user = tt_tokenizer_find(tok, "[[", 2);
    assert_true(end >= 0 && tt_tokenizer_is_control(tok, end) && tt_tokenizer_is_eog(tok, end));
    assert_true(user >= 0 && !tt_tokenizer_is_control(tok, user) &&
                !tt_tokenizer_is_eog(tok, user));
    assert_true(tt_tokenizer_is_eog(tok, vocab.v.eos) && !tt_tokenizer_is_eog(tok, vocab.v.bos));
    assert_false(tt_tokenizer_is_eog(tok, -1) || tt_tokenizer_is_control(tok, vocab.v.n_tokens));
    assert_int_equal(tt_tokenizer_find(tok, "nothing", 7), -1);
    assert_ptr_equal(tt_tokenizer_vocab(tok), &vocab.v);
    tt_tokenizer_destroy(&tok);
}

/* A turn marker is a control token even where the file calls it normal or says nothing. */
static void markers(void **state)
{
    (void)state;
    small_vocab_bpe(&vocab, "gpt-2");
    small_vocab_add(&vocab, "<|eot_id|>", 10, TT_TOKEN_NORMAL, 0);
    tt_tokenizer *tok = make();
    int32_t id = tt_tokenizer_find(tok, "<|eot_id|>", 10);
    assert_true(tt_tokenizer_is_control(tok, id) && tt_tokenizer_is_eog(tok, id));
    check(tok, "<|eot_id|>", true, "<|eot_id|>");
    check(tok, "<|eot_id|>", false, "<|||e|o|t|_|i|d|||>");
    tt_tokenizer_destroy(&tok);
    vocab.v.types = NULL;
    tok = make();
    assert_true(tt_tokenizer_is_control(tok, vocab.v.eos));
    tt_tokenizer_destroy(&tok);
}

/* What the vocabulary cannot spell: unk where it is no control token or the text is trusted, else
 * nothing. */
static void unknown(void **state)
{
    (void)state;
    small_vocab_bpe(&vocab, "gpt-2");
    vocab.tokens['x'] = (tt_str){"xx", 2}; /* the letter x is gone */
    vocab.v.unk = vocab.v.eos;
    tt_tokenizer *tok = make();
    check(tok, "heXxllo", false, "he|X|ll|o");
    check(tok, "hexll", false, "hell"); /* neighbours of what is left out merge */
    check(tok, "hexll", true, "he|<|im_end|>|ll");
    tt_tokenizer_destroy(&tok);
    small_vocab_spm(&vocab, TT_VOCAB_SPM);
    vocab.types[3 + 0xe2] = TT_TOKEN_NORMAL; /* no byte token for 0xE2 */
    tok = make();
    check(tok,
          "a\xe2\x82\xac\xe2\x82\xac"
          "a",
          false, MARK "|a|<unk>|a");
    tt_tokenizer_destroy(&tok);
}

static void sentencepiece(void **state)
{
    (void)state;
    tt_tokenizer *tok = make_spm(TT_VOCAB_SPM);
    check(tok, "hello world", false,
          MARK "|hello|" MARK "w|or|ld"); /* "_w" has a better score than "wor" */
    check(tok, "the\xc3\xa9", false, MARK "the|\xc3\xa9");
    check(tok, "a\xe2\x82\xac", false, MARK "|a|<0xE2>|<0x82>|<0xAC>");
    check(tok, "aaaaa", false, MARK "|aaaa|a");
    check(tok, "a\n\nb", false, MARK "|a|\n\n|" MARK "|b");
    check(tok, "<s>", false, MARK "|<|s|>");
    check(tok, "<s>a</s>", true, "<s>|" MARK "|a|</s>");
    check(tok, "<0x41>", false, MARK "|<|<0x30>|<0x78>|<0x34>|<0x31>|>");
    check_bytes(tok, "a", 1, false, true, "<s>|" MARK "|a");
    check(tok, "", false, "");
    tt_tokenizer_destroy(&tok);
    vocab.v.space_prefix_once = true;
    tok = make();
    check(tok, "a\n\nb", false, MARK "|a|\n\n|b");
    tt_tokenizer_destroy(&tok);
    vocab.v.space_prefix_lazy = true;
    tok = make();
    check(tok, " a", false, MARK "|a");
    check(tok, "a  a", false, MARK "|a" MARK "|" MARK "|a");
    tt_tokenizer_destroy(&tok);
    vocab.v.split_at_spaces = true;
    tok = make();
    check(tok, "a a", false, MARK "|a|" MARK "|a");
    tt_tokenizer_destroy(&tok);
    vocab.v.add_space_prefix = vocab.v.split_at_spaces = false;
    vocab.v.remove_extra_whitespaces = true;
    tok = make();
    check(tok, "  b   b ", false, "b|" MARK "|b");
    check(tok, "   ", false, "");
    tt_tokenizer_destroy(&tok);
}

/* Pieces: the split runs across borders of plain text, control tokens count only where trusted
 * pieces wrote all of them. */
static void pieces(void **state)
{
    (void)state;
    tt_tokenizer *tok = make_bpe("gpt-2");
    static const struct {
        tt_text_piece p[5];
        const char *expected;
    } cases[] = {
        {{{"<|im_start|>", 12, true}, {"hel", 3, false}, {"lo w", 4, true}, {"orld", 4, false}},
         "<|im_start|>|hello|" SP "world"},
        {{{"a", 1, true}, {"<|end|>", 7, false}, {"<|end|>", 7, true}}, "a|<|||e|n|d|||>|<|end|>"},
        {{{"<|en", 4, true}, {"d|>", 3, false}, {"x", 1, true}}, "<|||e|n|d|||>|x"},
        {{{"<|en", 4, false}, {"d|>", 3, true}}, "<|||e|n|d|||>"},
        {{{"<|en", 4, true}, {"", 0, false}, {"d|>", 3, true}}, "<|end|>"},
        {{{"<|end|", 6, false}, {"<|end|>", 7, true}}, "<|||e|n|d|||<|end|>"},
        {{{"[", 1, false}, {"[", 1, true}}, "[["},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n = 0;
        char got[256];
        int32_t *ids;
        size_t n_ids;
        while (n < 5 && cases[i].p[n].p != NULL) {
            n++;
        }
        assert_int_equal(tt_tokenizer_encode_pieces(tok, cases[i].p, n, false, &ids, &n_ids, NULL),
                         TT_OK);
        join(ids, n_ids, got, sizeof got);
        assert_string_equal(got, cases[i].expected);
        free(ids);
    }
    tt_tokenizer_destroy(&tok);
}

static double best_score(const char *text, size_t n, size_t at)
{
    double best = at == n ? 0 : -DBL_MAX;
    for (int32_t id = 0; at < n && id < vocab.v.n_tokens; id++) {
        const tt_str *s = &vocab.tokens[id];
        if (vocab.types[id] == TT_TOKEN_NORMAL && s->n <= n - at &&
            memcmp(s->p, text + at, s->n) == 0) {
            best = fmax(best, vocab.scores[id] + best_score(text, n, at + s->n));
        }
    }
    return best;
}

static void unigram(void **state)
{
    (void)state;
    tt_tokenizer *tok = make_spm(TT_VOCAB_UNIGRAM);
    vocab.v.add_space_prefix = false;
    static const char letters[] = "abhelo";
    unsigned x = 1;
    for (int round = 0; round < 300; round++) {
        char text[12];
        size_t n = 1 + (size_t)round % 10, n_ids;
        for (size_t i = 0; i < n; i++) {
            x = x * 1103515245 + 12345;
            text[i] = letters[(x >> 16) % 6];
        }
        int32_t *ids;
        tt_encode_options opt = {0};
        assert_int_equal(tt_tokenizer_encode(tok, text, n, &opt, &ids, &n_ids, NULL), TT_OK);
        double score = 0;
        size_t at = 0;
        for (size_t i = 0; i < n_ids; i++) {
            const tt_str *s = &vocab.tokens[ids[i]];
            assert_true(s->n <= n - at);
            assert_memory_equal(s->p, text + at, s->n);
            score += vocab.scores[ids[i]];
            at += s->n;
        }
        assert_int_equal(at, n);
        assert_true(fabs(score - best_score(text, n, 0)) < 1e-9);
        free(ids);
    }
    check(tok, "a\xe2\x82\xac\n\n", false, "a|<0xE2>|<0x82>|<0xAC>|\n\n");
    tt_tokenizer_destroy(&tok);
}

static void refused(tt_code code, const char *word)
{
    tt_tokenizer *tok = NULL;
    tt_err err = {.msg = ""};
    assert_int_equal(tt_tokenizer_create(&vocab.v, &tok, &err), code);
    assert_null(tok);
    if (strstr(err.msg, word) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.msg, word);
    }
}

static void hostile_vocabularies(void **state)
{
    (void)state;
    small_vocab_bpe(&vocab, "gpt-2");
    vocab.v.eos = vocab.v.n_tokens;
    refused(TT_E_MODEL, "eos");
    vocab.v.eos = -2;
    refused(TT_E_MODEL, "eos");
    vocab.v.eos = -1;
    vocab.types[5] = 9;
    refused(TT_E_MODEL, "type");
    vocab.types[5] = TT_TOKEN_NORMAL;
    vocab.merges[0] = (tt_str){"nospace", 7};
    refused(TT_E_MODEL, "merge 0");
    vocab.v.pre = (tt_str){"what", 4};
    refused(TT_E_UNSUPPORTED, "what");
    vocab.v.n_tokens = 0;
    refused(TT_E_MODEL, "empty");
    small_vocab_spm(&vocab, TT_VOCAB_SPM);
    vocab.scores[3] = NAN;
    refused(TT_E_MODEL, "score");
    vocab.v.scores = NULL;
    refused(TT_E_MODEL, "scores");
    /* Odd, but legal: empty tokens, duplicates, merges of what is not there, tokens that are not
     * UTF-8. */
    small_vocab_bpe(&vocab, "gpt-2");
    small_vocab_add(&vocab, "", 0, TT_TOKEN_CONTROL, 0);
    small_vocab_add(&vocab, "hello", 5, TT_TOKEN_NORMAL, 0);
    small_vocab_add(&vocab, "\xff", 1, TT_TOKEN_USER_DEFINED, 0);
    vocab.merges[vocab.v.n_merges++] = (tt_str){"no such", 7};
    vocab.merges[vocab.v.n_merges++] = (tt_str){" ", 1};
    vocab.merges[vocab.v.n_merges++] = (tt_str){"a ", 2};
    tt_tokenizer *tok = make();
    check(tok, "hello\xff", true, "hello|\xff");
    tt_tokenizer_destroy(&tok);
    tt_tokenizer_destroy(&tok);
}

/* 1 MiB of each within ten times the second that it may take on a machine of its own. CPU time, so
 * that others do not count. */
static void linear_time(void **state)
{
    (void)state;
    static const char *const units[] = {
        "a",    "ab",    " ",  "\n",        "\r\n",     " \n", "  a",          "0",  "=",
        "\xff", "a\xff", "'s", "<|im_star", "\xcc\x81", "[",   "\xe4\xb8\xad", MARK, "x"};
    enum { SIZE = 1 << 20 };
    const char *factor = getenv("QTTT_TIME_FACTOR");
    double limit = 10 * (factor != NULL ? atof(factor) : 1);
    char *text = malloc(SIZE);
    assert_non_null(text);
    static const char *const pres[] = {"smollm", "qwen2", NULL, NULL};
    for (size_t k = 0; k < sizeof pres / sizeof pres[0]; k++) {
        tt_tokenizer *tok = pres[k] != NULL ? make_bpe(pres[k])
                                            : make_spm(k == 2 ? TT_VOCAB_SPM : TT_VOCAB_UNIGRAM);
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
            size_t len = strlen(units[u]), n = 0, n_ids;
            for (; n + len <= SIZE; n += len) {
                memcpy(text + n, units[u], len);
            }
            int32_t *ids;
            tt_encode_options opt = {.parse_special = true};
            clock_t start = clock();
            assert_int_equal(tt_tokenizer_encode(tok, text, n, &opt, &ids, &n_ids, NULL), TT_OK);
            double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
            if (seconds > limit) {
                fail_msg("1 MiB of \"%s\" took %.1f s", units[u], seconds);
            }
            free(ids);
        }
        tt_tokenizer_destroy(&tok);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level),    cmocka_unit_test(not_utf8),
        cmocka_unit_test(ignore_merges), cmocka_unit_test(special_tokens),
        cmocka_unit_test(markers),       cmocka_unit_test(unknown),
        cmocka_unit_test(sentencepiece), cmocka_unit_test(pieces),
        cmocka_unit_test(unigram),       cmocka_unit_test(hostile_vocabularies),
        cmocka_unit_test(linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
