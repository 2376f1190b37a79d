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

static double forward(const tt_cost_rows *r)
{
    double count = 0;
    for (int i = 0; i < r->n_rows; i++) {
        count += i < r->n_logits ? product(V, H) : 0;
        for (int l = 0; l < L; l++) {
            bool kv_only = r->headless && l == L - 1;
            count += product(HEADS * DIM, H) + (r->kv ? 2 * product(KV_HEADS * DIM, H) : 0);
            count += kv_only ? 0
                             : product(H, HEADS * DIM) + 2 * product(F, H) + product(H, F) +
                                   attention(l, r->pos0 + i, 2);
        }
    }
    return count;
}

static void test_forward(void **state)
{
    layers[1].window = WINDOW;
    for (int pos = 0; pos < 8; pos++) {
        for (int n = 1; n < 9; n++) {
            tt_cost_rows r = {.pos0 = pos, .n_rows = n, .kv = true, .n_logits = 1};
            assert_true(tt_cost_forward(&model, &r) == forward(&r));
            r.kv = false;
            r.n_logits = n;
            assert_true(tt_cost_forward(&model, &r) == forward(&r));
            r = (tt_cost_rows){.pos0 = pos, .n_rows = n, .kv = true, .headless = true};
            assert_true(tt_cost_forward(&model, &r) == forward(&r));
        }
        tt_cost_rows one = {.pos0 = pos, .n_rows = 1, .kv = true, .n_logits = 1};
        assert_true(tt_cost_decode(&model, pos) == forward(&one));
    }
}

/* Of one row and layer: what the adapter adds to q. */
static double term(int rank)
{
    return rank > 0 ? product(rank, H) + product(HEADS * DIM, rank) : product(HEADS * DIM, H);
}

/* Backward: logits again and their product back; in every layer from the lowest trained one on
 * down, gate, up and wo back, attention's scores again, dP and dQ; the gradient of a trained
 * layer's adapter; above the lowest one W_Q and the adapter back. */
static double backward(const tt_cost_rows *r, unsigned trained, int rank)
{
    double count = 0;
    for (int i = 0; i < r->n_rows; i++) {
        count += 2 * product(V, H);
        for (int l = 0; l < L; l++) {
            bool has = trained >> l & 1, below = (trained & ((1u << l) - 1)) != 0;
            if (has || below) {
                count += 2 * product(F, H) + product(H, F) + product(H, HEADS * DIM) +
                         attention(l, r->pos0 + i, 3);
            }
            count += !has ? 0 : rank > 0 ? 2 * term(rank) : term(rank); /* x A^T, dq B again */
            count += below ? product(HEADS * DIM, H) + (has ? term(rank) : 0) : 0;
        }
    }
    return count;
}

static void test_training(void **state)
{
    layers[1].window = WINDOW;
    for (int pos = 0; pos < 8; pos += 3) {
        for (unsigned trained = 1; trained < 1u << L; trained++) {
            for (int rank = 0; rank < 3; rank += 2) {
                tt_adapter_layer tensors[L] = {0};
                for (int l = 0; l < L; l++) {
                    tensors[l].kind = rank > 0 ? TT_ADAPTER_LORA : TT_ADAPTER_FULL;
                    tensors[l].rank = rank;
                    *(rank > 0 ? &tensors[l].a : &tensors[l].d) =
                        trained >> l & 1; /* any address */
                }
                tt_adapter adapter = {.n_layers = L, .layers = tensors};
                tt_cost_rows r = {.pos0 = pos, .n_rows = 5, .n_logits = 5, .adapter = &adapter};
                double terms = 0;
                for (int l = 0; l < L; l++) {
                    terms += trained >> l & 1 ? 5 * term(rank) : 0;
                }
                assert_true(tt_cost_forward(&model, &r) == forward(&r) + terms);
                assert_true(tt_cost_backward(&model, &r) == backward(&r, trained, rank));
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward),
                                       cmocka_unit_test(test_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
