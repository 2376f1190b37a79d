/* template_sequences.c - Jinja's filters on sequences and mappings. Those that are generators in
 * jinja2 give a value that is consumed by iterating, always true and without length, but are
 * computed at once. Thread: one rendering is one thread's. */
#include "core/template_builtins.h"

#include <string.h>

#include "core/template_strings.h"

/* -- Attributes of items ------------------------------------------------------------------- */

/* "a.b.0": item access by each part, digits as integers. Not a text: one part. */
typedef struct attr_path {
    tt_val *parts;
    size_t n;
    tt_val default_value; /* MISSING or NONE = none */
    bool ignore_case;
} attr_path;

static bool all_digits(const tt_text *t)
{
    size_t i = 0;
    while (i < t->n && t->p[i] >= '0' && t->p[i] <= '9') {
        i++;
    }
    return i == t->n && i > 0 && i < 18;
}

static bool path_of(tt_run *r, const tt_val *attr, attr_path *ret)
{
    tt_text dot = {.p = ".", .n = 1, .n_chars = 1};
    tt_val parts;
    *ret = (attr_path){.default_value = {.kind = TT_V_MISSING}};
    if (attr->kind == TT_V_MISSING || attr->kind == TT_V_NONE) {
        return true;
    }
    if (attr->kind != TT_V_STR) {
        ret->parts = tt_run_alloc(r, 1, sizeof *ret->parts);
        ret->n = 1;
        return ret->parts != NULL && (ret->parts[0] = *attr, true);
    }
    if (!tt_text_split(r, attr->u.s, &dot, -1, false, &parts)) {
        return false;
    }
    ret->parts = parts.u.list->items;
    ret->n = parts.u.list->n;
    for (size_t i = 0; i < ret->n; i++) {
        const tt_text *t = ret->parts[i].u.s;
        if (all_digits(t)) {
            int64_t v = 0;
            for (size_t k = 0; k < t->n; k++) {
                v = v * 10 + (t->p[k] - '0');
            }
            ret->parts[i] = tt_val_int(v);
        }
    }
    return true;
}

static bool path_get(tt_run *r, const attr_path *path, tt_val item, tt_val *ret)
{
    for (size_t i = 0; i < path->n; i++) {
        tt_val next;
        if (!tt_val_item(r, &item, &path->parts[i], &next)) {
            return false;
        }
        bool use_default = next.kind == TT_V_UNDEFINED && path->default_value.kind > TT_V_NONE;
        item = use_default ? path->default_value : next;
    }
    if (path->ignore_case && item.kind == TT_V_STR) {
        return tt_val_set_text(tt_text_case(r, item.u.s, TT_CASE_LOWER), ret);
    }
    *ret = item;
    return true;
}

/* -- Sorting ------------------------------------------------------------------------------- */

typedef struct keyed {
    tt_val key, value;
} keyed;

/* Stable merge sort by "<" on the keys, as Python's. */
static bool merge_sort(tt_run *r, keyed *a, keyed *tmp, size_t n)
{
    if (n < 2) {
        return true;
    }
    size_t half = n / 2, i = 0, j = half, k = 0;
    if (!merge_sort(r, a, tmp, half) || !merge_sort(r, a + half, tmp, n - half)) {
        return false;
    }
    while (i < half && j < n) {
        int order = 0;
        if (!tt_run_charge(r, 0) || !tt_val_order(r, &a[j].key, &a[i].key, "<", &order)) {
            return false;
        }
        tmp[k++] = order < 0 ? a[j++] : a[i++]; /* NaN (2) is not less */
    }
    memcpy(tmp + k, a + i, (half - i) * sizeof *a);
    memcpy(a, tmp, (k + half - i) * sizeof *a);
    return true;
}

static void reverse_keyed(keyed *a, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        keyed v = a[i];
        a[i] = a[n - 1 - i];
        a[n - 1 - i] = v;
    }
}

/* The key of an item: the list of its paths' values. A list, because its order asks for equality
 * before it asks for "<". */
static bool key_of(tt_run *r, const attr_path *paths, size_t n_paths, tt_val item, tt_val *ret)
{
    tt_val l;
    if (!tt_val_list(r, TT_V_LIST, n_paths, &l)) {
        return false;
    }
    for (size_t i = 0; i < n_paths; i++) {
        if (!path_get(r, &paths[i], item, &l.u.list->items[i])) {
            return false;
        }
    }
    l.u.list->n = n_paths;
    *ret = l;
    return true;
}

