/* test_template_value.c - values of the template interpreter as Python has them: numbers compared
 * exactly whatever their types, equal numbers as one key, dicts in the order of their insertion
 * against a linear search, what has no order and no hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/rng.h"
#include "core/template_value.h"

static tt_run run;
static tt_err err;
static tt_rng rng;

static int set_up(void **state)
{
    run = (tt_run){.err = &err, .max_steps = 1 << 24, .max_text_bytes = 1 << 20, .line = 1};
    run.hash_seed = 12345;
    tt_arena_init(&run.arena, 1 << 26);
    return 0;
}

static int tear_down(void **state)
{
    tt_arena_finish(&run.arena);
    return 0;
}

static tt_val text(const char *s)
{
    return tt_val_text(tt_text_copy(&run, s, strlen(s), false));
}

static tt_val tuple(tt_val a, tt_val b)
{
    tt_val v;
    assert_true(tt_val_pair(&run, a, b, &v));
    return v;
}

/* Numbers around the places where doubles lose integers. */
static tt_val number(void)
{
    static const int64_t around[] = {
        0, 1, -1, 2, (int64_t)1 << 53, -((int64_t)1 << 53), INT64_MAX, INT64_MIN, (int64_t)1 << 62};
    int64_t i = around[tt_rng_below(&rng, sizeof around / sizeof *around)];
    int64_t by = (int64_t)tt_rng_below(&rng, 5) - 2;
    i = (by > 0 && i > INT64_MAX - by) || (by < 0 && i < INT64_MIN - by) ? i : i + by;
    switch (tt_rng_below(&rng, 4)) {
    case 0:
        return tt_val_bool(i & 1);
    case 1:
        return tt_val_float((double)i + (tt_rng_below(&rng, 2) != 0 ? 0.5 : 0));
    case 2:
        return tt_val_float(tt_rng_below(&rng, 2) != 0 ? INFINITY : -0.0);
    default:
        return tt_val_int(i);
    }
}

/* A 64-bit significand holds both kinds. */
static long double exact(const tt_val *v)
{
    return v->kind == TT_V_FLOAT ? (long double)v->u.f
           : v->kind == TT_V_INT ? (long double)v->u.i
                                 : (long double)v->u.b;
}

static void test_numbers(void **state)
{
    for (int i = 0; i < 20000; i++) {
        tt_val a = number(), b = number();
        long double x = exact(&a), y = exact(&b);
        bool equal = false;
        int order = 9;
        uint64_t ha, hb;
        assert_true(tt_val_equal(&run, &a, &b, &equal));
        assert_int_equal(equal, x == y);
        assert_true(tt_val_order(&run, &a, &b, "<", &order));
        assert_int_equal(order, (x > y) - (x < y));
        assert_true(tt_val_hash(&run, &a, &ha) && tt_val_hash(&run, &b, &hb));
        assert_true(!equal || ha == hb); /* one key */
        assert_int_equal(tt_val_truthy(&a), x != 0);
    }
    tt_val nan = tt_val_float(NAN);
    bool equal = true;
    assert_true(tt_val_equal(&run, &nan, &nan, &equal));
    assert_false(equal);
}

static tt_val any_key(void)
{
    char s[8];
    switch (tt_rng_below(&rng, 5)) {
    case 0:
        return number();
    case 1:
        return tt_val_none();
    case 2:
        return tuple(tt_val_int((int64_t)tt_rng_below(&rng, 3)), text("t"));
    default:
        snprintf(s, sizeof s, "k%d", (int)tt_rng_below(&rng, 60));
        return text(s);
    }
}

static size_t search(tt_val *keys, size_t n, const tt_val *key)
{
    for (size_t i = 0; i < n; i++) {
        bool same = false;
        assert_true(tt_val_equal(&run, &keys[i], key, &same));
        if (same) {
            return i;
        }
    }
    return n;
}

