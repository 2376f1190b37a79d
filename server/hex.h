/* hex.h - bytes as lower-case hexadecimal digits, and back. Thread: any. */
#ifndef TT_HEX_H
#define TT_HEX_H

#include <stdbool.h>
#include <stddef.h>

/* 2 * n digits and a NUL. */
void tt_hex_write(const unsigned char *p, size_t n, char *ret_text);
/* Exactly 2 * n digits and nothing behind; text may be NULL, which is none. */
bool tt_hex_read(const char *text, unsigned char *ret, size_t n);

/* 2 * n digits and a NUL (n <= 16) that nobody else has. Not for secrets: where the kernel gives no
 * random bytes they come of the clock. */
void tt_hex_random(size_t n, char *ret_text);

#endif
