/* sampler.h - what a request's draws are: its parameters, what was generated so far, and how many
 * numbers of its generator are used up. The draw itself is ops.h's `sample`, which works where the
 * logits are. Thread: a sampler belongs to its generation. */
#ifndef TT_SAMPLER_H
#define TT_SAMPLER_H

#include "core/forward.h"
#include "core/job.h"

typedef struct tt_sampler {
    tt_sampling opt; /* bias is not followed after init */
    uint64_t stream;
    uint32_t n_drawn;
    /* Ids with a bias, and those in prompt or generated text that a penalty falls on. NULL when
     * nothing of the kind was asked for; else sized for the whole vocabulary, of which only what is
     * used is touched. */
    tt_logit_adjust *adjusts; /* owned [n_vocab], n_adjusts of them in use */
    uint32_t *counts;         /* owned [n_vocab]: occurrences in the generated text, by adjust */
    int32_t *places;          /* owned [n_vocab]: an id's index in adjusts + 1; 0 = it has none */
    int32_t n_adjusts;
} tt_sampler;

/* prompt feeds the repetition penalty. TT_E_NOMEM. */
tt_code tt_sampler_init(tt_sampler *s, const tt_sampling *opt, int32_t n_vocab,
                        const int32_t *prompt, int32_t n_prompt, tt_err *reterr);
void tt_sampler_finish(tt_sampler *s);

/* How the next token is drawn; `banned` ids (rising, none twice) cannot be. Borrows both lists
 * until the next tt_sampler_accept(). The same draw until then. */
void tt_sampler_order(const tt_sampler *s, const int32_t *banned, int32_t n_banned,
                      tt_draw_order *ret);
/* A draw depends on which tokens have been generated, not on their number alone (presence and
 * frequency penalties; a repetition penalty only when a token is new to prompt and text). */
bool tt_sampler_counts(const tt_sampler *s);
/* The draw gave `id`: penalties hear of it, and the next draw has the next number. */
void tt_sampler_accept(tt_sampler *s, int32_t id);

/* log-softmax of raw logits: fills top[0..n_top) in falling order (ties: lower id first) and
 * returns the log-probability of `chosen`; the number of an id is the same wherever it appears. */
float tt_logprobs(const float *logits, int32_t n_vocab, int32_t chosen, tt_logprob *top,
                  int32_t n_top);

#endif
