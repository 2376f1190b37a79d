/* template_eval.c - expressions of a chat template, as Jinja's sandbox evaluates them.
 * Thread: one rendering is one thread's. */
#include "core/template_eval.h"

#include <string.h>

/* -- Attributes and items ------------------------------------------------------------------ */

/* As Jinja names an object in a message. */
static const char *owner_of(const tt_val *v)
{
    switch (v->kind) {
    case TT_V_NONE:
        return "None";
    case TT_V_STR:
        return "str object";
    case TT_V_DICT:
        return "dict object";
    case TT_V_LIST:
        return "list object";
    case TT_V_TUPLE:
        return "tuple object";
    case TT_V_INT:
        return "int object";
    case TT_V_FLOAT:
        return "float object";
    case TT_V_BOOL:
        return "bool object";
    default:
        return "object";
    }
}

/* What Python's getattr finds: methods, entries of a namespace, fields of a loop. MISSING =
 * nothing. */
static bool native_attr(tt_run *r, const tt_val *v, const tt_text *name, tt_val *ret)
{
    *ret = (tt_val){.kind = TT_V_MISSING};
    if (v->kind == TT_V_NAMESPACE) {
        tt_val *found = tt_dict_find(r, v->u.dict, name);
        if (found != NULL && name->n != 0 && name->p[0] != '_') {
            *ret = *found;
        }
        return r->code == TT_OK;
    }
    if (v->kind == TT_V_LOOP &&
        (!tt_loop_attr(r, v->u.loop, name, ret) || ret->kind != TT_V_MISSING)) {
        return r->code == TT_OK;
    }
    if (v->kind == TT_V_TUPLE && v->u.list->group &&
        (tt_text_is(name, "grouper") || tt_text_is(name, "list"))) {
        *ret = v->u.list->items[name->p[0] == 'l'];
        return true;
    }
    bool mutates = false;
    const tt_builtin *f = tt_method_find((tt_kind)v->kind, name, &mutates);
    if (mutates) {
        return tt_val_undefined(r, owner_of(v), name,
                                "a method that modifies its object is not allowed", ret);
    }
    if (f == NULL) {
        return true;
    }
    tt_method *m = tt_run_alloc(r, 1, sizeof *m);
    if (m == NULL) {
        return false;
    }
    *m = (tt_method){.self = *v, .builtin = f};
    *ret = (tt_val){.kind = TT_V_METHOD, .u.method = m};
    return true;
}

static bool is_hashable(const tt_val *v)
{
    bool ok = v->kind != TT_V_LIST && v->kind != TT_V_DICT && v->kind != TT_V_KEYS &&
              v->kind != TT_V_ITEMS;
    for (size_t i = 0; v->kind == TT_V_TUPLE && ok && i < v->u.list->n; i++) {
        const tt_val *item = &v->u.list->items[i];
        ok = item->kind != TT_V_LIST && item->kind != TT_V_DICT;
    }
    return ok;
}

/* obj[key]; MISSING where Python raises TypeError or LookupError. */
static bool subscript(tt_run *r, const tt_val *v, const tt_val *key, tt_val *ret)
{
    *ret = (tt_val){.kind = TT_V_MISSING};
    int64_t i = 0;
    if (v->kind == TT_V_DICT) {
        tt_val *found = NULL;
        if (key->kind == TT_V_TUPLE && !tt_run_charge(r, key->u.list->n * 64)) {
            return false;
        }
        if (is_hashable(key) && !tt_dict_get(r, v->u.dict, *key, &found)) {
            return false;
        }
        *ret = found != NULL ? *found : *ret;
        return true;
    }
    bool sequence = v->kind == TT_V_STR || v->kind == TT_V_LIST || v->kind == TT_V_TUPLE ||
                    v->kind == TT_V_RANGE;
    if (!sequence || !tt_val_index(key, &i)) {
        return true;
    }
    size_t n = 0;
    if (!tt_val_len(r, v, &n)) {
        return false;
    }
    i = i < 0 ? i + (int64_t)n : i;
    if (i < 0 || (uint64_t)i >= n) {
        return true;
    }
    if (v->kind == TT_V_RANGE) {
        *ret = tt_val_int(v->u.range->start + i * v->u.range->step);
    } else if (v->kind == TT_V_STR) {
        size_t off = tt_text_offset(r, v->u.s, (size_t)i);
        tt_iter it = {.over = *v, .pos = off};
        bool more;
        return tt_iter_next(r, &it, ret, &more);
    } else {
        *ret = v->u.list->items[i];
    }
    return true;
}

