/* test_session_store.c - keys, tenants, room, idle time, lists and waiting appends, without an
 * engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/session_store.h"

static int n_deleted;

static tt_engine *no_engine(void *arg)
{
    return NULL;
}

static void count_deleted(void *arg, tt_session_record *r)
{
    n_deleted++;
}

/* In the engine's place: pins_left pins, then memory is missing. */
static int n_pins, pins_left;
tt_code __wrap_tt_engine_pin(tt_engine *e, uint64_t id, tt_err *reterr);
void __wrap_tt_engine_unpin(tt_engine *e, uint64_t id);
void __wrap_tt_engine_keep_adapters(tt_engine *e, const uint64_t *ids, size_t n);

tt_code __wrap_tt_engine_pin(tt_engine *e, uint64_t id, tt_err *reterr)
{
    n_pins += pins_left > 0;
    return pins_left-- > 0 ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "no memory");
}

void __wrap_tt_engine_unpin(tt_engine *e, uint64_t id)
{
    n_pins--;
}

void __wrap_tt_engine_keep_adapters(tt_engine *e, const uint64_t *ids, size_t n)
{
    assert_true(pins_left >= 0); /* nothing goes while somebody's is not known */
}

static tt_session_store *fresh(int32_t max, size_t bytes)
{
    tt_session_store *st = NULL;
    n_deleted = 0;
    assert_int_equal(
        tt_session_store_create(&(tt_session_store_options){.max_sessions = max,
                                                            .max_bytes = bytes,
                                                            .ttl_seconds = 100,
                                                            .max_generations = 2,
                                                            .engine = no_engine,
                                                            .on_deleted = count_deleted},
                                &st, NULL),
        TT_OK);
    return st;
}

/* Adds one of n tokens; NULL when it is refused with `want`. */
static tt_session_record *add(tt_session_store *st, const char *scope, const char *key,
                              bool implicit, int32_t n, tt_code want)
{
    static int32_t ids[10000];
    tt_session *data = NULL;
    tt_session_record *r = NULL;
    tt_err err;
    assert_int_equal(tt_session_create(ids, n, 2, &data, NULL), TT_OK);
    tt_code rc = tt_session_store_add(st, scope, key, implicit, data, NULL, &r, &err);
    assert_int_equal(rc, want);
    if (rc < 0) {
        tt_session_destroy(&data);
    }
    return r;
}

static void keys(void **state)
{
    char key[TT_SESSION_KEY_BYTES], other[TT_SESSION_KEY_BYTES];
    static const char longest[] =
        "0123456789012345678901234567890123456789012345678901234567890_-A";
    assert_int_equal(strlen(longest), 64);
    tt_session_key("abc-DEF_9", key);
    assert_string_equal(key, "abc-DEF_9");
    tt_session_key("ses_abc", key);
    assert_string_equal(key, "abc");
    tt_session_key("ses_ses_abc", key); /* no key begins with it, so an echo of a key is the key */
    assert_string_equal(key, "abc");
    tt_session_key(longest, key);
    assert_string_equal(key, longest);
    char too_long[66];
    snprintf(too_long, sizeof too_long, "%s!", longest);
    too_long[64] = 'x';
    static const char *const odd[] = {"a b", "a/b", "\xc3\xbc", "ses_", "ses_a b"};
    tt_session_key(too_long, key);
    assert_int_equal(strlen(key), 32);
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        tt_session_key(odd[i], key);
        assert_int_equal(strlen(key), 32);
        assert_int_equal(strspn(key, "0123456789abcdef"), 32);
        tt_session_key(odd[i], other);
        assert_string_equal(key, other);
        tt_session_key("another", other);
        assert_string_not_equal(key, other);
    }
    tt_session_key(NULL, key);
    tt_session_key("", other);
    assert_string_not_equal(key, other);
    assert_int_equal(strlen(key), 24);
}

