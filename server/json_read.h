/* json_read.h - JSON whose strings are long, read into jansson's values with one copy of each
 * string. Thread: any, pure functions. */
#ifndef TT_JSON_READ_H
#define TT_JSON_READ_H

#include <jansson.h>
#include <stddef.h>

/* What json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL) gives, or NULL: not valid, or
 * something rare, or no memory. Then jansson is to be asked, which says why. New reference. */
json_t *tt_json_read(const char *text, size_t n);

#endif
