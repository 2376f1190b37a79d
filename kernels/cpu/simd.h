/* simd.h - one vector of floats, 8 (AVX2) or 16 (AVX-512) wide, for kernels that are written once
 * and compiled once per instruction set. Source of the exponential: Cephes' expf (range reduction
 * by ln 2 in two parts, polynomial of degree 6). Thread: pure functions.
 *
 * TT_FN(name) gives a function the suffix of its instruction set: tt_rmsnorm_avx2,
 * tt_rmsnorm_avx512. */
#ifndef TT_SIMD_H
#define TT_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define TT_JOIN_(a, b) a##_##b
#define TT_JOIN(a, b) TT_JOIN_(a, b)
#define TT_FN(name) TT_JOIN(name, TT_ISA_SUFFIX)

/* Drivers that take a loader or a count as a constant are only fast when they are compiled into
 * their caller, which the compiler's own limits on size would refuse. */
#define TT_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512BF16__)
#define TT_ISA_SUFFIX avx512bf16
#elif defined(__AVX512F__)
#define TT_ISA_SUFFIX avx512
#else
#define TT_ISA_SUFFIX avx2
#endif

#if defined(__AVX512F__)

enum { VW = 16 }; /* floats in a vector */
typedef __m512 vf;

static inline vf vf_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void vf_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

/* The first n < VW elements; the rest read as 0 and are not written. */
static inline vf vf_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

static inline void vf_store_n(float *p, vf v, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}

static inline vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

static inline vf vf_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}

/* a * b + c */
static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* The second operand when either is NaN. */
static inline vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

static inline vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

/* Sums in a fixed order: halves, quarters, ... */
static inline float vf_sum(vf v)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

static inline float vf_hmax(vf v)
{
    return _mm512_reduce_max_ps(v);
}

static inline vf vf_load_bf16(const uint16_t *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

/* 2 * VW elements: the even ones and the odd ones, each in order. */
static inline void vf_split_bf16(const uint16_t *p, vf v[2])
{
    __m512i u = _mm512_loadu_si512(p);
    v[0] = _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
    v[1] = _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32((int)0xFFFF0000)));
}

static inline vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* VW signed bytes. */
static inline vf vf_load_i8(const int8_t *p)
{
    __m128i q = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
}

#if defined(__AVX512BF16__)
/* Round to nearest even; subnormals become zero. */
static inline void vf_store_bf16(uint16_t *p, vf v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, (__m256i)_mm512_cvtneps_pbh(v));
}
#else
/* Round to nearest even; NaN stays NaN. */
static inline void vf_store_bf16(uint16_t *p, vf v)
{
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7FFF));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}
#endif

/* 16 signed bytes to floats, in order. */
static inline void vf_from_i8x16(__m128i q, vf *v)
{
    v[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
}

/* Two halves at p + i * stride for each i < n as floats; n <= VW, the rest are 0. */
static inline void vf_gather_f16(const uint8_t *p, int stride, int n, vf ret[2])
{
    const __m512i i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i at = _mm512_mullo_epi32(i, _mm512_set1_epi32(stride));
    __mmask16 some = (__mmask16)(n >= VW ? 0xFFFF : (1u << n) - 1);
    __m512i q = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), some, at, p, 1);
    ret[0] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(q));
    ret[1] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(q, 16)));
}

/* y[16] = 16 signed bytes, the first half times lo, the second times hi. */
static inline void vf_scale_i8x16(__m128i q, float lo, float hi, float *y)
{
    vf v, by = _mm512_mask_blend_ps(0xFF00, vf_set1(lo), vf_set1(hi));
    vf_from_i8x16(q, &v);
    vf_store(y, vf_mul(v, by));
}

/* The low (or high) nibbles of the 16 bytes at p as floats: a table of 16 floats is looked up, by
 * the low four bits. */
static inline void vf_from_nibbles(const uint8_t *p, int high, vf *v)
{
    const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i q = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    v[0] = _mm512_permutexvar_ps(high ? _mm512_srli_epi32(q, 4) : q, table);
}

/* The IEEE half at p in every element. */
static inline vf vf_half1(const uint8_t *p)
{
    int16_t h;
    memcpy(&h, p, sizeof h);
    return _mm512_cvtph_ps(_mm256_set1_epi16(h));
}

/* 2^n for n whole, with overflow and gradual underflow. */
static inline vf vf_scale2(vf x, vf n)
{
    return _mm512_scalef_ps(x, n);
}

static inline vf vf_round(vf x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#else /* AVX2, FMA, F16C */

enum { VW = 8 };
typedef __m256 vf;

static inline vf vf_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vf vf_set1(float x)
{
    return _mm256_set1_ps(x);
}

static inline vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}

static inline __m256i vf_mask_n(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf vf_load_n(const float *p, int n)
{
    return _mm256_maskload_ps(p, vf_mask_n(n));
}

static inline void vf_store_n(float *p, vf v, int n)
{
    _mm256_maskstore_ps(p, vf_mask_n(n), v);
}

static inline vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

static inline vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

static inline vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

static inline vf vf_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

static inline vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

static inline float vf_sum(vf v)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

static inline float vf_hmax(vf v)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

static inline vf vf_load_bf16(const uint16_t *p)
{
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}

static inline void vf_split_bf16(const uint16_t *p, vf v[2])
{
    __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)p);
    v[0] = _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
    v[1] = _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32((int)0xFFFF0000)));
}

