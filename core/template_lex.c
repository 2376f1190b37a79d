/* template_lex.c - see template_lex.h. Thread: none, plain data. */
#include "core/template_lex.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/template_unicode.h"

tt_code tt_lexer_init(tt_lexer *lx, tt_arena *arena, const char *src, size_t n, tt_err *reterr)
{
    *lx = (tt_lexer){.arena = arena, .line = 1, .line_starting = true, .err = reterr};
    if (tt_utf8_valid_prefix(src, n) != n) {
        return tt_fail(reterr, TT_E_MODEL, "the chat template is not valid UTF-8");
    }
    char *out = tt_arena_alloc(arena, n + 1);
    if (out == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a chat template of %zu bytes", n);
    }
    for (size_t i = 0; i < n; i++) {
        if (src[i] == '\r') {
            out[lx->n++] = '\n';
            i += i + 1 < n && src[i + 1] == '\n';
        } else {
            out[lx->n++] = src[i];
        }
    }
    lx->n -= lx->n > 0 && out[lx->n - 1] == '\n';
    out[lx->n] = '\0';
    lx->src = out;
    return TT_OK;
}

const char *tt_tok_name(tt_tok type)
{
    static const char *const names[] = {
        [TT_T_EOF] = "end of template",
        [TT_T_DATA] = "text",
        [TT_T_BLOCK_BEGIN] = "{%",
        [TT_T_BLOCK_END] = "%}",
        [TT_T_VAR_BEGIN] = "{{",
        [TT_T_VAR_END] = "}}",
        [TT_T_NAME] = "name",
        [TT_T_STRING] = "string",
        [TT_T_INT] = "integer",
        [TT_T_FLOAT] = "float",
        [TT_T_ADD] = "+",
        [TT_T_SUB] = "-",
        [TT_T_MUL] = "*",
        [TT_T_DIV] = "/",
        [TT_T_FLOORDIV] = "//",
        [TT_T_MOD] = "%",
        [TT_T_POW] = "**",
        [TT_T_TILDE] = "~",
        [TT_T_LPAREN] = "(",
        [TT_T_RPAREN] = ")",
        [TT_T_LBRACKET] = "[",
        [TT_T_RBRACKET] = "]",
        [TT_T_LBRACE] = "{",
        [TT_T_RBRACE] = "}",
        [TT_T_EQ] = "==",
        [TT_T_NE] = "!=",
        [TT_T_LT] = "<",
        [TT_T_LE] = "<=",
        [TT_T_GT] = ">",
        [TT_T_GE] = ">=",
        [TT_T_ASSIGN] = "=",
        [TT_T_DOT] = ".",
        [TT_T_COMMA] = ",",
        [TT_T_COLON] = ":",
        [TT_T_PIPE] = "|",
        [TT_T_SEMICOLON] = ";",
    };
    return names[type];
}

static tt_code lex_error(tt_lexer *lx, const char *what)
{
    return tt_fail(lx->err, TT_E_MODEL, "chat template line %u: %s", lx->line, what);
}

static bool looking_at(const tt_lexer *lx, size_t pos, const char *s)
{
    size_t n = strlen(s);
    return n <= lx->n - pos && memcmp(lx->src + pos, s, n) == 0;
}

/* Moves to `end`, counting lines. */
static void advance(tt_lexer *lx, size_t end)
{
    for (size_t i = lx->pos; i < end; i++) {
        lx->line += lx->src[i] == '\n';
    }
    if (end > lx->pos) {
        lx->line_starting = lx->src[end - 1] == '\n';
    }
    lx->pos = end;
}

static size_t skip_space(const tt_lexer *lx, size_t pos)
{
    return pos + tt_utf8_span_space(lx->src + pos, lx->n - pos);
}

/* End of a closing delimiter (2 bytes, e.g. "%}") with its whitespace control at pos; 0 = none
 * there. */
