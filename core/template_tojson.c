/* template_tojson.c - the filter tojson as chat templates know it: Python's json.dumps of template
 * values. Thread: one rendering is one thread's. */
#include "core/template_value.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/template_unicode.h"

/* Everything that comes out counts as the request's. */
static bool put(tt_run *r, tt_textbuf *b, const char *s)
{
    return tt_textbuf_add(r, b, s, strlen(s), false);
}

static bool put_escape(tt_run *r, tt_textbuf *b, uint32_t cp)
{
    char esc[16];
    const char *plain = cp == '"'    ? "\\\""
                        : cp == '\\' ? "\\\\"
                        : cp == '\n' ? "\\n"
                        : cp == '\r' ? "\\r"
                        : cp == '\t' ? "\\t"
                        : cp == '\b' ? "\\b"
                        : cp == '\f' ? "\\f"
                                     : NULL;
    if (plain != NULL) {
        return put(r, b, plain);
    }
    if (cp >= 0x10000) {
        cp -= 0x10000;
        snprintf(esc, sizeof esc, "\\u%04x\\u%04x", 0xD800u + (cp >> 10), 0xDC00u + (cp & 0x3FF));
    } else {
        snprintf(esc, sizeof esc, "\\u%04x", (unsigned)cp);
    }
    return put(r, b, esc);
}

static bool put_string(tt_run *r, tt_textbuf *b, const tt_text *t, bool ascii)
{
    bool ok = put(r, b, "\"");
    size_t plain = 0; /* start of what needs no escape */
    for (size_t i = 0; ok && i < t->n;) {
        uint32_t cp;
        size_t n = tt_utf8_get(t->p + i, t->n - i, &cp);
        if (cp < 0x20 || cp == '"' || cp == '\\' || (ascii && cp >= 0x7F)) {
            ok = tt_textbuf_add(r, b, t->p + plain, i - plain, false) && put_escape(r, b, cp);
            plain = i + n;
        }
        i += n;
    }
    return ok && tt_textbuf_add(r, b, t->p + plain, t->n - plain, false) && put(r, b, "\"");
}

static bool put_number(tt_run *r, tt_textbuf *b, const tt_val *v)
{
    char s[40];
    if (v->kind == TT_V_INT) {
        snprintf(s, sizeof s, "%" PRId64, v->u.i);
    } else if (isnan(v->u.f) || isinf(v->u.f)) {
        snprintf(s, sizeof s, "%s", isnan(v->u.f) ? "NaN" : v->u.f < 0 ? "-Infinity" : "Infinity");
    } else {
        tt_float_repr(v->u.f, s);
    }
    return put(r, b, s);
}

static bool newline(tt_run *r, tt_textbuf *b, const tt_tojson_options *opt, unsigned level)
{
    if (!opt->pretty) {
        return true;
    }
    bool ok = put(r, b, "\n");
    for (unsigned i = 0; ok && i < level; i++) {
        ok = tt_textbuf_add(r, b, opt->indent->p, opt->indent->n, false);
    }
    return ok;
}

static bool dump(tt_run *r, tt_textbuf *b, const tt_val *v, const tt_tojson_options *opt,
                 unsigned level);

static bool dump_list(tt_run *r, tt_textbuf *b, const tt_list *l, const tt_tojson_options *opt,
                      unsigned level)
{
    if (l->n == 0) {
        return put(r, b, "[]");
    }
    bool ok = put(r, b, "[");
    for (size_t i = 0; ok && i < l->n; i++) {
        ok = (i == 0 || tt_textbuf_add(r, b, opt->item_sep->p, opt->item_sep->n, false)) &&
             newline(r, b, opt, level + 1) && dump(r, b, &l->items[i], opt, level + 1);
    }
    return ok && newline(r, b, opt, level) && put(r, b, "]");
}

