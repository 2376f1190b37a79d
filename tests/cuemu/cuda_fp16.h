/* cuda_fp16.h - stand-in for NVIDIA's header of that name: IEEE half as a storage type with its
 * conversions (round to nearest even, subnormals, infinities, NaN). Thread: pure functions. */
#ifndef CUEMU_CUDA_FP16_H
#define CUEMU_CUDA_FP16_H

#include "cuda_runtime.h"

struct __align__(2) __half
{
    uint16_t x;
};
struct __align__(4) __half2
{
    __half x, y;
};
typedef __half half;
typedef __half2 half2;

static inline __half __ushort_as_half(uint16_t bits)
{
    return {bits};
}

static inline float __half2float(__half h)
{
    unsigned sign = (h.x & 0x8000u) << 16, exponent = h.x >> 10 & 31u, mantissa = h.x & 1023u;
    if (exponent == 31) {
        return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    }
    if (exponent == 0) { /* mantissa * 2^-24 is exact in a float */
        float f = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -f : f;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline __half __float2half_rn(float f)
{
    unsigned u = __float_as_uint(f), sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) {
        return {(uint16_t)0x7fff};
    }
    if (u >= 0x477ff000u) { /* 65520 and above rounds to infinity */
        return {(uint16_t)(sign | 0x7c00u)};
    }
    if (u < 0x38800000u) { /* subnormal: adding 0.5 rounds to units of 2^-24, nearest even */
        float shifted = __uint_as_float(u) + 0.5f;
        return {(uint16_t)(sign | (__float_as_uint(shifted) - 0x3f000000u))};
    }
    u += 0xfffu + (u >> 13 & 1u);
    return {(uint16_t)(sign | ((u - 0x38000000u) >> 13))};
}

static inline __half __float2half(float f)
{
    return __float2half_rn(f);
}

#endif
