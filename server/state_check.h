/* state_check.h - whether everything under a state.dir is what was written: the database and its
 * rows, and every file's sums. Nothing is changed but what opening the database does. Thread: any.
 */
#ifndef TT_STATE_CHECK_H
#define TT_STATE_CHECK_H

#include "server/state_db.h"

typedef struct tt_state_report {
    int64_t rows[TT_STATE_TABLES];
    int64_t files, file_bytes; /* runs of pages and adapters */
    int64_t unfinished;        /* files that a crash left half written: removed at the next start */
    int64_t lost; /* adapters of sessions without a file: the disk failed when it was to be
                     written, and the server ended before it could be */
    int64_t faults;
} tt_state_report;

/* tell: each fault and each adapter that is lost, as a sentence without a full stop. TT_OK: all was
 * read; ret->faults says how it is. TT_E_IO: there is no such folder, or no database in it. */
tt_code tt_state_check(const char *dir, void (*tell)(void *arg, const char *what), void *arg,
                       tt_state_report *ret, tt_err *reterr);

#endif
