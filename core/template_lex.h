/* template_lex.h - tokens of a Jinja template with the settings of chat templates: trim_blocks,
 * lstrip_blocks, newlines normalised, the last newline dropped. Thread: none, plain data. */
#ifndef TT_TEMPLATE_LEX_H
#define TT_TEMPLATE_LEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "kernels/err.h"

typedef enum tt_tok {
    TT_T_EOF,
    TT_T_DATA,
    TT_T_BLOCK_BEGIN,
    TT_T_BLOCK_END,
    TT_T_VAR_BEGIN,
    TT_T_VAR_END,
    TT_T_NAME,
    TT_T_STRING,
    TT_T_INT,
    TT_T_FLOAT,
    TT_T_ADD,
    TT_T_SUB,
    TT_T_MUL,
    TT_T_DIV,
    TT_T_FLOORDIV,
    TT_T_MOD,
    TT_T_POW,
    TT_T_TILDE,
    TT_T_LPAREN,
    TT_T_RPAREN,
    TT_T_LBRACKET,
    TT_T_RBRACKET,
    TT_T_LBRACE,
    TT_T_RBRACE,
    TT_T_EQ,
    TT_T_NE,
    TT_T_LT,
    TT_T_LE,
    TT_T_GT,
    TT_T_GE,
    TT_T_ASSIGN,
    TT_T_DOT,
    TT_T_COMMA,
    TT_T_COLON,
    TT_T_PIPE,
    TT_T_SEMICOLON
} tt_tok;

typedef struct tt_token {
    tt_tok type;
    uint32_t line;
    const char *p; /* DATA, NAME, STRING (unescaped): the text */
    size_t n;
    int64_t i; /* INT */
    double f;  /* FLOAT */
} tt_token;

enum { tt_lex_max_brackets = 200 };

typedef enum tt_lex_mode { TT_LEX_DATA, TT_LEX_BLOCK, TT_LEX_VAR, TT_LEX_RAW } tt_lex_mode;

typedef struct tt_lexer {
    tt_arena *arena; /* borrowed; texts of tokens live there */
    const char *src;
    size_t n, pos;
    uint32_t line;
    tt_lex_mode mode;
    tt_token pending; /* the begin token that follows a piece of data */
    bool has_pending;
    bool line_starting; /* the last match ended with a newline */
    char closers[tt_lex_max_brackets];
    size_t n_closers;
    tt_err *err;
} tt_lexer;

/* src: copied to the arena. TT_E_MODEL when it is not UTF-8, TT_E_NOMEM. */
tt_code tt_lexer_init(tt_lexer *lx, tt_arena *arena, const char *src, size_t n, tt_err *reterr);
/* After the end: TT_T_EOF again and again. TT_E_MODEL names the line. */
tt_code tt_lexer_next(tt_lexer *lx, tt_token *ret_token);
const char *tt_tok_name(tt_tok type);

#endif
