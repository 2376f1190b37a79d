/* template_parser.c - tokens, names and nodes for the chat template parser; see template_parser.h.
 * Thread: none. */
#include "core/template_parser.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { max_names = 1024 }; /* each is looked for among all */

bool tt_parser_fail(tt_parser *p, tt_code code, uint32_t line, const char *fmt, ...)
{
    if (p->code == TT_OK) {
        char msg[sizeof p->err->msg];
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(msg, sizeof msg, fmt, ap);
        va_end(ap);
        p->code = tt_fail(p->err, code, "chat template line %u: %s", line, n < 0 ? "" : msg);
    }
    return false;
}

void *tt_parser_alloc(tt_parser *p, size_t n, size_t elem_bytes)
{
    void *m = tt_arena_calloc(&p->ast->arena, n, elem_bytes);
    if (m == NULL && p->code == TT_OK) {
        p->code = tt_fail(p->err, TT_E_NOMEM, "no memory for the chat template");
    }
    return m;
}

bool tt_parser_next(tt_parser *p)
{
    if (p->has_ahead) {
        p->cur = p->ahead;
        p->has_ahead = false;
        return true;
    }
    if (p->code == TT_OK) {
        p->code = tt_lexer_next(&p->lexer, &p->cur);
    }
    return p->code == TT_OK;
}

bool tt_parser_is_name(const tt_parser *p, const char *name)
{
    return p->cur.type == TT_T_NAME && p->cur.n == strlen(name) &&
           memcmp(p->cur.p, name, p->cur.n) == 0;
}

bool tt_parser_skip_name(tt_parser *p, const char *name)
{
    return tt_parser_is_name(p, name) && tt_parser_next(p);
}

bool tt_parser_unexpected(tt_parser *p, const char *expected)
{
    const tt_token *t = &p->cur;
    if (t->type == TT_T_NAME) {
        return tt_parser_fail(p, TT_E_MODEL, t->line, "expected %s, found '%.*s'", expected,
                              (int)(t->n < 40 ? t->n : 40), t->p);
    }
    return tt_parser_fail(p, TT_E_MODEL, t->line, "expected %s, found '%s'", expected,
                          tt_tok_name(t->type));
}

bool tt_parser_expect(tt_parser *p, tt_tok type)
{
    return p->cur.type == type ? tt_parser_next(p) : tt_parser_unexpected(p, tt_tok_name(type));
}

const tt_text *tt_parser_text(tt_parser *p, const char *s, size_t n)
{
    tt_text *t = tt_parser_alloc(p, 1, sizeof *t);
    if (t != NULL) {
        size_t ascii = 0;
        while (ascii < n && (unsigned char)s[ascii] < 0x80) {
            ascii++;
        }
        /* Counted now: a tree is shared by threads, so rendering must not write to its texts. */
        size_t chars = ascii;
        for (size_t i = ascii; i < n; i++) {
            chars += ((unsigned char)s[i] & 0xC0) != 0x80;
        }
        *t = (tt_text){.p = s, .n = n, .n_chars = chars, .trusted = true};
    }
    return t;
}

uint32_t tt_parser_intern(tt_parser *p, const char *s, size_t n)
{
    uint32_t at = tt_ast_name(p->ast, s, n);
    if (at != UINT32_MAX) {
        return at;
    }
    if (p->ast->n_names == p->cap_names) {
        size_t cap = p->cap_names < 64 ? 64 : p->cap_names * 2;
        const tt_text **names = cap > max_names ? NULL : tt_parser_alloc(p, cap, sizeof *names);
        if (names == NULL) {
            tt_parser_fail(p, TT_E_UNSUPPORTED, p->cur.line, "more than %d different names",
                           max_names);
            return 0;
        }
        if (p->ast->n_names != 0) {
            memcpy(names, p->ast->names, p->ast->n_names * sizeof *names);
        }
        p->ast->names = names;
        p->cap_names = cap;
    }
    const tt_text *t = tt_parser_text(p, s, n);
    if (t == NULL) {
        return 0;
    }
    p->ast->names[p->ast->n_names] = t;
    return p->ast->n_names++;
}

tt_node *tt_parser_node(tt_parser *p, tt_node_type type, uint32_t line)
{
    tt_node *node = p->code == TT_OK ? tt_parser_alloc(p, 1, sizeof *node) : NULL;
    if (node != NULL) {
        *node = (tt_node){.type = (uint8_t)type, .line = line, .depth = 1};
    }
    return node;
}

/* Notes a child's depth; false when the tree gets too deep to be walked. */
bool tt_parser_child(tt_parser *p, tt_node *parent, const tt_node *child)
{
    if (child != NULL && child->depth >= parent->depth) {
        parent->depth = (uint16_t)(child->depth + 1);
        if (parent->depth > tt_ast_max_depth) {
            return tt_parser_fail(p, TT_E_UNSUPPORTED, parent->line,
                                  "nesting deeper than %d levels", tt_ast_max_depth);
        }
    }
    return p->code == TT_OK;
}

bool tt_parser_push(tt_parser *p, tt_nodes *v, tt_node *node)
{
    if (node == NULL && p->code != TT_OK) {
        return false;
    }
    if (v->n == v->cap) {
        size_t cap = v->cap < 4 ? 4 : v->cap * 2;
        tt_node **items = tt_parser_alloc(p, cap, sizeof *items);
        if (items == NULL) {
            return false;
        }
        if (v->n != 0) {
            memcpy(items, v->items, v->n * sizeof *items);
        }
        v->items = items;
        v->cap = cap;
    }
    v->items[v->n++] = node;
    return true;
}

tt_node *tt_parser_list_node(tt_parser *p, tt_node_type type, uint32_t line, const tt_nodes *v)
{
    tt_node *node = tt_parser_node(p, type, line);
    for (size_t i = 0; node != NULL && i < v->n; i++) {
        if (!tt_parser_child(p, node, v->items[i])) {
            return NULL;
        }
    }
    if (node != NULL) {
        node->list = v->items;
        node->n = v->n;
    }
    return node;
}

const tt_token *tt_parser_look(tt_parser *p)
{
    if (!p->has_ahead && p->code == TT_OK) {
        p->code = tt_lexer_next(&p->lexer, &p->ahead);
        p->has_ahead = p->code == TT_OK;
    }
    return &p->ahead;
}

bool tt_parser_enter(tt_parser *p)
{
    if (p->depth >= tt_parser_max_depth) {
        return tt_parser_fail(p, TT_E_UNSUPPORTED, p->cur.line, "nesting deeper than %d levels",
                              tt_parser_max_depth);
    }
    p->depth++;
    return true;
}

void tt_parser_leave(tt_parser *p)
{
    p->depth--;
}