/* What stands before the first "--", behind at least one character, is what proxies hash. */
static void keys_of_forks(void **state)
{
    static const char longest[] = "01234567890123456789012345678901234567890123456789";
    static const struct {
        const char *of, *start;
    } cases[] = {{"abc", "abc--"},   {"abc--123456789abc", "abc--"},
                 {"a--b--c", "a--"}, {"a-b_3", "a-b_3--"},
                 {"---a", "---"},    {"-", "---"},
                 {longest, longest}};
    char key[TT_SESSION_KEY_BYTES], other[TT_SESSION_KEY_BYTES];
    (void)state;
    assert_int_equal(strlen(longest) + 14, 64);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].start);
        tt_session_key_beside(cases[i].of, key);
        tt_session_key_beside(cases[i].of, other);
        assert_int_equal(strncmp(key, cases[i].start, n), 0);
        assert_string_not_equal(key, other);
        assert_true(tt_session_is_key(key));
        tt_session_key_beside(key, other); /* forks of forks stay as long */
        assert_int_equal(strlen(other), strlen(key));
        assert_int_equal(strncmp(other, key, n), 0);
    }
    char too_long[TT_SESSION_KEY_BYTES];
    snprintf(too_long, sizeof too_long, "%s1", longest);
    tt_session_key_beside(too_long, key);
    assert_int_equal(strlen(key), 24);
    assert_int_equal(strspn(key, "0123456789abcdef"), 24);
}

static void tenants(void **state)
{
    tt_session_store *st = fresh(10, 1 << 20);
    tt_session_record *a = add(st, "one", "k", false, 5, TT_OK);
    tt_session_record *b = add(st, "two", "k", false, 5, TT_OK);
    assert_string_equal(a->id, "ses_k");
    assert_ptr_equal(tt_session_store_find(st, "one", "ses_k"), a);
    assert_ptr_equal(tt_session_store_find(st, "two", "ses_k"), b);
    assert_null(tt_session_store_find(st, "three", "ses_k"));
    assert_null(tt_session_store_find(st, "one", "k"));
    assert_true(a->tag != b->tag);
    add(st, "one", "k", false, 5, TT_E_BUSY);
    tt_session_store_delete(a);
    assert_null(tt_session_store_find(st, "one", "ses_k"));
    assert_ptr_equal(tt_session_store_find(st, "two", "ses_k"), b);
    assert_int_equal(n_deleted, 1);
    tt_session_store_destroy(&st);
    assert_int_equal(n_deleted, 2);
}

static void room(void **state)
{
    tt_session_store *st = fresh(3, 1 << 20);
    tt_session_record *old = add(st, "", "old", true, 5, TT_OK);
    add(st, "", "asked", false, 5, TT_OK);
    tt_session_record *busy = add(st, "", "busy", true, 5, TT_OK);
    tt_session_ref(busy);
    tt_session_touch(old); /* used last, but nobody else can go */
    add(st, "", "new", false, 5, TT_OK);
    assert_null(tt_session_store_find(st, "", "ses_old"));
    add(st, "", "more", true, 5, TT_E_CAPACITY);
    tt_session_unref(&busy);
    add(st, "", "more", true, 5, TT_OK);
    assert_null(tt_session_store_find(st, "", "ses_busy"));
    assert_int_equal(tt_session_store_counts(st).sessions, 3);
    tt_session_store_destroy(&st);
}

static void memory(void **state)
{
    tt_session_store *st = fresh(1000, 100000);
    add(st, "", "a", true, 10000, TT_OK);
    size_t one = tt_session_store_counts(st).bytes;
    assert_true(one > 40000 && one < 50000);
    add(st, "", "b", true, 10000, TT_OK);
    add(st, "", "c", false, 10000, TT_OK); /* a goes */
    assert_null(tt_session_store_find(st, "", "ses_a"));
    add(st, "", "d", false, 10000, TT_OK); /* b goes */
    add(st, "", "e", false, 10000, TT_E_CAPACITY);
    tt_session_store_delete(tt_session_store_find(st, "", "ses_c"));
    assert_int_equal(tt_session_store_counts(st).bytes, one);
    add(st, "", "f", true, 1000, TT_OK);
    tt_session_record *d = tt_session_store_find(st, "", "ses_d");
    static int32_t more[25000];
    assert_int_equal(tt_session_extend(d->data, more, 20000, NULL), TT_OK);
    tt_session_touch(d); /* it has grown */
    tt_session_store_trim(st);
    assert_non_null(tt_session_store_find(st, "", "ses_f"));
    assert_int_equal(tt_session_extend(d->data, more, 25000, NULL), TT_OK);
    tt_session_touch(d);
    tt_session_store_trim(st); /* f goes; d was asked for and stays */
    assert_null(tt_session_store_find(st, "", "ses_f"));
    assert_non_null(tt_session_store_find(st, "", "ses_d"));
    tt_session_store_destroy(&st);
}

