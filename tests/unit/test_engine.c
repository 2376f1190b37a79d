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

#include "core/engine.h"
#include "core/sysinfo.h"

static const char *folder;
static tt_engine *engine;

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static tt_engine *start(const tt_engine_options *extra, const char *file, tt_engine_state want)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    tt_engine_options o = *extra;
    o.model_path = path;
    o.kv_type = TT_BF16;
    o.n_threads = 1;
    o.caps = (tt_qttt_caps){256, 1024, 64, 1e-3, 0.05};
    tt_engine *e;
    tt_err err;
    assert_int_equal(tt_engine_create(&o, &e, &err), TT_OK);
    tt_engine_state s;
    while ((s = tt_engine_get_state(e, &err)) == TT_ENGINE_LOADING) {
        nap();
    }
    assert_int_equal(s, want);
    return e;
}

static int setup(void **state)
{
    engine = start(&(tt_engine_options){.isa_mask = TT_ISA_ALL,
                                        .adapter_cache_bytes = 64 << 20,
                                        .prefill_chunk = 128},
                   "llama.gguf", TT_ENGINE_READY);
    return 0;
}

static int teardown(void **state)
{
    tt_engine_destroy(&engine);
    assert_null(engine);
    return 0;
}

static int32_t prompt[1600];

static tt_job_params params(int32_t n, int32_t max_tokens)
{
    for (int32_t i = 0; i < n; i++) {
        prompt[i] = 10 + (i * 7 + i / 50) % 200;
    }
    return (tt_job_params){.prompt = prompt,
                           .n_prompt = n,
                           .max_tokens = max_tokens,
                           .ignore_eos = true,
                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                           .n_logprobs = 0,
                           .n_prompt_logprobs = -1};
}

static void turn_on(tt_job_params *p, int32_t context, int32_t steps, bool guard)
{
    tt_qttt_defaults(&p->qttt);
    p->qttt.mode = TT_QTTT_ON;
    p->qttt.steps = steps;
    p->qttt.span_tokens = 32;
    p->qttt.learning_rate = 1e-3;
    p->qttt.context_tokens = context;
    p->qttt.guard = guard;
}

typedef struct outcome {
    tt_event_type last;
    tt_err error;
    int32_t ids[64], n_ids, n_prompt_logprobs, n_adapt, cached;
    float logprob[64];
    char text[1024];
    bool adapted;
    tt_qttt_result qttt;
    tt_finish finish;
} outcome;

static void note(outcome *o, const tt_event *ev)
{
    switch (ev->type) {
    case TT_EV_TOKEN:
        if (o->n_ids < 64) {
            o->ids[o->n_ids] = ev->u.token.id;
            o->logprob[o->n_ids++] = ev->u.token.logprob;
        }
        strncat(o->text, ev->u.token.text, ev->u.token.n_text);
        break;
    case TT_EV_PROMPT_LOGPROBS:
        assert_int_equal(ev->u.prompt_logprobs.first, o->n_prompt_logprobs + 1);
        o->n_prompt_logprobs += ev->u.prompt_logprobs.n;
        break;
    case TT_EV_ADAPT:
        assert_int_equal(ev->u.adapt.step, ++o->n_adapt);
        break;
    case TT_EV_ADAPTED:
        o->adapted = true;
        o->qttt = ev->u.adapted;
        break;
    case TT_EV_DONE:
        o->cached = ev->u.done.cached_tokens;
        o->finish = ev->u.done.reason;
        strncat(o->text, ev->u.done.text, ev->u.done.n_text);
        break;
    case TT_EV_ERROR:
        o->error = ev->u.error;
        break;
    default:
        break;
    }
    o->last = ev->type;
}

static tt_job *submit(tt_engine *e, const tt_job_params *p)
{
    tt_job *job;
    tt_err err = {0};
    assert_int_equal(tt_job_create(p, NULL, NULL, &job, &err), TT_OK);
    assert_int_equal(tt_engine_submit(e, job, &err), TT_OK);
    return job;
}

static outcome collect(tt_job *job)
{
    outcome o = {0};
    do {
        tt_event *ev = tt_job_next(job);
        if (ev == NULL) {
            nap();
            continue;
        }
        note(&o, ev);
        tt_event_free(ev);
    } while (o.last != TT_EV_DONE && o.last != TT_EV_ERROR);
    tt_job_unref(&job);
    return o;
}

static outcome ask(const tt_job_params *p)
{
    return collect(submit(engine, p));
}

