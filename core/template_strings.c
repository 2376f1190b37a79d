/* template_strings.c - see template_strings.h. Thread: one rendering is one thread's. */
#include "core/template_strings.h"

#include <string.h>

#include "core/template_unicode.h"

/* -- Case ---------------------------------------------------------------------------------- */

/* A capital sigma at the end of a word becomes a final one: a cased letter before it, none after
 * it. */
static bool is_final_sigma(const tt_text *t, size_t at, size_t n)
{
    bool before = false, after = false;
    for (size_t i = at; i > 0 && !before;) {
        uint32_t cp;
        i = tt_utf8_back(t->p, i);
        tt_utf8_get(t->p + i, at - i, &cp);
        if (!tt_uni_is_case_ignorable(cp)) {
            if (!tt_uni_is_cased(cp)) {
                return false;
            }
            before = true;
        }
    }
    for (size_t i = at + n; i < t->n && before && !after;) {
        uint32_t cp;
        i += tt_utf8_get(t->p + i, t->n - i, &cp);
        if (!tt_uni_is_case_ignorable(cp)) {
            after = tt_uni_is_cased(cp);
            break;
        }
    }
    return before && !after;
}

static size_t map_char(const tt_text *t, size_t at, size_t n, uint32_t cp, tt_case mode, bool start,
                       uint32_t out[3])
{
    bool upper = mode == TT_CASE_UPPER || (mode == TT_CASE_SWAP && tt_uni_is_lower(cp));
    if (upper) {
        return tt_uni_to_upper(cp, out);
    }
    if (mode == TT_CASE_SWAP && !tt_uni_is_upper(cp)) {
        out[0] = cp;
        return 1;
    }
    if ((mode == TT_CASE_TITLE || mode == TT_CASE_CAPITALIZE) && start) {
        return tt_uni_to_title(cp, out);
    }
    if (cp == 0x3A3) {
        out[0] = is_final_sigma(t, at, n) ? 0x3C2 : 0x3C3;
        return 1;
    }
    return tt_uni_to_lower(cp, out);
}

/* Mapped bytes of one origin on their way to the buffer. */
typedef struct pending {
    char bytes[256];
    size_t n;
    bool trusted;
} pending;

static bool flush(tt_run *r, tt_textbuf *b, pending *p)
{
    bool ok = tt_textbuf_add(r, b, p->bytes, p->n, p->trusted);
    p->n = 0;
    return ok;
}

tt_text *tt_text_case(tt_run *r, const tt_text *t, tt_case mode)
{
    tt_textbuf *b = tt_textbuf_new(r);
    pending p = {.n = 0};
    bool start = true; /* of the text or, for TITLE, of a word */
    size_t run = 0;    /* bytes left of the same origin */
    for (size_t i = 0; b != NULL && i < t->n;) {
        uint32_t cp, to[3];
        size_t n = tt_utf8_get(t->p + i, t->n - i, &cp);
        if (run < n || p.n + 12 > sizeof p.bytes) {
            if (!flush(r, b, &p)) {
                return NULL;
            }
            p.trusted = tt_text_origin(t, i, &run);
        }
        if (cp >= 0xDC80 && cp <= 0xDCFF) { /* a stray byte */
            p.bytes[p.n++] = t->p[i];
        } else {
            size_t n_to = map_char(t, i, n, cp, mode, start, to);
            for (size_t k = 0; k < n_to; k++) {
                p.n += (size_t)tt_utf8_put(to[k], p.bytes + p.n);
            }
        }
        start = mode == TT_CASE_TITLE && !tt_uni_is_cased(cp);
        run -= n < run ? n : run;
        i += n;
    }
    return b == NULL || !flush(r, b, &p) ? NULL : tt_textbuf_text(r, b);
}

bool tt_text_has_case(const tt_text *t, bool upper)
{
    bool any = false;
    for (size_t i = 0; i < t->n;) {
        uint32_t cp;
        i += tt_utf8_get(t->p + i, t->n - i, &cp);
        bool is_upper = tt_uni_is_upper(cp), is_lower = tt_uni_is_lower(cp);
        if (upper ? is_lower : is_upper) {
            return false;
        }
        if (!is_upper && !is_lower && tt_uni_is_cased(cp)) {
            return false; /* titlecase */
        }
        any |= upper ? is_upper : is_lower;
    }
    return any;
}

/* -- Cutting ------------------------------------------------------------------------------- */

static bool strippable(const char *s, size_t n, const tt_text *chars)
{
    uint32_t cp;
    if (chars == NULL) {
        tt_utf8_get(s, n, &cp);
        return tt_uni_is_space(cp);
    }
    for (size_t i = 0; i < chars->n;) {
        size_t len = tt_utf8_len(chars->p + i, chars->n - i);
        if (len == n && memcmp(chars->p + i, s, n) == 0) {
            return true;
        }
        i += len;
    }
    return false;
}

