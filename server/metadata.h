/* metadata.h - the "metadata" object of sessions and jobs: up to 16 pairs of short strings, kept
 * and given back as they came. Thread: any. */
#ifndef TT_METADATA_H
#define TT_METADATA_H

#include <jansson.h>
#include <stdbool.h>

#include "server/buf.h"
#include "server/error_map.h"

enum { TT_METADATA_PAIRS = 16, TT_METADATA_KEY = 64, TT_METADATA_VALUE = 512 }; /* characters */

/* v: the request's "metadata"; NULL and null are an empty object. Appends its JSON text to `ret`.
 * False: *e is a 400 that names the field. */
bool tt_metadata_parse(const json_t *v, tt_buf *ret, tt_http_error *e);

#endif
