/* test_engine_jobs.c - qTTT jobs on the engine: publication, pins, pauses, tags, preemption, what
 * several requests share of one training. argv[1]: folder of tiny models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/sysinfo.h"
#include "engine_client.h"

static tt_engine *engine;

static int setup(void **state)
{
    engine = client_start_plain();
    return 0;
}

static int teardown(void **state)
{
    tt_engine_destroy(&engine);
    return 0;
}

static tt_job_params training(int32_t context, int32_t steps, uint64_t seed)
{
    tt_job_params p = client_params(context, 0);
    client_turn_on(&p, context, steps, false);
    p.kind = TT_JOB_TRAIN;
    p.qttt.seed = seed;
    p.pin_adapter = true;
    return p;
}

static void test_a_job_publishes_what_requests_use(void **state)
{
    tt_job_params job = training(300, 4, 1), p = client_params(400, 12);
    client_outcome o = client_collect(client_submit(engine, &job));
    assert_int_equal(o.last, TT_EV_DONE);
    assert_int_equal(o.n_adapt, 4);
    assert_true(o.adapted && o.qttt.kept && o.qttt.adapter_id > 0);
    assert_string_equal(o.qttt.stop_reason, "steps");
    client_outcome base = client_collect(client_submit(engine, &p));
    p.adapter_id = o.qttt.adapter_id;
    p.qttt.context_tokens = 300;
    client_outcome session = client_collect(client_submit(engine, &p));
    assert_memory_not_equal(base.logprob, session.logprob, 12 * sizeof(float));
    p.adapter_id = 0;
    client_turn_on(&p, 300, 4, false);
    p.qttt.seed = 1;
    client_outcome request = client_collect(client_submit(engine, &p)); /* it knows the adapter */
    assert_true(request.qttt.cached);
    client_same_answer(&request, &session);
    p = client_params(400, 12);
    p.adapter_id = 987654;
    assert_int_equal(client_collect(client_submit(engine, &p)).error.code, TT_E_ADAPTER_LOST);
}

/* The same tokens under the same adapter, but more of them are the base's. */
static void test_a_context_that_has_grown_has_other_pages(void **state)
{
    tt_job_params job = training(300, 4, 2), p = client_params(400, 12);
    p.adapter_id = client_collect(client_submit(engine, &job)).qttt.adapter_id;
    p.qttt.context_tokens = 300;
    (void)client_collect(client_submit(engine, &p));
    p.qttt.context_tokens = 310;
    client_outcome warm = client_collect(client_submit(engine, &p));
    assert_int_equal(warm.cached, 256); /* the page from 256 on is another */
    snprintf(p.adapter_scope, sizeof p.adapter_scope, "somebody else");
    client_outcome cold = client_collect(client_submit(engine, &p));
    assert_int_equal(cold.cached, 0);
    client_same_answer(&warm, &cold);
}

static void test_training_goes_on_from_an_adapter(void **state)
{
    tt_job_params p = training(300, 4, 11);
    client_outcome first = client_collect(client_submit(engine, &p));
    p.qttt.start_adapter = first.qttt.adapter_id;
    client_outcome second = client_collect(client_submit(engine, &p));
    assert_int_equal(second.last, TT_EV_DONE);
    assert_true(second.qttt.adapter_id != first.qttt.adapter_id);
    assert_true(second.qttt.loss_first <
                first.qttt.loss_first); /* the same spans, trained before */
    assert_true(second.qttt.delta_norm_relative > first.qttt.delta_norm_relative);
    p.qttt.lora = true;
    p.qttt.rank = 4;
    assert_int_equal(client_collect(client_submit(engine, &p)).error.code, TT_E_INVALID);
}

static void test_pinned_adapters_fill_their_budget(void **state)
{
    tt_job_params p = training(200, 1, 21);
    client_outcome o = client_collect(client_submit(engine, &p));
    tt_engine *e = client_start(
        &(tt_engine_options){.isa_mask = TT_ISA_ALL,
                             .adapter_cache_bytes = (size_t)o.qttt.adapter_bytes * 3 / 2},
        "llama.gguf", TT_ENGINE_READY);
    o = client_collect(client_submit(e, &p));
    assert_true(o.qttt.kept);
    tt_job *job;
    tt_err err = {0};
    tt_job_params q = training(200, 1, 22);
    assert_int_equal(tt_job_create(&q, NULL, NULL, &job, &err), TT_OK);
    assert_int_equal(tt_engine_submit(e, job, &err), TT_E_CAPACITY);
    assert_non_null(strstr(err.msg, "adapter"));
    tt_engine_unpin(e, 424242); /* of nobody */
    tt_engine_unpin(e, o.qttt.adapter_id);
    double t0 = tt_sys_now();
    while (tt_engine_submit(e, job, &err) != TT_OK && tt_sys_now() - t0 < 10) {
        client_nap();
    }
    o = client_collect(job);
    assert_true(o.qttt.kept);
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_int_equal(st.adapters, 1);
    tt_engine_destroy(&e);
}

