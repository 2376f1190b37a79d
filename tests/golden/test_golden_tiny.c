/* test_golden_tiny.c - the engine against PyTorch on the tiny models: test_golden_tiny MODELS
 * VECTORS FAMILY ISA Each family runs twice, as a Hugging Face folder and as GGUF. Names of the
 * vectors: README.md. K/V are F32 throughout, but for ISA cuda, which has none of those. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/seq.h"
#include "rig.h"
#include "vectors.h"

typedef struct bounds {
    double vector; /* |a - b| / |b| of logits, row losses, gradients */
    double scalar; /* relative, of mean losses and norms */
    double steps;  /* the same between optimiser steps, where Adam enlarges differences */
    double angle;  /* 1 - cosine of what an optimiser made */
} bounds;

/* ref (sums in double) is within 4e-6, tables with float32 products within 7e-6. Rounding the
 * inputs of every product to BF16 in the PyTorch model itself moves logits by up to 0.031 and
 * gradients by up to 0.052 of their length, the engine's BF16 products move them by the same: twice
 * that is the bound. K and V are such inputs, so CUDA's BF16 pages are within it. */
static const bounds exact = {.vector = 1e-5, .scalar = 1e-5, .steps = 1e-5, .angle = 1e-6};
static const bounds single = {.vector = 3e-5, .scalar = 3e-5, .steps = 3e-5, .angle = 1e-5};
static const bounds rounded = {.vector = 0.1, .scalar = 0.03, .steps = 0.2, .angle = 0.03};
/* CUDA rounds the low-rank middle of LoRA, too. Adam's first steps are made of the signs of
 * gradients: after two of them the norm of gemma3's is off by 0.21 (by 0.14 with the CPU's BF16),
 * while each gradient by itself keeps the bound. */
static const bounds rounded_middle = {.vector = 0.1, .scalar = 0.03, .steps = 0.4, .angle = 0.03};

static struct {
    rig r;
    vec_file *v;
    const bounds *bound;
    int64_t n_wq; /* elements of one W_Q */
    uint64_t checksum;
    float *buf; /* [max(n_wq, V * 32)] */
    bool folder;
} t;

static void near_within(double bound, const char *what, double got, double want)
{
    double error = fabs(got - want) / fmax(fabs(want), 1e-9);
    if (getenv("TT_GOLDEN_PRINT")) {
        printf("    %s: %.2g\n", what, error);
    }
    if (!(error <= bound)) {
        fail_msg("%s: %.9g, PyTorch has %.9g (relative %.2g)", what, got, want, error);
    }
}

static void near_scalar(const char *what, double got, double want)
{
    near_within(t.bound->scalar, what, got, want);
}

static void near_vector(const char *what, const float *got, const float *want, int64_t n)
{
    double error = rig_error(got, want, n);
    if (getenv("TT_GOLDEN_PRINT")) {
        printf("    %s: %.2g\n", what, error);
    }
    if (!(error <= t.bound->vector)) {
        fail_msg("%s: relative error %.2g", what, error);
    }
}

/* A matrix with a row for each element of the queries, out of the vectors' order (the folder's)
 * into the model file's: GGUF files of the llama family hold rows 2i and 2i + 1 of a head side by
 * side. src [NQ, cols] -> dst. */
static void file_rows(float *dst, const float *src, int64_t n)
{
    const tt_model *m = t.r.model;
    int32_t dim = m->head_dim, nq = m->n_heads * dim;
    int64_t cols = n / nq;
    bool interleaved = m->rope[0].kind == TT_ROPE_INTERLEAVED;
    for (int32_t row = 0; row < nq; row++) {
        int32_t i = row % dim, from = row - i + i % 2 * (dim / 2) + i / 2;
        memcpy(dst + row * cols, src + (interleaved ? from : row) * cols,
               (size_t)cols * sizeof *dst);
    }
}

static void put_file_rows(tt_dev x, const float *src, int64_t n)
{
    float *y = malloc((size_t)n * sizeof *y);
    assert_non_null(y);
    file_rows(y, src, n);
    rig_put(&t.r, x, y, n);
    free(y);
}

static tt_adapter *make_adapter(tt_adapter_kind kind, int32_t rank, float scale)
{
    tt_adapter *a = NULL;
    tt_err err = {0};
    tt_adapter_shape shape = {.kind = kind, .type = TT_F32, .rank = rank, .scale = scale};
    assert_int_equal(tt_adapter_create(&t.r.d, &shape, &a, &err), TT_OK);
    return a;
}

