/* test_model.c - core/model*.c: tiny models of every architecture as GGUF files, and what is
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model.h"
#include "kernels/quant.h"
#include "model_writer.h"

static char *folder;

static int set_up(void **state)
{
    (void)state;
    folder = mw_make_folder();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    mw_remove_folder(folder);
    return 0;
}

static tt_code open_in_folder(const char *name, tt_model **ret, tt_err *err)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    *ret = NULL;
    *err = (tt_err){.code = TT_OK};
    tt_code rc = tt_model_open(path, ret, err);
    assert_true((rc == TT_OK) == (*ret != NULL));
    if (rc != TT_OK) {
        assert_int_equal(err->code, rc);
        assert_memory_equal(err->msg, name, strlen(name)); /* what and where */
    }
    return rc;
}

/* Writes w to a file and opens that. */
static tt_code open_written(mw_gguf *w, tt_model **ret, tt_err *err)
{
    size_t n;
    uint8_t *p = mw_gguf_finish(w, &n);
    mw_write_file(folder, "tiny.gguf", p, n);
    free(p);
    return open_in_folder("tiny.gguf", ret, err);
}

static tt_code open_model(const mw_model *d, tt_model **ret, tt_err *err)
{
    mw_gguf w;
    mw_gguf_init(&w);
    mw_model_gguf(&w, d);
    return open_written(&w, ret, err);
}

static tt_model *open_good(const mw_model *d)
{
    tt_model *m;
    tt_err err;
    if (open_model(d, &m, &err) != TT_OK) {
        fail_msg("%s: %s", d->arch != NULL ? d->arch : "llama", err.msg);
    }
    return m;
}

static void expect(const mw_model *d, tt_code code, const char *text)
{
    tt_model *m;
    tt_err err;
    tt_code rc = open_model(d, &m, &err);
    tt_model_close(&m);
    if (rc != code || strstr(err.msg, text) == NULL) {
        fail_msg("got %d \"%s\", expected %d \"%s\"", rc, err.msg, code, text);
    }
}

static void test_llama(void **state)
{
    (void)state;
    tt_model *m = open_good(&(mw_model){.arch = "llama"});
    assert_string_equal(m->arch, "llama");
    assert_string_equal(m->format, "gguf v3");
    assert_string_equal(m->name, "tiny");
    assert_string_equal(m->quant, "F32");
    assert_int_equal(m->n_layers, 2);
    assert_int_equal(m->hidden, 32);
    assert_int_equal(m->n_heads, 4);
    assert_int_equal(m->n_kv_heads, 2);
    assert_int_equal(m->head_dim, 8);
    assert_int_equal(m->ffn, 64);
    assert_int_equal(m->n_vocab, 24);
    assert_int_equal(m->n_ctx_train, 128);
    assert_true(m->norm_eps == 1e-5f && m->embed_scale == 1.0f);
    assert_true(fabsf(m->attn_scale - 1.0f / sqrtf(8.0f)) < 1e-7f);
    assert_int_equal(m->act, TT_ACT_SILU);
    assert_int_equal(m->n_ropes, 1);
    assert_int_equal(m->rope[0].kind, TT_ROPE_INTERLEAVED);
    assert_int_equal(m->rope[0].rot_dim, 8);
    assert_int_equal(m->rope[0].inv_freq.n, 4);
    assert_true(fabsf(m->rope[0].inv_freq.host[1] - 0.1f) < 1e-7f);
    assert_false(m->tied_head);
    assert_ptr_not_equal(m->head.host, m->embed.host);
    const tt_layer *l = &m->layers[1];
    assert_int_equal(l->wk.w.rows, 16);
    assert_int_equal(l->wk.w.cols, 32);
    assert_int_equal(l->down.w.rows, 32);
    assert_int_equal(l->down.w.cols, 64);
    assert_null(l->bq.host);
    assert_null(l->q_norm.host);
    assert_null(l->attn_post_norm.host);
    assert_int_equal(l->ffn_norm.n, 32);
    assert_int_equal(l->window, 0);
    assert_int_equal(l->wq.w.data, 0);
    uint64_t layer = 2 * 32 + 32 * 32 * 2 + 16 * 32 * 2 + 3 * 64 * 32;
    assert_int_equal(m->n_params, 2 * 24 * 32 + 2 * layer + 32);
    assert_int_equal(m->weight_bytes, 4 * m->n_params);
    assert_int_equal(tt_model_kv_bytes_per_token(m, TT_BF16), 2 * 2 * 16 * 2);
    assert_int_equal(tt_model_kv_bytes_per_token(m, TT_F32), 2 * 2 * 16 * 4);
    assert_true(m->n_kv_heads * m->head_dim == 16 && m->n_kv_heads > 0);
    assert_int_equal(tt_model_kv_bytes_per_token(m, TT_I8), 2 * 2 * (16 + 4 * m->n_kv_heads));
    assert_int_equal(m->n_tensors, 3 + 2 * 9);
    assert_int_equal(m->vocab.kind, TT_VOCAB_SPM);
    assert_int_equal(m->vocab.n_tokens, 24);
    assert_int_equal(m->vocab.tokens[5].n, 2);
    assert_memory_equal(m->vocab.tokens[5].p, "t5", 2);
    assert_true(m->vocab.scores[5] == -5.0f);
    assert_int_equal(m->vocab.types[2], TT_TOKEN_CONTROL);
    assert_int_equal(m->vocab.bos, 1);
    assert_int_equal(m->vocab.eos, 2);
    assert_true(m->vocab.add_bos && m->vocab.add_space_prefix && !m->vocab.add_eos);
    assert_memory_equal(m->bos_text.p, "<s>", 3);
    assert_null(m->chat_template.p);
    tt_model_close(&m);
    assert_null(m);
    tt_model_close(&m);
}

