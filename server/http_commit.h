/* http_commit.h - answers that go out when what they acknowledge is in the file (state_db.h). A
 * handler changes what is in memory, adds rows to its request's transaction and answers as always;
 * the answer, or what of a stream comes after tt_http_txn(), waits here until the transaction is
 * committed. Thread: the loop thread. */
#ifndef TT_HTTP_COMMIT_H
#define TT_HTTP_COMMIT_H

#include "server/http.h"
#include "server/state_db.h"

/* The request's transaction, begun by the first call; committed by the answer (below 300) or by the
 * stream's end, also when the client has left, and dropped with an error answer. NULL is legal for
 * whoever adds rows: memory ran out, and the answer will say so. */
tt_state_txn *tt_http_txn(tt_http_request *req);
/* end is called once, before the client is told: rc < 0: nothing was committed (or the answer is an
 * error, TT_E_CANCELLED); then it undoes what was changed in memory, and may commit nothing. One
 * for a request. */
void tt_http_txn_end(tt_http_request *req, void (*end)(void *arg, tt_code rc), void *arg);

/* ---- http_reply.c and http.c ---- */

/* A whole answer lies in req (status, content_type, out). True: it goes out, or an error in its
 * place, by tt_http_send_committed(). */
bool tt_http_commit_reply(tt_http_request *req);
/* A stream's end has been written. True: it waits. */
bool tt_http_commit_stream(tt_http_request *req);
/* Bytes of a stream that may be read now. */
size_t tt_http_commit_readable(const tt_http_request *req);
/* The first n bytes of the stream's buffer are gone. */
void tt_http_commit_consumed(tt_http_request *req, size_t n);
/* No answer will come of it any more. */
void tt_http_commit_drop(tt_http_request *req);

/* http_reply.c: what lies in req goes out. */
void tt_http_send_committed(tt_http_request *req);

#endif
