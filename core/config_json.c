/* config_json.c - see config_json.h. What the keys mean: transformers' configuration and rope
 * classes. */
#include "core/config_json.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#define MAX_BYTES ((uint64_t)1 << 20)

/* A class's defaults; 0 = the key is required, or (kv_heads, head_dim) follows from others. */
typedef struct family {
    const char *model_type;
    int64_t hidden, ffn, layers, heads, kv_heads, head_dim, ctx, window;
    double rope_base;
} family;

static const family families[] = {
    {.model_type = "llama", .ctx = 2048, .rope_base = 1e4},
    {.model_type = "mistral", .kv_heads = 8, .ctx = 4096 * 32, .window = 4096, .rope_base = 1e4},
    {.model_type = "qwen2", .kv_heads = 32, .ctx = 32768, .window = 4096, .rope_base = 1e4},
    {.model_type = "qwen3",
     .kv_heads = 32,
     .head_dim = 128,
     .ctx = 32768,
     .window = 4096,
     .rope_base = 1e4},
    /* text_config of the larger Gemma 3 says only what differs from its class */
    {.model_type = "gemma3_text",
     .hidden = 2304,
     .ffn = 9216,
     .layers = 26,
     .heads = 8,
     .kv_heads = 4,
     .head_dim = 256,
     .ctx = 131072,
     .window = 4096,
     .rope_base = 1e6},
};

typedef struct reader {
    const json_t *root; /* the text model's object */
    const family *f;
    tt_config *c;
    tt_err *err;
} reader;

