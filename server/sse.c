/* sse.c - see sse.h. */
#include "server/sse.h"

void tt_sse_begin(tt_buf *b)
{
    tt_buf_puts(b, "data: ");
}

void tt_sse_end(tt_buf *b)
{
    tt_buf_puts(b, "\n\n");
}

void tt_sse_heartbeat(tt_buf *b)
{
    tt_buf_puts(b, ": keep-alive\n\n");
}

void tt_sse_done(tt_buf *b)
{
    tt_buf_puts(b, "data: [DONE]\n\n");
}

void tt_sse_error(tt_buf *b, const tt_http_error *e)
{
    tt_sse_begin(b);
    tt_error_write(b, e);
    tt_sse_end(b);
}