static void same_answer(const outcome *a, const outcome *b)
{
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n_ids * sizeof *a->ids);
    assert_memory_equal(a->logprob, b->logprob,
                        (size_t)a->n_ids * sizeof *a->logprob); /* bit for bit */
}

static void test_answer_and_reuse(void **state)
{
    tt_job_params p = params(300, 8);
    outcome cold = ask(&p), warm = ask(&p);
    assert_int_equal(cold.last, TT_EV_DONE);
    assert_int_equal(cold.finish, TT_FINISH_LENGTH);
    assert_int_equal(cold.n_ids, 8);
    assert_int_equal(cold.cached, 0);
    assert_int_equal(warm.cached, 256);
    same_answer(&cold, &warm);
    p.n_prompt = 256; /* every page is found: the last token is run again */
    outcome full = ask(&p);
    assert_int_equal(full.cached, 256);
    snprintf((char *)p.adapter_scope, sizeof p.adapter_scope, "somebody else");
    outcome other = ask(&p);
    assert_int_equal(other.cached, 0);
    same_answer(&full, &other);
}

static void test_echo_scores_every_prompt_token(void **state)
{
    tt_job_params p = params(300, 1);
    p.n_prompt_logprobs = 2;
    outcome echo = ask(&p);
    assert_int_equal(echo.n_prompt_logprobs, 299);
    p.n_prompt_logprobs = -1;
    outcome plain = ask(&p);
    same_answer(&echo, &plain);
    p.n_prompt_logprobs = 0;
    p.max_tokens = 0;
    echo = ask(&p);
    assert_int_equal(echo.n_prompt_logprobs, 299);
    assert_int_equal(echo.n_ids, 0);
}

static void test_stop_string_and_stop_id(void **state)
{
    tt_job_params p = params(100, 40);
    outcome whole = ask(&p);
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
    outcome cut = ask(&p);
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
    outcome later = ask(&p);
    assert_true(later.n_ids >= 20);
}

static void test_nothing_trained_changes_nothing(void **state)
{
    tt_job_params p = params(700, 10);
    outcome base = ask(&p);
    turn_on(&p, 500, 0, false);
    outcome none = ask(&p);
    assert_true(none.adapted);
    assert_string_equal(none.qttt.status, "succeeded");
    assert_false(none.qttt.kept);
    same_answer(&base, &none);
    turn_on(&p, 500, 4, false);
    p.qttt.learning_rate = 0;
    p.qttt.weight_decay = 0;
    outcome still = ask(&p);
    assert_true(still.qttt.kept);
    assert_true(still.qttt.delta_norm_relative == 0);
    same_answer(&base, &still);
}

static void test_adaptation_is_cached_and_base_restored(void **state)
{
    tt_job_params p = params(700, 10);
    outcome base = ask(&p);
    turn_on(&p, 500, 6, false);
    outcome first = ask(&p), again = ask(&p);
    assert_int_equal(first.n_adapt, 6);
    assert_int_equal(first.qttt.trained_tokens, 6 * 32);
    assert_true(first.qttt.kept && !first.qttt.cached && first.qttt.delta_norm_relative > 0);
    assert_true(first.qttt.flops > 0 && first.qttt.equal_cost_tokens > 0);
    assert_int_equal(again.n_adapt, 0);
    assert_true(again.qttt.cached && again.qttt.adapter_id == first.qttt.adapter_id);
    same_answer(&first, &again);
    assert_true(memcmp(first.logprob, base.logprob, sizeof base.logprob) != 0);
    p.qttt.seed = 5;
    outcome other = ask(&p);
    assert_false(other.qttt.cached);
    p.qttt.mode = TT_QTTT_OFF;
    outcome restored = ask(&p);
    same_answer(&base, &restored);
}

/* K/V of a question that ran under an adapter must never serve the base: the adapted request comes
 * first here, so that nothing else has put the question's pages into the cache. */
static void test_adapted_pages_do_not_serve_the_base(void **state)
{
    tt_job_params p = params(700, 10);
    for (int32_t i = 0; i < 700; i++) {
        prompt[i] = 20 + (i * 13 + i / 9) % 190;
    }
    turn_on(&p, 300, 6, false);
    outcome adapted = ask(&p);
    assert_true(adapted.qttt.kept);
    p.qttt.mode = TT_QTTT_OFF;
    outcome base = ask(&p);
    assert_int_equal(base.cached, 256); /* the context's whole pages, nothing of the question's */
    snprintf((char *)p.adapter_scope, sizeof p.adapter_scope, "a tenant without any cache");
    outcome cold = ask(&p);
    assert_int_equal(cold.cached, 0);
    same_answer(&cold, &base);
    assert_true(memcmp(adapted.logprob, base.logprob, sizeof base.logprob) != 0);
}

