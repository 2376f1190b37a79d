/* qblock.h - 32 weights of a quantised block as vectors of floats. Block layouts: see
 * kernels/ref/quant.c, the definition; values differ from it by the rounding of a fused
 * multiply-add at most. Thread: pure functions.
 *
 * A loader takes the address of a block and the number of a group of 32 in it (0 in the small
 * formats, 0..7 in the K formats). The drivers in dequant.c and matvec.c take a loader as a
 * constant, so that it is compiled into their loops.
 *
 * To take a scale out of each block costs as much as to take 32 weights: matvec.c works out those
 * of many blocks at once and reads the groups without them, as whole numbers. Group 2 * pair + odd
 * then, so that the bytes that two groups share are read once. */
#ifndef TT_QBLOCK_H
#define TT_QBLOCK_H

#include "kernels/cpu/simd.h"

enum { QV = 32 / VW }; /* vectors of a group */

typedef struct q32 {
    vf v[QV];
} q32;

typedef q32 (*q32_loader)(const uint8_t *block, int group);
typedef q32 (*q32_whole_loader)(const uint8_t *block, int pair, int odd);

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

/* The low or high nibbles of 32 bytes. */
TT_INLINE __m256i q_nibble_of(const uint8_t *p, int high)
{
    return _mm256_and_si256(_mm256_srl_epi16(q_bytes(p), _mm_cvtsi32_si128(4 * high)),
                            _mm256_set1_epi8(15));
}

/* ---- a group as whole numbers, without its scale ---- */

TT_INLINE q32 q32_whole_q8_0(const uint8_t *b, int pair, int odd)
{
    (void)pair;
    (void)odd;
    return q_floats(q_bytes(b + 2));
}

TT_INLINE q32 q32_whole_q4_0(const uint8_t *b, int pair, int odd)
{
    (void)pair;
    (void)odd;
    return q_nibble_floats(b + 2);
}

TT_INLINE q32 q32_whole_q4_1(const uint8_t *b, int pair, int odd)
{
    (void)pair;
    (void)odd;
    return q_nibble_floats(b + 4);
}

TT_INLINE q32 q32_whole_q4_k(const uint8_t *b, int pair, int odd)
{
    const uint8_t *p = b + 16 + 32 * pair;
    q32 r;
    vf_from_nibbles(p, odd, r.v);
    vf_from_nibbles(p + 16, odd, r.v + HALF);
    return r;
}

#if defined(__AVX512F__)

/* 32 nibbles (16 bytes at p) and, where the bit is set, 16. */
TT_INLINE q32 q_nibbles_16(const uint8_t *p, const uint8_t *bits)
{
    uint16_t k[2];
    memcpy(k, bits, sizeof k);
    const vf more = vf_set1(16);
    q32 r = q_nibble_floats(p);
    r.v[0] = _mm512_mask_add_ps(r.v[0], k[0], r.v[0], more);
    r.v[1] = _mm512_mask_add_ps(r.v[1], k[1], r.v[1], more);
    return r;
}

TT_INLINE q32 q32_whole_q5_k(const uint8_t *b, int pair, int odd)
{
    const __m128i bit = _mm_set1_epi8((char)(1 << (2 * pair + odd)));
    const vf more = vf_set1(16);
    q32 r;
    for (int i = 0; i < QV; i++) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(b + 16 + 16 * i));
        vf_from_nibbles(b + 48 + 32 * pair + 16 * i, odd, r.v + i);
        r.v[i] = _mm512_mask_add_ps(r.v[i], _mm_test_epi8_mask(h, bit), r.v[i], more);
    }
    return r;
}

/* The table of the two high bits repeats, so that the bits above them need not be cleared. */
TT_INLINE q32 q32_whole_q6_k(const uint8_t *b, int pair, int odd)
{
    const __m512 table =
        _mm512_setr_ps(-32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16);
    int half = pair >> 1, high = pair & 1;
    q32 r;
    for (int i = 0; i < QV; i++) {
        const uint8_t *p = b + 128 + 32 * half + 16 * i;
        __m512i h = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
        h = _mm512_srl_epi32(h, _mm_cvtsi32_si128(4 * high + 2 * odd));
        vf_from_nibbles(b + 64 * half + 32 * odd + 16 * i, high, r.v + i);
        r.v[i] = vf_add(r.v[i], _mm512_permutexvar_ps(h, table));
    }
    return r;
}

