/* test_state_db.c - rows that outlive the process: what is in the file after it was closed or
 * killed, the order of commits, what a failure takes with it, and how it is healed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fail_alloc.h"
#include "server/state_db.h"
#include "server/state_lock.h"

/* ---- a folder of its own a test ---- */

static char dir[64], path[128];
static sem_t woken;

static int make_dir(void **state)
{
    strcpy(dir, "/tmp/tt_state_XXXXXX");
    sem_init(&woken, 0, 0);
    bool ok = mkdtemp(dir) != NULL;
    snprintf(path, sizeof path, "%s/state.db", dir);
    return ok ? 0 : -1;
}

static int remove_dir(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    sem_destroy(&woken);
    return system(command);
}

static void wake(void *arg)
{
    sem_post(&woken);
}

static tt_code try_open(tt_state_db **db, tt_err *err)
{
    return tt_state_open(&(tt_state_options){.dir = dir, .wake = wake, .retry_seconds = 0.05}, db,
                         err);
}

static tt_state_db *open_db(void)
{
    tt_state_db *db = NULL;
    tt_err err = {0};
    assert_int_equal(try_open(&db, &err), TT_OK);
    return db;
}

/* As the loop does, until the condition holds; ten seconds at most. */
static void poll_until(tt_state_db *db, bool (*holds)(tt_state_db *db))
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 10;
    while (!holds(db)) {
        assert_int_equal(sem_timedwait(&woken, &end), 0);
        tt_state_poll(db);
    }
}

/* ---- what `done` was told ---- */

static int told[64], n_told;
static tt_code told_rc[64];

static void on_done(void *arg, tt_code rc, const tt_err *err)
{
    assert_true(n_told < 64);
    assert_true(rc == TT_OK || err->msg[0] != '\0');
    told[n_told] = (int)(intptr_t)arg;
    told_rc[n_told++] = rc;
}

static int expected;
static bool all_told(tt_state_db *db)
{
    return n_told >= expected;
}

static void wait_told(tt_state_db *db, int n)
{
    expected = n;
    poll_until(db, all_told);
}

static void put_blob(tt_state_db *db, const char *id, const char *json, size_t n_blob, int number)
{
    tt_state_txn *x = tt_state_begin(db);
    void *blob = calloc(1, n_blob + 1);
    tt_state_row row = {.scope = "a", .id = id, .created_at = 1.5, .json = json};
    row.blob = n_blob > 0 ? blob : NULL;
    row.n_blob = n_blob;
    assert_int_equal(tt_state_put(x, TT_STATE_SESSION, &row), TT_OK);
    free(blob);
    tt_state_commit(x, on_done, (void *)(intptr_t)number);
}

static void put(tt_state_db *db, const char *id, const char *json, int number)
{
    put_blob(db, id, json, 0, number);
}

/* All of a table as one line: "id=json ". */
static char line[4096];
static tt_code add_to_line(void *arg, const tt_state_row *r)
{
    size_t n = strlen(line);
    snprintf(line + n, sizeof line - n, "%s=%s ", r->id, r->json);
    return TT_OK;
}

static const char *rows(tt_state_db *db, tt_state_table t)
{
    tt_err err;
    line[0] = '\0';
    assert_int_equal(tt_state_each(db, t, add_to_line, NULL, &err), TT_OK);
    return line;
}

static int reset(void **state)
{
    n_told = 0;
    return make_dir(state);
}

/* ---- tests ---- */

static tt_code check_row(void *arg, const tt_state_row *r)
{
    int *n = arg;
    ++*n;
    assert_string_equal(r->scope, "tenant");
    assert_string_equal(r->id, "x\"y");
    assert_string_equal(r->json, "{\"version\":1}");
    assert_true(r->created_at == 1700000000.25 && r->expires_at == 1800000000.5);
    assert_int_equal(r->n_blob, 5);
    assert_memory_equal(r->blob,
                        "a\0b\xff"
                        "c",
                        5);
    return TT_OK;
}