/* D = `delta` of the vectors, exact in BF16. */
static tt_adapter *delta_adapter(void)
{
    tt_adapter *a = make_adapter(TT_ADAPTER_FULL, 0, 1.0f);
    for (int32_t l = 0; l < t.r.model->n_layers; l++) {
        vec_to_f32(vec_need(t.v, VEC_U16, t.n_wq, "delta.%d", l), t.buf, t.n_wq);
        put_file_rows(a->layers[l].d, t.buf, t.n_wq);
    }
    return a;
}

/* The gradient of one layer, `name`.`layer` in the vectors, against the device's; returns its
 * squared norm. query_rows: it has a row for each element of the queries (not so LoRA's A). */
static double check_gradient(const char *name, int32_t layer, tt_dev g, int64_t n, bool query_rows)
{
    char what[96];
    float *want = malloc((size_t)n * sizeof *want);
    assert_non_null(want);
    memcpy(want, vec_f32(t.v, n, "%s.%d", name, layer), (size_t)n * sizeof *want);
    if (query_rows) {
        file_rows(want, vec_f32(t.v, n, "%s.%d", name, layer), n);
    }
    snprintf(what, sizeof what, "%s.%d", name, layer);
    rig_get(&t.r, t.buf, g, n);
    near_vector(what, t.buf, want, n);
    free(want);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)t.buf[i] * (double)t.buf[i];
    }
    return sum;
}

static void test_shape(void **state)
{
    const tt_model *m = t.r.model;
    assert_int_equal(m->hidden, 64);
    assert_int_equal(m->n_vocab, 320);
    assert_string_equal(m->format, t.folder ? "safetensors" : "gguf v3");
    assert_null(vec_find(t.v, "no such tensor"));
}

static void test_logits(void **state)
{
    int64_t n_vocab = t.r.model->n_vocab;
    const vec *rows = vec_need(t.v, VEC_I32, -1, "logits.rows");
    const float *want = vec_f32(t.v, rows->n * n_vocab, "logits");
    float *got = malloc((size_t)(rows->n * n_vocab) * sizeof *got);
    assert_non_null(got);
    rig_logits(&t.r, rows->data, (int32_t)rows->n, got);
    for (int64_t i = 0; i < rows->n; i++) {
        char what[64];
        snprintf(what, sizeof what, "logits at position %d", ((const int32_t *)rows->data)[i]);
        near_vector(what, got + i * n_vocab, want + i * n_vocab, n_vocab);
    }
    free(got);
}

/* Step-0 identity: losses computed from the frozen cache are those of PyTorch's one plain forward.
 */
static void test_row_losses(void **state)
{
    int32_t n = t.r.n_ids - 1;
    const float *want = vec_f32(t.v, n, "row_loss");
    rig_span_loss(&t.r, 0, n, NULL, t.buf);
    near_vector("losses of all positions", t.buf, want, n);
}

/* One training step over a span with a given delta: row losses, G of every layer, its norm. */
static void check_span(const char *name, const tt_adapter *param)
{
    char g_name[64];
    const int32_t *at = vec_i32(t.v, 2, "%s", name);
    int32_t k = at[1], targets[256];
    tt_adapter *grads = make_adapter(TT_ADAPTER_FULL, 0, 1.0f);
    tt_segment seg = rig_span(&t.r, at[0], k, param, targets);
    rig_run(&t.r, &seg, 1,
            &(tt_step_options){.family = TT_PREFILL, .trainee = param, .grads = grads});
    near_vector(name, tt_step_losses(t.r.step), vec_f32(t.v, k, "%s.row_loss", name), k);
    double sum = 0;
    snprintf(g_name, sizeof g_name, "%s.g", name);
    for (int32_t l = 0; l < t.r.model->n_layers; l++) {
        sum += check_gradient(g_name, l, grads->layers[l].d, t.n_wq, true);
    }
    near_scalar("gradient norm", sqrt(sum), vec_f64(t.v, "%s.gnorm", name));
    near_scalar("span loss", rig_span_loss(&t.r, at[0], k, param, t.buf),
                vec_f64(t.v, "%s.loss", name));
    tt_adapter_unref(&t.r.d, &grads);
}

