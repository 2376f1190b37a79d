/* dtype.h - element and block types of tensors, numbered by us (gguf.c and safetensors.c map theirs
 * to these). Thread: none, constant data. Block layouts: ggml's, see kernels/quant.h. */
#ifndef TT_DTYPE_H
#define TT_DTYPE_H

#include <stdint.h>
#include <string.h>

typedef enum tt_dtype {
    TT_F32,
    TT_F16,
    TT_BF16,
    TT_Q8_0,
    TT_Q4_0,
    TT_Q4_1,
    TT_Q5_0,
    TT_Q5_1,
    TT_Q4_K,
    TT_Q5_K,
    TT_Q6_K,
    TT_I8, /* signed bytes: of K/V pages, with scales apart (tt_kv_layer); no weight has it */
    TT_DTYPE_COUNT
} tt_dtype;

typedef struct tt_dtype_info {
    const char *name;    /* as GGUF tools print it: "Q4_K" */
    int32_t block_elems; /* elements per block; 1 for plain types */
    int32_t block_bytes; /* bytes per block */
} tt_dtype_info;

extern const tt_dtype_info tt_dtypes[TT_DTYPE_COUNT];

/* Bytes of one row of n_elems; n_elems is a multiple of block_elems (the loaders check it). */
static inline int64_t tt_row_bytes(tt_dtype t, int64_t n_elems)
{
    return n_elems / tt_dtypes[t].block_elems * tt_dtypes[t].block_bytes;
}

static inline float tt_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest even; NaN stays NaN (quiet). */
static inline uint16_t tt_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) {
        return (uint16_t)((u >> 16) | 0x40u);
    }
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

/* IEEE half, subnormals, infinities and NaN included. Portable: no F16C needed. */
float tt_f16_to_f32(uint16_t h);
uint16_t tt_f32_to_f16(float f);

#endif
