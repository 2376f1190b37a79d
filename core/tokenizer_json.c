/* tokenizer_json.c - see tokenizer_json.h: vocabulary, merges and added tokens; the parts around
 * them are mapped in tokenizer_shape_json.c. Source: the serialised form of Hugging Face's
 * tokenizers library. */
#include "core/tokenizer_json.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/file_map.h"
#include "core/tokenizer_shape_json.h"

#define MAX_FILE_BYTES ((uint64_t)256 << 20)
enum { MAX_TOKENS = 1 << 24, MAX_HOLES = 1 << 16 };

struct tt_tokenizer_json {
    tt_arena arena; /* every string and table of the vocabulary */
    tt_vocab vocab;
    tt_str *tokens; /* [vocab.n_tokens], writable while it is filled */
    float *scores;
    uint8_t *types;
};

typedef struct reader {
    tt_tokenizer_json *j;
    const json_t *root, *model, *config; /* config: tokenizer_config.json or NULL */
    tt_err *err;
} reader;

static tt_code no_memory(reader *r)
{
    return tt_fail(r->err, TT_E_NOMEM, "no memory for the vocabulary of tokenizer.json");
}

static tt_code bad(reader *r, const char *what)
{
    return tt_fail(r->err, TT_E_MODEL, "tokenizer.json: %s", what);
}

static const json_t *find(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

static tt_code copy_text(reader *r, const char *p, size_t n, tt_str *ret)
{
    char *copy = tt_arena_strndup(&r->j->arena, p, n);
    if (copy == NULL) {
        return no_memory(r);
    }
    *ret = (tt_str){copy, (uint32_t)n}; /* a file has at most MAX_FILE_BYTES */
    return TT_OK;
}

/* Tables for ids up to the largest that the vocabulary or the added tokens name. */
static tt_code make_tables(reader *r, json_int_t largest, size_t n_entries)
{
    if (largest < 0) {
        return bad(r, "the vocabulary is empty");
    }
    if (largest >= MAX_TOKENS || largest > (json_int_t)n_entries + MAX_HOLES) {
        return tt_fail(r->err, TT_E_MODEL,
                       "tokenizer.json: token id %" JSON_INTEGER_FORMAT " in a vocabulary of %zu",
                       largest, n_entries);
    }
    size_t n = (size_t)largest + 1;
    tt_tokenizer_json *j = r->j;
    j->tokens = tt_arena_calloc(&j->arena, n, sizeof *j->tokens);
    j->scores = tt_arena_calloc(&j->arena, n, sizeof *j->scores);
    j->types = tt_arena_calloc(&j->arena, n, sizeof *j->types);
    if (j->tokens == NULL || j->scores == NULL || j->types == NULL) {
        return no_memory(r);
    }
    for (size_t i = 0; i < n; i++) {
        j->tokens[i] = (tt_str){"", 0};
        j->types[i] = TT_TOKEN_UNUSED; /* an id that the file leaves out */
    }
    j->vocab.n_tokens = (int32_t)n;
    j->vocab.tokens = j->tokens;
    j->vocab.types = j->types;
    return TT_OK;
}

static bool is_byte_token(const tt_str *s)
{
    return s->n == 6 && memcmp(s->p, "<0x", 3) == 0 && s->p[5] == '>';
}

static tt_code put_token(reader *r, json_int_t id, const char *p, size_t n, bool byte_fallback)
{
    tt_tokenizer_json *j = r->j;
    if (j->types[id] != TT_TOKEN_UNUSED) {
        return tt_fail(r->err, TT_E_MODEL,
                       "tokenizer.json: two tokens have the id %" JSON_INTEGER_FORMAT, id);
    }
    tt_code rc = copy_text(r, p, n, &j->tokens[id]);
    j->types[id] = byte_fallback && is_byte_token(&j->tokens[id]) ? TT_TOKEN_BYTE : TT_TOKEN_NORMAL;
    return rc;
}

/* BPE: {"piece": id, ...}. */
static tt_code read_vocab_object(reader *r, const json_t *vocab, bool byte_fallback)
{
    json_int_t largest = -1;
    const char *key;
    size_t key_n;
    json_t *id;
    json_object_keylen_foreach((json_t *)vocab, key, key_n, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0) {
            return tt_fail(r->err, TT_E_MODEL,
                           "tokenizer.json: the id of \"%.40s\" is not a number", key);
        }
        largest = json_integer_value(id) > largest ? json_integer_value(id) : largest;
    }
    const json_t *added = find(r->root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++) {
        json_int_t a = json_integer_value(json_object_get(json_array_get(added, i), "id"));
        largest = a > largest ? a : largest;
    }
    tt_code rc = make_tables(r, largest, json_object_size(vocab) + json_array_size(added));
    if (rc != TT_OK) {
        return rc;
    }
    json_object_keylen_foreach((json_t *)vocab, key, key_n, id)
    {
        if ((rc = put_token(r, json_integer_value(id), key, key_n, byte_fallback)) != TT_OK) {
            return rc;
        }
    }
    return TT_OK;
}

