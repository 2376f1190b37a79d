/* metrics.h - counters and histograms of the server, and their Prometheus text. The engine's own
 * counters are read from tt_engine_get_stats when a page is made. Thread: the loop thread. */
#ifndef TT_METRICS_H
#define TT_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/engine.h"
#include "server/buf.h"
#include "server/state_db.h"

enum {
    TT_HISTOGRAM_BUCKETS = 18,
    TT_METRICS_STATUSES = 32, /* of these three, what finds no place counts in the last, "other" */
    TT_METRICS_REASONS = 64,
    TT_METRICS_MISSES = 8
};

typedef struct tt_histogram {
    uint64_t
        count[TT_HISTOGRAM_BUCKETS]; /* not cumulative; the last one is what is above every bound */
    double sum;
} tt_histogram;

typedef struct tt_metrics_reason {
    const char *reason; /* static; NULL = free */
    uint64_t n;
} tt_metrics_reason;

typedef struct tt_metrics {
    tt_histogram first_token, inter_token, queue, prefill, decode, end_to_end,
        qttt_step; /* seconds */
    struct {
        int status;
        uint64_t n;
    } by_status[TT_METRICS_STATUSES];
    tt_metrics_reason rejected[TT_METRICS_REASONS], session_misses[TT_METRICS_MISSES];
    uint64_t succeeded, failed, cancelled; /* generations */
    uint64_t clients_left;
    uint64_t connections_late, connections_shed; /* closed early, see http_guard.c */
    uint64_t reloads, reloads_failed;            /* of settings and keys, on SIGHUP */
    uint64_t qttt_succeeded, qttt_skipped, qttt_failed, qttt_cancelled;
} tt_metrics;

void tt_histogram_add(tt_histogram *h, double seconds);
/* A finished HTTP request. */
void tt_metrics_request(tt_metrics *m, int status, bool complete);
/* An error answer; reason: the error's code, may be NULL. */
void tt_metrics_rejected(tt_metrics *m, int status, const char *reason);
/* A prompt did not go on from what its session has. */
void tt_metrics_session_miss(tt_metrics *m, const char *reason);
/* The outcome of an adaptation: tt_qttt_result.status. */
void tt_metrics_qttt(tt_metrics *m, const char *status);

/* What is read from elsewhere when a page is made. */
typedef struct tt_metrics_page {
    const char *model_name; /* NULL while loading */
    double uptime_seconds, started_unix;
    bool ready, draining, alive; /* as the probes say */
    double stalled_seconds;      /* health.h */
    uint64_t stalls;
    int open_requests;
    int max_context;
    int64_t sessions, session_bytes;
    const char *device, *kernels; /* NULL while loading */
    tt_cuda_info gpu;             /* name "": none */
    bool state_on, state_degraded;
    tt_state_counts state;
    int64_t max_requests, max_queued_jobs, max_sessions, adapter_bytes_limit; /* settings */
} tt_metrics_page;

void tt_metrics_write(tt_buf *b, const tt_metrics *m, const tt_engine_stats *st,
                      const tt_metrics_page *page);

#endif