/* null counts as absent, as in transformers. */
static const json_t *find(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

/* absent: fallback, or with fallback 0 an error when required. */
static tt_code get_int(reader *r, const char *key, int64_t fallback, bool required, int64_t *ret)
{
    const json_t *v = find(r->root, key);
    if (v == NULL && fallback == 0 && required) {
        return tt_fail(r->err, TT_E_MODEL, "%s is missing", key);
    }
    if (v != NULL &&
        (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)) {
        return tt_fail(r->err, TT_E_MODEL, "%s is not an integer of 0 to %d", key, INT32_MAX);
    }
    *ret = v != NULL ? (int64_t)json_integer_value(v) : fallback;
    return TT_OK;
}

static tt_code get_float(reader *r, const json_t *o, const char *key, double fallback, double *ret)
{
    const json_t *v = find(o, key);
    if (v != NULL && !json_is_number(v)) {
        return tt_fail(r->err, TT_E_MODEL, "%s is not a number", key);
    }
    *ret = v != NULL ? json_number_value(v) : fallback;
    return TT_OK;
}

static tt_code get_bool(reader *r, const json_t *o, const char *key, bool fallback, bool *ret)
{
    const json_t *v = find(o, key);
    if (v != NULL && !json_is_boolean(v)) {
        return tt_fail(r->err, TT_E_MODEL, "%s is neither true nor false", key);
    }
    *ret = v != NULL ? json_is_true(v) : fallback;
    return TT_OK;
}

static tt_code get_text(reader *r, const json_t *o, const char *key, const char *fallback,
                        const char **ret)
{
    const json_t *v = find(o, key);
    if (v != NULL && !json_is_string(v)) {
        return tt_fail(r->err, TT_E_MODEL, "%s is not a string", key);
    }
    *ret = v != NULL ? json_string_value(v) : fallback;
    return TT_OK;
}

static tt_code read_dims(reader *r)
{
    tt_model_spec *s = &r->c->spec;
    const family *f = r->f;
    tt_code rc;
    if ((rc = get_int(r, "hidden_size", f->hidden, true, &s->hidden)) != TT_OK ||
        (rc = get_int(r, "intermediate_size", f->ffn, true, &s->ffn)) != TT_OK ||
        (rc = get_int(r, "num_hidden_layers", f->layers, true, &s->n_layers)) != TT_OK ||
        (rc = get_int(r, "num_attention_heads", f->heads, true, &s->n_heads)) != TT_OK ||
        (rc = get_int(r, "max_position_embeddings", f->ctx, true, &s->n_ctx)) != TT_OK ||
        (rc = get_int(r, "vocab_size", 0, false, &r->c->n_vocab)) != TT_OK ||
        (rc = get_int(r, "num_key_value_heads", f->kv_heads, false, &s->n_kv_heads)) != TT_OK ||
        (rc = get_int(r, "head_dim", f->head_dim, false, &s->head_dim)) != TT_OK ||
        (rc = get_float(r, r->root, "rms_norm_eps", 1e-6, &s->norm_eps)) != TT_OK) {
        return rc;
    }
    bool nulled = json_is_null(json_object_get(r->root, "num_key_value_heads"));
    if (s->n_kv_heads == 0 || nulled) {
        s->n_kv_heads = s->n_heads;
    }
    if (s->head_dim == 0 && s->n_heads > 0) {
        s->head_dim = s->hidden / s->n_heads;
    }
    return TT_OK;
}

static tt_code refuse(reader *r, const char *key, const char *value)
{
    return tt_fail(r->err, TT_E_UNSUPPORTED, "%s %s is not supported", key, value);
}

/* What would make the model compute something that the engine does not. */
static tt_code check_features(reader *r)
{
    const char *act = NULL;
    bool gelu = r->c->spec.arch->act == TT_ACT_GELU_TANH;
    tt_code rc = get_text(r, r->root, gelu ? "hidden_activation" : "hidden_act",
                          gelu ? "gelu_pytorch_tanh" : "silu", &act);
    if (rc != TT_OK) {
        return rc;
    }
    if (strcmp(act, gelu ? "gelu_pytorch_tanh" : "silu") != 0) {
        return refuse(r, "the activation", act);
    }
    const char *const softcaps[] = {"final_logit_softcapping", "attn_logit_softcapping"};
    for (size_t i = 0; i < sizeof softcaps / sizeof softcaps[0]; i++) {
        double x = 0.0;
        if ((rc = get_float(r, r->root, softcaps[i], 0.0, &x)) != TT_OK) {
            return rc;
        }
        if (x != 0.0) {
            return refuse(r, softcaps[i], "");
        }
    }
    bool both = false;
    if ((rc = get_bool(r, r->root, "use_bidirectional_attention", false, &both)) != TT_OK) {
        return rc;
    }
    return both ? refuse(r, "use_bidirectional_attention", "") : TT_OK;
}

static tt_code read_layer_types(reader *r, const json_t *types)
{
    tt_model_spec *s = &r->c->spec;
    if (!json_is_array(types) || (int64_t)json_array_size(types) != s->n_layers) {
        return tt_fail(r->err, TT_E_MODEL, "layer_types is not an array of %" PRId64 " names",
                       s->n_layers);
    }
    for (int64_t i = 0; i < s->n_layers; i++) {
        const char *t = json_string_value(json_array_get(types, (size_t)i));
        bool sliding = t != NULL && strcmp(t, "sliding_attention") == 0;
        if (!sliding && (t == NULL || strcmp(t, "full_attention") != 0)) {
            return refuse(r, "layer_types:", t != NULL ? t : "something that is not a string");
        }
        r->c->sliding[i] = sliding;
    }
    return TT_OK;
}

/* Which layers see only a window. Mistral: all; Qwen: those from max_window_layers on, if
 * use_sliding_window; Gemma 3: all but every sixth. layer_types, where it is written, says it
 * outright (but for Mistral, which does not read it). */
static tt_code read_windows(reader *r)
{
    tt_model_spec *s = &r->c->spec;
    bool gemma = (s->arch->flags & TT_ARCH_LOCAL_ROPE) != 0;
    bool mistral = strcmp(r->f->model_type, "mistral") == 0;
    bool qwen = strncmp(r->f->model_type, "qwen", 4) == 0;
    bool use = gemma || mistral;
    int64_t from = 0, pattern = 6;
    tt_code rc = get_int(r, "sliding_window", r->f->window, false, &s->window);
    if (rc == TT_OK && qwen) {
        rc = get_bool(r, r->root, "use_sliding_window", false, &use);
    }
    if (rc == TT_OK && qwen) {
        rc = get_int(r, "max_window_layers", 28, false, &from);
    }
    if (rc == TT_OK && gemma) {
        rc = get_int(r, "sliding_window_pattern", 6, false, &pattern);
    }
    if (rc != TT_OK) {
        return rc;
    }
    bool nulled = json_is_null(json_object_get(r->root, "sliding_window"));
    if (!use || (nulled && !gemma)) {
        return TT_OK; /* full attention everywhere, whatever layer_types says */
    }
    if (s->window < 1 || nulled || pattern < 1) {
        return tt_fail(r->err, TT_E_MODEL,
                       "sliding_window is %" PRId64 " tokens in a pattern of %" PRId64 " layers",
                       nulled ? 0 : s->window, pattern);
    }
    s->sliding = r->c->sliding;
    const json_t *types = find(r->root, "layer_types");
    if (types != NULL && !mistral) {
        return read_layer_types(r, types);
    }
    for (int64_t i = 0; i < s->n_layers; i++) {
        r->c->sliding[i] = gemma ? (i + 1) % pattern != 0 : i >= from;
    }
    return TT_OK;
}

static double yarn_mscale(double factor, double m)
{
    return factor > 1.0 ? 0.1 * m * log(factor) + 1.0 : 1.0;
}

static tt_code read_yarn(reader *r, const json_t *o, tt_rope_spec *p)
{
    double m = 0.0, m_all = 0.0;
    tt_model_spec *s = &r->c->spec;
    tt_code rc;
    if ((rc = get_float(r, o, "attention_factor", 0.0, &p->attn_factor)) != TT_OK ||
        (rc = get_float(r, o, "beta_fast", 32.0, &p->beta_fast)) != TT_OK ||
        (rc = get_float(r, o, "beta_slow", 1.0, &p->beta_slow)) != TT_OK ||
        (rc = get_bool(r, o, "truncate", true, &p->truncate)) != TT_OK ||
        (rc = get_float(r, o, "mscale", 0.0, &m)) != TT_OK ||
        (rc = get_float(r, o, "mscale_all_dim", 0.0, &m_all)) != TT_OK) {
        return rc;
    }
    if (p->factor == 0.0 && p->orig_ctx > 0.0) {
        p->factor = (double)s->n_ctx / p->orig_ctx;
    }
    if (p->attn_factor == 0.0 && m != 0.0 && m_all != 0.0) {
        p->attn_factor = yarn_mscale(p->factor, m) / yarn_mscale(p->factor, m_all);
    }
    /* Qwen's max_position_embeddings is the context before scaling, others' the one after it */
    double reach = p->orig_ctx * p->factor;
    if (reach > (double)TT_MODEL_MAX_CTX) {
        return tt_fail(r->err, TT_E_MODEL, "rope scaling stretches %g tokens by %g, at most to %d",
                       p->orig_ctx, p->factor, TT_MODEL_MAX_CTX);
    }
    if (reach > (double)s->n_ctx) {
        s->n_ctx = (int64_t)reach;
    }
    return TT_OK;
}

/* o: rope_scaling (transformers 4), rope_parameters or one of its parts (5), or NULL. */
static tt_code read_scaling(reader *r, const json_t *o, tt_rope_spec *p)
{
    const char *type = NULL;
    double share = 1.0;
    tt_code rc = get_text(r, o, "type", "default", &type);
    if (rc != TT_OK || (rc = get_text(r, o, "rope_type", type, &type)) != TT_OK ||
        (rc = get_float(r, o, "rope_theta", p->base, &p->base)) != TT_OK ||
        (rc = get_float(r, o, "factor", 0.0, &p->factor)) != TT_OK ||
        (rc = get_float(r, o, "original_max_position_embeddings", (double)r->c->spec.n_ctx,
                        &p->orig_ctx)) != TT_OK ||
        (rc = get_float(r, o, "partial_rotary_factor", 1.0, &share)) != TT_OK) {
        return rc;
    }
    if (share != 1.0) {
        return refuse(r, "partial_rotary_factor", "other than 1");
    }
    if (strcmp(type, "default") == 0) {
        p->scaling = TT_ROPE_NONE;
        return TT_OK;
    }
    if (strcmp(type, "linear") == 0) {
        p->scaling = TT_ROPE_LINEAR;
        return TT_OK;
    }
    if (strcmp(type, "llama3") == 0) {
        p->scaling = TT_ROPE_LLAMA3;
        rc = get_float(r, o, "low_freq_factor", 0.0, &p->low_freq_factor);
        return rc != TT_OK ? rc : get_float(r, o, "high_freq_factor", 0.0, &p->high_freq_factor);
    }
    if (strcmp(type, "yarn") == 0) {
        p->scaling = TT_ROPE_YARN;
        return read_yarn(r, o, p);
    }
    return refuse(r, "rope scaling", type);
}

static tt_code get_object(reader *r, const json_t *o, const char *key, const json_t **ret)
{
    const json_t *v = find(o, key);
    if (v != NULL && !json_is_object(v)) {
        return tt_fail(r->err, TT_E_MODEL, "%s is not an object", key);
    }
    *ret = v;
    return TT_OK;
}

static tt_code read_rope(reader *r)
{
    tt_model_spec *s = &r->c->spec;
    bool gemma = (s->arch->flags & TT_ARCH_LOCAL_ROPE) != 0;
    tt_rope_spec base = {.kind = TT_ROPE_HALF, .rot_dim = (int32_t)s->head_dim};
    const json_t *scaling = NULL, *params = NULL, *full = NULL, *local = NULL;
    double share = 1.0;
    tt_code rc;
    s->rope[0] = s->rope[1] = base;
    if ((rc = get_float(r, r->root, "rope_theta", r->f->rope_base, &s->rope[0].base)) != TT_OK ||
        (rc = get_float(r, r->root, "rope_local_base_freq", 1e4, &s->rope[1].base)) != TT_OK ||
        (rc = get_float(r, r->root, "partial_rotary_factor", 1.0, &share)) != TT_OK ||
        (rc = get_object(r, r->root, "rope_scaling", &scaling)) != TT_OK ||
        (rc = get_object(r, r->root, "rope_parameters", &params)) != TT_OK ||
        (rc = get_object(r, params, "full_attention", &full)) != TT_OK ||
        (rc = get_object(r, params, "sliding_attention", &local)) != TT_OK) {
        return rc;
    }
    if (share != 1.0) {
        return refuse(r, "partial_rotary_factor", "other than 1");
    }
    if ((full != NULL || local != NULL) && !gemma) {
        return refuse(r, "rope_parameters", "that differ from layer to layer");
    }
    bool nested = full != NULL || local != NULL;
    const json_t *global = nested ? full : scaling != NULL ? scaling : params;
    if ((rc = read_scaling(r, global, &s->rope[0])) != TT_OK || !gemma) {
        return rc;
    }
    return read_scaling(r, local, &s->rope[1]);
}

static tt_code read_scales(reader *r)
{
    tt_model_spec *s = &r->c->spec;
    double scalar = 256.0;
    tt_code rc =
        get_bool(r, r->root, "tie_word_embeddings", (s->arch->flags & TT_ARCH_TIED) != 0, &s->tied);
    if (rc != TT_OK || !(s->arch->flags & TT_ARCH_LOCAL_ROPE) ||
        (rc = get_float(r, r->root, "query_pre_attn_scalar", 256.0, &scalar)) != TT_OK) {
        return rc;
    }
    if (!(scalar > 0.0)) {
        return tt_fail(r->err, TT_E_MODEL, "query_pre_attn_scalar is %g, expected above 0", scalar);
    }
    s->attn_scale = 1.0 / sqrt(scalar);
    return TT_OK;
}

/* Finds the family; of a picture-and-text Gemma 3, the text model's object. */
static tt_code read_family(reader *r)
{
    const char *type = NULL;
    const json_t *text = NULL;
    tt_code rc = get_text(r, r->root, "model_type", "", &type);
    if (rc != TT_OK) {
        return rc;
    }
    if (type[0] == '\0') {
        return tt_fail(r->err, TT_E_MODEL, "model_type is missing");
    }
    if (find(r->root, "quantization_config") != NULL) {
        return refuse(r, "quantization_config:", "weights in another form than F32, F16 or BF16");
    }
    r->c->spec.arch = tt_arch_by_model_type(type);
    if (strcmp(type, "gemma3") == 0) {
        if ((rc = get_object(r, r->root, "text_config", &text)) != TT_OK) {
            return rc;
        }
        if (text == NULL) {
            return tt_fail(r->err, TT_E_MODEL, "text_config is missing");
        }
        r->root = text;
        type = "gemma3_text";
    }
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(families[i].model_type, type) == 0) {
            r->f = &families[i];
        }
    }
    if (r->f == NULL || r->c->spec.arch == NULL) {
        return tt_fail(r->err, TT_E_UNSUPPORTED, "model_type \"%s\" is not supported (%s)", type,
                       tt_arch_list);
    }
    return TT_OK;
}

