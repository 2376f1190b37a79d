/* job.h - the one object that the server and the engine share: parameters in, events out, a cancel
 * flag. Thread: params are written before tt_engine_submit() and read only afterwards.
 * tt_job_next() is called by the consumer (the loop thread), tt_job_push() by the engine; both take
 * the job's mutex. tt_job_cancel() may be called by anybody. A job is reference-counted: the
 * creator holds one reference, the engine one from submit until the last event. */
#ifndef TT_JOB_H
#define TT_JOB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"

#define TT_MAX_TOP_LOGPROBS 20

typedef struct tt_sampling {
    float temperature;                                             /* 0 = greedy */
    int32_t top_k;                                                 /* 0 = all */
    float top_p, min_p;                                            /* 1, 0 = off */
    float repetition_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0 = off */
    uint64_t seed; /* the server draws one when the request has none */
    const struct tt_logit_bias {
        int32_t id;
        float bias;
    } * bias;
    int32_t n_bias;
} tt_sampling;

/* AUTO: the engine adapts when it can pay (tt_engine_options.auto_rule) and says what it decided.
 */
typedef enum tt_qttt_mode { TT_QTTT_OFF, TT_QTTT_ON, TT_QTTT_AUTO } tt_qttt_mode;
typedef enum tt_objective { TT_NEXT_TOKEN, TT_RECALL } tt_objective;

/* Hyperparameters. tt_qttt_defaults() leaves all to be chosen; tt_qttt_resolve() replaces what is
 * "auto": negative steps, learning_rate, weight_decay and grad_clip (0 is legal there), and zero of
 * every other number. */
typedef struct tt_qttt_params {
    tt_qttt_mode mode;
    bool lora, sgd, guard;
    tt_objective objective;
    int32_t steps, span_tokens, rank;
    float lora_alpha;
    double learning_rate; /* < 0: auto */
    float weight_decay, grad_clip, beta1, beta2, adam_eps;
    uint64_t seed;
    uint8_t layers[32];      /* bit set of trained layers; all zero = all */
    double max_seconds;      /* budget; 0 = none */
    int64_t max_span_tokens; /* budget over all steps; 0 = none */
    int32_t context_tokens;  /* [0, context_tokens) of the prompt is the context; the server has
                                applied api.md's rule */
    uint64_t start_adapter;  /* training starts from this adapter; 0 = from the base */
} tt_qttt_params;

/* GENERATE: a request. TRAIN: a qTTT job: prefill of the context, training, publication; ends with
 * TT_EV_ADAPTED and TT_EV_DONE. PREFILL: the prompt's K/V come into the cache, nothing else.
 * DIAGNOSE: the prompt is read, then the attention of its last token is measured (diagnose.h);
 * TT_EV_DIAGNOSIS and TT_EV_DONE. Of all but GENERATE the sampling, stop and logprob fields are
 * unused, max_tokens is 0. */
typedef enum tt_job_kind {
    TT_JOB_GENERATE,
    TT_JOB_TRAIN,
    TT_JOB_PREFILL,
    TT_JOB_DIAGNOSE
} tt_job_kind;

/* Of a DIAGNOSE job. */
typedef struct tt_diagnose_params {
    int32_t needle_start, needle_end; /* tokens [start, end) of the prompt, at least one */
    double delta;                     /* nats, >= 0: what still is a near-tie */
    double epsilon;                   /* in (0, 1): the attention that may miss the needle */
} tt_diagnose_params;

/* One query head of the prompt's last token over the keys that it sees; scores z are scaled, nats.
 * With z_* the largest score of the needle's keys: */
typedef struct tt_head_diagnosis {
    int32_t n_keys;     /* seen; fewer than the prompt's in a layer with a window */
    int32_t best;       /* position of z_*; -1 = it sees none of the needle */
    int32_t near_ties;  /* keys outside the needle with z >= z_* - delta */
    double needle_mass; /* attention on the whole needle */
    double sink_mass;   /* attention on position 0; 0 when it is out of the window */
    double margin;      /* z_* - logsumexp of all other keys, so that z_*'s attention is
                           1 / (1 + exp(-margin)); NAN without a best, INFINITY without others */
    double gap;         /* z_* - the largest score outside the needle; likewise */
    double required;    /* log((n_keys - 1) (1 - epsilon) / epsilon): the gap that is enough for an
                           attention of 1 - epsilon, whatever the other scores; -INFINITY of one key */
} tt_head_diagnosis;

