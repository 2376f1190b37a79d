/* model_build.c - see model_build.h. One table says which tensors a layer has under which names and
 * in which shape. */
#include "core/model_build.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model_summary.h"
#include "kernels/quant.h"

typedef enum dim { DIM_NONE, DIM_H, DIM_NQ, DIM_NK, DIM_F, DIM_HD } dim;

/* A tensor of a layer. It exists where the architecture has all flags of `with` and none of
 * `without`; elsewhere it is left over and refused. optional: may be missing. rows == DIM_NONE: a
 * vector. */
typedef struct role {
    const char *gguf, *hf;
    size_t field; /* of the tt_vector or tt_matrix in tt_layer */
    dim rows, cols;
    unsigned with, without;
    bool optional;
} role;

#define FIELD(f) offsetof(tt_layer, f)
static const role roles[] = {
    {"attn_norm.weight", "input_layernorm.weight", FIELD(attn_norm), .cols = DIM_H},
    {"attn_q.weight", "self_attn.q_proj.weight", FIELD(wq), .rows = DIM_NQ, .cols = DIM_H},
    {"attn_k.weight", "self_attn.k_proj.weight", FIELD(wk), .rows = DIM_NK, .cols = DIM_H},
    {"attn_v.weight", "self_attn.v_proj.weight", FIELD(wv), .rows = DIM_NK, .cols = DIM_H},
    {"attn_output.weight", "self_attn.o_proj.weight", FIELD(wo), .rows = DIM_H, .cols = DIM_NQ},
    {"attn_q.bias", "self_attn.q_proj.bias", FIELD(bq), .cols = DIM_NQ, .with = TT_ARCH_QKV_BIAS},
    {"attn_k.bias", "self_attn.k_proj.bias", FIELD(bk), .cols = DIM_NK, .with = TT_ARCH_QKV_BIAS},
    {"attn_v.bias", "self_attn.v_proj.bias", FIELD(bv), .cols = DIM_NK, .with = TT_ARCH_QKV_BIAS},
    {"attn_q.bias", "self_attn.q_proj.bias", FIELD(bq), .cols = DIM_NQ, .without = TT_ARCH_QKV_BIAS,
     .optional = true},
    {"attn_k.bias", "self_attn.k_proj.bias", FIELD(bk), .cols = DIM_NK, .without = TT_ARCH_QKV_BIAS,
     .optional = true},
    {"attn_v.bias", "self_attn.v_proj.bias", FIELD(bv), .cols = DIM_NK, .without = TT_ARCH_QKV_BIAS,
     .optional = true},
    {"attn_q_norm.weight", "self_attn.q_norm.weight", FIELD(q_norm), .cols = DIM_HD,
     .with = TT_ARCH_QK_NORM},
    {"attn_k_norm.weight", "self_attn.k_norm.weight", FIELD(k_norm), .cols = DIM_HD,
     .with = TT_ARCH_QK_NORM},
    {"post_attention_norm.weight", "post_attention_layernorm.weight", FIELD(attn_post_norm),
     .cols = DIM_H, .with = TT_ARCH_POST_NORMS},
    {"ffn_norm.weight", "post_attention_layernorm.weight", FIELD(ffn_norm), .cols = DIM_H,
     .without = TT_ARCH_POST_NORMS},
    {"ffn_norm.weight", "pre_feedforward_layernorm.weight", FIELD(ffn_norm), .cols = DIM_H,
     .with = TT_ARCH_POST_NORMS},
    {"ffn_gate.weight", "mlp.gate_proj.weight", FIELD(gate), .rows = DIM_F, .cols = DIM_H},
    {"ffn_up.weight", "mlp.up_proj.weight", FIELD(up), .rows = DIM_F, .cols = DIM_H},
    {"ffn_down.weight", "mlp.down_proj.weight", FIELD(down), .rows = DIM_H, .cols = DIM_F},
    {"post_ffw_norm.weight", "post_feedforward_layernorm.weight", FIELD(ffn_post_norm),
     .cols = DIM_H, .with = TT_ARCH_POST_NORMS},
};
#undef FIELD

