/* cost.c - see cost.h. */
#include "core/cost.h"

static double keys_seen(const tt_layer *l, int32_t pos)
{
    return l->window > 0 && pos + 1 > l->window ? l->window : pos + 1;
}

static double head_flops(const tt_model *m)
{
    return 2.0 * m->n_vocab * m->hidden;
}

static double mlp_flops(const tt_model *m)
{
    return 6.0 * m->hidden * m->ffn;
}

double tt_cost_row(const tt_model *m, int32_t pos, bool kv, bool head)
{
    double nq = (double)m->n_heads * m->head_dim, nk = (double)m->n_kv_heads * m->head_dim;
    double sum = head ? head_flops(m) : 0;
    for (int32_t i = 0; i < m->n_layers; i++) {
        sum += 4.0 * m->hidden * nq + (kv ? 4.0 * m->hidden * nk : 0) + mlp_flops(m);
        sum += 4.0 * nq * keys_seen(&m->layers[i], pos);
    }
    return sum;
}

double tt_cost_train_row(const tt_model *m, int32_t pos, bool kv, int32_t first_layer,
                         int32_t lora_rank)
{
    double nq = (double)m->n_heads * m->head_dim;
    double sum = tt_cost_row(m, pos, kv, true) +
                 2 * head_flops(m); /* logits again, and their product back */
    double adapter = lora_rank > 0 ? 2.0 * lora_rank * (m->hidden + nq) : 2.0 * nq * m->hidden;
    for (int32_t i = first_layer; i < m->n_layers; i++) {
        sum += mlp_flops(m) + 2.0 * m->hidden * nq;      /* down, gate, up, wo back */
        sum += 6.0 * nq * keys_seen(&m->layers[i], pos); /* scores again, dP, dQ */
        sum += (lora_rank > 0 ? 3 : 2) * adapter;        /* forward term and gradient */
        if (i > first_layer) {
            sum += 2.0 * m->hidden * nq + adapter; /* W_Q and the adapter back */
        }
    }
    return sum;
}

double tt_cost_decode(const tt_model *m, int32_t depth)
{
    return tt_cost_row(m, depth, true, true);
}