static void test_guard_and_short_contexts(void **state)
{
    tt_job_params p = params(700, 2);
    turn_on(&p, 500, 4, true);
    outcome o = ask(&p);
    assert_string_equal(o.qttt.status, "skipped");
    assert_string_equal(o.qttt.reason, "guard_unavailable");
    turn_on(&p, 10, 4, false);
    o = ask(&p);
    assert_string_equal(o.qttt.reason, "context_too_short");
    p = params(1500, 2);
    turn_on(&p, 1400, 3, true);
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
    tt_job_params p = params(700, 2);
    turn_on(&p, 500, 20, false);
    p.qttt.max_span_tokens = 100;
    outcome o = ask(&p);
    assert_int_equal(o.qttt.steps_done, 3);
    assert_string_equal(o.qttt.stop_reason, "span_tokens");
    p.qttt.max_span_tokens = 0;
    p.qttt.max_seconds = 1e-9;
    o = ask(&p);
    assert_int_equal(o.qttt.steps_done, 0);
    assert_string_equal(o.qttt.stop_reason, "seconds");
    p.qttt.max_seconds = 0;
    p.qttt.steps = 200; /* at 1e-3 a step the delta leaves its 5 % long before */
    outcome far = ask(&p);
    assert_string_equal(far.qttt.status, "failed");
    assert_string_equal(far.qttt.reason, "diverged");
    assert_false(far.qttt.kept);
    assert_int_equal(far.last, TT_EV_DONE);
    p.qttt.mode = TT_QTTT_OFF;
    outcome base = ask(&p);
    same_answer(&base, &far);
}

static void test_cancel_while_running_and_queued(void **state)
{
    tt_job_params p = params(1500, 100);
    turn_on(&p, 1400, 200, false);
    p.qttt.learning_rate = 1e-7;
    tt_job *running = submit(engine, &p), *queued = submit(engine, &p);
    tt_job_cancel(queued, false);
    double t0 = tt_sys_now();
    outcome q = collect(queued);
    assert_int_equal(q.error.code, TT_E_CANCELLED);
    assert_true(tt_sys_now() - t0 < 10);
    tt_job_cancel(running, true); /* the adaptation alone: the base answers */
    outcome r = collect(running);
    assert_int_equal(r.last, TT_EV_DONE);
    assert_string_equal(r.qttt.status, "cancelled");
    running = submit(engine, &p);
    tt_job_cancel(running, false);
    r = collect(running);
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
    assert_non_null(strstr(err.msg, word));
    return rc;
}

static void test_admission(void **state)
{
    tt_job_params p = params(100, 5000);
    assert_int_equal(refuse(&p, "2048"), TT_E_CONTEXT_LENGTH);
    p = params(100, 4);
    prompt[3] = 100000;
    assert_int_equal(refuse(&p, "100000"), TT_E_INVALID);
    p = params(100, 4);
    turn_on(&p, 50, 257, false);
    assert_int_equal(refuse(&p, "256"), TT_E_INVALID);
    p.n_prompt = 0;
    assert_int_equal(refuse(&p, "empty"), TT_E_INVALID);
}

static void test_queue_is_bounded_and_drained(void **state)
{
    tt_engine *e =
        start(&(tt_engine_options){.max_queue = 2, .max_running = 1, .prefill_chunk = 64},
              "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = params(1500, 50);
    tt_job *jobs[3], *extra;
    tt_err err = {0};
    jobs[0] = submit(e, &p);
    tt_engine_stats st;
    do {
        nap();
        tt_engine_get_stats(e, &st);
    } while (st.running == 0);
    jobs[1] = submit(e, &p);
    jobs[2] = submit(e, &p);
    assert_int_equal(tt_job_create(&p, NULL, NULL, &extra, &err), TT_OK);
    assert_int_equal(tt_engine_submit(e, extra, &err), TT_E_BUSY);
    tt_job_unref(&extra);
    tt_engine_destroy(&e); /* every admitted request still gets its last event */
    assert_int_equal(collect(jobs[0]).error.code, TT_E_CANCELLED);
    assert_int_equal(collect(jobs[1]).error.code, TT_E_UNAVAILABLE);
    assert_int_equal(collect(jobs[2]).error.code, TT_E_UNAVAILABLE);
}

static void test_failed_load(void **state)
{
    tt_engine *e = start(&(tt_engine_options){0}, "no such file.gguf", TT_ENGINE_FAILED);
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
    folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, setup, teardown);
}
