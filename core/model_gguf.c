/* model_gguf.c - a GGUF file to a tt_model: hyperparameters from "<architecture>.*", vocabulary and
 * template from "tokenizer.*". Thread: one at a time per model. */
#include "core/model_build.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/gguf.h"
#include "core/vocab_gguf.h"

typedef struct reader {
    const tt_gguf *g;
    tt_model *m;
    tt_model_spec s;
    uint8_t sliding[TT_MODEL_MAX_LAYERS];
    char key[96]; /* of the value that was asked for last */
    tt_err *err;
} reader;

static const char *key_of(reader *r, const char *suffix)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->s.arch->name, suffix);
    return r->key;
}

/* The architecture's value; absent: `fallback`, or with fallback < 0 an error. */
static tt_code get_int(reader *r, const char *suffix, int64_t max, int64_t fallback, int64_t *ret)
{
    tt_code rc = tt_gguf_get_int(r->g, key_of(r, suffix), 0, max, ret, r->err);
    if (rc != TT_GGUF_ABSENT) {
        return rc;
    }
    if (fallback < 0) {
        return tt_fail(r->err, TT_E_MODEL, "%s is missing", r->key);
    }
    *ret = fallback;
    return TT_OK;
}

static tt_code get_float(reader *r, const char *suffix, double fallback, double *ret)
{
    *ret = fallback;
    tt_code rc = tt_gguf_get_float(r->g, key_of(r, suffix), ret, r->err);
    return rc == TT_GGUF_ABSENT ? TT_OK : rc;
}

/* A value that may be an array with one entry per layer, all equal. */
static tt_code get_per_layer(reader *r, const char *suffix, int64_t fallback, int64_t *ret)
{
    const tt_gguf_value *v = tt_gguf_find(r->g, key_of(r, suffix));
    if (v == NULL || v->type != TT_GGUF_ARRAY) {
        return get_int(r, suffix, INT32_MAX, fallback, ret);
    }
    bool ints = v->elem_type == TT_GGUF_I32 || v->elem_type == TT_GGUF_U32;
    if (!ints || v->n == 0) {
        return tt_fail(r->err, TT_E_MODEL, "%s (byte %" PRIu64 ") is not an integer", r->key,
                       v->offset);
    }
    *ret = tt_gguf_int_at(v, 0);
    for (uint64_t i = 1; i < v->n; i++) {
        if (tt_gguf_int_at(v, i) != *ret) {
            return tt_fail(r->err, TT_E_UNSUPPORTED, "%s differs from layer to layer", r->key);
        }
    }
    return TT_OK;
}

static tt_code read_arch(reader *r)
{
    tt_str name = {0};
    tt_code rc = tt_gguf_get_str(r->g, "general.architecture", &name, r->err);
    if (rc == TT_GGUF_ABSENT) {
        return tt_fail(r->err, TT_E_MODEL, "general.architecture is missing");
    }
    if (rc != TT_OK) {
        return rc;
    }
    r->s.arch = tt_arch_by_gguf_name(name);
    if (r->s.arch == NULL) {
        bool printable = tt_name_valid(name.p, name.n, 64);
        return tt_fail(r->err, TT_E_UNSUPPORTED, "architecture \"%.*s\" is not supported (%s)",
                       printable ? (int)name.n : 1, printable ? name.p : "?", tt_arch_list);
    }
    return TT_OK;
}

static tt_code read_dims(reader *r)
{
    tt_model_spec *s = &r->s;
    tt_code rc;
    if ((rc = get_int(r, "block_count", TT_MODEL_MAX_LAYERS, -1, &s->n_layers)) != TT_OK ||
        (rc = get_int(r, "embedding_length", INT32_MAX, -1, &s->hidden)) != TT_OK ||
        (rc = get_int(r, "context_length", INT32_MAX, -1, &s->n_ctx)) != TT_OK ||
        (rc = get_per_layer(r, "feed_forward_length", -1, &s->ffn)) != TT_OK ||
        (rc = get_per_layer(r, "attention.head_count", -1, &s->n_heads)) != TT_OK ||
        (rc = get_per_layer(r, "attention.head_count_kv", s->n_heads, &s->n_kv_heads)) != TT_OK) {
        return rc;
    }
    int64_t by_heads = s->n_heads > 0 ? s->hidden / s->n_heads : 0, value_length;
    if ((rc = get_int(r, "attention.key_length", INT32_MAX, by_heads, &s->head_dim)) != TT_OK ||
        (rc = get_int(r, "attention.value_length", INT32_MAX, s->head_dim, &value_length)) !=
            TT_OK ||
        (rc = get_float(r, "attention.layer_norm_rms_epsilon", NAN, &s->norm_eps)) != TT_OK) {
        return rc;
    }
    if (isnan(s->norm_eps)) {
        return tt_fail(r->err, TT_E_MODEL, "%s is missing", r->key);
    }
    if (value_length != s->head_dim) {
        return tt_fail(r->err, TT_E_UNSUPPORTED,
                       "values of %" PRId64 " for keys of %" PRId64 " dimensions are not supported",
                       value_length, s->head_dim);
    }
    return TT_OK;
}

