/* template_exec.c - statements of a chat template and the scopes of their variables.
 * Thread: one rendering is one thread's. */
#include "core/template_eval.h"

#include <string.h>

/* -- Scopes -------------------------------------------------------------------------------- */

tt_scope *tt_scope_push(tt_run *r, tt_scope *parent)
{
    tt_scope *s = tt_run_alloc(r, 1, sizeof *s);
    if (s != NULL) {
        s->parent = parent;
    }
    return s;
}

bool tt_scope_set(tt_run *r, tt_scope *s, uint32_t name, tt_val v)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->vars[i].name == name) {
            s->vars[i].value = v;
            return true;
        }
    }
    if (s->n == s->cap) {
        size_t cap = s->cap < 4 ? 4 : s->cap * 2;
        tt_binding *vars = tt_run_alloc(r, cap, sizeof *vars);
        if (vars == NULL) {
            return false;
        }
        if (s->n != 0) {
            memcpy(vars, s->vars, s->n * sizeof *vars);
        }
        s->vars = vars;
        s->cap = cap;
    }
    s->vars[s->n++] = (tt_binding){.name = name, .value = v};
    return true;
}

const tt_val *tt_scope_find(tt_run *r, const tt_scope *s, uint32_t name)
{
    size_t seen = 0;
    const tt_val *found = NULL;
    for (; s != NULL && found == NULL; s = s->parent) {
        for (size_t i = 0; i < s->n && found == NULL; i++) {
            found = s->vars[i].name == name ? &s->vars[i].value : NULL;
        }
        seen += 1 + s->n;
    }
    r->steps += seen / 16; /* the next charge sees it */
    return found;
}

/* -- Statements ---------------------------------------------------------------------------- */

static tt_flow done(bool ok)
{
    return ok ? TT_FLOW_NEXT : TT_FLOW_FAIL;
}

static tt_flow exec_in_scope(tt_run *r, const tt_node *body, tt_scope *scope)
{
    tt_scope *outer = r->scope;
    if (scope == NULL) {
        return TT_FLOW_FAIL;
    }
    r->scope = scope;
    tt_flow flow = tt_exec_body(r, body);
    r->scope = outer;
    return flow;
}

tt_text *tt_exec_capture(tt_run *r, const tt_node *body, tt_scope *scope)
{
    tt_textbuf *outer = r->out;
    tt_textbuf *own = tt_textbuf_new(r);
    if (own == NULL) {
        return NULL;
    }
    r->out = own;
    tt_flow flow = exec_in_scope(r, body, scope);
    r->out = outer;
    return flow == TT_FLOW_FAIL ? NULL : tt_textbuf_text(r, own);
}

static bool is_sum(const tt_node *n)
{
    return n->type == TT_N_BINARY && n->op == TT_OP_ADD;
}

/* What a + b + ... adds up, one item for each operand while all are strings, else its value. */
static bool sum_parts(tt_run *r, const tt_node *n, tt_list *parts)
{
    tt_val v;
    if (!is_sum(n)) {
        return tt_eval(r, n, &v) && tt_list_add(r, parts, v);
    }
    bool ok = tt_run_enter(r);
    if (!ok) {
        return false;
    }
    ok = sum_parts(r, n->a, parts) && tt_eval(r, n->b, &v);
    tt_run_leave(r);
    r->line = ok ? n->line : r->line;
    if (!ok || (v.kind == TT_V_STR && parts->items[0].kind == TT_V_STR)) {
        return ok && tt_list_add(r, parts, v);
    }
    tt_val sum = parts->items[0], next;
    for (size_t i = 1; ok && i < parts->n; i++, sum = next) {
        ok = tt_binary(r, TT_OP_ADD, &sum, &parts->items[i], &next);
    }
    parts->n = 0;
    return ok && tt_binary(r, TT_OP_ADD, &sum, &v, &next) && tt_list_add(r, parts, next);
}

/* {{ a + b + c }} of strings, which is how templates write a message: each goes to the output by
 * itself, so that a long message is not copied for the sum's sake. */
