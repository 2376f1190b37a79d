/* http_once.h - requests with an Idempotency-Key run once (idempotency.h). A handler that creates
 * something asks first; what it then answers, whole or as a stream, is kept by http_reply.c.
 * Thread: the loop thread. */
#ifndef TT_HTTP_ONCE_H
#define TT_HTTP_ONCE_H

#include "server/http.h"
#include "server/state_db.h"

/* of: what the request is about when neither path nor body say it (the session that a header
 * names), else "".
 *
 * Call before the body is released, while the request is being dispatched or its worker's `done`
 * runs. True: go on; without the header nothing else happens. False: answered (the stored result
 * again; 409 while the first one runs; 400 for another body or a bad key), and nothing may be done.
 *
 * What is kept: answers below 300, and streams that end in [DONE]. After any other end (an error,
 * or the client has left before there was an answer) nothing was done and the key is free, so that
 * a retry runs. */
bool tt_http_once(tt_http_request *req, const char *of);

/* ---- http_reply.c and http.c ---- */

/* Copies what of a stream's buffer was not copied yet; before bytes of it are dropped. */
void tt_http_once_stream(tt_http_request *req);
/* The stream has ended. One that is not complete was for nothing: the key is free. */
void tt_http_once_stream_end(tt_http_request *req);

/* ---- http_commit.c: a whole answer lies in req, or a stream's text is kept ---- */

/* The answer's row, into the transaction of what it acknowledges. False: no memory. */
bool tt_http_once_put(tt_http_request *req, tt_state_txn *x);
/* That is committed: from now on the answer is given again. */
void tt_http_once_keep(tt_http_request *req);
/* The request's memory goes. */
void tt_http_once_release(tt_http_request *req);

#endif
