/* test_engine_end.c - how trainings end, and what those who wait for them get: by hand, over the
 * engine's parts without its thread. What is pinned has somebody who was told of it, also where
 * memory fails or the request has ended. argv[1]: folder of tiny models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine_priv.h"
#include "engine_client.h"
#include "fail_alloc.h"

enum { CONTEXT = 200, PROMPT = 300 };

static tt_engine e;
static tt_job *job;     /* whose training it is */
static tt_adapter *adp; /* what it gave */

static tt_job *make_job(void)
{
    tt_job_params p = client_params(PROMPT, 4);
    tt_job *j = NULL;
    tt_err err;
    client_turn_on(&p, CONTEXT, 2, false);
    p.pin_adapter = true;
    assert_int_equal(tt_job_create(&p, NULL, NULL, &j, &err), TT_OK);
    return j;
}

static void run_in(tt_task *t, tt_sched_state state)
{
    tt_err err;
    tt_sched_task *one = &t->sched;
    assert_int_equal(tt_sched_add(e.sched, &one, 1, 0, &err), TT_OK);
    tt_sched_choice c = tt_sched_next(e.sched, 0, 1000);
    assert_int_equal(c.what, TT_SCHED_START);
    assert_ptr_equal(c.task, one);
    tt_sched_set(e.sched, one, state);
}

static tt_task *make_training(void)
{
    tt_task *t = NULL;
    tt_err err;
    assert_int_equal(tt_task_create(&e.worker, job, NULL, &t, &err), TT_OK);
    assert_int_equal(tt_training_init(&e.worker, t, &err), TT_OK);
    return t;
}

/* One that has its adapter, in the cache too. */
static tt_task *make_done(bool pin)
{
    tt_task *t = make_training();
    t->t->result = (tt_qttt_result){
        .status = "succeeded", .kept = true, .adapter_id = adp->id, .params = t->t->params};
    t->t->adapter = adp;
    tt_adapter_ref(adp);
    assert_true(
        tt_adapter_cache_put(e.worker.adapters, &t->t->key, &t->t->result, t->t->adapter, pin));
    t->t->pinned = pin;
    run_in(t, TT_SCHED_TRAIN);
    return t;
}

/* A request whose context is there. */
static tt_task *make_request(tt_job *j, tt_task *training)
{
    tt_task *r = NULL;
    tt_err err;
    tt_event *last = tt_task_event(TT_EV_ERROR, 0, &err);
    assert_int_equal(tt_task_create(&e.worker, j, last, &r, &err), TT_OK);
    r->until = CONTEXT;
    r->r.phase = TT_GENERATE_CONTEXT;
    r->r.n_max = 4;
    r->r.training = training != NULL ? training->t : NULL;
    run_in(r, training != NULL ? TT_SCHED_PARKED : TT_SCHED_PREFILL);
    return r;
}

static void expect(tt_job *j, tt_event_type type, tt_code code)
{
    tt_event *ev = tt_job_next(j);
    assert_non_null(ev);
    assert_int_equal(ev->type, type);
    assert_int_equal(type == TT_EV_ERROR ? ev->u.error.code : TT_OK, code);
    tt_event_free(ev);
}

static bool is_pinned(void)
{
    return tt_adapter_cache_pinned(e.worker.adapters) > 0;
}

static void end(tt_task *t, tt_code rc)
{
    tt_err err = {.code = rc};
    tt_engine_end_task(&e, t, rc, &err);
}

