/* template_format.c - Python's two ways of formatting: "%s" % x and "{}".format(x).
 * Thread: one rendering is one thread's. */
#include "core/template_builtins.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/template_strings.h"
#include "core/template_unicode.h"

enum { max_width = 4096 };

static const tt_text space = {.p = " ", .n = 1, .n_chars = 1, .trusted = true};

/* -- printf-style -------------------------------------------------------------------------- */

typedef struct spec {
    bool minus, plus, space, zero, alternate;
    int64_t width, precision; /* precision -1 = none */
    char conversion;
} spec;

typedef struct formatter {
    tt_run *r;
    const tt_text *format;
    size_t at;
    const tt_val *args;
    size_t next; /* of a tuple */
    bool used_mapping;
    tt_textbuf *out;
} formatter;

static bool next_argument(formatter *f, tt_val *ret)
{
    bool tuple = f->args->kind == TT_V_TUPLE;
    if (f->next >= (tuple ? f->args->u.list->n : 1)) {
        return tt_run_invalid(f->r, "not enough arguments for format string");
    }
    *ret = tuple ? f->args->u.list->items[f->next] : *f->args;
    f->next++;
    return true;
}

static char peek(const formatter *f)
{
    return f->at < f->format->n ? f->format->p[f->at] : '\0';
}

/* (key) of a mapping */
static bool mapped_argument(formatter *f, tt_val *ret)
{
    size_t start = ++f->at;
    unsigned depth = 1;
    for (; f->at < f->format->n; f->at++) {
        depth += f->format->p[f->at] == '(';
        depth -= f->format->p[f->at] == ')';
        if (depth == 0) {
            break;
        }
    }
    if (depth != 0) {
        return tt_run_invalid(f->r, "incomplete format key");
    }
    if (f->args->kind != TT_V_DICT) {
        return tt_run_invalid(f->r, "format requires a mapping");
    }
    tt_text *key = tt_text_slice(f->r, f->format, start, f->at++ - start);
    tt_val *found = key == NULL ? NULL : tt_dict_find(f->r, f->args->u.dict, key);
    if (found == NULL) {
        return key != NULL && tt_run_invalid(f->r, "format: no such key");
    }
    *ret = *found;
    f->used_mapping = true;
    return true;
}

/* A number or * */
static bool size_of(formatter *f, int64_t *ret)
{
    tt_val v;
    if (peek(f) == '*') {
        f->at++;
        if (!next_argument(f, &v)) {
            return false;
        }
        if (!tt_val_index(&v, ret)) {
            return tt_run_invalid(f->r, "* wants int");
        }
    } else {
        for (*ret = 0; peek(f) >= '0' && peek(f) <= '9' && *ret <= max_width; f->at++) {
            *ret = *ret * 10 + (peek(f) - '0');
        }
    }
    if (*ret > max_width || *ret < -max_width) {
        return tt_run_fail(f->r, TT_E_CAPACITY, "a format width of more than %d", max_width);
    }
    return true;
}

static bool parse_spec(formatter *f, spec *s)
{
    *s = (spec){.precision = -1};
    for (;; f->at++) {
        char c = peek(f);
        s->minus |= c == '-';
        s->plus |= c == '+';
        s->space |= c == ' ';
        s->zero |= c == '0';
        s->alternate |= c == '#';
        if (c != '-' && c != '+' && c != ' ' && c != '0' && c != '#') {
            break;
        }
    }
    if (!size_of(f, &s->width)) {
        return false;
    }
    if (s->width < 0) {
        s->minus = true;
        s->width = -s->width;
    }
    if (peek(f) == '.') {
        f->at++;
        if (!size_of(f, &s->precision)) {
            return false;
        }
        s->precision = s->precision < 0 ? 0 : s->precision;
    }
    while (peek(f) == 'l' || peek(f) == 'h' || peek(f) == 'L') {
        f->at++;
    }
    s->conversion = peek(f);
    if (s->conversion == '\0') {
        return tt_run_invalid(f->r, "incomplete format");
    }
    f->at++;
    return true;
}

