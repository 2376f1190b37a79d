/* template_ops.c - Python's arithmetic, comparison and slicing of template values.
 * Thread: one rendering is one thread's. */
#include "core/template_eval.h"

#include <math.h>
#include <string.h>

static const char *const op_text[] = {
    [TT_OP_ADD] = "+",       [TT_OP_SUB] = "-", [TT_OP_MUL] = "*",           [TT_OP_DIV] = "/",
    [TT_OP_FLOORDIV] = "//", [TT_OP_MOD] = "%", [TT_OP_POW] = "** or pow()", [TT_OP_EQ] = "==",
    [TT_OP_NE] = "!=",       [TT_OP_LT] = "<",  [TT_OP_LE] = "<=",           [TT_OP_GT] = ">",
    [TT_OP_GE] = ">=",       [TT_OP_IN] = "in", [TT_OP_NOTIN] = "not in",
};

static bool overflow(tt_run *r)
{
    return tt_run_invalid(r, "an integer beyond 64 bits");
}

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

static bool int_power(tt_run *r, int64_t base, int64_t exp, int64_t *ret)
{
    int64_t result = 1;
    for (; exp > 0; exp >>= 1) {
        if ((exp & 1) && __builtin_mul_overflow(result, base, &result)) {
            return overflow(r);
        }
        if (exp > 1 && __builtin_mul_overflow(base, base, &base)) {
            return overflow(r);
        }
    }
    *ret = result;
    return true;
}

static bool zero_division(tt_run *r, bool is_float)
{
    return tt_run_invalid(r, is_float ? "float division by zero" : "division by zero");
}

static bool int_arithmetic(tt_run *r, tt_op op, int64_t a, int64_t b, tt_val *ret)
{
    int64_t x = 0;
    bool over = false;
    switch (op) {
    case TT_OP_ADD:
        over = __builtin_add_overflow(a, b, &x);
        break;
    case TT_OP_SUB:
        over = __builtin_sub_overflow(a, b, &x);
        break;
    case TT_OP_MUL:
        over = __builtin_mul_overflow(a, b, &x);
        break;
    case TT_OP_FLOORDIV:
    case TT_OP_MOD:
        if (b == 0) {
            return zero_division(r, false);
        }
        over = a == INT64_MIN && b == -1;
        if (!over) {
            x = op == TT_OP_MOD ? a - floor_div(a, b) * b : floor_div(a, b);
        } else if (op == TT_OP_MOD) {
            over = false;
        }
        break;
    default: /* TT_OP_POW with b >= 0 */
        if (!int_power(r, a, b, &x)) {
            return false;
        }
        break;
    }
    if (over) {
        return overflow(r);
    }
    *ret = tt_val_int(x);
    return true;
}

/* Python's float modulo has the sign of the divisor, and a // b is consistent with it. */
static void float_divmod(double a, double b, double *ret_div, double *ret_mod)
{
    double mod = fmod(a, b);
    double div = (a - mod) / b;
    if (mod != 0) {
        if ((b < 0) != (mod < 0)) {
            mod += b;
            div -= 1;
        }
    } else {
        mod = copysign(0, b);
    }
    double whole = div != 0 ? floor(div) : copysign(0, a / b);
    *ret_div = div - whole > 0.5 ? whole + 1 : whole;
    *ret_mod = mod;
}

static bool float_power(tt_run *r, double a, double b, tt_val *ret)
{
    if (a == 0 && b < 0) {
        return tt_run_invalid(r, "0.0 cannot be raised to a negative power");
    }
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b)) {
        return tt_run_invalid(r, "a complex number");
    }
    double x = pow(a, b);
    if (isinf(x) && isfinite(a) && isfinite(b)) {
        return tt_run_invalid(r, "a float out of range");
    }
    *ret = tt_val_float(x);
    return true;
}

static bool float_arithmetic(tt_run *r, tt_op op, double a, double b, tt_val *ret)
{
    double div = 0, mod = 0;
    switch (op) {
    case TT_OP_ADD:
        *ret = tt_val_float(a + b);
        return true;
    case TT_OP_SUB:
        *ret = tt_val_float(a - b);
        return true;
    case TT_OP_MUL:
        *ret = tt_val_float(a * b);
        return true;
    case TT_OP_POW:
        return float_power(r, a, b, ret);
    default:
        if (b == 0) {
            return zero_division(r, true);
        }
        float_divmod(a, b, &div, &mod);
        *ret = tt_val_float(op == TT_OP_DIV ? a / b : op == TT_OP_MOD ? mod : div);
        return true;
    }
}

