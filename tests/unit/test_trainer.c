/* test_trainer.c - the optimiser's step on a tiny model against the formulas of ops.h in double:
 * AdamW and SGD, clipping, weight decay on W_Q + D, both kinds of adapter; LoRA's start; what is
 * reported; what is not finite. The same steps against PyTorch are in tests/golden. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine.h"
#include "core/trainer.h"
#include "fail_alloc.h"
#include "small_engine.h"

enum { CONTEXT = 40, SPAN = 30, H = 32, NQ = 32, RANK = 4, N_LAYERS = 2, MAX = NQ * H };

static small_engine e;
static int32_t ids[CONTEXT];
static const int32_t pages[1] = {0};

static int set_up(void **state)
{
    small_options o = {.shape = {.arch = "qwen3"}, .kv_type = TT_F32, .n_pages = 1, .n_threads = 1};
    small_open(&e, &o);
    assert_int_equal(e.model->hidden, H);
    assert_int_equal(e.model->n_heads * e.model->head_dim, NQ);
    small_ids(ids, CONTEXT, e.model->n_vocab, 3);
    tt_segment s = {.ids = ids, .n_rows = CONTEXT, .pages = pages, .store = true};
    small_run(&e, &s, 1, &(tt_step_options){.family = TT_PREFILL});
    return 0;
}

static int tear_down(void **state)
{
    small_close(&e);
    return 0;
}

static tt_qttt_params params(bool lora, bool sgd)
{
    tt_qttt_params p;
    tt_qttt_defaults(&p);
    p.lora = lora;
    p.sgd = sgd;
    p.rank = RANK;
    p.lora_alpha = 6;
    p.learning_rate = 1e-2;
    p.weight_decay = 0.1f;
    p.grad_clip = 0;
    p.seed = 11;
    tt_qttt_resolve(&p);
    return p;
}

static tt_trainer *create(const tt_qttt_params *p, uint64_t hash)
{
    tt_trainer *t = NULL;
    tt_err err;
    assert_int_equal(tt_trainer_create(&e.d, p, hash, &t, &err), TT_OK);
    return t;
}

static void train(tt_trainer *t)
{
    tt_segment s = {.ids = ids,
                    .n_rows = SPAN,
                    .pages = pages,
                    .adapter = tt_trainer_params(t),
                    .want = TT_WANT_LOSS,
                    .targets = ids + 1};
    small_run(&e, &s, 1,
              &(tt_step_options){.trainee = tt_trainer_params(t), .grads = tt_trainer_grads(t)});
}

static tt_train_report update(tt_trainer *t, bool want_norm)
{
    tt_train_report r;
    tt_err err;
    assert_int_equal(tt_trainer_update(t, e.step, want_norm, &r, &err), TT_OK);
    return r;
}

/* Tensor `k` of a layer: D, or A (0) and B (1). Returns its length. */
static int get(const tt_adapter *a, int32_t layer, int k, float *x)
{
    const tt_adapter_layer *l = &a->layers[layer];
    bool full = l->kind == TT_ADAPTER_FULL;
    int n = full ? NQ * H : k == 0 ? RANK * H : NQ * RANK;
    small_get(&e, x, full ? l->d : k == 0 ? l->a : l->b, (size_t)n * sizeof *x);
    return n;
}

/* One tensor's optimiser in double. */
typedef struct mirror {
    double p[MAX], m[MAX], v[MAX];
    float g[MAX];
    int n;
} mirror;

static void mirror_step(mirror *x, const tt_qttt_params *o, int t, double clip, const float *w)
{
    for (int i = 0; i < x->n; i++) {
        double g = x->g[i] * clip, p = x->p[i] + (w != NULL ? w[i] : 0);
        if (o->sgd) {
            x->p[i] -= o->learning_rate * (g + o->weight_decay * p);
            continue;
        }
        x->m[i] = o->beta1 * x->m[i] + (1 - (double)o->beta1) * g;
        x->v[i] = o->beta2 * x->v[i] + (1 - (double)o->beta2) * g * g;
        x->p[i] -= o->learning_rate * o->weight_decay * p +
                   o->learning_rate * (x->m[i] / (1 - pow(o->beta1, t))) /
                       (sqrt(x->v[i] / (1 - pow(o->beta2, t))) + o->adam_eps);
    }
}