static tt_flow print_sum(tt_run *r, const tt_node *n)
{
    tt_val list;
    bool ok = tt_val_list(r, TT_V_LIST, 8, &list) && sum_parts(r, n, list.u.list);
    for (size_t i = 0; ok && i < list.u.list->n; i++) {
        tt_text *t = tt_val_str(r, &list.u.list->items[i]);
        ok = t != NULL && tt_textbuf_add_text(r, r->out, t);
    }
    return done(ok);
}

static tt_flow exec_print(tt_run *r, const tt_node *n)
{
    tt_val v;
    if (is_sum(n->a)) {
        return print_sum(r, n->a);
    }
    if (!tt_eval(r, n->a, &v)) {
        return TT_FLOW_FAIL;
    }
    tt_text *t = tt_val_str(r, &v);
    return done(t != NULL && tt_textbuf_add_text(r, r->out, t));
}

static tt_flow exec_if(tt_run *r, const tt_node *n)
{
    for (size_t i = 0; i < n->n; i += 2) {
        tt_val test;
        if (!tt_eval(r, n->list[i], &test)) {
            return TT_FLOW_FAIL;
        }
        if (tt_val_truthy(&test)) {
            return tt_exec_body(r, n->list[i + 1]);
        }
    }
    return n->c == NULL ? TT_FLOW_NEXT : tt_exec_body(r, n->c);
}

/* One scope, emptied for each iteration. Jinja's quirk: else runs when no iteration got to the end
 * of the body. */
static tt_flow run_loop(tt_run *r, const tt_node *n, tt_loop *loop, bool *ret_completed)
{
    tt_scope *outer = r->scope, *scope = tt_scope_push(r, outer);
    tt_flow flow = scope == NULL ? TT_FLOW_FAIL : TT_FLOW_NEXT;
    for (bool more = true; more && (flow == TT_FLOW_NEXT || flow == TT_FLOW_CONTINUE);) {
        r->line = n->line;
        r->scope = outer;
        if (!tt_loop_next(r, loop, &more)) {
            flow = TT_FLOW_FAIL;
        } else if (more) {
            scope->n = 0;
            r->scope = scope;
            tt_val l = {.kind = TT_V_LOOP, .u.loop = loop};
            bool ok = tt_assign(r, n->a, loop->current) && tt_scope_set(r, scope, TT_NAME_LOOP, l);
            flow = ok ? tt_exec_body(r, n->body) : TT_FLOW_FAIL;
            *ret_completed |= flow == TT_FLOW_NEXT;
        }
    }
    r->scope = outer;
    return flow == TT_FLOW_FAIL ? flow : TT_FLOW_NEXT;
}

static tt_flow exec_for(tt_run *r, const tt_node *n)
{
    tt_val over;
    if (!tt_eval(r, n->b, &over)) {
        return TT_FLOW_FAIL;
    }
    r->line = n->line;
    tt_loop *loop = tt_loop_new(r, n, over);
    bool completed = false;
    if (loop == NULL || run_loop(r, n, loop, &completed) == TT_FLOW_FAIL) {
        return TT_FLOW_FAIL;
    }
    return n->c == NULL || completed ? TT_FLOW_NEXT
                                     : exec_in_scope(r, n->c, tt_scope_push(r, r->scope));
}

static tt_flow exec_set(tt_run *r, const tt_node *n)
{
    tt_val v;
    return done(tt_eval(r, n->b, &v) && tt_assign(r, n->a, v));
}

/* The captured body, through the filters of `n->b` if there are any. */
static bool capture_filtered(tt_run *r, const tt_node *n, tt_val *ret)
{
    tt_val outer = r->input, body;
    if (!tt_val_set_text(tt_exec_capture(r, n->body, tt_scope_push(r, r->scope)), &body)) {
        return false;
    }
    if (n->b == NULL) {
        *ret = body;
        return true;
    }
    r->input = body;
    bool ok = tt_eval(r, n->b, ret);
    r->input = outer;
    return ok;
}

