/* test_arch.c - which architectures are known under which names, and what sets them apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/arch.h"
#include "core/model.h"

static const tt_arch *by_gguf(const char *name)
{
    return tt_arch_by_gguf_name((tt_str){.p = name, .n = (uint32_t)strlen(name)});
}

/* As the families' papers and transformers' modelling files have them. */
static void test_families(void **state)
{
    static const struct {
        const char *model_type, *gguf;
        unsigned flags;
        tt_act act;
        tt_rope_kind rope;
    } rows[] = {
        {"llama", "llama", 0, TT_ACT_SILU, TT_ROPE_INTERLEAVED},
        {"mistral", "llama", 0, TT_ACT_SILU, TT_ROPE_INTERLEAVED},
        {"qwen2", "qwen2", TT_ARCH_QKV_BIAS, TT_ACT_SILU, TT_ROPE_HALF},
        {"qwen3", "qwen3", TT_ARCH_QK_NORM, TT_ACT_SILU, TT_ROPE_HALF},
        {"gemma3_text", "gemma3",
         TT_ARCH_QK_NORM | TT_ARCH_POST_NORMS | TT_ARCH_EMBED_SCALE | TT_ARCH_NORM_PLUS_1 |
             TT_ARCH_LOCAL_ROPE | TT_ARCH_TIED,
         TT_ACT_GELU_TANH, TT_ROPE_HALF},
        {"gemma3", "gemma3",
         TT_ARCH_QK_NORM | TT_ARCH_POST_NORMS | TT_ARCH_EMBED_SCALE | TT_ARCH_NORM_PLUS_1 |
             TT_ARCH_LOCAL_ROPE | TT_ARCH_TIED,
         TT_ACT_GELU_TANH, TT_ROPE_HALF},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const tt_arch *a = tt_arch_by_model_type(rows[i].model_type);
        assert_non_null(a);
        assert_ptr_equal(a, by_gguf(rows[i].gguf));
        assert_string_equal(a->name, rows[i].gguf);
        assert_int_equal(a->flags, rows[i].flags);
        assert_int_equal(a->act, rows[i].act);
        assert_int_equal(a->gguf_rope, rows[i].rope);
        assert_true(strlen(a->name) < sizeof((tt_model *)0)->arch);
    }
}

static void test_unknown_names(void **state)
{
    static const char *const names[] = {"",       "Llama",  "llama ",  "llam", "llama4", "gemma",
                                        "gemma2", "gemma4", "mixtral", "qwen", "phi3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_null(by_gguf(names[i]));
        assert_null(tt_arch_by_model_type(names[i]));
    }
    assert_null(by_gguf("mistral"));     /* GGUF calls it llama */
    assert_null(by_gguf("gemma3_text")); /* model_type's name */
    /* a GGUF name is no C string: what follows it is not looked at, NUL is a byte */
    assert_non_null(tt_arch_by_gguf_name((tt_str){.p = "qwen2vl", .n = 5}));
    assert_null(tt_arch_by_gguf_name((tt_str){.p = "qwen2\0", .n = 6}));
    assert_null(tt_arch_by_gguf_name((tt_str){0}));
    static const char *const listed[] = {"llama", "mistral", "qwen2", "qwen3", "gemma3"};
    for (size_t i = 0; i < 5; i++) {
        assert_non_null(strstr(tt_arch_list, listed[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_unknown_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