static bool put_padded(formatter *f, const spec *s, tt_text *t)
{
    size_t n = tt_text_chars(f->r, t);
    if (s->precision >= 0 && (uint64_t)s->precision < n) {
        n = (size_t)s->precision;
        t = tt_text_slice(f->r, t, 0, tt_text_offset(f->r, t, n));
    }
    size_t pad = (uint64_t)s->width > n ? (size_t)s->width - n : 0;
    t = t == NULL ? NULL : tt_text_pad(f->r, t, s->minus ? 0 : pad, s->minus ? pad : 0, &space);
    return t != NULL && tt_textbuf_add_text(f->r, f->out, t);
}

/* Sign, prefix and digits of an integer, with the zeros that precision or the flag 0 ask for, then
 * padded with spaces. */
static bool put_integer(formatter *f, const spec *s, int64_t i, bool trusted)
{
    char digits[80], head[4];
    size_t n_digits = 0, n_head = 0;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    unsigned base = s->conversion == 'd' ? 10 : s->conversion == 'o' ? 8 : 16;
    const char *letters = s->conversion == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    do {
        digits[sizeof digits - ++n_digits] = letters[u % base];
        u /= base;
    } while (u != 0);
    if (i < 0 || s->plus || s->space) {
        head[n_head++] = i < 0 ? '-' : s->plus ? '+' : ' ';
    }
    if (s->alternate && base != 10) {
        head[n_head++] = '0';
        head[n_head++] = s->conversion;
    }
    size_t width = (size_t)s->width,
           zeros = s->precision > (int64_t)n_digits ? (size_t)s->precision - n_digits : 0;
    if (s->zero && !s->minus && width > n_head + zeros + n_digits) {
        zeros = width - n_head - n_digits;
    }
    size_t total = n_head + zeros + n_digits, pad = width > total ? width - total : 0;
    tt_textbuf *b = tt_textbuf_new(f->r);
    bool ok = b != NULL && tt_textbuf_add(f->r, b, head, n_head, trusted);
    for (; ok && zeros > 0; zeros--) {
        ok = tt_textbuf_add(f->r, b, "0", 1, trusted);
    }
    ok = ok && tt_textbuf_add(f->r, b, digits + sizeof digits - n_digits, n_digits, trusted);
    tt_text *t = ok ? tt_textbuf_text(f->r, b) : NULL;
    t = t == NULL ? NULL : tt_text_pad(f->r, t, s->minus ? 0 : pad, s->minus ? pad : 0, &space);
    return t != NULL && tt_textbuf_add_text(f->r, f->out, t);
}

/* C's printf formats a float: its flags mean the same. */
static bool put_float(formatter *f, const spec *s, double d, bool trusted)
{
    char c[24], out[max_width * 2 + 400];
    const struct {
        bool on;
        char flag;
    } flags[] = {
        {s->minus, '-'}, {s->plus, '+'}, {s->space, ' '}, {s->zero, '0'}, {s->alternate, '#'}};
    size_t n = 0;
    c[n++] = '%';
    for (size_t k = 0; k < sizeof flags / sizeof flags[0]; k++) {
        if (flags[k].on) {
            c[n++] = flags[k].flag;
        }
    }
    snprintf(c + n, sizeof c - n, "*.*%c", s->conversion);
    int precision = s->precision < 0 ? 6 : (int)s->precision;
    n = (size_t)snprintf(out, sizeof out, c, (int)s->width, precision, d);
    return n < sizeof out && tt_textbuf_add(f->r, f->out, out, n, trusted);
}

