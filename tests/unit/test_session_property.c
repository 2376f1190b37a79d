/* test_session_property.c - sessions, jobs and a client's whims, many at a time on an engine with
 * few K/V pages, in seeded random order. Every answer, also the beginning of one that was cut, is
 * compared bit for bit with a computation from scratch; sessions with a plain account of them; and
 * when all is deleted nothing is left in the engine. argv[1]: folder of tiny models.
 * QTTT_PROPERTY_SEEDS=N runs N seeds per model in place of the fixed ones, from
 * QTTT_PROPERTY_FIRST on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine_client.h"
#include "session_client.h"
#include "session_replay.h"

enum { STEPS = 100 };

static struct {
    world_count world;
    replay_count replay;
    uint64_t preemptions, cached_tokens, decode_steps, decode_rows;
} total;

/* ---- the order of things ---- */

static void cancel_one(world *w)
{
    world_op *op = w->ops[world_draw(w, WORLD_OPS)];
    if (op == NULL || op->cancelled) {
        return;
    }
    if (op->p.qttt.mode != TT_QTTT_OFF && op->p.kind == TT_JOB_GENERATE && world_chance(w, 50)) {
        tt_job_cancel(op->job, true); /* the training alone; the base answers */
        tt_engine_kick(w->engine);
        return;
    }
    world_cancel(w, op, world_chance(w, 40));
}

static void pause_one(world *w)
{
    world_op *op = w->ops[world_draw(w, WORLD_OPS)];
    if (op != NULL && op->p.qttt.mode != TT_QTTT_OFF) {
        tt_job_pause(op->job, !tt_job_paused(op->job));
        tt_engine_kick(w->engine);
        w->count.pauses++;
    }
}

static void resume_all(world *w)
{
    for (int32_t i = 0; i < WORLD_OPS; i++) {
        if (w->ops[i] != NULL) {
            tt_job_pause(w->ops[i]->job, false);
        }
    }
    tt_engine_kick(w->engine);
}

static void do_something(world *w)
{
    int32_t slot = world_draw(w, WORLD_SESSIONS);
    int32_t what = world_draw(w, 100);
    if (!w->sessions[slot].alive) {
        client_create(w, slot);
    } else if (what < 41) {
        client_chat(w, slot);
    } else if (what < 58) {
        client_append(w, slot);
    } else if (what < 70) {
        client_train(w, slot);
    } else if (what < 76) {
        cancel_one(w);
    } else if (what < 79) {
        pause_one(w);
    } else if (what < 85) {
        client_fork(w, slot);
    } else if (what < 92) {
        client_extend(w, slot);
    } else if (what < 93) {
        world_reset(w, slot);
    } else if (what < 95) {
        world_delete(w, slot);
    } else if (what < 97) {
        resume_all(w);
        world_wait(w, 1);
        world_check_idle(w);
    }
}

static void play(world *w)
{
    for (int32_t i = 0; i < STEPS; i++) {
        do_something(w);
        for (int32_t naps = world_draw(w, 3); naps > 0; naps--) {
            client_nap();
        }
        world_poll(w);
        if (w->n_ops == WORLD_OPS) {
            resume_all(w);
            world_wait(w, 1 + world_draw(w, WORLD_OPS - 1));
        }
    }
    resume_all(w);
    world_wait(w, 1);
    world_check_idle(w);
    for (int32_t i = 0; i < WORLD_SESSIONS; i++) {
        if (w->sessions[i].alive) {
            world_delete(w, i);
        }
    }
    world_check_idle(w);
}

/* ---- one seed ---- */

/* Bytes of a full adapter. */
static size_t adapter_bytes(const tt_model *m)
{
    return (size_t)m->n_layers * (size_t)m->hidden * (size_t)m->n_heads * (size_t)m->head_dim * 2;
}

/* Some let others go on after every layer or two. Every fourth has room for a context that is long
 * enough to be probed, but not for much beside it. */
static tt_engine *start_warm(const char *file, tt_engine *cold, uint64_t seed, bool large)
{
    static const int32_t chunks[] = {512, 96, 64};
    tt_engine_options o = {.isa_mask = TT_ISA_ALL,
                           .prefill_chunk = chunks[seed / 2 % 3],
                           .kv_bytes = tt_engine_page_bytes(cold) * (large ? 48 : 13),
                           .adapter_cache_bytes = 7 * adapter_bytes(tt_engine_model(cold)),
                           .max_running = seed % 5 == 0 ? 2 : 0,
                           .target_gap = seed % 3 == 1 ? 1e-6 : 0,
                           .max_jobs = 1 + (int32_t)(seed % 2)};
    return client_start(&o, file, TT_ENGINE_READY);
}