static void test_other_archs(void **state)
{
    (void)state;
    tt_model *m = open_good(&(mw_model){.arch = "qwen2", .tied = true});
    assert_true(m->tied_head);
    assert_ptr_equal(m->head.host, m->embed.host);
    assert_int_equal(m->head.w.rows, 24);
    assert_int_equal(m->layers[0].bq.n, 32);
    assert_int_equal(m->layers[1].bv.n, 16);
    assert_int_equal(m->rope[0].kind, TT_ROPE_HALF);
    tt_model_close(&m);

    m = open_good(&(mw_model){.arch = "qwen3", .head_dim = 16});
    assert_int_equal(m->layers[0].q_norm.n, 16);
    assert_int_equal(m->layers[1].k_norm.n, 16);
    assert_int_equal(m->layers[0].wq.w.rows, 64);
    assert_int_equal(m->layers[0].wo.w.cols, 64);
    tt_model_close(&m);

    m = open_good(&(mw_model){.arch = "llama", .qkv_bias = true});
    assert_int_equal(m->layers[0].bk.n, 16);
    tt_model_close(&m);

    m = open_good(&(mw_model){.arch = "gemma3", .layers = 3, .tied = true});
    assert_true(m->embed_scale == sqrtf(32.0f));
    assert_int_equal(m->act, TT_ACT_GELU_TANH);
    assert_int_equal(m->n_ropes, 2);
    assert_true(fabsf(m->rope[0].inv_freq.host[1] - powf(1e6f, -0.25f)) < 1e-8f);
    assert_true(fabsf(m->rope[1].inv_freq.host[1] - 0.1f) < 1e-7f);
    assert_int_equal(m->layers[0].window, 16);
    assert_int_equal(m->layers[0].rope, 1);
    assert_int_equal(m->layers[2].attn_post_norm.n, 32);
    assert_int_equal(m->layers[2].ffn_post_norm.n, 32);
    tt_model_close(&m);
}

static void test_gemma_layers(void **state)
{
    (void)state;
    mw_gguf w;
    mw_gguf_init(&w);
    mw_kv_u32(&w, "gemma3.attention.sliding_window_pattern", 3);
    mw_kv_f32(&w, "gemma3.rope.freq_base_swa", 100.0f);
    mw_kv_f32(&w, "gemma3.attention.scale", 0.25f);
    mw_kv_str(&w, "gemma3.rope.scaling.type", "linear");
    mw_kv_f32(&w, "gemma3.rope.scaling.factor", 8.0f);
    mw_kv_str(&w, "general.name", " A model/of \xC3\xA9 mine! ");
    mw_kv_str(&w, "tokenizer.chat_template", "{{ x }}");
    mw_model_gguf(&w, &(mw_model){.arch = "gemma3", .layers = 3});
    tt_model *m;
    tt_err err;
    assert_int_equal(open_written(&w, &m, &err), TT_OK);
    assert_int_equal(m->layers[1].window, 16);
    assert_int_equal(m->layers[2].window, 0);
    assert_int_equal(m->layers[2].rope, 0);
    assert_true(m->attn_scale == 0.25f);
    assert_int_equal(m->rope_scaling, TT_ROPE_LINEAR);
    assert_true(m->rope[0].inv_freq.host[0] == 0.125f);
    assert_true(m->rope[1].inv_freq.host[0] == 1.0f); /* never scaled */
    assert_true(fabsf(m->rope[1].inv_freq.host[2] - 0.1f) < 1e-7f);
    assert_string_equal(m->name, "A-model-of-mine");
    assert_int_equal(m->chat_template.n, 7);
    tt_model_close(&m);
}