static void test_dicts(void **state)
{
    enum { MAX = 200 };
    for (int round = 0; round < 20; round++) {
        tt_val d, keys[MAX];
        int64_t values[MAX];
        size_t n = 0;
        assert_true(tt_val_dict(&run, &d));
        for (int64_t step = 0; step < MAX; step++) {
            tt_val key = any_key(), *found = NULL;
            size_t at = search(keys, n, &key);
            assert_true(tt_dict_get(&run, d.u.dict, key, &found));
            assert_int_equal(found != NULL, at < n);
            assert_true(found == NULL || found->u.i == values[at]);
            assert_true(tt_dict_set(&run, d.u.dict, key, tt_val_int(step)));
            keys[at] = at < n ? keys[at] : key; /* the first of equal keys stays */
            values[at] = step;
            n += at == n;
            assert_int_equal(d.u.dict->n, n);
        }
        for (size_t i = 0; i < n; i++) { /* in the order in which they came */
            const tt_dict_entry *e = &d.u.dict->entries[i];
            assert_int_equal(e->key.kind, keys[i].kind);
            assert_int_equal(e->value.u.i, values[i]);
        }
        assert_int_equal(run.code, TT_OK);
    }
}

static void test_names(void **state)
{
    tt_val d;
    assert_true(tt_val_dict(&run, &d));
    for (int i = 0; i < 20; i++) {
        char s[8];
        snprintf(s, sizeof s, "%d", i);
        assert_true(tt_dict_set(&run, d.u.dict, text(s), tt_val_int(i)));
        assert_int_equal(tt_dict_find_cstr(&run, d.u.dict, s)->u.i, i);
        assert_int_equal(tt_dict_find(&run, d.u.dict, text(s).u.s)->u.i, i);
        assert_null(tt_dict_find_cstr(&run, d.u.dict, "20"));
    }
}

static void test_what_has_no_hash(void **state)
{
    tt_val list, d;
    uint64_t h;
    assert_true(tt_val_list(&run, TT_V_LIST, 0, &list) && tt_val_dict(&run, &d));
    assert_false(tt_dict_set(&run, d.u.dict, list, tt_val_none()));
    assert_int_equal(run.code, TT_E_INVALID);
    assert_non_null(strstr(err.msg, "unhashable type: 'list'"));
    assert_non_null(strstr(err.msg, "line 1"));
    run.code = TT_OK;
    tt_val t = tuple(tt_val_int(1), list); /* nor has what holds it */
    assert_false(tt_val_hash(&run, &t, &h));
}

static void test_what_has_no_order(void **state)
{
    tt_val list;
    int order;
    assert_true(tt_val_list(&run, TT_V_LIST, 0, &list));
    tt_val pairs[][2] = {{tt_val_int(1), text("1")},
                         {tt_val_none(), tt_val_none()},
                         {list, tt_val_int(0)},
                         {text("a"), tt_val_none()}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        run.code = TT_OK;
        assert_false(tt_val_order(&run, &pairs[i][0], &pairs[i][1], "<", &order));
        assert_int_equal(run.code, TT_E_INVALID);
        bool equal = true;
        run.code = TT_OK; /* but everything may be asked whether it is equal */
        assert_true(tt_val_equal(&run, &pairs[i][0], &pairs[i][1], &equal));
        assert_int_equal(equal, i == 1);
    }
    tt_val a = tuple(tt_val_int(1), text("b")), b = tuple(tt_val_float(1), text("c"));
    assert_true(tt_val_order(&run, &a, &b, "<", &order));
    assert_int_equal(order, -1);
}

/* Values that hold themselves or nest for ever end in an error, not on the stack. */
static void test_deep_values(void **state)
{
    tt_val a = tt_val_int(1), b = tt_val_int(1);
    bool equal = true;
    uint64_t h;
    for (int i = 0; i < 100000; i++) {
        a = tuple(a, tt_val_none());
        b = tuple(b, tt_val_none());
    }
    assert_false(tt_val_equal(&run, &a, &b, &equal));
    assert_int_not_equal(run.code, TT_OK);
    run.code = TT_OK;
    run.depth = 0;
    assert_false(tt_val_hash(&run, &a, &h));
    run.code = TT_OK;
    run.depth = 0;
    assert_null(tt_val_str(&run, &a));
}

int main(void)
{
    rng = tt_rng_make(7, 7);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_numbers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dicts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_has_no_hash, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_has_no_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_deep_values, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
