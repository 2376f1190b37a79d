/* job_json.h - the JSON of qTTT jobs and of their events, as openapi.yaml has it. Thread: the loop
 * thread. */
#ifndef TT_JOB_JSON_H
#define TT_JOB_JSON_H

#include "server/buf.h"
#include "server/job_record.h"

/* now: Unix seconds. */
void tt_job_json_write(tt_buf *b, const tt_job_record *r, double now);
void tt_job_json_event(tt_buf *b, const tt_job_event *ev);

#endif