typedef struct tt_job_params {
    tt_job_kind kind;
    const int32_t *prompt; /* [n_prompt] ids, all within the vocabulary */
    int32_t n_prompt;
    int32_t max_tokens; /* generated tokens at most; < 0: until the context ends. 0 is legal (echo
                           with logprobs) */
    int32_t min_tokens;
    bool ignore_eos;
    tt_sampling sampling;
    const struct tt_stop {
        const char *p;
        size_t n;
    } * stops; /* stop strings; the text ends before the match */
    int32_t n_stops;
    const int32_t *stop_ids;
    int32_t n_stop_ids;
    int32_t n_logprobs;        /* -1 = none; else top alternatives per generated token, 0..20 */
    int32_t n_prompt_logprobs; /* -1 = none; else for every prompt token but the first */
    bool special_tokens;       /* print control tokens in the text */
    tt_qttt_params qttt;
    char adapter_scope[64]; /* tenant: of the prefix cache, the adapter cache and of fairness; "" =
                               everybody's */
    /* ---- sessions ---- */
    const uint8_t *decoded; /* [n_prompt] 1 = an earlier answer's token, whose K/V come from the
                               decode family; NULL = none */
    int32_t keep_context;   /* K/V pages of so many leading tokens go to disk (a session's context);
                               what is there already is not written again */
    bool keep;           /* pages of generated tokens stay in the cache, to be found by `decoded` */
    uint64_t adapter_id; /* tokens from qttt.context_tokens on run under this adapter (a session's
                            generation); 0 = base. Unknown (dropped) or unreadable: TT_EV_ERROR
                            TT_E_ADAPTER_LOST. With mode ON it answers when the training keeps
                            nothing */
    uint64_t session_tag;   /* trainings with the same tag run one after another; 0 = none */
    bool pin_adapter;       /* a kept adapter stays until tt_engine_unpin(); with a state folder
                               TT_EV_ADAPTED comes when its file is on disk, or could not be written */
    double timeout_seconds; /* from submit; TT_EV_ERROR TT_E_TIMEOUT; 0 = none */
    tt_diagnose_params diagnose;
} tt_job_params;

typedef struct tt_logprob {
    int32_t id;
    float logprob; /* nats, log-softmax of the raw logits (before penalties and temperature) */
} tt_logprob;

typedef enum tt_event_type {
    TT_EV_STARTED,         /* taken from the queue */
    TT_EV_PREFILL,         /* progress */
    TT_EV_PROMPT_LOGPROBS, /* a run of prompt positions */
    TT_EV_ADAPT,           /* one step done */
    TT_EV_PROBE,           /* a recall probe was taken */
    TT_EV_STATUS,          /* paused or resumed, preempted */
    TT_EV_ADAPTED,         /* adaptation over: qttt holds its result */
    TT_EV_TOKEN,           /* one generated token */
    TT_EV_DIAGNOSIS,       /* what a DIAGNOSE job has measured */
    TT_EV_DONE,
    TT_EV_ERROR
} tt_event_type;

typedef enum tt_finish { TT_FINISH_STOP, TT_FINISH_LENGTH } tt_finish;

/* What adaptation did: api.md's "qttt" object of an answer. */
typedef struct tt_qttt_result {
    const char *status; /* "succeeded", "skipped", "failed", "cancelled" (static) */
    const char *reason; /* skipped or failed: "guard_unavailable", "context_too_short", "diverged",
                           ...; else NULL */
    const char *stop_reason; /* "steps", "seconds", "span_tokens", "plateau", NULL */
    bool kept, cached;       /* cached: reused from the adapter cache, nothing was trained now */
    uint64_t adapter_id;     /* 0 = base */
    bool durable;            /* kept and pinned: its file is on disk */
    char not_durable[96];    /* why not, although it should be; "" = there is no state folder */
    int32_t generation;      /* 0 = base, 1 = adapted */
    tt_qttt_params params;   /* resolved */
    int32_t steps_done, n_dropped;
    int64_t trained_tokens;
    bool have_recall;
    double recall_before, recall_after, recall_se; /* nats; standard error of the mean difference */
    int32_t recall_segments;
    double span_loss_before, span_loss_after; /* NaN when not measured */
    double loss_first, loss_last;
    double delta_norm_relative; /* largest over layers of |D| / |W_Q| */
    double flops, equal_cost_tokens, adapt_seconds;
    int64_t adapter_bytes;
} tt_qttt_result;

