/* api_json.c - see api_json.h. */
#include "server/api_json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/json_read.h"

/* Bytes that jansson takes for one value besides its text: node, table slot (grown by doubling),
 * allocator. */
enum { COST_OBJECT = 320, COST_ARRAY = 160, COST_VALUE = 64, COST_KEY = 96 };

/* Walks the text once, outside strings by structure characters alone; it need not be valid JSON. */
static bool scan(const char *text, size_t n, size_t limit, tt_http_error *e)
{
    size_t cost = 0, depth = 0;
    for (size_t i = 0; i < n; i++) {
        switch (text[i]) {
        case '"':
            for (i++; i < n && text[i] != '"'; i++) {
                i += text[i] == '\\';
            }
            cost += COST_VALUE;
            break;
        case '{':
            cost += COST_OBJECT;
            depth++;
            break;
        case '[':
            cost += COST_ARRAY;
            depth++;
            break;
        case '}':
        case ']':
            depth -= depth > 0;
            break;
        case ',':
            cost += COST_VALUE;
            break;
        case ':':
            cost += COST_KEY;
            break;
        default:
            break;
        }
        if (depth > TT_JSON_MAX_DEPTH) {
            tt_error_set(e, 400, NULL, NULL, "JSON nested deeper than %d levels (byte %zu)",
                         TT_JSON_MAX_DEPTH, i);
            return false;
        }
        if (cost > limit) {
            tt_error_set(e, 400, NULL, NULL, "too many JSON values (at byte %zu of %zu)", i, n);
            return false;
        }
    }
    return true;
}

/* Writes ".0" behind integers that no 64-bit number holds: they are valid JSON, and a field's own
 * check then names the field, where jansson would refuse the whole body. */
static void widen_integers(tt_buf *out, const char *text, size_t n)
{
    size_t from = 0;
    for (size_t i = 0; i < n;) {
        size_t start = i;
        if (text[i] == '"') {
            for (i++; i < n && text[i] != '"'; i++) {
                i += text[i] == '\\';
            }
            i++;
            continue;
        }
        while (i < n && text[i] >= '0' && text[i] <= '9') {
            i++;
        }
        bool integer = i - start >= 19 && (i == n || strchr(".eE", text[i]) == NULL) &&
                       (start == 0 || strchr(".eE+", text[start - 1]) == NULL);
        if (integer) {
            tt_buf_put(out, text + from, i - from);
            tt_buf_puts(out, ".0");
            from = i;
        }
        i += i == start;
    }
    if (from < n) {
        tt_buf_put(out, text + from, n - from);
    }
}

/* jansson's lexer calls it a syntax error when it gets no memory, or drops the byte that it has no
 * room for: so its allocations are watched. */
static _Thread_local bool out_of_memory;

static void *watched_malloc(size_t n)
{
    void *p = malloc(n);
    out_of_memory = out_of_memory || p == NULL;
    return p;
}

void tt_json_watch_memory(void)
{
    json_set_alloc_funcs(watched_malloc, free);
}

json_t *tt_json_load(const char *text, size_t n, size_t flags, json_error_t *je, bool *ret_memory)
{
    json_error_t own = {.line = -1};
    je = je != NULL ? je : &own;
    out_of_memory = false;
    json_t *root = json_loadb(text, n, flags, je);
    *ret_memory =
        out_of_memory || (root == NULL && json_error_code(je) == json_error_out_of_memory);
    if (*ret_memory) {
        json_decref(root);
        return NULL;
    }
    return root;
}

static json_t *load(const char *text, size_t n, json_error_t *je, bool *ret_memory)
{
    json_t *root = tt_json_read(text, n);
    *ret_memory = false;
    if (root != NULL) {
        return root;
    }
    root = tt_json_load(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, je, ret_memory);
    if (root == NULL && !*ret_memory && json_error_code(je) == json_error_numeric_overflow) {
        tt_buf wide = {0};
        widen_integers(&wide, text, n);
        if (!wide.failed && wide.n > n) {
            root = tt_json_load(wide.p, wide.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, je,
                                ret_memory);
        }
        *ret_memory = *ret_memory || wide.failed;
        tt_buf_finish(&wide);
    }
    return root;
}

