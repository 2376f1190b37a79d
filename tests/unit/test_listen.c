/* test_listen.c - the listening socket: addresses that work and that do not, socket files that are
 * stale, alive or no sockets, the port file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/listen.h"

static char folder[] = "/tmp/qttt_test_listen_XXXXXX";
static char path[256];

static int set_up(void **state)
{
    return mkdtemp(folder) == NULL;
}

static int tear_down(void **state)
{
    return rmdir(folder); /* every test cleans up after itself */
}

static char *in_folder(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static tt_settings at(const char *host, int port, const char *socket)
{
    return (tt_settings){
        .host = (char *)(intptr_t)host, .unix_socket = (char *)(intptr_t)socket, .port = port};
}

static tt_code open_at(tt_settings s, int *fd, int *port, tt_err *err)
{
    *fd = *port = -1;
    *err = (tt_err){0};
    tt_code rc = tt_listen_open(&s, fd, port, err);
    assert_int_equal(rc == TT_OK, *fd >= 0);
    assert_int_equal(err->code, rc);
    return rc;
}

static int dial(const struct sockaddr *a, socklen_t n)
{
    int fd = socket(a->sa_family, SOCK_STREAM, 0);
    int rc = connect(fd, a, n);
    close(fd);
    return rc;
}

static int dial_port(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return dial((struct sockaddr *)&a, sizeof a);
}

static int dial_path(const char *p)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    assert_true(strlen(p) < sizeof a.sun_path);
    strcpy(a.sun_path, p);
    return dial((struct sockaddr *)&a, sizeof a);
}

static void test_a_free_port(void **state)
{
    int fd, port, again, same;
    tt_err err;
    assert_int_equal(open_at(at("127.0.0.1", 0, ""), &fd, &port, &err), TT_OK);
    assert_true(port > 0 && port < 65536);
    assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(dial_port(port), 0);
    /* taken by somebody who listens, though SO_REUSEADDR is set */
    char want[32];
    assert_int_equal(open_at(at("127.0.0.1", port, ""), &again, &same, &err), TT_E_IO);
    snprintf(want, sizeof want, "127.0.0.1 port %d", port);
    assert_non_null(strstr(err.msg, want));
    close(fd);
    /* and free again at once, although connections to it have just been closed */
    assert_int_equal(open_at(at("127.0.0.1", port, ""), &again, &same, &err), TT_OK);
    assert_int_equal(same, port);
    close(again);
}

/* A peer that vanished is noticed although nothing is sent. */
static void test_silent_peers_are_probed(void **state)
{
    static const struct {
        int level, name, want;
    } options[] = {{SOL_SOCKET, SO_KEEPALIVE, 1},
                   {IPPROTO_TCP, TCP_KEEPIDLE, 60},
                   {IPPROTO_TCP, TCP_KEEPINTVL, 15},
                   {IPPROTO_TCP, TCP_KEEPCNT, 4}};
    int fd, port;
    tt_err err;
    (void)state;
    assert_int_equal(open_at(at("127.0.0.1", 0, ""), &fd, &port, &err), TT_OK);
    assert_int_equal(dial_port(port), 0);
    int accepted = accept(fd, NULL, NULL);
    assert_true(accepted >= 0);
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        int value = -1;
        socklen_t n = sizeof value;
        assert_int_equal(getsockopt(accepted, options[i].level, options[i].name, &value, &n), 0);
        assert_int_equal(value, options[i].want);
    }
    close(accepted);
    close(fd);
}

static void test_addresses(void **state)
{
    int fd, port;
    tt_err err;
    assert_int_equal(open_at(at("localhost", 0, ""), &fd, &port, &err), TT_OK);
    close(fd);
    assert_int_equal(open_at(at("192.0.2.1", 0, ""), &fd, &port, &err), TT_E_IO); /* not ours */
    assert_non_null(strstr(err.msg, "192.0.2.1"));
    char no_name[300]; /* a label this long is refused without asking anybody */
    memset(no_name, 'h', sizeof no_name - 1);
    no_name[sizeof no_name - 1] = '\0';
    assert_int_equal(open_at(at(no_name, 0, ""), &fd, &port, &err), TT_E_IO);
    assert_non_null(strstr(err.msg, "server.host 'hhh"));
    if (access("/proc/net/if_inet6", R_OK) == 0 &&
        open_at(at("::1", 0, ""), &fd, &port, &err) == TT_OK) { /* where there is IPv6 */
        struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
        a.sin6_addr = in6addr_loopback;
        assert_int_equal(dial((struct sockaddr *)&a, sizeof a), 0);
        close(fd);
    }
}