/* Whatever becomes of it in the cache while they wait. */
static void test_jobs_keep_the_adapters_that_they_name(void **state)
{
    tt_job_params a = training(200, 1, 23), b = training(200, 1, 24), p = client_params(300, 4);
    int64_t bytes = client_collect(client_submit(engine, &a)).qttt.adapter_bytes;
    tt_engine *e = client_start(&(tt_engine_options){.isa_mask = TT_ISA_ALL,
                                                     .max_running = 1,
                                                     .max_jobs = 1,
                                                     .adapter_cache_bytes = (size_t)bytes * 3 / 2},
                                "llama.gguf", TT_ENGINE_READY);
    uint64_t first = client_collect(client_submit(e, &a)).qttt.adapter_id;
    tt_job_params long_one = client_params(50, 1900);
    tt_job *blocker = client_submit(e, &long_one);
    p.adapter_id = first;
    p.qttt.context_tokens = 200;
    tt_job *request = client_submit(e, &p);
    tt_engine_unpin(e, first);
    tt_job *job;
    tt_err err = {0};
    assert_int_equal(tt_job_create(&b, NULL, NULL, &job, &err), TT_OK);
    for (double t0 = tt_sys_now(); tt_engine_submit(e, job, &err) != TT_OK;) {
        assert_true(tt_sys_now() - t0 < 10);
        client_nap();
    }
    assert_true(client_collect(job).qttt.kept); /* the first has made way for it */
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_int_equal(st.adapters, 1);
    assert_int_equal(st.queued, 1);
    tt_job_cancel(blocker, false);
    tt_engine_kick(e);
    client_collect(blocker);
    assert_int_equal(client_collect(request).last, TT_EV_DONE);
    tt_engine_destroy(&e);
}

/* The next event of a type; asserts that the job does not end before it. */
static tt_event *await(tt_job *job, tt_event_type type)
{
    for (double t0 = tt_sys_now(); tt_sys_now() - t0 < 30;) {
        tt_event *ev = tt_job_next(job);
        if (ev == NULL) {
            client_nap();
        } else if (ev->type == type) {
            return ev;
        } else {
            assert_true(ev->type != TT_EV_DONE && ev->type != TT_EV_ERROR);
            tt_event_free(ev);
        }
    }
    fail_msg("no event of type %d", type);
    return NULL;
}

static void test_pause_and_resume(void **state)
{
    tt_job_params p = training(600, 200, 31);
    tt_job *job = client_submit(engine, &p);
    tt_event_free(await(job, TT_EV_ADAPT));
    tt_job_pause(job, true);
    tt_job_pause(job, true);
    tt_event *ev = await(job, TT_EV_STATUS);
    assert_string_equal(ev->u.status.status, "paused");
    tt_event_free(ev);
    tt_job_params q = client_params(50, 4); /* the engine serves others meanwhile */
    assert_int_equal(client_collect(client_submit(engine, &q)).last, TT_EV_DONE);
    assert_null(tt_job_next(job));
    tt_job_pause(job, false);
    tt_engine_kick(engine);
    ev = await(job, TT_EV_STATUS);
    assert_string_equal(ev->u.status.status, "running");
    tt_event_free(ev);
    ev = await(job, TT_EV_ADAPT);
    assert_true(ev->u.adapt.step > 1 && ev->u.adapt.step < 200);
    tt_event_free(ev);
    tt_job_cancel(job, false);
    tt_engine_kick(engine);
    assert_int_equal(client_collect(job).error.code, TT_E_CANCELLED);
    tt_engine_stats st;
    tt_engine_get_stats(engine, &st);
    assert_int_equal(st.running_jobs + st.queued_jobs, 0);
    assert_int_equal(st.kv_pages_used, 0);
}

