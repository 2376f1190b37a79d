/* test_adapter_store.c - orders to the thread of adapters' files are done in their order and told;
 * what cannot be done is told too; the sweep leaves what it was told to leave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapter_rig.h"
#include "core/adapter_store.h"

static atomic_int woken;

static void wake(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static tt_adapter_store *start(void)
{
    tt_adapter_home home = {.folder = rig_folder, .model = &rig_model};
    tt_adapter_store *s = NULL;
    tt_err err;
    atomic_store(&woken, 0);
    assert_int_equal(tt_adapter_store_create(&home, wake, &woken, &s, &err), TT_OK);
    return s;
}

static uint64_t save(tt_adapter_store *s, const tt_adapter *a)
{
    tt_adapter_image *img;
    tt_err err;
    uint64_t serial;
    assert_int_equal(tt_adapter_image_take(&rig_device, a, 1, 2, &img, &err), TT_OK);
    assert_int_equal(tt_adapter_store_save(s, img, &serial, &err), TT_OK);
    return serial;
}

static uint64_t load(tt_adapter_store *s, uint64_t id)
{
    uint64_t serial;
    tt_err err;
    assert_int_equal(tt_adapter_store_load(s, id, &serial, &err), TT_OK);
    return serial;
}

static void expect(tt_adapter_store *s, tt_adapter_op_kind kind, uint64_t id, uint64_t serial,
                   tt_code rc)
{
    tt_adapter_op *op = tt_adapter_store_next(s);
    assert_non_null(op);
    assert_true(op->kind == kind && op->id == id && (serial == 0 || op->serial == serial));
    assert_int_equal(op->rc, rc);
    assert_true((op->image != NULL) == (kind == TT_ADAPTER_LOAD && rc == TT_OK));
    assert_true(rc == TT_OK || op->err.msg[0] != '\0');
    tt_adapter_op_free(op);
}

static void test_orders_are_done_in_their_order(void **state)
{
    tt_adapter_store *s = start();
    tt_adapter *a = rig_adapter(TT_ADAPTER_FULL, 0, 1);
    uint64_t n1 = load(s, a->id), n2 = save(s, a), n3 = load(s, a->id);
    tt_adapter_store_remove(s, a->id);
    uint64_t n4 = load(s, a->id);
    assert_true(0 < n1 && n1 < n2 && n2 < n3 && n3 < n4);
    tt_adapter_store_flush(s);
    assert_int_equal(atomic_load(&woken), 5);
    expect(s, TT_ADAPTER_LOAD, a->id, n1, TT_E_ADAPTER_LOST);
    expect(s, TT_ADAPTER_SAVE, a->id, n2, TT_OK);
    expect(s, TT_ADAPTER_LOAD, a->id, n3, TT_OK);
    expect(s, TT_ADAPTER_REMOVE, a->id, 0, TT_OK);
    expect(s, TT_ADAPTER_LOAD, a->id, n4, TT_E_ADAPTER_LOST);
    assert_null(tt_adapter_store_next(s));
    tt_adapter_store_destroy(&s);
    assert_null(s);
    tt_adapter_store_destroy(&s);
    tt_adapter_unref(&rig_device, &a);
}

static void test_what_was_asked_for_is_done_before_the_end(void **state)
{
    tt_adapter_store *s = start();
    tt_adapter *a[8];
    for (int i = 0; i < 8; i++) {
        a[i] = rig_adapter(TT_ADAPTER_LORA, 0, (uint64_t)i);
        save(s, a[i]);
    }
    tt_adapter_store_destroy(&s);
    assert_int_equal(rig_count(), 8);
    s = start(); /* another life: they are there */
    for (int i = 0; i < 8; i++) {
        uint64_t serial = load(s, a[i]->id);
        tt_adapter_store_flush(s);
        expect(s, TT_ADAPTER_LOAD, a[i]->id, serial, TT_OK);
        tt_adapter_store_remove(s, a[i]->id);
        tt_adapter_store_flush(s);
        expect(s, TT_ADAPTER_REMOVE, a[i]->id, 0, TT_OK);
        tt_adapter_unref(&rig_device, &a[i]);
    }
    tt_adapter_store_destroy(&s);
    assert_int_equal(rig_count(), 0);
}

static void test_the_sweep(void **state)
{
    tt_adapter_store *s = start();
    tt_adapter *a[4];
    char path[600];
    uint64_t ids[3];
    for (int i = 0; i < 4; i++) {
        a[i] = rig_adapter(TT_ADAPTER_LORA, 0, (uint64_t)i);
        save(s, a[i]);
    }
    tt_adapter_store_flush(s);
    snprintf(path, sizeof path, "%s/0123456789abcdef.qa.writing", rig_folder);
    rig_write(path, "half", 4);
    snprintf(path, sizeof path, "%s/README", rig_folder);
    rig_write(path, "mine", 4); /* nobody's business */
    ids[0] = a[3]->id;
    ids[1] = 12345; /* has no file */
    ids[2] = a[1]->id;
    tt_adapter_store_keep(s, ids, 3);
    tt_adapter_store_flush(s);
    assert_int_equal(rig_count(), 3);
    uint64_t n[4];
    for (int i = 0; i < 4; i++) {
        expect(s, TT_ADAPTER_SAVE, a[i]->id, 0, TT_OK);
        n[i] = load(s, a[i]->id);
    }
    tt_adapter_store_flush(s);
    expect(s, TT_ADAPTER_KEEP, 0, 0, TT_OK);
    for (int i = 0; i < 4; i++) {
        expect(s, TT_ADAPTER_LOAD, a[i]->id, n[i], i % 2 == 1 ? TT_OK : TT_E_ADAPTER_LOST);
        tt_adapter_unref(&rig_device, &a[i]);
    }
    tt_adapter_store_keep(s, NULL, 0);
    tt_adapter_store_destroy(&s);
    assert_int_equal(rig_count(), 1);
    assert_int_equal(unlink(path), 0);
}

/* Something else where the folder should be: each write fails; when it is gone they succeed. */
static void test_a_folder_that_cannot_be(void **state)
{
    rmdir(rig_folder);
    rig_write(rig_folder, "", 0);
    tt_adapter_store *s = start();
    tt_adapter *a = rig_adapter(TT_ADAPTER_FULL, 0, 1);
    uint64_t n1 = save(s, a), n2 = load(s, a->id);
    tt_adapter_store_keep(s, NULL, 0);
    tt_adapter_store_flush(s);
    expect(s, TT_ADAPTER_SAVE, a->id, n1, TT_E_IO);
    expect(s, TT_ADAPTER_LOAD, a->id, n2, TT_E_IO);
    expect(s, TT_ADAPTER_KEEP, 0, 0, TT_E_IO);
    assert_int_equal(unlink(rig_folder), 0);
    n1 = save(s, a);
    tt_adapter_store_flush(s);
    expect(s, TT_ADAPTER_SAVE, a->id, n1, TT_OK);
    tt_adapter_store_destroy(&s);
    tt_adapter_unref(&rig_device, &a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orders_are_done_in_their_order),
        cmocka_unit_test(test_what_was_asked_for_is_done_before_the_end),
        cmocka_unit_test(test_the_sweep),
        cmocka_unit_test(test_a_folder_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, rig_set_up, rig_tear_down);
}
