/* sampler.c - see sampler.h. */
#include "core/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

tt_code tt_sampler_init(tt_sampler *s, const tt_sampling *opt, int32_t n_vocab,
                        const int32_t *prompt, int32_t n_prompt, tt_err *reterr)
{
    *s = (tt_sampler){.opt = *opt, .rng = tt_rng_make(opt->seed, 0x73616D70), .n_vocab = n_vocab};
    s->work = malloc((size_t)n_vocab * sizeof *s->work);
    s->cand = malloc((size_t)n_vocab * sizeof *s->cand);
    s->count = calloc((size_t)n_vocab, sizeof *s->count);
    s->in_context = calloc((size_t)n_vocab, sizeof *s->in_context);
    if (s->work == NULL || s->cand == NULL || s->count == NULL || s->in_context == NULL) {
        tt_sampler_finish(s);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for sampling");
    }
    for (int32_t i = 0; i < n_prompt; i++) {
        s->in_context[prompt[i]] = 1;
    }
    return TT_OK;
}

void tt_sampler_finish(tt_sampler *s)
{
    free(s->work);
    free(s->cand);
    free(s->count);
    free(s->in_context);
    *s = (tt_sampler){0};
}

void tt_sampler_accept(tt_sampler *s, int32_t id)
{
    s->in_context[id] = 1;
    s->count[id] += s->count[id] < UINT16_MAX;
}

static void apply_penalties(tt_sampler *s)
{
    const tt_sampling *o = &s->opt;
    bool any = o->presence_penalty != 0 || o->frequency_penalty != 0;
    bool repeat = o->repetition_penalty > 0 && o->repetition_penalty != 1;
    for (int32_t i = 0; (any || repeat) && i < s->n_vocab; i++) {
        if (repeat && s->in_context[i]) {
            s->work[i] *= s->work[i] > 0 ? 1 / o->repetition_penalty : o->repetition_penalty;
        }
        if (any && s->count[i] > 0) {
            s->work[i] -= o->presence_penalty + o->frequency_penalty * (float)s->count[i];
        }
    }
}

static void adjust(tt_sampler *s, const float *logits, const int32_t *banned, int32_t n_banned)
{
    for (int32_t i = 0; i < s->n_vocab; i++) {
        s->work[i] = isnan(logits[i]) ? -INFINITY : logits[i];
    }
    for (int32_t i = 0; i < s->opt.n_bias; i++) {
        s->work[s->opt.bias[i].id] += s->opt.bias[i].bias;
    }
    apply_penalties(s);
    for (int32_t i = 0; i < n_banned; i++) {
        s->work[banned[i]] = -INFINITY;
    }
}

static int32_t arg_max(const float *x, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        best = x[i] > x[best] ? i : best;
    }
    return best;
}

/* The k-th largest of the candidates' p comes to position k - 1, larger ones before it
 * (quickselect, middle pivot: ties and sorted input stay linear enough; the order inside both parts
 * is arbitrary but deterministic). */
static void select_top(struct tt_candidate *c, int32_t n, int32_t k)
{
    int32_t lo = 0, hi = n - 1;
    while (lo < hi) {
        float pivot = c[lo + (hi - lo) / 2].p;
        int32_t i = lo, j = hi;
        while (i <= j) {
            while (c[i].p > pivot) {
                i++;
            }
            while (c[j].p < pivot) {
                j--;
            }
            if (i <= j) {
                struct tt_candidate t = c[i];
                c[i++] = c[j];
                c[j--] = t;
            }
        }
        if (k - 1 <= j) {
            hi = j;
        } else if (k - 1 >= i) {
            lo = i;
        } else {
            return;
        }
    }
}

static int by_falling_p(const void *a, const void *b)
{
    const struct tt_candidate *x = a, *y = b;
    if (x->p != y->p) {
        return x->p < y->p ? 1 : -1;
    }
    return (x->id > y->id) - (x->id < y->id);
}

/* Keeps the smallest set of likeliest candidates whose mass reaches top_p; returns how many. Sorts
 * ever larger heads instead of the whole: nearly always the first 64 suffice. */
static int32_t keep_top_p(struct tt_candidate *c, int32_t n, float top_p)
{
    double total = 0;
    for (int32_t i = 0; i < n; i++) {
        total += c[i].p;
    }
    for (int32_t head = 64;; head *= 8) {
        head = head < n && head > 0 ? head : n;
        select_top(c, n, head);
        qsort(c, (size_t)head, sizeof *c, by_falling_p);
        double mass = 0;
        for (int32_t i = 0; i < head; i++) {
            mass += c[i].p;
            if (mass >= (double)top_p * total) {
                return i + 1;
            }
        }
        if (head == n) {
            return n;
        }
    }
}

int32_t tt_sampler_draw(tt_sampler *s, const float *logits, const int32_t *banned, int32_t n_banned)
{
    const tt_sampling *o = &s->opt;
    adjust(s, logits, banned, n_banned);
    int32_t best = arg_max(s->work, s->n_vocab);
    if (!(s->work[best] > -INFINITY)) {
        for (int32_t i = 0; i < n_banned; i++) {
            best = best == banned[i] ? best + 1 : best; /* banned ids come in rising order */
        }
        return best < s->n_vocab ? best : s->n_vocab - 1;
    }
    if (o->temperature <= 0 || o->top_k == 1 || isinf(s->work[best])) {
        return best;
    }
    float max = s->work[best], floor = o->min_p > 0 ? o->min_p : 0;
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_vocab; i++) {
        float p = expf((s->work[i] - max) / o->temperature);
        if (p > 0) {
            s->cand[n++] = (struct tt_candidate){p, i};
        }
    }
    if (o->top_k > 0 && o->top_k < n) {
        select_top(s->cand, n, o->top_k);
        n = o->top_k;
    }
    if (o->top_p < 1) {
        n = keep_top_p(s->cand, n, o->top_p);
    }
    double total = 0;
    int32_t m = 0;
    for (int32_t i = 0; i < n; i++) {
        if (s->cand[i].p >= floor) {
            s->cand[m] = s->cand[i];
            total += s->cand[m++].p;
        }
    }
    double u = tt_rng_uniform(&s->rng) * total;
    for (int32_t i = 0; i < m; i++) {
        u -= s->cand[i].p;
        if (u < 0) {
            return s->cand[i].id;
        }
    }
    return m > 0 ? s->cand[m - 1].id : best;
}

float tt_logprobs(const float *logits, int32_t n_vocab, int32_t chosen, tt_logprob *top,
                  int32_t n_top)
{
    float max = -INFINITY;
    for (int32_t i = 0; i < n_vocab; i++) {
        max = logits[i] > max ? logits[i] : max;
    }
    double sum = 0;
    int32_t n = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        sum += exp((double)logits[i] - max);
        if (n_top == 0 || (n == n_top && !(logits[i] > top[n - 1].logprob))) {
            continue;
        }
        int32_t at = n < n_top ? n++ : n - 1;
        while (at > 0 && logits[i] > top[at - 1].logprob) {
            top[at] = top[at - 1];
            at--;
        }
        top[at] = (tt_logprob){i, logits[i]};
    }
    double lse = max + log(sum);
    for (int32_t i = 0; i < n; i++) {
        top[i].logprob = (float)(top[i].logprob - lse);
    }
    return (float)(logits[chosen] - lse);
}
