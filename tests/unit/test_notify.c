/* test_notify.c - what arrives at a service manager's socket, and what never does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/notify.h"

/* A manager's socket, also named in the environment. */
static int listen_at(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    memcpy(a.sun_path, name, n);
    if (name[0] == '@') {
        a.sun_path[0] = '\0';
    } else {
        unlink(name);
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(
        bind(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)),
        0);
    assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
    return fd;
}

static int clean(void **state)
{
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    return 0;
}

static void test_datagrams_arrive_one_by_one(void **state)
{
    char cwd[80], names[2][108], got[64];
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(names[0], sizeof names[0], "%s/test_notify.%ld", cwd, (long)getpid());
    snprintf(names[1], sizeof names[1], "@test_notify.%ld", (long)getpid());
    for (int i = 0; i < 2; i++) {
        int fd = listen_at(names[i]);
        tt_notify n;
        tt_err err;
        assert_int_equal(tt_notify_init(&n, &err), TT_OK);
        assert_true(tt_notify_send(&n, "READY=1\nSTATUS=%s", "up"));
        assert_true(tt_notify_send(&n, "WATCHDOG=1"));
        assert_int_equal(recv(fd, got, sizeof got, 0), 17);
        assert_memory_equal(got, "READY=1\nSTATUS=up", 17);
        assert_int_equal(recv(fd, got, sizeof got, 0), 10);
        assert_memory_equal(got, "WATCHDOG=1", 10);
        close(fd);
        assert_false(tt_notify_send(&n, "STOPPING=1")); /* the manager is gone */
        tt_notify_finish(&n);
        assert_false(tt_notify_send(&n, "STOPPING=1"));
        unlink(names[i]);
    }
}

static void test_nobody_listens(void **state)
{
    tt_notify n;
    tt_err err;
    assert_int_equal(tt_notify_init(&n, &err), TT_OK);
    assert_int_equal(n.fd, -1);
    assert_false(tt_notify_send(&n, "READY=1"));
    tt_notify_finish(&n);
    assert_int_equal(setenv("WATCHDOG_USEC", "1000", 1), 0); /* of no use without a socket */
    assert_int_equal(tt_notify_init(&n, &err), TT_OK);
    assert_true(n.watchdog_seconds == 0);
}

static void test_names_that_cannot_be_used(void **state)
{
    char longest[140];
    memset(longest, 'a', sizeof longest - 1);
    longest[0] = '/';
    longest[sizeof longest - 1] = '\0';
    const char *const bad[] = {"relative/path", "/", "@", "vsock:2:1", longest};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tt_notify n;
        tt_err err;
        assert_int_equal(setenv("NOTIFY_SOCKET", bad[i], 1), 0);
        assert_int_equal(tt_notify_init(&n, &err), TT_E_INVALID);
        assert_int_equal(n.fd, -1);
        assert_false(tt_notify_send(&n, "READY=1"));
    }
}

static double watchdog(const char *usec, const char *pid)
{
    tt_notify n;
    tt_err err;
    assert_int_equal(setenv("WATCHDOG_USEC", usec, 1), 0);
    if (pid != NULL) {
        assert_int_equal(setenv("WATCHDOG_PID", pid, 1), 0);
    } else {
        unsetenv("WATCHDOG_PID");
    }
    assert_int_equal(tt_notify_init(&n, &err), TT_OK);
    double seconds = n.watchdog_seconds;
    tt_notify_finish(&n);
    return seconds;
}

static void test_watchdog_is_ours_and_a_number(void **state)
{
    char name[64], pid[24];
    snprintf(name, sizeof name, "@test_notify.%ld", (long)getpid());
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    int fd = listen_at(name);
    assert_true(watchdog("2500000", NULL) == 2.5);
    assert_true(watchdog("2500000", pid) == 2.5);
    assert_true(watchdog("2500000", "1") == 0); /* another process is watched */
    assert_true(watchdog("", pid) == 0);
    assert_true(watchdog("-3", pid) == 0);
    assert_true(watchdog("3s", pid) == 0);
    close(fd);
}

/* A manager that does not read must not hold the server up. */
static void test_a_full_socket_does_not_block(void **state)
{
    char name[64];
    snprintf(name, sizeof name, "@test_notify.%ld", (long)getpid());
    int fd = listen_at(name), taken = 0;
    tt_notify n;
    tt_err err;
    assert_int_equal(tt_notify_init(&n, &err), TT_OK);
    while (taken < 100000 && tt_notify_send(&n, "WATCHDOG=1")) {
        taken++;
    }
    assert_in_range(taken, 1, 99999);
    tt_notify_finish(&n);
    close(fd);
}

static void test_a_message_too_long_is_not_cut(void **state)
{
    char name[64], text[1000], got[8];
    snprintf(name, sizeof name, "@test_notify.%ld", (long)getpid());
    int fd = listen_at(name);
    tt_notify n;
    tt_err err;
    assert_int_equal(tt_notify_init(&n, &err), TT_OK);
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_false(tt_notify_send(&n, "STATUS=%s\nREADY=1", text));
    assert_int_equal(recv(fd, got, sizeof got, 0), -1);
    tt_notify_finish(&n);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_datagrams_arrive_one_by_one, clean),
        cmocka_unit_test_teardown(test_nobody_listens, clean),
        cmocka_unit_test_teardown(test_names_that_cannot_be_used, clean),
        cmocka_unit_test_teardown(test_watchdog_is_ours_and_a_number, clean),
        cmocka_unit_test_teardown(test_a_full_socket_does_not_block, clean),
        cmocka_unit_test_teardown(test_a_message_too_long_is_not_cut, clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
