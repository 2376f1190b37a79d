/* log.h - the server's log: one line per record on stderr, as text or JSON. Thread: any; a line is
 * one write(). */
#ifndef TT_LOG_H
#define TT_LOG_H

typedef enum tt_log_level { TT_LOG_ERROR, TT_LOG_WARN, TT_LOG_INFO, TT_LOG_DEBUG } tt_log_level;

/* Before the first thread starts. */
void tt_log_configure(tt_log_level level, int as_json);
tt_log_level tt_log_get_level(void);

void tt_log(tt_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