static void test_span_gradients(void **state)
{
    tt_adapter *zero = make_adapter(TT_ADAPTER_FULL, 0, 1.0f);
    check_span("span_mid", zero);
    if (vec_find(t.v, "span_end")) {
        check_span("span_end", zero);
    }
    tt_adapter_unref(&t.r.d, &zero);
    tt_adapter *delta = delta_adapter();
    check_span("span_delta", delta);
    tt_adapter_unref(&t.r.d, &delta);
}

/* ---- optimiser steps ---- */

static tt_qttt_params hyper(const char *name, bool sgd, int32_t rank)
{
    const vec *h = vec_need(t.v, VEC_F64, 6, "%s.hyper", name);
    double x[6];
    memcpy(x, h->data, sizeof x);
    tt_qttt_params p = {.mode = TT_QTTT_ON,
                        .sgd = sgd,
                        .lora = rank > 0,
                        .rank = rank,
                        .steps = 4,
                        .learning_rate = x[0],
                        .beta1 = (float)x[1],
                        .beta2 = (float)x[2],
                        .adam_eps = (float)x[3],
                        .weight_decay = (float)x[4],
                        .grad_clip = (float)x[5]};
    p.lora_alpha = rank > 0 ? (float)(vec_f64(t.v, "lora.scale") * rank) : 0.0f;
    return p;
}

/* Runs the steps of `name` on the given trainer, comparing loss and gradient norm before each. */
static void train(const char *name, tt_trainer *trainer)
{
    const vec *spans = vec_need(t.v, VEC_I32, 8, "%s", name);
    const double *losses = vec_need(t.v, VEC_F64, 4, "%s.loss", name)->data;
    const double *norms = vec_need(t.v, VEC_F64, 4, "%s.gnorm", name)->data;
    for (int i = 0; i < 4; i++) {
        int32_t targets[256];
        const int32_t *at = (const int32_t *)spans->data + 2 * i;
        tt_segment seg = rig_span(&t.r, at[0], at[1], tt_trainer_params(trainer), targets);
        rig_run(&t.r, &seg, 1,
                &(tt_step_options){.family = TT_PREFILL,
                                   .trainee = tt_trainer_params(trainer),
                                   .grads = tt_trainer_grads(trainer)});
        tt_train_report report = {0};
        tt_err err = {0};
        assert_int_equal(tt_trainer_update(trainer, t.r.step, i == 3, &report, &err), TT_OK);
        assert_true(report.finite);
        near_within(t.bound->steps, "loss of a step", report.loss, losses[i]);
        near_within(t.bound->steps, "gradient norm of a step", report.grad_norm, norms[i]);
    }
}

/* Direction and length of what the optimiser made. */
static void check_trained(const char *what, tt_dev x, const vec *want, bool query_rows)
{
    int64_t n = want->n;
    float *ref = malloc((size_t)n * sizeof *ref);
    assert_non_null(ref);
    vec_to_f32(want, t.buf, n);
    memcpy(ref, t.buf, (size_t)n * sizeof *ref);
    if (query_rows) {
        file_rows(ref, t.buf, n);
    }
    rig_get(&t.r, t.buf, x, n);
    double angle = rig_angle(t.buf, ref, n), got = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        got += (double)t.buf[i] * (double)t.buf[i];
        norm += (double)ref[i] * (double)ref[i];
    }
    free(ref);
    if (getenv("TT_GOLDEN_PRINT")) {
        printf("    %s: 1 - cosine %.2g, length %.6g\n", what, angle, sqrt(got / norm));
    }
    if (!(angle <= t.bound->angle)) {
        fail_msg("%s: 1 - cosine %.2g", what, angle);
    }
    double length = want->type == VEC_F16 ? 1e-3 : 1e-4; /* float16 vectors are coarser */
    if (!(fabs(sqrt(got / norm) - 1.0) <= fmax(length, t.bound->vector))) {
        fail_msg("%s: %.6g times PyTorch's length", what, sqrt(got / norm));
    }
}

