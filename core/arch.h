/* arch.h - what the loaders know of the supported architectures: one row of capability flags each.
 * Thread: constant data. The engine does not see this table: it goes by what the tt_model has
 * (norms, biases, windows, scales). */
#ifndef TT_ARCH_H
#define TT_ARCH_H

#include <stdbool.h>

#include "core/vocab.h"
#include "kernels/ops.h"

enum tt_arch_flag {
    TT_ARCH_QKV_BIAS = 1,     /* q, k and v have a bias (elsewhere it is optional) */
    TT_ARCH_QK_NORM = 2,      /* RMSNorm of each query and key head */
    TT_ARCH_POST_NORMS = 4,   /* norms on the outputs of attention and of the feed-forward block */
    TT_ARCH_EMBED_SCALE = 8,  /* embeddings times sqrt(hidden) */
    TT_ARCH_NORM_PLUS_1 = 16, /* Hugging Face files hold w of a norm that multiplies by 1 + w; GGUF
                                 files hold 1 + w */
    TT_ARCH_LOCAL_ROPE = 32,  /* sliding-window layers have a rope base of their own */
    TT_ARCH_TIED = 64         /* tie_word_embeddings is true where config.json does not say */
};

typedef struct tt_arch {
    const char *name; /* general.architecture in GGUF, tt_model.arch */
    unsigned flags;   /* of enum tt_arch_flag */
    tt_act act;
    tt_rope_kind
        gguf_rope; /* GGUF's llama family holds the Q and K rows permuted for interleaved pairs */
} tt_arch;

/* NULL = not supported. */
const tt_arch *tt_arch_by_gguf_name(tt_str name);
/* model_type of a config.json: "llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gemma3". */
const tt_arch *tt_arch_by_model_type(const char *model_type);
/* "llama, qwen2, ..." for messages. */
extern const char tt_arch_list[];

#endif
