/* test_detok.c - decoding: whole and incremental, over bytes that are and are not UTF-8. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/tokenizer.h"
#include "core/utf8.h"
#include "small_vocab.h"

#define BAD "\xef\xbf\xbd"

static small_vocab vocab;

static tt_tokenizer *make(void)
{
    tt_tokenizer *tok = NULL;
    assert_int_equal(tt_tokenizer_create(&vocab.v, &tok, NULL), TT_OK);
    return tok;
}

static size_t incremental(const tt_tokenizer *tok, const int32_t *ids, size_t n, bool special,
                          char *out)
{
    tt_detok d = {.special = special};
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        size_t piece;
        char step[1024];
        (void)tt_tokenizer_piece(tok, ids[i], special, &piece);
        size_t k = tt_detok_push(&d, tok, ids[i], step, 4 + 3 * piece);
        assert_true(k <= 4 + 3 * piece);
        assert_int_equal(tt_utf8_valid_prefix(step, k), k); /* never a part of a code point */
        memcpy(out + len, step, k);
        len += k;
    }
    return len + tt_detok_flush(&d, out + len);
}

/* The whole text and the incremental one. NULL: the whole is not compared. */
static void check(const tt_tokenizer *tok, const int32_t *ids, size_t n, bool special,
                  const char *steps, const char *whole)
{
    char got[2048];
    size_t len = incremental(tok, ids, n, special, got);
    assert_int_equal(len, strlen(steps));
    assert_memory_equal(got, steps, len);
    char *text = NULL;
    assert_int_equal(tt_tokenizer_decode(tok, ids, n, special, &text, &len, NULL), TT_OK);
    assert_int_equal(len, strlen(whole));
    assert_string_equal(text, whole);
    free(text);
}

/* Bytes as the byte tokens of a vocabulary whose first byte token is `first`. */
static void check_bytes(const tt_tokenizer *tok, const int32_t *byte_ids, const char *bytes,
                        const char *steps, const char *whole)
{
    int32_t ids[64];
    size_t n = strlen(bytes);
    for (size_t i = 0; i < n; i++) {
        ids[i] = byte_ids[(unsigned char)bytes[i]];
    }
    check(tok, ids, n, false, steps, whole);
}

static void byte_level(void **state)
{
    (void)state;
    small_vocab_bpe(&vocab, "gpt-2");
    tt_tokenizer *tok = make();
    int32_t ids[256];
    for (int b = 0; b < 256; b++) {
        ids[b] = b; /* add_letters() makes them in this order */
    }
    check_bytes(tok, ids, "plain", "plain", "plain");
    check_bytes(tok, ids, "\xe4\xb8\xad\xf0\x9f\x98\x80", "\xe4\xb8\xad\xf0\x9f\x98\x80",
                "\xe4\xb8\xad\xf0\x9f\x98\x80");
    /* The Unicode Standard, table 3-8, and its kin */
    const char *text = "a" BAD BAD BAD "b" BAD "c" BAD BAD "d";
    check_bytes(tok, ids, "\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", text, text);
    check_bytes(tok, ids, "\xc0\xaf\xe0\x80\xbf", BAD BAD BAD BAD BAD, BAD BAD BAD BAD BAD);
    check_bytes(tok, ids, "\xed\xa0\x80", BAD BAD BAD, BAD BAD BAD);
    check_bytes(tok, ids, "\xf4\x91\x92\x93\xff\x41", BAD BAD BAD BAD BAD "A",
                BAD BAD BAD BAD BAD "A");
    check_bytes(tok, ids, "\xe4\xb8", BAD, BAD);
    check_bytes(tok, ids, "\xe4\xe4\xb8\xad", BAD "\xe4\xb8\xad", BAD "\xe4\xb8\xad");
    int32_t mixed[] = {vocab.v.bos,      'h', -1,
                       vocab.v.n_tokens, 'i', tt_tokenizer_find(tok, "[[", 2)};
    check(tok, mixed, 6, false, "hi[[", "hi[[");
    check(tok, mixed, 6, true, "<|im_start|>hi[[", "<|im_start|>hi[[");
    check(tok, NULL, 0, false, "", "");
    tt_tokenizer_destroy(&tok);
}

