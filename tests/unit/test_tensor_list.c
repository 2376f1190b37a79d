/* test_tensor_list.c - the list of a file's tensors: growth and its bound, finding by name, names
 * that occur twice, names that may not be printed, shapes as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/rng.h"
#include "core/tensor_list.h"
#include "fail_alloc.h"

enum { N = 500 };

static char names[N][16];

static tt_str str(const char *s)
{
    return (tt_str){.p = s, .n = (uint32_t)strlen(s)};
}

static void test_find_by_name(void **state)
{
    tt_tensor_list l = {0};
    tt_err err;
    tt_rng rng = tt_rng_make(1, 1);
    assert_int_equal(tt_tensor_list_find(&l, "x"), -1);
    assert_int_equal(tt_tensor_list_grow(&l, 100, &err), TT_OK);
    assert_int_equal(tt_tensor_list_grow(&l, N - 100, &err), TT_OK);
    assert_int_equal(l.n, N);
    for (int i = 0; i < N; i++) {
        assert_true(l.t[i].name.p == NULL && l.t[i].n_dims == 0); /* zeroed */
        snprintf(names[i], sizeof names[i], "%.*s%llu", i % 3, "..",
                 (unsigned long long)tt_rng_below(&rng, 100000) * N + (unsigned)i);
    }
    for (int i = 0; i < N; i++) {
        l.t[i].name = str(names[i]);
    }
    assert_int_equal(tt_tensor_list_find(&l, names[0]), -1); /* not indexed yet */
    assert_int_equal(tt_tensor_list_index(&l, &err), TT_OK);
    for (int i = 0; i < N; i++) {
        assert_int_equal(tt_tensor_list_find(&l, names[i]), i); /* the file's order stays */
        char more[20];
        snprintf(more, sizeof more, "%.15s ", names[i]);
        assert_int_equal(tt_tensor_list_find(&l, more), -1);
    }
    assert_int_equal(tt_tensor_list_find(&l, ""), -1);
    for (int i = 1; i < N; i++) {
        assert_true(tt_str_compare(l.t[l.by_name[i - 1]].name, l.t[l.by_name[i]].name) < 0);
    }
    tt_tensor_list_finish(&l);
    assert_true(l.t == NULL && l.by_name == NULL && l.n == 0);
    tt_tensor_list_finish(&l);
}

static void test_a_name_twice(void **state)
{
    tt_tensor_list l = {0};
    tt_err err = {0};
    assert_int_equal(tt_tensor_list_grow(&l, 3, &err), TT_OK);
    l.t[0].name = str("same");
    l.t[1].name = str("other");
    l.t[2].name = str("same");
    assert_int_equal(tt_tensor_list_index(&l, &err), TT_E_MODEL);
    assert_non_null(strstr(err.msg, "\"same\""));
    assert_int_equal(tt_tensor_list_find(&l, "other"), -1);
    l.t[2].name.n--; /* a prefix is another name */
    assert_int_equal(tt_tensor_list_index(&l, &err), TT_OK);
    assert_int_equal(tt_tensor_list_find(&l, "same"), 0);
    assert_int_equal(tt_tensor_list_find(&l, "sam"), 2);
    tt_tensor_list_finish(&l);
}

static void test_bounds(void **state)
{
    tt_tensor_list l = {0};
    tt_err err;
    assert_int_equal(tt_tensor_list_grow(&l, 0, &err), TT_OK);
    assert_int_equal(tt_tensor_list_index(&l, &err), TT_OK);
    assert_int_equal(tt_tensor_list_find(&l, ""), -1);
    assert_int_equal(tt_tensor_list_grow(&l, TT_TENSOR_LIST_MAX + 1, &err), TT_E_MODEL);
    assert_int_equal(tt_tensor_list_grow(&l, INT32_MAX, &err), TT_E_MODEL);
    assert_int_equal(tt_tensor_list_grow(&l, -1, &err), TT_E_MODEL);
    assert_int_equal(l.n, 0);
    assert_int_equal(tt_tensor_list_grow(&l, TT_TENSOR_LIST_MAX, &err), TT_OK);
    assert_int_equal(tt_tensor_list_grow(&l, 1, &err), TT_E_MODEL);
    assert_int_equal(l.n, TT_TENSOR_LIST_MAX);
    tt_tensor_list_finish(&l);
}

