/* test_model_build.c - from hyperparameters and a list of tensors to a checked model: bounds,
 * shapes, names of both formats, what is left over, heads that are embeddings, layers that slide,
 * memory that runs out. Whole files are test_model.c's and test_model_hf.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model_build.h"
#include "fail_alloc.h"

enum { H = 4, HEADS = 2, KV = 1, HD = 2, F = 6, V = 5, LAYERS = 2, MAX_TENSORS = 64 };

/* One byte before the floats lets a tensor lie at an odd address. */
static struct {
    uint8_t pad;
    uint8_t bytes[(V * H + 8) * sizeof(float)];
} data[MAX_TENSORS];
static char names[MAX_TENSORS][80];
static int n_tensors;
static bool misaligned;

static const tt_arch *arch(const char *model_type)
{
    const tt_arch *a = tt_arch_by_model_type(model_type);
    assert_non_null(a);
    return a;
}

static tt_model_spec spec_of(const char *model_type, bool hf)
{
    tt_rope_spec rope = {.rot_dim = HD, .base = 10000};
    return (tt_model_spec){.arch = arch(model_type),
                           .hf_names = hf,
                           .hf_prefix = "model.",
                           .hf_head = "lm_head.weight",
                           .n_layers = LAYERS,
                           .hidden = H,
                           .n_heads = HEADS,
                           .n_kv_heads = KV,
                           .head_dim = HD,
                           .ffn = F,
                           .n_ctx = 128,
                           .norm_eps = 1e-5,
                           .rope = {rope, rope}};
}

/* A tensor [rows, cols] (rows 0: a vector) whose values are n_tensors + i / 16. */
static void add(tt_model *m, const char *name, int64_t rows, int64_t cols)
{
    tt_err err;
    assert_true(n_tensors < MAX_TENSORS);
    snprintf(names[n_tensors], sizeof names[0], "%s", name);
    uint8_t *p = data[n_tensors].bytes;
    p += (4 - (uintptr_t)p % 4) % 4 + (misaligned ? 1 : 0);
    int64_t n = (rows > 0 ? rows : 1) * cols;
    for (int64_t i = 0; i < n; i++) {
        float x = (float)n_tensors + (float)i / 16;
        memcpy(p + 4 * i, &x, 4);
    }
    assert_int_equal(tt_tensor_list_grow(&m->files->tensors, 1, &err), TT_OK);
    m->files->tensors.t[m->files->tensors.n - 1] =
        (tt_file_tensor){.name = {.p = names[n_tensors], .n = (uint32_t)strlen(names[n_tensors])},
                         .type = TT_F32,
                         .n_dims = rows > 0 ? 2 : 1,
                         .dims = {rows > 0 ? rows : cols, rows > 0 ? cols : 0},
                         .data = p,
                         .n_bytes = (uint64_t)n * 4,
                         .offset = 1000 + (uint64_t)n_tensors};
    n_tensors++;
}

/* The tensors of a llama-like model but for the head. */
static tt_model *with_tensors(bool hf)
{
    static const struct {
        const char *gguf, *hf;
        int64_t rows, cols;
    } rows[] = {{"attn_norm.weight", "input_layernorm.weight", 0, H},
                {"attn_q.weight", "self_attn.q_proj.weight", HEADS * HD, H},
                {"attn_k.weight", "self_attn.k_proj.weight", KV * HD, H},
                {"attn_v.weight", "self_attn.v_proj.weight", KV * HD, H},
                {"attn_output.weight", "self_attn.o_proj.weight", H, HEADS * HD},
                {"ffn_norm.weight", "post_attention_layernorm.weight", 0, H},
                {"ffn_gate.weight", "mlp.gate_proj.weight", F, H},
                {"ffn_up.weight", "mlp.up_proj.weight", F, H},
                {"ffn_down.weight", "mlp.down_proj.weight", H, F}};
    char name[80];
    tt_model *m = tt_model_create();
    assert_non_null(m);
    n_tensors = 0;
    add(m, hf ? "model.embed_tokens.weight" : "token_embd.weight", V, H);
    add(m, hf ? "model.norm.weight" : "output_norm.weight", 0, H);
    for (int l = 0; l < LAYERS; l++) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            snprintf(name, sizeof name, hf ? "model.layers.%d.%s" : "blk.%d.%s", l,
                     hf ? rows[i].hf : rows[i].gguf);
            add(m, name, rows[i].rows, rows[i].cols);
        }
    }
    return m;
}