/* Items of `list` with their keys, sorted; [list->n] in the arena. */
static keyed *sort_list(tt_run *r, const tt_list *list, const attr_path *paths, size_t n_paths,
                        bool reverse)
{
    /* n_paths 0: the key is the value of paths[0] alone */
    keyed *a = tt_run_alloc(r, list->n * 2 + 1, sizeof *a);
    for (size_t i = 0; a != NULL && i < list->n; i++) {
        a[i].value = list->items[i];
        bool ok = n_paths == 0 ? path_get(r, &paths[0], list->items[i], &a[i].key)
                               : key_of(r, paths, n_paths, list->items[i], &a[i].key);
        if (!ok) {
            return NULL;
        }
    }
    if (a == NULL) {
        return NULL;
    }
    if (reverse) { /* so that equal items keep their order */
        reverse_keyed(a, list->n);
    }
    if (!merge_sort(r, a, a + list->n, list->n)) {
        return NULL;
    }
    if (reverse) {
        reverse_keyed(a, list->n);
    }
    return a;
}

static bool list_of(tt_run *r, const keyed *a, size_t n, tt_val *ret)
{
    tt_val v;
    if (a == NULL || !tt_val_list(r, TT_V_LIST, n, &v)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        v.u.list->items[i] = a[i].value;
    }
    v.u.list->n = n;
    *ret = v;
    return true;
}

bool tt_filter_sort(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"reverse", "case_sensitive", "attribute"};
    tt_text comma = {.p = ",", .n = 1, .n_chars = 1};
    tt_val arg[3], list, attrs;
    if (!tt_call_bind(r, call, names, 3, 0, arg) ||
        !tt_val_to_list(r, &call->self, TT_V_LIST, &list)) {
        return false;
    }
    if (arg[2].kind == TT_V_STR) {
        if (!tt_text_split(r, arg[2].u.s, &comma, -1, false, &attrs)) {
            return false;
        }
    } else if (!tt_val_list(r, TT_V_LIST, 1, &attrs) || !tt_list_add(r, attrs.u.list, arg[2])) {
        return false;
    }
    size_t n = attrs.u.list->n;
    attr_path *paths = tt_run_alloc(r, n, sizeof *paths);
    for (size_t i = 0; paths != NULL && i < n; i++) {
        if (!path_of(r, &attrs.u.list->items[i], &paths[i])) {
            return false;
        }
        paths[i].ignore_case = !tt_val_truthy(&arg[1]);
    }
    return paths != NULL && list_of(r, sort_list(r, list.u.list, paths, n, tt_val_truthy(&arg[0])),
                                    list.u.list->n, ret);
}

bool tt_filter_dictsort(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"case_sensitive", "by", "reverse"};
    tt_val arg[3], list, items = call->self;
    if (!tt_call_bind(r, call, names, 3, 0, arg)) {
        return false;
    }
    if (items.kind != TT_V_DICT) {
        return tt_run_invalid(r, "dictsort() needs a dict, not %s", tt_val_type(&items));
    }
    bool by_value = arg[1].kind == TT_V_STR && tt_text_is(arg[1].u.s, "value");
    if (!by_value && arg[1].kind != TT_V_MISSING &&
        !(arg[1].kind == TT_V_STR && tt_text_is(arg[1].u.s, "key"))) {
        return tt_run_invalid(r, "You can only sort by either \"key\" or \"value\"");
    }
    items.kind = TT_V_ITEMS;
    tt_val part = tt_val_int(by_value);
    attr_path path;
    if (!tt_val_to_list(r, &items, TT_V_LIST, &list) || !path_of(r, &part, &path)) {
        return false;
    }
    path.ignore_case = !tt_val_truthy(&arg[0]);
    return list_of(r, sort_list(r, list.u.list, &path, 0, tt_val_truthy(&arg[2])), list.u.list->n,
                   ret);
}