static void test_no_memory(void **state)
{
    tt_tensor_list l = {0};
    tt_err err;
    tt_code rc;
    assert_int_equal(tt_tensor_list_grow(&l, 1, &err), TT_OK);
    l.t[0].name = str("kept");
    fail_alloc_at(0);
    rc = tt_tensor_list_grow(&l, 5, &err);
    assert_true(fail_alloc_off());
    assert_int_equal(rc, TT_E_NOMEM);
    assert_int_equal(l.n, 1);
    for (int n = 0; n < 2; n++) {
        fail_alloc_at(n);
        rc = tt_tensor_list_index(&l, &err);
        assert_true(fail_alloc_off());
        assert_int_equal(rc, TT_E_NOMEM);
    }
    assert_int_equal(tt_tensor_list_index(&l, &err), TT_OK);
    assert_int_equal(tt_tensor_list_find(&l, "kept"), 0);
    tt_tensor_list_finish(&l);
}

static void test_names_that_may_be_printed(void **state)
{
    static const struct {
        const char *p;
        uint64_t n;
        bool valid;
    } rows[] = {
        {"blk.0.attn_q.weight", 19, true},
        {"", 0, false},
        {"a b", 3, true},
        {"12345678", 8, true},
        {"123456789012345678901", 21, false}, /* longer than the 20 that the test allows */
        {"12345678901234567890", 20, true},
        {"a\nb", 3, false},
        {"a\0b", 3, false},
        {"\x7f", 1, false},
        {"\x1f", 1, false},
        {"\xc3\xa9", 2, true},
        {"\xc3", 1, false},
        {"\xc0\xaf", 2, false},         /* overlong */
        {"\xe0\x9f\xbf", 3, false},     /* overlong */
        {"\xed\xa0\x80", 3, false},     /* surrogate */
        {"\xed\x9f\xbf", 3, true},      /* U+D7FF */
        {"\xf4\x8f\xbf\xbf", 4, true},  /* U+10FFFF */
        {"\xf4\x90\x80\x80", 4, false}, /* above it */
        {"\xf0\x8f\xbf\xbf", 4, false}, /* overlong */
        {"\xff", 1, false},
        {"\x80", 1, false},
        {"ok\xe2\x82", 4, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (tt_name_valid(rows[i].p, rows[i].n, 20) != rows[i].valid) {
            fail_msg("row %zu", i);
        }
    }
    assert_false(
        tt_name_valid("abc", UINT64_MAX, 255)); /* the length is checked before the bytes */
}

static void test_order(void **state)
{
    static const char *const rising[] = {"", "a", "a.", "aa", "b", "\xc3\xa9"};
    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < 6; j++) {
            int c = tt_str_compare(str(rising[i]), str(rising[j]));
            assert_int_equal((c > 0) - (c < 0), (i > j) - (i < j));
        }
    }
    assert_int_equal(tt_str_compare((tt_str){0}, (tt_str){0}), 0);
}

static void test_shapes_as_text(void **state)
{
    char buf[64], tiny[6];
    tt_file_tensor t = {.n_dims = 2, .dims = {576, 49152}};
    assert_string_equal(tt_tensor_shape_text(&t, buf, sizeof buf), "[576, 49152]");
    assert_string_equal(tt_tensor_shape_text(&t, tiny, sizeof tiny), "[576,"); /* cut, ended */
    t.n_dims = 0;
    assert_string_equal(tt_tensor_shape_text(&t, buf, sizeof buf), "[]");
    t.n_dims = TT_TENSOR_MAX_DIMS;
    for (int i = 0; i < t.n_dims; i++) {
        t.dims[i] = INT64_MAX;
    }
    assert_int_equal(strlen(tt_tensor_shape_text(&t, buf, sizeof buf)), sizeof buf - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_by_name),
        cmocka_unit_test(test_a_name_twice),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_names_that_may_be_printed),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_shapes_as_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
