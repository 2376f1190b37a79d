/* test_logprob_list.c - log-probabilities in both shapes: one number printed alike wherever it
 * stands, bytes that are no text, spellings that two ids share, offsets in code points. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/logprob_list.h"
#include "small_vocab.h"

static small_vocab vocab;
static tt_tokenizer *tokenizer;
static int32_t hello, twin, e_acute, half;

static int set_up(void **state)
{
    small_vocab_spm(&vocab, TT_VOCAB_SPM);
    hello = small_vocab_add(&vocab, "hello", 5, TT_TOKEN_NORMAL, -1);
    twin = small_vocab_add(&vocab, "hello", 5, TT_TOKEN_NORMAL, -2); /* another id, spelt alike */
    e_acute = small_vocab_add(&vocab, "\xc3\xa9\xc3\xa9", 4, TT_TOKEN_NORMAL, -3);
    half = 3 + 0xc3; /* <unk>, <s>, </s>, then the bytes in order */
    return tt_tokenizer_create(&vocab.v, &tokenizer, NULL);
}

static int tear_down(void **state)
{
    tt_tokenizer_destroy(&tokenizer);
    return 0;
}

static tt_logprob_entry entry(int32_t id, float logprob, const tt_logprob *top, int32_t n_top)
{
    tt_logprob_entry e = {
        .id = id, .have_logprob = true, .logprob = logprob, .top = top, .n_top = n_top};
    e.piece = tt_tokenizer_piece(tokenizer, id, true, &e.n_piece);
    return e;
}

/* What is written must be JSON and equal `want`; a number is a number, 1 or 1.0. */
static void written_is(const tt_logprob_list *l, const char *want)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL;
    tt_buf b = {0};
    tt_logprob_list_write(&b, l);
    assert_false(b.failed || tt_logprob_list_failed(l));
    json_t *x = json_loadb(b.p, b.n, flags, NULL), *y = json_loads(want, flags, NULL);
    assert_non_null(y);
    if (x == NULL || !json_equal(x, y)) {
        fail_msg("got  %.*s\nwant %s", (int)b.n, b.p, want);
    }
    json_decref(x);
    json_decref(y);
    tt_buf_finish(&b);
}

static void test_chat(void **state)
{
    tt_logprob_list l;
    tt_logprob top[2] = {{hello, -0.5f}, {half, -1.5f}};
    tt_logprob_list_init(&l, tokenizer, false);
    assert_true(tt_logprob_list_empty(&l));
    written_is(&l, "{\"content\":[],\"refusal\":null}");
    tt_logprob_entry e = entry(hello, -0.5f, top, 2);
    tt_logprob_list_add(&l, &e);
    e = entry(e_acute, 1e-7f, NULL, 0); /* a rounding above certainty is certainty */
    tt_logprob_list_add(&l, &e);
    assert_false(tt_logprob_list_empty(&l));
    written_is(&l, "{\"content\":[{\"token\":\"hello\",\"logprob\":-0.5,"
                   "\"bytes\":[104,101,108,108,111],\"top_logprobs\":["
                   "{\"token\":\"hello\",\"logprob\":-0.5,\"bytes\":[104,101,108,108,111]},"
                   "{\"token\":\"\xef\xbf\xbd\",\"logprob\":-1.5,\"bytes\":[195]}]},"
                   "{\"token\":\"\xc3\xa9\xc3\xa9\",\"logprob\":0.0,\"bytes\":[195,169,195,169],"
                   "\"top_logprobs\":[]}],\"refusal\":null}");
    tt_logprob_list_clear(&l);
    assert_true(tt_logprob_list_empty(&l));
    written_is(&l, "{\"content\":[],\"refusal\":null}");
    tt_logprob_list_finish(&l);
}

