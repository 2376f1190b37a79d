/* checksum_ref.c - the sum that tells whether bytes in device memory have changed. Source of the
 * mixing: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014). */
#include <assert.h>
#include <string.h>

#include "kernels/lane.h"
#include "kernels/ref/ref.h"

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t word_at(const uint8_t *row, int64_t i, int64_t row_bytes)
{
    uint64_t word = 0;
    int64_t left = row_bytes - 8 * i;
    for (int k = 0; k < 8 && k < left; k++) { /* a compiler makes one load of it */
        word |= (uint64_t)row[8 * i + k] << 8 * k;
    }
    return word;
}

void tt_checksum_ref(tt_lane *lane, const tt_checksum_args *a)
{
    assert(a->data % 8 == 0 && a->stride % 8 == 0 && a->group_stride % 8 == 0);
    assert((a->row_bytes + 7) / 8 * a->n_rows * a->n_groups < (int64_t)1 << 32);
    const uint8_t *data = tt_ptr(a->data);
    int64_t words = (a->row_bytes + 7) / 8;
    uint64_t sum = 0;
#pragma omp parallel for num_threads(lane->n_threads) reduction(+ : sum)
    for (int64_t r = 0; r < (int64_t)a->n_groups * a->n_rows; r++) {
        const uint8_t *row = data + r / a->n_rows * a->group_stride + r % a->n_rows * a->stride;
        for (int64_t i = 0; i < words; i++) {
            uint64_t index = (uint64_t)(r * words + i) + 1;
            sum += mix(word_at(row, i, a->row_bytes) + index * 0x9E3779B97F4A7C15u);
        }
    }
    memcpy(tt_ptr(a->sum), &sum, sizeof sum);
}
