/* diagnose.c - see diagnose.h. A layer's K is copied to the host in blocks of pages, so that the
 * memory taken is bounded by the scores, [n_heads, keys] doubles, and others decode in between. */
#include "core/diagnose.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/step_priv.h"
#include "core/sysinfo.h"
#include "core/task.h"

#define BLOCK_PAGES 32 /* of K, on the host at a time */
#define LANES 8

/* ---- the numbers of one head ---- */

/* log(sum of exp(z[i])) over i in [0, n) but `skip`, relative to `max`; -INFINITY of nothing. */
static double log_sum(const double *z, int32_t n, int32_t skip, double max)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += i == skip ? 0 : exp(z[i] - max);
    }
    return max + log(sum);
}

static double largest(const double *z, int32_t n, int32_t skip)
{
    double max = -INFINITY;
    for (int32_t i = 0; i < n; i++) {
        max = i != skip && z[i] > max ? z[i] : max;
    }
    return max;
}

void tt_diagnose_scores(const double *z, int32_t first, int32_t n, const tt_diagnose_params *p,
                        tt_head_diagnosis *ret)
{
    assert(n >= 1);
    int32_t lo = p->needle_start - first, hi = p->needle_end - first, best = -1;
    lo = lo < 0 ? 0 : lo;
    hi = hi > n ? n : hi;
    double lse = log_sum(z, n, -1, largest(z, n, -1)), rival = -INFINITY;
    *ret = (tt_head_diagnosis){.n_keys = n, .best = -1, .margin = NAN, .gap = NAN};
    ret->sink_mass = first == 0 ? exp(z[0] - lse) : 0;
    ret->required = log((n - 1) * (1 - p->epsilon) / p->epsilon);
    for (int32_t i = lo; i < hi; i++) {
        best = best < 0 || z[i] > z[best] ? i : best;
        ret->needle_mass += exp(z[i] - lse);
    }
    if (best < 0) {
        return; /* the window has passed it */
    }
    for (int32_t i = 0; i < n; i++) {
        bool outside = i < lo || i >= hi;
        ret->near_ties += outside && z[i] >= z[best] - p->delta;
        rival = outside && z[i] > rival ? z[i] : rival;
    }
    double others = largest(z, n, best);
    ret->best = first + best;
    ret->margin = n > 1 ? z[best] - log_sum(z, n, best, others) : INFINITY;
    ret->gap = z[best] - rival;
}

/* ---- one layer ---- */

/* What a layer's scores are made of; [0, n_keys) are positions first .. pos. */
struct tt_diagnose_scan {
    tt_device *d; /* borrowed */
    const tt_kv_layer *kv;
    int32_t n_heads, first, pos;
    int32_t page, head; /* that come next */
    double scale;
    float *q32;     /* owned [n_heads, head_dim] as it comes from the device */
    double *q;      /* owned: the same */
    double *key;    /* owned [head_dim] */
    void *k;        /* owned [BLOCK_PAGES, n_kv_heads, 64, head_dim] */
    float *k_scale; /* owned [BLOCK_PAGES, n_kv_heads, 64] of TT_I8 */
    double *z;      /* owned [n_heads, n_keys] */
};

/* l->key = row `row` of K as doubles. */
static void widen(tt_diagnose_scan *l, size_t row)
{
    size_t n = (size_t)l->kv->head_dim;
    double *y = l->key;
    for (size_t i = 0; i < n; i++) {
        switch (l->kv->type) {
        case TT_F32:
            y[i] = ((const float *)l->k)[row * n + i];
            break;
        case TT_I8:
            y[i] = l->k_scale[row] * (float)((const int8_t *)l->k)[row * n + i];
            break;
        default:
            y[i] = tt_bf16_to_f32(((const uint16_t *)l->k)[row * n + i]);
        }
    }
}

/* LANES sums side by side, which compilers turn into vectors; the order is fixed all the same. */
static double dot(const double *q, const double *k, int32_t n)
{
    double sum[LANES] = {0}, all = 0;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int32_t j = 0; j < LANES; j++) {
            sum[j] += q[i + j] * k[i + j];
        }
    }
    for (; i < n; i++) {
        all += q[i] * k[i];
    }
    for (int32_t j = 0; j < LANES; j++) {
        all += sum[j];
    }
    return all;
}

/* Scores of the keys that lie in pages [page, page + n_pages), which are in l->k. A key serves all
 * query heads of its group. */
