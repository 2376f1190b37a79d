/* test_key_secret.c - secrets of API keys: their shape, their hash against Python's hmac module,
 * and that Nettle's constant-time comparison is what compares. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "server/hex.h"
#include "server/key_secret.h"

#define A64 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

/* ---- the comparison ---- */

static int n_compared;
int __real_nettle_memeql_sec(const void *a, const void *b, size_t n);
int __wrap_nettle_memeql_sec(const void *a, const void *b, size_t n);

int __wrap_nettle_memeql_sec(const void *a, const void *b, size_t n)
{
    assert_int_equal(n, TT_KEY_HASH_BYTES); /* all of it */
    n_compared++;
    return __real_nettle_memeql_sec(a, b, n);
}

/* python3 -c "import hmac; print(hmac.new(bytes(range(16)), b'sk-0123456789ab-' + b'a' * 64,
 *                                         'sha256').hexdigest())" */
static const char known[] = "51de500873d01ae72528df9fef0feba03ae7cc246ffe00fc5306aa6b32312b07";

static void known_hash(tt_key_hash *h)
{
    for (int i = 0; i < TT_KEY_SALT_BYTES; i++) {
        h->salt[i] = (unsigned char)i;
    }
    assert_true(tt_hex_read(known, h->hash, TT_KEY_HASH_BYTES));
}

static void test_known_hash(void **state)
{
    tt_key_hash h;
    known_hash(&h);
    assert_true(tt_key_hash_matches(&h, "sk-0123456789ab-" A64));
    assert_false(tt_key_hash_matches(&h, "sk-0123456789ab-" A64 "a"));
    assert_false(tt_key_hash_matches(&h, ""));
    for (int bit = 0; bit < 8 * TT_KEY_HASH_BYTES; bit++) {
        h.hash[bit / 8] ^= (unsigned char)(1 << bit % 8);
        assert_false(tt_key_hash_matches(&h, "sk-0123456789ab-" A64));
        h.hash[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    h.salt[0] ^= 1;
    assert_false(tt_key_hash_matches(&h, "sk-0123456789ab-" A64));
}

static void test_compared_in_constant_time(void **state)
{
    tt_key_hash h;
    known_hash(&h);
    n_compared = 0;
    tt_key_hash_matches(&h, "sk-0123456789ab-" A64);
    tt_key_hash_matches(&h, "wrong");
    assert_int_equal(n_compared, 2);
}

static void test_new_secrets(void **state)
{
    char secret[2][TT_KEY_SECRET_BYTES], id[2][TT_KEY_ID_BYTES], found[TT_KEY_ID_BYTES];
    tt_key_hash h[2];
    tt_err err;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tt_key_secret_make(secret[i], id[i], &err), TT_OK);
        assert_int_equal(strlen(secret[i]), TT_KEY_SECRET_BYTES - 1);
        assert_true(tt_key_secret_id(secret[i], found));
        assert_string_equal(found, id[i]);
        assert_int_equal(tt_key_hash_make(secret[0], &h[i], &err), TT_OK);
        assert_true(tt_key_hash_matches(&h[i], secret[0]));
    }
    assert_string_not_equal(secret[0], secret[1]);
    assert_string_not_equal(secret[0] + 16, secret[1] + 16);
    assert_memory_not_equal(h[0].salt, h[1].salt, TT_KEY_SALT_BYTES); /* one secret, two hashes */
    assert_memory_not_equal(h[0].hash, h[1].hash, TT_KEY_HASH_BYTES);
    assert_false(tt_key_hash_matches(&h[0], secret[1]));
}

static void test_shapes(void **state)
{
    static const char *const bad[] = {
        "",
        "sk-",
        "sk-0123456789ab",
        "sk-0123456789ab-",
        "sk-0123456789ab" A64,
        "sk-0123456789a-" A64 "a",
        "sk-0123456789aB-" A64,
        "sk-0123456789ag-" A64,
        "sk-0123456789ab_" A64,
        "SK-0123456789ab-" A64,
        "sk-0123456789ab-" A64 "a",
        "sk-0123456789ab-a" A64,
        " sk-0123456789ab-" A64,
    };
    char id[TT_KEY_ID_BYTES];
    assert_true(tt_key_secret_id("sk-0123456789ab-" A64, id));
    assert_string_equal(id, "0123456789ab");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(tt_key_secret_id(bad[i], id));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_hash),
        cmocka_unit_test(test_compared_in_constant_time),
        cmocka_unit_test(test_new_secrets),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
