/* template_tests.c - Jinja's tests: x is defined, x is string, ...
 * Thread: one rendering is one thread's. */
#include "core/template_builtins.h"

#include "core/template_strings.h"

static bool answer(tt_run *r, const tt_call *call, bool yes, tt_val *ret)
{
    if (call->n_pos != 0 || call->n_kw != 0) {
        return tt_run_invalid(r, "the test '%s' takes no argument", call->name);
    }
    *ret = tt_val_bool(yes);
    return true;
}

static bool one_argument(tt_run *r, const tt_call *call, tt_val *ret_arg)
{
    if (call->n_pos != 1 || call->n_kw != 0) {
        return tt_run_invalid(r, "the test '%s' takes one argument, not %zu", call->name,
                              call->n_pos + call->n_kw);
    }
    *ret_arg = call->pos[0];
    return true;
}

static bool is_defined(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind != TT_V_UNDEFINED, ret);
}

static bool is_undefined(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_UNDEFINED, ret);
}

static bool is_none(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_NONE, ret);
}

static bool is_boolean(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_BOOL, ret);
}

static bool is_true(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_BOOL && c->self.u.b, ret);
}

static bool is_false(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_BOOL && !c->self.u.b, ret);
}

static bool is_integer(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_INT, ret);
}

static bool is_float(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_FLOAT, ret);
}

static bool is_number(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, tt_val_is_number(&c->self), ret);
}

static bool is_string(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_STR, ret);
}

static bool is_mapping(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_DICT, ret);
}

/* Has a length and can be indexed. */
static bool is_sequence(tt_run *r, const tt_call *c, tt_val *ret)
{
    tt_kind k = (tt_kind)c->self.kind;
    return answer(r, c,
                  k == TT_V_UNDEFINED || k == TT_V_STR || k == TT_V_LIST || k == TT_V_TUPLE ||
                      k == TT_V_DICT || k == TT_V_RANGE,
                  ret);
}

static bool is_iterable(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, tt_val_iterable(&c->self), ret);
}

static bool is_callable(tt_run *r, const tt_call *c, tt_val *ret)
{
    tt_kind k = (tt_kind)c->self.kind;
    return answer(r, c,
                  k == TT_V_MACRO || k == TT_V_METHOD || k == TT_V_BUILTIN || k == TT_V_UNDEFINED ||
                      k == TT_V_LOOP,
                  ret);
}

static bool cased_test(tt_run *r, const tt_call *c, bool upper, tt_val *ret)
{
    tt_text *t = tt_val_str(r, &c->self);
    return t != NULL && answer(r, c, tt_text_has_case(t, upper), ret) && tt_run_charge(r, t->n);
}

static bool is_upper(tt_run *r, const tt_call *c, tt_val *ret)
{
    return cased_test(r, c, true, ret);
}

static bool is_lower(tt_run *r, const tt_call *c, tt_val *ret)
{
    return cased_test(r, c, false, ret);
}

static bool modulo_test(tt_run *r, const tt_call *c, tt_val by, bool wanted, tt_val *ret)
{
    tt_val rest, zero = tt_val_int(0);
    bool same = false;
    if (c->self.kind == TT_V_STR) { /* % would format it */
        return tt_run_invalid(r, "the test '%s' needs a number, not str", c->name);
    }
    if (!tt_binary(r, TT_OP_MOD, &c->self, &by, &rest) || !tt_val_equal(r, &rest, &zero, &same)) {
        return false;
    }
    *ret = tt_val_bool(same == wanted);
    return true;
}

static bool is_even(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, true, ret) && modulo_test(r, c, tt_val_int(2), true, ret);
}

static bool is_odd(tt_run *r, const tt_call *c, tt_val *ret)
{
    /* x % 2 == 1 */
    tt_val rest, one = tt_val_int(1), two = tt_val_int(2);
    bool same = false;
    if (!answer(r, c, true, ret)) {
        return false;
    }
    if (c->self.kind == TT_V_STR) {
        return tt_run_invalid(r, "the test 'odd' needs a number, not str");
    }
    if (!tt_binary(r, TT_OP_MOD, &c->self, &two, &rest) || !tt_val_equal(r, &rest, &one, &same)) {
        return false;
    }
    *ret = tt_val_bool(same);
    return true;
}

static bool is_divisibleby(tt_run *r, const tt_call *c, tt_val *ret)
{
    tt_val by;
    return one_argument(r, c, &by) && modulo_test(r, c, by, true, ret);
}

