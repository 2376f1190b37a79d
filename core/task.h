/* task.h - what the engine's thread works on: requests (generate.c) and trainings (training.c),
 * which share how a sequence grows (prefill.c). Private to the engine. Thread: a task is made by
 * the submitter, and is the engine thread's from tt_sched_add() on. */
#ifndef TT_TASK_H
#define TT_TASK_H

#include "core/draft.h"
#include "core/lookup.h"
#include "core/page_store.h"
#include "core/qttt.h"
#include "core/sampler.h"
#include "core/scheduler.h"
#include "core/seq.h"
#include "core/textout.h"
#include "core/worker.h"

#define TT_POLL_UNITS 2    /* layers between two looks at clock and cancel flag */
#define TT_DECODE_BLOCK 16 /* rows of one piece of generated tokens that are run again */

enum { TT_TASK_MORE = 1, TT_TASK_PARKED = 2, TT_TASK_OVER = 3, TT_TASK_WAITING = 4 };

typedef struct tt_training tt_training;

typedef enum tt_generate_phase {
    TT_GENERATE_CONTEXT, /* prefill of what is adapted to, under the base */
    TT_GENERATE_PROMPT,  /* prefill of the rest (and of what was generated before a preemption) */
    TT_GENERATE_DECODE
} tt_generate_phase;

/* The drafts of a request, see speculate.c. */
typedef struct tt_speculation {
    tt_lookup lookup; /* owned */
    tt_draft_odds odds;
    int32_t n_match;           /* tokens of the match that foretells */
    int32_t n_guess;           /* tokens that are foretold, behind the task's n_ids */
    int32_t n_draft;           /* of these, rows of the next step; their pages are reserved */
    int32_t drafted, accepted; /* in all */
} tt_speculation;

typedef struct tt_generate_state {
    tt_generate_phase phase;
    bool adapting;
    tt_training *training; /* it is parked for; NULL = none */
    tt_sampler sampler;
    tt_textout *text; /* owned */
    int32_t *banned;  /* owned [n_banned], rising */
    int32_t n_banned;
    int32_t n_out, n_max;
    tt_speculation spec;
    int32_t echoed;                /* prompt positions whose log-probabilities are out */
    bool stopped;                  /* by a stop string */
    tt_event *diagnosis;           /* owned: a DIAGNOSE job's, being filled */
    int32_t diagnosed;             /* layers that are in it */
    struct tt_diagnose_scan *scan; /* owned: the layer under way; NULL = none */
    tt_finish reason;
    double prefilled, adapt_from;
    double adapting_seconds; /* between start and prefilled, that were no prefill */
} tt_generate_state;

typedef struct tt_task {
    tt_sched_task sched; /* first: the scheduler's pointers are cast back */
    tt_job *job;         /* referenced */
    const tt_job_params *p;
    tt_event *last; /* owned: the final event exists before the job is admitted, so that it cannot
                       fail; NULL = a training on behalf of a request */
    tt_seq seq;
    int32_t *ids;     /* owned [cap]: the tokens of the prompt, then those generated */
    uint8_t *decoded; /* owned [cap] */
    int32_t n_ids, cap;
    int32_t until;       /* the sequence is to grow to here */
    tt_adapter *adapter; /* referenced; of tokens from n_base on; NULL = base */
    int32_t n_base;
    bool named;                       /* the next two have been looked for */
    tt_adapter *answering, *starting; /* referenced: p->adapter_id and p->qttt.start_adapter, kept
                                         while it waits; NULL = none, or lost */
    bool loading;                     /* they are being read from disk; it does not start */
    uint64_t tickets[2];              /* of tt_adapter_cache_fetch() */
    tt_err lost[2];                   /* why it has none; code TT_OK = it names none */
    bool fresh; /* the cache has not been asked since pages were lost or the adapter changed */
    tt_page_fetch *fetch; /* owned: pages on disk that it waits for, PARKED; NULL = none */
    bool restoring;       /* as others may see it: under the engine's mutex */
    double asked_at;      /* when it began to wait */
    int32_t asked;        /* the store is not asked before the sequence has so many pages */
    bool saved;           /* its context has been given to the saver */
    bool counted;         /* what the cache gave back after a preemption is no hit */
    bool logits;          /* the piece that reaches `until` gives logits of its last row */
    int32_t cached;       /* prompt tokens whose K/V were found */
    int32_t piece;        /* rows of the piece under way */
    double submitted, started;
    int32_t load; /* other requests at admission: one number for all jobs of a request */
    bool paused_told;
    bool sized; /* sched.pages takes account of what others hold */
    tt_generate_state r;
    tt_training *t; /* owned; NULL = a request */
} tt_task;

