/* test_speculate.c - drafts change nothing but the number of steps: the same tokens, the same
 * log-probabilities, the same K/V as without, bit for bit. argv[1]: folder of tiny models, whose
 * greedy answers soon go round in circles, so that there is something to copy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine_priv.h"
#include "engine_client.h"

enum { PROMPT = 200, LONG = 60 };

static const tt_engine_options on = {
    .isa_mask = TT_ISA_ALL, .adapter_cache_bytes = 64 << 20, .prefill_chunk = 64, .row_cost = 0.05};

static tt_engine *start(const char *file, bool drafts)
{
    tt_engine_options o = on;
    o.max_draft = drafts ? 0 : -1;
    return client_start(&o, file, TT_ENGINE_READY);
}

/* A random model does not repeat itself; one that chooses between four tokens has to. */
static const struct tt_logit_bias four[] = {{21, 100}, {22, 100}, {23, 100}, {24, 100}};
enum { ONE = 1, FOUR = 4 };

static tt_job_params params(int32_t max_tokens)
{
    tt_job_params p = client_params(512, max_tokens); /* for the longest */
    p.n_prompt = PROMPT;
    p.sampling.bias = four;
    p.sampling.n_bias = FOUR;
    return p;
}

/* ---- K/V of the cache ---- */

/* Only the engine's thread may look at its pool: it takes the sums when it tells of a request that
 * is submitted for that alone. */
static struct {
    tt_engine *engine;
    const int32_t *ids;
    const uint8_t *decoded;
    int32_t n, found;
    uint64_t sums[16];
    tt_code rc;
    atomic_bool taken;
} look;

static void take_sums(void *arg)
{
    if (atomic_load(&look.taken)) {
        return;
    }
    tt_kv_pool *kv = look.engine->worker.kv;
    tt_seq s;
    tt_err err;
    tt_seq_init(&s, kv, "");
    look.rc = tt_seq_match(&s, look.ids, look.decoded, look.n, &look.found, &err);
    for (int32_t i = 0; look.rc == TT_OK && i < look.found / TT_PAGE_TOKENS; i++) {
        look.rc = tt_kv_checksum(kv, s.pages[i], TT_PAGE_TOKENS, &look.sums[i], &err);
    }
    tt_seq_finish(&s);
    atomic_store(&look.taken, true);
}

/* How many tokens of prompt and answer are in the cache; their sums in look.sums. */
static int32_t page_sums(tt_engine *e, const tt_job_params *of, const client_outcome *answer)
{
    static int32_t ids[1024], one[1] = {5};
    static uint8_t decoded[1024];
    memcpy(ids, of->prompt, (size_t)of->n_prompt * sizeof *ids);
    memcpy(ids + of->n_prompt, answer->ids, (size_t)answer->n_ids * sizeof *ids);
    memset(decoded, 0, (size_t)of->n_prompt);
    memset(decoded + of->n_prompt, 1, (size_t)answer->n_ids);
    look.engine = e;
    look.ids = ids;
    look.decoded = decoded;
    look.n = of->n_prompt + answer->n_ids;
    memset(look.sums, 0, sizeof look.sums);
    atomic_store(&look.taken, false);
    tt_job_params p = {.prompt = one,
                       .n_prompt = 1,
                       .max_tokens = 1,
                       .n_logprobs = -1,
                       .n_prompt_logprobs = -1,
                       .sampling = {.top_p = 1, .repetition_penalty = 1}};
    tt_job *job;
    tt_err err;
    assert_int_equal(tt_job_create(&p, take_sums, NULL, &job, &err), TT_OK);
    assert_int_equal(tt_engine_submit(e, job, &err), TT_OK);
    assert_int_equal(client_collect(job).last, TT_EV_DONE);
    assert_true(atomic_load(&look.taken));
    assert_int_equal(look.rc, TT_OK);
    return look.found;
}

/* ---- the requests ---- */

typedef struct request {
    const char *name;
    bool drafted; /* it has drafts, and some of them are right */
    tt_job_params p;
} request;