static tt_code build(tt_model *m, const tt_model_spec *s, tt_err *err)
{
    tt_err own;
    assert_int_equal(tt_tensor_list_index(&m->files->tensors, &own), TT_OK);
    *err = (tt_err){0};
    tt_code rc = tt_model_build(m, s, err);
    assert_int_equal(err->code, rc);
    return rc;
}

/* Builds and closes; the message must hold `word`. */
static void expect(tt_model *m, const tt_model_spec *s, tt_code want, const char *word)
{
    tt_err err;
    assert_int_equal(build(m, s, &err), want);
    if (want != TT_OK && strstr(err.msg, word) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.msg, word);
    }
    tt_model_close(&m);
}

static void test_dimensions(void **state)
{
    static const struct {
        size_t field;
        int64_t max;
        const char *word;
    } rows[] = {
        {offsetof(tt_model_spec, n_layers), TT_MODEL_MAX_LAYERS, "layers"},
        {offsetof(tt_model_spec, hidden), 1 << 17, "hidden"},
        {offsetof(tt_model_spec, n_heads), 4096, "heads"},
        {offsetof(tt_model_spec, head_dim), 4096, "head dimension"},
        {offsetof(tt_model_spec, ffn), 1 << 22, "feed-forward"},
        {offsetof(tt_model_spec, n_ctx), TT_MODEL_MAX_CTX, "context"},
    };
    static const int64_t bad[] = {0, -1, INT64_MIN, INT64_MAX};
    tt_err err;
    tt_model_spec s = spec_of("llama", false);
    assert_int_equal(tt_model_check_dims(&s, &err), TT_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (size_t k = 0; k < 6; k++) {
            s = spec_of("llama", false);
            s.n_kv_heads = 1;
            int64_t x = k < 4 ? bad[k] : rows[i].max + (k == 5);
            memcpy((char *)&s + rows[i].field, &x, sizeof x);
            assert_int_equal(tt_model_check_dims(&s, &err), k == 4 ? TT_OK : TT_E_MODEL);
            assert_true(k == 4 || strstr(err.msg, rows[i].word) != NULL);
        }
    }
}

static void test_dimensions_together(void **state)
{
    tt_err err;
    tt_model_spec s = spec_of("llama", false);
    s.n_heads = 9;
    s.n_kv_heads = 4; /* cannot share evenly */
    assert_int_equal(tt_model_check_dims(&s, &err), TT_E_MODEL);
    s.n_kv_heads = 18; /* more than heads */
    assert_int_equal(tt_model_check_dims(&s, &err), TT_E_MODEL);
    s.n_kv_heads = 0;
    assert_int_equal(tt_model_check_dims(&s, &err), TT_E_MODEL); /* no division by it */
    s.n_kv_heads = 3;
    assert_int_equal(tt_model_check_dims(&s, &err), TT_OK);
    s.n_heads = s.n_kv_heads = 4096;
    s.head_dim = 256;
    assert_int_equal(tt_model_check_dims(&s, &err), TT_OK);
    s.head_dim = 257;
    assert_int_equal(tt_model_check_dims(&s, &err), TT_E_MODEL);
    static const double eps[] = {0, -1e-5, 1, NAN, INFINITY};
    for (int i = 0; i < 5; i++) {
        s = spec_of("llama", false);
        s.norm_eps = eps[i];
        assert_int_equal(tt_model_check_dims(&s, &err), TT_E_MODEL);
    }
    static const double scale[] = {-1, NAN, INFINITY};
    for (int i = 0; i < 3; i++) {
        s = spec_of("llama", false);
        s.attn_scale = scale[i];
        assert_int_equal(tt_model_check_dims(&s, &err), TT_E_MODEL);
    }
}

