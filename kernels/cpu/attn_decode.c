/* attn_decode.c - attention of single rows over long caches: bound by reading K and V. Thread:
 * engine.
 *
 * The keys of a row are cut into splits of SPLIT positions, aligned to absolute positions, so that
 * the cut does not depend on anything but the row's position. A task is one split of one row and
 * K/V head, for all query heads of the group: a key is loaded once for all of them. Each leaves
 * (maximum, sum, weighted values); they are then joined in rising order.
 *
 * A split's keys lie in runs of a page, each some 8 KiB in another place: what is fetched ahead
 * goes on in the next run, and from the keys' last run in the values' first. Vectors of BF16
 * elements are split into even and odd ones, two instructions for both; queries and sums are in
 * that order too while a task lasts. */
#include <math.h>
#include <omp.h>

#include "kernels/cpu/kern.h"

enum {
    SPLIT = 512,
    GROUP_MAX = 4, /* query heads that share one pass over the keys; larger groups take several */
    KEYS = VW == 16 ? 4 : 1, /* keys that are scored together */
    PAIR = 2 * VW,           /* elements that are loaded together */
    FETCH_AHEAD = 3072,      /* bytes between what is read and what is fetched */
    LINE = 64
};

typedef struct row_ref {
    const int32_t *pages; /* NULL: the row belongs to no segment */
    int32_t pos, first;   /* position, first visible key */
    int32_t split0, n_splits;
    int64_t part0; /* of its first split in the list of what they leave */
} row_ref;

/* Tasks go split by split, K/V head by K/V head and at last row by row: what one row of the segment
 * has read, the next one finds in the cache. */
typedef struct seg_ref {
    int32_t row0, n_rows, split0; /* the first split of any row */
    int64_t task0;                /* some are of rows that do not reach their split */
} seg_ref;

/* Fills rows and segs; returns how many tasks there are. */
static int64_t find_rows(const tt_attention_args *a, row_ref *rows, seg_ref *segs,
                         int64_t *ret_parts)
{
    memset(rows, 0, (size_t)a->n_rows * sizeof *rows);
    int64_t n_tasks = 0, n_parts = 0;
    for (int32_t s = 0; s < a->n_segs; s++) {
        const tt_seg *seg = &a->segs_host[s];
        int32_t end = 0;
        for (int32_t i = 0; i < seg->n_rows; i++) {
            int32_t pos = seg->pos0 + i,
                    first = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
            row_ref r = {.pages = (const int32_t *)tt_ptr(a->page_table) + seg->page0,
                         .pos = pos,
                         .first = first,
                         .split0 = first / SPLIT,
                         .n_splits = pos / SPLIT - first / SPLIT + 1,
                         .part0 = n_parts};
            rows[seg->row0 + i] = r;
            n_parts += r.n_splits;
            end = pos / SPLIT + 1;
        }
        segs[s] = (seg_ref){.row0 = seg->row0, .n_rows = seg->n_rows, .task0 = n_tasks};
        if (seg->n_rows > 0) {
            segs[s].split0 = rows[seg->row0].split0;
            n_tasks += (int64_t)(end - segs[s].split0) * a->kv->n_kv_heads * seg->n_rows;
        }
    }
    *ret_parts = n_parts;
    return n_tasks;
}

typedef struct part_ref {
    int32_t row, kv_head, head0, n_heads; /* query heads head0 .. of the row */
    int32_t lo, hi;                       /* keys */
} part_ref;

/* A thread's buffers; [GROUP_MAX] of each, for the query heads of a part. */
typedef struct part_bufs {
    float *score; /* [SPLIT] */
    float *q, *o; /* [d_pad], in the order of load_pair() */
    int64_t d_pad;
} part_bufs;

static int64_t padded_dim(int64_t d)
{
    return (d + PAIR - 1) / PAIR * PAIR;
}

static size_t buf_bytes(int64_t d)
{
    return GROUP_MAX * (size_t)(SPLIT + 2 * padded_dim(d)) * sizeof(float);
}