json_t *tt_json_parse(const char *text, size_t n, size_t memory_limit, tt_http_error *e)
{
    json_error_t je = {.line = -1};
    bool no_memory;
    if (!scan(text, n, memory_limit, e)) {
        return NULL;
    }
    json_t *root = load(text, n, &je, &no_memory);
    if (root == NULL) {
        if (no_memory) {
            tt_err err = {.code = TT_E_NOMEM};
            tt_error_from_code(e, &err);
            return NULL;
        }
        tt_error_set(e, 400, NULL, NULL, "invalid JSON at line %d, column %d (byte %d): %s",
                     je.line, je.column, je.position, je.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        tt_error_set(e, 400, NULL, NULL, "the body must be a JSON object, not %s",
                     tt_json_type_name(root));
        json_decref(root);
        return NULL;
    }
    return root;
}

const char *tt_json_type_name(const json_t *v)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer", [JSON_REAL] = "a number",  [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",        [JSON_NULL] = "null"};
    return v != NULL ? names[json_typeof(v)] : "nothing";
}

bool tt_json_refuse(tt_http_error *e, const char *prefix, const char *key, const char *code,
                    const char *fmt, ...)
{
    char path[96], text[220];
    va_list ap;
    va_start(ap, fmt);
    if (vsnprintf(text, sizeof text, fmt, ap) < 0) {
        text[0] = '\0';
    }
    va_end(ap);
    snprintf(path, sizeof path, "%s%s", prefix, key);
    tt_error_set(e, 400, path, code, "%s %s", path, text);
    return false;
}

const json_t *tt_json_get(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return v == NULL || json_is_null(v) ? NULL : v;
}

bool tt_json_get_bool(const json_t *o, const char *prefix, const char *key, bool *ret,
                      tt_http_error *e)
{
    const json_t *v = tt_json_get(o, key);
    if (v == NULL) {
        return true;
    }
    if (!json_is_boolean(v)) {
        return tt_json_refuse(e, prefix, key, NULL, "must be true or false, not %s",
                              tt_json_type_name(v));
    }
    *ret = json_is_true(v);
    return true;
}

bool tt_json_get_int(const json_t *o, const char *prefix, const char *key, int64_t min, int64_t max,
                     int64_t *ret, tt_http_error *e)
{
    const json_t *v = tt_json_get(o, key);
    if (v == NULL) {
        return true;
    }
    if (!json_is_integer(v)) {
        return tt_json_refuse(e, prefix, key, NULL, "must be an integer, not %s",
                              tt_json_type_name(v));
    }
    int64_t i = json_integer_value(v);
    if (i < min || i > max) {
        return tt_json_refuse(e, prefix, key, NULL, "is %lld; it must be from %lld to %lld",
                              (long long)i, (long long)min, (long long)max);
    }
    *ret = i;
    return true;
}

bool tt_json_get_number(const json_t *o, const char *prefix, const char *key, double min,
                        double max, double *ret, tt_http_error *e)
{
    const json_t *v = tt_json_get(o, key);
    if (v == NULL) {
        return true;
    }
    if (!json_is_number(v)) {
        return tt_json_refuse(e, prefix, key, NULL, "must be a number, not %s",
                              tt_json_type_name(v));
    }
    double d = json_number_value(v);
    if (!isfinite(d) || d < min || d > max) {
        return tt_json_refuse(e, prefix, key, NULL, "is %g; it must be from %g to %g", d, min, max);
    }
    *ret = d;
    return true;
}

bool tt_json_get_string(const json_t *o, const char *prefix, const char *key, const char **ret,
                        tt_http_error *e)
{
    const json_t *v = tt_json_get(o, key);
    if (v == NULL) {
        return true;
    }
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v)) {
        return tt_json_refuse(e, prefix, key, NULL, "must be a string without NUL, not %s",
                              json_is_string(v) ? "one with NUL" : tt_json_type_name(v));
    }
    *ret = json_string_value(v);
    return true;
}

bool tt_json_get_choice(const json_t *o, const char *prefix, const char *key,
                        const char *const *choices, int *ret, tt_http_error *e)
{
    const char *text = NULL;
    char legal[128];
    size_t n = 0;
    if (!tt_json_get_string(o, prefix, key, &text, e)) {
        return false;
    }
    for (int i = 0; text != NULL && choices[i] != NULL; i++) {
        if (strcmp(choices[i], text) == 0) {
            *ret = i;
            return true;
        }
        n += n < sizeof legal ? (size_t)snprintf(legal + n, sizeof legal - n, "%s\"%s\"",
                                                 i > 0 ? ", " : "", choices[i])
                              : 0;
    }
    return text == NULL ||
           tt_json_refuse(e, prefix, key, NULL, "is \"%.40s\"; it must be one of %s", text, legal);
}
