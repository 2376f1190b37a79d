/* rig.h - an engine without a server for the golden tests: a model on one table of kernels, a K/V
 * pool, a step, and runs of segments over one context. Failures of set-up end the process with the
 * engine's sentence. Thread: one. */
#ifndef TT_TEST_RIG_H
#define TT_TEST_RIG_H

#include "core/forward.h"
#include "core/probe.h"
#include "core/trainer.h"

#define RIG_SKIP 77 /* exit status of a test that this machine cannot run */

typedef struct rig {
    tt_model *model;
    tt_device d;
    tt_kv_pool *kv;
    tt_step *step;
    int32_t *ids; /* owned: the context */
    int32_t n_ids;
    int32_t *pages; /* owned, referenced: of the context */
    int32_t n_pages;
} rig;

/* A table by its name: an instruction set, or "cuda", device 0 of the module that QTTT_CUDA_MODULE
 * names. Prints the reason and exits with RIG_SKIP when the machine lacks it. */
tt_device_choice rig_table(const char *name);

void rig_open(rig *r, const char *path, tt_device_choice table, tt_dtype kv_type, int32_t n_pages);
void rig_close(rig *r);

/* Prefills the context in chunks; its pages stay. */
void rig_context(rig *r, const int32_t *ids, int32_t n, int32_t chunk);
/* Begins and runs a step to its end. */
void rig_run(rig *r, const tt_segment *segs, int32_t n_segs, const tt_step_options *opt);

/* Logits of context positions, read again from the frozen cache: y[n, V]. */
void rig_logits(rig *r, const int32_t *positions, int32_t n, float *y);
/* A span of the context: its segment. targets [k] is filled and borrowed by the segment. */
tt_segment rig_span(const rig *r, int32_t start, int32_t k, const tt_adapter *adapter,
                    int32_t *targets);
/* Row losses of a span (no gradient): loss[k]; returns their mean. */
double rig_span_loss(rig *r, int32_t start, int32_t k, const tt_adapter *adapter, float *loss);
/* Logits [V] of the last of n tokens that follow the context, their own K/V in private pages; the
 * context is left as it was. */
void rig_question(rig *r, const int32_t *ids, int32_t n, const tt_adapter *adapter, float *y);
/* Pages of the context with a private copy of the partial last one and room for n more tokens: give
 * back with rig_unfork. */
int32_t *rig_fork(rig *r, int32_t n, int32_t *ret_n_pages);
void rig_unfork(rig *r, int32_t **pages, int32_t n_pages);
/* xxh3 over the K/V of the whole context. */
uint64_t rig_checksum(rig *r);

/* Copies device memory. */
void rig_get(rig *r, float *y, tt_dev x, int64_t n);
void rig_put(rig *r, tt_dev x, const float *y, int64_t n);
void rig_get_bytes(rig *r, void *dst, tt_dev src, size_t n_bytes);
void rig_put_bytes(rig *r, tt_dev dst, const void *src, size_t n_bytes);

/* |a - b| / |b|, Euclidean; NaN counts as infinite. */
double rig_error(const float *a, const float *b, int64_t n);
/* 1 - a.b / (|a| |b|) */
double rig_angle(const float *a, const float *b, int64_t n);

#endif