#else

TT_INLINE q32 q_nibbles_16(const uint8_t *p, const uint8_t *bits)
{
    return q_floats(_mm256_or_si256(q_nibbles(p), q_bits(bits, 16)));
}

TT_INLINE q32 q32_whole_q5_k(const uint8_t *b, int pair, int odd)
{
    __m256i q = q_nibble_of(b + 48 + 32 * pair, odd);
    __m256i h = _mm256_srl_epi16(q_bytes(b + 16), _mm_cvtsi32_si128(2 * pair + odd));
    h = _mm256_slli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(1)), 4);
    return q_floats(_mm256_or_si256(q, h));
}

TT_INLINE q32 q32_whole_q6_k(const uint8_t *b, int pair, int odd)
{
    int half = pair >> 1, high = pair & 1;
    __m256i q = q_nibble_of(b + 64 * half + 32 * odd, high);
    __m256i h =
        _mm256_srl_epi16(q_bytes(b + 128 + 32 * half), _mm_cvtsi32_si128(4 * high + 2 * odd));
    h = _mm256_slli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(3)), 4);
    return q_floats(_mm256_sub_epi8(_mm256_or_si256(q, h), _mm256_set1_epi8(32)));
}

#endif

TT_INLINE q32 q32_whole_q5_0(const uint8_t *b, int pair, int odd)
{
    (void)pair;
    (void)odd;
    return q_nibbles_16(b + 6, b + 2);
}

TT_INLINE q32 q32_whole_q5_1(const uint8_t *b, int pair, int odd)
{
    (void)pair;
    (void)odd;
    return q_nibbles_16(b + 8, b + 4);
}

/* ---- the scales of many groups ---- */

enum {
    Q_CHUNK = 64,           /* groups whose scales are worked out together */
    Q_MIN_AT = Q_CHUNK,     /* small formats: scale of block i at i, its minimum at Q_MIN_AT + i */
    Q_SCALES = 2 * Q_CHUNK, /* floats of a chunk */
    Q_SCALES_K = 16,        /* K formats: floats of a block, */
    Q_MIN_AT_K = 8          /* eight scales, then eight minima; Q6_K sixteen scales */
};

/* Of n blocks at b into s[Q_SCALES]; a minimum is added, so those of the K formats are negative. */
typedef void (*q_scaler)(const uint8_t *b, int n, float *s);

/* Small formats: a block begins with its scale. The minimum is `centre` scales or, with 0, follows
 * the scale. */
TT_INLINE void q_scales_small(const uint8_t *b, int stride, int n, float centre, float *s)
{
    for (int i = 0; i < n; i += VW) {
        vf v[2];
        vf_gather_f16(b + (int64_t)i * stride, stride, n - i, v);
        vf_store(s + i, v[0]);
        vf_store(s + Q_MIN_AT + i, centre == 0 ? v[1] : vf_mul(v[0], vf_set1(centre)));
    }
}

TT_INLINE void q_scales_q8_0(const uint8_t *b, int n, float *s)
{
    q_scales_small(b, 34, n, 1, s); /* no minimum: nobody reads it */
}

TT_INLINE void q_scales_q4_0(const uint8_t *b, int n, float *s)
{
    q_scales_small(b, 18, n, -8, s);
}

TT_INLINE void q_scales_q5_0(const uint8_t *b, int n, float *s)
{
    q_scales_small(b, 22, n, -16, s);
}

TT_INLINE void q_scales_q4_1(const uint8_t *b, int n, float *s)
{
    q_scales_small(b, 20, n, 0, s);
}

TT_INLINE void q_scales_q5_1(const uint8_t *b, int n, float *s)
{
    q_scales_small(b, 24, n, 0, s);
}

