/* test_adapter.c - adapters: which layers have tensors, what a fresh one holds, rounding against
 * arithmetic on bits, references, memory that runs out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/adapter.h"
#include "fail_alloc.h"

enum { HIDDEN = 6, NQ = 8, N_LAYERS = 300, RANK = 3 };

/* Adapters need no weights: a model of dimensions alone, with more layers than a set has bits. */
static tt_model model = {.n_layers = N_LAYERS, .hidden = HIDDEN, .n_heads = 2, .head_dim = 4};
static tt_device d;

static int set_up(void **state)
{
    tt_err err;
    d.model = &model;
    tt_ops_get(&d.ops, 0);
    return d.ops.lane_create(&d.ops, &(tt_lane_options){.n_threads = 1}, &d.lane, &err);
}

static int tear_down(void **state)
{
    d.ops.lane_destroy(&d.lane);
    return 0;
}

static tt_adapter *create(const tt_adapter_shape *shape)
{
    tt_adapter *a = NULL;
    tt_err err;
    assert_int_equal(tt_adapter_create(&d, shape, &a, &err), TT_OK);
    assert_non_null(a);
    assert_int_equal(a->refs, 1);
    assert_int_equal(a->n_layers, N_LAYERS);
    return a;
}

static void get(void *dst, tt_dev src, size_t n)
{
    tt_err err;
    d.ops.download(d.lane, dst, src, n);
    assert_int_equal(d.ops.lane_sync(d.lane, &err), TT_OK);
}

static void test_sizes(void **state)
{
    int64_t n[2];
    tt_adapter_sizes(&model, TT_ADAPTER_FULL, 0, n);
    assert_int_equal(n[0], NQ * HIDDEN);
    assert_int_equal(n[1], 0);
    tt_adapter_sizes(&model, TT_ADAPTER_LORA, RANK, n);
    assert_int_equal(n[0], RANK * HIDDEN);
    assert_int_equal(n[1], NQ * RANK);
    tt_model wide = {.hidden = 1 << 17, .n_heads = 4096, .head_dim = 256};
    tt_adapter_sizes(&wide, TT_ADAPTER_FULL, 0, n);
    assert_true(n[0] == (int64_t)1 << 37); /* no 32-bit product */
}

/* Every layer's tensors are zero, 64-byte aligned, inside the block, and share no byte. */
static void check_tensors(const tt_adapter *a, size_t n_bytes[2])
{
    uint8_t *used = calloc(a->bytes, 1);
    float zero[NQ * HIDDEN];
    assert_non_null(used);
    for (int32_t l = 0; l < N_LAYERS; l++) {
        const tt_adapter_layer *x = &a->layers[l];
        tt_dev part[2] = {x->kind == TT_ADAPTER_FULL ? x->d : x->a, x->b};
        for (int k = 0; tt_adapter_has(a, l) && k < (n_bytes[1] > 0 ? 2 : 1); k++) {
            assert_true(part[k] % 64 == 0 && part[k] >= a->block);
            assert_true(part[k] + n_bytes[k] <= a->block + a->bytes);
            for (size_t i = 0; i < n_bytes[k]; i++) {
                assert_int_equal(used[part[k] - a->block + i]++, 0);
            }
            memset(zero, 0xFF, sizeof zero);
            get(zero, part[k], n_bytes[k]);
            for (size_t i = 0; i < n_bytes[k]; i++) {
                assert_int_equal(((char *)zero)[i], 0);
            }
        }
    }
    free(used);
}

