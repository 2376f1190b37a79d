/* test_tenant.c - the API keys in force: who a secret belongs to, changes of the keys under
 * requests that run, limits and what answers say of them, counters. The clock is the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/tenant.h"

typedef struct made {
    tt_key_list list;
    char secret[3][TT_KEY_SECRET_BYTES];
} made;

static void make_keys(made *m, int n)
{
    static const char *const names[] = {"alice", "bob", "carol"};
    tt_err err;
    *m = (made){.list = {.v = calloc(3, sizeof(tt_key)), .n = n}};
    for (int i = 0; i < n; i++) {
        tt_key *k = &m->list.v[i];
        strcpy(k->name, names[i]);
        strcpy(k->scope, names[i]);
        assert_int_equal(tt_key_secret_make(m->secret[i], k->id, &err), TT_OK);
        assert_int_equal(tt_key_hash_make(m->secret[i], &k->hash, &err), TT_OK);
    }
}

static void expect_update(tt_tenants *t, const tt_key_list *keys, double now, const char *what)
{
    tt_buf b = {0};
    tt_err err;
    assert_int_equal(tt_tenants_update(t, keys, now, &b, &err), TT_OK);
    tt_buf_putc(&b, '\0');
    assert_string_equal(b.p, what);
    tt_buf_finish(&b);
}

static void test_who(void **state)
{
    made m;
    tt_tenants t = {0};
    tt_err err;
    make_keys(&m, 2);
    assert_int_equal(tt_key_list_add_plain(&m.list, 0, "plain", &err), TT_OK);
    expect_update(&t, &m.list, 0, "alice added, bob added, .api_keys.0 added");
    assert_ptr_equal(tt_tenants_find(&t, m.secret[0]), t.v[0]);
    assert_ptr_equal(tt_tenants_find(&t, m.secret[1]), t.v[1]);
    assert_ptr_equal(tt_tenants_find(&t, "plain"), t.v[2]);
    assert_null(tt_tenants_find(&t, ""));
    assert_null(tt_tenants_find(&t, "plai"));
    char mixed[TT_KEY_SECRET_BYTES]; /* the id of one, the rest of the other */
    strcpy(mixed, m.secret[0]);
    strcpy(mixed + 15, m.secret[1] + 15);
    assert_null(tt_tenants_find(&t, mixed));
    assert_ptr_equal(tt_tenants_of_scope(&t, "bob"), t.v[1]);
    assert_null(tt_tenants_of_scope(&t, ""));
    assert_string_equal(tt_tenant_name(t.v[1]), "bob");
    assert_string_equal(tt_tenant_name(NULL), "");
    tt_tenants_finish(&t);
    tt_key_list_finish(&m.list);
}

static void test_updates(void **state)
{
    made m, other;
    tt_tenants t = {0};
    tt_http_error e;
    make_keys(&m, 2);
    m.list.v[0].limits.requests_per_minute = 10;
    expect_update(&t, &m.list, 0, "alice added, bob added");
    tt_tenant *alice = t.v[0];
    assert_true(tt_tenant_enter(alice, 0, &e)); /* runs through all of it */
    expect_update(&t, &m.list, 0, "");
    m.list.v[1].role = TT_ROLE_ADMIN;
    m.list.v[0].limits.requests_per_minute = 20;
    expect_update(&t, &m.list, 0, "alice changed, bob changed");
    assert_int_equal(t.v[1]->key.role, TT_ROLE_ADMIN);
    assert_true(tt_rate_left(&alice->requests, 0) == 18); /* nine tenths, as before */

    make_keys(&other, 3); /* bob and carol, alice is gone */
    tt_key_list two = {.v = other.list.v + 1, .n = 2};
    expect_update(&t, &two, 0, "alice removed, bob has another secret, carol added");
    assert_null(tt_tenants_find(&t, m.secret[0]));
    assert_null(tt_tenants_find(&t, m.secret[1]));
    assert_ptr_equal(tt_tenants_find(&t, other.secret[1]), t.v[1]); /* the same tenant */
    assert_ptr_equal(tt_tenants_find(&t, other.secret[2]), t.v[2]);
    expect_update(&t, &two, 0, "");
    assert_int_equal(alice->n_open, 1);
    tt_tenant_leave(alice);
    assert_int_equal(alice->n_open, 0);
    expect_update(&t, &other.list, 0, "alice added");
    assert_ptr_equal(tt_tenants_find(&t, other.secret[0]), alice);
    assert_int_equal(alice->n_requests, 1); /* counters go on */
    tt_tenants_finish(&t);
    tt_key_list_finish(&m.list);
    tt_key_list_finish(&other.list);
}