static int set_up(void **state)
{
    char path[4096];
    tt_err err;
    tt_sched_options o = {.max_running = 4,
                          .max_queue = 4,
                          .max_batch = 4,
                          .max_jobs = 4,
                          .max_queued_jobs = 4,
                          .target_gap = 0.1,
                          .train_share = 0.3};
    e = (tt_engine){.pins_tail = &e.pins};
    snprintf(path, sizeof path, "%s/llama.gguf", client_folder);
    e.opt = (tt_engine_options){.model_path = path,
                                .isa_mask = TT_ISA_ALL,
                                .n_threads = 1,
                                .kv_type = TT_BF16,
                                .kv_bytes = 4 << 20,
                                .adapter_cache_bytes = 64 << 20};
    assert_int_equal(tt_worker_open(&e.worker, &e.opt, &err), TT_OK);
    assert_int_equal(tt_sched_create(&o, &e.sched, &err), TT_OK);
    pthread_mutex_init(&e.mutex, NULL);
    pthread_cond_init(&e.wake, NULL);
    job = make_job();
    tt_adapter_shape shape = {.kind = TT_ADAPTER_FULL, .type = TT_BF16, .scale = 1};
    assert_int_equal(tt_adapter_create(&e.worker.device, &shape, &adp, &err), TT_OK);
    return 0;
}

static int tear_down(void **state)
{
    for (tt_task *t; (t = tt_engine_next_task(&e, NULL)) != NULL;) {
        end(t, TT_E_CANCELLED);
    }
    tt_job_unref(&job);
    tt_adapter_unref(&e.worker.device, &adp);
    tt_sched_destroy(&e.sched);
    tt_worker_close(&e.worker);
    pthread_mutex_destroy(&e.mutex);
    pthread_cond_destroy(&e.wake);
    return 0;
}

/* Its request goes on under the adapter, and has the pin. */
static void test_a_request_goes_on(void **state)
{
    tt_task *t = make_done(true), *r = make_request(job, t);
    end(t, TT_OK);
    assert_int_equal(r->sched.state, TT_SCHED_PREFILL);
    assert_ptr_equal(r->adapter, adp);
    expect(job, TT_EV_ADAPTED, TT_OK);
    assert_true(is_pinned());
}

/* Who cannot be told of a pin does not keep it: its own request, another's, one that finds the
 * adapter known. */
static void test_no_memory_to_tell(void **state)
{
    tt_task *t = make_done(true);
    make_request(job, t);
    fail_alloc_at(0);
    end(t, TT_OK);
    assert_true(fail_alloc_off());
    expect(job, TT_EV_ERROR, TT_E_NOMEM);
    assert_false(is_pinned());
}

static void test_no_memory_to_tell_another(void **state)
{
    tt_task *t = make_done(false);
    tt_job *other = make_job();
    make_request(other, t);
    fail_alloc_at(0);
    end(t, TT_OK);
    assert_true(fail_alloc_off());
    expect(other, TT_EV_ERROR, TT_E_NOMEM);
    assert_false(is_pinned());
    tt_job_unref(&other);
}

static void test_no_memory_to_tell_what_is_known(void **state)
{
    tt_err err;
    end(make_done(false), TT_OK);
    tt_task *r = make_request(job, NULL);
    fail_alloc_at(0);
    tt_code rc = tt_generate_arrived(&e.worker, r, &err);
    assert_true(fail_alloc_off());
    assert_int_equal(rc, TT_E_NOMEM);
    assert_false(is_pinned());
}

/* The request's time was up while the file was being written. */
static void test_its_request_has_ended(void **state)
{
    tt_task *t = make_done(true), *r = make_request(job, t);
    end(r, TT_E_TIMEOUT);
    end(t, TT_OK);
    expect(job, TT_EV_ERROR, TT_E_TIMEOUT);
    assert_false(is_pinned());
}

/* Cancelled while the file was being written: the base answers, as the result says. */
static void test_cancelled_with_its_adapter(void **state)
{
    tt_task *t = make_done(true), *r = make_request(job, t);
    end(t, TT_E_CANCELLED);
    assert_int_equal(r->sched.state, TT_SCHED_PREFILL);
    assert_null(r->adapter);
    tt_event *ev = tt_job_next(job);
    assert_true(ev != NULL && ev->type == TT_EV_ADAPTED);
    assert_string_equal(ev->u.adapted.status, "cancelled");
    assert_true(ev->u.adapted.adapter_id == 0);
    tt_event_free(ev);
    assert_false(is_pinned());
}

