/* test_engine_device.c - an engine on a device of its own memory: what fits, what gives way when it
 * does not, and the end of a device. The device is the CPU (gpu_module.c): answers are those of the
 * CPU, bit for bit. argv: folder of tiny models, module, folder for files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/device_choice.h"
#include "engine_client.h"
#include "small_engine.h"

static const tt_cuda_module *module;
static char break_file[4096], scratch_file[4096], warning[400];

static void on_warning(void *arg, const char *text)
{
    snprintf(warning, sizeof warning, "%s", text);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int forget(void **state)
{
    unlink(break_file);
    unlink(scratch_file);
    unsetenv("GPU_MEMORY");
    warning[0] = '\0';
    return 0;
}

static tt_engine_options on_gpu(void)
{
    return (tt_engine_options){.isa_mask = TT_ISA_ALL,
                               .cuda = module,
                               .adapter_cache_bytes = 1 << 20,
                               .kv_bytes = 4 << 20,
                               .prefill_chunk = 64,
                               .on_warning = on_warning};
}

static client_outcome ask(tt_engine *e, int32_t n_prompt, int32_t max_tokens)
{
    tt_job_params p = client_params(n_prompt, max_tokens);
    return client_collect(client_submit(e, &p));
}

static void wait_for(tt_engine *e, tt_engine_state want, tt_err *ret)
{
    for (int i = 0; i < 5000 && tt_engine_get_state(e, ret) != want; i++) {
        client_nap();
    }
    assert_int_equal(tt_engine_get_state(e, ret), want);
}

static void test_same_answers(void **state)
{
    tt_engine_options o = on_gpu();
    tt_engine *gpu = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    assert_string_equal(tt_engine_device(gpu), "cuda:0");
    assert_string_equal(tt_engine_isa(gpu), "cuda");
    tt_engine_stats s;
    tt_engine_get_stats(gpu, &s);
    assert_int_equal(s.device_total_bytes, 1 << 30);
    assert_in_range(s.device_free_bytes, 1, (1 << 30) - s.kv_bytes_total);
    o.cuda = NULL;
    tt_engine *cpu = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    assert_string_equal(tt_engine_device(cpu), "cpu");
    client_outcome a = ask(gpu, 100, 20), b = ask(cpu, 100, 20);
    assert_int_equal(a.n_ids, 20);
    client_same_answer(&a, &b);
    tt_engine_destroy(&gpu);
    tt_engine_destroy(&cpu);
}

/* Left to itself the pool takes what the rest leaves; what does not fit gets smaller, and says so.
 */
static void test_pool(void **state)
{
    tt_engine_options o = on_gpu();
    tt_engine_stats s;
    o.kv_bytes = 0;
    setenv("GPU_MEMORY", "600000000", 1);
    tt_engine *e = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    tt_engine_get_stats(e, &s);
    assert_in_range(s.kv_bytes_total, 300000000, 500000000);
    assert_string_equal(warning, "");
    tt_engine_destroy(&e);
    o.kv_bytes = (size_t)8 << 20;
    setenv("GPU_MEMORY", "4000000", 1);
    e = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    tt_engine_get_stats(e, &s);
    assert_in_range(s.kv_bytes_total, 1 << 20, 4000000);
    assert_non_null(strstr(warning, "that it should have: no device memory"));
    tt_engine_destroy(&e);
    setenv("GPU_MEMORY", "90000", 1); /* not even the smallest */
    tt_err err;
    e = client_start(&o, "llama.gguf", TT_ENGINE_FAILED);
    tt_engine_get_state(e, &err);
    assert_int_equal(err.code, TT_E_NOMEM);
    tt_engine_destroy(&e);
}

