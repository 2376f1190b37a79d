/* json_read.c - see json_read.h. jansson's lexer takes text byte by byte into a buffer that grows
 * to twice the longest string, and then copies it: for a body that is one long string that costs
 * more time than to tokenise it and three times its memory. Here a string is measured, allocated
 * and decoded in its place. Source: RFC 8259. */
#include "server/json_read.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "core/utf8.h"
#include "server/api_json.h"

enum { LONGEST_INTEGER = 18 }; /* digits that 64 bits always hold */

struct reader {
    const char *p, *end;
    int depth;
};

static json_t *read_value(struct reader *r);

static void skip_blanks(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t')) {
        r->p++;
    }
}

static bool take(struct reader *r, char c)
{
    skip_blanks(r);
    if (r->p == r->end || *r->p != c) {
        return false;
    }
    r->p++;
    return true;
}

/* Bytes at p that are ASCII, no control characters, no quote and no backslash. */
static size_t plain_run(const char *p, const char *end)
{
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    const char *from = p;
    uint64_t w;
    for (; (size_t)(end - p) >= sizeof w; p += sizeof w) {
        memcpy(&w, p, sizeof w);
        uint64_t quote = w ^ ones * '"', slash = w ^ ones * '\\';
        uint64_t odd =
            w | (w - ones * 0x20) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash);
        if ((odd & tops) != 0) {
            break;
        }
    }
    while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' &&
           *p != '\\') {
        p++;
    }
    return (size_t)(p - from);
}

static int hex4(const char *p)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            return -1;
        }
        v = v * 16 + digit;
    }
    return v;
}

/* The escape at p[0, end): bytes read, its bytes in out[4] and their number. 0: not valid. */
static size_t escape(const char *p, const char *end, char *out, size_t *ret_n)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (end - p < 2) {
        return 0;
    }
    const char *simple = p[1] != '\0' ? strchr(from, p[1]) : NULL;
    if (simple != NULL) {
        out[0] = to[simple - from];
        *ret_n = 1;
        return 2;
    }
    int high = p[1] == 'u' && end - p >= 6 ? hex4(p + 2) : -1;
    if (high < 0 || (high >= 0xdc00 && high <= 0xdfff)) {
        return 0;
    }
    if (high < 0xd800 || high > 0xdfff) {
        *ret_n = (size_t)tt_utf8_put((uint32_t)high, out);
        return 6;
    }
    int low = end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
    if (low < 0xdc00 || low > 0xdfff) {
        return 0;
    }
    uint32_t cp = 0x10000 + ((uint32_t)(high - 0xd800) << 10 | (uint32_t)(low - 0xdc00));
    *ret_n = (size_t)tt_utf8_put(cp, out);
    return 12;
}

/* From behind the opening quote: the bytes up to the closing one, and those that they mean. */
static bool measure(const char *p, const char *end, size_t *ret_raw, size_t *ret_n)
{
    const char *from = p;
    size_t n = 0;
    for (;;) {
        size_t run = plain_run(p, end);
        p += run;
        n += run;
        if (p == end || (unsigned char)*p < 0x20) {
            return false;
        }
        if (*p == '"') {
            *ret_raw = (size_t)(p - from);
            *ret_n = n;
            return true;
        }
        char out[4];
        size_t made, used;
        if (*p == '\\') {
            used = escape(p, end, out, &made);
            if (used == 0) {
                return false;
            }
        } else {
            int len = tt_utf8_next(p, (size_t)(end - p), NULL);
            if (len <= 0) {
                return false;
            }
            used = made = (size_t)len;
        }
        p += used;
        n += made;
    }
}

static void decode(const char *p, const char *end, char *out)
{
    while (p < end) {
        const char *slash = memchr(p, '\\', (size_t)(end - p));
        size_t run = (size_t)((slash != NULL ? slash : end) - p), made;
        memcpy(out, p, run);
        out += run;
        p += run;
        if (slash != NULL) {
            char bytes[4];
            p += escape(p, end, bytes, &made);
            memcpy(out, bytes, made);
            out += made;
        }
    }
}

