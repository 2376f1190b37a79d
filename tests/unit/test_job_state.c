/* test_job_state.c - jobs that had not ended when the process did: the next one queues them again,
 * also when that fails for a moment. The engine is its queue alone, and the clock the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/job_setup.h"
#include "server/job_state.h"
#include "server/job_table.h"
#include "server/session_load.h"
#include "server/session_state.h"

static char dir[32];
static tt_server s;
static tt_settings settings;
static tt_served served = {.name = "m"};
static char engine; /* only its address is used */

/* ---- what fails ---- */

static double clock_now;
static tt_code submit_rc, read_rc;
static int n_submits, n_blocking; /* reads on this thread */
static int32_t queued_jobs;

double __wrap_tt_now(void);
tt_code __wrap_tt_engine_submit(tt_engine *e, tt_job *job, tt_err *reterr);
void __wrap_tt_engine_get_stats(const tt_engine *e, tt_engine_stats *ret);
tt_code __wrap_tt_state_read(tt_state_db *db, const tt_state_key *keys, int32_t n,
                             tt_state_fetched done, void *arg, tt_err *reterr);
tt_code __real_tt_state_read(tt_state_db *db, const tt_state_key *keys, int32_t n,
                             tt_state_fetched done, void *arg, tt_err *reterr);

double __wrap_tt_now(void)
{
    return clock_now;
}

tt_code __wrap_tt_engine_submit(tt_engine *e, tt_job *job, tt_err *reterr)
{
    n_submits++;
    return submit_rc == TT_OK ? TT_OK : tt_fail(reterr, submit_rc, "not now");
}

void __wrap_tt_engine_get_stats(const tt_engine *e, tt_engine_stats *ret)
{
    *ret = (tt_engine_stats){.queued_jobs = queued_jobs};
}

tt_code __wrap_tt_state_read(tt_state_db *db, const tt_state_key *keys, int32_t n,
                             tt_state_fetched done, void *arg, tt_err *reterr)
{
    tt_err err;
    n_blocking++;
    if (read_rc == TT_OK) {
        return __real_tt_state_read(db, keys, n, done, arg, reterr);
    }
    done(arg, tt_fail(&err, read_rc, "a page could not be read"), NULL, 0, &err);
    return TT_OK;
}

/* ---- a server that begins and ends ---- */

static tt_engine *the_engine(void *arg)
{
    return s.engine;
}

static tt_state_db *state_of(void *arg)
{
    return s.state;
}

static void wake(void *arg)
{
}

static void begin(void)
{
    tt_err err = {0};
    tt_session_restored n = {0};
    tt_state_options o = {.dir = dir, .wake = wake};
    tt_session_store_options so = {.max_sessions = 10,
                                   .max_bytes = 1 << 24,
                                   .max_generations = 2,
                                   .engine = the_engine,
                                   .state = state_of};
    s.jobs_waiting = 0;
    s.jobs_frozen = false;
    s.jobs_retry_at = s.jobs_stuck_since = 0;
    assert_int_equal(tt_state_open(&o, &s.state, &err), TT_OK);
    assert_int_equal(tt_session_store_create(&so, &s.sessions, &err), TT_OK);
    assert_int_equal(tt_session_state_restore(s.sessions, &n, &err), TT_OK);
    assert_int_equal(tt_jobs_start(&s, &err), TT_OK);
    assert_int_equal(tt_job_state_restore(&s, &err), TT_OK);
}

static void end(void)
{
    tt_job_state_freeze(&s);
    tt_state_close(&s.state);
    tt_job_table_destroy(&s.jobs);
    tt_session_store_destroy(&s.sessions);
}