static void test_a_fresh_one_is_zero(void **state)
{
    tt_adapter *full = create(&(tt_adapter_shape){.kind = TT_ADAPTER_FULL, .type = TT_F32});
    tt_adapter *lora = create(
        &(tt_adapter_shape){.kind = TT_ADAPTER_LORA, .type = TT_BF16, .rank = RANK, .scale = 0.5f});
    check_tensors(full, (size_t[2]){NQ * HIDDEN * 4, 0});
    check_tensors(lora, (size_t[2]){RANK * HIDDEN * 2, NQ * RANK * 2});
    assert_true(full->id != 0 && lora->id != 0 && full->id != lora->id);
    for (int32_t l = 0; l < N_LAYERS; l++) {
        assert_true(tt_adapter_has(full, l) && tt_adapter_has(lora, l));
        assert_true(full->layers[l].type == TT_F32 && full->layers[l].scale == 1.0f);
        assert_true(lora->layers[l].type == TT_BF16 && lora->layers[l].scale == 0.5f);
        assert_int_equal(lora->layers[l].rank, RANK);
        assert_true(lora->layers[l].d == 0 && full->layers[l].a == 0 && full->layers[l].b == 0);
    }
    tt_adapter_unref(&d, &full);
    tt_adapter_unref(&d, &lora);
    assert_false(tt_adapter_has(NULL, 0));
}

static void test_layer_sets(void **state)
{
    uint8_t none[32] = {0}, some[32] = {0};
    some[0] = 1;
    some[31] = 0x80;
    some[4] = 1 << 3;
    tt_adapter_shape shape = {.kind = TT_ADAPTER_FULL, .type = TT_F32, .layers = none};
    tt_adapter *all = create(&shape);
    shape.layers = some;
    tt_adapter *three = create(&shape), *rounded = NULL;
    tt_err err;
    assert_int_equal(tt_adapter_round(&d, three, &rounded, &err), TT_OK);
    for (int32_t l = 0; l < N_LAYERS; l++) {
        bool want = l == 0 || l == 35 || l == 255;
        assert_true(tt_adapter_has(all, l));
        assert_int_equal(tt_adapter_has(three, l), want);
        assert_int_equal(tt_adapter_has(rounded, l), want);
    }
    assert_int_equal(three->bytes, 3 * NQ * HIDDEN * 4);
    assert_int_equal(all->bytes, N_LAYERS * NQ * HIDDEN * 4);
    tt_adapter_unref(&d, &all);
    tt_adapter_unref(&d, &three);
    tt_adapter_unref(&d, &rounded);
}

/* Round to nearest even on the bits. */
static uint16_t bf16_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    uint32_t low = u & 0xFFFF, high = u >> 16;
    return (uint16_t)(high + (low > 0x8000 || (low == 0x8000 && (high & 1) != 0)));
}

static void check_rounding(tt_adapter_kind kind)
{
    float x[NQ * HIDDEN];
    uint16_t y[NQ * HIDDEN];
    int64_t n[2];
    tt_err err;
    tt_adapter *published = NULL, *a = create(&(tt_adapter_shape){
                                      .kind = kind, .type = TT_F32, .rank = RANK, .scale = 2.0f});
    tt_adapter_sizes(&model, kind, RANK, n);
    for (int i = 0; i < NQ * HIDDEN; i++) { /* ties to both sides among them */
        uint32_t u = 0x3F800000u + (uint32_t)i * 0x4000u + (i % 7 == 0 ? 1u : 0u);
        memcpy(&x[i], &u, sizeof u);
        x[i] = i % 2 != 0 ? -x[i] : x[i];
    }
    for (int32_t l = 0; l < N_LAYERS; l += N_LAYERS - 1) {
        const tt_adapter_layer *s = &a->layers[l];
        d.ops.upload(d.lane, kind == TT_ADAPTER_FULL ? s->d : s->a, x, (size_t)n[0] * 4);
        if (n[1] > 0) {
            d.ops.upload(d.lane, s->b, x + 1, (size_t)n[1] * 4);
        }
    }
    assert_int_equal(tt_adapter_round(&d, a, &published, &err), TT_OK);
    assert_true(published->id != a->id);
    for (int32_t l = 0; l < N_LAYERS; l++) {
        const tt_adapter_layer *t = &published->layers[l];
        bool edge = l == 0 || l == N_LAYERS - 1;
        assert_true(t->kind == kind && t->type == TT_BF16);
        assert_true(t->rank == a->layers[l].rank && t->scale == a->layers[l].scale);
        get(y, kind == TT_ADAPTER_FULL ? t->d : t->a, (size_t)n[0] * 2);
        for (int64_t i = 0; i < n[0]; i++) {
            assert_int_equal(y[i], edge ? bf16_of(x[i]) : 0);
        }
        if (n[1] > 0) {
            get(y, t->b, (size_t)n[1] * 2);
        }
        for (int64_t i = 0; i < n[1]; i++) {
            assert_int_equal(y[i], edge ? bf16_of(x[i + 1]) : 0);
        }
    }
    tt_adapter_unref(&d, &a);
    tt_adapter_unref(&d, &published);
}

