/* test_adapter_file.c - an adapter comes back from its file bit for bit, or not at all: cut at
 * every length, changed in every byte, of another model, under another name, with memory running
 * out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter_rig.h"
#include "core/adapter_file.h"
#include "fail_alloc.h"

static tt_adapter_home home = {.folder = rig_folder, .model = &rig_model};

static void path_of(uint64_t id, char path[600])
{
    char name[TT_ADAPTER_FILE_NAME];
    tt_adapter_file_name(id, name);
    snprintf(path, 600, "%s/%s", rig_folder, name);
}

static void save(const tt_adapter *a)
{
    tt_adapter_image *img;
    tt_err err = {0};
    assert_int_equal(tt_adapter_image_take(&rig_device, a, 99, 1234, &img, &err), TT_OK);
    assert_int_equal(tt_adapter_file_write(&home, img, &err), TT_OK);
    tt_adapter_image_free(img);
}

static tt_code load(uint64_t id, tt_adapter **ret)
{
    tt_adapter_image *img = NULL;
    tt_err err = {0};
    tt_code rc = tt_adapter_file_read(&home, id, &img, &err);
    if (rc == TT_OK) {
        assert_true(img->context_hash == 99 && img->n_context == 1234);
        assert_int_equal(tt_adapter_image_put(&rig_device, img, ret, &err), TT_OK);
        assert_int_equal((*ret)->refs, 1);
    } else {
        assert_int_equal(err.code, rc);
        assert_true(err.msg[0] != '\0');
    }
    tt_adapter_image_free(img);
    return rc;
}

static void test_round_trip(void **state)
{
    uint8_t sets[] = {0, 1, 0x12, 0x1F};
    for (int kind = TT_ADAPTER_FULL; kind <= TT_ADAPTER_LORA; kind++) {
        for (size_t i = 0; i < sizeof sets; i++) {
            tt_adapter *a = rig_adapter((tt_adapter_kind)kind, sets[i], i + 1), *b = NULL;
            save(a);
            assert_int_equal(load(a->id, &b), TT_OK);
            assert_true(rig_same(a, b));
            tt_adapter_unref(&rig_device, &b);
            tt_err err;
            assert_int_equal(tt_adapter_file_remove(&home, a->id, &err), TT_OK);
            assert_int_equal(load(a->id, &b), TT_E_ADAPTER_LOST);
            assert_int_equal(tt_adapter_file_remove(&home, a->id, &err), TT_OK);
            tt_adapter_unref(&rig_device, &a);
        }
    }
    assert_int_equal(rig_count(), 0);
}

/* A damaged file is refused, whatever the damage; the whole one is read again afterwards. */
static void check_damage(tt_adapter_kind kind)
{
    tt_adapter *a = rig_adapter(kind, 0x15, 5), *b = NULL;
    char path[600];
    size_t n;
    save(a);
    path_of(a->id, path);
    uint8_t *whole = rig_read(path, &n), *copy = malloc(n + 1);
    assert_non_null(copy);
    for (size_t cut = 0; cut < n; cut++) {
        rig_write(path, whole, cut);
        assert_int_equal(load(a->id, &b), TT_E_ADAPTER_LOST);
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(copy, whole, n);
        copy[i] ^= (uint8_t)(1 << (i % 8));
        rig_write(path, copy, n);
        assert_int_equal(load(a->id, &b), TT_E_ADAPTER_LOST);
    }
    memcpy(copy, whole, n);
    copy[n] = 0;
    rig_write(path, copy, n + 1);
    assert_int_equal(load(a->id, &b), TT_E_ADAPTER_LOST);
    rig_write(path, whole, n);
    assert_int_equal(load(a->id, &b), TT_OK);
    assert_true(rig_same(a, b));
    free(whole);
    free(copy);
    tt_adapter_unref(&rig_device, &a);
    tt_adapter_unref(&rig_device, &b);
}