static void test_gemma_pattern(void **state)
{
    (void)state;
    const uint8_t pattern[] = {0, 1, 0};
    for (uint64_t n = 2; n <= 3; n++) {
        mw_gguf w;
        tt_model *m;
        tt_err err;
        mw_gguf_init(&w);
        mw_kv_array(&w, "gemma3.attention.sliding_window_pattern", 7, pattern, n, 1);
        mw_model_gguf(&w, &(mw_model){.arch = "gemma3", .layers = 3});
        tt_code rc = open_written(&w, &m, &err);
        if (n == 2) {
            assert_int_equal(rc, TT_E_MODEL);
            assert_non_null(strstr(err.msg, "has 2 entries for 3 layers"));
            continue;
        }
        assert_int_equal(rc, TT_OK);
        assert_true(m->layers[0].window == 0 && m->layers[1].window == 16 &&
                    m->layers[2].window == 0);
        assert_true(m->layers[0].rope == 0 && m->layers[1].rope == 1);
        tt_model_close(&m);
    }
}

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *general, *want;
    } cases[] = {
        {"Qwen3 0.6B", "Qwen3-0.6B"},
        {"../../etc/passwd", "etc-passwd"},
        {"...", "tiny"}, /* nothing left: the file's name */
        {"", "tiny"},
        {"a\xFF\xFE  b--", "a-b"},
        {"0123456789012345678901234567890123456789012345678901234567890123456789",
         "012345678901234567890123456789012345678901234567890123456789012"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mw_gguf w;
        tt_model *m;
        tt_err err;
        mw_gguf_init(&w);
        mw_kv_str(&w, "general.name", cases[i].general);
        mw_model_gguf(&w, &(mw_model){.layers = 1});
        assert_int_equal(open_written(&w, &m, &err), TT_OK);
        assert_string_equal(m->name, cases[i].want);
        tt_model_close(&m);
    }
}

static void test_rope_freqs(void **state)
{
    (void)state;
    tt_model *plain = open_good(&(mw_model){.layers = 1});
    tt_model *scaled = open_good(&(mw_model){.layers = 1, .rope_freqs = true});
    assert_int_equal(plain->rope_scaling, TT_ROPE_NONE);
    assert_int_equal(scaled->rope_scaling, TT_ROPE_LLAMA3);
    for (int i = 0; i < 4; i++) {
        float want = plain->rope[0].inv_freq.host[i] / (float)(1 + i);
        assert_true(fabsf(scaled->rope[0].inv_freq.host[i] - want) <= 1e-7f * want);
    }
    assert_true(plain->fingerprint != scaled->fingerprint);
    tt_model_close(&plain);
    tt_model_close(&scaled);
}

static void test_yarn(void **state)
{
    (void)state;
    mw_gguf w;
    mw_gguf_init(&w);
    mw_kv_str(&w, "qwen2.rope.scaling.type", "yarn");
    mw_kv_f32(&w, "qwen2.rope.scaling.factor", 4.0f);
    mw_kv_u32(&w, "qwen2.rope.scaling.original_context_length", 128);
    mw_model_gguf(&w, &(mw_model){.arch = "qwen2"});
    tt_model *m;
    tt_err err;
    assert_int_equal(open_written(&w, &m, &err), TT_OK);
    assert_int_equal(m->rope_scaling, TT_ROPE_YARN);
    assert_int_equal(m->n_ctx_train, 512);
    assert_true(fabsf(m->rope[0].mscale - 1.1386294f) < 1e-6f);
    tt_model_close(&m);
}

