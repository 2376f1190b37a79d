/* template_loop.c - the loop object of {% for %}: iteration with an optional filter and one item of
 * lookahead. Thread: one rendering is one thread's. */
#include "core/template_eval.h"

tt_loop *tt_loop_new(tt_run *r, const tt_node *node, tt_val over)
{
    tt_loop *l = tt_run_alloc(r, 1, sizeof *l);
    if (l == NULL || !tt_iter_init(r, &over, &l->it)) {
        return NULL;
    }
    l->node = node->test == NULL ? NULL : node;
    l->over = over;
    l->filter_scope = r->scope;
    return l;
}

static bool passes(tt_run *r, const tt_loop *l, tt_val item, bool *ret)
{
    tt_scope *outer = r->scope, *scope = tt_scope_push(r, l->filter_scope);
    if (scope == NULL) {
        return false;
    }
    tt_val v;
    r->scope = scope;
    bool ok = tt_assign(r, l->node->a, item) && tt_eval(r, l->node->test, &v);
    r->scope = outer;
    *ret = ok && tt_val_truthy(&v);
    return ok;
}

/* The next item that the filter lets through. */
static bool advance(tt_run *r, tt_loop *l, tt_val *ret, bool *ret_more)
{
    for (bool wanted = false; !wanted;) {
        if (!tt_iter_next(r, &l->it, ret, ret_more)) {
            return false;
        }
        wanted = !*ret_more || l->node == NULL;
        if (!wanted && !passes(r, l, *ret, &wanted)) {
            return false;
        }
    }
    return true;
}

bool tt_loop_next(tt_run *r, tt_loop *l, bool *ret_more)
{
    tt_val v = {.kind = TT_V_MISSING};
    *ret_more = l->has_after;
    if (l->has_after) {
        v = l->after;
        l->has_after = false;
    } else if (!l->exhausted && !advance(r, l, &v, ret_more)) {
        return false;
    }
    if (*ret_more) {
        l->index0 += l->current.kind != TT_V_MISSING;
        l->before = l->current;
        l->current = v;
    }
    return true;
}

static bool peek(tt_run *r, tt_loop *l)
{
    if (!l->has_after && !l->exhausted) {
        bool more = false;
        if (!advance(r, l, &l->after, &more)) {
            return false;
        }
        l->has_after = more;
        l->exhausted = !more;
    }
    return true;
}

/* Without a length of its own (a filter, a generator) the rest is read now. */
bool tt_loop_length(tt_run *r, tt_loop *l, size_t *ret)
{
    if (!l->has_length && l->node == NULL && tt_val_has_len(&l->over)) {
        if (!tt_val_len(r, &l->over, &l->length)) {
            return false;
        }
        l->has_length = true;
    }
    if (!l->has_length) {
        tt_val rest, v = tt_val_none();
        if (!tt_val_list(r, TT_V_LIST, 0, &rest)) {
            return false;
        }
        for (bool more = true; more;) {
            if (!advance(r, l, &v, &more) || (more && !tt_list_add(r, rest.u.list, v))) {
                return false;
            }
        }
        l->length = rest.u.list->n + l->index0 + 1 + l->has_after;
        l->has_length = true;
        l->node = NULL;
        l->it = (tt_iter){.over = rest};
    }
    *ret = l->length;
    return true;
}

typedef enum loop_field {
    INDEX,
    INDEX0,
    REVINDEX,
    REVINDEX0,
    FIRST,
    LAST,
    LENGTH,
    PREVITEM,
    NEXTITEM,
    DEPTH,
    DEPTH0
} loop_field;

static bool field(tt_run *r, tt_loop *l, loop_field f, tt_val *ret)
{
    size_t n = 0;
    switch (f) {
    case INDEX:
        *ret = tt_val_int((int64_t)l->index0 + 1);
        return true;
    case INDEX0:
        *ret = tt_val_int((int64_t)l->index0);
        return true;
    case FIRST:
        *ret = tt_val_bool(l->index0 == 0);
        return true;
    case DEPTH:
    case DEPTH0:
        *ret = tt_val_int(f == DEPTH);
        return true;
    case PREVITEM:
        *ret = l->before;
        return l->index0 != 0 || tt_val_undefined(r, NULL, NULL, "there is no previous item", ret);
    case LAST:
        *ret = peek(r, l) ? tt_val_bool(!l->has_after) : *ret;
        return r->code == TT_OK;
    case NEXTITEM:
        if (!peek(r, l)) {
            return false;
        }
        *ret = l->after;
        return l->has_after || tt_val_undefined(r, NULL, NULL, "there is no next item", ret);
    default:
        if (!tt_loop_length(r, l, &n)) {
            return false;
        }
        *ret = tt_val_int(f == LENGTH ? (int64_t)n
                                      : (int64_t)n - (int64_t)l->index0 - (f == REVINDEX0));
        return true;
    }
}

bool tt_loop_attr(tt_run *r, tt_loop *l, const tt_text *name, tt_val *ret)
{
    static const char *const names[] = {
        [INDEX] = "index",         [INDEX0] = "index0",     [REVINDEX] = "revindex",
        [REVINDEX0] = "revindex0", [FIRST] = "first",       [LAST] = "last",
        [LENGTH] = "length",       [PREVITEM] = "previtem", [NEXTITEM] = "nextitem",
        [DEPTH] = "depth",         [DEPTH0] = "depth0",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (tt_text_is(name, names[i])) {
            return field(r, l, (loop_field)i, ret);
        }
    }
    *ret = (tt_val){.kind = TT_V_MISSING};
    return true;
}
