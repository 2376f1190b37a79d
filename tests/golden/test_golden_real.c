/* test_golden_real.c - the engine against PyTorch on a real model: test_golden_real MODEL.gguf
 * VECTORS.ttv full|q8|ref. full: the machine's best kernels and BF16 K/V over 2,000 positions of
 * text in two chunks, then one span's loss and gradient. q8: the same with K/V of TT_I8. ref:
 * reference kernels and F32 K/V over the first 250. What is compared and why: README.md. The
 * divergence is KL(PyTorch || engine) over PyTorch's 64 likeliest tokens and one bucket for the
 * rest. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "rig.h"
#include "vectors.h"

#define TOP 64
#define EXACT_ROWS 250 /* rows whose log-probabilities are stored in float32 */
#define CHUNK 250      /* rows of one step */
#define BLOCK 50       /* rows of logits at a time */

/* What a mode is held to: mean divergence; share of equal argmax; a layer's gradient norm,
 * relative; 1 - cosine of a layer's gradients. Keys and values of one byte cost accuracy: on
 * SmolLM2 a divergence of 1.2e-3, 97.5 % and 0.12 % of the loss. */
static const struct bar {
    const char *mode;
    tt_dtype kv_type;
    double kl, equal, norm, angle;
} bars[] = {
    {"full", TT_BF16, 3e-3, 0.98, 0.1, 0.02},
    {"q8", TT_I8, 3e-3, 0.97, 0.2, 0.05},
    {"ref", TT_F32, 1e-5, 0.996, 0, 0}, /* one row may differ */
};

static struct {
    rig r;
    vec_file *v;
    const struct bar *bar;
    bool ref;
    int32_t n_rows;            /* compared so far */
    int32_t n_equal, n_losses; /* equal argmax; rows whose next token is known */
    double kl, loss, want_loss;
} t;

static uint32_t top_id(int64_t i)
{
    const vec *v = vec_find(t.v, "top_ids");
    return v->type == VEC_U16 ? ((const uint16_t *)v->data)[i] : ((const uint32_t *)v->data)[i];
}

/* log-sum-exp and argmax of one row of logits */
static double log_sum(const float *x, int32_t n, int32_t *ret_best)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        best = x[i] > x[best] ? i : best;
    }
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += exp((double)x[i] - (double)x[best]);
    }
    *ret_best = best;
    return (double)x[best] + log(sum);
}

/* p: PyTorch's log-probabilities [TOP + 1], the rest last, rounded to float16 in most rows: brought
 * back to a sum of 1. */
static double divergence(const float *p, const float *logits, double lse, int64_t row)
{
    double total = 0, kl = 0, q_rest = 1.0;
    for (int i = 0; i <= TOP; i++) {
        total += exp(p[i]);
    }
    for (int i = 0; i < TOP; i++) {
        double lq = (double)logits[top_id(row * TOP + i)] - lse, pi = exp(p[i]) / total;
        kl += pi * (log(pi) - lq);
        q_rest -= exp(lq);
    }
    double p_rest = exp(p[TOP]) / total;
    return kl + p_rest * (log(p_rest) - log(fmax(q_rest, 1e-12)));
}

static void compare_row(const float *logits, int64_t row, int32_t next)
{
    float p[TOP + 1], *half = p;
    int32_t n_vocab = t.r.model->n_vocab, best;
    const vec *lp = vec_find(t.v, "top_lp");
    if (row < EXACT_ROWS) {
        memcpy(half, vec_f32(t.v, EXACT_ROWS * TOP, "top_lp_exact") + row * TOP, TOP * sizeof *p);
    } else {
        vec view = *lp;
        view.data = (const uint16_t *)lp->data + row * TOP;
        view.n = TOP;
        vec_to_f32(&view, half, TOP);
    }
    p[TOP] = ((const float *)vec_find(t.v, "rest_lp")->data)[row];
    double lse = log_sum(logits, n_vocab, &best);
    t.kl += divergence(p, logits, lse, row);
    t.n_equal += best == (int32_t)top_id(row * TOP);
    t.loss += lse - (double)logits[next];
    t.want_loss += ((const float *)vec_find(t.v, "row_loss")->data)[row];
    t.n_rows++;
}

