/* test_config_json.c - core/config_json.c on configurations as transformers 4.51 to 5.23 write
 * them, and on bad ones. The JSON is written with ' for ". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/config_json.h"

static tt_config config; /* of the last read */

static tt_code read_json(const char *json, tt_err *err)
{
    size_t n = strlen(json);
    char *copy = malloc(n + 1);
    assert_non_null(copy);
    for (size_t i = 0; i <= n; i++) {
        copy[i] = json[i] == '\'' ? '"' : json[i];
    }
    *err = (tt_err){.code = TT_OK};
    tt_code rc = tt_config_read((const uint8_t *)copy, n, &config, err);
    free(copy);
    return rc;
}

static const tt_model_spec *read_good(const char *json)
{
    tt_err err;
    if (read_json(json, &err) != TT_OK) {
        fail_msg("%s: %s", json, err.msg);
    }
    return &config.spec;
}

#define DIMS                                                                                       \
    "'hidden_size': 64, 'intermediate_size': 128, 'num_attention_heads': 4, "                      \
    "'num_hidden_layers': 3, 'vocab_size': 320"

static void test_llama_4(void **state)
{
    (void)state;
    const tt_model_spec *s = read_good(
        "{'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', " DIMS
        ", 'num_key_value_heads': 2, 'max_position_embeddings': 131072, 'rms_norm_eps': 1e-05, "
        "'rope_scaling': {'factor': 32.0, 'high_freq_factor': 4.0, 'low_freq_factor': 1.0, "
        "'original_max_position_embeddings': 8192, 'rope_type': 'llama3'}, 'rope_theta': 500000.0, "
        "'tie_word_embeddings': true, 'torch_dtype': 'bfloat16', 'eos_token_id': [1, 2]}");
    assert_string_equal(s->arch->name, "llama");
    assert_int_equal(s->n_kv_heads, 2);
    assert_int_equal(s->head_dim, 16);
    assert_int_equal(s->n_ctx, 131072);
    assert_true(s->norm_eps == 1e-5 && s->attn_scale == 0.0);
    assert_true(s->tied && s->hf_names && s->sliding == NULL);
    assert_int_equal(s->rope[0].kind, TT_ROPE_HALF);
    assert_int_equal(s->rope[0].rot_dim, 16);
    assert_int_equal(s->rope[0].scaling, TT_ROPE_LLAMA3);
    assert_true(s->rope[0].base == 5e5 && s->rope[0].factor == 32.0 &&
                s->rope[0].orig_ctx == 8192.0);
    assert_true(s->rope[0].low_freq_factor == 1.0 && s->rope[0].high_freq_factor == 4.0);
    assert_int_equal(config.n_vocab, 320);
}

static void test_llama_5(void **state)
{
    (void)state;
    const tt_model_spec *s = read_good(
        "{'attention_bias': false, 'dtype': 'bfloat16', 'head_dim': 32, 'hidden_act': 'silu', " DIMS
        ", 'model_type': 'llama', 'mlp_bias': false, 'num_key_value_heads': null, "
        "'rope_parameters': {'factor': 8.0, 'high_freq_factor': 4.0, 'low_freq_factor': 1.0, "
        "'original_max_position_embeddings': 256, 'rope_theta': 500000.0, 'rope_type': 'llama3'}, "
        "'tie_word_embeddings': false}");
    assert_int_equal(s->n_kv_heads, 4);
    assert_int_equal(s->head_dim, 32);
    assert_int_equal(s->n_ctx, 2048);
    assert_false(s->tied);
    assert_true(s->norm_eps == 1e-6);
    assert_int_equal(s->rope[0].scaling, TT_ROPE_LLAMA3);
    assert_true(s->rope[0].base == 5e5 && s->rope[0].factor == 8.0 && s->rope[0].orig_ctx == 256.0);
}

