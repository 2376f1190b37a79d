/* template_parse.c - the expressions of a chat template: recursive descent with Jinja's
 * precedences. Statements are in template_statement.c. Thread: none. */
#include "core/template_parser.h"

#include <string.h>

static tt_node *unary(tt_parser *p, tt_node_type type, uint32_t line, tt_node *a)
{
    tt_node *node = a == NULL ? NULL : tt_parser_node(p, type, line);
    if (node == NULL || !tt_parser_child(p, node, a)) {
        return NULL;
    }
    node->a = a;
    return node;
}

static tt_node *binary(tt_parser *p, tt_node_type type, uint32_t line, tt_node *a, tt_node *b)
{
    tt_node *node = b == NULL ? NULL : unary(p, type, line, a);
    if (node == NULL || !tt_parser_child(p, node, b)) {
        return NULL;
    }
    node->b = b;
    return node;
}

/* -- Primaries ----------------------------------------------------------------------------- */

static tt_node *constant(tt_parser *p, tt_val v)
{
    tt_node *node = tt_parser_node(p, TT_N_CONST, p->cur.line);
    if (node != NULL) {
        node->value = v;
    }
    return node != NULL && tt_parser_next(p) ? node : NULL;
}

static tt_node *parse_string(tt_parser *p)
{
    uint32_t line = p->cur.line;
    const char *s = p->cur.p;
    size_t n = p->cur.n;
    if (!tt_parser_next(p)) {
        return NULL;
    }
    while (p->cur.type == TT_T_STRING) { /* 'a' 'b' is 'ab' */
        char *both = tt_parser_alloc(p, n + p->cur.n + 1, 1);
        if (both == NULL) {
            return NULL;
        }
        memcpy(both, s, n);
        memcpy(both + n, p->cur.p, p->cur.n);
        s = both;
        n += p->cur.n;
        if (!tt_parser_next(p)) {
            return NULL;
        }
    }
    tt_node *node = tt_parser_node(p, TT_N_CONST, line);
    const tt_text *t = tt_parser_text(p, s, n);
    if (node == NULL || t == NULL) {
        return NULL;
    }
    node->value = tt_val_text((tt_text *)t);
    return node;
}

static tt_node *parse_name(tt_parser *p)
{
    static const struct {
        const char *name;
        tt_val value;
    } constants[] = {
        {"true", {.kind = TT_V_BOOL, .trusted = true, .u.b = true}},
        {"True", {.kind = TT_V_BOOL, .trusted = true, .u.b = true}},
        {"false", {.kind = TT_V_BOOL, .trusted = true}},
        {"False", {.kind = TT_V_BOOL, .trusted = true}},
        {"none", {.kind = TT_V_NONE, .trusted = true}},
        {"None", {.kind = TT_V_NONE, .trusted = true}},
    };
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
        if (tt_parser_is_name(p, constants[i].name)) {
            return constant(p, constants[i].value);
        }
    }
    tt_node *node = tt_parser_node(p, TT_N_NAME, p->cur.line);
    if (node == NULL) {
        return NULL;
    }
    node->name = tt_parser_intern(p, p->cur.p, p->cur.n);
    p->uses_caller |= node->name == TT_NAME_CALLER;
    p->uses_varargs |= node->name == TT_NAME_VARARGS;
    p->uses_kwargs |= node->name == TT_NAME_KWARGS;
    return tt_parser_next(p) ? node : NULL;
}

/* Items up to the closing bracket; a trailing comma is allowed. */
static tt_node *parse_bracketed(tt_parser *p, tt_node_type type, tt_tok close)
{
    tt_nodes v = {0};
    uint32_t line = p->cur.line;
    if (!tt_parser_next(p)) {
        return NULL;
    }
    while (p->cur.type != close) {
        if (v.n != 0 && !tt_parser_expect(p, TT_T_COMMA)) {
            return NULL;
        }
        if (p->cur.type == close) {
            break;
        }
        if (!tt_parser_push(p, &v, tt_parse_expression(p, true))) {
            return NULL;
        }
        if (type == TT_N_DICT && (!tt_parser_expect(p, TT_T_COLON) ||
                                  !tt_parser_push(p, &v, tt_parse_expression(p, true)))) {
            return NULL;
        }
    }
    return tt_parser_next(p) ? tt_parser_list_node(p, type, line, &v) : NULL;
}

