/* test_file_map.c - mapping files: what is mapped, what is no file, what is not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file_map.h"
#include "model_writer.h"

static char *folder;
static char path[4200];

static int set_up(void **state)
{
    folder = mw_make_folder();
    return 0;
}

static int tear_down(void **state)
{
    mw_remove_folder(folder);
    return 0;
}

static const char *in_folder(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void expect(const char *name, tt_code want)
{
    tt_file_map map = {0};
    tt_err err = {0};
    assert_int_equal(tt_file_map_open(in_folder(name), &map, &err), want);
    assert_int_equal(err.code, want);
    assert_true(err.msg[0] != '\0');
    assert_null(map.p);
    tt_file_map_close(&map);
}

static void test_a_file_is_its_bytes(void **state)
{
    char bytes[10000];
    tt_file_map map = {0};
    tt_err err;
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (char)(i * 7 + i / 256);
    }
    mw_write_file(folder, "whole", bytes, sizeof bytes);
    assert_int_equal(tt_file_map_open(in_folder("whole"), &map, &err), TT_OK);
    assert_int_equal(unlink(path), 0); /* the map outlives the name */
    assert_int_equal(map.n, sizeof bytes);
    assert_memory_equal(map.p, bytes, sizeof bytes);
    tt_file_map_close(&map);
    assert_true(map.p == NULL && map.n == 0);
    tt_file_map_close(&map);
    tt_file_map zeroed = {0};
    tt_file_map_close(&zeroed);
}

static void test_what_is_no_file(void **state)
{
    mw_write_file(folder, "empty", "", 0);
    expect("empty", TT_E_MODEL);
    expect("missing", TT_E_IO);
    expect(".", TT_E_IO);
    expect("empty/below", TT_E_IO);
    assert_int_equal(mkfifo(in_folder("fifo"), 0600), 0);
    expect("fifo", TT_E_IO); /* and does not wait for a writer */
    assert_int_equal(unlink(in_folder("fifo")), 0);
    tt_file_map map = {0};
    tt_err err;
    assert_int_equal(tt_file_map_open("/dev/zero", &map, &err), TT_E_IO);
    assert_int_equal(tt_file_map_open("", &map, &err), TT_E_IO);
    assert_null(map.p);
}

static void test_in_a_folder(void **state)
{
    tt_file_map map = {0};
    tt_err err = {0};
    bool exists = true;
    char longest[5000];
    mw_write_file(folder, "x.json", "{}", 2);
    assert_int_equal(tt_file_map_open_in(folder, "x.json", &map, &exists, &err), TT_OK);
    assert_true(exists && map.n == 2 && memcmp(map.p, "{}", 2) == 0);
    tt_file_map_close(&map);
    assert_int_equal(tt_file_map_open_in(folder, "y.json", &map, &exists, &err), TT_OK);
    assert_true(!exists && map.p == NULL);
    exists = true;
    assert_int_equal(tt_file_map_open_in("/no/such/folder", "y", &map, &exists, &err), TT_OK);
    assert_false(exists);
    assert_int_equal(symlink("nowhere", in_folder("dangling")), 0);
    exists = true;
    assert_int_equal(tt_file_map_open_in(folder, "dangling", &map, &exists, &err), TT_OK);
    assert_false(exists);
    assert_int_equal(unlink(path), 0);
    /* what is there but cannot be used is an error, not an absence */
    mw_write_file(folder, "void.json", "", 0);
    assert_int_equal(tt_file_map_open_in(folder, "void.json", &map, &exists, &err), TT_E_MODEL);
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(tt_file_map_open_in(folder, longest, &map, &exists, &err), TT_E_IO);
    assert_null(map.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_file_is_its_bytes),
        cmocka_unit_test(test_what_is_no_file),
        cmocka_unit_test(test_in_a_folder),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
