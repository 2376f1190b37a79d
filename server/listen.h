/* listen.h - the listening socket: TCP (port 0 = a free one) or Unix. Thread: any; blocks on name
 * resolution, so before the loop. */
#ifndef TT_LISTEN_H
#define TT_LISTEN_H

#include "server/settings.h"

/* Opens the socket that the settings ask for, non-blocking. *ret_port: the TCP port, 0 for a Unix
 * socket. TT_E_IO with the address in the message. */
tt_code tt_listen_open(const tt_settings *s, int *ret_fd, int *ret_port, tt_err *reterr);
/* How many connections may be open, at most `wanted`: raises the process's soft limit of open files
 * as far as that needs and the hard limit allows. */
int tt_listen_limit(int wanted);
/* Writes "PORT\n" so that a reader never sees half of it. */
tt_code tt_listen_write_port(const char *path, int port, tt_err *reterr);

struct sockaddr;
/* A loopback address, also one of IPv4 inside of IPv6. */
bool tt_listen_is_local(const struct sockaddr *address);

#endif
