/* quant_vectors.c - dequantisation against vectors of another implementation
 * (tests/tools/dump_quant_vectors.py), and quantisation against an exhaustive search. File: for
 * each type its name in 8 bytes (NUL padded), u32 number of elements, the blocks, the values as
 * f32; little endian. Thread: one. */
#include "tests/checkops/checkops.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/quant.h"

static uint8_t *read_file(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    uint8_t *p = f == NULL ? NULL : malloc(1 << 20);
    if (p != NULL) {
        *ret_n = fread(p, 1, 1 << 20, f);
    }
    if (f != NULL) {
        fclose(f);
    }
    return p;
}

static int find_type(const uint8_t name[8])
{
    for (int t = 0; t < TT_DTYPE_COUNT; t++) {
        if (strncmp((const char *)name, tt_dtypes[t].name, 8) == 0) {
            return t;
        }
    }
    return -1;
}

/* Bit for bit: the formats leave one order of the two multiplications and it is the same
 * everywhere. */
static bool check_type(tt_dtype t, const uint8_t *blocks, const uint8_t *values, int64_t n)
{
    float *y = malloc((size_t)n * sizeof *y);
    bool good = y != NULL;
    if (good) {
        tt_dequant_row(t, blocks, y, n);
    }
    for (int64_t i = 0; good && i < n; i++) {
        float want;
        memcpy(&want, values + 4 * i, sizeof want);
        if (memcmp(&y[i], &want, sizeof want) != 0 && !(isnan(y[i]) && isnan(want)) &&
            y[i] != want) {
            printf("FAIL dequant %s: element %ld is %.9g, should be %.9g\n", tt_dtypes[t].name,
                   (long)i, y[i], want);
            good = false;
        }
    }
    free(y);
    return good;
}

static int check_vectors(const char *path, int *n_passed)
{
    size_t n_bytes = 0, at = 0;
    uint8_t *p = read_file(path, &n_bytes);
    bool seen[TT_DTYPE_COUNT] = {0};
    int n_failed = 0;
    while (p != NULL && at + 12 <= n_bytes) {
        int t = find_type(p + at);
        uint32_t n = 0;
        memcpy(&n, p + at + 8, sizeof n);
        size_t blocks = t < 0 ? 0 : (size_t)tt_row_bytes((tt_dtype)t, n);
        if (t < 0 || at + 12 + blocks + 4 * (size_t)n > n_bytes) {
            break;
        }
        bool good = check_type((tt_dtype)t, p + at + 12, p + at + 12 + blocks, n);
        *n_passed += good;
        n_failed += !good;
        seen[t] = true;
        at += 12 + blocks + 4 * (size_t)n;
    }
    if (p == NULL || at != n_bytes) {
        printf("FAIL dequant: %s cannot be read\n", path);
        n_failed++;
    }
    for (int t = TT_F16; t < TT_DTYPE_COUNT; t++) {
        if (!seen[t] && t != TT_I8) { /* no file has it */
            printf("FAIL dequant %s: no vectors\n", tt_dtypes[t].name);
            n_failed++;
        }
    }
    free(p);
    return n_failed;
}

/* No other code in the element's place may come closer to x. Tries all of them: 16 or 32 in the low
 * bits of one nibble and its fifth bit, 255 in a byte. */
static bool nearest(tt_dtype t, const uint8_t *block, int i, float x, float got)
{
    uint8_t copy[34];
    float y[32], best = INFINITY;
    bool high = t == TT_Q5_0 || t == TT_Q5_1;
    int header = t == TT_Q4_1 || t == TT_Q5_1 ? 4 : 2;
    memcpy(copy, block, (size_t)tt_dtypes[t].block_bytes);
    for (int q = t == TT_Q8_0 ? -127 : 0; q < (t == TT_Q8_0 ? 128 : high ? 32 : 16); q++) {
        if (t == TT_Q8_0) {
            copy[2 + i] = (uint8_t)(int8_t)q;
        } else {
            uint8_t *nibble = copy + header + (high ? 4 : 0) + i % 16;
            *nibble =
                (uint8_t)(i < 16 ? (*nibble & 0xF0) | (q & 15) : (*nibble & 0x0F) | (q & 15) << 4);
            if (high) {
                uint8_t *qh = copy + header + i / 8;
                *qh = (uint8_t)((*qh & ~(1 << (i % 8))) | (q >> 4) << (i % 8));
            }
        }
        tt_dequant_row(t, copy, y, 32);
        best = fminf(best, fabsf(y[i] - x));
    }
    return fabsf(got - x) <= best * 1.0001f;
}

static bool check_quant_type(tt_dtype t)
{
    co_rng rng = {12345 + (uint64_t)t};
    float x[64], y[64];
    uint8_t blocks[2 * 34];
    for (int round = 0; round < 50; round++) {
        double offset = round % 3 == 0 ? 0 : 2 * co_normal(&rng), sigma = pow(10, round % 7 - 4);
        for (int i = 0; i < 64; i++) {
            x[i] = round == 5 ? 0 : (float)(sigma * (co_normal(&rng) + offset));
        }
        if (tt_quant_row(t, x, blocks, 64) != 0) {
            return false;
        }
        tt_dequant_row(t, blocks, y, 64);
        for (int i = 0; i < 64; i++) {
            const uint8_t *b = blocks + i / 32 * tt_dtypes[t].block_bytes;
            if (!nearest(t, b, i % 32, x[i], y[i])) {
                printf("FAIL quant %s: %.9g became %.9g\n", tt_dtypes[t].name, x[i], y[i]);
                return false;
            }
        }
    }
    return true;
}

int co_check_quant(const char *vectors_path, int *n_passed)
{
    static const tt_dtype types[] = {TT_Q8_0, TT_Q4_0, TT_Q4_1, TT_Q5_0, TT_Q5_1};
    int n_failed = check_vectors(vectors_path, n_passed);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        bool good = check_quant_type(types[i]);
        *n_passed += good;
        n_failed += !good;
    }
    return n_failed;
}
