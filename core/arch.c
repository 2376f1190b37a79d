/* arch.c - see arch.h. */
#include "core/arch.h"

#include <string.h>

static const tt_arch archs[] = {
    {.name = "llama", .act = TT_ACT_SILU, .gguf_rope = TT_ROPE_INTERLEAVED},
    {.name = "qwen2", .flags = TT_ARCH_QKV_BIAS, .act = TT_ACT_SILU, .gguf_rope = TT_ROPE_HALF},
    {.name = "qwen3", .flags = TT_ARCH_QK_NORM, .act = TT_ACT_SILU, .gguf_rope = TT_ROPE_HALF},
    {.name = "gemma3",
     .flags = TT_ARCH_QK_NORM | TT_ARCH_POST_NORMS | TT_ARCH_EMBED_SCALE | TT_ARCH_NORM_PLUS_1 |
              TT_ARCH_LOCAL_ROPE | TT_ARCH_TIED,
     .act = TT_ACT_GELU_TANH,
     .gguf_rope = TT_ROPE_HALF},
};

static const struct {
    const char *model_type, *arch;
} model_types[] = {
    {"llama", "llama"}, {"mistral", "llama"},      {"qwen2", "qwen2"},
    {"qwen3", "qwen3"}, {"gemma3_text", "gemma3"}, {"gemma3", "gemma3"},
};

const char tt_arch_list[] = "llama, mistral, qwen2, qwen3 and gemma3 are";

const tt_arch *tt_arch_by_gguf_name(tt_str name)
{
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++) {
        if (strlen(archs[i].name) == name.n && memcmp(archs[i].name, name.p, name.n) == 0) {
            return &archs[i];
        }
    }
    return NULL;
}

const tt_arch *tt_arch_by_model_type(const char *model_type)
{
    for (size_t i = 0; i < sizeof model_types / sizeof model_types[0]; i++) {
        if (strcmp(model_types[i].model_type, model_type) == 0) {
            const char *a = model_types[i].arch;
            return tt_arch_by_gguf_name((tt_str){.p = a, .n = (uint32_t)strlen(a)});
        }
    }
    return NULL;
}
