/* test_adapter_cache.c - keys tell apart what changes a result and nothing else; bytes are bounded;
 * the least recent goes first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/adapter_cache.h"
#include "adapter_rig.h"
#include "core/engine.h"

#define d rig_device

static tt_qttt_params defaults(void)
{
    tt_qttt_params p;
    tt_qttt_defaults(&p);
    tt_qttt_resolve(&p);
    return p;
}

static tt_adapter_key key_of(const int32_t *ids, int32_t n, const char *tenant,
                             const tt_qttt_params *p)
{
    tt_adapter_key k;
    tt_adapter_key_make(&k, ids, n, tenant, p);
    return k;
}

static bool same(const tt_adapter_key *a, const tt_adapter_key *b)
{
    return a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0;
}

static void test_keys(void **state)
{
    int32_t ids[] = {1, 2, 3, 4};
    tt_qttt_params p = defaults(), q = p;
    tt_adapter_key a = key_of(ids, 4, "x", &p), b = key_of(ids, 4, "x", &p);
    assert_true(same(&a, &b));
    b = key_of(ids, 4, "y", &p);
    assert_false(same(&a, &b));
    b = key_of(ids, 3, "x", &p);
    assert_false(same(&a, &b));
    ids[0] = 9;
    b = key_of(ids, 4, "x", &p);
    assert_false(same(&a, &b));
    ids[0] = 1;
    tt_qttt_params changed[] = {p, p, p, p, p, p, p, p, p, p};
    changed[0].seed = 1;
    changed[1].steps = 3;
    changed[2].span_tokens = 64;
    changed[3].learning_rate = 1e-5;
    changed[4].lora = true;
    changed[5].objective = TT_RECALL;
    changed[6].guard = false;
    changed[7].weight_decay = 0;
    changed[8].layers[0] = 1;
    changed[9].max_span_tokens = 7;
    for (size_t i = 0; i < sizeof changed / sizeof *changed; i++) {
        b = key_of(ids, 4, "x", &changed[i]);
        assert_false(same(&a, &b));
    }
    q.rank = 3; /* means nothing to a full adapter */
    b = key_of(ids, 4, "x", &q);
    assert_true(same(&a, &b));
}

static tt_adapter *make(void)
{
    tt_adapter *a;
    tt_err err;
    tt_adapter_shape shape = {.kind = TT_ADAPTER_FULL, .type = TT_BF16};
    assert_int_equal(tt_adapter_create(&d, &shape, &a, &err), TT_OK);
    return a;
}

static void put(tt_adapter_cache *c, uint64_t seed, bool kept)
{
    int32_t ids[] = {1, 2, 3};
    tt_qttt_params p = defaults();
    p.seed = seed;
    tt_adapter_key k = key_of(ids, 3, "", &p);
    tt_adapter *a = kept ? make() : NULL;
    tt_qttt_result r = {.status = "succeeded", .kept = kept, .steps_done = (int32_t)seed};
    tt_adapter_cache_put(c, &k, &r, a, false);
    tt_adapter_unref(&d, &a);
}

static bool find(tt_adapter_cache *c, uint64_t seed, bool *ret_kept)
{
    int32_t ids[] = {1, 2, 3};
    tt_qttt_params p = defaults();
    p.seed = seed;
    tt_adapter_key k = key_of(ids, 3, "", &p);
    tt_adapter *a = NULL;
    tt_qttt_result r;
    bool found = tt_adapter_cache_find(c, &k, &r, &a);
    if (found) {
        assert_int_equal(r.steps_done, seed);
        *ret_kept = a != NULL;
    }
    tt_adapter_unref(&d, &a);
    return found;
}

