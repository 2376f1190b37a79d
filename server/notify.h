/* notify.h - tells a service manager how the process fares: the datagrams of sd_notify(3). Our own,
 * because the protocol is one sendto(), and libsystemd would bring five libraries along. Thread:
 * one at a time. Source: sd_notify(3), sd_watchdog_enabled(3). */
#ifndef TT_NOTIFY_H
#define TT_NOTIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/un.h>

#include "kernels/err.h"

typedef struct tt_notify {
    int fd; /* -1: nobody listens */
    struct sockaddr_un to;
    size_t n_to;
    double watchdog_seconds; /* a sign of life is wanted this often; 0: none */
} tt_notify;

/* Reads NOTIFY_SOCKET (a path, or "@name"), WATCHDOG_USEC and WATCHDOG_PID from the environment;
 * without the first nothing is ever sent. On failure too, *n is one that sends nothing.
 * TT_E_INVALID: a name that cannot be used; TT_E_IO. */
tt_code tt_notify_init(tt_notify *n, tt_err *reterr);
void tt_notify_finish(tt_notify *n);

/* One datagram of "KEY=VALUE" lines; never waits. False: it was not taken (nobody listens, or the
 * manager is behind), which only matters for what is not said again. */
bool tt_notify_send(const tt_notify *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
