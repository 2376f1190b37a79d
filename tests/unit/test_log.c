/* test_log.c - the server's log: one record a line whatever it says, levels, both formats, writers
 * at once. stderr goes to a file meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/log.h"

static int saved_stderr, file;
static char caught[1 << 20];

static void begin_catching(void)
{
    char name[] = "/tmp/qttt_test_log_XXXXXX";
    file = mkstemp(name);
    assert_true(file >= 0);
    unlink(name);
    assert_int_equal(fcntl(file, F_SETFL, O_APPEND), 0);
    saved_stderr = dup(STDERR_FILENO);
    assert_true(saved_stderr >= 0 && dup2(file, STDERR_FILENO) >= 0);
}

/* What was written since, NUL-terminated. */
static const char *caught_text(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    ssize_t n = pread(file, caught, sizeof caught - 1, 0);
    close(file);
    assert_true(n >= 0);
    caught[n] = '\0';
    return caught;
}

static int lines(const char *s)
{
    int n = 0;
    for (; *s != '\0'; s++) {
        n += *s == '\n';
    }
    return n;
}

static void test_levels(void **state)
{
    for (int level = TT_LOG_ERROR; level <= TT_LOG_DEBUG; level++) {
        tt_log_configure((tt_log_level)level, 0);
        assert_int_equal(tt_log_get_level(), level);
        begin_catching();
        tt_log(TT_LOG_ERROR, "e");
        tt_log(TT_LOG_WARN, "w");
        tt_log(TT_LOG_INFO, "i");
        tt_log(TT_LOG_DEBUG, "d");
        assert_int_equal(lines(caught_text()), level + 1);
    }
}

static void test_text(void **state)
{
    struct tm tm = {0};
    tt_log_configure(TT_LOG_INFO, 0);
    begin_catching();
    time_t before = time(NULL);
    tt_log(TT_LOG_WARN, "%s is %d", "x", 7);
    const char *s = caught_text();
    char *rest = strptime(s, "%Y-%m-%dT%H:%M:%S", &tm); /* UTC, as Z says */
    assert_non_null(rest);
    assert_true(timegm(&tm) >= before - 1 && timegm(&tm) <= time(NULL) + 1);
    assert_true(rest[0] == '.' && strspn(rest + 1, "0123456789") == 3);
    assert_string_equal(rest + 4, "Z warn  x is 7\n");
}

static void test_json(void **state)
{
    json_error_t e;
    tt_log_configure(TT_LOG_INFO, 1);
    begin_catching();
    tt_log(TT_LOG_ERROR, "a \"quoted\" \\ back\xffslash and \xc3\xa9");
    const char *s = caught_text();
    json_t *o = json_loads(s, JSON_REJECT_DUPLICATES, &e);
    assert_non_null(o);
    assert_int_equal(json_object_size(o), 3);
    assert_string_equal(json_string_value(json_object_get(o, "level")), "error");
    assert_string_equal(json_string_value(json_object_get(o, "message")),
                        "a \"quoted\" \\ back\xef\xbf\xbdslash and \xc3\xa9");
    assert_int_equal(strlen(json_string_value(json_object_get(o, "time"))), 24);
    assert_int_equal(lines(s), 1);
    json_decref(o);
}

/* A client's bytes cannot begin a record of their own, nor move the terminal's cursor. */
static void test_a_record_is_one_line(void **state)
{
    for (int json = 0; json < 2; json++) {
        tt_log_configure(TT_LOG_INFO, json);
        begin_catching();
        tt_log(TT_LOG_INFO, "GET %s", "/x\r\n2026-01-01T00:00:00.000Z error forged\x1b[2J\x7f\t");
        const char *s = caught_text();
        assert_int_equal(lines(s), 1);
        assert_null(strpbrk(s, "\r\x1b\x7f\t"));
        assert_non_null(strstr(s, "GET /x??2026"));
    }
}

/* Nor do C1 controls, marks that turn the direction of text, and bytes that are no UTF-8. */
static void test_what_acts_does_not_pass(void **state)
{
    static const char *const act[] = {"\xc2\x9b",     "\xc2\x85", "\xe2\x80\xae", "\xe2\x81\xa6",
                                      "\xe2\x80\xa8", "\x9b",     "\xff"};
    for (int json = 0; json < 2; json++) {
        for (size_t i = 0; i < sizeof act / sizeof *act; i++) {
            tt_log_configure(TT_LOG_INFO, json);
            begin_catching();
            tt_log(TT_LOG_INFO, "GET /\xc3\xa9%s.", act[i]);
            const char *s = caught_text();
            assert_null(strstr(s, act[i]));
            assert_non_null(strstr(s, "GET /\xc3\xa9"));
            assert_non_null(strstr(s, json ? ".\"}\n" : "/\xc3\xa9?.\n"));
        }
    }
}

static void test_long_records_are_cut(void **state)
{
    static char text[100000];
    memset(text, 'y', sizeof text - 1);
    for (int json = 0; json < 2; json++) {
        tt_log_configure(TT_LOG_INFO, json);
        begin_catching();
        tt_log(TT_LOG_INFO, "%s", text);
        const char *s = caught_text();
        size_t n = strlen(s);
        assert_true(n > 1000 && n < 1200);
        assert_int_equal(lines(s), 1);
        assert_true(s[n - 1] == '\n');
    }
}

enum { WRITERS = 4, RECORDS = 300 };

static void *write_many(void *arg)
{
    for (int i = 0; i < RECORDS; i++) {
        tt_log(TT_LOG_INFO, "writer %d record %d of a line that is not short at all", *(int *)arg,
               i);
    }
    return NULL;
}

static void test_writers_at_once(void **state)
{
    pthread_t thread[WRITERS];
    int number[WRITERS], next[WRITERS] = {0};
    tt_log_configure(TT_LOG_INFO, 1);
    begin_catching();
    for (int i = 0; i < WRITERS; i++) {
        number[i] = i;
        assert_int_equal(pthread_create(&thread[i], NULL, write_many, &number[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(thread[i], NULL);
    }
    char *line = (char *)(intptr_t)caught_text(), *end;
    for (; *line != '\0'; line = end + 1) {
        json_error_t e;
        int writer = -1, record = -1;
        end = strchr(line, '\n');
        assert_non_null(end);
        json_t *o = json_loadb(line, (size_t)(end - line), 0, &e);
        const char *m = json_string_value(json_object_get(o, "message"));
        assert_non_null(m); /* each line is whole */
        assert_int_equal(sscanf(m, "writer %d record %d of", &writer, &record), 2);
        assert_int_equal(record, next[writer]++);
        json_decref(o);
    }
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(next[i], RECORDS);
    }
}

static void test_nobody_reads(void **state)
{
    tt_log_configure(TT_LOG_INFO, 0);
    saved_stderr = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    tt_log(TT_LOG_INFO, "into nothing"); /* returns */
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_a_record_is_one_line),
        cmocka_unit_test(test_what_acts_does_not_pass),
        cmocka_unit_test(test_long_records_are_cut),
        cmocka_unit_test(test_writers_at_once),
        cmocka_unit_test(test_nobody_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