static void score_block(tt_diagnose_scan *l, int32_t page, int32_t n_pages)
{
    const tt_kv_layer *kv = l->kv;
    int32_t from = page * TT_PAGE_TOKENS, to = from + n_pages * TT_PAGE_TOKENS;
    int32_t n_keys = l->pos + 1 - l->first, dim = kv->head_dim;
    int32_t group = l->n_heads / kv->n_kv_heads;
    from = from < l->first ? l->first : from;
    to = to > l->pos + 1 ? l->pos + 1 : to;
    for (int32_t kv_head = 0; kv_head < kv->n_kv_heads; kv_head++) {
        for (int32_t p = from; p < to; p++) {
            size_t row =
                ((size_t)(p / TT_PAGE_TOKENS - page) * (size_t)kv->n_kv_heads + (size_t)kv_head) *
                    TT_PAGE_TOKENS +
                (size_t)(p % TT_PAGE_TOKENS);
            widen(l, row);
            for (int32_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
                l->z[(size_t)h * (size_t)n_keys + (size_t)(p - l->first)] =
                    l->scale * dot(l->q + (size_t)h * (size_t)dim, l->key, dim);
            }
        }
    }
}

/* The scores of the next block of pages. */
static tt_code score_some(tt_diagnose_scan *l, const int32_t *pages, tt_err *reterr)
{
    const tt_kv_layer *kv = l->kv;
    const tt_ops *ops = &l->d->ops;
    size_t n_rows = (size_t)kv->n_kv_heads * TT_PAGE_TOKENS;
    size_t bytes = n_rows * (size_t)kv->head_dim * (size_t)tt_dtypes[kv->type].block_bytes;
    int32_t rest = l->pos / TT_PAGE_TOKENS - l->page + 1;
    int32_t n = rest < BLOCK_PAGES ? rest : BLOCK_PAGES;
    for (int32_t i = 0; i < n; i++) {
        int64_t at = (int64_t)pages[l->page + i];
        ops->download(l->d->lane, (char *)l->k + (size_t)i * bytes,
                      kv->k + (size_t)at * (size_t)kv->page_stride, bytes);
        if (kv->type == TT_I8) {
            ops->download(l->d->lane, l->k_scale + (size_t)i * n_rows,
                          kv->k_scale + (size_t)at * (size_t)kv->page_stride,
                          n_rows * sizeof *l->k_scale);
        }
    }
    tt_code rc = tt_device_sync(l->d, reterr);
    if (rc == TT_OK) {
        score_block(l, l->page, n);
        l->page += n;
    }
    return rc;
}

static bool make_room(tt_diagnose_scan *l, const tt_model *m)
{
    size_t n_keys = (size_t)(l->pos + 1 - l->first), n_heads = (size_t)m->n_heads;
    size_t row_bytes = (size_t)m->head_dim * (size_t)tt_dtypes[l->kv->type].block_bytes;
    size_t block_rows = (size_t)BLOCK_PAGES * (size_t)m->n_kv_heads * TT_PAGE_TOKENS;
    l->q32 = malloc(n_heads * (size_t)m->head_dim * sizeof *l->q32);
    l->q = malloc(n_heads * (size_t)m->head_dim * sizeof *l->q);
    l->key = malloc((size_t)m->head_dim * sizeof *l->key);
    l->k = malloc(block_rows * row_bytes);
    l->k_scale = malloc(block_rows * sizeof *l->k_scale);
    l->z = malloc(n_heads * n_keys * sizeof *l->z);
    return l->q32 != NULL && l->q != NULL && l->key != NULL && l->k != NULL && l->k_scale != NULL &&
           l->z != NULL;
}

tt_code tt_diagnose_begin(const tt_step *step, int32_t layer, int32_t pos, tt_diagnose_scan **ret,
                          tt_err *reterr)
{
    const tt_model *m = step->d->model;
    int32_t window = m->layers[layer].window;
    size_t n_q = (size_t)m->n_heads * (size_t)m->head_dim;
    tt_diagnose_scan *l = calloc(1, sizeof *l);
    assert(step->n_rows == 1 && step->opt.trainee == NULL);
    if (l != NULL) {
        l->d = step->d;
        l->kv = tt_kv_layer_of(step->kv, layer);
        l->n_heads = m->n_heads;
        l->pos = pos;
        l->first = window > 0 && pos + 1 > window ? pos + 1 - window : 0;
        l->page = l->first / TT_PAGE_TOKENS;
        l->scale = m->attn_scale;
    }
    if (l == NULL || !make_room(l, m)) {
        tt_diagnose_end(&l);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for diagnostics");
    }
    l->d->ops.download(l->d->lane, l->q32, tt_step_queries(step), n_q * sizeof *l->q32);
    tt_code rc = tt_device_sync(l->d, reterr);
    if (rc != TT_OK) {
        tt_diagnose_end(&l);
        return rc;
    }
    for (size_t i = 0; i < n_q; i++) {
        l->q[i] = l->q32[i];
    }
    *ret = l;
    return TT_OK;
}

