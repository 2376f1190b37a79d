/* profile.h - where the time of a step goes: a table of operations that times the operations of
 * another one and counts what they are asked for. What no operation accounts for is the host's:
 * descriptors, launches, waiting. A device without a profile runs its own table and pays nothing.
 * Thread: engine only; one profile a thread at a time. */
#ifndef TT_PROFILE_H
#define TT_PROFILE_H

#include "core/device.h"

/* What a call of an operation moves and computes at the least.
 * bytes: everything that it reads or writes counted once: weights as they are stored, the keys and
 *   values that its rows see (once for a segment), activations. What is still in a cache costs
 *   less.
 * flops: products and passes over keys, as core/cost.h counts them; 0 for all else. */
typedef struct tt_profile_work {
    double bytes, flops;
} tt_profile_work;

typedef struct tt_profile_row {
    const char *op;  /* "matmul", as in tt_ops */
    char detail[48]; /* "Q4_1 576>1536+1536, 512 rows"; "" where shapes say nothing */
    int64_t calls;
    double seconds;
    tt_profile_work work;
    double limit_s; /* sum over the calls of the larger of bytes and flops at the machine's rates */
} tt_profile_row;

#define TT_PROFILE_MAX_ROWS 96

/* One kind of step: its rows by falling time. All figures are sums over `runs`. */
typedef struct tt_profile_section {
    char name[64];
    int32_t runs, n_rows;
    double seconds;     /* from begin to end */
    double cpu_seconds; /* processor time of all threads */
    double ops_seconds; /* of the rows; seconds - ops_seconds is in no operation */
    tt_profile_row row[TT_PROFILE_MAX_ROWS];
} tt_profile_section;

typedef struct tt_profile tt_profile;

/* From now on the device's operations are timed; on a device that works asynchronously each is
 * waited for. d: borrowed until the detach. flops_rate, bytes_rate: the machine's, per second; 0 =
 * no limits are computed. TT_E_NOMEM. */
tt_code tt_profile_attach(tt_device *d, double flops_rate, double bytes_rate,
                          tt_profile **ret_profile, tt_err *reterr);
/* Gives the device its table back. NULL and *p == NULL are legal. */
void tt_profile_detach(tt_profile **p);

/* Forgets what was counted and starts the clocks. */
void tt_profile_begin(tt_profile *p, const char *name);
/* Stops the clocks. The section is borrowed until the next begin or detach. runs: repetitions since
 * the begin. */
const tt_profile_section *tt_profile_end(tt_profile *p, int32_t runs);

/* profile_work.c: what one call asks for. */
tt_profile_work tt_work_matmul(const tt_matmul_args *a);
tt_profile_work tt_work_matmul_bwd(const tt_matmul_bwd_args *a);
tt_profile_work tt_work_adapter_fwd(const tt_adapter_fwd_args *a);
tt_profile_work tt_work_adapter_bwd(const tt_adapter_bwd_args *a);
tt_profile_work tt_work_adapter_grad(const tt_adapter_grad_args *a);
tt_profile_work tt_work_qk_rope(const tt_qk_rope_args *a);
tt_profile_work tt_work_attention(const tt_attention_args *a);
tt_profile_work tt_work_attention_bwd(const tt_attention_bwd_args *a);
tt_profile_work tt_work_head(const tt_head_args *a, bool backward);
tt_profile_work tt_work_optim(const tt_optim_args *a, bool step);
/* Keys that the rows of the call see, summed over them. */
double tt_work_keys(const tt_attention_args *a);

#endif