static bool dump_key(tt_run *r, tt_textbuf *b, const tt_val *key, const tt_tojson_options *opt)
{
    switch (key->kind) {
    case TT_V_STR:
        return put_string(r, b, key->u.s, opt->ensure_ascii);
    case TT_V_NONE:
    case TT_V_BOOL:
        return put(r, b, key->kind == TT_V_NONE ? "\"null\"" : key->u.b ? "\"true\"" : "\"false\"");
    case TT_V_INT:
    case TT_V_FLOAT:
        return put(r, b, "\"") && put_number(r, b, key) && put(r, b, "\"");
    default:
        return tt_run_invalid(r, "keys must be str, int, float, bool or None, not %s",
                              tt_val_type(key));
    }
}

static bool sort_entries(tt_run *r, tt_dict_entry *e, tt_dict_entry *tmp, size_t n)
{
    if (n < 2) {
        return true;
    }
    size_t half = n / 2, i = 0, j = half, k = 0;
    if (!sort_entries(r, e, tmp, half) || !sort_entries(r, e + half, tmp, n - half)) {
        return false;
    }
    while (i < half && j < n) {
        int order = 0;
        if (!tt_val_order(r, &e[j].key, &e[i].key, "<", &order)) {
            return false;
        }
        tmp[k++] = order < 0 ? e[j++] : e[i++];
    }
    memcpy(tmp + k, e + i, (half - i) * sizeof *e);
    memcpy(e, tmp, (k + half - i) * sizeof *e);
    return true;
}

static bool dump_dict(tt_run *r, tt_textbuf *b, const tt_dict *d, const tt_tojson_options *opt,
                      unsigned level)
{
    const tt_dict_entry *entries = d->entries;
    if (d->n == 0) {
        return put(r, b, "{}");
    }
    if (opt->sort_keys) {
        tt_dict_entry *sorted = tt_run_alloc(r, d->n * 2, sizeof *sorted);
        if (sorted == NULL) {
            return false;
        }
        memcpy(sorted, d->entries, d->n * sizeof *sorted);
        if (!sort_entries(r, sorted, sorted + d->n, d->n)) {
            return false;
        }
        entries = sorted;
    }
    bool ok = put(r, b, "{");
    for (size_t i = 0; ok && i < d->n; i++) {
        ok = (i == 0 || tt_textbuf_add(r, b, opt->item_sep->p, opt->item_sep->n, false)) &&
             newline(r, b, opt, level + 1) && dump_key(r, b, &entries[i].key, opt) &&
             tt_textbuf_add(r, b, opt->key_sep->p, opt->key_sep->n, false) &&
             dump(r, b, &entries[i].value, opt, level + 1);
    }
    return ok && newline(r, b, opt, level) && put(r, b, "}");
}

static bool dump_value(tt_run *r, tt_textbuf *b, const tt_val *v, const tt_tojson_options *opt,
                       unsigned level)
{
    switch (v->kind) {
    case TT_V_NONE:
        return put(r, b, "null");
    case TT_V_BOOL:
        return put(r, b, v->u.b ? "true" : "false");
    case TT_V_INT:
    case TT_V_FLOAT:
        return put_number(r, b, v);
    case TT_V_STR:
        return put_string(r, b, v->u.s, opt->ensure_ascii);
    case TT_V_LIST:
    case TT_V_TUPLE:
        return dump_list(r, b, v->u.list, opt, level);
    case TT_V_DICT:
        return dump_dict(r, b, v->u.dict, opt, level);
    default:
        return tt_run_invalid(r, "Object of type %s is not JSON serializable", tt_val_type(v));
    }
}

static bool dump(tt_run *r, tt_textbuf *b, const tt_val *v, const tt_tojson_options *opt,
                 unsigned level)
{
    if (!tt_run_enter(r)) {
        return false;
    }
    bool ok = dump_value(r, b, v, opt, level);
    tt_run_leave(r);
    return ok;
}

bool tt_val_tojson(tt_run *r, tt_textbuf *b, const tt_val *v, const tt_tojson_options *opt)
{
    return dump(r, b, v, opt, 0);
}
