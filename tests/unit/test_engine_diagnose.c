/* test_engine_diagnose.c - DIAGNOSE jobs through a whole engine: one outcome whatever the cache
 * holds, however the work is cut and whoever is beside it; the base and an adapter; what is
 * refused. argv[1]: folder of tiny models. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "core/engine_priv.h"
#include "engine_client.h"

enum { MAX_HEADS = 64 };

typedef struct diagnosis {
    tt_event_type last;
    tt_err error;
    int32_t n_layers, n_heads, n_told, cached;
    tt_head_diagnosis heads[MAX_HEADS];
} diagnosis;

static const tt_engine_options plain = {
    .isa_mask = TT_ISA_ALL, .adapter_cache_bytes = 64 << 20, .prefill_chunk = 64};

static tt_job_params needle_in(int32_t n, int32_t start, int32_t end)
{
    tt_job_params p = client_params(n, 0);
    p.kind = TT_JOB_DIAGNOSE;
    p.diagnose =
        (tt_diagnose_params){.needle_start = start, .needle_end = end, .delta = 1, .epsilon = 0.1};
    return p;
}

static diagnosis collect(tt_job *job)
{
    diagnosis d = {.last = TT_EV_STARTED};
    while (d.last != TT_EV_DONE && d.last != TT_EV_ERROR) {
        tt_event *ev = tt_job_next(job);
        if (ev == NULL) {
            client_nap();
            continue;
        }
        d.last = ev->type;
        if (ev->type == TT_EV_DIAGNOSIS) {
            d.n_told++;
            d.n_layers = ev->u.diagnosis.n_layers;
            d.n_heads = ev->u.diagnosis.n_heads;
            assert_true(d.n_layers * d.n_heads <= MAX_HEADS);
            memcpy(d.heads, ev->u.diagnosis.heads,
                   (size_t)(d.n_layers * d.n_heads) * sizeof d.heads[0]);
        } else if (ev->type == TT_EV_ERROR) {
            d.error = ev->u.error;
        } else if (ev->type == TT_EV_DONE) {
            d.cached = ev->u.done.cached_tokens;
            assert_int_equal(ev->u.done.completion_tokens, 0);
        }
        tt_event_free(ev);
    }
    tt_job_unref(&job);
    return d;
}

static void same(const diagnosis *a, const diagnosis *b)
{
    assert_int_equal(a->last, TT_EV_DONE);
    assert_int_equal(b->last, TT_EV_DONE);
    assert_int_equal(a->n_told, 1);
    assert_int_equal(b->n_told, 1);
    assert_int_equal(a->n_layers, b->n_layers);
    for (int32_t i = 0; i < a->n_layers * a->n_heads; i++) {
        const tt_head_diagnosis *x = &a->heads[i], *y = &b->heads[i];
        assert_int_equal(x->n_keys, y->n_keys);
        assert_int_equal(x->best, y->best);
        assert_int_equal(x->near_ties, y->near_ties);
        assert_true(x->needle_mass == y->needle_mass && x->sink_mass == y->sink_mass);
        assert_true((isnan(x->margin) && isnan(y->margin)) ||
                    (x->margin == y->margin && x->gap == y->gap));
    }
}

/* One needle's heads hang together: the windows, and the whole prompt as a needle. */
static void test_one_job(void **state)
{
    tt_engine *e = client_start(&plain, "gemma3.gguf", TT_ENGINE_READY);
    const tt_model *m = tt_engine_model(e);
    tt_job_params p = needle_in(150, 20, 40);
    diagnosis d = collect(client_submit(e, &p));
    p = needle_in(150, 0, 150);
    diagnosis all = collect(client_submit(e, &p));
    assert_int_equal(d.last, TT_EV_DONE);
    assert_int_equal(d.n_told, 1);
    assert_int_equal(d.n_layers, m->n_layers);
    assert_int_equal(d.n_heads, m->n_heads);
    assert_int_equal(all.cached, 128); /* the pages of the first */
    for (int32_t l = 0; l < m->n_layers; l++) {
        int32_t w = m->layers[l].window;
        for (int32_t h = 0; h < m->n_heads; h++) {
            const tt_head_diagnosis *x = &d.heads[l * m->n_heads + h];
            assert_int_equal(x->n_keys, w > 0 ? w : 150);
            assert_int_equal(x->best >= 20 && x->best < 40, w == 0);
            assert_true(fabs(all.heads[l * m->n_heads + h].needle_mass - 1) < 1e-12);
        }
    }
    for (int32_t n = 31; n < 35; n++) { /* the first layer's window is 32 */
        p = needle_in(n, 0, 1);
        d = collect(client_submit(e, &p));
        assert_int_equal(d.heads[0].n_keys, n < 32 ? n : 32);
        assert_int_equal(d.heads[0].best, n <= 32 ? 0 : -1);
        assert_true((d.heads[0].sink_mass > 0) == (n <= 32));
    }
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_int_equal(st.kv_pages_used, 0);
    tt_engine_destroy(&e);
}

