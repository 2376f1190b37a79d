/* template_compare.c - Python's truth, length, equality, order and membership of template values.
 * Thread: one rendering is one thread's. */
#include "core/template_value.h"

#include <math.h>
#include <string.h>

#include "core/template_eval.h"
#include "core/template_unicode.h"

const char *tt_val_type(const tt_val *v)
{
    static const char *const names[] = {
        [TT_V_MISSING] = "missing",  [TT_V_UNDEFINED] = "Undefined",
        [TT_V_NONE] = "NoneType",    [TT_V_BOOL] = "bool",
        [TT_V_INT] = "int",          [TT_V_FLOAT] = "float",
        [TT_V_STR] = "str",          [TT_V_LIST] = "list",
        [TT_V_TUPLE] = "tuple",      [TT_V_DICT] = "dict",
        [TT_V_KEYS] = "dict_keys",   [TT_V_VALUES] = "dict_values",
        [TT_V_ITEMS] = "dict_items", [TT_V_RANGE] = "range",
        [TT_V_ITER] = "generator",   [TT_V_NAMESPACE] = "Namespace",
        [TT_V_MACRO] = "Macro",      [TT_V_METHOD] = "builtin_function_or_method",
        [TT_V_BUILTIN] = "function", [TT_V_LOOP] = "LoopContext",
    };
    return names[v->kind];
}

bool tt_val_truthy(const tt_val *v)
{
    switch (v->kind) {
    case TT_V_MISSING:
    case TT_V_UNDEFINED:
    case TT_V_NONE:
        return false;
    case TT_V_BOOL:
        return v->u.b;
    case TT_V_INT:
        return v->u.i != 0;
    case TT_V_FLOAT:
        return v->u.f != 0;
    case TT_V_STR:
        return v->u.s->n != 0;
    case TT_V_LIST:
    case TT_V_TUPLE:
        return v->u.list->n != 0;
    case TT_V_DICT:
    case TT_V_KEYS:
    case TT_V_VALUES:
    case TT_V_ITEMS:
        return v->u.dict->n != 0;
    case TT_V_RANGE:
        return v->u.range->n != 0;
    default:
        return true;
    }
}

bool tt_val_is_number(const tt_val *v)
{
    return v->kind == TT_V_BOOL || v->kind == TT_V_INT || v->kind == TT_V_FLOAT;
}

bool tt_val_number(const tt_val *v, double *ret)
{
    if (!tt_val_is_number(v)) {
        return false;
    }
    *ret = v->kind == TT_V_FLOAT ? v->u.f : v->kind == TT_V_INT ? (double)v->u.i : v->u.b ? 1 : 0;
    return true;
}

bool tt_val_index(const tt_val *v, int64_t *ret)
{
    if (v->kind != TT_V_BOOL && v->kind != TT_V_INT) {
        return false;
    }
    *ret = v->kind == TT_V_INT ? v->u.i : v->u.b ? 1 : 0;
    return true;
}

bool tt_val_len(tt_run *r, const tt_val *v, size_t *ret)
{
    switch (v->kind) {
    case TT_V_UNDEFINED:
        *ret = 0;
        return true;
    case TT_V_STR:
        *ret = tt_text_chars(r, v->u.s);
        return r->code == TT_OK;
    case TT_V_LIST:
    case TT_V_TUPLE:
        *ret = v->u.list->n;
        return true;
    case TT_V_DICT:
    case TT_V_KEYS:
    case TT_V_VALUES:
    case TT_V_ITEMS:
        *ret = v->u.dict->n;
        return true;
    case TT_V_RANGE:
        *ret = v->u.range->n;
        return true;
    case TT_V_LOOP:
        return tt_loop_length(r, v->u.loop, ret);
    default:
        return tt_run_invalid(r, "object of type '%s' has no len()", tt_val_type(v));
    }
}

/* -1, 0, 1, or 2 when either is NaN. Exact for integers against floats. */
static int compare_numbers(const tt_val *a, const tt_val *b)
{
    int64_t i = 0, j = 0;
    if (tt_val_index(a, &i) && tt_val_index(b, &j)) {
        return i < j ? -1 : i > j;
    }
    double x = 0, y = 0;
    tt_val_number(a, &x);
    tt_val_number(b, &y);
    if (isnan(x) || isnan(y)) {
        return 2;
    }
    if (x != y || isinf(x) || (a->kind == TT_V_FLOAT && b->kind == TT_V_FLOAT)) {
        return x < y ? -1 : x > y;
    }
    /* Equal as doubles: the integer may have lost bits above 2^53. */
    double f = a->kind == TT_V_FLOAT ? x : y;
    if (f >= 9223372036854775808.0) {
        return a->kind == TT_V_FLOAT ? 1 : -1;
    }
    int64_t fi = (int64_t)f;
    if (a->kind == TT_V_FLOAT) {
        tt_val_index(b, &j);
        return fi < j ? -1 : fi > j;
    }
    tt_val_index(a, &i);
    return i < fi ? -1 : i > fi;
}

static bool equal_lists(tt_run *r, const tt_list *a, const tt_list *b, bool *ret)
{
    *ret = a->n == b->n;
    for (size_t i = 0; *ret && i < a->n; i++) {
        if (!tt_run_charge(r, 0) || !tt_val_equal(r, &a->items[i], &b->items[i], ret)) {
            return false;
        }
    }
    return true;
}

