/* test_session_state.c - sessions into the state on disk and back where memory runs out on the way:
 * the transaction tells, and what is put again is whole after a restart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fail_alloc.h"
#include "server/session_load.h"
#include "server/session_state.h"

enum { N_CONTEXT = 40, N_TURN = 10 };

static char dir[32];
static sem_t woken;
static tt_state_db *db;
static tt_session_store *store;

static char engine; /* only its address is used */
static uint64_t unpinned[8];
static int n_unpinned;
void __wrap_tt_engine_unpin(tt_engine *e, uint64_t adapter_id);

void __wrap_tt_engine_unpin(tt_engine *e, uint64_t adapter_id)
{
    assert_ptr_equal(e, &engine);
    assert_true(n_unpinned < 8);
    unpinned[n_unpinned++] = adapter_id;
}

static tt_engine *the_engine(void *arg)
{
    return db != NULL ? (tt_engine *)(void *)&engine : NULL; /* gone when the server has ended */
}

static tt_state_db *state_of(void *arg)
{
    return db;
}

static void wake(void *arg)
{
    sem_post(&woken);
}

/* ---- a server that begins and ends ---- */

static void begin_with(int32_t n_unreadable)
{
    tt_err err = {0};
    tt_session_restored n = {0};
    tt_state_options o = {.dir = dir, .wake = wake};
    tt_session_store_options so = {.max_sessions = 10,
                                   .max_bytes = 1 << 24,
                                   .max_generations = 2,
                                   .engine = the_engine,
                                   .state = state_of};
    assert_int_equal(tt_state_open(&o, &db, &err), TT_OK);
    assert_int_equal(tt_session_store_create(&so, &store, &err), TT_OK);
    assert_int_equal(tt_session_state_restore(store, &n, &err), TT_OK);
    assert_int_equal(n.unreadable, n_unreadable);
}

static void begin(void)
{
    begin_with(0);
}

static void end(void)
{
    tt_state_close(&db);
    tt_session_store_destroy(&store);
}

static int set_up(void **state)
{
    strcpy(dir, "/tmp/qttt-sessions-XXXXXX");
    return sem_init(&woken, 0, 0) != 0 || mkdtemp(dir) == NULL;
}

static int tear_down(void **state)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    sem_destroy(&woken);
    return system(command);
}

/* ---- sessions ---- */

/* One with messages and a turn: what is in it depends on its key. */
static tt_session_record *add(const char *key)
{
    int32_t ids[N_CONTEXT + N_TURN];
    tt_session *data;
    tt_session_text *text;
    tt_session_record *r;
    tt_session_plan plan;
    tt_session_generation base = {0};
    tt_err err;
    for (int32_t i = 0; i < N_CONTEXT + N_TURN; i++) {
        ids[i] = key[0] * 1000 + i;
    }
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", key);
    tt_session_text_options o = {
        .messages = messages, .text = key, .n = strlen(key), .ids = ids, .n_ids = N_CONTEXT};
    assert_int_equal(tt_session_text_create(&o, &text, &err), TT_OK);
    json_decref(messages);
    assert_int_equal(tt_session_create(ids, N_CONTEXT, 2, &data, &err), TT_OK);
    assert_int_equal(tt_session_make_plan(data, ids, N_CONTEXT + 5, &base, &plan, &err), TT_OK);
    assert_int_equal(
        tt_session_commit(data, &plan, ids, N_CONTEXT + 5, ids + N_CONTEXT + 5, 5, &err), TT_OK);
    tt_session_plan_finish(&plan);
    assert_int_equal(tt_session_store_add(store, "tenant", key, false, data, text, &r, &err),
                     TT_OK);
    return r;
}

/* After a restart it is as it was. */
static void expect_whole(const char *id)
{
    tt_err err = {0};
    tt_session_record *r = tt_session_store_find(store, "tenant", id);
    assert_non_null(r);
    tt_code rc = tt_session_load_now(r, &err);
    assert_string_equal(err.msg, "");
    assert_int_equal(rc, TT_OK);
    assert_int_equal(tt_session_tokens(r->data), N_CONTEXT + N_TURN);
    assert_non_null(r->text);
}

static tt_code told;
static bool is_told;

static void on_done(void *arg, tt_code rc, const tt_err *err)
{
    told = rc;
    is_told = true;
}

static tt_code commit(tt_state_txn *x)
{
    is_told = false;
    tt_state_commit(x, on_done, NULL);
    while (!is_told) {
        sem_wait(&woken);
        tt_state_poll(db);
    }
    tt_session_state_check(store);
    return told;
}

/* ---- tests ---- */

/* A put that fails takes its transaction with it; the next one leaves nothing out. */
static void put_again(void **state)
{
    for (int n = 0, refused = 1; refused != 0; n++) {
        assert_int_equal(set_up(state), 0);
        begin();
        tt_session_record *r = add("a");
        fail_alloc_at(n);
        tt_state_txn *x = tt_state_begin(db);
        tt_code rc = tt_session_state_put(x, r);
        refused = fail_alloc_off();
        assert_int_equal(commit(x), rc);
        assert_true(rc == TT_OK || (refused && rc == TT_E_NOMEM));
        assert_true(refused || n > 10);
        if (rc < 0) {
            assert_false(tt_session_durable(r));
            x = tt_state_begin(db);
            assert_int_equal(tt_session_state_put(x, r), TT_OK);
            assert_int_equal(commit(x), TT_OK);
        }
        assert_true(tt_session_durable(r));
        end();
        begin();
        expect_whole("ses_a");
        end();
        assert_int_equal(tear_down(state), 0);
    }
}