static bool arithmetic(tt_run *r, tt_op op, const tt_val *a, const tt_val *b, tt_val *ret)
{
    int64_t i = 0, j = 0;
    double x = 0, y = 0;
    bool ints = tt_val_index(a, &i) && tt_val_index(b, &j);
    bool ok;
    if (ints && op != TT_OP_DIV && !(op == TT_OP_POW && j < 0)) {
        ok = int_arithmetic(r, op, i, j, ret);
    } else {
        tt_val_number(a, &x);
        tt_val_number(b, &y);
        if (ints && op == TT_OP_DIV && j == 0) {
            return zero_division(r, false);
        }
        ok = float_arithmetic(r, op, x, y, ret);
    }
    ret->trusted = ok && a->trusted && b->trusted;
    return ok;
}

/* -- Sequences ----------------------------------------------------------------------------- */

static bool add_lists(tt_run *r, const tt_val *a, const tt_val *b, tt_val *ret)
{
    const tt_list *x = a->u.list, *y = b->u.list;
    tt_val v;
    if (!tt_run_charge(r, (x->n + y->n) * sizeof(tt_val)) ||
        !tt_val_list(r, (tt_kind)a->kind, x->n + y->n, &v)) {
        return false;
    }
    if (x->n != 0) {
        memcpy(v.u.list->items, x->items, x->n * sizeof(tt_val));
    }
    if (y->n != 0) {
        memcpy(v.u.list->items + x->n, y->items, y->n * sizeof(tt_val));
    }
    v.u.list->n = x->n + y->n;
    *ret = v;
    return true;
}

static bool repeat(tt_run *r, const tt_val *v, int64_t times, tt_val *ret)
{
    size_t n = times < 0 ? 0 : (size_t)times;
    if (v->kind == TT_V_STR) {
        const tt_text *t = v->u.s;
        if (t->n != 0 && n > r->max_text_bytes / t->n) {
            return tt_run_fail(r, TT_E_CAPACITY, "a text of more than %zu bytes",
                               r->max_text_bytes);
        }
        tt_textbuf *b = tt_textbuf_new(r);
        for (size_t i = 0; t->n != 0 && i < n; i++) {
            if (b == NULL || !tt_textbuf_add_text(r, b, t)) {
                return false;
            }
        }
        return b != NULL && tt_val_set_text(tt_textbuf_text(r, b), ret);
    }
    const tt_list *l = v->u.list;
    tt_val out;
    size_t total;
    if (__builtin_mul_overflow(l->n, n, &total) ||
        !tt_run_charge(r, total < SIZE_MAX / 16 ? total * 16 : total) ||
        !tt_val_list(r, (tt_kind)v->kind, total, &out)) {
        return tt_run_fail(r, TT_E_CAPACITY, "a list of too many items");
    }
    for (size_t i = 0; i < total; i++) {
        out.u.list->items[i] = l->items[i % l->n];
    }
    out.u.list->n = total;
    *ret = out;
    return true;
}

static bool is_sequence(const tt_val *v)
{
    return v->kind == TT_V_STR || v->kind == TT_V_LIST || v->kind == TT_V_TUPLE;
}

static bool type_error(tt_run *r, tt_op op, const tt_val *a, const tt_val *b)
{
    if (a->kind == TT_V_UNDEFINED || b->kind == TT_V_UNDEFINED) {
        return tt_run_invalid(r, "%s", tt_undefined_message(r, a->kind == TT_V_UNDEFINED ? a : b));
    }
    if (op == TT_OP_ADD && is_sequence(a)) {
        return tt_run_invalid(r, "can only concatenate %s (not \"%s\") to %s", tt_val_type(a),
                              tt_val_type(b), tt_val_type(a));
    }
    return tt_run_invalid(r, "unsupported operand type(s) for %s: '%s' and '%s'", op_text[op],
                          tt_val_type(a), tt_val_type(b));
}

