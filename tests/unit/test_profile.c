/* test_profile.c - the table that times another one: nothing of it is left out, it changes no bit,
 * what it counts is what core/cost.h says a step costs, its times add up, and a failure that it
 * finds while it waits is not lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/cost.h"
#include "core/profile.h"
#include "core/qttt.h"
#include "core/trainer.h"
#include "small_engine.h"

enum { N = 200, N_PAGES = 8, SPAN = 48 };

typedef struct fixture {
    small_engine e;
    int32_t ids[N + 2], pages[N_PAGES];
    tt_profile *p;
} fixture;

static void open_fixture(fixture *f, const mw_model *shape)
{
    small_options o = {.shape = *shape,
                       .isa_mask = TT_ISA_ALL,
                       .kv_type = TT_BF16,
                       .n_pages = N_PAGES,
                       .n_threads = 1};
    tt_err err;
    small_open(&f->e, &o);
    small_ids(f->ids, N + 2, 24, 7);
    for (int32_t i = 0; i < N_PAGES; i++) {
        f->pages[i] = tt_kv_take(f->e.kv);
    }
    /* rates that make a limit of every byte and every operation: larger ones win */
    assert_int_equal(tt_profile_attach(&f->e.d, 1e9, 1e9, &f->p, &err), TT_OK);
}

static void close_fixture(fixture *f)
{
    tt_profile_detach(&f->p);
    assert_null(f->p);
    small_close(&f->e);
}

static tt_segment segment(const fixture *f, int32_t at, int32_t n, tt_want want)
{
    return (tt_segment){.ids = f->ids + at,
                        .n_rows = n,
                        .pos0 = at,
                        .pages = f->pages,
                        .store = want != TT_WANT_LOSS,
                        .want = want,
                        .targets = f->ids + at + 1};
}

/* The rows' sums; times add up to that of all operations, which is not above the clock's. */
static tt_profile_work add_up(const tt_profile_section *s)
{
    tt_profile_work k = {0};
    double seconds = 0;
    for (int32_t i = 0; i < s->n_rows; i++) {
        const tt_profile_row *r = &s->row[i];
        assert_true(r->calls > 0 && r->seconds >= 0);
        assert_true(i == 0 || r->seconds <= s->row[i - 1].seconds);
        double larger = r->work.bytes > r->work.flops ? r->work.bytes : r->work.flops;
        double sum = r->work.bytes + r->work.flops;
        assert_true(r->limit_s >= larger / 1e9 * (1 - 1e-9) &&
                    r->limit_s <= sum / 1e9 * (1 + 1e-9));
        k.bytes += r->work.bytes;
        k.flops += r->work.flops;
        seconds += r->seconds;
    }
    assert_true(seconds > 0 && seconds < s->ops_seconds * (1 + 1e-9) &&
                seconds > s->ops_seconds * (1 - 1e-9));
    assert_true(s->ops_seconds <= s->seconds);
    return k;
}

static const tt_profile_row *find(const tt_profile_section *s, const char *op)
{
    for (int32_t i = 0; i < s->n_rows; i++) {
        if (strcmp(s->row[i].op, op) == 0) {
            return &s->row[i];
        }
    }
    fail_msg("no row of %s", op);
    return NULL;
}

