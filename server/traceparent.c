/* traceparent.c - see traceparent.h. */
#include "server/traceparent.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* n lower-case hexadecimal digits, not all zero unless that is allowed. */
static bool digits(const char *p, size_t n, bool zero)
{
    bool any = zero;
    for (size_t i = 0; i < n; i++) {
        if ((p[i] < '0' || p[i] > '9') && (p[i] < 'a' || p[i] > 'f')) {
            return false;
        }
        any = any || p[i] != '0';
    }
    return any;
}

/* version "-" trace-id "-" parent-id "-" flags; a later version may go on with "-". */
static bool valid(const char *h)
{
    size_t n = strlen(h);
    if (n < TT_TRACEPARENT_BYTES - 1 || !digits(h, 2, true) || memcmp(h, "ff", 2) == 0) {
        return false;
    }
    bool first = memcmp(h, "00", 2) == 0;
    return h[2] == '-' && digits(h + 3, 32, false) && h[35] == '-' && digits(h + 36, 16, false) &&
           h[52] == '-' && digits(h + 53, 2, true) && (h[55] == '\0' || (!first && h[55] == '-'));
}

static unsigned digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

bool tt_trace_begin(tt_trace *ret, const char *header)
{
    uint64_t span = 0;
    *ret = (tt_trace){0};
    if (header == NULL || !valid(header)) {
        return false;
    }
    while (span == 0) { /* all zero is no span */
        if (getrandom(&span, sizeof span, GRND_NONBLOCK) != (ssize_t)sizeof span) {
            struct timespec ts;
            clock_gettime(CLOCK_MONOTONIC, &ts);
            span = (uint64_t)ts.tv_sec << 32 | (uint64_t)ts.tv_nsec;
        }
    }
    memcpy(ret->trace_id, header + 3, 32);
    memcpy(ret->parent_id, header + 36, 16);
    snprintf(ret->span_id, sizeof ret->span_id, "%016llx", (unsigned long long)span);
    ret->flags = digit(header[53]) << 4 | digit(header[54]);
    return true;
}

/* Of the flags only "sampled" is ours to pass on: version 00 defines no other. */
void tt_trace_write(const tt_trace *t, char ret[TT_TRACEPARENT_BYTES])
{
    ret[0] = '\0';
    if (t->trace_id[0] != '\0') {
        snprintf(ret, TT_TRACEPARENT_BYTES, "00-%s-%s-%02x", t->trace_id, t->span_id, t->flags & 1);
    }
}
