/* log_writer.h - the way of the log's lines to stderr. A thread of its own writes them, so that a
 * reader who stalls (a full pipe, a slow disk) never stalls the server: what does not fit the
 * buffer meanwhile is dropped, counted, and told once there is room. One of it in a process.
 * Thread: any. */
#ifndef TT_LOG_WRITER_H
#define TT_LOG_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"

/* max_bytes: of lines that wait. TT_E_INTERNAL: no thread. */
tt_code tt_log_writer_start(size_t max_bytes, tt_err *reterr);
/* Waits until everything is written, `seconds` at most; then lines are written at once again. Legal
 * when it does not run. */
void tt_log_writer_stop(double seconds);

/* One line with its end. Never blocks while the thread runs; without it, writes. */
void tt_log_writer_put(const char *line, size_t n);
/* Lines that were dropped since the process began. */
uint64_t tt_log_writer_dropped(void);

#endif
