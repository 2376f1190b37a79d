/* session_text.c - see session_text.h. A cut is a byte of the text and the number of ids before it.
 * Cuts lie at the ends of what was tokenised in one go and at each generated token; within a prompt
 * the border of a token depends on what follows, so there are none. */
#include "server/session_text.h"
#include "server/api_json.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct cut {
    size_t byte;
    int32_t n_ids;
} cut;

struct tt_session_text {
    atomic_int refs;
    json_t *messages, *kwargs; /* owned */
    char *text;                /* owned: [n] */
    size_t n, text_cap;
    int32_t *ids; /* owned: [n_ids] */
    int32_t n_ids;
    cut *cuts; /* owned: [n_cuts], rising */
    int32_t n_cuts;
    char key[TT_SESSION_PART_KEY];
};

tt_session_text *tt_session_text_ref(tt_session_text *t)
{
    atomic_fetch_add(&t->refs, 1);
    return t;
}

void tt_session_text_unref(tt_session_text **text)
{
    tt_session_text *t = *text;
    *text = NULL;
    if (t != NULL && atomic_fetch_sub(&t->refs, 1) == 1) {
        json_decref(t->messages);
        json_decref(t->kwargs);
        free(t->text);
        free(t->ids);
        free(t->cuts);
        free(t);
    }
}

const json_t *tt_session_text_messages(const tt_session_text *t)
{
    return t->messages;
}

const json_t *tt_session_text_kwargs(const tt_session_text *t)
{
    return t->kwargs;
}

/* Messages are counted as their text twice over: once rendered, once as JSON. */
size_t tt_session_text_bytes(const tt_session_text *t)
{
    return sizeof *t + 2 * t->n + (size_t)t->n_ids * sizeof *t->ids +
           (size_t)t->n_cuts * sizeof *t->cuts;
}

/* Room for n bytes more of text. */
static bool reserve(tt_session_text *t, size_t n)
{
    if (n > t->text_cap - t->n) {
        size_t cap = t->text_cap + n + t->text_cap / 2;
        char *more = realloc(t->text, cap);
        if (more == NULL) {
            return false;
        }
        t->text = more;
        t->text_cap = cap;
    }
    return true;
}

static void put_cut(tt_session_text *t, size_t byte, int32_t n_ids)
{
    if (t->n_cuts == 0 || t->cuts[t->n_cuts - 1].n_ids < n_ids) {
        t->cuts[t->n_cuts++] = (cut){.byte = byte, .n_ids = n_ids};
    }
}

/* The generated tokens as an answer shows them (U+FFFD for bytes that are no UTF-8, no space in
 * front), and the control tokens among them, which a template spells out. No cut is inside of a
 * code point. */
static bool put_generated(tt_session_text *t, const tt_session_text_options *o)
{
    tt_detok d = {.special = true};
    char end[16];
    for (int32_t i = 0; i < o->n_generated; i++) {
        size_t n;
        (void)tt_tokenizer_piece(o->tokenizer, o->generated[i], true, &n);
        if (!reserve(t, 3 * n + 4)) {
            return false;
        }
        t->n +=
            tt_detok_push(&d, o->tokenizer, o->generated[i], t->text + t->n, t->text_cap - t->n);
        t->ids[t->n_ids++] = o->generated[i];
        if (d.n_pending == 0) {
            put_cut(t, t->n, t->n_ids);
        }
    }
    size_t n = tt_detok_flush(&d, end);
    if (!reserve(t, n)) {
        return false;
    }
    if (n > 0) {
        memcpy(t->text + t->n, end, n);
        t->n += n;
    }
    put_cut(t, t->n, t->n_ids);
    return true;
}

/* The cuts of what was kept, the end of the prompt, and one behind each generated token. */
static bool fill(tt_session_text *t, const tt_session_text_options *o)
{
    int32_t n_old = 0;
    while (o->from != NULL && n_old < o->from->n_cuts && o->from->cuts[n_old].n_ids <= o->n_kept) {
        n_old++;
    }
    t->cuts = malloc(((size_t)n_old + (size_t)o->n_generated + 2) * sizeof *t->cuts);
    t->ids = malloc(((size_t)o->n_ids + (size_t)o->n_generated + 1) * sizeof *t->ids);
    if (t->cuts == NULL || t->ids == NULL || !reserve(t, o->n)) {
        return false;
    }
    if (o->n > 0) {
        memcpy(t->text, o->text, o->n);
        t->n = o->n;
    }
    if (o->n_ids > 0) {
        memcpy(t->ids, o->ids, (size_t)o->n_ids * sizeof *t->ids);
    }
    t->n_ids = o->n_ids;
    for (int32_t i = 0; i < n_old; i++) {
        put_cut(t, o->from->cuts[i].byte, o->from->cuts[i].n_ids);
    }
    put_cut(t, t->n, t->n_ids);
    return put_generated(t, o);
}

