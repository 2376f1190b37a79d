/* test_settings.c - the table of settings: defaults against config/qttt.yaml, flags, ranges,
 * messages with line and column. argv[1]: config/qttt.yaml. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/settings.h"

static const char *yaml_path;

static void expect_same(const tt_settings *a, const tt_settings *b, const tt_setting *row)
{
    const void *x = (const char *)a + row->offset, *y = (const char *)b + row->offset;
    const tt_string_list *p = x, *q = y;
    switch (row->kind) {
    case TT_SET_STRING:
        assert_string_equal(*(char *const *)x, *(char *const *)y);
        break;
    case TT_SET_LIST:
        assert_int_equal(p->n, q->n);
        for (int32_t i = 0; i < p->n; i++) {
            assert_string_equal(p->v[i], q->v[i]);
        }
        break;
    case TT_SET_BOOL:
        assert_int_equal(*(const bool *)x, *(const bool *)y);
        break;
    case TT_SET_FLOAT:
        assert_true(*(const double *)x == *(const double *)y);
        break;
    default:
        assert_int_equal(*(const int64_t *)x, *(const int64_t *)y);
        break;
    }
}

static char *read_file(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *text = calloc(1, 65536);
    assert_non_null(text);
    *ret_n = fread(text, 1, 65535, f);
    fclose(f);
    return text;
}

/* The file that people start from says the defaults, and holds every key. */
static void file_holds_every_default(void **state)
{
    tt_settings def, loaded;
    tt_err err;
    size_t n;
    assert_int_equal(tt_settings_init(&def, &err), TT_OK);
    assert_int_equal(tt_settings_init(&loaded, &err), TT_OK);
    for (int i = 0; i < tt_n_settings;
         i++) { /* something else everywhere, so that a missing key shows */
        const tt_setting *row = &tt_setting_table[i];
        void *at = (char *)&loaded + row->offset;
        switch (row->kind) {
        case TT_SET_STRING:
            *(char **)at = (char *)(intptr_t) "something else";
            break;
        case TT_SET_LIST:
            assert_int_equal(tt_settings_set(&loaded, row, "something else", "test", &err), TT_OK);
            break;
        case TT_SET_BOOL:
            *(bool *)at = !*(bool *)at;
            break;
        case TT_SET_FLOAT:
            *(double *)at += 1;
            break;
        default:
            *(int64_t *)at += 1;
            break;
        }
    }
    char *text = read_file(yaml_path, &n);
    tt_code rc = tt_settings_load(&loaded, yaml_path, &err);
    if (rc != TT_OK) {
        fail_msg("%s", err.msg);
    }
    for (int i = 0; i < tt_n_settings; i++) {
        print_message("%s\n", tt_setting_table[i].key);
        expect_same(&def, &loaded, &tt_setting_table[i]);
    }
    free(text);
    tt_settings_finish(&def);
    tt_settings_finish(&loaded);
}

static void expect_refused(const char *text, const char *part1, const char *part2)
{
    tt_settings s;
    tt_err err = {0};
    assert_int_equal(tt_settings_init(&s, &err), TT_OK);
    if (tt_settings_load_text(&s, "f.yaml", text, strlen(text), &err) != TT_E_INVALID) {
        fail_msg("accepted: %s", text);
    }
    if (strstr(err.msg, part1) == NULL || strstr(err.msg, part2) == NULL) {
        fail_msg("'%s' does not say '%s' and '%s'", err.msg, part1, part2);
    }
    tt_settings_finish(&s);
}

static void faults_are_told_with_their_place(void **state)
{
    expect_refused("server:\n  prot: 3\n", "f.yaml:2:3: unknown key 'server.prot'", "port");
    expect_refused("servr:\n  port: 3\n", "f.yaml:1:1: unknown key 'servr'", "server");
    expect_refused("log:\n  level: info\nserver:\n  port: 99999\n", "f.yaml:4:9: server.port",
                   "an integer from 0 to 65535");
    expect_refused("server:\n  port: -1\n", "f.yaml:2:9", "0 to 65535");
    expect_refused("server:\n  port: abc\n", "f.yaml:2:9", "an integer");
    expect_refused("server:\n  port: 8080.5\n", "f.yaml:2:9", "an integer");
    expect_refused("server:\n  port:\n", "f.yaml:2:", "an integer");
    expect_refused("server:\n  port: 80x\n", "f.yaml:2:9", "an integer");
    expect_refused("server:\n  port: [80]\n", "f.yaml:2:9", "an integer");
    expect_refused("server:\n  host: [a]\n", "f.yaml:2:9", "a string");
    expect_refused("server:\n  api_keys: a\n", "f.yaml:2:13", "a list of strings");
    expect_refused("server:\n  api_keys: [a, [b]]\n", "f.yaml:2:", "a list of strings");
    expect_refused("server:\n  strict: maybe\n", "f.yaml:2:11", "true or false");
    expect_refused("server:\n  max_body: 3 parsecs\n", "f.yaml:2:13", "a size");
    expect_refused("server:\n  max_body: 1\n", "f.yaml:2:13", "from 1024");
    expect_refused("stream:\n  heartbeat_seconds: 1e999\n", "f.yaml:2:22", "a number from 0.05");
    expect_refused("stream:\n  heartbeat_seconds: .nan\n", "f.yaml:2:22", "a number");
    expect_refused("model:\n  kv_type: q4\n", "f.yaml:2:12", "one of bf16, f32, q8");
    expect_refused("server: 3\n", "f.yaml:1:9", "section");
    expect_refused("- 1\n", "f.yaml:1:1", "expected");
    expect_refused("server:\n  host: a\n   port: 1\n", "f.yaml:3:8", "mapping");
    expect_refused("server:\n  port: 1\n  port: 2\n", "f.yaml:", "port");
    expect_refused("server: &a\n  port: *a\n", "f.yaml:", "");
    expect_refused("server:\n  host: \"\xff\"\n", "f.yaml:", "");
    expect_refused("\t", "f.yaml:", "");
}

