/* test_kv.c - the page pool and sequences: states, keys, eviction order, nothing leaked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/kv.h"
#include "core/rng.h"
#include "core/seq.h"

#define N_PAGES 16

typedef struct fixture {
    tt_model model;
    tt_device d;
    tt_kv_pool *kv;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->model = (tt_model){.n_layers = 2, .n_kv_heads = 1, .head_dim = 8};
    f->d.model = &f->model;
    tt_ops_get(&f->d.ops, 0);
    tt_lane_options lane = {.n_threads = 1};
    tt_err err;
    assert_int_equal(f->d.ops.lane_create(&f->d.ops, &lane, &f->d.lane, &err), TT_OK);
    assert_int_equal(tt_kv_create(&f->d, &(tt_kv_options){TT_F32, N_PAGES}, &f->kv, &err), TT_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    tt_kv_destroy(&f->kv);
    assert_null(f->kv);
    f->d.ops.lane_destroy(&f->d.lane);
    free(f);
    return 0;
}

static void ids_from(int32_t *ids, int32_t n, int32_t first)
{
    for (int32_t i = 0; i < n; i++) {
        ids[i] = first + i;
    }
}

/* A published sequence of n tokens; the pool keeps its pages when it is finished. */
static void fill(fixture *f, const char *tenant, const int32_t *ids, int32_t n)
{
    tt_seq s;
    tt_err err;
    tt_seq_init(&s, f->kv, tenant);
    assert_int_equal(tt_seq_reserve(&s, n, &err), TT_OK);
    tt_seq_append(&s, ids, n, false, true);
    tt_seq_finish(&s);
}

static int32_t found(fixture *f, const char *tenant, const int32_t *ids, int32_t n)
{
    tt_seq s;
    tt_err err;
    int32_t got = -1;
    tt_seq_init(&s, f->kv, tenant);
    assert_int_equal(tt_seq_match(&s, ids, NULL, n, &got, &err), TT_OK);
    tt_seq_finish(&s);
    return got;
}

static void test_take_and_give_back(void **state)
{
    fixture *f = *state;
    int32_t p[N_PAGES];
    for (int32_t i = 0; i < N_PAGES; i++) {
        p[i] = tt_kv_take(f->kv);
        assert_true(p[i] >= 0);
    }
    assert_int_equal(tt_kv_take(f->kv), -1);
    tt_kv_ref(f->kv, p[3]);
    tt_kv_unref(f->kv, p[3]);
    assert_int_equal(tt_kv_take(f->kv), -1);
    tt_kv_unref(f->kv, p[3]);
    assert_int_equal(tt_kv_take(f->kv), p[3]);
    for (int32_t i = 0; i < N_PAGES; i++) {
        tt_kv_unref(f->kv, p[i]);
    }
    assert_int_equal(tt_kv_get_stats(f->kv).used, 0);
    assert_int_equal(tt_kv_get_stats(f->kv).cached, 0);
}

static void test_prefix_is_found_by_whole_pages(void **state)
{
    fixture *f = *state;
    int32_t ids[300];
    ids_from(ids, 300, 0);
    fill(f, "", ids, 200);
    assert_int_equal(tt_kv_get_stats(f->kv).cached, 3);
    assert_int_equal(found(f, "", ids, 300), 192);
    assert_int_equal(found(f, "", ids, 128), 128);
    assert_int_equal(found(f, "", ids, 127), 64);
    assert_int_equal(found(f, "other", ids, 300), 0); /* another tenant's key */
    ids[70] = 9999;
    assert_int_equal(found(f, "", ids, 300), 64);
    ids[0] = 9999;
    assert_int_equal(found(f, "", ids, 300), 0);
}

static void test_same_tokens_behind_another_prefix_differ(void **state)
{
    fixture *f = *state;
    int32_t ids[128];
    ids_from(ids, 128, 0);
    fill(f, "", ids, 128);
    assert_int_equal(found(f, "", ids + 64, 64), 0);
}

