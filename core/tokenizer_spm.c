/* tokenizer_spm.c - SentencePiece vocabularies: BPE by scores (or by the merges of a
 * tokenizer.json) and unigram, both over text whose spaces are U+2581, with bytes for what the
 * vocabulary cannot spell. Source: Kudo & Richardson 2018; order of equal merges as Hugging Face's
 * converter derives it (score, then the longer left part, then the leftmost). Thread: any, see
 * tokenizer.h. */
#include <assert.h>
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

/* May merges make this token? Those by rank make more kinds than those by score. */
static bool is_made(const tt_tokenizer *tok, int32_t id)
{
    return may_merge_into(tok, id) ||
           (tok->vocab->n_merges > 0 && tok->types[id] != TT_TOKEN_CONTROL &&
            tok->types[id] != TT_TOKEN_UNKNOWN);
}

/* The code points `a` and `b` stand side by side in some token. */
static void note_pair(tt_tokenizer *tok, uint32_t a, uint32_t b, bool joins)
{
    if (b == SPACE_MARK && joins) {
        tok->joins[a / 64] |= (uint64_t)1 << a % 64;
    }
    if (a == '\n') {
        tok->lines[b / 64] |= (uint64_t)1 << b % 64;
    }
    if ((a < TT_ASCII || a == SPACE_MARK) && b < TT_ASCII) {
        tok->spans[a < TT_ASCII ? a : TT_ASCII][b] = true;
    }
}

/* No merge crosses the place between two code points unless some token has the two side by side; so
 * text may be cut where none has: before spaces, after line feeds, between a letter and a comma. So
 * words stay short. */
