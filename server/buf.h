/* buf.h - a growing run of bytes for building JSON, events and pages. Thread: one at a time.
 * Failure is sticky: after one append could not allocate (or passed the limit) every later one does
 * nothing and `failed` stays true, so that a writer checks once, at the end. */
#ifndef TT_BUF_H
#define TT_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tt_buf {
    char *p;
    size_t n, cap;
    size_t limit; /* bytes at most; 0 = none */
    bool failed;
} tt_buf;

void tt_buf_init(tt_buf *b, size_t limit_bytes);
/* Legal on a zeroed buffer and twice. */
void tt_buf_finish(tt_buf *b);
/* Empties it, keeps the memory, clears `failed`. */
void tt_buf_clear(tt_buf *b);
/* Drops the first n bytes. */
void tt_buf_consume(tt_buf *b, size_t n);
bool tt_buf_reserve(tt_buf *b, size_t n_more);

void tt_buf_put(tt_buf *b, const void *p, size_t n);
void tt_buf_puts(tt_buf *b, const char *s);
void tt_buf_putc(tt_buf *b, char c);
void tt_buf_printf(tt_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A JSON string with its quotes. Text that is not UTF-8 gets one U+FFFD for each maximal invalid
 * part. */
void tt_buf_put_json(tt_buf *b, const char *s, size_t n);
void tt_buf_puts_json(tt_buf *b, const char *s);
/* A JSON number that reads back to the same float or double; null when it is not finite. */
void tt_buf_put_float(tt_buf *b, float v);
void tt_buf_put_double(tt_buf *b, double v);
/* ,"key":value - a member after the first of an object. Text that is NULL or "" is null. */
void tt_buf_member_text(tt_buf *b, const char *key, const char *text);
void tt_buf_member_double(tt_buf *b, const char *key, double v);

/* Length of the valid UTF-8 sequence at s[0..n), n >= 1; 0 when it is invalid, and then *ret_bad is
 * the length of the maximal part that one U+FFFD stands for (Unicode 15, section 3.9). */
size_t tt_utf8_check(const unsigned char *s, size_t n, size_t *ret_bad);
/* Code points of text; an invalid part counts as one. */
size_t tt_utf8_count(const char *s, size_t n);

#endif
