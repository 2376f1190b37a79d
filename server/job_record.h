/* job_record.h - what clients see of one qTTT job: its state, result and events, fed by the events
 * of the engine's job (core/job.h). Jobs of POST .../qttt/jobs and trainings inside of a chat or
 * completions request are the same kind of record. Thread: the loop thread.
 *
 * A record is reference-counted: job_table.h's table holds one reference while the record can be
 * found, whoever opened it one, every follower one. */
#ifndef TT_JOB_RECORD_H
#define TT_JOB_RECORD_H

#include "core/job.h"
#include "server/job_log.h"

enum { TT_JOB_ID_BYTES = 96, TT_SCOPE_BYTES = 40, TT_JOB_WORDS = 3, TT_JOB_WORD_BYTES = 48 };

typedef enum tt_job_status {
    TT_JOB_QUEUED,
    TT_JOB_RUNNING,
    TT_JOB_PAUSED,
    TT_JOB_SUCCEEDED, /* this and what follows is final */
    TT_JOB_FAILED,
    TT_JOB_CANCELLED
} tt_job_status;

typedef struct tt_job_record tt_job_record;
typedef struct tt_job_table tt_job_table;

/* Called when events were added or the record has ended; it may unfollow itself. */
typedef struct tt_job_follower {
    void (*on_change)(struct tt_job_follower *f);
    tt_job_record *record; /* a reference; NULL = follows nothing */
    struct tt_job_follower *next;
} tt_job_follower;

struct tt_job_record {
    /* ---- constant ---- */
    char id[TT_JOB_ID_BYTES];         /* qttt_<key>_<n> */
    char scope[TT_SCOPE_BYTES];       /* tenant */
    char key[TT_JOB_ID_BYTES];        /* the session's, or of a request of its own */
    char session_id[TT_JOB_ID_BYTES]; /* "" = none */
    int32_t n;
    bool in_request; /* trained inside of a request, which goes on when the training is cancelled */
    char *model, *metadata; /* owned; metadata is the text of a JSON object */
    int32_t n_context;      /* tokens */
    uint64_t context_hash;  /* of them: another context is another job */
    /* ---- readable ---- */
    tt_job_status status;
    tt_qttt_params params;                      /* resolved */
    double created_at, started_at, finished_at; /* Unix seconds; 0 = not yet */
    bool have_result;
    tt_qttt_result result;
    int32_t generation_before, generation_after; /* set by `publish` for a session */
    char error_code[48], error_message[256];     /* of FAILED */
    int32_t steps_done;
    tt_job_log log;
    bool cancel_asked, pause_asked;
    /* ---- private ---- */
    bool saved;     /* it has a row (job_state.h) */
    bool unwritten; /* changed since its row was written */
    bool restored;  /* read from its row, and nothing was decided yet */
    bool unchecked; /* restored, and its session could not be read yet to see whether it goes on */
    bool unsaved;   /* its row could not be written the last time */
    tt_job_status row_status;
    tt_event *held; /* owned: the event that ends it, until its row is written; NULL = none */
    double held_at; /* Unix seconds */
    int32_t held_generation; /* that its adapter becomes, 0 = none */
    char words[TT_JOB_WORDS]
              [TT_JOB_WORD_BYTES]; /* what the texts of a result read from a row are */
    tt_job **jobs;  /* owned [n_jobs]: references while it can be cancelled; the samples of a
                       request share one training */
    int32_t n_jobs; /* 0: it cannot */
    int refs;
    tt_job_table *table;        /* NULL: it cannot be found any more */
    tt_job_record *prev, *next; /* of the table, newest first */
    tt_job_record *live_next;
    tt_job_follower *followers;
    int64_t trained_tokens;
    double step_seconds; /* from the end of one step to that of the next, smoothed; 0 = not known */
    double last_step_at; /* 0: what comes next is no such time */
    double busy_seconds; /* of all steps, as the engine measured them */
    bool live;           /* in the table's list of jobs to read */
    void (*publish)(tt_job_record *r, void *arg);
    void (*release)(void *arg);
    void *arg;
};

/* ---- reading ---- */

/* Of a context, ids [n]: records with the same hash trained on the same tokens. */
uint64_t tt_job_context_hash(const int32_t *ids, int32_t n);
const char *tt_job_status_text(tt_job_status status);
bool tt_job_record_ended(const tt_job_record *r);
/* What is seen of it survives the process. */
bool tt_job_record_durable(const tt_job_record *r);
/* Unix seconds at which it will have ended, from the measured time of its steps and its budget; 0 =
 * not known (queued, paused, no step measured). */
double tt_job_record_estimate(const tt_job_record *r, double now);
/* Tasks before it (0 = next) and why it waits; -1 when it does not. */
int32_t tt_job_record_position(const tt_job_record *r, const char **ret_reason);

/* ---- changing ---- */

/* One event of the engine's job; those that tell nothing about training are ignored, and all after
 * the end. Followers are called. now: Unix seconds. */
void tt_job_record_feed(tt_job_record *r, const tt_event *ev, double now);
/* Whether this event would end it. */
bool tt_job_record_ends(const tt_job_record *r, const tt_event *ev);
/* What it will be after an event, in a record that only the writer of rows may look at, until
 * tt_job_record_preview_finish(). generation: that a kept adapter becomes, 0 = none. False: no
 * memory. */
bool tt_job_record_preview(const tt_job_record *r, const tt_event *ev, double now,
                           int32_t generation, tt_job_record *ret);
void tt_job_record_preview_finish(tt_job_record *preview);
/* The process that trained it has ended: a record that has not goes on as queued (or paused), from
 * its first step, or has failed with the code server_restarted, or is cancelled where that was
 * asked for. The numbers of its events go
 * on behind a gap. */
void tt_job_record_restart(tt_job_record *r, double now);
void tt_job_record_lost(tt_job_record *r, const char *why, double now);
/* The engine's jobs [n] that go on with it, referenced; r has none. TT_E_NOMEM. */
tt_code tt_job_record_attach(tt_job_record *r, tt_job *const *jobs, int32_t n, tt_err *reterr);
/* The engine's job will tell nothing more: a record that has not ended is cancelled. */
void tt_job_record_close(tt_job_record *r, double now);
/* Asks the engine; what comes of it comes as events. Idempotent; without effect after the end. The
 * caller calls tt_engine_kick(). */
void tt_job_record_cancel(tt_job_record *r);
void tt_job_record_pause(tt_job_record *r, bool paused);

void tt_job_record_ref(tt_job_record *r);
/* *r may be NULL and becomes it. */
void tt_job_record_unref(tt_job_record **r);

void tt_job_record_follow(tt_job_record *r, tt_job_follower *f);
/* Legal when f follows nothing. */
void tt_job_record_unfollow(tt_job_follower *f);

#endif
