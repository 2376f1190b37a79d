/* test_page_store.c - pages on disk: what is put is fetched, by the content; budget, sweep, damage.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/page_run.h"
#include "core/page_store.h"
#include "model_writer.h"

enum { PAGE = 5000, FINGERPRINT = 0xABC, MAX = 64 };
static char *folder, ours[4200];
static atomic_int n_wakes, n_warnings;

/* A chain of keys out of a seed; page i has bytes of its own. */
typedef struct chain {
    tt_run_key key[MAX];
    int32_t n;
    int seed;
} chain;

static chain make_chain(int seed, int32_t n)
{
    chain c = {.n = n, .seed = seed};
    uint64_t parent = 9;
    for (int32_t i = 0; i < n; i++) {
        int32_t ids[TT_PAGE_TOKENS];
        for (int j = 0; j < TT_PAGE_TOKENS; j++) {
            ids[j] = seed * 100000 + i * 64 + j;
        }
        tt_page_key k = {.parent = parent, .n_base = 64, .ids = ids};
        tt_run_key_copy(&c.key[i], &k);
        parent = c.key[i].hash;
    }
    return c;
}

static void fill(uint8_t *p, const chain *c, int32_t i)
{
    for (int j = 0; j < PAGE; j++) {
        p[j] = (uint8_t)(c->seed * 31 + i * 7 + j * 3 + j / 256);
    }
}

static void on_wake(void *arg)
{
    atomic_fetch_add(&n_wakes, 1);
}

static void on_warning(void *arg, const char *text)
{
    assert_true(text[0] != '\0');
    atomic_fetch_add(&n_warnings, 1);
}

static tt_page_store *open_with(uint64_t max_bytes, size_t staging, uint64_t fingerprint)
{
    tt_page_store *s = NULL;
    tt_err err;
    tt_page_store_options o = {.folder = folder,
                               .fingerprint = fingerprint,
                               .page_bytes = PAGE,
                               .max_bytes = max_bytes,
                               .staging_bytes = staging,
                               .reserve_bytes = 1,
                               .wake = on_wake,
                               .warn = on_warning};
    assert_int_equal(tt_page_store_open(&o, &s, &err), TT_OK);
    return s;
}

