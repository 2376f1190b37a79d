/* trainer.c - see trainer.h. */
#include "core/trainer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"

struct tt_trainer {
    tt_device *d;
    tt_qttt_params opt;
    tt_adapter *param, *grad, *m, *v;
    tt_optim_tensor *tensors; /* owned [n_tensors] */
    int32_t n_tensors, step;
    tt_dev block; /* all below; the device's arena or owned */
    bool in_arena;
    tt_dev state;  /* tt_train_state, then f64 [n_layers][2] of delta_norm */
    double *norms; /* owned, host [n_layers][2] */
};

static tt_adapter_shape shape_of(const tt_qttt_params *p)
{
    return (tt_adapter_shape){.kind = p->lora ? TT_ADAPTER_LORA : TT_ADAPTER_FULL,
                              .type = TT_F32,
                              .rank = p->lora ? p->rank : 0,
                              .scale = p->lora ? p->lora_alpha / (float)p->rank : 1.0f,
                              .layers = p->layers};
}

static size_t state_bytes(const tt_model *m)
{
    return sizeof(tt_train_state) + (size_t)m->n_layers * 2 * sizeof(double);
}

size_t tt_trainer_bytes(const tt_model *m, const tt_qttt_params *p)
{
    tt_adapter_shape shape = shape_of(p);
    return tt_adapter_bytes(m, &shape) * (p->sgd ? 2 : 4) + state_bytes(m);
}

/* The device's arena when no other training has it, grown if need be; else memory of its own. */
static tt_code take_block(tt_trainer *t, size_t n, tt_err *reterr)
{
    tt_device *d = t->d;
    if (d->arena_taken) {
        return tt_device_alloc(d, n, &t->block, reterr);
    }
    if (d->arena_bytes < n) {
        d->ops.free(d->lane, d->arena);
        d->arena = 0;
        d->arena_bytes = 0;
        tt_code rc = tt_device_alloc(d, n, &d->arena, reterr);
        if (rc != TT_OK) {
            return rc;
        }
        d->arena_bytes = n;
    }
    t->block = d->arena;
    t->in_arena = d->arena_taken = true;
    return TT_OK;
}

static void give_block(tt_trainer *t)
{
    if (t->in_arena) {
        t->d->arena_taken = false;
    } else {
        t->d->ops.free(t->d->lane, t->block);
    }
}

/* A's rows are the unit-variance directions that B mixes; B = 0 makes the first forward pass the
 * base's. */
static tt_code init_lora(tt_trainer *t, uint64_t context_hash, tt_err *reterr)
{
    size_t n = (size_t)t->opt.rank * (size_t)t->d->model->hidden;
    float *a = malloc(n * sizeof *a);
    if (a == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory to draw LoRA's A");
    }
    tt_rng rng = tt_rng_make(t->opt.seed ^ context_hash, 0x6C6F7261);
    double sd = 1.0 / sqrt((double)t->d->model->hidden);
    for (int32_t l = 0; l < t->param->n_layers; l++) {
        for (size_t i = 0; i < n; i++) {
            a[i] = (float)(tt_rng_normal(&rng) *
                           sd); /* drawn for every layer: a subset sees the same numbers */
        }
        if (tt_adapter_has(t->param, l)) {
            t->d->ops.upload(t->d->lane, t->param->layers[l].a, a, n * sizeof *a);
        }
    }
    free(a);
    return TT_OK;
}

static void list_tensors(tt_trainer *t)
{
    int64_t n[2];
    tt_adapter_sizes(t->d->model, t->opt.lora ? TT_ADAPTER_LORA : TT_ADAPTER_FULL, t->opt.rank, n);
    for (int32_t l = 0; l < t->param->n_layers; l++) {
        const tt_adapter_layer *p = &t->param->layers[l], *g = &t->grad->layers[l];
        const tt_adapter_layer *m = t->m != NULL ? &t->m->layers[l] : NULL;
        const tt_adapter_layer *v = t->v != NULL ? &t->v->layers[l] : NULL;
        if (!tt_adapter_has(t->param, l)) {
            continue;
        }
        tt_optim_tensor *x = &t->tensors[t->n_tensors];
        if (!t->opt.lora) {
            *x = (tt_optim_tensor){.g = g->d,
                                   .d = p->d,
                                   .m = m != NULL ? m->d : 0,
                                   .v = v != NULL ? v->d : 0,
                                   .w = &t->d->model->layers[l].wq.w,
                                   .n = n[0]};
            t->n_tensors++;
            continue;
        }
        x[0] = (tt_optim_tensor){
            .g = g->a, .d = p->a, .m = m != NULL ? m->a : 0, .v = v != NULL ? v->a : 0, .n = n[0]};
        x[1] = (tt_optim_tensor){
            .g = g->b, .d = p->b, .m = m != NULL ? m->b : 0, .v = v != NULL ? v->b : 0, .n = n[1]};
        t->n_tensors += 2;
    }
}