static void test_paused_runs_reach_the_same_adapter(void **state)
{
    tt_job_params p = training(600, 12, 33), q = client_params(650, 10);
    client_outcome one = client_collect(client_submit(engine, &p));
    tt_engine *e =
        client_start(&(tt_engine_options){.isa_mask = TT_ISA_ALL, .adapter_cache_bytes = 64 << 20},
                     "llama.gguf", TT_ENGINE_READY);
    tt_job *job = client_submit(e, &p);
    tt_event_free(await(job, TT_EV_ADAPT));
    tt_job_pause(job, true);
    tt_event_free(await(job, TT_EV_STATUS));
    tt_job_pause(job, false);
    tt_engine_kick(e);
    client_outcome other = client_collect(job);
    assert_true(other.qttt.kept);
    assert_true(one.qttt.loss_last == other.qttt.loss_last);
    q.qttt.context_tokens = 600;
    q.adapter_id = one.qttt.adapter_id;
    client_outcome a = client_collect(client_submit(engine, &q));
    q.adapter_id = other.qttt.adapter_id;
    client_outcome b = client_collect(client_submit(e, &q));
    client_same_answer(&a, &b);
    tt_engine_destroy(&e);
}

static void test_jobs_of_one_session_run_one_after_another(void **state)
{
    tt_engine *e = client_start(&(tt_engine_options){.isa_mask = TT_ISA_ALL,
                                                     .adapter_cache_bytes = 64 << 20,
                                                     .max_jobs = 3},
                                "llama.gguf", TT_ENGINE_READY);
    tt_job_params a = training(600, 256, 41), b = training(600, 2, 42), c = training(600, 2, 43);
    a.session_tag = b.session_tag = 5;
    c.session_tag = 6;
    tt_job *first = client_submit(e, &a);
    tt_event_free(await(first, TT_EV_ADAPT));
    tt_job_pause(first, true); /* it still counts as running */
    tt_job *second = client_submit(e, &b), *third = client_submit(e, &c);
    assert_int_equal(client_collect(third).last, TT_EV_DONE); /* another session's overtakes */
    const char *reason = "";
    for (double t0 = tt_sys_now(); reason[0] == '\0' && tt_sys_now() - t0 < 10; client_nap()) {
        tt_job_position(second, &reason);
    }
    assert_string_equal(reason, "session_job");
    assert_int_equal(tt_job_position(second, &reason), 0);
    assert_null(tt_job_next(second));
    tt_job_cancel(first, false);
    tt_engine_kick(e);
    assert_int_equal(client_collect(first).error.code, TT_E_CANCELLED);
    client_outcome o = client_collect(second);
    assert_int_equal(o.last, TT_EV_DONE);
    assert_true(o.qttt.kept);
    tt_engine_destroy(&e);
}

static void test_requests_share_one_training(void **state)
{
    tt_job_params p = client_params(500, 6);
    client_turn_on(&p, 400, 20, false);
    p.qttt.seed = 51;
    tt_engine_stats before, after;
    tt_engine_get_stats(engine, &before);
    tt_job *a = client_submit(engine, &p), *b = client_submit(engine, &p),
           *c = client_submit(engine, &p);
    client_outcome x = client_collect(a), y = client_collect(b), z = client_collect(c);
    tt_engine_get_stats(engine, &after);
    assert_int_equal(after.qttt_steps - before.qttt_steps, 20);
    client_same_answer(&x, &y);
    client_same_answer(&x, &z);
    assert_int_equal(x.qttt.cached + y.qttt.cached + z.qttt.cached, 2);
}

enum { LEAVES, WANTS_THE_BASE, EXPIRES };

/* The first of three that want one training gives up in its middle. The second takes it over, from
 * the step where it is: no step is done twice, and the answer is that of who trained alone. */