static void check_model(const tt_model *m)
{
    assert_true(m->n_layers == LAYERS && m->hidden == H && m->n_vocab == V && m->ffn == F);
    assert_true(fabsf(m->attn_scale - 1 / sqrtf(HD)) < 1e-7f && m->embed_scale == 1);
    assert_true(m->final_norm.n == H && m->final_norm.host[0] == 1);
    for (int l = 0; l < LAYERS; l++) {
        const tt_layer *x = &m->layers[l];
        int first = 2 + 9 * l; /* tensors are numbered in the order of with_tensors() */
        const tt_matrix *w[] = {&x->wq, &x->wk, &x->wv, &x->wo};
        for (int i = 0; i < 4; i++) {
            float value;
            memcpy(&value, w[i]->host, sizeof value);
            assert_true((uintptr_t)w[i]->host % 4 == 0 && value == (float)(first + 1 + i));
        }
        assert_true(x->wq.w.rows == HEADS * HD && x->wk.w.rows == KV * HD && x->wo.w.rows == H);
        assert_true(x->gate.w.rows == F && x->down.w.cols == F && x->up.w.cols == H);
        assert_true(x->attn_norm.host[3] == (float)first + 3.0f / 16);
        assert_true(x->bq.host == NULL && x->q_norm.host == NULL && x->window == 0);
    }
}

static void test_both_formats(void **state)
{
    for (int k = 0; k < 4; k++) {
        bool hf = k % 2 != 0;
        tt_err err;
        tt_model_spec s = spec_of("llama", hf);
        misaligned = k >= 2; /* an old safetensors file */
        tt_model *m = with_tensors(hf);
        add(m, hf ? "lm_head.weight" : "output.weight", V, H);
        misaligned = false;
        assert_int_equal(build(m, &s, &err), TT_OK);
        check_model(m);
        assert_false(m->tied_head);
        assert_true(m->head.host != m->embed.host && m->head.w.rows == V);
        tt_model_close(&m);
    }
}

static void test_heads_that_are_embeddings(void **state)
{
    tt_err err;
    for (int k = 0; k < 4;
         k++) { /* GGUF without a head; HF tied; HF tied with a copy; HF without */
        bool hf = k > 0;
        tt_model_spec s = spec_of("llama", hf);
        s.tied = k == 1 || k == 2;
        tt_model *m = with_tensors(hf);
        if (k == 2) {
            add(m, "lm_head.weight", V, H);
        }
        tt_code rc = build(m, &s, &err);
        assert_int_equal(rc, k == 3 ? TT_E_MODEL : TT_OK);
        if (k == 3) {
            assert_non_null(strstr(err.msg, "lm_head.weight"));
        } else {
            assert_true(m->tied_head && m->head.host == m->embed.host);
        }
        tt_model_close(&m);
    }
}

static void test_what_is_refused(void **state)
{
    tt_model_spec s = spec_of("llama", false);
    tt_model *m = with_tensors(false);
    add(m, "blk.2.attn_q.weight", HEADS * HD, H); /* a third layer */
    expect(m, &s, TT_E_UNSUPPORTED, "blk.2.attn_q.weight");

    m = with_tensors(false);
    m->files->tensors.n--; /* the last layer's ffn_down */
    expect(m, &s, TT_E_MODEL, "blk.1.ffn_down.weight");

    m = with_tensors(false);
    m->files->tensors.t[3].dims[1]++;
    expect(m, &s, TT_E_MODEL, "[4, 5], expected [4, 4]");

    m = with_tensors(false);
    m->files->tensors.t[3].n_dims = 1;
    expect(m, &s, TT_E_MODEL, "blk.0.attn_q.weight");

    m = with_tensors(false);
    m->files->tensors.t[3].type = TT_DTYPE_COUNT;
    snprintf(m->files->tensors.t[3].type_name, sizeof m->files->tensors.t[3].type_name, "IQ9_Z");
    expect(m, &s, TT_E_UNSUPPORTED, "IQ9_Z");

    m = with_tensors(false);
    memcpy((uint8_t *)(uintptr_t)m->files->tensors.t[1].data + 4, &(float){INFINITY}, 4);
    expect(m, &s, TT_E_MODEL, "not finite at index 1");

    m = with_tensors(false);
    m->files->tensors.t[0].dims[0] = (1 << 24) + 1; /* an embedding of too many rows */
    expect(m, &s, TT_E_MODEL, "embedding");

    m = with_tensors(false);
    s.rope[0].rot_dim = 3;
    expect(m, &s, TT_E_MODEL, "rope");
    m = with_tensors(false);
    s.rope[0].rot_dim = HD + 2;
    expect(m, &s, TT_E_MODEL, "rope");
    s = spec_of("llama", false);
    s.n_layers = 0;
    expect(with_tensors(false), &s, TT_E_MODEL, "layers");
    s = spec_of("qwen2", false); /* has biases, which the file lacks */
    expect(with_tensors(false), &s, TT_E_MODEL, ".bias");
}