static char stop_text[8]; /* of ONE */
static const struct tt_stop stop = {stop_text, 1};
static const int32_t stop_ids[1] = {22};

/* Between four tokens drafts are now right, now wrong; of one token they are long and right. */
static const request requests[] = {
    {.name = "greedy"},
    {.name = "greedy, no log-probabilities", .p = {.n_logprobs = -1}},
    {.name = "many log-probabilities", .p = {.n_logprobs = 5}},
    {.name = "seeded", .p = {.sampling = {.temperature = 1, .seed = 3}}},
    {.name = "cut off", .p = {.sampling = {.temperature = 0.7, .top_k = 3, .top_p = 0.9}}},
    {.name = "repetition penalty", .p = {.sampling = {.repetition_penalty = 1.3}}},
    {.name = "presence penalty", .p = {.sampling = {.presence_penalty = 0.5}}},
    {.name = "frequency penalty", .p = {.sampling = {.frequency_penalty = 0.1}}},
    {.name = "stop token, not at once",
     .p = {.stop_ids = stop_ids, .n_stop_ids = 1, .min_tokens = 31}},
    {.name = "two tokens", .p = {.max_tokens = 2}},
    {.name = "one token", .drafted = true},
    {.name = "one token, no log-probabilities", .drafted = true, .p = {.n_logprobs = -1}},
    {.name = "one token, seeded",
     .drafted = true,
     .p = {.sampling = {.temperature = 1, .seed = 5, .min_p = 0.1}}},
    {.name = "one token, repetition penalty",
     .drafted = true,
     .p = {.sampling = {.repetition_penalty = 1.3}}},
    {.name = "one token, presence penalty", .p = {.sampling = {.presence_penalty = 0.5}}},
    {.name = "one token, stop string in a draft",
     .drafted = true,
     .p = {.stops = &stop, .n_stops = 1, .min_tokens = 40}},
    {.name = "one token, 37 of them", .drafted = true, .p = {.max_tokens = 37}},
    {.name = "one token, from a page's end", .drafted = true, .p = {.n_prompt = 191}},
    {.name = "one token, where attention is cut", .drafted = true, .p = {.n_prompt = 500}},
    {.name = "one token, from a page's beginning", .drafted = true, .p = {.n_prompt = 192}},
};

enum { N_REQUESTS = sizeof requests / sizeof requests[0] };

/* What a request of the table leaves open. */
static tt_job_params filled(const request *r)
{
    tt_job_params p = params(LONG), q = r->p;
    bool one = strncmp(r->name, "one", 3) == 0;
    q.prompt = p.prompt;
    q.n_prompt = q.n_prompt > 0 ? q.n_prompt : p.n_prompt;
    q.max_tokens = q.max_tokens > 0 ? q.max_tokens : p.max_tokens;
    q.ignore_eos = true;
    q.keep = true;
    q.n_prompt_logprobs = -1;
    q.sampling.bias = four;
    q.sampling.n_bias = one ? ONE : FOUR;
    q.sampling.top_p = q.sampling.top_p > 0 ? q.sampling.top_p : 1;
    return q;
}

static void same_request(tt_engine *with, tt_engine *without, const request *r)
{
    tt_job_params p = filled(r);
    client_outcome a = client_collect(client_submit(with, &p));
    client_outcome b = client_collect(client_submit(without, &p));
    assert_int_equal(a.last, TT_EV_DONE);
    client_same_answer(&a, &b);
    assert_string_equal(a.text, b.text);
    assert_int_equal(a.finish, b.finish);
    assert_int_equal(a.n_tokens, b.n_tokens);
    assert_int_equal(b.drafted + b.accepted, 0);
    assert_in_range(a.accepted, 0, a.drafted);
    assert_true(a.accepted > (r->drafted ? a.n_tokens / 2 : -1));
    if (p.sampling.presence_penalty != 0 || p.sampling.frequency_penalty != 0) {
        assert_int_equal(a.drafted, 0);
    }
    if (p.n_stops > 0) { /* in the middle of a draft, the rest of which is forgotten */
        assert_int_equal(a.n_tokens, p.min_tokens + 1);
        assert_int_equal(a.finish, TT_FINISH_STOP);
    }
    int32_t found = page_sums(without, &p, &b);
    uint64_t sums[16];
    memcpy(sums, look.sums, sizeof sums);
    assert_int_equal(found, (p.n_prompt + a.n_tokens - 1) / TT_PAGE_TOKENS * TT_PAGE_TOKENS);
    assert_int_equal(page_sums(with, &p, &a), found);
    assert_memory_equal(look.sums, sums, sizeof sums);
}