tt_code tt_diagnose_some(tt_diagnose_scan *l, const int32_t *pages, const tt_diagnose_params *p,
                         double until, tt_head_diagnosis *ret_heads, tt_err *reterr)
{
    int32_t n_keys = l->pos + 1 - l->first;
    while (l->head < l->n_heads) {
        if (l->page <= l->pos / TT_PAGE_TOKENS) {
            tt_code rc = score_some(l, pages, reterr);
            if (rc != TT_OK) {
                return rc;
            }
        } else {
            tt_diagnose_scores(l->z + (size_t)l->head * (size_t)n_keys, l->first, n_keys, p,
                               &ret_heads[l->head]);
            l->head++;
        }
        if (l->head < l->n_heads && tt_sys_now() >= until) {
            return (tt_code)TT_DIAGNOSE_MORE;
        }
    }
    return TT_OK;
}

void tt_diagnose_end(tt_diagnose_scan **scan)
{
    tt_diagnose_scan *l = *scan;
    *scan = NULL;
    if (l != NULL) {
        free(l->q32);
        free(l->q);
        free(l->key);
        free(l->k);
        free(l->k_scale);
        free(l->z);
        free(l);
    }
}

tt_code tt_diagnose_layer(const tt_step *step, int32_t layer, const int32_t *pages, int32_t pos,
                          const tt_diagnose_params *p, tt_head_diagnosis *ret_heads, tt_err *reterr)
{
    tt_diagnose_scan *scan;
    tt_code rc = tt_diagnose_begin(step, layer, pos, &scan, reterr);
    if (rc == TT_OK) {
        rc = tt_diagnose_some(scan, pages, p, INFINITY, ret_heads, reterr);
        tt_diagnose_end(&scan);
    }
    return rc;
}

/* ---- as a task ---- */

/* The prompt's last row is run once more, alone: its K are there. */
static tt_code begin(tt_worker *w, tt_task *t, tt_err *reterr)
{
    int32_t pos = t->seq.n - 1;
    size_t n = (size_t)w->model->n_layers * (size_t)w->model->n_heads;
    tt_segment seg = {.ids = t->ids + pos,
                      .n_rows = 1,
                      .pos0 = pos,
                      .pages = t->seq.pages,
                      .adapter = pos >= t->n_base ? t->adapter : NULL};
    tt_family family = t->decoded[pos] ? TT_DECODE : TT_PREFILL;
    if (t->r.diagnosis == NULL) {
        t->r.diagnosis = tt_task_event(TT_EV_DIAGNOSIS, n * sizeof(tt_head_diagnosis), reterr);
    }
    if (t->r.diagnosis == NULL) {
        return TT_E_NOMEM;
    }
    tt_diagnose_end(&t->r.scan); /* of before it gave way */
    tt_code rc = tt_step_begin(w->step, &seg, 1, &(tt_step_options){.family = family}, reterr);
    if (rc == TT_OK) {
        w->step_owner = t;
        t->sched.mid_step = true;
        t->r.diagnosed = 0;
    }
    return rc;
}

static void finish(tt_worker *w, tt_task *t)
{
    tt_event *ev = t->r.diagnosis;
    w->step_owner = NULL;
    t->sched.mid_step = false;
    t->r.diagnosis = NULL;
    ev->u.diagnosis.n_layers = w->model->n_layers;
    ev->u.diagnosis.n_heads = w->model->n_heads;
    ev->u.diagnosis.heads = ev->owned;
    tt_job_push(t->job, ev);
}

/* The next piece of the layer that is under way, or of the next one. */
static tt_code run_layer(tt_worker *w, tt_task *t, double until, tt_err *reterr)
{
    tt_head_diagnosis *heads = t->r.diagnosis->owned;
    int32_t layer = t->r.diagnosed;
    tt_code rc = TT_OK;
    if (t->r.scan == NULL) {
        rc = tt_step_run(w->step, 1, reterr);
        rc = rc < 0 ? rc : tt_diagnose_begin(w->step, layer, t->seq.n - 1, &t->r.scan, reterr);
    }
    if (rc == TT_OK) {
        rc = tt_diagnose_some(t->r.scan, t->seq.pages, &t->p->diagnose, until,
                              heads + (size_t)layer * (size_t)w->model->n_heads, reterr);
    }
    if (rc != (tt_code)TT_DIAGNOSE_MORE) {
        tt_diagnose_end(&t->r.scan);
        t->r.diagnosed++;
    }
    return rc;
}

tt_code tt_diagnose_run(tt_worker *w, tt_task *t, double until, tt_err *reterr)
{
    const tt_model *m = w->model;
    tt_code rc = w->step_owner == t ? TT_OK : begin(w, t, reterr);
    while (rc == TT_OK && t->r.diagnosed < m->n_layers) {
        rc = run_layer(w, t, until, reterr);
        if (rc >= 0 && tt_job_cancelled(t->job)) {
            return tt_task_cancelled(reterr);
        }
        if (rc == (tt_code)TT_DIAGNOSE_MORE ||
            (rc == TT_OK && t->r.diagnosed < m->n_layers && tt_sys_now() >= until)) {
            return (tt_code)TT_TASK_MORE;
        }
    }
    if (rc == TT_OK) {
        finish(w, t);
    }
    return rc;
}