/* Q4_K and Q5_K: eight scales and eight minima of six bits in the 12 bytes behind d and dmin. */
TT_INLINE void q_scales_k(const uint8_t *b, int64_t stride, int n, float *s)
{
    for (int i = 0; i < n; i++, b += stride, s += Q_SCALES_K) {
        uint32_t w[3];
        memcpy(w, b + 4, sizeof w);
        uint32_t d[2] = {w[0] & 0x3F3F3F3F, (w[2] & 0x0F0F0F0F) | (w[0] >> 2 & 0x30303030)};
        uint32_t m[2] = {w[1] & 0x3F3F3F3F, (w[2] >> 4 & 0x0F0F0F0F) | (w[1] >> 2 & 0x30303030)};
        __m128i all = _mm_set_epi64x((long long)((uint64_t)m[1] << 32 | m[0]),
                                     (long long)((uint64_t)d[1] << 32 | d[0]));
        vf_scale_i8x16(all, q_half(b), -q_half(b + 2), s);
    }
}

TT_INLINE void q_scales_q4_k(const uint8_t *b, int n, float *s)
{
    q_scales_k(b, 144, n, s);
}

TT_INLINE void q_scales_q5_k(const uint8_t *b, int n, float *s)
{
    q_scales_k(b, 176, n, s);
}

TT_INLINE void q_scales_q6_k(const uint8_t *b, int n, float *s)
{
    for (int i = 0; i < n; i++, b += 210, s += Q_SCALES_K) {
        float d = q_half(b + 208);
        vf_scale_i8x16(_mm_loadu_si128((const __m128i *)(const void *)(b + 192)), d, d, s);
    }
}

/* ---- a group with its scale ---- */

TT_INLINE q32 q32_q8_0(const uint8_t *b, int group)
{
    (void)group;
    return q_scaled(q32_whole_q8_0(b, 0, 0), vf_half1(b), vf_zero());
}

TT_INLINE q32 q32_q4_0(const uint8_t *b, int group)
{
    (void)group;
    vf d = vf_half1(b);
    return q_scaled(q32_whole_q4_0(b, 0, 0), d, vf_mul(d, vf_set1(-8)));
}

TT_INLINE q32 q32_q4_1(const uint8_t *b, int group)
{
    (void)group;
    return q_scaled(q32_whole_q4_1(b, 0, 0), vf_half1(b), vf_half1(b + 2));
}

TT_INLINE q32 q32_q5_0(const uint8_t *b, int group)
{
    (void)group;
    vf d = vf_half1(b);
    return q_scaled(q32_whole_q5_0(b, 0, 0), d, vf_mul(d, vf_set1(-16)));
}

TT_INLINE q32 q32_q5_1(const uint8_t *b, int group)
{
    (void)group;
    return q_scaled(q32_whole_q5_1(b, 0, 0), vf_half1(b), vf_half1(b + 2));
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

TT_INLINE q32 q32_q4_k(const uint8_t *b, int group)
{
    vf d, m;
    q_scale_k(b, group, &d, &m);
    return q_scaled(q32_whole_q4_k(b, group >> 1, group & 1), d, m);
}

TT_INLINE q32 q32_q5_k(const uint8_t *b, int group)
{
    vf d, m;
    q_scale_k(b, group, &d, &m);
    return q_scaled(q32_whole_q5_k(b, group >> 1, group & 1), d, m);
}

/* Groups 0..3 and 4..7 are the halves of 128; 16 elements share a scale. */
TT_INLINE q32 q32_q6_k(const uint8_t *b, int group)
{
    const int8_t *s = (const int8_t *)(b + 192) + 2 * group;
    float d = q_half(b + 208);
    q32 r = q32_whole_q6_k(b, group >> 1, group & 1);
    for (int i = 0; i < QV; i++) {
        r.v[i] = vf_mul(r.v[i], vf_set1(d * (float)s[2 * i / QV]));
    }
    return r;
}

#endif