static void test_rope_forms(void **state)
{
    (void)state;
    const tt_model_spec *s = read_good("{'model_type': 'llama', " DIMS "}");
    assert_int_equal(s->rope[0].scaling, TT_ROPE_NONE);
    assert_true(s->rope[0].base == 1e4);
    s = read_good("{'model_type': 'llama', " DIMS ", 'rope_theta': 100000, 'rope_scaling': null}");
    assert_true(s->rope[0].base == 1e5);
    s = read_good("{'model_type': 'llama', " DIMS
                  ", 'rope_scaling': {'type': 'linear', 'factor': 4}}");
    assert_int_equal(s->rope[0].scaling, TT_ROPE_LINEAR);
    assert_true(s->rope[0].factor == 4.0);
    assert_int_equal(s->n_ctx, 2048);
    /* Qwen's way: the position limit is the one before scaling */
    s = read_good("{'model_type': 'qwen2', " DIMS
                  ", 'num_key_value_heads': 4, 'max_position_embeddings': 32768, 'rope_theta': 1e6,"
                  "'rope_scaling': {'type': 'yarn', 'factor': 4.0, "
                  "'original_max_position_embeddings': 32768}}");
    assert_int_equal(s->rope[0].scaling, TT_ROPE_YARN);
    assert_int_equal(s->n_ctx, 131072);
    assert_true(s->rope[0].orig_ctx == 32768.0 && s->rope[0].factor == 4.0);
    assert_true(s->rope[0].beta_fast == 32.0 && s->rope[0].beta_slow == 1.0 && s->rope[0].truncate);
    assert_true(s->rope[0].attn_factor == 0.0);
    s = read_good("{'model_type': 'qwen3', " DIMS
                  ", 'num_key_value_heads': 4, 'rope_parameters': {'rope_type': 'yarn', "
                  "'factor': null, 'original_max_position_embeddings': 8192, 'rope_theta': 1e6, "
                  "'mscale': 0.707, 'mscale_all_dim': 1.0, 'truncate': false}}");
    assert_true(s->rope[0].factor == 4.0 && !s->rope[0].truncate);
    assert_int_equal(s->n_ctx, 32768);
    double a = 0.1 * log(4.0);
    assert_true(fabs(s->rope[0].attn_factor - (0.707 * a + 1) / (a + 1)) < 1e-12);
}

static void test_mistral(void **state)
{
    (void)state;
    const tt_model_spec *s =
        read_good("{'model_type': 'mistral', " DIMS ", 'sliding_window': null, "
                  "'num_key_value_heads': 2}");
    assert_string_equal(s->arch->name, "llama");
    assert_null(s->sliding);
    assert_int_equal(s->n_ctx, 131072);
    s = read_good("{'model_type': 'mistral', " DIMS
                  ", 'sliding_window': 16, 'num_key_value_heads': 2}");
    assert_int_equal(s->window, 16);
    assert_true(s->sliding[0] && s->sliding[1] && s->sliding[2]);
    s = read_good("{'model_type': 'mistral', " DIMS ", 'num_key_value_heads': 4}");
    assert_int_equal(s->window, 4096); /* the class's default */
}

static void test_qwen(void **state)
{
    (void)state;
    const tt_model_spec *s = read_good(
        "{'model_type': 'qwen2', " DIMS ", 'num_key_value_heads': 2, 'sliding_window': 64, "
        "'max_window_layers': 1, 'use_sliding_window': false, "
        "'layer_types': ['full_attention', 'full_attention', 'full_attention']}");
    assert_string_equal(s->arch->name, "qwen2");
    assert_null(s->sliding);
    assert_int_equal(s->head_dim, 16);
    s = read_good("{'model_type': 'qwen2', " DIMS
                  ", 'num_key_value_heads': 2, 'sliding_window': 64, "
                  "'max_window_layers': 1, 'use_sliding_window': true}");
    assert_true(!s->sliding[0] && s->sliding[1] && s->sliding[2]);
    assert_int_equal(s->window, 64);
    s = read_good("{'model_type': 'qwen3', " DIMS
                  ", 'num_key_value_heads': 2, 'sliding_window': 64, "
                  "'max_window_layers': 3, 'use_sliding_window': true, "
                  "'layer_types': ['sliding_attention', 'full_attention', 'sliding_attention']}");
    assert_string_equal(s->arch->name, "qwen3");
    assert_true(s->sliding[0] && !s->sliding[1] && s->sliding[2]);
    assert_int_equal(s->head_dim, 128);
}

static void test_gemma_4(void **state)
{
    (void)state;
    const tt_model_spec *s = read_good(
        "{'model_type': 'gemma3_text', 'hidden_size': 640, 'intermediate_size': 2048, "
        "'num_attention_heads': 4, 'num_hidden_layers': 18, 'num_key_value_heads': 1, "
        "'head_dim': 256, 'max_position_embeddings': 32768, 'query_pre_attn_scalar': 64, "
        "'rope_local_base_freq': 5000.0, 'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'}, "
        "'rope_theta': 1000000.0, 'sliding_window': 512, 'vocab_size': 262144, "
        "'hidden_activation': 'gelu_pytorch_tanh', 'final_logit_softcapping': null}");
    assert_string_equal(s->arch->name, "gemma3");
    assert_true(s->tied && s->attn_scale == 0.125);
    assert_int_equal(s->window, 512);
    for (int i = 0; i < 18; i++) {
        assert_int_equal(s->sliding[i], i % 6 != 5);
    }
    assert_int_equal(s->rope[0].scaling, TT_ROPE_LINEAR);
    assert_true(s->rope[0].base == 1e6 && s->rope[0].factor == 8.0);
    assert_int_equal(s->rope[1].scaling, TT_ROPE_NONE);
    assert_true(s->rope[1].base == 5000.0);
    assert_int_equal(s->rope[1].rot_dim, 256);
}

