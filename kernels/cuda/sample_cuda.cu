/* sample_cuda.cu - the next token, a block a draw, without sorting. Thread: the owner of the
 * stream; device code. Source: as kernels/ref/sample_ref.c.
 *
 * Candidates have an order: falling p, then rising id. What top-k, top-p and the draw look for is
 * the first candidate at which the number of candidates, or the sum of their p, reaches a bound. So
 * one search does all three: count and sum up the candidates by the upper bits of their key, find
 * the bin where the bound falls, look at that bin's candidates alone by their next bits. Counts and
 * sums are integers, so atomic additions in any order give the same bits; additions of a digit of
 * the id are ordered by threads and need none. The row itself holds the keys. */
#include <assert.h>
#include <float.h>
#include <math.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/launch_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum {
    SAMPLE_THREADS = 512,
    SAMPLE_WARPS = SAMPLE_THREADS / 32,
    SAMPLE_BINS = 2 * SAMPLE_THREADS, /* of one digit */
    SAMPLE_DIGIT = 10,                /* bits */
    SAMPLE_KEY_DIGITS = 3,            /* p >= 2^-43 leaves 29 bits */
    SAMPLE_DIGITS = SAMPLE_KEY_DIGITS + 2
};

typedef unsigned long long sample_u64; /* as atomicAdd has it */

static const unsigned SAMPLE_ONE = 0x3f800000u;  /* the bits of 1 */
static const unsigned SAMPLE_NONE = 0xffffffffu; /* the key of what is no candidate */

struct sample_space {
    sample_u64 sums[SAMPLE_BINS];
    unsigned counts[SAMPLE_BINS];
    sample_u64 part[SAMPLE_WARPS];
    sample_u64 before; /* what the bins before `bin` hold of the bound */
    unsigned bin, count;
    unsigned token;
};

struct sample_rows {
    float *logits;
    const tt_draw *draws;
    const tt_logit_adjust *adjusts;
    const int32_t *banned;
    int32_t *tokens;
    int64_t n_vocab;
};

/* A place in the order of candidates: those up to it and it itself. */
struct sample_place {
    unsigned key, id;
};

static __device__ __forceinline__ bool reaches(sample_place last, unsigned key, unsigned id)
{
    return key < last.key || (key == last.key && id <= last.id);
}

/* ---- numbers, as sample_ref.c makes them ---- */

static __device__ __forceinline__ float step_of(float y, float f, float c)
{
    return __fadd_rn(__fmul_rn(y, f), c);
}

/* The key of 2^t: how far its bits lie below those of 1. */
static __device__ __forceinline__ unsigned key_of(float t)
{
    const float shift = 12582912.0f;
    float c = t >= TT_SAMPLE_LEAST ? t : TT_SAMPLE_LEAST;
    float k = __fadd_rn(c, shift) - shift, f = c - k;
    float y = __fadd_rn(__fmul_rn(1.52527338e-5f, f), 1.54035304e-4f);
    y = step_of(y, f, 1.33335581e-3f);
    y = step_of(y, f, 9.61812911e-3f);
    y = step_of(y, f, 5.55041087e-2f);
    y = step_of(y, f, 2.40226507e-1f);
    y = step_of(y, f, 6.93147181e-1f);
    y = step_of(y, f, 1.0f);
    unsigned bits = __float_as_uint(y) + ((unsigned)(int)k << 23);
    return t >= TT_SAMPLE_LEAST ? SAMPLE_ONE - bits : SAMPLE_NONE;
}

/* floor(p * 2^44): p has 24 bits, the lowest of them worth 2^(exponent - 150). */
static __device__ __forceinline__ sample_u64 mass_of(unsigned key)
{
    unsigned bits = SAMPLE_ONE - key;
    int up = (int)(bits >> 23) - 150 + 44;
    sample_u64 digits = (bits & 0x7fffffu) | 0x800000u;
    return up >= 0 ? digits << up : digits >> -up;
}

