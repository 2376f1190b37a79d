/* test_state_file.c - files of state: what is written is read, whatever else is found under the
 * name is noticed, and a write that fails leaves what was there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/state_file.h"
#include "fail_alloc.h"
#include "model_writer.h"

static const tt_state_kind KIND = {.name = "TEST", .version = 3, .fingerprint = 0x1122334455667788};
static char *folder;
static uint8_t content[3][700];
static const tt_state_block blocks[4] = {
    {content[0], 700}, {content[1], 1}, {content[2], 0}, {content[2], 257}};

static int set_up(void **state)
{
    folder = mw_make_folder();
    for (size_t i = 0; i < sizeof content; i++) {
        content[i / 700][i % 700] = (uint8_t)(i * 31 + i / 256);
    }
    return 0;
}

static int tear_down(void **state)
{
    mw_remove_folder(folder);
    return 0;
}

static const char *path_of(const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Files of the folder. */
static int count_files(void)
{
    int n = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        n += e->d_name[0] != '.';
    }
    closedir(d);
    return n;
}

static uint8_t *bytes_of(const char *name, size_t *ret_n)
{
    FILE *f = fopen(path_of(name), "rb");
    assert_non_null(f);
    static uint8_t bytes[8192];
    *ret_n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    return bytes;
}

static void write_whole(const char *name)
{
    tt_err err = {0};
    assert_int_equal(tt_state_file_write(folder, name, &KIND, blocks, 4, &err), TT_OK);
}

/* TT_OK: every block is what was written. */
static tt_code read_whole(const char *name, tt_err *err)
{
    tt_state_reader *r = NULL;
    uint8_t got[700];
    tt_code rc = tt_state_reader_open(folder, name, &KIND, &r, err);
    if (rc == TT_OK && tt_state_reader_blocks(r) != 4) {
        rc = TT_E_INTERNAL;
    }
    for (int32_t i = 0; rc == TT_OK && i < 4; i++) {
        rc = tt_state_reader_read(r, i, got, blocks[i].n, err);
        if (rc == TT_OK && memcmp(got, blocks[i].p, blocks[i].n) != 0) {
            rc = TT_E_INTERNAL; /* a wrong answer: never */
        }
    }
    tt_state_reader_close(&r);
    return rc;
}

static void test_what_is_written_is_read(void **state)
{
    tt_err err = {0};
    tt_state_reader *r = NULL;
    uint8_t got[700];
    write_whole("a");
    assert_int_equal(read_whole("a", &err), TT_OK);
    assert_int_equal(tt_state_reader_open(folder, "a", &KIND, &r, &err), TT_OK);
    assert_int_equal(tt_state_reader_block_bytes(r, 0), 700);
    assert_int_equal(tt_state_reader_block_bytes(r, 3), 257);
    assert_int_equal(tt_state_reader_bytes(r), 64 + 700 + 1 + 257 + 4 * 16);
    assert_int_equal(tt_state_reader_read(r, 0, got, 699, &err), TT_E_INVALID);
    tt_state_reader_touch(r);
    tt_state_reader_close(&r);
    assert_null(r);
    assert_int_equal(count_files(), 1);
}

static void test_the_same_bytes_block_by_block(void **state)
{
    tt_err err = {0};
    tt_state_writer *w = NULL;
    uint64_t bytes = 0;
    size_t n, m;
    write_whole("once");
    assert_int_equal(tt_state_writer_open(folder, "later", &KIND, &w, &err), TT_OK);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(tt_state_writer_add(w, blocks[i].p, blocks[i].n, &err), TT_OK);
    }
    assert_int_equal(count_files(), 2); /* not under its name yet */
    assert_int_not_equal(access(path_of("stream"), F_OK), 0);
    assert_int_equal(tt_state_writer_commit(&w, "stream", &bytes, &err), TT_OK);
    assert_null(w);
    uint8_t copy[8192];
    memcpy(copy, bytes_of("once", &n), sizeof copy);
    uint8_t *other = bytes_of("stream", &m);
    assert_int_equal(n, m);
    assert_int_equal(bytes, n);
    assert_memory_equal(copy, other, n);
}

static void test_any_number_of_blocks(void **state)
{
    tt_err err = {0};
    uint8_t got[700];
    for (int32_t n = 0; n <= 4; n++) {
        tt_state_reader *r = NULL;
        assert_int_equal(tt_state_file_write(folder, "n", &KIND, blocks, n, &err), TT_OK);
        assert_int_equal(tt_state_reader_open(folder, "n", &KIND, &r, &err), TT_OK);
        assert_int_equal(tt_state_reader_blocks(r), n);
        for (int32_t i = 0; i < n; i++) {
            assert_int_equal(tt_state_reader_read(r, i, got, blocks[i].n, &err), TT_OK);
            assert_memory_equal(got, blocks[i].p, blocks[i].n);
        }
        tt_state_reader_close(&r);
    }
}

static void test_an_abandoned_write_leaves_nothing(void **state)
{
    tt_err err = {0};
    tt_state_writer *w = NULL;
    assert_int_equal(tt_state_writer_open(folder, "gone", &KIND, &w, &err), TT_OK);
    assert_int_equal(tt_state_writer_add(w, content[0], 700, &err), TT_OK);
    tt_state_writer_abandon(&w);
    tt_state_writer_abandon(&w);
    assert_int_equal(count_files(), 0);
}