static tt_page_store *open_plain(void)
{
    return open_with(1 << 30, 0, FINGERPRINT);
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static void put_chain(tt_page_store *s, const chain *c, int32_t first, int32_t n)
{
    for (int32_t i = first; i < first + n; i++) {
        tt_page_key key = tt_run_key_view(&c->key[i]);
        uint8_t *bytes = malloc(PAGE);
        fill(bytes, c, i);
        while (tt_page_store_room(s) == TT_PAGE_NO_ROOM) {
            nap();
        }
        assert_true(tt_page_store_put(s, &key, bytes));
    }
    tt_page_store_end(s);
}

static void settle(tt_page_store *s, int64_t runs)
{
    for (int i = 0; tt_page_store_get_stats(s).runs != runs; i++) {
        assert_true(i < 50000);
        nap();
    }
}

/* Pages of the chain from `first` on that one fetch gives, each compared. */
static int32_t fetch(tt_page_store *s, const chain *c, int32_t first, int32_t n)
{
    tt_page_key keys[MAX];
    uint8_t want[PAGE];
    for (int32_t i = 0; i < n; i++) {
        keys[i] = tt_run_key_view(&c->key[first + i]);
    }
    tt_page_fetch *f = tt_page_store_fetch(s, keys, n);
    if (f == NULL) {
        return -1;
    }
    while (!tt_page_fetch_done(f)) {
        nap();
    }
    int32_t got = tt_page_fetch_pages(f);
    for (int32_t i = 0; i < got; i++) {
        fill(want, c, first + i);
        const void *bytes = tt_page_fetch_bytes(f, &keys[i]);
        assert_non_null(bytes);
        assert_memory_equal(bytes, want, PAGE);
    }
    tt_page_fetch_free(&f);
    return got;
}

/* The i-th file of our folder in some order; "" = there is none. */
static const char *file_at(int i)
{
    static char path[8500];
    path[0] = '\0';
    DIR *d = opendir(ours);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.' && i-- == 0) {
            snprintf(path, sizeof path, "%s/%s", ours, e->d_name);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    return path;
}

static int set_up(void **state)
{
    folder = mw_make_folder();
    snprintf(ours, sizeof ours, "%s/%016x", folder, FINGERPRINT);
    atomic_store(&n_wakes, 0);
    atomic_store(&n_warnings, 0);
    return 0;
}

static int tear_down(void **state)
{
    while (file_at(0)[0] != '\0') {
        assert_int_equal(unlink(file_at(0)), 0);
    }
    rmdir(ours);
    mw_remove_folder(folder);
    return 0;
}

static void test_what_is_put_is_fetched(void **state)
{
    chain c = make_chain(1, 40), other = make_chain(2, 3);
    tt_page_store *s = open_plain();
    assert_int_equal(fetch(s, &c, 0, 16), -1);
    put_chain(s, &c, 0, 40);
    settle(s, 3); /* 16, 16, 8 */
    assert_int_equal(fetch(s, &c, 0, 40), 16);
    assert_int_equal(fetch(s, &c, 16, 10), 10);
    assert_int_equal(fetch(s, &c, 37, 3), 3);  /* from the middle of a run */
    assert_int_equal(fetch(s, &c, 12, 10), 4); /* to its end */
    assert_int_equal(fetch(s, &other, 0, 3), -1);
    tt_page_key k = tt_run_key_view(&c.key[39]), no = tt_run_key_view(&other.key[0]);
    assert_true(tt_page_store_has(s, &k) && tt_page_store_knows(s, &k));
    assert_false(tt_page_store_has(s, &no) || tt_page_store_knows(s, &no));
    tt_page_store_stats st = tt_page_store_get_stats(s);
    assert_int_equal(st.written_bytes, 40 * PAGE);
    assert_int_equal(st.read_bytes, (16 + 10 + 3 + 4) * PAGE);
    tt_page_store_close(&s);
    s = open_plain(); /* and again by another process */
    assert_int_equal(tt_page_store_get_stats(s).runs, 3);
    assert_int_equal(fetch(s, &c, 16, 16), 16);
    tt_page_store_close(&s);
    assert_int_equal(atomic_load(&n_warnings), 0);
}

static void test_closing_writes_what_was_put(void **state)
{
    chain c = make_chain(3, 10);
    tt_page_store *s = open_plain();
    put_chain(s, &c, 0, 7);
    tt_page_key k = tt_run_key_view(&c.key[7]);
    assert_true(tt_page_store_put(s, &k, calloc(1, PAGE))); /* in a run that is not ended */
    tt_page_store_close(&s);
    s = open_plain();
    assert_int_equal(tt_page_store_get_stats(s).runs, 2);
    tt_page_store_close(&s);
}

/* A fetch holds memory until it is freed; another waits for it. */
static void test_staging_is_bounded(void **state)
{
    chain c = make_chain(4, 48);
    tt_page_store *s = open_with(1 << 30, 16 * PAGE, FINGERPRINT);
    tt_page_key keys[3][TT_RUN_PAGES];
    tt_page_fetch *f[3];
    put_chain(s, &c, 0, 48);
    settle(s, 3);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < TT_RUN_PAGES; j++) {
            keys[i][j] = tt_run_key_view(&c.key[i * TT_RUN_PAGES + j]);
        }
        f[i] = tt_page_store_fetch(s, keys[i], TT_RUN_PAGES);
        assert_non_null(f[i]);
    }
    for (int i = 0; i < 3; i++) {
        while (!tt_page_fetch_done(f[i])) {
            nap();
        }
        for (int j = 0; j < 20; j++) {
            nap();
        }
        assert_true(i == 2 || !tt_page_fetch_done(f[i + 1]));
        tt_page_fetch_free(&f[i]);
    }
    /* what nobody waits for any more is not in the way */
    tt_page_fetch *a = tt_page_store_fetch(s, keys[0], 16),
                  *b = tt_page_store_fetch(s, keys[1], 16);
    tt_page_fetch_free(&a);
    while (!tt_page_fetch_done(b)) {
        nap();
    }
    assert_int_equal(tt_page_fetch_pages(b), 16);
    tt_page_fetch_free(&b);
    tt_page_store_close(&s);
}

static void test_two_who_want_the_same_read_once(void **state)
{
    chain c = make_chain(5, 16);
    tt_page_store *s = open_plain();
    tt_page_key keys[TT_RUN_PAGES];
    put_chain(s, &c, 0, 16);
    settle(s, 1);
    for (int j = 0; j < TT_RUN_PAGES; j++) {
        keys[j] = tt_run_key_view(&c.key[j]);
    }
    tt_page_fetch *a = tt_page_store_fetch(s, keys, 16), *b = tt_page_store_fetch(s, keys, 16);
    assert_true(a == b);
    tt_page_fetch_free(&a);
    while (!tt_page_fetch_done(b)) {
        nap();
    }
    assert_int_equal(tt_page_fetch_pages(b), 16);
    tt_page_fetch_free(&b);
    assert_int_equal(tt_page_store_get_stats(s).read_bytes, 16 * PAGE);
    tt_page_store_close(&s);
}

