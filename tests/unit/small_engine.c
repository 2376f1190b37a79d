/* small_engine.c - see small_engine.h. */
#include "small_engine.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/rng.h"

static void must(tt_code rc, const tt_err *err)
{
    if (rc != TT_OK) {
        fprintf(stderr, "%s\n", err->msg);
        abort();
    }
}

tt_model *small_model(const mw_model *shape, char **ret_folder)
{
    char path[4200];
    tt_err err = {0};
    tt_model *m = NULL;
    size_t n;
    mw_gguf w;
    mw_gguf_init(&w);
    mw_model_gguf(&w, shape);
    uint8_t *p = mw_gguf_finish(&w, &n);
    *ret_folder = mw_make_folder();
    mw_write_file(*ret_folder, "small.gguf", p, n);
    free(p);
    snprintf(path, sizeof path, "%s/small.gguf", *ret_folder);
    must(tt_model_open(path, &m, &err), &err);
    return m;
}

void small_open(small_engine *e, const small_options *opt)
{
    tt_err err = {0};
    *e = (small_engine){0};
    e->model = small_model(&opt->shape, &e->folder);
    tt_lane_options lane = {.n_threads = opt->n_threads};
    tt_device_choice choice = {.isa_mask = opt->isa_mask};
    must(tt_device_open(&e->d, e->model, &choice, &lane, &err), &err);
    tt_kv_options kv = {.type = opt->kv_type, .n_pages = opt->n_pages};
    must(tt_kv_create(&e->d, &kv, &e->kv, &err), &err);
    must(tt_step_create(&e->d, e->kv, &e->step, &err), &err);
}

void small_close(small_engine *e)
{
    tt_step_destroy(&e->step);
    tt_kv_destroy(&e->kv);
    tt_device_close(&e->d);
    tt_model_close(&e->model);
    mw_remove_folder(e->folder);
    *e = (small_engine){0};
}

void small_run(small_engine *e, const tt_segment *segs, int32_t n_segs, const tt_step_options *opt)
{
    tt_err err = {0};
    must(tt_step_begin(e->step, segs, n_segs, opt, &err), &err);
    must(tt_step_run(e->step, INT32_MAX, &err), &err);
}

void small_get(small_engine *e, void *dst, tt_dev src, size_t n_bytes)
{
    tt_err err = {0};
    e->d.ops.download(e->d.lane, dst, src, n_bytes);
    must(e->d.ops.lane_sync(e->d.lane, &err), &err);
}

void small_put(small_engine *e, tt_dev dst, const void *src, size_t n_bytes)
{
    tt_err err = {0};
    e->d.ops.upload(e->d.lane, dst, src, n_bytes);
    must(e->d.ops.lane_sync(e->d.lane, &err), &err);
}

void small_noise(float *x, int64_t n, float size, uint64_t seed)
{
    tt_rng rng = tt_rng_make(seed, 1);
    for (int64_t i = 0; i < n; i++) {
        x[i] = size * (float)(2 * tt_rng_uniform(&rng) - 1);
    }
}

void small_ids(int32_t *ids, int32_t n, int32_t n_vocab, uint64_t seed)
{
    tt_rng rng = tt_rng_make(seed, 2);
    for (int32_t i = 0; i < n; i++) {
        ids[i] = (int32_t)tt_rng_below(&rng, (uint64_t)n_vocab);
    }
}