static void test_model_without_kernels(void **state)
{
    tt_engine_options o = on_gpu();
    tt_err err;
    const char *other = client_folder;
    char *folder;
    tt_model *m = small_model(&(mw_model){.vocab = 256, .head_dim = 8}, &folder);
    tt_model_close(&m);
    client_folder = folder;
    o.cuda_optional = true;
    tt_engine *e = client_start(&o, "small.gguf", TT_ENGINE_READY);
    assert_string_equal(tt_engine_device(e), "cpu");
    assert_non_null(strstr(warning, "no CUDA kernels"));
    assert_int_equal(ask(e, 40, 4).n_ids, 4);
    tt_engine_destroy(&e);
    o.cuda_optional = false;
    e = client_start(&o, "small.gguf", TT_ENGINE_FAILED);
    tt_engine_get_state(e, &err);
    assert_int_equal(err.code, TT_E_UNSUPPORTED);
    tt_engine_destroy(&e);
    client_folder = other;
    mw_remove_folder(folder);
}

/* What was kept for later goes first: here a training's arena and workspace. */
static void test_gives_up_what_it_keeps(void **state)
{
    tt_engine_options o = on_gpu();
    char text[32];
    tt_engine_stats s;
    tt_engine *e = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(300, 4);
    client_turn_on(&p, 200, 2, false);
    client_outcome with = client_collect(client_submit(e, &p));
    assert_int_equal(with.last, TT_EV_DONE);
    assert_true(with.adapted);
    tt_engine_get_stats(e, &s);
    assert_int_equal(s.device_reclaims, 0);
    /* a batch of logits and a prompt need more than is free now */
    tt_cuda_info info;
    tt_err err;
    assert_int_equal(module->info(0, &info, &err), TT_OK);
    snprintf(text, sizeof text, "%zu", info.total_bytes - info.free_bytes);
    setenv("GPU_MEMORY", text, 1);
    p = client_params(400, 4);
    p.n_prompt_logprobs = 0;
    p.prompt = client_prompt + 7;
    client_outcome r = client_collect(client_submit(e, &p));
    assert_int_equal(r.last, TT_EV_DONE);
    assert_int_equal(r.n_ids, 4);
    tt_engine_get_stats(e, &s);
    assert_true(s.device_reclaims > 0);
    tt_engine_destroy(&e);
}

/* Scratch that is short for a moment costs nobody anything; for longer, one request after the
 * other, with a code that says "try again". */
static void test_scratch(void **state)
{
    tt_engine_options o = on_gpu();
    tt_engine *e = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    client_outcome plain = ask(e, 100, 8);
    tt_job_params p = client_params(300, 4);
    client_turn_on(&p, 200, 1, false); /* something that can be given up */
    assert_int_equal(client_collect(client_submit(e, &p)).last, TT_EV_DONE);
    write_file(scratch_file, "1");
    client_outcome again = ask(e, 100, 8);
    client_same_answer(&plain, &again);
    write_file(scratch_file, "-1");
    client_outcome none = ask(e, 120, 8);
    assert_int_equal(none.last, TT_EV_ERROR);
    assert_int_equal(none.error.code, TT_E_NOMEM);
    unlink(scratch_file);
    again = ask(e, 100, 8);
    client_same_answer(&plain, &again);
    assert_int_equal(tt_engine_get_state(e, NULL), TT_ENGINE_READY);
    tt_engine_destroy(&e);
}

/* An answer during which, once drafts have been right, a step finds no scratch memory. */
static client_outcome run_short_of_scratch(tt_engine *e, const tt_job_params *p)
{
    tt_engine_stats s;
    tt_engine_get_stats(e, &s);
    uint64_t before = s.accepted_tokens;
    tt_job *job = client_submit(e, p);
    do {
        client_nap();
        tt_engine_get_stats(e, &s);
    } while (s.accepted_tokens == before && s.running > 0);
    write_file(scratch_file, "1");
    return client_collect(job);
}

/* Failures that nobody has met yet. */
static int scratch_left(void)
{
    FILE *f = fopen(scratch_file, "r");
    int left = -1;
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &left), 1);
    fclose(f);
    return left;
}

/* A step with drafts that finds no scratch memory is run without them, before anybody ends. */
static void test_scratch_for_drafts(void **state)
{
    static const struct tt_logit_bias one = {21, 100}; /* the same token again and again */
    tt_engine_options o = on_gpu();
    o.row_cost = 0.05;
    tt_engine *e = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(100, 400);
    p.sampling.bias = &one;
    p.sampling.n_bias = 1;
    client_outcome plain = client_collect(client_submit(e, &p));
    assert_true(plain.accepted > 200);
    /* the last step of a request has no draft: it may be the one that is met */
    bool met = false;
    for (int i = 0; i < 10 && !met; i++) {
        client_outcome again = run_short_of_scratch(e, &p);
        met = scratch_left() == 0 && again.last == TT_EV_DONE;
        if (met) {
            client_same_answer(&plain, &again);
        }
        forget(NULL);
    }
    assert_true(met);
    tt_engine_destroy(&e);
}

