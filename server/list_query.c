/* list_query.c - see list_query.h. */
#include "server/list_query.h"

#include <stdlib.h>
#include <string.h>

bool tt_list_query_read(const char *after, const char *limit, const char *order, bool ascending,
                        int32_t max_limit, tt_list_query *ret, tt_http_error *e)
{
    *ret = (tt_list_query){
        .after = after != NULL ? after : "", .limit = TT_LIST_LIMIT, .ascending = ascending};
    if (limit != NULL) {
        size_t digits = strspn(limit, "0123456789");
        long n = digits > 0 && digits < 9 && limit[digits] == '\0' ? strtol(limit, NULL, 10) : 0;
        if (n < 1 || n > max_limit) {
            tt_error_set(e, 400, "limit", NULL, "limit is '%.20s'; it must be from 1 to %d", limit,
                         (int)max_limit);
            return false;
        }
        ret->limit = (int32_t)n;
    }
    if (order != NULL) {
        ret->ascending = strcmp(order, "asc") == 0;
        if (!ret->ascending && strcmp(order, "desc") != 0) {
            tt_error_set(e, 400, "order", NULL, "order is '%.20s'; it must be asc or desc", order);
            return false;
        }
    }
    return true;
}

bool tt_list_query_parse(tt_http_request *req, bool ascending, int32_t max_limit,
                         tt_list_query *ret, tt_http_error *e)
{
    return tt_list_query_read(tt_http_get_query(req, "after"), tt_http_get_query(req, "limit"),
                              tt_http_get_query(req, "order"), ascending, max_limit, ret, e);
}

static void put_id(tt_buf *b, const char *key, const char *id)
{
    tt_buf_printf(b, ",\"%s\":", key);
    if (id != NULL) {
        tt_buf_puts_json(b, id);
    } else {
        tt_buf_puts(b, "null");
    }
}

void tt_list_write(tt_buf *b, const tt_buf *data, const char *first_id, const char *last_id,
                   bool has_more)
{
    tt_buf_puts(b, "{\"object\":\"list\",\"data\":[");
    tt_buf_put(b, data->p, data->n);
    tt_buf_putc(b, ']');
    put_id(b, "first_id", first_id);
    put_id(b, "last_id", last_id);
    tt_buf_printf(b, ",\"has_more\":%s}", has_more ? "true" : "false");
    b->failed = b->failed || data->failed;
}
