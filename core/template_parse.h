/* template_parse.h - the syntax tree of a chat template. Thread: a tree is immutable once parsed.
 */
#ifndef TT_TEMPLATE_PARSE_H
#define TT_TEMPLATE_PARSE_H

#include "core/template_value.h"

typedef enum tt_node_type {
    /* expressions */
    TT_N_CONST,
    TT_N_NAME,    /* name */
    TT_N_TUPLE,   /* list */
    TT_N_LIST,    /* list */
    TT_N_DICT,    /* list: key, value, key, value, ... */
    TT_N_COND,    /* a if b else c (NULL: undefined) */
    TT_N_OR,      /* a, b */
    TT_N_AND,     /* a, b */
    TT_N_NOT,     /* a */
    TT_N_COMPARE, /* list: operand, operand, ...; ops between them */
    TT_N_BINARY,  /* a op b */
    TT_N_CONCAT,  /* list */
    TT_N_NEG,     /* a */
    TT_N_POS,     /* a */
    TT_N_ATTR,    /* a . text */
    TT_N_ITEM,    /* a [b] */
    TT_N_SLICE,   /* a [list: start, stop, step; NULL = not given] */
    TT_N_CALL,    /* a (args) */
    TT_N_FILTER,  /* a | builtin (args) */
    TT_N_TEST,    /* a is builtin (args) */
    TT_N_INPUT,   /* the body of a filter block */
    /* statements */
    TT_N_DATA,        /* value */
    TT_N_PRINT,       /* a */
    TT_N_IF,          /* list: test, body, test, body, ...; c = else */
    TT_N_FOR,         /* a = target, b = iterable, test (or NULL), body, c = else */
    TT_N_SET,         /* a = target, b */
    TT_N_SETBLOCK,    /* a = target, b = filter (or NULL), body */
    TT_N_NSREF,       /* target only: name . text */
    TT_N_MACRO,       /* name, params */
    TT_N_CALLBLOCK,   /* a = call, params = caller's */
    TT_N_FILTERBLOCK, /* b = filter, body */
    TT_N_WITH,        /* list: target, value, ...; body */
    TT_N_GENERATION,  /* body */
    TT_N_BREAK,
    TT_N_CONTINUE,
    TT_N_BODY /* list of statements */
} tt_node_type;

typedef enum tt_op {
    TT_OP_ADD,
    TT_OP_SUB,
    TT_OP_MUL,
    TT_OP_DIV,
    TT_OP_FLOORDIV,
    TT_OP_MOD,
    TT_OP_POW,
    TT_OP_EQ,
    TT_OP_NE,
    TT_OP_LT,
    TT_OP_LE,
    TT_OP_GT,
    TT_OP_GE,
    TT_OP_IN,
    TT_OP_NOTIN
} tt_op;

/* Arguments as written. */
typedef struct tt_args {
    tt_node **pos;
    size_t n_pos;
    const tt_text **kw_names;
    tt_node **kw;
    size_t n_kw;
    tt_node *star, *star_star; /* or NULL */
} tt_args;

/* Parameters of a macro or of a call block; the last n_defaults have defaults. */
typedef struct tt_params {
    uint32_t *names;
    const tt_text **texts;
    size_t n;
    tt_node **defaults;
    size_t n_defaults;
    tt_node *body;
    bool uses_caller, uses_varargs, uses_kwargs; /* in the body, without being parameters */
} tt_params;

struct tt_node {
    uint8_t type;
    uint8_t op;
    uint16_t depth; /* 1 + that of the deepest child */
    uint32_t line;
    uint32_t name; /* index into tt_ast.names */
    const tt_text *text;
    tt_val value; /* CONST, DATA */
    tt_node *a, *b, *c, *body, *test;
    tt_node **list;
    size_t n;
    uint8_t *ops; /* COMPARE [n - 1] */
    const tt_args *args;
    const tt_params *params;
    const tt_builtin *builtin;
};

/* Names that the interpreter itself knows, interned first and in this order. */
typedef enum tt_known_name {
    TT_NAME_LOOP,
    TT_NAME_CALLER,
    TT_NAME_VARARGS,
    TT_NAME_KWARGS,
    TT_N_KNOWN_NAMES
} tt_known_name;

typedef struct tt_ast {
    tt_arena arena;
    tt_node *root; /* BODY */
    const tt_text **names;
    uint32_t n_names;
} tt_ast;

/* TT_E_MODEL: a syntax error; TT_E_UNSUPPORTED: a construct, filter or test that is not
 * implemented; both with the line. TT_E_NOMEM. On failure *ret_ast is empty. */
tt_code tt_ast_parse(const char *src, size_t n_bytes, tt_ast *ret_ast, tt_err *reterr);
void tt_ast_finish(tt_ast *ast);
/* Index of a name of the template; UINT32_MAX when it does not occur in it. */
uint32_t tt_ast_name(const tt_ast *ast, const char *name, size_t n);

/* NULL when there is none; *ret_known tells whether jinja2 has it. */
const tt_builtin *tt_filter_find(const char *name, size_t n, bool *ret_known);
const tt_builtin *tt_test_find(const char *name, size_t n, bool *ret_known);

#endif