static void keeps_rows(void **state)
{
    tt_state_db *db = open_db();
    int n = 0;
    tt_err err;
    tt_state_row row = {"tenant",
                        "x\"y",
                        1700000000.25,
                        1800000000.5,
                        "{\"version\":1}",
                        "a\0b\xff"
                        "c",
                        5};
    for (int t = 0; t < TT_STATE_TABLES; t++) {
        tt_state_txn *x = tt_state_begin(db);
        assert_int_equal(tt_state_put(x, (tt_state_table)t, &row), TT_OK);
        tt_state_commit(x, on_done, NULL);
    }
    wait_told(db, TT_STATE_TABLES);
    assert_true(tt_state_durable(db) && tt_state_complete(db));
    assert_string_equal(tt_state_note(db), "");
    tt_state_close(&db);
    assert_null(db);
    db = open_db();
    for (int t = 0; t < TT_STATE_TABLES; t++) {
        assert_int_equal(tt_state_each(db, (tt_state_table)t, check_row, &n, &err), TT_OK);
    }
    assert_int_equal(n, TT_STATE_TABLES);
    tt_state_close(&db);
}

/* The order of first insertion stays, whatever is put later; a deleted row is gone. */
static void order_and_replacement(void **state)
{
    tt_state_db *db = open_db();
    put(db, "c", "1", 0);
    put(db, "a", "2", 1);
    put(db, "b", "3", 2);
    put(db, "c", "4", 3);
    tt_state_txn *x = tt_state_begin(db);
    tt_state_delete(x, TT_STATE_SESSION, "a", "a");
    tt_state_delete(x, TT_STATE_SESSION, "a", "never there");
    tt_state_delete(x, TT_STATE_SESSION, "another tenant", "b");
    tt_state_commit(x, on_done, (void *)4);
    put(db, "d", "5", 5);
    wait_told(db, 6);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(told[i], i);
        assert_int_equal(told_rc[i], TT_OK);
    }
    assert_string_equal(rows(db, TT_STATE_SESSION), "c=4 b=3 d=5 ");
    tt_state_close(&db);
}

/* Closing writes and reports what was committed. */
static void closing_writes(void **state)
{
    tt_state_db *db = open_db();
    for (int i = 0; i < 40; i++) {
        put(db, i % 2 == 0 ? "even" : "odd", "{}", i);
    }
    tt_state_close(&db);
    assert_int_equal(n_told, 40);
    db = open_db();
    assert_string_equal(rows(db, TT_STATE_SESSION), "even={} odd={} ");
    tt_state_close(&db);
}

/* What `done` has told of is there after SIGKILL. */
static void survives_kill(void **state)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        tt_state_db *db = open_db();
        put(db, "a", "1", 0);
        put(db, "b", "2", 1);
        wait_told(db, 2);
        _exit(write(ends[1], "x", 1) == 1 && pause() ? 0 : 1);
    }
    char c;
    assert_int_equal(read(ends[0], &c, 1), 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ends[0]);
    close(ends[1]);
    tt_state_db *db = open_db();
    assert_string_equal(rows(db, TT_STATE_SESSION), "a=1 b=2 ");
    tt_state_close(&db);
}

/* ---- reading ---- */

static char fetched[200];
static void on_fetched(void *arg, tt_code rc, const tt_state_row *v, int32_t n, const tt_err *err)
{
    fetched[0] = '\0';
    assert_int_equal(rc, TT_OK);
    for (int32_t i = 0; i < n; i++) {
        size_t at = strlen(fetched);
        snprintf(fetched + at, sizeof fetched - at, "%s:%zu ", v[i].id != NULL ? v[i].json : "-",
                 v[i].n_blob);
    }
    on_done(arg, TT_OK, err);
}

static void fetch_three(tt_state_db *db)
{
    tt_err err;
    tt_state_key keys[] = {{TT_STATE_SESSION, "a", "x"},
                           {TT_STATE_SESSION, "a", "none"},
                           {TT_STATE_SESSION, "a", "y"}};
    assert_int_equal(tt_state_fetch(db, keys, 3, on_fetched, NULL, &err), TT_OK);
}