static void test_cache_chunks_and_company_change_nothing(void **state)
{
    tt_engine *e = client_start(&plain, "qwen3.gguf", TT_ENGINE_READY);
    tt_job_params p = needle_in(300, 100, 120);
    diagnosis cold = collect(client_submit(e, &p)), warm = collect(client_submit(e, &p));
    assert_int_equal(warm.cached, 256);
    same(&cold, &warm);
    tt_engine_destroy(&e);
    tt_engine_options o = plain;
    o.prefill_chunk = 512;
    e = client_start(&o, "qwen3.gguf", TT_ENGINE_READY);
    tt_job_params other = client_params(900, 60);
    tt_job *beside[3], *jobs[2];
    for (int i = 0; i < 3; i++) {
        beside[i] = client_submit(e, &other);
        other.n_prompt -= 130;
    }
    for (int i = 0; i < 2; i++) {
        jobs[i] = client_submit(e, &p);
    }
    for (int i = 0; i < 2; i++) {
        diagnosis d = collect(jobs[i]);
        same(&cold, &d);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(client_collect(beside[i]).last, TT_EV_DONE);
    }
    tt_engine_destroy(&e);
}

/* Pages run out beside other requests: whoever gives way begins anew. */
static void test_preemption_changes_nothing(void **state)
{
    tt_engine *e = client_start(&plain, "qwen3.gguf", TT_ENGINE_READY);
    tt_job_params p = needle_in(1000, 500, 510);
    diagnosis alone = collect(client_submit(e, &p));
    size_t page = tt_engine_page_bytes(e);
    tt_engine_destroy(&e);
    tt_engine_options o = plain;
    o.kv_bytes = 24 * page; /* 16 for the prompt */
    e = client_start(&o, "qwen3.gguf", TT_ENGINE_READY);
    tt_job *jobs[6];
    tt_job_params beside = client_params(300, 400);
    for (int i = 0; i < 6; i++) {
        jobs[i] = client_submit(e, i % 2 == 0 ? &beside : &p);
    }
    for (int i = 0; i < 6; i++) {
        if (i % 2 == 0) {
            assert_int_equal(client_collect(jobs[i]).last, TT_EV_DONE);
        } else {
            diagnosis d = collect(jobs[i]);
            same(&alone, &d);
        }
    }
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_true(st.preemptions > 0);
    tt_engine_destroy(&e);
}

/* Its pages go between two layers of the measurement: it begins anew. */
static void test_a_lost_piece_is_no_loss(void **state)
{
    tt_worker w;
    tt_err err = {0};
    tt_engine_options o = plain;
    char path[4096];
    diagnosis d[2];
    snprintf(path, sizeof path, "%s/qwen3.gguf", client_folder);
    o.model_path = path;
    o.n_threads = 1;
    assert_int_equal(tt_worker_open(&w, &o, &err), TT_OK);
    for (int disturbed = 0; disturbed < 2; disturbed++) {
        tt_job_params p = needle_in(200, 40, 50);
        tt_job *job = NULL;
        tt_task *t = NULL;
        tt_event *last = tt_task_event(TT_EV_ERROR, 0, &err);
        assert_int_equal(tt_job_create(&p, NULL, NULL, &job, &err), TT_OK);
        assert_int_equal(tt_task_create(&w, job, last, &t, &err), TT_OK);
        assert_int_equal(tt_generate_start(&w, t, &err), TT_OK);
        tt_code rc = (tt_code)TT_TASK_MORE;
        for (bool done = disturbed == 0; rc == (tt_code)TT_TASK_MORE;) {
            rc = tt_prefill_run(&w, t, 0, &err);
            if (!done && t->r.diagnosed == 1) {
                assert_true(t->sched.mid_step && rc == (tt_code)TT_TASK_MORE);
                tt_task_drop_pages(&w, t);
                tt_kv_drop_cached(w.kv);
                done = true;
            }
        }
        assert_int_equal(rc, TT_OK);
        assert_false(t->sched.mid_step);
        assert_int_equal(tt_generate_arrived(&w, t, &err), TT_TASK_OVER);
        assert_int_equal(tt_generate_done(&w, t, &err), TT_OK);
        tt_job_push(job, t->last);
        t->last = NULL;
        tt_task_destroy(&w, &t);
        d[disturbed] = collect(job);
    }
    same(&d[0], &d[1]);
    tt_worker_close(&w);
}