tt_code tt_trainer_create(tt_device *d, const tt_qttt_params *params, uint64_t context_hash,
                          tt_trainer **ret_trainer, tt_err *reterr)
{
    size_t n_layers = (size_t)d->model->n_layers;
    tt_trainer *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an adaptation");
    }
    *t = (tt_trainer){.d = d, .opt = *params};
    t->tensors = calloc(2 * n_layers, sizeof *t->tensors);
    t->norms = calloc(2 * n_layers, sizeof *t->norms);
    tt_code rc = TT_OK;
    if (t->tensors == NULL || t->norms == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for an adaptation");
    }
    rc = rc == TT_OK ? take_block(t, tt_trainer_bytes(d->model, params), reterr) : rc;
    tt_adapter_shape shape = shape_of(params);
    tt_adapter **all[] = {&t->param, &t->grad, &t->m, &t->v};
    shape.place = t->block;
    for (int i = 0; rc == TT_OK && i < (params->sgd ? 2 : 4); i++) {
        rc = tt_adapter_create(d, &shape, all[i], reterr);
        shape.place += tt_adapter_bytes(d->model, &shape);
    }
    if (rc == TT_OK) {
        t->state = shape.place;
        d->ops.zero(d->lane, t->state, state_bytes(d->model));
    }
    if (rc == TT_OK && params->lora) {
        rc = init_lora(t, context_hash, reterr);
    }
    if (rc != TT_OK) {
        tt_trainer_destroy(&t);
        return rc;
    }
    list_tensors(t);
    *ret_trainer = t;
    return TT_OK;
}

void tt_trainer_destroy(tt_trainer **trainer)
{
    tt_trainer *t = *trainer;
    *trainer = NULL;
    if (t == NULL) {
        return;
    }
    tt_adapter_unref(t->d, &t->param);
    tt_adapter_unref(t->d, &t->grad);
    tt_adapter_unref(t->d, &t->m);
    tt_adapter_unref(t->d, &t->v);
    give_block(t);
    free(t->tensors);
    free(t->norms);
    free(t);
}

const tt_adapter *tt_trainer_params(const tt_trainer *t)
{
    return t->param;
}

const tt_adapter *tt_trainer_grads(const tt_trainer *t)
{
    return t->grad;
}

static tt_dev norm_slot(const tt_trainer *t, int32_t layer)
{
    return t->state + sizeof(tt_train_state) + (size_t)layer * 2 * sizeof(double);
}

/* Queues the norms of every adapted layer and their download; valid after the next sync. */
static void queue_norms(tt_trainer *t, const tt_adapter *a)
{
    for (int32_t l = 0; l < a->n_layers; l++) {
        if (tt_adapter_has(a, l)) {
            t->d->ops.delta_norm(t->d->lane,
                                 &(tt_delta_norm_args){.layer = a->layers[l],
                                                       .w = &t->d->model->layers[l].wq.w,
                                                       .out = norm_slot(t, l)});
        }
    }
    t->d->ops.download(t->d->lane, t->norms, norm_slot(t, 0),
                       (size_t)a->n_layers * 2 * sizeof(double));
}

static double largest_norm(const tt_trainer *t, const tt_adapter *a)
{
    double largest = 0;
    for (int32_t l = 0; l < a->n_layers; l++) {
        if (tt_adapter_has(a, l)) {
            double d = sqrt(t->norms[2 * l]), w = sqrt(t->norms[2 * l + 1]);
            double ratio = d == 0 ? 0 : d / w;
            largest = ratio > largest || isnan(ratio) ? ratio : largest;
        }
    }
    return largest;
}

