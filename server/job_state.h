/* job_state.h - qTTT jobs as rows of the state on disk (state_db.h): when they are written, and
 * what becomes of them when the server starts again. Thread: the loop thread.
 *
 * What a client is told of a job is committed before: its creation, and that it was asked to stop
 * or to pause, with the answer (http_commit.h); its end, and with it the session's new generation,
 * in one transaction, until which the event that ends it is kept back. Everything between is
 * written once a second. */
#ifndef TT_JOB_STATE_H
#define TT_JOB_STATE_H

#include "server/job_record.h"
#include "server/server.h"
#include "server/state_db.h"

/* The table's hooks; arg is the server. */
void tt_job_state_changed(void *arg, tt_job_record *r);
void tt_job_state_gone(void *arg, tt_job_record *r);
bool tt_job_state_hold(void *arg, tt_job_record *r, const tt_event *ev);

/* The record's row as it is now, into x; x NULL is one that memory failed for. TT_E_NOMEM, which
 * the commit tells too. */
tt_code tt_job_state_put(tt_state_txn *x, tt_job_record *r);

/* Reads the rows into s->jobs. After the sessions were: those that cannot go on have failed. */
tt_code tt_job_state_restore(tt_server *s, tt_err *reterr);
/* The model is there: jobs that had not ended are queued again, the oldest first, as far as the
 * queue takes them; those that are left when the table is read the next time, or a second later. So
 * does one for which memory was missing, or a read failed, for some minutes: then it has failed. */
void tt_job_state_resume(tt_server *s);
/* What was not written is. Later changes are not: the process ends, and what it cuts short goes on
 * in the next one. */
void tt_job_state_freeze(tt_server *s);

#endif
