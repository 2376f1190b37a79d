/* job_setup.h - the server's qTTT jobs: the table made from the settings, and the jobs that train
 * on a session. Thread: the loop thread. */
#ifndef TT_JOB_SETUP_H
#define TT_JOB_SETUP_H

#include "server/api_qttt.h"
#include "server/job_record.h"
#include "server/server.h"
#include "server/session_store.h"

/* s->jobs. */
tt_code tt_jobs_start(tt_server *s, tt_err *reterr);

/* Queues a job that trains on the context of a session; what it keeps becomes the session's next
 * generation. metadata: JSON text of an object, or NULL. *ret_record: a reference for the caller.
 * Errors are those of tt_engine_submit(): then there is no job. */
tt_code tt_jobs_train(tt_server *s, tt_session_record *ses, const tt_qttt_request *q,
                      const char *metadata, tt_job_record **ret_record, tt_err *reterr);

/* A record read from the state goes on: its job is queued again, with the same parameters. Errors
 * are those of tt_engine_submit(): then nothing has changed. */
tt_code tt_jobs_go_on(tt_server *s, tt_job_record *r, tt_err *reterr);

/* The prefill of a new session has ended: when the session's default is mode "on", its job begins.
 * A job that is not accepted is logged; the next request with mode "on" trains. */
void tt_jobs_session_prefilled(tt_server *s, tt_session_record *ses);

#endif