static void check_training(const char *name, bool sgd)
{
    tt_err err = {0};
    tt_trainer *trainer = NULL;
    tt_qttt_params p = hyper(name, sgd, 0);
    assert_int_equal(tt_trainer_create(&t.r.d, &p, 1, &trainer, &err), TT_OK);
    train(name, trainer);
    const tt_adapter *a = tt_trainer_params(trainer);
    for (int32_t l = 0; l < t.r.model->n_layers; l++) {
        char d_name[64];
        snprintf(d_name, sizeof d_name, "%s.d.%d", name, l);
        const vec *want = vec_find(t.v, d_name);
        assert_non_null(want);
        assert_int_equal(want->n, t.n_wq);
        check_trained(d_name, a->layers[l].d, want, true);
    }
    const int32_t *at = vec_i32(t.v, 8, "%s", name);
    near_within(t.bound->steps, "loss after training", rig_span_loss(&t.r, at[0], at[1], a, t.buf),
                vec_f64(t.v, "%s.loss_after", name));
    tt_trainer_destroy(&trainer);
}

static void test_adamw(void **state)
{
    check_training("adamw", false);
}

static void test_adamw_decay(void **state)
{
    check_training("adamw_wd", false);
}

static void test_sgd_clipped(void **state)
{
    check_training("sgd", true);
}

/* ---- LoRA ---- */

static void test_lora_gradients(void **state)
{
    const vec *a0 = vec_need(t.v, VEC_F32, -1, "lora.a.0");
    int32_t rank = (int32_t)a0->dims[0], targets[256];
    float scale = (float)vec_f64(t.v, "lora.scale");
    int64_t n[2];
    tt_adapter_sizes(t.r.model, TT_ADAPTER_LORA, rank, n);
    tt_adapter *param = make_adapter(TT_ADAPTER_LORA, rank, scale),
               *grads = make_adapter(TT_ADAPTER_LORA, rank, scale);
    for (int32_t l = 0; l < t.r.model->n_layers; l++) {
        rig_put(&t.r, param->layers[l].a, vec_f32(t.v, n[0], "lora.a.%d", l), n[0]);
        put_file_rows(param->layers[l].b, vec_f32(t.v, n[1], "lora.b.%d", l), n[1]);
    }
    const int32_t *at = vec_i32(t.v, 8, "lora_adamw");
    tt_segment seg = rig_span(&t.r, at[0], at[1], param, targets);
    rig_run(&t.r, &seg, 1,
            &(tt_step_options){.family = TT_PREFILL, .trainee = param, .grads = grads});
    double sum = 0;
    for (int32_t l = 0; l < t.r.model->n_layers; l++) {
        sum += check_gradient("lora.ga", l, grads->layers[l].a, n[0], false);
        sum += check_gradient("lora.gb", l, grads->layers[l].b, n[1], true);
    }
    near_scalar("gradient norm", sqrt(sum), vec_f64(t.v, "lora.gnorm"));
    near_scalar("span loss", rig_span_loss(&t.r, at[0], at[1], param, t.buf),
                vec_f64(t.v, "lora.loss"));
    tt_adapter_unref(&t.r.d, &param);
    tt_adapter_unref(&t.r.d, &grads);
}

static void test_lora_training(void **state)
{
    tt_err err = {0};
    tt_trainer *trainer = NULL;
    int32_t rank = (int32_t)vec_need(t.v, VEC_F32, -1, "lora.a.0")->dims[0];
    tt_qttt_params p = hyper("lora_adamw", false, rank);
    assert_int_equal(tt_trainer_create(&t.r.d, &p, 1, &trainer, &err), TT_OK);
    int64_t n[2];
    tt_adapter_sizes(t.r.model, TT_ADAPTER_LORA, rank, n);
    for (int32_t l = 0; l < t.r.model->n_layers; l++) {
        tt_trainer_set(trainer, l, vec_f32(t.v, n[0], "lora.a.%d", l), NULL);
    }
    train("lora_adamw", trainer);
    const tt_adapter *a = tt_trainer_params(trainer);
    for (int32_t l = 0; l < t.r.model->n_layers; l++) {
        check_trained("lora A", a->layers[l].a, vec_need(t.v, VEC_F32, n[0], "lora_adamw.a.%d", l),
                      false);
        check_trained("lora B", a->layers[l].b, vec_need(t.v, VEC_F32, n[1], "lora_adamw.b.%d", l),
                      true);
    }
    tt_trainer_destroy(&trainer);
}

/* ---- recall ---- */

