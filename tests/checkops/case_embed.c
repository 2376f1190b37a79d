/* case_embed.c - embed, gather, to_bf16. */
#include "tests/checkops/checkops.h"

static int32_t *random_ints(co_test *t, int32_t n, int32_t below)
{
    int32_t *v = co_host(t, (size_t)n * sizeof *v);
    for (int32_t i = 0; i < n; i++) {
        v[i] = i == 0 ? below - 1 : co_below(&t->rng, below);
    }
    return v;
}

static void setup_embed(co_test *t)
{
    const co_shape *s = &t->shape;
    tt_weight *w = co_weight(t, s->type, s->vocab, s->in, 1);
    co_buf *ids = co_ints(t, "ids", random_ints(t, s->rows, s->vocab), s->rows);
    co_buf *x = co_out(t, "x", CO_F32, s->rows, s->in);
    t->args.embed = (tt_embed_args){.ids = co_dev(t, ids),
                                    .table = w,
                                    .x = co_dev(t, x),
                                    .n_rows = t->n_rows,
                                    .scale = s->step == 0 ? 1 : 24.5f};
}

static void call_embed(co_test *t)
{
    t->ops->embed(t->lane, &t->args.embed);
}

static void formula_embed(co_test *t)
{
    const co_shape *s = &t->shape;
    const double *w = co_weight_values(t, t->args.embed.table);
    double *want = co_host(t, (size_t)s->rows * (size_t)s->in * sizeof *want);
    for (int32_t r = 0; r < s->rows; r++) {
        int64_t id = (int64_t)co_sent(co_find(t, "ids"), r);
        for (int32_t c = 0; c < s->in; c++) {
            want[r * s->in + c] = w[id * s->in + c] * (double)t->args.embed.scale;
        }
    }
    co_expect(t, "x", want, 1e-14);
}

static const co_shape embed_shapes[] = {
    {.rows = 1, .vocab = 3, .in = 256, .types = CO_ALL_TYPES},
    {.rows = 7, .vocab = 11, .in = 512, .types = CO_ALL_TYPES, .step = 1},
    {.rows = 5, .vocab = 9, .in = 37, .types = CO_PLAIN},
    {.rows = 3, .vocab = 9, .in = 1, .types = CO_PLAIN},
    {.rows = 65,
     .vocab = 300,
     .in = 576,
     .types = CO_BIT(TT_Q8_0) | CO_BIT(TT_Q4_1),
     .flags = CO_BENCH},
};

static void setup_gather(co_test *t)
{
    const co_shape *s = &t->shape;
    co_buf *x = co_in(t, "x", 0, (int64_t)s->vocab * s->dim, 1);
    co_buf *idx = co_ints(t, "idx", random_ints(t, s->rows, s->vocab), s->rows);
    co_buf *y = co_out(t, "y", CO_F32, s->rows, s->dim);
    t->args.gather = (tt_gather_args){.x = co_dev(t, x),
                                      .idx = co_dev(t, idx),
                                      .y = co_dev(t, y),
                                      .n_rows = t->n_rows,
                                      .dim = s->dim};
}

static void call_gather(co_test *t)
{
    t->ops->gather(t->lane, &t->args.gather);
}

static void formula_gather(co_test *t)
{
    const co_shape *s = &t->shape;
    double *want = co_host(t, (size_t)s->rows * (size_t)s->dim * sizeof *want);
    for (int32_t i = 0; i < s->rows * s->dim; i++) {
        int64_t from = (int64_t)co_sent(co_find(t, "idx"), i / s->dim);
        want[i] = co_sent(co_find(t, "x"), from * s->dim + i % s->dim);
    }
    co_expect(t, "y", want, 0);
}

static const co_shape gather_shapes[] = {
    {.rows = 1, .vocab = 1, .dim = 1},
    {.rows = 9, .vocab = 5, .dim = 37},
    {.rows = 16, .vocab = 64, .dim = 576},
};

static void setup_bf16(co_test *t)
{
    const co_shape *s = &t->shape;
    /* Edge cases first: ties both ways, the largest finite value, infinities, NaN, subnormals. */
    static const uint32_t edges[] = {0x00000000, 0x80000000, 0x3F808000, 0x3F818000, 0x3F807FFF,
                                     0x3F808001, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000,
                                     0x7FC00000, 0x7F800001, 0x00000001, 0x00008000, 0x00018000};
    co_buf *x = co_in(t, "x", 0, s->dim, -1);
    size_t n = sizeof edges / sizeof *edges;
    if ((size_t)s->dim >= n) {
        memcpy(x->sent + CO_GUARD, edges, sizeof edges);
    }
    co_buf *y = co_out(t, "y", CO_BF16, 0, s->dim);
    t->args.to_bf16.src = x->dev;
    t->args.to_bf16.dst = y->dev;
    t->args.to_bf16.n = s->dim;
}

static void call_bf16(co_test *t)
{
    t->ops->to_bf16(t->lane, t->args.to_bf16.src, t->args.to_bf16.dst, t->args.to_bf16.n);
}

/* Nearest of the two neighbours, the even one on a tie. */
static void formula_bf16(co_test *t)
{
    const co_buf *x = co_find(t, "x");
    double *want = co_host(t, (size_t)t->shape.dim * sizeof *want);
    for (int32_t i = 0; i < t->shape.dim; i++) {
        float f = (float)co_sent(x, i);
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        uint32_t exp = u & 0x7F800000u;
        want[i] = f;
        if (exp == 0x7F800000u) {
            continue;
        }
        uint32_t lo = u & 0xFFFF0000u, hi = lo + 0x10000u;
        float flo, fhi;
        memcpy(&flo, &lo, sizeof flo);
        memcpy(&fhi, &hi, sizeof fhi);
        /* Beyond the largest finite value the neighbour is 2^128, which has no float. */
        double above = (hi & 0x7F800000u) == 0x7F800000u ? (u >> 31 ? -0x1p128 : 0x1p128) : fhi;
        double to_lo = (double)f - flo, to_hi = above - (double)f;
        to_lo = to_lo < 0 ? -to_lo : to_lo;
        to_hi = to_hi < 0 ? -to_hi : to_hi;
        want[i] = to_lo < to_hi || (to_lo == to_hi && (lo >> 16) % 2 == 0) ? flo : fhi;
    }
    co_expect(t, "y", want, 0);
}

static const co_shape bf16_shapes[] = {
    {.rows = 1, .dim = 1},  {.rows = 1, .dim = 15},   {.rows = 1, .dim = 16},
    {.rows = 1, .dim = 33}, {.rows = 1, .dim = 4099},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

const co_op co_embed_ops[] = {
    {.name = "embed",
     .fn = offsetof(tt_ops, embed),
     .max_nmse = 1e-13,
     .by_row = true,
     .shapes = embed_shapes,
     .n_shapes = COUNT(embed_shapes),
     .setup = setup_embed,
     .call = call_embed,
     .formula = formula_embed},
    {.name = "gather",
     .fn = offsetof(tt_ops, gather),
     .by_row = true,
     .shapes = gather_shapes,
     .n_shapes = COUNT(gather_shapes),
     .setup = setup_gather,
     .call = call_gather,
     .formula = formula_gather},
    {.name = "to_bf16",
     .fn = offsetof(tt_ops, to_bf16),
     .shapes = bf16_shapes,
     .n_shapes = COUNT(bf16_shapes),
     .setup = setup_bf16,
     .call = call_bf16,
     .formula = formula_bf16},
    {0},
};