tt_text *tt_text_strip(tt_run *r, const tt_text *t, const tt_text *chars, bool left, bool right)
{
    size_t from = 0, to = t->n;
    size_t cost = chars == NULL ? 1 : chars->n;
    while (left && from < to && tt_run_charge(r, cost)) {
        size_t n = tt_utf8_len(t->p + from, to - from);
        if (!strippable(t->p + from, n, chars)) {
            break;
        }
        from += n;
    }
    while (right && to > from && tt_run_charge(r, cost)) {
        size_t at = from + tt_utf8_back(t->p + from, to - from);
        if (!strippable(t->p + at, to - at, chars)) {
            break;
        }
        to = at;
    }
    return r->code != TT_OK ? NULL : tt_text_slice(r, t, from, to - from);
}

/* "abc" -> "-a-b-c-" */
static tt_text *replace_empty(tt_run *r, const tt_text *t, const tt_text *by, int64_t count)
{
    tt_textbuf *b = tt_textbuf_new(r);
    size_t i = 0;
    for (; b != NULL && count != 0 && i <= t->n; count--) {
        size_t n = i == t->n ? 0 : tt_utf8_len(t->p + i, t->n - i);
        if (!tt_textbuf_add_text(r, b, by) || !tt_textbuf_add_slice(r, b, t, i, n)) {
            return NULL;
        }
        i += n == 0 ? 1 : n;
    }
    if (b == NULL || (i < t->n && !tt_textbuf_add_slice(r, b, t, i, t->n - i))) {
        return NULL;
    }
    return tt_textbuf_text(r, b);
}

tt_text *tt_text_replace(tt_run *r, const tt_text *t, const tt_text *old, const tt_text *by,
                         int64_t count)
{
    if (!tt_run_charge(r, t->n)) {
        return NULL;
    }
    if (old->n == 0) {
        return replace_empty(r, t, by, count < 0 ? INT64_MAX : count);
    }
    size_t from = 0, at = count == 0 ? SIZE_MAX : tt_text_find(t, old->p, old->n, 0);
    if (at == SIZE_MAX) {
        return tt_text_slice(r, t, 0, t->n);
    }
    tt_textbuf *b = tt_textbuf_new(r);
    for (; b != NULL && at != SIZE_MAX && count != 0; count -= count > 0) {
        if (!tt_run_charge(r, 0) || !tt_textbuf_add_slice(r, b, t, from, at - from) ||
            !tt_textbuf_add_text(r, b, by)) {
            return NULL;
        }
        from = at + old->n;
        at = tt_text_find(t, old->p, old->n, from);
    }
    return b == NULL || !tt_textbuf_add_slice(r, b, t, from, t->n - from) ? NULL
                                                                          : tt_textbuf_text(r, b);
}

tt_text *tt_text_reverse(tt_run *r, tt_text *t)
{
    tt_textbuf *b = tt_textbuf_new(r);
    for (size_t end = t->n; b != NULL && end > 0;) {
        size_t at = tt_utf8_back(t->p, end);
        if (!tt_run_charge(r, 0) || !tt_textbuf_add_slice(r, b, t, at, end - at)) {
            return NULL;
        }
        end = at;
    }
    return b == NULL ? NULL : tt_textbuf_text(r, b);
}

/* -- Splitting ----------------------------------------------------------------------------- */

static bool add_part(tt_run *r, tt_list *l, const tt_text *t, size_t from, size_t to)
{
    tt_val v;
    return tt_run_charge(r, 0) && tt_val_set_text(tt_text_slice(r, t, from, to - from), &v) &&
           tt_list_add(r, l, v);
}

static bool split_at(tt_run *r, const tt_text *t, const tt_text *sep, int64_t max, tt_list *l)
{
    size_t from = 0;
    for (size_t at = 0; max != 0; max -= max > 0) {
        at = tt_text_find(t, sep->p, sep->n, from);
        if (at == SIZE_MAX) {
            break;
        }
        if (!add_part(r, l, t, from, at)) {
            return false;
        }
        from = at + sep->n;
    }
    return add_part(r, l, t, from, t->n);
}

static bool split_space(tt_run *r, const tt_text *t, int64_t max, tt_list *l)
{
    size_t i = tt_utf8_span_space(t->p, t->n);
    while (i < t->n) {
        if (max == 0) {
            return add_part(r, l, t, i, t->n); /* the rest keeps its end */
        }
        size_t end = i;
        while (end < t->n &&
               tt_utf8_span_space(t->p + end, tt_utf8_len(t->p + end, t->n - end)) == 0) {
            end += tt_utf8_len(t->p + end, t->n - end);
        }
        if (!add_part(r, l, t, i, end)) {
            return false;
        }
        i = end + tt_utf8_span_space(t->p + end, t->n - end);
        max -= max > 0;
    }
    return true;
}