static size_t match_end(const tt_lexer *lx, size_t pos, const char *close, bool trim)
{
    char sign = lx->src[pos];
    if ((sign == '-' || (sign == '+' && trim)) && looking_at(lx, pos + 1, close)) {
        return sign == '-' ? skip_space(lx, pos + 3) : pos + 3;
    }
    if (looking_at(lx, pos, close)) {
        pos += 2;
        return pos + (trim && pos < lx->n && lx->src[pos] == '\n');
    }
    return 0;
}

/* -- Between the tags ---------------------------------------------------------------------- */

/* The end of the data before a tag at `tag` whose sign is `sign`, after stripping. */
static size_t data_end(const tt_lexer *lx, size_t start, size_t tag, char sign, bool variable)
{
    if (sign == '-') {
        return start + tt_utf8_rstrip(lx->src + start, tag - start);
    }
    if (sign == '+' || variable) {
        return tag;
    }
    size_t line = tag;
    while (line > start && lx->src[line - 1] != '\n') {
        line--;
    }
    bool at_line_start = line > start || lx->line_starting;
    bool blank = tt_utf8_span_space(lx->src + line, tag - line) == tag - line;
    return at_line_start && blank ? line : tag;
}

static size_t find_tag(const tt_lexer *lx, size_t pos)
{
    for (; pos + 1 < lx->n; pos++) {
        char c = lx->src[pos + 1];
        if (lx->src[pos] == '{' && (c == '%' || c == '{' || c == '#')) {
            return pos;
        }
    }
    return lx->n;
}

/* End of "{%- raw -%}" at pos with `word` for raw; 0 when it is something else. */
static size_t match_raw(const tt_lexer *lx, size_t pos, const char *word, bool trim)
{
    if (!looking_at(lx, pos, "{%")) {
        return 0;
    }
    pos += 2;
    pos += pos < lx->n && (lx->src[pos] == '-' || lx->src[pos] == '+');
    pos = skip_space(lx, pos);
    if (!looking_at(lx, pos, word)) {
        return 0;
    }
    pos = skip_space(lx, pos + strlen(word));
    return match_end(lx, pos, "%}", trim);
}

static tt_code skip_comment(tt_lexer *lx, size_t pos)
{
    for (; pos < lx->n; pos++) {
        size_t end = match_end(lx, pos, "#}", true);
        if (end != 0) {
            advance(lx, end);
            return TT_OK;
        }
    }
    return lex_error(lx, "missing end of comment tag");
}

static void set_data(tt_lexer *lx, size_t start, size_t end, tt_token *ret)
{
    *ret = (tt_token){.type = TT_T_DATA, .line = lx->line, .p = lx->src + start, .n = end - start};
}

static tt_code next_raw(tt_lexer *lx, tt_token *ret)
{
    for (size_t pos = lx->pos; pos < lx->n; pos++) {
        size_t end = match_raw(lx, pos, "endraw", true);
        if (end != 0) {
            char sign = lx->src[pos + 2];
            set_data(lx, lx->pos, data_end(lx, lx->pos, pos, sign, false), ret);
            advance(lx, end);
            lx->mode = TT_LEX_DATA;
            return TT_OK;
        }
    }
    return lex_error(lx, "missing end of raw directive");
}

static tt_code next_data(tt_lexer *lx, tt_token *ret)
{
    size_t start = lx->pos, tag = find_tag(lx, start);
    if (tag == lx->n) {
        set_data(lx, start, lx->n, ret);
        ret->type = start == lx->n ? TT_T_EOF : TT_T_DATA;
        advance(lx, lx->n);
        return TT_OK;
    }
    char kind = lx->src[tag + 1], sign = tag + 2 < lx->n ? lx->src[tag + 2] : '\0';
    set_data(lx, start, data_end(lx, start, tag, sign, kind == '{'), ret);
    size_t raw = match_raw(lx, tag, "raw", false);
    if (raw != 0) {
        advance(lx, raw);
        lx->mode = TT_LEX_RAW;
        return TT_OK;
    }
    advance(lx, tag + 2 + (sign == '-' || sign == '+'));
    if (kind == '#') {
        return skip_comment(lx, lx->pos);
    }
    lx->mode = kind == '%' ? TT_LEX_BLOCK : TT_LEX_VAR;
    lx->pending =
        (tt_token){.type = kind == '%' ? TT_T_BLOCK_BEGIN : TT_T_VAR_BEGIN, .line = lx->line};
    lx->has_pending = true;
    return TT_OK;
}

