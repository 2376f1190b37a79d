/* template_filters.c - the table of Jinja's filters and those on texts and numbers; those on
 * sequences are in template_sequences.c. Thread: one rendering is one thread's. */
#include "core/template_builtins.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/template_strings.h"
#include "core/template_unicode.h"

/* -- Arguments ----------------------------------------------------------------------------- */

bool tt_arg_int(tt_run *r, const tt_call *call, const tt_val *v, int64_t unset, int64_t *ret)
{
    if (v->kind == TT_V_MISSING) {
        *ret = unset;
        return true;
    }
    return tt_val_index(v, ret) ||
           tt_run_invalid(r, "%s() needs an integer, not %s", call->name, tt_val_type(v));
}

const tt_text *tt_arg_text(tt_run *r, const tt_call *call, const tt_val *v)
{
    if (v->kind != TT_V_STR) {
        tt_run_invalid(r, "%s() needs a string, not %s", call->name, tt_val_type(v));
        return NULL;
    }
    return v->u.s;
}

/* -- Texts --------------------------------------------------------------------------------- */

static bool case_filter(tt_run *r, const tt_call *call, tt_case mode, tt_val *ret)
{
    tt_text *t = tt_call_bind(r, call, NULL, 0, 0, NULL) ? tt_val_str(r, &call->self) : NULL;
    return t != NULL && tt_val_set_text(tt_text_case(r, t, mode), ret);
}

static bool filter_upper(tt_run *r, const tt_call *call, tt_val *ret)
{
    return case_filter(r, call, TT_CASE_UPPER, ret);
}

static bool filter_lower(tt_run *r, const tt_call *call, tt_val *ret)
{
    return case_filter(r, call, TT_CASE_LOWER, ret);
}

static bool filter_capitalize(tt_run *r, const tt_call *call, tt_val *ret)
{
    return case_filter(r, call, TT_CASE_CAPITALIZE, ret);
}

/* Jinja's own notion of a word: it starts after - ( { [ < or whitespace. */
static bool filter_title(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_text *t = tt_call_bind(r, call, NULL, 0, 0, NULL) ? tt_val_str(r, &call->self) : NULL;
    tt_textbuf *b = tt_textbuf_new(r);
    for (size_t i = 0; t != NULL && b != NULL && i < t->n;) {
        size_t end = i;
        bool first_is_break = false;
        while (end < t->n) {
            uint32_t cp;
            size_t n = tt_utf8_get(t->p + end, t->n - end, &cp);
            bool is_break = cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' ||
                            tt_uni_is_space(cp);
            if (end == i) {
                first_is_break = is_break;
            } else if (is_break != first_is_break) {
                break;
            }
            end += n;
        }
        size_t head = tt_utf8_len(t->p + i, t->n - i);
        tt_text *first = tt_text_slice(r, t, i, head),
                *rest = tt_text_slice(r, t, i + head, end - i - head);
        first = first == NULL ? NULL : tt_text_case(r, first, TT_CASE_UPPER);
        rest = rest == NULL ? NULL : tt_text_case(r, rest, TT_CASE_LOWER);
        if (first == NULL || rest == NULL || !tt_textbuf_add_text(r, b, first) ||
            !tt_textbuf_add_text(r, b, rest)) {
            return false;
        }
        i = end;
    }
    return t != NULL && b != NULL && tt_val_set_text(tt_textbuf_text(r, b), ret);
}

static bool filter_trim(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"chars"};
    tt_val chars;
    tt_text *t = tt_call_bind(r, call, names, 1, 0, &chars) ? tt_val_str(r, &call->self) : NULL;
    if (t == NULL) {
        return false;
    }
    const tt_text *set = NULL;
    if (chars.kind != TT_V_MISSING && chars.kind != TT_V_NONE &&
        (set = tt_arg_text(r, call, &chars)) == NULL) {
        return false;
    }
    return tt_val_set_text(tt_text_strip(r, t, set, true, true), ret);
}

static bool filter_string(tt_run *r, const tt_call *call, tt_val *ret)
{
    return tt_call_bind(r, call, NULL, 0, 0, NULL) &&
           tt_val_set_text(tt_val_str(r, &call->self), ret);
}

