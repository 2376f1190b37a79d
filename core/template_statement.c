/* template_statement.c - the statements of a chat template: {% if %}, {% for %}, {% set %}, {%
 * macro %} and the rest. Thread: none. */
#include "core/template_parser.h"

#include <string.h>

static tt_node *parse_body(tt_parser *p, const char *const *ends);

static bool node_child(tt_parser *p, tt_node *node, tt_node **slot, tt_node *child)
{
    *slot = child;
    return child != NULL && tt_parser_child(p, node, child);
}

/* The body up to one of `ends` (NULL-terminated; the current token then), inside its own tag's
 * "%}". */
static tt_node *statements(tt_parser *p, const char *const *ends)
{
    if (p->cur.type == TT_T_COLON && !tt_parser_next(p)) {
        return NULL;
    }
    return tt_parser_expect(p, TT_T_BLOCK_END) ? parse_body(p, ends) : NULL;
}

/* The same for a statement with one end tag, which is consumed. */
static bool body_until(tt_parser *p, tt_node *node, const char *end)
{
    const char *ends[] = {end, NULL};
    return node_child(p, node, &node->body, statements(p, ends)) && tt_parser_next(p);
}

/* -- Targets of assignments ---------------------------------------------------------------- */

tt_node *tt_parse_target_item(tt_parser *p, bool with_namespace)
{
    if (p->cur.type == TT_T_LPAREN) {
        tt_node *inner = NULL;
        if (tt_parser_enter(p) && tt_parser_next(p)) {
            inner = tt_parse_tuple(p, with_namespace ? TT_TUPLE_SET_TARGET : TT_TUPLE_TARGET);
        }
        tt_parser_leave(p);
        return inner != NULL && tt_parser_expect(p, TT_T_RPAREN) ? inner : NULL;
    }
    tt_node *node = p->cur.type == TT_T_NAME ? tt_parse_primary(p) : NULL;
    if (node == NULL || node->type != TT_N_NAME) {
        tt_parser_fail(p, TT_E_MODEL, p->cur.line, "a name to assign to was expected");
        return NULL;
    }
    if (with_namespace && p->cur.type == TT_T_DOT) {
        if (!tt_parser_next(p) || p->cur.type != TT_T_NAME) {
            tt_parser_unexpected(p, "a name");
            return NULL;
        }
        node->type = TT_N_NSREF;
        node->text = tt_parser_text(p, p->cur.p, p->cur.n);
        return node->text != NULL && tt_parser_next(p) ? node : NULL;
    }
    if (node->name == TT_NAME_LOOP && (p->loop_depth != 0 || !with_namespace)) {
        tt_parser_fail(p, TT_E_MODEL, node->line, "the special variable 'loop' cannot be assigned");
        return NULL;
    }
    return node;
}

/* -- Statements; each starts at its keyword and ends at its last tag's "%}" ---------------- */

static bool parse_if(tt_parser *p, tt_node *node)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    tt_nodes v = {0};
    do {
        if (!tt_parser_next(p) ||
            !tt_parser_push(p, &v, tt_parse_tuple(p, TT_TUPLE_NO_CONDITION)) ||
            !tt_parser_push(p, &v, statements(p, ends)) ||
            !tt_parser_child(p, node, v.items[v.n - 2]) ||
            !tt_parser_child(p, node, v.items[v.n - 1])) {
            return false;
        }
    } while (tt_parser_is_name(p, "elif"));
    node->list = v.items;
    node->n = v.n;
    if (tt_parser_skip_name(p, "else")) {
        const char *end[] = {"endif", NULL};
        if (!node_child(p, node, &node->c, statements(p, end))) {
            return false;
        }
    }
    return tt_parser_next(p);
}

static bool parse_for(tt_parser *p, tt_node *node)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const endfor[] = {"endfor", NULL};
    if (!tt_parser_next(p) || !node_child(p, node, &node->a, tt_parse_tuple(p, TT_TUPLE_TARGET))) {
        return false;
    }
    if (!tt_parser_is_name(p, "in")) {
        return tt_parser_unexpected(p, "in");
    }
    if (!tt_parser_next(p) ||
        !node_child(p, node, &node->b, tt_parse_tuple(p, TT_TUPLE_ITERABLE))) {
        return false;
    }
    if (tt_parser_skip_name(p, "if") &&
        !node_child(p, node, &node->test, tt_parse_expression(p, true))) {
        return false;
    }
    if (tt_parser_is_name(p, "recursive")) {
        return tt_parser_fail(p, TT_E_UNSUPPORTED, node->line, "a recursive loop is not supported");
    }
    p->loop_depth++;
    bool ok = node_child(p, node, &node->body, statements(p, ends));
    p->loop_depth--;
    if (!ok) {
        return false;
    }
    if (tt_parser_skip_name(p, "else") && !node_child(p, node, &node->c, statements(p, endfor))) {
        return false;
    }
    return tt_parser_next(p);
}

