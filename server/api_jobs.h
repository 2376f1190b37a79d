/* api_jobs.h - what the handlers of jobs share with those of a session's jobs. Thread: the loop
 * thread. */
#ifndef TT_API_JOBS_H
#define TT_API_JOBS_H

#include "server/http.h"
#include "server/job_record.h"

/* Answers with the job's object. */
void tt_api_job_reply(tt_http_request *req, int status, const tt_job_record *r);
/* Answers with a list by the request's query; session_id NULL: of the API key. */
void tt_api_jobs_list_of(tt_http_request *req, const char *session_id);

#endif
