/* group_cuda.cuh - 32 elements of a row at once, of any type, rounded to BF16 and packed two by
 * two: what the products of few rows feed to tensor cores, and what panels for cuBLAS are made of.
 * Thread: device code.
 *
 * Layouts and the order of operations are those of kernels/ref/quant.c. Quantised rows begin at an
 * address that is a multiple of 16 and their blocks have an even number of bytes, so halves are
 * read whole; blocks of Q4_K and Q5_K are multiples of 16 and are read 16 bytes at a time. */
#ifndef TT_GROUP_CUDA_CUH
#define TT_GROUP_CUDA_CUH

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/dequant_cuda.cuh"
#include "kernels/dtype.h"

enum { GROUP = 32, GROUP_PAIRS = GROUP / 2 };

static __device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static __device__ __forceinline__ unsigned two_bytes(const uint8_t *p)
{
    return *reinterpret_cast<const uint16_t *>(p);
}

static __device__ __forceinline__ float f16_at(const uint8_t *p)
{
    return __half2float(__ushort_as_half((unsigned short)two_bytes(p)));
}

static __device__ __forceinline__ void sixteen_bytes(const uint8_t *p, uint32_t words[4])
{
    uint4 v = *reinterpret_cast<const uint4 *>(p);
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
}

static __device__ __forceinline__ void q8_0_group(const uint8_t *b, uint32_t pairs[GROUP_PAIRS])
{
    float d = f16_at(b);
    for (int i = 0; i < GROUP_PAIRS; i++) {
        unsigned two = two_bytes(b + 2 + 2 * i);
        pairs[i] = pack_bf16(d * (float)(int8_t)(two & 255u), d * (float)(int8_t)(two >> 8));
    }
}

/* Q4_0, Q4_1, Q5_0, Q5_1: with_min has m after d, with_high has the fifth bits before the nibbles.
 */
template <bool with_min, bool with_high>
static __device__ __forceinline__ void legacy_group(const uint8_t *b, uint32_t pairs[GROUP_PAIRS])
{
    const int centre = with_min ? 0 : with_high ? 16 : 8;
    const uint8_t *high = b + (with_min ? 4 : 2), *nibbles = high + (with_high ? 4 : 0);
    float d = f16_at(b), m = with_min ? f16_at(b + 2) : 0.0f;
    unsigned fifth = with_high ? two_bytes(high) | two_bytes(high + 2) << 16 : 0;
    auto value = [&](unsigned bits, int i) {
        unsigned q = (bits & 15u) | (with_high ? (fifth >> i & 1u) << 4 : 0);
        return d * (float)((int)q - centre) + m;
    };
    for (int i = 0; i < GROUP_PAIRS / 2; i++) {
        unsigned two = two_bytes(nibbles + 2 * i);
        pairs[i] = pack_bf16(value(two, 2 * i), value(two >> 8, 2 * i + 1));
        pairs[8 + i] = pack_bf16(value(two >> 4, 16 + 2 * i), value(two >> 12, 17 + 2 * i));
    }
}

/* Group g of eight of a block of Q4_K or Q5_K: the low nibbles of 32 bytes for even g, their high
 * nibbles for odd g, and bit g of each byte of qh on top. */
template <bool with_high>
static __device__ __forceinline__ void k45_group(const uint8_t *b, int g,
                                                 uint32_t pairs[GROUP_PAIRS])
{
    const uint8_t *s = b + 4;
    int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
    int min = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | (s[g] >> 6) << 4;
    float d = f16_at(b) * (float)scale, m = f16_at(b + 2) * (float)min;
    const uint8_t *nibbles = b + (with_high ? 48 : 16) + 32 * (g / 2);
    for (int half = 0; half < 2; half++) {
        uint32_t q[4], high[4] = {};
        sixteen_bytes(nibbles + 16 * half, q);
        if (with_high) {
            sixteen_bytes(b + 16 + 16 * half, high);
        }
        for (int i = 0; i < 8; i++) {
            int shift = 16 * (i % 2);
            uint32_t low = q[i / 2] >> (shift + 4 * (g % 2)), top = high[i / 2] >> (shift + g);
            float first = (float)((low & 15u) | (top & 1u) << 4);
            float second = (float)((low >> 8 & 15u) | (top >> 8 & 1u) << 4);
            pairs[8 * half + i] = pack_bf16(d * first - m, d * second - m);
        }
    }
}