/* A session and its jobs, the process of which has ended. */
static int set_up(void **state)
{
    static const int32_t ids[] = {1, 2, 3, 4};
    tt_err err;
    tt_session *data;
    tt_session_record *ses;
    s = (tt_server){.settings = &settings, .served = &served};
    s.engine = (tt_engine *)(void *)&engine;
    clock_now = 100;
    submit_rc = read_rc = TT_OK;
    n_submits = n_blocking = queued_jobs = 0;
    strcpy(dir, "/tmp/qttt-jobs-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(tt_settings_init(&settings, &err), TT_OK);
    assert_int_equal(uv_loop_init(&s.loop), 0);
    uv_timer_init(&s.loop, &s.job_timer);
    s.job_timer.data = &s;
    begin();
    assert_int_equal(tt_session_create(ids, 4, 2, &data, &err), TT_OK);
    assert_int_equal(tt_session_store_add(s.sessions, "t", "a", false, data, NULL, &ses, &err),
                     TT_OK);
    ses->status = TT_SESSION_READY;
    tt_state_txn *x = tt_state_begin(s.state);
    assert_int_equal(tt_session_state_put(x, ses), TT_OK);
    tt_state_commit(x, NULL, NULL);
    for (int i = 0; i < 2; i++) {
        tt_qttt_request q = {.generation = -1};
        tt_job_record *r;
        assert_int_equal(tt_jobs_train(&s, ses, &q, NULL, &r, &err), TT_OK);
        tt_job_state_changed(&s, r);
        tt_job_record_unref(&r);
    }
    end();
    n_submits = 0;
    return 0;
}

static int tear_down(void **state)
{
    char command[64];
    end();
    uv_close((uv_handle_t *)&s.job_timer, NULL);
    uv_run(&s.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&s.loop), 0);
    tt_settings_finish(&settings);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static tt_job_record *job(int n)
{
    char id[32];
    snprintf(id, sizeof id, "qttt_a_%d", n);
    tt_job_record *r = tt_job_table_find(s.jobs, "t", id);
    assert_non_null(r);
    return r;
}

/* What is being read for the jobs is there. */
static void hear(void)
{
    for (int i = 0; s.jobs_loading && i < 2000; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        tt_state_poll(s.state);
    }
    assert_false(s.jobs_loading);
}

/* Both wait and nothing was said of them; then both are queued. */
static void expect_patience(void)
{
    for (int i = 1; i <= 2; i++) {
        assert_int_equal(job(i)->status, TT_JOB_QUEUED);
        assert_int_equal(job(i)->n_jobs, 0);
    }
    assert_int_equal(s.jobs_waiting, 2);
    submit_rc = read_rc = TT_OK;
    queued_jobs = 0;
    clock_now += 2;
    tt_job_state_resume(&s);
    hear();
    assert_int_equal(s.jobs_waiting, 0);
    for (int i = 1; i <= 2; i++) {
        assert_int_equal(job(i)->status, TT_JOB_QUEUED);
        assert_int_equal(job(i)->n_jobs, 1);
    }
}

/* ---- tests ---- */

static void at_once(void **state)
{
    begin();
    assert_int_equal(s.jobs_waiting, 2);
    tt_job_state_resume(&s);
    assert_int_equal(s.jobs_waiting, 0);
    assert_int_equal(n_submits, 2);
}

static void what_passes(void **state)
{
    static const tt_code codes[] = {TT_E_BUSY, TT_E_NOMEM, TT_E_CAPACITY, TT_E_UNAVAILABLE};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        begin();
        submit_rc = codes[i];
        tt_job_state_resume(&s);
        tt_job_state_resume(&s);
        assert_int_equal(n_submits,
                         codes[i] == TT_E_BUSY ? 2 : 1); /* not as often as it is woken */
        expect_patience();
        end();
        n_submits = 0;
    }
    begin();
}

/* The session's tokens are read when the jobs are restored, or later. */
static void what_cannot_be_read_now(void **state)
{
    static const tt_code codes[] = {TT_E_IO, TT_E_NOMEM};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        read_rc = codes[i];
        begin();
        tt_job_state_resume(&s);
        expect_patience();
        end();
    }
    begin();
}

