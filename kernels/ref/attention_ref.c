/* attention_ref.c - causal attention over paged K and V, and the gradient of its queries.
 * The table `rows` says for every row of the step where its sequence's keys lie. */
#include <assert.h>
#include <math.h>
#include <omp.h>

#include "kernels/lane.h"
#include "kernels/ref/ref.h"

#define KEYS_AT_ONCE                                                                               \
    4 /* independent sums side by side; each is one key's, so grouping changes no bit */

struct row_keys {
    const int32_t *pages; /* NULL: the row belongs to no segment */
    int32_t first, end;   /* key positions [first, end) */
};

/* Buffers of one thread: [n_keys] weights, then [head_dim] each. */
struct work {
    double *weight;
    double *q, *d_out, *sum;
    float *row[KEYS_AT_ONCE];
};

static size_t work_bytes(int32_t n_keys, int32_t head_dim)
{
    return ((size_t)n_keys + 3 * (size_t)head_dim) * sizeof(double) +
           KEYS_AT_ONCE * (size_t)head_dim * sizeof(float);
}

static struct work get_work(const tt_lane *lane, int32_t n_keys, int32_t head_dim)
{
    struct work w = {.weight = tt_lane_thread_buf(lane, omp_get_thread_num())};
    w.q = w.weight + n_keys;
    w.d_out = w.q + head_dim;
    w.sum = w.d_out + head_dim;
    for (int i = 0; i < KEYS_AT_ONCE; i++) {
        w.row[i] = (float *)(w.sum + head_dim) + (ptrdiff_t)i * head_dim;
    }
    return w;
}

/* Fills rows[n_rows]; returns the largest number of keys that a row sees. */
static int32_t find_keys(const tt_attention_args *a, struct row_keys *rows)
{
    int32_t most = 0;
    memset(rows, 0, (size_t)a->n_rows * sizeof *rows);
    for (int32_t s = 0; s < a->n_segs; s++) {
        const tt_seg *seg = &a->segs_host[s];
        assert(seg->row0 >= 0 && seg->row0 + seg->n_rows <= a->n_rows && seg->pos0 >= 0);
        for (int32_t i = 0; i < seg->n_rows; i++) {
            int32_t end = seg->pos0 + i + 1;
            int32_t first = a->window > 0 && end > a->window ? end - a->window : 0;
            rows[seg->row0 + i] =
                (struct row_keys){(const int32_t *)tt_ptr(a->page_table) + seg->page0, first, end};
            most = end - first > most ? end - first : most;
        }
    }
    return most;
}

/* y[head_dim] = K (V where `values`) of position p. */
static void load_key(const tt_kv_layer *kv, bool values, const struct row_keys *rk, int32_t head,
                     int32_t p, float *y)
{
    int64_t at = rk->pages[p / TT_PAGE_TOKENS] * kv->page_stride;
    int32_t n = kv->head_dim;
    const char *src = (const char *)tt_ptr(values ? kv->v : kv->k) + at;
    size_t row = (size_t)head * TT_PAGE_TOKENS + (size_t)(p % TT_PAGE_TOKENS);
    size_t first = row * (size_t)n;
    if (kv->type == TT_I8) {
        const char *scales = (const char *)tt_ptr(values ? kv->v_scale : kv->k_scale) + at;
        float scale = ((const float *)(const void *)scales)[row];
        for (int32_t i = 0; i < n; i++) {
            y[i] = scale * (float)((const int8_t *)src)[first + (size_t)i];
        }
        return;
    }
    if (kv->type == TT_F32) {
        memcpy(y, (const float *)(const void *)src + first, (size_t)n * sizeof *y);
        return;
    }
    const uint16_t *h = (const uint16_t *)(const void *)src + first;
    for (int32_t i = 0; i < n; i++) {
        y[i] = tt_bf16_to_f32(h[i]);
    }
}

/* dot[i] = v . row of position p + i, i < n <= KEYS_AT_ONCE; the rows stay in w->row. */
static void dot_keys(const tt_kv_layer *kv, bool values, const struct row_keys *rk, int32_t head,
                     int32_t p, int32_t n, const double *v, struct work *w,
                     double dot[KEYS_AT_ONCE])
{
    for (int i = 0; i < KEYS_AT_ONCE; i++) {
        load_key(kv, values, rk, head, i < n ? p + i : p, w->row[i]);
        dot[i] = 0;
    }
    for (int32_t d = 0; d < kv->head_dim; d++) {
        for (int i = 0; i < KEYS_AT_ONCE; i++) {
            dot[i] += v[d] * w->row[i][d];
        }
    }
}

static void to_double(const float *x, int32_t n, double *y)
{
    for (int32_t i = 0; i < n; i++) {
        y[i] = x[i];
    }
}

static int32_t group_size(int32_t left)
{
    return left < KEYS_AT_ONCE ? left : KEYS_AT_ONCE;
}

