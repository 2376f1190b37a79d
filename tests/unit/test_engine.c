/* test_engine.c - whole requests through the engine's thread, on a tiny random model: life, events,
 * reuse of K/V, adaptation and its cache, cancellation, admission. The numbers themselves are the
 * golden tests' business. argv[1]: folder of tiny models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine_client.h"
#include "core/sysinfo.h"

static tt_engine *engine;

static int setup(void **state)
{
    engine = client_start_plain();
    return 0;
}

static int teardown(void **state)
{
    tt_engine_destroy(&engine);
    assert_null(engine);
    return 0;
}

static client_outcome ask(const tt_job_params *p)
{
    return client_collect(client_submit(engine, p));
}

static void test_answer_and_reuse(void **state)
{
    tt_job_params p = client_params(300, 8);
    client_outcome cold = ask(&p), warm = ask(&p);
    assert_int_equal(cold.last, TT_EV_DONE);
    assert_int_equal(cold.finish, TT_FINISH_LENGTH);
    assert_int_equal(cold.n_ids, 8);
    assert_int_equal(cold.cached, 0);
    assert_int_equal(warm.cached, 256);
    client_same_answer(&cold, &warm);
    p.n_prompt = 256; /* every page is found: the last token is run again */
    client_outcome full = ask(&p);
    assert_int_equal(full.cached, 256);
    snprintf((char *)p.adapter_scope, sizeof p.adapter_scope, "somebody else");
    client_outcome other = ask(&p);
    assert_int_equal(other.cached, 0);
    client_same_answer(&full, &other);
}

static void test_echo_scores_every_prompt_token(void **state)
{
    tt_job_params p = client_params(300, 1);
    p.n_prompt_logprobs = 2;
    client_outcome echo = ask(&p);
    assert_int_equal(echo.n_prompt_logprobs, 299);
    p.n_prompt_logprobs = -1;
    client_outcome plain = ask(&p);
    client_same_answer(&echo, &plain);
    p.n_prompt_logprobs = 0;
    p.max_tokens = 0;
    echo = ask(&p);
    assert_int_equal(echo.n_prompt_logprobs, 299);
    assert_int_equal(echo.n_ids, 0);
}

static void test_stop_string_and_stop_id(void **state)
{
    tt_job_params p = client_params(100, 40);
    client_outcome whole = ask(&p);
    assert_true(strlen(whole.text) > 12);
    char needle[4] = {0};
    size_t at = 6;
    while ((whole.text[at] & 0xC0) == 0x80 || (whole.text[at + 1] & 0x80) != 0 ||
           (whole.text[at] & 0x80) != 0) {
        at++;
    }
    memcpy(needle, whole.text + at, 2);
    struct tt_stop stop = {needle, 2};
    p.stops = &stop;
    p.n_stops = 1;
    client_outcome cut = ask(&p);
    assert_int_equal(cut.finish, TT_FINISH_STOP);
    size_t first = (size_t)(strstr(whole.text, needle) - whole.text);
    assert_int_equal(strlen(cut.text), first);
    assert_memory_equal(cut.text, whole.text, first);
    p.n_stops = 0;
    p.stop_ids = &whole.ids[5];
    p.n_stop_ids = 1;
    cut = ask(&p);
    assert_int_equal(cut.finish, TT_FINISH_STOP);
    assert_true(cut.n_ids <= 5);
    p.min_tokens = 20;
    client_outcome later = ask(&p);
    assert_true(later.n_ids >= 20);
}

static void test_nothing_trained_changes_nothing(void **state)
{
    tt_job_params p = client_params(700, 10);
    client_outcome base = ask(&p);
    client_turn_on(&p, 500, 0, false);
    client_outcome none = ask(&p);
    assert_true(none.adapted);
    assert_string_equal(none.qttt.status, "succeeded");
    assert_false(none.qttt.kept);
    client_same_answer(&base, &none);
    client_turn_on(&p, 500, 4, false);
    p.qttt.learning_rate = 0;
    p.qttt.weight_decay = 0;
    client_outcome still = ask(&p);
    assert_true(still.qttt.kept);
    assert_true(still.qttt.delta_norm_relative == 0);
    client_same_answer(&base, &still);
}

