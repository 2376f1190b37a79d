/* test_idempotency.c - a key runs once: outcomes, scope, age, and the bounds in entries and bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/idempotency.h"

static tt_idem *create(int32_t max_entries, size_t max_bytes)
{
    tt_idem *s;
    tt_err err;
    tt_idem_options o = {.ttl_seconds = 100, .max_entries = max_entries, .max_bytes = max_bytes};
    assert_int_equal(tt_idem_create(&o, &s, &err), TT_OK);
    return s;
}

static tt_idem_entry *entry;
static tt_idem_result stored;

static int begin_as(tt_idem *s, const tt_idem_request *r, double now)
{
    tt_err err;
    return (int)tt_idem_begin(s, r, now, &entry, &stored, &err);
}

/* One route of one tenant. */
static int begin(tt_idem *s, const char *key, const char *body, double now)
{
    tt_idem_request r = {"a", "POST", "/v1/sessions", "", key, body, strlen(body)};
    return begin_as(s, &r, now);
}

static void finish(tt_idem *s, tt_idem_entry *e, const char *body)
{
    tt_idem_result r = {.status = 201,
                        .content_type = "application/json",
                        .headers = {{"Location", "/here"}},
                        .n_headers = 1,
                        .body = body,
                        .n_body = strlen(body)};
    tt_idem_finish(s, e, &r);
}

static void outcomes(void **state)
{
    tt_idem *s = create(10, 10000);
    assert_int_equal(begin(s, "k", "{}", 0), TT_IDEM_NEW);
    tt_idem_entry *first = entry;
    assert_int_equal(begin(s, "k", "{}", 1), TT_IDEM_RUNNING);
    assert_int_equal(begin(s, "k", "{ }", 1), TT_IDEM_OTHER_BODY);
    finish(s, first, "{\"id\":1}");
    for (int i = 0; i < 2; i++) {
        stored = (tt_idem_result){0};
        assert_int_equal(begin(s, "k", "{}", 2), TT_IDEM_STORED);
        assert_int_equal(stored.status, 201);
        assert_string_equal(stored.content_type, "application/json");
        assert_int_equal(stored.n_headers, 1);
        assert_string_equal(stored.headers[0].name, "Location");
        assert_string_equal(stored.headers[0].value, "/here");
        assert_int_equal(stored.n_body, 8);
        assert_memory_equal(stored.body, "{\"id\":1}", 8);
    }
    assert_int_equal(begin(s, "k", "", 2), TT_IDEM_OTHER_BODY);
    assert_int_equal(begin(s, "other", "{}", 2), TT_IDEM_NEW);
    tt_idem_abandon(s, entry);
    assert_int_equal(begin(s, "other", "[]", 2), TT_IDEM_NEW); /* nothing was done: free again */
    tt_idem_stats st = tt_idem_get_stats(s);
    assert_int_equal(st.entries, 2);
    assert_int_equal(st.running, 1);
    tt_idem_destroy(&s);
    assert_null(s);
}

/* Key, path, method and tenant are told apart, also where their texts run together. */
static void scope(void **state)
{
    static const tt_idem_request requests[] = {
        {"a", "POST", "/p", "", "k", "", 0},  {"b", "POST", "/p", "", "k", "", 0},
        {"a", "PUT", "/p", "", "k", "", 0},   {"a", "POST", "/pk", "", "", "", 0},
        {"a", "POST", "/p", "", "kk", "", 0}, {"aP", "OST", "/p", "", "k", "", 0},
        {"", "aPOST", "/p", "", "k", "", 0},  {"a", "POST", "/p", "s", "k", "", 0},
        {"a", "POST", "/ps", "", "k", "", 0}, {"a", "POST", "/p", "", "sk", "", 0},
    };
    tt_idem *s = create(100, 10000);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
            assert_int_equal(begin_as(s, &requests[i], 0),
                             round == 0 ? TT_IDEM_NEW : TT_IDEM_RUNNING);
        }
    }
    tt_idem_destroy(&s); /* with everything still running */
}

static void age(void **state)
{
    tt_idem *s = create(10, 10000);
    assert_int_equal(begin(s, "slow", "x", 0), TT_IDEM_NEW);
    tt_idem_entry *slow = entry;
    assert_int_equal(begin(s, "k", "x", 1), TT_IDEM_NEW);
    finish(s, entry, "done");
    assert_int_equal(begin(s, "k", "x", 100.9), TT_IDEM_STORED);
    assert_int_equal(begin(s, "k", "y", 101), TT_IDEM_NEW);
    tt_idem_abandon(s, entry);
    assert_int_equal(begin(s, "slow", "x", 1000), TT_IDEM_RUNNING); /* however long it takes */
    finish(s, slow, "done");
    assert_int_equal(begin(s, "slow", "x", 1001), TT_IDEM_NEW);
    tt_idem_destroy(&s);
}

