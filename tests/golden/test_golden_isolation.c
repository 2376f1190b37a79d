/* test_golden_isolation.c - what must hold bit for bit, for every family: test_golden_isolation
 * MODELS FAMILY ISA [q8] Nothing trained changes nothing; the context's K/V are never written; an
 * adapter acts on its own rows alone, in whatever company and order; the base comes back exactly;
 * sequences share pages and do not see each other; chunks do not show; a run of qttt.h is the
 * hand-made loop over the same spans. (docs/qttt.md, tests 4, 5 and 6.) K/V are BF16, as in the
 * server, or (q8) of TT_I8. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/qttt.h"
#include "core/rng.h"
#include "core/seq.h"
#include "rig.h"

#define CONTEXT 220
#define QUESTION 9
#define MAX_VOCAB 320

static struct {
    rig r;
    int32_t ids[CONTEXT], question[3][QUESTION];
    tt_adapter *a, *b; /* published */
    uint64_t checksum;
} t;

static size_t logits_bytes(void)
{
    return (size_t)t.r.model->n_vocab * sizeof(float);
}

/* Random deltas of some 10 % of W_Q's size, rounded as they are published. */
static tt_adapter *random_adapter(tt_adapter_kind kind, uint64_t seed)
{
    tt_adapter *x = NULL, *published = NULL;
    tt_err err = {0};
    tt_adapter_shape shape = {.kind = kind, .type = TT_F32, .rank = 4, .scale = 2.0f};
    int64_t n[2];
    tt_adapter_sizes(t.r.model, kind, shape.rank, n);
    assert_int_equal(tt_adapter_create(&t.r.d, &shape, &x, &err), TT_OK);
    float *v = malloc((size_t)(n[0] + n[1]) * sizeof *v);
    assert_non_null(v);
    tt_rng rng = tt_rng_make(seed, 1);
    for (int32_t l = 0; l < t.r.model->n_layers; l++) {
        for (int64_t i = 0; i < n[0] + n[1]; i++) {
            v[i] = 0.05f * (float)tt_rng_normal(&rng);
        }
        rig_put(&t.r, kind == TT_ADAPTER_FULL ? x->layers[l].d : x->layers[l].a, v, n[0]);
        if (kind == TT_ADAPTER_LORA) {
            rig_put(&t.r, x->layers[l].b, v + n[0], n[1]);
        }
    }
    free(v);
    assert_int_equal(tt_adapter_round(&t.r.d, x, &published, &err), TT_OK);
    tt_adapter_unref(&t.r.d, &x);
    return published;
}

/* Learning rate 0, weight decay and all, four steps: the published adapter is the base, in prefill
 * and in decode. */
static void test_nothing_trained_is_the_base(void **state)
{
    float base[MAX_VOCAB], adapted[MAX_VOCAB];
    tt_qttt_params p;
    tt_qttt_defaults(&p);
    p.learning_rate = 0;
    p.weight_decay = 0.5f;
    tt_qttt_resolve(&p);
    tt_trainer *trainer = NULL;
    tt_adapter *published = NULL;
    tt_err err = {0};
    assert_int_equal(tt_trainer_create(&t.r.d, &p, 1, &trainer, &err), TT_OK);
    for (int i = 0; i < 4; i++) {
        int32_t targets[64];
        tt_segment seg = rig_span(&t.r, 20 * i, 64, tt_trainer_params(trainer), targets);
        rig_run(&t.r, &seg, 1,
                &(tt_step_options){.family = TT_PREFILL,
                                   .trainee = tt_trainer_params(trainer),
                                   .grads = tt_trainer_grads(trainer)});
        tt_train_report report;
        assert_int_equal(tt_trainer_update(trainer, t.r.step, true, &report, &err), TT_OK);
        assert_true(report.finite && report.grad_norm > 0 && report.delta_norm == 0);
    }
    assert_int_equal(tt_adapter_round(&t.r.d, tt_trainer_params(trainer), &published, &err), TT_OK);
    for (int32_t n = 1; n <= QUESTION; n += QUESTION - 1) {
        rig_question(&t.r, t.question[0], n, NULL, base);
        rig_question(&t.r, t.question[0], n, published, adapted);
        assert_memory_equal(base, adapted, logits_bytes());
    }
    tt_adapter_unref(&t.r.d, &published);
    tt_trainer_destroy(&trainer);
}