static void test_adaptation_is_cached_and_base_restored(void **state)
{
    tt_job_params p = client_params(700, 10);
    client_outcome base = ask(&p);
    client_turn_on(&p, 500, 6, false);
    client_outcome first = ask(&p), again = ask(&p);
    assert_int_equal(first.n_adapt, 6);
    assert_int_equal(first.qttt.trained_tokens, 6 * 32);
    assert_true(first.qttt.kept && !first.qttt.cached && first.qttt.delta_norm_relative > 0);
    assert_true(first.qttt.flops > 0 && first.qttt.equal_cost_tokens > 0);
    assert_int_equal(again.n_adapt, 0);
    assert_true(again.qttt.cached && again.qttt.adapter_id == first.qttt.adapter_id);
    client_same_answer(&first, &again);
    assert_true(memcmp(first.logprob, base.logprob, sizeof base.logprob) != 0);
    p.qttt.seed = 5;
    client_outcome other = ask(&p);
    assert_false(other.qttt.cached);
    p.qttt.mode = TT_QTTT_OFF;
    client_outcome restored = ask(&p);
    client_same_answer(&base, &restored);
}

/* K/V of a question that ran under an adapter must never serve the base: the adapted request comes
 * first here, so that nothing else has put the question's pages into the cache. */
static void test_adapted_pages_do_not_serve_the_base(void **state)
{
    tt_job_params p = client_params(700, 10);
    for (int32_t i = 0; i < 700; i++) {
        client_prompt[i] = 20 + (i * 13 + i / 9) % 190;
    }
    client_turn_on(&p, 300, 6, false);
    client_outcome adapted = ask(&p);
    assert_true(adapted.qttt.kept);
    p.qttt.mode = TT_QTTT_OFF;
    client_outcome base = ask(&p);
    assert_int_equal(base.cached, 256); /* the context's whole pages, nothing of the question's */
    snprintf((char *)p.adapter_scope, sizeof p.adapter_scope, "a tenant without any cache");
    client_outcome cold = ask(&p);
    assert_int_equal(cold.cached, 0);
    client_same_answer(&cold, &base);
    assert_true(memcmp(adapted.logprob, base.logprob, sizeof base.logprob) != 0);
}

static void test_guard_and_short_contexts(void **state)
{
    tt_job_params p = client_params(700, 2);
    client_turn_on(&p, 500, 4, true);
    client_outcome o = ask(&p);
    assert_string_equal(o.qttt.status, "skipped");
    assert_string_equal(o.qttt.reason, "guard_unavailable");
    client_turn_on(&p, 10, 4, false);
    o = ask(&p);
    assert_string_equal(o.qttt.reason, "context_too_short");
    p = client_params(1500, 2);
    client_turn_on(&p, 1400, 3, true);
    p.qttt.learning_rate = 1e-6;
    p.qttt.weight_decay = 0;
    o = ask(&p);
    assert_true(o.qttt.have_recall);
    assert_int_equal(o.qttt.recall_segments, 10);
    assert_true(o.qttt.span_loss_before > 0);
    p.qttt.objective = TT_RECALL;
    p.qttt.span_tokens = 100; /* two passages a step */
    o = ask(&p);
    assert_int_equal(o.qttt.trained_tokens, 3 * 2 * 47);
}

static void test_budgets_and_divergence(void **state)
{
    tt_job_params p = client_params(700, 2);
    client_turn_on(&p, 500, 20, false);
    p.qttt.max_span_tokens = 100;
    client_outcome o = ask(&p);
    assert_int_equal(o.qttt.steps_done, 3);
    assert_string_equal(o.qttt.stop_reason, "span_tokens");
    p.qttt.max_span_tokens = 0;
    p.qttt.max_seconds = 1e-9;
    o = ask(&p);
    assert_int_equal(o.qttt.steps_done, 0);
    assert_string_equal(o.qttt.stop_reason, "seconds");
    p.qttt.max_seconds = 0;
    p.qttt.steps = 200; /* at 1e-3 a step the delta leaves its 5 % long before */
    client_outcome far = ask(&p);
    assert_string_equal(far.qttt.status, "failed");
    assert_string_equal(far.qttt.reason, "diverged");
    assert_false(far.qttt.kept);
    assert_int_equal(far.last, TT_EV_DONE);
    p.qttt.mode = TT_QTTT_OFF;
    client_outcome base = ask(&p);
    client_same_answer(&base, &far);
}