static void test_bounded_and_least_recent_first(void **state)
{
    tt_adapter_cache *c;
    tt_err err;
    tt_adapter *probe = make();
    size_t one = probe->bytes;
    tt_adapter_unref(&d, &probe);
    assert_int_equal(tt_adapter_cache_create(&d, 3 * one, &c, &err), TT_OK);
    bool kept;
    put(c, 1, true);
    put(c, 2, true);
    put(c, 3, true);
    put(c, 4, false); /* discarded by the guard: remembered, takes no bytes */
    assert_true(find(c, 1, &kept) && kept);
    put(c, 5, true);
    assert_false(find(c, 2, &kept));
    assert_true(find(c, 1, &kept) && find(c, 3, &kept) && find(c, 5, &kept));
    assert_true(find(c, 4, &kept) && !kept);
    int64_t bytes, n;
    tt_adapter_cache_stats(c, &bytes, &n);
    assert_int_equal(bytes, 3 * one);
    assert_int_equal(n, 3);
    tt_adapter_cache_destroy(&c);
    assert_int_equal(tt_adapter_cache_create(&d, one - 1, &c, &err), TT_OK);
    put(c, 1, true); /* larger than the cache */
    assert_false(find(c, 1, &kept));
    tt_adapter_cache_destroy(&c);
}

static void test_adapter_in_use_outlives_its_entry(void **state)
{
    tt_adapter_cache *c;
    tt_err err;
    assert_int_equal(tt_adapter_cache_create(&d, 1 << 20, &c, &err), TT_OK);
    put(c, 1, true);
    int32_t ids[] = {1, 2, 3};
    tt_qttt_params p = defaults();
    p.seed = 1;
    tt_adapter_key k = key_of(ids, 3, "", &p);
    tt_qttt_result r;
    tt_adapter *a;
    assert_true(tt_adapter_cache_find(c, &k, &r, &a));
    tt_adapter_cache_destroy(&c);
    assert_int_equal(a->refs, 1);
    tt_adapter_unref(&d, &a);
}

static void test_probes_of_the_last_contexts(void **state)
{
    tt_adapter_cache *c;
    tt_err err;
    assert_int_equal(tt_adapter_cache_create(&d, 1, &c, &err), TT_OK);
    tt_probe_result in = {0}, out;
    for (uint64_t i = 1; i <= 40; i++) {
        in.recall[0] = (double)i;
        tt_adapter_cache_put_probe(c, i, 2000, &in);
    }
    assert_false(tt_adapter_cache_find_probe(c, 8, 2000, &out));
    assert_true(tt_adapter_cache_find_probe(c, 9, 2000, &out));
    assert_true(out.recall[0] == 9);
    assert_false(tt_adapter_cache_find_probe(c, 9, 2001, &out));
    tt_adapter_cache_destroy(&c);
}

/* ---- with a store ---- */

static void no_wake(void *arg)
{
}

typedef struct stored {
    tt_adapter_store *store;
    tt_adapter_cache *c;
    size_t one;
} stored;

static stored open_stored(double budget)
{
    stored s = {0};
    tt_err err;
    tt_adapter_home home = {.folder = rig_folder, .model = &rig_model};
    tt_adapter *probe = make();
    s.one = probe->bytes;
    tt_adapter_unref(&d, &probe);
    assert_int_equal(tt_adapter_store_create(&home, no_wake, NULL, &s.store, &err), TT_OK);
    assert_int_equal(tt_adapter_cache_create(&d, (size_t)(budget * (double)s.one), &s.c, &err),
                     TT_OK);
    tt_adapter_cache_set_store(s.c, s.store);
    return s;
}

static void close_stored(stored *s)
{
    tt_adapter_cache_keep(s->c, NULL, 0);
    tt_adapter_cache_destroy(&s->c);
    tt_adapter_store_destroy(&s->store);
}

static int n_warnings;

static void warn(void *arg, const tt_err *err)
{
    assert_true(err->code < 0);
    n_warnings++;
}

static double settle(stored *s)
{
    double wait;
    do {
        tt_adapter_store_flush(s->store);
    } while (tt_adapter_cache_tend(s->c, warn, NULL, &wait));
    return wait;
}

