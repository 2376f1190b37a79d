/* tokenizer.c - see tokenizer.h: the vocabulary's checks and tables. Text is encoded by
 * tokenizer_encode.c. Thread: any, a tokenizer is immutable. */
#include "core/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/tokenizer_priv.h"

/* Turn markers are control tokens whatever the file says: some files call them normal. */
static const char *const markers[] = {
    "<|im_start|>",      "<|im_end|>",      "<|endoftext|>",
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>",      "<|eom_id|>",
    "<start_of_turn>",   "<end_of_turn>",   "<|end|>",
    "<|system|>",        "<|user|>",        "<|assistant|>",
};

/* End a generation, where they are control tokens. */
static const char *const end_markers[] = {
    "<|im_end|>",    "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>",
    "<end_of_turn>", "</s>",          "<eos>",           "<|end|>",    "<EOT>",
    "<|endofturn|>",
};

enum { UNIT_BYTES = 128 << 10 };

static bool listed(const tt_str *s, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strlen(list[i]) == s->n && memcmp(list[i], s->p, s->n) == 0) {
            return true;
        }
    }
    return false;
}

static tt_code check_vocab(const tt_vocab *v, tt_err *reterr)
{
    const struct {
        const char *name;
        int32_t id;
    } named[] = {
        {"bos", v->bos}, {"eos", v->eos}, {"eot", v->eot}, {"unk", v->unk}, {"pad", v->pad}};
    if (v->n_tokens < 1 || v->tokens == NULL || v->n_merges < 0 ||
        (v->n_merges > 0 && v->merges == NULL)) {
        return tt_fail(reterr, TT_E_MODEL, "the vocabulary is empty");
    }
    if (v->n_merges > INT32_MAX / 4 || v->n_tokens > INT32_MAX / 4) {
        return tt_fail(reterr, TT_E_UNSUPPORTED, "a vocabulary of %d tokens and %d merges",
                       v->n_tokens, v->n_merges);
    }
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        if (named[i].id < -1 || named[i].id >= v->n_tokens) {
            return tt_fail(reterr, TT_E_MODEL, "the vocabulary's %s token %d is not below %d",
                           named[i].name, named[i].id, v->n_tokens);
        }
    }
    uint64_t total = 0;
    for (int32_t i = 0; i < v->n_tokens; i++) {
        if (v->types != NULL && (v->types[i] < TT_TOKEN_NORMAL || v->types[i] > TT_TOKEN_BYTE)) {
            return tt_fail(reterr, TT_E_MODEL, "token %d has the unknown type %d", i, v->types[i]);
        }
        total += v->tokens[i].n;
    }
    if (total >= UINT32_MAX) {
        return tt_fail(reterr, TT_E_UNSUPPORTED, "a vocabulary of over 4 GiB");
    }
    return TT_OK;
}

/* The file's types, with turn markers and, where there are no types, bos, eos and eot made control
 * tokens. */
static tt_code effective_types(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    tok->types = malloc((size_t)v->n_tokens);
    tok->is_eog = calloc((size_t)v->n_tokens, sizeof *tok->is_eog);
    if (tok->types == NULL || tok->is_eog == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a vocabulary of %d tokens", v->n_tokens);
    }
    for (int32_t i = 0; i < v->n_tokens; i++) {
        const tt_str *s = &v->tokens[i];
        uint8_t type = v->types != NULL ? v->types[i] : TT_TOKEN_NORMAL;
        bool named = v->types == NULL && (i == v->bos || i == v->eos || i == v->eot);
        bool marker =
            s->n > 2 && s->p[0] == '<' && listed(s, markers, sizeof markers / sizeof *markers);
        if (named || (marker && type != TT_TOKEN_UNKNOWN)) {
            type = TT_TOKEN_CONTROL;
        }
        tok->types[i] = type;
        tok->is_eog[i] = i == v->eos || i == v->eot ||
                         (type == TT_TOKEN_CONTROL &&
                          listed(s, end_markers, sizeof end_markers / sizeof *end_markers));
    }
    return TT_OK;
}

