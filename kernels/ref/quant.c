/* quant.c - (de)quantisation of one row; see quant.h. Thread: pure functions.
 *
 * Block layouts (little endian, d and m are IEEE halves, element i of a block of 32 is qs[i] & 15
 * for i < 16 and qs[i - 16] >> 4 above, bit i of qh is the fifth bit): Q8_0  d qs[32] x = d * int8
 *   Q4_0  d qs[16]              x = d * (q - 8)
 *   Q4_1  d m qs[16]            x = d * q + m
 *   Q5_0  d qh[4] qs[16]        x = d * (q - 16)
 *   Q5_1  d m qh[4] qs[16]      x = d * q + m
 * Blocks of 256, in groups of 32 (Q6_K: 16) with a scale of their own:
 *   Q4_K  d dmin sc[12] qs[128]         x = (d * sc) * q - dmin * mn; sc and mn: 8 pairs of 6 bits
 *   Q5_K  d dmin sc[12] qh[32] qs[128]  the same with a fifth bit
 *   Q6_K  ql[128] qh[64] sc[16] d       x = (d * sc) * (q - 32); sc: int8 */
#include "kernels/quant.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>

static uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static float load_f16(const uint8_t *p)
{
    return tt_f16_to_f32(load_u16(p));
}

static void store_f16(uint8_t *p, float f)
{
    uint16_t h = tt_f32_to_f16(f);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void dequant_q8_0(const uint8_t *b, float *y)
{
    float d = load_f16(b);
    for (int i = 0; i < 32; i++) {
        y[i] = d * (float)(int8_t)b[2 + i];
    }
}

/* Q4_0, Q4_1, Q5_0, Q5_1: with_min has m after d, with_high has qh before qs. */
static void dequant_legacy(const uint8_t *b, float *y, bool with_min, bool with_high)
{
    float d = load_f16(b);
    b += 2;
    float m = 0;
    if (with_min) {
        m = load_f16(b);
        b += 2;
    }
    uint32_t qh = 0;
    if (with_high) {
        qh = load_u32(b);
        b += 4;
    }
    int centre = with_min ? 0 : with_high ? 16 : 8;
    for (int i = 0; i < 32; i++) {
        int q = i < 16 ? b[i] & 15 : b[i - 16] >> 4;
        q |= (int)((qh >> i) & 1u) << 4;
        y[i] = d * (float)(q - centre) + m;
    }
}

/* Pair j of the eight 6-bit (scale, min) pairs in 12 bytes: the first four lie plainly in bytes
 * 0..3 and 4..7; the others' low four bits share bytes 8..11 and their high two bits are the top
 * bits of the first eight bytes. */
static void unpack_scale_min(const uint8_t *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

/* Group g of 32: the low nibbles of 32 bytes for even g, their high nibbles for odd g. Q5_K: bit g
 * of qh[i] on top. */
static void dequant_q45_k(const uint8_t *b, float *y, bool with_high)
{
    float d = load_f16(b), dmin = load_f16(b + 2);
    const uint8_t *scales = b + 4;
    const uint8_t *qh = b + 16;
    const uint8_t *qs = with_high ? b + 48 : b + 16;
    for (int g = 0; g < 8; g++) {
        int sc, mn;
        unpack_scale_min(scales, g, &sc, &mn);
        float dg = d * (float)sc, mg = dmin * (float)mn;
        const uint8_t *q = qs + 32 * (g / 2);
        for (int i = 0; i < 32; i++) {
            int v = g % 2 == 0 ? q[i] & 15 : q[i] >> 4;
            if (with_high) {
                v |= ((qh[i] >> g) & 1) << 4;
            }
            y[32 * g + i] = dg * (float)v - mg;
        }
    }
}

/* Two halves of 128; in each, quarter k of 32 takes nibble k / 2 of ql[32 * (k % 2) ..] and bits
 * 2k, 2k + 1 of qh. */
static void dequant_q6_k(const uint8_t *b, float *y)
{
    const uint8_t *scales = b + 192;
    float d = load_f16(b + 208);
    for (int h = 0; h < 2; h++) {
        const uint8_t *ql = b + 64 * h;
        const uint8_t *qh = b + 128 + 32 * h;
        for (int k = 0; k < 4; k++) {
            for (int i = 0; i < 32; i++) {
                int byte = ql[32 * (k % 2) + i];
                int v = (k < 2 ? byte & 15 : byte >> 4) | ((qh[i] >> (2 * k)) & 3) << 4;
                float sc = (float)(int8_t)scales[8 * h + 2 * k + i / 16];
                y[128 * h + 32 * k + i] = d * sc * (float)(v - 32);
            }
        }
    }
}

static void dequant_block(tt_dtype t, const uint8_t *b, float *y)
{
    switch (t) {
    case TT_Q8_0:
        dequant_q8_0(b, y);
        break;
    case TT_Q4_0:
        dequant_legacy(b, y, false, false);
        break;
    case TT_Q4_1:
        dequant_legacy(b, y, true, false);
        break;
    case TT_Q5_0:
        dequant_legacy(b, y, false, true);
        break;
    case TT_Q5_1:
        dequant_legacy(b, y, true, true);
        break;
    case TT_Q4_K:
        dequant_q45_k(b, y, false);
        break;
    case TT_Q5_K:
        dequant_q45_k(b, y, true);
        break;
    default:
        assert(t == TT_Q6_K);
        dequant_q6_k(b, y);
    }
}

void tt_dequant_row(tt_dtype t, const void *src, float *y, int64_t n)
{
    const uint8_t *b = src;
    assert(t < TT_DTYPE_COUNT && n % tt_dtypes[t].block_elems == 0);
    switch (t) {
    case TT_F32:
        memcpy(y, src, (size_t)n * sizeof *y);
        return;
    case TT_F16:
        for (int64_t i = 0; i < n; i++) {
            y[i] = load_f16(b + 2 * i);
        }
        return;
    case TT_BF16:
        for (int64_t i = 0; i < n; i++) {
            y[i] = tt_bf16_to_f32(load_u16(b + 2 * i));
        }
        return;
    default:
        break;
    }
    int elems = tt_dtypes[t].block_elems, bytes = tt_dtypes[t].block_bytes;
    for (int64_t i = 0; i < n; i += elems, b += bytes) {
        dequant_block(t, b, y + i);
    }
}

static int round_clamp(double v, int lo, int hi)
{
    double r = rint(v);
    return r < lo ? lo : r > hi ? hi : (int)r;
}

static void quant_q8_0(const float *x, uint8_t *b)
{
    float amax = 0;
    for (int i = 0; i < 32; i++) {
        amax = fmaxf(amax, fabsf(x[i]));
    }
    store_f16(b, amax / 127);
    double d = load_f16(b);
    for (int i = 0; i < 32; i++) {
        b[2 + i] = (uint8_t)(int8_t)(d == 0 ? 0 : round_clamp(x[i] / d, -127, 127));
    }
}

/* The scale is taken as it was stored, in half precision, so each element gets the nearest
 * representable value. Without a min, the element of largest magnitude gets the code at the range's
 * negative end. */
static void quant_legacy(const float *x, uint8_t *b, bool with_min, bool with_high)
{
    int top = with_high ? 31 : 15, centre = with_min ? 0 : (top + 1) / 2;
    float lo = x[0], hi = x[0], peak = 0;
    for (int i = 0; i < 32; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
        peak = fabsf(x[i]) > fabsf(peak) ? x[i] : peak;
    }
    store_f16(b, with_min ? (hi - lo) / (float)top : peak / (float)-centre);
    double d = load_f16(b), m = 0;
    b += 2;
    if (with_min) {
        store_f16(b, lo);
        m = load_f16(b);
        b += 2;
    }
    uint8_t *qs = with_high ? b + 4 : b;
    uint32_t qh = 0;
    memset(qs, 0, 16);
    for (int i = 0; i < 32; i++) {
        uint32_t q =
            d == 0 ? (uint32_t)centre : (uint32_t)round_clamp((x[i] - m) / d + centre, 0, top);
        qs[i % 16] |= (uint8_t)((q & 15u) << (i < 16 ? 0 : 4));
        qh |= (q >> 4) << i;
    }
    if (with_high) {
        for (int i = 0; i < 4; i++) {
            b[i] = (uint8_t)(qh >> (8 * i));
        }
    }
}

static void quant_block(tt_dtype t, const float *x, uint8_t *b)
{
    if (t == TT_Q8_0) {
        quant_q8_0(x, b);
    } else {
        quant_legacy(x, b, t == TT_Q4_1 || t == TT_Q5_1, t == TT_Q5_0 || t == TT_Q5_1);
    }
}

int tt_quant_row(tt_dtype t, const float *x, void *dst, int64_t n)
{
    uint8_t *b = dst;
    assert(t < TT_DTYPE_COUNT && n % tt_dtypes[t].block_elems == 0);
    switch (t) {
    case TT_F32:
        memcpy(dst, x, (size_t)n * sizeof *x);
        return 0;
    case TT_F16:
        for (int64_t i = 0; i < n; i++) {
            store_f16(b + 2 * i, x[i]);
        }
        return 0;
    case TT_BF16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h = tt_f32_to_bf16(x[i]);
            b[2 * i] = (uint8_t)h;
            b[2 * i + 1] = (uint8_t)(h >> 8);
        }
        return 0;
    case TT_Q8_0:
    case TT_Q4_0:
    case TT_Q4_1:
    case TT_Q5_0:
    case TT_Q5_1:
        for (int64_t i = 0; i < n; i += 32, b += tt_dtypes[t].block_bytes) {
            quant_block(t, x + i, b);
        }
        return 0;
    default:
        return -1;
    }
}
