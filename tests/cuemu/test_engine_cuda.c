/* test_engine_cuda.c - the engine's steps over the emulated module: what a decode step launches,
 * how often a step waits, and every call of the runtime failing once while a model is opened, read
 * and trained. test_engine_cuda MODULE */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine.h"
#include "core/trainer.h"
#include "small_engine.h"
#include "tests/cuemu/module_hooks.h"

enum { CONTEXT = 40, SPAN = 30, PAGES = 4, RANK = 4 };

static const char *module_path;
static const cuemu_hooks *hooks;
static int32_t ids[CONTEXT + 1];
static const int32_t pages[1] = {0};

/* One engine; everything of it may be missing. */
typedef struct world {
    tt_model *model;
    tt_device d;
    tt_kv_pool *kv;
    tt_step *step;
    tt_trainer *trainer;
    tt_adapter *published;
    tt_err err;
} world;

/* What a task leaves: the same bits, whatever went wrong before. */
typedef struct result {
    float logits[64];
    double loss[2], norm[2];
} result;

static tt_code open_world(world *w, tt_model *m)
{
    *w = (world){.model = m};
    tt_device_choice choice = {0};
    tt_code rc = tt_cuda_module_load(module_path, &choice.cuda, &w->err);
    rc = rc == TT_OK ? tt_device_open(&w->d, m, &choice, &(tt_lane_options){0}, &w->err) : rc;
    if (rc == TT_OK) {
        tt_kv_options kv = {.type = TT_BF16, .n_pages = PAGES};
        rc = tt_kv_create(&w->d, &kv, &w->kv, &w->err);
    }
    return rc == TT_OK ? tt_step_create(&w->d, w->kv, &w->step, &w->err) : rc;
}

static void drop_training(world *w)
{
    if (w->trainer != NULL) {
        tt_trainer_destroy(&w->trainer);
    }
    if (w->published != NULL) {
        tt_adapter_unref(&w->d, &w->published);
    }
}

static void close_world(world *w)
{
    drop_training(w);
    if (w->step != NULL) {
        tt_step_destroy(&w->step);
    }
    if (w->kv != NULL) {
        tt_kv_destroy(&w->kv);
    }
    tt_device_close(&w->d);
}

static tt_code run(world *w, const tt_segment *segs, int32_t n, const tt_step_options *opt)
{
    tt_code rc = tt_step_begin(w->step, segs, n, opt, &w->err);
    return rc == TT_OK ? tt_step_run(w->step, INT32_MAX, &w->err) : rc;
}

static tt_code prefill(world *w)
{
    tt_segment s = {.ids = ids, .n_rows = CONTEXT, .pages = pages, .store = true};
    return run(w, &s, 1, &(tt_step_options){.family = TT_PREFILL});
}

static tt_code decode(world *w, const tt_adapter *a)
{
    tt_segment s = {.ids = ids + CONTEXT,
                    .n_rows = 1,
                    .pos0 = CONTEXT,
                    .pages = pages,
                    .store = true,
                    .adapter = a,
                    .want = TT_WANT_LAST};
    return run(w, &s, 1, &(tt_step_options){.family = TT_DECODE});
}

static tt_code train(world *w, bool lora, result *ret, int i)
{
    tt_qttt_params p;
    tt_qttt_defaults(&p);
    p.lora = lora;
    p.rank = RANK;
    p.lora_alpha = 6;
    p.seed = 11;
    tt_qttt_resolve(&p);
    tt_code rc = tt_trainer_create(&w->d, &p, 5, &w->trainer, &w->err);
    if (rc != TT_OK) {
        return rc;
    }
    const tt_adapter *param = tt_trainer_params(w->trainer);
    tt_segment s = {.ids = ids,
                    .n_rows = SPAN,
                    .pages = pages,
                    .adapter = param,
                    .want = TT_WANT_LOSS,
                    .targets = ids + 1};
    tt_step_options o = {.trainee = param, .grads = tt_trainer_grads(w->trainer)};
    tt_train_report r = {0};
    for (int k = 0; k < 2 && rc == TT_OK; k++) {
        rc = run(w, &s, 1, &o);
        rc = rc == TT_OK ? tt_trainer_update(w->trainer, w->step, k == 1, &r, &w->err) : rc;
    }
    rc = rc == TT_OK ? tt_adapter_round(&w->d, param, &w->published, &w->err) : rc;
    rc = rc == TT_OK ? decode(w, w->published) : rc;
    if (rc == TT_OK) {
        ret->loss[i] = r.loss;
        ret->norm[i] = r.grad_norm;
    }
    return rc;
}

/* Prefill, two trainings, decode with what they made and without. */
static tt_code work(world *w, result *ret)
{
    tt_code rc = prefill(w);
    for (int i = 0; i < 2 && rc == TT_OK; i++) {
        rc = train(w, i == 1, ret, i);
        drop_training(w);
    }
    rc = rc == TT_OK ? decode(w, NULL) : rc;
    if (rc == TT_OK) {
        size_t n = (size_t)w->model->n_vocab < 64 ? (size_t)w->model->n_vocab : 64;
        memcpy(ret->logits, tt_step_logits(w->step, 0), n * sizeof(float));
    }
    return rc;
}