/* Unigram: [["piece", score], ...], ids in order. */
static tt_code read_vocab_array(reader *r, const json_t *vocab, bool byte_fallback)
{
    json_int_t largest = (json_int_t)json_array_size(vocab) - 1;
    const json_t *added = find(r->root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++) {
        json_int_t a = json_integer_value(json_object_get(json_array_get(added, i), "id"));
        largest = a > largest ? a : largest;
    }
    tt_code rc = make_tables(r, largest, json_array_size(vocab) + json_array_size(added));
    for (size_t i = 0; i < json_array_size(vocab) && rc == TT_OK; i++) {
        const json_t *entry = json_array_get(vocab, i);
        const json_t *piece = json_array_get(entry, 0), *score = json_array_get(entry, 1);
        if (!json_is_string(piece) || !json_is_number(score)) {
            return tt_fail(r->err, TT_E_MODEL,
                           "tokenizer.json: entry %zu of the vocabulary is no [piece, score]", i);
        }
        r->j->scores[i] = (float)json_number_value(score);
        rc = put_token(r, (json_int_t)i, json_string_value(piece), json_string_length(piece),
                       byte_fallback);
    }
    r->j->vocab.scores = r->j->scores;
    return rc;
}

/* "left right" or, from version 1.0 of the format on, ["left", "right"]. */
static tt_code read_merges(reader *r)
{
    const json_t *merges = find(r->model, "merges");
    size_t n = json_array_size(merges);
    if (!json_is_array(merges) || n > MAX_TOKENS) {
        return bad(r, "no merges");
    }
    tt_str *list = tt_arena_calloc(&r->j->arena, n, sizeof *list);
    if (list == NULL) {
        return no_memory(r);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(merges, i);
        const json_t *left = json_array_get(m, 0), *right = json_array_get(m, 1);
        if (json_is_string(m)) {
            tt_code rc = copy_text(r, json_string_value(m), json_string_length(m), &list[i]);
            if (rc != TT_OK) {
                return rc;
            }
            continue;
        }
        if (json_array_size(m) != 2 || !json_is_string(left) || !json_is_string(right)) {
            return tt_fail(r->err, TT_E_MODEL, "tokenizer.json: merge %zu is not a pair of pieces",
                           i);
        }
        size_t left_n = json_string_length(left), right_n = json_string_length(right);
        char *both = tt_arena_alloc(&r->j->arena, left_n + 1 + right_n);
        if (both == NULL) {
            return no_memory(r);
        }
        memcpy(both, json_string_value(left), left_n);
        both[left_n] = ' ';
        memcpy(both + left_n + 1, json_string_value(right), right_n);
        list[i] = (tt_str){both, (uint32_t)(left_n + 1 + right_n)};
    }
    r->j->vocab.merges = list;
    r->j->vocab.n_merges = (int32_t)n;
    return TT_OK;
}

/* Special tokens are control tokens; the others are matched in any text. */
static tt_code read_added(reader *r)
{
    static const char *const modes[] = {"single_word", "lstrip", "rstrip"};
    const json_t *added = find(r->root, "added_tokens");
    tt_tokenizer_json *j = r->j;
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *a = json_array_get(added, i);
        const json_t *content = json_object_get(a, "content"), *id = json_object_get(a, "id");
        if (!json_is_string(content) || json_string_length(content) == 0 || !json_is_integer(id) ||
            json_integer_value(id) < 0 || json_integer_value(id) >= j->vocab.n_tokens) {
            return tt_fail(r->err, TT_E_MODEL,
                           "tokenizer.json: added token %zu has no content or no valid id", i);
        }
        for (size_t k = 0; k < sizeof modes / sizeof modes[0]; k++) {
            if (json_is_true(json_object_get(a, modes[k]))) {
                return tt_fail(r->err, TT_E_UNSUPPORTED,
                               "tokenizer.json: the added token \"%.60s\" with %s",
                               json_string_value(content), modes[k]);
            }
        }
        size_t at = (size_t)json_integer_value(id);
        tt_code rc =
            copy_text(r, json_string_value(content), json_string_length(content), &j->tokens[at]);
        if (rc != TT_OK) {
            return rc;
        }
        j->types[at] =
            json_is_true(json_object_get(a, "special")) ? TT_TOKEN_CONTROL : TT_TOKEN_USER_DEFINED;
    }
    return TT_OK;
}

