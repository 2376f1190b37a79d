/* rng.h - the seeded generator behind spans, LoRA's A and sampling: splitmix64, so that a seed
 * gives the same numbers on every machine. Source: Steele, Lea, Flood, "Fast splittable
 * pseudorandom number generators" (2014). Thread: a generator belongs to its owner. */
#ifndef TT_RNG_H
#define TT_RNG_H

#include <math.h>
#include <stdint.h>

typedef struct tt_rng {
    uint64_t state;
} tt_rng;

static inline uint64_t tt_rng_u64(tt_rng *r)
{
    uint64_t z = (r->state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* A generator for the pair (seed, stream): streams of one seed do not overlap in practice. */
static inline tt_rng tt_rng_make(uint64_t seed, uint64_t stream)
{
    tt_rng mix = {seed ^ 0x5851F42D4C957F2Du};
    uint64_t a = tt_rng_u64(&mix);
    mix.state = a ^ stream;
    return (tt_rng){tt_rng_u64(&mix)};
}

/* Uniform in [0, n), n > 0, without modulo bias (rejection). */
static inline uint64_t tt_rng_below(tt_rng *r, uint64_t n)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t v;
    do {
        v = tt_rng_u64(r);
    } while (v >= limit);
    return v % n;
}

/* Uniform in [0, 1), 53 bits. */
static inline double tt_rng_uniform(tt_rng *r)
{
    return (double)(tt_rng_u64(r) >> 11) * 0x1.0p-53;
}

/* Standard normal (Box-Muller, one of the pair). */
static inline double tt_rng_normal(tt_rng *r)
{
    double u = 1.0 - tt_rng_uniform(r);
    double v = tt_rng_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

#endif