static bool filter_replace(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"old", "new", "count"};
    tt_val arg[3];
    int64_t count = -1;
    if (!tt_call_bind(r, call, names, 3, 2, arg)) {
        return false;
    }
    if (arg[2].kind != TT_V_NONE && !tt_arg_int(r, call, &arg[2], -1, &count)) {
        return false;
    }
    tt_text *t = tt_val_str(r, &call->self), *old = tt_val_str(r, &arg[0]),
            *by = tt_val_str(r, &arg[1]);
    return t != NULL && old != NULL && by != NULL &&
           tt_val_set_text(tt_text_replace(r, t, old, by, count), ret);
}

/* Every line but the first (and, unless `blank`, the empty ones) is indented. */
static bool filter_indent(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"width", "first", "blank"};
    static const char spaces[] = "                                                                ";
    tt_val arg[3], lines;
    int64_t width = 4;
    if (!tt_call_bind(r, call, names, 3, 0, arg) || tt_arg_text(r, call, &call->self) == NULL) {
        return false;
    }
    const tt_text *by = arg[0].kind == TT_V_STR ? arg[0].u.s : NULL;
    if (by == NULL) {
        if (!tt_arg_int(r, call, &arg[0], 4, &width)) {
            return false;
        }
        width = width < 0                            ? 0
                : width > (int64_t)sizeof spaces - 1 ? (int64_t)sizeof spaces - 1
                                                     : width;
        by = tt_text_new(r, spaces, (size_t)width, true);
    }
    tt_text *nl = tt_text_cstr(r, "\n");
    tt_text *s = nl == NULL ? NULL : tt_text_concat(r, call->self.u.s, nl);
    tt_textbuf *b = tt_textbuf_new(r);
    if (by == NULL || s == NULL || b == NULL || !tt_text_splitlines(r, s, false, &lines)) {
        return false;
    }
    bool first = tt_val_truthy(&arg[1]), blank = tt_val_truthy(&arg[2]);
    for (size_t i = 0; i < lines.u.list->n; i++) {
        const tt_text *line = lines.u.list->items[i].u.s;
        bool indented = i == 0 ? first : blank || line->n != 0;
        if ((i != 0 && !tt_textbuf_add_text(r, b, nl)) ||
            (indented && !tt_textbuf_add_text(r, b, by)) || !tt_textbuf_add_text(r, b, line)) {
            return false;
        }
    }
    return tt_val_set_text(tt_textbuf_text(r, b), ret);
}

static bool filter_center(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"width"};
    tt_val arg;
    const tt_text space = {.p = " ", .n = 1, .n_chars = 1, .trusted = true};
    int64_t width;
    if (!tt_call_bind(r, call, names, 1, 0, &arg) || !tt_arg_int(r, call, &arg, 80, &width)) {
        return false;
    }
    tt_text *t = tt_val_str(r, &call->self);
    return t != NULL && tt_val_set_text(tt_text_center(r, t, width, &space), ret);
}

static bool filter_wordcount(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_text *t = tt_call_bind(r, call, NULL, 0, 0, NULL) ? tt_val_str(r, &call->self) : NULL;
    int64_t words = 0;
    bool inside = false;
    for (size_t i = 0; t != NULL && i < t->n;) {
        uint32_t cp;
        i += tt_utf8_get(t->p + i, t->n - i, &cp);
        bool word = cp == '_' || tt_uni_is_alpha(cp) || tt_uni_is_numeric(cp);
        words += word && !inside;
        inside = word;
    }
    *ret = tt_val_int(words);
    return t != NULL && tt_run_charge(r, t->n);
}