/* Candidates are found by their first byte; each costs its comparison. */
size_t tt_text_rfind(tt_run *r, const tt_text *t, const tt_text *needle, size_t end)
{
    if (needle->n > end) {
        return SIZE_MAX;
    }
    if (needle->n == 0) {
        return end;
    }
    size_t n = end - needle->n + 1; /* possible starts */
    while (n > 0 && tt_run_charge(r, needle->n)) {
        const char *p = memrchr(t->p, needle->p[0], n);
        if (p == NULL) {
            break;
        }
        if (memcmp(p, needle->p, needle->n) == 0) {
            return (size_t)(p - t->p);
        }
        n = (size_t)(p - t->p);
    }
    return SIZE_MAX;
}

static bool rsplit_at(tt_run *r, const tt_text *t, const tt_text *sep, int64_t max, tt_list *l)
{
    size_t end = t->n;
    for (; max != 0; max -= max > 0) {
        size_t at = tt_text_rfind(r, t, sep, end);
        if (at == SIZE_MAX) {
            break;
        }
        if (!add_part(r, l, t, at + sep->n, end)) {
            return false;
        }
        end = at;
    }
    return add_part(r, l, t, 0, end);
}

static bool rsplit_space(tt_run *r, const tt_text *t, int64_t max, tt_list *l)
{
    size_t end = tt_utf8_rstrip(t->p, t->n);
    while (end > 0) {
        if (max == 0) {
            return add_part(r, l, t, 0, end); /* the rest keeps its beginning */
        }
        size_t from = end;
        while (from > 0) {
            size_t at = tt_utf8_back(t->p, from);
            if (tt_utf8_span_space(t->p + at, from - at) != 0) {
                break;
            }
            from = at;
        }
        if (!add_part(r, l, t, from, end)) {
            return false;
        }
        end = tt_utf8_rstrip(t->p, from);
        max -= max > 0;
    }
    return true;
}

static void reverse_list(tt_list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        tt_val v = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = v;
    }
}

bool tt_text_split(tt_run *r, const tt_text *t, const tt_text *sep, int64_t max, bool from_right,
                   tt_val *ret)
{
    tt_val v;
    if (sep != NULL && sep->n == 0) {
        return tt_run_invalid(r, "empty separator");
    }
    if (!tt_run_charge(r, t->n) || !tt_val_list(r, TT_V_LIST, 0, &v)) {
        return false;
    }
    /* also without a limit: separators that overlap are found from the right */
    bool ok = from_right ? (sep != NULL ? rsplit_at(r, t, sep, max, v.u.list)
                                        : rsplit_space(r, t, max, v.u.list))
                         : (sep != NULL ? split_at(r, t, sep, max, v.u.list)
                                        : split_space(r, t, max, v.u.list));
    if (ok && from_right) {
        reverse_list(v.u.list);
    }
    *ret = ok ? v : *ret;
    return ok;
}

static bool is_line_end(uint32_t cp)
{
    return (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

bool tt_text_splitlines(tt_run *r, const tt_text *t, bool keep_ends, tt_val *ret)
{
    tt_val v;
    if (!tt_run_charge(r, t->n) || !tt_val_list(r, TT_V_LIST, 0, &v)) {
        return false;
    }
    size_t from = 0;
    for (size_t i = 0; i < t->n;) {
        uint32_t cp;
        size_t at = i;
        i += tt_utf8_get(t->p + i, t->n - i, &cp);
        if (is_line_end(cp)) {
            i += cp == '\r' && i < t->n && t->p[i] == '\n';
            if (!add_part(r, v.u.list, t, from, keep_ends ? i : at)) {
                return false;
            }
            from = i;
        }
    }
    if (from < t->n && !add_part(r, v.u.list, t, from, t->n)) {
        return false;
    }
    *ret = v;
    return true;
}

tt_text *tt_text_pad(tt_run *r, const tt_text *t, size_t left, size_t right, const tt_text *fill)
{
    tt_textbuf *b = tt_textbuf_new(r);
    bool ok = b != NULL;
    for (; ok && left > 0; left--) {
        ok = tt_textbuf_add_text(r, b, fill);
    }
    ok = ok && tt_textbuf_add_text(r, b, t);
    for (; ok && right > 0; right--) {
        ok = tt_textbuf_add_text(r, b, fill);
    }
    return ok ? tt_textbuf_text(r, b) : NULL;
}
