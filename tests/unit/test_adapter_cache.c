/* test_adapter_cache.c - keys tell apart what changes a result and nothing else; bytes are bounded;
 * the least recent goes first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/adapter_cache.h"
#include "core/engine.h"

static tt_model model = {.n_layers = 2, .hidden = 16, .n_heads = 2, .head_dim = 8};
static tt_device d;

static int setup(void **state)
{
    tt_err err;
    d.model = &model;
    tt_ops_get(&d.ops, 0);
    return d.ops.lane_create(&d.ops, &(tt_lane_options){.n_threads = 1}, &d.lane, &err);
}

static int teardown(void **state)
{
    d.ops.lane_destroy(&d.lane);
    return 0;
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_bounded_and_least_recent_first),
        cmocka_unit_test(test_adapter_in_use_outlives_its_entry),
        cmocka_unit_test(test_probes_of_the_last_contexts),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