static void odd_files_that_are_fine(void **state)
{
    static const char *const fine[] = {"", "# nothing\n", "server:\n  port: \"8080\"\n"};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        tt_settings s;
        tt_err err;
        assert_int_equal(tt_settings_init(&s, &err), TT_OK);
        if (tt_settings_load_text(&s, "f", fine[i], strlen(fine[i]), &err) != TT_OK) {
            fail_msg("%s: %s", fine[i], err.msg);
        }
        assert_int_equal(s.port, 8080);
        tt_settings_finish(&s);
    }
}

static void values_arrive(void **state)
{
    static const char text[] =
        "server:\n  api_keys: [k1, \"k 2\"]\n  max_body: 64MB\n  strict: true\n"
        "model:\n  kv_type: f32\n  kv_size: 1.5GiB\nqttt:\n"
        "  max_learning_rate: 2e-4\n";
    tt_settings s;
    tt_err err;
    assert_int_equal(tt_settings_init(&s, &err), TT_OK);
    assert_int_equal(tt_settings_load_text(&s, "f", text, strlen(text), &err), TT_OK);
    assert_int_equal(s.api_keys.n, 2);
    assert_string_equal(s.api_keys.v[1], "k 2");
    assert_int_equal(s.max_body, 64000000);
    assert_true(s.strict);
    assert_int_equal(s.kv_type, 1);
    assert_int_equal(s.kv_size, 1610612736);
    assert_true(s.qttt_max_learning_rate == 2e-4);
    assert_int_equal(s.port, 8080); /* untouched */
    tt_settings_finish(&s);
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        int64_t bytes;
    } good[] = {{"0", 0},
                {"512", 512},
                {"1k", 1000},
                {"1KiB", 1024},
                {"64MB", 64000000},
                {"64 MiB", 67108864},
                {"8GiB", 8589934592},
                {"1.5k", 1500},
                {"2T", 2000000000000},
                {"3B", 3},
                {"1Ti", 1099511627776}};
    static const char *const bad[] = {"",    "x",    "-1",  "1X",     "1 k B", "0x10",
                                      "inf", "1e30", "nan", "1KB KB", " 1",    "MiB"};
    int64_t v;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(tt_size_parse(good[i].text, &v));
        assert_int_equal(v, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(tt_size_parse(bad[i], &v));
    }
}

static void flags_override(void **state)
{
    char *argv[] = {(char *)"serve",
                    (char *)"--port",
                    (char *)"9",
                    (char *)"--strict",
                    (char *)"--max-body=2MiB",
                    (char *)"rest",
                    (char *)"--api-key",
                    (char *)"a",
                    (char *)"--api-key=b",
                    (char *)"--no-qttt-alias",
                    (char *)"--",
                    (char *)"--port",
                    NULL};
    int argc = 12;
    static const char text[] = "server:\n  api_keys: [from_file]\n";
    tt_settings s;
    tt_err err;
    assert_int_equal(tt_settings_init(&s, &err), TT_OK);
    assert_int_equal(tt_settings_load_text(&s, "f", text, strlen(text), &err), TT_OK);
    assert_int_equal(tt_settings_parse_flags(&s, &argc, argv, &err), TT_OK);
    assert_int_equal(s.port, 9);
    assert_true(s.strict);
    assert_false(s.qttt_alias);
    assert_int_equal(s.max_body, 2 << 20);
    assert_int_equal(s.api_keys.n, 2);
    assert_string_equal(s.api_keys.v[0], "a");
    assert_int_equal(argc, 4);
    assert_string_equal(argv[1], "rest");
    assert_string_equal(argv[3], "--port");
    tt_settings_finish(&s);
}

