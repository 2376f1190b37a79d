/* log.h - the server's log: one line per record on stderr, as text or JSON. Thread: any.
 *
 * Once the writer runs (log_writer.h) a record costs its caller no system call; before, and in the
 * other commands, each is written at once. Whatever a client sent, a record stays one line: control
 * characters, those that turn the direction of text, and bytes that are no UTF-8 are escaped or
 * replaced. */
#ifndef TT_LOG_H
#define TT_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "server/buf.h"

typedef enum tt_log_level { TT_LOG_ERROR, TT_LOG_WARN, TT_LOG_INFO, TT_LOG_DEBUG } tt_log_level;

/* May be called again at any time. */
void tt_log_configure(tt_log_level level, int as_json);
tt_log_level tt_log_get_level(void);

void tt_log(tt_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A record with fields: begin; if that is true, fields and end. In text: "message key=value ...".
 */
typedef struct tt_log_record {
    tt_buf b;
    bool json;
} tt_log_record;

bool tt_log_begin(tt_log_record *r, tt_log_level level, const char *message);
/* key: static, [a-z_]. NULL or "" is left out. */
void tt_log_text(tt_log_record *r, const char *key, const char *value);
void tt_log_bytes(tt_log_record *r, const char *key, const char *value, size_t n);
void tt_log_int(tt_log_record *r, const char *key, int64_t value);
/* Milliseconds with three digits behind the point, of seconds. */
void tt_log_ms(tt_log_record *r, const char *key, double seconds);
void tt_log_end(tt_log_record *r);

/* The record that says so of n lost ones, for the writer. */
void tt_log_write_dropped(tt_buf *b, uint64_t n);

#endif