static void test_base_comes_back(void **state)
{
    float base[MAX_VOCAB], adapted[MAX_VOCAB], again[MAX_VOCAB];
    rig_question(&t.r, t.question[0], QUESTION, NULL, base);
    rig_question(&t.r, t.question[0], QUESTION, t.a, adapted);
    rig_question(&t.r, t.question[0], QUESTION, NULL, again);
    assert_true(rig_error(adapted, base, t.r.model->n_vocab) > 1e-2);
    assert_memory_equal(base, again, logits_bytes());
}

/* Three questions under none, A (full) and B (LoRA) in one step, in all orders, each as if alone.
 * n: rows of each. */
static void check_company(tt_family family, int32_t n)
{
    static const int order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                    {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    const tt_adapter *adapters[3] = {NULL, t.a, t.b};
    tt_segment segs[3];
    int32_t *pages[3], n_pages[3];
    float alone[3][MAX_VOCAB];
    for (int i = 0; i < 3; i++) {
        pages[i] = rig_fork(&t.r, n, &n_pages[i]);
        segs[i] = (tt_segment){.ids = t.question[i],
                               .n_rows = n - (family == TT_PREFILL ? i : 0),
                               .pos0 = CONTEXT,
                               .pages = pages[i],
                               .store = true,
                               .adapter = adapters[i],
                               .want = TT_WANT_LAST};
        rig_run(&t.r, &segs[i], 1, &(tt_step_options){.family = family});
        memcpy(alone[i], tt_step_logits(t.r.step, 0), logits_bytes());
    }
    for (int o = 0; o < 6; o++) {
        tt_segment mixed[3] = {segs[order[o][0]], segs[order[o][1]], segs[order[o][2]]};
        rig_run(&t.r, mixed, 3, &(tt_step_options){.family = family});
        for (int i = 0; i < 3; i++) {
            assert_memory_equal(tt_step_logits(t.r.step, i), alone[order[o][i]], logits_bytes());
        }
    }
    for (int i = 0; i < 3; i++) {
        rig_unfork(&t.r, &pages[i], n_pages[i]);
    }
}

static void test_company_and_order(void **state)
{
    check_company(TT_PREFILL, QUESTION);
    check_company(TT_DECODE, 1);
}

static void test_chunks_do_not_show(void **state)
{
    const int32_t chunks[] = {1, 37, 64};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        rig_context(&t.r, t.ids, CONTEXT, chunks[i]);
        assert_true(rig_checksum(&t.r) == t.checksum);
    }
}

/* Runs the tokens of a sequence that are not in its pages yet; logits of the last into y (NULL =
 * not wanted). */