static bool filter_truncate(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"length", "killwords", "end", "leeway"};
    tt_val arg[4];
    int64_t length, leeway = 5;
    size_t n = 0;
    if (!tt_call_bind(r, call, names, 4, 0, arg) || !tt_arg_int(r, call, &arg[0], 255, &length) ||
        (arg[3].kind != TT_V_NONE && !tt_arg_int(r, call, &arg[3], 5, &leeway)) ||
        !tt_val_len(r, &call->self, &n)) {
        return false;
    }
    tt_text *end = arg[2].kind == TT_V_MISSING ? tt_text_cstr(r, "...")
                                               : (tt_text *)tt_arg_text(r, call, &arg[2]);
    if (end == NULL) {
        return false;
    }
    int64_t chars = (int64_t)n, end_chars = (int64_t)tt_text_chars(r, end);
    if (length < end_chars || leeway < 0) {
        return tt_run_invalid(r, "expected length >= %lld, got %lld", (long long)end_chars,
                              (long long)length);
    }
    if (length > INT64_MAX - leeway || chars <= length + leeway) {
        *ret = call->self;
        return true;
    }
    tt_text *s = (tt_text *)tt_arg_text(r, call, &call->self);
    if (s == NULL) {
        return false;
    }
    size_t cut = tt_text_offset(r, s, (size_t)(length - end_chars));
    if (!tt_val_truthy(&arg[1])) {
        tt_text space = {.p = " ", .n = 1, .n_chars = 1};
        size_t at = tt_text_rfind(r, s, &space, cut);
        cut = at == SIZE_MAX ? cut : at;
    }
    tt_text *head = tt_text_slice(r, s, 0, cut);
    return head != NULL && tt_val_set_text(tt_text_concat(r, head, end), ret);
}

static bool filter_format(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_text *t = tt_val_str(r, &call->self);
    tt_val args;
    if (t == NULL || (call->n_kw != 0 && call->n_pos != 0)) {
        return t != NULL &&
               tt_run_invalid(r, "can't handle positional and keyword arguments at the same time");
    }
    if (call->n_kw != 0) {
        if (!tt_val_dict(r, &args)) {
            return false;
        }
        for (size_t i = 0; i < call->n_kw; i++) {
            if (!tt_dict_set(r, args.u.dict, tt_val_text((tt_text *)call->kw_names[i]),
                             call->kw[i])) {
                return false;
            }
        }
    } else {
        if (!tt_val_list(r, TT_V_TUPLE, call->n_pos, &args)) {
            return false;
        }
        for (size_t i = 0; i < call->n_pos; i++) {
            args.u.list->items[i] = call->pos[i];
        }
        args.u.list->n = call->n_pos;
    }
    return tt_val_set_text(tt_format_percent(r, t, &args), ret);
}

/* HTML's five characters. jinja2 returns a Markup here, which escapes what is added to it later;
 * this one is a text. */
static bool filter_escape(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    tt_text *t = tt_call_bind(r, call, NULL, 0, 0, NULL) ? tt_val_str(r, &call->self) : NULL;
    tt_textbuf *b = tt_textbuf_new(r);
    size_t plain = 0;
    for (size_t i = 0; t != NULL && b != NULL && i < t->n; i++) {
        const char *c = t->p[i] == '\0' ? NULL : strchr(from, t->p[i]);
        if (c != NULL) {
            size_t run;
            bool trusted = tt_text_origin(t, i, &run);
            if (!tt_textbuf_add_slice(r, b, t, plain, i - plain) ||
                !tt_textbuf_add(r, b, to[c - from], strlen(to[c - from]), trusted)) {
                return false;
            }
            plain = i + 1;
        }
    }
    return t != NULL && b != NULL && tt_textbuf_add_slice(r, b, t, plain, t->n - plain) &&
           tt_val_set_text(tt_textbuf_text(r, b), ret);
}

static bool filter_tojson(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys"};
    static const char spaces[] = "                                ";
    tt_val arg[4];
    int64_t width = 0;
    if (!tt_call_bind(r, call, names, 4, 0, arg)) {
        return false;
    }
    tt_tojson_options opt = {.ensure_ascii = tt_val_truthy(&arg[0]),
                             .sort_keys = tt_val_truthy(&arg[3])};
    opt.pretty = arg[1].kind != TT_V_MISSING && arg[1].kind != TT_V_NONE;
    if (arg[1].kind == TT_V_STR) {
        opt.indent = arg[1].u.s;
    } else if (opt.pretty) {
        if (!tt_arg_int(r, call, &arg[1], 0, &width)) {
            return false;
        }
        width = width < 0                            ? 0
                : width > (int64_t)sizeof spaces - 1 ? (int64_t)sizeof spaces - 1
                                                     : width;
        opt.indent = tt_text_new(r, spaces, (size_t)width, true);
    }
    opt.item_sep = tt_text_cstr(r, opt.pretty ? "," : ", ");
    opt.key_sep = tt_text_cstr(r, ": ");
    if (arg[2].kind == TT_V_TUPLE || arg[2].kind == TT_V_LIST) {
        const tt_list *l = arg[2].u.list;
        if (l->n != 2 || l->items[0].kind != TT_V_STR || l->items[1].kind != TT_V_STR) {
            return tt_run_invalid(r, "tojson() needs two strings as separators");
        }
        opt.item_sep = l->items[0].u.s;
        opt.key_sep = l->items[1].u.s;
    } else if (arg[2].kind != TT_V_MISSING && arg[2].kind != TT_V_NONE) {
        return tt_run_invalid(r, "tojson() needs two strings as separators");
    }
    tt_textbuf *b = tt_textbuf_new(r);
    return b != NULL && opt.item_sep != NULL && opt.key_sep != NULL &&
           tt_val_tojson(r, b, &call->self, &opt) && tt_val_set_text(tt_textbuf_text(r, b), ret);
}