static void test_adapter_pages_are_served_to_nobody_else(void **state)
{
    fixture *f = *state;
    int32_t ids[192];
    ids_from(ids, 192, 0);
    tt_seq s;
    tt_err err;
    tt_seq_init(&s, f->kv, "");
    assert_int_equal(tt_seq_reserve(&s, 192, &err), TT_OK);
    tt_seq_append(&s, ids, 80, false, true);
    tt_seq_set_adapter(&s, 7, 80); /* in the middle of page 1 */
    tt_seq_append(&s, ids + 80, 112, false, true);
    tt_seq_finish(&s);
    assert_int_equal(found(f, "", ids, 192), 64);
    tt_page_key base = {.parent = tt_kv_root(""), .n_base = 64, .ids = ids};
    tt_page_key mixed = {
        .parent = tt_page_key_hash(&base), .adapter_id = 7, .n_base = 16, .ids = ids + 64};
    int32_t page = tt_kv_find(f->kv, &mixed);
    assert_true(page >= 0);
    tt_kv_unref(f->kv, page);
    mixed.n_base = 17;
    assert_int_equal(tt_kv_find(f->kv, &mixed), -1);
}

/* A turn under a session's adapter: context, an earlier question, the answer to it, a new question.
 */
static void test_decoded_tokens_are_found_as_such_only(void **state)
{
    fixture *f = *state;
    int32_t ids[200], n;
    uint8_t decoded[200] = {0};
    ids_from(ids, 200, 0);
    memset(decoded + 100, 1, 40);
    tt_seq s;
    tt_err err;
    tt_seq_init(&s, f->kv, "t");
    tt_seq_set_adapter(&s, 9, 80);
    assert_int_equal(tt_seq_reserve(&s, 200, &err), TT_OK);
    tt_seq_append(&s, ids, 80, false, true);
    tt_seq_append(&s, ids + 80, 20, false, true);
    tt_seq_append(&s, ids + 100, 40, true, true);
    tt_seq_append(&s, ids + 140, 60, false, true);
    tt_seq_finish(&s);
    assert_int_equal(tt_seq_cached(f->kv, "t", 9, 80, ids, decoded, 200), 192);
    assert_int_equal(tt_seq_cached(f->kv, "t", 9, 81, ids, decoded, 200), 64);
    assert_int_equal(tt_seq_cached(f->kv, "t", 9, 80, ids, NULL, 200), 64);
    assert_int_equal(tt_seq_cached(f->kv, "t", 0, 0, ids, decoded, 200), 64);
    assert_int_equal(tt_seq_cached(f->kv, "u", 9, 80, ids, decoded, 200), 0);
    assert_int_equal(tt_seq_shared(f->kv, "t", 9, 80, ids, decoded, 200), 0); /* nobody's now */
    decoded[139] = 0;
    assert_int_equal(tt_seq_cached(f->kv, "t", 9, 80, ids, decoded, 200), 128);
    decoded[139] = 1;
    /* the same from a sequence whose private page 1 is begun: it makes way */
    tt_seq_init(&s, f->kv, "t");
    assert_int_equal(tt_seq_match(&s, ids, NULL, 80, &n, &err), TT_OK);
    assert_int_equal(n, 64);
    assert_int_equal(tt_seq_reserve(&s, 100, &err), TT_OK);
    tt_seq_append(&s, ids + 64, 16, false, true);
    int32_t private = s.pages[1], used = tt_kv_get_stats(f->kv).used;
    tt_seq_set_adapter(&s, 9, 80);
    assert_int_equal(tt_seq_match(&s, ids, decoded, 200, &n, &err), TT_OK);
    assert_int_equal(n, 192);
    assert_int_equal(s.n_pages, 3);
    assert_int_not_equal(s.pages[1], private);
    assert_int_equal(s.decoded[139], 1);
    assert_int_equal(s.decoded[140], 0);
    assert_int_equal(tt_seq_shared(f->kv, "t", 9, 80, ids, decoded, 200), 192);
    assert_int_equal(tt_kv_get_stats(f->kv).used, used); /* two were private, two are shared now */
    tt_seq_finish(&s);
    assert_int_equal(tt_kv_get_stats(f->kv).used, 0);
}

