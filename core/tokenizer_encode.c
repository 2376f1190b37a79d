/* tokenizer_encode.c - see tokenizer.h: text is cut at added tokens, and what lies between them
 * goes to tokenizer_bpe.c or tokenizer_spm.c. Long text is also cut into units at places where that
 * changes no id, and several threads take one unit after the other; they live as long as the call
 * does, so that none idles. Thread: any, a tokenizer is immutable. */
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/tokenizer_priv.h"

/* Room for TT_WORD_CACHE_IDS more at least. */
static bool grow(tt_encoding *e)
{
    size_t cap = e->cap < 64 ? 64 : 2 * e->cap;
    int32_t *ids = e->lent ? malloc(cap * sizeof *ids) : realloc(e->ids, cap * sizeof *ids);
    if (ids == NULL) {
        return false;
    }
    if (e->lent) {
        memcpy(ids, e->ids, e->n * sizeof *ids);
    }
    e->lent = false;
    e->ids = ids;
    e->cap = cap;
    return true;
}

bool tt_encoding_push(tt_encoding *e, int32_t id)
{
    if (e->n == e->cap && !grow(e)) {
        return false;
    }
    e->ids[e->n++] = id;
    return true;
}

bool tt_encoding_push_word(tt_encoding *e, const tt_word_entry *entry)
{
    if (e->cap - e->n < TT_WORD_CACHE_IDS &&
        !grow(e)) { /* all places are copied, n of them count */
        return false;
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
        if (id >= 0 && (!tt_token_is_special(tok->types[id]) || trusted_bytes(j, at, n) == n)) {
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
    e->first_segment = e->mid_text = e->inside = false;
    return rc;
}

/* A part of the text that is encoded without looking at the rest. */
struct unit {
    size_t begin, end;
    bool first, inside;     /* of the text; of plain text that the unit before has begun */
    size_t piece, piece_at; /* where the scan of pieces was at its beginning */
    int32_t *ids;           /* of the unit alone: a part of the team's block, or owned */
    size_t n;
    bool lent;
    tt_code rc;
    tt_err err;
};

/* Appends the ids of a unit. */
static tt_code encode_unit(tt_encoding *e, const struct joined *whole, const struct unit *u,
                           tt_err *reterr)
{
    struct joined j = *whole;
    j.piece = u->piece;
    j.piece_at = u->piece_at;
    if (!u->first) {
        e->first_segment = e->mid_text = false;
        e->inside = u->inside;
    }
    size_t begin = u->begin; /* of the plain text not yet encoded */
    for (size_t at = begin; at < u->end;) {
        size_t n = 0;
        int32_t id =
            e->tok->added.first[(unsigned char)j.text[at]] ? match_added(e->tok, &j, at, &n) : -1;
        if (id < 0) {
            at++;
            continue;
        }
        tt_code rc = encode_segment(e, j.text + begin, at - begin, reterr);
        if (rc != TT_OK) {
            return rc;
        }
        if (!tt_encoding_push(e, id)) {
            return tt_fail(reterr, TT_E_NOMEM, "no memory for token ids");
        }
        e->first_segment = e->mid_text = e->inside = false;
        at += n;
        begin = at;
    }
    return encode_segment(e, j.text + begin, u->end - begin, reterr);
}

static bool may_cut(const tt_tokenizer *tok, const char *text, size_t n, size_t at)
{
    return tok->vocab->kind == TT_VOCAB_BPE ? tt_presplit_may_cut(tok->split, text, n, at)
                                            : tt_spm_may_cut(tok, text, n, at);
}

/* Cuts the text into units of unit_bytes and what is left to the next place that allows it: behind
 * an added token, or in plain text where may_cut() says so. The scan for added tokens is that of
 * encode_unit(), so that no cut goes through one. */
static tt_code cut_units(const tt_tokenizer *tok, const struct joined *whole, struct unit **ret,
                         size_t *ret_n, tt_err *reterr)
{
    struct joined j = *whole;
    size_t unit = tok->unit_bytes;
    struct unit *units = calloc(j.n / unit + 1, sizeof *units);
    if (units == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory to cut %zu bytes of text", j.n);
    }
    size_t begin = 0, k = 0; /* of the plain text; the last unit */
    units[0] = (struct unit){.first = true};
    for (size_t at = 0; j.n / 2 >= unit && at < j.n;) {
        bool due = at - units[k].begin >= unit && j.n - at >= unit;
        if (due && (at == begin || may_cut(tok, j.text + begin, j.n - begin, at - begin))) {
            units[k].end = at;
            units[++k] = (struct unit){
                .begin = at, .inside = at > begin, .piece = j.piece, .piece_at = j.piece_at};
        }
        size_t n = 0;
        bool added =
            tok->added.first[(unsigned char)j.text[at]] && match_added(tok, &j, at, &n) >= 0;
        at += added ? n : 1;
        begin = added ? at : begin;
    }
    units[k].end = j.n;
    *ret = units;
    *ret_n = k + 1;
    return TT_OK;
}

/* What the threads of one call share. */
struct team {
    const struct joined *j;
    struct unit *units;
    size_t n_units;
    const tt_encoding *first; /* the state at the beginning of the text */
    int32_t *block; /* owned, may be NULL. Nearly always a unit has fewer ids than half its bytes:
                       then they go here, in the unit's own half, and are moved together at the end;
                       only what is written takes memory */
    atomic_size_t next; /* unit that nobody has taken */
    atomic_bool failed;
};

static void *work(void *arg)
{
    struct team *t = arg;
    tt_encoding e = *t->first;
    tt_word_cache_init(&e.words, t->j->n, e.tok->score_ranks != NULL);
    size_t i;
    while (!atomic_load(&t->failed) && (i = atomic_fetch_add(&t->next, 1)) < t->n_units) {
        struct unit *u = &t->units[i];
        e.lent = t->block != NULL;
        e.ids = e.lent ? t->block + 1 + u->begin / 2 : NULL;
        e.cap = e.lent ? (u->end - u->begin) / 2 : 0;
        e.n = 0;
        u->rc = encode_unit(&e, t->j, u, &u->err);
        u->ids = e.ids;
        u->n = e.n;
        u->lent = e.lent;
        if (u->rc != TT_OK) {
            atomic_store(&t->failed, true);
        }
    }
    tt_merge_finish(&e.merge);
    tt_word_cache_finish(&e.words);
    return NULL;
}

static void release_ids(struct unit *u)
{
    if (!u->lent) {
        free(u->ids);
    }
    u->ids = NULL;
}

/* All units' ids behind the one that `e` may have, with room for one more: in the block when all
 * are there. */
static tt_code gather(tt_encoding *e, struct team *t, tt_err *reterr)
{
    size_t n = e->n + 1;
    bool lent = t->block != NULL;
    assert(e->n <= 1);
    for (size_t i = 0; i < t->n_units; i++) {
        const struct unit *u = &t->units[i];
        if (u->rc != TT_OK) {
            return tt_fail(reterr, u->rc, "%s", u->err.msg);
        }
        n += u->n;
        lent = lent && u->lent;
    }
    int32_t *ids = lent ? t->block : malloc(n * sizeof *ids);
    if (ids == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %zu token ids", n);
    }
    if (e->n > 0) {
        ids[0] = e->ids[0];
    }
    for (size_t i = 0; i < t->n_units; i++) {
        if (t->units[i].n > 0) {
            memmove(ids + e->n, t->units[i].ids, t->units[i].n * sizeof *ids);
        }
        e->n += t->units[i].n;
        release_ids(&t->units[i]);
    }
    if (lent) {
        int32_t *less = realloc(ids, n * sizeof *ids);
        ids = less != NULL ? less : ids;
        t->block = NULL;
    }
    free(e->ids);
    e->ids = ids;
    e->cap = n;
    return TT_OK;
}

/* Threads beside the callers', of all calls together: several long texts at once share them. */
static atomic_int helpers;

static bool take_helper(int most)
{
    if (atomic_fetch_add(&helpers, 1) < most) {
        return true;
    }
    atomic_fetch_sub(&helpers, 1);
    return false;
}

enum { MAX_HELPERS = 63 };

static tt_code encode_together(tt_encoding *e, const struct joined *j, struct unit *units,
                               size_t n_units, tt_err *reterr)
{
    struct team t = {.j = j, .units = units, .n_units = n_units};
    tt_encoding first = *e;
    tt_code rc;
    pthread_t thread[MAX_HELPERS];
    size_t n = 0, want = n_units - 1 < MAX_HELPERS ? n_units - 1 : MAX_HELPERS;
    t.first = &first;
    t.block = malloc((j->n / 2 + 2) * sizeof *t.block);
    while (n < want && take_helper(e->tok->n_threads - 1)) {
        if (pthread_create(&thread[n], NULL, work, &t) != 0) { /* then there are fewer */
            atomic_fetch_sub(&helpers, 1);
            break;
        }
        n++;
    }
    (void)work(&t);
    for (size_t i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
        atomic_fetch_sub(&helpers, 1);
    }
    rc = gather(e, &t, reterr);
    for (size_t i = 0; i < n_units; i++) {
        release_ids(&units[i]);
    }
    free(t.block);
    return rc;
}

static tt_code encode_alone(tt_encoding *e, const struct joined *j, const struct unit *units,
                            size_t n_units, tt_err *reterr)
{
    tt_code rc = TT_OK;
    tt_word_cache_init(&e->words, j->n, e->tok->score_ranks != NULL);
    for (size_t i = 0; rc == TT_OK && i < n_units; i++) {
        rc = encode_unit(e, j, &units[i], reterr);
    }
    tt_merge_finish(&e->merge);
    tt_word_cache_finish(&e->words);
    return rc;
}

static tt_code encode_units(tt_encoding *e, const struct joined *j, tt_err *reterr)
{
    struct unit *units = NULL;
    size_t n_units = 0;
    tt_code rc = cut_units(e->tok, j, &units, &n_units, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    rc = n_units > 1 && e->tok->n_threads > 1 ? encode_together(e, j, units, n_units, reterr)
                                              : encode_alone(e, j, units, n_units, reterr);
    free(units);
    return rc;
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
    bool ok = !add_special || !v->add_bos || v->bos < 0 || tt_encoding_push(&e, v->bos);
    if (ok) {
        rc = encode_units(&e, &j, reterr);
        ok = rc != TT_OK || !add_special || !v->add_eos || v->eos < 0 ||
             tt_encoding_push(&e, v->eos);
    }
    ok = ok && (e.ids != NULL || (e.ids = malloc(sizeof *e.ids)) != NULL);
    if (rc == TT_OK && !ok) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for token ids");
    }
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