tt_node *tt_parse_primary(tt_parser *p)
{
    switch (p->cur.type) {
    case TT_T_NAME:
        return parse_name(p);
    case TT_T_STRING:
        return parse_string(p);
    case TT_T_INT:
        return constant(p, tt_val_int(p->cur.i));
    case TT_T_FLOAT:
        return constant(p, tt_val_float(p->cur.f));
    case TT_T_LPAREN: {
        if (!tt_parser_next(p)) {
            return NULL;
        }
        tt_node *node = tt_parse_tuple(p, TT_TUPLE_PARENTHESES);
        return node != NULL && tt_parser_expect(p, TT_T_RPAREN) ? node : NULL;
    }
    case TT_T_LBRACKET:
        return parse_bracketed(p, TT_N_LIST, TT_T_RBRACKET);
    case TT_T_LBRACE:
        return parse_bracketed(p, TT_N_DICT, TT_T_RBRACE);
    default:
        tt_parser_unexpected(p, "an expression");
        return NULL;
    }
}

static bool at_tuple_end(const tt_parser *p, tt_tuple_mode mode)
{
    tt_tok t = p->cur.type;
    return t == TT_T_VAR_END || t == TT_T_BLOCK_END || t == TT_T_RPAREN ||
           (mode == TT_TUPLE_TARGET && tt_parser_is_name(p, "in")) ||
           (mode == TT_TUPLE_ITERABLE && tt_parser_is_name(p, "recursive"));
}

tt_node *tt_parse_tuple(tt_parser *p, tt_tuple_mode mode)
{
    tt_nodes v = {0};
    uint32_t line = p->cur.line;
    bool is_tuple = false;
    for (;;) {
        if (v.n != 0 && !tt_parser_expect(p, TT_T_COMMA)) {
            return NULL;
        }
        if (at_tuple_end(p, mode)) {
            break;
        }
        tt_node *item =
            mode == TT_TUPLE_TARGET || mode == TT_TUPLE_SET_TARGET
                ? tt_parse_target_item(p, mode == TT_TUPLE_SET_TARGET)
                : tt_parse_expression(p, mode == TT_TUPLE_ANY || mode == TT_TUPLE_PARENTHESES);
        if (item == NULL || !tt_parser_push(p, &v, item)) {
            return NULL;
        }
        if (p->cur.type != TT_T_COMMA) {
            break;
        }
        is_tuple = true;
    }
    if (!is_tuple && v.n == 1) {
        return v.items[0];
    }
    if (!is_tuple && mode != TT_TUPLE_PARENTHESES) {
        tt_parser_unexpected(p, "an expression");
        return NULL;
    }
    return tt_parser_list_node(p, TT_N_TUPLE, line, &v);
}

/* -- Calls, attributes, items -------------------------------------------------------------- */

static bool parse_keyword(tt_parser *p, tt_args *args, tt_nodes *kw)
{
    const tt_text *name = tt_parser_text(p, p->cur.p, p->cur.n);
    if (name == NULL || !tt_parser_next(p) || !tt_parser_next(p) ||
        !tt_parser_push(p, kw, tt_parse_expression(p, true))) {
        return false;
    }
    for (size_t i = 0; i + 1 < kw->n; i++) {
        if (tt_text_equal(args->kw_names[i], name)) {
            return tt_parser_fail(p, TT_E_MODEL, p->cur.line, "keyword argument repeated: %.*s",
                                  (int)(name->n < 40 ? name->n : 40), name->p);
        }
    }
    const tt_text **names = tt_parser_alloc(p, kw->n, sizeof *names);
    if (names == NULL) {
        return false;
    }
    if (kw->n > 1) {
        memcpy(names, args->kw_names, (kw->n - 1) * sizeof *names);
    }
    names[kw->n - 1] = name;
    args->kw_names = names;
    return kw->n <= 64 ||
           tt_parser_fail(p, TT_E_UNSUPPORTED, p->cur.line, "more than 64 keyword arguments");
}