static void test_least_recently_used_goes_first(void **state)
{
    fixture *f = *state;
    int32_t a[8 * 64], b[8 * 64], c[64];
    ids_from(a, 8 * 64, 0);
    ids_from(b, 8 * 64, 10000);
    ids_from(c, 64, 20000);
    fill(f, "", a, 8 * 64);
    fill(f, "", b, 8 * 64);
    assert_int_equal(found(f, "", a, 8 * 64), 8 * 64); /* now b is older */
    fill(f, "", c, 64);
    assert_int_equal(found(f, "", a, 8 * 64), 8 * 64);
    assert_int_equal(found(f, "", b, 8 * 64),
                     7 * 64); /* its end went, its beginning stays useful */
}

static void test_reserve_fails_whole(void **state)
{
    fixture *f = *state;
    tt_seq s;
    tt_err err;
    tt_seq_init(&s, f->kv, "");
    assert_int_equal(tt_seq_reserve(&s, 15 * 64, &err), TT_OK);
    assert_int_equal(tt_seq_reserve(&s, 17 * 64, &err), TT_E_CAPACITY);
    assert_int_equal(s.n_pages, 15);
    assert_int_equal(tt_kv_get_stats(f->kv).used, 15);
    tt_seq_finish(&s);
    assert_int_equal(tt_kv_get_stats(f->kv).used, 0);
}

static void test_shared_pages_survive_one_owner(void **state)
{
    fixture *f = *state;
    int32_t ids[64 * 4];
    ids_from(ids, 64 * 4, 0);
    fill(f, "", ids, 64 * 4);
    tt_seq a, b;
    tt_err err;
    int32_t n;
    tt_seq_init(&a, f->kv, "");
    tt_seq_init(&b, f->kv, "");
    assert_int_equal(tt_seq_match(&a, ids, NULL, 256, &n, &err), TT_OK);
    assert_int_equal(tt_seq_match(&b, ids, NULL, 256, &n, &err), TT_OK);
    assert_int_equal(a.pages[2], b.pages[2]);
    tt_seq_finish(&a);
    assert_int_equal(tt_kv_get_stats(f->kv).used, 4);
    for (int i = 0; i < N_PAGES - 4; i++) {
        assert_true(tt_kv_take(f->kv) >= 0); /* never one of b's */
    }
    assert_int_equal(tt_kv_take(f->kv), -1);
    tt_seq_finish(&b);
}

static void test_checksum_sees_the_tokens_it_covers(void **state)
{
    fixture *f = *state;
    tt_err err;
    int32_t page = tt_kv_take(f->kv);
    size_t n = tt_kv_page_bytes(&f->model, TT_F32) / sizeof(float);
    float *bytes = calloc(n, sizeof *bytes);
    uint64_t a, b;
    tt_kv_write_page(f->kv, page, bytes);
    assert_int_equal(tt_kv_checksum(f->kv, page, 40, &a, &err), TT_OK);
    bytes[40 * 8] = 1; /* token 40 of the first plane */
    tt_kv_write_page(f->kv, page, bytes);
    assert_int_equal(tt_kv_checksum(f->kv, page, 40, &b, &err), TT_OK);
    assert_true(a == b);
    assert_int_equal(tt_kv_checksum(f->kv, page, 41, &b, &err), TT_OK);
    assert_true(a != b);
    bytes[40 * 8] = 0;
    bytes[n - 64 * 8 + 39 * 8 + 7] = 1; /* token 39, last value, last plane */
    tt_kv_write_page(f->kv, page, bytes);
    assert_int_equal(tt_kv_checksum(f->kv, page, 40, &b, &err), TT_OK);
    assert_true(a != b);
    free(bytes);
    tt_kv_unref(f->kv, page);
}

/* Of a page of TT_I8, whose scales lie apart: each byte of the tokens that are covered counts, and
 * no other. */