/* -- Inside the tags ----------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* End of digits with single underscores between them. */
static size_t skip_digits(const tt_lexer *lx, size_t pos)
{
    while (is_digit(lx->src[pos]) || (lx->src[pos] == '_' && is_digit(lx->src[pos + 1]))) {
        pos++;
    }
    return pos;
}

static size_t skip_exponent(const tt_lexer *lx, size_t pos)
{
    if (lx->src[pos] != 'e' && lx->src[pos] != 'E') {
        return pos;
    }
    size_t digits = pos + 1 + (lx->src[pos + 1] == '+' || lx->src[pos + 1] == '-');
    return is_digit(lx->src[digits]) ? skip_digits(lx, digits) : pos;
}

static int digit_value(char c)
{
    return is_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;
}

static tt_code lex_prefixed(tt_lexer *lx, int base, tt_token *ret)
{
    size_t pos = lx->pos + 2;
    for (; digit_value(lx->src[pos]) < base ||
           (lx->src[pos] == '_' && digit_value(lx->src[pos + 1]) < base);
         pos++) {
        if (lx->src[pos] != '_' &&
            (__builtin_mul_overflow(ret->i, base, &ret->i) ||
             __builtin_add_overflow(ret->i, digit_value(lx->src[pos]), &ret->i))) {
            return lex_error(lx, "an integer beyond 64 bits");
        }
    }
    advance(lx, pos);
    return TT_OK;
}

static tt_code lex_number(tt_lexer *lx, tt_token *ret)
{
    char mark = lx->src[lx->pos] == '0' ? (char)(lx->src[lx->pos + 1] | 32) : '\0';
    int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    ret->type = TT_T_INT;
    if (base != 10 && digit_value(lx->src[lx->pos + 2 + (lx->src[lx->pos + 2] == '_')]) < base) {
        return lex_prefixed(lx, base, ret);
    }
    size_t whole = skip_digits(lx, lx->pos), end = whole;
    bool after_dot = lx->pos > 0 && lx->src[lx->pos - 1] == '.';
    if (!after_dot && lx->src[whole] == '.' && is_digit(lx->src[whole + 1])) {
        end = skip_digits(lx, whole + 1);
    }
    end = after_dot ? end : skip_exponent(lx, end);
    char *digits = tt_arena_alloc(lx->arena, end - lx->pos + 1);
    if (digits == NULL) {
        return tt_fail(lx->err, TT_E_NOMEM, "no memory for a chat template");
    }
    size_t n = 0;
    for (size_t i = lx->pos; i < end; i++) {
        digits[n] = lx->src[i];
        n += lx->src[i] != '_';
    }
    digits[n] = '\0';
    if (end != whole) {
        ret->type = TT_T_FLOAT;
        ret->f = strtod(digits, NULL);
    }
    for (size_t i = 0; end == whole && i < n; i++) {
        if (__builtin_mul_overflow(ret->i, 10, &ret->i) ||
            __builtin_add_overflow(ret->i, digits[i] - '0', &ret->i)) {
            return lex_error(lx, "an integer beyond 64 bits");
        }
    }
    advance(lx, end);
    return TT_OK;
}

/* One escape sequence after the backslash at s[0..n): appends to out and returns the bytes read, 0
 * on an error. */
