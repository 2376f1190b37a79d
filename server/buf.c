/* buf.c - see buf.h. Growth doubles, so appends cost O(1) each. */
#include "server/buf.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tt_buf_init(tt_buf *b, size_t limit_bytes)
{
    *b = (tt_buf){.limit = limit_bytes};
}

void tt_buf_finish(tt_buf *b)
{
    free(b->p);
    *b = (tt_buf){.limit = b->limit};
}

void tt_buf_clear(tt_buf *b)
{
    b->n = 0;
    b->failed = false;
}

void tt_buf_consume(tt_buf *b, size_t n)
{
    n = n < b->n ? n : b->n;
    if (n == b->n) {
        b->n = 0;
        return;
    }
    memmove(b->p, b->p + n, b->n - n);
    b->n -= n;
}

bool tt_buf_reserve(tt_buf *b, size_t n_more)
{
    if (b->failed) {
        return false;
    }
    size_t want;
    if (__builtin_add_overflow(b->n, n_more, &want) || (b->limit != 0 && want > b->limit)) {
        b->failed = true;
        return false;
    }
    if (want <= b->cap) {
        return true;
    }
    size_t cap = b->cap < 256 ? 256 : b->cap;
    while (cap < want) {
        cap = cap > SIZE_MAX / 2 ? want : cap * 2;
    }
    char *p = realloc(b->p, cap);
    if (p == NULL) {
        b->failed = true;
        return false;
    }
    b->p = p;
    b->cap = cap;
    return true;
}

void tt_buf_put(tt_buf *b, const void *p, size_t n)
{
    if (n > 0 && tt_buf_reserve(b, n)) {
        memcpy(b->p + b->n, p, n);
        b->n += n;
    }
}

void tt_buf_puts(tt_buf *b, const char *s)
{
    tt_buf_put(b, s, strlen(s));
}

void tt_buf_putc(tt_buf *b, char c)
{
    tt_buf_put(b, &c, 1);
}

void tt_buf_printf(tt_buf *b, const char *fmt, ...)
{
    char small[256];
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    if (n >= 0 && (size_t)n < sizeof small) {
        tt_buf_put(b, small, (size_t)n);
    } else if (n >= 0 && tt_buf_reserve(b, (size_t)n + 1)) {
        vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

/* Smallest second byte of each lead byte, and largest: overlong forms, surrogates and values over
 * U+10FFFF are out. */
static bool second_ok(unsigned char lead, unsigned char c)
{
    switch (lead) {
    case 0xE0:
        return c >= 0xA0 && c <= 0xBF;
    case 0xED:
        return c >= 0x80 && c <= 0x9F;
    case 0xF0:
        return c >= 0x90 && c <= 0xBF;
    case 0xF4:
        return c >= 0x80 && c <= 0x8F;
    default:
        return c >= 0x80 && c <= 0xBF;
    }
}

size_t tt_utf8_check(const unsigned char *s, size_t n, size_t *ret_bad)
{
    unsigned char c = s[0];
    size_t want = c < 0x80                 ? 1
                  : c >= 0xC2 && c <= 0xDF ? 2
                  : c >= 0xE0 && c <= 0xEF ? 3
                  : c >= 0xF0 && c <= 0xF4 ? 4
                                           : 0;
    size_t have = 1;
    while (have < want && have < n && (have == 1 ? second_ok(c, s[1]) : (s[have] & 0xC0) == 0x80)) {
        have++;
    }
    if (want != 0 && have == want) {
        return want;
    }
    *ret_bad = have;
    return 0;
}

size_t tt_utf8_count(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; count++) {
        size_t bad = 1;
        size_t len = tt_utf8_check((const unsigned char *)s + i, n - i, &bad);
        i += len > 0 ? len : bad;
    }
    return count;
}

/* The two-character escape of c, or NULL. */
static const char *short_escape(unsigned char c)
{
    switch (c) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    case '\b':
        return "\\b";
    case '\f':
        return "\\f";
    default:
        return NULL;
    }
}

void tt_buf_put_json(tt_buf *b, const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    tt_buf_putc(b, '"');
    size_t start = 0; /* s[start..i) needs no change */
    for (size_t i = 0; i < n;) {
        unsigned char c = u[i];
        if (c >= 0x20 && c < 0x7F && c != '"' && c != '\\') {
            i++;
            continue;
        }
        size_t bad = 1;
        size_t len = tt_utf8_check(u + i, n - i, &bad);
        if (len > 1) {
            i += len;
            continue;
        }
        tt_buf_put(b, s + start, i - start);
        const char *esc = short_escape(c);
        if (len == 0) {
            tt_buf_puts(b, "\xEF\xBF\xBD");
        } else if (esc != NULL) {
            tt_buf_puts(b, esc);
        } else {
            tt_buf_printf(b, "\\u%04x", c);
        }
        i += len > 0 ? len : bad;
        start = i;
    }
    tt_buf_put(b, s + start, n - start);
    tt_buf_putc(b, '"');
}

void tt_buf_puts_json(tt_buf *b, const char *s)
{
    tt_buf_put_json(b, s, strlen(s));
}

void tt_buf_put_float(tt_buf *b, float v)
{
    if (!isfinite(v)) {
        tt_buf_puts(b, "null");
        return;
    }
    char text[24];
    for (int digits = 6; digits <= 9; digits++) { /* the shortest of these that reads back */
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) {
            break;
        }
    }
    tt_buf_puts(b, text);
}

void tt_buf_put_double(tt_buf *b, double v)
{
    if (!isfinite(v)) {
        tt_buf_puts(b, "null");
        return;
    }
    char text[40];
    for (int digits = 6; digits <= 17; digits++) { /* the shortest of these that reads back */
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) {
            break;
        }
    }
    tt_buf_puts(b, text);
}

void tt_buf_member_text(tt_buf *b, const char *key, const char *text)
{
    tt_buf_printf(b, ",\"%s\":", key);
    if (text != NULL && text[0] != '\0') {
        tt_buf_puts_json(b, text);
    } else {
        tt_buf_puts(b, "null");
    }
}

void tt_buf_member_double(tt_buf *b, const char *key, double v)
{
    tt_buf_printf(b, ",\"%s\":", key);
    tt_buf_put_double(b, v);
}
