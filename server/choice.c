/* choice.c - see choice.h. */
#include "server/choice.h"

#include <stdio.h>
#include <sys/random.h>
#include <uv.h>

#include "server/session_turn.h"

void tt_choice_init(tt_choice *c, const tt_prepared *prepared, int32_t index)
{
    const tt_request *r = &prepared->request;
    *c = (tt_choice){.index = index,
                     .sample = index % r->n_samples,
                     .request = r,
                     .prompt = &prepared->prompts[index / r->n_samples],
                     .tokenizer = prepared->served->tokenizer,
                     .turn = prepared->turn};
    tt_logprob_list_init(&c->logprobs, c->tokenizer, r->api == TT_API_COMPLETIONS);
}

void tt_choice_finish(tt_choice *c)
{
    tt_job_unref(&c->job);
    tt_buf_finish(&c->text);
    tt_logprob_list_finish(&c->logprobs);
}

static uint64_t random_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) {
        seed = uv_hrtime();
    }
    return seed;
}

tt_code tt_choice_create_job(tt_choice *c, const char *scope, void (*wake)(void *arg), void *arg,
                             tt_err *reterr)
{
    const tt_request *r = c->request;
    tt_job_params params = r->job;
    params.prompt = c->prompt->ids;
    params.n_prompt = (int32_t)c->prompt->n_ids;
    params.max_tokens = c->prompt->max_tokens;
    params.qttt = r->qttt.params;
    params.qttt.context_tokens = c->prompt->context_tokens;
    params.sampling.seed =
        r->have_seed ? params.sampling.seed + (uint64_t)c->sample : random_seed();
    snprintf(params.adapter_scope, sizeof params.adapter_scope, "%s", scope);
    if (c->turn != NULL) {
        tt_session_turn_params(c->turn, c->index / r->n_samples, &params);
    }
    return tt_job_create(&params, wake, arg, &c->job, reterr);
}

bool tt_choice_open(tt_choice *c)
{
    const tt_prepared_prompt *pr = c->prompt;
    if (c->opened) {
        return false;
    }
    c->opened = true;
    if (pr->echo != NULL) {
        tt_buf fresh = {0};
        tt_buf_put(&fresh, pr->echo, pr->n_echo);
        tt_buf_put(&fresh, c->text.p, c->text.n);
        fresh.failed = fresh.failed || c->text.failed;
        tt_buf_finish(&c->text);
        c->text = fresh;
    }
    return true;
}

static void add_prompt_token(tt_choice *c, int32_t pos, const tt_logprob *chosen,
                             const tt_logprob *top, int32_t n_top)
{
    tt_logprob_entry e = {
        .id = c->prompt->ids[pos], .have_logprob = chosen != NULL, .top = top, .n_top = n_top};
    e.piece = tt_tokenizer_piece(c->tokenizer, e.id, true, &e.n_piece);
    if (pos == 0 && c->prompt->added_bos) {
        e.n_piece = 0; /* ours, not the text's */
    }
    e.logprob = chosen != NULL ? chosen->logprob : 0;
    tt_logprob_list_add(&c->logprobs, &e);
}

void tt_choice_prompt_logprobs(tt_choice *c, const tt_event *ev)
{
    int32_t first = ev->u.prompt_logprobs.first, n_top = ev->u.prompt_logprobs.n_top;
    if (first == 1) {
        add_prompt_token(c, 0, NULL, NULL, 0);
    }
    for (int32_t i = 0; i < ev->u.prompt_logprobs.n && (size_t)(first + i) < c->prompt->n_ids;
         i++) {
        add_prompt_token(c, first + i, &ev->u.prompt_logprobs.chosen[i],
                         ev->u.prompt_logprobs.top + (ptrdiff_t)i * n_top, n_top);
    }
}

void tt_choice_token(tt_choice *c, const tt_event *ev)
{
    tt_buf_put(&c->text, ev->u.token.text, ev->u.token.n_text);
    if (c->request->want_logprobs && ev->u.token.have_logprob) {
        tt_logprob_entry e = {.id = ev->u.token.id,
                              .piece = ev->u.token.piece,
                              .n_piece = ev->u.token.n_piece,
                              .have_logprob = true,
                              .logprob = ev->u.token.logprob,
                              .top = ev->u.token.top,
                              .n_top = ev->u.token.n_top};
        tt_logprob_list_add(&c->logprobs, &e);
    }
}

void tt_choice_done(tt_choice *c, const tt_event *ev)
{
    tt_buf_put(&c->text, ev->u.done.text, ev->u.done.n_text);
    c->finish_reason = tt_finish_text(ev->u.done.reason);
    c->usage = (tt_usage){.prompt_tokens = ev->u.done.prompt_tokens,
                          .cached_tokens = ev->u.done.cached_tokens,
                          .completion_tokens = ev->u.done.completion_tokens,
                          .accepted_tokens = ev->u.done.accepted_tokens};
    c->prefill_seconds = ev->u.done.prefill_seconds;
}

bool tt_choice_failed(const tt_choice *c)
{
    return c->text.failed || tt_logprob_list_failed(&c->logprobs);
}

bool tt_choice_take(const tt_choice *c, bool all, tt_chunk *ret)
{
    bool have_logprobs = c->request->want_logprobs && !tt_logprob_list_empty(&c->logprobs);
    if (!c->opened || (c->text.n == 0 && !(all && have_logprobs))) {
        return false;
    }
    *ret = (tt_chunk){.index = c->index,
                      .text = c->text.n > 0 ? c->text.p : "",
                      .n_text = c->text.n,
                      .logprobs = have_logprobs ? &c->logprobs : NULL};
    return true;
}

void tt_choice_sent(tt_choice *c)
{
    c->text.n = 0;
    tt_logprob_list_clear(&c->logprobs);
}
