/* dtype.c - the table of element types and the half-precision conversions. Thread: pure functions.
 * Source: IEEE 754 binary16; block sizes from the GGUF format. */
#include "kernels/dtype.h"

const tt_dtype_info tt_dtypes[TT_DTYPE_COUNT] = {
    [TT_F32] = {"F32", 1, 4},       [TT_F16] = {"F16", 1, 2},       [TT_BF16] = {"BF16", 1, 2},
    [TT_Q8_0] = {"Q8_0", 32, 34},   [TT_Q4_0] = {"Q4_0", 32, 18},   [TT_Q4_1] = {"Q4_1", 32, 20},
    [TT_Q5_0] = {"Q5_0", 32, 22},   [TT_Q5_1] = {"Q5_1", 32, 24},   [TT_Q4_K] = {"Q4_K", 256, 144},
    [TT_Q5_K] = {"Q5_K", 256, 176}, [TT_Q6_K] = {"Q6_K", 256, 210}, [TT_I8] = {"I8", 1, 1},
};

float tt_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exp = (h >> 10) & 0x1Fu;
    uint32_t mant = h & 0x3FFu;
    uint32_t u;
    if (exp == 0x1F) { /* infinity, NaN */
        u = sign | 0x7F800000u | mant << 13;
    } else if (exp != 0) {
        u = sign | (exp + 112) << 23 | mant << 13;
    } else { /* zero, subnormal: mant * 2^-24 is exact in f32 */
        float f = (float)mant * 0x1p-24f;
        memcpy(&u, &f, sizeof u);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint16_t tt_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = (u >> 16) & 0x8000u;
    u &= 0x7FFFFFFFu;
    if (u > 0x7F800000u) { /* NaN: keep the top of the payload, make it quiet */
        return (uint16_t)(sign | 0x7E00u | ((u >> 13) & 0x3FFu));
    }
    if (u >= 0x477FF000u) { /* 65520 and above rounds to infinity */
        return (uint16_t)(sign | 0x7C00u);
    }
    if (u >= 0x38800000u) { /* normal: 2^-14 and above; a carry out of the mantissa lands in the
                               exponent */
        uint32_t r = u - 0x38000000u;
        return (uint16_t)(sign | (r + 0xFFFu + ((r >> 13) & 1u)) >> 13);
    }
    if (u < 0x33000000u) { /* below 2^-25 */
        return (uint16_t)sign;
    }
    uint32_t shift = 126 - (u >> 23); /* 14..24: brings the mantissa to units of 2^-24 */
    uint32_t mant = (u & 0x7FFFFFu) | 0x800000u;
    uint32_t half = 1u << (shift - 1);
    uint32_t r = mant >> shift;
    uint32_t rest = mant & ((1u << shift) - 1);
    if (rest > half || (rest == half && (r & 1u))) {
        r++;
    }
    return (uint16_t)(sign | r);
}
