/* template_methods.c - methods of strings, lists, dicts and loops that a template may call.
 * Thread: one rendering is one thread's. */
#include "core/template_builtins.h"

#include <string.h>

#include "core/template_strings.h"
#include "core/template_unicode.h"

/* -- str ----------------------------------------------------------------------------------- */

static bool no_arguments(tt_run *r, const tt_call *call)
{
    return tt_call_bind(r, call, NULL, 0, 0, NULL);
}

static bool strip_method(tt_run *r, const tt_call *call, bool left, bool right, tt_val *ret)
{
    static const char *const names[] = {NULL};
    tt_val arg;
    const tt_text *chars = NULL;
    if (!tt_call_bind(r, call, names, 1, 0, &arg)) {
        return false;
    }
    if (arg.kind != TT_V_MISSING && arg.kind != TT_V_NONE &&
        (chars = tt_arg_text(r, call, &arg)) == NULL) {
        return false;
    }
    return tt_val_set_text(tt_text_strip(r, call->self.u.s, chars, left, right), ret);
}

static bool str_strip(tt_run *r, const tt_call *call, tt_val *ret)
{
    return strip_method(r, call, true, true, ret);
}

static bool str_lstrip(tt_run *r, const tt_call *call, tt_val *ret)
{
    return strip_method(r, call, true, false, ret);
}

static bool str_rstrip(tt_run *r, const tt_call *call, tt_val *ret)
{
    return strip_method(r, call, false, true, ret);
}

static bool split_method(tt_run *r, const tt_call *call, bool from_right, tt_val *ret)
{
    static const char *const names[] = {"sep", "maxsplit"};
    tt_val arg[2];
    int64_t max;
    const tt_text *sep = NULL;
    if (!tt_call_bind(r, call, names, 2, 0, arg) || !tt_arg_int(r, call, &arg[1], -1, &max)) {
        return false;
    }
    if (arg[0].kind != TT_V_MISSING && arg[0].kind != TT_V_NONE &&
        (sep = tt_arg_text(r, call, &arg[0])) == NULL) {
        return false;
    }
    return tt_text_split(r, call->self.u.s, sep, max, from_right, ret);
}

static bool str_split(tt_run *r, const tt_call *call, tt_val *ret)
{
    return split_method(r, call, false, ret);
}

static bool str_rsplit(tt_run *r, const tt_call *call, tt_val *ret)
{
    return split_method(r, call, true, ret);
}

static bool str_splitlines(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"keepends"};
    tt_val arg;
    return tt_call_bind(r, call, names, 1, 0, &arg) &&
           tt_text_splitlines(r, call->self.u.s, tt_val_truthy(&arg), ret);
}

/* Byte range of the optional arguments start and end. False in *ret_valid when start is behind the
 * end. */
static bool text_range(tt_run *r, const tt_call *call, const tt_val arg[2], size_t *ret_from,
                       size_t *ret_to, bool *ret_valid)
{
    tt_text *t = call->self.u.s;
    int64_t n = (int64_t)tt_text_chars(r, t), from = 0, to = n;
    if ((arg[0].kind != TT_V_NONE && !tt_arg_int(r, call, &arg[0], 0, &from)) ||
        (arg[1].kind != TT_V_NONE && !tt_arg_int(r, call, &arg[1], n, &to))) {
        return false;
    }
    from = from < 0 ? (from < -n ? 0 : from + n) : from;
    to = to < 0 ? (to < -n ? 0 : to + n) : to > n ? n : to;
    *ret_valid = from <= to && from <= n;
    *ret_from = *ret_valid ? tt_text_offset(r, t, (size_t)from) : 0;
    *ret_to = *ret_valid ? tt_text_offset(r, t, (size_t)to) : 0;
    return r->code == TT_OK;
}