static void test_the_budget_drops_the_least_recently_used(void **state)
{
    chain c = make_chain(6, 64);
    uint64_t run = 16 * (PAGE + TT_RUN_KEY_BYTES) + 64 + 17 * 16;
    tt_page_store *s = open_with(3 * run + 100, 0, FINGERPRINT);
    put_chain(s, &c, 0, 48);
    settle(s, 3);
    assert_int_equal(fetch(s, &c, 0, 1), 1); /* the first is used, the second goes */
    put_chain(s, &c, 48, 16);
    while (tt_page_store_get_stats(s).evicted_runs < 1) {
        nap();
    }
    settle(s, 3);
    assert_int_equal(fetch(s, &c, 16, 1), -1);
    assert_int_equal(fetch(s, &c, 0, 1), 1);
    assert_int_equal(fetch(s, &c, 32, 1), 1);
    assert_int_equal(fetch(s, &c, 48, 1), 1);
    assert_int_equal(fetch(s, &c, 0, 1), 1);
    tt_page_store_close(&s);
    s = open_with(run + 100, 0, FINGERPRINT); /* the order outlives the process */
    assert_int_equal(tt_page_store_get_stats(s).runs, 1);
    assert_int_equal(fetch(s, &c, 0, 1), 1);
    tt_page_store_close(&s);
    s = open_with(run - 5000, 0, FINGERPRINT); /* not even a run */
    assert_int_equal(tt_page_store_room(s), TT_PAGE_REFUSED);
    assert_int_equal(tt_page_store_get_stats(s).runs, 0);
    tt_page_store_close(&s);
    assert_string_equal(file_at(0), "");
}

static void test_what_crashes_left_is_swept(void **state)
{
    chain c = make_chain(7, 16);
    tt_page_store *s = open_plain();
    put_chain(s, &c, 0, 16);
    tt_page_store_close(&s);
    mw_write_file(ours, "0123456789abcdef.run.writing", "half", 4);
    mw_write_file(ours, "0123456789abcdef.run", "nothing of ours", 15);
    s = open_plain();
    assert_int_equal(tt_page_store_get_stats(s).runs, 1);
    assert_int_equal(tt_page_store_get_stats(s).corrupt_runs, 1);
    assert_string_equal(file_at(1), ""); /* one file is left */
    assert_int_equal(fetch(s, &c, 0, 16), 16);
    tt_page_store_close(&s);
}

static void test_another_fingerprint_is_not_used(void **state)
{
    chain c = make_chain(8, 16);
    tt_page_store *s = open_plain();
    put_chain(s, &c, 0, 16);
    tt_page_store_close(&s);
    s = open_with(1 << 30, 0, FINGERPRINT + 1);
    assert_int_equal(atomic_load(&n_warnings), 1);
    assert_int_equal(fetch(s, &c, 0, 16), -1);
    assert_int_equal(tt_page_store_get_stats(s).runs, 1); /* but counted */
    tt_page_store_close(&s);
    s = open_with(0, 0, FINGERPRINT + 1);
    assert_string_equal(file_at(0), ""); /* and dropped for the budget */
    tt_page_store_close(&s);
    s = open_plain();
    tt_page_store_close(&s);
    char path[4200];
    snprintf(path, sizeof path, "%s/%016x", folder, FINGERPRINT + 1);
    assert_int_not_equal(access(path, F_OK), 0); /* nor is its empty folder left */
}

/* Damages the only run at one place, as a disk does behind the store's back. */
static void damage(size_t at, bool cut)
{
    const char *path = file_at(0);
    if (cut) {
        assert_int_equal(truncate(path, (off_t)at), 0);
        return;
    }
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, (long)at, SEEK_SET);
    int byte = fgetc(f);
    fseek(f, (long)at, SEEK_SET);
    fputc(byte ^ 0x10, f);
    fclose(f);
}

static void test_damage_is_found_told_and_removed(void **state)
{
    chain c = make_chain(9, 4);
    size_t n = 64 + 4 * PAGE + 4 * TT_RUN_KEY_BYTES + 5 * 16;
    for (size_t i = 0; i < 48; i++) {
        bool cut = i % 2 == 1;
        size_t at = (i * n) / 48;
        tt_page_store *s = open_plain();
        put_chain(s, &c, 0, 4);
        settle(s, 1);
        atomic_store(&n_warnings, 0);
        damage(at, cut);
        int32_t got = fetch(s, &c, 0, 4); /* compares the bytes of what it gets */
        assert_true(got >= 0 && got < 4);
        assert_int_equal(tt_page_store_get_stats(s).corrupt_runs, 1);
        assert_int_equal(atomic_load(&n_warnings), 1);
        assert_int_equal(fetch(s, &c, 0, 4), -1); /* forgotten */
        assert_string_equal(file_at(0), "");
        tt_page_store_close(&s);
    }
}

