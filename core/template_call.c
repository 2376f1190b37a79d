/* template_call.c - arguments and calls of macros, methods, global functions, filters and tests in
 * a chat template. Thread: one rendering is one thread's. */
#include "core/template_eval.h"

#include <string.h>

/* Arguments under construction. */
typedef struct arg_list {
    tt_val *pos;
    size_t n_pos;
    const tt_text **names;
    tt_val *kw;
    size_t n_kw;
} arg_list;

static bool add_keyword(tt_run *r, arg_list *l, const tt_text *name, tt_val v)
{
    for (size_t i = 0; i < l->n_kw; i++) {
        if (tt_text_equal(l->names[i], name)) {
            return tt_run_invalid(r, "multiple values for keyword argument '%.*s'",
                                  (int)(name->n < 60 ? name->n : 60), name->p);
        }
    }
    l->names[l->n_kw] = name;
    l->kw[l->n_kw++] = v;
    return true;
}

static bool add_star_star(tt_run *r, arg_list *l, const tt_val *v)
{
    if (v->kind != TT_V_DICT) {
        return tt_run_invalid(r, "argument after ** must be a mapping, not %s", tt_val_type(v));
    }
    for (size_t i = 0; i < v->u.dict->n; i++) {
        const tt_dict_entry *e = &v->u.dict->entries[i];
        if (e->key.kind != TT_V_STR) {
            return tt_run_invalid(r, "keywords must be strings");
        }
        if (!add_keyword(r, l, e->key.u.s, e->value)) {
            return false;
        }
    }
    return true;
}

/* Evaluates `args` (or NULL) with room for the caller keyword. */
static bool eval_args(tt_run *r, const tt_args *args, arg_list *l)
{
    *l = (arg_list){0};
    tt_val star = {.kind = TT_V_MISSING}, star_star = {.kind = TT_V_MISSING}, list;
    size_t n_pos = args == NULL ? 0 : args->n_pos, n_kw = (args == NULL ? 0 : args->n_kw) + 1;
    l->pos = tt_run_alloc(r, n_pos + 1, sizeof *l->pos);
    for (size_t i = 0; l->pos != NULL && i < n_pos; i++) {
        if (!tt_eval(r, args->pos[i], &l->pos[l->n_pos++])) {
            return false;
        }
    }
    tt_val *kw = tt_run_alloc(r, n_kw, sizeof *kw);
    if (l->pos == NULL || kw == NULL) {
        return false;
    }
    for (size_t i = 0; i + 1 < n_kw; i++) {
        if (!tt_eval(r, args->kw[i], &kw[i])) {
            return false;
        }
    }
    if (args != NULL && args->star != NULL) {
        if (!tt_eval(r, args->star, &star) || !tt_val_to_list(r, &star, TT_V_LIST, &list)) {
            return false;
        }
        tt_val *all = tt_run_alloc(r, n_pos + list.u.list->n + 1, sizeof *all);
        if (all == NULL) {
            return false;
        }
        memcpy(all, l->pos, n_pos * sizeof *all);
        if (list.u.list->n != 0) {
            memcpy(all + n_pos, list.u.list->items, list.u.list->n * sizeof *all);
        }
        l->pos = all;
        l->n_pos += list.u.list->n;
    }
    if (args != NULL && args->star_star != NULL) {
        if (!tt_eval(r, args->star_star, &star_star)) {
            return false;
        }
        n_kw += star_star.kind == TT_V_DICT ? star_star.u.dict->n : 0;
    }
    l->kw = tt_run_alloc(r, n_kw, sizeof *l->kw);
    l->names = tt_run_alloc(r, n_kw, sizeof *l->names);
    if (l->kw == NULL || l->names == NULL) {
        return false;
    }
    for (size_t i = 0; args != NULL && i < args->n_kw; i++) {
        if (!add_keyword(r, l, args->kw_names[i], kw[i])) {
            return false;
        }
    }
    return star_star.kind == TT_V_MISSING || add_star_star(r, l, &star_star);
}

/* -- Macros -------------------------------------------------------------------------------- */

static bool take_keyword(arg_list *l, const tt_text *name, tt_val *ret)
{
    for (size_t i = 0; i < l->n_kw; i++) {
        if (tt_text_equal(l->names[i], name)) {
            *ret = l->kw[i];
            l->n_kw--;
            memmove(&l->kw[i], &l->kw[i + 1], (l->n_kw - i) * sizeof *l->kw);
            memmove(&l->names[i], &l->names[i + 1], (l->n_kw - i) * sizeof *l->names);
            return true;
        }
    }
    return false;
}

static bool bind_parameters(tt_run *r, const tt_params *p, arg_list *l, tt_scope *scope)
{
    for (size_t i = 0; i < p->n; i++) {
        tt_val v = {.kind = TT_V_MISSING};
        if (i < l->n_pos) {
            v = l->pos[i];
        } else {
            take_keyword(l, p->texts[i], &v);
        }
        if (v.kind == TT_V_MISSING && i + p->n_defaults >= p->n) {
            tt_scope *outer = r->scope;
            r->scope = scope;
            bool ok = tt_eval(r, p->defaults[i + p->n_defaults - p->n], &v);
            r->scope = outer;
            if (!ok) {
                return false;
            }
        }
        if (v.kind == TT_V_MISSING && !tt_val_undefined(r, NULL, p->texts[i], NULL, &v)) {
            return false;
        }
        if (!tt_scope_set(r, scope, p->names[i], v)) {
            return false;
        }
    }
    return true;
}

