/* prepare.c - see prepare.h. */
#include "server/prepare.h"

#include <stdlib.h>
#include <string.h>

#include "server/api_json.h"
#include "server/generation.h"
#include "server/server.h"
#include "server/session_setup.h"
#include "server/session_turn.h"

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
    tt_session_turn_destroy(&p->turn);
    tt_rendered_finish(&p->rendered);
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
    if (p->request.qttt.params.mode == TT_QTTT_OFF && !p->want_context) {
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
    tt_code rc = tt_prompt_render(p->served, &chat, &p->rendered, err);
    if (rc == TT_OK) {
        rc = tt_prompt_tokens(p->served, p->rendered.pieces, p->rendered.n_pieces, &pr->ids,
                              &pr->n_ids, err);
    }
    return rc < 0 ? rc : find_context(p, &chat, pr, err);
}

/* The session's messages and the new ones are the request's from now on. */
static tt_code tokenise_append(tt_prepared *p, tt_prepared_prompt *pr, tt_err *err)
{
    const tt_session_text *old = tt_session_turn_old(p->turn);
    json_t *all = json_copy((json_t *)tt_session_text_messages(old));
    if (all == NULL || json_array_extend(all, p->request.messages) != 0) {
        json_decref(all);
        return tt_fail(err, TT_E_NOMEM, "out of memory");
    }
    json_decref(p->request.messages);
    p->request.messages = all;
    tt_chat_prompt chat = {.messages = all,
                           .kwargs = p->request.template_kwargs != NULL
                                         ? p->request.template_kwargs
                                         : tt_session_text_kwargs(old),
                           .add_generation_prompt = p->request.add_generation_prompt};
    tt_code rc = tt_prompt_render(p->served, &chat, &p->rendered, err);
    return rc < 0 ? rc
                  : tt_session_text_splice(old, p->served, &p->rendered, &pr->ids, &pr->n_ids,
                                           &p->n_kept, err);
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

static void tokenise(tt_prepared *p, int32_t i)
{
    tt_err err = {0};
    tt_prepared_prompt *pr = &p->prompts[i];
    tt_code rc = p->turn != NULL                 ? tokenise_append(p, pr, &err)
                 : p->request.api == TT_API_CHAT ? tokenise_chat(p, pr, &err)
                                                 : tokenise_text(p, i, pr, &err);
    if (rc < 0) {
        tt_error_from_code(&p->error, &err);
        const char *param = p->bad_context ? "qttt.context" : prompt_param(p);
        strncpy(p->error.param, param, sizeof p->error.param - 1);
    } else {
        check_length(p, pr);
    }
}

/* In the pool. The prompt of an append depends on the session: the loop thread decides first. */
static void run(tt_work *w)
{
    tt_prepared *p = (tt_prepared *)(void *)w;
    tt_http_request *req = p->http;
    if (!tt_request_parse(req->body.n > 0 ? req->body.p : "", req->body.n, p->request.api,
                          &p->limits, &req->arena, &p->request, &p->error)) {
        return;
    }
    if (!p->request.append) {      /* an append's is compared with that of its Idempotency-Key */
        tt_buf_finish(&req->body); /* its strings are the tree's now; what follows takes memory */
    }
    p->prompts = tt_arena_calloc(&req->arena, (size_t)p->request.n_prompts, sizeof *p->prompts);
    if (p->prompts == NULL) {
        tt_err err = {.code = TT_E_NOMEM};
        tt_error_from_code(&p->error, &err);
        return;
    }
    for (int32_t i = 0; !p->request.append && i < p->request.n_prompts && p->error.status == 0;
         i++) {
        tokenise(p, i);
    }
}

/* In the pool. */
static void run_append(tt_work *w)
{
    tokenise((tt_prepared *)(void *)w, 0);
}

static bool wanted(tt_work *w)
{
    return !((tt_prepared *)(void *)w)->http->gone;
}

void tt_prepare_go_on(tt_prepared *p, tt_turn_next next)
{
    switch (next) {
    case TT_TURN_GO:
        tt_generation_start(p);
        break;
    case TT_TURN_LATER:
        break;
    case TT_TURN_REFUSED:
        tt_http_reply_error(p->http, &p->error);
        tt_prepared_destroy(&p);
        break;
    case TT_TURN_ANSWERED:
        tt_prepared_destroy(&p);
        break;
    }
}

static void done_append(tt_work *w)
{
    tt_prepared *p = (tt_prepared *)(void *)w;
    if (p->http->gone) {
        tt_prepared_destroy(&p);
    } else {
        tt_prepare_go_on(p, p->error.status != 0 ? TT_TURN_REFUSED : tt_session_turn_plan(p));
    }
}

void tt_prepare_append(tt_prepared *p)
{
    p->work.wanted = wanted;
    p->work.run = run_append;
    p->work.done = done_append;
    tt_work_submit(p->http->server, &p->work);
}

static void done(tt_work *w)
{
    tt_prepared *p = (tt_prepared *)(void *)w;
    tt_http_request *req = p->http;
    if (p->request.ignored.n > 0 && !p->request.ignored.failed) {
        tt_buf_putc(&p->request.ignored, '\0');
        if (!p->request.ignored.failed) {
            tt_http_header(req, "X-Qttt-Ignored-Params", p->request.ignored.p);
        }
    }
    if (req->gone) {
        tt_http_release_body(req);
        tt_prepared_destroy(&p);
        return;
    }
    tt_turn_next next = p->error.status != 0 ? TT_TURN_REFUSED : tt_session_turn_begin(p);
    tt_http_release_body(req);
    tt_prepare_go_on(p, next);
}

/* What the headers say of a session, and whether a chat will need the context rule for it. */
static void read_session(tt_prepared *p)
{
    tt_server *s = p->http->server;
    const char *header = tt_sessions_header(p->http);
    char id[TT_SESSION_ID_BYTES] = "ses_";
    if (header == NULL) {
        return;
    }
    tt_session_key(header, p->session_key);
    strcat(id, p->session_key);
    p->want_context = p->request.api == TT_API_CHAT && s->settings->sessions_implicit &&
                      tt_session_store_find(s->sessions, p->http->scope, id) == NULL;
}

void tt_prepare_start(tt_http_request *req, tt_api api)
{
    tt_server *s = req->server;
    tt_prepared *p = calloc(1, sizeof *p);
    if (p == NULL) {
        tt_http_reply_no_memory(req);
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
    read_session(p);
    req->body_busy = true;
    tt_work_submit(s, &p->work);
}