typedef struct builder {
    tt_model *m;
    const tt_model_spec *s;
    tt_tensor_list *tensors;
    uint8_t *used; /* [tensors->n] */
    tt_err *err;
} builder;

static tt_code check_range(const char *what, int64_t x, int64_t max, tt_err *reterr)
{
    if (x < 1 || x > max) {
        return tt_fail(reterr, TT_E_MODEL, "%s is %" PRId64 ", expected 1 to %" PRId64, what, x,
                       max);
    }
    return TT_OK;
}

tt_code tt_model_check_dims(const tt_model_spec *s, tt_err *reterr)
{
    const struct {
        const char *what;
        int64_t x, max;
    } ranges[] = {
        {"the number of layers", s->n_layers, TT_MODEL_MAX_LAYERS},
        {"the hidden size", s->hidden, 1 << 17},
        {"the number of heads", s->n_heads, 4096},
        {"the number of key/value heads", s->n_kv_heads, 4096},
        {"the head dimension", s->head_dim, 4096},
        {"the feed-forward size", s->ffn, 1 << 22},
        {"the context length", s->n_ctx, TT_MODEL_MAX_CTX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        tt_code rc = check_range(ranges[i].what, ranges[i].x, ranges[i].max, reterr);
        if (rc != TT_OK) {
            return rc;
        }
    }
    if (s->n_heads % s->n_kv_heads != 0) {
        return tt_fail(reterr, TT_E_MODEL,
                       "%" PRId64 " heads cannot share %" PRId64 " key/value heads evenly",
                       s->n_heads, s->n_kv_heads);
    }
    if (s->n_heads * s->head_dim > 1 << 20) {
        return tt_fail(reterr, TT_E_MODEL, "%" PRId64 " heads of %" PRId64 " are too many",
                       s->n_heads, s->head_dim);
    }
    if (!(s->norm_eps > 0.0 && s->norm_eps < 1.0)) {
        return tt_fail(reterr, TT_E_MODEL,
                       "the epsilon of the norms is %g, expected above 0, below 1", s->norm_eps);
    }
    if (!isfinite(s->attn_scale) || s->attn_scale < 0.0) {
        return tt_fail(reterr, TT_E_MODEL, "the scale of the attention scores is %g",
                       s->attn_scale);
    }
    return TT_OK;
}

static int64_t dim_of(const tt_model *m, dim d)
{
    switch (d) {
    case DIM_H:
        return m->hidden;
    case DIM_NQ:
        return (int64_t)m->n_heads * m->head_dim;
    case DIM_NK:
        return (int64_t)m->n_kv_heads * m->head_dim;
    case DIM_F:
        return m->ffn;
    case DIM_HD:
        return m->head_dim;
    default:
        return 0;
    }
}

/* Finds a tensor of the shape [rows, cols], or [cols] with rows 0. *ret is NULL when it is missing
 * and may be. */
static tt_code take(builder *b, const char *name, int64_t rows, int64_t cols, bool optional,
                    const tt_file_tensor **ret)
{
    char shape[96];
    *ret = NULL;
    int32_t i = tt_tensor_list_find(b->tensors, name);
    if (i < 0) {
        return optional ? TT_OK
                        : tt_fail(b->err, TT_E_MODEL, "tensor %s is missing (architecture %s)",
                                  name, b->s->arch->name);
    }
    const tt_file_tensor *t = &b->tensors->t[i];
    bool ok = rows > 0 ? t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols
                       : t->n_dims == 1 && t->dims[0] == cols;
    if (!ok && rows > 0) {
        return tt_fail(b->err, TT_E_MODEL,
                       "tensor %s (byte %" PRIu64 ") has shape %s, expected [%" PRId64 ", %" PRId64
                       "]",
                       name, t->offset, tt_tensor_shape_text(t, shape, sizeof shape), rows, cols);
    }
    if (!ok) {
        return tt_fail(b->err, TT_E_MODEL,
                       "tensor %s (byte %" PRIu64 ") has shape %s, expected [%" PRId64 "]", name,
                       t->offset, tt_tensor_shape_text(t, shape, sizeof shape), cols);
    }
    if (t->type == TT_DTYPE_COUNT) {
        return tt_fail(b->err, TT_E_UNSUPPORTED, "tensor %s has type %s, which is not supported",
                       name, t->type_name);
    }
    b->used[i] = 1;
    *ret = t;
    return TT_OK;
}

static tt_code take_vector(builder *b, const char *name, int64_t n, bool optional, float plus,
                           tt_vector *ret)
{
    const tt_file_tensor *t;
    tt_code rc = take(b, name, 0, n, optional, &t);
    if (rc != TT_OK || t == NULL) {
        return rc;
    }
    float *v = tt_arena_alloc(&b->m->files->arena, (size_t)n * sizeof *v);
    if (v == NULL) {
        return tt_fail(b->err, TT_E_NOMEM, "no memory for tensor %s", name);
    }
    tt_dequant_row(t->type, t->data, v, n);
    for (int64_t i = 0; i < n; i++) {
        v[i] += plus;
        if (!isfinite(v[i])) {
            return tt_fail(b->err, TT_E_MODEL,
                           "tensor %s (byte %" PRIu64 ") has a value that is not "
                           "finite at index %" PRId64,
                           name, t->offset, i);
        }
    }
    *ret = (tt_vector){.host = v, .n = (int32_t)n};
    return TT_OK;
}

/* Kernels read plain elements through typed pointers. GGUF aligns all tensors; an old safetensors
 * file may not. */
static const void *aligned(builder *b, const tt_file_tensor *t)
{
    uintptr_t align = t->type == TT_F32 ? 4 : 2;
    if (((uintptr_t)t->data & (align - 1)) == 0) {
        return t->data;
    }
    void *copy = tt_arena_alloc(&b->m->files->arena, (size_t)t->n_bytes);
    if (copy != NULL) {
        memcpy(copy, t->data, (size_t)t->n_bytes);
    }
    return copy;
}

static tt_code take_matrix(builder *b, const char *name, int64_t rows, int64_t cols, bool optional,
                           tt_matrix *ret)
{
    const tt_file_tensor *t;
    tt_code rc = take(b, name, rows, cols, optional, &t);
    if (rc != TT_OK || t == NULL) {
        return rc;
    }
    const void *host = aligned(b, t);
    if (host == NULL) {
        return tt_fail(b->err, TT_E_NOMEM, "no memory for tensor %s", name);
    }
    *ret = (tt_matrix){.w = {.type = t->type, .rows = rows, .cols = cols}, .host = host};
    return TT_OK;
}

static tt_code take_layer(builder *b, int32_t index)
{
    tt_layer *l = &b->m->layers[index];
    const tt_arch *a = b->s->arch;
    float plus = b->s->hf_names && (a->flags & TT_ARCH_NORM_PLUS_1) ? 1.0f : 0.0f;
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        const role *r = &roles[i];
        if ((a->flags & r->with) != r->with || (a->flags & r->without) != 0) {
            continue;
        }
        char name[TT_TENSOR_MAX_NAME + 1];
        if (b->s->hf_names) {
            snprintf(name, sizeof name, "%slayers.%d.%s", b->s->hf_prefix, (int)index, r->hf);
        } else {
            snprintf(name, sizeof name, "blk.%d.%s", (int)index, r->gguf);
        }
        void *field = (char *)l + r->field;
        int64_t cols = dim_of(b->m, r->cols);
        bool is_bias = strstr(r->gguf, ".bias") != NULL;
        tt_code rc = r->rows == DIM_NONE
                         ? take_vector(b, name, cols, r->optional, is_bias ? 0.0f : plus, field)
                         : take_matrix(b, name, dim_of(b->m, r->rows), cols, r->optional, field);
        if (rc != TT_OK) {
            return rc;
        }
    }
    return TT_OK;
}