bool tt_filter_groupby(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"attribute", "default", "case_sensitive"};
    tt_val arg[3], list, out, group = {.kind = TT_V_MISSING};
    attr_path path;
    if (!tt_call_bind(r, call, names, 3, 1, arg) ||
        !tt_val_to_list(r, &call->self, TT_V_LIST, &list) || !path_of(r, &arg[0], &path) ||
        !tt_val_list(r, TT_V_LIST, 0, &out)) {
        return false;
    }
    path.default_value = arg[1];
    path.ignore_case = !tt_val_truthy(&arg[2]);
    keyed *a = sort_list(r, list.u.list, &path, 0, false);
    if (a == NULL) {
        return false;
    }
    path.ignore_case = false;
    for (size_t i = 0; i < list.u.list->n; i++) {
        bool same = false;
        if (i > 0 && !tt_val_equal(r, &a[i - 1].key, &a[i].key, &same)) {
            return false;
        }
        if (!same) {
            tt_val key, pair;
            if (!path_get(r, &path, a[i].value, &key) || !tt_val_list(r, TT_V_LIST, 0, &group) ||
                !tt_val_pair(r, key, group, &pair) || !tt_list_add(r, out.u.list, pair)) {
                return false;
            }
            pair.u.list->group = true;
        }
        if (!tt_list_add(r, group.u.list, a[i].value)) {
            return false;
        }
    }
    *ret = out;
    return true;
}

static bool extreme(tt_run *r, const tt_call *call, bool want_max, tt_val *ret)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    tt_val arg[2], list, best_key = {.kind = TT_V_MISSING}, key;
    attr_path path;
    if (!tt_call_bind(r, call, names, 2, 0, arg) ||
        !tt_val_to_list(r, &call->self, TT_V_LIST, &list) || !path_of(r, &arg[1], &path)) {
        return false;
    }
    path.ignore_case = !tt_val_truthy(&arg[0]);
    if (list.u.list->n == 0) {
        return tt_val_undefined(r, NULL, NULL, "No aggregated item, sequence was empty.", ret);
    }
    for (size_t i = 0; i < list.u.list->n; i++) {
        int order = 0;
        if (!path_get(r, &path, list.u.list->items[i], &key) ||
            (i > 0 && !tt_val_order(r, &key, &best_key, want_max ? ">" : "<", &order))) {
            return false;
        }
        if (i == 0 || order == (want_max ? 1 : -1)) {
            best_key = key;
            *ret = list.u.list->items[i];
        }
    }
    return true;
}

bool tt_filter_max(tt_run *r, const tt_call *call, tt_val *ret)
{
    return extreme(r, call, true, ret);
}

bool tt_filter_min(tt_run *r, const tt_call *call, tt_val *ret)
{
    return extreme(r, call, false, ret);
}

/* -- map, select, reject ------------------------------------------------------------------- */

/* The built-in that is named by argument `at`, and the call with the arguments after it. */
static bool named_builtin(tt_run *r, const tt_call *call, size_t at, bool filter, tt_call *ret_call,
                          const tt_builtin **ret_builtin)
{
    bool known;
    const tt_text *name = tt_arg_text(r, call, &call->pos[at]);
    const tt_builtin *f = NULL;
    if (name != NULL) {
        f = (filter ? tt_filter_find : tt_test_find)(name->p, name->n, &known);
    }
    if (f == NULL) {
        return name != NULL &&
               tt_run_fail(r, TT_E_UNSUPPORTED, "no %s named '%.*s'", filter ? "filter" : "test",
                           (int)(name->n < 60 ? name->n : 60), name->p);
    }
    *ret_call = *call;
    ret_call->name = f->name;
    ret_call->pos += at + 1;
    ret_call->n_pos -= at + 1;
    *ret_builtin = f;
    return true;
}

/* Jinja's "if value": nothing at all for what is false, before it is asked whether it can be
 * iterated. */
static bool start_generator(tt_run *r, const tt_call *call, tt_iter *it, tt_val *out)
{
    tt_val none;
    if (!tt_val_list(r, TT_V_LIST, 0, out)) {
        return false;
    }
    bool empty = !tt_val_truthy(&call->self);
    return tt_iter_init(r, empty ? (none = *out, &none) : &call->self, it);
}