static void test_damage(void **state)
{
    check_damage(TT_ADAPTER_FULL);
    check_damage(TT_ADAPTER_LORA);
}

static void test_of_another_model(void **state)
{
    tt_adapter *a = rig_adapter(TT_ADAPTER_FULL, 0, 1), *b = NULL;
    save(a);
    rig_model.fingerprint++;
    assert_int_equal(load(a->id, &b), TT_E_ADAPTER_LOST);
    rig_model.fingerprint--;
    rig_model.n_layers--; /* a fingerprint that lies */
    assert_int_equal(load(a->id, &b), TT_E_ADAPTER_LOST);
    rig_model.n_layers++;
    rig_model.hidden++;
    assert_int_equal(load(a->id, &b), TT_E_ADAPTER_LOST);
    rig_model.hidden--;
    assert_int_equal(load(a->id, &b), TT_OK);
    tt_adapter_unref(&rig_device, &a);
    tt_adapter_unref(&rig_device, &b);
}

static void test_under_another_name(void **state)
{
    tt_adapter *a = rig_adapter(TT_ADAPTER_LORA, 0, 1), *b = NULL;
    char from[600], to[600];
    save(a);
    path_of(a->id, from);
    path_of(a->id + 1, to);
    assert_int_equal(rename(from, to), 0);
    assert_int_equal(load(a->id + 1, &b), TT_E_ADAPTER_LOST);
    assert_int_equal(rename(to, from), 0);
    assert_int_equal(load(a->id, &b), TT_OK);
    tt_adapter_unref(&rig_device, &a);
    tt_adapter_unref(&rig_device, &b);
}

static void test_names(void **state)
{
    char name[TT_ADAPTER_FILE_NAME];
    uint64_t id;
    tt_adapter_file_name(0xFEDCBA9876543210u, name);
    assert_string_equal(name, "fedcba9876543210.qa");
    assert_true(tt_adapter_file_id(name, &id) && id == 0xFEDCBA9876543210u);
    assert_true(tt_adapter_file_id("0000000000000001.qa", &id) && id == 1);
    const char *const others[] = {"",
                                  ".",
                                  "1.qa",
                                  "0000000000000000.qa",
                                  "FEDCBA9876543210.qa",
                                  "fedcba9876543210.qa.writing",
                                  "fedcba9876543210",
                                  "0fedcba9876543210.qa",
                                  "-000000000000001.qa"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_false(tt_adapter_file_id(others[i], &id));
    }
}

static void test_no_memory(void **state)
{
    tt_adapter *a = rig_adapter(TT_ADAPTER_FULL, 0, 3);
    tt_adapter_image *img = NULL, *back = NULL;
    tt_err err;
    tt_code rc;
    int n = 0;
    for (; fail_alloc_at(n), rc = tt_adapter_image_take(&rig_device, a, 99, 1234, &img, &err),
                             fail_alloc_off();
         n++) {
        assert_int_equal(rc, TT_E_NOMEM);
    }
    assert_true(n > 0 && rc == TT_OK);
    int before = rig_count();
    for (n = 0; fail_alloc_at(n), rc = tt_adapter_file_write(&home, img, &err), fail_alloc_off();
         n++) {
        assert_int_equal(rc, TT_E_NOMEM);
        assert_int_equal(rig_count(), before); /* nothing half written stays */
    }
    assert_true(n > 0 && rc == TT_OK);
    for (n = 0;
         fail_alloc_at(n), rc = tt_adapter_file_read(&home, a->id, &back, &err), fail_alloc_off();
         n++) {
        assert_int_equal(rc, TT_E_NOMEM); /* and not lost: it may be read another time */
    }
    assert_true(n > 0 && rc == TT_OK);
    tt_adapter_image_free(img);
    tt_adapter_image_free(back);
    tt_adapter_unref(&rig_device, &a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_of_another_model),
        cmocka_unit_test(test_under_another_name),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, rig_set_up, rig_tear_down);
}
