/* test_state_check.c - a state.dir that is well, and every part of it spoilt in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/state_file.h"
#include "server/state_check.h"

static char dir[64], faults[2000];

static const char *at(const char *name)
{
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put(tt_state_table t, const char *id, const char *json)
{
    tt_state_db *db;
    tt_err err;
    assert_int_equal(tt_state_open(&(tt_state_options){.dir = dir}, &db, &err), TT_OK);
    tt_state_txn *x = tt_state_begin(db);
    tt_state_put(x, t, &(tt_state_row){.scope = "", .id = id, .json = json});
    tt_state_commit(x, NULL, NULL);
    tt_state_close(&db);
}

static int set_up(void **state)
{
    static const char block[100] = "some bytes";
    tt_err err;
    strcpy(dir, "/tmp/qttt-check-XXXXXX");
    assert_non_null(mkdtemp(dir));
    put(TT_STATE_SESSION, "s", "{\"version\":1}");
    assert_int_equal(mkdir(at("adapters"), 0700), 0);
    tt_state_kind kind = {.name = "TEST", .version = 7, .fingerprint = 9};
    assert_int_equal(tt_state_file_write(at("adapters"), "a", &kind,
                                         &(tt_state_block){block, sizeof block}, 1, &err),
                     TT_OK);
    return 0;
}

static int tear_down(void **state)
{
    char command[80];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static void tell(void *arg, const char *fault)
{
    size_t n = strlen(faults);
    snprintf(faults + n, sizeof faults - n, "%s\n", fault);
}

static tt_state_report check(void)
{
    tt_state_report r = {0};
    tt_err err = {0};
    faults[0] = '\0';
    assert_int_equal(tt_state_check(dir, tell, NULL, &r, &err), TT_OK);
    return r;
}

/* The byte at an offset (from the end when negative) becomes another. */
static void spoil(const char *name, long offset)
{
    FILE *f = fopen(at(name), "r+b");
    assert_non_null(f);
    fseek(f, offset, offset < 0 ? SEEK_END : SEEK_SET);
    int c = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(c ^ 0x10, f);
    assert_int_equal(fclose(f), 0);
}

static void what_is_well(void **state)
{
    tt_state_report r = check();
    assert_string_equal(faults, "");
    assert_int_equal(r.faults, 0);
    assert_int_equal(r.rows[TT_STATE_SESSION], 1);
    assert_int_equal(r.files, 1);
    assert_true(r.file_bytes > 100);
    FILE *f = fopen(at("adapters/b.writing"), "wb"); /* of a crash */
    assert_non_null(f);
    fclose(f);
    r = check();
    assert_int_equal(r.unfinished, 1);
    assert_int_equal(r.faults, 0);
}

static void spoilt_files(void **state)
{
    static const long offsets[] = {0, 9, 70, -3}; /* header, block, table */
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        spoil("adapters/a", offsets[i]);
        assert_int_equal(check().faults, 1);
        assert_non_null(strstr(faults, "adapters/a"));
        spoil("adapters/a", offsets[i]);
    }
    assert_int_equal(check().faults, 0);
}

/* What the session says of its generations is compared with the files that are there. */
static void adapters_that_were_not_saved(void **state)
{
    put(TT_STATE_SESSION, "ses_x",
        "{\"version\":1,\"generations\":[{\"number\":2,\"adapter\":\"00000000000000ab\"},"
        "{\"number\":1,\"adapter\":\"000000000000000c\"}]}");
    tt_state_report r = check();
    assert_true(r.lost == 2 && r.faults == 0);
    assert_string_equal(faults, "session ses_x: the adapter of generation 2 was not saved\n"
                                "session ses_x: the adapter of generation 1 was not saved\n");
    char from[200];
    strcpy(from, at("adapters/a"));
    assert_int_equal(rename(from, at("adapters/00000000000000ab.qa")), 0);
    r = check();
    assert_int_equal(r.lost, 1);
    assert_non_null(strstr(faults, "generation 1 was not saved"));
}

static void spoilt_rows(void **state)
{
    put(TT_STATE_SESSION, "bad-session", "[");
    put(TT_STATE_JOB, "bad-job", "{\"version\":1}");
    put(TT_STATE_IDEMPOTENCY, "bad-answer", "{\"version\":1}");
    assert_int_equal(check().faults, 3);
    assert_non_null(strstr(faults, "session bad-session"));
    assert_non_null(strstr(faults, "job bad-job"));
    assert_non_null(strstr(faults, "answer bad-answer"));
}

static void spoilt_database(void **state)
{
    for (long i = 4096; i < 4096 + 200; i += 8) { /* its second page */
        spoil("state.db", i);
    }
    assert_true(check().faults >= 1);
    tt_state_report r;
    tt_err err;
    remove(at("state.db"));
    assert_int_equal(tt_state_check(dir, tell, NULL, &r, &err), TT_E_IO);
    struct stat sb;
    assert_int_not_equal(stat(at("state.db"), &sb), 0); /* and none was made */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_well, set_up, tear_down),
        cmocka_unit_test_setup_teardown(spoilt_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(adapters_that_were_not_saved, set_up, tear_down),
        cmocka_unit_test_setup_teardown(spoilt_rows, set_up, tear_down),
        cmocka_unit_test_setup_teardown(spoilt_database, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