static bool put_number(formatter *f, const spec *s, const tt_val *v)
{
    bool is_float = strchr("eEfFgG", s->conversion) != NULL;
    int64_t i = 0;
    double d = 0;
    if (!tt_val_number(v, &d) || (!is_float && s->conversion != 'd' && v->kind == TT_V_FLOAT)) {
        if (v->kind == TT_V_UNDEFINED) {
            return tt_run_invalid(f->r, "%s", tt_undefined_message(f->r, v));
        }
        return tt_run_invalid(f->r, "%%%c format: a number is required, not %s", s->conversion,
                              tt_val_type(v));
    }
    if (is_float) {
        return put_float(f, s, d, v->trusted);
    }
    if (!tt_val_index(v, &i)) {
        if (!(fabs(d) < 9.2e18)) {
            return tt_run_invalid(f->r, "an integer beyond 64 bits");
        }
        i = (int64_t)d;
    }
    return put_integer(f, s, i, v->trusted);
}

static bool put_char(formatter *f, const spec *s, const tt_val *v)
{
    char bytes[4];
    int64_t cp = 0;
    tt_text *t = NULL;
    spec plain = *s;
    plain.precision = -1;
    if (v->kind == TT_V_STR && tt_text_chars(f->r, v->u.s) == 1) {
        t = v->u.s;
    } else if (tt_val_index(v, &cp) && cp >= 0 && cp <= 0x10FFFF &&
               !(cp >= 0xD800 && cp < 0xE000)) {
        t = tt_text_copy(f->r, bytes, (size_t)tt_utf8_put((uint32_t)cp, bytes), v->trusted);
    } else {
        return tt_run_invalid(f->r, "%%c requires int or char");
    }
    return t != NULL && put_padded(f, &plain, t);
}

static bool put_argument(formatter *f, spec *s, const tt_val *v)
{
    tt_text *t = NULL;
    tt_textbuf *b = NULL;
    switch (s->conversion) {
    case 's':
        t = tt_val_str(f->r, v);
        return t != NULL && put_padded(f, s, t);
    case 'r':
    case 'a':
        b = tt_textbuf_new(f->r);
        t = b != NULL && tt_val_repr(f->r, b, v) ? tt_textbuf_text(f->r, b) : NULL;
        return t != NULL && put_padded(f, s, t);
    case 'c':
        return put_char(f, s, v);
    case 'i':
    case 'u':
        s->conversion = 'd';
        return put_number(f, s, v);
    default:
        if (strchr("doxXeEfFgG", s->conversion) == NULL) {
            return tt_run_invalid(f->r, "unsupported format character '%c'", s->conversion);
        }
        return put_number(f, s, v);
    }
}

static bool put_conversion(formatter *f)
{
    spec s;
    tt_val v = {.kind = TT_V_MISSING};
    if (peek(f) == '(' && !mapped_argument(f, &v)) {
        return false;
    }
    if (!parse_spec(f, &s)) {
        return false;
    }
    if (s.conversion == '%') {
        return tt_textbuf_add(f->r, f->out, "%", 1, true);
    }
    return (v.kind != TT_V_MISSING || next_argument(f, &v)) && put_argument(f, &s, &v);
}

tt_text *tt_format_percent(tt_run *r, const tt_text *format, const tt_val *args)
{
    formatter f = {.r = r, .format = format, .args = args, .out = tt_textbuf_new(r)};
    if (f.out == NULL) {
        return NULL;
    }
    while (f.at < format->n) {
        size_t percent = tt_text_find(format, "%", 1, f.at);
        size_t end = percent == SIZE_MAX ? format->n : percent;
        if (!tt_run_charge(r, 0) || !tt_textbuf_add_slice(r, f.out, format, f.at, end - f.at)) {
            return NULL;
        }
        f.at = end + 1;
        if (percent != SIZE_MAX && !put_conversion(&f)) {
            return NULL;
        }
    }
    bool tuple = args->kind == TT_V_TUPLE;
    bool left = tuple ? f.next < args->u.list->n
                      : f.next == 0 && args->kind != TT_V_DICT && args->kind != TT_V_LIST &&
                            args->kind != TT_V_UNDEFINED && args->kind != TT_V_RANGE;
    if (left) {
        tt_run_invalid(r, "not all arguments converted during string formatting");
        return NULL;
    }
    return tt_textbuf_text(r, f.out);
}