/* A job that runs has said so: without memory for that it fails, and does not look queued until its
 * first step. The training of a request says nothing. */
static void test_no_memory_to_tell_of_the_start(void **state)
{
    tt_err err;
    tt_task *of_request = make_training(), *t = make_training();
    t->last = tt_task_event(TT_EV_ERROR, 0, &err);
    run_in(of_request, TT_SCHED_PREFILL);
    run_in(t, TT_SCHED_PREFILL);
    fail_alloc_at(0);
    tt_code rc = tt_training_start(t, &err);
    assert_true(fail_alloc_off());
    assert_int_equal(rc, TT_E_NOMEM);
    assert_int_equal(err.code, TT_E_NOMEM);
    assert_int_equal(tt_training_start(of_request, &err), TT_OK);
    assert_null(tt_job_next(job));
    assert_int_equal(tt_training_start(t, &err), TT_OK);
    expect(job, TT_EV_STARTED, TT_OK);
    assert_true(t->started > 0 && of_request->started > 0);
}

static void nothing(void *arg)
{
}

/* While its file is being written a training leaves its place and its workspace to the next. */
static void test_what_is_saved_takes_no_place(void **state)
{
    char dir[] = "/tmp/qttt-engine-XXXXXX", command[64];
    tt_err err;
    assert_non_null(mkdtemp(dir));
    tt_adapter_home home = {.folder = dir, .model = e.worker.model};
    assert_int_equal(tt_adapter_store_create(&home, nothing, NULL, &e.adapter_store, &err), TT_OK);
    tt_adapter_cache_set_store(e.worker.adapters, e.adapter_store);
    tt_task *t = make_done(true), *r = make_request(job, t);
    assert_int_equal(tt_step_create(&e.worker.device, e.worker.kv, &t->t->step, &err), TT_OK);
    end(t, TT_OK);
    assert_int_equal(t->sched.state, TT_SCHED_PARKED);
    assert_true(t->sched.resting && t->t->saving && t->t->step == NULL);
    assert_non_null(e.worker.spare_step);
    assert_null(tt_job_next(job)); /* nothing is told before it is on disk */
    tt_engine_settle_adapters(&e);
    assert_int_equal(r->sched.state, TT_SCHED_PREFILL);
    assert_ptr_equal(r->adapter, adp);
    tt_event *ev = tt_job_next(job);
    assert_true(ev != NULL && ev->type == TT_EV_ADAPTED && ev->u.adapted.durable);
    tt_event_free(ev);
    end(r, TT_E_CANCELLED);
    tt_adapter_cache_pin(e.worker.adapters, adp->id, -1);
    tt_adapter_store_destroy(&e.adapter_store);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

/* A pin that memory is missing for is told: the unpin that belongs to it would be another's. */
static void test_no_memory_to_pin(void **state)
{
    tt_err err = {0};
    end(make_done(false), TT_OK);
    fail_alloc_at(0);
    tt_code rc = tt_engine_pin(&e, adp->id, &err);
    assert_true(fail_alloc_off());
    assert_int_equal(rc, TT_E_NOMEM);
    assert_int_equal(err.code, TT_E_NOMEM);
    assert_null(e.pins);
    assert_int_equal(tt_engine_pin(&e, adp->id, &err), TT_OK);
    tt_engine_do_pins(&e);
    assert_true(is_pinned());
    tt_engine_unpin(&e, adp->id);
    tt_engine_do_pins(&e);
    assert_false(is_pinned());
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
        CASE(test_a_request_goes_on),
        CASE(test_no_memory_to_tell),
        CASE(test_no_memory_to_tell_another),
        CASE(test_no_memory_to_tell_what_is_known),
        CASE(test_its_request_has_ended),
        CASE(test_cancelled_with_its_adapter),
        CASE(test_what_is_saved_takes_no_place),
        CASE(test_no_memory_to_pin),
        CASE(test_no_memory_to_tell_of_the_start),
#undef CASE
    };
    client_folder = argc > 1 ? argv[1] : client_folder;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