bool tt_filter_map(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_val out, arg[2] = {{.kind = TT_V_MISSING}, {.kind = TT_V_MISSING}};
    tt_iter it;
    tt_call inner;
    const tt_builtin *f = NULL;
    attr_path path = {.parts = NULL};
    static const char *const names[] = {"attribute", "default"};
    if (!start_generator(r, call, &it, &out)) {
        return false;
    }
    if (call->n_pos == 0) {
        if (!tt_call_bind(r, call, names, 2, 1, arg) || !path_of(r, &arg[0], &path)) {
            return false;
        }
        path.default_value = arg[1];
    } else if (!named_builtin(r, call, 0, true, &inner, &f)) {
        return false;
    }
    for (bool more = true; more;) {
        tt_val item, v;
        if (!tt_iter_next(r, &it, &item, &more)) {
            return false;
        }
        if (!more) {
            break;
        }
        inner.self = f != NULL ? item : inner.self;
        if (!(f != NULL ? f->func(r, &inner, &v) : path_get(r, &path, item, &v)) ||
            !tt_list_add(r, out.u.list, v)) {
            return false;
        }
    }
    return tt_val_iter_of(r, out, ret);
}

static bool select_items(tt_run *r, const tt_call *call, bool by_attr, bool wanted, tt_val *ret)
{
    tt_val out;
    tt_iter it;
    tt_call inner;
    const tt_builtin *f = NULL;
    attr_path path = {.parts = NULL};
    if (!start_generator(r, call, &it, &out)) {
        return false;
    }
    if (by_attr && call->n_pos == 0) {
        return tt_run_invalid(r, "Missing parameter for attribute name");
    }
    if ((by_attr && !path_of(r, &call->pos[0], &path)) ||
        (call->n_pos > by_attr && !named_builtin(r, call, by_attr, false, &inner, &f))) {
        return false;
    }
    for (bool more = true; more;) {
        tt_val item, v;
        if (!tt_iter_next(r, &it, &item, &more)) {
            return false;
        }
        if (!more) {
            break;
        }
        if (!path_get(r, &path, item, &v)) {
            return false;
        }
        if (f != NULL) {
            inner.self = v;
            if (!f->func(r, &inner, &v)) {
                return false;
            }
        }
        if (tt_val_truthy(&v) == wanted && !tt_list_add(r, out.u.list, item)) {
            return false;
        }
    }
    return tt_val_iter_of(r, out, ret);
}

bool tt_filter_select(tt_run *r, const tt_call *call, tt_val *ret)
{
    return select_items(r, call, false, true, ret);
}

bool tt_filter_reject(tt_run *r, const tt_call *call, tt_val *ret)
{
    return select_items(r, call, false, false, ret);
}

bool tt_filter_selectattr(tt_run *r, const tt_call *call, tt_val *ret)
{
    return select_items(r, call, true, true, ret);
}

bool tt_filter_rejectattr(tt_run *r, const tt_call *call, tt_val *ret)
{
    return select_items(r, call, true, false, ret);
}

bool tt_filter_unique(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    tt_val arg[2], list, out, seen;
    attr_path path;
    if (!tt_call_bind(r, call, names, 2, 0, arg) ||
        !tt_val_to_list(r, &call->self, TT_V_LIST, &list) || !path_of(r, &arg[1], &path) ||
        !tt_val_list(r, TT_V_LIST, 0, &out) || !tt_val_dict(r, &seen)) {
        return false;
    }
    path.ignore_case = !tt_val_truthy(&arg[0]);
    for (size_t i = 0; i < list.u.list->n; i++) {
        tt_val key, *before = NULL;
        if (!path_get(r, &path, list.u.list->items[i], &key) ||
            !tt_dict_get(r, seen.u.dict, key, &before)) {
            return false;
        }
        if (before == NULL && (!tt_dict_set(r, seen.u.dict, key, tt_val_none()) ||
                               !tt_list_add(r, out.u.list, list.u.list->items[i]))) {
            return false;
        }
    }
    return tt_val_iter_of(r, out, ret);
}

/* -- The others ---------------------------------------------------------------------------- */

bool tt_filter_length(tt_run *r, const tt_call *call, tt_val *ret)
{
    size_t n = 0;
    if (!tt_call_bind(r, call, NULL, 0, 0, NULL) || !tt_val_len(r, &call->self, &n)) {
        return false;
    }
    *ret = tt_val_int((int64_t)n);
    ret->trusted = false; /* the request chooses it */
    return true;
}