static void give_up(int how, uint64_t seed)
{
    tt_job_params p = client_params(500, 6);
    client_turn_on(&p, 400, 20, false);
    p.qttt.seed = seed;
    p.pin_adapter = how == LEAVES;
    tt_engine_stats before, after;
    tt_engine_get_stats(engine, &before);
    p.timeout_seconds = how == EXPIRES ? 1 : 0;
    tt_job *a = client_submit(engine, &p);
    p.timeout_seconds = 0;
    tt_job *b = client_submit(engine, &p), *c = client_submit(engine, &p);
    tt_event_free(await(a, TT_EV_ADAPT));
    tt_job_pause(a, true); /* all wait for it now */
    tt_event_free(await(a, TT_EV_STATUS));
    if (how != EXPIRES) {
        tt_job_cancel(a, how == WANTS_THE_BASE);
        tt_engine_kick(engine);
    }
    client_outcome x = client_collect(a), y = client_collect(b), z = client_collect(c);
    tt_engine_get_stats(engine, &after);
    assert_int_equal(after.qttt_steps - before.qttt_steps, 20);
    assert_int_equal(x.error.code, how == LEAVES    ? TT_E_CANCELLED
                                   : how == EXPIRES ? TT_E_TIMEOUT
                                                    : TT_OK);
    assert_true(how != WANTS_THE_BASE || strcmp(x.qttt.status, "cancelled") == 0);
    assert_int_equal(y.last, TT_EV_DONE);
    assert_true(y.qttt.kept && !y.qttt.cached && y.n_adapt < 20 && y.last_step == 20);
    assert_true(z.qttt.kept && z.qttt.cached);
    client_same_answer(&y, &z);
    for (int pins = 0; how == LEAVES && pins < 2; pins++) {
        assert_true(after.adapter_pinned_bytes > 0);
        tt_engine_unpin(engine, y.qttt.adapter_id);
    }
    tt_engine *alone = client_start_plain();
    p.pin_adapter = false;
    client_outcome o = client_collect(client_submit(alone, &p));
    client_same_answer(&y, &o);
    tt_engine_destroy(&alone);
    p.max_tokens = 0; /* what was asked of the engine before is done when this has ended */
    client_collect(client_submit(engine, &p));
    tt_engine_get_stats(engine, &after);
    assert_int_equal(after.adapter_pinned_bytes, before.adapter_pinned_bytes);
}

static void test_another_takes_the_training_over(void **state)
{
    give_up(LEAVES, 52);
    give_up(WANTS_THE_BASE, 54);
    give_up(EXPIRES, 55);
}

/* Its adapter would be pinned for nobody. */
static void test_a_request_that_expires_takes_its_training_along(void **state)
{
    tt_job_params p = client_params(500, 6);
    client_turn_on(&p, 400, 200, false);
    p.qttt.seed = 53;
    p.pin_adapter = true;
    p.timeout_seconds = 1;
    tt_job *job = client_submit(engine, &p);
    tt_event_free(await(job, TT_EV_ADAPT));
    tt_job_pause(job, true); /* it will not be done in time */
    assert_int_equal(client_collect(job).error.code, TT_E_TIMEOUT);
    tt_engine_stats st;
    double t0 = tt_sys_now();
    do {
        client_nap();
        tt_engine_get_stats(engine, &st);
    } while (st.running_jobs + st.queued_jobs > 0 && tt_sys_now() - t0 < 10);
    assert_int_equal(st.running_jobs + st.queued_jobs, 0);
    assert_int_equal(st.kv_pages_used, 0);
}

/* Counts the prompt's log-probabilities up to the next event of a type: each comes once. */
static void count_told(tt_job *job, tt_event_type until, int32_t *told)
{
    for (double t0 = tt_sys_now(); tt_sys_now() - t0 < 30;) {
        tt_event *ev = tt_job_next(job);
        if (ev == NULL) {
            client_nap();
            continue;
        }
        tt_event_type type = ev->type;
        if (type == TT_EV_PROMPT_LOGPROBS) {
            assert_int_equal(ev->u.prompt_logprobs.first, *told + 1);
            *told += ev->u.prompt_logprobs.n;
        }
        tt_event_free(ev);
        if (type == until) {
            return;
        }
    }
    fail_msg("no event of type %d", until);
}

/* It has told the log-probabilities of its context, loses the pages while it waits for its
 * training, and reads the prompt again in other pieces. */
