/* kv_pages.c - pages of K and V as the tests lay them out, each with room for two layers, and the
 * definition of what is stored in them; see checkops.h. Source: tt_kv_layer in kernels/ops.h. */
#include "tests/checkops/checkops.h"

#include <math.h>
#include <string.h>

static int64_t rows_of(const co_shape *s)
{
    return (int64_t)s->kv_heads * TT_PAGE_TOKENS;
}

static int64_t elem_of(const co_shape *s)
{
    return tt_dtypes[s->type].block_bytes;
}

static int64_t layer_bytes(const co_shape *s)
{
    return 2 * rows_of(s) * (s->dim * elem_of(s) + (s->type == TT_I8 ? 4 : 0));
}

int64_t co_kv_page_bytes(const co_shape *s)
{
    return 2 * layer_bytes(s);
}

tt_kv_layer co_kv_layer(const co_shape *s, int layer, tt_dev pages)
{
    tt_dev at = pages + (tt_dev)(layer * layer_bytes(s));
    tt_dev half = (tt_dev)(rows_of(s) * s->dim * elem_of(s));
    bool scaled = s->type == TT_I8;
    return (tt_kv_layer){.k = at,
                         .v = at + half,
                         .k_scale = scaled ? at + 2 * half : 0,
                         .v_scale = scaled ? at + 2 * half + 4 * (tt_dev)rows_of(s) : 0,
                         .page_stride = co_kv_page_bytes(s),
                         .type = s->type,
                         .n_kv_heads = s->kv_heads,
                         .head_dim = s->dim};
}

/* Where a vector and its scale lie, from the first page's first byte. */
static void place(const co_shape *s, const tt_kv_layer *kv, co_kv_at at, int64_t *ret_vector,
                  int64_t *ret_scale)
{
    int64_t row = (int64_t)at.head * TT_PAGE_TOKENS + at.offset, page = at.page * kv->page_stride;
    int64_t first = at.is_v ? (int64_t)(kv->v - kv->k) : 0;
    int64_t scales = (int64_t)((at.is_v ? kv->v_scale : kv->k_scale) - kv->k);
    *ret_vector = page + first + row * s->dim * elem_of(s);
    *ret_scale = page + scales + 4 * row;
}

void co_kv_quantise(const double *x, int32_t n, double *y)
{
    double max = 0;
    for (int32_t i = 0; i < n; i++) {
        max = fmax(max, fabs(x[i]));
    }
    for (int32_t i = 0; i < n; i++) {
        y[i] = max > 0 ? max / 127 * rint(x[i] / (max / 127)) : 0;
    }
}

void co_kv_put(const co_shape *s, const tt_kv_layer *kv, uint8_t *first_k, co_kv_at at,
               const double *x)
{
    int64_t to, scale_to;
    double max = 0;
    place(s, kv, at, &to, &scale_to);
    for (int32_t i = 0; i < s->dim; i++) {
        max = fmax(max, fabs(x[i]));
    }
    float scale = (float)(max / 127);
    for (int32_t i = 0; i < s->dim; i++) {
        float f = (float)x[i];
        uint16_t h = tt_f32_to_bf16(f);
        int8_t q = (int8_t)(scale > 0 ? rint(x[i] / (double)scale) : 0);
        const void *from = s->type == TT_F32 ? (void *)&f : s->type == TT_I8 ? (void *)&q : &h;
        memcpy(first_k + to + i * elem_of(s), from, (size_t)elem_of(s));
    }
    if (s->type == TT_I8) {
        memcpy(first_k + scale_to, &scale, sizeof scale);
    }
}

void co_kv_get(const co_shape *s, const tt_kv_layer *kv, const uint8_t *first_k, co_kv_at at,
               double *x)
{
    int64_t from, scale_from;
    float scale = 0;
    place(s, kv, at, &from, &scale_from);
    if (s->type == TT_I8) {
        memcpy(&scale, first_k + scale_from, sizeof scale);
    }
    for (int32_t i = 0; i < s->dim; i++) {
        const uint8_t *p = first_k + from + i * elem_of(s);
        float f;
        uint16_t h;
        memcpy(&h, p, s->type == TT_BF16 ? sizeof h : 0);
        memcpy(&f, p, s->type == TT_F32 ? sizeof f : 0);
        x[i] = s->type == TT_F32    ? (double)f
               : s->type == TT_BF16 ? (double)tt_bf16_to_f32(h)
                                    : (double)scale * (int8_t)*p;
    }
}

void co_kv_mark(const co_shape *s, const tt_kv_layer *kv, uint8_t *first_k, co_kv_at at)
{
    int64_t to, scale_to;
    place(s, kv, at, &to, &scale_to);
    memset(first_k + to, 1, (size_t)(s->dim * elem_of(s)));
    if (s->type == TT_I8) {
        memset(first_k + scale_to, 1, sizeof(float));
    }
}