static bool parse_argument(tt_parser *p, tt_args *args, tt_nodes *pos, tt_nodes *kw)
{
    if (p->cur.type == TT_T_MUL && args->star == NULL && args->star_star == NULL) {
        args->star = tt_parser_next(p) ? tt_parse_expression(p, true) : NULL;
        return args->star != NULL;
    }
    if (p->cur.type == TT_T_POW && args->star_star == NULL) {
        args->star_star = tt_parser_next(p) ? tt_parse_expression(p, true) : NULL;
        return args->star_star != NULL;
    }
    if (p->cur.type == TT_T_NAME && tt_parser_look(p)->type == TT_T_ASSIGN &&
        args->star_star == NULL) {
        return parse_keyword(p, args, kw);
    }
    if (args->star != NULL || args->star_star != NULL || kw->n != 0) {
        return tt_parser_fail(p, TT_E_MODEL, p->cur.line,
                              "invalid syntax for function call expression");
    }
    return tt_parser_push(p, pos, tt_parse_expression(p, true));
}

/* At "("; the arguments become children of `node`. */
static bool parse_args(tt_parser *p, tt_node *node)
{
    tt_args *args = tt_parser_alloc(p, 1, sizeof *args);
    tt_nodes pos = {0}, kw = {0};
    if (args == NULL || !tt_parser_next(p)) {
        return false;
    }
    for (bool first = true; p->cur.type != TT_T_RPAREN; first = false) {
        if (!first && !tt_parser_expect(p, TT_T_COMMA)) {
            return false;
        }
        if (p->cur.type == TT_T_RPAREN) {
            break;
        }
        if (!parse_argument(p, args, &pos, &kw)) {
            return false;
        }
    }
    args->pos = pos.items;
    args->n_pos = pos.n;
    args->kw = kw.items;
    args->n_kw = kw.n;
    for (size_t i = 0; i < pos.n; i++) {
        tt_parser_child(p, node, pos.items[i]);
    }
    for (size_t i = 0; i < kw.n; i++) {
        tt_parser_child(p, node, kw.items[i]);
    }
    tt_parser_child(p, node, args->star);
    tt_parser_child(p, node, args->star_star);
    node->args = args;
    return tt_parser_next(p);
}

/* What jinja2 would call and this interpreter does not have is reported when the template is
 * loaded. */
static bool check_callee(tt_parser *p, const tt_node *callee)
{
    static const char *const functions[] = {"cycler", "joiner", "lipsum"};
    static const char *const methods[] = {
        "casefold",   "encode",    "expandtabs",      "format_map", "isidentifier",
        "istitle",    "maketrans", "translate",       "fromkeys",   "bit_length",
        "is_integer", "hex",       "as_integer_ratio"};
    bool name = callee->type == TT_N_NAME;
    const tt_text *t = name                        ? p->ast->names[callee->name]
                       : callee->type == TT_N_ATTR ? callee->text
                                                   : NULL;
    const char *const *list = name ? functions : methods;
    size_t n = name ? sizeof functions / sizeof functions[0] : sizeof methods / sizeof methods[0];
    for (size_t i = 0; t != NULL && i < n; i++) {
        if (tt_text_is(t, list[i])) {
            return tt_parser_fail(p, TT_E_UNSUPPORTED, callee->line, "%s '%s' is not supported",
                                  name ? "function" : "method", list[i]);
        }
    }
    return true;
}

