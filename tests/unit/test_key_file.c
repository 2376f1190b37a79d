/* test_key_file.c - the file of API keys: what is read, what is refused and in which line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/key_file.h"

#define SALT "000102030405060708090a0b0c0d0e0f"
#define HASH "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define REST " salt=" SALT " hash=" HASH
#define ALICE "name=alice role=user id=0123456789ab" REST
#define BOB "name=bob.x_1-2 role=admin id=ba9876543210" REST

static tt_code parse(tt_key_list *list, const char *text, tt_err *err)
{
    return tt_key_list_parse(list, "keys", text, strlen(text), err);
}

static void expect_refused(const char *text, const char *where, const char *why)
{
    tt_key_list list = {0};
    tt_err err = {0};
    assert_int_equal(parse(&list, text, &err), TT_E_INVALID);
    if (strncmp(err.msg, where, strlen(where)) != 0 || strstr(err.msg, why) == NULL) {
        fail_msg("'%s' says neither '%s' nor '%s'", err.msg, where, why);
    }
    assert_int_equal(list.n, 0);
    tt_key_list_finish(&list);
}

static void test_good(void **state)
{
    tt_key_list list = {0};
    tt_err err;
    assert_int_equal(parse(&list,
                           "# ours\n\n" ALICE " requests_per_minute=60 tokens_per_minute=1000 "
                           "concurrent=4 sessions=10 jobs=2 bytes=1GiB # a comment\r\n   \n" BOB,
                           &err),
                     TT_OK);
    assert_int_equal(list.n, 2);
    const tt_key *a = &list.v[0], *b = &list.v[1];
    assert_string_equal(a->name, "alice");
    assert_string_equal(a->scope, "alice"); /* the tenant hangs on the name, not on the secret */
    assert_string_equal(a->id, "0123456789ab");
    assert_int_equal(a->role, TT_ROLE_USER);
    assert_int_equal(a->hash.salt[15], 15);
    assert_int_equal(a->hash.hash[1], 0x11);
    assert_int_equal(a->limits.requests_per_minute, 60);
    assert_int_equal(a->limits.tokens_per_minute, 1000);
    assert_int_equal(a->limits.concurrent, 4);
    assert_int_equal(a->limits.sessions, 10);
    assert_int_equal(a->limits.jobs, 2);
    assert_int_equal(a->limits.bytes, 1 << 30);
    assert_string_equal(b->name, "bob.x_1-2");
    assert_int_equal(b->role, TT_ROLE_ADMIN);
    for (int i = 0; i < tt_n_key_limits; i++) {
        assert_int_equal(tt_key_limit_get(&b->limits, &tt_key_limit_table[i]), 0);
    }
    tt_key_list_finish(&list);
    tt_key_list_finish(&list); /* legal */
}

static void test_what_is_written_reads_back(void **state)
{
    static const char line[] = ALICE " requests_per_minute=60 jobs=2 bytes=4096";
    tt_key_list list = {0}, again = {0};
    tt_err err;
    tt_buf b = {0};
    assert_int_equal(parse(&list, line, &err), TT_OK);
    tt_key_write(&b, &list.v[0]);
    assert_int_equal(b.n, sizeof line - 1);
    assert_memory_equal(b.p, line, b.n);
    assert_int_equal(tt_key_list_parse(&again, "keys", b.p, b.n, &err), TT_OK);
    assert_memory_equal(&again.v[0], &list.v[0], sizeof *list.v);
    tt_buf_finish(&b);
    tt_key_list_finish(&list);
    tt_key_list_finish(&again);
}