static tt_flow exec_setblock(tt_run *r, const tt_node *n)
{
    tt_val v;
    return done(capture_filtered(r, n, &v) && tt_assign(r, n->a, v));
}

static tt_flow exec_filterblock(tt_run *r, const tt_node *n)
{
    tt_val v;
    tt_text *t = capture_filtered(r, n, &v) ? tt_val_str(r, &v) : NULL;
    return done(t != NULL && tt_textbuf_add_text(r, r->out, t));
}

static bool new_macro(tt_run *r, const tt_node *n, const tt_text *name, tt_val *ret)
{
    tt_macro *m = tt_run_alloc(r, 1, sizeof *m);
    if (m == NULL) {
        return false;
    }
    *m = (tt_macro){.name = name, .params = n->params, .scope = r->scope};
    *ret = (tt_val){.kind = TT_V_MACRO, .u.macro = m};
    return true;
}

static tt_flow exec_macro(tt_run *r, const tt_node *n)
{
    tt_val v;
    return done(new_macro(r, n, r->ast->names[n->name], &v) &&
                tt_scope_set(r, r->scope, n->name, v));
}

static tt_flow exec_callblock(tt_run *r, const tt_node *n)
{
    tt_val caller, v;
    if (!new_macro(r, n, NULL, &caller) || !tt_eval_call(r, n->a, &caller, &v)) {
        return TT_FLOW_FAIL;
    }
    tt_text *t = tt_val_str(r, &v);
    return done(t != NULL && tt_textbuf_add_text(r, r->out, t));
}

static tt_flow exec_with(tt_run *r, const tt_node *n)
{
    tt_scope *outer = r->scope, *scope = tt_scope_push(r, outer);
    for (size_t i = 0; i < n->n; i += 2) {
        tt_val v;
        if (scope == NULL || !tt_eval(r, n->list[i + 1], &v)) {
            return TT_FLOW_FAIL;
        }
        r->scope = scope;
        bool ok = tt_assign(r, n->list[i], v);
        r->scope = outer;
        if (!ok) {
            return TT_FLOW_FAIL;
        }
    }
    return exec_in_scope(r, n->body, scope);
}

static tt_flow exec_statement(tt_run *r, const tt_node *n)
{
    r->line = n->line;
    switch ((tt_node_type)n->type) {
    case TT_N_DATA:
        return done(tt_textbuf_add_text(r, r->out, n->value.u.s));
    case TT_N_PRINT:
        return exec_print(r, n);
    case TT_N_IF:
        return exec_if(r, n);
    case TT_N_FOR:
        return exec_for(r, n);
    case TT_N_SET:
        return exec_set(r, n);
    case TT_N_SETBLOCK:
        return exec_setblock(r, n);
    case TT_N_MACRO:
        return exec_macro(r, n);
    case TT_N_CALLBLOCK:
        return exec_callblock(r, n);
    case TT_N_FILTERBLOCK:
        return exec_filterblock(r, n);
    case TT_N_WITH:
        return exec_with(r, n);
    case TT_N_GENERATION:
        return exec_in_scope(r, n->body, tt_scope_push(r, r->scope));
    case TT_N_BREAK:
        return TT_FLOW_BREAK;
    case TT_N_CONTINUE:
        return TT_FLOW_CONTINUE;
    default:
        return done(tt_run_fail(r, TT_E_INTERNAL, "node %u is no statement", n->type));
    }
}

tt_flow tt_exec_body(tt_run *r, const tt_node *body)
{
    if (!tt_run_enter(r)) {
        return TT_FLOW_FAIL;
    }
    tt_flow flow = TT_FLOW_NEXT;
    for (size_t i = 0; flow == TT_FLOW_NEXT && i < body->n; i++) {
        flow = tt_run_charge(r, 0) ? exec_statement(r, body->list[i]) : TT_FLOW_FAIL;
    }
    tt_run_leave(r);
    return flow;
}