static void test_checksum_with_scales(void **state)
{
    fixture *f = *state;
    enum { COVERED = 40 };
    tt_err err;
    tt_kv_pool *kv = NULL;
    uint64_t a, b;
    assert_int_equal(tt_kv_create(&f->d, &(tt_kv_options){TT_I8, 2}, &kv, &err), TT_OK);
    size_t n = tt_kv_page_bytes(&f->model, TT_I8), counted = 0;
    assert_int_equal(n, 64 * 2 * 2 * (8 + 4)); /* two layers of K and V */
    uint8_t *bytes = calloc(n, 1);
    int32_t page = tt_kv_take(kv);
    tt_kv_write_page(kv, page, bytes);
    assert_int_equal(tt_kv_checksum(kv, page, COVERED, &a, &err), TT_OK);
    for (size_t i = 0; i < n; i++) {
        bytes[i] = 1;
        tt_kv_write_page(kv, page, bytes);
        assert_int_equal(tt_kv_checksum(kv, page, COVERED, &b, &err), TT_OK);
        counted += a != b;
        bytes[i] = 0;
    }
    assert_int_equal(counted, n / 64 * COVERED);
    const tt_kv_layer *l = tt_kv_layer_of(kv, 1);
    size_t start = (size_t)(l->v_scale - tt_kv_layer_of(kv, 0)->k) + sizeof(float) * COVERED;
    for (size_t i = start - 1; i <= start; i++) { /* the last scales of the page, around the end */
        bytes[i] = 1;
        tt_kv_write_page(kv, page, bytes);
        assert_int_equal(tt_kv_checksum(kv, page, COVERED, &b, &err), TT_OK);
        assert_int_equal(a != b, i < start);
        bytes[i] = 0;
    }
    free(bytes);
    tt_kv_destroy(&kv);
}

/* Random life of many sequences over few pages: the counts always add up and what is found is what
 * was filled. */
static void test_random_life(void **state)
{
    fixture *f = *state;
    tt_rng rng = tt_rng_make(42, 0);
    tt_seq live[4];
    int n_live = 0;
    int32_t ids[5 * 64];
    tt_err err;
    for (int round = 0; round < 5000; round++) {
        if (n_live == 4 || (n_live > 0 && tt_rng_below(&rng, 2) == 0)) {
            int i = (int)tt_rng_below(&rng, (uint64_t)n_live);
            tt_seq_finish(&live[i]);
            live[i] = live[--n_live];
        } else {
            tt_seq *s = &live[n_live];
            int32_t n = 1 + (int32_t)tt_rng_below(&rng, 5 * 64), got;
            ids_from(ids, n, (int32_t)tt_rng_below(&rng, 3) * 1000);
            tt_seq_init(s, f->kv, "");
            assert_int_equal(tt_seq_match(s, ids, NULL, n, &got, &err), TT_OK);
            assert_int_equal(got % 64, 0);
            if (tt_seq_reserve(s, n - got, &err) == TT_OK) {
                tt_seq_append(s, ids + got, n - got, false, true);
                assert_memory_equal(s->ids, ids, (size_t)n * sizeof *ids);
                n_live++;
            } else {
                tt_seq_finish(s);
            }
        }
        tt_kv_stats st = tt_kv_get_stats(f->kv);
        assert_true(st.used + st.cached <= st.total);
        assert_true(n_live > 0 || st.used == 0);
    }
    while (n_live > 0) {
        tt_seq_finish(&live[--n_live]);
    }
    assert_int_equal(tt_kv_get_stats(f->kv).used, 0);
    tt_kv_drop_cached(f->kv);
    assert_int_equal(tt_kv_get_stats(f->kv).cached, 0);
    for (int i = 0; i < N_PAGES; i++) {
        assert_true(tt_kv_take(f->kv) >= 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_take_and_give_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prefix_is_found_by_whole_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_tokens_behind_another_prefix_differ, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_adapter_pages_are_served_to_nobody_else, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_decoded_tokens_are_found_as_such_only, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_least_recently_used_goes_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reserve_fails_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shared_pages_survive_one_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(test_checksum_sees_the_tokens_it_covers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_checksum_with_scales, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random_life, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