static void test_socket_files(void **state)
{
    int fd, port, other;
    tt_err err;
    char *p = in_folder("s");
    assert_int_equal(open_at(at("", 1, p), &fd, &port, &err), TT_OK);
    assert_int_equal(port, 0);
    assert_int_equal(dial_path(p), 0);
    assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    /* alive: not taken away from its server */
    assert_int_equal(open_at(at("", 1, p), &other, &port, &err), TT_E_IO);
    assert_non_null(strstr(err.msg, p));
    assert_int_equal(dial_path(p), 0);
    close(fd);
    assert_int_not_equal(dial_path(p), 0);
    /* stale: the file is there and nobody listens */
    assert_int_equal(open_at(at("", 1, p), &fd, &port, &err), TT_OK);
    assert_int_equal(dial_path(p), 0);
    close(fd);
    unlink(p);
    /* an ordinary file is never removed */
    FILE *f = fopen(p, "w");
    assert_non_null(f);
    fputs("precious", f);
    fclose(f);
    assert_int_equal(open_at(at("", 1, p), &fd, &port, &err), TT_E_IO);
    struct stat st;
    assert_true(stat(p, &st) == 0 && st.st_size == 8);
    unlink(p);
}

static void test_socket_paths_that_do_not_fit(void **state)
{
    int fd, port;
    tt_err err;
    char p[200];
    size_t max = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    memset(p, 'p', sizeof p);
    memcpy(p, folder, strlen(folder));
    p[strlen(folder)] = '/';
    p[max + 1] = '\0';
    assert_int_equal(open_at(at("", 1, p), &fd, &port, &err), TT_E_INVALID);
    p[max] = '\0'; /* the longest */
    assert_int_equal(open_at(at("", 1, p), &fd, &port, &err), TT_OK);
    close(fd);
    assert_int_equal(unlink(p), 0);
    assert_int_equal(open_at(at("", 1, "/no/such/folder/s"), &fd, &port, &err), TT_E_IO);
}

static void expect_file(const char *p, const char *want)
{
    char text[32];
    FILE *f = fopen(p, "r");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    assert_string_equal(text, want);
}

static void test_port_file(void **state)
{
    tt_err err;
    char *p = in_folder("port");
    assert_int_equal(tt_listen_write_port(p, 8080, &err), TT_OK);
    expect_file(p, "8080\n");
    assert_int_equal(tt_listen_write_port(p, 0, &err), TT_OK); /* over an older one */
    expect_file(p, "0\n");
    unlink(p); /* and nothing else is left in the folder: tear_down removes it */
    assert_int_equal(tt_listen_write_port("/no/such/folder/port", 1, &err), TT_E_IO);
    assert_non_null(strstr(err.msg, "/no/such/folder/port"));
}

static void test_who_is_local(void **state)
{
    static const struct {
        const char *address;
        bool local;
    } rows[] = {
        {"127.0.0.1", true},
        {"127.255.0.9", true},
        {"126.255.255.255", false},
        {"128.0.0.1", false},
        {"0.0.0.0", false},
        {"10.0.0.1", false},
        {"::1", true},
        {"::", false},
        {"::2", false},
        {"::ffff:127.0.0.1", true},
        {"::ffff:10.0.0.1", false},
        {"fe80::1", false},
        {"::127.0.0.1", false},
        {"2001:db8::7f00:1", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sockaddr_in v4 = {.sin_family = AF_INET};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        bool six = strchr(rows[i].address, ':') != NULL;
        void *at = six ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr;
        assert_int_equal(inet_pton(six ? AF_INET6 : AF_INET, rows[i].address, at), 1);
        const void *a = six ? (const void *)&v6 : (const void *)&v4;
        assert_int_equal(tt_listen_is_local(a), rows[i].local);
    }
    struct sockaddr other = {.sa_family = AF_UNSPEC};
    assert_false(tt_listen_is_local(&other));
    other.sa_family = AF_UNIX;
    assert_true(tt_listen_is_local(&other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_free_port),
        cmocka_unit_test(test_silent_peers_are_probed),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_socket_files),
        cmocka_unit_test(test_socket_paths_that_do_not_fit),
        cmocka_unit_test(test_port_file),
        cmocka_unit_test(test_who_is_local),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
