/* job_log.h - the numbered events of one qTTT job, bounded: when the log is full the oldest step
 * goes, then the oldest of what is left; a number is never used twice, so that a reader sees the
 * gap. Thread: the loop thread. */
#ifndef TT_JOB_LOG_H
#define TT_JOB_LOG_H

#include <stdbool.h>
#include <stdint.h>

typedef enum tt_job_event_type {
    TT_JOB_EVENT_STEP,
    TT_JOB_EVENT_PROBE,
    TT_JOB_EVENT_STATUS
} tt_job_event_type;
typedef enum tt_job_level { TT_JOB_INFO, TT_JOB_WARN, TT_JOB_ERROR } tt_job_level;

typedef struct tt_job_event {
    int64_t number;     /* 1, 2, ...: sequence_number */
    int64_t created_at; /* Unix seconds */
    tt_job_event_type type;
    tt_job_level level;
    union {
        struct {
            int32_t step, span_start, span_tokens; /* step: 1 is the first */
            double loss, grad_norm, learning_rate, seconds;
        } step;
        struct {
            bool after;          /* of training; else before it */
            double recall, span; /* nats a token */
        } probe;
        struct {
            const char *status; /* static: the job's status from here on */
            char reason[48];    /* "" = none */
        } status;
    } u;
} tt_job_event;

typedef struct tt_job_log {
    tt_job_event *v; /* owned [cap]; v[0, n) by number */
    int32_t n, cap, max;
    int64_t last; /* number given last; 0 = none yet */
    int64_t lost; /* events that are no longer there, or for which memory failed */
} tt_job_log;

/* max: events kept, >= 1. */
void tt_job_log_init(tt_job_log *log, int32_t max);
void tt_job_log_finish(tt_job_log *log);
/* Gives *ev the next number and keeps a copy; without memory only the number is used up. */
void tt_job_log_add(tt_job_log *log, const tt_job_event *ev);
/* The first event with a number above `after`, NULL when there is none; the following ones lie
 * behind it, *ret_n with it. Borrowed until the next add. */
const tt_job_event *tt_job_log_after(const tt_job_log *log, int64_t after, int32_t *ret_n);
/* No event will follow: memory that is not needed goes. */
void tt_job_log_close(tt_job_log *log);

#endif