static double sum_sq(const float *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)x[i] * x[i];
    }
    return sum;
}

static void check_steps(bool lora, bool sgd, float clip)
{
    tt_qttt_params p = params(lora, sgd);
    p.grad_clip = clip;
    tt_trainer *t = create(&p, 5);
    int n_tensors = lora ? 2 : 1;
    mirror *m = calloc(N_LAYERS * 2, sizeof *m);
    float *x = malloc(MAX * sizeof *x);
    assert_true(m != NULL && x != NULL);
    for (int i = 0; i < N_LAYERS * n_tensors; i++) {
        m[i].n = get(tt_trainer_params(t), i / n_tensors, i % n_tensors, x);
        for (int j = 0; j < m[i].n; j++) {
            m[i].p[j] = x[j];
        }
    }
    for (int step = 1; step <= 4; step++) {
        train(t);
        double grad_sq = 0, loss = 0;
        for (int i = 0; i < N_LAYERS * n_tensors; i++) {
            get(tt_trainer_grads(t), i / n_tensors, i % n_tensors, m[i].g);
            grad_sq += sum_sq(m[i].g, m[i].n);
        }
        for (int i = 0; i < SPAN; i++) {
            loss += tt_step_losses(e.step)[i] / (double)SPAN;
        }
        tt_train_report r = update(t, false);
        double norm = sqrt(grad_sq);
        assert_true(r.finite && r.delta_norm == 0);
        assert_true(fabs(r.loss - loss) < 1e-6 * loss);
        assert_true(fabs(r.grad_norm - norm) < 1e-6 * norm && norm > 0);
        double factor = clip > 0 ? fmin(1, clip / (norm + 1e-6)) : 1;
        assert_true(clip == 0 || (clip < 1e-2) == (factor < 1)); /* both sides of the bound */
        for (int i = 0; i < N_LAYERS * n_tensors; i++) {
            const float *w = lora ? NULL : e.model->layers[i].wq.host;
            mirror_step(&m[i], &p, step, factor, w);
            get(tt_trainer_params(t), i / n_tensors, i % n_tensors, x);
            for (int j = 0; j < m[i].n; j++) {
                assert_true(fabs(x[j] - m[i].p[j]) < 2e-6 + 2e-4 * fabs(m[i].p[j]));
            }
        }
    }
    free(m);
    free(x);
    tt_trainer_destroy(&t);
    assert_null(t);
}

static void test_adamw(void **state)
{
    check_steps(false, false, 0);
    check_steps(true, false, 0);
}

static void test_sgd(void **state)
{
    check_steps(false, true, 0);
    check_steps(true, true, 0);
}

static void test_clipping(void **state)
{
    check_steps(false, true, 1e-3f);
    check_steps(false, true, 1e3f);
    check_steps(true, false, 1e-3f);
}

/* |scale B A| of a layer over |W_Q|, in double. */
static double lora_norm(int32_t layer, const float *a, const float *b, double scale)
{
    double sum = 0;
    for (int i = 0; i < NQ; i++) {
        for (int j = 0; j < H; j++) {
            double x = 0;
            for (int r = 0; r < RANK; r++) {
                x += (double)b[i * RANK + r] * a[r * H + j];
            }
            sum += x * x;
        }
    }
    return scale * sqrt(sum / sum_sq(e.model->layers[layer].wq.host, NQ * H));
}