static tt_node *parse_block_filters(tt_parser *p)
{
    tt_node *input = tt_parser_node(p, TT_N_INPUT, p->cur.line);
    return input == NULL ? NULL : tt_parse_filters(p, input);
}

static bool parse_set(tt_parser *p, tt_node *node)
{
    if (!tt_parser_next(p) ||
        !node_child(p, node, &node->a, tt_parse_tuple(p, TT_TUPLE_SET_TARGET))) {
        return false;
    }
    if (p->cur.type == TT_T_ASSIGN) {
        return tt_parser_next(p) && node_child(p, node, &node->b, tt_parse_tuple(p, TT_TUPLE_ANY));
    }
    node->type = TT_N_SETBLOCK;
    if (p->cur.type == TT_T_PIPE &&
        (!tt_parser_next(p) || !node_child(p, node, &node->b, parse_block_filters(p)))) {
        return false;
    }
    return body_until(p, node, "endset");
}

/* (a, b=1) at "(". */
static bool parse_signature(tt_parser *p, tt_node *node, tt_params *params)
{
    tt_nodes names = {0}, defaults = {0};
    for (bool more = tt_parser_next(p); p->cur.type != TT_T_RPAREN;) {
        if (!more || (names.n != 0 && !tt_parser_expect(p, TT_T_COMMA))) {
            return false;
        }
        if (p->cur.type == TT_T_RPAREN && names.n != 0) {
            return tt_parser_unexpected(p, "a name");
        }
        tt_node *name = p->cur.type == TT_T_NAME ? tt_parse_primary(p) : NULL;
        if (name == NULL || name->type != TT_N_NAME) {
            return tt_parser_unexpected(p, "the name of a parameter");
        }
        if (!tt_parser_push(p, &names, name)) {
            return false;
        }
        if (p->cur.type == TT_T_ASSIGN) {
            if (!tt_parser_next(p) || !tt_parser_push(p, &defaults, tt_parse_expression(p, true)) ||
                !tt_parser_child(p, node, defaults.items[defaults.n - 1])) {
                return false;
            }
        } else if (defaults.n != 0) {
            return tt_parser_fail(p, TT_E_MODEL, p->cur.line,
                                  "a parameter without default follows one with");
        }
    }
    params->n = names.n;
    params->defaults = defaults.items;
    params->n_defaults = defaults.n;
    params->names = tt_parser_alloc(p, names.n + 1, sizeof *params->names);
    params->texts = tt_parser_alloc(p, names.n + 1, sizeof *params->texts);
    for (size_t i = 0; params->texts != NULL && params->names != NULL && i < names.n; i++) {
        params->names[i] = names.items[i]->name;
        params->texts[i] = p->ast->names[names.items[i]->name];
    }
    return params->names != NULL && params->texts != NULL && tt_parser_next(p);
}

/* The body of a macro or call block: what it says of caller, varargs and kwargs is its own, a loop
 * around it is not. */
static bool parse_macro_body(tt_parser *p, tt_node *node, tt_params *params, const char *end)
{
    bool caller = p->uses_caller, varargs = p->uses_varargs, kwargs = p->uses_kwargs;
    unsigned loops = p->loop_depth;
    p->uses_caller = p->uses_varargs = p->uses_kwargs = false;
    p->loop_depth = 0;
    if (!body_until(p, node, end)) {
        return false;
    }
    p->loop_depth = loops;
    params->body = node->body;
    params->uses_caller = p->uses_caller;
    params->uses_varargs = p->uses_varargs;
    params->uses_kwargs = p->uses_kwargs;
    for (size_t i = 0; i < params->n; i++) {
        params->uses_caller &= params->names[i] != TT_NAME_CALLER;
        params->uses_varargs &= params->names[i] != TT_NAME_VARARGS;
        params->uses_kwargs &= params->names[i] != TT_NAME_KWARGS;
    }
    p->uses_caller |= caller;
    p->uses_varargs |= varargs;
    p->uses_kwargs |= kwargs;
    node->params = params;
    return true;
}

