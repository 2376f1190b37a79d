/* test_page_run.c - the file of a run of pages, and the index of runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/page_index.h"
#include "model_writer.h"

enum { PAGE = 100, N = 3, FINGERPRINT = 77 };
static char *folder;
static tt_run_key keys[N];
static uint8_t pages[N][PAGE];

static int set_up(void **state)
{
    folder = mw_make_folder();
    uint64_t parent = 5;
    for (int i = 0; i < N; i++) {
        int32_t ids[TT_PAGE_TOKENS];
        for (int j = 0; j < TT_PAGE_TOKENS; j++) {
            ids[j] = 1000 * i + j;
        }
        tt_page_key k = {.parent = parent, .n_base = 64, .decoded = i == 1 ? 7 : 0, .ids = ids};
        tt_run_key_copy(&keys[i], &k);
        parent = keys[i].hash;
        memset(pages[i], 'a' + i, PAGE);
    }
    return 0;
}

static int tear_down(void **state)
{
    mw_remove_folder(folder);
    return 0;
}

static void write_run(const tt_run_key *k, int32_t n)
{
    tt_err err;
    tt_state_writer *w = NULL;
    uint64_t bytes = 0;
    assert_int_equal(tt_run_create(folder, k[0].hash, FINGERPRINT, &w, &err), TT_OK);
    for (int i = 0; i < n; i++) {
        assert_int_equal(tt_state_writer_add(w, pages[i], PAGE, &err), TT_OK);
    }
    assert_int_equal(tt_run_commit(&w, k, n, &bytes, &err), TT_OK);
    assert_int_equal(bytes, 64 + (size_t)n * (PAGE + TT_RUN_KEY_BYTES) + ((size_t)n + 1) * 16);
}

static tt_code open_run(const char *name, uint64_t fingerprint, size_t page_bytes, tt_run_key *got,
                        int32_t *ret_n, tt_state_reader **ret)
{
    tt_err err = {0};
    return tt_run_open(folder, name, fingerprint, page_bytes, ret, got, ret_n, &err);
}

static void test_round_trip(void **state)
{
    tt_run_key got[TT_RUN_PAGES];
    tt_state_reader *r = NULL;
    tt_err err;
    char name[TT_RUN_NAME_BYTES];
    uint8_t page[PAGE];
    uint64_t last;
    int32_t n = 0;
    write_run(keys, N);
    tt_run_name(name, keys[N - 1].hash);
    assert_true(tt_run_parse_name(name, &last) && last == keys[N - 1].hash);
    assert_int_equal(open_run(name, FINGERPRINT, PAGE, got, &n, &r), TT_OK);
    assert_int_equal(n, N);
    for (int i = 0; i < N; i++) {
        assert_true(tt_run_key_equal(&got[i], &keys[i]));
        assert_int_equal(tt_state_reader_read(r, i, page, PAGE, &err), TT_OK);
        assert_memory_equal(page, pages[i], PAGE);
    }
    tt_state_reader_close(&r);
}

static void test_what_is_no_such_run(void **state)
{
    tt_run_key got[TT_RUN_PAGES], broken[N];
    tt_state_reader *r = NULL;
    char name[TT_RUN_NAME_BYTES], from[4200], to[4200];
    int32_t n;
    write_run(keys, N);
    tt_run_name(name, keys[N - 1].hash);
    assert_int_equal(open_run(name, FINGERPRINT + 1, PAGE, got, &n, &r), TT_E_INVALID);
    assert_int_equal(open_run(name, FINGERPRINT, PAGE + 1, got, &n, &r), TT_E_INVALID);
    snprintf(from, sizeof from, "%s/%s", folder, name);
    tt_run_name(name, 1234);
    assert_int_equal(open_run(name, FINGERPRINT, PAGE, got, &n, &r), TT_E_IO); /* not there */
    snprintf(to, sizeof to, "%s/%s", folder, name);
    assert_int_equal(rename(from, to), 0); /* under another run's name */
    assert_int_equal(open_run(name, FINGERPRINT, PAGE, got, &n, &r), TT_E_INVALID);
    memcpy(broken, keys, sizeof broken);
    broken[1].ids[3]++; /* the third no longer follows it */
    write_run(broken, N);
    tt_run_name(name, keys[N - 1].hash);
    assert_int_equal(open_run(name, FINGERPRINT, PAGE, got, &n, &r), TT_E_INVALID);
    assert_null(r);
}