static void test_gemma_5(void **state)
{
    (void)state;
    const tt_model_spec *s =
        read_good("{'_sliding_window_pattern': 6, 'model_type': 'gemma3_text', " DIMS
                  ", 'head_dim': 32, 'num_key_value_heads': 2, 'query_pre_attn_scalar': 256, "
                  "'layer_types': ['sliding_attention', 'full_attention', 'sliding_attention'], "
                  "'rope_parameters': {'full_attention': {'factor': 8.0, 'rope_theta': 2000000.0, "
                  "'rope_type': 'linear'}, 'sliding_attention': {'rope_theta': 20000.0, "
                  "'rope_type': 'default'}}, 'sliding_window': 48, 'tie_word_embeddings': true, "
                  "'use_bidirectional_attention': false}");
    assert_true(s->sliding[0] && !s->sliding[1] && s->sliding[2]);
    assert_int_equal(s->window, 48);
    assert_true(s->rope[0].base == 2e6 && s->rope[0].factor == 8.0 && s->rope[1].base == 2e4);
    assert_int_equal(s->rope[0].scaling, TT_ROPE_LINEAR);
    assert_int_equal(s->rope[1].scaling, TT_ROPE_NONE);
    assert_true(s->attn_scale == 1.0 / 16);
}

/* The larger Gemma 3: a picture-and-text model whose text_config says only what differs from its
 * class. */
