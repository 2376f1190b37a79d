/* tokenizer_bpe.c - byte-level BPE: text is cut into words (presplit.h), the bytes of a word are
 * the first symbols, and pairs merge by the rank of their merge. Source: Radford et al. 2019
 * (GPT-2), section 2.2; behaviour of Hugging Face's tokenizers (models/bpe,
 * pre_tokenizers/byte_level). Thread: any, see tokenizer.h. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/nfc.h"
#include "core/tokenizer_priv.h"
#include "core/utf8.h"

/* The letter that stands for a byte in the vocabulary: itself where it prints, else U+0100.. in
 * rising order of the 68 bytes that do not: 0x00-0x20, 0x7f-0xa0, 0xad. */
static uint32_t letter_of(unsigned byte)
{
    if (byte <= 0x20) {
        return 0x100 + byte;
    }
    if (byte >= 0x7f && byte <= 0xa0) {
        return 0x121 + (byte - 0x7f);
    }
    return byte == 0xad ? 0x143 : byte;
}

static int byte_of(uint32_t letter)
{
    if (letter >= 0x100 && letter <= 0x120) {
        return (int)(letter - 0x100);
    }
    if (letter >= 0x121 && letter <= 0x142) {
        return (int)(letter - 0x121 + 0x7f);
    }
    if (letter == 0x143) {
        return 0xad;
    }
    return letter < 0x100 && letter_of(letter) == letter ? (int)letter : -1;
}

/* A token is spelt in letters; one that is not (an added token with a space in it) stands for its
 * own bytes. */
size_t tt_bpe_token_bytes(const tt_tokenizer *tok, int32_t id, char *out)
{
    const tt_str *s = &tok->vocab->tokens[id];
    size_t n = 0;
    for (size_t i = 0; i < s->n;) {
        uint32_t letter;
        int len = tt_utf8_next(s->p + i, s->n - i, &letter);
        int byte = len > 0 ? byte_of(letter) : -1;
        if (byte < 0) {
            memcpy(out, s->p, s->n);
            return s->n;
        }
        out[n++] = (char)byte;
        i += (size_t)len;
    }
    return n;
}

/* Finds where "left right" is cut: at the first space that leaves tokens on both sides and whose
 * whole is a token. (A SentencePiece piece may itself hold a space.) */
static bool split_merge(const tt_tokenizer *tok, const tt_str *merge, char *whole, int32_t ret[3])
{
    for (size_t cut = 1; cut + 1 < merge->n; cut++) {
        if (merge->p[cut] != ' ') {
            continue;
        }
        size_t right_n = merge->n - cut - 1;
        ret[0] = tt_token_map_find(&tok->map, merge->p, cut);
        ret[1] = tt_token_map_find(&tok->map, merge->p + cut + 1, right_n);
        if (ret[0] < 0 || ret[1] < 0 || merge->n - 1 > tok->map.max_bytes) {
            continue;
        }
        memcpy(whole, merge->p, cut);
        memcpy(whole + cut, merge->p + cut + 1, right_n);
        ret[2] = tt_token_map_find(&tok->map, whole, merge->n - 1);
        if (ret[2] >= 0) {
            return true;
        }
    }
    return false;
}

tt_code tt_pairs_init(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    char *whole = malloc((size_t)tok->map.max_bytes + 1);
    if (whole == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %d merges", v->n_merges);
    }
    tt_code rc = tt_pair_map_init(&tok->pairs, v->n_merges, reterr);
    for (int32_t i = 0; i < v->n_merges && rc == TT_OK; i++) {
        int32_t ids[3];
        if (memchr(v->merges[i].p, ' ', v->merges[i].n) == NULL) {
            rc = tt_fail(reterr, TT_E_MODEL, "merge %d of the vocabulary is not two pieces", i);
        } else if (split_merge(tok, &v->merges[i], whole, ids) &&
                   tok->types[ids[2]] != TT_TOKEN_CONTROL &&
                   tok->types[ids[2]] != TT_TOKEN_UNKNOWN) {
            tt_pair_map_put(&tok->pairs, ids[0], ids[1], (uint32_t)i, ids[2]);
        }
    }
    free(whole);
    return rc;
}

