/* template_unicode.h - what Python's str methods need of UTF-8 and of the Unicode database. Thread:
 * any. */
#ifndef TT_TEMPLATE_UNICODE_H
#define TT_TEMPLATE_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/utf8.h"

/* Bytes of the code point at s, n > 0; 1 for a byte that is no valid UTF-8. */
size_t tt_utf8_len(const char *s, size_t n);
/* As above, with the code point (an invalid byte: its value + 0xDC00, a lone surrogate as in
 * Python). */
size_t tt_utf8_get(const char *s, size_t n, uint32_t *ret_cp);
/* Start of the code point that ends at s[n), n > 0. */
size_t tt_utf8_back(const char *s, size_t n);

bool tt_uni_is_printable(uint32_t cp);              /* str.isprintable */
bool tt_uni_is_space(uint32_t cp);                  /* str.isspace, also \s */
size_t tt_utf8_span_space(const char *s, size_t n); /* leading whitespace, in bytes */
size_t tt_utf8_rstrip(const char *s, size_t n);     /* length without trailing whitespace */
size_t tt_utf8_span_word(const char *s, size_t n);  /* leading letters, digits and underscores */

/* Full case mappings; out holds up to three code points, their number is returned. */
size_t tt_uni_to_upper(uint32_t cp, uint32_t out[3]);
size_t tt_uni_to_lower(uint32_t cp, uint32_t out[3]);
size_t tt_uni_to_title(uint32_t cp, uint32_t out[3]);
bool tt_uni_is_cased(uint32_t cp);
bool tt_uni_is_case_ignorable(uint32_t cp);
bool tt_uni_is_upper(uint32_t cp);
bool tt_uni_is_lower(uint32_t cp);
bool tt_uni_is_alpha(uint32_t cp);
bool tt_uni_is_decimal(uint32_t cp); /* as str.isdecimal of one character; likewise below */
bool tt_uni_is_digit(uint32_t cp);
bool tt_uni_is_numeric(uint32_t cp);

#endif
