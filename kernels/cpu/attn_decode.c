/* attn_decode.c - attention of single rows over long caches: bound by reading K and V. Thread:
 * engine.
 *
 * The keys of a row are cut into splits of SPLIT positions, aligned to absolute positions, so that
 * the cut does not depend on anything but the row's position. A task is one split of one row and
 * K/V head, for all query heads of the group: a key is loaded once for all of them. Each leaves
 * (maximum, sum, weighted values); they are then joined in rising order. */
#include <math.h>
#include <omp.h>

#include "kernels/cpu/kern.h"

enum {
    SPLIT = 512,
    GROUP_MAX = 4,   /* query heads that share one pass over the keys; larger groups take several */
    KEY_AHEAD = 1024 /* bytes between the key that is read and what is fetched */
};

typedef struct row_ref {
    const int32_t *pages; /* NULL: the row belongs to no segment */
    int32_t pos, first;   /* position, first visible key */
    int64_t task0;        /* first task of the row */
    int32_t split0, n_splits;
} row_ref;

static int64_t find_rows(const tt_attention_args *a, int32_t n_parts, row_ref *rows)
{
    memset(rows, 0, (size_t)a->n_rows * sizeof *rows);
    int64_t n_tasks = 0;
    for (int32_t s = 0; s < a->n_segs; s++) {
        const tt_seg *seg = &a->segs_host[s];
        for (int32_t i = 0; i < seg->n_rows; i++) {
            int32_t pos = seg->pos0 + i,
                    first = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
            row_ref r = {.pages = (const int32_t *)tt_ptr(a->page_table) + seg->page0,
                         .pos = pos,
                         .first = first,
                         .task0 = n_tasks,
                         .split0 = first / SPLIT,
                         .n_splits = pos / SPLIT - first / SPLIT + 1};
            rows[seg->row0 + i] = r;
            n_tasks += (int64_t)r.n_splits * n_parts;
        }
    }
    return n_tasks;
}

typedef struct part_ref {
    int32_t row, kv_head, head0, n_heads; /* query heads head0 .. of the row */
    int32_t lo, hi;                       /* keys */
} part_ref;

/* Elements [i, i + VW) of a key, zeros from d on; TT_I8 without its scale. */
TT_INLINE vf load_kv(const char *p, int64_t i, int64_t d, tt_dtype type)
{
    if (type == TT_F32) {
        return vf_at((const float *)(const void *)p, i, d);
    }
    if (type == TT_I8) {
        int8_t last[VW] = {0};
        if (d - i >= VW) {
            return vf_load_i8((const int8_t *)p + i);
        }
        memcpy(last, p + i, (size_t)(d - i));
        return vf_load_i8(last);
    }
    const uint16_t *h = (const uint16_t *)(const void *)p;
    if (d - i >= VW) {
        return vf_load_bf16(h + i);
    }
    uint16_t last[VW] = {0};
    memcpy(last, h + i, (size_t)(d - i) * sizeof *last);
    return vf_load_bf16(last);
}

/* A run of keys (values) of one page, dense. */
typedef struct key_run {
    const char *p;
    const float *scale; /* TT_I8: one a key */
    int32_t n, at;      /* keys; index of the first one in the split */
} key_run;

/* The run that begins at pos; moves pos to the next. */
static key_run next_run(const tt_attention_args *a, const row_ref *r, const part_ref *p,
                        bool values, int32_t *pos)
{
    const tt_kv_layer *kv = a->kv;
    int32_t end = (*pos / TT_PAGE_TOKENS + 1) * TT_PAGE_TOKENS;
    int64_t page = r->pages[*pos / TT_PAGE_TOKENS] * kv->page_stride;
    int64_t row = (int64_t)p->kv_head * TT_PAGE_TOKENS + *pos % TT_PAGE_TOKENS;
    key_run run = {.at = *pos - p->lo};
    run.p = (const char *)tt_ptr(values ? kv->v : kv->k) + page +
            row * kv->head_dim * tt_dtypes[kv->type].block_bytes;
    if (kv->type == TT_I8) {
        const char *scales = (const char *)tt_ptr(values ? kv->v_scale : kv->k_scale) + page;
        run.scale = (const float *)(const void *)scales + row;
    }
    end = end < p->hi ? end : p->hi;
    run.n = end - *pos;
    *pos = end;
    return run;
}

/* score[h][key] = scale * q_h . k for n_heads <= 4 heads; one vector sum a head, elements in rising
 * order. */
TT_INLINE void score_run(const tt_attention_args *a, tt_dtype type, key_run run, const float *q,
                         int n_heads, float *score)
{
    int64_t d = a->kv->head_dim, elem = type == TT_I8 ? 1 : type == TT_BF16 ? 2 : 4;
    for (int32_t t = 0; t < run.n; t++) {
        const char *k = run.p + t * d * elem;
        vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        float sum[4];
        _mm_prefetch(k + KEY_AHEAD, _MM_HINT_T0);
        for (int64_t i = 0; i < d; i += VW) {
            vf x = load_kv(k, i, d, type);
            for (int h = 0; h < n_heads; h++) {
                s[h] = vf_fma(x, vf_at(q + h * d, i, d), s[h]);
            }
        }
        vf_sum4(s, sum);
        float scale = type == TT_I8 ? a->scale * run.scale[t] : a->scale;
        for (int h = 0; h < n_heads; h++) {
            score[h * SPLIT + run.at + t] = sum[h] * scale;
        }
    }
}