static tt_model *make_model(const char *arch, char **folder)
{
    mw_model shape = {.arch = arch, .layers = 1, .head_dim = 16, .heads = 2, .kv_heads = 1};
    return small_model(&shape, folder);
}

static void end_model(tt_model *m, char *folder)
{
    tt_model_close(&m);
    mw_remove_folder(folder);
}

/* ---- what a step costs ---- */

/* Launches of one decode step, by layers: the model's own, with D, with LoRA. */
static long launches_of(world *w, const tt_adapter *a)
{
    long before = hooks->launches(), waits = hooks->waits();
    assert_int_equal(decode(w, a), TT_OK);
    assert_int_equal(hooks->waits() - waits, 1); /* lane_sync() at its end and no other */
    return hooks->launches() - before;
}

/* The same with one layer more: what a layer launches. */
static void decode_launches(void **state)
{
    long n[2][3];
    for (int more = 0; more < 2; more++) {
        char *folder;
        mw_model shape = {.arch = "qwen3", .head_dim = 16, .layers = 2 + more};
        tt_model *m = small_model(&shape, &folder);
        world w;
        assert_int_equal(open_world(&w, m), TT_OK);
        assert_int_equal(prefill(&w), TT_OK);
        for (int kind = 0; kind < 3; kind++) {
            tt_adapter *a = NULL;
            tt_adapter_shape s = {.kind = kind == 2 ? TT_ADAPTER_LORA : TT_ADAPTER_FULL,
                                  .type = TT_BF16,
                                  .rank = RANK,
                                  .scale = 1};
            assert_int_equal(tt_adapter_create(&w.d, &s, &a, &w.err), TT_OK);
            const tt_adapter *used = kind == 0 ? NULL : a;
            assert_int_equal(decode(&w, used), TT_OK); /* memory grows in the first one */
            n[more][kind] = launches_of(&w, used);
            tt_adapter_unref(&w.d, &a);
            assert_int_equal(w.d.ops.lane_sync(w.d.lane, &w.err), TT_OK);
        }
        close_world(&w);
        end_model(m, folder);
    }
    for (int kind = 0; kind < 3; kind++) {
        assert_int_equal(n[1][kind] - n[0][kind], 10 + kind); /* docs/kernels.md lists them */
    }
    assert_int_equal(n[0][0] - 2 * 10, 4); /* embed, final norm, gather, head */
}

/* ---- every call fails once ---- */

/* False: nothing was left to fail. */
static bool fails_at(tt_model *m, long n, bool no_memory, const result *good)
{
    long live = hooks->live(), before = hooks->calls();
    result r = {0}, again = {0};
    world w;
    hooks->fail_after(n, no_memory);
    tt_code rc = open_world(&w, m);
    bool opened = rc == TT_OK;
    rc = rc == TT_OK ? work(&w, &r) : rc;
    bool reached = hooks->calls() - before > n;
    hooks->fail_after(-1, no_memory);
    if (reached && rc != TT_OK) {
        assert_int_equal(rc, no_memory ? TT_E_NOMEM : TT_E_DEVICE);
        assert_int_equal(w.err.code, rc);
        assert_true(w.err.msg[0] != '\0');
    } else {
        assert_memory_equal(&r, good, sizeof r);
    }
    if (reached && opened && no_memory) { /* the lane works again */
        drop_training(&w);
        assert_int_equal(work(&w, &again), TT_OK);
        assert_memory_equal(&again, good, sizeof again);
    }
    close_world(&w);
    assert_int_equal(hooks->live(), live);
    return reached;
}

static void every_call_fails(void **state)
{
    char *folder;
    tt_model *m = make_model("qwen3", &folder);
    result good = {0};
    world w;
    long before = hooks->calls();
    assert_int_equal(open_world(&w, m), TT_OK);
    assert_int_equal(work(&w, &good), TT_OK);
    long n_calls = hooks->calls() - before;
    close_world(&w);
    assert_true(good.loss[0] > 0 && good.norm[1] > 0 && good.logits[0] != 0);
    assert_true(n_calls > 200);
    /* A sample of the calls takes seconds, all of them minutes. The stride is odd, so that both
     * failures come everywhere. */
    const char *all = getenv("QTTT_FAULTS");
    long stride = all != NULL && strcmp(all, "all") == 0 ? 1 : n_calls / 40 | 1;
    for (long n = 0, i = 0; n < n_calls; n += stride, i++) {
        assert_true(fails_at(m, n, i % 2 == 0, &good));
    }
    end_model(m, folder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_launches),
        cmocka_unit_test(every_call_fails),
    };
    const tt_cuda_module *m;
    tt_err err;
    if (argc != 2 || tt_cuda_module_load(argv[1], &m, &err) != TT_OK) {
        fprintf(stderr, "test_engine_cuda MODULE\n");
        return 2;
    }
    module_path = argv[1];
    void *handle = dlopen(module_path, RTLD_NOW | RTLD_NOLOAD);
    void *symbol = handle != NULL ? dlsym(handle, "cuemu_module_hooks") : NULL;
    cuemu_hooks_fn get;
    memcpy(&get, &symbol, sizeof get);
    if (get == NULL) {
        printf("skip: this module drives a GPU\n");
        return 77;
    }
    hooks = get();
    small_ids(ids, CONTEXT + 1, 24, 3);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