static void test_delta_norm_is_the_largest_layers(void **state)
{
    float x[MAX], b[NQ * RANK];
    double norm = -1;
    tt_err err;
    tt_qttt_params p = params(false, false);
    tt_trainer *t = create(&p, 1);
    double want[N_LAYERS];
    for (int32_t l = 0; l < N_LAYERS; l++) {
        small_noise(x, NQ * H, l == 0 ? 0.02f : 0.01f, (uint64_t)l);
        tt_trainer_set(t, l, x, NULL);
        want[l] = sqrt(sum_sq(x, NQ * H) / sum_sq(e.model->layers[l].wq.host, NQ * H));
    }
    assert_true(want[0] > want[1]);
    assert_int_equal(tt_trainer_delta_norm(t, tt_trainer_params(t), &norm, &err), TT_OK);
    assert_true(fabs(norm - want[0]) < 1e-6);
    tt_adapter *published = NULL; /* of a published adapter too: BF16 */
    assert_int_equal(tt_adapter_round(&e.d, tt_trainer_params(t), &published, &err), TT_OK);
    assert_int_equal(tt_trainer_delta_norm(t, published, &norm, &err), TT_OK);
    assert_true(fabs(norm - want[0]) < 1e-3 * want[0] && norm != want[0]);
    tt_adapter_unref(&e.d, &published);
    train(t);
    p.learning_rate = 0;
    assert_true(update(t, true).delta_norm > 0); /* after the update */
    tt_trainer_destroy(&t);

    p = params(true, false);
    t = create(&p, 1);
    small_noise(x, RANK * H, 0.5f, 7);
    small_noise(b, NQ * RANK, 0.05f, 8);
    tt_trainer_set(t, 1, x, b);
    assert_int_equal(tt_trainer_delta_norm(t, tt_trainer_params(t), &norm, &err), TT_OK);
    double lora = lora_norm(1, x, b, 6.0 / RANK);
    assert_true(fabs(norm - lora) < 1e-5 * lora);
    tt_trainer_destroy(&t);
}

/* D = 0; B = 0 and A normal with variance 1 / hidden, from seed and context alone, the same for a
 * layer whichever others are trained. */
static void test_the_start(void **state)
{
    float x[MAX], y[MAX];
    tt_qttt_params p = params(false, false);
    tt_trainer *t = create(&p, 1);
    for (int32_t l = 0; l < N_LAYERS; l++) {
        int n = get(tt_trainer_params(t), l, 0, x);
        assert_true(sum_sq(x, n) == 0);
    }
    tt_trainer_destroy(&t);
    p = params(true, false);
    t = create(&p, 1);
    double sum = 0, sq = 0;
    for (int32_t l = 0; l < N_LAYERS; l++) {
        assert_true(sum_sq(x, get(tt_trainer_params(t), l, 1, x)) == 0);
        int n = get(tt_trainer_params(t), l, 0, x);
        for (int i = 0; i < n; i++) {
            sum += x[i];
        }
        sq += sum_sq(x, n);
    }
    double n = N_LAYERS * RANK * H; /* 256 draws: the bounds are 5 standard errors */
    assert_true(fabs(sum / n) < 5 / sqrt(n * H));
    assert_true(fabs(sq / n * H - 1) < 5 * sqrt(2 / n));

    tt_qttt_params last = p;
    last.layers[0] = 1 << 1;
    tt_trainer *one = create(&last, 1), *again = create(&p, 1), *other = create(&p, 2);
    size_t bytes = RANK * H * sizeof *x;
    assert_false(tt_adapter_has(tt_trainer_params(one), 0));
    get(tt_trainer_params(one), 1, 0, y);
    assert_memory_equal(x, y, bytes);
    get(tt_trainer_params(again), 1, 0, y);
    assert_memory_equal(x, y, bytes);
    get(tt_trainer_params(other), 1, 0, y);
    assert_memory_not_equal(x, y, bytes);
    p.seed++;
    tt_trainer_destroy(&again);
    again = create(&p, 1);
    get(tt_trainer_params(again), 1, 0, y);
    assert_memory_not_equal(x, y, bytes);
    tt_trainer_destroy(&t);
    tt_trainer_destroy(&one);
    tt_trainer_destroy(&again);
    tt_trainer_destroy(&other);
}