static size_t unescape(const char *s, size_t n, char *out, size_t *n_out)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *plain = s[0] == '\0' ? NULL : strchr(from, s[0]);
    if (plain != NULL) {
        out[(*n_out)++] = to[plain - from];
        return 1;
    }
    if (s[0] == '\n') {
        return 1;
    }
    uint32_t cp = 0;
    size_t used = 0;
    if (s[0] >= '0' && s[0] <= '7') {
        while (used < 3 && used < n && s[used] >= '0' && s[used] <= '7') {
            cp = cp * 8 + (uint32_t)(s[used++] - '0');
        }
    } else if (s[0] == 'x' || s[0] == 'u' || s[0] == 'U') {
        size_t want = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
        for (used = 1; used <= want; used++) {
            if (used >= n || digit_value(s[used]) > 15) {
                return 0;
            }
            cp = cp << 4 | (uint32_t)digit_value(s[used]);
        }
    } else if ((unsigned char)s[0] >= 0x80) {
        /* Python writes such a character as an escape first, and then the backslash before it
         * escapes that one. */
        used = tt_utf8_get(s, n, &cp);
        *n_out += (size_t)sprintf(out + *n_out,
                                  cp < 0x100     ? "\\x%02x"
                                  : cp < 0x10000 ? "\\u%04x"
                                                 : "\\U%08x",
                                  cp);
        return used;
    } else {
        out[(*n_out)++] = '\\'; /* an unknown escape stays as it is */
        return s[0] == 'N' ? 0 : SIZE_MAX;
    }
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) {
        return 0;
    }
    *n_out += (size_t)tt_utf8_put(cp, out + *n_out);
    return used;
}

static tt_code lex_string(tt_lexer *lx, tt_token *ret)
{
    char quote = lx->src[lx->pos];
    size_t end = lx->pos + 1;
    while (end < lx->n && lx->src[end] != quote) {
        end += lx->src[end] == '\\' && end + 1 < lx->n ? 2 : 1;
    }
    if (end >= lx->n) {
        return lex_error(lx, "a string without its end");
    }
    const char *s = lx->src + lx->pos + 1;
    size_t n = end - lx->pos - 1, n_out = 0;
    char *out = (char *)s;
    if (memchr(s, '\\', n) != NULL) {
        out = tt_arena_alloc(lx->arena, n * 2 + 1); /* a backslash and four bytes can become ten */
        if (out == NULL) {
            return tt_fail(lx->err, TT_E_NOMEM, "no memory for a chat template");
        }
        for (size_t i = 0; i < n;) {
            if (s[i] != '\\' || i + 1 == n) {
                out[n_out++] = s[i++];
                continue;
            }
            size_t used = unescape(s + i + 1, n - i - 1, out, &n_out);
            if (used == 0) {
                return lex_error(lx, "an escape sequence in a string that is not supported");
            }
            i += used == SIZE_MAX ? 1 : 1 + used;
        }
        n = n_out;
    }
    *ret = (tt_token){.type = TT_T_STRING, .line = lx->line, .p = out, .n = n};
    advance(lx, end + 1);
    return TT_OK;
}

static tt_tok operator_at(const tt_lexer *lx, size_t *ret_n)
{
    static const struct {
        char text[3];
        tt_tok type;
    } ops[] = {
        {"//", TT_T_FLOORDIV}, {"**", TT_T_POW},      {"==", TT_T_EQ},      {"!=", TT_T_NE},
        {"<=", TT_T_LE},       {">=", TT_T_GE},       {"+", TT_T_ADD},      {"-", TT_T_SUB},
        {"*", TT_T_MUL},       {"/", TT_T_DIV},       {"%", TT_T_MOD},      {"~", TT_T_TILDE},
        {"(", TT_T_LPAREN},    {")", TT_T_RPAREN},    {"[", TT_T_LBRACKET}, {"]", TT_T_RBRACKET},
        {"{", TT_T_LBRACE},    {"}", TT_T_RBRACE},    {"<", TT_T_LT},       {">", TT_T_GT},
        {"=", TT_T_ASSIGN},    {".", TT_T_DOT},       {",", TT_T_COMMA},    {":", TT_T_COLON},
        {"|", TT_T_PIPE},      {";", TT_T_SEMICOLON},
    };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (looking_at(lx, lx->pos, ops[i].text)) {
            *ret_n = strlen(ops[i].text);
            return ops[i].type;
        }
    }
    return TT_T_EOF;
}