static part_bufs bufs_of(float *at, int64_t d)
{
    int64_t d_pad = padded_dim(d);
    return (part_bufs){.score = at,
                       .q = at + GROUP_MAX * SPLIT,
                       .o = at + GROUP_MAX * (SPLIT + d_pad),
                       .d_pad = d_pad};
}

TT_INLINE void load_whole_pair(const char *p, tt_dtype type, vf v[2])
{
    if (type == TT_F32) {
        v[0] = vf_load((const float *)(const void *)p);
        v[1] = vf_load((const float *)(const void *)p + VW);
    } else if (type == TT_I8) {
        v[0] = vf_load_i8((const int8_t *)p);
        v[1] = vf_load_i8((const int8_t *)p + VW);
    } else {
        vf_split_bf16((const uint16_t *)(const void *)p, v);
    }
}

/* Elements [i, i + PAIR) of a key, zeros from d on: BF16 the even ones, then the odd ones, else in
 * order; TT_I8 without its scale. */
TT_INLINE void load_pair(const char *p, int64_t i, int64_t d, tt_dtype type, vf v[2])
{
    int64_t elem = type == TT_I8 ? 1 : type == TT_BF16 ? 2 : 4;
    if (d - i >= PAIR) {
        load_whole_pair(p + i * elem, type, v);
        return;
    }
    char last[PAIR * sizeof(float)] = {0};
    memcpy(last, p + i * elem, (size_t)((d - i) * elem));
    load_whole_pair(last, type, v);
}

/* Where element i of a head lies in the order of load_pair(). */
static int64_t place_of(int64_t i, tt_dtype type)
{
    int64_t in = i % PAIR;
    return type == TT_BF16 ? i - in + in / 2 + in % 2 * VW : i;
}

/* A run of keys (values) of one page, dense, and where the next one is. */
typedef struct key_run {
    const char *p, *next;
    const float *scale; /* TT_I8: one a key */
    int32_t n, at;      /* keys; index of the first one in the split */
} key_run;

static const char *key_at(const tt_attention_args *a, const row_ref *r, int32_t kv_head,
                          bool values, int32_t pos)
{
    const tt_kv_layer *kv = a->kv;
    int64_t row = (int64_t)kv_head * TT_PAGE_TOKENS + pos % TT_PAGE_TOKENS;
    return (const char *)tt_ptr(values ? kv->v : kv->k) +
           r->pages[pos / TT_PAGE_TOKENS] * kv->page_stride +
           row * kv->head_dim * tt_dtypes[kv->type].block_bytes;
}

/* The run that begins at pos; moves pos to the next. */
static key_run next_run(const tt_attention_args *a, const row_ref *r, const part_ref *p,
                        bool values, int32_t *pos)
{
    const tt_kv_layer *kv = a->kv;
    int32_t end = (*pos / TT_PAGE_TOKENS + 1) * TT_PAGE_TOKENS;
    key_run run = {.at = *pos - p->lo, .p = key_at(a, r, p->kv_head, values, *pos)};
    if (kv->type == TT_I8) {
        const char *scales = (const char *)tt_ptr(values ? kv->v_scale : kv->k_scale) +
                             r->pages[*pos / TT_PAGE_TOKENS] * kv->page_stride;
        run.scale = (const float *)(const void *)scales + (int64_t)p->kv_head * TT_PAGE_TOKENS +
                    *pos % TT_PAGE_TOKENS;
    }
    end = end < p->hi ? end : p->hi;
    run.n = end - *pos;
    run.next = end < p->hi ? key_at(a, r, p->kv_head, values, end)
                           : key_at(a, r, p->kv_head, true, values ? *pos : p->lo);
    *pos = end;
    return run;
}

/* Fetches the n bytes that lie FETCH_AHEAD behind byte `at` of the run, or in the next one. */
TT_INLINE void fetch(const key_run *run, int64_t run_bytes, int64_t at, int64_t n)
{
    at += FETCH_AHEAD;
    const char *p = at < run_bytes ? run->p + at : run->next + (at - run_bytes);
    for (int64_t i = 0; i < n; i += LINE) {
        _mm_prefetch(p + i, _MM_HINT_T0);
    }
}

