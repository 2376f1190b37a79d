/* test_gguf.c - core/gguf.c on files that the test writes: reading back, cut at every byte, every
 * field corrupted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/gguf.h"
#include "model_writer.h"

/* A file with every kind of value and three tensors; the last byte belongs to the last tensor. */
static void sample(mw_gguf *w)
{
    static const char *const words[] = {"a", "", "ccc"};
    const int16_t shorts[] = {-1, 2, -3};
    mw_gguf_init(w);
    mw_kv_str(w, "general.architecture", "llama");
    mw_kv_u32(w, "x.u32", 7);
    mw_kv_f32(w, "x.f32", 0.5f);
    mw_kv_bool(w, "x.bool", 1);
    mw_kv_strs(w, "x.words", words, 3);
    mw_kv_array(w, "x.shorts", TT_GGUF_I16, shorts, 3, 2);
    mw_tensor(w, "vec", 0, 5, TT_F32, NULL);
    mw_tensor(w, "mat", 3, 32, TT_Q8_0, NULL);
    mw_tensor(w, "half", 2, 3, TT_F16, NULL);
}

/* Opens a copy of exactly n bytes; the reader must not outlive the call. */
static tt_code try_open(const uint8_t *p, size_t n, tt_err *err)
{
    uint8_t *exact = malloc(n > 0 ? n : 1);
    assert_non_null(exact);
    memcpy(exact, p, n);
    tt_gguf *g = NULL;
    *err = (tt_err){.code = TT_OK};
    tt_code rc = tt_gguf_open(exact, n, &g, err);
    assert_true((rc == TT_OK) == (g != NULL));
    if (rc != TT_OK) {
        assert_int_equal(err->code, rc);
        assert_true(strlen(err->msg) > 10);
    }
    tt_gguf_close(&g);
    tt_gguf_close(&g);
    free(exact);
    return rc;
}

static void expect(mw_gguf *w, tt_code code, const char *text)
{
    size_t n;
    tt_err err;
    uint8_t *p = mw_gguf_finish(w, &n);
    tt_code rc = try_open(p, n, &err);
    free(p);
    if (rc != code || strstr(err.msg, text) == NULL) {
        fail_msg("got %d \"%s\", expected %d \"%s\"", rc, err.msg, code, text);
    }
}

static void test_read_back(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        mw_gguf w;
        sample(&w);
        w.version = version;
        size_t n;
        uint8_t *p = mw_gguf_finish(&w, &n);
        tt_gguf *g = NULL;
        tt_err err = {0};
        assert_int_equal(tt_gguf_open(p, n, &g, &err), TT_OK);
        assert_int_equal(g->version, version);
        assert_int_equal(g->n_values, 6);
        assert_int_equal(g->tensors.n, 3);
        const tt_file_tensor *t = &g->tensors.t[tt_tensor_list_find(&g->tensors, "mat")];
        assert_int_equal(t->n_dims, 2);
        assert_int_equal(t->dims[0], 3); /* outermost first */
        assert_int_equal(t->dims[1], 32);
        assert_int_equal(t->type, TT_Q8_0);
        assert_string_equal(t->type_name, "Q8_0");
        assert_int_equal(t->n_bytes, 3 * 34);
        assert_ptr_equal(t->data, p + t->offset);
        assert_int_equal(t->offset % 32, 0);
        t = &g->tensors.t[tt_tensor_list_find(&g->tensors, "half")];
        assert_int_equal(t->offset + t->n_bytes, n);
        assert_int_equal(tt_tensor_list_find(&g->tensors, "ma"), -1);
        assert_int_equal(tt_tensor_list_find(&g->tensors, "matt"), -1);
        tt_gguf_close(&g);
        free(p);
    }
}