static void test_gemma_inside(void **state)
{
    (void)state;
    const tt_model_spec *s = read_good(
        "{'architectures': ['Gemma3ForConditionalGeneration'], 'model_type': 'gemma3', "
        "'text_config': {'hidden_size': 2560, 'intermediate_size': 10240, 'model_type': "
        "'gemma3_text', "
        "'num_hidden_layers': 34, 'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'}, "
        "'sliding_window': 1024}, 'vision_config': {'hidden_size': 1152}}");
    assert_int_equal(s->n_heads, 8);
    assert_int_equal(s->n_kv_heads, 4);
    assert_int_equal(s->head_dim, 256);
    assert_int_equal(s->n_layers, 34);
    assert_int_equal(s->n_ctx, 131072);
    assert_int_equal(s->window, 1024);
    assert_true(s->rope[0].base == 1e6 && s->rope[0].factor == 8.0 && s->rope[1].base == 1e4);
    assert_true(s->tied && s->attn_scale == 1.0 / 16);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        tt_code code;
        const char *text;
    } cases[] = {
        {"", TT_E_MODEL, "JSON error in line"},
        {"[]", TT_E_MODEL, "not an object"},
        {"{}", TT_E_MODEL, "model_type is missing"},
        {"{'model_type': 7}", TT_E_MODEL, "model_type is not a string"},
        {"{'model_type': 'bert'}", TT_E_UNSUPPORTED, "\"bert\" is not supported"},
        {"{'model_type': 'gemma3'}", TT_E_MODEL, "text_config is missing"},
        {"{'model_type': 'gemma3', 'text_config': []}", TT_E_MODEL, "text_config is not an object"},
        {"{'model_type': 'llama'}", TT_E_MODEL, "hidden_size is missing"},
        {"{'model_type': 'llama', " DIMS ", 'hidden_size': 64}", TT_E_MODEL, "duplicate"},
        {"{'model_type': 'llama', " DIMS ", 'quantization_config': {}}", TT_E_UNSUPPORTED,
         "quantization_config"},
        {"{'model_type': 'llama', " DIMS ", 'hidden_act': 'relu'}", TT_E_UNSUPPORTED, "relu"},
        {"{'model_type': 'llama', " DIMS ", 'num_key_value_heads': 3}", TT_E_MODEL, "share"},
        {"{'model_type': 'llama', " DIMS ", 'num_key_value_heads': -2}", TT_E_MODEL,
         "num_key_value"},
        {"{'model_type': 'llama', " DIMS ", 'num_key_value_heads': 2.0}", TT_E_MODEL,
         "not an integer"},
        {"{'model_type': 'llama', " DIMS ", 'max_position_embeddings': 0}", TT_E_MODEL, "context"},
        {"{'model_type': 'llama', " DIMS ", 'max_position_embeddings': 99999999999}", TT_E_MODEL,
         "max_position_embeddings"},
        {"{'model_type': 'llama', " DIMS ", 'rms_norm_eps': 0}", TT_E_MODEL, "epsilon"},
        {"{'model_type': 'llama', " DIMS ", 'rms_norm_eps': -1e-5}", TT_E_MODEL, "epsilon"},
        {"{'model_type': 'llama', " DIMS ", 'rms_norm_eps': NaN}", TT_E_MODEL, "JSON"},
        {"{'model_type': 'llama', " DIMS ", 'rms_norm_eps': 1e999}", TT_E_MODEL, "JSON"},
        {"{'model_type': 'llama', " DIMS ", 'rms_norm_eps': 'x'}", TT_E_MODEL, "not a number"},
        {"{'model_type': 'llama', " DIMS ", 'head_dim': 1000000}", TT_E_MODEL, "head dimension"},
        {"{'model_type': 'llama', " DIMS ", 'partial_rotary_factor': 0.5}", TT_E_UNSUPPORTED,
         "partial_rotary_factor"},
        {"{'model_type': 'llama', " DIMS ", 'rope_scaling': {'rope_type': 'dynamic', 'factor': 2}}",
         TT_E_UNSUPPORTED, "dynamic"},
        {"{'model_type': 'llama', " DIMS ", 'rope_scaling': 7}", TT_E_MODEL, "rope_scaling"},
        {"{'model_type': 'llama', " DIMS ", 'rope_scaling': {'type': 4}}", TT_E_MODEL, "type"},
        {"{'model_type': 'llama', " DIMS ", 'rope_parameters': {'full_attention': {}}}",
         TT_E_UNSUPPORTED, "layer to layer"},
        {"{'model_type': 'llama', " DIMS ", 'tie_word_embeddings': 1}", TT_E_MODEL,
         "tie_word_embeddings"},
        {"{'model_type': 'qwen3', " DIMS ", 'num_key_value_heads': 4, 'use_sliding_window': true, "
         "'layer_types': ['full_attention']}",
         TT_E_MODEL, "layer_types"},
        {"{'model_type': 'qwen3', " DIMS ", 'num_key_value_heads': 4, 'use_sliding_window': true, "
         "'layer_types': ['full_attention', 'chunked_attention', 'full_attention']}",
         TT_E_UNSUPPORTED, "chunked_attention"},
        {"{'model_type': 'gemma3_text', " DIMS ", 'final_logit_softcapping': 30.0}",
         TT_E_UNSUPPORTED, "final_logit_softcapping"},
        {"{'model_type': 'gemma3_text', " DIMS ", 'query_pre_attn_scalar': 0}", TT_E_MODEL,
         "query_pre_attn_scalar"},
        {"{'model_type': 'gemma3_text', " DIMS ", 'sliding_window': null}", TT_E_MODEL,
         "sliding_window"},
        {"{'model_type': 'gemma3_text', " DIMS ", 'sliding_window_pattern': 0}", TT_E_MODEL,
         "pattern"},
        {"{'model_type': 'gemma3_text', " DIMS ", 'use_bidirectional_attention': true}",
         TT_E_UNSUPPORTED, "bidirectional"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tt_err err;
        tt_code rc = read_json(cases[i].json, &err);
        if (rc != cases[i].code || strstr(err.msg, cases[i].text) == NULL) {
            fail_msg("%s: got %d \"%s\", expected %d \"%s\"", cases[i].json, rc, err.msg,
                     cases[i].code, cases[i].text);
        }
    }
}

static void test_cut_at_every_byte(void **state)
{
    (void)state;
    static const char json[] = "{'model_type': 'gemma3_text', " DIMS ", 'head_dim': 32, "
                               "'rope_parameters': {'full_attention': {'rope_type': 'yarn'}}}";
    for (size_t n = 0; n < sizeof json - 1; n++) {
        char cut[sizeof json];
        memcpy(cut, json, n);
        cut[n] = '\0';
        tt_err err;
        assert_int_equal(read_json(cut, &err), TT_E_MODEL);
        assert_true(strlen(err.msg) > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_4),    cmocka_unit_test(test_llama_5),
        cmocka_unit_test(test_rope_forms), cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_qwen),       cmocka_unit_test(test_gemma_4),
        cmocka_unit_test(test_gemma_5),    cmocka_unit_test(test_gemma_inside),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_cut_at_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
