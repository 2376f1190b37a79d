/* test_device.c - a model's weights on a device: every vector and matrix has its address and its
 * bytes, a failure leaves nothing open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "fail_alloc.h"
#include "small_engine.h"

static tt_code open_device(tt_device *d, tt_model *m, tt_err *err)
{
    return tt_device_open(d, m, &(tt_device_choice){.isa_mask = 0},
                          &(tt_lane_options){.n_threads = 1}, err);
}

/* dev is set exactly where the model has the vector, and holds its numbers. */
static void check_vector(tt_device *d, const tt_vector *v, int *n)
{
    tt_err err;
    assert_int_equal(v->dev != 0, v->host != NULL);
    if (v->host == NULL) {
        return;
    }
    assert_true(v->dev % 64 == 0);
    float *x = malloc((size_t)v->n * sizeof *x);
    assert_non_null(x);
    d->ops.download(d->lane, x, v->dev, (size_t)v->n * sizeof *x);
    assert_int_equal(d->ops.lane_sync(d->lane, &err), TT_OK);
    assert_memory_equal(x, v->host, (size_t)v->n * sizeof *x);
    free(x);
    (*n)++;
}

static void check_matrix(const tt_matrix *m)
{
    assert_non_null(m->host);
    assert_true(m->w.data == (tt_dev)(uintptr_t)m->host); /* the CPU borrows the file's bytes */
}

/* Vectors of the model that are on the device, all others being absent. */
static int check_model(tt_device *d)
{
    const tt_model *m = d->model;
    int n = 0;
    check_vector(d, &m->final_norm, &n);
    for (int32_t i = 0; i < m->n_ropes; i++) {
        check_vector(d, &m->rope[i].inv_freq, &n);
    }
    for (int32_t i = 0; i < m->n_layers; i++) {
        const tt_layer *l = &m->layers[i];
        const tt_vector *v[] = {
            &l->attn_norm,      &l->bq,       &l->bk,           &l->bv, &l->q_norm, &l->k_norm,
            &l->attn_post_norm, &l->ffn_norm, &l->ffn_post_norm};
        const tt_matrix *w[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate, &l->up, &l->down};
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) {
            check_vector(d, v[k], &n);
        }
        for (size_t k = 0; k < sizeof w / sizeof *w; k++) {
            check_matrix(w[k]);
        }
    }
    check_matrix(&m->embed);
    if (!m->tied_head) {
        check_matrix(&m->head);
    }
    return n;
}

static void test_every_family(void **state)
{
    static const struct {
        const char *arch;
        bool tied;
        int vectors; /* final norm, ropes, and 2 layers' */
    } rows[] = {{"llama", false, 1 + 1 + 2 * 2},
                {"qwen2", true, 1 + 1 + 2 * 5},
                {"qwen3", false, 1 + 1 + 2 * 4},
                {"gemma3", true, 1 + 2 + 2 * 6}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *folder;
        tt_device d;
        tt_err err;
        tt_model *m = small_model(&(mw_model){.arch = rows[i].arch, .tied = rows[i].tied}, &folder);
        assert_int_equal(open_device(&d, m, &err), TT_OK);
        assert_ptr_equal(d.model, m);
        assert_int_equal(check_model(&d), rows[i].vectors);
        tt_device_close(&d);
        assert_null(d.lane);
        assert_int_equal(open_device(&d, m, &err), TT_OK); /* a model may change its device */
        assert_int_equal(check_model(&d), rows[i].vectors);
        tt_device_close(&d);
        tt_device_close(&d);
        tt_model_close(&m);
        mw_remove_folder(folder);
    }
    tt_device zeroed = {0};
    tt_device_close(&zeroed);
}

static void test_no_memory(void **state)
{
    char *folder;
    tt_device d;
    tt_err err;
    tt_code rc;
    int n = 0;
    tt_model *m = small_model(&(mw_model){0}, &folder);
    for (;; n++) {
        memset(&d, 0xA5, sizeof d);
        err = (tt_err){0};
        fail_alloc_at(n);
        rc = open_device(&d, m, &err);
        if (!fail_alloc_off()) {
            break;
        }
        assert_int_equal(rc, TT_E_NOMEM);
        assert_int_equal(err.code, TT_E_NOMEM);
        assert_true(d.lane == NULL && d.model == NULL && d.vectors == 0);
    }
    assert_int_equal(rc, TT_OK);
    assert_true(n >= 2);
    check_model(&d);
    tt_device_close(&d);
    tt_model_close(&m);
    mw_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_family),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