/* Behind the opening quote. */
static json_t *read_string(struct reader *r)
{
    size_t raw, n;
    if (!measure(r->p, r->end, &raw, &n)) {
        return NULL;
    }
    json_t *v = json_stringn_nocheck(r->p, n); /* n <= raw */
    if (v != NULL && n != raw) {
        /* nobody else has it yet: its own bytes are written over what jansson has copied */
        decode(r->p, r->p + raw, (char *)(uintptr_t)json_string_value(v));
    }
    r->p += raw + 1;
    return v;
}

static json_t *read_number(struct reader *r)
{
    const char *from = r->p, *p = from;
    uint64_t v = 0; /* 19 digits go in, 18 are used */
    bool minus = *p == '-';
    p += minus;
    const char *digits = p;
    while (p < r->end && *p >= '0' && *p <= '9' && p - digits <= LONGEST_INTEGER) {
        v = v * 10 + (uint64_t)(*p++ - '0');
    }
    bool more = p < r->end && (strchr(".eE+-", *p) != NULL || (*p >= '0' && *p <= '9'));
    if (p > digits && *digits != '0' && p - digits <= LONGEST_INTEGER && (!more || *p == '\0')) {
        r->p = p;
        return json_integer(minus ? -(json_int_t)v : (json_int_t)v);
    }
    while (p < r->end && *p != '\0' && strchr("0123456789.eE+-", *p) != NULL) {
        p++;
    }
    r->p = p;
    return json_loadb(from, (size_t)(p - from), JSON_DECODE_ANY, NULL);
}

static json_t *read_word(struct reader *r, const char *word, json_t *v)
{
    size_t n = strlen(word);
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n) != 0) {
        return NULL;
    }
    r->p += n;
    return v;
}

static bool read_items(struct reader *r, json_t *list)
{
    if (take(r, ']')) {
        return true;
    }
    do {
        json_t *item = read_value(r);
        if (item == NULL || json_array_append_new(list, item) != 0) {
            return false;
        }
    } while (take(r, ','));
    return take(r, ']');
}

static bool read_members(struct reader *r, json_t *object)
{
    if (take(r, '}')) {
        return true;
    }
    do {
        if (!take(r, '"')) {
            return false;
        }
        const char *key = r->p;
        size_t raw, n;
        if (!measure(key, r->end, &raw, &n) || n != raw ||
            json_object_getn(object, key, n) != NULL) {
            return false; /* escapes in names, and names that come twice, are jansson's */
        }
        r->p += raw + 1;
        json_t *v = take(r, ':') ? read_value(r) : NULL;
        if (v == NULL || json_object_setn_new_nocheck(object, key, n, v) != 0) {
            return false;
        }
    } while (take(r, ','));
    return take(r, '}');
}

static json_t *read_nested(struct reader *r, bool object)
{
    json_t *v = object ? json_object() : json_array();
    bool ok = v != NULL && ++r->depth <= TT_JSON_MAX_DEPTH;
    ok = ok && (object ? read_members(r, v) : read_items(r, v));
    r->depth--;
    if (!ok) {
        json_decref(v);
        return NULL;
    }
    return v;
}

static json_t *read_value(struct reader *r)
{
    skip_blanks(r);
    if (r->p == r->end) {
        return NULL;
    }
    switch (*r->p) {
    case '{':
    case '[':
        return read_nested(r, *r->p++ == '{');
    case '"':
        r->p++;
        return read_string(r);
    case 't':
        return read_word(r, "true", json_true());
    case 'f':
        return read_word(r, "false", json_false());
    case 'n':
        return read_word(r, "null", json_null());
    default:
        return *r->p == '-' || (*r->p >= '0' && *r->p <= '9') ? read_number(r) : NULL;
    }
}

json_t *tt_json_read(const char *text, size_t n)
{
    struct reader r = {.p = text, .end = text + n};
    skip_blanks(&r);
    if (r.p == r.end || (*r.p != '{' && *r.p != '[')) {
        return NULL;
    }
    json_t *root = read_value(&r);
    skip_blanks(&r);
    if (root != NULL && r.p != r.end) {
        json_decref(root);
        return NULL;
    }
    return root;
}
