/* model.h - a model as the engine sees it: a table of layers with capability flags, whatever the
 * file's format and family. Filled by gguf.c + model_gguf.c or safetensors.c + config_json.c +
 * model_hf.c. A file is untrusted input. Thread: immutable once opened, but for the device
 * addresses, which the engine fills. */
#ifndef TT_MODEL_H
#define TT_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/tensor_list.h"
#include "core/vocab.h"
#include "kernels/dtype.h"
#include "kernels/err.h"
#include "kernels/ops.h"

typedef enum tt_rope_scaling {
    TT_ROPE_NONE,
    TT_ROPE_LINEAR,
    TT_ROPE_LLAMA3,
    TT_ROPE_YARN
} tt_rope_scaling;

/* One tensor of the file, on the host. Vectors (norms, biases) are converted to f32 by the loader;
 * matrices stay as they are. */
typedef struct tt_matrix {
    tt_weight w;      /* type, rows, cols; w.data is 0 until the engine calls ops->weight_load */
    const void *host; /* [rows, tt_row_bytes(type, cols)], borrowed from the mapped file; NULL = the
                         model has none */
} tt_matrix;

typedef struct tt_vector {
    const float *host; /* [n], owned by the model; NULL = none */
    int32_t n;
    tt_dev dev; /* 0 until the engine uploads it */
} tt_vector;

typedef struct tt_layer {
    tt_vector attn_norm;      /* [H] */
    tt_matrix wq, wk, wv, wo; /* [NQ, H], [NK, H], [NK, H], [H, NQ] */
    tt_vector bq, bk, bv;     /* Qwen2 */
    tt_vector q_norm, k_norm; /* [head_dim]: Qwen3, Gemma 3 */
    tt_vector attn_post_norm; /* [H]: Gemma 3, on the output of wo before the residual */
    tt_vector ffn_norm;       /* [H] */
    tt_matrix gate, up, down; /* [F, H], [F, H], [H, F] */
    tt_vector ffn_post_norm;  /* [H]: Gemma 3 */
    int32_t window;           /* sliding window in tokens, 0 = full attention */
    int32_t rope;             /* index into tt_model.rope */
} tt_layer;

typedef struct tt_rope_params {
    tt_rope_kind kind;
    int32_t rot_dim;
    float mscale;
    tt_vector inv_freq; /* [rot_dim / 2], scaling and GGUF's rope_freqs applied */
} tt_rope_params;

typedef struct tt_model {
    char name[64];        /* general.name or the file's name, made safe: [A-Za-z0-9._-] */
    char arch[16];        /* "llama", "qwen2", "qwen3", "gemma3" */
    char format[16];      /* "gguf v3", "safetensors" */
    uint64_t fingerprint; /* xxh3 of what decides logits: hyperparameters, tensor shapes and types,
                             samples of the bytes */
    int32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, n_vocab;
    int32_t n_ctx_train; /* the context it was made for, in tokens (after scaling) */
    float norm_eps, attn_scale,
        embed_scale; /* attn_scale: 1/sqrt(head_dim) or Gemma's 1/sqrt(query_pre_attn_scalar) */
    tt_act act;
    tt_rope_scaling rope_scaling;
    tt_rope_params rope[2]; /* [1]: Gemma 3's local (sliding-window) layers */
    int32_t n_ropes;
    tt_matrix embed; /* [V, H] */
    tt_matrix head;  /* [V, H]; equal to embed (same host pointer) when tied */
    bool tied_head;
    tt_vector final_norm; /* [H] */
    tt_layer *layers;     /* [n_layers] */
    tt_vocab vocab;
    tt_str chat_template;      /* {NULL, 0} when the file has none */
    tt_str bos_text, eos_text; /* spellings for the template, "" when none */
    uint64_t n_params, weight_bytes;
    char quant[16];                /* the commonest matrix type by bytes, for people: "Q4_1" */
    const tt_file_tensor *tensors; /* [n_tensors], everything the file holds, in its order */
    int32_t n_tensors;
    struct tt_model_files *files; /* owned: maps and buffers behind the pointers above */
} tt_model;

/* Opens a GGUF file or a Hugging Face folder. The error says what is wrong and where in the file.
 * TT_E_IO (cannot open or read), TT_E_MODEL (invalid), TT_E_UNSUPPORTED (valid, architecture or
 * type not known), TT_E_NOMEM. */
tt_code tt_model_open(const char *path, tt_model **ret_model, tt_err *reterr);
void tt_model_close(tt_model **model);

/* Bytes of K and V of one token over all layers. */
int64_t tt_model_kv_bytes_per_token(const tt_model *m, tt_dtype kv_type);

#endif
