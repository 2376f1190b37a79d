/* textout.c - see textout.h. Source: Aho & Corasick 1975; the state of the automaton is at every
 * byte the longest end of the text that begins some stop string, and that is exactly what must be
 * held back. */
#include "core/textout.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/token_map.h"
#include "core/utf8.h"

enum { MAX_STOP_BYTES = 1 << 20 };

struct tt_textout {
    const tt_tokenizer *tok; /* borrowed */
    tt_detok detok;
    int64_t n_tokens, min_tokens;
    bool include_stop, stopped;
    int32_t stop;

    tt_token_trie trie;   /* of the stop strings */
    uint32_t *fail;       /* [n_nodes] the node of the longest proper end that is in the trie */
    uint32_t *depth;      /* [n_nodes] bytes */
    int32_t *match;       /* [n_nodes] the longest stop string that the node ends with, -1 = none */
    uint32_t *stop_bytes; /* [n_stops] */
    uint32_t state;

    char *text; /* [taken, ready) may be shown, [ready, n) is held back */
    size_t taken, ready, n, cap;
};

/* The node for the longest end of node's string plus `byte` that is in the trie. */
static uint32_t advance(const tt_textout *o, uint32_t node, unsigned char byte)
{
    for (;;) {
        uint32_t next = tt_token_trie_step(&o->trie, node, byte);
        if (next != 0 || node == 0) {
            return next;
        }
        node = o->fail[node];
    }
}

/* fail and match, shortest strings first: both follow from those of shorter ones. `from` names each
 * node's edge. */
static void link_nodes(tt_textout *o, const uint32_t *from, const uint32_t *by_depth)
{
    o->fail[0] = 0;
    o->match[0] = -1;
    for (uint32_t i = 1; i < o->trie.n_nodes; i++) {
        uint32_t node = by_depth[i], parent = from[node] >> 8;
        o->fail[node] = parent == 0 ? 0 : advance(o, o->fail[parent], (unsigned char)from[node]);
        o->match[node] = o->trie.ids[node] >= 0 ? o->trie.ids[node] : o->match[o->fail[node]];
    }
}

static tt_code build_automaton(tt_textout *o, tt_err *reterr)
{
    uint32_t n = o->trie.n_nodes, deepest = 0;
    o->fail = malloc(n * sizeof *o->fail);
    o->depth = calloc(n, sizeof *o->depth);
    o->match = malloc(n * sizeof *o->match);
    uint32_t *from = calloc(n, sizeof *from), *by_depth = malloc(n * sizeof *by_depth);
    uint32_t *begin = NULL;
    tt_code rc = TT_OK;
    if (o->fail == NULL || o->depth == NULL || o->match == NULL || from == NULL ||
        by_depth == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for the stop strings");
        goto out;
    }
    for (size_t i = 0; i <= o->trie.mask; i++) {
        if (o->trie.edges[i].from != UINT32_MAX) {
            from[o->trie.edges[i].to] = o->trie.edges[i].from;
        }
    }
    for (uint32_t i = 1; i < n; i++) { /* a node is made after its parent */
        o->depth[i] = o->depth[from[i] >> 8] + 1;
        deepest = o->depth[i] > deepest ? o->depth[i] : deepest;
    }
    begin = calloc((size_t)deepest + 2, sizeof *begin);
    if (begin == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for the stop strings");
        goto out;
    }
    for (uint32_t i = 0; i < n; i++) {
        begin[o->depth[i] + 1]++;
    }
    for (uint32_t d = 0; d <= deepest; d++) {
        begin[d + 1] += begin[d];
    }
    for (uint32_t i = 0; i < n; i++) {
        by_depth[begin[o->depth[i]]++] = i;
    }
    link_nodes(o, from, by_depth);
out:
    free(from);
    free(by_depth);
    free(begin);
    return rc;
}

static tt_code add_stops(tt_textout *o, const tt_textout_options *opt, tt_err *reterr)
{
    size_t total = 0;
    tt_code rc = tt_token_trie_init(&o->trie, reterr);
    o->stop_bytes = calloc(opt->n_stops + 1, sizeof *o->stop_bytes);
    if (rc == TT_OK && o->stop_bytes == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for the stop strings");
    }
    for (size_t i = 0; i < opt->n_stops && rc == TT_OK; i++) {
        const tt_str *s = &opt->stops[i];
        total += s->n;
        if (s->n == 0) {
            return tt_fail(reterr, TT_E_INVALID, "stop string %zu is empty", i);
        }
        if (total > MAX_STOP_BYTES) {
            return tt_fail(reterr, TT_E_INVALID, "the stop strings have over %d bytes",
                           MAX_STOP_BYTES);
        }
        if (tt_utf8_valid_prefix(s->p, s->n) != s->n) {
            return tt_fail(reterr, TT_E_INVALID, "stop string %zu is not UTF-8", i);
        }
        o->stop_bytes[i] = s->n;
        rc = tt_token_trie_add(&o->trie, s->p, s->n, (int32_t)i, reterr);
    }
    return rc;
}