/* o_h[d] += sum over the keys of weight[h][key] * v, keys in rising order; o_h lie 2 + d apart. */
TT_INLINE void value_run(const tt_attention_args *a, tt_dtype type, key_run run,
                         const float *weight, int n_heads, float *o)
{
    int64_t d = a->kv->head_dim, elem = type == TT_I8 ? 1 : type == TT_BF16 ? 2 : 4;
    for (int64_t i = 0; i < d; i += VW) {
        vf s[4];
        for (int h = 0; h < n_heads; h++) {
            s[h] = vf_at(o + h * (2 + d), i, d);
        }
        for (int32_t t = 0; t < run.n; t++) {
            const char *v = run.p + t * d * elem;
            if (i == 0) {
                _mm_prefetch(v + KEY_AHEAD, _MM_HINT_T0);
            }
            vf x = load_kv(v, i, d, type);
            for (int h = 0; h < n_heads; h++) {
                s[h] = vf_fma(x, vf_set1(weight[h * SPLIT + run.at + t]), s[h]);
            }
        }
        for (int h = 0; h < n_heads; h++) {
            vf_put(o + h * (2 + d), i, d, s[h]);
        }
    }
}

/* The number of heads as a constant, so that their sums stay in registers; and the type. */
TT_INLINE void score_typed(const tt_attention_args *a, tt_dtype type, key_run run, const float *q,
                           int n_heads, float *score)
{
    switch (n_heads) {
    case 1:
        score_run(a, type, run, q, 1, score);
        break;
    case 2:
        score_run(a, type, run, q, 2, score);
        break;
    case 3:
        score_run(a, type, run, q, 3, score);
        break;
    default:
        score_run(a, type, run, q, 4, score);
    }
}

static void score_heads(const tt_attention_args *a, key_run run, const float *q, int n_heads,
                        float *score)
{
    switch (a->kv->type) {
    case TT_I8:
        score_typed(a, TT_I8, run, q, n_heads, score);
        break;
    case TT_BF16:
        score_typed(a, TT_BF16, run, q, n_heads, score);
        break;
    default:
        score_typed(a, TT_F32, run, q, n_heads, score);
    }
}

TT_INLINE void value_typed(const tt_attention_args *a, tt_dtype type, key_run run,
                           const float *weight, int n_heads, float *o)
{
    switch (n_heads) {
    case 1:
        value_run(a, type, run, weight, 1, o);
        break;
    case 2:
        value_run(a, type, run, weight, 2, o);
        break;
    case 3:
        value_run(a, type, run, weight, 3, o);
        break;
    default:
        value_run(a, type, run, weight, 4, o);
    }
}

/* weight: with TT_I8 it is multiplied by the values' scales. */
static void value_heads(const tt_attention_args *a, key_run run, float *weight, int n_heads,
                        float *o)
{
    switch (a->kv->type) {
    case TT_I8:
        for (int h = 0; h < n_heads; h++) {
            float *w = weight + h * SPLIT + run.at;
            for (int64_t t = 0; t < run.n; t += VW) {
                vf_put(w, t, run.n, vf_mul(vf_at(w, t, run.n), vf_at(run.scale, t, run.n)));
            }
        }
        value_typed(a, TT_I8, run, weight, n_heads, o);
        break;
    case TT_BF16:
        value_typed(a, TT_BF16, run, weight, n_heads, o);
        break;
    default:
        value_typed(a, TT_F32, run, weight, n_heads, o);
    }
}

/* score becomes exp(score - maximum); returns the maximum and the sum. */
static void soften(float *score, int32_t n, float *ret_max, float *ret_sum)
{
    float top = score[0];
    for (int32_t i = 1; i < n; i++) {
        top = score[i] > top ? score[i] : top;
    }
    vf total = vf_zero(), vtop = vf_set1(top);
    for (int64_t i = 0; i < n; i += VW) {
        vf e = vf_exp(vf_sub(vf_at(score, i, n), vtop));
        vf_put(score, i, n, e);
        total = vf_add(total, vf_at(score, i, n));
    }
    *ret_max = top;
    *ret_sum = vf_sum(total);
}

