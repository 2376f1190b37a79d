/* sse.h - the text/event-stream framing of docs/api.md: one `data:` line and a blank line per
 * event, comments as heartbeats. Thread: any, works on the caller's buffer. */
#ifndef TT_SSE_H
#define TT_SSE_H

#include "server/buf.h"
#include "server/error_map.h"

/* Between these two the caller appends one JSON text without line breaks (tt_buf_put_json never
 * writes one). */
void tt_sse_begin(tt_buf *b);
void tt_sse_end(tt_buf *b);

void tt_sse_heartbeat(tt_buf *b); /* ": keep-alive" */
void tt_sse_done(tt_buf *b);      /* "data: [DONE]" */
void tt_sse_error(tt_buf *b, const tt_http_error *e);

#endif