static void test_legacy(void **state)
{
    tt_logprob_list l;
    tt_logprob top[2] = {{e_acute, -0.25f}, {half, -2}};
    tt_logprob_list_init(&l, tokenizer, true);
    tt_logprob_entry e = entry(e_acute, 0, NULL, 0);
    e.have_logprob = false; /* the first token of a prompt */
    tt_logprob_list_add(&l, &e);
    e = entry(hello, -3, top, 2); /* the chosen one is added to the top */
    tt_logprob_list_add(&l, &e);
    e = entry(half, -2, top, 2); /* or is among them */
    tt_logprob_list_add(&l, &e);
    written_is(&l, "{\"tokens\":[\"\xc3\xa9\xc3\xa9\",\"hello\",\"bytes:\\\\xc3\"],"
                   "\"token_logprobs\":[null,-3.0,-2.0],\"top_logprobs\":[null,"
                   "{\"\xc3\xa9\xc3\xa9\":-0.25,\"bytes:\\\\xc3\":-2.0,\"hello\":-3.0},"
                   "{\"\xc3\xa9\xc3\xa9\":-0.25,\"bytes:\\\\xc3\":-2.0}],"
                   "\"text_offset\":[0,2,7]}");
    tt_logprob_list_clear(&l);
    e = entry(3 + 0xa9, -1, NULL, 0); /* the other half: one code point, begun by the one before */
    tt_logprob_list_add(&l, &e);
    e = entry(hello, -1, NULL, 0);
    tt_logprob_list_add(&l, &e);
    written_is(&l, "{\"tokens\":[\"bytes:\\\\xa9\",\"hello\"],\"token_logprobs\":[-1.0,-1.0],"
                   "\"top_logprobs\":[{\"bytes:\\\\xa9\":-1.0},{\"hello\":-1.0}],"
                   "\"text_offset\":[7,8]}");
    tt_logprob_list_finish(&l);
    tt_logprob_list_finish(&l);
}

/* Keys of an object are unique: of two ids that are spelt alike the likelier one's number stays,
 * but the chosen token always has its own. */
static void test_two_ids_one_spelling(void **state)
{
    tt_logprob_list l;
    tt_logprob top[3] = {{hello, -0.5f}, {twin, -1}, {e_acute, -2}};
    tt_logprob_list_init(&l, tokenizer, true);
    tt_logprob_entry e = entry(e_acute, -2, top, 3);
    tt_logprob_list_add(&l, &e);
    written_is(&l, "{\"tokens\":[\"\xc3\xa9\xc3\xa9\"],\"token_logprobs\":[-2.0],"
                   "\"top_logprobs\":[{\"hello\":-0.5,\"\xc3\xa9\xc3\xa9\":-2.0}],"
                   "\"text_offset\":[0]}");
    tt_logprob_list_clear(&l);
    e = entry(twin, -1, top, 3);
    tt_logprob_list_add(&l, &e);
    written_is(&l, "{\"tokens\":[\"hello\"],\"token_logprobs\":[-1.0],"
                   "\"top_logprobs\":[{\"hello\":-1.0,\"\xc3\xa9\xc3\xa9\":-2.0}],"
                   "\"text_offset\":[2]}");
    tt_logprob_list_finish(&l);
}

/* A client compares numbers of the two shapes, and of a token with its place in the top, for
 * equality: the same float is the same text, and reads back to the same float. */
static void test_one_float_one_text(void **state)
{
    float x = -1.0f / 3.0f;
    tt_buf texts[2] = {{0}, {0}};
    for (int legacy = 0; legacy < 2; legacy++) {
        tt_logprob_list l;
        tt_logprob top[1] = {{hello, x}};
        tt_logprob_list_init(&l, tokenizer, legacy != 0);
        tt_logprob_entry e = entry(hello, x, top, 1);
        tt_logprob_list_add(&l, &e);
        tt_logprob_list_write(&texts[legacy], &l);
        tt_buf_putc(&texts[legacy], '\0');
        tt_logprob_list_finish(&l);
    }
    int seen = 0;
    char number[32];
    const char *at = strstr(texts[0].p, "-0.");
    assert_non_null(at);
    snprintf(number, sizeof number, "%.*s", (int)strspn(at, "-.0123456789e"), at);
    assert_true(strtof(number, NULL) == x);
    for (int legacy = 0; legacy < 2; legacy++) {
        for (at = texts[legacy].p; (at = strstr(at, "-0.")) != NULL; at += 3, seen++) {
            assert_memory_equal(at, number, strlen(number));
        }
    }
    assert_int_equal(seen, 4);
    tt_buf_finish(&texts[0]);
    tt_buf_finish(&texts[1]);
}

static void test_nothing_finite(void **state)
{
    tt_logprob_list l;
    tt_logprob_list_init(&l, tokenizer, false);
    tt_logprob_entry e = entry(hello, -INFINITY, NULL, 0);
    tt_logprob_list_add(&l, &e);
    written_is(&l, "{\"content\":[{\"token\":\"hello\",\"logprob\":null,"
                   "\"bytes\":[104,101,108,108,111],\"top_logprobs\":[]}],\"refusal\":null}");
    tt_logprob_list_finish(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_legacy),
        cmocka_unit_test(test_two_ids_one_spelling),
        cmocka_unit_test(test_one_float_one_text),
        cmocka_unit_test(test_nothing_finite),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
