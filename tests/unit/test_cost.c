/* test_cost.c - the FLOP formulas of docs/qttt.md against a count of every multiply-add of a small
 * model, product by product. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cost.h"

enum { H = 12, HEADS = 4, KV_HEADS = 2, DIM = 5, F = 20, V = 37, L = 3, WINDOW = 4 };

static tt_layer layers[L];
static tt_model model = {.n_layers = L,
                         .hidden = H,
                         .n_heads = HEADS,
                         .n_kv_heads = KV_HEADS,
                         .head_dim = DIM,
                         .ffn = F,
                         .n_vocab = V,
                         .layers = layers};

/* Multiply-adds of y[n] = W[n, k] x[k], counted one by one. */
static double product(int n, int k)
{
    double count = 0;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < k; j++) {
            count += 2;
        }
    }
    return count;
}

/* Per head: one dot product and one scaled sum over every visible key. */
static double attention(int layer, int pos, int products_per_key)
{
    double count = 0;
    for (int head = 0; head < HEADS; head++) {
        for (int key = 0; key <= pos; key++) {
            if (layers[layer].window == 0 || key > pos - layers[layer].window) {
                count += products_per_key * 2.0 * DIM;
            }
        }
    }
    return count;
}

static double forward(int pos, bool kv, bool head)
{
    double count = head ? product(V, H) : 0;
    for (int l = 0; l < L; l++) {
        count +=
            product(HEADS * DIM, H) + product(H, HEADS * DIM) + 2 * product(F, H) + product(H, F);
        count += kv ? 2 * product(KV_HEADS * DIM, H) : 0;
        count += attention(l, pos, 2);
    }
    return count;
}

static void test_forward(void **state)
{
    layers[1].window = WINDOW;
    for (int pos = 0; pos < 12; pos++) {
        assert_true(tt_cost_row(&model, pos, true, true) == forward(pos, true, true));
        assert_true(tt_cost_row(&model, pos, false, true) == forward(pos, false, true));
        assert_true(tt_cost_row(&model, pos, true, false) == forward(pos, true, false));
        assert_true(tt_cost_decode(&model, pos) == forward(pos, true, true));
    }
}

/* Backward: logits again and their product back; in every layer from `first` on down, gate, up and
 * wo back, attention's scores again, dP and dQ; the adapter's term, its gradient, and above `first`
 * W_Q and the adapter back. */
static double train(int pos, int first, int rank)
{
    double count = forward(pos, false, true) + 2 * product(V, H);
    double adapter =
        rank > 0 ? product(rank, H) + product(HEADS * DIM, rank) : product(HEADS * DIM, H);
    for (int l = first; l < L; l++) {
        count += 2 * product(F, H) + product(H, F) + product(H, HEADS * DIM) + attention(l, pos, 3);
        count += adapter;                          /* q += */
        count += rank > 0 ? 2 * adapter : adapter; /* gradient: LoRA needs x A^T and dq B again */
        count += l > first ? product(HEADS * DIM, H) + adapter : 0;
    }
    return count;
}

static void test_training(void **state)
{
    layers[1].window = WINDOW;
    for (int pos = 0; pos < 12; pos += 3) {
        for (int first = 0; first < L; first++) {
            assert_true(tt_cost_train_row(&model, pos, false, first, 0) == train(pos, first, 0));
            assert_true(tt_cost_train_row(&model, pos, false, first, 2) == train(pos, first, 2));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward),
                                       cmocka_unit_test(test_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
