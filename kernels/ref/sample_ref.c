/* sample_ref.c - from logits to the next token; the vocabulary is never sorted. Thread: rows are
 * independent. Source of the generator: Steele, Lea, Flood, "Fast splittable pseudorandom number
 * generators" (2014), which is core/rng.h's.
 *
 * A candidate is one 64-bit number, rank = how far its p lies below 1, as bits, then its id: the
 * order "falling p, equal ones by rising id" is that of rising numbers, and no two are equal. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/lane.h"
#include "kernels/ref/ref.h"

#define ONE 0x3F800000u /* the bits of 1.0f */

/* 2^t for TT_SAMPLE_LEAST <= t <= 0, else 0: 2^k times Taylor's series of 2^f at 0, |f| <= 1/2, off
 * by less than 2 ulp. One operation a statement: every compiler and device rounds each. */
static float exp2_of(float t)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: a sum with it is a whole number */
    float c = t >= TT_SAMPLE_LEAST ? t : TT_SAMPLE_LEAST;
    float k = c + shift;
    k -= shift;
    float f = c - k;
    float y = 1.52527338e-5f * f;
    y += 1.54035304e-4f;
    y *= f;
    y += 1.33335581e-3f;
    y *= f;
    y += 9.61812911e-3f;
    y *= f;
    y += 5.55041087e-2f;
    y *= f;
    y += 2.40226507e-1f;
    y *= f;
    y += 6.93147181e-1f;
    y *= f;
    y += 1.0f;
    uint32_t bits;
    memcpy(&bits, &y, sizeof bits);
    bits += (uint32_t)(int32_t)k << 23;
    memcpy(&y, &bits, sizeof y);
    return t >= TT_SAMPLE_LEAST ? y : 0.0f;
}

static uint64_t mass_of(float p)
{
    return (uint64_t)(int64_t)(p * 0x1p44f);
}

static uint64_t rank_of(float p, int32_t id)
{
    uint32_t bits;
    memcpy(&bits, &p, sizeof bits);
    return (uint64_t)(ONE - bits) << 32 | (uint32_t)id;
}

static float p_of(uint64_t rank)
{
    uint32_t bits = ONE - (uint32_t)(rank >> 32);
    float p;
    memcpy(&p, &bits, sizeof p);
    return p;
}

static uint64_t number(uint64_t stream, uint32_t counter)
{
    uint64_t z = stream + ((uint64_t)counter + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* The upper half of a 128-bit product. */
static uint64_t upper_product(uint64_t a, uint64_t b)
{
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t low = a0 * b0, mid = a1 * b0 + (low >> 32), other = a0 * b1 + (uint32_t)mid;
    return a1 * b1 + (mid >> 32) + (other >> 32);
}

/* ---- the row ---- */

static void adjust(float *x, const tt_sample_args *a, const tt_draw *d)
{
    const tt_logit_adjust *all = tt_ptr(a->adjusts); /* may be NULL where there is none */
    const int32_t *banned = tt_ptr(a->banned);
    for (int32_t i = 0; i < d->n_adjust; i++) {
        const tt_logit_adjust *one = &all[d->adjust0 + i];
        float v = x[one->id];
        v += one->bias;
        v *= v > 0 ? 1 / one->repetition : one->repetition;
        v -= one->penalty;
        x[one->id] = v;
    }
    for (int32_t i = 0; i < d->n_banned; i++) {
        x[banned[d->banned0 + i]] = -INFINITY;
    }
}

/* Eight maxima side by side: a compiler that keeps the order of operations has something to do at
 * once. A NaN is no maximum, since it is not greater. */
static float max_of(const float *x, int32_t n)
{
    enum { LANES = 8 };
    float best[LANES], m = -INFINITY;
    for (int j = 0; j < LANES; j++) {
        best[j] = -INFINITY;
    }
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            best[j] = x[i + j] > best[j] ? x[i + j] : best[j];
        }
    }
    for (; i < n; i++) {
        m = x[i] > m ? x[i] : m;
    }
    for (int j = 0; j < LANES; j++) {
        m = best[j] > m ? best[j] : m;
    }
    return m;
}

static int32_t first_of(const float *x, float value)
{
    int32_t i = 0;
    while (x[i] != value) {
        i++;
    }
    return i;
}

static int32_t first_allowed(const tt_sample_args *a, const tt_draw *d)
{
    const int32_t *banned = (const int32_t *)tt_ptr(a->banned) + d->banned0;
    int32_t id = 0;
    for (int32_t i = 0; i < d->n_banned; i++) {
        id += id == banned[i];
    }
    return id < a->n_vocab ? id : a->n_vocab - 1;
}

/* ---- what stays ---- */

/* The k least ranks come to the front, the k-th to c[k - 1] (quickselect, middle pivot). */
static void select_first(uint64_t *c, int32_t n, int32_t k)
{
    int32_t lo = 0, hi = n - 1;
    while (lo < hi) {
        uint64_t pivot = c[lo + (hi - lo) / 2];
        int32_t i = lo, j = hi;
        while (i <= j) {
            while (c[i] < pivot) {
                i++;
            }
            while (c[j] > pivot) {
                j--;
            }
            if (i <= j) {
                uint64_t t = c[i];
                c[i++] = c[j];
                c[j--] = t;
            }
        }
        if (k - 1 <= j) {
            hi = j;
        } else if (k - 1 >= i) {
            lo = i;
        } else {
            return;
        }
    }
}