/* -- Numbers ------------------------------------------------------------------------------- */

static bool filter_abs(tt_run *r, const tt_call *call, tt_val *ret)
{
    const tt_val *v = &call->self;
    int64_t i;
    if (!tt_call_bind(r, call, NULL, 0, 0, NULL)) {
        return false;
    }
    if (v->kind == TT_V_FLOAT) {
        *ret = tt_val_float(fabs(v->u.f));
        ret->trusted = v->trusted;
        return true;
    }
    if (!tt_val_index(v, &i)) {
        return tt_run_invalid(r, "bad operand type for abs(): '%s'", tt_val_type(v));
    }
    return tt_unary(r, i < 0, v, ret);
}

/* Digits as Python reads them: no whitespace around, single underscores between digits. Fills out[n
 * + 1]. */
static bool clean_number(const tt_text *t, char *out, size_t *ret_n)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        char c = t->p[i];
        if (c == '_') {
            bool between = i > 0 && i + 1 < t->n && t->p[i - 1] != '_' && t->p[i + 1] != '_';
            if (!between) {
                return false;
            }
            continue;
        }
        if (c == '\0' || (unsigned char)c >= 0x80) {
            return false;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    *ret_n = n;
    return true;
}

static int digit_of(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10
                                                : 99;
}

typedef enum parsed { PARSED, NOT_A_NUMBER, TOO_LARGE } parsed;

static parsed parse_int(const char *s, int64_t base, int64_t *ret)
{
    bool negative = s[0] == '-';
    s += s[0] == '-' || s[0] == '+';
    int prefix = s[0] == '0' ? ((s[1] | 32) == 'x'   ? 16
                                : (s[1] | 32) == 'o' ? 8
                                : (s[1] | 32) == 'b' ? 2
                                                     : 0)
                             : 0;
    if (prefix != 0 && (base == prefix || base == 0)) {
        base = prefix;
        s += 2;
    }
    base = base == 0 ? 10 : base;
    int64_t v = 0;
    bool over = false;
    if (*s == '\0') {
        return NOT_A_NUMBER;
    }
    for (; *s != '\0'; s++) {
        if (digit_of(*s) >= base) {
            return NOT_A_NUMBER;
        }
        over |= __builtin_mul_overflow(v, base, &v) || __builtin_sub_overflow(v, digit_of(*s), &v);
    }
    if (over || (!negative && v == INT64_MIN)) {
        return TOO_LARGE;
    }
    *ret = negative ? v : -v;
    return PARSED;
}

static bool parse_float(const char *s, double *ret)
{
    const char *d = s + (s[0] == '-' || s[0] == '+');
    bool word =
        strcasecmp(d, "inf") == 0 || strcasecmp(d, "infinity") == 0 || strcasecmp(d, "nan") == 0;
    if (!word && strspn(d, "0123456789.eE+-") != strlen(d)) {
        return false;
    }
    char *end;
    *ret = strtod(s, &end);
    return *d != '\0' && *end == '\0';
}

/* A number in a text; its trimmed bytes in out. NULL out: too long to be one. */
static char *number_text(tt_run *r, const tt_text *t)
{
    tt_text *s = tt_text_strip(r, t, NULL, true, true);
    size_t n = 0;
    char *out = s == NULL || s->n > 4096 ? NULL : tt_run_alloc(r, s->n + 1, 1);
    return out != NULL && clean_number(s, out, &n) ? out : NULL;
}