/* One head of one row. */
static void attend(const tt_attention_args *a, const struct row_keys *rk, int32_t r, int32_t h,
                   struct work *w)
{
    const tt_kv_layer *kv = a->kv;
    int32_t dim = kv->head_dim, head = h / (a->n_heads / kv->n_kv_heads);
    size_t qh = (size_t)r * (size_t)a->n_heads + (size_t)h, at = qh * (size_t)dim;
    double max = -INFINITY, sum = 0, dot[KEYS_AT_ONCE];
    to_double((const float *)tt_ptr(a->q) + at, dim, w->q);
    for (int32_t p = rk->first; p < rk->end; p += KEYS_AT_ONCE) {
        int32_t n = group_size(rk->end - p);
        dot_keys(kv, false, rk, head, p, n, w->q, w, dot);
        for (int32_t i = 0; i < n; i++) {
            double score = a->scale * dot[i];
            w->weight[p - rk->first + i] = score;
            max = score > max ? score : max;
        }
    }
    memset(w->sum, 0, (size_t)dim * sizeof *w->sum);
    for (int32_t p = rk->first; p < rk->end; p++) {
        double e = exp(w->weight[p - rk->first] - max);
        sum += e;
        load_key(kv, true, rk, head, p, w->row[0]);
        for (int32_t d = 0; d < dim; d++) {
            w->sum[d] += e * w->row[0][d];
        }
    }
    float *out = (float *)tt_ptr(a->out) + at;
    for (int32_t d = 0; d < dim; d++) {
        out[d] = (float)(w->sum[d] / sum);
    }
    if (a->lse != 0) {
        ((float *)tt_ptr(a->lse))[qh] = (float)(max + log(sum));
    }
}

/* One head of one row: dq = scale * sum_j P_j (dP_j - delta) k_j, P_j = exp(score_j - lse), delta =
 * d_out . out. */
static void attend_bwd(const tt_attention_bwd_args *b, const struct row_keys *rk, int32_t r,
                       int32_t h, struct work *w)
{
    const tt_attention_args *a = &b->fwd;
    const tt_kv_layer *kv = a->kv;
    int32_t dim = kv->head_dim, head = h / (a->n_heads / kv->n_kv_heads);
    size_t qh = (size_t)r * (size_t)a->n_heads + (size_t)h, at = qh * (size_t)dim;
    const float *out = (const float *)tt_ptr(a->out) + at;
    double lse = ((const float *)tt_ptr(a->lse))[qh], delta = 0, score[KEYS_AT_ONCE],
           dp[KEYS_AT_ONCE];
    to_double((const float *)tt_ptr(a->q) + at, dim, w->q);
    to_double((const float *)tt_ptr(b->d_out) + at, dim, w->d_out);
    for (int32_t d = 0; d < dim; d++) {
        delta += w->d_out[d] * out[d];
        w->sum[d] = 0;
    }
    for (int32_t p = rk->first; p < rk->end; p += KEYS_AT_ONCE) {
        int32_t n = group_size(rk->end - p);
        dot_keys(kv, true, rk, head, p, n, w->d_out, w, dp);
        dot_keys(kv, false, rk, head, p, n, w->q, w, score); /* leaves the keys in w->row */
        for (int32_t i = 0; i < n; i++) {
            double ds = exp(a->scale * score[i] - lse) * (dp[i] - delta);
            for (int32_t d = 0; d < dim; d++) {
                w->sum[d] += ds * w->row[i][d];
            }
        }
    }
    float *dq = (float *)tt_ptr(b->dq) + at;
    for (int32_t d = 0; d < dim; d++) {
        dq[d] = (float)(a->scale * w->sum[d]);
    }
}

/* The forward pass, or the backward pass where b is not NULL. */
static void run(tt_lane *lane, const tt_attention_args *a, const tt_attention_bwd_args *b)
{
    assert(a->kv->type == TT_F32 || a->kv->type == TT_BF16 || a->kv->type == TT_I8);
    assert(a->n_heads % a->kv->n_kv_heads == 0);
    struct row_keys *rows = tt_lane_scratch(lane, 0, (size_t)a->n_rows * sizeof *rows);
    if (rows == NULL) {
        return;
    }
    int32_t n_keys = find_keys(a, rows), dim = a->kv->head_dim;
    if (!tt_lane_reserve_threads(lane, work_bytes(n_keys, dim))) {
        return;
    }
    int64_t n = (int64_t)a->n_rows * a->n_heads;
#pragma omp parallel for num_threads(lane->n_threads) schedule(dynamic, 4)
    for (int64_t i = 0; i < n; i++) {
        int32_t r = (int32_t)(i / a->n_heads), h = (int32_t)(i % a->n_heads);
        struct work w = get_work(lane, n_keys, dim);
        if (rows[r].pages == NULL) {
            continue;
        }
        if (b != NULL) {
            attend_bwd(b, &rows[r], r, h, &w);
        } else {
            attend(a, &rows[r], r, h, &w);
        }
    }
}

void tt_attention_ref(tt_lane *lane, const tt_attention_args *a)
{
    run(lane, a, NULL);
}

void tt_attention_bwd_ref(tt_lane *lane, const tt_attention_bwd_args *a)
{
    assert(a->fwd.lse != 0);
    run(lane, &a->fwd, a);
}
