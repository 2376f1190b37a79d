/* diagnose.h - does the last token of a prompt find a needle in it? Per layer and query head: the
 * attention that it pays the needle, and by how much the needle's best key wins or loses. Source:
 * arXiv:2512.13898 section 3 and docs/qttt.md, "Diagnostics". Thread: engine only, but for
 * tt_diagnose_scores(). */
#ifndef TT_DIAGNOSE_H
#define TT_DIAGNOSE_H

#include "core/forward.h"
#include "core/job.h"

/* Scores z[n] (nats, scaled) of the keys at positions first .. first + n - 1, n >= 1: all that one
 * query sees. Any thread. */
void tt_diagnose_scores(const double *z, int32_t first, int32_t n, const tt_diagnose_params *p,
                        tt_head_diagnosis *ret);

/* The heads of one layer, piece by piece. `step` has one row at position `pos`, no trainee, and has
 * run up to and with that layer; it is borrowed for the call. Synchronises. TT_E_NOMEM,
 * TT_E_DEVICE. */
typedef struct tt_diagnose_scan tt_diagnose_scan;
enum { TT_DIAGNOSE_MORE = 1 };
tt_code tt_diagnose_begin(const tt_step *step, int32_t layer, int32_t pos, tt_diagnose_scan **ret,
                          tt_err *reterr);
/* Until about `until` on tt_sys_now()'s clock, but one piece at least: 2,048 keys, or what is made
 * of one head's scores. pages [pos / 64 + 1] hold the K of positions 0 .. pos. Scores are summed in
 * double from the q and K that attention itself reads. TT_OK: ret_heads [n_heads] are there.
 * TT_DIAGNOSE_MORE. TT_E_DEVICE. Synchronises. */
tt_code tt_diagnose_some(tt_diagnose_scan *scan, const int32_t *pages, const tt_diagnose_params *p,
                         double until, tt_head_diagnosis *ret_heads, tt_err *reterr);
void tt_diagnose_end(tt_diagnose_scan **scan);

/* All of it at once. */
tt_code tt_diagnose_layer(const tt_step *step, int32_t layer, const int32_t *pages, int32_t pos,
                          const tt_diagnose_params *p, tt_head_diagnosis *ret_heads,
                          tt_err *reterr);

#endif
