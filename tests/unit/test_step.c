/* test_step.c - core/forward.h's steps on tiny random models: rows that do not depend on how they
 * were cut or in whose company they ran, K/V that are written where they are owned and nowhere
 * else, results against sums in double, memory that runs out. Gradients are test_backward.c's, the
 * numbers of a forward pass are held against PyTorch in tests/golden. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "fail_alloc.h"
#include "kernels/lane.h"
#include "small_engine.h"

enum { VOCAB = 24, CONTEXT = 150, PAGES_EACH = 3, N_PAGES = 9 };

static const char *const archs[] = {"llama", "qwen2", "qwen3", "gemma3"};
enum { N_ARCHS = 4 };

static int32_t ids[CONTEXT];
static const int32_t pages_a[PAGES_EACH] = {7, 0, 4}, pages_b[PAGES_EACH] = {2, 8, 5};

/* A pool whose every byte is part of a NaN: what is read before it was written shows. */
static void open_poisoned(small_engine *e, const char *arch, unsigned isa, tt_dtype kv)
{
    small_options o = {.shape = {.arch = arch},
                       .isa_mask = isa,
                       .kv_type = kv,
                       .n_pages = N_PAGES,
                       .n_threads = 1};
    small_open(e, &o);
    size_t n = tt_kv_page_bytes(e->model, kv);
    void *page = malloc(n);
    assert_non_null(page);
    memset(page, 0xFF, n);
    for (int32_t i = 0; i < N_PAGES; i++) {
        assert_int_equal(tt_kv_take(e->kv), i);
        tt_kv_write_page(e->kv, i, page);
    }
    free(page);
    small_ids(ids, CONTEXT, VOCAB, 5);
}

/* The bytes of the whole pool, malloc'ed. */
static uint8_t *pool_bytes(small_engine *e, tt_dtype kv)
{
    tt_err err;
    size_t n = tt_kv_page_bytes(e->model, kv);
    uint8_t *p = malloc(n * N_PAGES);
    assert_non_null(p);
    for (int32_t i = 0; i < N_PAGES; i++) {
        assert_int_equal(tt_kv_read_page(e->kv, i, p + n * (size_t)i, &err), TT_OK);
    }
    return p;
}

/* ids[0, n) in chunks; the logits of the last row into y[VOCAB]. */
static void prefill(small_engine *e, const int32_t *pages, int32_t n, int32_t chunk, float *y)
{
    for (int32_t at = 0; at < n; at += chunk) {
        int32_t rows = n - at < chunk ? n - at : chunk;
        tt_segment s = {.ids = ids + at,
                        .n_rows = rows,
                        .pos0 = at,
                        .pages = pages,
                        .store = true,
                        .want = at + rows == n ? TT_WANT_LAST : TT_WANT_NONE};
        small_run(e, &s, 1, &(tt_step_options){.family = TT_PREFILL});
    }
    memcpy(y, tt_step_logits(e->step, 0), VOCAB * sizeof *y);
}

static void check_finite(const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(y[i]));
    }
}

static void check_chunks(const char *arch, unsigned isa, tt_dtype kv)
{
    static const int32_t chunks[] = {CONTEXT, 1, 7, 64, 65};
    float want[VOCAB], got[VOCAB];
    uint8_t *first = NULL;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        small_engine e;
        open_poisoned(&e, arch, isa, kv);
        prefill(&e, pages_a, CONTEXT, chunks[i], i == 0 ? want : got);
        uint8_t *bytes = pool_bytes(&e, kv);
        if (i == 0) {
            check_finite(want, VOCAB);
            first = bytes;
        } else {
            assert_memory_equal(got, want, sizeof want);
            assert_memory_equal(bytes, first, N_PAGES * tt_kv_page_bytes(e.model, kv));
            free(bytes);
        }
        small_close(&e);
    }
    free(first);
}

static void test_chunks_do_not_show(void **state)
{
    for (int i = 0; i < N_ARCHS; i++) {
        check_chunks(archs[i], 0, TT_F32);
        check_chunks(archs[i], TT_ISA_ALL, TT_BF16);
    }
    check_chunks("qwen3", 0, TT_I8);
    check_chunks("gemma3", TT_ISA_AVX2, TT_I8);
    check_chunks("llama", TT_ISA_ALL, TT_I8);
}