static tt_node *parse_call(tt_parser *p, tt_node *callee)
{
    if (!check_callee(p, callee)) {
        return NULL;
    }
    tt_node *node = unary(p, TT_N_CALL, p->cur.line, callee);
    return node != NULL && parse_args(p, node) ? node : NULL;
}

static bool slice_ends(const tt_parser *p)
{
    return p->cur.type == TT_T_COLON || p->cur.type == TT_T_RBRACKET || p->cur.type == TT_T_COMMA;
}

/* start:stop:step after "[", each of them optional. */
static tt_node *parse_slice(tt_parser *p, tt_node *of, tt_node *start, uint32_t line)
{
    tt_node **parts = tt_parser_alloc(p, 3, sizeof *parts);
    tt_node *node = unary(p, TT_N_SLICE, line, of);
    if (parts == NULL || node == NULL) {
        return NULL;
    }
    parts[0] = start;
    for (size_t i = 1; i < 3 && p->cur.type == TT_T_COLON; i++) {
        if (!tt_parser_next(p) ||
            (!slice_ends(p) && (parts[i] = tt_parse_expression(p, true)) == NULL)) {
            return NULL;
        }
    }
    for (size_t i = 0; i < 3; i++) {
        if (!tt_parser_child(p, node, parts[i])) {
            return NULL;
        }
    }
    node->list = parts;
    node->n = 3;
    return node;
}

static tt_node *parse_item(tt_parser *p, tt_node *of)
{
    uint32_t line = p->cur.line;
    tt_nodes v = {0};
    if (!tt_parser_next(p)) {
        return NULL;
    }
    while (p->cur.type != TT_T_RBRACKET) {
        if (v.n != 0 && !tt_parser_expect(p, TT_T_COMMA)) {
            return NULL;
        }
        tt_node *item = p->cur.type == TT_T_COLON ? NULL : tt_parse_expression(p, true);
        if (item == NULL && p->code != TT_OK) {
            return NULL;
        }
        if (p->cur.type == TT_T_COLON) {
            tt_node *slice = parse_slice(p, of, item, line);
            if (slice != NULL && p->cur.type != TT_T_RBRACKET) {
                tt_parser_fail(p, TT_E_UNSUPPORTED, line, "a tuple of slices");
            }
            return slice != NULL && tt_parser_next(p) && p->code == TT_OK ? slice : NULL;
        }
        if (!tt_parser_push(p, &v, item)) {
            return NULL;
        }
    }
    if (v.n == 0) {
        tt_parser_unexpected(p, "an expression");
        return NULL;
    }
    tt_node *index = v.n == 1 ? v.items[0] : tt_parser_list_node(p, TT_N_TUPLE, line, &v);
    return tt_parser_next(p) ? binary(p, TT_N_ITEM, line, of, index) : NULL;
}

static tt_node *parse_attribute(tt_parser *p, tt_node *of)
{
    uint32_t line = p->cur.line;
    if (!tt_parser_next(p)) {
        return NULL;
    }
    if (p->cur.type == TT_T_INT) {
        return binary(p, TT_N_ITEM, line, of, constant(p, tt_val_int(p->cur.i)));
    }
    if (p->cur.type != TT_T_NAME) {
        tt_parser_unexpected(p, "a name or a number");
        return NULL;
    }
    tt_node *node = unary(p, TT_N_ATTR, line, of);
    if (node == NULL || (node->text = tt_parser_text(p, p->cur.p, p->cur.n)) == NULL) {
        return NULL;
    }
    return tt_parser_next(p) ? node : NULL;
}

static tt_node *parse_postfix(tt_parser *p, tt_node *node)
{
    while (node != NULL) {
        if (p->cur.type == TT_T_DOT) {
            node = parse_attribute(p, node);
        } else if (p->cur.type == TT_T_LBRACKET) {
            node = parse_item(p, node);
        } else if (p->cur.type == TT_T_LPAREN) {
            node = parse_call(p, node);
        } else {
            break;
        }
    }
    return node;
}

/* -- Filters and tests --------------------------------------------------------------------- */

