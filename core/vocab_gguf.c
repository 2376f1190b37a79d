/* vocab_gguf.c - see vocab_gguf.h. Keys: tokenizer.ggml.* of the GGUF specification. */
#include "core/vocab_gguf.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name
#define MAX_TOKENS (1 << 24)

typedef struct reader {
    const tt_gguf *g;
    tt_arena *arena;
    tt_vocab *v;
    tt_err *err;
} reader;

static bool equal(tt_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

static tt_code read_kind(reader *r)
{
    static const struct {
        const char *name;
        tt_vocab_kind kind;
    } kinds[] = {{"gpt2", TT_VOCAB_BPE}, {"llama", TT_VOCAB_SPM}, {"t5", TT_VOCAB_UNIGRAM}};
    tt_str model = {0};
    tt_code rc = tt_gguf_get_str(r->g, KEY("model"), &model, r->err);
    if (rc == TT_GGUF_ABSENT) {
        return tt_fail(r->err, TT_E_MODEL, "the file has no tokenizer (" KEY("model") ")");
    }
    if (rc != TT_OK) {
        return rc;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (equal(model, kinds[i].name)) {
            r->v->kind = kinds[i].kind;
            return TT_OK;
        }
    }
    return tt_fail(
        r->err, TT_E_UNSUPPORTED, "tokenizer \"%.*s\" is not supported (gpt2, llama and t5 are)",
        (int)(model.n < 32 ? model.n : 32), tt_name_valid(model.p, model.n, 64) ? model.p : "?");
}

/* An array of strings into the arena. */
static tt_code read_strings(reader *r, const char *key, bool required, const tt_str **ret,
                            int32_t *ret_n)
{
    const tt_gguf_value *a = NULL;
    tt_code rc = tt_gguf_get_array(r->g, key, TT_GGUF_STRING, &a, r->err);
    if (rc == TT_GGUF_ABSENT) {
        return required ? tt_fail(r->err, TT_E_MODEL, "%s is missing", key) : TT_OK;
    }
    if (rc != TT_OK) {
        return rc;
    }
    if (a->n > MAX_TOKENS || (required && a->n == 0)) {
        return tt_fail(r->err, TT_E_MODEL, "%s (byte %" PRIu64 ") has %" PRIu64 " entries", key,
                       a->offset, a->n);
    }
    tt_str *s = tt_arena_calloc(r->arena, (size_t)a->n, sizeof *s);
    if (s == NULL) {
        return tt_fail(r->err, TT_E_NOMEM, "no memory for %s", key);
    }
    tt_gguf_strings(a, s);
    *ret = s;
    *ret_n = (int32_t)a->n;
    return TT_OK;
}

static tt_code check_length(reader *r, const char *key, const tt_gguf_value *a)
{
    if (a->n != (uint64_t)r->v->n_tokens) {
        return tt_fail(r->err, TT_E_MODEL,
                       "%s (byte %" PRIu64 ") has %" PRIu64 " entries for %d tokens", key,
                       a->offset, a->n, (int)r->v->n_tokens);
    }
    return TT_OK;
}

static tt_code read_scores(reader *r)
{
    const tt_gguf_value *a = NULL;
    tt_code rc = tt_gguf_get_array(r->g, KEY("scores"), TT_GGUF_F32, &a, r->err);
    if (rc == TT_GGUF_ABSENT) {
        return r->v->kind == TT_VOCAB_BPE
                   ? TT_OK
                   : tt_fail(r->err, TT_E_MODEL, KEY("scores") " is missing");
    }
    if (rc != TT_OK || (rc = check_length(r, KEY("scores"), a)) != TT_OK) {
        return rc;
    }
    float *scores =
        tt_arena_calloc(r->arena, (size_t)a->n, sizeof *scores); /* the file's are not aligned */
    if (scores == NULL) {
        return tt_fail(r->err, TT_E_NOMEM, "no memory for %d scores", (int)r->v->n_tokens);
    }
    memcpy(scores, a->data, (size_t)a->n * sizeof *scores);
    for (uint64_t i = 0; i < a->n; i++) {
        if (isnan(scores[i])) {
            return tt_fail(r->err, TT_E_MODEL, "the score of token %" PRIu64 " is not a number", i);
        }
    }
    r->v->scores = scores;
    return TT_OK;
}

static tt_code read_types(reader *r)
{
    const tt_gguf_value *a = NULL;
    tt_code rc = tt_gguf_get_array(r->g, KEY("token_type"), TT_GGUF_I32, &a, r->err);
    if (rc == TT_GGUF_ABSENT) {
        return TT_OK;
    }
    if (rc != TT_OK || (rc = check_length(r, KEY("token_type"), a)) != TT_OK) {
        return rc;
    }
    uint8_t *types = tt_arena_calloc(r->arena, (size_t)a->n, 1);
    if (types == NULL) {
        return tt_fail(r->err, TT_E_NOMEM, "no memory for %d token types", (int)r->v->n_tokens);
    }
    for (uint64_t i = 0; i < a->n; i++) {
        int64_t t = tt_gguf_int_at(a, i);
        if (t < 0 || t > TT_TOKEN_BYTE) {
            return tt_fail(r->err, TT_E_MODEL,
                           "token %" PRIu64 " has type %" PRId64 ", expected 1 to 6", i, t);
        }
        types[i] =
            (uint8_t)(t == 0 ? TT_TOKEN_NORMAL : t); /* 0: undefined, as old converters wrote */
    }
    r->v->types = types;
    return TT_OK;
}

/* *ret keeps its default when the file does not say. */
static tt_code read_id(reader *r, const char *key, int32_t *ret)
{
    int64_t id = *ret;
    tt_code rc = tt_gguf_get_int(r->g, key, -1, UINT32_MAX, &id, r->err);
    if (rc < 0) {
        return rc;
    }
    if (id == UINT32_MAX) {
        id = -1; /* how some converters write "none" */
    }
    if (id >= r->v->n_tokens && rc == TT_OK) {
        return tt_fail(r->err, TT_E_MODEL, "%s is %" PRId64 ", the vocabulary has %d tokens", key,
                       id, (int)r->v->n_tokens);
    }
    *ret = id < r->v->n_tokens ? (int32_t)id : -1;
    return TT_OK;
}

static tt_code read_ids(reader *r)
{
    tt_vocab *v = r->v;
    bool spm = v->kind == TT_VOCAB_SPM;
    v->bos = spm ? 1 : -1; /* SentencePiece's own numbers */
    v->eos = spm ? 2 : v->kind == TT_VOCAB_UNIGRAM ? 1 : -1;
    v->unk = spm ? 0 : v->kind == TT_VOCAB_UNIGRAM ? 2 : -1;
    v->eot = v->pad = -1;
    const struct {
        const char *key;
        int32_t *id;
    } ids[] = {{KEY("bos_token_id"), &v->bos},
               {KEY("eos_token_id"), &v->eos},
               {KEY("unknown_token_id"), &v->unk},
               {KEY("eot_token_id"), &v->eot},
               {KEY("padding_token_id"), &v->pad}};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        tt_code rc = read_id(r, ids[i].key, ids[i].id);
        if (rc != TT_OK) {
            return rc;
        }
    }
    return TT_OK;
}

