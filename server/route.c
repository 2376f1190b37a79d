/* route.c - see route.h. */
#include "server/route.h"

#include <stdio.h>
#include <string.h>

#include "core/vocab.h"

/* Whether `path` is the route's; param = what stands for {id}. An {id} is never empty and a part of
 * its own, but for {id...}, which takes the rest. */
static bool matches(const tt_route *r, const char *path, tt_str *ret_param)
{
    const char *brace = strchr(r->path, '{');
    *ret_param = (tt_str){.p = "", .n = 0};
    if (brace == NULL) {
        return strcmp(r->path, path) == 0;
    }
    size_t n = (size_t)(brace - r->path);
    if (strncmp(r->path, path, n) != 0) {
        return false;
    }
    const char *close = strchr(brace, '}');
    size_t n_param = close[-1] == '.' ? strlen(path + n) : strcspn(path + n, "/");
    *ret_param = (tt_str){.p = path + n, .n = n_param};
    return n_param > 0 && strcmp(path + n + n_param, close + 1) == 0;
}

tt_route_result tt_route_find(const tt_route *table, int n, const char *path, const char *method,
                              const tt_route **ret_route, char *param, size_t cap, char *allow,
                              size_t allow_cap)
{
    tt_route_result result = TT_ROUTE_NO_PATH;
    const char *asked = strcmp(method, "HEAD") == 0 ? "GET" : method;
    size_t k = 0;
    allow[0] = param[0] = '\0';
    for (int i = 0; i < n; i++) {
        tt_str part;
        if (!matches(&table[i], path, &part) || part.n >= cap) {
            continue;
        }
        if (strcmp(table[i].methods, asked) == 0) {
            snprintf(param, cap, "%.*s", (int)part.n, part.p);
            *ret_route = &table[i];
            return TT_ROUTE_FOUND;
        }
        result = TT_ROUTE_NO_METHOD;
        if (k < allow_cap) {
            k += (size_t)snprintf(allow + k, allow_cap - k, "%s%s%s", k > 0 ? ", " : "",
                                  table[i].methods,
                                  strcmp(table[i].methods, "GET") == 0 ? ", HEAD" : "");
        }
    }
    if (result == TT_ROUTE_NO_METHOD && k < allow_cap) {
        snprintf(allow + k, allow_cap - k, ", OPTIONS");
    }
    return result;
}
