/* test_session_text.c - which ids of a session's head a new rendering keeps. Byte-level BPE merges
 * runs of a, so that single letters are another spelling of the same text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "server/session_text.h"
#include "tests/unit/small_vocab.h"

static small_vocab bpe, spm;
static tt_tokenizer *bpe_tok, *spm_tok;

static int set_up(void **state)
{
    small_vocab_bpe(&bpe, "gpt-2");
    small_vocab_spm(&spm, TT_VOCAB_SPM);
    assert_int_equal(tt_tokenizer_create(&bpe.v, &bpe_tok, NULL), TT_OK);
    assert_int_equal(tt_tokenizer_create(&spm.v, &spm_tok, NULL), TT_OK);
    return 0;
}

static int tear_down(void **state)
{
    tt_tokenizer_destroy(&bpe_tok);
    tt_tokenizer_destroy(&spm_tok);
    return 0;
}

static tt_rendered rendered(const char *text, tt_text_piece *piece)
{
    *piece = (tt_text_piece){.p = text, .n = strlen(text), .trusted = true};
    return (tt_rendered){
        .text = (char *)(uintptr_t)text, .n = strlen(text), .pieces = piece, .n_pieces = 1};
}

static int32_t tokens(tt_tokenizer *tok, const char *text, int32_t **ret)
{
    tt_text_piece piece;
    tt_rendered r = rendered(text, &piece);
    size_t n;
    tt_served sv = {.tokenizer = tok};
    assert_int_equal(tt_prompt_tokens(&sv, r.pieces, 1, ret, &n, NULL), TT_OK);
    return (int32_t)n;
}

static tt_session_text *text_of(tt_tokenizer *tok, const char *prompt, const int32_t *out,
                                int32_t n_out)
{
    int32_t *ids;
    int32_t n = tokens(tok, prompt, &ids);
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "x");
    tt_session_text *t = NULL;
    assert_int_equal(tt_session_text_create(&(tt_session_text_options){.messages = messages,
                                                                       .text = prompt,
                                                                       .n = strlen(prompt),
                                                                       .ids = ids,
                                                                       .n_ids = n,
                                                                       .generated = out,
                                                                       .n_generated = n_out,
                                                                       .tokenizer = tok},
                                            &t, NULL),
                     TT_OK);
    assert_int_equal(json_array_size(tt_session_text_messages(t)), 1);
    json_decref(messages);
    free(ids);
    return t;
}

/* Splices `text`; the ids must spell it, and the first `want_kept` are the head's. */
static int32_t *splice(tt_tokenizer *tok, const tt_session_text *t, const char *text,
                       int32_t want_kept, size_t *ret_n)
{
    tt_text_piece piece;
    tt_rendered r = rendered(text, &piece);
    tt_served sv = {.tokenizer = tok};
    int32_t *ids, kept;
    char *back;
    size_t n_back;
    assert_int_equal(tt_session_text_splice(t, &sv, &r, &ids, ret_n, &kept, NULL), TT_OK);
    assert_int_equal(kept, want_kept);
    assert_int_equal(tt_tokenizer_decode(tok, ids, *ret_n, true, &back, &n_back, NULL), TT_OK);
    const char *shown = tok == spm_tok && back[0] == ' ' ? back + 1 : back;
    assert_string_equal(shown, text);
    free(back);
    return ids;
}

static int32_t letter(char c)
{
    return tt_tokenizer_find(bpe_tok, &c, 1);
}

static void an_answer_keeps_its_spelling(void **state)
{
    const int32_t out[] = {letter('a'), letter('a'), letter('a'),
                           tt_tokenizer_find(bpe_tok, "<|im_end|>", 10)};
    int32_t *plain, *ids;
    size_t n;
    tt_session_text *t = text_of(bpe_tok, "<|im_start|>b ", out, 4);
    int32_t n_prompt = tokens(bpe_tok, "<|im_start|>b ", &plain);
    free(plain);
    ids = splice(bpe_tok, t, "<|im_start|>b aaa<|im_end|>aaa", n_prompt + 4, &n);
    assert_memory_equal(ids + n_prompt, out, sizeof out);
    int32_t n_cold = tokens(bpe_tok, "<|im_start|>b aaa<|im_end|>aaa", &plain);
    assert_true((int32_t)n > n_cold); /* a cold prompt merges the letters */
    free(ids);
    free(plain);
    tt_session_text_unref(&t);
    assert_null(t);
}

static void kept_up_to_the_first_difference(void **state)
{
    const int32_t out[] = {letter('a'), letter('b'), letter('a')};
    size_t n;
    int32_t *plain;
    tt_session_text *t = text_of(bpe_tok, "<|im_start|>xy", out, 3);
    int32_t n_prompt = tokens(bpe_tok, "<|im_start|>xy", &plain);
    free(plain);
    free(splice(bpe_tok, t, "<|im_start|>xyaba", n_prompt + 3, &n));
    free(splice(bpe_tok, t, "<|im_start|>xyab", n_prompt + 2, &n)); /* the answer was trimmed */
    free(splice(bpe_tok, t, "<|im_start|>xyabb<|im_end|>", n_prompt + 2, &n));
    free(splice(bpe_tok, t, "<|im_start|>xyb", n_prompt, &n));
    free(splice(bpe_tok, t, "<|im_start|>xb", 0, &n)); /* within the prompt there are no cuts */
    free(splice(bpe_tok, t, "", 0, &n));
    assert_int_equal(n, 0);
    tt_session_text_unref(&t);
}