static void test_refused(void **state)
{
    static char nul[] = ALICE "\nx\0y\n";
    tt_key_list list = {0};
    tt_err err;
    char name[2000] = "name=";
    expect_refused("x", "keys:1: ", "field=value");
    expect_refused("#\n" ALICE "\n\nname=x", "keys:4: ", "there is no role");
    expect_refused("name=x role=user id=0123456789ab salt=" SALT, "keys:1: ", "there is no hash");
    expect_refused("name= role=user id=0123456789ab" REST, "keys:1: name", "1-32");
    expect_refused("name=-x role=user id=0123456789ab" REST, "keys:1: name", "1-32");
    expect_refused("name=.x role=user id=0123456789ab" REST, "keys:1: name", "1-32");
    expect_refused("name=a/b role=user id=0123456789ab" REST, "keys:1: name", "1-32");
    expect_refused("name=caf\xc3\xa9 role=user id=0123456789ab" REST, "keys:1: name", "1-32");
    expect_refused("name=a23456789012345678901234567890123 role=user", "keys:1: name", "1-32");
    expect_refused("name=x role=root id=0123456789ab" REST, "keys:1: role", "user or admin");
    expect_refused("name=x role=user id=0123456789a" REST, "keys:1: id", "12 hex");
    expect_refused("name=x role=user id=0123456789aB" REST, "keys:1: id", "12 hex");
    expect_refused("name=x role=user id=0123456789ab salt=" HASH, "keys:1: salt", "32 hex");
    expect_refused("name=x role=user id=0123456789ab hash=" SALT, "keys:1: hash", "64 hex");
    expect_refused(ALICE " rpm=1", "keys:1: ", "unknown field 'rpm'");
    expect_refused(ALICE " role=admin", "keys:1: ", "role stands there twice");
    expect_refused(ALICE " jobs=1 jobs=2", "keys:1: ", "jobs stands there twice");
    expect_refused(ALICE "\n" ALICE, "keys:2: ", "name 'alice' is used twice");
    expect_refused(ALICE "\nname=x role=user id=0123456789ab" REST,
                   "keys:2: ", "id '0123456789ab'");
    static const char *const numbers[] = {"", "0", "-1", "1.5", "x", "1k", "10000000000000000"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char line[400];
        snprintf(line, sizeof line, ALICE " sessions=%s", numbers[i]);
        expect_refused(line, "keys:1: sessions", "a number above 0");
    }
    memset(name + 5, 'x', 1500);
    expect_refused(name, "keys:1: ", "too long");
    assert_int_equal(tt_key_list_parse(&list, "keys", nul, sizeof nul - 1, &err), TT_E_INVALID);
    assert_string_equal(err.msg, "keys:2: a NUL byte");
    tt_key_list_finish(&list);
}

/* A fault leaves what was there. */
static void test_a_fault_adds_nothing(void **state)
{
    tt_key_list list = {0};
    tt_err err;
    assert_int_equal(parse(&list, ALICE, &err), TT_OK);
    assert_int_equal(parse(&list, BOB "\nwrong", &err), TT_E_INVALID);
    assert_int_equal(list.n, 1);
    assert_string_equal(list.v[0].name, "alice");
    tt_key_list_finish(&list);
}

static void test_files(void **state)
{
    char path[] = "/tmp/qttt_test_keys_XXXXXX";
    tt_key_list list = {0};
    tt_err err;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(tt_key_list_load(&list, path, &err), TT_OK); /* nobody may enter */
    assert_int_equal(list.n, 0);
    assert_int_equal(write(fd, ALICE "\n", sizeof ALICE), sizeof ALICE);
    assert_int_equal(tt_key_list_load(&list, path, &err), TT_OK);
    assert_int_equal(list.n, 1);
    assert_int_equal(fchmod(fd, 0602), 0);
    assert_int_equal(tt_key_list_load(&list, path, &err), TT_E_INVALID);
    assert_non_null(strstr(err.msg, "anybody"));
    close(fd);
    remove(path);
    assert_int_equal(tt_key_list_load(&list, path, &err), TT_E_IO);
    assert_non_null(strstr(err.msg, path));
    tt_key_list_finish(&list);
}

static void test_plain(void **state)
{
    tt_key_list list = {0};
    tt_err err;
    assert_int_equal(tt_key_list_add_plain(&list, 0, "secret", &err), TT_OK);
    assert_int_equal(tt_key_list_add_plain(&list, 3, "other", &err), TT_OK);
    assert_string_equal(list.v[1].name, ".api_keys.3");
    assert_false(tt_key_name_legal(list.v[1].name)); /* the file cannot take it */
    assert_string_not_equal(list.v[0].scope, list.v[1].scope);
    assert_null(strstr(list.v[0].scope, "secret"));
    assert_true(tt_key_hash_matches(&list.v[0].hash, "secret"));
    assert_int_equal(list.v[0].role, TT_ROLE_USER);
    tt_key_list_finish(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),    cmocka_unit_test(test_what_is_written_reads_back),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_a_fault_adds_nothing),
        cmocka_unit_test(test_files),   cmocka_unit_test(test_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
