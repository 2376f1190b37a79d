/* tiny_model.c - a tiny model of each architecture, written as GGUF or as a Hugging Face folder.
 * See model_writer.h. */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_writer.h"

static mw_model with_defaults(const mw_model *m)
{
    mw_model d = *m;
    d.arch = d.arch != NULL ? d.arch : "llama";
    d.layers = d.layers > 0 ? d.layers : 2;
    d.hidden = d.hidden > 0 ? d.hidden : 32;
    d.heads = d.heads > 0 ? d.heads : 4;
    d.kv_heads = d.kv_heads > 0 ? d.kv_heads : 2;
    d.head_dim = d.head_dim > 0 ? d.head_dim : 8;
    d.ffn = d.ffn > 0 ? d.ffn : 64;
    d.vocab = d.vocab > 0 ? d.vocab : 24;
    d.n_tokens = d.n_tokens > 0 ? d.n_tokens : d.vocab;
    d.hf_prefix = d.hf_prefix != NULL ? d.hf_prefix : "model.";
    d.eps = d.eps != 0.0f ? d.eps : 1e-5f;
    return d;
}

static bool is(const char *a, const char *b)
{
    return a != NULL && strcmp(a, b) == 0;
}

/* One tensor of the model under both names, handed to whoever writes. */
typedef struct tensor {
    char gguf[64], hf[96];
    int64_t rows, cols; /* rows 0: vector */
    float *x;
    bool norm; /* Gemma: the folder holds x - 1 */
} tensor;

#define MAX_TENSORS 256

typedef struct tensors {
    tensor t[MAX_TENSORS];
    int n;
} tensors;

static void add(tensors *l, const mw_model *m, const char *gguf, const char *hf, int64_t rows,
                int64_t cols)
{
    if (is(m->skip, gguf)) {
        return;
    }
    assert(l->n < MAX_TENSORS);
    tensor *t = &l->t[l->n++];
    snprintf(t->gguf, sizeof t->gguf, "%s", gguf);
    snprintf(t->hf, sizeof t->hf, "%s", hf);
    t->rows = rows;
    t->cols = cols;
    if (is(m->reshape, gguf)) {
        *(rows > 0 ? &t->rows : &t->cols) += 1;
    }
    t->norm = rows == 0 && strstr(gguf, "norm.weight") != NULL;
    int64_t n = (t->rows > 0 ? t->rows : 1) * t->cols;
    t->x = malloc((size_t)n * sizeof *t->x);
    assert(t->x != NULL);
    uint32_t state = 12345;
    for (const char *c = gguf; *c != '\0'; c++) {
        state = state * 31 + (unsigned char)*c;
    }
    for (int64_t i = 0; i < n; i++) { /* multiples of 1/256: exact in every type, also minus 1 */
        state = state * 1664525u + 1013904223u;
        t->x[i] = (float)(int)(state >> 24) / 256.0f + (t->norm ? 0.5f : -0.5f);
    }
    if (is(m->poison, gguf)) {
        t->x[0] = NAN;
    }
    if (is(m->changed, gguf)) {
        t->x[n - 1] += 0.25f;
    }
}

static void add_layer(tensors *l, const mw_model *m, int i)
{
    bool gemma = is(m->arch, "gemma3");
    bool bias = is(m->arch, "qwen2") || m->qkv_bias;
    int64_t nq = (int64_t)m->heads * m->head_dim, nk = (int64_t)m->kv_heads * m->head_dim;
    const struct {
        const char *gguf, *hf;
        int64_t rows, cols;
        bool on;
    } all[] = {
        {"attn_norm.weight", "input_layernorm.weight", 0, m->hidden, true},
        {"attn_q.weight", "self_attn.q_proj.weight", nq, m->hidden, true},
        {"attn_k.weight", "self_attn.k_proj.weight", nk, m->hidden, true},
        {"attn_v.weight", "self_attn.v_proj.weight", nk, m->hidden, true},
        {"attn_q.bias", "self_attn.q_proj.bias", 0, nq, bias},
        {"attn_k.bias", "self_attn.k_proj.bias", 0, nk, bias},
        {"attn_v.bias", "self_attn.v_proj.bias", 0, nk, bias},
        {"attn_q_norm.weight", "self_attn.q_norm.weight", 0, m->head_dim,
         gemma || is(m->arch, "qwen3")},
        {"attn_k_norm.weight", "self_attn.k_norm.weight", 0, m->head_dim,
         gemma || is(m->arch, "qwen3")},
        {"attn_output.weight", "self_attn.o_proj.weight", m->hidden, nq, true},
        {"post_attention_norm.weight", "post_attention_layernorm.weight", 0, m->hidden, gemma},
        {"ffn_norm.weight",
         gemma ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight", 0,
         m->hidden, true},
        {"ffn_gate.weight", "mlp.gate_proj.weight", m->ffn, m->hidden, true},
        {"ffn_up.weight", "mlp.up_proj.weight", m->ffn, m->hidden, true},
        {"ffn_down.weight", "mlp.down_proj.weight", m->hidden, m->ffn, true},
        {"post_ffw_norm.weight", "post_feedforward_layernorm.weight", 0, m->hidden, gemma},
    };
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) {
        char gguf[64], hf[96];
        snprintf(gguf, sizeof gguf, "blk.%d.%s", i, all[k].gguf);
        snprintf(hf, sizeof hf, "%slayers.%d.%s", m->hf_prefix, i, all[k].hf);
        if (all[k].on) {
            add(l, m, gguf, hf, all[k].rows, all[k].cols);
        }
    }
}