static void extend(tt_seq *s, const int32_t *ids, int32_t n, const tt_adapter *adapter,
                   bool publish, float *y)
{
    tt_err err = {0};
    assert_int_equal(tt_seq_reserve(s, n, &err), TT_OK);
    tt_segment seg = {.ids = ids,
                      .n_rows = n,
                      .pos0 = s->n,
                      .pages = s->pages,
                      .store = true,
                      .adapter = adapter,
                      .want = y ? TT_WANT_LAST : TT_WANT_NONE};
    rig_run(&t.r, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
    if (y) {
        memcpy(y, tt_step_logits(t.r.step, 0), logits_bytes());
    }
    tt_seq_append(s, ids, n, false, publish);
}

static void test_sequences_share_a_prefix(void **state)
{
    float want[2][MAX_VOCAB], got[MAX_VOCAB];
    tt_seq first, second;
    tt_err err = {0};
    int32_t found = -1, full = CONTEXT / TT_PAGE_TOKENS * TT_PAGE_TOKENS;
    rig_question(&t.r, t.question[0], QUESTION, t.a, want[0]);
    rig_question(&t.r, t.question[1], QUESTION, NULL, want[1]);

    tt_seq_init(&first, t.r.kv, "tenant");
    extend(&first, t.ids, CONTEXT, NULL, true, NULL);
    tt_seq_init(&second, t.r.kv, "tenant");
    assert_int_equal(tt_seq_match(&second, t.ids, NULL, CONTEXT, &found, &err), TT_OK);
    assert_int_equal(found, full);
    assert_memory_equal(first.pages, second.pages,
                        (size_t)(full / TT_PAGE_TOKENS) * sizeof *first.pages);
    extend(&second, t.ids + full, CONTEXT - full, NULL, true, NULL);
    assert_int_not_equal(first.pages[full / TT_PAGE_TOKENS], second.pages[full / TT_PAGE_TOKENS]);

    tt_seq_set_adapter(&first, t.a->id, first.n);
    extend(&first, t.question[0], QUESTION, t.a, true, got);
    assert_memory_equal(got, want[0], logits_bytes());
    tt_seq_finish(&first); /* its pages are shared: they stay */
    extend(&second, t.question[1], QUESTION, NULL, true, got);
    assert_memory_equal(got, want[1], logits_bytes());
    tt_seq_finish(&second);

    tt_seq other;
    tt_seq_init(&other, t.r.kv, "somebody else");
    assert_int_equal(tt_seq_match(&other, t.ids, NULL, CONTEXT, &found, &err), TT_OK);
    assert_int_equal(found, 0);
    tt_seq_finish(&other);
    tt_kv_drop_cached(t.r.kv);
}

static double no_clock(void)
{
    return 0;
}

static tt_adapter *adapter_by_run(const tt_qttt_params *p, double *ret_last_loss)
{
    const tt_qttt_caps caps = {256, 1024, 64, 1e-3, 0.05};
    tt_qttt_options o = {.d = &t.r.d,
                         .kv = t.r.kv,
                         .step = t.r.step,
                         .ids = t.r.ids,
                         .n_context = CONTEXT,
                         .pages = t.r.pages,
                         .params = p,
                         .caps = &caps,
                         .now = no_clock};
    tt_err err = {0};
    tt_qttt_run *run = NULL;
    tt_qttt_result result;
    tt_adapter *adapter = NULL;
    assert_int_equal(tt_qttt_create(&o, &run, &err), TT_OK);
    tt_code rc;
    while ((rc = tt_qttt_advance(run, 2, &err)) == (tt_code)TT_QTTT_MORE) {
    }
    assert_int_equal(rc, TT_OK);
    tt_qttt_take(run, &result, &adapter);
    tt_qttt_destroy(&run);
    assert_string_equal(result.status, "succeeded");
    assert_int_equal(result.steps_done, p->steps);
    assert_non_null(adapter);
    *ret_last_loss = result.loss_last;
    return adapter;
}

static tt_adapter *adapter_by_hand(const tt_qttt_params *p, double *ret_last_loss)
{
    tt_err err = {0};
    tt_trainer *trainer = NULL;
    tt_adapter *adapter = NULL;
    assert_int_equal(
        tt_trainer_create(&t.r.d, p, tt_context_hash(t.r.ids, CONTEXT), &trainer, &err), TT_OK);
    for (int32_t i = 0; i < p->steps; i++) {
        int32_t start, k, targets[64];
        tt_qttt_span(p, t.r.ids, CONTEXT, i, &start, &k);
        assert_int_equal(k, p->span_tokens);
        tt_segment seg = rig_span(&t.r, start, k, tt_trainer_params(trainer), targets);
        rig_run(&t.r, &seg, 1,
                &(tt_step_options){.family = TT_PREFILL,
                                   .trainee = tt_trainer_params(trainer),
                                   .grads = tt_trainer_grads(trainer)});
        tt_train_report report;
        assert_int_equal(tt_trainer_update(trainer, t.r.step, false, &report, &err), TT_OK);
        *ret_last_loss = report.loss;
    }
    assert_int_equal(tt_adapter_round(&t.r.d, tt_trainer_params(trainer), &adapter, &err), TT_OK);
    tt_trainer_destroy(&trainer);
    return adapter;
}

/* What a run publishes is, bit for bit, what the loop over its spans makes. */
static void check_run(bool lora)
{
    tt_qttt_params p;
    tt_qttt_defaults(&p);
    p.mode = TT_QTTT_ON;
    p.guard = false;
    p.lora = lora;
    p.steps = 3;
    p.span_tokens = 48;
    p.rank = 4;
    p.learning_rate = 1e-4;
    p.seed = 7;
    tt_qttt_resolve(&p);
    double run_loss = 0, hand_loss = 0;
    tt_adapter *by_run = adapter_by_run(&p, &run_loss), *by_hand = adapter_by_hand(&p, &hand_loss);
    assert_true(run_loss == hand_loss);
    assert_int_equal(by_run->bytes, by_hand->bytes);
    float *x = malloc(by_run->bytes), *y = malloc(by_run->bytes);
    assert_true(x != NULL && y != NULL);
    rig_get(&t.r, x, by_run->block, (int64_t)(by_run->bytes / sizeof *x));
    rig_get(&t.r, y, by_hand->block, (int64_t)(by_run->bytes / sizeof *y));
    assert_memory_equal(x, y, by_run->bytes);
    free(x);
    free(y);
    tt_adapter_unref(&t.r.d, &by_run);
    tt_adapter_unref(&t.r.d, &by_hand);
}

static void test_run_is_the_loop(void **state)
{
    check_run(false);
    check_run(true);
}

static void test_context_was_never_written(void **state)
{
    assert_true(rig_checksum(&t.r) == t.checksum);
}

static void setup(const char *path, const char *isa, tt_dtype kv_type)
{
    rig_open(&t.r, path, rig_table(isa), kv_type, 40);
    tt_rng rng = tt_rng_make(1, 2);
    uint64_t n_vocab = (uint64_t)t.r.model->n_vocab;
    for (int32_t i = 0; i < CONTEXT; i++) {
        t.ids[i] = (int32_t)tt_rng_below(&rng, n_vocab);
    }
    for (int32_t i = 0; i < 3 * QUESTION; i++) {
        t.question[i / QUESTION][i % QUESTION] = (int32_t)tt_rng_below(&rng, n_vocab);
    }
    rig_context(&t.r, t.ids, CONTEXT, 512);
    t.checksum = rig_checksum(&t.r);
    t.a = random_adapter(TT_ADAPTER_FULL, 3);
    t.b = random_adapter(TT_ADAPTER_LORA, 4);
}

int main(int argc, char **argv)
{
    if (argc != 4 && (argc != 5 || strcmp(argv[4], "q8") != 0)) {
        fprintf(stderr, "usage: test_golden_isolation MODELS FAMILY ISA [q8]\n");
        return 2;
    }
    char path[512];
    snprintf(path, sizeof path, "%s/%s.gguf", argv[1], argv[2]);
    setup(path, argv[3], argc == 5 ? TT_I8 : TT_BF16);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_trained_is_the_base),
        cmocka_unit_test(test_base_comes_back),
        cmocka_unit_test(test_company_and_order),
        cmocka_unit_test(test_sequences_share_a_prefix),
        cmocka_unit_test(test_run_is_the_loop),
        cmocka_unit_test(test_context_was_never_written),
        cmocka_unit_test(test_chunks_do_not_show),
    };
    int failed = cmocka_run_group_tests_name(argv[2], tests, NULL, NULL);
    tt_adapter_unref(&t.r.d, &t.a);
    tt_adapter_unref(&t.r.d, &t.b);
    rig_close(&t.r);
    return failed != 0;
}