tt_code tt_session_text_create(const tt_session_text_options *o, tt_session_text **ret,
                               tt_err *reterr)
{
    tt_session_text *t = calloc(1, sizeof *t);
    bool ok = t != NULL;
    if (ok) {
        atomic_init(&t->refs, 1);
        t->messages = json_copy((json_t *)o->messages); /* its entries are shared, never changed */
        t->kwargs = o->kwargs != NULL ? json_deep_copy(o->kwargs) : NULL;
        ok = t->messages != NULL && (o->kwargs == NULL || t->kwargs != NULL) && fill(t, o);
    }
    if (!ok) {
        tt_session_text_unref(&t);
        return tt_fail(reterr, TT_E_NOMEM, "out of memory for a session's text");
    }
    *ret = t;
    return TT_OK;
}

/* The last cut at or before the first byte in which the two texts differ. */
static cut last_cut(const tt_session_text *t, const char *text, size_t n)
{
    size_t same = 0, max = t->n < n ? t->n : n;
    while (same < max && t->text[same] == text[same]) {
        same++;
    }
    int32_t lo = 0, hi = t->n_cuts;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (t->cuts[mid].byte <= same) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo > 0 ? t->cuts[lo - 1] : (cut){0};
}

/* The pieces from byte `at` on. *ret: malloc'ed. */
static tt_code pieces_from(const tt_rendered *r, size_t at, tt_text_piece **ret, size_t *ret_n,
                           tt_err *reterr)
{
    tt_text_piece *pieces = malloc((r->n_pieces + 1) * sizeof *pieces);
    size_t n = 0, begin = 0;
    if (pieces == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < r->n_pieces; i++) {
        tt_text_piece p = r->pieces[i];
        size_t end = begin + p.n, skip = at > begin ? at - begin : 0;
        begin = end;
        if (end > at) {
            p.p += skip;
            p.n -= skip;
            pieces[n++] = p;
        }
    }
    *ret = pieces;
    *ret_n = n;
    return TT_OK;
}

tt_code tt_session_text_splice(const tt_session_text *t, const tt_served *sv,
                               const tt_rendered *rendered, int32_t **ret_ids, size_t *ret_n,
                               int32_t *ret_kept, tt_err *reterr)
{
    cut c = last_cut(t, rendered->text, rendered->n);
    tt_text_piece *pieces = NULL;
    int32_t *rest = NULL, *ids;
    size_t n_pieces = 0, n_rest = 0;
    if (c.n_ids == 0) {
        *ret_kept = 0;
        return tt_prompt_tokens(sv, rendered->pieces, rendered->n_pieces, ret_ids, ret_n, reterr);
    }
    tt_code rc = pieces_from(rendered, c.byte, &pieces, &n_pieces, reterr);
    if (rc == TT_OK) {
        rc = tt_prompt_more_tokens(sv, t->ids[c.n_ids - 1], pieces, n_pieces, &rest, &n_rest,
                                   reterr);
    }
    free(pieces);
    if (rc < 0) {
        return rc;
    }
    ids = malloc(((size_t)c.n_ids + n_rest + 1) * sizeof *ids);
    if (ids == NULL) {
        free(rest);
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    memcpy(ids, t->ids, (size_t)c.n_ids * sizeof *ids);
    if (n_rest > 0) {
        memcpy(ids + c.n_ids, rest, n_rest * sizeof *ids);
    }
    free(rest);
    *ret_ids = ids;
    *ret_n = (size_t)c.n_ids + n_rest;
    *ret_kept = c.n_ids;
    return TT_OK;
}

/* ---- disk: a header, messages and kwargs as JSON, text, ids, cuts ---- */

typedef struct packed_head {
    uint32_t magic, version;
    uint64_t n_messages, n_kwargs, n_text; /* bytes */
    uint32_t n_ids, n_cuts;
} packed_head;

typedef struct packed_cut {
    uint64_t byte;
    int64_t n_ids;
} packed_cut;

enum { MAGIC = 0x74787474 /* "ttxt" */, PACK_VERSION = 1 };

static int put_json(const char *p, size_t n, void *arg)
{
    tt_buf *b = arg;
    tt_buf_put(b, p, n);
    return b->failed ? -1 : 0;
}

void tt_session_text_pack(const tt_session_text *t, tt_buf *b)
{
    packed_head h = {.magic = MAGIC,
                     .version = PACK_VERSION,
                     .n_text = t->n,
                     .n_ids = (uint32_t)t->n_ids,
                     .n_cuts = (uint32_t)t->n_cuts};
    size_t at = b->n, flags = JSON_COMPACT | JSON_ENCODE_ANY;
    tt_buf_put(b, &h, sizeof h);
    size_t begin = b->n;
    if (json_dump_callback(t->messages, put_json, b, flags) != 0) {
        b->failed = true;
    }
    h.n_messages = b->n - begin;
    begin = b->n;
    if (t->kwargs != NULL && json_dump_callback(t->kwargs, put_json, b, flags) != 0) {
        b->failed = true;
    }
    h.n_kwargs = b->n - begin;
    tt_buf_put(b, t->text != NULL ? t->text : "", t->n);
    tt_buf_put(b, t->ids, (size_t)t->n_ids * sizeof *t->ids);
    for (int32_t i = 0; i < t->n_cuts; i++) {
        packed_cut c = {.byte = t->cuts[i].byte, .n_ids = t->cuts[i].n_ids};
        tt_buf_put(b, &c, sizeof c);
    }
    if (!b->failed) {
        memcpy(b->p + at, &h, sizeof h);
    }
}

/* Whether the sizes of the header add up to n, without overflow. */
static bool fits(const packed_head *h, size_t n)
{
    uint64_t left = n - sizeof *h;
    const uint64_t part[] = {h->n_messages, h->n_kwargs, h->n_text,
                             (uint64_t)h->n_ids * sizeof(int32_t),
                             (uint64_t)h->n_cuts * sizeof(packed_cut)};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        if (part[i] > left) {
            return false;
        }
        left -= part[i];
    }
    return left == 0 && h->n_ids <= INT32_MAX && h->n_cuts <= INT32_MAX;
}