static void test_every_length_but_its_own_is_refused(void **state)
{
    tt_err err = {0};
    size_t n;
    write_whole("a");
    uint8_t whole[8192];
    memcpy(whole, bytes_of("a", &n), sizeof whole);
    whole[n] = 0;
    for (size_t cut = 0; cut <= n + 1; cut++) {
        mw_write_file(folder, "cut", whole, cut);
        assert_int_equal(read_whole("cut", &err), cut == n ? TT_OK : TT_E_INVALID);
    }
}

static void test_every_flipped_bit_is_noticed(void **state)
{
    tt_err err = {0};
    size_t n;
    write_whole("a");
    uint8_t whole[8192];
    memcpy(whole, bytes_of("a", &n), sizeof whole);
    for (size_t i = 0; i < n; i++) {
        whole[i] ^= (uint8_t)(1u << i % 8);
        mw_write_file(folder, "flipped", whole, n);
        assert_int_equal(read_whole("flipped", &err), TT_E_INVALID);
        whole[i] ^= (uint8_t)(1u << i % 8);
    }
}

static void test_another_kind_is_refused(void **state)
{
    tt_err err = {0};
    tt_state_reader *r = NULL;
    tt_state_kind kinds[3] = {KIND, KIND, KIND};
    write_whole("a");
    kinds[0].name[3] = 'A';
    kinds[1].version++;
    kinds[2].fingerprint++;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(tt_state_reader_open(folder, "a", &kinds[i], &r, &err), TT_E_INVALID);
        assert_null(r);
    }
    assert_int_equal(tt_state_reader_open(folder, "b", &KIND, &r, &err), TT_E_IO);
    assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
    assert_int_equal(tt_state_reader_open(folder, "fifo", &KIND, &r, &err), TT_E_INVALID);
    assert_int_equal(symlink("a", path_of("link")), 0);
    assert_int_equal(tt_state_reader_open(folder, "link", &KIND, &r, &err), TT_E_IO);
}

/* A bound on the size of files stands for a full disk: every length that still fits is tried. */
static void test_a_full_disk_keeps_the_old_file(void **state)
{
    tt_err err = {0};
    struct rlimit was, limit;
    size_t n;
    const tt_state_block other = {content[1], 600};
    write_whole("a");
    bytes_of("a", &n);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    for (size_t room = 0; room < 64 + 600 + 16; room += 13) {
        limit = (struct rlimit){.rlim_cur = room, .rlim_max = was.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        tt_code rc = tt_state_file_write(folder, "a", &KIND, &other, 1, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        assert_int_equal(rc, TT_E_IO);
        assert_int_equal(count_files(), 1);
        assert_int_equal(read_whole("a", &err), TT_OK);
    }
    assert_int_equal(tt_state_file_write(folder, "a", &KIND, &other, 1, &err), TT_OK);
    assert_int_equal(count_files(), 1);
}

static void test_a_name_that_cannot_be_had(void **state)
{
    tt_err err = {0};
    assert_int_equal(mkdir(path_of("taken"), 0700), 0);
    assert_int_equal(tt_state_file_write(folder, "taken", &KIND, blocks, 4, &err), TT_E_IO);
    assert_int_equal(count_files(), 1);
    assert_int_equal(tt_state_file_write(path_of("none"), "a", &KIND, blocks, 4, &err), TT_E_IO);
    assert_int_equal(rmdir(path_of("taken")), 0);
}

static void test_memory_that_is_missing(void **state)
{
    tt_err err = {0};
    tt_code rc;
    for (int n = 0; fail_alloc_at(n), rc = tt_state_file_write(folder, "a", &KIND, blocks, 4, &err),
             fail_alloc_off();
         n++) {
        assert_int_equal(rc, TT_E_NOMEM);
        assert_int_equal(count_files(), 0);
    }
    assert_int_equal(rc, TT_OK);
    for (int n = 0; fail_alloc_at(n), rc = read_whole("a", &err), fail_alloc_off(); n++) {
        assert_int_equal(rc, TT_E_NOMEM);
    }
    assert_int_equal(rc, TT_OK);
}

static void test_folders(void **state)
{
    tt_err err = {0};
    char deep[4300];
    struct stat st;
    snprintf(deep, sizeof deep, "%s", path_of("x/y/z"));
    assert_int_equal(tt_state_make_folder(deep, &err), TT_OK);
    assert_int_equal(tt_state_make_folder(deep, &err), TT_OK);
    assert_int_equal(stat(deep, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(tt_state_sync_folder(deep, &err), TT_OK);
    assert_int_equal(tt_state_remove(deep, "nothing", &err), TT_OK);
    assert_int_equal(rmdir(deep), 0);
    assert_int_equal(tt_state_sync_folder(deep, &err), TT_E_IO);
    mw_write_file(folder, "file", "x", 1);
    assert_int_equal(tt_state_make_folder(path_of("file"), &err), TT_E_IO);
    assert_int_equal(tt_state_make_folder(path_of("file/in"), &err), TT_E_IO);
    assert_int_equal(tt_state_remove(folder, "file", &err), TT_OK);
    assert_true(tt_state_is_temporary("a.writing"));
    assert_false(tt_state_is_temporary("a.writing.run"));
    assert_false(tt_state_is_temporary("a"));
    rmdir(path_of("x/y"));
    rmdir(path_of("x"));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_what_is_written_is_read),
        CASE(test_the_same_bytes_block_by_block),
        CASE(test_any_number_of_blocks),
        CASE(test_an_abandoned_write_leaves_nothing),
        CASE(test_every_length_but_its_own_is_refused),
        CASE(test_every_flipped_bit_is_noticed),
        CASE(test_another_kind_is_refused),
        CASE(test_a_full_disk_keeps_the_old_file),
        CASE(test_a_name_that_cannot_be_had),
        CASE(test_memory_that_is_missing),
        CASE(test_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
