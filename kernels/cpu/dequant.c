/* dequant.c - rows of weights in the files' formats to floats or BF16. Thread: pure functions. */
#include <assert.h>

#include "kernels/cpu/kern.h"
#include "kernels/cpu/qblock.h"

/* n_blocks blocks of n_groups groups each, to f32 or to BF16. */
TT_INLINE void expand(q32_loader load, const tt_dtype_info *info, const uint8_t *b, void *dst,
                      int64_t n, bool bf16)
{
    int n_groups = info->block_elems / 32;
    for (int64_t i = 0; i < n; b += info->block_bytes) {
        for (int g = 0; g < n_groups; g++, i += 32) {
            q32 w = load(b, g);
            for (int j = 0; j < QV; j++) {
                if (bf16) {
                    vf_store_bf16((uint16_t *)dst + i + j * VW, w.v[j]);
                } else {
                    vf_store((float *)dst + i + j * VW, w.v[j]);
                }
            }
        }
    }
}

/* One call a type, so that each loader is compiled into its own loop. */
TT_INLINE void expand_type(tt_dtype t, const void *src, void *dst, int64_t n, bool bf16)
{
    const tt_dtype_info *info = &tt_dtypes[t];
    assert(n % info->block_elems == 0);
    switch (t) {
    case TT_Q8_0:
        expand(q32_q8_0, info, src, dst, n, bf16);
        break;
    case TT_Q4_0:
        expand(q32_q4_0, info, src, dst, n, bf16);
        break;
    case TT_Q4_1:
        expand(q32_q4_1, info, src, dst, n, bf16);
        break;
    case TT_Q5_0:
        expand(q32_q5_0, info, src, dst, n, bf16);
        break;
    case TT_Q5_1:
        expand(q32_q5_1, info, src, dst, n, bf16);
        break;
    case TT_Q4_K:
        expand(q32_q4_k, info, src, dst, n, bf16);
        break;
    case TT_Q5_K:
        expand(q32_q5_k, info, src, dst, n, bf16);
        break;
    case TT_Q6_K:
        expand(q32_q6_k, info, src, dst, n, bf16);
        break;
    default:
        assert(!"a type without a loader");
    }
}

/* src may be unaligned even to its elements: a file decides where a tensor lies. */
static void halves_to_f32(const uint8_t *src, float *y, int64_t n, bool bf16)
{
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        const uint16_t *p = (const uint16_t *)(const void *)(src + 2 * i);
        vf_store(y + i, bf16 ? vf_load_bf16(p) : vf_load_f16(p));
    }
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, sizeof h);
        y[i] = bf16 ? tt_bf16_to_f32(h) : _cvtsh_ss(h);
    }
}

void TT_FN(tt_dequant)(tt_dtype t, const void *src, float *y, int64_t n)
{
    if (t == TT_F32) {
        memcpy(y, src, (size_t)n * sizeof *y);
    } else if (t == TT_F16 || t == TT_BF16) {
        halves_to_f32(src, y, n, t == TT_BF16);
    } else {
        expand_type(t, src, y, n, false);
    }
}

void TT_FN(tt_dequant_bf16)(tt_dtype t, const void *src, uint16_t *y, int64_t n)
{
    float piece[256];
    if (t == TT_BF16) {
        memcpy(y, src, (size_t)n * sizeof *y);
        return;
    }
    if (t != TT_F32 && t != TT_F16) {
        expand_type(t, src, y, n, true);
        return;
    }
    for (int64_t i = 0; i < n; i += 256) {
        int64_t m = n - i < 256 ? n - i : 256;
        TT_FN(tt_dequant)(t, (const char *)src + tt_row_bytes(t, i), piece, m);
        TT_FN(tt_round_bf16)(piece, y + i, m);
    }
}

void TT_FN(tt_round_bf16)(const float *src, uint16_t *dst, int64_t n)
{
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf_store_bf16(dst + i, vf_load(src + i));
    }
    if (i < n) {
        uint16_t last[VW];
        vf_store_bf16(last, vf_load_n(src + i, (int)(n - i)));
        memcpy(dst + i, last, (size_t)(n - i) * sizeof *last);
    }
}
