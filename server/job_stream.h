/* job_stream.h - clients that follow the events of a qTTT job (text/event-stream). Thread: the loop
 * thread.
 *
 * A stream reads the job's own log: it takes the next event only while less than stream.backlog
 * bytes wait for its client, so that a slow reader holds nothing, and may find a gap in the numbers
 * when the log was shorter than its delay. */
#ifndef TT_JOB_STREAM_H
#define TT_JOB_STREAM_H

#include "server/http.h"
#include "server/job_record.h"
#include "server/server.h"

/* Answers `req` with the events numbered above `after`, those that come, and [DONE] when the job
 * has ended. */
void tt_job_stream_start(tt_http_request *req, tt_job_record *r, int64_t after);

/* Heartbeats that are due; returns milliseconds until the next, 0 = nobody follows. */
uint64_t tt_job_streams_tick(tt_server *s);
/* The server stops: each stream gets an error event. */
void tt_job_streams_cut(tt_server *s);

#endif
