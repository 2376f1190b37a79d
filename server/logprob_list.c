/* logprob_list.c - see logprob_list.h. */
#include "server/logprob_list.h"

#include <stdio.h>
#include <string.h>

void tt_logprob_list_init(tt_logprob_list *l, const tt_tokenizer *tokenizer, bool legacy)
{
    *l = (tt_logprob_list){.legacy = legacy, .tokenizer = tokenizer, .detok = {.special = true}};
}

void tt_logprob_list_finish(tt_logprob_list *l)
{
    tt_buf_finish(&l->entries);
    tt_buf_finish(&l->logprobs);
    tt_buf_finish(&l->tops);
    tt_buf_finish(&l->offsets);
    tt_buf_finish(&l->scratch);
}

bool tt_logprob_list_empty(const tt_logprob_list *l)
{
    return l->entries.n == 0;
}

bool tt_logprob_list_failed(const tt_logprob_list *l)
{
    return l->entries.failed || l->logprobs.failed || l->tops.failed || l->offsets.failed ||
           l->scratch.failed;
}

void tt_logprob_list_clear(tt_logprob_list *l)
{
    tt_buf_clear(&l->entries);
    tt_buf_clear(&l->logprobs);
    tt_buf_clear(&l->tops);
    tt_buf_clear(&l->offsets);
}

/* log-softmax may come out a rounding above zero. */
static float clean(float logprob)
{
    return logprob > 0 ? 0 : logprob;
}

/* {"token","logprob","bytes" without the closing brace. */
static void put_token(tt_buf *b, const char *piece, size_t n, float logprob)
{
    tt_buf_puts(b, "{\"token\":");
    tt_buf_put_json(b, piece, n);
    tt_buf_puts(b, ",\"logprob\":");
    tt_buf_put_float(b, clean(logprob));
    tt_buf_puts(b, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++) {
        tt_buf_printf(b, "%s%u", i > 0 ? "," : "", (unsigned char)piece[i]);
    }
    tt_buf_putc(b, ']');
}

static void add_chat(tt_logprob_list *l, const tt_logprob_entry *e)
{
    tt_buf *b = &l->entries;
    if (b->n > 0) {
        tt_buf_putc(b, ',');
    }
    put_token(b, e->piece, e->n_piece, e->logprob);
    tt_buf_puts(b, ",\"top_logprobs\":[");
    for (int32_t i = 0; i < e->n_top; i++) {
        size_t n = 0;
        const char *piece = tt_tokenizer_piece(l->tokenizer, e->top[i].id, true, &n);
        if (i > 0) {
            tt_buf_putc(b, ',');
        }
        put_token(b, piece, n, e->top[i].logprob);
        tt_buf_putc(b, '}');
    }
    tt_buf_puts(b, "]}");
}

static bool is_utf8(const char *s, size_t n)
{
    size_t bad;
    for (size_t i = 0; i < n;) {
        size_t len = tt_utf8_check((const unsigned char *)s + i, n - i, &bad);
        if (len == 0) {
            return false;
        }
        i += len;
    }
    return true;
}

/* A token that is not whole UTF-8 is spelt "bytes:\xe2\x80", as the legacy API always did, so that
 * keys stay distinct. */
static void put_legacy_token(tt_buf *b, const char *piece, size_t n)
{
    if (is_utf8(piece, n)) {
        tt_buf_put_json(b, piece, n);
        return;
    }
    tt_buf_puts(b, "\"bytes:");
    for (size_t i = 0; i < n; i++) {
        tt_buf_printf(b, "\\\\x%02x", (unsigned char)piece[i]);
    }
    tt_buf_putc(b, '"');
}

static bool same_piece(const tt_logprob_list *l, int32_t id, const char *piece, size_t n)
{
    size_t n_other = 0;
    const char *other = tt_tokenizer_piece(l->tokenizer, id, true, &n_other);
    return n == n_other && memcmp(piece, other, n) == 0;
}

/* One object {text: logprob}; of two ids with one spelling the likelier stays, since keys are
 * unique. */
static void put_tops(tt_logprob_list *l, const tt_logprob_entry *e)
{
    tt_buf *b = &l->tops;
    bool chosen_seen = false, first = true;
    tt_buf_putc(b, '{');
    for (int32_t i = 0; i <= e->n_top; i++) {
        if (i == e->n_top && chosen_seen) {
            break;
        }
        size_t n = e->n_piece;
        const char *piece = e->piece;
        float logprob = e->logprob;
        if (i < e->n_top && e->top[i].id != e->id) {
            piece = tt_tokenizer_piece(l->tokenizer, e->top[i].id, true, &n);
            logprob = e->top[i].logprob;
            bool again = n == e->n_piece && memcmp(piece, e->piece, n) == 0;
            for (int32_t k = 0; k < i && !again; k++) {
                again = same_piece(l, e->top[k].id, piece, n);
            }
            if (again) {
                continue;
            }
        } else {
            chosen_seen = true;
        }
        if (!first) {
            tt_buf_putc(b, ',');
        }
        first = false;
        put_legacy_token(b, piece, n);
        tt_buf_putc(b, ':');
        tt_buf_put_float(b, clean(logprob));
    }
    tt_buf_putc(b, '}');
}

static void advance(tt_logprob_list *l, const tt_logprob_entry *e)
{
    size_t cap = 16 + 3 * e->n_piece;
    tt_buf_clear(&l->scratch);
    if (e->n_piece > 0 && tt_buf_reserve(&l->scratch, cap)) {
        size_t n = tt_detok_push(&l->detok, l->tokenizer, e->id, l->scratch.p, cap);
        l->offset += tt_utf8_count(l->scratch.p, n);
    }
}

static void add_legacy(tt_logprob_list *l, const tt_logprob_entry *e)
{
    if (l->entries.n > 0) {
        tt_buf_putc(&l->entries, ',');
        tt_buf_putc(&l->logprobs, ',');
        tt_buf_putc(&l->tops, ',');
        tt_buf_putc(&l->offsets, ',');
    }
    put_legacy_token(&l->entries, e->piece, e->n_piece);
    tt_buf_printf(&l->offsets, "%zu", l->offset);
    if (e->have_logprob) {
        tt_buf_put_float(&l->logprobs, clean(e->logprob));
        put_tops(l, e);
    } else {
        tt_buf_puts(&l->logprobs, "null");
        tt_buf_puts(&l->tops, "null");
    }
    advance(l, e);
}

void tt_logprob_list_add(tt_logprob_list *l, const tt_logprob_entry *e)
{
    if (l->legacy) {
        add_legacy(l, e);
    } else {
        add_chat(l, e);
    }
}

static void put_all(tt_buf *b, const char *key, const tt_buf *part)
{
    tt_buf_puts(b, key);
    tt_buf_put(b, part->p, part->n);
    tt_buf_putc(b, ']');
}

void tt_logprob_list_write(tt_buf *b, const tt_logprob_list *l)
{
    if (!l->legacy) {
        put_all(b, "{\"content\":[", &l->entries);
        tt_buf_puts(b, ",\"refusal\":null}");
        return;
    }
    put_all(b, "{\"tokens\":[", &l->entries);
    put_all(b, ",\"token_logprobs\":[", &l->logprobs);
    put_all(b, ",\"top_logprobs\":[", &l->tops);
    put_all(b, ",\"text_offset\":[", &l->offsets);
    tt_buf_putc(b, '}');
}