/* ---- task.c ---- */

/* TT_E_NOMEM. Takes a reference to the job; `last` is transferred. */
tt_code tt_task_create(tt_worker *w, tt_job *job, tt_event *last, tt_task **ret_task,
                       tt_err *reterr);
void tt_task_destroy(tt_worker *w, tt_task **task);
/* Runs tokens from n_base on under `a` (transferred). */
void tt_task_set_adapter(tt_task *t, tt_adapter *a, int32_t n_base);
/* Keeps the adapters that its parameters name, whatever becomes of them in the cache: then it is
 * `named`. TT_OK. TT_TASK_MORE: they are being read, call again. must: see
 * tt_adapter_cache_fetch(). */
tt_code tt_task_name_adapters(tt_worker *w, tt_task *t, bool must);
/* Gives the K/V pages back; the next piece asks the cache first. */
void tt_task_drop_pages(tt_worker *w, tt_task *t);
/* One token more at the end of ids. TT_E_NOMEM. */
tt_code tt_task_add_id(tt_task *t, int32_t id, tt_err *reterr);
/* Room behind ids for n more. TT_E_NOMEM. */
tt_code tt_task_reserve_ids(tt_task *t, int32_t n, tt_err *reterr);
/* A zeroed event with owned_bytes of memory; NULL: TT_E_NOMEM. */
tt_event *tt_task_event(tt_event_type type, size_t owned_bytes, tt_err *reterr);
tt_code tt_task_cancelled(tt_err *reterr);

/* ---- prefill.c ---- */

/* Grows the sequence towards t->until for about `seconds`. TT_OK: it is there. TT_TASK_MORE.
 * TT_TASK_WAITING: for pages from disk, t->fetch: call again when it is done. TT_E_CAPACITY: pages
 * are missing, nothing was begun, call again when there are some. */
tt_code tt_prefill_run(tt_worker *w, tt_task *t, double seconds, tt_err *reterr);
/* Takes what t->fetch has brought and asks for more. TT_OK: nothing (more) is to be had from disk.
 * TT_TASK_WAITING; TT_E_CAPACITY; TT_E_NOMEM. */
tt_code tt_prefill_fetched(tt_worker *w, tt_task *t, tt_err *reterr);
/* The sequence has grown from `had` tokens without running any: counts and tells it. */
tt_code tt_prefill_found(tt_worker *w, tt_task *t, int32_t had, tt_err *reterr);
/* Forgets a piece that has begun. */
void tt_prefill_abandon(tt_worker *w, tt_task *t);
/* It wants the log-probabilities of its prompt: every token is run, no page of the cache serves. */
bool tt_prefill_echoes(const tt_task *t);
/* Pages that the sequence lacks for its next piece. */
int32_t tt_prefill_need(const tt_worker *w, const tt_task *t);

/* ---- diagnose.c ---- */

/* A DIAGNOSE job whose sequence is there, until about `until` on tt_sys_now()'s clock. TT_OK: its
 * event is out. TT_TASK_MORE. After tt_prefill_abandon() it begins anew. */
tt_code tt_diagnose_run(tt_worker *w, tt_task *t, double until, tt_err *reterr);

/* ---- generate.c ---- */

tt_code tt_generate_start(tt_worker *w, tt_task *t, tt_err *reterr);
/* The sequence has reached t->until. TT_OK: decode now. TT_TASK_MORE: until has moved.
 * TT_TASK_PARKED: it wants a training: tt_training_for(). TT_TASK_OVER: finish it. */
tt_code tt_generate_arrived(tt_worker *w, tt_task *t, tt_err *reterr);
/* The training it waited for (or the cache) has this result; the adapter is transferred. */
tt_code tt_generate_adapted(tt_worker *w, tt_task *t, const tt_qttt_result *result,
                            tt_adapter *adapter, tt_err *reterr);
/* A token, with its log-probabilities when the client wants them. */
typedef struct tt_drawn {
    int32_t id;
    const float *logits; /* [V] of the step; NULL = not wanted. batch.c's own */
    float logprob;
    tt_logprob top[TT_MAX_TOP_LOGPROBS];
} tt_drawn;

/* How its next token is drawn, or the one `ahead` of it if those between are of a draft; good until
 * tt_generate_token(). */
