/* template_eval.h - the evaluator of the chat template interpreter: expressions, calls, scopes,
 * loops and statements. Thread: one rendering is one thread's. */
#ifndef TT_TEMPLATE_EVAL_H
#define TT_TEMPLATE_EVAL_H

#include "core/template_parse.h"

/* -- Scopes (template_exec.c) -------------------------------------------------------------- */

typedef struct tt_binding {
    uint32_t name;
    tt_val value;
} tt_binding;

struct tt_scope {
    tt_scope *parent;
    tt_binding *vars;
    size_t n, cap;
};

tt_scope *tt_scope_push(tt_run *r, tt_scope *parent); /* a new one; the caller sets r->scope */
bool tt_scope_set(tt_run *r, tt_scope *s, uint32_t name, tt_val v);
const tt_val *tt_scope_find(tt_run *r, const tt_scope *s,
                            uint32_t name); /* NULL = in none of them */

/* -- Statements (template_exec.c) ---------------------------------------------------------- */

typedef enum tt_flow { TT_FLOW_NEXT, TT_FLOW_BREAK, TT_FLOW_CONTINUE, TT_FLOW_FAIL } tt_flow;

tt_flow tt_exec_body(tt_run *r, const tt_node *body);
/* Runs a body in a new scope over `parent` and gives what it printed. */
tt_text *tt_exec_capture(tt_run *r, const tt_node *body, tt_scope *scope);

/* -- Loops (template_loop.c) --------------------------------------------------------------- */

/* The object `loop` with the iteration it describes. */
struct tt_loop {
    tt_iter it;
    tt_val over;
    const tt_node *node; /* its filter, or NULL */
    tt_scope *filter_scope;
    tt_val before, current, after;
    bool has_after, exhausted;
    size_t index0, length;
    bool has_length;
    tt_val last_changed;
};

tt_loop *tt_loop_new(tt_run *r, const tt_node *node, tt_val over);
bool tt_loop_next(tt_run *r, tt_loop *l, bool *ret_more); /* moves on to l->current */
bool tt_loop_length(tt_run *r, tt_loop *l, size_t *ret);
/* *ret MISSING when a loop has no such attribute. */
bool tt_loop_attr(tt_run *r, tt_loop *l, const tt_text *name, tt_val *ret);

/* -- Expressions (template_eval.c) --------------------------------------------------------- */

bool tt_eval(tt_run *r, const tt_node *n, tt_val *ret);
/* Binds a target: a name, a tuple of targets or an attribute of a namespace. */
bool tt_assign(tt_run *r, const tt_node *target, tt_val v);

/* a.name and a[key]: what is not there is undefined; fails on undefined itself. */
bool tt_val_attr(tt_run *r, const tt_val *v, const tt_text *name, tt_val *ret);
bool tt_val_item(tt_run *r, const tt_val *v, const tt_val *key, tt_val *ret);

/* -- Calls (template_call.c) --------------------------------------------------------------- */

struct tt_macro {
    const tt_text *name;
    const tt_params *params;
    tt_scope *scope; /* where it was defined */
};

bool tt_eval_call(tt_run *r, const tt_node *n, const tt_val *caller,
                  tt_val *ret); /* caller: or NULL */
/* Filters and tests by node: evaluates the arguments. */
bool tt_eval_builtin(tt_run *r, const tt_node *n, tt_val *ret);
/* Binds arguments to names[0..n), MISSING where none was passed; fails on a surplus one. The first
 * n_required must be there. */
bool tt_call_bind(tt_run *r, const tt_call *call, const char *const *names, size_t n,
                  size_t n_required, tt_val *out);

/* -- Operators (template_ops.c) ------------------------------------------------------------ */

bool tt_binary(tt_run *r, tt_op op, const tt_val *a, const tt_val *b, tt_val *ret);
bool tt_compare(tt_run *r, tt_op op, const tt_val *a, const tt_val *b, bool *ret);
bool tt_unary(tt_run *r, bool negative, const tt_val *a, tt_val *ret);
bool tt_slice(tt_run *r, const tt_val *v, const tt_val part[3],
              tt_val *ret); /* start, stop, step; MISSING or NONE */
/* printf-style: args is a tuple, a dict or one value. */
tt_text *tt_format_percent(tt_run *r, const tt_text *format, const tt_val *args);

/* -- Built-ins ----------------------------------------------------------------------------- */

/* Method `name` of a value of that kind; *ret_mutates when the sandbox forbids it. NULL = none. */
const tt_builtin *tt_method_find(tt_kind kind, const tt_text *name, bool *ret_mutates);
const tt_builtin *tt_global_find(const tt_text *name);

#endif