static void test_what_is_not_finite_updates_nothing(void **state)
{
    float x[MAX], y[MAX];
    tt_qttt_params p = params(false, false);
    tt_trainer *t = create(&p, 1);
    small_noise(x, NQ * H, 0.01f, 2);
    tt_trainer_set(t, 1, x, NULL);
    x[3] = INFINITY;
    tt_trainer_set(t, 0, x, NULL);
    train(t);
    tt_train_report r = update(t, false);
    assert_false(r.finite);
    get(tt_trainer_params(t), 0, 0, y);
    assert_memory_equal(x, y, sizeof y);
    get(tt_trainer_params(t), 1, 0, y);
    x[3] = 0;
    small_noise(x, NQ * H, 0.01f, 2);
    assert_memory_equal(x, y, sizeof y);
    tt_trainer_set(t, 0, x, NULL); /* and it goes on where the numbers are sound */
    train(t);
    assert_true(update(t, false).finite);
    get(tt_trainer_params(t), 0, 0, y);
    for (int i = 0; i < NQ * H; i++) {
        assert_true(isfinite(y[i]));
    }
    tt_trainer_destroy(&t);
}

static void test_nothing_is_learnt_at_rate_zero(void **state)
{
    float x[MAX];
    tt_qttt_params p = params(false, false);
    p.learning_rate = 0;
    tt_trainer *t = create(&p, 1);
    train(t);
    tt_train_report r = update(t, true);
    assert_true(r.finite && r.grad_norm > 0 && r.delta_norm == 0);
    assert_true(sum_sq(x, get(tt_trainer_params(t), 0, 0, x)) == 0);
    tt_trainer_destroy(&t);
}

static void test_bytes(void **state)
{
    for (int i = 0; i < 4; i++) {
        tt_qttt_params p = params(i & 1, i & 2);
        tt_trainer *t = create(&p, 1);
        size_t n = tt_trainer_params(t)->bytes;
        assert_int_equal(n, tt_trainer_grads(t)->bytes);
        size_t all = tt_trainer_bytes(e.model, &p), tensors = n * (p.sgd ? 2 : 4);
        assert_true(all > tensors && all < tensors + 4096); /* and the optimiser's small state */
        tt_trainer_destroy(&t);
    }
    tt_trainer *none = NULL;
    tt_trainer_destroy(&none);
}

/* One arena, from training to training; a second training at the same time has memory of its own.
 */
static void test_arena(void **state)
{
    tt_qttt_params p = params(true, false), larger = params(false, false);
    tt_trainer *first = create(&p, 1);
    tt_dev at = tt_trainer_params(first)->block;
    tt_trainer *beside = create(&p, 2);
    assert_true(e.d.arena_taken && at == e.d.arena);
    assert_true(tt_trainer_params(beside)->block != at);
    tt_trainer_destroy(&first);
    assert_false(e.d.arena_taken);
    first = create(&p, 3);
    assert_true(tt_trainer_params(first)->block == at);
    tt_trainer_destroy(&first);
    first = create(&larger, 4);
    assert_true(e.d.arena_bytes >= tt_trainer_bytes(e.model, &larger));
    tt_trainer_destroy(&beside);
    assert_true(e.d.arena_taken);
    tt_trainer_destroy(&first);
}

static void test_no_memory(void **state)
{
    tt_qttt_params p = params(true, false);
    tt_trainer *t = NULL;
    tt_err err;
    tt_code rc;
    int n = 0;
    for (;; n++) {
        err = (tt_err){0};
        fail_alloc_at(n);
        rc = tt_trainer_create(&e.d, &p, 1, &t, &err);
        if (!fail_alloc_off()) {
            break;
        }
        assert_int_equal(rc, TT_E_NOMEM);
        assert_int_equal(err.code, TT_E_NOMEM);
        assert_null(t);
    }
    assert_int_equal(rc, TT_OK);
    assert_true(n >= 3 + 4 * 2 + 1); /* itself and two tables, four adapters, A's draw */
    tt_trainer_destroy(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_sgd),
        cmocka_unit_test(test_clipping),
        cmocka_unit_test(test_delta_norm_is_the_largest_layers),
        cmocka_unit_test(test_the_start),
        cmocka_unit_test(test_what_is_not_finite_updates_nothing),
        cmocka_unit_test(test_nothing_is_learnt_at_rate_zero),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
