/* tokenizer_spm.c - SentencePiece vocabularies: BPE by scores (or by the merges of a
 * tokenizer.json) and unigram, both over text whose spaces are U+2581, with bytes for what the
 * vocabulary cannot spell. Source: Kudo & Richardson 2018; order of equal merges as Hugging Face's
 * converter derives it (score, then the longer left part, then the leftmost). Thread: any, see
 * tokenizer.h. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/tokenizer_priv.h"
#include "core/utf8.h"

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */
enum { SPACE_MARK = 0x2581, SPACE_MARK_BYTES = 3, LEFT_BITS = 10, LEFT_MAX = (1 << LEFT_BITS) - 1 };
#define NO_RANK UINT32_MAX

int tt_spm_byte_value(const tt_tokenizer *tok, int32_t id)
{
    const tt_str *s = &tok->vocab->tokens[id];
    if (tok->types[id] != TT_TOKEN_BYTE || s->n != 6 || memcmp(s->p, "<0x", 3) != 0 ||
        s->p[5] != '>') {
        return -1;
    }
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = s->p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

size_t tt_spm_token_bytes(const tt_tokenizer *tok, int32_t id, char *out)
{
    const tt_str *s = &tok->vocab->tokens[id];
    int byte = tt_spm_byte_value(tok, id);
    if (byte >= 0) {
        out[0] = (char)byte;
        return 1;
    }
    size_t n = 0;
    for (size_t i = 0; i < s->n;) {
        if (s->n - i >= SPACE_MARK_BYTES && memcmp(s->p + i, space_mark, SPACE_MARK_BYTES) == 0) {
            out[n++] = ' ';
            i += SPACE_MARK_BYTES;
        } else {
            out[n++] = s->p[i++];
        }
    }
    return n;
}

static bool may_merge_into(const tt_tokenizer *tok, int32_t id)
{
    return tok->types[id] == TT_TOKEN_NORMAL || tok->types[id] == TT_TOKEN_USER_DEFINED;
}

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    return (x->id > y->id) - (x->id < y->id);
}

/* Equal scores share a rank; a rank and LEFT_BITS must fit 32 bits. */
static tt_code rank_scores(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    struct scored *all = malloc((size_t)v->n_tokens * sizeof *all);
    tok->score_ranks = malloc((size_t)v->n_tokens * sizeof *tok->score_ranks);
    if (all == NULL || tok->score_ranks == NULL) {
        free(all);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the scores of %d tokens", v->n_tokens);
    }
    for (int32_t i = 0; i < v->n_tokens; i++) {
        all[i] = (struct scored){v->scores[i], i};
    }
    qsort(all, (size_t)v->n_tokens, sizeof *all, by_score);
    uint32_t rank = 0;
    for (int32_t i = 0; i < v->n_tokens; i++) {
        rank += i > 0 && all[i].score != all[i - 1].score ? 1 : 0;
        tok->score_ranks[all[i].id] = may_merge_into(tok, all[i].id) ? rank : NO_RANK;
    }
    free(all);
    if (rank >= 1u << (32 - LEFT_BITS)) {
        return tt_fail(reterr, TT_E_UNSUPPORTED, "a vocabulary of %u different scores", rank);
    }
    return TT_OK;
}

/* No merge crosses the place between a code point and a space mark unless some token has the two
 * side by side; so text may be cut there, and words stay short. */
static tt_code note_joins(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    tok->joins = calloc(0x110000 / 64, sizeof *tok->joins);
    if (tok->joins == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the vocabulary");
    }
    for (int32_t id = 0; id < v->n_tokens; id++) {
        const tt_str *s = &v->tokens[id];
        uint32_t before = 0, cp;
        if (!may_merge_into(tok, id) || v->split_at_spaces) {
            continue;
        }
        for (size_t i = 0; i < s->n;) {
            int len = tt_utf8_next(s->p + i, s->n - i, &cp);
            if (i > 0 && len > 0 && cp == SPACE_MARK) {
                tok->joins[before / 64] |= (uint64_t)1 << before % 64;
            }
            before = len > 0 ? cp : 0;
            i += len > 0 ? (size_t)len : 1;
        }
    }
    return TT_OK;
}

static tt_code init_unigram(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    float lowest = 0;
    tt_code rc = tt_token_trie_init(&tok->words, reterr);
    for (int32_t id = 0; id < v->n_tokens && rc == TT_OK; id++) {
        if (tok->types[id] == TT_TOKEN_NORMAL || tok->types[id] == TT_TOKEN_USER_DEFINED) {
            lowest = v->scores[id] < lowest ? v->scores[id] : lowest;
            rc = tt_token_trie_add(&tok->words, v->tokens[id].p, v->tokens[id].n, id, reterr);
        }
    }
    tok->unk_score = lowest - 10.0f; /* SentencePiece's kUnkPenalty */
    return rc;
}