/* Processor time of n keys that are read again, in seconds; some have gone and some come. */
static double update_many(int32_t n)
{
    tt_key_list keys = {.v = calloc((size_t)n, sizeof(tt_key)), .n = n};
    tt_tenants t = {0};
    tt_err err;
    assert_non_null(keys.v);
    for (int32_t i = 0; i < n; i++) { /* in no order */
        snprintf(keys.v[i].name, sizeof keys.v[i].name, "key-%u", (unsigned)i * 2654435761u);
        strcpy(keys.v[i].scope, keys.v[i].name);
    }
    clock_t begin = clock();
    keys.n = n - 10;
    assert_int_equal(tt_tenants_update(&t, &keys, 0, NULL, &err), TT_OK);
    keys.n = n;
    expect_update(&t, &(tt_key_list){.v = keys.v + 1, .n = n - 11}, 0, "key-0 removed");
    assert_int_equal(tt_tenants_update(&t, &keys, 0, NULL, &err), TT_OK);
    assert_int_equal(t.n, n);
    for (int32_t i = 0; i < n; i++) {
        assert_ptr_equal(tt_tenants_of_scope(&t, keys.v[i].scope), t.v[i]);
        assert_true(t.v[i]->place == i && !t.v[i]->removed);
    }
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    assert_null(tt_tenants_of_scope(&t, "key-1"));
    tt_tenants_finish(&t);
    free(keys.v);
    return seconds;
}

/* A reload happens on the loop thread: eight times the keys take about eight times as long, not
 * sixty-four. */
static void test_updates_of_many_keys(void **state)
{
    double few = update_many(1250), many = update_many(10000);
    assert_true(many < 24 * few + 0.02);
}

static void test_requests_and_concurrency(void **state)
{
    tt_tenant t = {.key = {.limits = {.requests_per_minute = 3, .concurrent = 2}}};
    tt_http_error e = {0};
    tt_rate_init(&t.requests, 3, 0);
    assert_true(tt_tenant_enter(&t, 0, &e));
    assert_true(tt_tenant_enter(&t, 0, &e));
    assert_false(tt_tenant_enter(&t, 0, &e));
    assert_int_equal(e.status, 429);
    assert_string_equal(e.type, "rate_limit_error");
    assert_string_equal(e.code, "rate_limit_exceeded");
    assert_int_equal(e.retry_after, 1);
    assert_non_null(strstr(e.message, "in progress"));
    tt_tenant_leave(&t);
    assert_true(tt_tenant_enter(&t, 0, &e));
    tt_tenant_leave(&t);
    assert_false(tt_tenant_enter(&t, 0.5, &e));
    assert_int_equal(e.retry_after, 20); /* of the bucket's own rate, rounded up */
    assert_non_null(strstr(e.message, "requests a minute"));
    assert_int_equal(t.n_open, 1);
    assert_true(tt_tenant_enter(&t, 0.5 + e.retry_after, &e));
    assert_int_equal(t.n_requests, 6);
    assert_int_equal(t.n_limited, 2);
}

static void test_tokens(void **state)
{
    tt_tenant t = {.key = {.limits = {.tokens_per_minute = 600}}};
    tt_http_error e = {0};
    tt_rate_init(&t.tokens, 600, 0);
    assert_true(tt_tenant_may_read(&t, 600, 0, &e));
    tt_tenant_take_prompt(&t, 500, 0);
    tt_tenant_take_answer(&t, 200, 0);
    assert_int_equal(t.prompt_tokens, 500);
    assert_int_equal(t.generated_tokens, 200);
    assert_false(tt_tenant_may_read(&t, 50, 0, &e)); /* 100 of debt and 50, at 10 a second */
    assert_int_equal(e.retry_after, 15);
    assert_true(tt_tenant_may_read(&t, 50, 15, &e));
    assert_true(tt_tenant_may_read(&t, 100000, 70, &e)); /* a full bucket lets one through */
}

