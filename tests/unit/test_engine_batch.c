/* test_engine_batch.c - many requests at a time: what one gets does not depend on the others, bit
 * for bit, nor on chunks, threads, preemption or what the cache held. argv[1]: folder of tiny
 * models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine_priv.h"
#include "core/sysinfo.h"
#include "engine_client.h"

enum { N_OTHERS = 15 };

static const tt_engine_options plain = {
    .isa_mask = TT_ISA_ALL, .adapter_cache_bytes = 64 << 20, .prefill_chunk = 64};

static int32_t others[N_OTHERS][400];

/* A request over another prompt; every third one is adapted. */
static tt_job_params other(int32_t i)
{
    tt_job_params p = client_params(1, 40);
    for (int32_t j = 0; j < 400; j++) {
        others[i][j] = 10 + (j * (3 + i) + j / 37 + i) % 200;
    }
    p.prompt = others[i];
    p.n_prompt = 130 + 17 * i;
    if (i % 3 == 0) {
        client_turn_on(&p, 100, 2 + i % 2, false);
    }
    return p;
}

/* Checksums of the cached pages of client_prompt under the base. Only the engine's thread may look
 * at its pool: it takes them when it tells of a request that is submitted for that alone. */
static struct {
    tt_engine *engine;
    int32_t n, found;
    uint64_t *sums;
    tt_code rc;
    atomic_bool taken; /* the request's later events wake too */
} pages;

static void take_sums(void *arg)
{
    if (atomic_load(&pages.taken)) {
        return;
    }
    tt_kv_pool *kv = pages.engine->worker.kv;
    tt_seq s;
    tt_err err;
    tt_seq_init(&s, kv, "");
    pages.rc = tt_seq_match(&s, client_prompt, NULL, pages.n, &pages.found, &err);
    for (int32_t i = 0; pages.rc == TT_OK && i < pages.found / TT_PAGE_TOKENS; i++) {
        pages.rc = tt_kv_checksum(kv, s.pages[i], TT_PAGE_TOKENS, &pages.sums[i], &err);
    }
    tt_seq_finish(&s);
    atomic_store(&pages.taken, true);
}

static int32_t page_sums(tt_engine *e, int32_t n, uint64_t *sums)
{
    tt_job_params p = client_params(1, 1);
    tt_job *job;
    tt_err err;
    pages.engine = e;
    pages.n = n;
    pages.sums = sums;
    atomic_store(&pages.taken, false);
    assert_int_equal(tt_job_create(&p, take_sums, NULL, &job, &err), TT_OK);
    assert_int_equal(tt_engine_submit(e, job, &err), TT_OK);
    assert_int_equal(client_collect(job).last, TT_EV_DONE);
    assert_true(atomic_load(&pages.taken));
    assert_int_equal(pages.rc, TT_OK);
    return pages.found;
}

typedef struct view {
    client_outcome base, adapted;
    uint64_t sums[8];
} view;

