/* template_print.c - Python's str, repr and json.dumps of template values.
 * Thread: one rendering is one thread's. */
#include "core/template_value.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/template_parse.h"
#include "core/template_eval.h"
#include "core/template_unicode.h"

/* Appends text of the interpreter's own (brackets, digits) around request data: it counts as the
 * request's. */
static bool put(tt_run *r, tt_textbuf *b, const char *s)
{
    return tt_textbuf_add(r, b, s, strlen(s), false);
}

/* The shortest digits that read back as the same number, in Python's notation. */
size_t tt_float_repr(double f, char *out)
{
    if (isnan(f) || isinf(f)) {
        return (size_t)sprintf(out, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
    }
    char sci[40];
    int digits = 1;
    do {
        snprintf(sci, sizeof sci, "%.*e", digits - 1, f);
    } while (strtod(sci, NULL) != f && ++digits <= 17);
    int exp = (int)strtol(strchr(sci, 'e') + 1, NULL, 10);
    if (exp < -4 || exp >= 16) {
        /* d.ddde+XX, the exponent with two digits at least */
        return (size_t)sprintf(out, "%s", sci);
    }
    int decimals = digits - 1 - exp;
    return (size_t)sprintf(out, "%.*f", decimals < 1 ? 1 : decimals, f);
}

const char *tt_undefined_message(tt_run *r, const tt_val *v)
{
    const tt_undefined *u = v->u.undef;
    if (u->hint != NULL || u->name == NULL) {
        return u->hint == NULL ? "undefined value" : u->hint;
    }
    int n = (int)(u->name->n < 80 ? u->name->n : 80);
    size_t cap = (size_t)n + 64;
    char *msg = tt_run_alloc(r, cap, 1);
    if (msg == NULL) {
        return "undefined value";
    }
    if (u->owner == NULL) {
        snprintf(msg, cap, "'%.*s' is undefined", n, u->name->p);
    } else {
        snprintf(msg, cap, "'%s' has no attribute '%.*s'", u->owner, n, u->name->p);
    }
    return msg;
}

tt_text *tt_val_str(tt_run *r, const tt_val *v)
{
    char num[40];
    switch (v->kind) {
    case TT_V_STR:
        return v->u.s;
    case TT_V_UNDEFINED:
        return tt_text_cstr(r, "");
    case TT_V_NONE:
        return tt_text_cstr(r, "None");
    case TT_V_BOOL:
        return tt_text_cstr(r, v->u.b ? "True" : "False");
    case TT_V_INT:
        return tt_text_copy(r, num, (size_t)snprintf(num, sizeof num, "%" PRId64, v->u.i),
                            v->trusted);
    case TT_V_FLOAT:
        return tt_text_copy(r, num, tt_float_repr(v->u.f, num), v->trusted);
    default: {
        tt_textbuf *b = tt_textbuf_new(r);
        return b != NULL && tt_val_repr(r, b, v) ? tt_textbuf_text(r, b) : NULL;
    }
    }
}

/* -- repr ---------------------------------------------------------------------------------- */

static bool repr_char(tt_run *r, tt_textbuf *b, uint32_t cp, const char *bytes, size_t n,
                      char quote)
{
    char esc[12];
    if (cp == '\n' || cp == '\r' || cp == '\t') {
        return put(r, b, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
    }
    if (cp == (uint32_t)quote || cp == '\\') {
        snprintf(esc, sizeof esc, "\\%c", (int)cp);
        return put(r, b, esc);
    }
    if (!tt_uni_is_printable(cp)) {
        snprintf(esc, sizeof esc,
                 cp < 0x100     ? "\\x%02x"
                 : cp < 0x10000 ? "\\u%04x"
                                : "\\U%08x",
                 (unsigned)cp);
        return put(r, b, esc);
    }
    return tt_textbuf_add(r, b, bytes, n, false);
}

static bool repr_text(tt_run *r, tt_textbuf *b, const tt_text *t)
{
    char quote = memchr(t->p, '\'', t->n) != NULL && memchr(t->p, '"', t->n) == NULL ? '"' : '\'';
    char q[2] = {quote, '\0'};
    if (!put(r, b, q)) {
        return false;
    }
    for (size_t i = 0; i < t->n;) {
        uint32_t cp;
        size_t n = tt_utf8_get(t->p + i, t->n - i, &cp);
        if (!repr_char(r, b, cp, t->p + i, n, quote)) {
            return false;
        }
        i += n;
    }
    return put(r, b, q);
}

static bool repr_items(tt_run *r, tt_textbuf *b, const tt_list *l, const char *open,
                       const char *close)
{
    bool ok = put(r, b, open);
    for (size_t i = 0; ok && i < l->n; i++) {
        ok = (i == 0 || put(r, b, ", ")) && tt_val_repr(r, b, &l->items[i]);
    }
    return ok && put(r, b, close);
}

static bool repr_entries(tt_run *r, tt_textbuf *b, const tt_val *v, const char *open,
                         const char *close)
{
    const tt_dict *d = v->u.dict;
    bool ok = put(r, b, open);
    for (size_t i = 0; ok && i < d->n; i++) {
        const tt_dict_entry *e = &d->entries[i];
        ok = i == 0 || put(r, b, ", ");
        ok = ok && (v->kind != TT_V_ITEMS || put(r, b, "("));
        ok = ok && (v->kind == TT_V_VALUES || tt_val_repr(r, b, &e->key));
        ok = ok && (v->kind == TT_V_VALUES || v->kind == TT_V_KEYS ||
                    put(r, b, v->kind == TT_V_ITEMS ? ", " : ": "));
        ok = ok && (v->kind == TT_V_KEYS || tt_val_repr(r, b, &e->value));
        ok = ok && (v->kind != TT_V_ITEMS || put(r, b, ")"));
    }
    return ok && put(r, b, close);
}

static bool repr_range(tt_run *r, tt_textbuf *b, const tt_range *g)
{
    char s[96];
    if (g->step == 1) {
        snprintf(s, sizeof s, "range(%" PRId64 ", %" PRId64 ")", g->start, g->stop);
    } else {
        snprintf(s, sizeof s, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", g->start, g->stop,
                 g->step);
    }
    return put(r, b, s);
}

static bool repr_loop(tt_run *r, tt_textbuf *b, tt_loop *l)
{
    char s[64];
    size_t n = 0;
    if (!tt_loop_length(r, l, &n)) {
        return false;
    }
    snprintf(s, sizeof s, "<LoopContext %zu/%zu>", l->index0 + 1, n);
    return put(r, b, s);
}

static bool repr_macro(tt_run *r, tt_textbuf *b, const tt_macro *m)
{
    if (m->name == NULL) {
        return put(r, b, "<Macro anonymous>");
    }
    return put(r, b, "<Macro ") && repr_text(r, b, m->name) && put(r, b, ">");
}

static bool repr_value(tt_run *r, tt_textbuf *b, const tt_val *v)
{
    switch (v->kind) {
    case TT_V_STR:
        return repr_text(r, b, v->u.s);
    case TT_V_UNDEFINED:
        return put(r, b, "Undefined");
    case TT_V_LIST:
        return repr_items(r, b, v->u.list, "[", "]");
    case TT_V_TUPLE:
        return repr_items(r, b, v->u.list, "(", v->u.list->n == 1 ? ",)" : ")");
    case TT_V_DICT:
        return repr_entries(r, b, v, "{", "}");
    case TT_V_KEYS:
        return repr_entries(r, b, v, "dict_keys([", "])");
    case TT_V_VALUES:
        return repr_entries(r, b, v, "dict_values([", "])");
    case TT_V_ITEMS:
        return repr_entries(r, b, v, "dict_items([", "])");
    case TT_V_NAMESPACE:
        return repr_entries(r, b, v, "<Namespace {", "}>");
    case TT_V_RANGE:
        return repr_range(r, b, v->u.range);
    case TT_V_MACRO:
        return repr_macro(r, b, v->u.macro);
    case TT_V_LOOP:
        return repr_loop(r, b, v->u.loop);
    case TT_V_ITER:
    case TT_V_METHOD:
    case TT_V_BUILTIN:
        /* Python prints an address here: nothing a template can mean. */
        return put(r, b, "<") && put(r, b, tt_val_type(v)) && put(r, b, " object>");
    default: {
        tt_text *t = tt_val_str(r, v);
        return t != NULL && tt_textbuf_add_slice(r, b, t, 0, t->n);
    }
    }
}

bool tt_val_repr(tt_run *r, tt_textbuf *b, const tt_val *v)
{
    if (!tt_run_enter(r)) {
        return false;
    }
    bool ok = repr_value(r, b, v);
    tt_run_leave(r);
    return ok;
}