static void test_nobody(void **state)
{
    tt_http_error e;
    assert_true(tt_tenant_enter(NULL, 0, &e));
    assert_true(tt_tenant_may_read(NULL, INT64_MAX, 0, &e));
    tt_tenant_take_prompt(NULL, 1, 0);
    tt_tenant_take_answer(NULL, 1, 0);
    tt_tenant_leave(NULL);
}

static void put(void *arg, const char *name, const char *value)
{
    tt_buf_printf(arg, "%s: %s\n", name, value);
}

static void expect_headers(const tt_tenant *t, double now, const char *want)
{
    tt_buf b = {0};
    tt_tenant_headers(t, now, put, &b);
    tt_buf_putc(&b, '\0');
    assert_string_equal(b.p, want);
    tt_buf_finish(&b);
}

static void test_headers(void **state)
{
    tt_tenant t = {0};
    expect_headers(&t, 0, "");
    expect_headers(NULL, 0, "");
    tt_rate_init(&t.requests, 60, 0);
    tt_rate_take(&t.requests, 1, 0);
    expect_headers(&t, 0.5,
                   "X-RateLimit-Limit-Requests: 60\nX-RateLimit-Remaining-Requests: 59\n"
                   "X-RateLimit-Reset-Requests: 500ms\n");
    t.requests = (tt_rate){0};
    tt_rate_init(&t.tokens, 100000, 0);
    tt_rate_take(&t.tokens, 102500, 0);
    expect_headers(&t, 0,
                   "X-RateLimit-Limit-Tokens: 100000\nX-RateLimit-Remaining-Tokens: 0\n"
                   "X-RateLimit-Reset-Tokens: 1m1s\n");
    expect_headers(&t, 31.5,
                   "X-RateLimit-Limit-Tokens: 100000\nX-RateLimit-Remaining-Tokens: 50000\n"
                   "X-RateLimit-Reset-Tokens: 30s\n");
}

/* However many keys there are, the page is bounded, and its sums are right. */
static void test_metrics(void **state)
{
    enum { N = TT_METRICS_KEYS + 50 };
    static tt_tenant keys[N];
    tt_tenant *v[N];
    tt_buf b = {0};
    for (int i = 0; i < N; i++) {
        v[i] = &keys[i];
        snprintf(keys[i].key.name, sizeof keys[i].key.name, "k%d", i);
        keys[i].n_requests = 2;
        keys[i].generated_tokens = 3;
    }
    tt_tenants t = {.v = v, .n = N};
    tt_tenants_metrics(&t, &b);
    tt_buf_putc(&b, '\0');
    assert_false(b.failed);
    int lines = 0;
    for (size_t i = 0; i < b.n; i++) {
        lines += b.p[i] == '\n';
    }
    assert_int_equal(lines, 3 * 2 + 5 * (TT_METRICS_KEYS + 1));
    assert_non_null(strstr(b.p, "\nqttt_key_requests_total{key=\"k99\"} 2\n"));
    assert_null(strstr(b.p, "k100"));
    assert_non_null(strstr(b.p, "\nqttt_key_requests_total{key=\"(others)\"} 100\n"));
    assert_non_null(
        strstr(b.p, "\nqttt_key_tokens_total{key=\"(others)\",kind=\"generated\"} 150\n"));
    tt_buf_clear(&b);
    tt_tenants_metrics(&(tt_tenants){0}, &b);
    tt_buf_putc(&b, '\0');
    assert_non_null(strstr(b.p, "# TYPE qttt_key_tokens_total counter\n")); /* known, if empty */
    assert_null(strchr(b.p, '{'));
    tt_buf_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who),
        cmocka_unit_test(test_updates),
        cmocka_unit_test(test_updates_of_many_keys),
        cmocka_unit_test(test_requests_and_concurrency),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
