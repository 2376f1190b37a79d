/* dequant_cuda.cuh - one element of a quantised row. Layouts and the order of operations are those
 * of kernels/ref/quant.c. Blocks are read by bytes, since 18, 20, 22 and 210 bytes align nothing.
 * Thread: device code. */
#ifndef TT_DEQUANT_CUDA_CUH
#define TT_DEQUANT_CUDA_CUH

#include <cuda_fp16.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/dtype.h"

static __device__ __forceinline__ unsigned load_u16(const uint8_t *p)
{
    return p[0] | (unsigned)p[1] << 8;
}

static __device__ __forceinline__ float load_f16(const uint8_t *p)
{
    return __half2float(__ushort_as_half((unsigned short)load_u16(p)));
}

/* Q4_0, Q4_1, Q5_0, Q5_1: with_min has m after d, with_high has the fifth bits before the nibbles.
 */
template <bool with_min, bool with_high>
static __device__ __forceinline__ float legacy_element(const uint8_t *b, int i)
{
    float d = load_f16(b), m = with_min ? load_f16(b + 2) : 0.0f;
    const uint8_t *high = b + (with_min ? 4 : 2), *nibbles = high + (with_high ? 4 : 0);
    int q = i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
    if (with_high) {
        q |= (high[i / 8] >> (i % 8) & 1) << 4;
    }
    int centre = with_min ? 0 : with_high ? 16 : 8;
    return d * (float)(q - centre) + m;
}

/* Q4_K, Q5_K: eight groups of 32 with a scale and a minimum of 6 bits each. */
template <bool with_high>
static __device__ __forceinline__ float k45_element(const uint8_t *b, int i)
{
    const uint8_t *s = b + 4;
    int g = i / 32, at = i % 32, scale, min;
    if (g < 4) {
        scale = s[g] & 63;
        min = s[g + 4] & 63;
    } else {
        scale = (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
        min = s[g + 4] >> 4 | (s[g] >> 6) << 4;
    }
    int byte = b[(with_high ? 48 : 16) + 32 * (g / 2) + at];
    int q = g % 2 == 0 ? byte & 15 : byte >> 4;
    if (with_high) {
        q |= (b[16 + at] >> g & 1) << 4;
    }
    return load_f16(b) * (float)scale * (float)q - load_f16(b + 2) * (float)min;
}

/* Q6_K: two halves of 128; quarter k of 32 takes nibble k / 2 of ql and bits 2k, 2k + 1 of qh. */
static __device__ __forceinline__ float k6_element(const uint8_t *b, int i)
{
    int h = i / 128, k = i % 128 / 32, at = i % 32;
    int low = b[64 * h + 32 * (k % 2) + at], high = b[128 + 32 * h + at];
    int q = (k < 2 ? low & 15 : low >> 4) | (high >> (2 * k) & 3) << 4;
    float scale = (float)(int8_t)b[192 + i / 16];
    return load_f16(b + 208) * scale * (float)(q - 32);
}

/* Element i of the row that begins at `row`. */
template <tt_dtype type>
static __device__ __forceinline__ float row_element(const uint8_t *row, int64_t i)
{
    switch (type) {
    case TT_F32:
        return reinterpret_cast<const float *>(row)[i];
    case TT_F16:
        return load_f16(row + 2 * i);
    case TT_BF16:
        return __uint_as_float(load_u16(row + 2 * i) << 16);
    case TT_Q8_0:
        return load_f16(row + i / 32 * 34) * (float)(int8_t)row[i / 32 * 34 + 2 + i % 32];
    case TT_Q4_0:
        return legacy_element<false, false>(row + i / 32 * 18, (int)(i % 32));
    case TT_Q4_1:
        return legacy_element<true, false>(row + i / 32 * 20, (int)(i % 32));
    case TT_Q5_0:
        return legacy_element<false, true>(row + i / 32 * 22, (int)(i % 32));
    case TT_Q5_1:
        return legacy_element<true, true>(row + i / 32 * 24, (int)(i % 32));
    case TT_Q4_K:
        return k45_element<false>(row + i / 256 * 144, (int)(i % 256));
    case TT_Q5_K:
        return k45_element<true>(row + i / 256 * 176, (int)(i % 256));
    default:
        return k6_element(row + i / 256 * 210, (int)(i % 256));
    }
}

#endif