static void idle_time(void **state)
{
    tt_session_store *st = fresh(10, 1 << 20);
    assert_true(isinf(tt_session_store_sweep(st)));
    tt_session_record *a = add(st, "", "a", false, 5, TT_OK);
    tt_session_record *b = add(st, "", "b", false, 5, TT_OK);
    tt_session_record *c = add(st, "", "c", false, 5, TT_OK);
    b->ttl_seconds = 0; /* for ever */
    double wait = tt_session_store_sweep(st);
    assert_true(wait > 99 && wait <= 100);
    assert_true(tt_session_expires_at(a) - time(NULL) >= 99);
    assert_int_equal(tt_session_expires_at(b), 0);
    a->last_used -= 101;
    b->last_used -= 1e6;
    c->last_used -= 60;
    wait = tt_session_store_sweep(st);
    assert_true(wait > 39 && wait <= 40);
    assert_null(tt_session_store_find(st, "", "ses_a"));
    assert_non_null(tt_session_store_find(st, "", "ses_b"));
    tt_session_ref(c); /* somebody works in it */
    c->last_used -= 60;
    assert_true(tt_session_store_sweep(st) > 99);
    tt_session_unref(&c);
    tt_session_store_destroy(&st);
}

static void lists(void **state)
{
    tt_session_store *st = fresh(100, 1 << 20);
    tt_session_record *v[10];
    int32_t n;
    bool more;
    char key[8];
    for (int i = 0; i < 5; i++) {
        snprintf(key, sizeof key, "k%d", i);
        add(st, "one", key, false, 1, TT_OK);
        add(st, "two", key, false, 1, TT_OK);
    }
    tt_session_list q = {.scope = "one", .after = "", .limit = 3};
    assert_true(tt_session_store_list(st, &q, v, &n, &more));
    assert_true(n == 3 && more);
    assert_string_equal(v[0]->id, "ses_k4");
    assert_string_equal(v[0]->scope, "one");
    q.after = "ses_k2";
    assert_true(tt_session_store_list(st, &q, v, &n, &more));
    assert_true(n == 2 && !more);
    assert_string_equal(v[1]->id, "ses_k0");
    q.ascending = true;
    q.limit = 2;
    assert_true(tt_session_store_list(st, &q, v, &n, &more));
    assert_true(n == 2 && !more);
    assert_string_equal(v[0]->id, "ses_k3");
    q.after = "ses_none";
    assert_false(tt_session_store_list(st, &q, v, &n, &more));
    tt_session_store_destroy(&st);
}

static char order[16];

static void go_on(tt_session_waiter *w);

typedef struct waiter {
    tt_session_waiter w;
    tt_session_record *r;
    char name;
    bool takes;
} waiter;

static void go_on(tt_session_waiter *w)
{
    waiter *x = (waiter *)(void *)w;
    size_t n = strlen(order);
    order[n] = x->name;
    order[n + 1] = '\0';
    if (x->takes && !x->r->deleted) {
        assert_int_equal(tt_session_begin_append(x->r->data, -1), TT_OK);
    }
}

