/* case_sample.c - draws of tokens, and checksums. The formula of a draw sorts the vocabulary and
 * works in doubles. */
#include "tests/checkops/checkops.h"

#include <math.h>
#include <stdlib.h>

#include "core/rng.h"

/* Parameters of rows in turn. */
static const tt_draw ways[] = {
    {.temperature = 1, .top_p = 1},
    {.temperature = 0, .top_p = 1},
    {.temperature = 0.7f, .top_p = 0.9f},
    {.temperature = 1.3f, .top_p = 1, .top_k = 7},
    {.temperature = 2, .top_p = 0.999f, .top_k = 40},
    {.temperature = 1, .top_p = 1, .min_p = 0.1f},
    {.temperature = 1, .top_p = 1e-6f},
    {.temperature = 1, .top_p = 1, .top_k = 1},
    {.temperature = 5, .top_p = 0.5f, .min_p = 0.02f},
    {.temperature = 0.05f, .top_p = 1, .top_k = 1 << 30},
};
enum { N_WAYS = sizeof ways / sizeof *ways, N_ADJUSTS = 3, N_BANNED = 2 };

/* What is in the logits, by the shape's step. */
enum content { NORMAL, FEW_VALUES, RUBBISH };

static float content_at(co_test *t, enum content c)
{
    double v = co_normal(&t->rng) * 3;
    if (c == FEW_VALUES) {
        return (float)(int)v; /* ties everywhere */
    }
    if (c == RUBBISH && co_below(&t->rng, 3) != 0) {
        static const float bad[] = {NAN, -INFINITY, -1e30f, -0.0f};
        return bad[co_below(&t->rng, 4)];
    }
    return (float)v;
}

static void fill_logits(co_test *t, co_buf *logits)
{
    const co_shape *s = &t->shape;
    for (int64_t i = 0; i < (int64_t)s->rows * s->vocab; i++) {
        int64_t row = i / s->vocab;
        float v = content_at(t, (enum content)s->step);
        if (s->step == RUBBISH && row % 4 == 3) {
            v = row % 8 == 3 ? NAN : i % 5 == 4 ? INFINITY : v;
        }
        memcpy(logits->sent + CO_GUARD + 4 * i, &v, 4);
    }
}

/* Every second row has adjustments, every third banned ids, which are rising. */
static void setup_sample(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_draw *draws = co_host(t, (size_t)s->rows * sizeof *draws);
    tt_logit_adjust *adjusts = co_host(t, (size_t)s->rows * N_ADJUSTS * sizeof *adjusts);
    int32_t *banned = co_host(t, (size_t)s->rows * N_BANNED * sizeof *banned);
    for (int32_t r = 0; r < s->rows; r++) {
        tt_draw *d = &draws[r];
        *d = ways[(r + s->step) % N_WAYS];
        d->stream = co_next(&t->rng);
        d->counter = (uint32_t)co_below(&t->rng, 1000);
        d->row = s->rows - 1 - r;
        d->adjust0 = r * N_ADJUSTS;
        d->banned0 = r * N_BANNED;
        d->n_adjust = r % 2 == 0 && s->vocab >= N_ADJUSTS ? N_ADJUSTS : 0;
        d->n_banned = r % 3 == 0 && s->vocab > 2 * N_BANNED ? N_BANNED : 0;
        for (int32_t k = 0; k < N_ADJUSTS; k++) {
            adjusts[d->adjust0 + k] =
                (tt_logit_adjust){.id = k * (s->vocab / N_ADJUSTS),
                                  .bias = k == 0 ? 4 : 0,
                                  .repetition = k == 1 ? 1.3f : 1,
                                  .penalty = k == 2 ? 0.5f * (float)co_normal(&t->rng) : 0};
        }
        banned[d->banned0] = co_below(&t->rng, s->vocab / 2 + 1);
        banned[d->banned0 + 1] = s->vocab - 1;
    }
    co_buf *x =
        co_bytes(t, "x", CO_SCRATCH, CO_F32, co_host(t, (size_t)s->rows * (size_t)s->vocab * 4),
                 (int64_t)s->rows * s->vocab);
    fill_logits(t, x);
    co_buf *d = co_bytes(t, "draws", CO_IN, CO_U8, draws, s->rows * (int64_t)sizeof *draws);
    t->args.sample = (tt_sample_args){
        .logits = x->dev,
        .draws = d->dev + (size_t)t->row0 * sizeof *draws,
        .adjusts = co_bytes(t, "adjusts", CO_IN, CO_U8, adjusts,
                            s->rows * (int64_t)(N_ADJUSTS * sizeof *adjusts))
                       ->dev,
        .banned = co_bytes(t, "banned", CO_IN, CO_I32, banned, s->rows * (int64_t)N_BANNED)->dev,
        .tokens = co_dev(t, co_out(t, "tokens", CO_I32, s->rows, 1)),
        .n_draws = t->n_rows,
        .n_vocab = s->vocab};
}

