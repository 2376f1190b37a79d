/* param_list.h - the three lists of docs/api.md: which request parameters are implemented, which
 * are accepted and change nothing, which are refused because ignoring them would change the answer.
 * openapi.yaml holds the same lists. Thread: any, constant data. */
#ifndef TT_PARAM_LIST_H
#define TT_PARAM_LIST_H

#include <jansson.h>

#include "server/buf.h"
#include "server/error_map.h"

typedef enum tt_api { TT_API_CHAT = 1, TT_API_COMPLETIONS = 2 } tt_api;

/* Goes through the keys of a body. A refused one with a value other than its neutral one: false and
 * 400 unsupported_parameter. A name on no list: appended to `ignored`, or 400 when `strict`. */
bool tt_params_check(const json_t *body, tt_api api, bool strict, tt_buf *ignored,
                     tt_http_error *e);

#endif