/* Sessions that are written in one transaction, of which one finds no memory: all are, later. */
static void flush_again(void **state)
{
    static const char *const ids[] = {"ses_a", "ses_b", "ses_c"};
    for (int n = 0, refused = 1; refused != 0; n++) {
        assert_int_equal(set_up(state), 0);
        begin();
        tt_session_record *r[] = {add("a"), add("b"), add("c")};
        for (int i = 0; i < 3; i++) {
            r[i]->in_db = r[i]->dirty = true;
        }
        fail_alloc_at(n);
        tt_session_state_flush(store, true);
        refused = fail_alloc_off();
        tt_session_state_flush(store, true);
        end();
        begin();
        for (int i = 0; i < 3; i++) {
            expect_whole(ids[i]);
        }
        end();
        assert_int_equal(tear_down(state), 0);
    }
}

static tt_code copy_json(void *arg, const tt_state_row *row)
{
    snprintf(arg, 4096, "%s", row->json);
    return TT_OK;
}

/* The row of a session becomes one of another version of the program, or one of this again. */
static void set_version(const char *id, char version)
{
    char json[4096];
    tt_err err;
    assert_int_equal(tt_state_each(db, TT_STATE_SESSION, copy_json, json, &err), TT_OK);
    json[strlen("{\"version\":")] = version;
    tt_state_txn *x = tt_state_begin(db);
    tt_state_row row = {.scope = "tenant", .id = id, .json = json};
    assert_int_equal(tt_state_put(x, TT_STATE_SESSION, &row), TT_OK);
    assert_int_equal(commit(x), TT_OK);
}

/* What a session refers to that only another version can read is not deleted with one that shares
 * it. */
static void of_another_version(void **state)
{
    begin();
    tt_session_record *r = add("a");
    tt_state_txn *x = tt_state_begin(db);
    assert_int_equal(tt_session_state_put(x, r), TT_OK);
    assert_int_equal(commit(x), TT_OK);
    set_version("ses_b", '9');
    end();
    begin_with(1);
    tt_session_store_delete(tt_session_store_find(store, "tenant", "ses_a"));
    set_version("ses_b", '1');
    end();
    begin();
    expect_whole("ses_b");
    end();
}

static bool has_unpinned(int n)
{
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_sec += 10;
    while (n_unpinned < n && sem_timedwait(&woken, &soon) == 0) {
        tt_state_poll(db);
    }
    return n_unpinned == n;
}

/* An adapter's file goes behind the row that still names it. */
static void dropped_generations(void **state)
{
    int32_t number;
    begin();
    tt_session_record *r = add("a");
    tt_state_txn *x = tt_state_begin(db);
    assert_int_equal(tt_session_state_put(x, r), TT_OK);
    assert_int_equal(commit(x), TT_OK);
    n_unpinned = 0;
    for (int i = 1; i <= 3; i++) { /* of which it keeps two */
        tt_qttt_result result = {.adapter_id = (uint64_t)i};
        tt_session_adopt(r, &result, "qttt_a_1", &number);
        assert_int_equal(number, i);
    }
    assert_int_equal(n_unpinned, 0);
    assert_true(has_unpinned(1));
    assert_int_equal(unpinned[0], 1);
    r->in_db = false; /* no row names it: at once */
    tt_qttt_result result = {.adapter_id = 4};
    tt_session_adopt(r, &result, "qttt_a_1", &number);
    assert_int_equal(n_unpinned, 2);
    assert_int_equal(unpinned[1], 2);
    end();
}

static int32_t adopt(tt_session_record *r, uint64_t adapter_id)
{
    tt_qttt_result result = {.adapter_id = adapter_id};
    int32_t number;
    tt_session_adopt(r, &result, "qttt_a_1", &number);
    return number;
}

static void expect_generations(const tt_session_record *r, uint64_t first, uint64_t second)
{
    tt_session_generation g;
    assert_true(tt_session_generation_at(r->data, 0, &g));
    assert_int_equal(g.adapter_id, first);
    assert_int_equal(g.number, (int32_t)first);
    assert_true(tt_session_generation_at(r->data, 1, &g));
    assert_int_equal(g.adapter_id, second);
    assert_int_equal(g.number, (int32_t)second);
    assert_false(tt_session_generation_at(r->data, 2, &g));
}

/* What a job published meanwhile was told of: it stays beside what comes back. */
static void a_reset_that_is_undone(void **state)
{
    begin();
    tt_session_record *r = add("a");
    tt_state_txn *x = tt_state_begin(db);
    assert_int_equal(tt_session_state_put(x, r), TT_OK);
    assert_int_equal(commit(x), TT_OK);
    n_unpinned = 0;
    assert_int_equal(adopt(r, 1), 1);
    tt_session_change *c = tt_session_change_begin(r, TT_CHANGE_RESET);
    tt_session_reset(r->data);
    assert_int_equal(adopt(r, 2), 2);
    tt_session_change_undo(c);
    expect_generations(r, 1, 2);
    assert_int_equal(n_unpinned, 0);
    c = tt_session_change_begin(r, TT_CHANGE_RESET); /* and again, without room for all */
    tt_session_reset(r->data);
    assert_int_equal(adopt(r, 3), 3);
    tt_session_change_undo(c);
    expect_generations(r, 2, 3);
    assert_true(has_unpinned(1));
    assert_int_equal(unpinned[0], 1);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(put_again),
        cmocka_unit_test(flush_again),
        cmocka_unit_test_setup_teardown(of_another_version, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dropped_generations, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_reset_that_is_undone, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("session_state", tests, NULL, NULL);
}