bool tt_filter_list(tt_run *r, const tt_call *call, tt_val *ret)
{
    return tt_call_bind(r, call, NULL, 0, 0, NULL) &&
           tt_val_to_list(r, &call->self, TT_V_LIST, ret);
}

bool tt_filter_items(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_val v = call->self, list;
    if (!tt_call_bind(r, call, NULL, 0, 0, NULL)) {
        return false;
    }
    if (v.kind != TT_V_DICT && v.kind != TT_V_UNDEFINED) {
        return tt_run_invalid(r, "Can only get item pairs from a mapping.");
    }
    v.kind = v.kind == TT_V_DICT ? TT_V_ITEMS : v.kind;
    return tt_val_to_list(r, &v, TT_V_LIST, &list) && tt_val_iter_of(r, list, ret);
}

bool tt_filter_first(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_iter it;
    bool more = false;
    if (!tt_call_bind(r, call, NULL, 0, 0, NULL) || !tt_iter_init(r, &call->self, &it) ||
        !tt_iter_next(r, &it, ret, &more)) {
        return false;
    }
    return more || tt_val_undefined(r, NULL, NULL, "No first item, sequence was empty.", ret);
}

bool tt_filter_last(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_val list;
    const tt_val *v = &call->self;
    if (!tt_call_bind(r, call, NULL, 0, 0, NULL)) {
        return false;
    }
    if (!tt_val_iterable(v) || v->kind == TT_V_ITER || v->kind == TT_V_LOOP) {
        return tt_run_invalid(r, "'%s' object is not reversible", tt_val_type(v));
    }
    if (v->kind == TT_V_STR && v->u.s->n != 0) {
        tt_val minus = tt_val_int(-1);
        return tt_val_item(r, v, &minus, ret);
    }
    if (!tt_val_to_list(r, v, TT_V_LIST, &list)) {
        return false;
    }
    if (list.u.list->n == 0) {
        return tt_val_undefined(r, NULL, NULL, "No last item, sequence was empty.", ret);
    }
    *ret = list.u.list->items[list.u.list->n - 1];
    return true;
}

bool tt_filter_reverse(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_val list;
    const tt_val *v = &call->self;
    if (!tt_call_bind(r, call, NULL, 0, 0, NULL)) {
        return false;
    }
    if (v->kind == TT_V_STR) {
        return tt_val_set_text(tt_text_reverse(r, v->u.s), ret);
    }
    if (!tt_val_to_list(r, v, TT_V_LIST, &list)) {
        return false;
    }
    tt_list *l = list.u.list;
    for (size_t i = 0; i < l->n / 2; i++) {
        tt_val x = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = x;
    }
    if (v->kind == TT_V_ITER) {
        *ret = list;
        return true;
    }
    return tt_val_iter_of(r, list, ret);
}

tt_text *tt_join(tt_run *r, const tt_text *sep, const tt_val *items, bool strings_only)
{
    tt_iter it;
    tt_textbuf *b = tt_textbuf_new(r);
    if (b == NULL || !tt_iter_init(r, items, &it)) {
        return NULL;
    }
    for (size_t i = 0;; i++) {
        tt_val v;
        bool more;
        if (!tt_iter_next(r, &it, &v, &more)) {
            return NULL;
        }
        if (!more) {
            return tt_textbuf_text(r, b);
        }
        if (strings_only && v.kind != TT_V_STR) {
            tt_run_invalid(r, "sequence item %zu: expected str instance, %s found", i,
                           tt_val_type(&v));
            return NULL;
        }
        tt_text *t = tt_val_str(r, &v);
        if (t == NULL || (i != 0 && !tt_textbuf_add_text(r, b, sep)) ||
            !tt_textbuf_add_text(r, b, t)) {
            return NULL;
        }
    }
}

