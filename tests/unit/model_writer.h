/* model_writer.h - writes small model files for the tests of the loaders: GGUF in memory, Hugging
 * Face folders on disk. Everything here asserts: a test that cannot write its input is broken.
 * Thread: main. */
#ifndef TT_TEST_MODEL_WRITER_H
#define TT_TEST_MODEL_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

typedef struct mw_buf {
    uint8_t *p;
    size_t n, cap;
} mw_buf;

void mw_put(mw_buf *b, const void *p, size_t n);
void mw_u32(mw_buf *b, uint32_t x);
void mw_u64(mw_buf *b, uint64_t x);
void mw_str(mw_buf *b, const char *s); /* GGUF: length and bytes */
void mw_free(mw_buf *b);

/* A GGUF file in three parts, so that a test can put anything into any of them. */
typedef struct mw_gguf {
    uint32_t version, alignment;
    uint64_t n_values, n_tensors;
    mw_buf values, infos, data;
} mw_gguf;

void mw_gguf_init(mw_gguf *w); /* version 3, alignment 32 (not written as a value) */
void mw_kv_u32(mw_gguf *w, const char *key, uint32_t x);
void mw_kv_f32(mw_gguf *w, const char *key, float x);
void mw_kv_bool(mw_gguf *w, const char *key, uint8_t x);
void mw_kv_str(mw_gguf *w, const char *key, const char *s);
void mw_kv_strs(mw_gguf *w, const char *key, const char *const *s, uint64_t n);
/* An array of n elements of elem_bytes each, of GGUF type elem_type. */
void mw_kv_array(mw_gguf *w, const char *key, uint32_t elem_type, const void *p, uint64_t n,
                 size_t elem_bytes);
/* Only the entry in the list: dims outermost first, ggml type number, offset. */
void mw_info(mw_gguf *w, const char *name, int n_dims, const int64_t *dims, uint32_t ggml_type,
             uint64_t offset);
/* Entry and bytes: f32 values quantised to t (NULL: small pseudo-random ones). rows 0: a vector. */
void mw_tensor(mw_gguf *w, const char *name, int64_t rows, int64_t cols, tt_dtype t,
               const float *x);
/* The whole file, malloc'ed in its exact size (a sanitizer then sees an overrun of one byte); frees
 * the parts. */
uint8_t *mw_gguf_finish(mw_gguf *w, size_t *ret_n);

/* A tiny model of one of the architectures. Zero fields mean the default in the comment. */
typedef struct mw_model {
    const char *arch;                                  /* "llama" */
    int layers;                                        /* 2 */
    int hidden, heads, kv_heads, head_dim, ffn, vocab; /* 32, 4, 2, 8, 64, 24 */
    int n_tokens;                                      /* vocab; entries of the tokenizer */
    bool tied, qkv_bias; /* qkv_bias: also where the architecture has none */
    bool rope_freqs;
    float eps;             /* 1e-5 */
    const char *skip;      /* a value's key or a tensor's name that is left out */
    const char *reshape;   /* a tensor that gets one row (or element) more */
    const char *poison;    /* a tensor whose first value is NaN */
    const char *extra;     /* name of one more tensor */
    const char *hf_prefix; /* "model."; in "a.model." the head is a.lm_head.weight */
    int misalign; /* HF: spaces after the header's padding, so that the data lies at odd addresses
                   */
    const char *changed; /* a tensor whose last value is another */
} mw_model;

/* Fills w with it (more values may be put before or after). */
void mw_model_gguf(mw_gguf *w, const mw_model *m);

/* The same weights as config.json and model.safetensors (F32) in `folder`, n_shards > 1: with an
 * index. The tokenizer's files are the caller's. config: text that replaces config.json, or NULL.
 */
void mw_model_hf(const char *folder, const mw_model *m, int n_shards, const char *config);

/* Files in a fresh folder under the build's temporary folder; both are removed by
 * mw_remove_folder(). */
char *mw_make_folder(void);
void mw_remove_folder(char *folder);
void mw_write_file(const char *folder, const char *name, const void *p, size_t n);

#endif