static void fetches(void **state)
{
    tt_state_db *db = open_db();
    put_blob(db, "x", "1", 70000, 0);
    put(db, "y", "2", 1);
    fetch_three(db); /* sees what was committed before it */
    wait_told(db, 3);
    assert_string_equal(fetched, "1:70000 -:0 2:0 ");
    tt_state_close(&db);
}

/* ---- failures ---- */

/* Another connection holds the file, so that what is committed waits; ends with a failure when
 * the table is gone. */
static sqlite3 *other(const char *sql)
{
    sqlite3 *c = NULL;
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    sqlite3_busy_timeout(c, 5000);
    assert_int_equal(sqlite3_exec(c, sql, NULL, NULL, NULL), SQLITE_OK);
    return c;
}

/* Many wait while one is written: they are written in far fewer groups. */
static void groups(void **state)
{
    tt_state_db *db = open_db();
    sqlite3 *c = other("BEGIN IMMEDIATE"); /* the first waits for this */
    for (int i = 0; i < 60; i++) {
        put_blob(db, "one", "{}", 100000, i);
    }
    sqlite3_exec(c, "COMMIT", NULL, NULL, NULL);
    sqlite3_close(c);
    wait_told(db, 60);
    tt_state_counts n = tt_state_get_counts(db);
    assert_int_equal(n.transactions, 60);
    assert_in_range(n.commits, 1, 3);
    assert_int_equal(n.failures, 0);
    assert_int_equal(n.waiting, 0);
    tt_state_close(&db);
}

/* A row larger than SQLite takes fails; what was committed before is in the file, what came after
 * is not, and is told first. The file is well: the next is written. */
static void failure_takes_later_ones(void **state)
{
    tt_state_db *db = open_db();
    put(db, "first", "1", 0);
    wait_told(db, 1);
    sqlite3 *c = other("CREATE TRIGGER t BEFORE INSERT ON session WHEN new.id = 'bad' "
                       "BEGIN SELECT zeroblob(2000000000); END; BEGIN IMMEDIATE");
    put(db, "ok", "1", 1);
    put(db, "bad", "1", 2);
    put(db, "later", "1", 3);
    put(db, "latest", "1", 4);
    sqlite3_exec(c, "COMMIT", NULL, NULL, NULL);
    sqlite3_close(c);
    wait_told(db, 5);
    assert_int_equal(told[1], 1);
    assert_int_equal(told_rc[1], TT_OK);
    for (int i = 2; i < 5; i++) {
        assert_int_equal(told[i], 6 - i); /* 4, 3, 2 */
        assert_int_equal(told_rc[i], TT_E_STATE);
    }
    assert_string_equal(rows(db, TT_STATE_SESSION), "first=1 ok=1 ");
    assert_false(tt_state_degraded(db, NULL));
    assert_int_equal(tt_state_failures(db), 1);
    put(db, "again", "1", 5);
    wait_told(db, 6);
    assert_int_equal(told_rc[5], TT_OK);
    assert_string_equal(rows(db, TT_STATE_SESSION), "first=1 ok=1 again=1 ");
    tt_state_close(&db);
}

static bool is_degraded(tt_state_db *db)
{
    return tt_state_degraded(db, NULL);
}

static bool is_healthy(tt_state_db *db)
{
    return !tt_state_degraded(db, NULL);
}

/* The disk goes: one request fails, the next are told that it is well; what is in memory is read
 * from there. The disk comes back: everything is written, the latest of each key. */
