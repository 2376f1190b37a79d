/* model_build.h - what the model loaders share: hyperparameters and a list of tensors in, a checked
 * tt_model out. Private to model.c, model_gguf.c and model_hf.c. Thread: one at a time per model.
 */
#ifndef TT_MODEL_BUILD_H
#define TT_MODEL_BUILD_H

#include "core/arch.h"
#include "core/arena.h"
#include "core/file_map.h"
#include "core/model.h"
#include "core/rope_scaling.h"
#include "core/tensor_list.h"

#define TT_MODEL_MAX_LAYERS 1024
#define TT_MODEL_MAX_CTX (1 << 28) /* tokens */

/* What lies behind a model's pointers; freed by tt_model_close(). */
struct tt_model_files {
    tt_arena arena;    /* layers, vectors, vocabulary tables, copies of misaligned tensors */
    tt_file_map *maps; /* [n_maps], malloc'ed */
    int32_t n_maps;
    tt_tensor_list tensors;
    void *vocab; /* what free_vocab takes, or NULL */
    void (*free_vocab)(void *vocab);
};

/* What a format's reader found. Pointers: borrowed for tt_model_build(). */
typedef struct tt_model_spec {
    const tt_arch *arch;
    bool hf_names;         /* Hugging Face's tensor names, and norms that lack Gemma's 1 + w */
    const char *hf_prefix; /* before "layers.0.", e.g. "model." */
    const char *hf_head;   /* name of the head's weight */
    bool tied; /* the head is the embedding whatever else the file has (HF); GGUF: when it has no
                  head */
    int64_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, n_ctx;
    double norm_eps;
    double attn_scale;      /* 0 = 1 / sqrt(head_dim) */
    tt_rope_spec rope[2];   /* [1] with TT_ARCH_LOCAL_ROPE: the sliding-window layers' */
    int64_t window;         /* tokens; used by the layers that `sliding` marks */
    const uint8_t *sliding; /* [n_layers] 0 or 1; NULL = none */
} tt_model_spec;

/* An empty model, good for the readers and for tt_model_close(); NULL = no memory. */
tt_model *tt_model_create(void);

/* Checks the hyperparameters that the readers' arithmetic on them relies on, before the rest is
 * known. */
tt_code tt_model_check_dims(const tt_model_spec *s, tt_err *reterr);

/* Fills m (dimensions, ropes, layers, matrices, vectors, counts, fingerprint) from
 * m->files->tensors. Every tensor must be there in the right shape, and none may be left over that
 * would change what the model computes. TT_E_MODEL, TT_E_UNSUPPORTED, TT_E_NOMEM; m is then only
 * good for tt_model_close(). */
tt_code tt_model_build(tt_model *m, const tt_model_spec *s, tt_err *reterr);

/* m->name: text with everything but [A-Za-z0-9._-] turned into '-', runs of it into one, and no '.'
 * or '-' at the start. */
void tt_model_set_name(tt_model *m, const char *p, size_t n);

/* The two readers. The file's map (GGUF) or the folder's maps are in m->files or go there. */
tt_code tt_model_read_gguf(tt_model *m, tt_err *reterr);
tt_code tt_model_read_hf(tt_model *m, const char *folder, tt_err *reterr);

#endif