static void check_recall(const char *name, const tt_adapter *param)
{
    char g_name[64];
    const int32_t *starts = vec_i32(t.v, 2, "%s", name);
    const int32_t rows = TT_PASSAGE_TOKENS - 1;
    tt_reread reread;
    tt_err err = {0};
    assert_int_equal(tt_reread_init(&reread, t.r.kv, t.r.pages, t.r.n_ids, 2, &err), TT_OK);
    tt_segment segs[2];
    for (int32_t i = 0; i < 2; i++) {
        assert_int_equal(tt_reread_segment(&reread, i, t.r.ids, starts[i], NULL, param, &segs[i]),
                         32);
    }
    tt_adapter *grads = make_adapter(TT_ADAPTER_FULL, 0, 1.0f);
    rig_run(&t.r, segs, 2,
            &(tt_step_options){.family = TT_PREFILL, .trainee = param, .grads = grads});
    const float *got = tt_step_losses(t.r.step);
    near_vector(name, got, vec_f32(t.v, 2 * rows, "%s.row_loss", name), 2 * rows);
    double loss = 0, sum = 0;
    for (int32_t i = 0; i < 2 * rows; i++) {
        loss += got[i];
    }
    near_scalar("recall loss", loss / 64, vec_f64(t.v, "%s.loss", name));
    snprintf(g_name, sizeof g_name, "%s.g", name);
    for (int32_t l = 0; l < t.r.model->n_layers; l++) {
        sum += check_gradient(g_name, l, grads->layers[l].d, t.n_wq, true);
    }
    near_scalar("gradient norm", sqrt(sum), vec_f64(t.v, "%s.gnorm", name));
    tt_adapter_unref(&t.r.d, &grads);
    tt_reread_finish(&reread);
}

static void test_recall(void **state)
{
    tt_adapter *zero = make_adapter(TT_ADAPTER_FULL, 0, 1.0f), *delta = delta_adapter();
    check_recall("recall", zero);
    check_recall("recall_delta", delta);
    tt_adapter_unref(&t.r.d, &zero);
    tt_adapter_unref(&t.r.d, &delta);
}

/* ---- cache and question ---- */

/* Everything above read the cache; not a byte of it has changed. */
static void test_cache_unchanged(void **state)
{
    assert_true(rig_checksum(&t.r) == t.checksum);
}

static void move_page(int32_t layer, int32_t page, float by)
{
    const tt_kv_layer *kv = tt_kv_layer_of(t.r.kv, layer);
    int64_t n = (int64_t)kv->n_kv_heads * TT_PAGE_TOKENS * kv->head_dim;
    bool bf16 = kv->type == TT_BF16;
    size_t n_bytes = (size_t)n * (bf16 ? sizeof(uint16_t) : sizeof(float));
    float *x = malloc(n_bytes);
    uint16_t *h = (uint16_t *)x;
    assert_non_null(x);
    tt_dev at[2] = {kv->k, kv->v};
    for (int i = 0; i < 2; i++) {
        tt_dev p = at[i] + (tt_dev)((int64_t)t.r.pages[page] * kv->page_stride);
        float step = i == 0 ? by : -by;
        rig_get_bytes(&t.r, x, p, n_bytes);
        for (int64_t j = 0; j < n; j++) {
            if (bf16) {
                h[j] = tt_f32_to_bf16(tt_bf16_to_f32(h[j]) + step);
            } else {
                x[j] += step;
            }
        }
        rig_put_bytes(&t.r, p, x, n_bytes);
    }
    free(x);
}

static void test_perturbed_page(void **state)
{
    const int32_t *p = vec_i32(t.v, 4, "perturb");
    float before[256];
    rig_span_loss(&t.r, p[2], p[3], NULL, before);
    move_page(p[0], p[1], 0.25f);
    double after = rig_span_loss(&t.r, p[2], p[3], NULL, t.buf);
    near_vector("row losses, page moved", t.buf, vec_f32(t.v, p[3], "perturb.row_loss"), p[3]);
    near_scalar("span loss, page moved", after, vec_f64(t.v, "perturb.loss"));
    assert_true(rig_error(t.buf, before, p[3]) > 100 * exact.vector);
    rig_context(&t.r, vec_i32(t.v, t.r.n_ids, "ids"), t.r.n_ids, 512);
    assert_true(rig_checksum(&t.r) == t.checksum);
}

