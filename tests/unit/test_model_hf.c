/* test_model_hf.c - core/model_hf.c: the same tiny models as a Hugging Face folder and as a GGUF
 * file, and folders with something missing or wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/model.h"
#include "model_writer.h"

static const char tokenizer[] =
    "{'version': '1.0', 'added_tokens': [{'id': 3, 'content': '<e>', 'single_word': false, "
    "'lstrip': false, 'rstrip': false, 'normalized': false, 'special': true}], 'normalizer': null, "
    "'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [{'type': 'Digits', "
    "'individual_digits': true}, {'type': 'ByteLevel', 'add_prefix_space': false, "
    "'trim_offsets': false, 'use_regex': true}]}, 'post_processor': null, 'decoder': {'type': "
    "'ByteLevel', 'add_prefix_space': true, 'trim_offsets': true, 'use_regex': true}, 'model': "
    "{'type': 'BPE', 'dropout': null, 'unk_token': null, 'continuing_subword_prefix': null, "
    "'end_of_word_suffix': null, 'fuse_unk': false, 'byte_fallback': false, 'ignore_merges': "
    "false, "
    "'vocab': {'a': 0, 'b': 1, 'ab': 2}, 'merges': ['a b']}}";

static void write_text(const char *folder, const char *name, const char *text)
{
    size_t n = strlen(text);
    char *copy = malloc(n + 1);
    assert_non_null(copy);
    for (size_t i = 0; i <= n; i++) {
        copy[i] = text[i] == '\'' ? '"' : text[i];
    }
    mw_write_file(folder, name, copy, n);
    free(copy);
}

static char *make(const mw_model *d, int n_shards, const char *config)
{
    char *folder = mw_make_folder();
    mw_model_hf(folder, d, n_shards, config);
    write_text(folder, "tokenizer.json", tokenizer);
    write_text(folder, "tokenizer_config.json", "{'eos_token': '<e>'}");
    return folder;
}

static tt_code open_folder(const char *folder, tt_model **ret, tt_err *err)
{
    *ret = NULL;
    *err = (tt_err){.code = TT_OK};
    tt_code rc = tt_model_open(folder, ret, err);
    assert_true((rc == TT_OK) == (*ret != NULL));
    assert_true(rc == TT_OK || strlen(err->msg) > 20);
    return rc;
}

static tt_model *open_good(const char *folder)
{
    tt_model *m;
    tt_err err;
    if (open_folder(folder, &m, &err) != TT_OK) {
        fail_msg("%s", err.msg);
    }
    return m;
}

/* Opens, compares the outcome, removes the folder. */
static void expect(char *folder, tt_code code, const char *text)
{
    tt_model *m;
    tt_err err;
    tt_code rc = open_folder(folder, &m, &err);
    tt_model_close(&m);
    mw_remove_folder(folder);
    if (rc != code || strstr(err.msg, text) == NULL) {
        fail_msg("got %d \"%s\", expected %d \"%s\"", rc, err.msg, code, text);
    }
}

static void same_vector(const tt_vector *a, const tt_vector *b)
{
    assert_int_equal(a->n, b->n);
    assert_true((a->host == NULL) == (b->host == NULL));
    if (a->n > 0) {
        assert_memory_equal(a->host, b->host, (size_t)a->n * sizeof(float));
    }
}

static void same_matrix(const tt_matrix *a, const tt_matrix *b)
{
    assert_int_equal(a->w.rows, b->w.rows);
    assert_int_equal(a->w.cols, b->w.cols);
    assert_int_equal(a->w.type, b->w.type);
    assert_memory_equal(a->host, b->host, (size_t)(a->w.rows * tt_row_bytes(a->w.type, a->w.cols)));
}

