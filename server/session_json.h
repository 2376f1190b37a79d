/* session_json.h - the session object of docs/api.md. Thread: the loop thread. */
#ifndef TT_SESSION_JSON_H
#define TT_SESSION_JSON_H

#include "server/session_store.h"

/* engine: for the K/V that are in memory now. model: the served name. */
void tt_session_write(tt_buf *b, const tt_session_record *r, const tt_engine *engine,
                      const char *model);

/* Bytes of the K/V pages that hold its context and head now, also those that it shares. */
int64_t tt_session_kv_bytes(const tt_session_record *r, const tt_engine *engine);

#endif