static tt_code take_ends(builder *b)
{
    tt_model *m = b->m;
    const tt_model_spec *s = b->s;
    char embed[TT_TENSOR_MAX_NAME + 1], norm[TT_TENSOR_MAX_NAME + 1];
    snprintf(embed, sizeof embed, "%s%s", s->hf_names ? s->hf_prefix : "",
             s->hf_names ? "embed_tokens.weight" : "token_embd.weight");
    snprintf(norm, sizeof norm, "%s%s", s->hf_names ? s->hf_prefix : "",
             s->hf_names ? "norm.weight" : "output_norm.weight");
    const char *head = s->hf_names ? s->hf_head : "output.weight";
    float plus = s->hf_names && (s->arch->flags & TT_ARCH_NORM_PLUS_1) ? 1.0f : 0.0f;

    int32_t i = tt_tensor_list_find(b->tensors, embed);
    if (i >= 0 && b->tensors->t[i].n_dims == 2) {
        int64_t rows = b->tensors->t[i].dims[0];
        tt_code rc =
            check_range("the number of rows of the embedding", rows, TT_SAMPLE_MAX_VOCAB, b->err);
        if (rc != TT_OK) {
            return rc;
        }
        m->n_vocab = (int32_t)rows;
    }
    /* a missing or flat embedding is reported by take() */
    tt_code rc =
        take_matrix(b, embed, m->n_vocab > 0 ? m->n_vocab : 1, m->hidden, false, &m->embed);
    if (rc != TT_OK ||
        (rc = take_vector(b, norm, m->hidden, false, plus, &m->final_norm)) != TT_OK) {
        return rc;
    }
    if (s->tied) {
        m->tied_head = true;
        int32_t dup = tt_tensor_list_find(b->tensors, head);
        if (dup >= 0) {
            b->used[dup] = 1; /* a copy of the embedding */
        }
    } else {
        rc = take_matrix(b, head, m->n_vocab, m->hidden, !s->hf_names, &m->head);
        m->tied_head = rc == TT_OK && m->head.host == NULL;
    }
    if (rc == TT_OK && m->tied_head) {
        m->head = m->embed;
    }
    return rc;
}

