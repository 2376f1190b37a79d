/* tensor_list.h - the tensors that the readers of GGUF and safetensors found, by name. Thread:
 * immutable once indexed. */
#ifndef TT_TENSOR_LIST_H
#define TT_TENSOR_LIST_H

#include <stdbool.h>
#include <stdint.h>

#include "core/vocab.h"
#include "kernels/dtype.h"
#include "kernels/err.h"

#define TT_TENSOR_MAX_DIMS 8 /* of safetensors; GGUF has 4 */
#define TT_TENSOR_MAX_NAME 255
#define TT_TENSOR_LIST_MAX 65536

typedef struct tt_file_tensor {
    tt_str name;   /* valid UTF-8 without control characters; borrowed from whoever read the file */
    tt_dtype type; /* TT_DTYPE_COUNT: a type that no weight may have (type_name says which) */
    char type_name[12];
    int32_t n_dims;                   /* 0..TT_TENSOR_MAX_DIMS */
    int64_t dims[TT_TENSOR_MAX_DIMS]; /* outermost first; each >= 0; their product fits int64 */
    const uint8_t *data;              /* [n_bytes], borrowed from the mapped file; any alignment */
    uint64_t n_bytes;
    uint64_t offset; /* of data in its file, for messages */
} tt_file_tensor;

typedef struct tt_tensor_list {
    tt_file_tensor *t; /* [n], in file order */
    int32_t *by_name;  /* [n], indices in the order of the names */
    int32_t n;
} tt_tensor_list;

/* Room for n tensors, zeroed; n <= TT_TENSOR_LIST_MAX. Legal on a list that already holds some: it
 * grows. TT_E_NOMEM. */
tt_code tt_tensor_list_grow(tt_tensor_list *l, int32_t n_more, tt_err *reterr);
/* Sorts by name; TT_E_MODEL when a name occurs twice. Until then find() sees nothing. */
tt_code tt_tensor_list_index(tt_tensor_list *l, tt_err *reterr);
/* Index of the tensor, -1 = none. */
int32_t tt_tensor_list_find(const tt_tensor_list *l, const char *name);
void tt_tensor_list_finish(tt_tensor_list *l);

/* "[576, 49152]" into buf, outermost first; returns buf. */
const char *tt_tensor_shape_text(const tt_file_tensor *t, char *buf, size_t cap);

/* Whether a key or a tensor's name may be used and printed: 1..max bytes, valid UTF-8, no control
 * characters. */
bool tt_name_valid(const char *p, uint64_t n, uint64_t max);
/* Byte order, then length. */
int tt_str_compare(tt_str a, tt_str b);

#endif
