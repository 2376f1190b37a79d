/* scheduler_sim.h - a simulated engine around the real scheduler, sequences and K/V pool: steps
 * cost what a formula says, a token's "K/V" are a hash of everything it depends on, so that a page
 * that is shared, recomputed or overwritten wrongly is seen. Time is simulated. Used by
 * test_scheduler_sim.c (random life, invariants) and scheduler_table.c (what a machine would do).
 */
#ifndef SCHEDULER_SIM_H
#define SCHEDULER_SIM_H

#include "core/device.h"
#include "core/rng.h"
#include "core/scheduler.h"
#include "core/seq.h"

/* Seconds. depth: tokens before the one that is run. */
typedef struct sim_costs {
    double prefill_token, prefill_token_depth; /* a token; and per token of depth */
    double again_factor; /* an answer's token that is run again costs so many of a prompt's */
    double decode_step, decode_row, decode_row_depth;
    double train_step, train_step_depth;
    int32_t n_units;       /* of a prefill step (layers); a training step has twice as many */
    int32_t prefill_chunk; /* tokens of one prefill step */
} sim_costs;

typedef enum sim_end {
    SIM_DONE,
    SIM_CANCELLED,
    SIM_FAILED,
    SIM_EXPIRED,
    SIM_REFUSED,
    SIM_ENDS
} sim_end;

/* What arrives. Its prompt: n_doc tokens of the stream `doc`, then n_tail of the stream `tail`; the
 * answer goes on in the stream it stopped in. */
typedef struct sim_spec {
    uint64_t key, tag;
    bool job; /* prefill of doc, then `steps` training steps */
    uint64_t doc, tail;
    int32_t n_doc, n_tail;
    int32_t n_out;          /* tokens to generate */
    const uint8_t *decoded; /* [n_doc + n_tail], borrowed while the task lives; NULL = none */
    bool keep;              /* the answer's pages stay in the cache */
    int32_t adapter; /* a request: what follows the doc runs under this adapter, 1..SIM_ADAPTERS;
                        whoever comes first trains it; 0 = none */
    int32_t steps;   /* of training */
    double timeout;  /* 0 = none */
    int32_t user;    /* the workload's */
} sim_spec;

enum { SIM_ADAPTERS = 64, SIM_KEYS = 16 };

typedef enum sim_stage { SIM_CONTEXT, SIM_TRAINING, SIM_REST, SIM_DECODING } sim_stage;

typedef struct sim_task {
    tt_sched_task sched;
    sim_spec spec;
    sim_stage stage;
    tt_seq seq;
    int32_t *ids;     /* owned: [n_ids] prompt and generated tokens; NULL before the first start */
    uint8_t *decoded; /* owned: [n_ids] */
    int32_t n_ids, n_gen;
    uint64_t sum; /* of the tokens in seq */
    int32_t steps_done;
    int32_t units, units_left; /* of the step that has begun */
    int32_t step_tokens;
    double unit_seconds;
    double arrived, last_token; /* last_token: of the answer, or < 0 */
    struct sim_task *trainer;   /* PARKED: waits for it */
    bool live;
    int32_t live_at;
    /* for the checks */
    uint64_t decode_no;            /* of the last decode step it was in */
    int32_t starts_seen[SIM_KEYS]; /* per key, when it was queued */
    int32_t rank;                  /* tasks of its key and kind before it, then */
    int32_t own_preempted;         /* of its key and kind, then */
    struct sim_task *next_free;
} sim_task;

/* Samples in seconds, logarithmic classes of 5 %. */
typedef struct sim_quantiles {
    uint64_t n, class[400];
} sim_quantiles;
double sim_quantile(const sim_quantiles *q, double p);

typedef struct sim_result {
    int64_t submitted, ended[SIM_ENDS];
    int64_t jobs_submitted, jobs_done;
    int64_t tokens, prefilled, cached, preemptions, parked, decode_steps, train_steps;
    sim_quantiles ttft, gap; /* of requests that are not jobs */
    double seconds;          /* simulated */
    double decode_late_max;  /* seconds by which a decode step came later than target_gap */
    double contended, contended_jobs; /* seconds with work for jobs while requests run */
    double live_max;                  /* seconds that a task lived */
    char failure[256];                /* the first broken invariant, or "" */
} sim_result;

typedef struct sim sim;

typedef struct sim_options {
    tt_sched_options sched;
    sim_costs costs;
    int32_t n_pages;
    bool check; /* invariants; token contents */
    /* Seconds of the next arrival, INFINITY = no more. */
    double (*next_arrival)(sim *m, void *arg);
    /* It is that time: sim_submit() and whatever else happens to tasks. */
    void (*arrive)(sim *m, void *arg);
    /* The task has ended; borrowed for the call. May be NULL. It may submit. */
    void (*ended)(sim *m, const sim_task *t, sim_end how, void *arg);
    /* Nothing can go on and nothing will arrive, but tasks are left (paused). */
    void (*stuck)(sim *m, void *arg);
    void *arg;
} sim_options;

struct sim {
    sim_options opt;
    double now;
    sim_result r;
    tt_sched *s;
    tt_model model;
    tt_device device;
    tt_kv_pool *kv;
    sim_task **live; /* [n_live] */
    int32_t n_live, live_cap;
    sim_task *free_tasks;
    struct {
        bool trained;
        sim_task *trainer;
    } adapter[SIM_ADAPTERS + 1];
    uint64_t choices, quiet; /* choices, and those since time last passed */
    /* for the checks */
    uint64_t decode_no;
    double decode_due; /* since when a decode step is due; < 0: nobody decodes */
    double max_unit;   /* seconds of the longest unit since then */
    double window[2], window_jobs[2], max_decode;        /* of all time, in a row */
    int32_t starts[2][SIM_KEYS], preempted[2][SIM_KEYS]; /* by kind */
    int32_t jobs_passed;
    int32_t *holders; /* [n_pages] scratch */
};

/* Runs until nothing arrives any more and every task has ended, or an invariant breaks. Fails only
 * for want of memory (false). */
bool sim_run(const sim_options *opt, sim_result *ret);

/* For the callbacks. True: queued; false: refused. */
bool sim_submit(sim *m, const sim_spec *spec);
/* Ends a live task from outside. */
void sim_end_task(sim *m, sim_task *t, sim_end how);

/* ---- between scheduler_sim.c and scheduler_sim_check.c ---- */
void sim_fail(sim *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint64_t sim_mix(uint64_t x);
uint64_t sim_token_sum(const sim_task *t, uint64_t before, int32_t at);
uint64_t *sim_token_kv(const sim *m, const sim_task *t, int32_t at);
void sim_check_submitted(sim *m, sim_task *t);
void sim_check_refused(sim *m, const sim_spec *spec);
bool sim_check_victim(sim *m, const tt_sched_task *needy, const tt_sched_task *victim);
void sim_check_choice(sim *m, const tt_sched_choice *c);
void sim_check_ran(sim *m, const tt_sched_choice *c, double started, bool contended, bool jobs,
                   bool of_job);
void sim_check_pages(sim *m);
void sim_check_content(sim *m, const sim_task *t);
void sim_look(const sim *m, bool *ret_contended, bool *ret_jobs);

#endif