/* A pinned adapter of noise; its entry's key is of `seed`. */
static tt_adapter *put_pinned(stored *s, uint64_t seed)
{
    int32_t ids[] = {1, 2, 3};
    tt_qttt_params p = defaults();
    p.seed = seed;
    tt_adapter_key k = key_of(ids, 3, "", &p);
    tt_adapter *a = rig_adapter(TT_ADAPTER_FULL, 0, seed);
    tt_qttt_result r = {.status = "succeeded", .kept = true};
    assert_true(tt_adapter_cache_put(s->c, &k, &r, a, true));
    return a;
}

static tt_code fetch(stored *s, uint64_t id, bool must, tt_adapter **ret)
{
    uint64_t ticket = 0;
    tt_err err;
    tt_code rc;
    while ((rc = tt_adapter_cache_fetch(s->c, id, &ticket, must, ret, &err)) ==
           (tt_code)TT_ADAPTER_WAIT) {
        if (ticket == 0) {
            return rc; /* there is no room */
        }
        double wait;
        tt_adapter_store_flush(s->store);
        tt_adapter_cache_tend(s->c, warn, NULL, &wait);
    }
    return rc;
}

static void test_a_written_adapter_may_leave(void **state)
{
    stored s = open_stored(2.5);
    tt_adapter *a[4], *b = NULL;
    tt_err why;
    for (uint64_t i = 0; i < 4; i++) { /* a is held by the test: bits to compare with */
        a[i] = put_pinned(&s, i);
        assert_int_equal(tt_adapter_cache_home(s.c, a[i]->id, &why), TT_ADAPTER_VOLATILE);
        assert_int_equal(tt_adapter_cache_save(s.c, a[i]->id, &why), TT_ADAPTER_WRITING);
        assert_int_equal(tt_adapter_cache_stuck(s.c), s.one); /* not before it is written */
        settle(&s);
        assert_int_equal(tt_adapter_cache_home(s.c, a[i]->id, &why), TT_ADAPTER_DURABLE);
        assert_int_equal(tt_adapter_cache_stuck(s.c), 0);
    }
    assert_int_equal(tt_adapter_cache_pinned(s.c), 4 * s.one); /* all in use: none may go */
    for (int i = 0; i < 4; i++) {
        a[i]->refs++; /* the test's copy outlives the cache's */
        tt_adapter *used = a[i];
        tt_adapter_unref(&d, &used);
    }
    tt_adapter *copies[4];
    for (int i = 0; i < 4; i++) { /* equal bits under the same id, of nobody's cache */
        tt_adapter_image *img;
        assert_int_equal(tt_adapter_image_take(&d, a[i], 0, 0, &img, &why), TT_OK);
        assert_int_equal(tt_adapter_image_put(&d, img, &copies[i], &why), TT_OK);
        tt_adapter_image_free(img);
        tt_adapter_unref(&d, &a[i]);
    }
    settle(&s);
    assert_int_equal(tt_adapter_cache_pinned(s.c), 2 * s.one);
    assert_null(tt_adapter_cache_get(s.c, copies[0]->id));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++) {
            assert_int_equal(fetch(&s, copies[i]->id, false, &b), TT_OK);
            assert_true(rig_same(b, copies[i]));
            tt_adapter_unref(&d, &b);
            assert_true(tt_adapter_cache_pinned(s.c) <= 2 * s.one);
        }
    }
    tt_adapter *held[3] = {0};
    assert_int_equal(fetch(&s, copies[0]->id, false, &held[0]), TT_OK);
    assert_int_equal(fetch(&s, copies[1]->id, false, &held[1]), TT_OK);
    assert_int_equal(fetch(&s, copies[2]->id, false, &held[2]), TT_ADAPTER_WAIT);
    assert_int_equal(fetch(&s, copies[2]->id, true, &held[2]), TT_OK);
    assert_true(rig_same(held[2], copies[2]));
    for (int i = 0; i < 4; i++) {
        assert_true(tt_adapter_cache_pin(s.c, copies[i]->id, -1));
        settle(&s);
        assert_int_equal(rig_count(), 3 - i);
        tt_adapter_unref(&d, &copies[i]);
    }
    for (int i = 0; i < 3; i++) {
        tt_adapter_unref(&d, &held[i]);
    }
    close_stored(&s);
}