static void test_rounding(void **state)
{
    check_rounding(TT_ADAPTER_FULL);
    check_rounding(TT_ADAPTER_LORA);
}

static void test_references(void **state)
{
    tt_adapter *a = create(&(tt_adapter_shape){.kind = TT_ADAPTER_FULL, .type = TT_F32});
    tt_adapter *b = a;
    uint64_t id = a->id;
    tt_adapter_ref(a);
    tt_adapter_unref(&d, &a);
    assert_null(a);
    assert_int_equal(b->refs, 1);
    assert_true(b->id == id);
    tt_adapter_unref(&d, &b);
    assert_null(b);
    tt_adapter_unref(&d, &b);
    tt_adapter_unref(&d, NULL);
    tt_adapter *c = create(&(tt_adapter_shape){.kind = TT_ADAPTER_FULL, .type = TT_F32});
    assert_true(c->id != id); /* an id is never used again: caches hang on it */
    tt_adapter_unref(&d, &c);
}

/* What a process that starts anew would draw: two children of the same moment, and their parent. */
static uint64_t ids_of_a_child(uint64_t *ids, int n)
{
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (int i = 0; i < n; i++) {
            tt_adapter *a = create(&(tt_adapter_shape){.kind = TT_ADAPTER_LORA, .rank = 1});
            if (write(fd[1], &a->id, sizeof a->id) != (ssize_t)sizeof a->id) {
                _exit(1);
            }
            tt_adapter_unref(&d, &a);
        }
        _exit(0);
    }
    int status;
    close(fd[1]);
    for (int i = 0; i < n; i++) {
        assert_int_equal(read(fd[0], &ids[i], sizeof ids[i]), sizeof ids[i]);
    }
    close(fd[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return ids[0];
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void test_ids_are_unique_over_processes(void **state)
{
    enum { N = 200 };
    uint64_t ids[3 * N], high = 0;
    (void)ids_of_a_child(ids, N);
    (void)ids_of_a_child(ids + N, N);
    for (int i = 0; i < N; i++) {
        tt_adapter *a = create(&(tt_adapter_shape){.kind = TT_ADAPTER_LORA, .rank = 1});
        ids[2 * N + i] = a->id;
        tt_adapter_unref(&d, &a);
    }
    qsort(ids, 3 * N, sizeof *ids, by_value);
    for (int i = 0; i < 3 * N; i++) {
        assert_true(ids[i] != 0 && (i == 0 || ids[i] != ids[i - 1]));
        high |= ids[i];
    }
    assert_true(high == UINT64_MAX); /* all bits are drawn */
}

static void test_no_memory(void **state)
{
    tt_adapter_shape shape = {.kind = TT_ADAPTER_FULL, .type = TT_F32};
    tt_adapter *a = NULL, *r = NULL;
    tt_err err;
    for (int n = 0; n < 3; n++) { /* itself, its layers, its block */
        a = NULL;
        fail_alloc_at(n);
        tt_code rc = tt_adapter_create(&d, &shape, &a, &err);
        assert_true(fail_alloc_off());
        assert_int_equal(rc, TT_E_NOMEM);
        assert_null(a);
    }
    a = create(&shape);
    for (int n = 0; n < 3; n++) {
        fail_alloc_at(n);
        tt_code rc = tt_adapter_round(&d, a, &r, &err);
        assert_true(fail_alloc_off());
        assert_int_equal(rc, TT_E_NOMEM);
        assert_null(r);
    }
    tt_adapter_unref(&d, &a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_a_fresh_one_is_zero),
        cmocka_unit_test(test_layer_sets), cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_references), cmocka_unit_test(test_ids_are_unique_over_processes),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