static bool float_to_int(double f, int64_t *ret)
{
    if (!(f > -9.3e18 && f < 9.2e18)) {
        return false;
    }
    *ret = (int64_t)f;
    return true;
}

static bool filter_int(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"default", "base"};
    const tt_val *v = &call->self;
    tt_val arg[2];
    int64_t base = 10, i = 0;
    double f = 0;
    if (!tt_call_bind(r, call, names, 2, 0, arg) || !tt_arg_int(r, call, &arg[1], 10, &base)) {
        return false;
    }
    bool ok = tt_val_index(v, &i);
    if (v->kind == TT_V_FLOAT) {
        ok = float_to_int(v->u.f, &i);
        if (!ok && isfinite(v->u.f)) {
            return tt_run_invalid(r, "an integer beyond 64 bits");
        }
    } else if (v->kind == TT_V_STR) {
        char *s = number_text(r, v->u.s);
        parsed p = s == NULL ? NOT_A_NUMBER : parse_int(s, base, &i);
        if (p == TOO_LARGE) {
            return tt_run_invalid(r, "an integer beyond 64 bits");
        }
        ok = p == PARSED || (s != NULL && parse_float(s, &f) && float_to_int(f, &i));
    } else if (v->kind == TT_V_UNDEFINED) {
        return tt_run_invalid(r, "%s", tt_undefined_message(r, v));
    }
    *ret = ok ? tt_val_int(i) : arg[0].kind == TT_V_MISSING ? tt_val_int(0) : arg[0];
    ret->trusted &= !ok || v->trusted || (v->kind == TT_V_STR && tt_text_is_trusted(v->u.s));
    return r->code == TT_OK;
}

static bool filter_float(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"default"};
    const tt_val *v = &call->self;
    tt_val arg;
    double f = 0;
    if (!tt_call_bind(r, call, names, 1, 0, &arg)) {
        return false;
    }
    if (v->kind == TT_V_UNDEFINED) {
        return tt_run_invalid(r, "%s", tt_undefined_message(r, v));
    }
    char *s = v->kind == TT_V_STR ? number_text(r, v->u.s) : NULL;
    bool ok = v->kind == TT_V_STR ? s != NULL && parse_float(s, &f) : tt_val_number(v, &f);
    *ret = ok ? tt_val_float(f) : arg.kind == TT_V_MISSING ? tt_val_float(0) : arg;
    ret->trusted &= !ok || v->trusted || (v->kind == TT_V_STR && tt_text_is_trusted(v->u.s));
    return r->code == TT_OK;
}

/* To the nearest, exact in decimal: printf rounds the true binary value. */
static double round_decimal(double f, int64_t digits)
{
    char s[512];
    if (!isfinite(f) || digits > 300) {
        return f;
    }
    if (digits >= 0) {
        snprintf(s, sizeof s, "%.*f", (int)digits, f);
        return strtod(s, NULL);
    }
    double scale = digits < -308 ? INFINITY : pow(10, (double)-digits);
    return isinf(scale) ? 0 * f : nearbyint(f / scale) * scale;
}

static bool round_int(tt_run *r, const tt_val *v, int64_t digits, tt_val *ret)
{
    int64_t i = 0, scale = 1;
    tt_val_index(v, &i);
    for (int64_t k = digits; k < 0; k++) {
        if (__builtin_mul_overflow(scale, 10, &scale)) {
            *ret = tt_val_int(0);
            return true;
        }
    }
    int64_t rest = i % scale, half = scale / 2;
    int64_t down = i - rest, size = rest < 0 ? -rest : rest;
    bool away = scale > 1 && (size > half || (size == half && (down / scale) % 2 != 0));
    if (away && __builtin_add_overflow(down, i < 0 ? -scale : scale, &down)) {
        return tt_run_invalid(r, "an integer beyond 64 bits");
    }
    *ret = tt_val_int(down);
    return true;
}