bool tt_binary(tt_run *r, tt_op op, const tt_val *a, const tt_val *b, tt_val *ret)
{
    int64_t times = 0;
    if (tt_val_is_number(a) && tt_val_is_number(b)) {
        return arithmetic(r, op, a, b, ret);
    }
    if (op == TT_OP_ADD && a->kind == b->kind && a->kind == TT_V_STR) {
        return tt_val_set_text(tt_text_concat(r, a->u.s, b->u.s), ret);
    }
    if (op == TT_OP_ADD && a->kind == b->kind && is_sequence(a)) {
        return add_lists(r, a, b, ret);
    }
    if (op == TT_OP_MUL && is_sequence(a) && tt_val_index(b, &times)) {
        return repeat(r, a, times, ret);
    }
    if (op == TT_OP_MUL && is_sequence(b) && tt_val_index(a, &times)) {
        return repeat(r, b, times, ret);
    }
    if (op == TT_OP_MOD && a->kind == TT_V_STR) {
        return tt_val_set_text(tt_format_percent(r, a->u.s, b), ret);
    }
    return type_error(r, op, a, b);
}

bool tt_compare(tt_run *r, tt_op op, const tt_val *a, const tt_val *b, bool *ret)
{
    int order = 0;
    switch (op) {
    case TT_OP_EQ:
        return tt_val_equal(r, a, b, ret);
    case TT_OP_NE:
        if (!tt_val_equal(r, a, b, ret)) {
            return false;
        }
        *ret = !*ret;
        return true;
    case TT_OP_IN:
    case TT_OP_NOTIN:
        if (!tt_val_contains(r, b, a, ret)) {
            return false;
        }
        *ret = *ret == (op == TT_OP_IN);
        return true;
    default:
        if (!tt_val_order(r, a, b, op_text[op], &order)) {
            return false;
        }
        /* order 2: NaN, everything is false */
        *ret = order != 2 && (op == TT_OP_LT   ? order < 0
                              : op == TT_OP_LE ? order <= 0
                              : op == TT_OP_GT ? order > 0
                                               : order >= 0);
        return true;
    }
}

bool tt_unary(tt_run *r, bool negative, const tt_val *a, tt_val *ret)
{
    int64_t i = 0;
    if (tt_val_index(a, &i)) {
        if (negative && i == INT64_MIN) {
            return overflow(r);
        }
        *ret = tt_val_int(negative ? -i : i);
    } else if (a->kind == TT_V_FLOAT) {
        *ret = tt_val_float(negative ? -a->u.f : a->u.f);
    } else if (a->kind == TT_V_UNDEFINED) {
        return tt_run_invalid(r, "%s", tt_undefined_message(r, a));
    } else {
        return tt_run_invalid(r, "bad operand type for unary %c: '%s'", negative ? '-' : '+',
                              tt_val_type(a));
    }
    ret->trusted = a->trusted;
    return true;
}

/* -- Slices -------------------------------------------------------------------------------- */

typedef struct slice_bounds {
    int64_t start, step;
    size_t n;
} slice_bounds;

static bool slice_part(tt_run *r, const tt_val *v, int64_t unset, int64_t *ret)
{
    if (v->kind == TT_V_NONE || v->kind == TT_V_MISSING) {
        *ret = unset;
        return true;
    }
    return tt_val_index(v, ret) ||
           tt_run_invalid(r, "slice indices must be integers or None or have an __index__ method");
}

static int64_t clamp(int64_t v, int64_t len, int64_t low, int64_t high)
{
    v = v < 0 ? (v < -len ? -1 : v + len) : v;
    return v < low ? low : v > high ? high : v;
}

static bool resolve_slice(tt_run *r, const tt_val part[3], size_t n, slice_bounds *ret)
{
    int64_t len = (int64_t)n, step, start, stop;
    if (!slice_part(r, &part[2], 1, &step)) {
        return false;
    }
    if (step == 0) {
        return tt_run_invalid(r, "slice step cannot be zero");
    }
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? len - 1 : len;
    bool has_start = part[0].kind != TT_V_NONE && part[0].kind != TT_V_MISSING;
    bool has_stop = part[1].kind != TT_V_NONE && part[1].kind != TT_V_MISSING;
    if (!slice_part(r, &part[0], 0, &start) || !slice_part(r, &part[1], 0, &stop)) {
        return false;
    }
    start = has_start ? clamp(start, len, low, high) : step < 0 ? high : low;
    stop = has_stop ? clamp(stop, len, low, high) : step < 0 ? low : high;
    int64_t span = step < 0 ? start - stop : stop - start;
    uint64_t stride = step < 0 ? 0 - (uint64_t)step : (uint64_t)step;
    *ret = (slice_bounds){
        .start = start, .step = step, .n = span <= 0 ? 0 : ((uint64_t)span - 1) / stride + 1};
    return true;
}

