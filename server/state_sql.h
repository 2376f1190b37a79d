/* state_sql.h - the SQLite file itself: open, migrate, check, put, delete, read. The only file that
 * knows SQLite. Thread: one at a time. */
#ifndef TT_STATE_SQL_H
#define TT_STATE_SQL_H

#include "server/state_db.h"

typedef struct tt_state_sql tt_state_sql;

/* PATH is made when it is missing. TT_E_UNSUPPORTED: of a newer version. TT_E_MODEL: not a
 * database, or corrupt. TT_E_IO: cannot be opened or written.
 * `check`: it is read from end to end when it is not huge. */
tt_code tt_state_sql_open(const char *path, bool check, tt_state_sql **ret, tt_err *reterr);
/* The log is merged into the file. *sql may be NULL. */
void tt_state_sql_close(tt_state_sql **sql);

/* Between begin and commit (or rollback) put and delete. After a failure: rollback. */
tt_code tt_state_sql_begin(tt_state_sql *s, tt_err *reterr);
tt_code tt_state_sql_put(tt_state_sql *s, tt_state_table t, const tt_state_row *row,
                         tt_err *reterr);
tt_code tt_state_sql_delete(tt_state_sql *s, tt_state_table t, const tt_state_row *key,
                            tt_err *reterr);
/* Writes something, so that a commit is one. */
tt_code tt_state_sql_touch(tt_state_sql *s, tt_err *reterr);
tt_code tt_state_sql_commit(tt_state_sql *s, tt_err *reterr);
void tt_state_sql_rollback(tt_state_sql *s);

/* A row with its strings in one block of memory. */
typedef struct tt_state_found {
    tt_state_row row;
} tt_state_found;
/* *ret: malloc'ed, NULL = there is none. */
tt_code tt_state_sql_get(tt_state_sql *s, tt_state_table t, const tt_state_row *key,
                         tt_state_found **ret, tt_err *reterr);
tt_code tt_state_sql_each(tt_state_sql *s, tt_state_table t, bool keys_only,
                          tt_code (*row)(void *arg, const tt_state_row *r), void *arg,
                          tt_err *reterr);
int64_t tt_state_sql_file_bytes(tt_state_sql *s);

#endif