/* Every part of what decides logits shows in the fingerprint, and nothing else does. */
static void test_fingerprint(void **state)
{
    (void)state;
    static const mw_model others[] = {
        {.layers = 1},
        {.heads = 2, .kv_heads = 1, .head_dim = 16},
        {.eps = 1e-6f},
        {.tied = true},
        {.changed = "token_embd.weight"},
        {.changed = "blk.1.ffn_down.weight"},
        {.changed = "blk.0.attn_norm.weight"},
        {.changed = "output.weight"},
        {.qkv_bias = true},
    };
    tt_model *a = open_good(&(mw_model){.layers = 2});
    tt_model *b = open_good(&(mw_model){.layers = 2, .n_tokens = 20});
    assert_true(a->fingerprint == b->fingerprint);
    tt_model_close(&b);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        b = open_good(&others[i]);
        if (a->fingerprint == b->fingerprint) {
            fail_msg("case %zu has the same fingerprint", i);
        }
        tt_model_close(&b);
    }
    tt_model_close(&a);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        mw_model m;
        tt_code code;
        const char *text;
    } cases[] = {
        {{.arch = "mamba"}, TT_E_UNSUPPORTED, "architecture \"mamba\" is not supported"},
        {{.skip = "general.architecture"}, TT_E_MODEL, "general.architecture is missing"},
        {{.skip = "llama.block_count"}, TT_E_MODEL, "llama.block_count is missing"},
        {{.skip = "llama.context_length"}, TT_E_MODEL, "llama.context_length is missing"},
        {{.skip = "llama.attention.layer_norm_rms_epsilon"}, TT_E_MODEL, "epsilon is missing"},
        {{.skip = "tokenizer.ggml.model"}, TT_E_MODEL, "no tokenizer"},
        {{.skip = "token_embd.weight"}, TT_E_MODEL, "token_embd.weight is missing"},
        {{.skip = "output_norm.weight"}, TT_E_MODEL, "output_norm.weight is missing"},
        {{.skip = "blk.1.attn_q.weight"}, TT_E_MODEL, "blk.1.attn_q.weight is missing"},
        {{.arch = "qwen2", .skip = "blk.0.attn_k.bias"}, TT_E_MODEL, "attn_k.bias is missing"},
        {{.arch = "qwen3", .skip = "blk.0.attn_q_norm.weight"}, TT_E_MODEL, "attn_q_norm"},
        {{.arch = "gemma3", .skip = "blk.0.post_ffw_norm.weight"}, TT_E_MODEL, "post_ffw_norm"},
        {{.reshape = "blk.0.attn_q.weight"}, TT_E_MODEL, "has shape [33, 32], expected [32, 32]"},
        {{.reshape = "blk.1.ffn_norm.weight"}, TT_E_MODEL, "has shape [33], expected [32]"},
        {{.reshape = "output.weight"}, TT_E_MODEL, "has shape [25, 32], expected [24, 32]"},
        {{.poison = "blk.1.attn_norm.weight"}, TT_E_MODEL, "not finite"},
        {{.extra = "blk.0.ffn_gate_inp.weight"}, TT_E_UNSUPPORTED, "has no place"},
        {{.extra = "blk.2.attn_norm.weight"}, TT_E_UNSUPPORTED, "has no place"},
        {{.arch = "qwen2", .extra = "blk.0.attn_q_norm.weight"}, TT_E_UNSUPPORTED, "has no place"},
        {{.eps = -1e-5f}, TT_E_MODEL, "epsilon of the norms"},
        {{.eps = NAN}, TT_E_MODEL, "not a finite number"},
        {{.eps = INFINITY}, TT_E_MODEL, "not a finite number"},
        {{.heads = 3, .kv_heads = 2}, TT_E_MODEL, "share"},
        {{.head_dim = 7}, TT_E_MODEL, "rope rotates 7"},
        {{.n_tokens = 25}, TT_E_MODEL, "vocabulary has 25 tokens, the embedding 24 rows"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect(&cases[i].m, cases[i].code, cases[i].text);
    }
}

/* One value that goes before the model's own, which makes two of the same key where the model has
 * it too. */
static void expect_with_u32(const char *key, uint32_t x, const char *skip, tt_code code,
                            const char *text)
{
    mw_gguf w;
    tt_model *m;
    tt_err err;
    mw_gguf_init(&w);
    mw_kv_u32(&w, key, x);
    mw_model_gguf(&w, &(mw_model){.skip = skip});
    tt_code rc = open_written(&w, &m, &err);
    tt_model_close(&m);
    if (rc != code || strstr(err.msg, text) == NULL) {
        fail_msg("%s = %u: got %d \"%s\", expected %d \"%s\"", key, (unsigned)x, rc, err.msg, code,
                 text);
    }
}