tt_code tt_spm_init(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    for (unsigned b = 0; b < 256; b++) {
        tok->byte_ids[b] = -1;
    }
    for (int32_t id = 0; id < v->n_tokens; id++) {
        int byte = tt_spm_byte_value(tok, id);
        if (byte >= 0) {
            tok->byte_ids[byte] = id;
        }
        if (v->scores != NULL && !isfinite(v->scores[id])) {
            return tt_fail(reterr, TT_E_MODEL, "the score of token %d is not a number", id);
        }
    }
    if (v->scores == NULL && (v->kind == TT_VOCAB_UNIGRAM || v->n_merges == 0)) {
        return tt_fail(reterr, TT_E_MODEL, "a SentencePiece vocabulary without scores");
    }
    tt_code rc = note_joins(tok, reterr);
    if (rc == TT_OK && v->kind == TT_VOCAB_UNIGRAM) {
        return init_unigram(tok, reterr);
    }
    if (rc == TT_OK) {
        rc = v->n_merges > 0 ? tt_pairs_init(tok, reterr) : rank_scores(tok, reterr);
    }
    return rc;
}

static bool find_by_score(const void *ctx, int32_t left, int32_t right, const char *p, size_t n,
                          uint32_t *ret_rank, int32_t *ret_merged)
{
    const tt_tokenizer *tok = ctx;
    int32_t id = tt_token_map_find(&tok->map, p, n);
    if (id < 0 || tok->score_ranks[id] == NO_RANK) {
        return false;
    }
    uint32_t left_bytes = tok->vocab->tokens[left].n;
    *ret_rank = tok->score_ranks[id] << LEFT_BITS |
                (LEFT_MAX - (left_bytes < LEFT_MAX ? left_bytes : LEFT_MAX));
    *ret_merged = id;
    return true;
}

/* A character without a token: its bytes if the vocabulary has all of them, else unk, once for
 * neighbours. */
static bool push_unknown(tt_encoding *e, const char *p, size_t n)
{
    const tt_tokenizer *tok = e->tok;
    bool spelt = true;
    for (size_t i = 0; i < n; i++) {
        spelt = spelt && tok->byte_ids[(unsigned char)p[i]] >= 0;
    }
    for (size_t i = 0; spelt && i < n; i++) {
        if (!tt_encoding_push(e, tok->byte_ids[(unsigned char)p[i]])) {
            return false;
        }
    }
    if (spelt || !e->may_be_unk || e->last_is_unk) {
        e->last_is_unk = !spelt;
        return true;
    }
    e->last_is_unk = true;
    return tt_encoding_push(e, tok->vocab->unk);
}

static bool push_symbol(tt_encoding *e, int32_t id, const char *p, size_t n)
{
    if (id < 0) {
        return push_unknown(e, p, n);
    }
    e->last_is_unk = false;
    return tt_encoding_push(e, id);
}

/* One code point, or one byte that is not UTF-8. */
static size_t symbol_bytes(const char *p, size_t n)
{
    int len = tt_utf8_next(p, n, NULL);
    return len > 0 ? (size_t)len : 1;
}

static bool encode_merges(tt_encoding *e, const char *word, size_t n)
{
    const tt_tokenizer *tok = e->tok;
    if (!tt_merge_begin(&e->merge, word, n)) {
        return false;
    }
    for (size_t i = 0; i < n;) {
        size_t len = symbol_bytes(word + i, n - i);
        int32_t id = tt_token_map_find(&tok->map, word + i, len);
        tt_merge_add(&e->merge, (uint32_t)i, id >= 0 && may_merge_into(tok, id) ? id : -1);
        i += len;
    }
    if (!tt_merge_run(&e->merge, tok->pairs.slots != NULL ? tt_pairs_find : find_by_score, tok)) {
        return false;
    }
    bool ok = true;
    for (uint32_t i = e->merge.head; ok && i != n; i = e->merge.next[i]) {
        ok = push_symbol(e, e->merge.ids[i], word + i, e->merge.next[i] - i);
    }
    return ok;
}

/* The best path ends at each byte: its score, the token that ends there (-1 = unknown) and where
 * that began. */
struct best {
    double score;
    int32_t id;
    uint32_t from;
};

static void reach(struct best *best, size_t from, size_t to, double score, int32_t id)
{
    if (score > best[to].score) {
        best[to] = (struct best){score, id, (uint32_t)from};
    }
}