static void same_layer(const tt_layer *a, const tt_layer *b)
{
    assert_int_equal(a->window, b->window);
    assert_int_equal(a->rope, b->rope);
    same_vector(&a->attn_norm, &b->attn_norm);
    same_vector(&a->bq, &b->bq);
    same_vector(&a->bk, &b->bk);
    same_vector(&a->bv, &b->bv);
    same_vector(&a->q_norm, &b->q_norm);
    same_vector(&a->k_norm, &b->k_norm);
    same_vector(&a->attn_post_norm, &b->attn_post_norm);
    same_vector(&a->ffn_norm, &b->ffn_norm);
    same_vector(&a->ffn_post_norm, &b->ffn_post_norm);
    same_matrix(&a->wq, &b->wq);
    same_matrix(&a->wk, &b->wk);
    same_matrix(&a->wv, &b->wv);
    same_matrix(&a->wo, &b->wo);
    same_matrix(&a->gate, &b->gate);
    same_matrix(&a->up, &b->up);
    same_matrix(&a->down, &b->down);
}

static void same_model(const tt_model *a, const tt_model *b)
{
    assert_string_equal(a->arch, b->arch);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->n_ctx_train, b->n_ctx_train);
    assert_int_equal(a->n_params, b->n_params);
    assert_true(a->norm_eps == b->norm_eps && a->attn_scale == b->attn_scale);
    assert_true(a->embed_scale == b->embed_scale && a->act == b->act);
    assert_int_equal(a->tied_head, b->tied_head);
    assert_int_equal(a->n_ropes, b->n_ropes);
    for (int i = 0; i < a->n_ropes; i++) {
        same_vector(&a->rope[i].inv_freq, &b->rope[i].inv_freq);
        assert_true(a->rope[i].mscale == b->rope[i].mscale);
    }
    same_matrix(&a->embed, &b->embed);
    same_matrix(&a->head, &b->head);
    same_vector(&a->final_norm, &b->final_norm);
    for (int32_t i = 0; i < a->n_layers; i++) {
        same_layer(&a->layers[i], &b->layers[i]);
    }
}

static void test_same_as_gguf(void **state)
{
    (void)state;
    static const mw_model models[] = {
        {.arch = "llama"},
        {.arch = "llama", .tied = true, .qkv_bias = true},
        {.arch = "qwen2", .kv_heads = 1},
        {.arch = "qwen3", .head_dim = 16, .tied = true},
        {.arch = "gemma3", .layers = 3, .tied = true},
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char *folder = make(&models[i], 1, NULL);
        mw_gguf w;
        size_t n;
        mw_gguf_init(&w);
        mw_model_gguf(&w, &models[i]);
        uint8_t *p = mw_gguf_finish(&w, &n);
        mw_write_file(folder, "m.gguf", p, n);
        free(p);
        char path[4200];
        snprintf(path, sizeof path, "%s/m.gguf", folder);
        tt_model *hf = open_good(folder), *gguf = open_good(path);
        same_model(hf, gguf);
        assert_int_equal(hf->rope[0].kind, TT_ROPE_HALF);
        assert_string_equal(hf->format, "safetensors");
        assert_memory_equal(hf->name, "qttt_test_", 10); /* the folder's */
        assert_int_equal(hf->vocab.n_tokens, 4);
        assert_int_equal(hf->vocab.eos, 3);
        assert_memory_equal(hf->eos_text.p, "<e>", 3);
        if (gguf->rope[0].kind == TT_ROPE_HALF) {
            assert_true(hf->fingerprint == gguf->fingerprint);
        }
        tt_model_close(&hf);
        tt_model_close(&gguf);
        mw_remove_folder(folder);
    }
}

static void test_dot(void **state)
{
    (void)state;
    char *folder = make(&(mw_model){.arch = "llama", .layers = 1}, 1, NULL);
    char path[4200];
    snprintf(path, sizeof path, "%s/.", folder);
    tt_model *a = open_good(folder), *b = open_good(path);
    assert_string_equal(a->name, b->name);
    tt_model_close(&a);
    tt_model_close(&b);
    mw_remove_folder(folder);
}

