/* test_vocab_gguf.c - core/vocab_gguf.c: the three kinds of vocabulary, their defaults, and what is
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/vocab_gguf.h"
#include "model_writer.h"

#define KEY(name) "tokenizer.ggml." name

static const char *const tokens[] = {"a", "b", "ab", "\xFF"};
static const char *const merges[] = {"a b"};

static tt_arena arena;
static tt_gguf *gguf;
static uint8_t *file;

/* Reads what w holds; done() frees it. */
static tt_code read_vocab(mw_gguf *w, tt_vocab *v, tt_err *err)
{
    size_t n;
    file = mw_gguf_finish(w, &n);
    tt_arena_init(&arena, 0);
    *err = (tt_err){.code = TT_OK};
    assert_int_equal(tt_gguf_open(file, n, &gguf, err), TT_OK);
    tt_code rc = tt_vocab_read_gguf(gguf, &arena, v, err);
    assert_int_equal(err->code, rc);
    return rc;
}

static void done(void)
{
    tt_gguf_close(&gguf);
    tt_arena_finish(&arena);
    free(file);
}

static void begin(mw_gguf *w, const char *model)
{
    mw_gguf_init(w);
    mw_kv_str(w, KEY("model"), model);
    mw_kv_strs(w, KEY("tokens"), tokens, 4);
}

static void expect(mw_gguf *w, tt_code code, const char *text)
{
    tt_vocab v;
    tt_err err;
    tt_code rc = read_vocab(w, &v, &err);
    done();
    if (rc != code || strstr(err.msg, text) == NULL) {
        fail_msg("got %d \"%s\", expected %d \"%s\"", rc, err.msg, code, text);
    }
}

static void test_bpe(void **state)
{
    (void)state;
    mw_gguf w;
    tt_vocab v;
    tt_err err;
    const int32_t types[] = {1, 0, 3, 6};
    begin(&w, "gpt2");
    mw_kv_str(&w, KEY("pre"), "qwen2");
    mw_kv_strs(&w, KEY("merges"), merges, 1);
    mw_kv_array(&w, KEY("token_type"), 5, types, 4, 4);
    mw_kv_u32(&w, KEY("eos_token_id"), 2);
    mw_kv_u32(&w, KEY("eot_token_id"), 3);
    mw_kv_u32(&w, KEY("padding_token_id"), UINT32_MAX);
    assert_int_equal(read_vocab(&w, &v, &err), TT_OK);
    assert_int_equal(v.kind, TT_VOCAB_BPE);
    assert_int_equal(v.n_tokens, 4);
    assert_memory_equal(v.tokens[2].p, "ab", 2);
    assert_memory_equal(v.tokens[3].p, "\xFF", 1); /* any bytes: the tokenizer's business */
    assert_int_equal(v.n_merges, 1);
    assert_memory_equal(v.merges[0].p, "a b", 3);
    assert_memory_equal(v.pre.p, "qwen2", 5);
    assert_null(v.scores);
    assert_int_equal(v.types[1], TT_TOKEN_NORMAL); /* 0 of old files */
    assert_int_equal(v.types[3], TT_TOKEN_BYTE);
    assert_true(v.bos == -1 && v.eos == 2 && v.eot == 3 && v.unk == -1 && v.pad == -1);
    assert_false(v.add_bos || v.add_eos || v.add_space_prefix);
    done();
    begin(&w, "gpt2"); /* Llama 3's pattern implies BOS */
    mw_kv_str(&w, KEY("pre"), "llama-bpe");
    mw_kv_strs(&w, KEY("merges"), merges, 1);
    mw_kv_bool(&w, KEY("add_eos_token"), 1);
    assert_int_equal(read_vocab(&w, &v, &err), TT_OK);
    assert_true(v.add_bos && v.add_eos);
    assert_null(v.types);
    done();
}

