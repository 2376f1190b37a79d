/* engine.h - the boundary between server and engine. One thread owns model, device, K/V pages,
 * adapters and the queue; it never touches a socket. Thread: every function here may be called from
 * any thread unless it says otherwise. */
#ifndef TT_ENGINE_H
#define TT_ENGINE_H

#include "core/device.h"
#include "core/job.h"
#include "core/model.h"
#include "core/tokenizer.h"

typedef struct tt_engine tt_engine;

typedef enum tt_engine_state {
    TT_ENGINE_LOADING,
    TT_ENGINE_READY,
    TT_ENGINE_FAILED, /* it never came to be ready */
    TT_ENGINE_LOST    /* its device has failed: what ran and waited has ended, but for jobs that had
                         not begun; nothing new is taken. What is valid from READY on stays so */
} tt_engine_state;

/* Hard caps of qTTT (settings); a request beyond them is refused by the server with the range. */
typedef struct tt_qttt_caps {
    int32_t max_steps, max_span_tokens, max_rank; /* 256, 1024, 64 */
    double max_learning_rate;                     /* 1e-3 */
    double max_delta_norm;                        /* 0.05 of W_Q's norm, per layer */
} tt_qttt_caps;

/* When mode "auto" adapts: the context is long enough, its recall loss before leaves something to
 * gain, and no more than so many requests are queued or running. */
typedef struct tt_auto_rule {
    int32_t min_tokens; /* 0 = 2,048 */
    double min_recall;  /* nats per token, 0 = 0.1 */
    int32_t max_load;   /* other requests, 0 = 4 */
} tt_auto_rule;

typedef struct tt_engine_options {
    const char *model_path;
    unsigned isa_mask; /* of enum tt_isa */
    /* The GPU, or NULL: the CPU (core/device_choice.h). */
    const tt_cuda_module *cuda;
    int32_t cuda_device;
    bool cuda_optional;  /* a model that the GPU has no kernels for runs on the CPU */
    int n_threads;       /* 0 = what the machine and the cgroup give */
    bool pin_threads;    /* each on one processor (core/pin.h); not those of a GPU */
    int32_t max_context; /* tokens of one sequence, 0 = the model's */
    size_t
        kv_bytes; /* K/V pool, 0 = enough for eight full contexts, bounded by half of free memory */
    tt_dtype kv_type;           /* TT_BF16, TT_F32 or TT_I8 */
    size_t adapter_cache_bytes; /* adapters of sessions and of the cache together */
    int32_t prefill_chunk;      /* rows, 0 = 512 */
    int32_t max_draft;          /* tokens of a draft (draft.h), 0 = 15, the most; negative = none */
    double row_cost;            /* of a draft's row, as tt_step_cost_row() has it, so that drafts do
                                   not depend on the clock; 0 = measured */
    int32_t max_queue;          /* requests that wait, 0 = 64 */
    int32_t max_running;        /* requests served together, 0 = 32 */
    int32_t max_jobs;           /* trainings at a time, 0 = 1 */
    int32_t max_queued_jobs;    /* 0 = 64 */
    double target_gap;          /* seconds between two decode steps while long work runs, 0 = 0.1 */
    double train_share;         /* of the time while requests run, 0 = 0.3 */
    tt_auto_rule auto_rule;
    tt_qttt_caps caps;
    const char *page_folder;   /* of K/V pages on disk; NULL = none are kept */
    uint64_t page_store_bytes; /* of files in it */
    const char
        *adapter_folder; /* copied; where pinned adapters are kept in files; NULL = nowhere */
    /* One line for the operator: what was wrong on disk. Any of the engine's threads; may be NULL.
     */
    void (*on_warning)(void *arg, const char *text);
    void *on_warning_arg;
    void (*on_state)(void *arg, tt_engine_state state,
                     const tt_err *err); /* engine thread; may be NULL */
    void *on_state_arg;
} tt_engine_options;

/* Starts the thread and returns at once; the model loads there. on_state tells when it is ready or
 * why it failed. */
tt_code tt_engine_create(const tt_engine_options *opt, tt_engine **ret_engine, tt_err *reterr);

/* Cancels what runs and waits, ends the thread, frees all. Every submitted job gets its last event
 * before this returns. */
void tt_engine_destroy(tt_engine **engine);

/* ret_failure: of FAILED and LOST. */
tt_engine_state tt_engine_get_state(const tt_engine *e, tt_err *ret_failure);