static void test_cancel_while_running_and_queued(void **state)
{
    tt_job_params p = client_params(1500, 100);
    client_turn_on(&p, 1400, 200, false);
    p.qttt.learning_rate = 1e-7;
    tt_job *running = client_submit(engine, &p), *queued = client_submit(engine, &p);
    tt_job_cancel(queued, false);
    double t0 = tt_sys_now();
    client_outcome q = client_collect(queued);
    assert_int_equal(q.error.code, TT_E_CANCELLED);
    assert_true(tt_sys_now() - t0 < 10);
    tt_job_cancel(running, true); /* the adaptation alone: the base answers */
    client_outcome r = client_collect(running);
    assert_int_equal(r.last, TT_EV_DONE);
    assert_string_equal(r.qttt.status, "cancelled");
    running = client_submit(engine, &p);
    tt_job_cancel(running, false);
    r = client_collect(running);
    assert_int_equal(r.error.code, TT_E_CANCELLED);
    tt_engine_stats st;
    tt_engine_get_stats(engine, &st);
    assert_int_equal(st.queued + st.running, 0);
    assert_int_equal(st.kv_pages_used, 0); /* nothing is left behind */
}

static tt_code refuse(const tt_job_params *p, const char *word)
{
    tt_job *job;
    tt_err err = {0};
    assert_int_equal(tt_job_create(p, NULL, NULL, &job, &err), TT_OK);
    tt_code rc = tt_engine_submit(engine, job, &err);
    tt_job_unref(&job);
    if (strstr(err.msg, word) == NULL) {
        fail_msg("\"%s\" does not tell of %s", err.msg, word);
    }
    return rc;
}

static void test_admission(void **state)
{
    tt_job_params p = client_params(100, 5000);
    assert_int_equal(refuse(&p, "2048"), TT_E_CONTEXT_LENGTH);
    p = client_params(100, 4);
    client_prompt[3] = 100000;
    assert_int_equal(refuse(&p, "100000"), TT_E_INVALID);
    p = client_params(100, 4);
    client_turn_on(&p, 50, 257, false);
    assert_int_equal(refuse(&p, "256"), TT_E_INVALID);
    client_turn_on(&p, 101, 2, false);
    assert_int_equal(refuse(&p, "101"), TT_E_INVALID); /* more context than prompt */
    client_turn_on(&p, -1, 2, false);
    assert_int_equal(refuse(&p, "-1"), TT_E_INVALID);
    p.n_prompt = 0;
    assert_int_equal(refuse(&p, "empty"), TT_E_INVALID);
}

static void test_queue_is_bounded_and_drained(void **state)
{
    tt_engine *e =
        client_start(&(tt_engine_options){.max_queue = 2, .max_running = 1, .prefill_chunk = 64},
                     "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(1500, 50);
    tt_job *jobs[3], *extra;
    tt_err err = {0};
    jobs[0] = client_submit(e, &p);
    tt_engine_stats st;
    do {
        client_nap();
        tt_engine_get_stats(e, &st);
    } while (st.running == 0);
    jobs[1] = client_submit(e, &p);
    jobs[2] = client_submit(e, &p);
    assert_int_equal(tt_job_create(&p, NULL, NULL, &extra, &err), TT_OK);
    assert_int_equal(tt_engine_submit(e, extra, &err), TT_E_BUSY);
    tt_job_unref(&extra);
    tt_engine_destroy(&e); /* every admitted request still gets its last event */
    assert_int_equal(client_collect(jobs[0]).error.code, TT_E_CANCELLED);
    assert_int_equal(client_collect(jobs[1]).error.code, TT_E_UNAVAILABLE);
    assert_int_equal(client_collect(jobs[2]).error.code, TT_E_UNAVAILABLE);
}

static void test_failed_load(void **state)
{
    tt_engine *e = client_start(&(tt_engine_options){0}, "no such file.gguf", TT_ENGINE_FAILED);
    tt_err err = {0};
    tt_engine_get_state(e, &err);
    assert_true(err.code < 0 && err.msg[0] != '\0');
    assert_null(tt_engine_model(e));
    tt_engine_destroy(&e);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer_and_reuse),
        cmocka_unit_test(test_echo_scores_every_prompt_token),
        cmocka_unit_test(test_stop_string_and_stop_id),
        cmocka_unit_test(test_nothing_trained_changes_nothing),
        cmocka_unit_test(test_adaptation_is_cached_and_base_restored),
        cmocka_unit_test(test_adapted_pages_do_not_serve_the_base),
        cmocka_unit_test(test_guard_and_short_contexts),
        cmocka_unit_test(test_budgets_and_divergence),
        cmocka_unit_test(test_cancel_while_running_and_queued),
        cmocka_unit_test(test_admission),
        cmocka_unit_test(test_queue_is_bounded_and_drained),
        cmocka_unit_test(test_failed_load),
    };
    client_folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, setup, teardown);
}