static bool text_is(tt_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

static tt_code read_scaling(reader *r, tt_rope_spec *p)
{
    tt_str type = {.p = "none", .n = 4};
    tt_code rc = tt_gguf_get_str(r->g, key_of(r, "rope.scaling.type"), &type, r->err);
    if (rc < 0 || (rc = get_float(r, "rope.scale_linear", 1.0, &p->factor)) != TT_OK) {
        return rc;
    }
    p->scaling = p->factor != 1.0 ? TT_ROPE_LINEAR : TT_ROPE_NONE; /* the key of old files */
    if (text_is(type, "none")) {
        return TT_OK;
    }
    if (text_is(type, "linear")) {
        p->scaling = TT_ROPE_LINEAR;
        return get_float(r, "rope.scaling.factor", 1.0, &p->factor);
    }
    if (!text_is(type, "yarn")) {
        return tt_fail(r->err, TT_E_UNSUPPORTED,
                       "%s.rope.scaling.type is none of none, linear and yarn", r->s.arch->name);
    }
    int64_t orig;
    double attn;
    p->scaling = TT_ROPE_YARN;
    p->truncate = true;
    if ((rc = get_float(r, "rope.scaling.factor", 1.0, &p->factor)) != TT_OK ||
        (rc = get_int(r, "rope.scaling.original_context_length", INT32_MAX, r->s.n_ctx, &orig)) !=
            TT_OK ||
        (rc = get_float(r, "rope.scaling.yarn_beta_fast", 32.0, &p->beta_fast)) != TT_OK ||
        (rc = get_float(r, "rope.scaling.yarn_beta_slow", 1.0, &p->beta_slow)) != TT_OK ||
        (rc = get_float(r, "rope.scaling.attn_factor", 1.0, &attn)) != TT_OK ||
        (rc = get_float(r, "rope.scaling.yarn_attn_factor", attn, &attn)) != TT_OK) {
        return rc;
    }
    p->orig_ctx = (double)orig;
    /* GGUF's attention factor multiplies YaRN's own, Hugging Face's replaces it */
    if (attn != 1.0) {
        p->attn_factor = attn * (p->factor > 1.0 ? 0.1 * log(p->factor) + 1.0 : 1.0);
    }
    double reach = (double)orig * p->factor;
    if (reach > (double)r->s.n_ctx && reach < (double)INT32_MAX) {
        r->s.n_ctx = (int64_t)reach;
    }
    return TT_OK;
}

static tt_code read_rope(reader *r)
{
    tt_rope_spec *p = &r->s.rope[0];
    int64_t rot_dim;
    bool gemma = (r->s.arch->flags & TT_ARCH_LOCAL_ROPE) != 0;
    tt_code rc;
    if ((rc = get_int(r, "rope.dimension_count", INT32_MAX, r->s.head_dim, &rot_dim)) != TT_OK ||
        (rc = get_float(r, "rope.freq_base", gemma ? 1e6 : 1e4, &p->base)) != TT_OK ||
        (rc = read_scaling(r, p)) != TT_OK) {
        return rc;
    }
    p->kind = r->s.arch->gguf_rope;
    p->rot_dim = (int32_t)rot_dim;
    if (gemma) { /* the local layers: a base of their own, never scaled */
        r->s.rope[1] = (tt_rope_spec){.kind = p->kind, .rot_dim = p->rot_dim};
        return get_float(r, "rope.freq_base_swa", 1e4, &r->s.rope[1].base);
    }
    return TT_OK;
}

/* sliding_window_pattern is the distance of the layers that see all, or says it layer by layer. */
static tt_code read_pattern(reader *r)
{
    int64_t pattern;
    const tt_gguf_value *v = tt_gguf_find(r->g, key_of(r, "attention.sliding_window_pattern"));
    if (v != NULL && v->type == TT_GGUF_ARRAY && v->elem_type == TT_GGUF_BOOL) {
        if (v->n != (uint64_t)r->s.n_layers) {
            return tt_fail(r->err, TT_E_MODEL,
                           "%s (byte %" PRIu64 ") has %" PRIu64 " entries for %" PRId64 " layers",
                           r->key, v->offset, v->n, r->s.n_layers);
        }
        for (int64_t i = 0; i < r->s.n_layers; i++) {
            r->sliding[i] = v->data[i] != 0;
        }
        return TT_OK;
    }
    tt_code rc = get_int(r, "attention.sliding_window_pattern", INT32_MAX, 6, &pattern);
    if (rc != TT_OK) {
        return rc;
    }
    if (pattern < 1) {
        return tt_fail(r->err, TT_E_MODEL, "%s is 0", r->key);
    }
    for (int64_t i = 0; i < r->s.n_layers; i++) {
        r->sliding[i] = (i + 1) % pattern != 0;
    }
    return TT_OK;
}

/* Gemma 3: every sixth layer sees all, the others a window. */
static tt_code read_windows(reader *r)
{
    tt_code rc = get_int(r, "attention.sliding_window", INT32_MAX, 0, &r->s.window);
    if (rc != TT_OK || !(r->s.arch->flags & TT_ARCH_LOCAL_ROPE)) {
        return rc;
    }
    if (r->s.window < 1) {
        return tt_fail(r->err, TT_E_MODEL, "%s is missing or 0", r->key);
    }
    r->s.sliding = r->sliding;
    return read_pattern(r);
}

static tt_code read_scales(reader *r)
{
    double softcap;
    tt_code rc = get_float(r, "attention.scale", 0.0, &r->s.attn_scale);
    if (rc != TT_OK || (rc = get_float(r, "final_logit_softcapping", 0.0, &softcap)) != TT_OK) {
        return rc;
    }
    if (softcap != 0.0) {
        return tt_fail(r->err, TT_E_UNSUPPORTED, "%s is not supported", r->key);
    }
    /* The format has no key for query_pre_attn_scalar. It equals head_dim but in the 27B model (62
     * layers), where it is hidden / n_heads. */
    if ((r->s.arch->flags & TT_ARCH_LOCAL_ROPE) && r->s.attn_scale <= 0.0 && r->s.n_layers == 62) {
        r->s.attn_scale = sqrt((double)r->s.n_heads / (double)r->s.hidden);
    }
    return TT_OK;
}

static tt_code refuse_others(reader *r)
{
    int64_t n;
    tt_code rc = get_int(r, "expert_count", INT32_MAX, 0, &n);
    if (rc == TT_OK && n > 0) {
        return tt_fail(r->err, TT_E_UNSUPPORTED, "mixtures of experts are not supported (%s)",
                       r->key);
    }
    n = 1;
    if (rc == TT_OK) {
        rc = tt_gguf_get_int(r->g, "split.count", 0, INT32_MAX, &n, r->err);
    }
    if (rc >= 0 && n > 1) {
        return tt_fail(r->err, TT_E_UNSUPPORTED,
                       "one of %" PRId64 " parts of a split model: join them into one file first",
                       n);
    }
    return rc < 0 ? rc : TT_OK;
}

static tt_str token_text(const tt_vocab *v, int32_t id)
{
    return id >= 0 ? v->tokens[id] : (tt_str){.p = "", .n = 0};
}

static tt_code read_text(reader *r)
{
    tt_model *m = r->m;
    tt_code rc = tt_vocab_read_gguf(r->g, &m->files->arena, &m->vocab, r->err);
    if (rc != TT_OK) {
        return rc;
    }
    rc = tt_gguf_get_str(r->g, "tokenizer.chat_template", &m->chat_template, r->err);
    if (rc < 0) {
        return rc;
    }
    m->bos_text = token_text(&m->vocab, m->vocab.bos);
    m->eos_text = token_text(&m->vocab, m->vocab.eos);
    tt_str name = {0};
    rc = tt_gguf_get_str(r->g, "general.name", &name, r->err);
    if (rc == TT_OK) {
        tt_model_set_name(m, name.p, name.n);
    }
    return rc < 0 ? rc : TT_OK;
}

static tt_code read_spec(reader *r)
{
    tt_code rc = read_arch(r);
    if (rc != TT_OK || (rc = refuse_others(r)) != TT_OK || (rc = read_dims(r)) != TT_OK ||
        (rc = read_scales(r)) != TT_OK || (rc = tt_model_check_dims(&r->s, r->err)) != TT_OK ||
        (rc = read_rope(r)) != TT_OK || (rc = read_windows(r)) != TT_OK) {
        return rc;
    }
    return read_text(r);
}

tt_code tt_model_read_gguf(tt_model *m, tt_err *reterr)
{
    tt_gguf *g = NULL;
    tt_code rc = tt_gguf_open(m->files->maps[0].p, m->files->maps[0].n, &g, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    snprintf(m->format, sizeof m->format, "gguf v%" PRIu32, g->version);
    reader *r = calloc(1, sizeof *r);
    if (r == NULL) {
        tt_gguf_close(&g);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the reader");
    }
    r->g = g;
    r->m = m;
    r->err = reterr;
    rc = read_spec(r);
    if (rc == TT_OK) {
        m->files->tensors = g->tensors; /* its names point into the map, not into the reader */
        g->tensors = (tt_tensor_list){0};
        rc = tt_model_build(m, &r->s, reterr);
    }
    free(r);
    tt_gguf_close(&g);
    return rc;
}
