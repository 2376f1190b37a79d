/* cost.c - see cost.h. Sums are of whole numbers below 2^53: exact. */
#include "core/cost.h"

#include <assert.h>

/* Keys that the rows of a layer see, together: row at position p sees min(p + 1, window). */
static double keys_seen(const tt_layer *l, const tt_cost_rows *r)
{
    double first = r->pos0 + 1.0, last = r->pos0 + (double)r->n_rows;
    if (l->window <= 0 || last <= l->window) {
        return (first + last) * r->n_rows / 2;
    }
    if (first > l->window) {
        return (double)l->window * r->n_rows;
    }
    double n_rising = l->window - first + 1; /* rows that see less than the window, and the first
                                                that sees all of it */
    return (first + l->window) * n_rising / 2 + l->window * (r->n_rows - n_rising);
}

/* y = W x for one row. */
static double product(double rows, double cols)
{
    return 2 * rows * cols;
}

/* The adapter's term of one row in one layer; its gradient and its transpose cost multiples. */
static double adapter_term(const tt_model *m, const tt_adapter *a, int32_t layer)
{
    double nq = (double)m->n_heads * m->head_dim;
    if (!tt_adapter_has(a, layer)) {
        return 0;
    }
    const tt_adapter_layer *l = &a->layers[layer];
    return l->kind == TT_ADAPTER_FULL ? product(nq, m->hidden)
                                      : product(l->rank, m->hidden) + product(nq, l->rank);
}

double tt_cost_forward(const tt_model *m, const tt_cost_rows *r)
{
    double nq = (double)m->n_heads * m->head_dim, nk = (double)m->n_kv_heads * m->head_dim;
    double sum = r->n_logits * product(m->n_vocab, m->hidden);
    for (int32_t i = 0; i < m->n_layers; i++) {
        double row = product(nq, m->hidden) + adapter_term(m, r->adapter, i);
        row += r->kv ? 2 * product(nk, m->hidden) : 0;
        if (r->headless && i + 1 == m->n_layers) {
            sum += r->n_rows * row;
            continue;
        }
        row += product(m->hidden, nq) + 3 * product(m->ffn, m->hidden);
        sum += r->n_rows * row + 2 * product(nq, 1) * keys_seen(&m->layers[i], r);
    }
    return sum;
}

double tt_cost_backward(const tt_model *m, const tt_cost_rows *r)
{
    assert(r->n_logits == r->n_rows && !r->headless);
    double nq = (double)m->n_heads * m->head_dim;
    double sum = r->n_rows * 2 * product(m->n_vocab, m->hidden); /* logits again, and back */
    bool below = false; /* a layer further down is trained */
    for (int32_t i = 0; i < m->n_layers; i++) {
        bool trained = tt_adapter_has(r->adapter, i);
        if (!trained && !below) {
            continue;
        }
        bool full = !trained || r->adapter->layers[i].kind == TT_ADAPTER_FULL;
        double term = adapter_term(m, r->adapter, i);
        double row = 3 * product(m->ffn, m->hidden) + product(m->hidden, nq);
        row += (full ? 1 : 2) * term; /* the gradient; of LoRA x A^T and dq B come first */
        row += below ? product(nq, m->hidden) + term : 0;
        sum += r->n_rows * row;
        sum += 3 * product(nq, 1) * keys_seen(&m->layers[i], r); /* scores again, dP, dQ */
        below = true;
    }
    return sum;
}

double tt_cost_decode(const tt_model *m, int32_t depth)
{
    return tt_cost_forward(m,
                           &(tt_cost_rows){.pos0 = depth, .n_rows = 1, .kv = true, .n_logits = 1});
}
