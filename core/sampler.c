/* sampler.c - see sampler.h. */
#include "core/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"

static bool repeats(const tt_sampling *o)
{
    return o->repetition_penalty > 0 && o->repetition_penalty != 1;
}

static bool counts(const tt_sampling *o)
{
    return o->presence_penalty != 0 || o->frequency_penalty != 0;
}

/* The index of an id's adjustment, which it may get here. */
static int32_t place_of(tt_sampler *s, int32_t id)
{
    if (s->places[id] == 0) {
        s->adjusts[s->n_adjusts] = (tt_logit_adjust){.id = id, .repetition = 1};
        s->counts[s->n_adjusts] = 0;
        s->places[id] = ++s->n_adjusts;
    }
    return s->places[id] - 1;
}

tt_code tt_sampler_init(tt_sampler *s, const tt_sampling *opt, int32_t n_vocab,
                        const int32_t *prompt, int32_t n_prompt, tt_err *reterr)
{
    *s = (tt_sampler){.opt = *opt, .stream = tt_rng_make(opt->seed, 0x73616D70).state};
    if (opt->n_bias == 0 && !repeats(opt) && !counts(opt)) {
        return TT_OK;
    }
    s->adjusts = malloc((size_t)n_vocab * sizeof *s->adjusts);
    s->counts = malloc((size_t)n_vocab * sizeof *s->counts);
    s->places = calloc((size_t)n_vocab, sizeof *s->places);
    if (s->adjusts == NULL || s->counts == NULL || s->places == NULL) {
        tt_sampler_finish(s);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for sampling");
    }
    for (int32_t i = 0; i < opt->n_bias; i++) {
        s->adjusts[place_of(s, opt->bias[i].id)].bias += opt->bias[i].bias;
    }
    for (int32_t i = 0; repeats(opt) && i < n_prompt; i++) {
        s->adjusts[place_of(s, prompt[i])].repetition = opt->repetition_penalty;
    }
    return TT_OK;
}

void tt_sampler_finish(tt_sampler *s)
{
    free(s->adjusts);
    free(s->counts);
    free(s->places);
    *s = (tt_sampler){0};
}

void tt_sampler_order(const tt_sampler *s, const int32_t *banned, int32_t n_banned,
                      tt_draw_order *ret)
{
    const tt_sampling *o = &s->opt;
    *ret = (tt_draw_order){.draw = {.stream = s->stream,
                                    .counter = s->n_drawn,
                                    .temperature = o->temperature,
                                    .top_p = o->top_p,
                                    .min_p = o->min_p,
                                    .top_k = o->top_k,
                                    .n_adjust = s->n_adjusts,
                                    .n_banned = n_banned},
                           .adjusts = s->adjusts,
                           .banned = banned};
}

bool tt_sampler_counts(const tt_sampler *s)
{
    return counts(&s->opt);
}

void tt_sampler_accept(tt_sampler *s, int32_t id)
{
    const tt_sampling *o = &s->opt;
    s->n_drawn++;
    if (!repeats(o) && !counts(o)) {
        return;
    }
    int32_t i = place_of(s, id);
    s->adjusts[i].repetition = repeats(o) ? o->repetition_penalty : 1;
    s->adjusts[i].penalty = o->presence_penalty + o->frequency_penalty * (float)++s->counts[i];
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