/* NULL after reporting a filter or test that this interpreter does not have. */
static const tt_builtin *find_builtin(tt_parser *p, bool filter, const char *name, size_t n)
{
    bool known = false;
    const tt_builtin *f = (filter ? tt_filter_find : tt_test_find)(name, n, &known);
    if (f == NULL) {
        tt_parser_fail(p, TT_E_UNSUPPORTED, p->cur.line, "%s '%.*s' is not %s",
                       filter ? "filter" : "test", (int)(n < 40 ? n : 40), name,
                       known ? "supported" : "known");
    }
    return f;
}

/* The name after "|" or "is". */
static const tt_builtin *parse_builtin(tt_parser *p, bool filter)
{
    if (p->cur.type != TT_T_NAME) {
        tt_parser_unexpected(p, filter ? "the name of a filter" : "the name of a test");
        return NULL;
    }
    const tt_builtin *f = find_builtin(p, filter, p->cur.p, p->cur.n);
    return f != NULL && tt_parser_next(p) ? f : NULL;
}

/* map('upper'), select('odd'), selectattr('x', 'in', y): the filters and tests that are named by a
 * constant. */
static bool check_named(tt_parser *p, const tt_node *node)
{
    static const struct {
        const char *filter;
        size_t at;
        bool names_filter;
    } named[] = {{"map", 0, true},
                 {"select", 0, false},
                 {"reject", 0, false},
                 {"selectattr", 1, false},
                 {"rejectattr", 1, false}};
    for (size_t i = 0; node->args != NULL && i < sizeof named / sizeof named[0]; i++) {
        if (strcmp(node->builtin->name, named[i].filter) != 0 || node->args->n_pos <= named[i].at) {
            continue;
        }
        const tt_node *arg = node->args->pos[named[i].at];
        if (arg->type == TT_N_CONST && arg->value.kind == TT_V_STR &&
            find_builtin(p, named[i].names_filter, arg->value.u.s->p, arg->value.u.s->n) == NULL) {
            return false;
        }
    }
    return true;
}

tt_node *tt_parse_filters(tt_parser *p, tt_node *node)
{
    do {
        const tt_builtin *f = parse_builtin(p, true);
        node = f == NULL ? NULL : unary(p, TT_N_FILTER, p->cur.line, node);
        if (node == NULL) {
            return NULL;
        }
        node->builtin = f;
        if (p->cur.type == TT_T_LPAREN && (!parse_args(p, node) || !check_named(p, node))) {
            return NULL;
        }
    } while (p->cur.type == TT_T_PIPE && tt_parser_next(p));
    return p->code == TT_OK ? node : NULL;
}

/* A test may have one argument without parentheses: x is divisibleby 3. */
static bool parse_test_argument(tt_parser *p, tt_node *node)
{
    tt_tok t = p->cur.type;
    if (t == TT_T_LPAREN) {
        return parse_args(p, node);
    }
    bool starts = t == TT_T_NAME || t == TT_T_STRING || t == TT_T_INT || t == TT_T_FLOAT ||
                  t == TT_T_LBRACKET || t == TT_T_LBRACE;
    if (!starts || tt_parser_is_name(p, "else") || tt_parser_is_name(p, "or") ||
        tt_parser_is_name(p, "and")) {
        return true;
    }
    if (tt_parser_is_name(p, "is")) {
        return tt_parser_fail(p, TT_E_MODEL, p->cur.line, "tests with is cannot be chained");
    }
    tt_args *args = tt_parser_alloc(p, 1, sizeof *args);
    tt_nodes v = {0};
    if (args == NULL || !tt_parser_push(p, &v, parse_postfix(p, tt_parse_primary(p)))) {
        return false;
    }
    args->pos = v.items;
    args->n_pos = 1;
    node->args = args;
    return tt_parser_child(p, node, v.items[0]);
}

