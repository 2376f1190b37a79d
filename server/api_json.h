/* api_json.h - checked reading of request bodies. Thread: any; a parse belongs to its request.
 * A getter leaves *ret alone when the key is absent or null, and fills `e` with a 400 that names
 * the field otherwise. */
#ifndef TT_API_JSON_H
#define TT_API_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/error_map.h"

enum { TT_JSON_MAX_DEPTH = 64 };

/* Parses a body. Before that its values are counted: when the tree would take more than
 * memory_limit bytes besides its text (or nests deeper than TT_JSON_MAX_DEPTH) it is refused. NULL
 * on failure, with the position of a fault in `e`. */
json_t *tt_json_parse(const char *text, size_t n, size_t memory_limit, tt_http_error *e);
/* json_loadb() that keeps its word when memory runs out: jansson then calls it bad JSON, or goes on
 * without the bytes that it had no room for. je may be NULL. NULL: *ret_memory tells which. */
json_t *tt_json_load(const char *text, size_t n, size_t flags, json_error_t *je, bool *ret_memory);
/* Once, before other threads begin: memory that runs out in there is told from bad JSON. */
void tt_json_watch_memory(void);

/* prefix: what the message and `param` write before the key: "" or "qttt.". All return false on
 * failure. */
bool tt_json_get_bool(const json_t *o, const char *prefix, const char *key, bool *ret,
                      tt_http_error *e);
bool tt_json_get_int(const json_t *o, const char *prefix, const char *key, int64_t min, int64_t max,
                     int64_t *ret, tt_http_error *e);
/* Integers count as numbers. */
bool tt_json_get_number(const json_t *o, const char *prefix, const char *key, double min,
                        double max, double *ret, tt_http_error *e);
/* *ret borrowed from o. */
bool tt_json_get_string(const json_t *o, const char *prefix, const char *key, const char **ret,
                        tt_http_error *e);
/* One of `choices` (NULL-terminated); *ret is its index. */
bool tt_json_get_choice(const json_t *o, const char *prefix, const char *key,
                        const char *const *choices, int *ret, tt_http_error *e);

/* The value, NULL when absent or null. */
const json_t *tt_json_get(const json_t *o, const char *key);
/* Fills `e` with 400 for prefix+key and returns false. */
bool tt_json_refuse(tt_http_error *e, const char *prefix, const char *key, const char *code,
                    const char *fmt, ...) __attribute__((format(printf, 5, 6)));
const char *tt_json_type_name(const json_t *v);

#endif
