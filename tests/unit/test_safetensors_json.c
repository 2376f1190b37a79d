/* test_safetensors_json.c - core/safetensors_json.c on files that the test writes: reading back,
 * cut at every byte, corrupted, hostile headers and indices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/safetensors_json.h"

static const char good[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                           "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                           "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[20,28]},"
                           "\"none\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[28,28]}}";
#define GOOD_DATA 28

/* Header length, header, n_data bytes; malloc'ed in its exact size. */
static uint8_t *file_of(const char *header, uint64_t n_header, size_t n_data, size_t *ret_n)
{
    size_t n = 8 + strlen(header) + n_data;
    uint8_t *p = calloc(1, n);
    assert_non_null(p);
    memcpy(p, &n_header, 8);
    memcpy(p + 8, header, strlen(header));
    *ret_n = n;
    return p;
}

static tt_code try_read(const uint8_t *p, size_t n, tt_err *err)
{
    uint8_t *exact = malloc(n > 0 ? n : 1);
    assert_non_null(exact);
    memcpy(exact, p, n);
    tt_arena arena;
    tt_arena_init(&arena, 0);
    tt_tensor_list list = {0};
    *err = (tt_err){.code = TT_OK};
    tt_code rc = tt_safetensors_read(exact, n, &arena, &list, err);
    if (rc == TT_OK) {
        rc = tt_tensor_list_index(&list, err);
    }
    if (rc != TT_OK) {
        assert_int_equal(err->code, rc);
        assert_true(strlen(err->msg) > 10);
    }
    tt_tensor_list_finish(&list);
    tt_arena_finish(&arena);
    free(exact);
    return rc;
}

static void expect(const char *header, size_t n_data, tt_code code, const char *text)
{
    size_t n;
    uint8_t *p = file_of(header, strlen(header), n_data, &n);
    tt_err err;
    tt_code rc = try_read(p, n, &err);
    free(p);
    if (rc != code || strstr(err.msg, text) == NULL) {
        fail_msg("%s: got %d \"%s\", expected %d \"%s\"", header, rc, err.msg, code, text);
    }
}

static void test_read_back(void **state)
{
    (void)state;
    size_t n;
    uint8_t *p = file_of(good, strlen(good), GOOD_DATA, &n);
    tt_arena arena;
    tt_arena_init(&arena, 0);
    tt_tensor_list l = {0};
    tt_err err = {0};
    assert_int_equal(tt_safetensors_read(p, n, &arena, &l, &err), TT_OK);
    assert_int_equal(l.n, 4);
    assert_int_equal(tt_tensor_list_index(&l, &err), TT_OK);
    const tt_file_tensor *t = &l.t[tt_tensor_list_find(&l, "b")];
    assert_int_equal(t->type, TT_BF16);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 2);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->n_bytes, 12);
    assert_ptr_equal(t->data, p + 8 + strlen(good) + 8);
    assert_int_equal(t->offset, 8 + strlen(good) + 8);
    t = &l.t[tt_tensor_list_find(&l, "scalar")];
    assert_int_equal(t->type, TT_DTYPE_COUNT);
    assert_string_equal(t->type_name, "I64");
    assert_int_equal(t->n_dims, 0);
    char shape[32];
    assert_string_equal(tt_tensor_shape_text(t, shape, sizeof shape), "[]");
    /* a second file into the same list: its names collide */
    assert_int_equal(tt_safetensors_read(p, n, &arena, &l, &err), TT_OK);
    assert_int_equal(l.n, 8);
    assert_int_equal(tt_tensor_list_index(&l, &err), TT_E_MODEL);
    assert_non_null(strstr(err.msg, "two tensors are named"));
    tt_tensor_list_finish(&l);
    tt_arena_finish(&arena);
    free(p);
}

