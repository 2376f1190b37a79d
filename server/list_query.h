/* list_query.h - the query of a list (?after=ID&limit=N&order=asc|desc) and the envelope of its
 * answer: {"object":"list","data":[...],"first_id","last_id","has_more"}. Thread: the loop thread.
 */
#ifndef TT_LIST_QUERY_H
#define TT_LIST_QUERY_H

#include "server/http.h"

enum { TT_LIST_LIMIT = 20, TT_LIST_MAX_LIMIT = 100 };

typedef struct tt_list_query {
    const char *after; /* "" = from the beginning; valid while the request is being dispatched */
    int32_t limit;
    bool ascending; /* oldest first */
} tt_list_query;

/* ascending: the order when the query names none. max_limit: TT_LIST_MAX_LIMIT, or more where
 * entries are small. False: *e is a 400 that names the parameter. */
bool tt_list_query_parse(tt_http_request *req, bool ascending, int32_t max_limit,
                         tt_list_query *ret, tt_http_error *e);
/* The same for texts; NULL = not given. */
bool tt_list_query_read(const char *after, const char *limit, const char *order, bool ascending,
                        int32_t max_limit, tt_list_query *ret, tt_http_error *e);

/* Writes the list around `data` (objects joined by commas). first_id, last_id: NULL = null (an
 * empty list). */
void tt_list_write(tt_buf *b, const tt_buf *data, const char *first_id, const char *last_id,
                   bool has_more);

#endif