static bool parse_macro(tt_parser *p, tt_node *node)
{
    tt_params *params = tt_parser_alloc(p, 1, sizeof *params);
    tt_node *name = params != NULL && tt_parser_next(p) && p->cur.type == TT_T_NAME
                        ? tt_parse_primary(p)
                        : NULL;
    if (name == NULL || name->type != TT_N_NAME) {
        return tt_parser_unexpected(p, "the name of the macro");
    }
    node->name = name->name;
    if (p->cur.type != TT_T_LPAREN) {
        return tt_parser_unexpected(p, "(");
    }
    return parse_signature(p, node, params) && parse_macro_body(p, node, params, "endmacro");
}

static bool parse_call_block(tt_parser *p, tt_node *node)
{
    tt_params *params = tt_parser_alloc(p, 1, sizeof *params);
    if (params == NULL || !tt_parser_next(p) ||
        (p->cur.type == TT_T_LPAREN && !parse_signature(p, node, params)) ||
        !node_child(p, node, &node->a, tt_parse_expression(p, true))) {
        return false;
    }
    if (node->a->type != TT_N_CALL) {
        return tt_parser_fail(p, TT_E_MODEL, node->line, "expected a call");
    }
    return parse_macro_body(p, node, params, "endcall");
}

static bool parse_filter_block(tt_parser *p, tt_node *node)
{
    return tt_parser_next(p) && node_child(p, node, &node->b, parse_block_filters(p)) &&
           body_until(p, node, "endfilter");
}

static bool parse_with(tt_parser *p, tt_node *node)
{
    tt_nodes v = {0};
    if (!tt_parser_next(p)) {
        return false;
    }
    while (p->cur.type != TT_T_BLOCK_END) {
        if (v.n != 0 && !tt_parser_expect(p, TT_T_COMMA)) {
            return false;
        }
        tt_node *target = tt_parse_target_item(p, false);
        if (target == NULL || !tt_parser_push(p, &v, target) || !tt_parser_expect(p, TT_T_ASSIGN) ||
            !tt_parser_push(p, &v, tt_parse_expression(p, true)) ||
            !tt_parser_child(p, node, v.items[v.n - 1])) {
            return false;
        }
    }
    node->list = v.items;
    node->n = v.n;
    return body_until(p, node, "endwith");
}

static bool parse_print(tt_parser *p, tt_node *node)
{
    return tt_parser_next(p) && node_child(p, node, &node->a, tt_parse_expression(p, true));
}

static bool parse_generation(tt_parser *p, tt_node *node)
{
    return tt_parser_next(p) && body_until(p, node, "endgeneration");
}

static bool parse_loop_control(tt_parser *p, tt_node *node)
{
    if (p->loop_depth == 0) {
        return tt_parser_fail(p, TT_E_MODEL, node->line, "'%s' outside of a loop",
                              node->type == TT_N_BREAK ? "break" : "continue");
    }
    return tt_parser_next(p);
}

static tt_node *parse_statement(tt_parser *p)
{
    static const struct {
        const char *tag;
        tt_node_type type;
        bool (*parse)(tt_parser *p, tt_node *node);
    } statements_table[] = {
        {"if", TT_N_IF, parse_if},
        {"for", TT_N_FOR, parse_for},
        {"set", TT_N_SET, parse_set},
        {"macro", TT_N_MACRO, parse_macro},
        {"call", TT_N_CALLBLOCK, parse_call_block},
        {"filter", TT_N_FILTERBLOCK, parse_filter_block},
        {"with", TT_N_WITH, parse_with},
        {"print", TT_N_PRINT, parse_print},
        {"generation", TT_N_GENERATION, parse_generation},
        {"break", TT_N_BREAK, parse_loop_control},
        {"continue", TT_N_CONTINUE, parse_loop_control},
    };
    static const char *const missing[] = {"block", "extends",    "include", "import",
                                          "from",  "autoescape", "trans",   "do",
                                          "debug", "pluralize"};
    for (size_t i = 0; i < sizeof statements_table / sizeof statements_table[0]; i++) {
        if (tt_parser_is_name(p, statements_table[i].tag)) {
            tt_node *node = tt_parser_node(p, statements_table[i].type, p->cur.line);
            return node != NULL && statements_table[i].parse(p, node) ? node : NULL;
        }
    }
    if (p->cur.type != TT_T_NAME) {
        tt_parser_unexpected(p, "the name of a tag");
        return NULL;
    }
    bool known = false;
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++) {
        known |= tt_parser_is_name(p, missing[i]);
    }
    bool end = (p->cur.n > 3 && memcmp(p->cur.p, "end", 3) == 0) || tt_parser_is_name(p, "else") ||
               tt_parser_is_name(p, "elif");
    tt_parser_fail(p, end ? TT_E_MODEL : TT_E_UNSUPPORTED, p->cur.line, "tag '%.*s' is %s",
                   (int)(p->cur.n < 40 ? p->cur.n : 40), p->cur.p,
                   known ? "not supported"
                   : end ? "out of place"
                         : "not known");
    return NULL;
}