bool tt_filter_join(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"d", "attribute"};
    tt_val arg[2], mapped = call->self;
    if (!tt_call_bind(r, call, names, 2, 0, arg)) {
        return false;
    }
    if (arg[1].kind != TT_V_MISSING && arg[1].kind != TT_V_NONE) {
        attr_path path;
        if (!tt_val_to_list(r, &call->self, TT_V_LIST, &mapped) || !path_of(r, &arg[1], &path)) {
            return false;
        }
        for (size_t i = 0; i < mapped.u.list->n; i++) {
            if (!path_get(r, &path, mapped.u.list->items[i], &mapped.u.list->items[i])) {
                return false;
            }
        }
    }
    tt_text *sep = arg[0].kind == TT_V_MISSING ? tt_text_cstr(r, "") : tt_val_str(r, &arg[0]);
    return sep != NULL && tt_val_set_text(tt_join(r, sep, &mapped, false), ret);
}

bool tt_filter_sum(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"attribute", "start"};
    tt_val arg[2], list, sum;
    attr_path path;
    if (!tt_call_bind(r, call, names, 2, 0, arg) ||
        !tt_val_to_list(r, &call->self, TT_V_LIST, &list) || !path_of(r, &arg[0], &path)) {
        return false;
    }
    sum = arg[1].kind == TT_V_MISSING ? tt_val_int(0) : arg[1];
    if (sum.kind == TT_V_STR) {
        return tt_run_invalid(r, "sum() can't sum strings [use ''.join(seq) instead]");
    }
    for (size_t i = 0; i < list.u.list->n; i++) {
        tt_val v, next;
        if (!path_get(r, &path, list.u.list->items[i], &v) ||
            !tt_binary(r, TT_OP_ADD, &sum, &v, &next)) {
            return false;
        }
        sum = next;
    }
    *ret = sum;
    return true;
}

bool tt_filter_batch(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"linecount", "fill_with"};
    tt_val arg[2], list, out, row = {.kind = TT_V_MISSING};
    int64_t n = 0;
    if (!tt_call_bind(r, call, names, 2, 1, arg) || !tt_arg_int(r, call, &arg[0], 0, &n) ||
        !tt_val_to_list(r, &call->self, TT_V_LIST, &list) || !tt_val_list(r, TT_V_LIST, 0, &out)) {
        return false;
    }
    for (size_t i = 0; i < list.u.list->n; i++) {
        bool full = row.kind != TT_V_MISSING && (int64_t)row.u.list->n == n;
        if ((full || row.kind == TT_V_MISSING) &&
            (!tt_val_list(r, TT_V_LIST, 0, &row) ||
             (n != 0 || i == 0 ? !tt_list_add(r, out.u.list, row) : false))) {
            return false;
        }
        if (!tt_list_add(r, row.u.list, list.u.list->items[i])) {
            return false;
        }
    }
    bool fill = row.kind != TT_V_MISSING && arg[1].kind != TT_V_MISSING && arg[1].kind != TT_V_NONE;
    while (fill && (int64_t)row.u.list->n < n) {
        if (!tt_run_charge(r, 0) || !tt_list_add(r, row.u.list, arg[1])) {
            return false;
        }
    }
    return tt_val_iter_of(r, out, ret);
}

bool tt_filter_slice(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"slices", "fill_with"};
    tt_val arg[2], list, out;
    int64_t slices = 0;
    if (!tt_call_bind(r, call, names, 2, 1, arg) || !tt_arg_int(r, call, &arg[0], 0, &slices) ||
        !tt_val_to_list(r, &call->self, TT_V_LIST, &list) || !tt_val_list(r, TT_V_LIST, 0, &out)) {
        return false;
    }
    if (slices == 0) {
        return tt_run_invalid(r, "integer division or modulo by zero");
    }
    size_t n = list.u.list->n, at = 0;
    for (int64_t s = 0; s < slices; s++) {
        size_t extra = n % (size_t)slices, size = n / (size_t)slices + ((size_t)s < extra);
        bool fill = (size_t)s >= extra && arg[1].kind != TT_V_MISSING && arg[1].kind != TT_V_NONE;
        tt_val row;
        if (!tt_run_charge(r, 0) || !tt_val_list(r, TT_V_LIST, size, &row)) {
            return false;
        }
        for (size_t i = 0; i < size; i++) {
            row.u.list->items[row.u.list->n++] = list.u.list->items[at++];
        }
        if ((fill && !tt_list_add(r, row.u.list, arg[1])) || !tt_list_add(r, out.u.list, row)) {
            return false;
        }
    }
    return tt_val_iter_of(r, out, ret);
}
