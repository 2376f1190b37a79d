/* server.h - the state of a serving process, shared by the files of server/. Thread: the loop
 * thread owns it; fields marked "any" are set before other threads start or are atomic. */
#ifndef TT_SERVER_H
#define TT_SERVER_H

#include <stdatomic.h>
#include <uv.h>

#include "core/device_choice.h"
#include "core/engine.h"
#include "server/metrics.h"
#include "server/prompt.h"
#include "server/settings.h"
#include "server/tenant.h"

typedef enum tt_phase {
    TT_PHASE_LOADING, /* the model is being read: /readyz 503, work 503 */
    TT_PHASE_READY,
    TT_PHASE_LEAVING,  /* SIGTERM came: /readyz 503, work is still taken for drain.delay_seconds */
    TT_PHASE_DRAINING, /* new work 503, running answers finish */
    TT_PHASE_STOPPING  /* everything is being closed */
} tt_phase;

typedef struct tt_server {
    const tt_settings *settings; /* any */
    tt_device_found device;      /* any: what the engine was told to run on */
    uv_loop_t loop;
    uv_async_t wake; /* any: jobs have events, or the engine has changed state */
    tt_engine *engine;
    tt_served *served; /* NULL until ready; then constant until stop: any */
    tt_phase phase;
    struct tt_http *http;
    struct tt_state_db *state; /* what outlives the process; NULL = off */
    bool keyed;                /* there are API keys: tenants below */
    tt_tenants tenants;
    struct tt_idem *idempotency;       /* what ran under an Idempotency-Key */
    struct tt_state_txn *idem_deletes; /* rows of entries that are gone; NULL = none */
    struct tt_job_table *jobs;         /* qTTT jobs, those of requests too */
    struct tt_job_stream *job_streams; /* list of clients that follow one */
    uv_timer_t job_timer;              /* rows of running jobs are written (job_state.h) */
    int32_t jobs_waiting;              /* of before a restart, not queued again yet */
    double jobs_stuck_since;           /* monotonic: the oldest of them failed; 0 = it did not */
    double jobs_retry_at;              /* monotonic: when it may be tried again */
    bool jobs_loading;                 /* the oldest of them waits for its session's tokens */
    bool jobs_frozen;                  /* the process ends: their rows stay as they are */
    struct tt_generation *generations; /* list of running ones */
    int32_t n_generations;
    struct tt_diagnostics *diagnostics;     /* list of running ones */
    struct tt_work *work_first, *work_last; /* waiting for a worker */
    int32_t n_working;
    tt_metrics metrics;
    struct tt_health *health;
    struct tt_session_store *sessions;
    uv_timer_t flush_timer;   /* writes what of sessions nobody was told of */
    uv_timer_t session_timer; /* deletes what has been idle too long */
    uv_timer_t tick;          /* heartbeats of streams */
    uv_timer_t drain_timer;   /* ends a phase of draining */
    uv_signal_t sigterm, sigint;
    char state_dir[4000];                         /* constant after the start: any; "" = off */
    char page_folder[4040], adapter_folder[4040]; /* constant after the start: K/V pages in it */
    bool state_degraded;                          /* as last seen, for the log */
    bool sessions_unreadable;                     /* rows of some were left alone */
    struct tt_reload *reload;                     /* SIGHUP */
    int exit_status, engine_seen;
    double drain_deadline; /* monotonic */
    double started;        /* monotonic seconds */
    int64_t started_unix;
    atomic_int engine_state; /* any: written by the engine thread */
    tt_err engine_error;     /* written before engine_state becomes TT_ENGINE_FAILED or _LOST */
} tt_server;

/* A callback of other threads: &server->wake. */
static inline void tt_server_wake(void *wake)
{
    uv_async_send(wake);
}

/* Asks for tt_generations_tick and tt_job_streams_tick as soon as one can be due. */
void tt_server_arm_tick(tt_server *s);

/* Monotonic seconds. Any thread. */
double tt_now(void);
/* Seconds since 1970. Any thread. */
double tt_unix_now(void);

#endif
