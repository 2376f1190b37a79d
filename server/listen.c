/* listen.c - see listen.h. */
#include "server/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    BACKLOG = 511,
    OTHER_FILES = 128 /* that the process opens besides its connections */
};

/* A socket file that nobody serves any more is removed; any other file is left alone. */
static void remove_stale(const char *path, const struct sockaddr_un *addr)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        return;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return;
    }
    if (connect(fd, (const struct sockaddr *)addr, sizeof *addr) != 0 && errno == ECONNREFUSED) {
        unlink(path);
    }
    close(fd);
}

static tt_code open_unix(const char *path, int *ret_fd, tt_err *reterr)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof addr.sun_path) {
        return tt_fail(reterr, TT_E_INVALID, "server.unix_socket: longer than %zu bytes",
                       sizeof addr.sun_path - 1);
    }
    memcpy(addr.sun_path, path, strlen(path));
    remove_stale(path, &addr);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0 ||
        listen(fd, BACKLOG) != 0) {
        int saved = errno;
        if (fd >= 0) {
            close(fd);
        }
        return tt_fail(reterr, TT_E_IO, "cannot listen on %s: %s", path, strerror(saved));
    }
    *ret_fd = fd;
    return TT_OK;
}

/* A client or proxy whose machine is gone without a word is found out after two minutes, also while
 * its request waits and nothing is sent. Accepted sockets inherit this. */
static void probe_silent_peers(int fd)
{
    int on = 1, idle_seconds = 60, between_seconds = 15, probes = 4;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_seconds, sizeof idle_seconds);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &between_seconds, sizeof between_seconds);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

static int bind_one(const struct addrinfo *a)
{
    int on = 1;
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    probe_silent_peers(fd);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static int port_of(int fd)
{
    struct sockaddr_storage addr;
    socklen_t n = sizeof addr;
    if (getsockname(fd, (struct sockaddr *)&addr, &n) != 0) {
        return 0;
    }
    if (addr.ss_family == AF_INET6) {
        return ntohs(((struct sockaddr_in6 *)&addr)->sin6_port);
    }
    return ntohs(((struct sockaddr_in *)&addr)->sin_port);
}

tt_code tt_listen_open(const tt_settings *s, int *ret_fd, int *ret_port, tt_err *reterr)
{
    if (s->unix_socket[0] != '\0') {
        *ret_port = 0;
        return open_unix(s->unix_socket, ret_fd, reterr);
    }
    char port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    snprintf(port, sizeof port, "%d", (int)s->port);
    int rc = getaddrinfo(s->host, port, &hints, &list);
    if (rc != 0) {
        return tt_fail(reterr, TT_E_IO, "server.host '%.80s': %s", s->host, gai_strerror(rc));
    }
    int fd = -1;
    for (const struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
        fd = bind_one(a);
    }
    int saved = errno;
    freeaddrinfo(list);
    if (fd < 0) {
        return tt_fail(reterr, TT_E_IO, "cannot listen on %.80s port %d: %s", s->host, (int)s->port,
                       strerror(saved));
    }
    *ret_fd = fd;
    *ret_port = port_of(fd);
    return TT_OK;
}

tt_code tt_listen_write_port(const char *path, int port, tt_err *reterr)
{
    char temporary[4096];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE *f = fopen(temporary, "w");
    if (f == NULL) {
        return tt_fail(reterr, TT_E_IO, "%s: %s", temporary, strerror(errno));
    }
    bool ok = fprintf(f, "%d\n", port) > 0;
    ok = fclose(f) == 0 && ok;
    if (!ok || rename(temporary, path) != 0) {
        return tt_fail(reterr, TT_E_IO, "%s: %s", path, strerror(errno));
    }
    return TT_OK;
}

int tt_listen_limit(int wanted)
{
    struct rlimit r;
    rlim_t need = (rlim_t)wanted + OTHER_FILES;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= need) {
        return wanted;
    }
    struct rlimit more = {.rlim_cur = need < r.rlim_max ? need : r.rlim_max,
                          .rlim_max = r.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &more) == 0) {
        r = more;
    }
    int have = r.rlim_cur > OTHER_FILES ? (int)(r.rlim_cur - OTHER_FILES) : 1;
    return have < wanted ? have : wanted;
}

static bool is_local_v4(uint32_t address)
{
    return ntohl(address) >> 24 == 127;
}

bool tt_listen_is_local(const struct sockaddr *address)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    if (address->sa_family == AF_INET) {
        memcpy(&v4, address, sizeof v4);
        return is_local_v4(v4.sin_addr.s_addr);
    }
    if (address->sa_family != AF_INET6) {
        return address->sa_family == AF_UNIX;
    }
    memcpy(&v6, address, sizeof v6);
    uint32_t last;
    memcpy(&last, v6.sin6_addr.s6_addr + 12, sizeof last);
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) && is_local_v4(last));
}
