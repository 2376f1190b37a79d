/* dequant.c - rows of weights in the files' formats to floats or BF16, 32 elements at a time. Block layouts: see
 * kernels/ref/quant.c, the definition; results differ from it by the rounding of a fused multiply-add at most.
 * Thread: pure functions. */
#include "kernels/cpu/kern.h"

#include <assert.h>

typedef void (*block_fn)(const uint8_t *b, float *y);

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

/* 16 bytes of two nibbles: the low ones are elements 0..15, the high ones 16..31. */
static __m256i nibbles32(const uint8_t *p)
{
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(b), _mm_srli_epi16(b, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* Bit i of the 4 bytes at p as byte i: `set` where it is 1, else 0. */
static __m256i bits32(const uint8_t *p, char set)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    const __m256i spread = _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101, 0x0202020202020202,
                                              0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(set));
}

static void block_q8_0(const uint8_t *b, float *y)
{
    __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(b + 2));
    vf_put32(y, q, vf_set1(half_at(b)), vf_zero());
}

static void block_q4_0(const uint8_t *b, float *y)
{
    __m256i q = _mm256_sub_epi8(nibbles32(b + 2), _mm256_set1_epi8(8));
    vf_put32(y, q, vf_set1(half_at(b)), vf_zero());
}

static void block_q4_1(const uint8_t *b, float *y)
{
    vf_put32(y, nibbles32(b + 4), vf_set1(half_at(b)), vf_set1(half_at(b + 2)));
}

static void block_q5_0(const uint8_t *b, float *y)
{
    __m256i q = _mm256_or_si256(nibbles32(b + 6), bits32(b + 2, 16));
    vf_put32(y, _mm256_sub_epi8(q, _mm256_set1_epi8(16)), vf_set1(half_at(b)), vf_zero());
}

static void block_q5_1(const uint8_t *b, float *y)
{
    __m256i q = _mm256_or_si256(nibbles32(b + 8), bits32(b + 4, 16));
    vf_put32(y, q, vf_set1(half_at(b)), vf_set1(half_at(b + 2)));
}

/* The eight 6-bit scales and eight 6-bit minima in 12 bytes: s and m as bytes. */
static void scales_k(const uint8_t *p, uint8_t s[8], uint8_t m[8])
{
    uint32_t a, b, c;
    memcpy(&a, p, 4);
    memcpy(&b, p + 4, 4);
    memcpy(&c, p + 8, 4);
    uint32_t out[4] = {a & 0x3F3F3F3Fu, (c & 0x0F0F0F0Fu) | ((a >> 2) & 0x30303030u), b & 0x3F3F3F3Fu,
                       ((c >> 4) & 0x0F0F0F0Fu) | ((b >> 2) & 0x30303030u)};
    memcpy(s, out, 8);
    memcpy(m, out + 2, 8);
}

static void block_q4_k(const uint8_t *b, float *y)
{
    float d = half_at(b), dmin = half_at(b + 2);
    uint8_t s[8], m[8];
    scales_k(b + 4, s, m);
    const __m256i low = _mm256_set1_epi8(15);
    for (int j = 0; j < 4; j++) {
        __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(b + 16 + 32 * j));
        vf_put32(y + 64 * j, _mm256_and_si256(q, low), vf_set1(d * s[2 * j]), vf_set1(-dmin * m[2 * j]));
        vf_put32(y + 64 * j + 32, _mm256_and_si256(_mm256_srli_epi16(q, 4), low),
                 vf_set1(d * s[2 * j + 1]), vf_set1(-dmin * m[2 * j + 1]));
    }
}

static void block_q5_k(const uint8_t *b, float *y)
{
    float d = half_at(b), dmin = half_at(b + 2);
    uint8_t s[8], m[8];
    scales_k(b + 4, s, m);
    const __m256i low = _mm256_set1_epi8(15), one = _mm256_set1_epi8(1);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(b + 16));
    for (int j = 0; j < 8; j++) {
        __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(b + 48 + 32 * (j / 2)));
        q = _mm256_and_si256(_mm256_srl_epi16(q, _mm_cvtsi32_si128(4 * (j & 1))), low);
        __m256i h = _mm256_and_si256(_mm256_srl_epi16(high, _mm_cvtsi32_si128(j)), one);
        q = _mm256_or_si256(q, _mm256_slli_epi16(h, 4));
        vf_put32(y + 32 * j, q, vf_set1(d * s[j]), vf_set1(-dmin * m[j]));
    }
}

/* 32 elements under two scales of 16 each. */
static void put32_two_scales(float *y, __m256i q, float s0, float s1)
{
    int8_t bytes[32];
    _mm256_storeu_si256((__m256i *)(void *)bytes, q);
    for (int i = 0; i < 32; i += VW) {
        vf_store(y + i, vf_mul(vf_load_i8(bytes + i), vf_set1(i < 16 ? s0 : s1)));
    }
}

static void block_q6_k(const uint8_t *b, float *y)
{
    const int8_t *sc = (const int8_t *)(b + 192);
    float d = half_at(b + 208);
    const __m256i low = _mm256_set1_epi8(15), two = _mm256_set1_epi8(3);
    for (int half = 0; half < 2; half++) {
        const uint8_t *ql = b + 64 * half;
        __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(b + 128 + 32 * half));
        for (int j = 0; j < 4; j++) {
            __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(ql + 32 * (j & 1)));
            q = _mm256_and_si256(_mm256_srl_epi16(q, _mm_cvtsi32_si128(4 * (j >> 1))), low);
            __m256i h = _mm256_and_si256(_mm256_srl_epi16(high, _mm_cvtsi32_si128(2 * j)), two);
            q = _mm256_or_si256(q, _mm256_slli_epi16(h, 4));
            const int8_t *s = sc + 8 * half + 2 * j;
            put32_two_scales(y + 128 * half + 32 * j, _mm256_sub_epi8(q, _mm256_set1_epi8(32)), d * s[0],
                             d * s[1]);
        }
    }
}

static void row_f32(const void *src, float *y, int64_t n)
{
    memcpy(y, src, (size_t)n * sizeof *y);
}

static void row_half(const uint16_t *src, float *y, int64_t n, bool bf16)
{
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf_store(y + i, bf16 ? vf_load_bf16(src + i) : vf_load_f16(src + i));
    }
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + i, sizeof h);
        y[i] = bf16 ? tt_bf16_to_f32(h) : _cvtsh_ss(h);
    }
}

void TT_FN(tt_dequant)(tt_dtype t, const void *src, float *y, int64_t n)
{
    static const block_fn blocks[TT_DTYPE_COUNT] = {
        [TT_Q8_0] = block_q8_0, [TT_Q4_0] = block_q4_0, [TT_Q4_1] = block_q4_1,
        [TT_Q5_0] = block_q5_0, [TT_Q5_1] = block_q5_1, [TT_Q4_K] = block_q4_k,
        [TT_Q5_K] = block_q5_k, [TT_Q6_K] = block_q6_k,
    };
    if (t == TT_F32) {
        row_f32(src, y, n);
        return;
    }
    if (t == TT_F16 || t == TT_BF16) {
        row_half(src, y, n, t == TT_BF16);
        return;
    }
    const tt_dtype_info *info = &tt_dtypes[t];
    assert(n % info->block_elems == 0);
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += info->block_elems, b += info->block_bytes) {
        blocks[t](b, y + i);
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