static void degraded_and_back(void **state)
{
    tt_state_db *db = open_db();
    tt_err why = {0};
    put(db, "x", "old", 0);
    put(db, "gone", "1", 1);
    wait_told(db, 2);
    sqlite3_close(other("ALTER TABLE session RENAME TO away"));
    put(db, "fails", "1", 2);
    wait_told(db, 3);
    assert_int_equal(told_rc[2], TT_E_STATE);
    assert_true(tt_state_degraded(db, &why));
    assert_false(tt_state_durable(db));
    assert_true(why.msg[0] != '\0');
    put(db, "x", "new", 3);
    put(db, "x", "newer", 4);
    put(db, "y", "2", 5);
    put(db, "short", "1", 6);
    tt_state_txn *t = tt_state_begin(db);
    tt_state_delete(t, TT_STATE_SESSION, "a", "gone");
    tt_state_delete(t, TT_STATE_SESSION, "a", "short");
    tt_state_commit(t, on_done, (void *)7);
    assert_int_equal(n_told, 8);
    assert_int_equal(told_rc[7], TT_OK);
    poll_until(db, is_degraded);
    usleep(200000); /* several attempts fail and lose nothing */
    tt_state_poll(db);
    assert_true(is_degraded(db));
    sqlite3_close(other("ALTER TABLE away RENAME TO session"));
    poll_until(db, is_healthy);
    put(db, "z", "3", 8);
    wait_told(db, 9);
    assert_string_equal(rows(db, TT_STATE_SESSION), "x=newer y=2 z=3 ");
    tt_state_close(&db);
}

/* What came while the file was tried again waits for memory, and does not lie there when newer rows
 * have gone to the file. */
static void back_without_memory(void **state)
{
    tt_state_db *db = open_db();
    sqlite3_close(other("ALTER TABLE session RENAME TO away"));
    put(db, "fails", "1", 0);
    wait_told(db, 1);
    sqlite3_close(other("ALTER TABLE away RENAME TO session"));
    sqlite3 *c = other("BEGIN IMMEDIATE"); /* the attempt waits for this */
    while (sem_trywait(&woken) == 0) {
    }
    assert_int_equal(sem_wait(&woken), 0); /* it is time for one */
    tt_state_poll(db);
    put(db, "x", "old", 1);
    sqlite3_exec(c, "COMMIT", NULL, NULL, NULL);
    sqlite3_close(c);
    assert_int_equal(sem_wait(&woken), 0); /* it was one that succeeded */
    fail_alloc_at(0);
    tt_state_poll(db);
    assert_true(fail_alloc_off());
    assert_true(is_degraded(db));
    put(db, "x", "new", 2);
    poll_until(db, is_healthy);
    tt_state_close(&db);
    db = open_db();
    assert_string_equal(rows(db, TT_STATE_SESSION), "x=new ");
    tt_state_close(&db);
}

/* Rows of the journal are found although the file does not have them. */
static void fetches_while_degraded(void **state)
{
    tt_state_db *db = open_db();
    sqlite3_close(other("ALTER TABLE session RENAME TO away"));
    put(db, "fails", "1", 0);
    wait_told(db, 1);
    sqlite3_close(other("ALTER TABLE away RENAME TO session"));
    put_blob(db, "x", "7", 10, 1);
    put(db, "y", "8", 2);
    fetch_three(db);
    wait_told(db, 4);
    assert_string_equal(fetched, "7:10 -:0 8:0 ");
    tt_state_close(&db); /* a last attempt writes what waits */
    db = open_db();
    assert_string_equal(rows(db, TT_STATE_SESSION), "x=7 y=8 ");
    tt_state_close(&db);
}

/* The folder cannot be used from the start: the server runs, and says so. */
static void no_folder(void **state)
{
    tt_state_db *db = NULL;
    tt_err err;
    assert_int_equal(rmdir(dir), 0);
    int fd = open(dir, O_CREAT | O_WRONLY, 0600); /* a file of this name: root cannot either */
    close(fd);
    db = open_db();
    assert_true(tt_state_degraded(db, &err));
    assert_false(tt_state_complete(db));
    assert_non_null(strstr(tt_state_note(db), "state.dir"));
    put(db, "a", "1", 0);
    assert_int_equal(told_rc[0], TT_OK);
    unlink(dir);
    mkdir(dir, 0700);
    poll_until(db, is_healthy);
    assert_string_equal(rows(db, TT_STATE_SESSION), "a=1 ");
    tt_state_close(&db);
}