tt_code tt_textout_create(const tt_tokenizer *tok, const tt_textout_options *opt,
                          tt_textout **ret_out, tt_err *reterr)
{
    if (opt->n_stops > MAX_STOP_BYTES) {
        return tt_fail(reterr, TT_E_INVALID, "%zu stop strings", opt->n_stops);
    }
    tt_textout *o = calloc(1, sizeof *o);
    if (o == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a generation's text");
    }
    o->tok = tok;
    o->stop = -1;
    o->min_tokens = opt->min_tokens;
    o->include_stop = opt->include_stop;
    o->detok.special = opt->special;
    tt_code rc = add_stops(o, opt, reterr);
    if (rc == TT_OK) {
        rc = build_automaton(o, reterr);
    }
    if (rc != TT_OK) {
        tt_textout_destroy(&o);
        return rc;
    }
    *ret_out = o;
    return TT_OK;
}

void tt_textout_destroy(tt_textout **out)
{
    tt_textout *o = *out;
    if (o == NULL) {
        return;
    }
    tt_token_trie_finish(&o->trie);
    free(o->fail);
    free(o->depth);
    free(o->match);
    free(o->stop_bytes);
    free(o->text);
    free(o);
    *out = NULL;
}

/* Room for `more` bytes at the end. What was taken goes first, but only when that is most of the
 * text, so that each byte moves a bounded number of times. */
static tt_code reserve(tt_textout *o, size_t more, tt_err *reterr)
{
    if (o->taken > o->n - o->taken) {
        memmove(o->text, o->text + o->taken, o->n - o->taken);
        o->n -= o->taken;
        o->ready -= o->taken;
        o->taken = 0;
    }
    if (more > o->cap - o->n) {
        size_t need = o->n + more, cap = o->cap * 2 > need ? o->cap * 2 : need + 64;
        char *text = need < more ? NULL : realloc(o->text, cap);
        if (text == NULL) {
            return tt_fail(reterr, TT_E_NOMEM, "no memory for a generation's text");
        }
        o->text = text;
        o->cap = cap;
    }
    return TT_OK;
}

/* The last n bytes of the text are new: runs the automaton over them. */
static tt_code scan(tt_textout *o, size_t n)
{
    for (size_t i = o->n - n; i < o->n; i++) {
        o->state = advance(o, o->state, (unsigned char)o->text[i]);
        int32_t stop = o->match[o->state];
        if (stop >= 0 && o->n_tokens > o->min_tokens) {
            o->stop = stop;
            o->stopped = true;
            o->n = i + 1 - (o->include_stop ? 0 : o->stop_bytes[stop]);
            assert(o->n >= o->ready);
            o->ready = o->n;
            return TT_TEXTOUT_STOPPED;
        }
    }
    o->ready = o->n - o->depth[o->state];
    return TT_OK;
}

tt_code tt_textout_push(tt_textout *o, int32_t id, tt_err *reterr)
{
    size_t piece;
    if (o->stopped) {
        return TT_TEXTOUT_STOPPED;
    }
    (void)tt_tokenizer_piece(o->tok, id, o->detok.special, &piece);
    tt_code rc = reserve(o, 4 + 3 * piece, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    o->n_tokens++;
    size_t n = tt_detok_push(&o->detok, o->tok, id, o->text + o->n, o->cap - o->n);
    o->n += n;
    return scan(o, n);
}

tt_code tt_textout_flush(tt_textout *o, tt_err *reterr)
{
    if (o->stopped) {
        return TT_TEXTOUT_STOPPED;
    }
    tt_code rc = reserve(o, 12, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    size_t n = tt_detok_flush(&o->detok, o->text + o->n);
    o->n += n;
    rc = scan(o, n);
    o->ready = o->n;
    o->state = 0;
    return rc;
}

const char *tt_textout_take(tt_textout *o, size_t *ret_n)
{
    const char *p = o->text != NULL ? o->text + o->taken : "";
    *ret_n = o->ready - o->taken;
    o->taken = o->ready;
    return p;
}

int32_t tt_textout_stop(const tt_textout *o)
{
    return o->stop;
}