static tt_code lex_operator(tt_lexer *lx, tt_token *ret)
{
    size_t n = 0;
    ret->type = operator_at(lx, &n);
    if (ret->type == TT_T_EOF) {
        return tt_fail(lx->err, TT_E_MODEL, "chat template line %u: unexpected character '%.4s'",
                       lx->line, lx->src + lx->pos);
    }
    char c = lx->src[lx->pos];
    if (c == '(' || c == '[' || c == '{') {
        if (lx->n_closers == tt_lex_max_brackets) {
            return tt_fail(lx->err, TT_E_UNSUPPORTED,
                           "chat template line %u: brackets nested deeper than %d", lx->line,
                           tt_lex_max_brackets);
        }
        lx->closers[lx->n_closers++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (lx->n_closers == 0 || lx->closers[--lx->n_closers] != c) {
            return tt_fail(lx->err, TT_E_MODEL, "chat template line %u: unexpected '%c'", lx->line,
                           c);
        }
    }
    advance(lx, lx->pos + n);
    return TT_OK;
}

static tt_code next_in_tag(tt_lexer *lx, tt_token *ret)
{
    bool block = lx->mode == TT_LEX_BLOCK;
    for (;;) {
        size_t end = lx->n_closers == 0 && lx->pos < lx->n
                         ? match_end(lx, lx->pos, block ? "%}" : "}}", block)
                         : 0;
        *ret = (tt_token){.type = block ? TT_T_BLOCK_END : TT_T_VAR_END, .line = lx->line};
        if (end != 0) {
            advance(lx, end);
            lx->mode = TT_LEX_DATA;
            return TT_OK;
        }
        size_t space = skip_space(lx, lx->pos);
        if (space == lx->pos) {
            break;
        }
        advance(lx, space);
    }
    if (lx->pos == lx->n) {
        return lex_error(lx, "the template ends inside a tag");
    }
    char c = lx->src[lx->pos];
    if (is_digit(c)) {
        return lex_number(lx, ret);
    }
    if (c == '\'' || c == '"') {
        return lex_string(lx, ret);
    }
    size_t end = lx->pos + tt_utf8_span_word(lx->src + lx->pos, lx->n - lx->pos);
    if (end > lx->pos) {
        *ret = (tt_token){
            .type = TT_T_NAME, .line = lx->line, .p = lx->src + lx->pos, .n = end - lx->pos};
        advance(lx, end);
        return TT_OK;
    }
    return lex_operator(lx, ret);
}

tt_code tt_lexer_next(tt_lexer *lx, tt_token *ret_token)
{
    if (lx->has_pending) {
        lx->has_pending = false;
        *ret_token = lx->pending;
        return TT_OK;
    }
    tt_code rc;
    do { /* no empty data */
        rc = lx->mode == TT_LEX_DATA  ? next_data(lx, ret_token)
             : lx->mode == TT_LEX_RAW ? next_raw(lx, ret_token)
                                      : next_in_tag(lx, ret_token);
        if (rc == TT_OK && ret_token->type == TT_T_DATA && ret_token->n == 0 && lx->has_pending) {
            lx->has_pending = false;
            *ret_token = lx->pending;
        }
    } while (rc == TT_OK && ret_token->type == TT_T_DATA && ret_token->n == 0);
    return rc;
}