/* out: [n_heads][2 + d] = maximum, sum, sum of e * v. */
static void run_part(const tt_attention_args *a, const row_ref *r, const part_ref *p, float *score,
                     float *out)
{
    int64_t d = a->kv->head_dim;
    const float *q = (const float *)tt_ptr(a->q) + ((int64_t)p->row * a->n_heads + p->head0) * d;
    for (int32_t pos = p->lo; pos < p->hi;) {
        score_heads(a, next_run(a, r, p, false, &pos), q, p->n_heads, score);
    }
    for (int32_t h = 0; h < p->n_heads; h++) {
        soften(score + h * SPLIT, p->hi - p->lo, out + h * (2 + d), out + h * (2 + d) + 1);
        memset(out + h * (2 + d) + 2, 0, (size_t)d * sizeof *out);
    }
    for (int32_t pos = p->lo; pos < p->hi;) {
        value_heads(a, next_run(a, r, p, true, &pos), score, p->n_heads, out + 2);
    }
}

/* Joins the splits of one head of one row; part: [n_splits], `stride` floats apart. */
static void join(const tt_attention_args *a, int32_t row, int32_t head, const float *part,
                 int32_t n_splits, int64_t stride)
{
    int64_t d = a->kv->head_dim;
    float *to = (float *)tt_ptr(a->out) + ((int64_t)row * a->n_heads + head) * d;
    float top = -INFINITY, sum = 0;
    for (int32_t s = 0; s < n_splits; s++) {
        top = part[s * stride] > top ? part[s * stride] : top;
    }
    for (int64_t i = 0; i < d; i += VW) {
        vf_put(to, i, d, vf_zero());
    }
    for (int32_t s = 0; s < n_splits; s++) {
        float weight = expf(part[s * stride] - top);
        sum += part[s * stride + 1] * weight;
        for (int64_t i = 0; i < d; i += VW) {
            vf_put(to, i, d,
                   vf_fma(vf_at(part + s * stride + 2, i, d), vf_set1(weight), vf_at(to, i, d)));
        }
    }
    vf inv = vf_set1(1.0f / sum);
    for (int64_t i = 0; i < d; i += VW) {
        vf_put(to, i, d, vf_mul(vf_at(to, i, d), inv));
    }
    if (a->lse != 0) {
        ((float *)tt_ptr(a->lse))[(int64_t)row * a->n_heads + head] = top + logf(sum);
    }
}

/* Task t: row, then split, then part of the heads. */
static part_ref part_at(const tt_attention_args *a, const row_ref *rows, int32_t n_parts, int64_t t,
                        int32_t *ret_split)
{
    int32_t row = 0, group = a->n_heads / a->kv->n_kv_heads,
            per_group = (group + GROUP_MAX - 1) / GROUP_MAX;
    while (rows[row].pages == NULL ||
           t >= rows[row].task0 + (int64_t)rows[row].n_splits * n_parts || t < rows[row].task0) {
        row++;
    }
    const row_ref *r = &rows[row];
    int64_t i = t - r->task0;
    int32_t split = (int32_t)(i / n_parts), part = (int32_t)(i % n_parts);
    part_ref p = {.row = row, .kv_head = part / per_group};
    int32_t skip = part % per_group * GROUP_MAX;
    p.head0 = p.kv_head * group + skip;
    p.n_heads = group - skip < GROUP_MAX ? group - skip : GROUP_MAX;
    int32_t key0 = (r->split0 + split) * SPLIT;
    p.lo = key0 > r->first ? key0 : r->first;
    p.hi = key0 + SPLIT < r->pos + 1 ? key0 + SPLIT : r->pos + 1;
    *ret_split = split;
    return p;
}

void TT_FN(tt_attention_decode)(tt_lane *lane, const tt_attention_args *a)
{
    int32_t group = a->n_heads / a->kv->n_kv_heads;
    int32_t n_parts = (group + GROUP_MAX - 1) / GROUP_MAX * a->kv->n_kv_heads;
    int64_t d = a->kv->head_dim, part_floats = a->n_heads * (2 + d);
    row_ref *rows = tt_lane_scratch(lane, 0, (size_t)a->n_rows * sizeof *rows);
    if (rows == NULL || !tt_lane_reserve_threads(lane, GROUP_MAX * SPLIT * sizeof(float))) {
        return;
    }
    int64_t n_tasks = find_rows(a, n_parts, rows);
    float *parts =
        tt_lane_scratch(lane, 1, (size_t)(n_tasks / n_parts * part_floats) * sizeof *parts);
    if (parts == NULL) {
        return;
    }
#pragma omp parallel num_threads(lane->n_threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < n_tasks; t++) {
            int32_t split;
            part_ref p = part_at(a, rows, n_parts, t, &split);
            const row_ref *r = &rows[p.row];
            float *out = parts + (r->task0 / n_parts + split) * part_floats + p.head0 * (2 + d);
            run_part(a, r, &p, tt_lane_thread_buf(lane, omp_get_thread_num()), out);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (int64_t)a->n_rows * a->n_heads; i++) {
            int32_t row = (int32_t)(i / a->n_heads), head = (int32_t)(i % a->n_heads);
            if (rows[row].pages != NULL) {
                const float *part =
                    parts + rows[row].task0 / n_parts * part_floats + head * (2 + d);
                join(a, row, head, part, rows[row].n_splits, part_floats);
            }
        }
    }
}
