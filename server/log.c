/* log.c - see log.h. */
#include "server/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/log_writer.h"

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static atomic_int max_level = TT_LOG_INFO;
static atomic_int json_lines;

void tt_log_configure(tt_log_level level, int as_json)
{
    atomic_store(&max_level, (int)level);
    atomic_store(&json_lines, as_json);
}

tt_log_level tt_log_get_level(void)
{
    return (tt_log_level)atomic_load(&max_level);
}

/* ---- values ---- */

/* Characters that act on a terminal or reorder what a reader sees: C0, DEL, C1, line and paragraph
 * separator, marks and overrides of direction. */
static bool acts(uint32_t c)
{
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0x200E && c <= 0x200F) ||
           (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

/* The code point of a valid sequence of n bytes. */
static uint32_t decode(const unsigned char *s, size_t n)
{
    static const unsigned char mask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t c = s[0] & mask[n];
    for (size_t i = 1; i < n; i++) {
        c = c << 6 | (s[i] & 0x3F);
    }
    return c;
}

static void put_quoted(tt_buf *b, const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    tt_buf_putc(b, '"');
    for (size_t i = 0, bad = 0; i < n;) {
        size_t len = tt_utf8_check(s + i, n - i, &bad);
        uint32_t c = len > 0 ? decode(s + i, len) : 0;
        if (c == 0) { /* NUL too: what many readers of JSON stumble over */
            tt_buf_puts(b, "\xef\xbf\xbd");
        } else if (acts(c)) {
            tt_buf_printf(b, "\\u%04x", (unsigned)c);
        } else if (c == '"' || c == '\\') {
            tt_buf_putc(b, '\\');
            tt_buf_putc(b, (char)c);
        } else {
            tt_buf_put(b, s + i, len);
        }
        i += len > 0 ? len : bad;
    }
    tt_buf_putc(b, '"');
}

/* A message in a line of text. */
static void put_message(tt_buf *b, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0, n = strlen(text), bad = 0; i < n;) {
        size_t len = tt_utf8_check(s + i, n - i, &bad);
        if (len == 0 || acts(decode(s + i, len))) {
            tt_buf_putc(b, '?');
        } else {
            tt_buf_put(b, s + i, len);
        }
        i += len > 0 ? len : bad;
    }
}

/* In a line of text words of harmless ASCII stand without quotes. */
static bool plain(const char *s, size_t n)
{
    bool ok = n > 0;
    for (size_t i = 0; ok && i < n; i++) {
        ok = s[i] > 0x20 && s[i] < 0x7F && s[i] != '"' && s[i] != '=' && s[i] != '\\';
    }
    return ok;
}

/* ---- records ---- */

static void write_time(char when[40])
{
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t k = strftime(when, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when + k, 40 - k, ".%03ldZ", ts.tv_nsec / 1000000);
}

static void begin(tt_log_record *r, tt_log_level level, const char *message)
{
    char when[40];
    write_time(when);
    *r = (tt_log_record){.json = atomic_load(&json_lines) != 0};
    if (r->json) {
        tt_buf_printf(&r->b, "{\"time\":\"%s\",\"level\":\"%s\",\"message\":", when,
                      level_names[level]);
        put_quoted(&r->b, message, strlen(message));
    } else {
        tt_buf_printf(&r->b, "%s %-5s ", when, level_names[level]);
        put_message(&r->b, message);
    }
}

bool tt_log_begin(tt_log_record *r, tt_log_level level, const char *message)
{
    if ((int)level > atomic_load(&max_level)) {
        return false;
    }
    begin(r, level, message);
    return true;
}

static void put_key(tt_log_record *r, const char *key)
{
    tt_buf_printf(&r->b, r->json ? ",\"%s\":" : " %s=", key);
}

void tt_log_bytes(tt_log_record *r, const char *key, const char *value, size_t n)
{
    put_key(r, key);
    if (!r->json && plain(value, n)) {
        tt_buf_put(&r->b, value, n);
    } else {
        put_quoted(&r->b, value, n);
    }
}

void tt_log_text(tt_log_record *r, const char *key, const char *value)
{
    if (value != NULL && value[0] != '\0') {
        tt_log_bytes(r, key, value, strlen(value));
    }
}

void tt_log_int(tt_log_record *r, const char *key, int64_t value)
{
    put_key(r, key);
    tt_buf_printf(&r->b, "%lld", (long long)value);
}

void tt_log_ms(tt_log_record *r, const char *key, double seconds)
{
    put_key(r, key);
    tt_buf_printf(&r->b, "%.3f", seconds * 1000);
}

static void finish(tt_log_record *r)
{
    tt_buf_puts(&r->b, r->json ? "}\n" : "\n");
}

void tt_log_end(tt_log_record *r)
{
    finish(r);
    if (!r->b.failed) {
        tt_log_writer_put(r->b.p, r->b.n);
    }
    tt_buf_finish(&r->b);
}

void tt_log_write_dropped(tt_buf *b, uint64_t n)
{
    tt_log_record r;
    begin(&r, TT_LOG_WARN, "log records were dropped: nobody reads them fast enough");
    tt_log_int(&r, "dropped", (int64_t)n);
    finish(&r);
    tt_buf_put(b, r.b.p, r.b.n);
    tt_buf_finish(&r.b);
}

void tt_log(tt_log_level level, const char *fmt, ...)
{
    tt_log_record r;
    char text[1024];
    va_list ap;
    if ((int)level > atomic_load(&max_level)) {
        return;
    }
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *c = text; n > 0 && *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7F) {
            *c = '?';
        }
    }
    if (n >= 0 && tt_log_begin(&r, level, text)) {
        tt_log_end(&r);
    }
}