/* Viterbi over the tokens; time n x the longest token. */
static bool encode_unigram(tt_encoding *e, const char *word, size_t n)
{
    const tt_tokenizer *tok = e->tok;
    struct best *best = malloc((n + 1) * sizeof *best);
    if (best == NULL) {
        return false;
    }
    best[0] = (struct best){0, -1, 0};
    for (size_t i = 1; i <= n; i++) {
        best[i] = (struct best){-DBL_MAX, -1, 0};
    }
    for (size_t i = 0; i < n;) {
        size_t symbol = symbol_bytes(word + i, n - i);
        uint32_t node = 0;
        bool single = false; /* the one code point is a token */
        for (size_t end = i; end < n;) {
            node = tt_token_trie_step(&tok->words, node, (unsigned char)word[end++]);
            if (node == 0) {
                break;
            }
            int32_t id = tok->words.ids[node];
            if (id >= 0) {
                double score = tok->types[id] == TT_TOKEN_USER_DEFINED ? 0 : tok->vocab->scores[id];
                reach(best, i, end, best[i].score + score, id);
                single = single || end == i + symbol;
            }
        }
        if (!single) {
            reach(best, i, i + symbol, best[i].score + tok->unk_score, -1);
        }
        i += symbol;
    }
    uint32_t back = (uint32_t)
        n; /* turn the path round: from[] of each end becomes the next of each beginning */
    for (uint32_t i = (uint32_t)n; i > 0;) {
        uint32_t from = best[i].from;
        best[i].from = back;
        back = i;
        i = from;
    }
    bool ok = true;
    size_t begin = 0;
    for (uint32_t end = back; ok && begin < n;) {
        ok = push_symbol(e, best[end].id, word + begin, end - begin);
        begin = end;
        end = best[end].from;
    }
    free(best);
    return ok;
}

static bool begins_with_space(const char *text, size_t n)
{
    return text[0] == ' ' ||
           (n >= SPACE_MARK_BYTES && memcmp(text, space_mark, SPACE_MARK_BYTES) == 0);
}

/* Spaces become marks; the result is malloc'ed. */
static char *normalize(const tt_encoding *e, const char *text, size_t n, size_t *ret_n)
{
    const tt_vocab *v = e->tok->vocab;
    bool collapse = v->remove_extra_whitespaces;
    size_t spaces = 1;
    for (size_t i = 0; i < n; i++) {
        spaces += text[i] == ' ' ? 1 : 0;
    }
    char *out = malloc(n + spaces * (SPACE_MARK_BYTES - 1) + SPACE_MARK_BYTES);
    if (out == NULL) {
        return NULL;
    }
    size_t len = 0;
    if (collapse) {
        while (n > 0 && text[0] == ' ') {
            text++;
            n--;
        }
        while (n > 0 && text[n - 1] == ' ') {
            n--;
        }
    }
    if (n > 0 && v->add_space_prefix && !e->mid_text &&
        (e->first_segment || !v->space_prefix_once) &&
        !(v->space_prefix_lazy && begins_with_space(text, n))) {
        memcpy(out, space_mark, SPACE_MARK_BYTES);
        len = SPACE_MARK_BYTES;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] != ' ') {
            out[len++] = text[i];
        } else if (!collapse || text[i - 1] != ' ') {
            memcpy(out + len, space_mark, SPACE_MARK_BYTES);
            len += SPACE_MARK_BYTES;
        }
    }
    *ret_n = len;
    return out;
}

tt_code tt_spm_encode(tt_encoding *e, const char *text, size_t n, tt_err *reterr)
{
    size_t len = 0;
    char *marked = normalize(e, text, n, &len);
    bool ok = marked != NULL;
    e->last_is_unk = false;
    for (size_t begin = 0; ok && begin < len;) {
        size_t end = begin;
        uint32_t before = 0, cp = 0;
        for (; end < len; before = cp) { /* to the next place that no token spans */
            int step = tt_utf8_next(marked + end, len - end, &cp);
            if (end > begin && step > 0 && cp == SPACE_MARK &&
                (e->tok->joins[before / 64] >> before % 64 & 1) == 0) {
                break;
            }
            cp = step > 0 ? cp : 0;
            end += step > 0 ? (size_t)step : 1;
        }
        ok = e->tok->vocab->kind == TT_VOCAB_UNIGRAM
                 ? encode_unigram(e, marked + begin, end - begin)
                 : encode_merges(e, marked + begin, end - begin);
        begin = end;
    }
    free(marked);
    return ok ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "no memory for token ids");
}