static void test_unpinned_and_pinned_again_while_it_is_written(void **state)
{
    stored s = open_stored(8);
    tt_err why;
    tt_adapter *a = put_pinned(&s, 1), *b = NULL;
    assert_int_equal(tt_adapter_cache_save(s.c, a->id, &why), TT_ADAPTER_WRITING);
    assert_true(tt_adapter_cache_pin(s.c, a->id, -1));
    assert_int_equal(tt_adapter_cache_home(s.c, a->id, &why), TT_ADAPTER_VOLATILE);
    assert_true(tt_adapter_cache_pin(s.c, a->id, 1));
    assert_int_equal(tt_adapter_cache_save(s.c, a->id, &why), TT_ADAPTER_WRITING);
    assert_true(isinf(settle(&s)));
    assert_int_equal(tt_adapter_cache_home(s.c, a->id, &why), TT_ADAPTER_DURABLE);
    assert_int_equal(rig_count(), 1);
    assert_int_equal(fetch(&s, a->id, false, &b), TT_OK);
    assert_ptr_equal(a, b);
    tt_adapter_unref(&d, &a);
    tt_adapter_unref(&d, &b);
    close_stored(&s);
    assert_int_equal(rig_count(), 1); /* keep() leaves what is pinned */
    s = open_stored(8);
    close_stored(&s);
    assert_int_equal(rig_count(), 0);
}

static void test_what_cannot_be_written_is_tried_again(void **state)
{
    rmdir(rig_folder);
    rig_write(rig_folder, "", 0); /* something else where the folder should be */
    stored s = open_stored(2);
    tt_err why;
    n_warnings = 0;
    tt_adapter *a = put_pinned(&s, 1), *b = put_pinned(&s, 2);
    uint64_t id = a->id;
    settle(&s); /* nobody asked: what is pinned is written, one after another */
    settle(&s);
    double wait = settle(&s);
    assert_true(wait > 0 && wait <= 5);
    assert_int_equal(n_warnings, 1); /* once, not for each */
    assert_int_equal(tt_adapter_cache_home(s.c, id, &why), TT_ADAPTER_VOLATILE);
    assert_true(why.code == TT_E_IO && why.msg[0] != '\0');
    assert_int_equal(tt_adapter_cache_unsaved(s.c), 2);
    assert_int_equal(tt_adapter_cache_stuck(s.c), 2 * s.one);
    tt_adapter_unref(&d, &a);
    tt_adapter_unref(&d, &b);
    settle(&s);
    assert_int_equal(tt_adapter_cache_pinned(s.c), 2 * s.one); /* they do not leave memory */
    assert_int_equal(unlink(rig_folder), 0);
    assert_int_equal(tt_adapter_cache_save(s.c, id, &why), TT_ADAPTER_WRITING);
    settle(&s);
    assert_int_equal(tt_adapter_cache_home(s.c, id, &why), TT_ADAPTER_DURABLE);
    assert_int_equal(tt_adapter_cache_unsaved(s.c), 1);
    tt_adapter_cache_pin(s.c, id, -1);
    settle(&s);
    close_stored(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_bounded_and_least_recent_first),
        cmocka_unit_test(test_adapter_in_use_outlives_its_entry),
        cmocka_unit_test(test_probes_of_the_last_contexts),
        cmocka_unit_test(test_a_written_adapter_may_leave),
        cmocka_unit_test(test_unpinned_and_pinned_again_while_it_is_written),
        cmocka_unit_test(test_what_cannot_be_written_is_tried_again),
    };
    return cmocka_run_group_tests(tests, rig_set_up, rig_tear_down);
}