static void call_sample(co_test *t)
{
    t->ops->sample(t->lane, &t->args.sample);
}

/* ---- the formula ---- */

typedef struct candidate {
    double x, p;
    int32_t id;
} candidate;

static int by_falling_x(const void *a, const void *b)
{
    const candidate *p = a, *q = b;
    return p->x != q->x ? (p->x < q->x ? 1 : -1) : (p->id > q->id) - (p->id < q->id);
}

static int by_id(const void *a, const void *b)
{
    const candidate *p = a, *q = b;
    return (p->id > q->id) - (p->id < q->id);
}

static void adjusted(co_test *t, const tt_draw *d, candidate *c)
{
    const tt_logit_adjust *adjusts = (const void *)(co_find(t, "adjusts")->sent + CO_GUARD);
    const int32_t *banned = (const void *)(co_find(t, "banned")->sent + CO_GUARD);
    int32_t n = t->shape.vocab;
    for (int32_t i = 0; i < n; i++) {
        double v = co_sent(co_find(t, "x"), (int64_t)d->row * n + i);
        c[i] = (candidate){.x = isnan(v) ? -INFINITY : v, .id = i};
    }
    for (int32_t k = 0; k < d->n_adjust; k++) {
        const tt_logit_adjust *a = &adjusts[d->adjust0 + k];
        float v = (float)c[a->id].x + a->bias;
        v = v > 0 ? v * (1 / a->repetition) : v * a->repetition;
        c[a->id].x = v - a->penalty;
    }
    for (int32_t k = 0; k < d->n_banned; k++) {
        c[banned[d->banned0 + k]].x = -INFINITY;
    }
}

static int32_t expected(co_test *t, const tt_draw *d, candidate *c)
{
    const int32_t *banned = (const void *)(co_find(t, "banned")->sent + CO_GUARD);
    int32_t n = t->shape.vocab, m = 0;
    double total = 0, sum = 0;
    adjusted(t, d, c);
    qsort(c, (size_t)n, sizeof *c, by_falling_x);
    if (c[0].x == -INFINITY) {
        for (m = 0; d->n_banned > 0 && (m == banned[d->banned0] || m == banned[d->banned0 + 1]);) {
            m++;
        }
        return m;
    }
    if (d->temperature == 0 || isinf(c[0].x)) {
        return c[0].id;
    }
    n = d->top_k > 0 && d->top_k < n ? d->top_k : n;
    for (int32_t i = 0; i < n; i++) {
        c[i].p = exp((c[i].x - c[0].x) / (double)d->temperature);
        c[i].p = c[i].p < 0x1p-43 ? 0 : c[i].p;
        total += c[i].p;
    }
    while (m < n && c[m].p >= (double)d->min_p && (m == 0 || sum < (double)d->top_p * total)) {
        sum += c[m++].p;
    }
    tt_rng rng = {d->stream};
    double u = 0;
    for (uint32_t k = 0; k <= d->counter; k++) {
        u = tt_rng_uniform(&rng) * sum;
    }
    if (d->top_p >= 1) {
        qsort(c, (size_t)m, sizeof *c, by_id);
    }
    for (int32_t i = 0; i < m; i++) {
        u -= c[i].p;
        if (u < 0) {
            return c[i].id;
        }
    }
    return -2;
}

