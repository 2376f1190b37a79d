/* session_setup.h - the server's session store: made from the settings, swept by a timer that runs
 * only while a session can expire. Thread: the loop thread. */
#ifndef TT_SESSION_SETUP_H
#define TT_SESSION_SETUP_H

#include "server/http.h"
#include "server/server.h"
#include "server/session_store.h"

/* s->sessions; the loop's session_timer is made. */
tt_code tt_sessions_start(tt_server *s, tt_err *reterr);
/* The model is there: what was read from the disk can be used, but for sessions of another one. */
void tt_sessions_ready(tt_server *s);
/* Writes what is not written yet; before the state is closed. */
void tt_sessions_flush(tt_server *s);
/* Frees the store. After the engine is gone, before the table of jobs is. */
void tt_sessions_end(tt_server *s);
/* A session's time has changed: the timer is set anew. */
void tt_sessions_arm(tt_server *s);

/* The key that a request names: the header of the settings, else X-OpenWebUI-Chat-Id; NULL = none.
 * While it is being dispatched. */
const char *tt_sessions_header(tt_http_request *req);
/* The session of the path's {id}; NULL: the request has been answered with 404. */
tt_session_record *tt_sessions_of_path(tt_http_request *req);

#endif