static bool ends_with(tt_str s, const char *suffix)
{
    size_t n = strlen(suffix);
    return s.n >= n && memcmp(s.p + s.n - n, suffix, n) == 0;
}

static bool begins_with(tt_str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

/* Tensors that Hugging Face files hold and that the text model does not compute with. */
static bool is_inert(const builder *b, tt_str name)
{
    static const char *const vision[] = {"vision_tower.", "multi_modal_projector.",
                                         "model.vision_tower.", "model.multi_modal_projector."};
    if (!b->s->hf_names) {
        return false;
    }
    for (size_t i = 0; i < sizeof vision / sizeof vision[0]; i++) {
        if (begins_with(name, vision[i])) {
            return true;
        }
    }
    return ends_with(name, "rotary_emb.inv_freq");
}

static tt_code check_left_over(const builder *b)
{
    for (int32_t i = 0; i < b->tensors->n; i++) {
        tt_str name = b->tensors->t[i].name;
        if (!b->used[i] && !is_inert(b, name)) {
            return tt_fail(b->err, TT_E_UNSUPPORTED,
                           "tensor %.*s (byte %" PRIu64 ") has no place in architecture %s",
                           (int)name.n, name.p, b->tensors->t[i].offset, b->s->arch->name);
        }
    }
    return TT_OK;
}

static tt_code build_rope(builder *b, int32_t index)
{
    tt_model *m = b->m;
    tt_rope_spec spec = b->s->rope[index];
    if (spec.rot_dim < 2 || spec.rot_dim > m->head_dim || spec.rot_dim % 2 != 0) {
        return tt_fail(b->err, TT_E_MODEL, "rope rotates %d dimensions of heads of %d",
                       (int)spec.rot_dim, (int)m->head_dim);
    }
    int32_t n = spec.rot_dim / 2;
    tt_vector factors = {0};
    tt_code rc = TT_OK;
    if (index == 0 && !b->s->hf_names) {
        /* Llama 3's scaling, as GGUF holds it: one divisor for each frequency */
        rc = take_vector(b, "rope_freqs.weight", n, true, 0.0f, &factors);
        spec.freq_factors = factors.host;
    }
    float *inv_freq = tt_arena_calloc(&m->files->arena, (size_t)n, sizeof *inv_freq);
    if (rc == TT_OK && inv_freq == NULL) {
        rc = tt_fail(b->err, TT_E_NOMEM, "no memory for %d rope frequencies", (int)n);
    }
    tt_rope_params *p = &m->rope[index];
    if (rc != TT_OK || (rc = tt_rope_frequencies(&spec, inv_freq, &p->mscale, b->err)) != TT_OK) {
        return rc;
    }
    p->kind = spec.kind;
    p->rot_dim = spec.rot_dim;
    p->inv_freq = (tt_vector){.host = inv_freq, .n = n};
    if (index == 0) {
        m->rope_scaling = spec.freq_factors != NULL ? TT_ROPE_LLAMA3 : spec.scaling;
    }
    return TT_OK;
}

static void set_dims(tt_model *m, const tt_model_spec *s)
{
    snprintf(m->arch, sizeof m->arch, "%s", s->arch->name);
    m->n_layers = (int32_t)s->n_layers;
    m->hidden = (int32_t)s->hidden;
    m->n_heads = (int32_t)s->n_heads;
    m->n_kv_heads = (int32_t)s->n_kv_heads;
    m->head_dim = (int32_t)s->head_dim;
    m->ffn = (int32_t)s->ffn;
    m->n_ctx_train = (int32_t)s->n_ctx;
    m->norm_eps = (float)s->norm_eps;
    m->attn_scale = (float)(s->attn_scale > 0.0 ? s->attn_scale : 1.0 / sqrt((double)s->head_dim));
    /* Not rounded to the file's type: transformers rounds sqrt(hidden) to the dtype it computes in,
     * which is f32 here. */
    m->embed_scale = s->arch->flags & TT_ARCH_EMBED_SCALE ? (float)sqrt((double)s->hidden) : 1.0f;
    m->act = s->arch->act;
    m->n_ropes = s->arch->flags & TT_ARCH_LOCAL_ROPE ? 2 : 1;
}

static tt_code set_windows(builder *b)
{
    const tt_model_spec *s = b->s;
    for (int32_t i = 0; i < b->m->n_layers; i++) {
        if (s->sliding == NULL || !s->sliding[i]) {
            continue;
        }
        tt_code rc = check_range("the sliding window", s->window, INT32_MAX, b->err);
        if (rc != TT_OK) {
            return rc;
        }
        b->m->layers[i].window = (int32_t)s->window;
        b->m->layers[i].rope = b->m->n_ropes - 1;
    }
    return TT_OK;
}

static tt_code build_all(builder *b)
{
    tt_model *m = b->m;
    m->layers = tt_arena_calloc(&m->files->arena, (size_t)m->n_layers, sizeof *m->layers);
    if (m->layers == NULL) {
        return tt_fail(b->err, TT_E_NOMEM, "no memory for %d layers", (int)m->n_layers);
    }
    tt_code rc = set_windows(b);
    for (int32_t i = 0; i < m->n_ropes && rc == TT_OK; i++) {
        rc = build_rope(b, i);
    }
    if (rc == TT_OK) {
        rc = take_ends(b);
    }
    for (int32_t i = 0; i < m->n_layers && rc == TT_OK; i++) {
        rc = take_layer(b, i);
    }
    if (rc == TT_OK) {
        rc = check_left_over(b);
    }
    return rc;
}

tt_code tt_model_build(tt_model *m, const tt_model_spec *s, tt_err *reterr)
{
    tt_code rc = tt_model_check_dims(s, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    builder b = {.m = m, .s = s, .tensors = &m->files->tensors, .err = reterr};
    b.used = calloc((size_t)b.tensors->n + 1, 1);
    if (b.used == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %d tensors", (int)b.tensors->n);
    }
    set_dims(m, s);
    rc = build_all(&b);
    free(b.used);
    if (rc == TT_OK) {
        tt_model_summarise(m);
    }
    return rc;
}

void tt_model_set_name(tt_model *m, const char *p, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n && k < sizeof m->name - 1; i++) {
        char c = p[i];
        bool safe = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '_' || c == '-';
        if (safe && (k > 0 || (c != '.' && c != '-'))) {
            m->name[k++] = c;
        } else if (k > 0 && m->name[k - 1] != '-') { /* never the first */
            m->name[k++] = '-';
        }
    }
    while (k > 0 && m->name[k - 1] == '-') {
        k--;
    }
    m->name[k] = '\0';
}