static bool bind_kwargs(tt_run *r, const arg_list *l, tt_scope *scope)
{
    tt_val d;
    if (!tt_val_dict(r, &d)) {
        return false;
    }
    for (size_t i = 0; i < l->n_kw; i++) {
        if (!tt_dict_set(r, d.u.dict, tt_val_text((tt_text *)l->names[i]), l->kw[i])) {
            return false;
        }
    }
    return tt_scope_set(r, scope, TT_NAME_KWARGS, d);
}

/* What is left after the parameters: caller, kwargs and varargs, if the body asks for them. */
static bool bind_surplus(tt_run *r, const tt_macro *m, arg_list *l, tt_scope *scope)
{
    const tt_params *p = m->params;
    const char *name = m->name == NULL ? "caller" : m->name->p;
    int name_n = m->name == NULL ? 6 : (int)(m->name->n < 60 ? m->name->n : 60);
    if (p->uses_caller) {
        tt_val v;
        if (!take_keyword(l, r->ast->names[TT_NAME_CALLER], &v) &&
            !tt_val_undefined(r, NULL, NULL, "No caller defined", &v)) {
            return false;
        }
        if (!tt_scope_set(r, scope, TT_NAME_CALLER, v)) {
            return false;
        }
    }
    if (p->uses_kwargs) {
        if (!bind_kwargs(r, l, scope)) {
            return false;
        }
    } else if (l->n_kw != 0) {
        return tt_run_invalid(r, "macro '%.*s' takes no keyword argument '%.*s'", name_n, name,
                              (int)(l->names[0]->n < 60 ? l->names[0]->n : 60), l->names[0]->p);
    }
    if (p->uses_varargs) {
        tt_val rest;
        if (!tt_val_list(r, TT_V_TUPLE, 0, &rest)) {
            return false;
        }
        for (size_t i = p->n; i < l->n_pos; i++) {
            if (!tt_list_add(r, rest.u.list, l->pos[i])) {
                return false;
            }
        }
        return tt_scope_set(r, scope, TT_NAME_VARARGS, rest);
    }
    return l->n_pos <= p->n || tt_run_invalid(r, "macro '%.*s' takes not more than %zu argument(s)",
                                              name_n, name, p->n);
}

static bool call_macro(tt_run *r, const tt_macro *m, arg_list *l, tt_val *ret)
{
    tt_scope *scope = tt_scope_push(r, m->scope);
    if (scope == NULL || !bind_parameters(r, m->params, l, scope) ||
        !bind_surplus(r, m, l, scope)) {
        return false;
    }
    return tt_val_set_text(tt_exec_capture(r, m->params->body, scope), ret);
}

/* -- Calls --------------------------------------------------------------------------------- */

static bool call_builtin(tt_run *r, const tt_builtin *f, const tt_val *self, const arg_list *l,
                         tt_val *ret)
{
    tt_call call = {.self = self == NULL ? (tt_val){.kind = TT_V_MISSING} : *self,
                    .name = f->name,
                    .pos = l->pos,
                    .n_pos = l->n_pos,
                    .kw_names = l->names,
                    .kw = l->kw,
                    .n_kw = l->n_kw};
    return f->func(r, &call, ret);
}

bool tt_eval_call(tt_run *r, const tt_node *n, const tt_val *caller, tt_val *ret)
{
    tt_val callee;
    arg_list l;
    if (!tt_eval(r, n->a, &callee) || !eval_args(r, n->args, &l)) {
        return false;
    }
    r->line = n->line;
    if (caller != NULL && !add_keyword(r, &l, r->ast->names[TT_NAME_CALLER], *caller)) {
        return false;
    }
    switch (callee.kind) {
    case TT_V_MACRO:
        return call_macro(r, callee.u.macro, &l, ret);
    case TT_V_METHOD:
        return call_builtin(r, callee.u.method->builtin, &callee.u.method->self, &l, ret);
    case TT_V_BUILTIN:
        return call_builtin(r, callee.u.builtin, NULL, &l, ret);
    case TT_V_UNDEFINED:
        return tt_run_invalid(r, "%s", tt_undefined_message(r, &callee));
    default:
        return tt_run_invalid(r, "'%s' object is not callable", tt_val_type(&callee));
    }
}

bool tt_eval_builtin(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val self;
    arg_list l;
    if (!tt_eval(r, n->a, &self) || !eval_args(r, n->args, &l)) {
        return false;
    }
    r->line = n->line;
    return call_builtin(r, n->builtin, &self, &l, ret);
}

bool tt_call_bind(tt_run *r, const tt_call *call, const char *const *names, size_t n,
                  size_t n_required, tt_val *out)
{
    if (call->n_pos > n) {
        return tt_run_invalid(r, "%s() takes at most %zu arguments, %zu were given", call->name, n,
                              call->n_pos);
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = i < call->n_pos ? call->pos[i] : (tt_val){.kind = TT_V_MISSING};
    }
    for (size_t k = 0; k < call->n_kw; k++) {
        size_t i = 0;
        while (i < n && (names[i] == NULL || !tt_text_is(call->kw_names[k], names[i]))) {
            i++;
        }
        if (i == n || out[i].kind != TT_V_MISSING) {
            return tt_run_invalid(r, "%s() got %s argument '%.*s'", call->name,
                                  i == n ? "an unexpected keyword" : "multiple values for",
                                  (int)(call->kw_names[k]->n < 60 ? call->kw_names[k]->n : 60),
                                  call->kw_names[k]->p);
        }
        out[i] = call->kw[k];
    }
    for (size_t i = 0; i < n_required; i++) {
        if (out[i].kind == TT_V_MISSING) {
            return tt_run_invalid(r, "%s() is missing its argument %zu", call->name, i + 1);
        }
    }
    return true;
}