/* Group g of a block of Q6_K is quarter g % 4 of half g / 4; it has two scales. */
static __device__ __forceinline__ void k6_group(const uint8_t *b, int g,
                                                uint32_t pairs[GROUP_PAIRS])
{
    int quarter = g % 4;
    const uint8_t *low = b + 64 * (g / 4) + 32 * (quarter % 2), *high = b + 128 + 32 * (g / 4);
    float d = f16_at(b + 208);
    float scale0 = d * (float)(int8_t)b[192 + 2 * g], scale1 = d * (float)(int8_t)b[193 + 2 * g];
    for (int i = 0; i < GROUP_PAIRS; i++) {
        unsigned q = two_bytes(low + 2 * i) >> (quarter < 2 ? 0 : 4);
        unsigned top = two_bytes(high + 2 * i) >> (2 * quarter);
        float scale = i < 8 ? scale0 : scale1;
        int first = (int)((q & 15u) | (top & 3u) << 4);
        int second = (int)((q >> 8 & 15u) | (top >> 8 & 3u) << 4);
        pairs[i] = pack_bf16(scale * (float)(first - 32), scale * (float)(second - 32));
    }
}

/* Elements [first, first + 32) of a row of F32, F16 or BF16, zeros from `cols` on. aligned: the row
 * begins at a multiple of 16 bytes and all of its groups are whole. */
template <tt_dtype type>
static __device__ __forceinline__ void plain_group(const uint8_t *row, int first, int cols,
                                                   bool aligned, uint32_t pairs[GROUP_PAIRS])
{
    if (!aligned) {
        for (int i = 0; i < GROUP_PAIRS; i++) {
            int e = first + 2 * i;
            float low = e < cols ? row_element<type>(row, e) : 0.0f;
            float high = e + 1 < cols ? row_element<type>(row, e + 1) : 0.0f;
            pairs[i] = pack_bf16(low, high);
        }
        return;
    }
    if (type == TT_F32) {
        const float4 *from = reinterpret_cast<const float4 *>(row) + first / 4;
        for (int i = 0; i < GROUP_PAIRS / 2; i++) {
            float4 v = from[i];
            pairs[2 * i] = pack_bf16(v.x, v.y);
            pairs[2 * i + 1] = pack_bf16(v.z, v.w);
        }
    }
    for (int i = 0; type != TT_F32 && i < GROUP_PAIRS / 4; i++) {
        uint32_t two[4];
        sixteen_bytes(row + 2 * first + 16 * i, two);
        for (int j = 0; j < 4; j++) {
            float low = __half2float(__ushort_as_half((unsigned short)(two[j] & 0xffffu)));
            float high = __half2float(__ushort_as_half((unsigned short)(two[j] >> 16)));
            pairs[4 * i + j] = type == TT_BF16 ? two[j] : pack_bf16(low, high);
        }
    }
}

/* Group `group` of the row that begins at `row`; cols and aligned matter to plain types alone. */
template <tt_dtype type>
static __device__ __forceinline__ void load_group(const uint8_t *row, int group, int cols,
                                                  bool aligned, uint32_t pairs[GROUP_PAIRS])
{
    size_t at = (size_t)group, block = (size_t)(group / 8);
    switch (type) {
    case TT_Q8_0:
        return q8_0_group(row + at * 34, pairs);
    case TT_Q4_0:
        return legacy_group<false, false>(row + at * 18, pairs);
    case TT_Q4_1:
        return legacy_group<true, false>(row + at * 20, pairs);
    case TT_Q5_0:
        return legacy_group<false, true>(row + at * 22, pairs);
    case TT_Q5_1:
        return legacy_group<true, true>(row + at * 24, pairs);
    case TT_Q4_K:
        return k45_group<false>(row + block * 144, group % 8, pairs);
    case TT_Q5_K:
        return k45_group<true>(row + block * 176, group % 8, pairs);
    case TT_Q6_K:
        return k6_group(row + block * 210, group % 8, pairs);
    default:
        return plain_group<type>(row, group * GROUP, cols, aligned, pairs);
    }
}

#endif
