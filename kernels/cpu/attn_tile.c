/* attn_tile.c - see attn_tile.h. */
#include "kernels/cpu/attn_tile.h"

#include <assert.h>

enum { TILE_MAX = 64, TILE_MIN = 8, STACK = 256, LINE = 64 };

int32_t TT_FN(tt_attn_tile_rows)(const tt_attention_args *a)
{
    int32_t group = a->n_heads / a->kv->n_kv_heads, rows = TILE_MAX;
    while (rows > TILE_MIN && rows * group > STACK) {
        rows /= 2;
    }
    return rows;
}

int64_t TT_FN(tt_attn_tiles)(const tt_attention_args *a)
{
    int32_t rows = TT_FN(tt_attn_tile_rows)(a);
    int64_t n = 0;
    for (int32_t s = 0; s < a->n_segs; s++) {
        n += (a->segs_host[s].n_rows + rows - 1) / rows;
    }
    return n * a->kv->n_kv_heads;
}

attn_tile TT_FN(tt_attn_tile_at)(const tt_attention_args *a, int64_t i)
{
    int32_t rows = TT_FN(tt_attn_tile_rows)(a), n_kv = a->kv->n_kv_heads;
    const tt_seg *seg = a->segs_host;
    int64_t in_seg = (seg->n_rows + rows - 1) / rows;
    while (i >= in_seg * n_kv) {
        i -= in_seg * n_kv;
        seg++;
        in_seg = (seg->n_rows + rows - 1) / rows;
    }
    assert(seg < a->segs_host + a->n_segs);
    int32_t first = (int32_t)(in_seg - 1 - i / n_kv) * rows;
    attn_tile t = {.a = a,
                   .pages = (const int32_t *)tt_ptr(a->page_table) + seg->page0,
                   .row0 = seg->row0 + first,
                   .n_rows = seg->n_rows - first < rows ? seg->n_rows - first : rows,
                   .pos0 = seg->pos0 + first,
                   .kv_head = (int32_t)(i % n_kv),
                   .group = a->n_heads / n_kv,
                   .d = a->kv->head_dim,
                   .bf16 = TT_GEMM_BF16 && a->kv->type != TT_F32,
                   .scaled = a->kv->type == TT_I8};
    t.m = (int64_t)t.n_rows * t.group;
    t.m_pad = tt_gemm_padded(t.m, t.bf16);
    return t;
}

void TT_FN(tt_attn_load_rows)(const attn_tile *t, const float *x, void *dst)
{
    int64_t n = t->group * t->d, nq = t->a->n_heads * t->d;
    size_t elem = attn_elem(t);
    for (int32_t r = 0; r < t->n_rows; r++) {
        const float *src = x + (t->row0 + r) * nq + t->kv_head * n;
        char *to = (char *)dst + (size_t)(r * n) * elem;
        if (t->bf16) {
            TT_FN(tt_round_bf16)(src, (uint16_t *)(void *)to, n);
        } else {
            memcpy(to, src, (size_t)n * sizeof *src);
        }
    }
    memset((char *)dst + (size_t)(t->m * t->d) * elem, 0,
           (size_t)((t->m_pad - t->m) * t->d) * elem);
}

/* y[n] = x as operands; n is a multiple of 16, since a page has 64 rows. */
static void widen_i8(const int8_t *x, void *y, int64_t n, bool bf16)
{
    for (int64_t i = 0; i < n; i += 16) {
        vf v[16 / VW];
        vf_from_i8x16(_mm_loadu_si128((const __m128i *)(const void *)(x + i)), v);
        for (int j = 0; j < 16 / VW; j++) {
            attn_put(y, (int)i + j * VW, v[j], bf16);
        }
    }
}

void TT_FN(tt_attn_load_keys)(const attn_tile *t, bool values, int32_t key0, void *dst,
                              float *scales)
{
    const tt_kv_layer *kv = t->a->kv;
    const char *base = tt_ptr(values ? kv->v : kv->k),
               *scale_base = tt_ptr(values ? kv->v_scale : kv->k_scale);
    size_t elem = attn_elem(t), stored = (size_t)tt_dtypes[kv->type].block_bytes;
    int32_t end = t->pos0 + t->n_rows; /* of the keys that exist */
    for (int32_t k = key0; k < key0 + ATTN_KEYS; k += TT_PAGE_TOKENS) {
        int64_t n = end - k < 0 ? 0 : end - k < TT_PAGE_TOKENS ? end - k : TT_PAGE_TOKENS;
        char *to = (char *)dst + (size_t)((k - key0) * t->d) * elem;
        if (n > 0) {
            int64_t page = t->pages[k / TT_PAGE_TOKENS] * kv->page_stride;
            const char *src = base + page + (size_t)(t->kv_head * TT_PAGE_TOKENS * t->d) * stored;
            if (t->scaled) {
                /* Whole vectors: what is too much becomes zero below. */
                widen_i8((const int8_t *)src, to, (n * t->d + 15) / 16 * 16, t->bf16);
                memcpy(scales + (k - key0),
                       scale_base + page + (size_t)t->kv_head * TT_PAGE_TOKENS * sizeof *scales,
                       (size_t)n * sizeof *scales);
            } else if (elem == stored) {
                memcpy(to, src, (size_t)(n * t->d) * elem);
            } else {
                TT_FN(tt_dequant)(kv->type, src, (float *)(void *)to, n * t->d);
            }
        }
        memset(to + (size_t)(n * t->d) * elem, 0, (size_t)((TT_PAGE_TOKENS - n) * t->d) * elem);
        if (t->scaled) {
            memset(scales + (k - key0 + n), 0, (size_t)(TT_PAGE_TOKENS - n) * sizeof *scales);
        }
    }
}

void TT_FN(tt_attn_fetch)(const attn_tile *t, int32_t key0, int64_t step, int64_t n_steps)
{
    const tt_kv_layer *kv = t->a->kv;
    const char *keys = tt_ptr(kv->k), *values = tt_ptr(kv->v);
    int64_t run = TT_PAGE_TOKENS * t->d * tt_dtypes[kv->type].block_bytes; /* of a head in a page */
    int64_t lines = run / LINE, from = lines * step / n_steps, to = lines * (step + 1) / n_steps;
    int32_t end = t->pos0 + t->n_rows;
    end = end < key0 + ATTN_KEYS ? end : key0 + ATTN_KEYS;
    for (int32_t k = key0; k < end; k += TT_PAGE_TOKENS) {
        int64_t at = t->pages[k / TT_PAGE_TOKENS] * kv->page_stride + t->kv_head * run;
        for (int64_t i = at + from * LINE; i < at + to * LINE; i += LINE) {
            _mm_prefetch(keys + i, _MM_HINT_T1);
            _mm_prefetch(values + i, _MM_HINT_T1);
        }
    }
}
