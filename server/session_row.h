/* session_row.h - a session as a row of the state on disk: the record as JSON, its tokens and texts
 * by the keys of session_content.h. Thread: the loop thread. */
#ifndef TT_SESSION_ROW_H
#define TT_SESSION_ROW_H

#include "server/session_store.h"
#include "server/state_db.h"

/* Appends the object. The keys of what is in memory are set (session_state.c). */
void tt_session_row_write(tt_buf *b, const tt_session_record *r);

/* What a row says. */
typedef struct tt_session_row {
    char id[TT_SESSION_ID_BYTES], scope[40], model[TT_SESSION_MODEL];
    char text_key[TT_SESSION_PART_KEY], context_text_key[TT_SESSION_PART_KEY]; /* "" = none */
    int64_t created_at;
    double last_used, ttl_seconds; /* Unix seconds; idle time */
    bool implicit, answered, have_qttt, alias;
    int64_t n_jobs;
    char *metadata; /* owned */
    json_t *qttt;   /* owned, or NULL */
    tt_session_image image;
    tt_session_generation *generations; /* owned: the image's */
} tt_session_row;

/* TT_E_INVALID: it is not what write makes. TT_E_NOMEM. */
tt_code tt_session_row_read(const tt_state_row *row, tt_session_row *ret, tt_err *reterr);
void tt_session_row_finish(tt_session_row *row);

#endif
