/* template_strings.h - Python's str operations on texts; the origin of every byte that survives is
 * kept. Thread: one rendering is one thread's. NULL or false: the run has failed. */
#ifndef TT_TEMPLATE_STRINGS_H
#define TT_TEMPLATE_STRINGS_H

#include "core/template_value.h"

typedef enum tt_case {
    TT_CASE_UPPER,
    TT_CASE_LOWER,
    TT_CASE_TITLE,
    TT_CASE_CAPITALIZE,
    TT_CASE_SWAP
} tt_case;

tt_text *tt_text_case(tt_run *r, const tt_text *t, tt_case mode);
/* str.isupper or islower: a cased character, and none of the other case. */
bool tt_text_has_case(const tt_text *t, bool upper);
/* chars NULL: whitespace. */
tt_text *tt_text_strip(tt_run *r, const tt_text *t, const tt_text *chars, bool left, bool right);
/* count < 0: all. */
tt_text *tt_text_replace(tt_run *r, const tt_text *t, const tt_text *old, const tt_text *by,
                         int64_t count);
tt_text *tt_text_reverse(tt_run *r, tt_text *t);
/* A list of texts; sep NULL: runs of whitespace; max < 0: no limit; from_right: the limit counts
 * from the end. */
bool tt_text_split(tt_run *r, const tt_text *t, const tt_text *sep, int64_t max, bool from_right,
                   tt_val *ret);
bool tt_text_splitlines(tt_run *r, const tt_text *t, bool keep_ends, tt_val *ret);
/* Last occurrence that ends at or before byte `end`; SIZE_MAX = none, or the run has failed. */
size_t tt_text_rfind(tt_run *r, const tt_text *t, const tt_text *needle, size_t end);
/* `fill`, one code point, left and right so many times. */
tt_text *tt_text_pad(tt_run *r, const tt_text *t, size_t left, size_t right, const tt_text *fill);

#endif