/* -- str.format ---------------------------------------------------------------------------- */

/* How the fields so far were numbered: 'm' by hand, 'a' not at all, 0 not yet known. */
typedef struct numbering {
    size_t next;
    char style;
} numbering;

/* The value of a field "0" or "name", or of the next position when it is empty. */
static bool field_value(tt_run *r, const tt_call *call, const tt_text *field, numbering *num,
                        tt_val *ret)
{
    size_t n = 0;
    while (n < field->n && field->p[n] != '.' && field->p[n] != '[') {
        n++;
    }
    if (n != field->n) {
        return tt_run_fail(r, TT_E_UNSUPPORTED, "format() with attributes in a field");
    }
    size_t index = 0;
    bool digits = true;
    for (size_t i = 0; i < n && digits; i++) {
        digits = field->p[i] >= '0' && field->p[i] <= '9' && index < 100000;
        index = index * 10 + (size_t)(field->p[i] - '0');
    }
    if (digits && num->style != 0 && num->style != (n == 0 ? 'a' : 'm')) {
        return tt_run_invalid(r, "cannot switch between manual and automatic field numbering");
    }
    if (digits) {
        num->style = n == 0 ? 'a' : 'm';
        index = n == 0 ? num->next++ : index;
        if (index >= call->n_pos) {
            return tt_run_invalid(r, "Replacement index %zu out of range for positional args tuple",
                                  index);
        }
        *ret = call->pos[index];
        return true;
    }
    for (size_t i = 0; i < call->n_kw; i++) {
        if (tt_text_equal(call->kw_names[i], field)) {
            *ret = call->kw[i];
            return true;
        }
    }
    return tt_run_invalid(r, "format() has no argument of that name");
}

static bool put_field(tt_run *r, const tt_call *call, tt_text *field, numbering *num,
                      tt_textbuf *out)
{
    tt_val v;
    bool repr = field->n >= 2 && memcmp(field->p + field->n - 2, "!r", 2) == 0;
    bool str = field->n >= 2 && memcmp(field->p + field->n - 2, "!s", 2) == 0;
    field->n -= repr || str ? 2 : 0;
    if (memchr(field->p, ':', field->n) != NULL || memchr(field->p, '!', field->n) != NULL) {
        return tt_run_fail(r, TT_E_UNSUPPORTED, "format() with a format specification");
    }
    if (!field_value(r, call, field, num, &v)) {
        return false;
    }
    if (repr) {
        return tt_val_repr(r, out, &v);
    }
    tt_text *t = tt_val_str(r, &v);
    return t != NULL && tt_textbuf_add_text(r, out, t);
}

bool tt_method_format(tt_run *r, const tt_call *call, tt_val *ret)
{
    const tt_text *f = call->self.u.s;
    tt_textbuf *out = tt_textbuf_new(r);
    numbering num = {0};
    for (size_t i = 0; out != NULL && i < f->n;) {
        char c = f->p[i];
        if ((c == '{' || c == '}') && i + 1 < f->n && f->p[i + 1] == c) {
            if (!tt_textbuf_add_slice(r, out, f, i, 1)) {
                return false;
            }
            i += 2;
            continue;
        }
        if (c == '}') {
            return tt_run_invalid(r, "Single '}' encountered in format string");
        }
        size_t end = i + 1;
        while (end < f->n && f->p[end] != '{' && f->p[end] != '}') {
            end++;
        }
        if (c != '{') {
            if (!tt_textbuf_add_slice(r, out, f, i, end - i)) {
                return false;
            }
            i = end;
            continue;
        }
        if (end == f->n || f->p[end] != '}') {
            return tt_run_invalid(r, "expected '}' before end of string");
        }
        tt_text *field = tt_text_slice(r, f, i + 1, end - i - 1);
        if (field == NULL || !put_field(r, call, field, &num, out)) {
            return false;
        }
        i = end + 1;
    }
    return out != NULL && tt_val_set_text(tt_textbuf_text(r, out), ret);
}