static bool is_sameas(tt_run *r, const tt_call *c, tt_val *ret)
{
    tt_val other;
    bool same = false;
    if (!one_argument(r, c, &other)) {
        return false;
    }
    /* Identity is only observable for the singletons and for containers. */
    bool scalar = c->self.kind <= TT_V_STR;
    if (scalar && c->self.kind == other.kind && !tt_val_equal(r, &c->self, &other, &same)) {
        return false;
    }
    *ret =
        tt_val_bool(scalar ? same : c->self.kind == other.kind && c->self.u.list == other.u.list);
    return true;
}

static bool is_in(tt_run *r, const tt_call *c, tt_val *ret)
{
    tt_val seq;
    bool yes = false;
    if (!one_argument(r, c, &seq) || !tt_val_contains(r, &seq, &c->self, &yes)) {
        return false;
    }
    *ret = tt_val_bool(yes);
    return true;
}

static bool compare_test(tt_run *r, const tt_call *c, tt_op op, tt_val *ret)
{
    tt_val other;
    bool yes = false;
    if (!one_argument(r, c, &other) || !tt_compare(r, op, &c->self, &other, &yes)) {
        return false;
    }
    *ret = tt_val_bool(yes);
    return true;
}

static bool is_eq(tt_run *r, const tt_call *c, tt_val *ret)
{
    return compare_test(r, c, TT_OP_EQ, ret);
}

static bool is_ne(tt_run *r, const tt_call *c, tt_val *ret)
{
    return compare_test(r, c, TT_OP_NE, ret);
}

static bool is_lt(tt_run *r, const tt_call *c, tt_val *ret)
{
    return compare_test(r, c, TT_OP_LT, ret);
}

static bool is_le(tt_run *r, const tt_call *c, tt_val *ret)
{
    return compare_test(r, c, TT_OP_LE, ret);
}

static bool is_gt(tt_run *r, const tt_call *c, tt_val *ret)
{
    return compare_test(r, c, TT_OP_GT, ret);
}

static bool is_ge(tt_run *r, const tt_call *c, tt_val *ret)
{
    return compare_test(r, c, TT_OP_GE, ret);
}

static bool is_filter(tt_run *r, const tt_call *c, tt_val *ret)
{
    bool known = false;
    uint64_t hash;
    if (!tt_val_hash(r, &c->self, &hash)) { /* looked up in a dict there */
        return false;
    }
    bool found =
        c->self.kind == TT_V_STR && tt_filter_find(c->self.u.s->p, c->self.u.s->n, &known) != NULL;
    return answer(r, c, found || known, ret);
}

static bool is_test(tt_run *r, const tt_call *c, tt_val *ret)
{
    bool known = false;
    uint64_t hash;
    if (!tt_val_hash(r, &c->self, &hash)) { /* looked up in a dict there */
        return false;
    }
    bool found =
        c->self.kind == TT_V_STR && tt_test_find(c->self.u.s->p, c->self.u.s->n, &known) != NULL;
    return answer(r, c, found || known, ret);
}

static bool is_escaped(tt_run *r, const tt_call *c, tt_val *ret)
{
    return answer(r, c, c->self.kind == TT_V_STR && c->self.u.s->markup, ret);
}

const tt_builtin *tt_test_find(const char *name, size_t n, bool *ret_known)
{
    static const tt_builtin tests[] = {
        {"!=", is_ne},
        {"<", is_lt},
        {"<=", is_le},
        {"==", is_eq},
        {">", is_gt},
        {">=", is_ge},
        {"boolean", is_boolean},
        {"callable", is_callable},
        {"defined", is_defined},
        {"divisibleby", is_divisibleby},
        {"eq", is_eq},
        {"equalto", is_eq},
        {"escaped", is_escaped},
        {"even", is_even},
        {"false", is_false},
        {"filter", is_filter},
        {"float", is_float},
        {"ge", is_ge},
        {"greaterthan", is_gt},
        {"gt", is_gt},
        {"in", is_in},
        {"integer", is_integer},
        {"iterable", is_iterable},
        {"le", is_le},
        {"lessthan", is_lt},
        {"lower", is_lower},
        {"lt", is_lt},
        {"mapping", is_mapping},
        {"ne", is_ne},
        {"none", is_none},
        {"number", is_number},
        {"odd", is_odd},
        {"sameas", is_sameas},
        {"sequence", is_sequence},
        {"string", is_string},
        {"test", is_test},
        {"true", is_true},
        {"undefined", is_undefined},
        {"upper", is_upper},
    };
    tt_text t = {.p = name, .n = n};
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        if (tt_text_is(&t, tests[i].name)) {
            return &tests[i];
        }
    }
    *ret_known = false;
    return NULL;
}
