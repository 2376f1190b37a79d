/* test_lane.c - kernels/lane.c: memory, scratch, prepared weights, the sticky failure, and failing
 * allocations. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/lane.h"

static tt_ops ops;

static tt_lane *make_lane(int n_threads)
{
    tt_lane *lane = NULL;
    tt_lane_options opt = {.n_threads = n_threads};
    assert_int_equal(ops.lane_create(&ops, &opt, &lane, NULL), TT_OK);
    assert_non_null(lane);
    return lane;
}

static void create_and_destroy(void **state)
{
    (void)state;
    tt_lane *lane = make_lane(0);
    assert_int_equal(lane->n_threads, 1);
    assert_ptr_equal(lane->ops, &ops);
    ops.lane_destroy(&lane);
    assert_null(lane);
    ops.lane_destroy(&lane);
    ops.lane_destroy(NULL);
}

static void memory_goes_there_and_back(void **state)
{
    (void)state;
    tt_lane *lane = make_lane(1);
    tt_err err;
    tt_dev a, b;
    char text[100], back[100];
    memset(text, 'q', sizeof text);
    for (size_t n = 0; n < 200; n += 37) {
        assert_int_equal(ops.alloc(lane, n, &a, &err), TT_OK);
        assert_int_equal(a % 64, 0);
        assert_int_not_equal(a, 0);
        ops.free(lane, a);
    }
    assert_int_equal(ops.alloc(lane, sizeof text, &a, &err), TT_OK);
    assert_int_equal(ops.alloc(lane, sizeof text, &b, &err), TT_OK);
    ops.upload(lane, a, text, sizeof text);
    memset(text, 'z', sizeof text); /* may be reused on return */
    ops.zero(lane, b, sizeof text);
    ops.copy(lane, b + 10, a, 20);
    ops.download(lane, back, b, sizeof back);
    assert_int_equal(ops.lane_sync(lane, &err), TT_OK);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(back[i], i >= 10 && i < 30 ? 'q' : 0);
    }
    ops.upload(lane, 0, NULL, 0);
    ops.free(lane, a);
    ops.free(lane, b);
    ops.free(lane, 0);
    ops.lane_destroy(&lane);
}

static void allocation_that_fails_leaves_all_alone(void **state)
{
    (void)state;
    tt_lane *lane = make_lane(1);
    tt_err err = {0};
    tt_dev a = 77;
    assert_int_equal(ops.alloc(lane, SIZE_MAX, &a, &err), TT_E_NOMEM);
    assert_int_equal(err.code, TT_E_NOMEM);
    assert_int_equal(a, 77);
    lane->n_allocs_left = 0;
    assert_int_equal(ops.alloc(lane, 1, &a, &err), TT_E_NOMEM);
    assert_int_equal(ops.lane_sync(lane, &err),
                     TT_OK); /* it was answered at once, so it is not sticky */
    lane->n_allocs_left = -1;
    assert_int_equal(ops.alloc(lane, 1, &a, &err), TT_OK);
    ops.free(lane, a);
    ops.lane_destroy(&lane);
}

static void scratch_grows_and_stays(void **state)
{
    (void)state;
    tt_lane *lane = make_lane(3);
    void *p = tt_lane_scratch(lane, 0, 100);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_ptr_equal(tt_lane_scratch(lane, 0, 50), p);
    assert_ptr_not_equal(tt_lane_scratch(lane, 1, 50), p);
    memset(tt_lane_scratch(lane, 0, 100000), 1, 100000);
    assert_true(tt_lane_reserve_threads(lane, 1000));
    for (int i = 0; i < 3; i++) {
        memset(tt_lane_thread_buf(lane, i), i, 1000);
        assert_int_equal((uintptr_t)tt_lane_thread_buf(lane, i) % 64, 0);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(((char *)tt_lane_thread_buf(lane, i))[999], i);
    }
    assert_null(tt_lane_scratch(lane, 0, SIZE_MAX - 100));
    assert_int_equal(ops.lane_sync(lane, NULL), TT_E_NOMEM);
    assert_non_null(tt_lane_scratch(lane, 0, 100)); /* usable again */
    ops.lane_destroy(&lane);
}