static const mw_model shapes[] = {
    {.layers = 3},
    {.layers = 2, .tied = true, .heads = 6, .kv_heads = 3, .ffn = 96},
    {.arch = "qwen3", .layers = 2, .head_dim = 16},
    {.arch = "gemma3", .layers = 7, .tied = true, .heads = 2, .kv_heads = 1}, /* windows of 16 */
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

static void train(fixture *f, bool lora)
{
    tt_qttt_params q;
    tt_trainer *t = NULL;
    tt_train_report rep;
    tt_err err;
    tt_qttt_defaults(&q);
    q.lora = lora;
    q.rank = 3;
    tt_qttt_resolve(&q);
    assert_int_equal(tt_trainer_create(&f->e.d, &q, 1, &t, &err), TT_OK);
    tt_segment seg = segment(f, 100, SPAN, TT_WANT_LOSS);
    seg.adapter = tt_trainer_params(t);
    tt_step_options o = {.trainee = tt_trainer_params(t), .grads = tt_trainer_grads(t)};
    tt_profile_begin(f->p, "step");
    small_run(&f->e, &seg, 1, &o);
    assert_int_equal(tt_trainer_update(t, f->e.step, true, &rep, &err), TT_OK);
    const tt_profile_section *s = tt_profile_end(f->p, 1);
    tt_cost_rows rows = {.pos0 = 100, .n_rows = SPAN, .n_logits = SPAN, .adapter = seg.adapter};
    assert_true(add_up(s).flops ==
                tt_cost_forward(f->e.model, &rows) + tt_cost_backward(f->e.model, &rows));
    /* bytes of parameters, gradient and two moments: one is read for its norm, seven times one goes
     * through a step */
    double n = (double)tt_trainer_bytes(f->e.model, &q);
    assert_true(find(s, "optim_step")->work.bytes > 6.9 * n / 4);
    assert_true(find(s, "optim_begin")->work.bytes <= n / 4);
    assert_int_equal(find(s, "delta_norm")->calls, f->e.model->n_layers);
    assert_int_equal(find(s, "lane_sync")->calls, 2);
    tt_trainer_destroy(&t);
}

/* Prefill, decoding and training of several architectures: FLOPs to the operation. */
static void test_counts(void **state)
{
    for (size_t i = 0; i < N_SHAPES; i++) {
        fixture f;
        open_fixture(&f, &shapes[i]);
        for (int32_t at = 0; at < N; at += N / 2) { /* nobody wants the first half's output */
            bool last = at > 0;
            tt_segment seg = segment(&f, at, N / 2, last ? TT_WANT_LAST : TT_WANT_NONE);
            tt_cost_rows rows = {
                .pos0 = at, .n_rows = N / 2, .kv = true, .headless = !last, .n_logits = last};
            tt_profile_begin(f.p, "prefill");
            small_run(&f.e, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
            const tt_profile_section *s = tt_profile_end(f.p, 1);
            assert_true(add_up(s).flops == tt_cost_forward(f.e.model, &rows));
        }
        tt_segment one = segment(&f, N, 1, TT_WANT_LAST);
        tt_profile_begin(f.p, "decode");
        for (int k = 0; k < 3; k++) {
            small_run(&f.e, &one, 1, &(tt_step_options){.family = TT_DECODE});
        }
        const tt_profile_section *s = tt_profile_end(f.p, 3);
        tt_profile_work k = add_up(s);
        assert_int_equal(s->runs, 3);
        assert_true(k.flops == 3 * tt_cost_decode(f.e.model, N));
        /* every matrix is read, and the keys and values of what is seen */
        assert_true(k.bytes > 3.0 * (double)f.e.model->weight_bytes / 2);
        assert_int_equal(find(s, "lane_sync")->calls, 3);
        train(&f, false);
        train(&f, true);
        close_fixture(&f);
    }
}

static void test_shapes(void **state)
{
    fixture f;
    open_fixture(&f, &shapes[0]);
    tt_segment seg = segment(&f, 0, 40, TT_WANT_LAST);
    tt_profile_begin(f.p, "a name");
    small_run(&f.e, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
    const tt_profile_section *s = tt_profile_end(f.p, 1);
    assert_string_equal(s->name, "a name");
    int found = 0;
    for (int32_t i = 0; i < s->n_rows; i++) {
        const tt_profile_row *r = &s->row[i];
        found += strcmp(r->detail, "F32 32>32+16+16, 40 rows") == 0 && r->calls == 3;
        found += strcmp(r->detail, "F32 32>64+64, 40 rows") == 0 && r->calls == 3;
        found += strcmp(r->detail, "F32 32>24, 1 rows") == 0 && r->calls == 1;
        if (strcmp(r->detail, "40 rows of 1") == 0) { /* attention; K/V in BF16, q and out in F32 */
            assert_true(r->work.bytes == 3.0 * (40 * 16 * 2 * 2 + 40 * 32 * 2 * 4));
            assert_true(r->work.flops == 3.0 * 4 * 32 * (40 * 41 / 2));
            found++;
        }
    }
    assert_int_equal(found, 4);
    tt_profile_begin(f.p, "");
    assert_int_equal(tt_profile_end(f.p, 1)->n_rows, 0);
    close_fixture(&f);
}

/* Keys of windows against a count of them one by one; bytes of what any of the rows sees. */
static void test_windows(void **state)
{
    tt_kv_layer kv = {.type = TT_I8, .n_kv_heads = 2, .head_dim = 8};
    for (int32_t window = 0; window < 12; window++) {
        for (int32_t pos0 = 0; pos0 < 14; pos0++) {
            tt_seg segs[2] = {{.n_rows = 5, .pos0 = pos0}, {.row0 = 5, .n_rows = 1, .pos0 = 3}};
            tt_attention_args a = {.segs_host = segs,
                                   .n_segs = 2,
                                   .n_rows = 6,
                                   .n_heads = 4,
                                   .window = window,
                                   .kv = &kv};
            int32_t keys = 0, read = 0;
            for (int i = 0; i < 2; i++) {
                int32_t end = segs[i].pos0 + segs[i].n_rows, least = end;
                for (int32_t p = segs[i].pos0; p < end; p++) {
                    int32_t from = window > 0 && p - window + 1 > 0 ? p - window + 1 : 0;
                    keys += p + 1 - from;
                    least = from < least ? from : least;
                }
                read += end - least;
            }
            assert_true(tt_work_keys(&a) == keys);
            tt_profile_work k = tt_work_attention(&a);
            assert_true(k.flops == 4.0 * 32 * keys);
            assert_true(k.bytes == read * 2.0 * 2 * (8 + 4) + 6 * 32 * 2 * 4);
        }
    }
}

/* An operation that is added to the table and not here would be counted as the host's. */
static void test_nothing_left_out(void **state)
{
    fixture f;
    open_fixture(&f, &shapes[0]);
    tt_ops real;
    tt_ops_get(&real, TT_ISA_ALL);
    const char *a = (const char *)&real, *b = (const char *)&f.e.d.ops;
    for (size_t at = offsetof(tt_ops, lane_sync); at < offsetof(tt_ops, memory);
         at += sizeof(void (*)(void))) {
        if (memcmp(a + at, b + at, sizeof(void (*)(void))) == 0) {
            fail_msg("the function at %zu of the table is not wrapped", at);
        }
    }
    assert_string_equal(real.isa, f.e.d.ops.isa);
    tt_profile_detach(&f.p);
    assert_memory_equal(a, b, sizeof real);
    tt_profile_detach(&f.p);
    tt_profile_detach(NULL);
    close_fixture(&f);
}

static void test_same_bits(void **state)
{
    fixture f;
    open_fixture(&f, &shapes[3]);
    size_t n = (size_t)f.e.model->n_vocab;
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        tt_segment seg = segment(&f, 0, N, TT_WANT_LAST);
        small_run(&f.e, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
        logits[i] = malloc(n * sizeof(float));
        assert_non_null(logits[i]);
        memcpy(logits[i], tt_step_logits(f.e.step, 0), n * sizeof(float));
        tt_profile_detach(&f.p);
    }
    assert_memory_equal(logits[0], logits[1], n * sizeof(float));
    free(logits[0]);
    free(logits[1]);
    close_fixture(&f);
}

/* ---- a device that works asynchronously and fails ---- */

static int n_syncs;
static tt_code failures[16];

static tt_code fake_sync(tt_lane *lane, tt_err *reterr)
{
    tt_code rc = failures[n_syncs++];
    return rc == TT_OK ? TT_OK : tt_fail(reterr, rc, "failure %d", n_syncs);
}

static void fake_gather(tt_lane *lane, const tt_gather_args *a)
{
}

static tt_code fake_memory(tt_lane *lane, size_t *ret_free, size_t *ret_total, tt_err *reterr)
{
    return TT_OK;
}

static void test_waiting(void **state)
{
    tt_device d = {.ops = {.lane_sync = fake_sync, .gather = fake_gather, .memory = fake_memory}};
    tt_profile *p = NULL;
    tt_err err = {0};
    assert_int_equal(tt_profile_attach(&d, 0, 0, &p, &err), TT_OK);
    tt_gather_args a = {.n_rows = 2, .dim = 3};
    failures[0] = TT_E_NOMEM; /* forgotten by the device, not by us */
    d.ops.gather(NULL, &a);
    d.ops.gather(NULL, &a);
    assert_int_equal(n_syncs, 2);
    assert_int_equal(d.ops.lane_sync(NULL, &err), TT_E_NOMEM);
    assert_string_equal(err.msg, "failure 1");
    assert_int_equal(d.ops.lane_sync(NULL, &err), TT_OK); /* told once */
    const tt_profile_section *s = tt_profile_end(p, 1);
    assert_int_equal(find(s, "gather")->calls, 2);
    assert_true(find(s, "gather")->work.bytes == 2 * 2 * 2 * 3 * 4);
    assert_true(find(s, "gather")->limit_s == 0);
    failures[4] = TT_E_NOMEM;
    failures[5] = failures[6] = TT_E_DEVICE; /* this one stays */
    d.ops.gather(NULL, &a);
    d.ops.gather(NULL, &a);
    assert_int_equal(d.ops.lane_sync(NULL, &err), TT_E_DEVICE);
    tt_profile_detach(&p);
    assert_true(d.ops.gather == fake_gather);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),    cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_windows),   cmocka_unit_test(test_nothing_left_out),
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