/* score[h][key] = scale * q_h . k for n_heads <= 4 heads; one vector sum a head and key, elements
 * in rising order of load_pair(). */
TT_INLINE void score_run(const tt_attention_args *a, tt_dtype type, key_run run, int n_heads,
                         const part_bufs *b)
{
    int64_t d = a->kv->head_dim, bytes = d * (type == TT_I8 ? 1 : type == TT_BF16 ? 2 : 4);
    for (int32_t t = 0; t < run.n; t += KEYS) {
        const char *k[KEYS];
        vf s[4][KEYS];
        float sum[4 * KEYS];
        for (int j = 0; j < KEYS; j++) { /* behind the last key: once more the last */
            k[j] = run.p + (t + j < run.n ? t + j : run.n - 1) * bytes;
            for (int h = 0; h < 4; h++) {
                s[h][j] = vf_zero();
            }
        }
        fetch(&run, run.n * bytes, t * bytes, KEYS * bytes);
        for (int64_t i = 0; i < d; i += PAIR) {
            for (int j = 0; j < KEYS; j++) {
                vf x[2];
                load_pair(k[j], i, d, type, x);
                for (int h = 0; h < n_heads; h++) {
                    const float *q = b->q + h * b->d_pad + i;
                    s[h][j] = vf_fma(x[0], vf_load(q), s[h][j]);
                    s[h][j] = vf_fma(x[1], vf_load(q + VW), s[h][j]);
                }
            }
        }
        vf_sums(s[0], sum);
        for (int j = 0; j < KEYS && t + j < run.n; j++) {
            float scale = type == TT_I8 ? a->scale * run.scale[t + j] : a->scale;
            for (int h = 0; h < n_heads; h++) {
                b->score[h * SPLIT + run.at + t + j] = sum[h * KEYS + j] * scale;
            }
        }
    }
}

/* o_h[i ..] += sum over the keys of weight[h][key] * v[i ..] for n_pairs * PAIR elements, keys in
 * rising order. */
TT_INLINE void value_columns(const tt_attention_args *a, tt_dtype type, const key_run *run,
                             int n_heads, const part_bufs *b, int64_t i, int n_pairs)
{
    int64_t d = a->kv->head_dim, bytes = d * (type == TT_I8 ? 1 : type == TT_BF16 ? 2 : 4);
    vf s[4][4];
    for (int h = 0; h < n_heads; h++) {
        for (int j = 0; j < 2 * n_pairs; j++) {
            s[h][j] = vf_load(b->o + h * b->d_pad + i + j * VW);
        }
    }
    for (int32_t t = 0; t < run->n; t++) {
        vf x[4];
        if (i == 0) {
            fetch(run, run->n * bytes, t * bytes, bytes);
        }
        for (int j = 0; j < n_pairs; j++) {
            load_pair(run->p + t * bytes, i + j * PAIR, d, type, x + 2 * j);
        }
        for (int h = 0; h < n_heads; h++) {
            vf w = vf_set1(b->score[h * SPLIT + run->at + t]);
            for (int j = 0; j < 2 * n_pairs; j++) {
                s[h][j] = vf_fma(x[j], w, s[h][j]);
            }
        }
    }
    for (int h = 0; h < n_heads; h++) {
        for (int j = 0; j < 2 * n_pairs; j++) {
            vf_store(b->o + h * b->d_pad + i + j * VW, s[h][j]);
        }
    }
}

TT_INLINE void value_run(const tt_attention_args *a, tt_dtype type, key_run run, int n_heads,
                         const part_bufs *b)
{
    int64_t i = 0;
    for (; VW == 16 && i + 2 * PAIR <= b->d_pad; i += 2 * PAIR) {
        value_columns(a, type, &run, n_heads, b, i, 2);
    }
    for (; i < b->d_pad; i += PAIR) {
        value_columns(a, type, &run, n_heads, b, i, 1);
    }
}