static tt_node *parse_test(tt_parser *p, tt_node *of)
{
    uint32_t line = p->cur.line;
    if (!tt_parser_next(p)) {
        return NULL;
    }
    bool negated = tt_parser_skip_name(p, "not");
    const tt_builtin *f = parse_builtin(p, false);
    tt_node *node = f == NULL ? NULL : unary(p, TT_N_TEST, line, of);
    if (node == NULL) {
        return NULL;
    }
    node->builtin = f;
    if (!parse_test_argument(p, node)) {
        return NULL;
    }
    return negated ? unary(p, TT_N_NOT, line, node) : node;
}

/* -- Operators ----------------------------------------------------------------------------- */

static tt_node *parse_unary(tt_parser *p, bool with_filters)
{
    tt_node *node = NULL;
    uint32_t line = p->cur.line;
    if (p->cur.type == TT_T_SUB || p->cur.type == TT_T_ADD) {
        tt_node_type type = p->cur.type == TT_T_SUB ? TT_N_NEG : TT_N_POS;
        if (!tt_parser_enter(p) || !tt_parser_next(p)) {
            return NULL;
        }
        node = unary(p, type, line, parse_unary(p, false));
        tt_parser_leave(p);
    } else {
        node = tt_parse_primary(p);
    }
    node = parse_postfix(p, node);
    while (with_filters && node != NULL) {
        if (p->cur.type == TT_T_PIPE) {
            node = tt_parser_next(p) ? tt_parse_filters(p, node) : NULL;
        } else if (tt_parser_is_name(p, "is")) {
            node = parse_test(p, node);
        } else if (p->cur.type == TT_T_LPAREN) {
            node = parse_call(p, node);
        } else {
            break;
        }
    }
    return node;
}

static bool binary_op(tt_tok t, int level, tt_op *ret)
{
    static const struct {
        tt_tok tok;
        int level;
        tt_op op;
    } ops[] = {
        {TT_T_ADD, 0, TT_OP_ADD}, {TT_T_SUB, 0, TT_OP_SUB},           {TT_T_MUL, 1, TT_OP_MUL},
        {TT_T_DIV, 1, TT_OP_DIV}, {TT_T_FLOORDIV, 1, TT_OP_FLOORDIV}, {TT_T_MOD, 1, TT_OP_MOD},
        {TT_T_POW, 2, TT_OP_POW},
    };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (ops[i].tok == t && ops[i].level == level) {
            *ret = ops[i].op;
            return true;
        }
    }
    return false;
}

static tt_node *parse_concat(tt_parser *p);

/* Levels: 0 = + -, over ~, over 1 = * / // %, over 2 = ** (to the left, as Jinja has it), over
 * unary. */
static tt_node *parse_arithmetic(tt_parser *p, int level)
{
    tt_node *left = level == 0   ? parse_concat(p)
                    : level == 1 ? parse_arithmetic(p, 2)
                                 : parse_unary(p, true);
    tt_op op;
    while (left != NULL && binary_op(p->cur.type, level, &op)) {
        uint32_t line = p->cur.line;
        if (!tt_parser_next(p)) {
            return NULL;
        }
        tt_node *right = level == 0   ? parse_concat(p)
                         : level == 1 ? parse_arithmetic(p, 2)
                                      : parse_unary(p, true);
        left = binary(p, TT_N_BINARY, line, left, right);
        if (left != NULL) {
            left->op = (uint8_t)op;
        }
    }
    return left;
}

static tt_node *parse_concat(tt_parser *p)
{
    tt_nodes v = {0};
    uint32_t line = p->cur.line;
    tt_node *first = parse_arithmetic(p, 1);
    if (first == NULL || p->cur.type != TT_T_TILDE) {
        return first;
    }
    if (!tt_parser_push(p, &v, first)) {
        return NULL;
    }
    while (p->cur.type == TT_T_TILDE) {
        if (!tt_parser_next(p) || !tt_parser_push(p, &v, parse_arithmetic(p, 1))) {
            return NULL;
        }
    }
    return tt_parser_list_node(p, TT_N_CONCAT, line, &v);
}