static void test_sentencepiece(void **state)
{
    (void)state;
    mw_gguf w;
    tt_vocab v;
    tt_err err;
    const float scores[] = {0.0f, -1.0f, -INFINITY, 2.5f};
    begin(&w, "llama");
    mw_kv_array(&w, KEY("scores"), 6, scores, 4, 4);
    mw_kv_bool(&w, KEY("add_space_prefix"), 0);
    assert_int_equal(read_vocab(&w, &v, &err), TT_OK);
    assert_int_equal(v.kind, TT_VOCAB_SPM);
    assert_true(v.scores[3] == 2.5f && v.n_merges == 0);
    assert_true(v.bos == 1 && v.eos == 2 && v.unk == 0 && v.pad == -1);
    assert_true(v.add_bos && !v.add_eos && !v.add_space_prefix);
    done();
    begin(&w, "t5");
    mw_kv_array(&w, KEY("scores"), 6, scores, 4, 4);
    mw_kv_bool(&w, KEY("remove_extra_whitespaces"), 1);
    assert_int_equal(read_vocab(&w, &v, &err), TT_OK);
    assert_int_equal(v.kind, TT_VOCAB_UNIGRAM);
    assert_true(v.bos == -1 && v.eos == 1 && v.unk == 2);
    assert_true(!v.add_bos && v.add_eos && v.add_space_prefix && v.remove_extra_whitespaces);
    done();
}

static void test_refused(void **state)
{
    (void)state;
    mw_gguf w;
    const float scores[] = {0.0f, NAN, 1.0f, 2.0f};
    const int32_t types[] = {1, 7, 1, 1};
    mw_gguf_init(&w);
    expect(&w, TT_E_MODEL, "no tokenizer");
    begin(&w, "wordpiece");
    expect(&w, TT_E_UNSUPPORTED, "\"wordpiece\" is not supported");
    begin(&w, "\xFF\xFE");
    expect(&w, TT_E_UNSUPPORTED, "is not supported");
    mw_gguf_init(&w);
    mw_kv_str(&w, KEY("model"), "llama");
    expect(&w, TT_E_MODEL, "tokens is missing");
    mw_gguf_init(&w);
    mw_kv_str(&w, KEY("model"), "llama");
    mw_kv_strs(&w, KEY("tokens"), NULL, 0);
    expect(&w, TT_E_MODEL, "has 0 entries");
    begin(&w, "llama");
    expect(&w, TT_E_MODEL, "scores is missing");
    begin(&w, "llama");
    mw_kv_array(&w, KEY("scores"), 6, scores, 3, 4);
    expect(&w, TT_E_MODEL, "has 3 entries for 4 tokens");
    begin(&w, "llama");
    mw_kv_array(&w, KEY("scores"), 6, scores, 4, 4);
    expect(&w, TT_E_MODEL, "the score of token 1");
    begin(&w, "llama");
    mw_kv_array(&w, KEY("scores"), 5, types, 4, 4);
    expect(&w, TT_E_MODEL, "array of i32");
    begin(&w, "gpt2");
    expect(&w, TT_E_MODEL, "merges is missing");
    begin(&w, "gpt2");
    mw_kv_strs(&w, KEY("merges"), merges, 1);
    mw_kv_array(&w, KEY("token_type"), 5, types, 4, 4);
    expect(&w, TT_E_MODEL, "token 1 has type 7");
    begin(&w, "gpt2");
    mw_kv_strs(&w, KEY("merges"), merges, 1);
    mw_kv_u32(&w, KEY("bos_token_id"), 4);
    expect(&w, TT_E_MODEL, "bos_token_id is 4, the vocabulary has 4 tokens");
    begin(&w, "gpt2");
    mw_kv_strs(&w, KEY("merges"), merges, 1);
    mw_kv_u32(&w, KEY("pre"), 4);
    expect(&w, TT_E_MODEL, "expected a string");
}

static void test_out_of_memory(void **state)
{
    (void)state;
    for (size_t limit = 16; limit < 200; limit += 16) {
        mw_gguf w;
        const float scores[4] = {0};
        const int32_t types[4] = {1, 1, 1, 1};
        size_t n;
        tt_vocab v;
        tt_err err = {.code = TT_OK};
        begin(&w, "llama");
        mw_kv_array(&w, KEY("scores"), 6, scores, 4, 4);
        mw_kv_array(&w, KEY("token_type"), 5, types, 4, 4);
        file = mw_gguf_finish(&w, &n);
        assert_int_equal(tt_gguf_open(file, n, &gguf, &err), TT_OK);
        tt_arena_init(&arena, limit);
        tt_code rc = tt_vocab_read_gguf(gguf, &arena, &v, &err);
        assert_true(rc == TT_E_NOMEM || (rc == TT_OK && limit >= 96));
        done();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bpe),
        cmocka_unit_test(test_sentencepiece),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