static bool filter_round(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"precision", "method"};
    const tt_val *v = &call->self;
    tt_val arg[2];
    int64_t digits;
    double f = 0;
    if (!tt_call_bind(r, call, names, 2, 0, arg) || !tt_arg_int(r, call, &arg[0], 0, &digits)) {
        return false;
    }
    bool text = arg[1].kind == TT_V_STR,
         common = arg[1].kind == TT_V_MISSING || (text && tt_text_is(arg[1].u.s, "common"));
    bool ceiling = text && tt_text_is(arg[1].u.s, "ceil"),
         floors = text && tt_text_is(arg[1].u.s, "floor");
    if (!common && !ceiling && !floors) {
        return tt_run_invalid(r, "method must be common, ceil or floor");
    }
    if (!tt_val_number(v, &f)) {
        return tt_run_invalid(r, "round() needs a number, not %s", tt_val_type(v));
    }
    if (common && v->kind != TT_V_FLOAT) {
        if (!round_int(r, v, digits, ret)) {
            return false;
        }
    } else if (common) {
        *ret = tt_val_float(round_decimal(f, digits));
    } else {
        double scale = pow(10, (double)digits), scaled = f * scale;
        if (!isfinite(scaled)) {
            return tt_run_invalid(r, "a float out of range");
        }
        *ret = tt_val_float((ceiling ? ceil(scaled) : floor(scaled)) / scale);
    }
    ret->trusted = v->trusted;
    return true;
}

/* -- Others -------------------------------------------------------------------------------- */

static bool filter_default(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"default_value", "boolean"};
    tt_val arg[2];
    if (!tt_call_bind(r, call, names, 2, 0, arg)) {
        return false;
    }
    bool use = call->self.kind == TT_V_UNDEFINED ||
               (tt_val_truthy(&arg[1]) && !tt_val_truthy(&call->self));
    if (use && arg[0].kind == TT_V_MISSING) {
        return tt_val_set_text(tt_text_cstr(r, ""), ret);
    }
    *ret = use ? arg[0] : call->self;
    return true;
}

static bool filter_attr(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"name"};
    tt_val arg;
    if (!tt_call_bind(r, call, names, 1, 1, &arg)) {
        return false;
    }
    const tt_text *name = tt_arg_text(r, call, &arg);
    if (name == NULL) {
        return false;
    }
    if (call->self.kind == TT_V_DICT) { /* attributes only, no entries */
        tt_val empty = {.kind = TT_V_MISSING};
        return tt_val_dict(r, &empty) && tt_val_attr(r, &empty, name, ret);
    }
    return tt_val_attr(r, &call->self, name, ret);
}

static const tt_builtin filters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr},
    {"batch", tt_filter_batch},
    {"capitalize", filter_capitalize},
    {"center", filter_center},
    {"count", tt_filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"dictsort", tt_filter_dictsort},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"first", tt_filter_first},
    {"float", filter_float},
    {"forceescape", filter_escape},
    {"format", filter_format},
    {"groupby", tt_filter_groupby},
    {"indent", filter_indent},
    {"int", filter_int},
    {"items", tt_filter_items},
    {"join", tt_filter_join},
    {"last", tt_filter_last},
    {"length", tt_filter_length},
    {"list", tt_filter_list},
    {"lower", filter_lower},
    {"map", tt_filter_map},
    {"max", tt_filter_max},
    {"min", tt_filter_min},
    {"reject", tt_filter_reject},
    {"rejectattr", tt_filter_rejectattr},
    {"replace", filter_replace},
    {"reverse", tt_filter_reverse},
    {"round", filter_round},
    {"safe", filter_string},
    {"select", tt_filter_select},
    {"selectattr", tt_filter_selectattr},
    {"slice", tt_filter_slice},
    {"sort", tt_filter_sort},
    {"string", filter_string},
    {"sum", tt_filter_sum},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"truncate", filter_truncate},
    {"unique", tt_filter_unique},
    {"upper", filter_upper},
    {"wordcount", filter_wordcount},
};

const tt_builtin *tt_filter_find(const char *name, size_t n, bool *ret_known)
{
    static const char *const missing[] = {"filesizeformat", "pprint", "random",   "striptags",
                                          "urlencode",      "urlize", "wordwrap", "xmlattr"};
    tt_text t = {.p = name, .n = n};
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        if (tt_text_is(&t, filters[i].name)) {
            return &filters[i];
        }
    }
    *ret_known = false;
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++) {
        *ret_known |= tt_text_is(&t, missing[i]);
    }
    return NULL;
}