/* Those who run and who wait are told; a training that had not begun is not, until the end. */
static void test_lost(void **state)
{
    tt_engine_options o = on_gpu();
    tt_err err;
    o.max_running = 1;
    tt_engine *e = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(100, 400), q = client_params(200, 0);
    tt_job *running = client_submit(e, &p), *waiting = client_submit(e, &p);
    q.kind = TT_JOB_TRAIN;
    client_turn_on(&q, 200, 200, false);
    tt_job *trains = client_submit(e, &q), *queued = client_submit(e, &q);
    tt_engine_stats s;
    do {
        client_nap();
        tt_engine_get_stats(e, &s);
    } while (s.generated_tokens == 0 && s.decode_steps == 0);
    write_file(break_file, "");
    assert_int_equal(client_collect(running).error.code, TT_E_DEVICE);
    client_outcome w = client_collect(waiting);
    assert_int_equal(w.last, TT_EV_ERROR);
    assert_int_equal(w.error.code, TT_E_DEVICE);
    assert_non_null(strstr(w.error.msg, "illegal memory access"));
    wait_for(e, TT_ENGINE_LOST, &err);
    assert_int_equal(err.code, TT_E_DEVICE);
    assert_non_null(strstr(err.msg, "illegal memory access"));
    assert_non_null(tt_engine_model(e)); /* who still reads it may */
    assert_string_equal(tt_engine_device(e), "cuda:0");
    tt_job *late = NULL;
    assert_int_equal(tt_job_create(&p, NULL, NULL, &late, &err), TT_OK);
    assert_int_equal(tt_engine_submit(e, late, &err), TT_E_UNAVAILABLE);
    tt_job_unref(&late);
    tt_event *ev;
    bool ended = false;
    while ((ev = tt_job_next(queued)) != NULL) {
        ended = ended || ev->type == TT_EV_ERROR || ev->type == TT_EV_DONE;
        tt_event_free(ev);
    }
    assert_false(ended);
    tt_engine_destroy(&e);
    assert_int_equal(client_collect(queued).error.code, TT_E_UNAVAILABLE);
    client_outcome t = client_collect(trains);
    assert_true(t.error.code == TT_E_DEVICE || t.error.code == TT_E_UNAVAILABLE);
}

/* A device that fails while the model is loaded is a failure to start. */
static void test_broken_from_the_start(void **state)
{
    tt_engine_options o = on_gpu();
    tt_err err;
    write_file(break_file, "");
    tt_engine *e = client_start(&o, "llama.gguf", TT_ENGINE_FAILED);
    tt_engine_get_state(e, &err);
    assert_int_equal(err.code, TT_E_DEVICE);
    tt_engine_destroy(&e);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_same_answers, forget),
        cmocka_unit_test_teardown(test_pool, forget),
        cmocka_unit_test_teardown(test_model_without_kernels, forget),
        cmocka_unit_test_teardown(test_gives_up_what_it_keeps, forget),
        cmocka_unit_test_teardown(test_scratch, forget),
        cmocka_unit_test_teardown(test_scratch_for_drafts, forget),
        cmocka_unit_test_teardown(test_lost, forget),
        cmocka_unit_test_teardown(test_broken_from_the_start, forget),
    };
    tt_err err = {0};
    client_folder = argv[1];
    snprintf(break_file, sizeof break_file, "%s/engine_device.break", argv[3]);
    snprintf(scratch_file, sizeof scratch_file, "%s/engine_device.scratch", argv[3]);
    setenv("GPU_BREAK", break_file, 1);
    setenv("GPU_SCRATCH", scratch_file, 1);
    forget(NULL);
    if (tt_cuda_module_load(argv[2], &module, &err) != TT_OK) {
        print_error("%s\n", err.msg);
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
