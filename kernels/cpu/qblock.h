/* qblock.h - 32 weights of a quantised block as vectors of floats. Block layouts: see
 * kernels/ref/quant.c, the definition; values differ from it by the rounding of a fused
 * multiply-add at most. Thread: pure functions.
 *
 * A loader takes the address of a block and the number of a group of 32 in it (0 in the small
 * formats, 0..7 in the K formats). The drivers in dequant.c and matvec.c take a loader as a
 * constant, so that it is compiled into their loops. */
#ifndef TT_QBLOCK_H
#define TT_QBLOCK_H

#include "kernels/cpu/simd.h"

enum { QV = 32 / VW }; /* vectors of a group */

typedef struct q32 {
    vf v[QV];
} q32;

typedef q32 (*q32_loader)(const uint8_t *block, int group);

static inline float q_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

enum { HALF = 16 / VW }; /* vectors of 16 */

/* 16 bytes of two nibbles: the low ones are elements 0..15, the high ones 16..31. */
TT_INLINE __m256i q_nibbles(const uint8_t *p)
{
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(b), _mm_srli_epi16(b, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

TT_INLINE __m256i q_bytes(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* Bit i of the 4 bytes at p as byte i: `set` where it is 1, else 0. */
TT_INLINE __m256i q_bits(const uint8_t *p, char set)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    const __m256i spread = _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101,
                                              0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(set));
}

/* q = d * q + m */
TT_INLINE q32 q_scaled(q32 q, vf d, vf m)
{
    for (int i = 0; i < QV; i++) {
        q.v[i] = vf_fma(q.v[i], d, m);
    }
    return q;
}

/* 32 signed bytes as floats. */
TT_INLINE q32 q_floats(__m256i q)
{
    q32 r;
    vf_from_i8x16(_mm256_castsi256_si128(q), r.v);
    vf_from_i8x16(_mm256_extracti128_si256(q, 1), r.v + HALF);
    return r;
}

/* The nibbles of 16 bytes as floats, in the order of q_nibbles(). */
TT_INLINE q32 q_nibble_floats(const uint8_t *p)
{
    q32 r;
    vf_from_nibbles(p, 0, r.v);
    vf_from_nibbles(p, 1, r.v + HALF);
    return r;
}

TT_INLINE q32 q32_q8_0(const uint8_t *b, int group)
{
    (void)group;
    return q_scaled(q_floats(q_bytes(b + 2)), vf_half1(b), vf_zero());
}

TT_INLINE q32 q32_q4_0(const uint8_t *b, int group)
{
    (void)group;
    vf d = vf_half1(b);
    return q_scaled(q_nibble_floats(b + 2), d, vf_mul(d, vf_set1(-8)));
}

TT_INLINE q32 q32_q4_1(const uint8_t *b, int group)
{
    (void)group;
    return q_scaled(q_nibble_floats(b + 4), vf_half1(b), vf_half1(b + 2));
}

TT_INLINE q32 q32_q5_0(const uint8_t *b, int group)
{
    (void)group;
    vf d = vf_half1(b);
    return q_scaled(q_floats(_mm256_or_si256(q_nibbles(b + 6), q_bits(b + 2, 16))), d,
                    vf_mul(d, vf_set1(-16)));
}

TT_INLINE q32 q32_q5_1(const uint8_t *b, int group)
{
    (void)group;
    __m256i q = _mm256_or_si256(q_nibbles(b + 8), q_bits(b + 4, 16));
    return q_scaled(q_floats(q), vf_half1(b), vf_half1(b + 2));
}

/* Scale and minimum of a group out of the 12 bytes at p, times d and -dmin. */
TT_INLINE void q_scale_k(const uint8_t *block, int group, vf *ret_d, vf *ret_m)
{
    const uint8_t *p = block + 4;
    int s, m;
    if (group < 4) {
        s = p[group] & 63;
        m = p[group + 4] & 63;
    } else {
        s = (p[group + 4] & 15) | (p[group - 4] >> 6) << 4;
        m = p[group + 4] >> 4 | (p[group] >> 6) << 4;
    }
    *ret_d = vf_mul(vf_half1(block), vf_set1((float)s));
    *ret_m = vf_mul(vf_half1(block + 2), vf_set1((float)-m));
}

/* The low or high nibbles of 32 bytes. */
TT_INLINE __m256i q_nibble_of(const uint8_t *p, int high)
{
    return _mm256_and_si256(_mm256_srl_epi16(q_bytes(p), _mm_cvtsi32_si128(4 * high)),
                            _mm256_set1_epi8(15));
}

TT_INLINE q32 q32_q4_k(const uint8_t *b, int group)
{
    vf d, m;
    q_scale_k(b, group, &d, &m);
    const uint8_t *p = b + 16 + 32 * (group >> 1);
    q32 r;
    vf_from_nibbles(p, group & 1, r.v);
    vf_from_nibbles(p + 16, group & 1, r.v + HALF);
    return q_scaled(r, d, m);
}

TT_INLINE q32 q32_q5_k(const uint8_t *b, int group)
{
    vf d, m;
    q_scale_k(b, group, &d, &m);
    __m256i q = q_nibble_of(b + 48 + 32 * (group >> 1), group & 1);
    __m256i h = _mm256_srl_epi16(q_bytes(b + 16), _mm_cvtsi32_si128(group));
    h = _mm256_slli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(1)), 4);
    return q_scaled(q_floats(_mm256_or_si256(q, h)), d, m);
}

/* Groups 0..3 and 4..7 are the halves of 128; 16 elements share a scale. */
TT_INLINE q32 q32_q6_k(const uint8_t *b, int group)
{
    int half = group >> 2, j = group & 3;
    __m256i q = q_nibble_of(b + 64 * half + 32 * (j & 1), j >> 1);
    __m256i h = _mm256_srl_epi16(q_bytes(b + 128 + 32 * half), _mm_cvtsi32_si128(2 * j));
    h = _mm256_slli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(3)), 4);
    const int8_t *s = (const int8_t *)(b + 192) + 2 * group;
    float d = q_half(b + 208);
    q32 r = q_floats(_mm256_sub_epi8(_mm256_or_si256(q, h), _mm256_set1_epi8(32)));
    for (int i = 0; i < QV; i++) {
        r.v[i] = vf_mul(r.v[i], vf_set1(d * (float)s[2 * i / QV]));
    }
    return r;
}

#endif
