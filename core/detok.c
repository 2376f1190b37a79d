/* detok.c - token ids to text (tokenizer.h): one by one with whole code points only, or a whole
 * sequence. Thread: any; a tt_detok belongs to one sequence. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/tokenizer_priv.h"
#include "core/utf8.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */
enum { REPLACEMENT_BYTES = 3 };

/* SentencePiece's space before the text is no part of it. */
static void drop_prefix(tt_detok *d, const tt_tokenizer *tok, const char **p, size_t *n)
{
    const tt_vocab *v = tok->vocab;
    if (!d->started && *n > 0) {
        d->started = true;
        if (v->kind != TT_VOCAB_BPE && v->add_space_prefix && (*p)[0] == ' ') {
            (*p)++;
            (*n)--;
        }
    }
}

size_t tt_detok_push(tt_detok *d, const tt_tokenizer *tok, int32_t id, char *out, size_t cap)
{
    size_t n, len = 0;
    const char *p = tt_tokenizer_piece(tok, id, d->special, &n);
    assert(cap >= 4 + 3 * n);
    drop_prefix(d, tok, &p, &n);
    while (n > 0) {
        if (d->n_pending == 0) {
            size_t valid = tt_utf8_valid_prefix(p, n);
            memcpy(out + len, p, valid);
            len += valid;
            p += valid;
            n -= valid;
            if (n == 0) {
                break;
            }
        }
        d->pending[d->n_pending++] = (unsigned char)*p++;
        n--;
        int step = tt_utf8_next((const char *)d->pending, d->n_pending, NULL);
        if (step > 0) {
            memcpy(out + len, d->pending, (size_t)step);
            len += (size_t)step;
            d->n_pending = 0;
        } else if (step < 0) { /* only the last byte can have spoilt it: look at that again, if it
                                  is not the first */
            memcpy(out + len, replacement, REPLACEMENT_BYTES);
            len += REPLACEMENT_BYTES;
            if (d->n_pending > 1) {
                p--;
                n++;
            }
            d->n_pending = 0;
        }
    }
    return len;
}

size_t tt_detok_flush(tt_detok *d, char *out)
{
    if (d->n_pending == 0) {
        return 0;
    }
    d->n_pending = 0;
    memcpy(out, replacement, REPLACEMENT_BYTES);
    return REPLACEMENT_BYTES;
}

/* Hugging Face's byte fallback: a run of byte tokens is text when all of it is UTF-8, else one
 * U+FFFD for each byte. Tokens that print nothing do not end a run. Returns the number of tokens
 * taken. */
static size_t decode_byte_run(const tt_tokenizer *tok, const int32_t *ids, size_t n, bool special,
                              char *out, size_t *len)
{
    size_t run = 0, taken = 0;
    for (size_t i = 0; i < n; i++) {
        size_t piece;
        (void)tt_tokenizer_piece(tok, ids[i], special, &piece);
        if (piece == 0 && run > 0) {
            continue;
        }
        int byte = piece == 0 ? -1 : tt_spm_byte_value(tok, ids[i]);
        if (byte < 0) {
            break;
        }
        out[*len + run++] = (char)byte;
        taken = i + 1;
    }
    if (tt_utf8_valid_prefix(out + *len, run) == run) {
        *len += run;
        return taken;
    }
    for (size_t i = 0; i < run; i++) {
        memcpy(out + *len, replacement, REPLACEMENT_BYTES);
        *len += REPLACEMENT_BYTES;
    }
    return taken;
}

tt_code tt_tokenizer_decode(const tt_tokenizer *tok, const int32_t *ids, size_t n, bool special,
                            char **ret_text, size_t *ret_n, tt_err *reterr)
{
    size_t cap = 16, len = 0;
    for (size_t i = 0; i < n; i++) {
        size_t piece;
        (void)tt_tokenizer_piece(tok, ids[i], special, &piece);
        if (piece > (SIZE_MAX - cap) / 3 - 4) {
            return tt_fail(reterr, TT_E_NOMEM, "the text of %zu tokens is too long", n);
        }
        cap += 3 * piece + 4;
    }
    char *out = malloc(cap);
    if (out == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the text of %zu tokens", n);
    }
    const tt_vocab *v = tok->vocab;
    tt_detok d = {.special = special, .started = true};
    bool bytes = v->kind != TT_VOCAB_BPE;
    for (size_t i = 0; i < n;) {
        size_t run = 0;
        if (bytes && d.n_pending == 0) {
            run = decode_byte_run(tok, ids + i, n - i, special, out, &len);
        }
        if (run == 0) {
            len += tt_detok_push(&d, tok, ids[i++], out + len, cap - len);
        }
        i += run;
    }
    len += tt_detok_flush(&d, out + len);
    if (bytes && v->add_space_prefix && len > 0 && out[0] == ' ') {
        memmove(out, out + 1, --len);
    }
    out[len] = '\0';
    *ret_text = out;
    *ret_n = len;
    return TT_OK;
}