static void sentencepiece(void **state)
{
    (void)state;
    small_vocab_spm(&vocab, TT_VOCAB_SPM);
    tt_tokenizer *tok = make();
    int32_t bytes[256];
    for (int b = 0; b < 256; b++) {
        bytes[b] = 3 + b;
    }
    check_bytes(tok, bytes, "\xe4\xb8\xad", "\xe4\xb8\xad", "\xe4\xb8\xad");
    /* A run of byte tokens is all text or none, for the library that is asked for a whole sequence;
     * a stream cannot wait. */
    check_bytes(tok, bytes, "A\xff", "A" BAD, BAD BAD);
    check_bytes(tok, bytes, "\xe4\xb8", BAD, BAD BAD);
    int32_t the = tt_tokenizer_find(tok, "\xe2\x96\x81the", 6), a = tt_tokenizer_find(tok, "a", 1);
    int32_t words[] = {vocab.v.bos, the, the, a};
    check(tok, words, 4, false, "the thea",
          "the thea"); /* the prefix goes, also after what prints nothing */
    check(tok, words, 4, true, "<s> the thea", "<s> the thea");
    int32_t split[] = {bytes[0xe4], vocab.v.eos, bytes[0xb8], bytes[0xad], a, bytes[0xc3]};
    check(tok, split, 6, false,
          "\xe4\xb8\xad"
          "a" BAD,
          "\xe4\xb8\xad"
          "a" BAD);
    tt_tokenizer_destroy(&tok);
    vocab.v.add_space_prefix = false;
    tok = make();
    check(tok, words, 4, false, " the thea", " the thea");
    tt_tokenizer_destroy(&tok);
}

static uint64_t seed = 7;

static unsigned below(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

/* Byte-level: the bytes, whatever they are, read through the definition: one U+FFFD for each
 * maximal invalid part. */
static void random_bytes(void **state)
{
    (void)state;
    static const unsigned char pool[] = {'a',  0x80, 0xbf, 0xa0, 0x9f, 0xc3, 0xe0, 0xe4,
                                         0xed, 0xf0, 0xf4, 0x8f, 0x90, 0xff, 0xc0};
    small_vocab_bpe(&vocab, "gpt-2");
    tt_tokenizer *tok = make();
    for (int round = 0; round < 20000; round++) {
        char bytes[24], expected[128];
        int32_t ids[24];
        size_t n = below(24), len = 0;
        for (size_t i = 0; i < n; i++) {
            bytes[i] = (char)pool[below(sizeof pool)];
            ids[i] = (unsigned char)bytes[i];
        }
        for (size_t i = 0; i < n;) {
            int k = tt_utf8_next(bytes + i, n - i, NULL);
            size_t step = k > 0 ? (size_t)k : k < 0 ? (size_t)-k : n - i;
            memcpy(expected + len, k > 0 ? bytes + i : BAD, k > 0 ? step : 3);
            len += k > 0 ? step : 3;
            i += step;
        }
        expected[len] = '\0';
        check(tok, ids, n, false, expected, expected);
    }
    tt_tokenizer_destroy(&tok);
}

/* Every code point there and back, and every two-byte string against the rules. */
static void utf8(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        char out[4];
        uint32_t back = 0;
        if (cp >= 0xd800 && cp < 0xe000) {
            continue;
        }
        int n = tt_utf8_put(cp, out);
        assert_int_equal(tt_utf8_next(out, 4, &back), n);
        assert_int_equal(back, cp);
        assert_int_equal(tt_utf8_next(out, (size_t)n, NULL), n);
        for (int k = 1; k < n; k++) {
            assert_int_equal(tt_utf8_next(out, (size_t)k, NULL), 0);
        }
    }
    static const struct {
        const char *p;
        int n, expected;
    } cases[] = {{"\x80", 1, -1},
                 {"\xc1\x81", 2, -1},
                 {"\xe0\x9f\x80", 3, -1},
                 {"\xe1\x80z", 3, -2},
                 {"\xed\xa0\x80", 3, -1},
                 {"\xf0\x8f\x80\x80", 4, -1},
                 {"\xf4\x90\x80\x80", 4, -1},
                 {"\xf1\x80\x80z", 4, -3},
                 {"\xf5\x80", 2, -1},
                 {"\xfe", 1, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(tt_utf8_next(cases[i].p, (size_t)cases[i].n, NULL), cases[i].expected);
    }
    assert_int_equal(tt_utf8_valid_prefix("0123456789abcdef\xc3\xa9\xff", 19), 18);
    assert_int_equal(tt_utf8_valid_prefix("01234567\xc3", 9), 8);
    assert_int_equal(tt_utf8_valid_prefix("", 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level),
        cmocka_unit_test(sentencepiece),
        cmocka_unit_test(random_bytes),
        cmocka_unit_test(utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
