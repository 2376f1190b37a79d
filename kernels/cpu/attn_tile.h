/* attn_tile.h - what the forward and the backward pass of attention share: the cut into tiles and
 * the blocks of keys. Thread: any thread of a region, on its own buffers.
 *
 * A tile is some consecutive rows of one segment and the query heads of one K/V head, stacked:
 * matrix row i = row * group + head. It meets the keys in blocks of ATTN_KEYS positions, aligned to
 * absolute positions, in rising order; so what happens to one row depends on its position alone,
 * not on its tile, the chunk or the number of threads. */
#ifndef TT_ATTN_TILE_H
#define TT_ATTN_TILE_H

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kern.h"

enum { ATTN_KEYS = 4 * TT_PAGE_TOKENS };

typedef struct attn_tile {
    const tt_attention_args *a;
    const int32_t *pages; /* of the sequence */
    int32_t row0, n_rows; /* rows of the step */
    int32_t pos0;         /* position of row0 */
    int32_t kv_head;
    int32_t group;    /* query heads of a K/V head */
    int64_t m, m_pad; /* n_rows * group; rounded up to the unit of products */
    int64_t d;        /* elements of a head */
    bool bf16;        /* type of the products */
    bool scaled;      /* keys and values have scales: TT_I8 */
} attn_tile;

/* Rows of a tile: about 256 matrix rows. */
int32_t TT_FN(tt_attn_tile_rows)(const tt_attention_args *a);
/* Tiles of the step. */
int64_t TT_FN(tt_attn_tiles)(const tt_attention_args *a);
/* Tile i of them; those with the most keys come first within a segment. */
attn_tile TT_FN(tt_attn_tile_at)(const tt_attention_args *a, int64_t i);

/* x[R, NQ]'s part of the tile as operand rows [m_pad, d], the last ones zero. */
void TT_FN(tt_attn_load_rows)(const attn_tile *t, const float *x, void *dst);
/* Keys (values) of positions [key0, key0 + ATTN_KEYS) as operand rows [ATTN_KEYS, d], and with
 * TT_I8 their scales [ATTN_KEYS]: a row is then made of the whole numbers, which every operand type
 * holds exactly. Those beyond the tile's last row are zero: the cache behind them may never have
 * been written. */
void TT_FN(tt_attn_load_keys)(const attn_tile *t, bool values, int32_t key0, void *dst,
                              float *scales);

/* Fetches part `step` of `n_steps` of the keys and values that the block at key0 will want into the
 * second-level cache; none behind the tile's last row. The work on one block's scores is long
 * enough for the next block to come from memory meanwhile. */
void TT_FN(tt_attn_fetch)(const attn_tile *t, int32_t key0, int64_t step, int64_t n_steps);

/* First position that the tile's first row sees, and end of what its last row sees. */
static inline int32_t attn_first_key(const attn_tile *t, int32_t row)
{
    int32_t end = t->pos0 + row + 1;
    return t->a->window > 0 && end > t->a->window ? end - t->a->window : 0;
}

#define ATTN_LOG2E 1.44269504f
#define ATTN_LN2 0.693147181f

/* A vector of probabilities (or their gradients) as operands at element i. */
TT_INLINE void attn_put(void *p, int i, vf v, bool bf16)
{
    if (bf16) {
        vf_store_bf16((uint16_t *)p + i, v);
    } else {
        vf_store((float *)p + i, v);
    }
}

static inline size_t attn_elem(const attn_tile *t)
{
    return t->bf16 ? sizeof(uint16_t) : sizeof(float);
}

/* s[m_pad, ATTN_KEYS] = rows[m_pad, d] keys^T: products of rows of the tile with a block of keys
 * (or values). */
static inline tt_gemm_call attn_scores(const attn_tile *t, const void *rows, const void *keys,
                                       float *s)
{
    return (tt_gemm_call){.a = rows,
                          .b = keys,
                          .c = s,
                          .m = t->m_pad,
                          .n = ATTN_KEYS,
                          .k = t->d,
                          .lda = t->d,
                          .ldb = t->d,
                          .ldc = ATTN_KEYS,
                          .bf16 = t->bf16,
                          .trans_b = true};
}

/* o[m_pad, d] += p[m_pad, ATTN_KEYS] keys: a block's values (or keys) under these weights. */
static inline tt_gemm_call attn_sums(const attn_tile *t, const void *p, const void *keys, float *o)
{
    return (tt_gemm_call){.a = p,
                          .b = keys,
                          .c = o,
                          .m = t->m_pad,
                          .n = t->d,
                          .k = ATTN_KEYS,
                          .lda = ATTN_KEYS,
                          .ldb = t->d,
                          .ldc = t->d,
                          .bf16 = t->bf16,
                          .accumulate = true};
}

#endif