/* Is value `i` (in the pool's order: page, layer, K or V, head, offset, dimension) in one of the
 * slots of positions [from, to) of the sequence in `pages`? */
static bool in_slots(const tt_model *m, int64_t i, const int32_t *pages, int32_t from, int32_t to)
{
    int64_t in_page = (int64_t)m->n_layers * 2 * m->n_kv_heads * TT_PAGE_TOKENS * m->head_dim;
    int32_t page = (int32_t)(i / in_page);
    int32_t offset = (int32_t)(i / m->head_dim % TT_PAGE_TOKENS);
    for (int32_t p = from; p < to; p++) {
        if (pages[p / TT_PAGE_TOKENS] == page && p % TT_PAGE_TOKENS == offset) {
            return true;
        }
    }
    return false;
}

static void test_kv_is_written_in_its_slots_alone(void **state)
{
    small_engine e;
    float y[VOCAB];
    open_poisoned(&e, "qwen3", 0, TT_F32);
    prefill(&e, pages_a, 60, 60, y);
    uint8_t *before = pool_bytes(&e, TT_F32);
    tt_segment s = {.ids = ids + 60, .n_rows = 10, .pos0 = 60, .pages = pages_a, .store = true};
    small_run(&e, &s, 1, &(tt_step_options){.family = TT_PREFILL});
    uint8_t *after = pool_bytes(&e, TT_F32);
    const float *a = (const float *)(const void *)after;
    int64_t n = (int64_t)(N_PAGES * tt_kv_page_bytes(e.model, TT_F32) / sizeof(float)), written = 0;
    for (int64_t i = 0; i < n; i++) {
        if (in_slots(e.model, i, pages_a, 60, 70)) {
            assert_true(isfinite(a[i]));
            written++;
        } else {
            assert_memory_equal(after + 4 * i, before + 4 * i, 4);
        }
    }
    assert_int_equal(written, 10 * e.model->n_layers * 2 * e.model->n_kv_heads * e.model->head_dim);
    free(before);
    free(after);
    small_close(&e);
}

static tt_adapter *noisy_adapter(small_engine *e, float size, uint64_t seed)
{
    tt_adapter *a = NULL;
    tt_err err;
    tt_adapter_shape shape = {.kind = TT_ADAPTER_FULL, .type = TT_F32};
    assert_int_equal(tt_adapter_create(&e->d, &shape, &a, &err), TT_OK);
    int64_t n[2];
    tt_adapter_sizes(e->model, TT_ADAPTER_FULL, 0, n);
    float *x = malloc((size_t)n[0] * sizeof *x);
    assert_non_null(x);
    for (int32_t l = 0; l < a->n_layers; l++) {
        small_noise(x, n[0], size, seed + (uint64_t)l);
        small_put(e, a->layers[l].d, x, (size_t)n[0] * sizeof *x);
    }
    free(x);
    return a;
}

/* Rows that do not store, in a training step and outside: not one byte of the pool moves. */
static void check_nothing_written(tt_dtype kv)
{
    small_engine e;
    float y[VOCAB];
    int32_t targets[20];
    open_poisoned(&e, "gemma3", TT_ISA_ALL, kv);
    prefill(&e, pages_a, CONTEXT, 64, y);
    uint8_t *before = pool_bytes(&e, kv);
    tt_adapter *a = noisy_adapter(&e, 0.1f, 3), *g = noisy_adapter(&e, 1.0f, 4);
    memcpy(targets, ids + 81, sizeof targets);
    tt_segment s = {.ids = ids + 80,
                    .n_rows = 20,
                    .pos0 = 80,
                    .pages = pages_a,
                    .adapter = a,
                    .want = TT_WANT_LOSS,
                    .targets = targets};
    small_run(&e, &s, 1, &(tt_step_options){.trainee = a, .grads = g});
    small_run(&e, &s, 1, &(tt_step_options){.family = TT_PREFILL});
    s.want = TT_WANT_LAST;
    small_run(&e, &s, 1, &(tt_step_options){.family = TT_DECODE});
    uint8_t *after = pool_bytes(&e, kv);
    assert_memory_equal(after, before, N_PAGES * tt_kv_page_bytes(e.model, kv));
    free(before);
    free(after);
    tt_adapter_unref(&e.d, &a);
    tt_adapter_unref(&e.d, &g);
    small_close(&e);
}