static tt_code note_pairs(tt_tokenizer *tok, tt_err *reterr)
{
    const tt_vocab *v = tok->vocab;
    tok->joins = calloc(0x110000 / 64, sizeof *tok->joins);
    tok->lines = calloc(0x110000 / 64, sizeof *tok->lines);
    if (tok->joins == NULL || tok->lines == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the vocabulary");
    }
    for (int32_t id = 0; id < v->n_tokens; id++) {
        const tt_str *s = &v->tokens[id];
        bool joins = may_merge_into(tok, id) && !v->split_at_spaces, known = false;
        uint32_t before = 0, cp;
        for (size_t i = 0; is_made(tok, id) && i < s->n;) {
            int len = tt_utf8_next(s->p + i, s->n - i, &cp);
            if (len > 0 && (known || (i > 0 && cp == SPACE_MARK))) {
                note_pair(tok, before, cp, joins);
            }
            known = len > 0;
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

/* The token of one symbol, or -1. */
static int32_t symbol_id(const tt_tokenizer *tok, const char *p, size_t n)
{
    unsigned char c = (unsigned char)p[0];
    if (n == 1 && c < sizeof tok->ascii_ids / sizeof *tok->ascii_ids) {
        return tok->ascii_ids[c];
    }
    int32_t id = tt_token_map_find(&tok->map, p, n);
    return id >= 0 && may_merge_into(tok, id) ? id : -1;
}

/* The symbol becomes a token of its own or bytes, never unk. (Merges only make tokens of it.) */
static bool is_spelt(const tt_tokenizer *tok, const char *p, size_t n)
{
    bool spelt = true;
    for (size_t i = 0; i < n; i++) {
        spelt = spelt && tok->byte_ids[(unsigned char)p[i]] >= 0;
    }
    return spelt || symbol_id(tok, p, n) >= 0;
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
    for (unsigned c = 0; c < sizeof tok->ascii_ids / sizeof *tok->ascii_ids; c++) {
        int32_t id = tt_token_map_find(&tok->map, &(char){(char)c}, 1);
        tok->ascii_ids[c] = id >= 0 && may_merge_into(tok, id) ? id : -1;
    }
    tok->mark_spelt = is_spelt(tok, space_mark, SPACE_MARK_BYTES);
    tok->line_spelt = is_spelt(tok, "\n", 1);
    tt_code rc = note_pairs(tok, reterr);
    if (rc == TT_OK && v->kind == TT_VOCAB_UNIGRAM) {
        return init_unigram(tok, reterr);
    }
    if (rc == TT_OK) {
        rc = v->n_merges > 0 ? tt_pairs_init(tok, reterr) : rank_scores(tok, reterr);
    }
    return rc;
}

static bool ask_map(const tt_tokenizer *tok, int32_t left, const char *p, size_t n,
                    uint32_t *ret_rank, int32_t *ret_merged)
{
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

/* Two ids determine their common spelling, so the answer is theirs. */
static bool find_by_score(const void *ctx, int32_t left, int32_t right, const char *p, size_t n,
                          uint32_t *ret_rank, int32_t *ret_merged)
{
    const tt_encoding *e = ctx;
    if (e->words.pairs == NULL) {
        return ask_map(e->tok, left, p, n, ret_rank, ret_merged);
    }
    tt_pair_entry *pair = tt_pair_cache_place(&e->words, left, right);
    if (pair->left != left || pair->right != right) {
        *pair = (tt_pair_entry){.left = left, .right = right, .merged = -1};
        (void)ask_map(e->tok, left, p, n, &pair->rank, &pair->merged);
    }
    if (pair->merged < 0) {
        return false;
    }
    *ret_rank = pair->rank;
    *ret_merged = pair->merged;
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
    e->n_unknown += spelt ? 0 : 1;
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
        tt_merge_add(&e->merge, (uint32_t)i, symbol_id(tok, word + i, len));
        i += len;
    }
    bool by_pairs = tok->pairs.slots != NULL;
    const void *ctx = by_pairs ? (const void *)tok : e;
    if (!tt_merge_run(&e->merge, by_pairs ? tt_pairs_find : find_by_score, ctx)) {
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
    if (collapse && !e->inside) {
        while (n > 0 && text[0] == ' ') {
            text++;
            n--;
        }
    }
    if (collapse) {
        while (n > 0 && text[n - 1] == ' ') {
            n--;
        }
    }
    if (n > 0 && v->add_space_prefix && !e->mid_text && !e->inside &&
        (e->first_segment || !v->space_prefix_once) &&
        !(v->space_prefix_lazy && begins_with_space(text, n))) {
        memcpy(out, space_mark, SPACE_MARK_BYTES);
        len = SPACE_MARK_BYTES;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] != ' ') {
            out[len++] = text[i];
        } else if (!collapse || i == 0 || text[i - 1] != ' ') {
            memcpy(out + len, space_mark, SPACE_MARK_BYTES);
            len += SPACE_MARK_BYTES;
        }
    }
    *ret_n = len;
    return out;
}

static bool has(const uint64_t *set, uint32_t cp)
{
    return (set[cp / 64] >> cp % 64 & 1) != 0;
}

/* No token spans the place between the code points `a` (0 also: not one) and `b`. The paths of
 * unigram add scores up, whose rounding other cuts than those at spaces might change. */
static bool parts(const tt_tokenizer *tok, uint32_t a, uint32_t b)
{
    if (b == SPACE_MARK) {
        return !has(tok->joins, a);
    }
    if (tok->vocab->kind != TT_VOCAB_SPM || a == 0) {
        return false;
    }
    return b < TT_ASCII && (a < TT_ASCII || a == SPACE_MARK)
               ? !tok->spans[a < TT_ASCII ? a : TT_ASCII][b]
               : a == '\n' && !has(tok->lines, b);
}

/* The code point that ends at `end`, or 0. */
static uint32_t before_of(const char *text, size_t end)
{
    size_t at = end - 1;
    uint32_t cp;
    while (at > 0 && end - at < 4 && ((unsigned char)text[at] & 0xc0) == 0x80) {
        at--;
    }
    int len = tt_utf8_next(text + at, end - at, &cp);
    return len > 0 && at + (size_t)len == end ? cp : 0;
}

/* Where tt_spm_encode() cuts words too, and neither side's spaces or unks depend on the other: one
 * of the two characters at the place is a token, so that unks do not meet there. */
bool tt_spm_may_cut(const tt_tokenizer *tok, const char *text, size_t n, size_t at)
{
    uint32_t a, b;
    assert(at > 0 && at < n);
    if (text[at] == ' ') {
        a = before_of(text, at);
        return tok->mark_spelt && a != 0 && a != ' ' && parts(tok, a, SPACE_MARK);
    }
    return text[at - 1] == '\n' && tok->line_spelt && tt_utf8_next(text + at, n - at, &b) > 0 &&
           b != SPACE_MARK && parts(tok, '\n', b);
}

/* From `begin` to the next place that no token spans. */
static size_t word_end(const tt_tokenizer *tok, const char *text, size_t begin, size_t n)
{
    bool merges = tok->vocab->kind == TT_VOCAB_SPM;
    uint32_t before = 0, cp = 0;
    for (size_t end = begin; end < n; before = cp) {
        unsigned char c = (unsigned char)text[end];
        if (c < TT_ASCII && before > 0 && before < TT_ASCII) { /* nearly all of English */
            if (merges && !tok->spans[before][c]) {
                return end;
            }
            cp = c;
            end++;
            continue;
        }
        int step = tt_utf8_next(text + end, n - end, &cp);
        if (end > begin && step > 0 && parts(tok, before, cp)) {
            return end;
        }
        cp = step > 0 ? cp : 0;
        end += step > 0 ? (size_t)step : 1;
    }
    return n;
}

/* word[0, room) may be read. */
static bool encode_word(tt_encoding *e, const char *word, size_t n, size_t room)
{
    bool unigram = e->tok->vocab->kind == TT_VOCAB_UNIGRAM;
    if (e->words.entries == NULL || n > TT_WORD_CACHE_BYTES) {
        return unigram ? encode_unigram(e, word, n) : encode_merges(e, word, n);
    }
    tt_word_key key = tt_word_key_of(word, n, room);
    tt_word_entry *place = tt_word_cache_place(&e->words, &key);
    const tt_word_entry *known = tt_word_cache_find(place, &key);
    if (known != NULL) {
        e->last_is_unk = false;
        return tt_encoding_push_word(e, known);
    }
    size_t from = e->n;
    e->n_unknown = 0;
    bool ok = unigram ? encode_unigram(e, word, n) : encode_merges(e, word, n);
    if (e->n_unknown == 0) { /* else what is pushed depends on the word before */
        tt_encoding_remember(e, place, &key, from);
    }
    return ok;
}

tt_code tt_spm_encode(tt_encoding *e, const char *text, size_t n, tt_err *reterr)
{
    size_t len = 0;
    char *marked = normalize(e, text, n, &len);
    bool ok = marked != NULL;
    e->last_is_unk = false;
    for (size_t begin = 0; ok && begin < len;) {
        size_t end = word_end(e->tok, marked, begin, len);
        ok = encode_word(e, marked + begin, end - begin, len - begin);
        begin = end;
    }
    free(marked);
    return ok ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "no memory for token ids");
}