tt_code tt_bpe_init(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    tt_code rc = tt_presplit_create(v->pre, &tok->split, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tok->ignore_merges = v->ignore_merges == TT_FLAG_ON || (v->ignore_merges == TT_FLAG_BY_PRE &&
                                                            tt_presplit_ignores_merges(tok->split));
    tok->nfc =
        v->nfc == TT_FLAG_ON || (v->nfc == TT_FLAG_BY_PRE && tt_presplit_wants_nfc(tok->split));
    for (unsigned b = 0; b < 256; b++) {
        char letter[4];
        int n = tt_utf8_put(letter_of(b), letter);
        int32_t id = tt_token_map_find(&tok->map, letter, (size_t)n);
        bool special =
            id >= 0 && (tok->types[id] == TT_TOKEN_CONTROL || tok->types[id] == TT_TOKEN_UNKNOWN);
        tok->byte_ids[b] = special ? -1 : id;
    }
    return tt_pairs_init(tok, reterr);
}

bool tt_pairs_find(const void *ctx, int32_t left, int32_t right, const char *p, size_t n,
                   uint32_t *ret_rank, int32_t *ret_merged)
{
    const tt_tokenizer *tok = ctx;
    const struct tt_pair_slot *pair = tt_pair_map_find(&tok->pairs, left, right);
    if (pair == NULL) {
        return false;
    }
    *ret_rank = pair->rank;
    *ret_merged = pair->merged;
    return true;
}

/* Llama 3: a word that is a token is that token, whatever the merges say. */
static int32_t whole_word(const tt_tokenizer *tok, const char *word, size_t n)
{
    char spelt[256];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (len + 4 > sizeof spelt) {
            return -1;
        }
        len += (size_t)tt_utf8_put(letter_of((unsigned char)word[i]), spelt + len);
    }
    return tt_token_map_find(&tok->map, spelt, len);
}

static bool merge_word(tt_encoding *e, const char *word, size_t n)
{
    const tt_tokenizer *tok = e->tok;
    if (tok->ignore_merges) {
        int32_t id = whole_word(tok, word, n);
        if (id >= 0 && tok->types[id] != TT_TOKEN_CONTROL && tok->types[id] != TT_TOKEN_UNKNOWN) {
            return tt_encoding_push(e, id);
        }
    }
    bool ok = tt_merge_begin(&e->merge, word, n);
    /* A byte that the vocabulary has no token for becomes unk where that is allowed, else it is
     * left out; its neighbours may then merge, as they do in Hugging Face's tokenizers. */
    for (size_t i = 0; i < n && ok; i++) {
        int32_t id = tok->byte_ids[(unsigned char)word[i]];
        if (id >= 0 || e->may_be_unk) {
            tt_merge_add(&e->merge, (uint32_t)i, id);
        }
    }
    ok = ok && tt_merge_run(&e->merge, tt_pairs_find, tok);
    for (uint32_t i = e->merge.head; ok && i != n; i = e->merge.next[i]) {
        ok = tt_encoding_push(e, e->merge.ids[i] >= 0 ? e->merge.ids[i] : tok->vocab->unk);
    }
    return ok;
}

/* word[0, room) may be read. */
static tt_code encode_word(tt_encoding *e, const char *word, size_t n, size_t room, tt_err *reterr)
{
    bool ok;
    if (e->words.entries == NULL || n > TT_WORD_CACHE_BYTES) {
        ok = merge_word(e, word, n);
    } else {
        tt_word_key key = tt_word_key_of(word, n, room);
        tt_word_entry *place = tt_word_cache_place(&e->words, &key);
        const tt_word_entry *known = tt_word_cache_find(place, &key);
        if (known != NULL) {
            ok = tt_encoding_push_word(e, known);
        } else {
            size_t from = e->n;
            ok = merge_word(e, word, n);
            tt_encoding_remember(e, place, &key, from);
        }
    }
    return ok ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "no memory for token ids");
}

static tt_code encode_valid(tt_encoding *e, const char *text, size_t n, tt_err *reterr)
{
    tt_presplit_iter it;
    char *composed = NULL;
    size_t composed_n, word_n;
    const char *word;
    tt_code rc = e->tok->nfc ? tt_nfc(text, n, &composed, &composed_n, reterr) : TT_OK;
    if (rc != TT_OK) {
        return rc;
    }
    tt_presplit_begin(e->tok->split, composed != NULL ? composed : text,
                      composed != NULL ? composed_n : n, &it);
    while (rc == TT_OK && (word_n = tt_presplit_next(&it, &word)) > 0) {
        rc = encode_word(e, word, word_n, (size_t)(it.text + it.n - word), reterr);
    }
    free(composed);
    return rc;
}

tt_code tt_bpe_encode(tt_encoding *e, const char *text, size_t n, tt_err *reterr)
{
    tt_code rc = TT_OK;
    for (size_t i = 0; i < n && rc == TT_OK;) {
        size_t valid = tt_utf8_valid_prefix(text + i, n - i);
        if (valid > 0) {
            rc = encode_valid(e, text + i, valid, reterr);
            i += valid;
            continue;
        }
        size_t end = i; /* a run of bytes that are not UTF-8 is one word */
        while (end < n && tt_utf8_next(text + end, n - end, NULL) <= 0) {
            int len = tt_utf8_next(text + end, n - end, NULL);
            end = len == 0 ? n : end + (size_t)-len;
        }
        rc = encode_word(e, text + i, end - i, n - i, reterr);
        i = end;
    }
    return rc;
}