static bool equal_dicts(tt_run *r, const tt_dict *a, const tt_dict *b, bool *ret)
{
    *ret = a->n == b->n;
    for (size_t i = 0; *ret && i < a->n; i++) {
        tt_val *other = NULL;
        if (!tt_run_charge(r, 0) || !tt_dict_get(r, b, a->entries[i].key, &other)) {
            return false;
        }
        *ret = other != NULL;
        if (*ret && !tt_val_equal(r, &a->entries[i].value, other, ret)) {
            return false;
        }
    }
    return true;
}

static bool equal_ranges(const tt_range *a, const tt_range *b)
{
    return a->n == b->n &&
           (a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

bool tt_val_equal(tt_run *r, const tt_val *a, const tt_val *b, bool *ret)
{
    if (tt_val_is_number(a) && tt_val_is_number(b)) {
        *ret = compare_numbers(a, b) == 0;
        return true;
    }
    if (a->kind != b->kind) {
        *ret = false;
        return true;
    }
    bool ok = true;
    switch (a->kind) {
    case TT_V_UNDEFINED:
    case TT_V_NONE:
        *ret = true;
        return true;
    case TT_V_STR:
        *ret = tt_text_equal(a->u.s, b->u.s);
        return tt_run_charge(r, a->u.s->n == b->u.s->n ? a->u.s->n : 0);
    case TT_V_LIST:
    case TT_V_TUPLE:
        if (!tt_run_enter(r)) {
            return false;
        }
        ok = equal_lists(r, a->u.list, b->u.list, ret);
        tt_run_leave(r);
        return ok;
    case TT_V_DICT:
    case TT_V_KEYS:
    case TT_V_ITEMS:
        if (!tt_run_enter(r)) {
            return false;
        }
        ok = equal_dicts(r, a->u.dict, b->u.dict, ret);
        tt_run_leave(r);
        return ok;
    case TT_V_RANGE:
        *ret = equal_ranges(a->u.range, b->u.range);
        return true;
    default:
        *ret = a->u.list == b->u.list;
        return true;
    }
}

static bool order_lists(tt_run *r, const tt_list *a, const tt_list *b, const char *op, int *ret)
{
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool same = false;
        if (!tt_run_charge(r, 0) || !tt_val_equal(r, &a->items[i], &b->items[i], &same)) {
            return false;
        }
        if (!same) {
            return tt_val_order(r, &a->items[i], &b->items[i], op, ret);
        }
    }
    *ret = a->n < b->n ? -1 : a->n > b->n;
    return true;
}

bool tt_val_order(tt_run *r, const tt_val *a, const tt_val *b, const char *op, int *ret)
{
    if (tt_val_is_number(a) && tt_val_is_number(b)) {
        *ret = compare_numbers(a, b);
        return true;
    }
    if (a->kind == TT_V_STR && b->kind == TT_V_STR) {
        *ret = tt_text_compare(a->u.s, b->u.s);
        return tt_run_charge(r, a->u.s->n < b->u.s->n ? a->u.s->n : b->u.s->n);
    }
    if (a->kind == b->kind && (a->kind == TT_V_LIST || a->kind == TT_V_TUPLE)) {
        if (!tt_run_enter(r)) {
            return false;
        }
        bool ok = order_lists(r, a->u.list, b->u.list, op, ret);
        tt_run_leave(r);
        return ok;
    }
    if (a->kind == TT_V_UNDEFINED || b->kind == TT_V_UNDEFINED) {
        return tt_run_invalid(r, "%s", tt_undefined_message(r, a->kind == TT_V_UNDEFINED ? a : b));
    }
    return tt_run_invalid(r, "'%s' not supported between instances of '%s' and '%s'", op,
                          tt_val_type(a), tt_val_type(b));
}

static bool range_contains(const tt_range *g, const tt_val *item)
{
    double f = 0;
    if (!tt_val_number(item, &f) || f != floor(f) || fabs(f) > 9e15 || g->n == 0) {
        return false;
    }
    int64_t d = (int64_t)f - g->start;
    return d % g->step == 0 && d / g->step >= 0 && (uint64_t)(d / g->step) < g->n;
}

bool tt_val_contains(tt_run *r, const tt_val *seq, const tt_val *item, bool *ret)
{
    if (seq->kind == TT_V_STR) {
        if (item->kind == TT_V_UNDEFINED || item->kind != TT_V_STR) {
            return tt_run_invalid(r, "'in <string>' requires string as left operand, not %s",
                                  tt_val_type(item));
        }
        *ret = tt_text_find(seq->u.s, item->u.s->p, item->u.s->n, 0) != SIZE_MAX;
        return tt_run_charge(r, seq->u.s->n);
    }
    if (seq->kind == TT_V_DICT || seq->kind == TT_V_KEYS) {
        tt_val *v = NULL;
        if (!tt_dict_get(r, seq->u.dict, *item, &v)) {
            return false;
        }
        *ret = v != NULL;
        return true;
    }
    if (seq->kind == TT_V_RANGE && tt_val_is_number(item)) {
        *ret = range_contains(seq->u.range, item);
        return true;
    }
    tt_iter it;
    if (!tt_val_iterable(seq)) {
        return tt_run_invalid(r, "argument of type '%s' is not iterable", tt_val_type(seq));
    }
    if (!tt_iter_init(r, seq, &it)) {
        return false;
    }
    *ret = false;
    for (bool more = true; more && !*ret;) {
        tt_val v;
        if (!tt_iter_next(r, &it, &v, &more) || (more && !tt_val_equal(r, &v, item, ret))) {
            return false;
        }
    }
    return true;
}