static void test_values(void **state)
{
    (void)state;
    mw_gguf w;
    sample(&w);
    mw_kv_f32(&w, "x.nan", NAN);
    mw_kv_bool(&w, "x.badbool", 2);
    size_t n;
    uint8_t *p = mw_gguf_finish(&w, &n);
    tt_gguf *g = NULL;
    tt_err err = {0};
    assert_int_equal(tt_gguf_open(p, n, &g, &err), TT_OK);

    int64_t i = -7;
    double f = -7;
    bool b = false;
    tt_str s = {0};
    const tt_gguf_value *a = NULL;
    assert_int_equal(tt_gguf_get_int(g, "x.none", 0, 9, &i, &err), TT_GGUF_ABSENT);
    assert_int_equal(i, -7);
    assert_int_equal(tt_gguf_get_int(g, "x.u32", 0, 9, &i, &err), TT_OK);
    assert_int_equal(i, 7);
    assert_int_equal(tt_gguf_get_int(g, "x.u32", 0, 6, &i, &err), TT_E_MODEL);
    assert_non_null(strstr(err.msg, "x.u32 (byte "));
    assert_non_null(strstr(err.msg, "is 7, expected 0 to 6"));
    assert_int_equal(tt_gguf_get_int(g, "x.f32", 0, 9, &i, &err), TT_E_MODEL);
    assert_non_null(strstr(err.msg, "f32"));
    assert_int_equal(tt_gguf_get_float(g, "x.f32", &f, &err), TT_OK);
    assert_true(f == 0.5);
    assert_int_equal(tt_gguf_get_float(g, "x.u32", &f, &err), TT_E_MODEL);
    assert_int_equal(tt_gguf_get_float(g, "x.nan", &f, &err), TT_E_MODEL);
    assert_non_null(strstr(err.msg, "finite"));
    assert_int_equal(tt_gguf_get_bool(g, "x.bool", &b, &err), TT_OK);
    assert_true(b);
    assert_int_equal(tt_gguf_get_bool(g, "x.badbool", &b, &err), TT_E_MODEL);
    assert_int_equal(tt_gguf_get_str(g, "general.architecture", &s, &err), TT_OK);
    assert_int_equal(s.n, 5);
    assert_memory_equal(s.p, "llama", 5);
    assert_int_equal(tt_gguf_get_str(g, "x.words", &s, &err), TT_E_MODEL);
    assert_non_null(strstr(err.msg, "array of string"));
    assert_int_equal(tt_gguf_get_array(g, "x.words", TT_GGUF_F32, &a, &err), TT_E_MODEL);
    assert_int_equal(tt_gguf_get_array(g, "x.words", TT_GGUF_STRING, &a, &err), TT_OK);
    tt_str words[3];
    tt_gguf_strings(a, words);
    assert_int_equal(words[1].n, 0);
    assert_memory_equal(words[2].p, "ccc", 3);
    assert_int_equal(tt_gguf_get_array(g, "x.shorts", TT_GGUF_I16, &a, &err), TT_OK);
    assert_int_equal(tt_gguf_int_at(a, 0), -1);
    assert_int_equal(tt_gguf_int_at(a, 2), -3);
    tt_gguf_close(&g);
    free(p);
}

static void test_integer_types(void **state)
{
    (void)state;
    const struct {
        uint32_t type;
        size_t bytes;
        uint64_t bits;
        int64_t want;
    } cases[] = {
        {TT_GGUF_U8, 1, 0xFF, 255},
        {TT_GGUF_I8, 1, 0xFF, -1},
        {TT_GGUF_U16, 2, 0xFFFE, 65534},
        {TT_GGUF_I16, 2, 0xFFFE, -2},
        {TT_GGUF_U32, 4, 0xFFFFFFFF, 4294967295},
        {TT_GGUF_I32, 4, 0xFFFFFFFF, -1},
        {TT_GGUF_U64, 8, UINT64_MAX, INT64_MAX},
        {TT_GGUF_I64, 8, UINT64_MAX, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mw_gguf w;
        mw_gguf_init(&w);
        w.n_values = 1;
        mw_str(&w.values, "k");
        mw_u32(&w.values, cases[i].type);
        mw_put(&w.values, &cases[i].bits, cases[i].bytes);
        size_t n;
        uint8_t *p = mw_gguf_finish(&w, &n);
        tt_gguf *g = NULL;
        tt_err err = {0};
        int64_t x = 0;
        assert_int_equal(tt_gguf_open(p, n, &g, &err), TT_OK);
        assert_int_equal(tt_gguf_get_int(g, "k", INT64_MIN, INT64_MAX, &x, &err), TT_OK);
        assert_true(x == cases[i].want);
        tt_gguf_close(&g);
        free(p);
    }
}

static void test_cut_at_every_byte(void **state)
{
    (void)state;
    mw_gguf w;
    sample(&w);
    size_t n;
    uint8_t *p = mw_gguf_finish(&w, &n);
    tt_err err;
    assert_int_equal(try_open(p, n, &err), TT_OK);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(try_open(p, i, &err), TT_E_MODEL);
    }
    free(p);
}