/* Damage does not pass. */
static void what_stays(void **state)
{
    begin();
    submit_rc = TT_E_CONTEXT_LENGTH;
    tt_job_state_resume(&s);
    assert_int_equal(s.jobs_waiting, 0);
    assert_int_equal(job(1)->status, TT_JOB_FAILED);
    assert_string_equal(job(1)->error_code, "server_restarted");
    assert_int_equal(job(2)->status, TT_JOB_FAILED);
}

static void a_full_queue_is_not_asked(void **state)
{
    begin();
    queued_jobs = (int32_t)(settings.qttt_max_queued_jobs + settings.qttt_max_jobs);
    tt_job_state_resume(&s);
    assert_int_equal(n_submits, 0);
    expect_patience();
}

/* Its session may leave memory while a job waits for a place in the queue. The tokens are read by
 * the thread that writes, which may be at a long fsync: this one does not wait for it. */
static void a_session_that_left_memory(void **state)
{
    begin();
    tt_session_record *ses = tt_session_store_find(s.sessions, "t", job(1)->session_id);
    assert_true(tt_session_unload_record(ses));
    n_blocking = 0;
    tt_job_state_resume(&s);
    tt_job_state_resume(&s); /* something else wakes it meanwhile */
    assert_true(s.jobs_loading);
    assert_int_equal(n_submits, 0);
    hear();
    assert_int_equal(n_blocking, 0);
    assert_int_equal(n_submits, 2);
    assert_int_equal(s.jobs_waiting, 0);
    assert_int_equal(job(1)->n_jobs, 1);
}

/* The process ends while they are being read: the jobs stay for the next one. */
static void an_end_while_it_is_read(void **state)
{
    begin();
    assert_true(
        tt_session_unload_record(tt_session_store_find(s.sessions, "t", job(1)->session_id)));
    tt_job_state_resume(&s);
    end();
    assert_false(s.jobs_loading);
    assert_int_equal(n_submits, 0);
    begin();
    assert_int_equal(s.jobs_waiting, 2);
}

/* Nothing else has to happen for it to be tried again. */
static void again_by_itself(void **state)
{
    begin();
    submit_rc = TT_E_NOMEM;
    tt_job_state_resume(&s);
    submit_rc = TT_OK;
    clock_now += 2;
    assert_true(uv_is_active((uv_handle_t *)&s.job_timer));
    while (uv_is_active((uv_handle_t *)&s.job_timer) && s.jobs_waiting > 0) {
        uv_run(&s.loop, UV_RUN_ONCE);
    }
    assert_int_equal(s.jobs_waiting, 0);
    assert_int_equal(job(1)->n_jobs, 1);
}

/* Those behind it are not kept for ever by one that never succeeds. */
static void not_for_ever(void **state)
{
    begin();
    submit_rc = TT_E_CAPACITY;
    tt_job_state_resume(&s);
    clock_now += 299;
    tt_job_state_resume(&s);
    assert_int_equal(job(1)->status, TT_JOB_QUEUED);
    clock_now += 2;
    tt_job_state_resume(&s);
    assert_int_equal(job(1)->status, TT_JOB_FAILED);
    assert_string_equal(job(1)->error_message, "not now");
    assert_int_equal(job(2)->status, TT_JOB_QUEUED);
    assert_int_equal(s.jobs_waiting, 1);
}

#define WITH_JOBS(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_JOBS(at_once),
        WITH_JOBS(what_passes),
        WITH_JOBS(what_cannot_be_read_now),
        WITH_JOBS(what_stays),
        WITH_JOBS(a_full_queue_is_not_asked),
        WITH_JOBS(a_session_that_left_memory),
        WITH_JOBS(an_end_while_it_is_read),
        WITH_JOBS(again_by_itself),
        WITH_JOBS(not_for_ever),
    };
    return cmocka_run_group_tests_name("job_state", tests, NULL, NULL);
}
