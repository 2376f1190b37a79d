/* tokenizer.c - see tokenizer.h: the vocabulary's checks and tables, and the cutting of text at
 * added tokens; what lies between them goes to tokenizer_bpe.c or tokenizer_spm.c. Thread: any, a
 * tokenizer is immutable. */
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

static bool listed(const tt_str *s, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strlen(list[i]) == s->n && memcmp(list[i], s->p, s->n) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_special(uint8_t type)
{
    return type == TT_TOKEN_CONTROL || type == TT_TOKEN_UNKNOWN;
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
        if (is_special(tok->types[i]) || tok->types[i] == TT_TOKEN_USER_DEFINED) {
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

bool tt_encoding_push(tt_encoding *e, int32_t id)
{
    if (e->n == e->cap) {
        size_t cap = e->cap == 0 ? 64 : 2 * e->cap;
        int32_t *ids = realloc(e->ids, cap * sizeof *ids);
        if (ids == NULL) {
            return false;
        }
        e->ids = ids;
        e->cap = cap;
    }
    e->ids[e->n++] = id;
    return true;
}

bool tt_encoding_push_word(tt_encoding *e, const tt_word_entry *entry)
{
    if (e->cap - e->n < TT_WORD_CACHE_IDS) { /* all places are copied, n of them count */
        size_t cap = e->cap == 0 ? 64 : 2 * e->cap;
        int32_t *ids = realloc(e->ids, cap * sizeof *ids);
        if (ids == NULL) {
            return false;
        }
        e->ids = ids;
        e->cap = cap;
    }
    memcpy(e->ids + e->n, entry->ids, sizeof entry->ids);
    e->n += (size_t)entry->n;
    return true;
}

void tt_encoding_remember(tt_encoding *e, tt_word_entry *place, const tt_word_key *key, size_t from)
{
    size_t n = e->n - from;
    if (n > 0 && n <= TT_WORD_CACHE_IDS) {
        place[1] = place[0];
        place[0] = (tt_word_entry){.key = *key, .n = (int32_t)n};
        memcpy(place->ids, e->ids + from, n * sizeof *e->ids);
    }
}

/* The concatenation of the pieces, and the borders between them. */
struct joined {
    const char *text;
    size_t n;
    const tt_text_piece *pieces;
    size_t n_pieces;
    size_t piece, piece_at; /* the piece that the scan is in, and where it begins */
    char *copy;             /* owned, when the pieces do not already lie side by side */
};

static tt_code join(const tt_text_piece *pieces, size_t n_pieces, struct joined *ret,
                    tt_err *reterr)
{
    struct joined j = {
        .text = n_pieces > 0 ? pieces[0].p : "", .pieces = pieces, .n_pieces = n_pieces};
    bool side_by_side = true;
    for (size_t i = 0; i < n_pieces; i++) {
        side_by_side = side_by_side && pieces[i].p == j.text + j.n;
        if (pieces[i].n >=
            UINT32_MAX / 4 - j.n) { /* offsets are 32 bits, and a space mark has three bytes */
            return tt_fail(reterr, TT_E_INVALID, "text of over 1 GiB");
        }
        j.n += pieces[i].n;
    }
    if (!side_by_side) {
        j.copy = malloc(j.n + 1);
        if (j.copy == NULL) {
            return tt_fail(reterr, TT_E_NOMEM, "no memory for %zu bytes of text", j.n);
        }
        size_t at = 0;
        for (size_t i = 0; i < n_pieces; i++) {
            if (pieces[i].n > 0) {
                memcpy(j.copy + at, pieces[i].p, pieces[i].n);
            }
            at += pieces[i].n;
        }
        j.text = j.copy;
    }
    *ret = j;
    return TT_OK;
}

/* Bytes from `at` on that trusted pieces wrote, counted up to `max`. `at` never falls from call to
 * call. */
static size_t trusted_bytes(struct joined *j, size_t at, size_t max)
{
    while (j->piece < j->n_pieces && j->piece_at + j->pieces[j->piece].n <= at) {
        j->piece_at += j->pieces[j->piece++].n;
    }
    size_t end = j->piece_at, n = 0;
    for (size_t i = j->piece; i < j->n_pieces && n < max; i++) {
        if (!j->pieces[i].trusted && j->pieces[i].n > 0) {
            break;
        }
        end += j->pieces[i].n;
        n = end - at;
    }
    return n < max ? n : max;
}

/* The longest added token at text[at..n), -1 = none. A control token counts only where trusted
 * pieces wrote all of it. */
static int32_t match_added(const tt_tokenizer *tok, struct joined *j, size_t at, size_t *ret_n)
{
    int32_t found = -1;
    uint32_t node = 0;
    for (size_t i = at; i < j->n; i++) {
        node = tt_token_trie_step(&tok->added, node, (unsigned char)j->text[i]);
        if (node == 0) {
            break;
        }
        int32_t id = tok->added.ids[node];
        size_t n = i + 1 - at;
        if (id >= 0 && (!is_special(tok->types[id]) || trusted_bytes(j, at, n) == n)) {
            found = id;
            *ret_n = n;
        }
    }
    return found;
}

static tt_code encode_segment(tt_encoding *e, const char *text, size_t n, tt_err *reterr)
{
    if (n == 0) {
        return TT_OK;
    }
    tt_code rc = e->tok->vocab->kind == TT_VOCAB_BPE ? tt_bpe_encode(e, text, n, reterr)
                                                     : tt_spm_encode(e, text, n, reterr);
    e->first_segment = e->mid_text = false;
    return rc;
}

static tt_code encode_joined(tt_encoding *e, struct joined *j, tt_err *reterr)
{
    size_t begin = 0; /* of the plain text not yet encoded */
    for (size_t at = 0; at < j->n;) {
        size_t n = 0;
        int32_t id =
            e->tok->added.first[(unsigned char)j->text[at]] ? match_added(e->tok, j, at, &n) : -1;
        if (id < 0) {
            at++;
            continue;
        }
        tt_code rc = encode_segment(e, j->text + begin, at - begin, reterr);
        if (rc != TT_OK) {
            return rc;
        }
        if (!tt_encoding_push(e, id)) {
            return tt_fail(reterr, TT_E_NOMEM, "no memory for token ids");
        }
        e->first_segment = e->mid_text = false;
        at += n;
        begin = at;
    }
    return encode_segment(e, j->text + begin, j->n - begin, reterr);
}

static tt_code encode_pieces(const tt_tokenizer *tok, const tt_text_piece *pieces, size_t n_pieces,
                             bool add_special, const int32_t *before, int32_t **ret_ids,
                             size_t *ret_n, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    struct joined j = {0};
    tt_code rc = join(pieces, n_pieces, &j, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_encoding e = {.tok = tok, .first_segment = before == NULL};
    e.mid_text = before != NULL && !tt_tokenizer_is_control(tok, *before);
    e.may_be_unk =
        v->unk >= 0 && (tok->types[v->unk] != TT_TOKEN_CONTROL || trusted_bytes(&j, 0, j.n) == j.n);
    j.piece = j.piece_at = 0;
    tt_word_cache_init(&e.words, j.n, tok->score_ranks != NULL);
    bool ok = !add_special || !v->add_bos || v->bos < 0 || tt_encoding_push(&e, v->bos);
    if (ok) {
        rc = encode_joined(&e, &j, reterr);
        ok = rc != TT_OK || !add_special || !v->add_eos || v->eos < 0 ||
             tt_encoding_push(&e, v->eos);
    }
    ok = ok && (e.ids != NULL || (e.ids = malloc(sizeof *e.ids)) != NULL);
    if (rc == TT_OK && !ok) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for token ids");
    }
    tt_merge_finish(&e.merge);
    tt_word_cache_finish(&e.words);
    free(j.copy);
    if (rc != TT_OK) {
        free(e.ids);
        return rc;
    }
    *ret_ids = e.ids;
    *ret_n = e.n;
    return TT_OK;
}

tt_code tt_tokenizer_encode_pieces(const tt_tokenizer *tok, const tt_text_piece *pieces,
                                   size_t n_pieces, bool add_special, int32_t **ret_ids,
                                   size_t *ret_n, tt_err *reterr)
{
    return encode_pieces(tok, pieces, n_pieces, add_special, NULL, ret_ids, ret_n, reterr);
}

tt_code tt_tokenizer_encode_more(const tt_tokenizer *tok, int32_t before,
                                 const tt_text_piece *pieces, size_t n_pieces, int32_t **ret_ids,
                                 size_t *ret_n, tt_err *reterr)
{
    return encode_pieces(tok, pieces, n_pieces, false, &before, ret_ids, ret_n, reterr);
}

tt_code tt_tokenizer_encode(const tt_tokenizer *tok, const char *text, size_t n_bytes,
                            const tt_encode_options *opt, int32_t **ret_ids, size_t *ret_n,
                            tt_err *reterr)
{
    tt_text_piece piece = {.p = text, .n = n_bytes, .trusted = opt->parse_special};
    return tt_tokenizer_encode_pieces(tok, &piece, 1, opt->add_special, ret_ids, ret_n, reterr);
}

const char *tt_tokenizer_piece(const tt_tokenizer *tok, int32_t id, bool special, size_t *ret_n)
{
    if (id < 0 || id >= tok->vocab->n_tokens || (!special && is_special(tok->types[id]))) {
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
    return id >= 0 && id < tok->vocab->n_tokens && is_special(tok->types[id]);
}

bool tt_tokenizer_is_eog(const tt_tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->vocab->n_tokens && tok->is_eog[id];
}

const tt_vocab *tt_tokenizer_vocab(const tt_tokenizer *tok)
{
    return tok->vocab;
}
