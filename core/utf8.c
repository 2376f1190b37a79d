/* utf8.c - see utf8.h. Source: The Unicode Standard, table 3-7 (well-formed UTF-8 byte sequences).
 */
#include "core/utf8.h"

#include <assert.h>
#include <string.h>

int tt_utf8_next(const char *p, size_t n, uint32_t *ret_cp)
{
    const unsigned char *s = (const unsigned char *)p;
    unsigned char c = s[0], lo = 0x80, hi = 0xbf; /* bounds of the second byte */
    size_t len;
    uint32_t cp;
    if (c < 0x80) {
        len = 1;
        cp = c;
    } else if (c >= 0xc2 && c <= 0xdf) {
        len = 2;
        cp = c & 0x1f;
    } else if (c >= 0xe0 && c <= 0xef) {
        len = 3;
        cp = c & 0x0f;
        lo = c == 0xe0 ? 0xa0 : 0x80;
        hi = c == 0xed ? 0x9f : 0xbf;
    } else if (c >= 0xf0 && c <= 0xf4) {
        len = 4;
        cp = c & 0x07;
        lo = c == 0xf0 ? 0x90 : 0x80;
        hi = c == 0xf4 ? 0x8f : 0xbf;
    } else {
        return -1;
    }
    for (size_t i = 1; i < len; i++, lo = 0x80, hi = 0xbf) {
        if (i == n) {
            return 0;
        }
        if (s[i] < lo || s[i] > hi) {
            return -(int)i;
        }
        cp = cp << 6 | (s[i] & 0x3f);
    }
    if (ret_cp != NULL) {
        *ret_cp = cp;
    }
    return (int)len;
}

size_t tt_utf8_valid_prefix(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        while (i + sizeof word <= n) { /* eight ASCII bytes at a time */
            memcpy(&word, p + i, sizeof word);
            if ((word & 0x8080808080808080u) != 0) {
                break;
            }
            i += sizeof word;
        }
        if (i == n) {
            break;
        }
        int len = tt_utf8_next(p + i, n - i, NULL);
        if (len <= 0) {
            break;
        }
        i += (size_t)len;
    }
    return i;
}

int tt_utf8_put(uint32_t cp, char out[4])
{
    assert(cp < 0xd800 || (cp >= 0xe000 && cp <= 0x10ffff));
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}