/* Linear, but asked a handful of times. */
static int32_t id_of(const tt_vocab *v, const json_t *name)
{
    const json_t *text = json_is_object(name) ? json_object_get(name, "content") : name;
    for (int32_t i = 0; json_is_string(text) && i < v->n_tokens; i++) {
        if (v->tokens[i].n == json_string_length(text) &&
            memcmp(v->tokens[i].p, json_string_value(text), v->tokens[i].n) == 0) {
            return i;
        }
    }
    return -1;
}

static tt_code read_special(reader *r)
{
    tt_vocab *v = &r->j->vocab;
    json_int_t before, after;
    tt_code rc = tt_tokenizer_shape_ends(r->root, &before, &after, r->err);
    if (rc != TT_OK) {
        return rc;
    }
    if (before >= v->n_tokens || after >= v->n_tokens) {
        return bad(r, "the post_processor names a token that is not there");
    }
    v->bos = id_of(v, find(r->config, "bos_token"));
    v->eos = id_of(v, find(r->config, "eos_token"));
    v->pad = id_of(v, find(r->config, "pad_token"));
    v->eot = -1;
    if (v->unk < 0) {
        v->unk = id_of(v, find(r->config, "unk_token"));
    }
    v->bos = before >= 0 ? (int32_t)before : v->bos;
    v->eos = after >= 0 ? (int32_t)after : v->eos;
    const json_t *add_bos = find(r->config, "add_bos_token"),
                 *add_eos = find(r->config, "add_eos_token");
    v->add_bos = v->bos >= 0 && (json_is_boolean(add_bos) ? json_is_true(add_bos) : before >= 0);
    v->add_eos = v->eos >= 0 && (json_is_boolean(add_eos) ? json_is_true(add_eos) : after >= 0);
    return TT_OK;
}

/* A key of the BPE model that must be null, 0 or "". */
static tt_code check_unused(reader *r, const char *key)
{
    const json_t *v = find(r->model, key);
    bool empty = v == NULL || (json_is_string(v) && json_string_length(v) == 0) ||
                 (json_is_number(v) && json_number_value(v) == 0);
    return empty ? TT_OK
                 : tt_fail(r->err, TT_E_UNSUPPORTED, "tokenizer.json: a model with %s", key);
}

static tt_code read_bpe(reader *r, bool byte_fallback)
{
    static const char *const unused[] = {"dropout", "continuing_subword_prefix",
                                         "end_of_word_suffix"};
    const json_t *vocab = find(r->model, "vocab");
    tt_vocab *v = &r->j->vocab;
    for (size_t i = 0; i < sizeof unused / sizeof unused[0]; i++) {
        tt_code rc = check_unused(r, unused[i]);
        if (rc != TT_OK) {
            return rc;
        }
    }
    if (!json_is_object(vocab)) {
        return bad(r, "no vocabulary");
    }
    v->ignore_merges = json_is_true(find(r->model, "ignore_merges")) ? TT_FLAG_ON : TT_FLAG_OFF;
    if (v->kind == TT_VOCAB_SPM && v->ignore_merges == TT_FLAG_ON) {
        return tt_fail(r->err, TT_E_UNSUPPORTED,
                       "tokenizer.json: ignore_merges without byte-level pieces");
    }
    tt_code rc = read_vocab_object(r, vocab, byte_fallback && v->kind == TT_VOCAB_SPM);
    if (rc == TT_OK) {
        v->unk = id_of(v, find(r->model, "unk_token"));
        rc = read_merges(r);
    }
    return rc;
}

static tt_code read_unigram(reader *r, bool byte_fallback)
{
    const json_t *vocab = find(r->model, "vocab"), *unk = find(r->model, "unk_id");
    tt_vocab *v = &r->j->vocab;
    if (v->kind == TT_VOCAB_BPE) {
        return tt_fail(r->err, TT_E_UNSUPPORTED,
                       "tokenizer.json: a Unigram model with byte-level pieces");
    }
    v->kind = TT_VOCAB_UNIGRAM;
    if (!json_is_array(vocab)) {
        return bad(r, "no vocabulary");
    }
    tt_code rc = read_vocab_array(r, vocab, byte_fallback);
    if (rc != TT_OK) {
        return rc;
    }
    if (unk != NULL && (!json_is_integer(unk) || json_integer_value(unk) < 0 ||
                        json_integer_value(unk) >= v->n_tokens)) {
        return bad(r, "unk_id is not in the vocabulary");
    }
    v->unk = unk != NULL ? (int32_t)json_integer_value(unk) : -1;
    return TT_OK;
}