bool tt_val_attr(tt_run *r, const tt_val *v, const tt_text *name, tt_val *ret)
{
    if (v->kind == TT_V_UNDEFINED) {
        return tt_run_invalid(r, "%s", tt_undefined_message(r, v));
    }
    tt_val key = {.kind = TT_V_STR, .u.s = (tt_text *)name};
    if (!native_attr(r, v, name, ret) ||
        (ret->kind == TT_V_MISSING && !subscript(r, v, &key, ret))) {
        return false;
    }
    return ret->kind != TT_V_MISSING || tt_val_undefined(r, owner_of(v), name, NULL, ret);
}

bool tt_val_item(tt_run *r, const tt_val *v, const tt_val *key, tt_val *ret)
{
    if (v->kind == TT_V_UNDEFINED) {
        return tt_run_invalid(r, "%s", tt_undefined_message(r, v));
    }
    if (!subscript(r, v, key, ret)) {
        return false;
    }
    if (ret->kind == TT_V_MISSING && key->kind == TT_V_STR && !native_attr(r, v, key->u.s, ret)) {
        return false;
    }
    if (ret->kind != TT_V_MISSING) {
        return true;
    }
    tt_text *name = key->kind == TT_V_STR ? key->u.s : tt_val_str(r, key);
    return name != NULL && tt_val_undefined(r, owner_of(v), name, NULL, ret);
}

/* -- Names and targets --------------------------------------------------------------------- */

static bool eval_name(tt_run *r, const tt_node *n, tt_val *ret)
{
    const tt_val *v = tt_scope_find(r, r->scope, n->name);
    const tt_text *name = r->ast->names[n->name];
    if (v != NULL && v->kind != TT_V_MISSING) {
        *ret = *v;
        return true;
    }
    const tt_builtin *f = v == NULL ? tt_global_find(name) : NULL;
    if (f != NULL) {
        *ret = (tt_val){.kind = TT_V_BUILTIN, .u.builtin = f};
        return true;
    }
    return tt_val_undefined(r, NULL, name, NULL, ret);
}

static bool assign_tuple(tt_run *r, const tt_node *target, const tt_val *v)
{
    tt_val items;
    if (!tt_val_iterable(v)) {
        return tt_run_invalid(r, "cannot unpack non-iterable %s object", tt_val_type(v));
    }
    if (!tt_val_to_list(r, v, TT_V_LIST, &items)) {
        return false;
    }
    if (items.u.list->n != target->n) {
        return tt_run_invalid(r, "%s values to unpack (expected %zu, got %zu)",
                              items.u.list->n < target->n ? "not enough" : "too many", target->n,
                              items.u.list->n);
    }
    for (size_t i = 0; i < target->n; i++) {
        if (!tt_assign(r, target->list[i], items.u.list->items[i])) {
            return false;
        }
    }
    return true;
}

bool tt_assign(tt_run *r, const tt_node *target, tt_val v)
{
    if (target->type == TT_N_NAME) {
        return tt_scope_set(r, r->scope, target->name, v);
    }
    if (target->type == TT_N_TUPLE) {
        return assign_tuple(r, target, &v);
    }
    const tt_val *ns = tt_scope_find(r, r->scope, target->name);
    if (ns == NULL || ns->kind != TT_V_NAMESPACE) {
        return tt_run_invalid(r, "cannot assign attribute on non-namespace object");
    }
    return tt_dict_set(r, ns->u.dict, tt_val_text((tt_text *)target->text), v);
}

/* -- Expressions --------------------------------------------------------------------------- */

static bool eval_items(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val l;
    if (!tt_val_list(r, n->type == TT_N_TUPLE ? TT_V_TUPLE : TT_V_LIST, n->n, &l)) {
        return false;
    }
    for (size_t i = 0; i < n->n; i++) {
        if (!tt_eval(r, n->list[i], &l.u.list->items[i])) {
            return false;
        }
    }
    l.u.list->n = n->n;
    *ret = l;
    return true;
}

static bool eval_dict(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val d;
    if (!tt_val_dict(r, &d)) {
        return false;
    }
    for (size_t i = 0; i < n->n; i += 2) {
        tt_val key, value;
        if (!tt_eval(r, n->list[i], &key) || !tt_eval(r, n->list[i + 1], &value) ||
            !tt_dict_set(r, d.u.dict, key, value)) {
            return false;
        }
    }
    *ret = d;
    return true;
}

static bool eval_condition(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val test;
    if (!tt_eval(r, n->b, &test)) {
        return false;
    }
    if (tt_val_truthy(&test)) {
        return tt_eval(r, n->a, ret);
    }
    return n->c != NULL
               ? tt_eval(r, n->c, ret)
               : tt_val_undefined(r, NULL, NULL,
                                  "the inline if-expression evaluated to false and no else "
                                  "section was defined",
                                  ret);
}

