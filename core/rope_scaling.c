/* rope_scaling.c - see rope_scaling.h. */
#include "core/rope_scaling.h"

#include <math.h>

static const double pi = 3.14159265358979323846;

static tt_code check(const tt_rope_spec *s, tt_err *reterr)
{
    if (!(s->base > 0.0) || !isfinite(s->base)) {
        return tt_fail(reterr, TT_E_MODEL, "the rope base %g is not a positive number", s->base);
    }
    if (s->scaling == TT_ROPE_NONE) {
        return TT_OK;
    }
    if (!(s->factor > 0.0) || !isfinite(s->factor)) {
        return tt_fail(reterr, TT_E_MODEL, "the rope scaling factor %g is not a positive number",
                       s->factor);
    }
    if (s->scaling == TT_ROPE_LINEAR) {
        return TT_OK;
    }
    if (!(s->orig_ctx >= 1.0) || !isfinite(s->orig_ctx)) {
        return tt_fail(reterr, TT_E_MODEL, "rope scaling: the original context %g is not a length",
                       s->orig_ctx);
    }
    if (s->scaling == TT_ROPE_LLAMA3 &&
        (!(s->low_freq_factor > 0.0) || !(s->high_freq_factor > s->low_freq_factor) ||
         !isfinite(s->high_freq_factor))) {
        return tt_fail(
            reterr, TT_E_MODEL,
            "rope scaling: low_freq_factor %g and high_freq_factor %g do not bound a range",
            s->low_freq_factor, s->high_freq_factor);
    }
    if (s->scaling == TT_ROPE_YARN &&
        (!(s->beta_slow > 0.0) || !(s->beta_fast >= s->beta_slow) || !isfinite(s->beta_fast) ||
         !(s->base > 1.0) || !(s->attn_factor >= 0.0) || !isfinite(s->attn_factor))) {
        return tt_fail(reterr, TT_E_MODEL,
                       "rope scaling: beta_fast %g, beta_slow %g, attention factor %g make no YaRN",
                       s->beta_fast, s->beta_slow, s->attn_factor);
    }
    return TT_OK;
}

/* Long waves are stretched by the factor, short ones are left alone, with a linear passage between.
 */
static double llama3(const tt_rope_spec *s, double freq)
{
    double turns = s->orig_ctx * freq / (2.0 * pi); /* of this wave in the original context */
    if (turns > s->high_freq_factor) {
        return freq;
    }
    if (turns < s->low_freq_factor) {
        return freq / s->factor;
    }
    double keep = (turns - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
    return (1.0 - keep) * freq / s->factor + keep * freq;
}

/* The (fractional) index of the frequency that turns n_turns times in the original context. */
static double yarn_dim(const tt_rope_spec *s, double n_turns)
{
    return s->rot_dim * log(s->orig_ctx / (n_turns * 2.0 * pi)) / (2.0 * log(s->base));
}

static double yarn(const tt_rope_spec *s, double freq, int32_t i)
{
    double low = yarn_dim(s, s->beta_fast), high = yarn_dim(s, s->beta_slow);
    if (s->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, s->rot_dim - 1);
    if (high == low) {
        high += 0.001;
    }
    double stretch = fmin(1.0, fmax(0.0, (i - low) / (high - low)));
    return freq * (1.0 - stretch) + freq / s->factor * stretch;
}

tt_code tt_rope_frequencies(const tt_rope_spec *s, float *ret_inv_freq, float *ret_mscale,
                            tt_err *reterr)
{
    tt_code rc = check(s, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    for (int32_t i = 0; i < s->rot_dim / 2; i++) {
        double freq = pow(s->base, -2.0 * i / s->rot_dim);
        if (s->scaling == TT_ROPE_LINEAR) {
            freq /= s->factor;
        } else if (s->scaling == TT_ROPE_LLAMA3) {
            freq = llama3(s, freq);
        } else if (s->scaling == TT_ROPE_YARN) {
            freq = yarn(s, freq, i);
        }
        if (s->freq_factors != NULL) {
            freq /= s->freq_factors[i];
        }
        float f = (float)freq;
        if (!isfinite(f) || f <= 0.0f) {
            return tt_fail(reterr, TT_E_MODEL, "rope frequency %d comes out as %g", (int)i, freq);
        }
        ret_inv_freq[i] = f;
    }
    double m = 1.0;
    if (s->scaling == TT_ROPE_YARN) {
        m = s->attn_factor > 0.0 ? s->attn_factor
            : s->factor > 1.0    ? 0.1 * log(s->factor) + 1.0
                                 : 1.0;
    }
    if (!isfinite((float)m) || (float)m <= 0.0f) {
        return tt_fail(reterr, TT_E_MODEL, "rope scaling: the attention factor comes out as %g", m);
    }
    *ret_mscale = (float)m;
    return TT_OK;
}