void tt_generate_order(const tt_task *t, int32_t ahead, tt_draw_order *ret);
/* With this token the generation is over. */
bool tt_generate_ends(const tt_worker *w, const tt_task *t, int32_t id);
/* The client wants log-probabilities: the logits have to come to the host. */
bool tt_generate_wants_logits(const tt_task *t);
/* Of a token and its logits [V]. Any thread of the engine's. */
void tt_generate_logprobs(const tt_worker *w, const tt_task *t, const float *logits, tt_drawn *d);
/* Tells the client. TT_OK: decode on. TT_TASK_OVER. */
tt_code tt_generate_token(tt_worker *w, tt_task *t, const tt_drawn *drawn, tt_err *reterr);
/* Fills t->last with TT_EV_DONE. */
tt_code tt_generate_done(tt_worker *w, tt_task *t, tt_err *reterr);
void tt_generate_finish(tt_task *t);
/* An adaptation that could not be had. */
tt_qttt_result tt_qttt_without(const tt_qttt_params *p, const char *status, const char *reason);
tt_code tt_push_adapted(tt_worker *w, tt_task *t, const tt_qttt_result *result, tt_err *reterr);

/* ---- training.c ---- */

struct tt_training {
    tt_adapter_key key;
    tt_qttt_params params; /* resolved */
    tt_qttt_run *run;      /* owned; NULL until the context is there */
    tt_job *read;          /* referenced: the job whose prompt the run reads, which the task's job
                              is no more when the training was passed on; NULL without a run */
    tt_step *step;         /* owned */
    bool automatic;
    tt_qttt_result result;
    tt_adapter *adapter;     /* referenced */
    bool pinned;             /* on behalf of its job */
    bool lent_pin;           /* for a request that will pin it, while its file is written */
    bool saving;             /* over; parked until its adapter's file is written */
    tt_engine_stats *totals; /* the worker's */
};

/* Makes a task a training of p->qttt. */
tt_code tt_training_init(tt_worker *w, tt_task *t, tt_err *reterr);
/* It has left the queue for the first time: the client of a qTTT job is told. TT_E_NOMEM. */
tt_code tt_training_start(tt_task *t, tt_err *reterr);
/* A known result for t's parameters (TT_OK: result and adapter are set, it is pinned if p says so),
 * else TT_TASK_MORE. settled: one whose file would have to be written first counts as unknown; a
 * training then finds it, and waits for the file. */
tt_code tt_training_known(tt_worker *w, const tt_qttt_params *params, const tt_job_params *p,
                          bool settled, tt_qttt_result *ret_result, tt_adapter **ret_adapter);
/* The context is there. TT_OK: train. TT_TASK_OVER: nothing to do. */
tt_code tt_training_arrived(tt_worker *w, tt_task *t, tt_err *reterr);
/* Trains for about `seconds`. TT_OK: over, the result is there and published. TT_TASK_MORE.
 * TT_E_CAPACITY: pages for a probe are missing. */
tt_code tt_training_run(tt_worker *w, tt_task *t, double seconds, tt_err *reterr);
/* It is over: optimiser and workspace are the next training's, result and adapter stay. */
void tt_training_rest(tt_worker *w, tt_task *t);
void tt_training_finish(tt_worker *w, tt_task *t);

/* ---- speculate.c ---- */

/* Says how many draft tokens each of the next step's tasks gets, whose next pages are reserved, and
 * takes pages for them while there are free ones. */
void tt_speculate_plan(tt_worker *w, tt_task *const *tasks, int32_t n);
/* The step goes without drafts. False: it had none. */
bool tt_speculate_drop(tt_task *const *tasks, int32_t n);
/* drawn: [1 + n_draft] ids. Returns how many of them count: up to the first that was not drafted,
 * with it. */
int32_t tt_speculate_check(tt_task *t, const tt_drawn *drawn);
/* After the step: n_taken rows are in the sequence, the others and their pages are forgotten. */
void tt_speculate_over(tt_worker *w, tt_task *t, int32_t n_taken);

/* ---- batch.c ---- */

/* One decode step of n tasks whose next page is reserved, with their drafts; then each has its next
 * token, or several. outcome[i]: TT_OK, TT_TASK_OVER or an error of this task, in errs[i]. An error
 * that concerns all is returned.
 */
tt_code tt_batch_decode(tt_worker *w, tt_task *const *tasks, int32_t n, tt_code *outcome,
                        tt_err *errs, tt_err *reterr);

#endif