static void formula_sample(co_test *t)
{
    const co_shape *s = &t->shape;
    const tt_draw *draws = (const void *)(co_find(t, "draws")->sent + CO_GUARD);
    candidate *c = co_host(t, (size_t)s->vocab * sizeof *c);
    double *want = co_host(t, (size_t)s->rows * sizeof *want);
    for (int32_t r = 0; r < s->rows; r++) {
        want[r] = expected(t, &draws[r], c);
    }
    co_expect(t, "tokens", want, 0);
}

static const co_shape sample_shapes[] = {
    {.rows = 1, .vocab = 1},
    {.rows = 20, .vocab = 2},
    {.rows = 40, .vocab = 7},
    {.rows = 40, .vocab = 7, .step = FEW_VALUES},
    {.rows = 40, .vocab = 7, .step = RUBBISH},
    {.rows = 20, .vocab = 1023},
    {.rows = 20, .vocab = 1024, .step = FEW_VALUES},
    {.rows = 20, .vocab = 1025, .step = RUBBISH},
    {.rows = 10, .vocab = 32001, .step = FEW_VALUES},
    {.rows = 10, .vocab = 49152, .flags = CO_SLOW | CO_BENCH},
};

/* ---- checksum ---- */

static void setup_checksum(co_test *t)
{
    const co_shape *s = &t->shape;
    int64_t stride = (s->dim + 7) / 8 * 8 + s->step, group = s->rows * stride + 24;
    int32_t n_groups = s->n_segs > 0 ? s->n_segs : 1;
    int64_t n = n_groups * group;
    uint8_t *bytes = co_host(t, (size_t)n + 1);
    for (int64_t i = 0; i < n; i++) {
        bytes[i] = (uint8_t)co_next(&t->rng);
    }
    t->args.checksum = (tt_checksum_args){.data = co_bytes(t, "x", CO_IN, CO_U8, bytes, n)->dev,
                                          .row_bytes = s->dim,
                                          .stride = stride,
                                          .group_stride = group,
                                          .sum = co_out(t, "sum", CO_U8, 0, 8)->dev,
                                          .n_rows = s->rows,
                                          .n_groups = n_groups};
}

static void call_checksum(co_test *t)
{
    t->ops->checksum(t->lane, &t->args.checksum);
}

static void formula_checksum(co_test *t)
{
    const tt_checksum_args *a = &t->args.checksum;
    const uint8_t *x = co_find(t, "x")->sent + CO_GUARD;
    double want[8];
    uint64_t sum = 0, index = 0;
    for (int32_t r = 0; r < a->n_rows * a->n_groups; r++) {
        const uint8_t *row = x + r / a->n_rows * a->group_stride + r % a->n_rows * a->stride;
        for (int64_t at = 0; at < a->row_bytes; at += 8, index++) {
            tt_rng rng = {index * 0x9E3779B97F4A7C15u};
            uint64_t word = 0;
            int64_t left = a->row_bytes - at;
            memcpy(&word, row + at, left < 8 ? (size_t)left : 8);
            rng.state += word;
            sum += tt_rng_u64(&rng);
        }
    }
    for (int i = 0; i < 8; i++) {
        want[i] = (double)(sum >> 8 * i & 255);
    }
    co_expect(t, "sum", want, 0);
}

static const co_shape checksum_shapes[] = {
    {.rows = 1, .dim = 8},
    {.rows = 1, .dim = 1},
    {.rows = 5, .dim = 0, .step = 8},
    {.rows = 7, .dim = 13, .step = 16},
    {.rows = 33, .dim = 128, .step = 64},
    {.rows = 2, .dim = 52, .step = 8, .n_segs = 5},
    {.rows = 3, .dim = 4104},
    {.rows = 8, .dim = 16384, .n_segs = 36, .flags = CO_SLOW | CO_BENCH},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

const co_op co_sample_ops[] = {
    {.name = "sample",
     .fn = offsetof(tt_ops, sample),
     .by_row = true,
     .shapes = sample_shapes,
     .n_shapes = COUNT(sample_shapes),
     .setup = setup_sample,
     .call = call_sample,
     .formula = formula_sample},
    {.name = "checksum",
     .fn = offsetof(tt_ops, checksum),
     .shapes = checksum_shapes,
     .n_shapes = COUNT(checksum_shapes),
     .setup = setup_checksum,
     .call = call_checksum,
     .formula = formula_checksum},
    {0},
};