static void test_cut_at_every_byte(void **state)
{
    (void)state;
    size_t n;
    uint8_t *p = file_of(good, strlen(good), GOOD_DATA, &n);
    tt_err err;
    assert_int_equal(try_read(p, n, &err), TT_OK);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(try_read(p, i, &err), TT_E_MODEL);
    }
    free(p);
}

static void test_every_byte_corrupted(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x02, 0x08, 0x10, 0x80, 0xFF};
    size_t n;
    uint8_t *p = file_of(good, strlen(good), GOOD_DATA, &n);
    int n_bad = 0;
    for (size_t i = 0; i < n - GOOD_DATA; i++) {
        for (size_t k = 0; k < sizeof masks; k++) {
            tt_err err;
            p[i] ^= masks[k];
            n_bad += try_read(p, n, &err) != TT_OK;
            p[i] ^= masks[k];
        }
    }
    assert_true(n_bad > 1000);
    free(p);
}

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_hostile_headers(void **state)
{
    (void)state;
    const struct {
        const char *header;
        size_t n_data;
        tt_code code;
        const char *text;
    } cases[] = {
        {"", 0, TT_E_MODEL, "JSON"},
        {"[]", 0, TT_E_MODEL, "not an object"},
        {"{}", 0, TT_OK, ""},
        {"{} ", 0, TT_OK, ""},
        {"{}", 1, TT_E_MODEL, "the tensors end at byte 10"},
        {"{\"a\":1}", 0, TT_E_MODEL, "not an object"},
        {"{\"a\":{}}", 0, TT_E_MODEL, "no dtype"},
        {"{\"a\":{},\"a\":{}}", 0, TT_E_MODEL, "duplicate"},
        {"{\"\":{}}", 0, TT_E_MODEL, "printable"},
        {"{\"a\\n\":{}}", 0, TT_E_MODEL, "printable"},
        {"{\"a\\u0000\":{}}", 0, TT_E_MODEL, "JSON"},
        {"{\"\xFF\":{}}", 0, TT_E_MODEL, "JSON"},
        {ONE("\"F32\"", "[2]", "[0,8]"), 8, TT_OK, ""},
        {ONE("\"F32\"", "[2]", "[0,8]"), 9, TT_E_MODEL, "the tensors end"},
        {ONE("\"F32\"", "[2]", "[0,8]"), 7, TT_E_MODEL, "truncated"},
        {ONE("\"F32\"", "[2]", "[4,12]"), 12, TT_E_MODEL, "begins at byte"},
        {ONE("\"F32\"", "[3]", "[0,8]"), 8, TT_E_MODEL, "its shape needs 12"},
        {ONE("\"F32\"", "[2]", "[8,0]"), 8, TT_E_MODEL, "data_offsets"},
        {ONE("\"F32\"", "[2]", "[-8,0]"), 8, TT_E_MODEL, "data_offsets"},
        {ONE("\"F32\"", "[2]", "[0]"), 8, TT_E_MODEL, "data_offsets"},
        {ONE("\"F32\"", "[2]", "[0,8,8]"), 8, TT_E_MODEL, "data_offsets"},
        {ONE("\"F32\"", "[2]", "[0,8.0]"), 8, TT_E_MODEL, "data_offsets"},
        {ONE("\"F32\"", "[2]", "{}"), 8, TT_E_MODEL, "data_offsets"},
        {ONE("\"F32\"", "[2]", "[0,9223372036854775807]"), 8, TT_E_MODEL, "truncated"},
        {ONE("\"F32\"", "[2]", "[0,9223372036854775808]"), 8, TT_E_MODEL, "JSON"},
        {ONE("\"F32\"", "[-2]", "[0,8]"), 8, TT_E_MODEL, "impossible dimension"},
        {ONE("\"F32\"", "[2.0]", "[0,8]"), 8, TT_E_MODEL, "impossible dimension"},
        {ONE("\"F32\"", "[4611686018427387904]", "[0,8]"), 8, TT_E_MODEL, "impossible dimension"},
        {ONE("\"F32\"", "[4294967296,4294967296]", "[0,8]"), 8, TT_E_MODEL, "impossible dimension"},
        {ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, TT_E_MODEL, "9 dimensions"},
        {ONE("\"F32\"", "2", "[0,8]"), 8, TT_E_MODEL, "no shape"},
        {ONE("\"F99\"", "[2]", "[0,8]"), 8, TT_E_UNSUPPORTED, "unknown dtype (\"F99\")"},
        {ONE("7", "[2]", "[0,8]"), 8, TT_E_MODEL, "no dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
         6, TT_E_MODEL, "b begins at byte"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect(cases[i].header, cases[i].n_data, cases[i].code, cases[i].text);
    }
}

static void test_header_length(void **state)
{
    (void)state;
    const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, INT64_MAX, (uint64_t)1 << 32, 1000, 3};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        size_t n;
        uint8_t *p = file_of("{}", lengths[i], 0, &n);
        tt_err err;
        assert_int_equal(try_read(p, n, &err), TT_E_MODEL);
        free(p);
    }
    /* depth: refused by the parser, not by the stack */
    size_t deep = 100000;
    char *header = calloc(1, deep + 1);
    assert_non_null(header);
    memset(header, '[', deep);
    expect(header, 0, TT_E_MODEL, "JSON error");
    free(header);
}

