/* gguf.h - reader of GGUF v2 and v3, the single-file model format. Knows the container, nothing of
 * models. Source: the GGUF specification (ggml/docs/gguf.md). Thread: immutable once opened.
 *
 *   "GGUF" u32 version, u64 n_tensors, u64 n_values
 *   n_values  x { string key, u32 type, value }             string = u64 length, bytes
 *   n_tensors x { string name, u32 n_dims, u64 dims[n_dims] (innermost first), u32 type, u64 offset
 * } padding to `general.alignment` (32), then the tensors' bytes at their offsets
 *
 * The bytes are untrusted. Everything is checked at opening: each count against the bytes that are
 * left before anything is allocated for it, each string, array, shape and offset against the file
 * and against overflow. */
#ifndef TT_GGUF_H
#define TT_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "core/tensor_list.h"
#include "core/vocab.h"
#include "kernels/err.h"

typedef enum tt_gguf_type {
    TT_GGUF_U8,
    TT_GGUF_I8,
    TT_GGUF_U16,
    TT_GGUF_I16,
    TT_GGUF_U32,
    TT_GGUF_I32,
    TT_GGUF_F32,
    TT_GGUF_BOOL,
    TT_GGUF_STRING,
    TT_GGUF_ARRAY,
    TT_GGUF_U64,
    TT_GGUF_I64,
    TT_GGUF_F64,
    TT_GGUF_TYPE_COUNT
} tt_gguf_type;

/* Bytes of one value of a type; 0 for strings and arrays. */
extern const uint8_t tt_gguf_scalar_bytes[TT_GGUF_TYPE_COUNT];

typedef struct tt_gguf_value {
    tt_str key;
    tt_gguf_type type;
    tt_gguf_type elem_type; /* of arrays; never TT_GGUF_ARRAY */
    uint64_t n;             /* elements of an array, bytes of a string, else 1 */
    const uint8_t *data;    /* first element, or the string's bytes; unaligned, little endian */
    uint64_t offset;        /* of the key in the file, for messages */
} tt_gguf_value;

typedef struct tt_gguf {
    uint32_t version, alignment;
    tt_gguf_value *values; /* [n_values], sorted by key */
    int32_t n_values;
    tt_tensor_list tensors; /* dims turned outermost first */
} tt_gguf;

/* bytes: borrowed while the reader lives. TT_E_MODEL (with the byte offset), TT_E_UNSUPPORTED
 * (version, byte order, a tensor type that kernels/dtype.h lacks), TT_E_NOMEM. */
tt_code tt_gguf_open(const uint8_t *bytes, uint64_t n_bytes, tt_gguf **ret_gguf, tt_err *reterr);
void tt_gguf_close(tt_gguf **gguf);

/* NULL = no such key. */
const tt_gguf_value *tt_gguf_find(const tt_gguf *g, const char *key);

/* Outcome of the getters below: the file has no such key, ret is untouched. */
#define TT_GGUF_ABSENT ((tt_code)1)

/* Typed access. TT_OK, TT_GGUF_ABSENT, or TT_E_MODEL: another type, out of [min, max], not finite.
 * Any integer type will do for an int; f32 and f64 for a float. */
tt_code tt_gguf_get_int(const tt_gguf *g, const char *key, int64_t min, int64_t max,
                        int64_t *ret_value, tt_err *reterr);
tt_code tt_gguf_get_float(const tt_gguf *g, const char *key, double *ret_value, tt_err *reterr);
tt_code tt_gguf_get_bool(const tt_gguf *g, const char *key, bool *ret_value, tt_err *reterr);
tt_code tt_gguf_get_str(const tt_gguf *g, const char *key, tt_str *ret_value, tt_err *reterr);
/* An array of that element type. */
tt_code tt_gguf_get_array(const tt_gguf *g, const char *key, tt_gguf_type elem_type,
                          const tt_gguf_value **ret_value, tt_err *reterr);

/* Element i of an array of integers, as int64 (u64 beyond INT64_MAX gives INT64_MAX). */
int64_t tt_gguf_int_at(const tt_gguf_value *array, uint64_t i);
/* Writes the n strings of an array of strings to ret[n]: they point into the file. */
void tt_gguf_strings(const tt_gguf_value *array, tt_str *ret);

#endif