static void check_family(const char *file)
{
    tt_engine *with = start(file, true), *without = start(file, false);
    tt_job_params p = filled(&(request){.name = "one", .p = {.max_tokens = 1}});
    strcpy(stop_text, "?");
    stop_text[0] = client_collect(client_submit(without, &p)).text[0];
    client_collect(client_submit(with, &p));
    for (int32_t i = 0; i < N_REQUESTS; i++) {
        same_request(with, without, &requests[i]);
    }
    tt_engine_stats a, b;
    tt_engine_get_stats(with, &a);
    tt_engine_get_stats(without, &b);
    assert_int_equal(a.generated_tokens, b.generated_tokens);
    assert_true(a.decode_steps < b.decode_steps);
    assert_true(a.accepted_tokens > 0 && a.drafted_tokens > a.accepted_tokens);
    /* every token but each request's first took a row, or was a draft's */
    assert_int_equal(a.decode_rows + a.accepted_tokens, b.decode_rows);
    assert_int_equal(a.kv_pages_used, 0);
    tt_engine_destroy(&with);
    tt_engine_destroy(&without);
}

static void test_nothing_changes(void **state)
{
    check_family("llama.gguf");
    check_family("qwen3.gguf");
    check_family("gemma3.gguf");
}

/* The answer ends where the context does, in the middle of what could be copied. */
static void test_context_ends(void **state)
{
    tt_engine_options o = on;
    o.max_context = 250;
    tt_engine *with = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    o.max_draft = -1;
    tt_engine *without = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    tt_job_params p = params(-1);
    client_outcome a = client_collect(client_submit(with, &p));
    client_outcome b = client_collect(client_submit(without, &p));
    assert_int_equal(a.n_ids, 50);
    assert_true(a.accepted > 0);
    assert_int_equal(a.finish, TT_FINISH_LENGTH);
    client_same_answer(&a, &b);
    tt_engine_destroy(&with);
    tt_engine_destroy(&without);
}

/* ---- in company ---- */

enum { N_STREAMS = 9 };

static void make_streams(tt_job_params *p)
{
    static int32_t prompts[N_STREAMS][PROMPT];
    for (int32_t i = 0; i < N_STREAMS; i++) {
        p[i] = params(LONG);
        for (int32_t j = 0; j < PROMPT; j++) {
            prompts[i][j] = 10 + (j * (3 + i) + j / 37 + i) % 200;
        }
        p[i].prompt = prompts[i];
        p[i].keep = true;
        if (i % 3 > 0) { /* of three neighbours two are adapted, to one context or to two */
            p[i].prompt = prompts[i / 3 * 3];
            client_turn_on(&p[i], 100, 2, false);
            p[i].qttt.lora = i > 5;
            p[i].qttt.seed = i < 3 ? 1 : (uint64_t)i;
        }
        if (i % 4 == 1) {
            p[i].sampling.temperature = 1;
            p[i].sampling.seed = (uint64_t)i;
        }
        p[i].n_logprobs = i % 2 - 1;
    }
}

static void run_streams(tt_engine *e, tt_job_params *p, bool together, client_outcome *ret)
{
    tt_job *jobs[N_STREAMS];
    for (int32_t i = 0; i < N_STREAMS; i++) {
        jobs[i] = client_submit(e, &p[i]);
        if (!together) {
            ret[i] = client_collect(jobs[i]);
        }
    }
    for (int32_t i = 0; together && i < N_STREAMS; i++) {
        ret[i] = client_collect(jobs[i]);
    }
}

