/* engine_client.c - see engine_client.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine_client.h"

const char *client_folder = ".";
int32_t client_prompt[1600];

void client_nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

tt_engine *client_start(const tt_engine_options *extra, const char *file, tt_engine_state want)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", client_folder, file);
    tt_engine_options o = *extra;
    o.model_path = path;
    o.kv_type = TT_BF16;
    o.n_threads = extra->n_threads > 0 ? extra->n_threads : 1;
    o.caps = (tt_qttt_caps){256, 1024, 64, 1e-3, 0.05};
    tt_engine *e;
    tt_err err;
    assert_int_equal(tt_engine_create(&o, &e, &err), TT_OK);
    tt_engine_state s;
    while ((s = tt_engine_get_state(e, &err)) == TT_ENGINE_LOADING) {
        client_nap();
    }
    assert_int_equal(s, want);
    return e;
}

tt_engine *client_start_plain(void)
{
    return client_start(&(tt_engine_options){.isa_mask = TT_ISA_ALL,
                                             .adapter_cache_bytes = 64 << 20,
                                             .prefill_chunk = 128},
                        "llama.gguf", TT_ENGINE_READY);
}

tt_job_params client_params(int32_t n, int32_t max_tokens)
{
    for (int32_t i = 0; i < n; i++) {
        client_prompt[i] = 10 + (i * 7 + i / 50) % 200;
    }
    return (tt_job_params){.prompt = client_prompt,
                           .n_prompt = n,
                           .max_tokens = max_tokens,
                           .ignore_eos = true,
                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                           .n_logprobs = 0,
                           .n_prompt_logprobs = -1};
}

void client_turn_on(tt_job_params *p, int32_t context, int32_t steps, bool guard)
{
    tt_qttt_defaults(&p->qttt);
    p->qttt.mode = TT_QTTT_ON;
    p->qttt.steps = steps;
    p->qttt.span_tokens = 32;
    p->qttt.learning_rate = 1e-3;
    p->qttt.context_tokens = context;
    p->qttt.guard = guard;
}

void client_pin(tt_engine *e, uint64_t adapter_id)
{
    tt_err err;
    assert_int_equal(tt_engine_pin(e, adapter_id, &err), TT_OK);
}

static void note(client_outcome *o, const tt_event *ev)
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
        assert_true(ev->u.adapt.step > o->last_step);
        o->last_step = ev->u.adapt.step;
        o->n_adapt++;
        break;
    case TT_EV_ADAPTED:
        o->adapted = true;
        o->qttt = ev->u.adapted;
        break;
    case TT_EV_DONE:
        o->cached = ev->u.done.cached_tokens;
        o->n_tokens = ev->u.done.completion_tokens;
        o->drafted = ev->u.done.drafted_tokens;
        o->accepted = ev->u.done.accepted_tokens;
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

tt_job *client_submit(tt_engine *e, const tt_job_params *p)
{
    tt_job *job;
    tt_err err = {0};
    assert_int_equal(tt_job_create(p, NULL, NULL, &job, &err), TT_OK);
    assert_int_equal(tt_engine_submit(e, job, &err), TT_OK);
    return job;
}

client_outcome client_collect(tt_job *job)
{
    client_outcome o = {0};
    do {
        tt_event *ev = tt_job_next(job);
        if (ev == NULL) {
            client_nap();
            continue;
        }
        note(&o, ev);
        tt_event_free(ev);
    } while (o.last != TT_EV_DONE && o.last != TT_EV_ERROR);
    tt_job_unref(&job);
    return o;
}

void client_same_answer(const client_outcome *a, const client_outcome *b)
{
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n_ids * sizeof *a->ids);
    assert_memory_equal(a->logprob, b->logprob,
                        (size_t)a->n_ids * sizeof *a->logprob); /* bit for bit */
}