static inline vf vf_load_i8(const int8_t *p)
{
    __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
}

static inline vf vf_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline void vf_store_bf16(uint16_t *p, vf v)
{
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7FFF));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    r = _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, nan), 16);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(r));
}

static inline void vf_from_i8x16(__m128i q, vf *v)
{
    v[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
    v[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8)));
}

static inline __m128i vf_pack_words(__m256i words)
{
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

static inline void vf_gather_f16(const uint8_t *p, int stride, int n, vf ret[2])
{
    const __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i at = _mm256_mullo_epi32(i, _mm256_set1_epi32(stride));
    __m256i some = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), i);
    __m256i q = _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), (const int *)(const void *)p,
                                            at, some, 1);
    ret[0] = _mm256_cvtph_ps(vf_pack_words(_mm256_and_si256(q, _mm256_set1_epi32(0xFFFF))));
    ret[1] = _mm256_cvtph_ps(vf_pack_words(_mm256_srli_epi32(q, 16)));
}

static inline void vf_scale_i8x16(__m128i q, float lo, float hi, float *y)
{
    vf v[2];
    vf_from_i8x16(q, v);
    vf_store(y, vf_mul(v[0], vf_set1(lo)));
    vf_store(y + VW, vf_mul(v[1], vf_set1(hi)));
}

static inline void vf_from_nibbles(const uint8_t *p, int high, vf *v)
{
    __m128i q = _mm_loadu_si128((const __m128i *)(const void *)p);
    vf_from_i8x16(_mm_and_si128(high ? _mm_srli_epi16(q, 4) : q, _mm_set1_epi8(15)), v);
}

static inline vf vf_half1(const uint8_t *p)
{
    int16_t h;
    memcpy(&h, p, sizeof h);
    return _mm256_cvtph_ps(_mm_set1_epi16(h));
}

/* In two factors, because 2^n alone may leave the range of floats; n in [-252, 254]. */
static inline vf vf_scale2(vf x, vf n)
{
    __m256i i = _mm256_cvtps_epi32(n);
    __m256i half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half);
    __m256i bias = _mm256_set1_epi32(127);
    vf a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vf b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(x, a), b);
}

static inline vf vf_round(vf x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#endif

/* The four sums of eight floats each: a, b, c, d. */
static inline __m128 vf_sum4_halves(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

#if defined(__AVX512F__)
static inline __m256 vf_fold(vf v)
{
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}
#else
static inline __m256 vf_fold(vf v)
{
    return v;
}
#endif

/* out[i] = the sum of v[i], i < 4. */
static inline void vf_sum4(const vf v[4], float out[4])
{
    _mm_storeu_ps(out, vf_sum4_halves(vf_fold(v[0]), vf_fold(v[1]), vf_fold(v[2]), vf_fold(v[3])));
}

#if defined(__AVX512F__)
/* In each quarter the sums of the quarters of four vectors. */
static inline vf vf_quarter_sums(const vf v[4])
{
    vf a = vf_add(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    vf b = vf_add(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return vf_add(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                  _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

/* out[i] = the sum of v[i], i < VW (AVX2: 4). */
static inline void vf_sums(const vf *v, float *out)
{
    vf a = vf_quarter_sums(v), b = vf_quarter_sums(v + 4), c = vf_quarter_sums(v + 8),
       d = vf_quarter_sums(v + 12);
    vf x = vf_add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    vf y = vf_add(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
    vf_store(out, vf_add(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xDD)));
}
#else
static inline void vf_sums(const vf *v, float *out)
{
    vf_sum4(v, out);
}
#endif

/* e^x with a relative error of about 2e-7; exactly 0 below -110 (also for -inf), inf above 88.8,
 * NaN for NaN. */
static inline vf vf_exp(vf x)
{
    x = vf_min(vf_set1(100.0f), vf_max(vf_set1(-110.0f), x));
    vf n = vf_round(vf_mul(x, vf_set1(1.44269504f)));
    vf r = vf_fma(n, vf_set1(-0.693359375f), x);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set1(1.0f)));
    return vf_scale2(p, n);
}

/* 2^x with a relative error of about 2e-7 for x <= 127; exactly 0 below -160 (also for -inf), NaN
 * for NaN. Source of the polynomial: Cephes' exp2f. */
static inline vf vf_exp2(vf x)
{
    x = vf_max(vf_set1(-160.0f), x);
    vf n = vf_round(x), r = vf_sub(x, n);
    vf p = vf_fma(vf_set1(1.535336188e-4f), r, vf_set1(1.339887440e-3f));
    p = vf_fma(p, r, vf_set1(9.618437357e-3f));
    p = vf_fma(p, r, vf_set1(5.550332471e-2f));
    p = vf_fma(p, r, vf_set1(2.402264791e-1f));
    p = vf_fma(p, r, vf_set1(6.931472028e-1f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_scale2(p, n);
}

static inline vf vf_at(const float *p, int64_t i, int64_t n)
{
    return n - i >= VW ? vf_load(p + i) : vf_load_n(p + i, (int)(n - i));
}

static inline void vf_put(float *p, int64_t i, int64_t n, vf v)
{
    if (n - i >= VW) {
        vf_store(p + i, v);
    } else {
        vf_store_n(p + i, v, (int)(n - i));
    }
}

#endif
