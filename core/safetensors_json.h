/* safetensors_json.h - reader of safetensors files and of the index of sharded ones. Knows the
 * container, nothing of models. Source: the safetensors format (huggingface/safetensors, README).
 * Thread: pure functions.
 *
 *   u64 n, n bytes of JSON, then the tensors' bytes
 *   { "__metadata__": {string: string}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets":
 * [begin, end]}, ... }
 *
 * The bytes are untrusted. The tensors must cover the bytes after the header without gap or
 * overlap, each in the size of its type and shape: the format demands it. */
#ifndef TT_SAFETENSORS_JSON_H
#define TT_SAFETENSORS_JSON_H

#include "core/arena.h"
#include "core/tensor_list.h"
#include "kernels/err.h"

/* Appends the tensors of one file to `list` (not indexed yet); names are copied to the arena, data
 * points into bytes. TT_E_MODEL (with the byte offset), TT_E_UNSUPPORTED (an unknown dtype),
 * TT_E_NOMEM. */
tt_code tt_safetensors_read(const uint8_t *bytes, uint64_t n_bytes, tt_arena *arena,
                            tt_tensor_list *list, tt_err *reterr);

/* model.safetensors.index.json: which tensor lies in which file. */
typedef struct tt_safetensors_index {
    const char **files; /* [n_files], plain file names without a path, each once */
    int32_t n_files;
    const char **tensors; /* [n_tensors] */
    int32_t *file_of;     /* [n_tensors], index into files */
    int32_t n_tensors;
} tt_safetensors_index;

/* All pointers lie in the arena. TT_E_MODEL, TT_E_NOMEM. */
tt_code tt_safetensors_read_index(const uint8_t *bytes, uint64_t n_bytes, tt_arena *arena,
                                  tt_safetensors_index *ret_index, tt_err *reterr);

#endif
