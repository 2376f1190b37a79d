/* textout.h - the text side of a generation: token ids in, text that may be shown out. Holds back
 * what could still become a stop string and bytes that are not yet a whole code point. Linear in
 * the text, whatever the number of stop strings. Thread: one at a time, with its generation. */
#ifndef TT_TEXTOUT_H
#define TT_TEXTOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/tokenizer.h"
#include "kernels/err.h"

typedef struct tt_textout tt_textout;

typedef struct tt_textout_options {
    const tt_str *stops; /* [n_stops] UTF-8, not empty; borrowed for the call */
    size_t n_stops;
    int64_t min_tokens; /* a stop string that ends within the first min_tokens tokens is text like
                           any other */
    bool special;       /* print control tokens */
    bool include_stop;  /* the text ends after the stop string instead of before it */
} tt_textout_options;

/* tok: borrowed while the textout lives. TT_E_INVALID: a stop string that is empty or not UTF-8, or
 * over 1 MiB of them; TT_E_NOMEM. */
tt_code tt_textout_create(const tt_tokenizer *tok, const tt_textout_options *opt,
                          tt_textout **ret_out, tt_err *reterr);
void tt_textout_destroy(tt_textout **out);

#define TT_TEXTOUT_STOPPED ((tt_code)1)

/* One more token. TT_TEXTOUT_STOPPED: a stop string has matched, the text is complete (all later
 * calls say so again and do nothing). Of several stop strings the one that ends first counts, of
 * those that end together the longest; it makes no difference how the text falls into tokens.
 * TT_E_NOMEM: the text so far is intact, this token's may be lost. */
tt_code tt_textout_push(tt_textout *out, int32_t id, tt_err *reterr);
/* The end of the generation: lets go of what was held back; an incomplete code point becomes
 * U+FFFD. Same outcomes. */
tt_code tt_textout_flush(tt_textout *out, tt_err *reterr);

/* The text that may be shown and was not taken before: whole code points, *ret_n bytes, "" if there
 * is none; valid until the next push or flush. */
const char *tt_textout_take(tt_textout *out, size_t *ret_n);

int32_t
tt_textout_stop(const tt_textout *out); /* index of the stop string that matched, -1 = none */

#endif