static void test_rows_without_pages_of_their_own_write_nothing(void **state)
{
    check_nothing_written(TT_BF16);
    check_nothing_written(TT_I8);
}

/* Rows of two sequences, of the base and under an adapter (two neighbours that share it), storing
 * and not, and some that want nothing: each as if alone, in every rotation. */
static void check_company(tt_family family, tt_dtype kv)
{
    enum { N = 4 };
    small_engine e;
    float y[VOCAB], alone[N][VOCAB];
    open_poisoned(&e, "llama", TT_ISA_ALL, kv);
    prefill(&e, pages_a, CONTEXT, CONTEXT, y);
    prefill(&e, pages_b, 70, 70, y);
    tt_adapter *a = noisy_adapter(&e, 0.2f, 8);
    int32_t n = family == TT_DECODE ? 1 : 5;
    const tt_segment segs[N] = {
        {.ids = ids + 9, .n_rows = 3, .pos0 = 40, .pages = pages_a, .want = TT_WANT_NONE},
        {.ids = ids + 90, .n_rows = n, .pos0 = 100, .pages = pages_a, .want = TT_WANT_LAST},
        {.ids = ids + 70,
         .n_rows = n,
         .pos0 = 70,
         .pages = pages_b,
         .store = true,
         .adapter = a,
         .want = TT_WANT_LAST},
        {.ids = ids + 20,
         .n_rows = n,
         .pos0 = 30,
         .pages = pages_a,
         .adapter = a,
         .want = TT_WANT_LAST}};
    tt_step_options o = {.family = family};
    for (int i = 1; i < N; i++) {
        small_run(&e, &segs[i], 1, &o);
        memcpy(alone[i], tt_step_logits(e.step, 0), sizeof alone[i]);
    }
    for (int turn = 0; turn < N; turn++) {
        tt_segment turned[N];
        for (int i = 0; i < N; i++) {
            turned[i] = segs[(i + turn) % N];
        }
        small_run(&e, turned, N, &o);
        for (int i = 0, last = 0; i < N; i++) {
            if (turned[i].want == TT_WANT_LAST) {
                assert_memory_equal(tt_step_logits(e.step, last++), alone[(i + turn) % N],
                                    sizeof alone[0]);
            }
        }
    }
    tt_segment base = segs[3]; /* the adapter is no ornament */
    base.adapter = NULL;
    small_run(&e, &base, 1, &o);
    assert_memory_not_equal(tt_step_logits(e.step, 0), alone[3], sizeof alone[3]);
    tt_adapter_unref(&e.d, &a);
    small_close(&e);
}

/* What the table draws from these logits. */
static int32_t draw_of(small_engine *e, const float *logits, const tt_draw_order *o)
{
    float row[VOCAB];
    int32_t token = -1;
    tt_draw d = o->draw;
    tt_err err;
    memcpy(row, logits, sizeof row);
    e->d.ops.sample(e->d.lane, &(tt_sample_args){.logits = tt_addr(row),
                                                 .draws = tt_addr(&d),
                                                 .adjusts = tt_addr(o->adjusts),
                                                 .banned = tt_addr(o->banned),
                                                 .tokens = tt_addr(&token),
                                                 .n_draws = 1,
                                                 .n_vocab = VOCAB});
    assert_int_equal(e->d.ops.lane_sync(e->d.lane, &err), TT_OK);
    return token;
}

/* Segments that want logits, a token, both, all rows and a token, or nothing, in every rotation:
 * each gets its own, whether or not its neighbours have adjustments and banned ids. */