static void test_shards(void **state)
{
    (void)state;
    const mw_model d = {.arch = "qwen3"};
    char *one = make(&d, 1, NULL), *three = make(&d, 3, NULL);
    tt_model *a = open_good(one), *b = open_good(three);
    same_model(a, b);
    assert_true(a->fingerprint == b->fingerprint);
    tt_model_close(&a);
    tt_model_close(&b);
    mw_remove_folder(one);

    char path[4200];
    snprintf(path, sizeof path, "%s/model-00002-of-00003.safetensors", three);
    unlink(path);
    expect(three, TT_E_MODEL, "model-00002-of-00003.safetensors: the file is missing");

    three = make(&d, 3, NULL);
    write_text(three, "model.safetensors.index.json",
               "{'weight_map': {'model.norm.weight': 'model-00001-of-00003.safetensors'}}");
    expect(three, TT_E_MODEL, "model.norm.weight is not in model-00001-of-00003.safetensors");
    three = make(&d, 3, NULL);
    write_text(three, "model.safetensors.index.json",
               "{'weight_map': {'model.norm.weight': '../m.safetensors'}}");
    expect(three, TT_E_MODEL, "is not in a file of this folder");
}

/* A header of odd length puts every tensor at an odd address. */
static void test_misaligned(void **state)
{
    (void)state;
    const mw_model plain = {.arch = "llama"}, odd = {.arch = "llama", .misalign = 3};
    char *x = make(&plain, 1, NULL), *y = make(&odd, 1, NULL);
    tt_model *a = open_good(x), *b = open_good(y);
    same_model(a, b);
    assert_int_equal((uintptr_t)b->embed.host % 4, 0);
    assert_int_equal((uintptr_t)b->layers[1].down.host % 4, 0);
    tt_model_close(&a);
    tt_model_close(&b);
    mw_remove_folder(x);
    mw_remove_folder(y);
}

#define GEMMA_INSIDE                                                                               \
    "{\"model_type\": \"gemma3\", \"vision_config\": {}, \"text_config\": {\"hidden_size\": 32, "  \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"num_hidden_layers\": 1, "           \
    "\"intermediate_size\": 64, \"head_dim\": 8, \"sliding_window\": 16, "                         \
    "\"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 128, \"query_pre_attn_scalar\": 8}}"

static void test_prefixes(void **state)
{
    (void)state;
    static const char *const prefixes[] = {"model.", "language_model.model.",
                                           "model.language_model.", ""};
    char *plain = make(&(mw_model){.arch = "gemma3", .layers = 1, .tied = true}, 1, NULL);
    tt_model *a = open_good(plain);
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        mw_model d = {.arch = "gemma3",
                      .layers = 1,
                      .tied = true,
                      .hf_prefix = prefixes[i],
                      .extra = "vision_tower.x"};
        char *folder = make(&d, 1, GEMMA_INSIDE);
        tt_model *b = open_good(folder);
        same_model(a, b);
        tt_model_close(&b);
        mw_remove_folder(folder);
    }
    tt_model_close(&a);
    mw_remove_folder(plain);
    /* a head beside a tied embedding is a copy of it */
    mw_model d = {.arch = "gemma3", .layers = 1, .hf_prefix = "language_model.model."};
    char *folder = make(&d, 1, GEMMA_INSIDE);
    tt_model *b = open_good(folder);
    assert_ptr_equal(b->head.host, b->embed.host);
    tt_model_close(&b);
    mw_remove_folder(folder);
}

