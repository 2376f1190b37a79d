/* template_parser.h - state of the chat template parser, shared by expressions (template_parse.c)
 * and statements (template_statement.c). Functions return false or NULL after filling p->err.
 * Thread: none. */
#ifndef TT_TEMPLATE_PARSER_H
#define TT_TEMPLATE_PARSER_H

#include "core/template_lex.h"
#include "core/template_parse.h"

enum {
    tt_ast_max_depth = 300,    /* of a tree: what the evaluator recurses */
    tt_parser_max_depth = 100, /* of nested expressions and statements: some ten C frames each */
    tt_ast_max_bytes = 96 * 1024 * 1024
};

typedef struct tt_parser {
    tt_lexer lexer;
    tt_ast *ast;
    tt_token cur, ahead;
    bool has_ahead;
    tt_code code;
    tt_err *err;
    size_t cap_names;
    unsigned depth, loop_depth;
    bool uses_caller, uses_varargs, uses_kwargs; /* since they were last cleared */
} tt_parser;

typedef struct tt_nodes {
    tt_node **items;
    size_t n, cap;
} tt_nodes;

typedef enum tt_tuple_mode {
    TT_TUPLE_ANY,          /* expressions */
    TT_TUPLE_NO_CONDITION, /* without a ternary outside of parentheses */
    TT_TUPLE_ITERABLE,     /* that, up to "recursive" */
    TT_TUPLE_PARENTHESES,  /* may be empty */
    TT_TUPLE_TARGET,       /* names, up to "in" */
    TT_TUPLE_SET_TARGET    /* names and attributes of namespaces */
} tt_tuple_mode;

bool tt_parser_fail(tt_parser *p, tt_code code, uint32_t line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
bool tt_parser_unexpected(tt_parser *p, const char *expected);
void *tt_parser_alloc(tt_parser *p, size_t n, size_t elem_bytes); /* zeroed */
bool tt_parser_enter(tt_parser *p);
void tt_parser_leave(tt_parser *p);

bool tt_parser_next(tt_parser *p);
const tt_token *tt_parser_look(tt_parser *p); /* the token after the current one */
bool tt_parser_is_name(const tt_parser *p, const char *name);
bool tt_parser_skip_name(tt_parser *p, const char *name);
bool tt_parser_expect(tt_parser *p, tt_tok type);

const tt_text *tt_parser_text(tt_parser *p, const char *s,
                              size_t n); /* s: borrowed while the tree lives */
uint32_t tt_parser_intern(tt_parser *p, const char *s, size_t n);
tt_node *tt_parser_node(tt_parser *p, tt_node_type type, uint32_t line);
bool tt_parser_child(tt_parser *p, tt_node *parent, const tt_node *child); /* child may be NULL */
bool tt_parser_push(tt_parser *p, tt_nodes *v, tt_node *node);
tt_node *tt_parser_list_node(tt_parser *p, tt_node_type type, uint32_t line, const tt_nodes *v);

tt_node *tt_parse_expression(tt_parser *p, bool with_condition);
tt_node *tt_parse_tuple(tt_parser *p, tt_tuple_mode mode);
tt_node *tt_parse_primary(tt_parser *p);
tt_node *tt_parse_filters(tt_parser *p, tt_node *node); /* at the first filter's name */
tt_node *tt_parse_target_item(tt_parser *p, bool with_namespace);

#endif
