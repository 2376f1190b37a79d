/* utf8.h - one code point at a time out of bytes that may be anything. Thread: none, pure
 * functions. */
#ifndef TT_UTF8_H
#define TT_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* What stands at p[0..n), n >= 1:
 *   > 0  a valid code point of that many bytes; *ret_cp (may be NULL) is set
 *   < 0  not UTF-8: the maximal invalid part is minus that many bytes (one U+FFFD stands for it,
 * Unicode 3.9) 0    all n bytes are the beginning of a code point whose rest is missing */
int tt_utf8_next(const char *p, size_t n, uint32_t *ret_cp);

/* Bytes of p[0..n) before the first that is not part of a valid code point; n = all valid. */
size_t tt_utf8_valid_prefix(const char *p, size_t n);

/* Writes 1..4 bytes. cp: a Unicode scalar value (asserted). */
int tt_utf8_put(uint32_t cp, char out[4]);

#endif