static tt_code note_added(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    tt_code rc = tt_token_trie_init(&tok->added, reterr);
    for (int32_t i = 0; i < v->n_tokens && rc == TT_OK; i++) {
        if (tt_token_is_special(tok->types[i]) || tok->types[i] == TT_TOKEN_USER_DEFINED) {
            rc = tt_token_trie_add(&tok->added, v->tokens[i].p, v->tokens[i].n, i, reterr);
        }
    }
    return rc;
}

static tt_code note_bytes(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    size_t total = 1;
    for (int32_t i = 0; i < v->n_tokens; i++) {
        total += v->tokens[i].n;
    }
    tok->bytes = malloc(total);
    tok->bytes_at = malloc(((size_t)v->n_tokens + 1) * sizeof *tok->bytes_at);
    if (tok->bytes == NULL || tok->bytes_at == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a vocabulary of %d tokens", v->n_tokens);
    }
    uint32_t at = 0;
    for (int32_t i = 0; i < v->n_tokens; i++) {
        tok->bytes_at[i] = at;
        at += (uint32_t)(v->kind == TT_VOCAB_BPE ? tt_bpe_token_bytes(tok, i, tok->bytes + at)
                                                 : tt_spm_token_bytes(tok, i, tok->bytes + at));
    }
    tok->bytes_at[v->n_tokens] = at;
    return TT_OK;
}

tt_code tt_tokenizer_create(const tt_vocab *vocab, tt_tokenizer **ret_tok, tt_err *reterr)
{
    tt_code rc = check_vocab(vocab, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_tokenizer *tok = calloc(1, sizeof *tok);
    if (tok == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a tokenizer");
    }
    tok->vocab = vocab;
    tok->n_threads = 1;
    tok->unit_bytes = UNIT_BYTES;
    rc = effective_types(tok, reterr);
    if (rc == TT_OK) {
        rc = tt_token_map_init(&tok->map, vocab->tokens, vocab->n_tokens, reterr);
    }
    if (rc == TT_OK) {
        rc = note_added(tok, reterr);
    }
    if (rc == TT_OK) {
        rc = note_bytes(tok, reterr);
    }
    if (rc == TT_OK) {
        rc = vocab->kind == TT_VOCAB_BPE ? tt_bpe_init(tok, reterr) : tt_spm_init(tok, reterr);
    }
    if (rc != TT_OK) {
        tt_tokenizer_destroy(&tok);
        return rc;
    }
    *ret_tok = tok;
    return TT_OK;
}

void tt_tokenizer_destroy(tt_tokenizer **tok)
{
    tt_tokenizer *t = *tok;
    if (t == NULL) {
        return;
    }
    tt_presplit_destroy(&t->split);
    tt_token_map_finish(&t->map);
    tt_token_trie_finish(&t->added);
    tt_token_trie_finish(&t->words);
    tt_pair_map_finish(&t->pairs);
    free(t->types);
    free(t->is_eog);
    free(t->bytes);
    free(t->bytes_at);
    free(t->score_ranks);
    free(t->joins);
    free(t->lines);
    free(t);
    *tok = NULL;
}

void tt_tokenizer_set_threads(tt_tokenizer *tok, int n_threads)
{
    assert(n_threads >= 1);
    tok->n_threads = n_threads;
}

const char *tt_tokenizer_piece(const tt_tokenizer *tok, int32_t id, bool special, size_t *ret_n)
{
    if (id < 0 || id >= tok->vocab->n_tokens || (!special && tt_token_is_special(tok->types[id]))) {
        *ret_n = 0;
        return "";
    }
    *ret_n = tok->bytes_at[id + 1] - tok->bytes_at[id];
    return tok->bytes + tok->bytes_at[id];
}

int32_t tt_tokenizer_find(const tt_tokenizer *tok, const char *piece, size_t n)
{
    return tt_token_map_find(&tok->map, piece, n);
}

bool tt_tokenizer_is_control(const tt_tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->vocab->n_tokens && tt_token_is_special(tok->types[id]);
}

bool tt_tokenizer_is_eog(const tt_tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->vocab->n_tokens && tok->is_eog[id];
}

const tt_vocab *tt_tokenizer_vocab(const tt_tokenizer *tok)
{
    return tok->vocab;
}