static void test_draws_are_of_their_own_rows(void **state)
{
    enum { N = 6 };
    small_engine e;
    float y[VOCAB], alone[N][VOCAB];
    open_poisoned(&e, "qwen3", TT_ISA_ALL, TT_BF16);
    prefill(&e, pages_a, CONTEXT, CONTEXT, y);
    tt_logit_adjust adjusts[3] = {{3, 2, 1, 0}, {9, 0, 1.5f, 0.25f}, {20, 9, 1, 0}};
    int32_t banned[3] = {2, 11, 23};
    tt_draw_order orders[N];
    tt_segment segs[N];
    for (int32_t i = 0; i < N; i++) {
        static const tt_want wants[N] = {TT_WANT_LAST, TT_WANT_NONE, TT_WANT_LAST,
                                         TT_WANT_ALL,  TT_WANT_NONE, TT_WANT_NONE};
        orders[i] =
            (tt_draw_order){.draw = {.stream = 77 + (uint64_t)i,
                                     .counter = (uint32_t)i,
                                     .temperature = i == 4 ? 0 : 20, /* flat: any id can come */
                                     .top_p = 1,
                                     .n_adjust = i % 4,
                                     .n_banned = i == 2 || i == 4 ? 3 : i % 2},
                            .adjusts = adjusts,
                            .banned = banned};
        segs[i] = (tt_segment){.ids = ids + 20 * i,
                               .n_rows = 1 + i,
                               .pos0 = 90 + i,
                               .pages = pages_a,
                               .want = TT_WANT_LAST};
        small_run(&e, &segs[i], 1, &(tt_step_options){.family = TT_PREFILL});
        memcpy(alone[i], tt_step_logits(e.step, 0), sizeof alone[i]);
        segs[i].want = wants[i];
        segs[i].draw = i == 0 || i == 5 ? NULL : &orders[i];
    }
    for (int turn = 0; turn < N; turn++) {
        tt_segment turned[N];
        for (int i = 0; i < N; i++) {
            turned[i] = segs[(i + turn) % N];
        }
        small_run(&e, turned, N, &(tt_step_options){.family = TT_PREFILL});
        for (int i = 0, n_logits = 0, n_draws = 0; i < N; i++) {
            int of = (i + turn) % N;
            if (turned[i].want == TT_WANT_LAST) {
                assert_memory_equal(tt_step_logits(e.step, n_logits++), alone[of], sizeof alone[0]);
            }
            if (turned[i].draw != NULL) {
                assert_int_equal(tt_step_token(e.step, n_draws++),
                                 draw_of(&e, alone[of], &orders[of]));
            }
        }
    }
    small_close(&e);
}

/* Several last rows of one segment give what each gives as the last row of a segment of its own,
 * beside others. */
static void test_several_last_rows(void **state)
{
    enum { ROWS = 5, LAST = 3 };
    small_engine e;
    float y[VOCAB], alone[LAST][VOCAB];
    open_poisoned(&e, "qwen3", TT_ISA_ALL, TT_BF16);
    prefill(&e, pages_a, CONTEXT, CONTEXT, y);
    tt_logit_adjust adjust = {3, 2, 1, 0};
    int32_t banned[2] = {2, 11};
    tt_draw_order orders[LAST], other = {.draw = {.stream = 5, .temperature = 20, .top_p = 1}};
    tt_segment seg = {.ids = ids + 70, .pos0 = 70, .pages = pages_a, .want = TT_WANT_LAST};
    for (int32_t i = 0; i < LAST; i++) {
        orders[i] = (tt_draw_order){.draw = {.stream = 9,
                                             .counter = 4 + (uint32_t)i,
                                             .temperature = 20,
                                             .top_p = 1,
                                             .n_adjust = i != 1,
                                             .n_banned = i},
                                    .adjusts = &adjust,
                                    .banned = banned};
        seg.n_rows = ROWS - LAST + 1 + i;
        small_run(&e, &seg, 1, &(tt_step_options){.family = TT_DECODE});
        memcpy(alone[i], tt_step_logits(e.step, 0), sizeof alone[i]);
    }
    seg.n_last = LAST;
    seg.draw = orders;
    for (int logits = 0; logits <= 1; logits++) {
        tt_segment beside = {.ids = ids, .n_rows = 2, .pos0 = 7, .pages = pages_a, .draw = &other};
        tt_segment segs[3] = {beside, seg, beside};
        segs[1].want = logits ? TT_WANT_LAST : TT_WANT_NONE;
        segs[2].want = TT_WANT_LAST;
        small_run(&e, segs, 3, &(tt_step_options){.family = TT_DECODE});
        for (int32_t i = 0; i < LAST; i++) {
            assert_int_equal(tt_step_token(e.step, 1 + i), draw_of(&e, alone[i], &orders[i]));
            if (logits) {
                assert_memory_equal(tt_step_logits(e.step, i), alone[i], sizeof alone[i]);
            }
        }
        assert_int_equal(tt_step_token(e.step, 0), tt_step_token(e.step, 1 + LAST));
        assert_int_equal(tt_step_token(e.step, 0),
                         draw_of(&e, tt_step_logits(e.step, logits ? LAST : 0), &other));
    }
    small_close(&e);
}