typedef struct tt_event {
    struct tt_event *next;
    tt_event_type type;
    union {
        struct {
            int32_t done, total, cached; /* tokens */
            double seconds;
        } prefill;
        struct {
            int32_t first; /* position of the first entry, >= 1 */
            int32_t n, n_top;
            tt_logprob *chosen; /* [n] */
            tt_logprob *top;    /* [n, n_top], descending */
        } prompt_logprobs;
        struct {
            int32_t step, total, span_start, span_tokens;
            double loss, grad_norm, learning_rate, seconds;
        } adapt;
        struct {
            bool after;    /* of training; else before it */
            double recall; /* mean loss, nats */
            double span;   /* mean loss of the in-place spans, nats */
        } probe;
        struct {
            const char *status; /* "paused", "running", "queued" (preempted); static */
        } status;
        tt_qttt_result adapted;
        struct {
            int32_t id;
            const char *text; /* whole UTF-8 that may be shown now; may be "" (held back for a stop
                                 string or an incomplete code point) */
            size_t n_text;
            const char *piece; /* the token's own bytes, for logprobs */
            size_t n_piece;
            bool have_logprob;
            float logprob;
            int32_t n_top;
            tt_logprob top[TT_MAX_TOP_LOGPROBS];
        } token;
        struct {
            int32_t n_layers, n_heads;
            const tt_head_diagnosis *heads; /* [n_layers, n_heads] */
        } diagnosis;
        struct {
            tt_finish reason;
            int32_t prompt_tokens, cached_tokens, completion_tokens;
            int32_t drafted_tokens, accepted_tokens; /* of drafts: run, and right (speculate.c) */
            const char *text; /* text still held back that belongs to the answer */
            size_t n_text;
            const char *stop; /* the stop string that matched, or NULL */
            double queue_seconds, prefill_seconds, decode_seconds;
        } done;
        tt_err error;
    } u;
    void *owned; /* memory behind the pointers above, freed with the event */
} tt_event;

typedef struct tt_job tt_job;

/* wake(arg) is called without the job's mutex, by the engine thread, when the event queue goes from
 * empty to not empty. The job copies params, with everything they point to, into memory of its own.
 */
tt_code tt_job_create(const tt_job_params *params, void (*wake)(void *arg), void *arg,
                      tt_job **ret_job, tt_err *reterr);
void tt_job_ref(tt_job *job);
void tt_job_unref(tt_job **job);

/* The next event, or NULL; transferred: tt_event_free(). After TT_EV_DONE or TT_EV_ERROR none
 * follows. */
tt_event *tt_job_next(tt_job *job);
void tt_event_free(tt_event *ev);

/* The consumer is gone or has had enough; takes effect within a layer of the running step; the job
 * ends with TT_EV_ERROR TT_E_CANCELLED. `adaptation_only`: the running adaptation ends and the
 * request answers from the base. */
void tt_job_cancel(tt_job *job, bool adaptation_only);
bool tt_job_cancelled(const tt_job *job);
/* A TRAIN job, or the training of a request, stops at the end of its step, and goes on. Idempotent.
 * tt_engine_kick() makes an idle engine look. */
void tt_job_pause(tt_job *job, bool paused);
bool tt_job_paused(const tt_job *job);

/* Where the job stands, kept current by the engine: tasks before it in the queue (0 = next), or -1
 * when it is not queued; why it waits: "engine", "session_job", "kv_pages"; of one that runs
 * "restoring" while its pages are read from disk; else "" (static). */
int32_t tt_job_position(const tt_job *job, const char **ret_reason);

const tt_job_params *tt_job_get_params(const tt_job *job);

/* ---- engine side ---- */

/* Takes ownership of ev (malloc'ed) and of ev->owned. */
void tt_job_push(tt_job *job, tt_event *ev);
bool tt_job_adaptation_cancelled(const tt_job *job);
void tt_job_set_position(tt_job *job, int32_t position, const char *reason);

#endif
