/* test_log_writer.c - the thread that writes the log: order and completeness, a reader who stalls,
 * the count of what was dropped, the end. stderr is a pipe meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/log.h"
#include "server/log_writer.h"

enum { BUFFER = 16 * 1024 };

static int saved_stderr, reader;

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void begin(size_t max)
{
    int fd[2];
    tt_err err;
    assert_int_equal(pipe(fd), 0);
    saved_stderr = dup(STDERR_FILENO);
    assert_true(dup2(fd[1], STDERR_FILENO) >= 0);
    close(fd[1]);
    reader = fd[0];
    assert_int_equal(tt_log_writer_start(max, &err), TT_OK);
}

static void restore(void)
{
    dup2(saved_stderr, STDERR_FILENO); /* the last writer: the reader sees the end */
    close(saved_stderr);
}

/* All that is left in the pipe, NUL-terminated. */
static char *rest(void)
{
    size_t n = 0, cap = 1 << 21;
    char *p = malloc(cap);
    assert_non_null(p);
    for (ssize_t got; (got = read(reader, p + n, cap - 1 - n)) > 0;) {
        n += (size_t)got;
    }
    p[n] = '\0';
    close(reader);
    return p;
}

static void test_all_of_it_in_order(void **state)
{
    begin(BUFFER);
    for (int i = 0; i < 200; i++) {
        char line[32];
        size_t n = (size_t)snprintf(line, sizeof line, "line %d\n", i);
        tt_log_writer_put(line, n);
    }
    tt_log_writer_stop(10);
    restore();
    char *text = rest(), *p = text;
    for (int i = 0; i < 200; i++) {
        int k = -1, n = 0;
        assert_int_equal(sscanf(p, "line %d\n%n", &k, &n), 1);
        assert_int_equal(k, i);
        p += n;
    }
    assert_string_equal(p, "");
    free(text);
}

/* A pipe that is full and nobody reads: callers go on at once, memory is bounded, and what was lost
 * is told as soon as somebody reads again. */
static void test_a_reader_who_stalls(void **state)
{
    static char line[1000];
    uint64_t before = tt_log_writer_dropped(), dropped;
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    begin(BUFFER);
    double start = now();
    for (int i = 0; i < 1000; i++) { /* 1 MB into 64 KiB of pipe and 16 of buffer */
        tt_log_writer_put(line, sizeof line);
    }
    assert_true(now() - start < 2); /* milliseconds */
    dropped = tt_log_writer_dropped() - before;
    assert_in_range(dropped, 800, 990);
    tt_log_writer_stop(0.05); /* gives up on a thread that hangs */
    assert_true(now() - start < 3);
    char first[100];
    assert_int_equal(read(reader, first, sizeof first), sizeof first); /* somebody reads again */
    fcntl(reader, F_SETFL, O_NONBLOCK);
    static char text[1 << 18];
    size_t size = 0, n_lines = 0;
    uint64_t told = 0, n_told = 0; /* the first loss may be told of before the pipe is full */
    for (start = now(); told < dropped;) {
        ssize_t n = read(reader, text + size, sizeof text - 1 - size);
        assert_true(now() - start < 20);
        size += n > 0 ? (size_t)n : 0;
        if (size == 0 || text[size - 1] != '\n') {
            continue; /* in the midst of a line */
        }
        told = n_told = 0;
        for (const char *p = text; (p = strstr(p, "dropped=")) != NULL; n_told++) {
            told += strtoull(p += 8, NULL, 10);
        }
    }
    for (size_t i = 0; i < size; i++) {
        n_lines += text[i] == '\n';
    }
    assert_int_equal(told, dropped);
    assert_int_equal(n_lines, 1000 - dropped + n_told);
    tt_log_writer_stop(10);
    restore();
    free(rest());
}

static void test_without_the_thread(void **state)
{
    int fd[2];
    char got[20] = "";
    tt_log_writer_stop(1); /* legal */
    assert_int_equal(pipe(fd), 0);
    int saved = dup(STDERR_FILENO);
    dup2(fd[1], STDERR_FILENO);
    tt_log_writer_put("at once\n", 8);
    assert_int_equal(read(fd[0], got, sizeof got - 1), 8);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd[0]);
    close(fd[1]);
    assert_string_equal(got, "at once\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_the_thread),
        cmocka_unit_test(test_all_of_it_in_order),
        cmocka_unit_test(test_a_reader_who_stalls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
