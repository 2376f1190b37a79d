/* notify.c - see notify.h. */
#include "server/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* WATCHDOG_PID names whom the manager watches: not a child that inherited the environment. */
static double wanted_watchdog(void)
{
    const char *pid = getenv("WATCHDOG_PID"), *usec = getenv("WATCHDOG_USEC");
    if (usec == NULL || (pid != NULL && strtoll(pid, NULL, 10) != (long long)getpid())) {
        return 0;
    }
    char *end;
    unsigned long long us = strtoull(usec, &end, 10);
    return usec[0] >= '0' && usec[0] <= '9' && *end == '\0' ? (double)us * 1e-6 : 0;
}

tt_code tt_notify_init(tt_notify *n, tt_err *reterr)
{
    const char *name = getenv("NOTIFY_SOCKET");
    *n = (tt_notify){.fd = -1};
    if (name == NULL || name[0] == '\0') {
        return TT_OK;
    }
    size_t length = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || length < 2 || length >= sizeof n->to.sun_path) {
        return tt_fail(reterr, TT_E_INVALID, "NOTIFY_SOCKET is '%.60s'; expected a path or @name",
                       name);
    }
    n->to.sun_family = AF_UNIX;
    memcpy(n->to.sun_path, name, length);
    if (name[0] == '@') {
        n->to.sun_path[0] = '\0';
    }
    n->n_to = offsetof(struct sockaddr_un, sun_path) + length;
    n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (n->fd < 0) {
        return tt_fail(reterr, TT_E_IO, "no socket for NOTIFY_SOCKET: %s", strerror(errno));
    }
    n->watchdog_seconds = wanted_watchdog();
    return TT_OK;
}

void tt_notify_finish(tt_notify *n)
{
    if (n->fd >= 0) {
        close(n->fd);
    }
    *n = (tt_notify){.fd = -1};
}

bool tt_notify_send(const tt_notify *n, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    if (n->fd < 0) {
        return false;
    }
    va_start(ap, fmt);
    int k = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (k < 0 || (size_t)k >= sizeof text) {
        return false;
    }
    return sendto(n->fd, text, (size_t)k, MSG_NOSIGNAL, (const struct sockaddr *)&n->to,
                  (socklen_t)n->n_to) == k;
}
