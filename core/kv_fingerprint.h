/* kv_fingerprint.h - what decides the bytes of K/V pages beside their content keys, as one number:
 * pages on disk are used only under the number that they were written under. Thread: engine only.
 *
 * It covers, without reading the weights as a whole:
 *   - the model's own fingerprint (model_summary.c): hyperparameters, rope settings, shape and type
 *     of every tensor, all vectors, three samples of 4 KiB of every matrix;
 *   - the type of K/V, the page size, the version of the runs' format, the machine's byte order;
 *   - the table of kernels by name, and what they compute: K/V of the first two layers for a page
 *     of fixed tokens. That is every operation of a layer once, so another build, compiler, library
 *     or instruction set that sums in another order gives another number.
 * Not covered: a kernel whose bits change only beyond the first page. Its author raises
 * TT_RUN_VERSION (page_run.h). */
#ifndef TT_KV_FINGERPRINT_H
#define TT_KV_FINGERPRINT_H

#include "core/forward.h"

/* Runs two layers over 64 tokens in `step`, which nobody uses; takes a page and gives it back.
 * TT_E_CAPACITY: there is no page. */
tt_code tt_kv_fingerprint(tt_device *d, tt_kv_pool *kv, tt_step *step, uint64_t *ret_fingerprint,
                          tt_err *reterr);

#endif