/* Reads a text chunk of n tokens (ids has n + 1) in steps, comparing every row's logits. */
static void read_chunk(const int32_t *ids, int32_t n, int64_t row0)
{
    tt_err err = {0};
    int32_t n_pages = (n + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS, pages[64];
    assert_true(n_pages <= 64);
    for (int32_t i = 0; i < n_pages; i++) {
        assert_true((pages[i] = tt_kv_take(t.r.kv)) >= 0);
    }
    for (int32_t at = 0; at < n; at += CHUNK) {
        int32_t rows = n - at < CHUNK ? n - at : CHUNK;
        tt_segment seg = {.ids = ids + at,
                          .n_rows = rows,
                          .pos0 = at,
                          .pages = pages,
                          .store = true,
                          .want = TT_WANT_ALL};
        rig_run(&t.r, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
        for (int32_t r = 0; r < rows; r += BLOCK) {
            const float *logits;
            int32_t m = rows - r < BLOCK ? rows - r : BLOCK;
            assert_int_equal(tt_step_logits_block(t.r.step, r, m, &logits, &err), TT_OK);
            for (int32_t i = 0; i < m; i++) {
                compare_row(logits + (size_t)i * (size_t)t.r.model->n_vocab, row0 + at + r + i,
                            ids[at + r + i + 1]);
            }
        }
    }
    for (int32_t i = 0; i < n_pages; i++) {
        tt_kv_unref(t.r.kv, pages[i]);
    }
}

static void test_text(void **state)
{
    const vec *a = vec_need(t.v, VEC_I32, -1, "chunk0.ids"),
              *b = vec_need(t.v, VEC_I32, -1, "chunk1.ids");
    if (t.ref) {
        read_chunk(a->data, EXACT_ROWS, 0);
    } else {
        read_chunk(a->data, (int32_t)a->n - 1, 0);
        read_chunk(b->data, (int32_t)b->n - 1, a->n - 1);
        assert_int_equal(t.n_rows, vec_find(t.v, "row_loss")->n);
    }
    double kl = t.kl / t.n_rows, equal = (double)t.n_equal / t.n_rows;
    printf(
        "    %s: %d positions, KL %.3g nats, equal argmax %.2f %%, mean loss %.5f (PyTorch %.5f)\n",
        t.r.d.ops.isa, t.n_rows, kl, 100 * equal, t.loss / t.n_rows, t.want_loss / t.n_rows);
    assert_true(kl <= t.bar->kl);
    assert_true(equal >= t.bar->equal);
    assert_true(fabs(t.loss - t.want_loss) <= 0.005 * t.want_loss);
}

/* The span's loss, and of the gradient each layer's norm and 64 elements. */
static void test_span_gradient(void **state)
{
    const tt_model *m = t.r.model;
    const int32_t *at = vec_i32(t.v, 3, "span");
    const int32_t *picked = vec_i32(t.v, (int64_t)m->n_layers * 64, "span.picked");
    const double *norms = vec_need(t.v, VEC_F64, m->n_layers, "span.layer_gnorm")->data;
    const double *want = vec_need(t.v, VEC_F64, (int64_t)m->n_layers * 64, "span.picked_g")->data;
    int64_t n = (int64_t)m->n_heads * m->head_dim * m->hidden;
    int32_t dim = m->head_dim, targets[1024];
    tt_err err = {0};
    tt_adapter *param = NULL, *grads = NULL;
    tt_adapter_shape shape = {.kind = TT_ADAPTER_FULL, .type = TT_F32};
    assert_int_equal(tt_adapter_create(&t.r.d, &shape, &param, &err), TT_OK);
    assert_int_equal(tt_adapter_create(&t.r.d, &shape, &grads, &err), TT_OK);
    rig_context(&t.r, vec_find(t.v, "chunk0.ids")->data, at[0], CHUNK);
    tt_segment seg = rig_span(&t.r, at[1], at[2], param, targets);
    rig_run(&t.r, &seg, 1,
            &(tt_step_options){.family = TT_PREFILL, .trainee = param, .grads = grads});
    double loss = 0, worst = 0, norm = 0;
    for (int32_t i = 0; i < at[2]; i++) {
        loss += tt_step_losses(t.r.step)[i] / at[2];
    }
    float *g = malloc((size_t)n * sizeof *g), a[64], b[64];
    assert_non_null(g);
    for (int32_t l = 0; l < m->n_layers; l++) {
        double sum = 0;
        rig_get(&t.r, g, grads->layers[l].d, n);
        for (int64_t i = 0; i < n; i++) {
            sum += (double)g[i] * (double)g[i];
        }
        for (int32_t i = 0; i < 64; i++) {
            int32_t row = picked[l * 64 + i] / m->hidden, col = picked[l * 64 + i] % m->hidden,
                    j = row % dim;
            if (m->rope[0].kind == TT_ROPE_INTERLEAVED) {
                row += 2 * (j % (dim / 2)) + j / (dim / 2) - j;
            }
            a[i] = g[(int64_t)row * m->hidden + col];
            b[i] = (float)want[l * 64 + i];
        }
        norm = fmax(norm, fabs(sqrt(sum) / norms[l] - 1.0));
        worst = fmax(worst, rig_angle(a, b, 64));
    }
    free(g);
    double want_loss = vec_f64(t.v, "span.loss");
    printf(
        "    span loss %.5f (PyTorch %.5f), of the layers' gradients worst 1 - cosine %.2g, norm "
        "%.2g %% off\n",
        loss, want_loss, worst, 100 * norm);
    assert_true(worst <= t.bar->angle);
    assert_true(norm <= t.bar->norm);
    assert_true(fabs(loss - want_loss) <= 0.005 * want_loss);
    tt_adapter_unref(&t.r.d, &param);
    tt_adapter_unref(&t.r.d, &grads);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: test_golden_real MODEL.gguf VECTORS.ttv full|q8|ref\n");
        return 2;
    }
    if (access(argv[1], R_OK) != 0) {
        printf("skip: %s is not there (\"make model\", \"make model-gemma\")\n", argv[1]);
        return RIG_SKIP;
    }
    for (size_t i = 0; i < sizeof bars / sizeof *bars; i++) {
        t.bar = strcmp(argv[3], bars[i].mode) == 0 ? &bars[i] : t.bar;
    }
    if (t.bar == NULL) {
        fprintf(stderr, "test_golden_real: no mode %s\n", argv[3]);
        return 2;
    }
    t.ref = t.bar->kv_type == TT_F32;
    t.v = vec_open(argv[2]);
    if (!t.v) {
        return 1;
    }
    rig_open(&t.r, argv[1], rig_table(t.ref ? "ref" : "auto"), t.bar->kv_type, 40);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text)};
    const struct CMUnitTest gradient[] = {cmocka_unit_test(test_span_gradient)};
    int failed = cmocka_run_group_tests_name(argv[3], tests, NULL, NULL);
    if (!t.ref) { /* the tiny models hold the reference kernels' gradients, and faster */
        failed += cmocka_run_group_tests_name("gradient", gradient, NULL, NULL);
    }
    rig_close(&t.r);
    vec_close(&t.v);
    return failed != 0;
}