static void bad_flags(void **state)
{
    static const char *const bad[][2] = {{"--port", "x"},
                                         {"--port=70000", NULL},
                                         {"--port", NULL},
                                         {"--config", "no/such/file"},
                                         {"--kv-type", "q4"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *argv[] = {(char *)"serve", (char *)(intptr_t)bad[i][0], (char *)(intptr_t)bad[i][1],
                        NULL};
        int argc = bad[i][1] != NULL ? 3 : 2;
        tt_settings s;
        tt_err err = {0};
        assert_int_equal(tt_settings_init(&s, &err), TT_OK);
        assert_true(tt_settings_parse_flags(&s, &argc, argv, &err) < 0);
        assert_true(err.msg[0] != '\0');
        tt_settings_finish(&s);
    }
}

static void public_addresses_need_keys(void **state)
{
    static const struct {
        const char *host;
        bool loopback;
    } hosts[] = {{"127.0.0.1", true},    {"127.9.9.9", true}, {"localhost", true},    {"::1", true},
                 {"0.0.0.0", false},     {"::", false},       {"192.168.0.1", false}, {"", false},
                 {"example.com", false}, {"128.0.0.1", false}};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        tt_settings s;
        tt_err err;
        assert_int_equal(tt_settings_init(&s, &err), TT_OK);
        s.host = (char *)(intptr_t)hosts[i].host;
        assert_int_equal(tt_settings_check(&s, &err), hosts[i].loopback ? TT_OK : TT_E_INVALID);
        s.allow_public = true;
        assert_int_equal(tt_settings_check(&s, &err), TT_OK);
        tt_settings_finish(&s);
    }
}

static void session_headers_have_a_name(void **state)
{
    static const struct {
        const char *name;
        tt_code want;
    } names[] = {{"x-session-id", TT_OK},
                 {"X_Chat9", TT_OK},
                 {"", TT_E_INVALID},
                 {"x session", TT_E_INVALID},
                 {"x:y", TT_E_INVALID}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tt_settings s;
        tt_err err;
        assert_int_equal(tt_settings_init(&s, &err), TT_OK);
        s.session_header = (char *)(intptr_t)names[i].name;
        assert_int_equal(tt_settings_check(&s, &err), names[i].want);
        tt_settings_finish(&s);
    }
}

static const tt_setting *row_of(const char *key)
{
    for (int i = 0; i < tt_n_settings; i++) {
        if (strcmp(tt_setting_table[i].key, key) == 0) {
            return &tt_setting_table[i];
        }
    }
    fail_msg("no setting %s", key);
    return NULL;
}

static void expect_text(const tt_settings *s, const char *key, const char *want)
{
    char text[64];
    tt_settings_text(s, row_of(key), text, sizeof text);
    assert_string_equal(text, want);
}

/* What a reload compares, tells and takes over. */
static void values_one_by_one(void **state)
{
    static const char text[] = "server:\n  cors_origins: [a, b]\n  port: 1\n  strict: true\n"
                               "  max_body: 2KiB\nqttt:\n  share: 0.25\nlog:\n  format: json\n"
                               "model:\n  name: n\n";
    static const char *const changed[][2] = {
        {"server.cors_origins", "a, b"},
        {"server.port", "1"},
        {"server.strict", "true"},
        {"server.max_body", "2048"},
        {"qttt.share", "0.25"},
        {"log.format", "json"},
        {"model.name", "n"},
    };
    tt_settings def, s;
    tt_err err;
    assert_int_equal(tt_settings_init(&def, &err), TT_OK);
    assert_int_equal(tt_settings_init(&s, &err), TT_OK);
    assert_int_equal(tt_settings_load_text(&s, "f", text, sizeof text - 1, &err), TT_OK);
    int n = 0;
    for (int i = 0; i < tt_n_settings; i++) {
        n += !tt_settings_same(&def, &s, &tt_setting_table[i]);
    }
    assert_int_equal(n, 7);
    for (int i = 0; i < 7; i++) {
        const tt_setting *row = row_of(changed[i][0]);
        assert_false(tt_settings_same(&def, &s, row));
        expect_text(&s, changed[i][0], changed[i][1]);
        tt_settings_take(&def, &s, row);
        assert_true(tt_settings_same(&def, &s, row));
    }
    expect_text(&def, "server.host", "127.0.0.1");
    expect_text(&def, "server.api_keys", "");
    char cut[3];
    tt_settings_text(&s, row_of("server.cors_origins"), cut, sizeof cut);
    assert_string_equal(cut, "a,");
    for (int i = 0; i < tt_n_settings; i++) {
        const tt_setting *row = &tt_setting_table[i];
        assert_int_equal(tt_setting_secret(row), strcmp(row->key, "server.api_keys") == 0);
    }
    assert_true(tt_setting_reloads(row_of("log.level")));
    assert_true(tt_setting_reloads(row_of("server.api_keys_file")));
    assert_false(tt_setting_reloads(row_of("server.port")));
    assert_false(tt_setting_reloads(row_of("model.path")));
    tt_settings_finish(&s);
    tt_settings_finish(&def);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_holds_every_default),
        cmocka_unit_test(faults_are_told_with_their_place),
        cmocka_unit_test(session_headers_have_a_name),
        cmocka_unit_test(odd_files_that_are_fine),
        cmocka_unit_test(values_arrive),
        cmocka_unit_test(sizes),
        cmocka_unit_test(flags_override),
        cmocka_unit_test(bad_flags),
        cmocka_unit_test(public_addresses_need_keys),
        cmocka_unit_test(values_one_by_one),
    };
    if (argc != 2) {
        return 2;
    }
    yaml_path = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