static tt_code read_flags(reader *r)
{
    tt_vocab *v = r->v;
    bool llama3 =
        equal(v->pre, "llama-bpe") || equal(v->pre, "llama3") || equal(v->pre, "llama-v3");
    v->add_bos = v->kind == TT_VOCAB_SPM || (v->kind == TT_VOCAB_BPE && llama3);
    v->add_eos = v->kind == TT_VOCAB_UNIGRAM;
    v->add_space_prefix = v->kind != TT_VOCAB_BPE;
    const struct {
        const char *key;
        bool *flag;
    } flags[] = {{KEY("add_bos_token"), &v->add_bos},
                 {KEY("add_eos_token"), &v->add_eos},
                 {KEY("add_space_prefix"), &v->add_space_prefix},
                 {KEY("remove_extra_whitespaces"), &v->remove_extra_whitespaces}};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        tt_code rc = tt_gguf_get_bool(r->g, flags[i].key, flags[i].flag, r->err);
        if (rc < 0) {
            return rc;
        }
    }
    return TT_OK;
}

tt_code tt_vocab_read_gguf(const tt_gguf *g, tt_arena *arena, tt_vocab *ret_vocab, tt_err *reterr)
{
    tt_vocab v = {.pre = {.p = "", .n = 0}};
    reader r = {.g = g, .arena = arena, .v = &v, .err = reterr};
    tt_code rc = read_kind(&r);
    if (rc == TT_OK) {
        rc = tt_gguf_get_str(g, KEY("pre"), &v.pre, reterr);
        rc = rc == TT_GGUF_ABSENT ? TT_OK : rc;
    }
    if (rc == TT_OK) {
        rc = read_strings(&r, KEY("tokens"), true, &v.tokens, &v.n_tokens);
    }
    if (rc == TT_OK) {
        rc = read_strings(&r, KEY("merges"), v.kind == TT_VOCAB_BPE, &v.merges, &v.n_merges);
    }
    if (rc != TT_OK || (rc = read_scores(&r)) != TT_OK || (rc = read_types(&r)) != TT_OK ||
        (rc = read_ids(&r)) != TT_OK || (rc = read_flags(&r)) != TT_OK) {
        return rc;
    }
    *ret_vocab = v;
    return TT_OK;
}