static void add_counts(const world *w)
{
    const int32_t *from = (const int32_t *)(const void *)&w->count;
    int32_t *to = (int32_t *)(void *)&total.world;
    for (size_t i = 0; i < sizeof w->count / sizeof *from; i++) {
        to[i] += from[i];
    }
    tt_engine_stats st;
    tt_engine_get_stats(w->engine, &st);
    total.preemptions += st.preemptions;
    total.cached_tokens += st.cached_tokens;
    total.decode_steps += st.decode_steps;
    total.decode_rows += st.decode_rows;
}

static void run_seed(const char *file, tt_engine *cold, uint64_t seed)
{
    static world w;
    bool large = seed % 4 == 3;
    tt_engine *warm = start_warm(file, cold, seed, large);
    world_init(&w, warm, seed, large ? 1560 : 620);
    play(&w);
    uint64_t preemptions = total.preemptions;
    add_counts(&w);
    tt_engine_destroy(&warm);
    replay_all(&w, cold, &total.replay);
    preemptions = total.preemptions - preemptions;
    print_message("%s: seed %llu: %llu preemptions\n", file, (unsigned long long)seed,
                  (unsigned long long)preemptions);
    assert_true(preemptions < 20 * STEPS); /* who gives way does not come back at once */
    world_finish(&w);
}

static int32_t number_from(const char *name, int32_t otherwise)
{
    const char *text = getenv(name);
    int32_t n = text != NULL ? (int32_t)strtol(text, NULL, 10) : 0;
    return n > 0 ? n : otherwise;
}

static void run_model(const char *file, uint64_t first_seed)
{
    tt_engine_options o = {.isa_mask = TT_ISA_ALL,
                           .adapter_cache_bytes = 256 << 20,
                           .prefill_chunk = 128,
                           .max_running = 1};
    tt_engine *cold = client_start(&o, file, TT_ENGINE_READY);
    int32_t n = number_from("QTTT_PROPERTY_SEEDS", 3);
    uint64_t first = (uint64_t)number_from("QTTT_PROPERTY_FIRST", (int32_t)first_seed);
    for (int32_t i = 0; i < n; i++) {
        run_seed(file, cold, first + (uint64_t)i);
    }
    tt_engine_destroy(&cold);
}

static void test_llama(void **state)
{
    run_model("llama.gguf", 1);
}

static void test_gemma3_with_its_window(void **state)
{
    run_model("gemma3.gguf", 4);
}

static void test_qwen3(void **state)
{
    run_model("qwen3.gguf", 7);
}

/* What the seeds have met; all that is above is worth nothing where nothing happened. */
static void test_everything_happened(void **state)
{
    const world_count *c = &total.world;
    print_message("%d prefills, %d chats (%d of another document), %d appends, %d trainings, %d in "
                  "requests; %d forks, %d extensions, %d resets, %d deletions, %d pauses\n",
                  c->prefills, c->chats, c->strangers, c->appends, c->trainings, c->in_request,
                  c->forks, c->extensions, c->resets, c->deletions, c->pauses);
    print_message(
        "%d answers, %d adapters published, %d known, %d dropped, %d refused; %d aborted, "
        "%d hung up, %d expired; appends: %d retried, %d busy, %d mismatched; %d "
        "generations gone, %d stale; misses %d %d %d; %d page edges\n",
        c->answers, c->published, c->known, c->dropped, c->refused, c->aborted, c->hung_up,
        c->expired, c->retried, c->busy, c->mismatched, c->gone, c->stale, c->misses[1],
        c->misses[2], c->misses[3], c->edges);
    print_message(
        "%llu preemptions, %llu cached tokens, %.2f rows a step; from scratch: %d answers, "
        "%d beginnings, %d tokens, %d trainings, %d prompt log-probabilities\n",
        (unsigned long long)total.preemptions, (unsigned long long)total.cached_tokens,
        (double)total.decode_rows / (double)total.decode_steps, total.replay.answers,
        total.replay.beginnings, total.replay.tokens, total.replay.trainings,
        total.replay.prompt_logprobs);
    assert_true(c->chats > 0 && c->appends > 0 && c->trainings > 0 && c->in_request > 0);
    assert_true(c->forks > 0 && c->resets > 0 && c->deletions > 0 && c->edges > 0);
    assert_true(c->published > 0 && c->aborted > 0 && c->retried > 0 && c->strangers > 0);
    assert_true(c->misses[TT_MISS_TRANSCRIPT] > 0 && c->misses[TT_MISS_ADAPTER] > 0);
    assert_true(total.preemptions > 0 && total.cached_tokens > 0);
    assert_true(total.decode_rows > total.decode_steps);
    assert_true(total.replay.answers > 0 && total.replay.beginnings > 0);
    assert_true(total.replay.trainings > 0 && total.replay.prompt_logprobs > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_gemma3_with_its_window),
        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_everything_happened),
    };
    client_folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
