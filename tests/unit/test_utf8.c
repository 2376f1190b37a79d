/* test_utf8.c - every code point there and back against the bit layout of RFC 3629, the examples of
 * The Unicode Standard for what is not UTF-8. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/utf8.h"

/* RFC 3629, section 3. */
static int encode(uint32_t cp, unsigned char out[4])
{
    if (cp < 0x80) {
        out[0] = (unsigned char)cp;
        return 1;
    }
    int n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--) {
        out[i] = (unsigned char)(0x80 + cp % 64);
        cp /= 64;
    }
    out[0] = (unsigned char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) + cp);
    return n;
}

static void test_every_code_point(void **state)
{
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        unsigned char s[4];
        char put[4];
        uint32_t got = UINT32_MAX;
        int n = encode(cp, s);
        const char *p = (const char *)s;
        if (cp >= 0xd800 && cp < 0xe000) { /* surrogates are three bytes that are none */
            assert_int_equal(tt_utf8_next(p, 3, &got), -1);
            continue;
        }
        assert_int_equal(tt_utf8_next(p, (size_t)n, &got), n);
        assert_int_equal(got, cp);
        assert_int_equal(tt_utf8_put(cp, put), n);
        assert_memory_equal(put, s, (size_t)n);
        for (int i = 1; i < n; i++) {
            assert_int_equal(tt_utf8_next(p, (size_t)i, NULL), 0);
        }
    }
}

/* Lengths of what tt_utf8_next() says in turn: positive for code points, negative for what is not
 * one; 0 ends it. */
static void test_maximal_parts(void **state)
{
    static const struct {
        const char *p;
        size_t n;
        int parts[12];
    } rows[] = {
        /* Unicode 15, tables 3-8 to 3-11, and their neighbours */
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", 9, {-1, -1, -1, -1, -1, -1, -1, -1, 1}},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", 9, {-1, -1, -1, -1, -1, -1, -1, -1, 1}},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", 9, {-1, -1, -1, -1, -1, 1, -1, -1, 1}},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", 9, {-2, -1, -3, -2, 1}},
        {"\xf5\x80\x41", 3, {-1, -1, 1}},
        {"\xc2\x41", 2, {-1, 1}},
        {"\xe2\x82", 2, {0}},
        {"\xf0\x9f\x98", 3, {0}},
        {"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10, {1, 2, 3, 4}},
        {"\xe0\xa0\xc3\xa9", 4, {-2, 2}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t at = 0;
        for (int k = 0; at < rows[i].n; k++) {
            int part = tt_utf8_next(rows[i].p + at, rows[i].n - at, NULL);
            if (part != rows[i].parts[k]) {
                fail_msg("row %zu, part %d: %d", i, k, part);
            }
            if (part == 0) {
                break;
            }
            at += (size_t)(part < 0 ? -part : part);
        }
    }
}

static void test_valid_prefix(void **state)
{
    char s[64];
    for (size_t n = 0; n < sizeof s; n++) { /* the eight bytes at a time and the rest */
        memset(s, 'x', sizeof s);
        assert_int_equal(tt_utf8_valid_prefix(s, n), n);
        for (size_t bad = 0; bad < n; bad++) {
            s[bad] = (char)0xff;
            assert_int_equal(tt_utf8_valid_prefix(s, n), bad);
            s[bad] = 'x';
        }
        if (n >= 3) { /* a code point across every border */
            memcpy(s + n - 3, "\xe2\x82\xac", 3);
            assert_int_equal(tt_utf8_valid_prefix(s, n), n);
            assert_int_equal(tt_utf8_valid_prefix(s, n - 1), n - 3);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_maximal_parts),
        cmocka_unit_test(test_valid_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
