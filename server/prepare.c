/* prepare.c - see prepare.h. */
#include "server/prepare.h"

#include <stdlib.h>
#include <string.h>

#include "server/api_json.h"
#include "server/generation.h"
#include "server/server.h"

tt_request_limits tt_limits_of(const tt_settings *settings, const tt_served *served)
{
    return (tt_request_limits){.json_memory = (size_t)settings->json_memory,
                               .strict = settings->strict,
                               .max_prompts = (int32_t)settings->max_prompts,
                               .max_samples = (int32_t)settings->max_samples,
                               .max_jobs = (int32_t)settings->max_requests,
                               .request_timeout = settings->request_timeout,
                               .n_vocab = served->model->n_vocab,
                               .n_layers = served->model->n_layers,
                               .caps = {.max_steps = (int32_t)settings->qttt_max_steps,
                                        .max_span_tokens = (int32_t)settings->qttt_max_span_tokens,
                                        .max_rank = (int32_t)settings->qttt_max_rank,
                                        .max_learning_rate = settings->qttt_max_learning_rate,
                                        .max_delta_norm = settings->qttt_max_delta_norm},
                               .model_name = served->name,
                               .alias_name = served->alias[0] != '\0' ? served->alias : NULL};
}

void tt_prepared_destroy(tt_prepared **prepared)
{
    tt_prepared *p = *prepared;
    if (p == NULL) {
        return;
    }
    *prepared = NULL;
    for (int32_t i = 0; p->prompts != NULL && i < p->request.n_prompts; i++) {
        free(p->prompts[i].ids);
        free(p->prompts[i].echo);
    }
    tt_request_finish(&p->request);
    tt_http_unref(p->http);
    free(p);
}

static const char *prompt_param(const tt_prepared *p)
{
    return p->request.api == TT_API_CHAT ? "messages" : "prompt";
}

/* The context rule of docs/api.md for prompt i: both numbers are told, nothing is cut silently. */
static bool check_length(tt_prepared *p, tt_prepared_prompt *pr)
{
    int64_t n = (int64_t)pr->n_ids, context = p->served->max_context;
    int64_t want = p->request.job.max_tokens;
    if (n == 0) {
        tt_error_set(&p->error, 400, prompt_param(p), NULL, "the prompt is empty");
        return false;
    }
    if (p->request.have_max_tokens && n + want > context) {
        tt_error_set(&p->error, 400, prompt_param(p), "context_length_exceeded",
                     "this model's context is %lld tokens; the prompt has %lld and the answer may "
                     "have %lld",
                     (long long)context, (long long)n, (long long)want);
        return false;
    }
    if (!p->request.have_max_tokens && n >= context) {
        tt_error_set(&p->error, 400, prompt_param(p), "context_length_exceeded",
                     "this model's context is %lld tokens; the prompt has %lld", (long long)context,
                     (long long)n);
        return false;
    }
    pr->max_tokens = (int32_t)(want >= 0 && want > context - n ? context - n : want);
    return true;
}

/* What of the prompt is the context; chat is NULL for completions. */
static tt_code find_context(tt_prepared *p, const tt_chat_prompt *chat, tt_prepared_prompt *pr,
                            tt_err *err)
{
    if (p->request.qttt.params.mode == TT_QTTT_OFF) {
        return TT_OK;
    }
    tt_code rc = tt_prompt_context(p->served, chat, pr->ids, pr->n_ids, &p->request.qttt,
                                   &pr->context_tokens, err);
    p->bad_context = rc == TT_E_INVALID;
    return rc;
}

static tt_code tokenise_chat(tt_prepared *p, tt_prepared_prompt *pr, tt_err *err)
{
    tt_chat_prompt chat = {.messages = p->request.messages,
                           .kwargs = p->request.template_kwargs,
                           .add_generation_prompt = p->request.add_generation_prompt};
    tt_code rc = tt_prompt_chat(p->served, &chat, &pr->ids, &pr->n_ids, err);
    return rc < 0 ? rc : find_context(p, &chat, pr, err);
}

static tt_code make_echo(tt_prepared *p, const tt_prompt_source *src, tt_prepared_prompt *pr,
                         tt_err *err)
{
    if (src->text == NULL) {
        return tt_tokenizer_decode(p->served->tokenizer, pr->ids, pr->n_ids, true, &pr->echo,
                                   &pr->n_echo, err);
    }
    pr->echo = malloc(src->n_text + 1);
    if (pr->echo == NULL) {
        return tt_fail(err, TT_E_NOMEM, "out of memory");
    }
    memcpy(pr->echo, src->text, src->n_text);
    pr->n_echo = src->n_text;
    return TT_OK;
}