/* Position in code points of the first or last occurrence, -1 = none. */
static bool find_position(tt_run *r, const tt_call *call, bool last, int64_t *ret)
{
    static const char *const names[] = {NULL, NULL, NULL};
    tt_val arg[3];
    size_t from = 0, to = 0;
    bool valid = false;
    if (!tt_call_bind(r, call, names, 3, 1, arg)) {
        return false;
    }
    const tt_text *needle = tt_arg_text(r, call, &arg[0]);
    tt_text *t = call->self.u.s;
    if (needle == NULL || !tt_run_charge(r, t->n) ||
        !text_range(r, call, arg + 1, &from, &to, &valid)) {
        return false;
    }
    tt_text window = {.p = t->p + from, .n = to - from};
    size_t at = !valid ? SIZE_MAX
                : last ? tt_text_rfind(r, &window, needle, window.n)
                       : tt_text_find(&window, needle->p, needle->n, 0);
    if (at == SIZE_MAX) {
        *ret = -1;
        return true;
    }
    tt_text *before = tt_text_slice(r, t, 0, from + at);
    *ret = before == NULL ? -1 : (int64_t)tt_text_chars(r, before);
    return before != NULL;
}

static bool find_method(tt_run *r, const tt_call *call, bool last, bool must, tt_val *ret)
{
    int64_t at = -1;
    if (!find_position(r, call, last, &at)) {
        return false;
    }
    if (at < 0 && must) {
        return tt_run_invalid(r, "substring not found");
    }
    *ret = tt_val_int(at);
    ret->trusted = false;
    return true;
}

static bool str_find(tt_run *r, const tt_call *call, tt_val *ret)
{
    return find_method(r, call, false, false, ret);
}

static bool str_rfind(tt_run *r, const tt_call *call, tt_val *ret)
{
    return find_method(r, call, true, false, ret);
}

static bool str_index(tt_run *r, const tt_call *call, tt_val *ret)
{
    return find_method(r, call, false, true, ret);
}

static bool str_rindex(tt_run *r, const tt_call *call, tt_val *ret)
{
    return find_method(r, call, true, true, ret);
}

static bool str_count(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {NULL, NULL, NULL};
    tt_val arg[3];
    size_t from = 0, to = 0;
    bool valid = false;
    if (!tt_call_bind(r, call, names, 3, 1, arg)) {
        return false;
    }
    const tt_text *needle = tt_arg_text(r, call, &arg[0]);
    if (needle == NULL || !tt_run_charge(r, call->self.u.s->n) ||
        !text_range(r, call, arg + 1, &from, &to, &valid)) {
        return false;
    }
    tt_text *window = tt_text_slice(r, call->self.u.s, from, to - from);
    int64_t n =
        window != NULL && valid && needle->n == 0 ? (int64_t)tt_text_chars(r, window) + 1 : 0;
    size_t at = window == NULL || !valid || needle->n == 0
                    ? SIZE_MAX
                    : tt_text_find(window, needle->p, needle->n, 0);
    for (; at != SIZE_MAX; n++) {
        at = tt_text_find(window, needle->p, needle->n, at + needle->n);
    }
    *ret = tt_val_int(n);
    ret->trusted = false;
    return window != NULL;
}

static bool affix_matches(const tt_text *t, const tt_text *affix, bool at_end)
{
    return affix->n <= t->n &&
           memcmp(t->p + (at_end ? t->n - affix->n : 0), affix->p, affix->n) == 0;
}

static bool affix_method(tt_run *r, const tt_call *call, bool at_end, tt_val *ret)
{
    static const char *const names[] = {NULL, NULL, NULL};
    tt_val arg[3];
    size_t from = 0, to = 0;
    bool valid = false, yes = false;
    if (!tt_call_bind(r, call, names, 3, 1, arg) ||
        !text_range(r, call, arg + 1, &from, &to, &valid)) {
        return false;
    }
    tt_text window = {.p = call->self.u.s->p + from, .n = to - from};
    if (arg[0].kind == TT_V_TUPLE) {
        for (size_t i = 0; i < arg[0].u.list->n; i++) {
            const tt_text *affix = tt_arg_text(r, call, &arg[0].u.list->items[i]);
            if (affix == NULL) {
                return false;
            }
            yes |= valid && affix_matches(&window, affix, at_end);
        }
    } else {
        const tt_text *affix = tt_arg_text(r, call, &arg[0]);
        if (affix == NULL) {
            return false;
        }
        yes = valid && affix_matches(&window, affix, at_end);
    }
    *ret = tt_val_bool(yes);
    return true;
}

static bool str_startswith(tt_run *r, const tt_call *call, tt_val *ret)
{
    return affix_method(r, call, false, ret);
}

