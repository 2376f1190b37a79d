/* job_log.c - see job_log.h. */
#include "server/job_log.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void tt_job_log_init(tt_job_log *log, int32_t max)
{
    assert(max >= 1);
    *log = (tt_job_log){.max = max};
}

void tt_job_log_finish(tt_job_log *log)
{
    free(log->v);
    *log = (tt_job_log){.max = log->max};
}

/* Makes a place at the end of a full log. */
static void drop_one(tt_job_log *log)
{
    int32_t i = 0;
    while (i < log->n && log->v[i].type != TT_JOB_EVENT_STEP) {
        i++;
    }
    i = i < log->n ? i : 0;
    memmove(log->v + i, log->v + i + 1, (size_t)(log->n - i - 1) * sizeof *log->v);
    log->n--;
    log->lost++;
}

void tt_job_log_add(tt_job_log *log, const tt_job_event *ev)
{
    log->last++;
    if (log->n == log->max) {
        drop_one(log);
    }
    if (log->n == log->cap) {
        int32_t cap = log->cap > log->max / 2 ? log->max : log->cap > 0 ? log->cap * 2 : 16;
        cap = cap < log->max ? cap : log->max;
        tt_job_event *v = realloc(log->v, (size_t)cap * sizeof *v);
        if (v == NULL) {
            log->lost++;
            return;
        }
        log->v = v;
        log->cap = cap;
    }
    log->v[log->n] = *ev;
    log->v[log->n++].number = log->last;
}

const tt_job_event *tt_job_log_after(const tt_job_log *log, int64_t after, int32_t *ret_n)
{
    int32_t lo = 0, hi = log->n;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (log->v[mid].number <= after) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    *ret_n = log->n - lo;
    return lo < log->n ? log->v + lo : NULL;
}

void tt_job_log_close(tt_job_log *log)
{
    if (log->n > 0 && log->n < log->cap) {
        tt_job_event *v = realloc(log->v, (size_t)log->n * sizeof *v);
        if (v != NULL) {
            log->v = v;
            log->cap = log->n;
        }
    }
}