static tt_code tokenise_text(tt_prepared *p, int32_t i, tt_prepared_prompt *pr, tt_err *err)
{
    const tt_prompt_source *src = &p->request.prompts[i];
    tt_code rc = TT_OK;
    if (src->text != NULL && (rc = tt_prompt_may_fit(p->served, src->n_text, err)) < 0) {
        return rc;
    }
    if (src->text != NULL) {
        rc = tt_prompt_text(p->served, src->text, src->n_text, p->request.add_special_tokens, false,
                            &pr->ids, &pr->n_ids, err);
        pr->added_bos = rc == TT_OK && pr->n_ids > 0 &&
                        tt_tokenizer_is_control(p->served->tokenizer, pr->ids[0]);
    } else {
        pr->ids = malloc(((size_t)src->n_ids + 1) * sizeof *pr->ids);
        if (pr->ids == NULL) {
            return tt_fail(err, TT_E_NOMEM, "out of memory");
        }
        memcpy(pr->ids, src->ids, (size_t)src->n_ids * sizeof *pr->ids);
        pr->n_ids = (size_t)src->n_ids;
    }
    rc = rc < 0 ? rc : find_context(p, NULL, pr, err);
    if (rc == TT_OK && p->request.echo) {
        rc = make_echo(p, src, pr, err);
    }
    return rc;
}

/* In the pool. */
static void run(tt_work *w)
{
    tt_prepared *p = (tt_prepared *)(void *)w;
    tt_http_request *req = p->http;
    if (!tt_request_parse(req->body.n > 0 ? req->body.p : "", req->body.n, p->request.api,
                          &p->limits, &req->arena, &p->request, &p->error)) {
        return;
    }
    p->prompts = tt_arena_calloc(&req->arena, (size_t)p->request.n_prompts, sizeof *p->prompts);
    if (p->prompts == NULL) {
        tt_err err = {.code = TT_E_NOMEM};
        tt_error_from_code(&p->error, &err);
        return;
    }
    for (int32_t i = 0; i < p->request.n_prompts && p->error.status == 0; i++) {
        tt_err err = {0};
        tt_code rc = p->request.api == TT_API_CHAT ? tokenise_chat(p, &p->prompts[i], &err)
                                                   : tokenise_text(p, i, &p->prompts[i], &err);
        if (rc < 0) {
            tt_error_from_code(&p->error, &err);
            const char *param = p->bad_context ? "qttt.context" : prompt_param(p);
            strncpy(p->error.param, param, sizeof p->error.param - 1);
        } else {
            check_length(p, &p->prompts[i]);
        }
    }
}

static bool wanted(tt_work *w)
{
    return !((tt_prepared *)(void *)w)->http->gone;
}

static void done(tt_work *w)
{
    tt_prepared *p = (tt_prepared *)(void *)w;
    tt_http_request *req = p->http;
    tt_http_release_body(req);
    if (p->request.ignored.n > 0 && !p->request.ignored.failed) {
        tt_buf_putc(&p->request.ignored, '\0');
        if (!p->request.ignored.failed) {
            tt_http_header(req, "X-Qttt-Ignored-Params", p->request.ignored.p);
        }
    }
    if (req->gone) {
        tt_prepared_destroy(&p);
    } else if (p->error.status != 0) {
        tt_http_reply_error(req, &p->error);
        tt_prepared_destroy(&p);
    } else {
        tt_generation_start(p);
    }
}

void tt_prepare_start(tt_http_request *req, tt_api api)
{
    tt_server *s = req->server;
    tt_prepared *p = calloc(1, sizeof *p);
    if (p == NULL) {
        tt_err err = {.code = TT_E_NOMEM};
        tt_http_error e;
        tt_error_from_code(&e, &err);
        tt_http_reply_error(req, &e);
        return;
    }
    p->work.wanted = wanted;
    p->work.run = run;
    p->work.done = done;
    p->http = req;
    tt_http_ref(req);
    p->served = s->served;
    p->limits = tt_limits_of(s->settings, s->served);
    p->request.api = api;
    req->body_busy = true;
    tt_work_submit(s, &p->work);
}