static void entries_are_bounded(void **state)
{
    char key[32];
    tt_idem *s = create(4, 100000);
    assert_int_equal(begin(s, "run", "", 0), TT_IDEM_NEW);
    tt_idem_entry *run = entry;
    for (int i = 0; i < 50; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(begin(s, key, "", i * 0.1), TT_IDEM_NEW);
        finish(s, entry, "x");
        assert_true(tt_idem_get_stats(s).entries <= 4);
    }
    assert_int_equal(begin(s, "49", "", 6), TT_IDEM_STORED); /* the newest are those kept */
    assert_int_equal(begin(s, "47", "", 6), TT_IDEM_STORED);
    assert_int_equal(begin(s, "run", "", 6), TT_IDEM_RUNNING);
    assert_int_equal(begin(s, "46", "", 6), TT_IDEM_NEW);
    assert_int_equal(begin(s, "a", "", 6), TT_IDEM_NEW);
    tt_idem_entry *a = entry;
    assert_int_equal(begin(s, "b", "", 6), TT_IDEM_NEW);
    assert_int_equal(begin(s, "c", "", 6), TT_E_BUSY); /* four run */
    tt_idem_abandon(s, a);
    assert_int_equal(begin(s, "c", "", 6), TT_IDEM_NEW);
    finish(s, run, "x");
    assert_int_equal(begin(s, "run", "", 6), TT_IDEM_STORED);
    tt_idem_destroy(&s);
}

static void bytes_are_bounded(void **state)
{
    enum { MAX = 20000 };
    char key[32], big[MAX];
    memset(big, 'x', sizeof big);
    big[sizeof big - 1] = '\0';
    tt_idem *s = create(1000, MAX);
    for (int i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(begin(s, key, "", 0), TT_IDEM_NEW);
        finish(s, entry, big + MAX - 1 - (i * 7919) % 4000);
        assert_true(tt_idem_get_stats(s).bytes <= MAX);
    }
    assert_true(tt_idem_get_stats(s).entries > 4);
    assert_int_equal(begin(s, "199", "", 0), TT_IDEM_STORED);
    assert_int_equal(stored.n_body, (199 * 7919) % 4000);
    /* Too large to keep: the key stays taken all the same, and what is kept stays. */
    assert_int_equal(begin(s, "big", "", 0), TT_IDEM_NEW);
    finish(s, entry, big);
    assert_int_equal(begin(s, "big", "", 0), TT_IDEM_STORED);
    assert_int_equal(stored.status, 0);
    assert_int_equal(begin(s, "199", "", 0), TT_IDEM_STORED);
    assert_int_equal(stored.status, 201);
    tt_idem_destroy(&s);
}

/* Random traffic against a list that is searched from end to end. */
static void random_traffic(void **state)
{
    enum { KEYS = 40, STEPS = 20000 };
    struct {
        bool known, running;
        double begun;
        int body;
        tt_idem_entry *e;
    } model[KEYS] = {0};
    uint32_t x = 12345;
    double now = 0;
    tt_idem *s = create(KEYS, 1 << 20); /* nothing gives way, so the model is exact */
    for (int i = 0; i < STEPS; i++) {
        x = x * 1664525 + 1013904223;
        int k = (int)(x >> 8) % KEYS, body = (int)(x >> 16) % 3;
        char key[16], text[16];
        snprintf(key, sizeof key, "key%d", k);
        snprintf(text, sizeof text, "%d", body);
        now += (x >> 24) * 0.01;
        if (model[k].running && (x >> 20) % 2 == 0) {
            if ((x >> 21) % 4 == 0) {
                tt_idem_abandon(s, model[k].e);
                model[k].known = false;
            } else {
                finish(s, model[k].e, text);
            }
            model[k].running = false;
            continue;
        }
        if (model[k].known && !model[k].running && now - model[k].begun >= 100) {
            model[k].known = false;
        }
        int want = !model[k].known         ? TT_IDEM_NEW
                   : model[k].body != body ? TT_IDEM_OTHER_BODY
                   : model[k].running      ? TT_IDEM_RUNNING
                                           : TT_IDEM_STORED;
        assert_int_equal(begin(s, key, text, now), want);
        if (want == TT_IDEM_NEW) {
            model[k].known = model[k].running = true;
            model[k].begun = now;
            model[k].body = body;
            model[k].e = entry;
        }
    }
    tt_idem_destroy(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outcomes),
        cmocka_unit_test(scope),
        cmocka_unit_test(age),
        cmocka_unit_test(entries_are_bounded),
        cmocka_unit_test(bytes_are_bounded),
        cmocka_unit_test(random_traffic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