static void test_company_and_order_do_not_show(void **state)
{
    check_company(TT_PREFILL, TT_BF16);
    check_company(TT_PREFILL, TT_I8);
    check_company(TT_DECODE, TT_BF16);
    check_company(TT_DECODE, TT_I8);
}

/* ln(sum exp) - y[target], in double. */
static double loss_of(const float *y, int32_t n, int32_t target)
{
    double max = y[0], sum = 0;
    for (int32_t i = 1; i < n; i++) {
        max = y[i] > max ? y[i] : max;
    }
    for (int32_t i = 0; i < n; i++) {
        sum += exp((double)y[i] - max);
    }
    return max + log(sum) - y[target];
}

/* One step in which rows want losses, a last logit and nothing, against the same rows' logits. */
static void check_wants(unsigned isa, int vocab, double tolerance)
{
    enum { ROWS = 12 };
    small_engine e;
    small_options o = {.shape = {.vocab = vocab, .n_tokens = 24, .tied = true, .layers = 1},
                       .isa_mask = isa,
                       .kv_type = TT_F32,
                       .n_pages = 2,
                       .n_threads = 1};
    int32_t in[ROWS], targets[ROWS], page = 1;
    const float *y;
    tt_err err;
    small_open(&e, &o);
    small_ids(in, ROWS, vocab, 1);
    small_ids(targets, ROWS, vocab, 2);
    targets[0] = vocab - 1;
    targets[3] = targets[7] = -1;
    tt_segment s = {.ids = in, .n_rows = ROWS, .pages = &page, .store = true, .want = TT_WANT_ALL};
    small_run(&e, &s, 1, &(tt_step_options){.family = TT_PREFILL});
    float *all = malloc((size_t)vocab * ROWS * sizeof *all);
    assert_non_null(all);
    for (int32_t row = 0; row < ROWS; row += 5) { /* blocks of 5, 5 and 2 rows */
        int32_t n = ROWS - row < 5 ? ROWS - row : 5;
        assert_int_equal(tt_step_logits_block(e.step, row, n, &y, &err), TT_OK);
        memcpy(all + (size_t)row * (size_t)vocab, y, (size_t)n * (size_t)vocab * sizeof *y);
    }
    s.want = TT_WANT_LOSS;
    s.targets = targets;
    tt_segment both[3] = {s, s, s};
    both[0].want = TT_WANT_LAST;
    both[2].want = TT_WANT_ALL;
    small_run(&e, both, 3, &(tt_step_options){.family = TT_PREFILL});
    const float *loss = tt_step_losses(e.step);
    for (int32_t i = 0; i < ROWS; i++) {
        const float *row = all + (size_t)i * (size_t)vocab;
        double want = targets[i] < 0 ? 0 : loss_of(row, vocab, targets[i]);
        assert_true(fabs(loss[ROWS + i] - want) <= tolerance * (1 + want));
        assert_true(loss[i] == 0 && loss[2 * ROWS + i] == 0);
    }
    const float *last = tt_step_logits(e.step, 0);
    const size_t row_bytes = (size_t)vocab * sizeof *y;
    assert_memory_equal(last, all + (size_t)(ROWS - 1) * (size_t)vocab, row_bytes);
    assert_int_equal(tt_step_logits_block(e.step, 2 * ROWS + 4, 2, &y, &err), TT_OK);
    assert_memory_equal(y, all + (size_t)4 * (size_t)vocab, 2 * row_bytes);
    assert_memory_equal(tt_step_logits(e.step, 0), all + (size_t)(ROWS - 1) * (size_t)vocab,
                        row_bytes); /* valid until the next begin, blocks or not */
    free(all);
    small_close(&e);
}

static void test_results_agree_with_each_other(void **state)
{
    check_wants(0, 24, 1e-6);
    check_wants(0, 2 * 8192 + 5, 1e-6);          /* three blocks of head columns */
    check_wants(TT_ISA_ALL, 2 * 8192 + 5, 2e-2); /* BF16 products, in another order */
}