/* Nothing but a clean answer, whatever byte has whatever value. */
static void test_every_byte_corrupted(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x02, 0x04, 0x80, 0xFF, 0x7F};
    mw_gguf w;
    sample(&w);
    size_t n;
    uint8_t *p = mw_gguf_finish(&w, &n);
    int n_bad = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof masks; k++) {
            tt_err err;
            p[i] ^= masks[k];
            n_bad += try_open(p, n, &err) != TT_OK;
            p[i] ^= masks[k];
        }
    }
    assert_true(n_bad > 500); /* most of the head matters */
    free(p);
}

static void test_header(void **state)
{
    (void)state;
    const struct {
        uint32_t version;
        tt_code code;
    } versions[] = {{0, TT_E_UNSUPPORTED},
                    {1, TT_E_UNSUPPORTED},
                    {4, TT_E_UNSUPPORTED},
                    {0x03000000, TT_E_UNSUPPORTED},
                    {2, TT_OK}};
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        mw_gguf w;
        sample(&w);
        w.version = versions[i].version;
        expect(&w, versions[i].code, versions[i].version == 0x03000000 ? "big-endian" : "");
    }
    const uint64_t counts[] = {UINT64_MAX, INT64_MAX, (uint64_t)1 << 32, 65537, 1000, 4};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        mw_gguf w;
        sample(&w);
        w.n_tensors = counts[i];
        expect(&w, TT_E_MODEL, "");
        sample(&w);
        w.n_values = counts[i] == 4 ? 7 : counts[i];
        expect(&w, TT_E_MODEL, "");
    }
    tt_err err;
    assert_int_equal(try_open((const uint8_t *)"not a model at all", 18, &err), TT_E_MODEL);
    assert_non_null(strstr(err.msg, "GGUF"));
}

/* A metadata value with raw bytes after its key. */
static void raw_value(mw_gguf *w, uint32_t type, const void *p, size_t n)
{
    mw_gguf_init(w);
    w->n_values = 1;
    mw_str(&w->values, "k");
    mw_u32(&w->values, type);
    mw_put(&w->values, p, n);
}

static void test_hostile_values(void **state)
{
    (void)state;
    mw_gguf w;
    const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, INT64_MAX, (uint64_t)1 << 32, 9};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        uint64_t string[2] = {lengths[i], 0x4141414141414141};
        raw_value(&w, TT_GGUF_STRING, string, sizeof string);
        expect(&w, TT_E_MODEL, "truncated");
        for (uint32_t type = TT_GGUF_STRING; type <= TT_GGUF_U64; type += 2) {
            mw_buf array = {0};
            mw_u32(&array, type);
            mw_u64(&array, lengths[i] == 9 ? 2 : lengths[i]);
            mw_u64(&array, 1);
            raw_value(&w, TT_GGUF_ARRAY, array.p, array.n);
            expect(&w, TT_E_MODEL, "truncated");
            mw_free(&array);
        }
    }
    const uint32_t nested[4] = {TT_GGUF_ARRAY, 1, 0, 0};
    raw_value(&w, TT_GGUF_ARRAY, nested, sizeof nested);
    expect(&w, TT_E_UNSUPPORTED, "array of arrays");
    raw_value(&w, 13, nested, sizeof nested);
    expect(&w, TT_E_MODEL, "not a type");
    const uint32_t elem[4] = {UINT32_MAX, 1, 0, 0};
    raw_value(&w, TT_GGUF_ARRAY, elem, sizeof elem);
    expect(&w, TT_E_MODEL, "not a type");
    sample(&w);
    mw_kv_u32(&w, "x.u32", 8);
    expect(&w, TT_E_MODEL, "two values have the key \"x.u32\"");
}

static void test_names(void **state)
{
    (void)state;
    static const char *const bad[] = {"",     "\xFF", "a\xC0\x80",    "\xE2\x82",
                                      "a\nb", "\x7F", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                                      "\xC3"};
    mw_gguf w;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sample(&w);
        mw_kv_u32(&w, bad[i], 1);
        expect(&w, TT_E_MODEL, "printable UTF-8");
        sample(&w);
        mw_tensor(&w, bad[i], 0, 1, TT_F32, NULL);
        expect(&w, TT_E_MODEL, "printable UTF-8");
    }
    sample(&w);
    mw_tensor(&w, "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 0, 1, TT_F32,
              NULL); /* valid, 2 to 4 bytes */
    expect(&w, TT_OK, "");
    char longest[300];
    memset(longest, 'n', sizeof longest);
    longest[256] = '\0';
    sample(&w);
    mw_tensor(&w, longest, 0, 1, TT_F32, NULL);
    expect(&w, TT_E_MODEL, "1 to 255");
    longest[255] = '\0';
    sample(&w);
    mw_tensor(&w, longest, 0, 1, TT_F32, NULL);
    expect(&w, TT_OK, "");
    sample(&w);
    mw_tensor(&w, "vec", 0, 1, TT_F32, NULL);
    expect(&w, TT_E_MODEL, "two tensors are named \"vec\"");
}