static bool str_endswith(tt_run *r, const tt_call *call, tt_val *ret)
{
    return affix_method(r, call, true, ret);
}

static bool remove_affix(tt_run *r, const tt_call *call, bool at_end, tt_val *ret)
{
    static const char *const names[] = {NULL};
    tt_val arg;
    const tt_text *t = call->self.u.s, *affix = NULL;
    if (!tt_call_bind(r, call, names, 1, 1, &arg) || (affix = tt_arg_text(r, call, &arg)) == NULL) {
        return false;
    }
    size_t cut = affix_matches(t, affix, at_end) ? affix->n : 0;
    return tt_val_set_text(tt_text_slice(r, t, at_end ? 0 : cut, t->n - cut), ret);
}

static bool str_removeprefix(tt_run *r, const tt_call *call, tt_val *ret)
{
    return remove_affix(r, call, false, ret);
}

static bool str_removesuffix(tt_run *r, const tt_call *call, tt_val *ret)
{
    return remove_affix(r, call, true, ret);
}

static bool str_replace(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {NULL, NULL, NULL};
    tt_val arg[3];
    int64_t count;
    if (!tt_call_bind(r, call, names, 3, 2, arg) || !tt_arg_int(r, call, &arg[2], -1, &count)) {
        return false;
    }
    const tt_text *old = tt_arg_text(r, call, &arg[0]), *by = tt_arg_text(r, call, &arg[1]);
    return old != NULL && by != NULL &&
           tt_val_set_text(tt_text_replace(r, call->self.u.s, old, by, count), ret);
}

static bool case_method(tt_run *r, const tt_call *call, tt_case mode, tt_val *ret)
{
    return no_arguments(r, call) && tt_val_set_text(tt_text_case(r, call->self.u.s, mode), ret);
}

static bool str_upper(tt_run *r, const tt_call *call, tt_val *ret)
{
    return case_method(r, call, TT_CASE_UPPER, ret);
}

static bool str_lower(tt_run *r, const tt_call *call, tt_val *ret)
{
    return case_method(r, call, TT_CASE_LOWER, ret);
}

static bool str_title(tt_run *r, const tt_call *call, tt_val *ret)
{
    return case_method(r, call, TT_CASE_TITLE, ret);
}

static bool str_capitalize(tt_run *r, const tt_call *call, tt_val *ret)
{
    return case_method(r, call, TT_CASE_CAPITALIZE, ret);
}

static bool str_swapcase(tt_run *r, const tt_call *call, tt_val *ret)
{
    return case_method(r, call, TT_CASE_SWAP, ret);
}

static bool str_join(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {NULL};
    tt_val arg;
    return tt_call_bind(r, call, names, 1, 1, &arg) &&
           tt_val_set_text(tt_join(r, call->self.u.s, &arg, true), ret);
}

static bool partition_method(tt_run *r, const tt_call *call, bool last, tt_val *ret)
{
    static const char *const names[] = {NULL};
    tt_val arg, out;
    const tt_text *t = call->self.u.s, *sep = NULL;
    if (!tt_call_bind(r, call, names, 1, 1, &arg) || (sep = tt_arg_text(r, call, &arg)) == NULL) {
        return false;
    }
    if (sep->n == 0) {
        return tt_run_invalid(r, "empty separator");
    }
    size_t at = last ? tt_text_rfind(r, t, sep, t->n) : tt_text_find(t, sep->p, sep->n, 0);
    size_t cut[4] = {0, t->n, t->n, t->n}; /* not found: all, "", "" */
    if (at != SIZE_MAX) {
        cut[1] = at;
        cut[2] = at + sep->n;
    } else if (last) {
        cut[1] = cut[2] = 0;
    }
    if (!tt_run_charge(r, t->n) || !tt_val_list(r, TT_V_TUPLE, 3, &out)) {
        return false;
    }
    for (size_t i = 0; i < 3; i++) {
        if (!tt_val_set_text(tt_text_slice(r, t, cut[i], cut[i + 1] - cut[i]),
                             &out.u.list->items[i])) {
            return false;
        }
    }
    out.u.list->n = 3;
    *ret = out;
    return true;
}

