/* sampler.h - from logits to the next token. Order: logit bias, repetition/presence/frequency
 * penalties, temperature, top-k, top-p, min-p, one draw. The vocabulary is never sorted. Thread: a
 * sampler belongs to its generation. */
#ifndef TT_SAMPLER_H
#define TT_SAMPLER_H

#include "core/job.h"
#include "core/rng.h"

typedef struct tt_sampler {
    tt_sampling opt; /* bias borrowed while the sampler lives */
    tt_rng rng;
    int32_t n_vocab;
    float *work; /* owned [n_vocab]: adjusted logits */
    struct tt_candidate {
        float p; /* unnormalised probability, 1 at the maximum */
        int32_t id;
    } * cand; /* owned [n_vocab] */
    uint16_t
        *count; /* owned [n_vocab]: occurrences in the generated text, for presence and frequency */
    uint8_t *in_context; /* owned [n_vocab]: occurs in prompt or generated text, for repetition */
} tt_sampler;

/* prompt feeds the repetition penalty. Memory: 13 bytes a vocabulary entry. */
tt_code tt_sampler_init(tt_sampler *s, const tt_sampling *opt, int32_t n_vocab,
                        const int32_t *prompt, int32_t n_prompt, tt_err *reterr);
void tt_sampler_finish(tt_sampler *s);

/* Draws from logits [n_vocab] (not changed). `banned` ids cannot be drawn (end of generation before
 * min_tokens). Never fails: with every logit -inf or NaN it returns the first token that is not
 * banned. */
int32_t tt_sampler_draw(tt_sampler *s, const float *logits, const int32_t *banned,
                        int32_t n_banned);
/* Tells the penalties what was generated. */
void tt_sampler_accept(tt_sampler *s, int32_t id);

/* log-softmax of raw logits: fills top[0..n_top) in falling order (ties: lower id first) and
 * returns the log-probability of `chosen`; the number of an id is the same wherever it appears. */
float tt_logprobs(const float *logits, int32_t n_vocab, int32_t chosen, tt_logprob *top,
                  int32_t n_top);

#endif
