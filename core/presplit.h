/* presplit.h - cuts text into the words that byte-level BPE never merges across: the patterns of
 * model families, by the names GGUF files give them. Thread: a pattern set is immutable; an
 * iterator belongs to one call. */
#ifndef TT_PRESPLIT_H
#define TT_PRESPLIT_H

#include <stdbool.h>
#include <stddef.h>

#include "core/vocab.h"
#include "kernels/err.h"

typedef struct tt_presplit tt_presplit;

/* name: tokenizer.ggml.pre. TT_E_UNSUPPORTED names an unknown one. */
tt_code tt_presplit_create(tt_str name, tt_presplit **ret_split, tt_err *reterr);
void tt_presplit_destroy(tt_presplit **split);

bool tt_presplit_ignores_merges(
    const tt_presplit *split); /* a word that is a token is that token */
bool tt_presplit_wants_nfc(
    const tt_presplit *split); /* text is composed (nfc.h) before it is split */

/* May text[0, n), any bytes, be cut at `at`, 0 < at < n, whatever stands before and behind? True:
 * the words of the two parts, each split and composed alone, are those of the whole. */
bool tt_presplit_may_cut(const tt_presplit *split, const char *text, size_t n, size_t at);

typedef struct tt_presplit_iter {
    const tt_presplit *split;
    const char *text;
    size_t n, pos, window_end;
} tt_presplit_iter;

/* text: valid UTF-8 (not checked again), borrowed. */
void tt_presplit_begin(const tt_presplit *split, const char *text, size_t n, tt_presplit_iter *it);
/* Bytes of the next word, which *ret_word then points to; 0 at the end. Every byte is in one word.
 */
size_t tt_presplit_next(tt_presplit_iter *it, const char **ret_word);

#endif
