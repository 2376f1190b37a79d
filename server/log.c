/* log.c - see log.h. */
#include "server/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/buf.h"

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static tt_log_level max_level = TT_LOG_INFO;
static int json_lines;

void tt_log_configure(tt_log_level level, int as_json)
{
    max_level = level;
    json_lines = as_json;
}

tt_log_level tt_log_get_level(void)
{
    return max_level;
}

static void write_line(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(STDERR_FILENO, p, n);
        if (w <= 0) {
            return; /* nobody reads the log: the server goes on */
        }
        p += w;
        n -= (size_t)w;
    }
}

void tt_log(tt_log_level level, const char *fmt, ...)
{
    if (level > max_level) {
        return;
    }
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0) {
        return;
    }
    for (char *c = text; *c != '\0'; c++) { /* a record stays one line whatever a client sent */
        if ((unsigned char)*c < 0x20 || *c == 0x7F) {
            *c = '?';
        }
    }
    struct timespec ts;
    struct tm tm;
    char when[40];
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t k = strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when + k, sizeof when - k, ".%03ldZ", ts.tv_nsec / 1000000);
    tt_buf b;
    tt_buf_init(&b, 0);
    if (json_lines) {
        tt_buf_printf(&b, "{\"time\":\"%s\",\"level\":\"%s\",\"message\":", when,
                      level_names[level]);
        tt_buf_puts_json(&b, text);
        tt_buf_puts(&b, "}\n");
    } else {
        tt_buf_printf(&b, "%s %-5s %s\n", when, level_names[level], text);
    }
    if (!b.failed) {
        write_line(b.p, b.n);
    }
    tt_buf_finish(&b);
}
