/* template_unicode.c - see template_unicode.h. Thread: any. */
#include "core/template_unicode.h"

#include "core/template_unicode_data.h"

size_t tt_utf8_get(const char *s, size_t n, uint32_t *ret_cp)
{
    const unsigned char *u = (const unsigned char *)s;
    static const uint32_t min[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = u[0] < 0x80   ? 1
                 : u[0] < 0xC2 ? 0
                 : u[0] < 0xE0 ? 2
                 : u[0] < 0xF0 ? 3
                 : u[0] < 0xF5 ? 4
                               : 0;
    uint32_t cp = len == 1 ? u[0] : len == 0 ? 0 : u[0] & (0x7Fu >> len);
    bool ok = len != 0 && len <= n;
    for (size_t i = 1; ok && i < len; i++) {
        ok = (u[i] & 0xC0) == 0x80;
        cp = cp << 6 | (u[i] & 0x3F);
    }
    if (!ok || cp < min[len] || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) {
        *ret_cp = 0xDC00u + u[0];
        return 1;
    }
    *ret_cp = cp;
    return len;
}

size_t tt_utf8_len(const char *s, size_t n)
{
    uint32_t cp;
    return (unsigned char)s[0] < 0x80 ? 1 : tt_utf8_get(s, n, &cp);
}

size_t tt_utf8_back(const char *s, size_t n)
{
    size_t i = n - 1;
    while (i > 0 && n - i < 4 && ((unsigned char)s[i] & 0xC0) == 0x80) {
        i--;
    }
    return tt_utf8_len(s + i, n - i) == n - i ? i : n - 1;
}

bool tt_uni_is_space(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

size_t tt_utf8_span_space(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        size_t len = tt_utf8_get(s + i, n - i, &cp);
        if (!tt_uni_is_space(cp)) {
            break;
        }
        i += len;
    }
    return i;
}

size_t tt_utf8_rstrip(const char *s, size_t n)
{
    while (n > 0) {
        size_t i = tt_utf8_back(s, n);
        uint32_t cp;
        tt_utf8_get(s + i, n - i, &cp);
        if (!tt_uni_is_space(cp)) {
            break;
        }
        n = i;
    }
    return n;
}

size_t tt_utf8_span_word(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        size_t len = tt_utf8_get(s + i, n - i, &cp);
        if (cp != '_' && !tt_uni_is_alpha(cp) && !tt_uni_is_numeric(cp)) {
            break;
        }
        i += len;
    }
    return i;
}

/* -- Tables -------------------------------------------------------------------------------- */

/* Rows are sorted and do not interleave: the last that starts at or before cp decides. */
static bool in_rows(const tt_uni_range *rows, size_t n, uint32_t cp)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (rows[mid].first <= cp) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    uint32_t d = lo == 0 ? 0 : cp - rows[lo - 1].first;
    return lo != 0 && d % rows[lo - 1].step == 0 && d / rows[lo - 1].step < rows[lo - 1].n;
}

static size_t map(const tt_uni_shift *rows, size_t n, const tt_uni_special *special,
                  size_t n_special, uint32_t cp, uint32_t out[3])
{
    size_t lo = 0, hi = n_special;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (special[mid].from < cp) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (lo < n_special && special[lo].from == cp) {
        size_t k = 0;
        while (k < 3 && special[lo].to[k] != 0) {
            out[k] = special[lo].to[k];
            k++;
        }
        return k;
    }
    lo = 0;
    hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (rows[mid].first <= cp) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    out[0] = cp;
    if (lo > 0) {
        const tt_uni_shift *row = &rows[lo - 1];
        uint32_t d = cp - row->first;
        if (d % row->step == 0 && d / row->step < row->n) {
            out[0] = (uint32_t)((int64_t)cp + row->delta);
        }
    }
    return 1;
}

size_t tt_uni_to_upper(uint32_t cp, uint32_t out[3])
{
    return map(tt_uni_to_upper_rows, tt_uni_n_to_upper, tt_uni_to_upper_special_rows,
               tt_uni_n_to_upper_special, cp, out);
}

size_t tt_uni_to_lower(uint32_t cp, uint32_t out[3])
{
    return map(tt_uni_to_lower_rows, tt_uni_n_to_lower, tt_uni_to_lower_special_rows,
               tt_uni_n_to_lower_special, cp, out);
}

size_t tt_uni_to_title(uint32_t cp, uint32_t out[3])
{
    return map(tt_uni_to_title_rows, tt_uni_n_to_title, tt_uni_to_title_special_rows,
               tt_uni_n_to_title_special, cp, out);
}

bool tt_uni_is_printable(uint32_t cp)
{
    return cp < 0x80 ? cp >= 0x20 && cp < 0x7F
                     : in_rows(tt_uni_printable_rows, tt_uni_n_printable, cp);
}

bool tt_uni_is_upper(uint32_t cp)
{
    return in_rows(tt_uni_upper_rows, tt_uni_n_upper, cp);
}

bool tt_uni_is_lower(uint32_t cp)
{
    return in_rows(tt_uni_lower_rows, tt_uni_n_lower, cp);
}

bool tt_uni_is_cased(uint32_t cp)
{
    return tt_uni_is_upper(cp) || tt_uni_is_lower(cp) ||
           in_rows(tt_uni_title_rows, tt_uni_n_title, cp);
}

bool tt_uni_is_case_ignorable(uint32_t cp)
{
    return in_rows(tt_uni_case_ignorable_rows, tt_uni_n_case_ignorable, cp);
}

bool tt_uni_is_alpha(uint32_t cp)
{
    return in_rows(tt_uni_alpha_rows, tt_uni_n_alpha, cp);
}

bool tt_uni_is_decimal(uint32_t cp)
{
    return in_rows(tt_uni_decimal_rows, tt_uni_n_decimal, cp);
}

bool tt_uni_is_digit(uint32_t cp)
{
    return in_rows(tt_uni_digit_rows, tt_uni_n_digit, cp);
}

bool tt_uni_is_numeric(uint32_t cp)
{
    return in_rows(tt_uni_numeric_rows, tt_uni_n_numeric, cp);
}