/* The adapter acts in the question's prefill, and in what is decoded after it. */
static void test_question(void **state)
{
    const vec *q = vec_need(t.v, VEC_I32, -1, "question"),
              *answer = vec_need(t.v, VEC_I32, -1, "question.greedy");
    int32_t n_vocab = t.r.model->n_vocab, n = (int32_t)q->n, ids[64];
    memcpy(ids, q->data, (size_t)n * sizeof *ids);
    rig_question(&t.r, ids, n, NULL, t.buf);
    near_vector("question, base", t.buf, vec_f32(t.v, n_vocab, "question.base"), n_vocab);
    tt_adapter *delta = delta_adapter(), *published = NULL;
    tt_err err = {0};
    assert_int_equal(tt_adapter_round(&t.r.d, delta, &published, &err), TT_OK);
    for (int32_t i = 0; i < (int32_t)answer->n; i++) {
        rig_question(&t.r, ids, n + i, published, t.buf);
        if (i == 0) {
            near_vector("question, adapted", t.buf, vec_f32(t.v, n_vocab, "question.adapted"),
                        n_vocab);
        }
        int32_t best = 0;
        for (int32_t j = 1; j < n_vocab; j++) {
            best = t.buf[j] > t.buf[best] ? j : best;
        }
        int32_t want = ((const int32_t *)answer->data)[i];
        if (t.bound == &exact || t.bound == &single) {
            assert_int_equal(best, want);
        }
        ids[n + i] = want;
    }
    tt_adapter_unref(&t.r.d, &delta);
    tt_adapter_unref(&t.r.d, &published);
}

static int setup_case(const char *path, const char *vectors, const char *isa)
{
    t.v = vec_open(vectors);
    if (!t.v) {
        return -1;
    }
    bool cuda = strcmp(isa, "cuda") == 0;
    rig_open(&t.r, path, rig_table(isa), cuda ? TT_BF16 : TT_F32, 24);
    t.bound = cuda                                       ? &rounded_middle
              : strcmp(t.r.d.ops.isa, "ref") == 0        ? &exact
              : strcmp(t.r.d.ops.isa, "avx512bf16") == 0 ? &rounded
                                                         : &single;
    const vec *ids = vec_need(t.v, VEC_I32, -1, "ids");
    t.n_wq = (int64_t)t.r.model->n_heads * t.r.model->head_dim * t.r.model->hidden;
    t.buf = malloc((size_t)(t.n_wq + 32 * t.r.model->n_vocab) * sizeof *t.buf);
    rig_context(&t.r, ids->data, (int32_t)ids->n, 512);
    t.checksum = rig_checksum(&t.r);
    return t.buf ? 0 : -1;
}

static void teardown_case(void)
{
    rig_close(&t.r);
    vec_close(&t.v);
    free(t.buf);
    t.buf = NULL;
}

/* Families that differ in RoPE alone have fewer vectors; tests of others would compare nothing. */
static int run_groups(const char *name)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_shape),          cmocka_unit_test(test_logits),
        cmocka_unit_test(test_row_losses),     cmocka_unit_test(test_span_gradients),
        cmocka_unit_test(test_adamw),          cmocka_unit_test(test_cache_unchanged),
        cmocka_unit_test(test_perturbed_page), cmocka_unit_test(test_question),
    };
    const struct CMUnitTest more[] = {
        cmocka_unit_test(test_adamw_decay),    cmocka_unit_test(test_sgd_clipped),
        cmocka_unit_test(test_lora_gradients), cmocka_unit_test(test_lora_training),
        cmocka_unit_test(test_recall),         cmocka_unit_test(test_cache_unchanged),
    };
    int failed = cmocka_run_group_tests_name(name, all, NULL, NULL);
    if (vec_find(t.v, "recall")) {
        failed += cmocka_run_group_tests_name(name, more, NULL, NULL);
    }
    return failed;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: test_golden_tiny MODELS VECTORS FAMILY ISA\n");
        return 2;
    }
    int failed = 0;
    /* Both files hold the same weights: an emulated device reads one. */
    int n_formats = strcmp(argv[4], "cuda") == 0 ? 1 : 2;
    for (int folder = 0; folder < n_formats; folder++) {
        char path[512], vectors[512];
        snprintf(path, sizeof path, "%s/%s%s", argv[1], argv[3], folder ? "" : ".gguf");
        snprintf(vectors, sizeof vectors, "%s/tiny_%s.ttv", argv[2], argv[3]);
        t.folder = folder != 0;
        if (setup_case(path, vectors, argv[4]) != 0) {
            return 1;
        }
        failed += run_groups(path);
        teardown_case();
    }
    return failed != 0;
}