static tt_code read_all(reader *r)
{
    r->model = find(r->root, "model");
    const char *type = json_string_value(json_object_get(r->model, "type"));
    if (!json_is_object(r->model)) {
        return bad(r, "no model");
    }
    if (type == NULL) { /* as old files have it */
        type = json_is_array(find(r->model, "merges")) ? "BPE" : "?";
    }
    bool byte_fallback = json_is_true(find(r->model, "byte_fallback"));
    tt_code rc = tt_tokenizer_shape_read(r->root, &r->j->vocab, r->err);
    if (rc != TT_OK) {
        return rc;
    }
    if (strcmp(type, "BPE") == 0) {
        rc = read_bpe(r, byte_fallback);
    } else if (strcmp(type, "Unigram") == 0) {
        rc = read_unigram(r, byte_fallback);
    } else {
        return tt_fail(r->err, TT_E_UNSUPPORTED, "tokenizer.json: a model of type \"%.40s\"", type);
    }
    if (rc == TT_OK) {
        rc = read_added(r);
    }
    if (rc == TT_OK) {
        rc = read_special(r);
    }
    /* A token that only says "unknown" may stand in user text; one that is also the end of text may
     * not. */
    tt_vocab *v = &r->j->vocab;
    if (rc == TT_OK && v->kind != TT_VOCAB_BPE && v->unk >= 0 && v->unk != v->bos &&
        v->unk != v->eos) {
        r->j->types[v->unk] = TT_TOKEN_UNKNOWN;
    }
    return rc;
}

static tt_code parse_json(const char *file, const char *text, size_t n, json_t **ret,
                          tt_err *reterr)
{
    json_error_t e;
    json_t *root = json_loadb(text, n, JSON_ALLOW_NUL, &e);
    if (root == NULL && json_error_code(&e) == json_error_out_of_memory) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %s", file);
    }
    if (root == NULL || !json_is_object(root)) {
        json_decref(root);
        return tt_fail(reterr, TT_E_MODEL, "%s: JSON error in line %d: %s", file,
                       root == NULL ? e.line : 1, root == NULL ? e.text : "not an object");
    }
    *ret = root;
    return TT_OK;
}

tt_code tt_tokenizer_json_parse(const char *text, size_t n, const char *config, size_t n_config,
                                tt_tokenizer_json **ret_json, tt_err *reterr)
{
    json_t *root = NULL, *config_root = NULL;
    tt_tokenizer_json *j = NULL;
    tt_code rc = TT_OK;
    if (n > MAX_FILE_BYTES || n_config > MAX_FILE_BYTES) {
        return tt_fail(reterr, TT_E_MODEL, "tokenizer.json has %zu bytes, at most %" PRIu64, n,
                       MAX_FILE_BYTES);
    }
    if ((rc = parse_json("tokenizer.json", text, n, &root, reterr)) != TT_OK ||
        (config != NULL && (rc = parse_json("tokenizer_config.json", config, n_config, &config_root,
                                            reterr)) != TT_OK)) {
        goto out;
    }
    j = calloc(1, sizeof *j);
    if (j == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for tokenizer.json");
        goto out;
    }
    tt_arena_init(&j->arena, 0);
    j->vocab = (tt_vocab){.bos = -1, .eos = -1, .eot = -1, .unk = -1, .pad = -1};
    reader r = {.j = j, .root = root, .config = config_root, .err = reterr};
    rc = read_all(&r);
    if (rc == TT_OK) {
        *ret_json = j;
        j = NULL;
    }
out:
    tt_tokenizer_json_destroy(&j);
    json_decref(root);
    json_decref(config_root);
    return rc;
}

tt_code tt_tokenizer_json_read(const char *folder, tt_tokenizer_json **ret_json, tt_err *reterr)
{
    tt_file_map file = {0}, config = {0};
    bool exists = false, has_config = false;
    tt_code rc = tt_file_map_open_in(folder, "tokenizer.json", &file, &exists, reterr);
    if (rc == TT_OK && !exists) {
        rc = tt_fail(reterr, TT_E_IO, "the folder has no tokenizer.json");
    }
    if (rc == TT_OK) {
        rc = tt_file_map_open_in(folder, "tokenizer_config.json", &config, &has_config, reterr);
    }
    if (rc == TT_OK) {
        rc = tt_tokenizer_json_parse((const char *)file.p, (size_t)file.n,
                                     has_config ? (const char *)config.p : NULL, (size_t)config.n,
                                     ret_json, reterr);
    }
    tt_file_map_close(&file);
    tt_file_map_close(&config);
    return rc;
}

void tt_tokenizer_json_destroy(tt_tokenizer_json **json)
{
    if (*json != NULL) {
        tt_arena_finish(&(*json)->arena);
        free(*json);
        *json = NULL;
    }
}

const tt_vocab *tt_tokenizer_json_vocab(const tt_tokenizer_json *json)
{
    return &json->vocab;
}