/* ---- the file is not what it should be ---- */

static void overwrite(off_t at, const char *text, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(pwrite(fd, text, n, at), (ssize_t)n);
    close(fd);
}

static void expect_kept_aside(int number)
{
    char kept[160];
    struct stat sb;
    tt_state_db *db = open_db();
    snprintf(kept, sizeof kept, "%s.corrupt-%d", path, number);
    assert_int_equal(stat(kept, &sb), 0);
    assert_non_null(strstr(tt_state_note(db), strrchr(kept, '/') + 1));
    assert_false(tt_state_degraded(db, NULL));
    assert_string_equal(rows(db, TT_STATE_SESSION), "");
    put(db, "new", "1", 0);
    tt_state_close(&db);
    db = open_db();
    assert_string_equal(rows(db, TT_STATE_SESSION), "new=1 ");
    assert_string_equal(tt_state_note(db), "");
    tt_state_close(&db);
}

static void corrupt(void **state)
{
    static char rubbish[8192];
    memset(rubbish, 0xA5, sizeof rubbish);
    overwrite(0,
              "this is not a database, and longer than its header of a hundred bytes is, as one "
              "can see from here",
              98);
    expect_kept_aside(1);
    tt_state_db *db = open_db();
    for (int i = 0; i < 30; i++) {
        put_blob(db, "big", "{}", (size_t)i * 3000, i);
    }
    tt_state_close(&db);
    n_told = 0;
    overwrite(8192, rubbish, sizeof rubbish); /* the header is fine, pages are not */
    expect_kept_aside(2);
}

static void newer_version(void **state)
{
    tt_err err;
    tt_state_db *db = open_db();
    tt_state_close(&db);
    sqlite3_close(other("PRAGMA user_version = 9"));
    assert_int_equal(try_open(&db, &err), TT_E_UNSUPPORTED);
    assert_null(db);
    assert_non_null(strstr(err.msg, "newer version"));
    sqlite3_close(other("PRAGMA user_version = 1"));
    db = open_db();
    tt_state_close(&db);
}

/* Another process has it; when that ends, however, it is free. */
static void second_server(void **state)
{
    int ends[2];
    tt_err err = {0};
    tt_state_db *db = NULL;
    char number[32];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        db = open_db();
        _exit(write(ends[1], "x", 1) == 1 && pause() ? 0 : 1);
    }
    char c;
    assert_int_equal(read(ends[0], &c, 1), 1);
    assert_int_equal(try_open(&db, &err), TT_E_BUSY);
    assert_null(db);
    snprintf(number, sizeof number, "process %ld", (long)child);
    assert_non_null(strstr(err.msg, number));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ends[0]);
    close(ends[1]);
    db = open_db();
    tt_state_close(&db);
}

/* ---- size, and nothing at all ---- */

static tt_code count(void *arg, const tt_state_row *r)
{
    int *n = arg;
    char id[16];
    snprintf(id, sizeof id, "%d", (*n)++);
    assert_string_equal(r->id, id);
    return TT_OK;
}