static void test_a_run_that_vanished(void **state)
{
    chain c = make_chain(10, 4);
    tt_page_store *s = open_plain();
    put_chain(s, &c, 0, 4);
    settle(s, 1);
    assert_int_equal(unlink(file_at(0)), 0);
    assert_int_equal(fetch(s, &c, 0, 4), 0);
    assert_int_equal(fetch(s, &c, 0, 4), -1);
    put_chain(s, &c, 0, 4); /* and it is written again */
    settle(s, 1);
    assert_int_equal(fetch(s, &c, 0, 4), 4);
    tt_page_store_close(&s);
}

/* The system does not give a file whose content is well (here: a link stands in its place): it is
 * not used, and stays until it can be read. */
static void test_a_run_that_cannot_be_read_stays(void **state)
{
    char name[8500], away[8600];
    chain c = make_chain(12, 4);
    tt_page_store *s = open_plain();
    put_chain(s, &c, 0, 4);
    settle(s, 1);
    strcpy(name, file_at(0));
    snprintf(away, sizeof away, "%s/away", folder);
    assert_int_equal(rename(name, away), 0);
    assert_int_equal(symlink(away, name), 0);
    assert_int_equal(fetch(s, &c, 0, 4), 0);
    assert_int_equal(fetch(s, &c, 0, 4), -1); /* nor is it asked for again */
    assert_string_equal(file_at(0), name);
    assert_int_equal(atomic_load(&n_warnings), 1);
    tt_page_store_close(&s);
    s = open_plain();
    assert_string_equal(file_at(0), name);
    assert_int_equal(tt_page_store_get_stats(s).runs, 1); /* it counts */
    assert_int_equal(tt_page_store_get_stats(s).corrupt_runs, 1);
    assert_int_equal(atomic_load(&n_warnings), 2);
    assert_int_equal(fetch(s, &c, 0, 4), -1);
    tt_page_store_close(&s);
    assert_int_equal(rename(away, name), 0);
    s = open_plain();
    assert_int_equal(fetch(s, &c, 0, 4), 4);
    tt_page_store_close(&s);
}

/* Too many files are open: nothing is wrong with the run, it stays. */
static void test_no_file_can_be_opened(void **state)
{
    chain c = make_chain(12, 4);
    struct rlimit was, none;
    tt_page_store *s = open_plain();
    put_chain(s, &c, 0, 4);
    settle(s, 1);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = was;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(fetch(s, &c, 0, 4), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(tt_page_store_get_stats(s).corrupt_runs, 0);
    assert_int_equal(fetch(s, &c, 0, 4), 4);
    tt_page_store_close(&s);
}

/* A file stands where the folder should be: nothing is saved, nothing fails. */
static void test_a_folder_that_cannot_be_made(void **state)
{
    chain c = make_chain(11, 4);
    char name[32];
    snprintf(name, sizeof name, "%016x", FINGERPRINT);
    mw_write_file(folder, name, "x", 1);
    tt_page_store *s = open_plain();
    assert_int_equal(atomic_load(&n_warnings), 1);
    tt_page_key first = tt_run_key_view(&c.key[0]);
    assert_true(tt_page_store_put(s, &first, calloc(1, PAGE)));
    tt_page_store_end(s);
    while (tt_page_store_get_stats(s).write_failures < 1) {
        nap();
    }
    assert_int_equal(tt_page_store_room(s), TT_PAGE_REFUSED);
    assert_int_equal(tt_page_store_get_stats(s).runs, 0);
    assert_int_equal(fetch(s, &c, 0, 4), -1);
    void *bytes = calloc(1, PAGE);
    assert_false(tt_page_store_put(s, &first, bytes));
    free(bytes);
    while (tt_page_store_knows(s, &first)) { /* until the writer has given the run up */
        nap();
    }
    tt_page_store_close(&s);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_what_is_put_is_fetched),
        CASE(test_closing_writes_what_was_put),
        CASE(test_staging_is_bounded),
        CASE(test_two_who_want_the_same_read_once),
        CASE(test_the_budget_drops_the_least_recently_used),
        CASE(test_what_crashes_left_is_swept),
        CASE(test_another_fingerprint_is_not_used),
        CASE(test_damage_is_found_told_and_removed),
        CASE(test_a_run_that_vanished),
        CASE(test_no_file_can_be_opened),
        CASE(test_a_run_that_cannot_be_read_stays),
        CASE(test_a_folder_that_cannot_be_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