static bool str_partition(tt_run *r, const tt_call *call, tt_val *ret)
{
    return partition_method(r, call, false, ret);
}

static bool str_rpartition(tt_run *r, const tt_call *call, tt_val *ret)
{
    return partition_method(r, call, true, ret);
}

/* How many fill characters to put on each side; side: -1 left, 0 both, 1 right. */
static tt_text *pad_to(tt_run *r, tt_text *t, int64_t width, int side, const tt_text *fill)
{
    int64_t chars = (int64_t)tt_text_chars(r, t), pad = width > chars ? width - chars : 0;
    if (pad > (int64_t)r->max_text_bytes) {
        tt_run_fail(r, TT_E_CAPACITY, "a text of more than %zu bytes", r->max_text_bytes);
        return NULL;
    }
    int64_t left = side < 0 ? pad : side > 0 ? 0 : pad / 2 + (pad & width & 1);
    return tt_text_pad(r, t, (size_t)left, (size_t)(pad - left), fill);
}

tt_text *tt_text_center(tt_run *r, tt_text *t, int64_t width, const tt_text *fill)
{
    return pad_to(r, t, width, 0, fill);
}

static bool pad_method(tt_run *r, const tt_call *call, int side, tt_val *ret)
{
    static const char *const names[] = {NULL, NULL};
    tt_val arg[2];
    int64_t width = 0;
    tt_text space = {.p = " ", .n = 1, .n_chars = 1, .trusted = true};
    if (!tt_call_bind(r, call, names, 2, 1, arg) || !tt_arg_int(r, call, &arg[0], 0, &width)) {
        return false;
    }
    tt_text *fill = arg[1].kind == TT_V_STR ? arg[1].u.s : &space;
    if ((arg[1].kind != TT_V_MISSING && arg[1].kind != TT_V_STR) || tt_text_chars(r, fill) != 1) {
        return tt_run_invalid(r, "The fill character must be exactly one character long");
    }
    return tt_val_set_text(pad_to(r, call->self.u.s, width, side, fill), ret);
}

static bool str_center(tt_run *r, const tt_call *call, tt_val *ret)
{
    return pad_method(r, call, 0, ret);
}

static bool str_ljust(tt_run *r, const tt_call *call, tt_val *ret)
{
    return pad_method(r, call, 1, ret);
}

static bool str_rjust(tt_run *r, const tt_call *call, tt_val *ret)
{
    return pad_method(r, call, -1, ret);
}

static bool str_zfill(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {NULL};
    tt_val arg;
    int64_t width = 0;
    tt_text *t = call->self.u.s;
    const tt_text zero = {.p = "0", .n = 1, .n_chars = 1, .trusted = true};
    if (!tt_call_bind(r, call, names, 1, 1, &arg) || !tt_arg_int(r, call, &arg, 0, &width)) {
        return false;
    }
    bool sign = t->n != 0 && (t->p[0] == '-' || t->p[0] == '+');
    tt_text *head = tt_text_slice(r, t, 0, sign), *rest = tt_text_slice(r, t, sign, t->n - sign);
    rest = rest == NULL ? NULL : pad_to(r, rest, width - sign, -1, &zero);
    return head != NULL && rest != NULL && tt_val_set_text(tt_text_concat(r, head, rest), ret);
}

/* All characters of a text that is not empty. */
static bool all_method(tt_run *r, const tt_call *call, bool (*is)(uint32_t cp), bool empty,
                       tt_val *ret)
{
    const tt_text *t = call->self.u.s;
    bool all = t->n != 0 || empty;
    if (!no_arguments(r, call) || !tt_run_charge(r, t->n)) {
        return false;
    }
    for (size_t i = 0; all && i < t->n;) {
        uint32_t cp;
        i += tt_utf8_get(t->p + i, t->n - i, &cp);
        all = is(cp);
    }
    *ret = tt_val_bool(all);
    return true;
}

static bool is_alnum(uint32_t cp)
{
    return tt_uni_is_alpha(cp) || tt_uni_is_numeric(cp);
}

static bool is_ascii(uint32_t cp)
{
    return cp < 0x80;
}

static bool str_isalpha(tt_run *r, const tt_call *call, tt_val *ret)
{
    return all_method(r, call, tt_uni_is_alpha, false, ret);
}

