/* traceparent.h - the trace that a request belongs to: the header of W3C Trace Context (level 1,
 * section 3.2), version 00 and what later versions promise to keep. Thread: any. */
#ifndef TT_TRACEPARENT_H
#define TT_TRACEPARENT_H

#include <stdbool.h>

enum { TT_TRACE_ID_BYTES = 33, TT_SPAN_ID_BYTES = 17, TT_TRACEPARENT_BYTES = 56 };

typedef struct tt_trace {
    char trace_id[TT_TRACE_ID_BYTES]; /* "" = the request belongs to none */
    char parent_id[TT_SPAN_ID_BYTES]; /* the caller's span */
    char span_id[TT_SPAN_ID_BYTES];   /* ours */
    unsigned flags;                   /* 1: sampled */
} tt_trace;

/* Reads a header's value and draws a span of our own. NULL, or one that the standard calls invalid:
 * false, and *ret is of no trace. */
bool tt_trace_begin(tt_trace *ret, const char *header);
/* What goes back: the trace with our span, version 00. "" without a trace. */
void tt_trace_write(const tt_trace *t, char ret[TT_TRACEPARENT_BYTES]);

#endif