static void test_chat_templates(void **state)
{
    (void)state;
    static const struct {
        const char *config, *jinja, *json, *want;
    } cases[] = {
        {NULL, NULL, NULL, NULL},
        {"{'chat_template': 'C'}", NULL, NULL, "C"},
        {"{'chat_template': [{'name': 'x', 'template': 'X'}, {'name': 'default', 'template': "
         "'D'}]}",
         NULL, NULL, "D"},
        {"{'chat_template': [{'name': 'x', 'template': 'X'}]}", NULL, NULL, NULL},
        {"{'chat_template': 7}", NULL, "{'chat_template': 'J'}", "J"},
        {"{'chat_template': 'C'}", "JJ", "{'chat_template': 'J'}", "JJ"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *folder = make(&(mw_model){.arch = "llama", .layers = 1}, 1, NULL);
        if (cases[i].config != NULL) {
            write_text(folder, "tokenizer_config.json", cases[i].config);
        }
        if (cases[i].jinja != NULL) {
            write_text(folder, "chat_template.jinja", cases[i].jinja);
        }
        if (cases[i].json != NULL) {
            write_text(folder, "chat_template.json", cases[i].json);
        }
        tt_model *m = open_good(folder);
        const char *want = cases[i].want;
        assert_true((m->chat_template.p == NULL) == (want == NULL));
        if (want != NULL) {
            assert_int_equal(m->chat_template.n, strlen(want));
            assert_memory_equal(m->chat_template.p, want, strlen(want));
        }
        tt_model_close(&m);
        mw_remove_folder(folder);
    }
}

static char *without(const char *file)
{
    char *folder = make(&(mw_model){.arch = "llama", .layers = 1}, 1, NULL);
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    unlink(path);
    return folder;
}

static char *with_text(const char *file, const char *text)
{
    char *folder = make(&(mw_model){.arch = "llama", .layers = 1}, 1, NULL);
    write_text(folder, file, text);
    return folder;
}

static void test_refused(void **state)
{
    (void)state;
    expect(without("config.json"), TT_E_MODEL, "the folder has no config.json");
    expect(without("model.safetensors"), TT_E_MODEL, "neither model.safetensors nor");
    expect(without("tokenizer.json"), TT_E_IO, "tokenizer.json");
    expect(with_text("config.json", "{"), TT_E_MODEL, "config.json: JSON error in line 1");
    expect(with_text("config.json", ""), TT_E_MODEL, "config.json: the file is empty");
    expect(with_text("model.safetensors", "12345678{"), TT_E_MODEL, "model.safetensors: truncated");
    expect(with_text("tokenizer.json", "{}"), TT_E_MODEL, "tokenizer.json");
    expect(with_text("chat_template.json", "{"), TT_E_MODEL, "chat_template.json: JSON error");
    const struct {
        mw_model m;
        const char *text;
        tt_code code;
    } cases[] = {
        {{.skip = "blk.1.attn_v.weight"},
         "model.layers.1.self_attn.v_proj.weight is missing",
         TT_E_MODEL},
        {{.skip = "token_embd.weight"}, "model.embed_tokens.weight is missing", TT_E_MODEL},
        {{.skip = "output.weight"}, "lm_head.weight is missing", TT_E_MODEL},
        {{.reshape = "token_embd.weight"}, "lm_head.weight", TT_E_MODEL},
        {{.reshape = "token_embd.weight", .tied = true},
         "vocab_size is 24, the embedding has 25",
         TT_E_MODEL},
        {{.reshape = "blk.0.ffn_up.weight"}, "has shape [65, 32], expected [64, 32]", TT_E_MODEL},
        {{.poison = "output_norm.weight"}, "not finite", TT_E_MODEL},
        {{.extra = "model.layers.0.self_attn.o_proj.bias"}, "has no place", TT_E_UNSUPPORTED},
        {{.extra = "vision_tower.x"}, "", TT_OK},
        {{.extra = "model.layers.0.self_attn.rotary_emb.inv_freq"}, "", TT_OK},
        {{.vocab = 3}, "vocabulary has 4 tokens, the embedding 3 rows", TT_E_MODEL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect(make(&cases[i].m, 1, NULL), cases[i].code, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_gguf), cmocka_unit_test(test_shards),
        cmocka_unit_test(test_dot),          cmocka_unit_test(test_misaligned),
        cmocka_unit_test(test_prefixes),     cmocka_unit_test(test_chat_templates),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