tt_code tt_trainer_update(tt_trainer *t, const tt_step *step, bool want_norm,
                          tt_train_report *ret_report, tt_err *reterr)
{
    tt_optim_args a = {.state = t->state,
                       .t = t->tensors,
                       .n_tensors = t->n_tensors,
                       .kind = t->opt.sgd ? TT_SGD : TT_ADAMW,
                       .step = ++t->step,
                       .lr = (float)t->opt.learning_rate,
                       .beta1 = t->opt.beta1,
                       .beta2 = t->opt.beta2,
                       .eps = t->opt.adam_eps,
                       .weight_decay = t->opt.weight_decay,
                       .clip = t->opt.grad_clip};
    tt_step_loss_dev(step, &a.row_loss, &a.row_weight, &a.n_rows);
    t->d->ops.optim_begin(t->d->lane, &a);
    t->d->ops.optim_step(t->d->lane, &a);
    tt_train_state state;
    t->d->ops.download(t->d->lane, &state, t->state, sizeof state);
    if (want_norm) {
        queue_norms(t, t->param);
    }
    tt_code rc = tt_device_sync(t->d, reterr);
    if (rc == TT_OK) {
        *ret_report = (tt_train_report){.loss = state.loss,
                                        .grad_norm = sqrt(state.grad_sq),
                                        .finite = state.finite != 0,
                                        .delta_norm = want_norm ? largest_norm(t, t->param) : 0};
    }
    return rc;
}

tt_code tt_trainer_delta_norm(tt_trainer *t, const tt_adapter *a, double *ret_norm, tt_err *reterr)
{
    queue_norms(t, a);
    tt_code rc = tt_device_sync(t->d, reterr);
    if (rc == TT_OK) {
        *ret_norm = largest_norm(t, a);
    }
    return rc;
}

void tt_trainer_set(tt_trainer *t, int32_t layer, const float *d_or_a, const float *b)
{
    const tt_adapter_layer *l = &t->param->layers[layer];
    int64_t n[2];
    tt_adapter_sizes(t->d->model, l->kind, l->rank, n);
    t->d->ops.upload(t->d->lane, l->kind == TT_ADAPTER_FULL ? l->d : l->a, d_or_a,
                     (size_t)n[0] * sizeof(float));
    if (b != NULL) {
        t->d->ops.upload(t->d->lane, l->b, b, (size_t)n[1] * sizeof(float));
    }
}

/* Tensors of one layer, BF16 on the device, to FP32 on the device, by way of the host. */
static tt_code widen(tt_trainer *t, tt_dev src, tt_dev dst, int64_t n, tt_err *reterr)
{
    if (n == 0) {
        return TT_OK;
    }
    uint16_t *half = malloc((size_t)n * sizeof *half);
    float *full = malloc((size_t)n * sizeof *full);
    tt_code rc = half == NULL || full == NULL
                     ? tt_fail(reterr, TT_E_NOMEM, "no memory for an adaptation")
                     : TT_OK;
    if (rc == TT_OK) {
        t->d->ops.download(t->d->lane, half, src, (size_t)n * sizeof *half);
        rc = tt_device_sync(t->d, reterr);
    }
    for (int64_t i = 0; rc == TT_OK && i < n; i++) {
        full[i] = tt_bf16_to_f32(half[i]);
    }
    if (rc == TT_OK) {
        t->d->ops.upload(t->d->lane, dst, full, (size_t)n * sizeof *full);
        rc = tt_device_sync(t->d, reterr);
    }
    free(half);
    free(full);
    return rc;
}

tt_code tt_trainer_start_from(tt_trainer *t, const tt_adapter *a, tt_err *reterr)
{
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < a->n_layers; i++) {
        if (!tt_adapter_has(t->param, i)) {
            continue;
        }
        const tt_adapter_layer *src = &a->layers[i], *dst = &t->param->layers[i];
        assert(src->kind == dst->kind && src->rank == dst->rank && src->type == TT_BF16);
        int64_t n[2];
        tt_adapter_sizes(t->d->model, src->kind, src->rank, n);
        bool full = src->kind == TT_ADAPTER_FULL;
        rc = widen(t, full ? src->d : src->a, full ? dst->d : dst->a, n[0], reterr);
        rc = rc == TT_OK && !full ? widen(t, src->b, dst->b, n[1], reterr) : rc;
    }
    return rc;
}