static __device__ __forceinline__ uint64_t number_of(uint64_t stream, uint32_t counter)
{
    uint64_t z = stream + ((uint64_t)counter + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* ---- the row ---- */

/* Rising with x; -inf and NaN are lowest, -0 is 0. */
static __device__ __forceinline__ unsigned order_of(float x)
{
    unsigned bits = __float_as_uint(x == 0.0f ? 0.0f : x);
    return isnan(x) ? ~__float_as_uint(-INFINITY) : bits >> 31 ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ void adjust(float *x, const sample_rows &s, const tt_draw &d)
{
    for (int i = (int)threadIdx.x; i < d.n_adjust; i += SAMPLE_THREADS) {
        tt_logit_adjust a = s.adjusts[d.adjust0 + i];
        float v = __fadd_rn(x[a.id], a.bias);
        v = __fmul_rn(v, v > 0 ? 1.0f / a.repetition : a.repetition);
        x[a.id] = __fadd_rn(v, -a.penalty);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < d.n_banned; i += SAMPLE_THREADS) {
        x[s.banned[d.banned0 + i]] = -INFINITY;
    }
    __syncthreads();
}

/* The order of the row's maximum, and behind it ~id of the first that has it. */
static __device__ __forceinline__ sample_u64 best_of(const float *x, int64_t n, sample_space &w)
{
    sample_u64 best = 0;
    for (int64_t i = threadIdx.x; i < n; i += SAMPLE_THREADS) {
        sample_u64 v = (sample_u64)order_of(x[i]) << 32 | ~(unsigned)i;
        best = v > best ? v : best;
    }
    for (int bits = 16; bits > 0; bits /= 2) {
        sample_u64 v = __shfl_xor_sync(0xffffffffu, best, bits);
        best = v > best ? v : best;
    }
    if (threadIdx.x % 32 == 0) {
        w.part[threadIdx.x / 32] = best;
    }
    __syncthreads();
    for (int i = 0; i < SAMPLE_WARPS; i++) {
        best = w.part[i] > best ? w.part[i] : best;
    }
    return best;
}

static __device__ __forceinline__ unsigned first_allowed(const sample_rows &s, const tt_draw &d)
{
    unsigned id = 0, n = (unsigned)s.n_vocab;
    for (int i = 0; i < d.n_banned; i++) {
        id += id == (unsigned)s.banned[d.banned0 + i];
    }
    return id < n ? id : n - 1;
}

/* ---- the search ---- */

struct sample_search {
    const float *row; /* keys */
    unsigned n;
    sample_place last; /* the candidates are those up to here */
    unsigned digit;    /* which one is being looked at; 0 to 2 of the key, 3 and 4 of the id */
    unsigned prefix;   /* the key's digits before it */
    unsigned chunk;    /* the id's first digit */
    bool any_key;      /* ids are counted whatever their key */
};

static __device__ __forceinline__ unsigned shift_of(unsigned digit)
{
    return (SAMPLE_KEY_DIGITS - 1 - digit) * SAMPLE_DIGIT;
}

/* The key at i if it belongs to what is searched, else SAMPLE_NONE. */
static __device__ __forceinline__ unsigned member(const sample_search &s, unsigned i)
{
    unsigned key = __float_as_uint(s.row[i]);
    bool in = key != SAMPLE_NONE && reaches(s.last, key, i);
    if (s.digit < SAMPLE_KEY_DIGITS) {
        in = in && (s.digit == 0 || key >> shift_of(s.digit - 1) == s.prefix);
    } else {
        in = in && (s.any_key || key == s.prefix);
    }
    return in ? key : SAMPLE_NONE;
}

static __device__ __forceinline__ void fill_by_key(const sample_search &s, sample_space &w)
{
    unsigned shift = shift_of(s.digit);
    for (unsigned i = threadIdx.x; i < s.n; i += SAMPLE_THREADS) {
        unsigned key = member(s, i), bin = key >> shift & (SAMPLE_BINS - 1);
        if (key != SAMPLE_NONE) {
            atomicAdd(&w.counts[bin], 1u);
            atomicAdd(&w.sums[bin], mass_of(key));
        }
    }
}

/* A warp a chunk of SAMPLE_BINS ids: neighbours have the same first digit. */
static __device__ __forceinline__ void fill_by_chunk(const sample_search &s, sample_space &w)
{
    unsigned lane = threadIdx.x % 32;
    for (unsigned chunk = threadIdx.x / 32; chunk * SAMPLE_BINS < s.n; chunk += SAMPLE_WARPS) {
        sample_u64 sum = 0;
        unsigned count = 0;
        for (unsigned k = lane; k < SAMPLE_BINS; k += 32) {
            unsigned i = chunk * SAMPLE_BINS + k;
            unsigned key = i < s.n ? member(s, i) : SAMPLE_NONE;
            sum += key != SAMPLE_NONE ? mass_of(key) : 0;
            count += key != SAMPLE_NONE;
        }
        for (int bits = 16; bits > 0; bits /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, bits);
            count += __shfl_xor_sync(0xffffffffu, count, bits);
        }
        if (lane == 0) {
            w.sums[chunk] = sum;
            w.counts[chunk] = count;
        }
    }
}

static __device__ __forceinline__ void fill_by_id(const sample_search &s, sample_space &w)
{
    for (unsigned j = 0; j < SAMPLE_BINS / SAMPLE_THREADS; j++) {
        unsigned k = threadIdx.x + j * SAMPLE_THREADS;
        unsigned i = s.chunk * SAMPLE_BINS + k;
        unsigned key = i < s.n ? member(s, i) : SAMPLE_NONE;
        if (key != SAMPLE_NONE) {
            w.sums[k] = mass_of(key);
            w.counts[k] = 1;
        }
    }
}

/* Counts and sums of the members by the digit. */
static __device__ __forceinline__ void fill(const sample_search &s, sample_space &w)
{
    for (unsigned j = 0; j < SAMPLE_BINS / SAMPLE_THREADS; j++) {
        unsigned k = threadIdx.x + j * SAMPLE_THREADS;
        w.sums[k] = 0;
        w.counts[k] = 0;
    }
    __syncthreads();
    if (s.digit < SAMPLE_KEY_DIGITS) {
        fill_by_key(s, w);
    } else if (s.digit == SAMPLE_KEY_DIGITS) {
        fill_by_chunk(s, w);
    } else {
        fill_by_id(s, w);
    }
    __syncthreads();
}

/* What is searched for: that so many candidates, or such a share of their sum, have been passed. */
enum sample_goal { GOAL_COUNT, GOAL_SHARE, GOAL_DRAW };

struct sample_bound {
    int goal;
    uint64_t value; /* the number; the share or the random number, of 2^64 */
};

static __device__ __forceinline__ sample_u64 bound_of(const sample_bound &b, sample_u64 total)
{
    sample_u64 part = __umul64hi(b.value, total);
    if (b.goal == GOAL_COUNT) {
        return b.value < total ? b.value : total;
    }
    if (b.goal == GOAL_DRAW) {
        return part + 1;
    }
    part += b.value * total != 0; /* rounded up */
    return part > 0 ? part : 1;
}

/* Finds the bin where what the bins hold reaches `need` (by_count: of counts), which is made of the
 * total when it is 0, into w.bin, w.count and w.before. Returns need. */
static __device__ __forceinline__ sample_u64 find_bin(sample_space &w, const sample_bound &b,
                                                      sample_u64 need)
{
    bool by_count = b.goal == GOAL_COUNT;
    unsigned bin = 2 * threadIdx.x, lane = threadIdx.x % 32;
    sample_u64 first = by_count ? w.counts[bin] : w.sums[bin];
    sample_u64 both = first + (by_count ? w.counts[bin + 1] : w.sums[bin + 1]), upto = both;
    for (unsigned d = 1; d < 32; d *= 2) {
        sample_u64 v = __shfl_up_sync(0xffffffffu, upto, d);
        upto += lane >= d ? v : 0;
    }
    if (lane == 31) {
        w.part[threadIdx.x / 32] = upto;
    }
    __syncthreads();
    sample_u64 total = 0;
    for (unsigned i = 0; i < SAMPLE_WARPS; i++) {
        upto += i < threadIdx.x / 32 ? w.part[i] : 0;
        total += w.part[i];
    }
    need = need == 0 ? bound_of(b, total) : need;
    sample_u64 before = upto - both;
    if (before < need && need <= upto) {
        bool second = before + first < need;
        w.bin = bin + second;
        w.count = w.counts[bin + second];
        w.before = second ? before + first : before;
    }
    __syncthreads();
    return need;
}

/* The candidate up to `last` where the bound is reached, in the order of candidates or (by_id) of
 * ids. Ends early where one is left, whose lower bits then do not matter: the place has all of
 * them set, and w.token is the candidate's id if the goal is a draw. */
static __device__ __forceinline__ sample_place search(const float *row, int64_t n,
                                                      sample_place last, const sample_bound &b,
                                                      bool by_id, sample_space &w)
{
    sample_search s = {row, (unsigned)n, last, by_id ? (unsigned)SAMPLE_KEY_DIGITS : 0u,
                       0,   0,           by_id};
    sample_u64 need = 0;
    bool one = false;
    while (!one && s.digit < SAMPLE_DIGITS) {
        fill(s, w);
        need = find_bin(w, b, need);
        need -= w.before;
        if (s.digit < SAMPLE_KEY_DIGITS) {
            s.prefix = s.prefix << SAMPLE_DIGIT | w.bin;
            one = w.count == 1;
        } else if (s.digit == SAMPLE_KEY_DIGITS) {
            s.chunk = w.bin;
        } else if (threadIdx.x == 0) {
            w.token = s.chunk * SAMPLE_BINS + w.bin;
        }
        s.digit++;
    }
    if (!one) {
        return sample_place{s.prefix, s.chunk * SAMPLE_BINS + w.bin};
    }
    unsigned shift = shift_of(s.digit - 1);
    if (b.goal == GOAL_DRAW) {
        for (unsigned i = threadIdx.x; i < s.n; i += SAMPLE_THREADS) {
            unsigned key = __float_as_uint(row[i]);
            if (key != SAMPLE_NONE && reaches(last, key, i) && key >> shift == s.prefix) {
                w.token = i;
            }
        }
    }
    /* Those beyond `last` with the same upper bits stay out. */
    unsigned key = (s.prefix << shift) + ((1u << shift) - 1);
    return key < last.key ? sample_place{key, ~0u} : last;
}

/* ---- the draw ---- */

/* What the goal's search is to reach; false: the goal leaves all in. */
static __device__ __forceinline__ bool bound_for(int goal, const tt_draw &d, int64_t n,
                                                 uint64_t *ret_value)
{
    if (goal == GOAL_COUNT) {
        *ret_value = (uint64_t)d.top_k;
        return d.top_k > 0 && d.top_k < n;
    }
    if (goal == GOAL_SHARE) {
        *ret_value = d.top_p > 0 ? (uint64_t)__fmul_rn(d.top_p, 0x1p64f) : 0;
        return d.top_p < 1;
    }
    *ret_value = number_of(d.stream, d.counter);
    return true;
}

/* From a row of keys. One search in the code, run up to three times. */
static __device__ __forceinline__ unsigned draw_from(const float *row, int64_t n, const tt_draw &d,
                                                     sample_space &w)
{
    sample_place last = {SAMPLE_NONE - 1, ~0u};
    float min_p = d.min_p < 1 ? d.min_p : 1.0f;
    unsigned farthest = min_p > 0 ? SAMPLE_ONE - __float_as_uint(min_p) : SAMPLE_NONE - 1;
    for (int goal = GOAL_COUNT; goal <= GOAL_DRAW; goal++) {
        uint64_t value;
        if (goal == GOAL_DRAW && farthest < last.key) {
            last = {farthest, ~0u};
        }
        if (bound_for(goal, d, n, &value)) {
            last = search(row, n, last, {goal, value}, goal == GOAL_DRAW && d.top_p >= 1, w);
        }
    }
    __syncthreads();
    return w.token;
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_kernel(sample_rows s)
{
    CU_SHARED(sample_space, w);
    tt_draw d = s.draws[blockIdx.x];
    float *x = s.logits + d.row * s.n_vocab;
    adjust(x, s, d);
    sample_u64 best = best_of(x, s.n_vocab, w);
    unsigned order = (unsigned)(best >> 32), token = ~(unsigned)best;
    if (order == order_of(-INFINITY)) {
        token = first_allowed(s, d);
    } else if (d.temperature > 0 && d.top_k != 1 && order != order_of(INFINITY)) {
        float max = __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
        float scale = fminf(1.44269504f / d.temperature, FLT_MAX);
        for (int64_t i = threadIdx.x; i < s.n_vocab; i += SAMPLE_THREADS) {
            x[i] = __uint_as_float(key_of(__fmul_rn(x[i] - max, scale)));
        }
        __syncthreads();
        token = draw_from(x, s.n_vocab, d, w);
    }
    if (threadIdx.x == 0) {
        s.tokens[blockIdx.x] = (int32_t)token;
    }
}

cudaError_t tt_cuda_sample(cudaStream_t stream, const tt_sample_args *a)
{
    assert(a->n_vocab > 0 && a->n_vocab <= TT_SAMPLE_MAX_VOCAB);
    if (a->n_draws == 0) {
        return cudaSuccess;
    }
    sample_rows s = {dev_ptr<float>(a->logits),
                     dev_ptr<const tt_draw>(a->draws),
                     dev_ptr<const tt_logit_adjust>(a->adjusts),
                     dev_ptr<const int32_t>(a->banned),
                     dev_ptr<int32_t>(a->tokens),
                     a->n_vocab};
    return gpu_launch(dim3((unsigned)a->n_draws), dim3(SAMPLE_THREADS), 0, stream, sample_kernel,
                      s);
}