static void collect(tensors *l, const mw_model *m)
{
    char embed[96], norm[96], head[96];
    const char *inner = strstr(m->hf_prefix, ".model.");
    snprintf(embed, sizeof embed, "%sembed_tokens.weight", m->hf_prefix);
    snprintf(norm, sizeof norm, "%snorm.weight", m->hf_prefix);
    snprintf(head, sizeof head, "%.*slm_head.weight",
             inner != NULL ? (int)(inner - m->hf_prefix) + 1 : 0, m->hf_prefix);
    l->n = 0;
    add(l, m, "token_embd.weight", embed, m->vocab, m->hidden);
    for (int i = 0; i < m->layers; i++) {
        add_layer(l, m, i);
    }
    add(l, m, "output_norm.weight", norm, 0, m->hidden);
    if (!m->tied) {
        add(l, m, "output.weight", head, m->vocab, m->hidden);
    }
    if (m->extra != NULL) {
        add(l, m, m->extra, m->extra, 0, 4);
    }
}

static void free_tensors(tensors *l)
{
    for (int i = 0; i < l->n; i++) {
        free(l->t[i].x);
    }
}

static void model_values(mw_gguf *w, const mw_model *m)
{
    char key[96];
    const struct {
        const char *key;
        int x;
    } ints[] = {{"block_count", m->layers},
                {"embedding_length", m->hidden},
                {"context_length", 128},
                {"feed_forward_length", m->ffn},
                {"attention.head_count", m->heads},
                {"attention.head_count_kv", m->kv_heads},
                {"attention.key_length", m->head_dim},
                {"attention.value_length", m->head_dim},
                {"attention.sliding_window", 16}};
    size_t n = sizeof ints / sizeof ints[0] - (is(m->arch, "gemma3") ? 0 : 1);
    if (!is(m->skip, "general.architecture")) {
        mw_kv_str(w, "general.architecture", m->arch);
    }
    for (size_t i = 0; i < n; i++) {
        snprintf(key, sizeof key, "%s.%s", m->arch, ints[i].key);
        if (!is(m->skip, key)) {
            mw_kv_u32(w, key, (uint32_t)ints[i].x);
        }
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", m->arch);
    if (!is(m->skip, key)) {
        mw_kv_f32(w, key, m->eps);
    }
}

static void vocab_values(mw_gguf *w, const mw_model *m)
{
    const char *tokens[512];
    char text[512][8];
    float scores[512];
    int32_t types[512];
    assert(m->n_tokens <= 512);
    for (int i = 0; i < m->n_tokens; i++) {
        snprintf(text[i], sizeof text[i], "t%d", i);
        tokens[i] = text[i];
        scores[i] = -(float)i;
        types[i] = i < 3 ? 3 : 1;
    }
    tokens[0] = "<unk>";
    tokens[1] = "<s>";
    tokens[2] = "</s>";
    if (!is(m->skip, "tokenizer.ggml.model")) {
        mw_kv_str(w, "tokenizer.ggml.model", "llama");
    }
    mw_kv_strs(w, "tokenizer.ggml.tokens", tokens, (uint64_t)m->n_tokens);
    mw_kv_array(w, "tokenizer.ggml.scores", 6, scores, (uint64_t)m->n_tokens, sizeof scores[0]);
    mw_kv_array(w, "tokenizer.ggml.token_type", 5, types, (uint64_t)m->n_tokens, sizeof types[0]);
}

void mw_model_gguf(mw_gguf *w, const mw_model *given)
{
    mw_model m = with_defaults(given);
    tensors l;
    collect(&l, &m);
    model_values(w, &m);
    if (!is(m.skip, "tokenizer")) {
        vocab_values(w, &m);
    }
    if (m.rope_freqs) {
        float f[64];
        for (int i = 0; i < m.head_dim / 2; i++) {
            f[i] = (float)(1 + i);
        }
        mw_tensor(w, "rope_freqs.weight", 0, m.head_dim / 2, TT_F32, f);
    }
    for (int i = 0; i < l.n; i++) {
        mw_tensor(w, l.t[i].gguf, l.t[i].rows, l.t[i].cols, TT_F32, l.t[i].x);
    }
    free_tensors(&l);
}

static void write_shard(const char *folder, const char *file, const mw_model *m, const tensors *l,
                        int first, int last)
{
    mw_buf head = {0}, data = {0}, all = {0};
    char text[512];
    mw_put(&head, "{", 1);
    for (int i = first; i < last; i++) {
        const tensor *t = &l->t[i];
        int64_t n = (t->rows > 0 ? t->rows : 1) * t->cols;
        char shape[64];
        if (t->rows > 0) {
            snprintf(shape, sizeof shape, "[%" PRId64 ",%" PRId64 "]", t->rows, t->cols);
        } else {
            snprintf(shape, sizeof shape, "[%" PRId64 "]", t->cols);
        }
        int k = snprintf(text, sizeof text,
                         "%s\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                         i > first ? "," : "", t->hf, shape, data.n, data.n + (size_t)n * 4);
        mw_put(&head, text, (size_t)k);
        for (int64_t j = 0; j < n; j++) {
            float x = t->x[j] - (t->norm && is(m->arch, "gemma3") ? 1.0f : 0.0f);
            mw_put(&data, &x, sizeof x);
        }
    }
    mw_put(&head, "}", 1);
    while (head.n % 8 != 0) {
        mw_put(&head, " ", 1);
    }
    for (int i = 0; i < m->misalign; i++) {
        mw_put(&head, " ", 1);
    }
    mw_u64(&all, head.n);
    mw_put(&all, head.p, head.n);
    mw_put(&all, data.p, data.n);
    mw_write_file(folder, file, all.p, all.n);
    mw_free(&head);
    mw_free(&data);
    mw_free(&all);
}

static void write_config(const char *folder, const mw_model *m)
{
    char text[1024];
    int n = snprintf(
        text, sizeof text,
        "{\"model_type\": \"%s\", \"hidden_size\": %d, \"intermediate_size\": %d,\n"
        " \"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d,\n"
        " \"head_dim\": %d, \"vocab_size\": %d, \"max_position_embeddings\": 128,\n"
        " \"rms_norm_eps\": %.9g, \"tie_word_embeddings\": %s, \"rope_theta\": %s,\n"
        " \"query_pre_attn_scalar\": %d%s}\n",
        is(m->arch, "gemma3") ? "gemma3_text" : m->arch, m->hidden, m->ffn, m->layers, m->heads,
        m->kv_heads, m->head_dim, m->vocab, (double)m->eps, m->tied ? "true" : "false",
        is(m->arch, "gemma3") ? "1000000.0" : "10000", m->head_dim,
        is(m->arch, "gemma3") ? ", \"sliding_window\": 16" : "");
    mw_write_file(folder, "config.json", text, (size_t)n);
}

void mw_model_hf(const char *folder, const mw_model *given, int n_shards, const char *config)
{
    mw_model m = with_defaults(given);
    tensors l;
    collect(&l, &m);
    if (config != NULL) {
        mw_write_file(folder, "config.json", config, strlen(config));
    } else {
        write_config(folder, &m);
    }
    mw_buf index = {0};
    mw_put(&index, "{\"weight_map\":{", 15);
    for (int s = 0; s < n_shards; s++) {
        char file[64], text[256];
        int first = l.n * s / n_shards, last = l.n * (s + 1) / n_shards;
        snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", s + 1, n_shards);
        write_shard(folder, n_shards > 1 ? file : "model.safetensors", &m, &l, first, last);
        for (int i = first; i < last; i++) {
            int n =
                snprintf(text, sizeof text, "%s\"%s\":\"%s\"", i > 0 ? "," : "", l.t[i].hf, file);
            mw_put(&index, text, (size_t)n);
        }
    }
    mw_put(&index, "}}", 2);
    if (n_shards > 1) {
        mw_write_file(folder, "model.safetensors.index.json", index.p, index.n);
    }
    mw_free(&index);
    free_tensors(&l);
}