static tt_code read_all(reader *r)
{
    tt_code rc = read_family(r);
    if (rc != TT_OK || (rc = read_dims(r)) != TT_OK || (rc = read_scales(r)) != TT_OK ||
        (rc = tt_model_check_dims(&r->c->spec, r->err)) != TT_OK ||
        (rc = check_features(r)) != TT_OK || (rc = read_rope(r)) != TT_OK) {
        return rc;
    }
    return read_windows(r);
}

tt_code tt_config_read(const uint8_t *bytes, uint64_t n_bytes, tt_config *ret_config,
                       tt_err *reterr)
{
    json_error_t e;
    if (n_bytes > MAX_BYTES) {
        return tt_fail(reterr, TT_E_MODEL, "%" PRIu64 " bytes, at most %" PRIu64, n_bytes,
                       MAX_BYTES);
    }
    json_t *root = json_loadb((const char *)bytes, (size_t)n_bytes, JSON_REJECT_DUPLICATES, &e);
    if (root == NULL && json_error_code(&e) == json_error_out_of_memory) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the JSON");
    }
    if (root == NULL) {
        return tt_fail(reterr, TT_E_MODEL, "JSON error in line %d: %s", e.line, e.text);
    }
    memset(ret_config, 0, sizeof *ret_config);
    ret_config->spec.hf_names = true;
    reader r = {.root = root, .c = ret_config, .err = reterr};
    tt_code rc = json_is_object(root) ? read_all(&r)
                                      : tt_fail(reterr, TT_E_MODEL, "the JSON is not an object");
    json_decref(root);
    return rc;
}