static bool at_comparison(tt_parser *p, tt_op *ret)
{
    if (p->cur.type >= TT_T_EQ && p->cur.type <= TT_T_GE) {
        static const tt_op ops[] = {TT_OP_EQ, TT_OP_NE, TT_OP_LT, TT_OP_LE, TT_OP_GT, TT_OP_GE};
        *ret = ops[p->cur.type - TT_T_EQ];
        return tt_parser_next(p);
    }
    if (tt_parser_is_name(p, "in")) {
        *ret = TT_OP_IN;
        return tt_parser_next(p);
    }
    const tt_token *t = tt_parser_is_name(p, "not") ? tt_parser_look(p) : NULL;
    if (t != NULL && p->code == TT_OK && t->type == TT_T_NAME && t->n == 2 &&
        memcmp(t->p, "in", 2) == 0) {
        *ret = TT_OP_NOTIN;
        return tt_parser_next(p) && tt_parser_next(p);
    }
    return false;
}

static tt_node *parse_compare(tt_parser *p)
{
    tt_nodes v = {0};
    uint8_t *ops = NULL;
    uint32_t line = p->cur.line;
    tt_node *first = parse_arithmetic(p, 0);
    tt_op op;
    while (first != NULL && at_comparison(p, &op)) {
        if (ops == NULL &&
            (!tt_parser_push(p, &v, first) || (ops = tt_parser_alloc(p, 16, 1)) == NULL)) {
            return NULL;
        }
        if (v.n > 16) {
            tt_parser_fail(p, TT_E_UNSUPPORTED, line, "a chain of more than 16 comparisons");
            return NULL;
        }
        ops[v.n - 1] = (uint8_t)op;
        if (!tt_parser_push(p, &v, parse_arithmetic(p, 0))) {
            return NULL;
        }
    }
    if (ops == NULL || p->code != TT_OK) {
        return p->code == TT_OK ? first : NULL;
    }
    tt_node *node = tt_parser_list_node(p, TT_N_COMPARE, line, &v);
    if (node != NULL) {
        node->ops = ops;
    }
    return node;
}

static tt_node *parse_not(tt_parser *p)
{
    uint32_t line = p->cur.line;
    if (!tt_parser_is_name(p, "not")) {
        return parse_compare(p);
    }
    if (!tt_parser_enter(p) || !tt_parser_next(p)) {
        return NULL;
    }
    tt_node *node = unary(p, TT_N_NOT, line, parse_not(p));
    tt_parser_leave(p);
    return node;
}

static tt_node *parse_and(tt_parser *p)
{
    tt_node *left = parse_not(p);
    while (left != NULL && tt_parser_is_name(p, "and")) {
        uint32_t line = p->cur.line;
        left = tt_parser_next(p) ? binary(p, TT_N_AND, line, left, parse_not(p)) : NULL;
    }
    return left;
}

static tt_node *parse_or(tt_parser *p)
{
    tt_node *left = parse_and(p);
    while (left != NULL && tt_parser_is_name(p, "or")) {
        uint32_t line = p->cur.line;
        left = tt_parser_next(p) ? binary(p, TT_N_OR, line, left, parse_and(p)) : NULL;
    }
    return left;
}

tt_node *tt_parse_expression(tt_parser *p, bool with_condition)
{
    if (!tt_parser_enter(p)) {
        return NULL;
    }
    tt_node *node = parse_or(p);
    while (with_condition && node != NULL && tt_parser_is_name(p, "if")) {
        uint32_t line = p->cur.line;
        node = tt_parser_next(p) ? binary(p, TT_N_COND, line, node, parse_or(p)) : NULL;
        if (node != NULL && tt_parser_is_name(p, "else")) {
            node->c = tt_parser_next(p) ? tt_parse_expression(p, true) : NULL;
            if (node->c == NULL || !tt_parser_child(p, node, node->c)) {
                node = NULL;
            }
        }
    }
    tt_parser_leave(p);
    return node;
}