static void appends_in_order(void **state)
{
    tt_session_store *st = fresh(10, 1 << 20);
    tt_session_record *r = add(st, "", "a", false, 5, TT_OK);
    waiter w[5];
    for (int i = 0; i < 5; i++) {
        w[i] = (waiter){.w = {.go = go_on}, .r = r, .name = (char)('0' + i), .takes = i != 0};
    }
    order[0] = '\0';
    assert_int_equal(tt_session_begin_append(r->data, -1), TT_OK);
    for (int i = 0; i < 5; i++) {
        tt_session_wait(r, &w[i].w);
    }
    tt_session_stop_waiting(r, &w[2].w); /* its client has left */
    tt_session_stop_waiting(r, &w[2].w);
    tt_session_end_append(r->data);
    tt_session_append_ended(r);
    assert_string_equal(order, "01"); /* 0 was refused, 1 runs */
    tt_session_append_ended(r);
    assert_string_equal(order, "01");
    tt_session_ref(r);
    tt_session_store_delete(r); /* everybody is told */
    assert_string_equal(order, "0134");
    tt_session_unref(&r);
    tt_session_store_destroy(&st);
}

static void on_deleted(tt_session_user *u)
{
    order[0] = 'd'; /* and leaves its place on the list to the store */
}

static void users_hear_of_the_end(void **state)
{
    tt_session_store *st = fresh(10, 1 << 20);
    tt_session_record *r = add(st, "", "a", false, 5, TT_OK);
    tt_session_user u[3] = {
        {.on_deleted = on_deleted}, {.on_deleted = on_deleted}, {.on_deleted = on_deleted}};
    for (int i = 0; i < 3; i++) {
        tt_session_add_user(r, &u[i]);
    }
    tt_session_remove_user(r, &u[1]);
    order[0] = '\0';
    tt_session_ref(r);
    tt_session_store_delete(r);
    assert_int_equal(order[0], 'd');
    assert_null(r->users);
    assert_true(r->deleted);
    tt_session_touch(r); /* legal for what is left of it */
    tt_session_store_delete(r);
    tt_session_unref(&r);
    tt_session_store_destroy(&st);
}

static void adapters(void **state)
{
    tt_session_store *st = fresh(10, 1 << 20);
    tt_session_record *r = add(st, "", "a", false, 5, TT_OK);
    tt_qttt_result q = {.adapter_id = 7, .adapter_bytes = 64};
    tt_session_generation g;
    int32_t number = -1;
    tt_session_adopt(r, &q, "qttt_a_1", &number);
    assert_int_equal(number, 1);
    tt_session_adopt(r, &q, "qttt_a_2", &number); /* the same again */
    assert_int_equal(number, 1);
    assert_true(tt_session_generation_at(r->data, 0, &g));
    assert_string_equal(g.job_id, "qttt_a_1");
    tt_session_drop_adapters(r);
    assert_int_equal(tt_session_latest(r->data), 0);
    tt_session_ref(r);
    tt_session_store_delete(r);
    tt_session_adopt(r, &q, "qttt_a_3", &number);
    assert_int_equal(number, 0);
    tt_session_unref(&r);
    tt_session_store_destroy(&st);
}

/* All of a session's adapters are pinned, or none. */
static void pins(void **state)
{
    for (int left = 0; left <= 2; left++) {
        tt_session_store *st = fresh(10, 1 << 20);
        tt_session_record *r = add(st, "", "a", false, 5, TT_OK);
        int32_t number;
        tt_err err;
        for (uint64_t id = 1; id <= 2; id++) {
            tt_session_adopt(r, &(tt_qttt_result){.adapter_id = id}, "qttt_a_1", &number);
        }
        n_pins = 0;
        pins_left = left;
        assert_int_equal(tt_session_store_pin(st, true, &err), left == 2 ? TT_OK : TT_E_NOMEM);
        assert_int_equal(n_pins, left == 2 ? 2 : 0);
        assert_int_equal(tt_session_latest(r->data), left == 2 ? 2 : 0);
        tt_session_store_destroy(&st);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys),
        cmocka_unit_test(keys_of_forks),
        cmocka_unit_test(tenants),
        cmocka_unit_test(room),
        cmocka_unit_test(memory),
        cmocka_unit_test(idle_time),
        cmocka_unit_test(lists),
        cmocka_unit_test(adapters),
        cmocka_unit_test(pins),
        cmocka_unit_test(appends_in_order),
        cmocka_unit_test(users_hear_of_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