static tt_text *slice_text(tt_run *r, tt_text *t, const slice_bounds *s)
{
    if (s->n == 0) {
        return tt_text_slice(r, t, 0, 0);
    }
    if (s->step == 1) {
        size_t from = tt_text_offset(r, t, (size_t)s->start);
        size_t to = tt_text_offset(r, t, (size_t)s->start + s->n);
        return tt_text_slice(r, t, from, to - from);
    }
    /* Byte offsets of all code points, then one at a time. */
    size_t chars = tt_text_chars(r, t), at = 0;
    size_t *off = tt_run_alloc(r, chars + 1, sizeof *off);
    tt_textbuf *b = tt_textbuf_new(r);
    if (off == NULL || b == NULL) {
        return NULL;
    }
    tt_val v = {.kind = TT_V_STR, .u.s = t};
    for (size_t i = 0; i < chars; i++) {
        tt_iter it = {.over = v, .pos = at};
        tt_val c;
        bool more;
        if (chars != t->n && !tt_iter_next(r, &it, &c, &more)) {
            return NULL;
        }
        off[i] = at;
        at = chars != t->n ? it.pos : at + 1;
    }
    off[chars] = t->n;
    for (size_t k = 0; k < s->n; k++) {
        size_t i = (size_t)(s->start + (int64_t)k * s->step);
        if (!tt_textbuf_add_slice(r, b, t, off[i], off[i + 1] - off[i])) {
            return NULL;
        }
    }
    return tt_textbuf_text(r, b);
}

static bool slice_list(tt_run *r, const tt_val *v, const slice_bounds *s, tt_val *ret)
{
    tt_val out;
    if (!tt_run_charge(r, s->n * sizeof(tt_val)) || !tt_val_list(r, (tt_kind)v->kind, 0, &out)) {
        return false;
    }
    tt_list *l = out.u.list;
    if (s->step == 1) { /* lists never change: share the items */
        l->items = s->n == 0 ? NULL : v->u.list->items + s->start;
        l->n = l->cap = s->n;
        *ret = out;
        return true;
    }
    for (size_t k = 0; k < s->n; k++) {
        if (!tt_list_add(r, l, v->u.list->items[s->start + (int64_t)k * s->step])) {
            return false;
        }
    }
    *ret = out;
    return true;
}

bool tt_slice(tt_run *r, const tt_val *v, const tt_val part[3], tt_val *ret)
{
    size_t n = 0;
    slice_bounds s = {0};
    if (v->kind == TT_V_UNDEFINED) {
        return tt_run_invalid(r, "%s", tt_undefined_message(r, v));
    }
    if (v->kind == TT_V_DICT) {
        return tt_run_invalid(r, "unhashable type: 'slice'");
    }
    if (!is_sequence(v) && v->kind != TT_V_RANGE) {
        return tt_run_invalid(r, "'%s' object is not subscriptable", tt_val_type(v));
    }
    if (!tt_val_len(r, v, &n) || !resolve_slice(r, part, n, &s)) {
        return false;
    }
    if (v->kind == TT_V_STR) {
        return tt_val_set_text(slice_text(r, v->u.s, &s), ret);
    }
    if (v->kind == TT_V_RANGE) {
        tt_range *g = tt_run_alloc(r, 1, sizeof *g), *of = v->u.range;
        if (g == NULL) {
            return false;
        }
        /* At most 100,000 items, but step may be anything: it only counts when there are two. */
        int64_t step = s.n > 1 ? s.step * of->step : of->step;
        int64_t start = of->start + s.start * of->step;
        *g =
            (tt_range){.start = start, .step = step, .n = s.n, .stop = start + step * (int64_t)s.n};
        *ret = (tt_val){.kind = TT_V_RANGE, .u.range = g};
        return true;
    }
    return slice_list(r, v, &s, ret);
}