/* Rising, and inside. */
static bool read_cuts(tt_session_text *t, const char *p)
{
    for (int32_t i = 0; i < t->n_cuts; i++) {
        packed_cut c;
        memcpy(&c, p + (size_t)i * sizeof c, sizeof c);
        bool rising = i == 0 || (c.n_ids > t->cuts[i - 1].n_ids && c.byte >= t->cuts[i - 1].byte);
        if (!rising || c.byte > t->n || c.n_ids < 0 || c.n_ids > t->n_ids) {
            return false;
        }
        t->cuts[i] = (cut){.byte = (size_t)c.byte, .n_ids = (int32_t)c.n_ids};
    }
    return true;
}

/* False: not what pack writes, or memory ran out, which *ret_memory tells. */
static bool unpack(tt_session_text *t, const char *p, const packed_head *h, bool *ret_memory)
{
    size_t n_ids = h->n_ids;
    bool no_memory = false;
    t->messages = tt_json_load(p, h->n_messages, 0, NULL, ret_memory);
    p += h->n_messages;
    t->kwargs = h->n_kwargs > 0 ? tt_json_load(p, h->n_kwargs, 0, NULL, &no_memory) : NULL;
    p += h->n_kwargs;
    *ret_memory = *ret_memory || no_memory;
    if (!json_is_array(t->messages) || (h->n_kwargs > 0 && !json_is_object(t->kwargs))) {
        return false;
    }
    t->ids = malloc((n_ids + 1) * sizeof *t->ids);
    t->cuts = malloc(((size_t)h->n_cuts + 1) * sizeof *t->cuts);
    if (t->ids == NULL || t->cuts == NULL || !reserve(t, h->n_text + 1)) {
        *ret_memory = true;
        return false;
    }
    memcpy(t->text, p, h->n_text);
    t->n = h->n_text;
    p += h->n_text;
    memcpy(t->ids, p, n_ids * sizeof *t->ids);
    t->n_ids = (int32_t)n_ids;
    t->n_cuts = (int32_t)h->n_cuts;
    return read_cuts(t, p + n_ids * sizeof *t->ids);
}

tt_code tt_session_text_unpack(const void *p, size_t n, tt_session_text **ret, tt_err *reterr)
{
    packed_head h;
    bool memory = true;
    if (n < sizeof h) {
        return tt_fail(reterr, TT_E_INVALID, "a session's text is cut short");
    }
    memcpy(&h, p, sizeof h);
    if (h.magic != MAGIC || h.version != PACK_VERSION || !fits(&h, n)) {
        return tt_fail(reterr, TT_E_INVALID, "a session's text is not what it should be");
    }
    tt_session_text *t = calloc(1, sizeof *t);
    if (t != NULL) {
        atomic_init(&t->refs, 1);
    }
    if (t == NULL || !unpack(t, (const char *)p + sizeof h, &h, &memory)) {
        tt_session_text_unref(&t);
        return memory ? tt_fail(reterr, TT_E_NOMEM, "out of memory for a session's text")
                      : tt_fail(reterr, TT_E_INVALID, "a session's text is not what it should be");
    }
    *ret = t;
    return TT_OK;
}

char *tt_session_text_key(tt_session_text *t)
{
    return t->key;
}
