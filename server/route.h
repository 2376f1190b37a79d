/* route.h - the table of routes: which handler answers a path and a method. Thread: any, constant
 * data. */
#ifndef TT_ROUTE_H
#define TT_ROUTE_H

#include "server/http.h"

typedef enum tt_route_result {
    TT_ROUTE_FOUND,
    TT_ROUTE_NO_PATH,
    TT_ROUTE_NO_METHOD
} tt_route_result;

extern const tt_route tt_routes[];
extern const int tt_n_routes;

/* Looks up a path (percent-decoded, no query) in `table`. A route has at most one {id}, one part of
 * a path between slashes; a last {id...} takes the rest, slashes too. param[cap] gets it, else "".
 * HEAD finds GET. allow[allow_cap] gets the methods of the path for an Allow header ("" when the
 * path is unknown). */
tt_route_result tt_route_find(const tt_route *table, int n, const char *path, const char *method,
                              const tt_route **ret_route, char *param, size_t cap, char *allow,
                              size_t allow_cap);

#endif