static view alone(const tt_engine_options *o)
{
    view v;
    tt_engine *e = client_start(o, "qwen3.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(400, 30);
    v.base = client_collect(client_submit(e, &p));
    assert_int_equal(page_sums(e, 400, v.sums), 384);
    client_turn_on(&p, 300, 3, false);
    v.adapted = client_collect(client_submit(e, &p));
    assert_true(v.adapted.qttt.kept);
    tt_engine_destroy(&e);
    return v;
}

static view in_company(const tt_engine_options *o)
{
    view v;
    tt_engine *e = client_start(o, "qwen3.gguf", TT_ENGINE_READY);
    tt_job *jobs[N_OTHERS], *base, *adapted, *training;
    for (int32_t i = 0; i < N_OTHERS; i++) {
        tt_job_params p = other(i);
        jobs[i] = client_submit(e, &p);
    }
    tt_job_params p = client_params(400, 30);
    base = client_submit(e, &p);
    client_turn_on(&p, 300, 3, false);
    adapted = client_submit(e, &p);
    client_turn_on(&p, 350, 20, false);
    p.kind = TT_JOB_TRAIN;
    training = client_submit(e, &p);
    v.base = client_collect(base);
    v.adapted = client_collect(adapted);
    for (int32_t i = 0; i < N_OTHERS; i++) {
        assert_int_equal(client_collect(jobs[i]).last, TT_EV_DONE);
    }
    assert_int_equal(client_collect(training).last, TT_EV_DONE);
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_true(st.decode_rows > 2 * st.decode_steps); /* they were indeed together */
    assert_int_equal(page_sums(e, 400, v.sums), 384);
    tt_engine_destroy(&e);
    return v;
}

static void same_view(const view *a, const view *b)
{
    client_same_answer(&a->base, &b->base);
    client_same_answer(&a->adapted, &b->adapted);
    assert_memory_equal(a->sums, b->sums, 6 * sizeof *a->sums);
}

static void test_company_chunks_and_threads_change_nothing(void **state)
{
    tt_engine_options o = plain;
    view reference = alone(&o), v = in_company(&o);
    same_view(&reference, &v);
    o.prefill_chunk = 512;
    v = alone(&o);
    same_view(&reference, &v);
    o.n_threads = 2;
    v = in_company(&o);
    same_view(&reference, &v);
    assert_memory_not_equal(reference.base.logprob, reference.adapted.logprob,
                            30 * sizeof(float)); /* the adapter does something */
}

/* Six requests whose answers do not fit together. */
static void test_preempted_requests_get_the_same_answer(void **state)
{
    tt_engine *roomy = client_start(&plain, "llama.gguf", TT_ENGINE_READY);
    tt_engine_options o = plain;
    o.kv_bytes = 16 * tt_engine_page_bytes(roomy);
    tt_engine *tight = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    client_outcome want[6];
    tt_job *jobs[6];
    tt_job_params p[6];
    for (int32_t i = 0; i < 6; i++) {
        p[i] = other(i);
        p[i].qttt.mode = TT_QTTT_OFF;
        p[i].max_tokens = 250;
        p[i].sampling.temperature = 1; /* the generator's state survives */
        p[i].sampling.seed = 7;
        want[i] = client_collect(client_submit(roomy, &p[i]));
    }
    for (int32_t i = 0; i < 6; i++) {
        jobs[i] = client_submit(tight, &p[i]);
    }
    for (int32_t i = 0; i < 6; i++) {
        client_outcome got = client_collect(jobs[i]);
        assert_int_equal(got.last, TT_EV_DONE);
        client_same_answer(&got, &want[i]);
        assert_string_equal(got.text, want[i].text);
    }
    tt_engine_stats st;
    tt_engine_get_stats(tight, &st);
    assert_true(st.preemptions > 0);
    assert_int_equal(st.kv_pages_used, 0);
    tt_engine_destroy(&tight);
    tt_engine_destroy(&roomy);
}

/* Its prompt is run from end to end, whatever others hold of it. */
static void test_an_echo_waits_for_all_of_its_pages(void **state)
{
    tt_engine_options o = plain;
    tt_engine *e = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    o.kv_bytes = 10 * tt_engine_page_bytes(e);
    tt_engine_destroy(&e);
    e = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    tt_engine_stats st;
    tt_job_params p = client_params(400, 230);
    tt_job *first = client_submit(e, &p);
    do {
        client_nap();
        tt_engine_get_stats(e, &st);
    } while (st.decode_steps == 0);
    p.n_prompt = 300;
    p.max_tokens = 5;
    p.n_prompt_logprobs = 0;
    client_outcome echo = client_collect(client_submit(e, &p));
    assert_int_equal(echo.n_prompt_logprobs, 299);
    assert_int_equal(client_collect(first).last, TT_EV_DONE);
    tt_engine_get_stats(e, &st);
    assert_int_equal(st.preemptions, 0);
    tt_engine_destroy(&e);
}

/* An answer's tokens come back as part of the next prompt: found as they are, or run again through
 * the family that made them. */
static void test_second_turn_is_the_same_cold_and_warm(void **state)
{
    tt_engine *warm = client_start(&plain, "gemma3.gguf", TT_ENGINE_READY);
    tt_engine *cold = client_start(&plain, "gemma3.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(200, 60);
    p.keep = true;
    client_outcome first = client_collect(client_submit(warm, &p));
    assert_int_equal(first.n_ids, 60);
    int32_t ids[300];
    uint8_t decoded[300] = {0};
    memcpy(ids, client_prompt, 200 * sizeof *ids);
    memcpy(ids + 200, first.ids, 60 * sizeof *ids);
    memcpy(ids + 260, client_prompt + 17, 40 * sizeof *ids);
    memset(decoded + 200, 1, 60);
    p.prompt = ids;
    p.n_prompt = 300;
    p.decoded = decoded;
    p.max_tokens = 20;
    assert_int_equal(tt_engine_cached_tokens(warm, &p), 256);
    assert_int_equal(tt_engine_cached_tokens(cold, &p), 0);
    client_outcome a = client_collect(client_submit(warm, &p));
    client_outcome b = client_collect(client_submit(cold, &p));
    assert_int_equal(a.cached, 256);
    assert_int_equal(b.cached, 0);
    client_same_answer(&a, &b);
    p.decoded = NULL; /* as a stranger's prompt: nothing generated is served */
    assert_int_equal(tt_engine_cached_tokens(warm, &p), 192);
    tt_engine_destroy(&warm);
    tt_engine_destroy(&cold);
}

static void test_samples_share_their_prompt(void **state)
{
    tt_engine *e = client_start(&plain, "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(400, 4);
    tt_job *jobs[3];
    tt_err err;
    for (int i = 0; i < 3; i++) {
        p.sampling.seed = (uint64_t)i;
        assert_int_equal(tt_job_create(&p, NULL, NULL, &jobs[i], &err), TT_OK);
    }
    assert_int_equal(tt_engine_submit_all(e, jobs, 3, &err), TT_OK);
    int32_t cached = 0;
    for (int i = 0; i < 3; i++) {
        cached += client_collect(jobs[i]).cached;
    }
    assert_int_equal(cached, 2 * 384);
    tt_engine_destroy(&e);
}

static void test_all_or_none_is_admitted(void **state)
{
    tt_engine_options o = plain;
    o.max_queue = 2;
    o.max_running = 1;
    tt_engine *e = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(1000, 4);
    tt_job *jobs[4];
    tt_err err = {0};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(tt_job_create(&p, NULL, NULL, &jobs[i], &err), TT_OK);
    }
    assert_int_equal(tt_engine_submit_all(e, jobs, 4, &err), TT_E_BUSY);
    assert_true(tt_engine_retry_after(e) >= 1);
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_int_equal(st.queued + st.running, 0);
    assert_int_equal(tt_engine_submit_all(e, jobs, 3, &err), TT_OK);
    tt_job_unref(&jobs[3]);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(client_collect(jobs[i]).last, TT_EV_DONE);
    }
    tt_engine_destroy(&e);
}

static void test_deadline(void **state)
{
    tt_engine *e = client_start(&plain, "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(1500, 400);
    p.timeout_seconds = 0.01;
    client_outcome o = client_collect(client_submit(e, &p));
    assert_int_equal(o.error.code, TT_E_TIMEOUT);
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    assert_int_equal(st.kv_pages_used, 0);
    tt_engine_destroy(&e);
}

static void test_prefill_job_fills_the_cache(void **state)
{
    tt_engine *e = client_start(&plain, "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = client_params(300, 5);
    p.kind = TT_JOB_PREFILL;
    client_outcome o = client_collect(client_submit(e, &p));
    assert_int_equal(o.last, TT_EV_DONE);
    assert_int_equal(o.n_ids, 0);
    p.kind = TT_JOB_GENERATE;
    assert_int_equal(client_collect(client_submit(e, &p)).cached, 256);
    tt_engine_destroy(&e);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_company_chunks_and_threads_change_nothing),
        cmocka_unit_test(test_preempted_requests_get_the_same_answer),
        cmocka_unit_test(test_an_echo_waits_for_all_of_its_pages),
        cmocka_unit_test(test_second_turn_is_the_same_cold_and_warm),
        cmocka_unit_test(test_samples_share_their_prompt),
        cmocka_unit_test(test_all_or_none_is_admitted),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_prefill_job_fills_the_cache),
    };
    client_folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
