/* idempotency_state.h - answers under an Idempotency-Key as rows of the state on disk (state_db.h):
 * written with what they acknowledge, read when the server starts, gone with their entries. Thread:
 * the loop thread. */
#ifndef TT_IDEMPOTENCY_STATE_H
#define TT_IDEMPOTENCY_STATE_H

#include "server/buf.h"
#include "server/idempotency.h"
#include "server/server.h"
#include "server/state_db.h"

/* s->idempotency, with what the state has of it. */
tt_code tt_idem_state_start(tt_server *s, tt_err *reterr);

/* The answer's row, into x. False: no memory; nothing of x may be committed. */
bool tt_idem_state_put(tt_server *s, tt_state_txn *x, const tt_idem_image *im);
/* Rows of entries that are gone are deleted: after each call of the store that may drop some. */
void tt_idem_state_flush(tt_server *s);

/* ---- one row; pure ---- */

/* The row's json (NUL-terminated) and blob. */
void tt_idem_row_write(tt_buf *json, tt_buf *blob, const tt_idem_image *im);
/* What a row says, but for `begun`; borrowed from row and from *keep, which the caller unrefs
 * (json_decref) also on failure. TT_E_INVALID, TT_E_UNSUPPORTED (of a later version), TT_E_NOMEM.
 */
struct json_t;
tt_code tt_idem_row_read(const tt_state_row *row, struct json_t **keep, tt_idem_image *ret,
                         tt_err *reterr);

#endif