static void test_hostile_values(void **state)
{
    (void)state;
    static const char *const sizes[] = {
        "llama.block_count",         "llama.embedding_length",     "llama.context_length",
        "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.head_count_kv",
        "llama.attention.key_length"};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        bool is_key =
            i == sizeof sizes / sizeof sizes[0] - 1; /* first seen to differ from the value's */
        tt_code code = is_key ? TT_E_UNSUPPORTED : TT_E_MODEL;
        expect_with_u32(sizes[i], 0, sizes[i], code, "");
        expect_with_u32(sizes[i], UINT32_MAX, sizes[i], TT_E_MODEL, sizes[i]);
        expect_with_u32(sizes[i], INT32_MAX, sizes[i], code, "");
    }
    expect_with_u32("split.count", 3, NULL, TT_E_UNSUPPORTED, "one of 3 parts");
    expect_with_u32("split.count", 1, NULL, TT_OK, "");
    expect_with_u32("llama.expert_count", 8, NULL, TT_E_UNSUPPORTED, "experts");
    expect_with_u32("llama.rope.dimension_count", 16, NULL, TT_E_MODEL, "rope rotates 16");
    expect_with_u32("llama.rope.dimension_count", 0, NULL, TT_E_MODEL, "rope rotates 0");
    expect_with_u32("llama.rope.dimension_count", 4, NULL, TT_OK, "");
    expect_with_u32("llama.rope.freq_base", 4, NULL, TT_E_MODEL, "expected a float");
    expect_with_u32("llama.block_count", 2, NULL, TT_E_MODEL, "two values have the key");
    expect_with_u32("tokenizer.ggml.bos_token_id", 24, NULL, TT_E_MODEL, "has 24 tokens");
    expect_with_u32("tokenizer.ggml.padding_token_id", UINT32_MAX, NULL, TT_OK, "");
    expect_with_u32("tokenizer.ggml.add_bos_token", 1, NULL, TT_E_MODEL, "bool");
    expect_with_u32("tokenizer.chat_template", 1, NULL, TT_E_MODEL, "string");
}

/* Cut anywhere and with any byte changed, a whole model gives a model or an error, never more. */
static void test_damaged(void **state)
{
    (void)state;
    mw_gguf w;
    mw_gguf_init(&w);
    mw_model_gguf(&w, &(mw_model){.arch = "gemma3",
                                  .layers = 1,
                                  .hidden = 8,
                                  .heads = 1,
                                  .kv_heads = 1,
                                  .head_dim = 4,
                                  .ffn = 4,
                                  .vocab = 4});
    size_t n;
    uint8_t *p = mw_gguf_finish(&w, &n);
    tt_model *m;
    tt_err err;
    for (size_t i = 1; i < n; i += i < 64 ? 1 : 31) {
        mw_write_file(folder, "cut.gguf", p, i);
        assert_int_equal(open_in_folder("cut.gguf", &m, &err), TT_E_MODEL);
    }
    for (size_t i = 0; i < n; i += 5) {
        p[i] ^= (uint8_t)(1u << i % 8);
        mw_write_file(folder, "bad.gguf", p, n);
        (void)open_in_folder("bad.gguf", &m, &err);
        tt_model_close(&m);
        p[i] ^= (uint8_t)(1u << i % 8);
    }
    free(p);
}

static void test_not_a_model(void **state)
{
    (void)state;
    tt_model *m;
    tt_err err;
    assert_int_equal(open_in_folder("missing.gguf", &m, &err), TT_E_IO);
    mw_write_file(folder, "empty.gguf", "", 0);
    assert_int_equal(open_in_folder("empty.gguf", &m, &err), TT_E_MODEL);
    mw_write_file(folder, "text.gguf", "hello", 5);
    assert_int_equal(open_in_folder("text.gguf", &m, &err), TT_E_MODEL);
    assert_int_equal(tt_model_open("/dev/null", &m, &err), TT_E_IO);
    assert_int_equal(tt_model_open("", &m, &err), TT_E_IO);
    tt_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),         cmocka_unit_test(test_other_archs),
        cmocka_unit_test(test_gemma_layers),  cmocka_unit_test(test_rope_freqs),
        cmocka_unit_test(test_gemma_pattern), cmocka_unit_test(test_names),
        cmocka_unit_test(test_yarn),          cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_hostile_values),
        cmocka_unit_test(test_damaged),       cmocka_unit_test(test_not_a_model),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