static void same_streams(const client_outcome *a, const client_outcome *b)
{
    for (int32_t i = 0; i < N_STREAMS; i++) {
        assert_int_equal(a[i].last, TT_EV_DONE);
        client_same_answer(&a[i], &b[i]);
        assert_string_equal(a[i].text, b[i].text);
        assert_int_equal(a[i].qttt.kept, b[i].qttt.kept);
    }
}

static void test_streams_with_adapters(void **state)
{
    tt_job_params p[N_STREAMS];
    client_outcome want[N_STREAMS], got[N_STREAMS];
    make_streams(p);
    tt_engine *without = start("qwen3.gguf", false), *with = start("qwen3.gguf", true);
    run_streams(without, p, false, want);
    assert_true(want[1].qttt.kept && want[8].qttt.kept);
    run_streams(with, p, true, got);
    same_streams(got, want);
    tt_engine_stats st;
    tt_engine_get_stats(with, &st);
    assert_true(st.accepted_tokens > 0);
    assert_true(st.decode_rows > st.decode_steps); /* they were together */
    for (int32_t i = 0; i < N_STREAMS; i += 3) {   /* of the base: whoever was beside them */
        int32_t n = page_sums(without, &p[i], &want[i]);
        uint64_t sums[16];
        memcpy(sums, look.sums, sizeof sums);
        assert_int_equal(page_sums(with, &p[i], &want[i]), n);
        assert_memory_equal(look.sums, sums, sizeof sums);
    }
    tt_engine_destroy(&with);
    tt_engine_destroy(&without);
}

/* Pages for drafts are taken from nobody, and what preemption runs again is what it was. */
static void test_a_tiny_pool(void **state)
{
    tt_job_params p[N_STREAMS];
    client_outcome want[N_STREAMS], got[N_STREAMS];
    make_streams(p);
    for (int32_t i = 0; i < N_STREAMS; i++) {
        p[i].qttt.mode = TT_QTTT_OFF;
        p[i].max_tokens = 250;
    }
    tt_engine *without = start("llama.gguf", false);
    run_streams(without, p, false, want);
    tt_engine_options o = on;
    o.kv_bytes = 16 * tt_engine_page_bytes(without);
    tt_engine *tight = client_start(&o, "llama.gguf", TT_ENGINE_READY);
    run_streams(tight, p, true, got);
    same_streams(got, want);
    tt_engine_stats st;
    tt_engine_get_stats(tight, &st);
    assert_true(st.preemptions > 0 && st.accepted_tokens > 0);
    assert_int_equal(st.kv_pages_used, 0);
    tt_engine_destroy(&tight);
    tt_engine_destroy(&without);
}

/* A client that leaves while drafts are run leaves nothing behind. */
static void test_cancelled(void **state)
{
    tt_engine *e = start("llama.gguf", true);
    for (int32_t i = 0; i < 5; i++) {
        tt_job_params p = params(500);
        tt_job *job = client_submit(e, &p);
        tt_engine_stats st;
        do {
            client_nap();
            tt_engine_get_stats(e, &st);
        } while (st.drafted_tokens == 0 && st.running > 0);
        tt_job_cancel(job, false);
        tt_engine_kick(e);
        client_outcome o = client_collect(job);
        assert_true(o.last == TT_EV_DONE || o.error.code == TT_E_CANCELLED);
        tt_engine_get_stats(e, &st);
        assert_int_equal(st.kv_pages_used, 0);
    }
    tt_engine_destroy(&e);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_changes),
        cmocka_unit_test(test_context_ends),
        cmocka_unit_test(test_streams_with_adapters),
        cmocka_unit_test(test_a_tiny_pool),
        cmocka_unit_test(test_cancelled),
    };
    client_folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