static bool eval_logic(tt_run *r, const tt_node *n, tt_val *ret)
{
    if (!tt_eval(r, n->a, ret)) {
        return false;
    }
    return tt_val_truthy(ret) == (n->type == TT_N_OR) || tt_eval(r, n->b, ret);
}

static bool eval_not(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val v;
    if (!tt_eval(r, n->a, &v)) {
        return false;
    }
    *ret = tt_val_bool(!tt_val_truthy(&v));
    return true;
}

/* a < b < c, each operand evaluated once. */
static bool eval_compare(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val left, right;
    bool holds = true;
    if (!tt_eval(r, n->list[0], &left)) {
        return false;
    }
    for (size_t i = 0; holds && i + 1 < n->n; i++) {
        if (!tt_eval(r, n->list[i + 1], &right)) {
            return false;
        }
        r->line = n->line;
        if (!tt_compare(r, (tt_op)n->ops[i], &left, &right, &holds)) {
            return false;
        }
        left = right;
    }
    *ret = tt_val_bool(holds);
    return true;
}

static bool eval_binary(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val a, b;
    if (!tt_eval(r, n->a, &a) || !tt_eval(r, n->b, &b)) {
        return false;
    }
    r->line = n->line;
    return tt_binary(r, (tt_op)n->op, &a, &b, ret);
}

static bool eval_concat(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_textbuf *b = tt_textbuf_new(r);
    for (size_t i = 0; b != NULL && i < n->n; i++) {
        tt_val v;
        if (!tt_eval(r, n->list[i], &v)) {
            return false;
        }
        tt_text *t = tt_val_str(r, &v);
        if (t == NULL || !tt_textbuf_add_text(r, b, t)) {
            return false;
        }
    }
    return b != NULL && tt_val_set_text(tt_textbuf_text(r, b), ret);
}

static bool eval_sign(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val v;
    if (!tt_eval(r, n->a, &v)) {
        return false;
    }
    r->line = n->line;
    return tt_unary(r, n->type == TT_N_NEG, &v, ret);
}

static bool eval_attr(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val v;
    if (!tt_eval(r, n->a, &v)) {
        return false;
    }
    r->line = n->line;
    return tt_val_attr(r, &v, n->text, ret);
}

static bool eval_item(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val v, key;
    if (!tt_eval(r, n->a, &v) || !tt_eval(r, n->b, &key)) {
        return false;
    }
    r->line = n->line;
    return tt_val_item(r, &v, &key, ret);
}

static bool eval_slice(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val v, part[3] = {{.kind = TT_V_NONE}, {.kind = TT_V_NONE}, {.kind = TT_V_NONE}};
    if (!tt_eval(r, n->a, &v)) {
        return false;
    }
    for (size_t i = 0; i < 3; i++) {
        if (n->list[i] != NULL && !tt_eval(r, n->list[i], &part[i])) {
            return false;
        }
    }
    r->line = n->line;
    return tt_slice(r, &v, part, ret);
}

static bool eval_node(tt_run *r, const tt_node *n, tt_val *ret)
{
    switch ((tt_node_type)n->type) {
    case TT_N_CONST:
        *ret = n->value;
        return true;
    case TT_N_INPUT:
        *ret = r->input;
        return true;
    case TT_N_NAME:
        return eval_name(r, n, ret);
    case TT_N_TUPLE:
    case TT_N_LIST:
        return eval_items(r, n, ret);
    case TT_N_DICT:
        return eval_dict(r, n, ret);
    case TT_N_COND:
        return eval_condition(r, n, ret);
    case TT_N_OR:
    case TT_N_AND:
        return eval_logic(r, n, ret);
    case TT_N_NOT:
        return eval_not(r, n, ret);
    case TT_N_COMPARE:
        return eval_compare(r, n, ret);
    case TT_N_BINARY:
        return eval_binary(r, n, ret);
    case TT_N_CONCAT:
        return eval_concat(r, n, ret);
    case TT_N_NEG:
    case TT_N_POS:
        return eval_sign(r, n, ret);
    case TT_N_ATTR:
        return eval_attr(r, n, ret);
    case TT_N_ITEM:
        return eval_item(r, n, ret);
    case TT_N_SLICE:
        return eval_slice(r, n, ret);
    case TT_N_CALL:
        return tt_eval_call(r, n, NULL, ret);
    case TT_N_FILTER:
    case TT_N_TEST:
        return tt_eval_builtin(r, n, ret);
    default:
        return tt_run_fail(r, TT_E_INTERNAL, "node %u is no expression", n->type);
    }
}

bool tt_eval(tt_run *r, const tt_node *n, tt_val *ret)
{
    r->line = n->line;
    if (!tt_run_enter(r)) {
        return false;
    }
    bool ok = eval_node(r, n, ret);
    tt_run_leave(r);
    return ok;
}
