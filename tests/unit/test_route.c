/* test_route.c - paths and methods to handlers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "server/route.h"

static const tt_route table[] = {{.path = "/a", .methods = "GET"},
                                 {.path = "/a", .methods = "POST"},
                                 {.path = "/a/{id...}", .methods = "GET"},
                                 {.path = "/b", .methods = "POST"},
                                 {.path = "/c/{id}", .methods = "GET"},
                                 {.path = "/c/{id}", .methods = "DELETE"},
                                 {.path = "/c/{id}/fork", .methods = "POST"},
                                 {.path = "/c/{id}/x/jobs", .methods = "GET"}};

static void expect(const char *method, const char *path, tt_route_result want, int index,
                   const char *param, const char *allow)
{
    const tt_route *r = NULL;
    char got_param[16], got_allow[64];
    assert_int_equal(tt_route_find(table, (int)(sizeof table / sizeof *table), path, method, &r,
                                   got_param, sizeof got_param, got_allow, sizeof got_allow),
                     want);
    assert_ptr_equal(r, want == TT_ROUTE_FOUND ? &table[index] : NULL);
    assert_string_equal(got_param, param);
    if (want == TT_ROUTE_NO_METHOD) {
        assert_string_equal(got_allow, allow);
    }
}

static void finds(void **state)
{
    expect("GET", "/a", TT_ROUTE_FOUND, 0, "", "");
    expect("HEAD", "/a", TT_ROUTE_FOUND, 0, "", "");
    expect("POST", "/a", TT_ROUTE_FOUND, 1, "", "");
    expect("GET", "/a/x y/z", TT_ROUTE_FOUND, 2, "x y/z", "");
    expect("DELETE", "/a", TT_ROUTE_NO_METHOD, 0, "", "GET, HEAD, POST, OPTIONS");
    expect("GET", "/b", TT_ROUTE_NO_METHOD, 0, "", "POST, OPTIONS");
    expect("HEAD", "/b", TT_ROUTE_NO_METHOD, 0, "", "POST, OPTIONS");
    expect("get", "/a", TT_ROUTE_NO_METHOD, 0, "", "GET, HEAD, POST, OPTIONS");
    expect("GET", "/a/", TT_ROUTE_NO_PATH, 0, "", "");
    expect("GET", "/A", TT_ROUTE_NO_PATH, 0, "", "");
    expect("GET", "/ab", TT_ROUTE_NO_PATH, 0, "", "");
    expect("GET", "", TT_ROUTE_NO_PATH, 0, "", "");
    expect("GET", "/a/0123456789012345", TT_ROUTE_NO_PATH, 0, "",
           ""); /* longer than the caller's room */
}

/* A part in the middle: never empty, never two parts. */
static void parts(void **state)
{
    expect("GET", "/c/s", TT_ROUTE_FOUND, 4, "s", "");
    expect("DELETE", "/c/s", TT_ROUTE_FOUND, 5, "s", "");
    expect("POST", "/c/s", TT_ROUTE_NO_METHOD, 0, "", "GET, HEAD, DELETE, OPTIONS");
    expect("POST", "/c/s/fork", TT_ROUTE_FOUND, 6, "s", "");
    expect("GET", "/c/s/fork", TT_ROUTE_NO_METHOD, 0, "", "POST, OPTIONS");
    expect("GET", "/c/s/x/jobs", TT_ROUTE_FOUND, 7, "s", "");
    expect("POST", "/c/fork", TT_ROUTE_NO_METHOD, 0, "", "GET, HEAD, DELETE, OPTIONS");
    expect("POST", "/c//fork", TT_ROUTE_NO_PATH, 0, "", "");
    expect("POST", "/c/s/t/fork", TT_ROUTE_NO_PATH, 0, "", "");
    expect("POST", "/c/s/fork/", TT_ROUTE_NO_PATH, 0, "", "");
    expect("GET", "/c/", TT_ROUTE_NO_PATH, 0, "", "");
    expect("GET", "/c/s/", TT_ROUTE_NO_PATH, 0, "", "");
    expect("GET", "/c/s/x", TT_ROUTE_NO_PATH, 0, "", "");
}

/* The real table: every route is found by its own path, and none hides another. */
static void real_table(void **state)
{
    for (int i = 0; i < tt_n_routes; i++) {
        const tt_route *r = NULL;
        char param[64], allow[64], path[128];
        strcpy(path, tt_routes[i].path);
        assert_int_equal(tt_route_find(tt_routes, tt_n_routes, path, tt_routes[i].methods, &r,
                                       param, sizeof param, allow, sizeof allow),
                         TT_ROUTE_FOUND);
        assert_ptr_equal(r, &tt_routes[i]);
        assert_non_null(r->handler);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(finds), cmocka_unit_test(parts),
                                       cmocka_unit_test(real_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