static bool str_isalnum(tt_run *r, const tt_call *call, tt_val *ret)
{
    return all_method(r, call, is_alnum, false, ret);
}

static bool str_isascii(tt_run *r, const tt_call *call, tt_val *ret)
{
    return all_method(r, call, is_ascii, true, ret);
}

static bool str_isdecimal(tt_run *r, const tt_call *call, tt_val *ret)
{
    return all_method(r, call, tt_uni_is_decimal, false, ret);
}

static bool str_isdigit(tt_run *r, const tt_call *call, tt_val *ret)
{
    return all_method(r, call, tt_uni_is_digit, false, ret);
}

static bool str_isnumeric(tt_run *r, const tt_call *call, tt_val *ret)
{
    return all_method(r, call, tt_uni_is_numeric, false, ret);
}

static bool str_isspace(tt_run *r, const tt_call *call, tt_val *ret)
{
    return all_method(r, call, tt_uni_is_space, false, ret);
}

static bool str_isprintable(tt_run *r, const tt_call *call, tt_val *ret)
{
    return all_method(r, call, tt_uni_is_printable, true, ret);
}

static bool str_isupper(tt_run *r, const tt_call *call, tt_val *ret)
{
    *ret = tt_val_bool(tt_text_has_case(call->self.u.s, true));
    return no_arguments(r, call) && tt_run_charge(r, call->self.u.s->n);
}

static bool str_islower(tt_run *r, const tt_call *call, tt_val *ret)
{
    *ret = tt_val_bool(tt_text_has_case(call->self.u.s, false));
    return no_arguments(r, call) && tt_run_charge(r, call->self.u.s->n);
}

/* -- dict, list, loop ---------------------------------------------------------------------- */

static bool dict_view(tt_run *r, const tt_call *call, tt_kind kind, tt_val *ret)
{
    *ret = call->self;
    ret->kind = (uint8_t)kind;
    return no_arguments(r, call);
}

static bool dict_keys(tt_run *r, const tt_call *call, tt_val *ret)
{
    return dict_view(r, call, TT_V_KEYS, ret);
}

static bool dict_values(tt_run *r, const tt_call *call, tt_val *ret)
{
    return dict_view(r, call, TT_V_VALUES, ret);
}

static bool dict_items(tt_run *r, const tt_call *call, tt_val *ret)
{
    return dict_view(r, call, TT_V_ITEMS, ret);
}

/* Containers never change, so a copy is the object itself. */
static bool copy_method(tt_run *r, const tt_call *call, tt_val *ret)
{
    *ret = call->self;
    return no_arguments(r, call);
}

static bool dict_get(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {NULL, NULL};
    tt_val arg[2], *found = NULL;
    if (!tt_call_bind(r, call, names, 2, 1, arg) ||
        !tt_dict_get(r, call->self.u.dict, arg[0], &found)) {
        return false;
    }
    *ret = found != NULL ? *found : arg[1].kind == TT_V_MISSING ? tt_val_none() : arg[1];
    return true;
}

static bool list_count(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {NULL};
    tt_val arg;
    int64_t n = 0;
    if (!tt_call_bind(r, call, names, 1, 1, &arg)) {
        return false;
    }
    for (size_t i = 0; i < call->self.u.list->n; i++) {
        bool same = false;
        if (!tt_run_charge(r, 0) || !tt_val_equal(r, &call->self.u.list->items[i], &arg, &same)) {
            return false;
        }
        n += same;
    }
    *ret = tt_val_int(n);
    ret->trusted = false;
    return true;
}

static bool list_index(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {NULL};
    tt_val arg;
    if (!tt_call_bind(r, call, names, 1, 1, &arg)) {
        return false;
    }
    for (size_t i = 0; i < call->self.u.list->n; i++) {
        bool same = false;
        if (!tt_run_charge(r, 0) || !tt_val_equal(r, &call->self.u.list->items[i], &arg, &same)) {
            return false;
        }
        if (same) {
            *ret = tt_val_int((int64_t)i);
            ret->trusted = false;
            return true;
        }
    }
    return tt_run_invalid(r, "the value is not in the list");
}