/* Resident pages of this process. */
static long resident_pages(void)
{
    long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &all, &resident), 2);
    fclose(f);
    return resident;
}

/* A large block begins at a huge page, and what nobody has written of it takes no memory. */
static void large_blocks_cost_what_is_used(void **state)
{
    (void)state;
    const size_t huge = (size_t)2 << 20, n = 128 * huge;
    tt_lane *lane = make_lane(1);
    tt_dev block = 0;
    mallopt(M_PERTURB, 0); /* meson has malloc write what it hands out */
    long before = resident_pages();
    assert_int_equal(ops.alloc(lane, n + 100, &block, NULL), TT_OK);
    assert_int_equal(block % huge, 0);
    memset(tt_ptr(block), 1, 100);
    memset((char *)tt_ptr(block) + n, 1, 100); /* the end is there */
    assert_true(resident_pages() - before <
                (long)(n / 4096 / 4)); /* a sanitizer keeps books of it */
    ops.free(lane, block);
    ops.lane_destroy(&lane);
}

static void the_first_failure_wins(void **state)
{
    (void)state;
    tt_lane *lane = make_lane(2);
    tt_err err = {0};
    tt_lane_fail(lane, TT_E_NOMEM, "first");
    tt_lane_fail(lane, TT_E_DEVICE, "second");
    assert_null(tt_lane_scratch(lane, 0, 1)); /* ops give up while a failure is pending */
    assert_false(tt_lane_reserve_threads(lane, 1));
    assert_int_equal(ops.lane_sync(lane, &err), TT_E_NOMEM);
    assert_string_equal(err.msg, "first");
    assert_int_equal(ops.lane_sync(lane, &err), TT_OK);
    tt_lane_fail(lane, TT_E_DEVICE, "gone");
    assert_int_equal(ops.lane_sync(lane, &err), TT_E_DEVICE);
    assert_int_equal(ops.lane_sync(lane, &err), TT_E_DEVICE); /* a lost device stays lost */
    ops.lane_destroy(&lane);
}

/* An op that cannot have its scratch leaves its output as it was. */
static void an_op_without_memory_does_nothing(void **state)
{
    (void)state;
    tt_lane *lane = make_lane(2);
    float x[4] = {1, 2, 3, 4}, w[4] = {1, 1, 1, 1}, y[4] = {9, 9, 9, 9};
    tt_rmsnorm_args a = {.x = tt_addr(x), .w = tt_addr(w), .y = tt_addr(y), .n_rows = 1, .dim = 4};
    tt_ops ref;
    tt_ops_get(&ref, 0);
    for (int allowed = 0; allowed < 2; allowed++) { /* the second thread's buffer fails, too */
        lane->n_allocs_left = allowed;
        ref.rmsnorm(lane, &a);
        assert_true(y[0] == 9 && y[3] == 9);
        assert_int_equal(ref.lane_sync(lane, NULL), TT_E_NOMEM);
    }
    lane->n_allocs_left = -1;
    ref.rmsnorm(lane, &a);
    assert_int_equal(ref.lane_sync(lane, NULL), TT_OK);
    assert_true(y[0] != 9);
    ref.lane_destroy(&lane);
}

static void weights_are_borrowed(void **state)
{
    (void)state;
    tt_lane *lane = make_lane(1);
    float bytes[6] = {0};
    tt_weight w = {.type = TT_F32, .rows = 2, .cols = 3};
    assert_int_equal(ops.weight_load(lane, &w, bytes, NULL), TT_OK);
    assert_ptr_equal(tt_ptr(w.data), bytes);
    ops.lane_destroy(&lane);
}

int main(void)
{
    tt_ops_get(&ops, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_and_destroy),
        cmocka_unit_test(memory_goes_there_and_back),
        cmocka_unit_test(allocation_that_fails_leaves_all_alone),
        cmocka_unit_test(scratch_grows_and_stays),
        cmocka_unit_test(large_blocks_cost_what_is_used),
        cmocka_unit_test(the_first_failure_wins),
        cmocka_unit_test(an_op_without_memory_does_nothing),
        cmocka_unit_test(weights_are_borrowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