static void test_hostile_tensors(void **state)
{
    (void)state;
    const struct {
        int n_dims;
        int64_t dims[5];
        uint32_t type;
        uint64_t offset;
        tt_code code;
        const char *text;
    } cases[] = {
        {0, {0}, 0, 0, TT_E_MODEL, "dimensions"},
        {5, {1, 1, 1, 1, 1}, 0, 0, TT_E_MODEL, "dimensions"},
        {1, {0}, 0, 0, TT_E_MODEL, "impossible dimension"},
        {1, {-1}, 0, 0, TT_E_MODEL, "impossible dimension"},
        {2, {INT64_C(1) << 32, INT64_C(1) << 32}, 0, 0, TT_E_MODEL, "impossible dimension"},
        {2, {INT64_C(1) << 31, INT64_C(1) << 31}, 0, 0, TT_E_MODEL, "too large"},
        {1, {INT64_MAX}, 1, 0, TT_E_MODEL, "too large"},
        {1, {33}, 8, 0, TT_E_MODEL, "multiple"},
        {1, {128}, 12, 0, TT_E_MODEL, "multiple"},
        {1, {4}, 0, 1, TT_E_MODEL, "alignment"},
        {1, {4}, 0, UINT64_MAX - 31, TT_E_MODEL, "past the end"},
        {1, {4}, 0, (uint64_t)1 << 40, TT_E_MODEL, "past the end"},
        {1, {1 << 20}, 0, 0, TT_E_MODEL, "past the end"},
        {1, {4}, 0, 192, TT_E_MODEL, "past the end"},
        {1, {32}, 20, 0, TT_E_UNSUPPORTED, "IQ4_NL"},
        {1, {32}, 10, 0, TT_E_UNSUPPORTED, "Q2_K"},
        {1, {32}, 4, 0, TT_E_UNSUPPORTED, "unknown type"},
        {1, {32}, UINT32_MAX, 0, TT_E_UNSUPPORTED, "unknown type"},
        {4, {1, 1, 1, 4}, 0, 0, TT_E_MODEL, "overlap"},
        {1, {1}, 0, 160, TT_E_MODEL, "overlap"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mw_gguf w;
        sample(&w);
        mw_info(&w, "evil", cases[i].n_dims, cases[i].dims, cases[i].type, cases[i].offset);
        expect(&w, cases[i].code, cases[i].text);
    }
}

static void test_alignment(void **state)
{
    (void)state;
    const uint32_t bad[] = {0, 1, 4, 24, 33, 1u << 17, 1u << 31, UINT32_MAX};
    mw_gguf w;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sample(&w);
        mw_kv_u32(&w, "general.alignment", bad[i]);
        expect(&w, TT_E_MODEL, "general.alignment");
    }
    mw_gguf_init(&w);
    w.alignment = 64;
    mw_kv_u32(&w, "general.alignment", 64);
    mw_tensor(&w, "a", 0, 3, TT_F32, NULL);
    mw_tensor(&w, "b", 0, 3, TT_F32, NULL);
    expect(&w, TT_OK, "");
    mw_gguf_init(&w); /* offsets of 32 in a file that promises 64 */
    mw_kv_u32(&w, "general.alignment", 64);
    mw_tensor(&w, "a", 0, 3, TT_F32, NULL);
    mw_tensor(&w, "b", 0, 3, TT_F32, NULL);
    expect(&w, TT_E_MODEL, "alignment");
    mw_gguf_init(&w); /* no tensors, and no padding after the values */
    mw_kv_u32(&w, "k", 1);
    expect(&w, TT_OK, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_back),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_integer_types),
        cmocka_unit_test(test_cut_at_every_byte),
        cmocka_unit_test(test_every_byte_corrupted),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_hostile_values),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_hostile_tensors),
        cmocka_unit_test(test_alignment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