static tt_code read_index(const char *json, tt_safetensors_index *x, tt_arena *arena, tt_err *err)
{
    *err = (tt_err){.code = TT_OK};
    return tt_safetensors_read_index((const uint8_t *)json, strlen(json), arena, x, err);
}

static void test_index(void **state)
{
    (void)state;
    tt_arena arena;
    tt_arena_init(&arena, 0);
    tt_safetensors_index x;
    tt_err err;
    assert_int_equal(
        read_index("{\"metadata\":{\"total_size\":1},\"weight_map\":{\"p\":\"2.safetensors\","
                   "\"q\":\"1.safetensors\",\"r\":\"2.safetensors\"}}",
                   &x, &arena, &err),
        TT_OK);
    assert_int_equal(x.n_files, 2);
    assert_int_equal(x.n_tensors, 3);
    assert_string_equal(x.tensors[2], "r");
    assert_string_equal(x.files[x.file_of[2]], "2.safetensors");
    assert_string_equal(x.files[x.file_of[1]], "1.safetensors");

    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"weight_map\":1}",
        "{\"weight_map\":{}}",
        "{\"weight_map\":{\"p\":1}}",
        "{\"weight_map\":{\"p\":\"\"}}",
        "{\"weight_map\":{\"p\":\".safetensors\"}}",
        "{\"weight_map\":{\"p\":\"../1.safetensors\"}}",
        "{\"weight_map\":{\"p\":\"/1.safetensors\"}}",
        "{\"weight_map\":{\"p\":\"..\"}}",
        "{\"weight_map\":{\"p\":\"passwd\"}}",
        "{\"weight_map\":{\"p\\n\":\"1.safetensors\"}}",
        "{\"weight_map\":{\"p\":\"a\\n.safetensors\"}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (read_index(bad[i], &x, &arena, &err) != TT_E_MODEL || strlen(err.msg) < 10) {
            fail_msg("%s was not refused", bad[i]);
        }
    }
    tt_arena_finish(&arena);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    size_t n;
    uint8_t *p = file_of(good, strlen(good), GOOD_DATA, &n);
    tt_arena arena;
    tt_arena_init(&arena, 16);
    tt_tensor_list l = {0};
    tt_err err = {0};
    assert_int_equal(tt_safetensors_read(p, n, &arena, &l, &err), TT_E_NOMEM);
    tt_tensor_list_finish(&l);
    tt_arena_finish(&arena);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_back),
        cmocka_unit_test(test_cut_at_every_byte),
        cmocka_unit_test(test_every_byte_corrupted),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