/* The number of heads as a constant, so that their sums stay in registers; and the type. */
TT_INLINE void run_heads(const tt_attention_args *a, tt_dtype type, key_run run, bool values,
                         int n_heads, const part_bufs *b)
{
    if (values) {
        value_run(a, type, run, n_heads, b);
    } else {
        score_run(a, type, run, n_heads, b);
    }
}

TT_INLINE void run_typed(const tt_attention_args *a, tt_dtype type, key_run run, bool values,
                         int n_heads, const part_bufs *b)
{
    switch (n_heads) {
    case 1:
        run_heads(a, type, run, values, 1, b);
        break;
    case 2:
        run_heads(a, type, run, values, 2, b);
        break;
    case 3:
        run_heads(a, type, run, values, 3, b);
        break;
    default:
        run_heads(a, type, run, values, 4, b);
    }
}

static void score_keys(const tt_attention_args *a, key_run run, int n_heads, const part_bufs *b)
{
    switch (a->kv->type) {
    case TT_I8:
        run_typed(a, TT_I8, run, false, n_heads, b);
        break;
    case TT_BF16:
        run_typed(a, TT_BF16, run, false, n_heads, b);
        break;
    default:
        run_typed(a, TT_F32, run, false, n_heads, b);
    }
}

/* With TT_I8 the weights are multiplied by the values' scales. */
static void sum_values(const tt_attention_args *a, key_run run, int n_heads, const part_bufs *b)
{
    switch (a->kv->type) {
    case TT_I8:
        for (int h = 0; h < n_heads; h++) {
            float *w = b->score + h * SPLIT + run.at;
            for (int64_t t = 0; t < run.n; t += VW) {
                vf_put(w, t, run.n, vf_mul(vf_at(w, t, run.n), vf_at(run.scale, t, run.n)));
            }
        }
        run_typed(a, TT_I8, run, true, n_heads, b);
        break;
    case TT_BF16:
        run_typed(a, TT_BF16, run, true, n_heads, b);
        break;
    default:
        run_typed(a, TT_F32, run, true, n_heads, b);
    }
}

/* score becomes exp(score - maximum); returns the maximum and the sum. */
static void soften(float *score, int32_t n, float *ret_max, float *ret_sum)
{
    vf most = vf_set1(score[0]);
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        most = vf_max(most, vf_load(score + i));
    }
    float top = vf_hmax(most);
    for (; i < n; i++) {
        top = score[i] > top ? score[i] : top;
    }
    vf total = vf_zero(), vtop = vf_set1(top);
    for (i = 0; i < n; i += VW) {
        vf e = vf_exp(vf_sub(vf_at(score, i, n), vtop));
        vf_put(score, i, n, e);
        total = vf_add(total, vf_at(score, i, n));
    }
    *ret_max = top;
    *ret_sum = vf_sum(total);
}

