/* small_engine.h - a tiny random model on a device with a K/V pool and a step, for the tests of
 * what runs on the engine's thread. Everything here asserts. Thread: main. */
#ifndef TT_TEST_SMALL_ENGINE_H
#define TT_TEST_SMALL_ENGINE_H

#include "core/forward.h"
#include "model_writer.h"

typedef struct small_engine {
    char *folder;
    tt_model *model;
    tt_device d; /* not to be copied: the lane points into it */
    tt_kv_pool *kv;
    tt_step *step;
} small_engine;

typedef struct small_options {
    mw_model shape;
    unsigned isa_mask;
    tt_dtype kv_type; /* TT_F32 or TT_BF16 */
    int32_t n_pages;
    int n_threads;
} small_options;

/* The model alone, from a fresh file in *ret_folder. */
tt_model *small_model(const mw_model *shape, char **ret_folder);

void small_open(small_engine *e, const small_options *opt);
void small_close(small_engine *e);

/* Begins a step and runs it to its end. */
void small_run(small_engine *e, const tt_segment *segs, int32_t n_segs, const tt_step_options *opt);

/* Copies device memory and waits. */
void small_get(small_engine *e, void *dst, tt_dev src, size_t n_bytes);
void small_put(small_engine *e, tt_dev dst, const void *src, size_t n_bytes);

/* Small numbers around 0 out of a seed: x[n] in [-size, size). */
void small_noise(float *x, int64_t n, float size, uint64_t seed);
/* Token ids out of a seed: ids[n] in [0, n_vocab). */
void small_ids(int32_t *ids, int32_t n, int32_t n_vocab, uint64_t seed);

#endif