/* -- Bodies -------------------------------------------------------------------------------- */

static tt_node *parse_data(tt_parser *p)
{
    tt_node *node = tt_parser_node(p, TT_N_DATA, p->cur.line);
    const tt_text *t = tt_parser_text(p, p->cur.p, p->cur.n);
    if (node == NULL || t == NULL) {
        return NULL;
    }
    node->value = tt_val_text((tt_text *)t);
    return tt_parser_next(p) ? node : NULL;
}

static tt_node *parse_output(tt_parser *p)
{
    tt_node *node = tt_parser_node(p, TT_N_PRINT, p->cur.line);
    if (node == NULL || !tt_parser_next(p) ||
        !node_child(p, node, &node->a, tt_parse_tuple(p, TT_TUPLE_ANY))) {
        return NULL;
    }
    return tt_parser_expect(p, TT_T_VAR_END) ? node : NULL;
}

static bool at_one_of(const tt_parser *p, const char *const *ends)
{
    for (; ends != NULL && *ends != NULL; ends++) {
        if (tt_parser_is_name(p, *ends)) {
            return true;
        }
    }
    return false;
}

/* ends NULL: up to the end of the template. */
static bool fill_body(tt_parser *p, const char *const *ends, tt_nodes *v)
{
    while (p->cur.type != TT_T_EOF) {
        if (p->cur.type == TT_T_BLOCK_BEGIN) {
            if (!tt_parser_next(p)) {
                return false;
            }
            if (at_one_of(p, ends)) {
                return true;
            }
            if (!tt_parser_push(p, v, parse_statement(p)) || !tt_parser_expect(p, TT_T_BLOCK_END)) {
                return false;
            }
        } else if (!tt_parser_push(p, v,
                                   p->cur.type == TT_T_DATA ? parse_data(p) : parse_output(p))) {
            return false;
        }
    }
    return ends == NULL || tt_parser_fail(p, TT_E_MODEL, p->cur.line,
                                          "the template ends where '%s' is missing", ends[0]);
}

static tt_node *parse_body(tt_parser *p, const char *const *ends)
{
    tt_nodes v = {0};
    uint32_t line = p->cur.line;
    if (!tt_parser_enter(p) || !fill_body(p, ends, &v)) {
        return NULL;
    }
    tt_parser_leave(p);
    return tt_parser_list_node(p, TT_N_BODY, line, &v);
}

/* -- Entry --------------------------------------------------------------------------------- */

tt_code tt_ast_parse(const char *src, size_t n_bytes, tt_ast *ret_ast, tt_err *reterr)
{
    static const char *const known[TT_N_KNOWN_NAMES] = {"loop", "caller", "varargs", "kwargs"};
    *ret_ast = (tt_ast){0};
    tt_arena_init(&ret_ast->arena, tt_ast_max_bytes);
    tt_parser p = {.ast = ret_ast, .err = reterr};
    p.code = tt_lexer_init(&p.lexer, &ret_ast->arena, src, n_bytes, reterr);
    for (size_t i = 0; p.code == TT_OK && i < TT_N_KNOWN_NAMES; i++) {
        tt_parser_intern(&p, known[i], strlen(known[i]));
    }
    if (p.code == TT_OK && tt_parser_next(&p)) {
        ret_ast->root = parse_body(&p, NULL);
    }
    if (p.code != TT_OK) {
        tt_ast_finish(ret_ast);
    }
    return p.code;
}

void tt_ast_finish(tt_ast *ast)
{
    tt_arena_finish(&ast->arena);
    *ast = (tt_ast){0};
}

uint32_t tt_ast_name(const tt_ast *ast, const char *name, size_t n)
{
    for (uint32_t i = 0; i < ast->n_names; i++) {
        if (ast->names[i]->n == n && memcmp(ast->names[i]->p, name, n) == 0) {
            return i;
        }
    }
    return UINT32_MAX;
}