static void test_loss_weights_are_on_the_device(void **state)
{
    small_engine e;
    float y[VOCAB], loss[8], weight[8];
    int32_t targets[4] = {3, -1, 5, 7};
    tt_dev at_loss, at_weight;
    int32_t rows = 0;
    open_poisoned(&e, "llama", 0, TT_F32);
    prefill(&e, pages_a, 20, 20, y);
    tt_segment s = {
        .ids = ids, .n_rows = 4, .pages = pages_a, .want = TT_WANT_LOSS, .targets = targets};
    tt_segment two[2] = {s, s};
    small_run(&e, two, 2, &(tt_step_options){.family = TT_PREFILL});
    tt_step_loss_dev(e.step, &at_loss, &at_weight, &rows);
    assert_int_equal(rows, 8);
    small_get(&e, loss, at_loss, sizeof loss);
    small_get(&e, weight, at_weight, sizeof weight);
    assert_memory_equal(loss, tt_step_losses(e.step), sizeof loss);
    for (int i = 0; i < 8; i++) {
        assert_true(weight[i] == (targets[i % 4] < 0 ? 0.0f : 1.0f / 6.0f));
        assert_true((loss[i] > 0) == (targets[i % 4] >= 0));
    }
    small_close(&e);
}

/* ---- units ---- */

/* Runs the begun step `max_units` at a time and checks what it says of itself. */
static void run_in_pieces(tt_step *s, int32_t max_units)
{
    tt_err err;
    int32_t done = -1, total = tt_step_units(s, &done), sum = 0;
    assert_int_equal(done, 0);
    for (tt_code rc = (tt_code)TT_STEP_MORE; rc != TT_OK;) {
        rc = tt_step_run(s, max_units, &err);
        assert_true(rc == TT_OK || rc == (tt_code)TT_STEP_MORE);
        assert_int_equal(tt_step_units(s, &done), total);
        assert_true(done > sum && done <= sum + max_units);
        assert_true((rc == TT_OK) == (done == total));
        sum = done;
    }
}

static void test_pieces_do_not_show(void **state)
{
    static const int32_t pieces[] = {1000, 1, 2, 3};
    small_engine e;
    float y[VOCAB], want[VOCAB];
    tt_err err;
    open_poisoned(&e, "gemma3", TT_ISA_ALL, TT_BF16);
    prefill(&e, pages_a, CONTEXT, CONTEXT, y);
    tt_segment s = {.ids = ids, .n_rows = 30, .pos0 = 40, .pages = pages_a, .want = TT_WANT_LAST};
    tt_segment other = {
        .ids = ids, .n_rows = 50, .pos0 = 0, .pages = pages_a, .want = TT_WANT_LAST};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        /* a step that was given up half way leaves nothing behind */
        assert_int_equal(tt_step_begin(e.step, &other, 1, &(tt_step_options){0}, &err), TT_OK);
        assert_int_equal(tt_step_run(e.step, 1, &err), TT_STEP_MORE);
        assert_int_equal(tt_step_begin(e.step, &s, 1, &(tt_step_options){0}, &err), TT_OK);
        assert_int_equal(tt_step_units(e.step, NULL), e.model->n_layers + 1);
        run_in_pieces(e.step, pieces[i]);
        assert_int_equal(tt_step_run(e.step, 1, &err), TT_OK); /* over is over */
        memcpy(i == 0 ? want : y, tt_step_logits(e.step, 0), sizeof y);
        assert_memory_equal(i == 0 ? want : y, want, sizeof y);
    }
    s.want = TT_WANT_NONE;
    assert_int_equal(tt_step_begin(e.step, &s, 1, &(tt_step_options){0}, &err), TT_OK);
    assert_int_equal(tt_step_units(e.step, NULL), e.model->n_layers); /* no head */
    assert_int_equal(tt_step_run(e.step, 0, &err), TT_STEP_MORE);     /* legal: nothing is done */
    run_in_pieces(e.step, 1);
    small_close(&e);
}

/* ---- memory ---- */

static tt_code begin_and_run(small_engine *e, const tt_segment *segs, int32_t n,
                             const tt_step_options *o, tt_err *err)
{
    tt_code rc = tt_step_begin(e->step, segs, n, o, err);
    return rc != TT_OK ? rc : tt_step_run(e->step, INT32_MAX, err);
}

