/* job_row.h - a job's record as a row of the state on disk (state_db.h), and back: the record as
 * JSON text, its events as a second text beside it. Pure. Thread: the loop thread. */
#ifndef TT_JOB_ROW_H
#define TT_JOB_ROW_H

#include "server/buf.h"
#include "server/job_record.h"
#include "server/state_db.h"

/* The row's json, NUL-terminated: everything that is constant or readable, what was asked of it,
 * and the log's counters. Tenant and id are the row's own. */
void tt_job_row_write(tt_buf *b, const tt_job_record *r);
/* The row's blob: a list of the retained events, the oldest first. */
void tt_job_row_write_events(tt_buf *b, const tt_job_log *log);

/* A record without engine's jobs and in no table, with at most max_events of its events, the
 * newest; *ret_record: the caller's reference. TT_E_UNSUPPORTED: of a later version; TT_E_INVALID
 * names what is wrong; TT_E_NOMEM. */
tt_code tt_job_row_read(const tt_state_row *row, int32_t max_events, tt_job_record **ret_record,
                        tt_err *reterr);

#endif