/* Valid from TT_ENGINE_READY until destroy; immutable; NULL before. */
const tt_model *tt_engine_model(const tt_engine *e);
const tt_tokenizer *tt_engine_tokenizer(const tt_engine *e);
int32_t tt_engine_max_context(const tt_engine *e);
const char *tt_engine_isa(const tt_engine *e);
/* "cpu", "cuda:0". */
const char *tt_engine_device(const tt_engine *e);
int tt_engine_threads(const tt_engine *e);

/* Admission: checks the parameters against model and caps and queues the job; the engine takes a
 * reference. TT_E_UNAVAILABLE (not ready), TT_E_BUSY (queue full), TT_E_CONTEXT_LENGTH (also when
 * the request cannot fit into the K/V pool even when it is empty), TT_E_INVALID. */
tt_code tt_engine_submit(tt_engine *e, tt_job *job, tt_err *reterr);
/* n jobs of one request, all or none (n samples, several prompts). */
tt_code tt_engine_submit_all(tt_engine *e, tt_job *const *jobs, int32_t n, tt_err *reterr);
/* After tt_job_cancel() or tt_job_pause(): an idle engine looks at its jobs at once. */
void tt_engine_kick(tt_engine *e);
/* Seconds after which a request refused with TT_E_BUSY may come again. */
int32_t tt_engine_retry_after(const tt_engine *e);

/* A session's adapter is pinned: it stays until as many unpins (fork pins it once more). Unknown
 * ids are ignored: the adapter was dropped. A job that was submitted before the unpin keeps the
 * adapters that it names to its end. TT_E_NOMEM: it is not pinned, and not to be unpinned. */
tt_code tt_engine_pin(tt_engine *e, uint64_t adapter_id, tt_err *reterr);
void tt_engine_unpin(tt_engine *e, uint64_t adapter_id);
/* With a state folder a pinned adapter is kept in a file too, may leave memory, and comes back when
 * a job names it. After a restart the server pins what its sessions have (once for each that has
 * it), then tells which ids are referred to at all: the files of all others are removed. copied;
 * any order of calls before or after TT_ENGINE_READY. */
void tt_engine_keep_adapters(tt_engine *e, const uint64_t *ids, size_t n);

/* How many leading tokens of a prompt are in K/V pages now, a multiple of 64 (it takes no page).
 * params: prompt, decoded, adapter_scope, adapter_id, qttt.context_tokens. */
int32_t tt_engine_cached_tokens(const tt_engine *e, const tt_job_params *params);
/* The same of pages in memory or on disk: how many need not be recomputed. */
int32_t tt_engine_stored_tokens(const tt_engine *e, const tt_job_params *params);
/* A job of this session waits for its pages to be read from disk. */
bool tt_engine_restoring(const tt_engine *e, uint64_t session_tag);
/* K/V bytes of one page of 64 tokens. */
size_t tt_engine_page_bytes(const tt_engine *e);

/* See job.h; the values are those of docs/qttt.md. */
void tt_qttt_defaults(tt_qttt_params *p);
void tt_qttt_resolve(tt_qttt_params *p);

typedef struct tt_engine_stats {
    int32_t queued, running, queued_jobs, running_jobs; /* jobs: trainings */
    /* used: held by sequences; cached: with content, held by nobody, not among the used */
    int64_t kv_pages_total, kv_pages_used, kv_pages_cached;
    int64_t kv_bytes_total, adapter_bytes, adapters, adapter_pinned_bytes;
    int64_t device_free_bytes, device_total_bytes; /* of a GPU, as it last said; 0 on the CPU */
    uint64_t device_reclaims; /* what was kept for later and given up for lack of its memory */
    int64_t adapters_unsaved; /* pinned, with a state folder, and without a file: it was told why */
    uint64_t prompt_tokens, cached_tokens, generated_tokens, trained_tokens, qttt_steps;
    uint64_t jobs_done, jobs_cancelled, jobs_failed;
    uint64_t preemptions, decode_steps, decode_rows; /* rows: without those of drafts */
    uint64_t drafted_tokens, accepted_tokens;        /* draft rows, and those that were right */
    uint64_t qttt_kept, qttt_discarded, qttt_failed, qttt_cached;
    bool pending; /* there is work that the thread does not sleep over (jobs that pause, a wait) */
    double last_progress_seconds;      /* monotonic time at which a piece of work last ended (a few
                                          layers at most), or at which the first arrived */
    int64_t page_runs, page_run_bytes; /* on disk */
    uint64_t restored_tokens;          /* whose K/V came from disk; cached_tokens has them too */
    uint64_t pages_written_bytes, pages_read_bytes;
    uint64_t page_runs_corrupt, page_runs_evicted, page_write_failures;
} tt_engine_stats;

void tt_engine_get_stats(const tt_engine *e, tt_engine_stats *ret_stats);

#endif