/* Bytes that are no UTF-8 are U+FFFD in the answer; a code point in two tokens is cut after both.
 */
static void bytes_and_code_points(void **state)
{
    int32_t b_e4 = tt_tokenizer_find(bpe_tok, "\xc3\xa4", 2);
    int32_t b_c3 = tt_tokenizer_find(bpe_tok, "\xc3\x83", 2);
    int32_t b_a4 = tt_tokenizer_find(bpe_tok, "\xc2\xa4", 2);
    const int32_t out[] = {b_e4, letter('a'), b_c3, b_a4, b_c3}; /* a byte, a, an umlaut, a half */
    size_t n;
    int32_t *plain;
    assert_true(b_e4 >= 0 && b_c3 >= 0 && b_a4 >= 0);
    tt_session_text *t = text_of(bpe_tok, "<|im_start|>x", out, 5);
    int32_t n_prompt = tokens(bpe_tok, "<|im_start|>x", &plain), kept;
    free(plain);
    static const struct {
        const char *text;
        int32_t kept;
    } cases[] = {{"<|im_start|>x\xef\xbf\xbd"
                  "a\xc3\xa4\xef\xbf\xbd!",
                  5},
                 {"<|im_start|>x\xef\xbf\xbd"
                  "a\xc3\xa4!",
                  4},
                 {"<|im_start|>x\xef\xbf\xbd"
                  "a\xc3\xa5",
                  2},
                 {"<|im_start|>xa", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tt_text_piece piece;
        tt_rendered r = rendered(cases[i].text, &piece);
        tt_served sv = {.tokenizer = bpe_tok};
        int32_t *ids;
        assert_int_equal(tt_session_text_splice(t, &sv, &r, &ids, &n, &kept, NULL), TT_OK);
        assert_int_equal(kept, n_prompt + cases[i].kept);
        assert_memory_equal(ids + n_prompt, out, (size_t)cases[i].kept * sizeof *out);
        free(ids);
    }
    tt_session_text_unref(&t);
}

/* A text spliced onto another keeps that one's cuts, so that a later rewrite finds them. */
static void cuts_are_handed_on(void **state)
{
    const int32_t first[] = {letter('a'), letter('a')}, second[] = {letter('b')};
    size_t n;
    int32_t *plain;
    tt_session_text *t = text_of(bpe_tok, "<|im_start|>x", first, 2), *u = NULL;
    int32_t n_prompt = tokens(bpe_tok, "<|im_start|>x", &plain);
    free(plain);
    static const char longer[] = "<|im_start|>xaa<|im_end|>y";
    int32_t *ids = splice(bpe_tok, t, longer, n_prompt + 2, &n);
    json_t *messages = json_array();
    assert_int_equal(tt_session_text_create(&(tt_session_text_options){.messages = messages,
                                                                       .text = longer,
                                                                       .n = sizeof longer - 1,
                                                                       .ids = ids,
                                                                       .n_ids = (int32_t)n,
                                                                       .from = t,
                                                                       .n_kept = n_prompt + 2,
                                                                       .generated = second,
                                                                       .n_generated = 1,
                                                                       .tokenizer = bpe_tok},
                                            &u, NULL),
                     TT_OK);
    json_decref(messages);
    free(ids);
    int32_t n_longer = (int32_t)n;
    free(splice(bpe_tok, u, "<|im_start|>xaa<|im_end|>yb!", n_longer + 1, &n));
    free(splice(bpe_tok, u, "<|im_start|>xaa<|im_start|>", n_prompt + 2, &n));
    free(splice(bpe_tok, u, "<|im_start|>xab", n_prompt + 1, &n));
    assert_true(tt_session_text_bytes(u) > 2 * sizeof longer);
    tt_session_text_unref(&t);
    tt_session_text_unref(&u);
}

/* SentencePiece's space in front of an answer is not in its text, nor does the middle of a text get
 * one. */
static void sentencepiece_spaces(void **state)
{
    int32_t *out, *plain, *ids;
    size_t n;
    int32_t n_out = tokens(spm_tok, "hello", &out); /* with the space of a beginning */
    int32_t n_prompt = tokens(spm_tok, "say\n\n", &plain);
    free(plain);
    int32_t bos = out[0] == spm.v.bos;
    tt_session_text *t = text_of(spm_tok, "say\n\n", out + bos, n_out - bos);
    tt_text_piece piece;
    tt_rendered r = rendered("say\n\nhello", &piece);
    tt_served sv = {.tokenizer = spm_tok};
    int32_t kept;
    assert_int_equal(tt_session_text_splice(t, &sv, &r, &ids, &n, &kept, NULL), TT_OK);
    assert_int_equal(kept, n_prompt + n_out - bos);
    assert_int_equal(n, kept);
    free(ids);
    r = rendered("say\n\nhelloe", &piece);
    assert_int_equal(tt_session_text_splice(t, &sv, &r, &ids, &n, &kept, NULL), TT_OK);
    assert_int_equal(kept, n_prompt + n_out - bos);
    size_t k;
    const char *p = tt_tokenizer_piece(spm_tok, ids[kept], true, &k);
    assert_true(k == 1 && p[0] == 'e'); /* not " e" */
    free(ids);
    free(out);
    tt_session_text_unref(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_keeps_its_spelling),
        cmocka_unit_test(kept_up_to_the_first_difference),
        cmocka_unit_test(bytes_and_code_points),
        cmocka_unit_test(cuts_are_handed_on),
        cmocka_unit_test(sentencepiece_spaces),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