/* Hugging Face folders of a model that also sees: the text model's place is where it is, the rest
 * changes nothing. In GGUF such names mean something unknown. */
static void test_tensors_of_no_consequence(void **state)
{
    static const char *const inert[] = {"vision_tower.x", "multi_modal_projector.y",
                                        "model.vision_tower.z",
                                        "model.layers.0.self_attn.rotary_emb.inv_freq"};
    for (size_t i = 0; i < 4; i++) {
        for (int hf = 0; hf < 2; hf++) {
            tt_model_spec s = spec_of("llama", hf != 0);
            s.tied = true;
            tt_model *m = with_tensors(hf != 0);
            add(m, inert[i], 0, 3);
            expect(m, &s, hf ? TT_OK : TT_E_UNSUPPORTED, inert[i]);
        }
    }
}

static void test_sliding_layers(void **state)
{
    static const uint8_t sliding[LAYERS] = {1, 0};
    tt_err err;
    tt_model_spec s = spec_of("llama", false);
    s.sliding = sliding;
    s.window = 32;
    tt_model *m = with_tensors(false);
    assert_int_equal(build(m, &s, &err), TT_OK);
    assert_true(m->layers[0].window == 32 && m->layers[1].window == 0);
    assert_true(m->n_ropes == 1 && m->layers[0].rope == 0); /* llama: one rope for both */
    tt_model_close(&m);
    static const int64_t bad[] = {0, -1, (int64_t)INT32_MAX + 1};
    for (int i = 0; i < 3; i++) {
        s.window = bad[i];
        expect(with_tensors(false), &s, TT_E_MODEL, "window");
    }
    s.sliding = NULL; /* then the window is nobody's */
    expect(with_tensors(false), &s, TT_OK, "");
}

static void test_names(void **state)
{
    static const struct {
        const char *given, *want;
    } rows[] = {
        {"SmolLM2-135M.Q4_1", "SmolLM2-135M.Q4_1"},
        {"two words", "two-words"},
        {"a \t\n b", "a-b"},
        {"..hidden", "hidden"},
        {"--flag", "flag"},
        {"../../etc/passwd", "etc-passwd"},
        {"\xc3\xa9t\xc3\xa9", "t"},
        {"trailing!!", "trailing"},
        {"", ""},
        {"!!", ""},
        {"_x", "_x"},
    };
    char longest[200];
    tt_model m = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tt_model_set_name(&m, rows[i].given, strlen(rows[i].given));
        assert_string_equal(m.name, rows[i].want);
    }
    memset(longest, 'n', sizeof longest);
    tt_model_set_name(&m, longest, sizeof longest);
    assert_int_equal(strlen(m.name), sizeof m.name - 1);
    tt_model_set_name(&m, "a\0b", 3);
    assert_string_equal(m.name, "a-b");
}

static void test_no_memory(void **state)
{
    tt_model_spec s = spec_of("llama", false);
    tt_err err;
    for (int n = 0; n < 2; n++) { /* itself, its files */
        fail_alloc_at(n);
        tt_model *m = tt_model_create();
        assert_true(fail_alloc_off());
        assert_null(m);
    }
    for (int n = 0;; n++) {
        misaligned = true; /* copies too */
        tt_model *m = with_tensors(false);
        misaligned = false;
        assert_int_equal(tt_tensor_list_index(&m->files->tensors, &err), TT_OK);
        fail_alloc_at(n);
        tt_code rc = tt_model_build(m, &s, &err);
        bool refused = fail_alloc_off();
        assert_int_equal(rc, refused ? TT_E_NOMEM : TT_OK);
        tt_model_close(&m);
        if (!refused) {
            assert_true(n >= 2); /* the table of what is used; the arena's blocks */
            break;
        }
    }
    tt_model *empty = tt_model_create();
    tt_model_close(&empty);
    assert_null(empty);
    tt_model_close(&empty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dimensions),      cmocka_unit_test(test_dimensions_together),
        cmocka_unit_test(test_both_formats),    cmocka_unit_test(test_heads_that_are_embeddings),
        cmocka_unit_test(test_what_is_refused), cmocka_unit_test(test_tensors_of_no_consequence),
        cmocka_unit_test(test_sliding_layers),  cmocka_unit_test(test_names),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
