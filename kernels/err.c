/* err.c - see err.h. */
#include "kernels/err.h"

#include <stdio.h>
#include <string.h>

#define TT_CODE_CASE(name, value, text)                                                            \
    case name:                                                                                     \
        return text;

const char *tt_code_text(tt_code code)
{
    switch (code) {
        TT_CODES(TT_CODE_CASE)
    case TT_OK:
        return "ok";
    default:
        return "unknown";
    }
}

/* Cuts a partial code point off the end of s[0..n). Needed because vsnprintf cuts at bytes. */
static size_t utf8_floor(const char *s, size_t n)
{
    size_t i = n;
    while (i > 0 && n - i < 4 && ((unsigned char)s[i - 1] & 0xC0) == 0x80) {
        i--;
    }
    if (i == 0) {
        return n;
    }
    unsigned char lead = (unsigned char)s[i - 1];
    size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    return n - (i - 1) < want ? i - 1 : n;
}

tt_code tt_fail(tt_err *err, tt_code code, const char *fmt, ...)
{
    if (err == NULL) {
        return code;
    }
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    err->code = code;
    if (n < 0) {
        err->msg[0] = '\0';
    } else if ((size_t)n >= sizeof err->msg) {
        err->msg[utf8_floor(err->msg, sizeof err->msg - 1)] = '\0';
    }
    for (char *p = err->msg; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7F) {
            *p = '?';
        }
    }
    return code;
}