static void test_a_parked_request_tells_its_prompt_once(void **state)
{
    tt_engine *e = client_start(&(tt_engine_options){.isa_mask = TT_ISA_ALL,
                                                     .adapter_cache_bytes = 64 << 20,
                                                     .prefill_chunk = 128,
                                                     .kv_bytes = 8 * tt_engine_page_bytes(engine)},
                                "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(300, 6), q = client_params(480, 6);
    int32_t told = 0;
    p.n_prompt_logprobs = 0;
    client_turn_on(&p, 100, 200, false);
    tt_job *job = client_submit(e, &p);
    count_told(job, TT_EV_ADAPT, &told);
    assert_int_equal(told, 100);
    tt_job_pause(job, true);
    count_told(job, TT_EV_STATUS, &told);
    assert_int_equal(client_collect(client_submit(e, &q)).last, TT_EV_DONE);
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_true(st.preemptions > 0);
    tt_job_cancel(job, true);
    tt_engine_kick(e);
    count_told(job, TT_EV_DONE, &told);
    assert_int_equal(told, 299);
    tt_job_unref(&job);
    tt_engine_destroy(&e);
}

/* A training whose context's pages are taken by an older request finds them again. */
static void test_preempted_training_reaches_the_same_adapter(void **state)
{
    tt_job_params job = training(600, 30, 61), p = client_params(800, 300);
    client_outcome want = client_collect(client_submit(engine, &job));
    for (int32_t i = 0; i < 800; i++) {
        client_prompt[800 + i] = 205 - i % 190; /* a prompt of another kind */
    }
    tt_engine *e = client_start(&(tt_engine_options){.isa_mask = TT_ISA_ALL,
                                                     .adapter_cache_bytes = 64 << 20,
                                                     .kv_bytes = 24 * tt_engine_page_bytes(engine)},
                                "llama.gguf", TT_ENGINE_READY);
    p.prompt = client_prompt + 800;
    tt_job *request = client_submit(e, &p), *trainee = client_submit(e, &job);
    client_outcome r = client_collect(request), got = client_collect(trainee);
    assert_int_equal(r.last, TT_EV_DONE);
    assert_int_equal(got.last, TT_EV_DONE);
    assert_true(got.qttt.loss_last == want.qttt.loss_last);
    assert_int_equal(got.n_adapt, 30);
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_true(st.preemptions > 0);
    tt_engine_destroy(&e);
}

static void test_auto_says_what_it_decided(void **state)
{
    tt_engine *e = client_start(
        &(tt_engine_options){.isa_mask = TT_ISA_ALL,
                             .adapter_cache_bytes = 64 << 20,
                             .auto_rule = {.min_tokens = 1100, .min_recall = 0.01, .max_load = 1}},
        "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(1200, 3);
    client_turn_on(&p, 1000, 3, false);
    p.qttt.mode = TT_QTTT_AUTO;
    client_outcome o = client_collect(client_submit(e, &p));
    assert_string_equal(o.qttt.status, "skipped");
    assert_string_equal(o.qttt.reason, "auto_context_is_short");
    p.qttt.context_tokens = 1150;
    o = client_collect(client_submit(e, &p));
    assert_string_equal(o.qttt.status, "succeeded");
    assert_int_equal(o.n_adapt, 3);
    tt_engine_destroy(&e);
    e = client_start(&(tt_engine_options){.isa_mask = TT_ISA_ALL,
                                          .adapter_cache_bytes = 64 << 20,
                                          .auto_rule = {.min_tokens = 1100, .min_recall = 99}},
                     "llama.gguf", TT_ENGINE_READY);
    o = client_collect(client_submit(e, &p));
    assert_string_equal(o.qttt.status, "skipped");
    assert_string_equal(o.qttt.reason, "auto_recall_is_low");
    assert_int_equal(o.n_adapt, 0);
    assert_true(o.qttt.have_recall);
    tt_engine_destroy(&e);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_job_publishes_what_requests_use),
        cmocka_unit_test(test_a_context_that_has_grown_has_other_pages),
        cmocka_unit_test(test_training_goes_on_from_an_adapter),
        cmocka_unit_test(test_pinned_adapters_fill_their_budget),
        cmocka_unit_test(test_jobs_keep_the_adapters_that_they_name),
        cmocka_unit_test(test_pause_and_resume),
        cmocka_unit_test(test_paused_runs_reach_the_same_adapter),
        cmocka_unit_test(test_jobs_of_one_session_run_one_after_another),
        cmocka_unit_test(test_requests_share_one_training),
        cmocka_unit_test(test_another_takes_the_training_over),
        cmocka_unit_test(test_a_request_that_expires_takes_its_training_along),
        cmocka_unit_test(test_a_parked_request_tells_its_prompt_once),
        cmocka_unit_test(test_preempted_training_reaches_the_same_adapter),
        cmocka_unit_test(test_auto_says_what_it_decided),
    };
    client_folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, setup, teardown);
}