static bool loop_cycle(tt_run *r, const tt_call *call, tt_val *ret)
{
    if (call->n_pos == 0) {
        return tt_run_invalid(r, "no items for cycling given");
    }
    *ret = call->pos[call->self.u.loop->index0 % call->n_pos];
    return true;
}

static bool loop_changed(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_loop *l = call->self.u.loop;
    tt_val now;
    bool same = false;
    if (!tt_val_list(r, TT_V_TUPLE, 0, &now)) {
        return false;
    }
    for (size_t i = 0; i < call->n_pos; i++) {
        if (!tt_list_add(r, now.u.list, call->pos[i])) {
            return false;
        }
    }
    if (l->last_changed.kind != TT_V_MISSING && !tt_val_equal(r, &l->last_changed, &now, &same)) {
        return false;
    }
    l->last_changed = now;
    *ret = tt_val_bool(!same);
    return true;
}

/* -- Tables -------------------------------------------------------------------------------- */

static const tt_builtin str_methods[] = {
    {"capitalize", str_capitalize},
    {"center", str_center},
    {"count", str_count},
    {"endswith", str_endswith},
    {"find", str_find},
    {"format", tt_method_format},
    {"index", str_index},
    {"isalnum", str_isalnum},
    {"isalpha", str_isalpha},
    {"isascii", str_isascii},
    {"isdecimal", str_isdecimal},
    {"isdigit", str_isdigit},
    {"islower", str_islower},
    {"isnumeric", str_isnumeric},
    {"isprintable", str_isprintable},
    {"isspace", str_isspace},
    {"isupper", str_isupper},
    {"join", str_join},
    {"ljust", str_ljust},
    {"lower", str_lower},
    {"lstrip", str_lstrip},
    {"partition", str_partition},
    {"removeprefix", str_removeprefix},
    {"removesuffix", str_removesuffix},
    {"replace", str_replace},
    {"rfind", str_rfind},
    {"rindex", str_rindex},
    {"rjust", str_rjust},
    {"rpartition", str_rpartition},
    {"rsplit", str_rsplit},
    {"rstrip", str_rstrip},
    {"split", str_split},
    {"splitlines", str_splitlines},
    {"startswith", str_startswith},
    {"strip", str_strip},
    {"swapcase", str_swapcase},
    {"title", str_title},
    {"upper", str_upper},
    {"zfill", str_zfill},
    {NULL, NULL},
};

static const tt_builtin dict_methods[] = {
    {"copy", copy_method}, {"get", dict_get},       {"items", dict_items},
    {"keys", dict_keys},   {"values", dict_values}, {NULL, NULL},
};

static const tt_builtin list_methods[] = {
    {"copy", copy_method},
    {"count", list_count},
    {"index", list_index},
    {NULL, NULL},
};

static const tt_builtin loop_methods[] = {
    {"changed", loop_changed},
    {"cycle", loop_cycle},
    {NULL, NULL},
};

/* What jinja2's immutable sandbox forbids. */
static bool mutates(tt_kind kind, const tt_text *name)
{
    static const char *const of_list[] = {"append", "clear", "pop",    "reverse",
                                          "insert", "sort",  "extend", "remove"};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    const char *const *names = kind == TT_V_LIST ? of_list : of_dict;
    size_t n =
        kind == TT_V_LIST ? sizeof of_list / sizeof of_list[0] : sizeof of_dict / sizeof of_dict[0];
    for (size_t i = 0; (kind == TT_V_LIST || kind == TT_V_DICT) && i < n; i++) {
        if (tt_text_is(name, names[i])) {
            return true;
        }
    }
    return false;
}

const tt_builtin *tt_method_find(tt_kind kind, const tt_text *name, bool *ret_mutates)
{
    const tt_builtin *m = kind == TT_V_STR     ? str_methods
                          : kind == TT_V_DICT  ? dict_methods
                          : kind == TT_V_LIST  ? list_methods
                          : kind == TT_V_TUPLE ? list_methods + 1
                          : kind == TT_V_LOOP  ? loop_methods
                                               : NULL;
    *ret_mutates = mutates(kind, name);
    for (; m != NULL && m->name != NULL; m++) {
        if (tt_text_is(name, m->name)) {
            return m;
        }
    }
    return NULL;
}