/* A session's generation: what follows the context runs under it, the context does not. */
static void test_adapter(void **state)
{
    tt_engine *e = client_start(&plain, "qwen3.gguf", TT_ENGINE_READY);
    tt_job_params train = client_params(300, 0), p = needle_in(330, 100, 120);
    client_turn_on(&train, 300, 4, false);
    train.kind = TT_JOB_TRAIN;
    train.pin_adapter = true;
    train.qttt.learning_rate = 1e-3;
    client_outcome o = client_collect(client_submit(e, &train));
    assert_int_equal(o.last, TT_EV_DONE);
    assert_true(o.qttt.kept && o.qttt.adapter_id != 0);
    diagnosis base = collect(client_submit(e, &p));
    p.qttt.context_tokens = 300;
    p.adapter_id = o.qttt.adapter_id;
    diagnosis adapted = collect(client_submit(e, &p)), again = collect(client_submit(e, &p));
    same(&adapted, &again);
    double moved = 0;
    for (int32_t i = 0; i < base.n_layers * base.n_heads; i++) {
        moved = fmax(moved, fabs(base.heads[i].margin - adapted.heads[i].margin));
    }
    assert_true(moved > 1e-4);
    p.qttt.context_tokens = 330; /* all of it is context: the base's */
    diagnosis none = collect(client_submit(e, &p));
    same(&base, &none);
    p.adapter_id = 999999;
    diagnosis gone = collect(client_submit(e, &p));
    assert_int_equal(gone.last, TT_EV_ERROR);
    assert_int_equal(gone.error.code, TT_E_ADAPTER_LOST);
    tt_engine_destroy(&e);
}

static void test_refusals(void **state)
{
    static const struct {
        int32_t start, end;
        double delta, epsilon;
    } bad[] = {{-1, 5, 1, 0.1},  {5, 5, 1, 0.1}, {6, 5, 1, 0.1}, {5, 101, 1, 0.1}, {5, 6, -1, 0.1},
               {5, 6, NAN, 0.1}, {5, 6, 1, 0},   {5, 6, 1, 1},   {5, 6, 1, NAN}};
    tt_engine *e = client_start(&plain, "qwen3.gguf", TT_ENGINE_READY);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tt_job_params p = needle_in(100, bad[i].start, bad[i].end);
        tt_job *job = NULL;
        tt_err err = {0};
        p.diagnose.delta = bad[i].delta;
        p.diagnose.epsilon = bad[i].epsilon;
        assert_int_equal(tt_job_create(&p, NULL, NULL, &job, &err), TT_OK);
        assert_int_equal(tt_engine_submit(e, job, &err), TT_E_INVALID);
        tt_job_unref(&job);
    }
    tt_job_params one = needle_in(1, 0, 1); /* the shortest prompt there is */
    diagnosis d = collect(client_submit(e, &one));
    assert_int_equal(d.last, TT_EV_DONE);
    assert_true(d.heads[0].needle_mass == 1 && d.heads[0].n_keys == 1);
    tt_engine_destroy(&e);
}

static void test_cancel(void **state)
{
    tt_engine *e = client_start(&plain, "qwen3.gguf", TT_ENGINE_READY);
    tt_job_params p = needle_in(1500, 5, 9);
    for (int i = 0; i < 5; i++) {
        tt_job *job = client_submit(e, &p);
        for (int nap = 0; nap < 4 * i; nap++) {
            client_nap();
        }
        tt_job_cancel(job, false);
        tt_engine_kick(e);
        diagnosis d = collect(job);
        assert_true(d.last == TT_EV_DONE || d.error.code == TT_E_CANCELLED);
    }
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_int_equal(st.kv_pages_used, 0);
    assert_true(st.jobs_cancelled > 0);
    tt_engine_destroy(&e);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_job),
        cmocka_unit_test(test_cache_chunks_and_company_change_nothing),
        cmocka_unit_test(test_preemption_changes_nothing),
        cmocka_unit_test(test_a_lost_piece_is_no_loss),
        cmocka_unit_test(test_adapter),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancel),
    };
    client_folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