/* out: [n_heads][2 + d] = maximum, sum, sum of e * v. */
static void run_part(const tt_attention_args *a, const row_ref *r, const part_ref *p,
                     const part_bufs *b, float *out)
{
    int64_t d = a->kv->head_dim;
    tt_dtype type = a->kv->type;
    const float *q = (const float *)tt_ptr(a->q) + ((int64_t)p->row * a->n_heads + p->head0) * d;
    memset(b->q, 0, (size_t)(p->n_heads * b->d_pad) * sizeof *b->q);
    memset(b->o, 0, (size_t)(p->n_heads * b->d_pad) * sizeof *b->o);
    for (int64_t i = 0; i < d; i++) {
        for (int32_t h = 0; h < p->n_heads; h++) {
            b->q[h * b->d_pad + place_of(i, type)] = q[h * d + i];
        }
    }
    for (int32_t pos = p->lo; pos < p->hi;) {
        score_keys(a, next_run(a, r, p, false, &pos), p->n_heads, b);
    }
    for (int32_t h = 0; h < p->n_heads; h++) {
        soften(b->score + h * SPLIT, p->hi - p->lo, out + h * (2 + d), out + h * (2 + d) + 1);
    }
    for (int32_t pos = p->lo; pos < p->hi;) {
        sum_values(a, next_run(a, r, p, true, &pos), p->n_heads, b);
    }
    for (int64_t i = 0; i < d; i++) {
        for (int32_t h = 0; h < p->n_heads; h++) {
            out[h * (2 + d) + 2 + i] = b->o[h * b->d_pad + place_of(i, type)];
        }
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

/* Task t; its part has no keys when the row does not reach that far. All query heads of a K/V head
 * are one part here. */
static part_ref part_at(const tt_attention_args *a, const row_ref *rows, const seg_ref *segs,
                        int64_t t, int32_t *ret_split)
{
    int32_t s = a->n_segs - 1, n_kv = a->kv->n_kv_heads;
    while (t < segs[s].task0 || segs[s].n_rows == 0) {
        s--;
    }
    int64_t i = t - segs[s].task0;
    int32_t row = segs[s].row0 + (int32_t)(i % segs[s].n_rows);
    i /= segs[s].n_rows;
    const row_ref *r = &rows[row];
    int32_t split = segs[s].split0 + (int32_t)(i / n_kv), key0 = split * SPLIT;
    part_ref p = {.row = row,
                  .kv_head = (int32_t)(i % n_kv),
                  .n_heads = a->n_heads / n_kv,
                  .lo = key0 > r->first ? key0 : r->first,
                  .hi = key0 + SPLIT < r->pos + 1 ? key0 + SPLIT : r->pos + 1};
    p.head0 = p.kv_head * p.n_heads;
    *ret_split = split - r->split0;
    return p;
}

/* The second and later GROUP_MAX heads find the keys in the cache. */
static void run_task(const tt_attention_args *a, const row_ref *rows, const seg_ref *segs,
                     int64_t t, float *parts, const part_bufs *b)
{
    int32_t split;
    part_ref all = part_at(a, rows, segs, t, &split);
    if (all.lo >= all.hi) {
        return;
    }
    const row_ref *r = &rows[all.row];
    int64_t d = a->kv->head_dim;
    float *out = parts + (r->part0 + split) * a->n_heads * (2 + d);
    for (int32_t i = 0; i < all.n_heads; i += GROUP_MAX) {
        part_ref p = all;
        p.head0 += i;
        p.n_heads = all.n_heads - i < GROUP_MAX ? all.n_heads - i : GROUP_MAX;
        run_part(a, r, &p, b, out + p.head0 * (2 + d));
    }
}

void TT_FN(tt_attention_decode)(tt_lane *lane, const tt_attention_args *a)
{
    int64_t d = a->kv->head_dim, part_floats = a->n_heads * (2 + d), n_parts;
    size_t rows_bytes = (size_t)a->n_rows * sizeof(row_ref);
    row_ref *rows = tt_lane_scratch(lane, 0, rows_bytes + (size_t)a->n_segs * sizeof(seg_ref));
    if (rows == NULL || !tt_lane_reserve_threads(lane, buf_bytes(d))) {
        return;
    }
    seg_ref *segs = (seg_ref *)(void *)(rows + a->n_rows);
    int64_t n_tasks = find_rows(a, rows, segs, &n_parts);
    float *parts = tt_lane_scratch(lane, 1, (size_t)(n_parts * part_floats) * sizeof *parts);
    if (parts == NULL) {
        return;
    }
#pragma omp parallel num_threads(lane->n_threads)
    {
        part_bufs b = bufs_of(tt_lane_thread_buf(lane, omp_get_thread_num()), d);
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < n_tasks; t++) {
            run_task(a, rows, segs, t, parts, &b);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (int64_t)a->n_rows * a->n_heads; i++) {
            int32_t row = (int32_t)(i / a->n_heads), head = (int32_t)(i % a->n_heads);
            if (rows[row].pages != NULL) {
                const float *part = parts + rows[row].part0 * part_floats + head * (2 + d);
                join(a, row, head, part, rows[row].n_splits, part_floats);
            }
        }
    }
}