static int by_rank(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* How many of c[n] reach top_p of their sum; that many are sorted. Sorts ever larger heads instead
 * of the whole: nearly always the first 64 suffice. */
static int32_t keep_top_p(uint64_t *c, int32_t n, float top_p)
{
    uint64_t total = 0, share = top_p > 0 ? (uint64_t)(top_p * 0x1p64f) : 0;
    for (int32_t i = 0; i < n; i++) {
        total += mass_of(p_of(c[i]));
    }
    uint64_t need = upper_product(share, total) + (share * total != 0); /* rounded up */
    for (int32_t head = 64;; head *= 8) {
        head = head < n && head > 0 ? head : n;
        select_first(c, n, head);
        qsort(c, (size_t)head, sizeof *c, by_rank);
        uint64_t sum = 0;
        for (int32_t i = 0; i < head; i++) {
            sum += mass_of(p_of(c[i]));
            if (sum >= need) {
                return i + 1;
            }
        }
        assert(head < n);
    }
}

/* ---- the draw ---- */

/* From sorted candidates. */
static int32_t draw_by_rank(const uint64_t *c, int32_t n, float min_p, uint64_t random)
{
    uint64_t total = 0;
    int32_t m = 0;
    while (m < n && p_of(c[m]) >= min_p) {
        total += mass_of(p_of(c[m++]));
    }
    uint64_t at = upper_product(random, total), sum = 0;
    for (int32_t i = 0;; i++) {
        assert(i < m);
        sum += mass_of(p_of(c[i]));
        if (sum > at) {
            return (int32_t)(uint32_t)c[i];
        }
    }
}

/* From the ids with p >= min_p and a rank up to `last`. */
static int32_t draw_by_id(const float *p, int32_t n, float min_p, uint64_t last, uint64_t random)
{
    uint64_t total = 0;
    for (int32_t i = 0; i < n; i++) {
        total += p[i] >= min_p && rank_of(p[i], i) <= last ? mass_of(p[i]) : 0;
    }
    uint64_t at = upper_product(random, total), sum = 0;
    for (int32_t i = 0;; i++) {
        assert(i < n);
        sum += p[i] >= min_p && rank_of(p[i], i) <= last ? mass_of(p[i]) : 0;
        if (sum > at) {
            return i;
        }
    }
}

/* x [n] becomes p; c [n] is scratch. */
static int32_t draw_from(float *x, int32_t n, float m, const tt_draw *d, uint64_t *c)
{
    float scale = fminf(1.44269504f / d->temperature, FLT_MAX);
    float min_p = d->min_p < 1 ? d->min_p : 1;
    uint64_t random = number(d->stream, d->counter), last = UINT64_MAX;
    for (int32_t i = 0; i < n; i++) {
        float t = x[i] - m;
        t *= scale;
        x[i] = exp2_of(t);
    }
    if (d->top_k <= 0 && d->top_p >= 1) {
        return draw_by_id(x, n, min_p, last, random);
    }
    int32_t n_c = 0;
    for (int32_t i = 0; i < n; i++) {
        c[n_c] = rank_of(x[i], i);
        n_c += x[i] > 0;
    }
    if (d->top_k > 0 && d->top_k < n_c) {
        select_first(c, n_c, d->top_k);
        n_c = d->top_k;
        last = c[n_c - 1];
        min_p = fmaxf(min_p, p_of(last)); /* said again, in a form that is quick to ask */
    }
    if (d->top_p >= 1) {
        return draw_by_id(x, n, min_p, last, random);
    }
    n_c = keep_top_p(c, n_c, d->top_p);
    return draw_by_rank(c, n_c, min_p, random);
}

void tt_sample_ref(tt_lane *lane, const tt_sample_args *a)
{
    const tt_draw *draws = tt_ptr(a->draws);
    int32_t *tokens = tt_ptr(a->tokens), n = a->n_vocab;
    assert(n > 0 && n <= TT_SAMPLE_MAX_VOCAB);
    if (!tt_lane_reserve_threads(lane, (size_t)n * sizeof(uint64_t))) {
        return;
    }
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 1) if (a->n_draws > 1)
    for (int32_t i = 0; i < a->n_draws; i++) {
        const tt_draw *d = &draws[i];
        float *x = (float *)tt_ptr(a->logits) + (int64_t)d->row * n;
        adjust(x, a, d);
        float m = max_of(x, n);
        if (m == -INFINITY) {
            tokens[i] = first_allowed(a, d);
        } else if (d->temperature <= 0 || d->top_k == 1 || isinf(m)) {
            tokens[i] = first_of(x, m);
        } else {
            tokens[i] = draw_from(x, n, m, d, tt_lane_thread_buf(lane, omp_get_thread_num()));
        }
    }
}
