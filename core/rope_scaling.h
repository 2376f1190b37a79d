/* rope_scaling.h - the frequencies of rotary position embedding and their scalings. Thread: pure
 * functions. Sources: RoPE arXiv:2104.09864; linear arXiv:2306.15595; YaRN arXiv:2309.00071;
 * Llama 3.1's as its model card and configuration define it. */
#ifndef TT_ROPE_SCALING_H
#define TT_ROPE_SCALING_H

#include "core/model.h"

typedef struct tt_rope_spec {
    tt_rope_kind kind;
    int32_t rot_dim;
    double base;
    tt_rope_scaling scaling;
    double factor;   /* LINEAR, LLAMA3, YARN: how many times longer the context becomes */
    double orig_ctx; /* LLAMA3, YARN: tokens of the context before scaling */
    double low_freq_factor, high_freq_factor; /* LLAMA3 */
    double beta_fast, beta_slow;              /* YARN */
    double attn_factor;        /* YARN: factor on cos and sin; 0 = 0.1 ln(factor) + 1 */
    bool truncate;             /* YARN: the bounds of the ramp are rounded to whole dimensions */
    const float *freq_factors; /* [rot_dim / 2] divisors (GGUF's rope_freqs) or NULL; borrowed for
                                  the call */
} tt_rope_spec;

/* inv_freq[rot_dim / 2], *ret_mscale. TT_E_MODEL when a parameter is out of its range or a
 * frequency comes out not finite or not positive. */
tt_code tt_rope_frequencies(const tt_rope_spec *s, float *ret_inv_freq, float *ret_mscale,
                            tt_err *reterr);

#endif