static void ten_thousand(void **state)
{
    static char json[800];
    tt_state_db *db = open_db();
    tt_state_txn *x = tt_state_begin(db);
    struct timespec a, b;
    tt_err err;
    int n = 0;
    memset(json, ' ', sizeof json - 1);
    memcpy(json, "{}", 2);
    for (int i = 0; i < 10000; i++) {
        char id[16];
        snprintf(id, sizeof id, "%d", i);
        assert_int_equal(
            tt_state_put(x, TT_STATE_SESSION, &(tt_state_row){"a", id, 0, 0, json, NULL, 0}),
            TT_OK);
    }
    tt_state_commit(x, NULL, NULL);
    tt_state_close(&db);
    clock_gettime(CLOCK_MONOTONIC, &a);
    db = open_db();
    assert_int_equal(tt_state_each(db, TT_STATE_SESSION, count, &n, &err), TT_OK);
    clock_gettime(CLOCK_MONOTONIC, &b);
    assert_int_equal(n, 10000);
    assert_true((double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9 < 2);
    tt_state_close(&db);
}

static tt_code stop_at_two(void *arg, const tt_state_row *r)
{
    int *n = arg;
    return ++*n == 2 ? TT_E_INTERNAL : TT_OK;
}

static void each_stops(void **state)
{
    tt_state_db *db = open_db();
    tt_err err;
    int n = 0;
    for (int i = 0; i < 3; i++) {
        put(db, i == 0 ? "a" : i == 1 ? "b" : "c", "{}", i);
    }
    wait_told(db, 3);
    assert_int_equal(tt_state_each(db, TT_STATE_SESSION, stop_at_two, &n, &err), TT_E_INTERNAL);
    assert_int_equal(err.code, TT_E_INTERNAL);
    assert_true(err.msg[0] != '\0');
    assert_int_equal(n, 2);
    line[0] = '\0';
    assert_int_equal(tt_state_each_key(db, TT_STATE_SESSION, add_to_line, NULL, &err), TT_OK);
    assert_string_equal(line, "a={} b={} c={} ");
    tt_state_close(&db);
}

/* Memory ran out for one of its rows: nothing of it is written. */
static void spoiled(void **state)
{
    tt_state_db *db = open_db();
    tt_state_txn *x = tt_state_begin(db);
    tt_state_row row = {.scope = "a", .id = "1"};
    assert_int_equal(tt_state_put(x, TT_STATE_JOB, &row), TT_OK);
    tt_state_spoil(x);
    assert_int_equal(tt_state_put(x, TT_STATE_JOB, &row), TT_E_NOMEM);
    tt_state_commit(x, on_done, NULL);
    assert_int_equal(n_told, 1);
    assert_int_equal(told_rc[0], TT_E_NOMEM);
    assert_string_equal(rows(db, TT_STATE_JOB), "");
    tt_state_spoil(NULL);
    tt_state_close(&db);
}

static void off(void **state)
{
    tt_err err;
    tt_state_db *db = NULL;
    tt_state_txn *x = tt_state_begin(NULL);
    tt_state_spoil(x); /* there is nothing to write */
    tt_state_commit(x, on_done, NULL);
    assert_int_equal(told_rc[0], TT_OK);
    n_told = 0;
    put(NULL, "a", "1", 3);
    assert_int_equal(n_told, 1);
    assert_int_equal(told[0], 3);
    assert_int_equal(told_rc[0], TT_OK);
    assert_false(tt_state_durable(NULL) || tt_state_degraded(NULL, &err));
    assert_true(tt_state_complete(NULL));
    assert_string_equal(rows(NULL, TT_STATE_SESSION), "");
    fetch_three(NULL);
    assert_string_equal(fetched, "");
    tt_state_poll(NULL);
    tt_state_close(&db);
    tt_state_commit(NULL, on_done, NULL); /* memory ran out before */
    assert_int_equal(told_rc[2], TT_E_NOMEM);
}

int main(void)
{
#define WITH_DIR(f) cmocka_unit_test_setup_teardown(f, reset, remove_dir)
    const struct CMUnitTest tests[] = {
        WITH_DIR(keeps_rows),
        WITH_DIR(order_and_replacement),
        WITH_DIR(closing_writes),
        WITH_DIR(groups),
        WITH_DIR(survives_kill),
        WITH_DIR(fetches),
        WITH_DIR(failure_takes_later_ones),
        WITH_DIR(degraded_and_back),
        WITH_DIR(back_without_memory),
        WITH_DIR(fetches_while_degraded),
        WITH_DIR(no_folder),
        WITH_DIR(corrupt),
        WITH_DIR(newer_version),
        WITH_DIR(second_server),
        WITH_DIR(ten_thousand),
        WITH_DIR(each_stops),
        WITH_DIR(spoiled),
        WITH_DIR(off),
    };
    return cmocka_run_group_tests_name("state_db", tests, NULL, NULL);
}