static void test_every_part_of_a_key_counts(void **state)
{
    for (int part = 0; part < 5; part++) {
        tt_run_key other = keys[0];
        other.parent += part == 0;
        other.adapter_id += part == 1;
        other.decoded += part == 2;
        other.n_base -= part == 3;
        other.ids[63] += part == 4;
        tt_page_key a = tt_run_key_view(&other), b = tt_run_key_view(&keys[0]);
        assert_false(tt_run_key_equal(&other, &keys[0]));
        assert_true(tt_page_key_hash(&a) != tt_page_key_hash(&b));
    }
}

static void test_names(void **state)
{
    uint64_t last;
    static const char *const wrong[] = {"",
                                        "0123456789abcdef",
                                        "0123456789abcdef.ru",
                                        "0123456789abcdeF.run",
                                        "0123456789abcdef.runs",
                                        "0123456789abcde.run",
                                        "0123456789abcdef.run.writing"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(tt_run_parse_name(wrong[i], &last));
    }
    assert_true(tt_run_parse_name("00000000000000ff.run", &last));
    assert_int_equal(last, 255);
}

/* ---- the index ---- */

static tt_run *run_of(tt_page_index *x, uint64_t first, int32_t n)
{
    tt_run *r = tt_page_index_begin(FINGERPRINT);
    assert_non_null(r);
    for (int32_t i = 0; i < n; i++) {
        tt_page_index_add(x, r, first + (uint64_t)i);
    }
    return r;
}

static void test_the_index_knows_every_page(void **state)
{
    enum { RUNS = 1000 };
    static tt_run *runs[RUNS];
    tt_page_index x;
    tt_err err;
    int32_t i;
    assert_int_equal(tt_page_index_init(&x, &err), TT_OK);
    for (uint64_t k = 0; k < RUNS; k++) {
        runs[k] = run_of(&x, 1 + 100 * k, 1 + (int32_t)k % TT_RUN_PAGES);
        assert_true(tt_page_index_find(&x, 1 + 100 * k, &i) == runs[k]); /* being written */
        tt_page_index_ready(&x, runs[k], k, 10);
    }
    assert_int_equal(x.n_runs, RUNS);
    assert_int_equal(x.bytes, 10 * RUNS);
    for (uint64_t k = 0; k < RUNS; k++) {
        int32_t n = 1 + (int32_t)k % TT_RUN_PAGES;
        assert_true(tt_page_index_find(&x, 100 * k + (uint64_t)n, &i) == runs[k]);
        assert_int_equal(i, n - 1);
        assert_null(tt_page_index_find(&x, 100 * k + (uint64_t)n + 1, &i));
    }
    for (uint64_t k = 0; k < RUNS; k += 2) {
        tt_page_index_drop(&x, runs[k]);
        assert_true(tt_page_index_find(&x, 1 + 100 * k, &i) == runs[k]);
        tt_page_index_forget(&x, runs[k]);
        assert_null(tt_page_index_find(&x, 1 + 100 * k, &i));
    }
    assert_int_equal(x.n_runs, RUNS / 2);
    tt_page_index_finish(&x);
    tt_page_index_finish(&x);
}

static void test_the_order_is_that_of_use(void **state)
{
    tt_page_index x;
    tt_err err;
    int32_t i;
    assert_int_equal(tt_page_index_init(&x, &err), TT_OK);
    tt_run *a = run_of(&x, 1, 1), *b = run_of(&x, 2, 1), *c = run_of(&x, 3, 1);
    tt_page_index_ready(&x, a, 1, 1);
    tt_page_index_ready(&x, b, 2, 1);
    tt_page_index_ready(&x, c, 3, 1);
    tt_page_index_use(&x, a);
    assert_true(x.first == b && b->next == c && c->next == a && x.last == a);
    tt_page_index_use(&x, a);
    tt_page_index_use(&x, b);
    assert_true(x.first == c && x.last == b && a->used && !c->used);
    /* one that is being written does not hide a readable one of the same page */
    tt_run *again = run_of(&x, 3, 1);
    assert_true(tt_page_index_find(&x, 3, &i) == c);
    tt_page_index_drop(&x, c);
    tt_page_index_forget(&x, c);
    assert_true(tt_page_index_find(&x, 3, &i) == again);
    tt_page_index_forget(&x, again);
    tt_page_index_finish(&x);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_round_trip),
        CASE(test_what_is_no_such_run),
        CASE(test_every_part_of_a_key_counts),
        CASE(test_names),
        CASE(test_the_index_knows_every_page),
        CASE(test_the_order_is_that_of_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