/* Every allocation of a fresh step's life fails once; the step is as good as new afterwards. */
static void test_no_memory(void **state)
{
    small_engine e;
    float y[VOCAB], want[20];
    int32_t targets[20];
    tt_err err;
    tt_code rc;
    open_poisoned(&e, "qwen3", TT_ISA_AVX2, TT_F32);
    prefill(&e, pages_a, CONTEXT, CONTEXT, y);
    tt_adapter *a = noisy_adapter(&e, 0.1f, 3), *g = noisy_adapter(&e, 1.0f, 4);
    memcpy(targets, ids + 1, sizeof targets);
    tt_segment s = {.ids = ids,
                    .n_rows = 20,
                    .pages = pages_a,
                    .adapter = a,
                    .want = TT_WANT_LOSS,
                    .targets = targets};
    tt_step_options o = {.trainee = a, .grads = g};
    small_run(&e, &s, 1, &o);
    memcpy(want, tt_step_losses(e.step), sizeof want);
    int n = 0;
    for (;; n++) {
        tt_step_destroy(&e.step);
        err = (tt_err){0};
        fail_alloc_at(n);
        rc = tt_step_create(&e.d, e.kv, &e.step, &err);
        rc = rc != TT_OK ? rc : begin_and_run(&e, &s, 1, &o, &err);
        if (!fail_alloc_off()) {
            break;
        }
        assert_int_equal(rc, TT_E_NOMEM);
        assert_int_equal(err.code, TT_E_NOMEM);
        assert_true(err.msg[0] != '\0');
        if (e.step != NULL) { /* the same step, with memory */
            assert_int_equal(begin_and_run(&e, &s, 1, &o, &err), TT_OK);
            assert_memory_equal(tt_step_losses(e.step), want, sizeof want);
        }
    }
    assert_int_equal(rc, TT_OK);
    assert_true(n >= 9); /* step, table of layers, three lists, descriptors twice, work, losses */
    tt_adapter_unref(&e.d, &a);
    tt_adapter_unref(&e.d, &g);
    small_close(&e);
}

static tt_code (*real_alloc)(tt_lane *, size_t, tt_dev *, tt_err *);
static size_t largest;

static tt_code watched_alloc(tt_lane *lane, size_t n, tt_dev *ret, tt_err *reterr)
{
    largest = n > largest ? n : largest;
    return real_alloc(lane, n, ret, reterr);
}

static void test_workspace_is_what_was_announced(void **state)
{
    small_engine e;
    float y[VOCAB];
    tt_err err;
    open_poisoned(&e, "gemma3", 0, TT_F32);
    prefill(&e, pages_a, CONTEXT, 30, y);
    tt_adapter *a = noisy_adapter(&e, 0.1f, 3), *g = noisy_adapter(&e, 1.0f, 4);
    real_alloc = e.d.ops.alloc;
    e.d.ops.alloc = watched_alloc;
    for (int32_t n = 60; n <= 120; n += 17) {
        for (int train = 0; train < 2; train++) {
            tt_step_destroy(&e.step);
            assert_int_equal(tt_step_create(&e.d, e.kv, &e.step, &err), TT_OK);
            tt_segment s = {.ids = ids,
                            .n_rows = n,
                            .pages = pages_a,
                            .adapter = a,
                            .want = TT_WANT_LOSS,
                            .targets = ids + 1};
            tt_step_options o = {.trainee = train ? a : NULL, .grads = train ? g : NULL};
            largest = 0;
            assert_int_equal(tt_step_begin(e.step, &s, 1, &o, &err), TT_OK);
            assert_int_equal(largest, tt_step_bytes(e.model, n, train != 0));
        }
    }
    tt_adapter_unref(&e.d, &a);
    tt_adapter_unref(&e.d, &g);
    small_close(&e);
}

static void test_destroy_takes_nothing(void **state)
{
    tt_step *none = NULL;
    tt_step_destroy(&none);
    assert_null(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_do_not_show),
        cmocka_unit_test(test_kv_is_written_in_its_slots_alone),
        cmocka_unit_test(test_rows_without_pages_of_their_own_write_nothing),
        cmocka_unit_test(test_company_and_order_do_not_show),
        cmocka_unit_test(test_draws_are_of_their_own_rows),
        cmocka_unit_test(test_several_last_rows),
        cmocka_unit_test(test_results_agree_with_each_other),
        cmocka_unit_test(test_loss_weights_are_on_the_device),
        cmocka_unit_test(test_pieces_do_not_show),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_workspace_is_what_was_announced),
        cmocka_unit_test(test_destroy_takes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
