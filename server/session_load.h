/* session_load.h - tokens and texts of a session leave memory when it gets short, and are read
 * back when a request needs them. What is known without them: everything that its object tells.
 * Thread: the loop thread; the reading is done by state_db.h's writer. */
#ifndef TT_SESSION_LOAD_H
#define TT_SESSION_LOAD_H

#include "server/http.h"
#include "server/session_store.h"

/* It has messages, in memory or not: an append or extend can go on from them. */
bool tt_session_has_text(const tt_session_record *r);

/* Whether requests can run in it; what they cannot is *reterr's: it is another model's, or damaged
 * on disk. */
tt_code tt_session_usable(const tt_session_record *r, tt_err *reterr);

/* Tokens and texts are in memory, or nothing is missing. */
bool tt_session_in_memory(const tt_session_record *r);
/* Reads them; l->go is called later, or from within this when memory runs out. Only when they are
 * not in memory. */
void tt_session_load(tt_session_record *r, tt_session_loader *l);
/* Legal for one that does not wait. */
void tt_session_stop_loading(tt_session_record *r, tt_session_loader *l);
/* The same at once: while the server starts. TT_E_STATE, TT_E_NOMEM. */
tt_code tt_session_load_now(tt_session_record *r, tt_err *reterr);

/* True: the handler can go on with r. False: it will be called again when the tokens are in
 * memory, or the request is answered (the session cannot be used). Before tt_http_once(). */
bool tt_session_load_first(tt_http_request *req, tt_session_record *r);

/* Takes what of it is on disk out of memory, when nobody uses it. */
bool tt_session_unload_record(tt_session_record *r);
/* The one that was used least recently; false: there is none. */
bool tt_session_unload_oldest(tt_session_store *st);

#endif
