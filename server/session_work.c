/* session_work.c - see session_work.h. */
#include "server/session_work.h"

#include <stdlib.h>
#include <string.h>

#include "server/api_json.h"
#include "server/metadata.h"
#include "server/prepare.h"
#include "server/server.h"

/* What a longer prompt may tokenise differently at the end of a context: a token that merges with
 * what follows. A context that differs in more is kept as it is. */
enum { MAX_LOOSE_END = 8 };

tt_session_work *tt_session_work_create(tt_http_request *req,
                                        void (*finish)(struct tt_session_work *w))
{
    tt_session_work *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return NULL;
    }
    w->http = req;
    tt_http_ref(req);
    w->served = req->server->served;
    w->limits = tt_limits_of(req->server->settings, w->served);
    w->finish = finish;
    w->ttl_seconds = -1;
    return w;
}

void tt_session_work_destroy(tt_session_work **work)
{
    tt_session_work *w = *work;
    if (w == NULL) {
        return;
    }
    *work = NULL;
    tt_session_unref(&w->record);
    tt_session_text_unref(&w->old);
    tt_session_text_unref(&w->text);
    json_decref(w->messages);
    json_decref(w->body);
    free(w->ids);
    tt_buf_finish(&w->metadata);
    tt_buf_finish(&w->ignored);
    tt_http_unref(w->http);
    free(w);
}

/* ---- reading the body ---- */

bool tt_session_check_names(const json_t *body, const char *const *known, bool strict,
                            tt_buf *ignored, tt_http_error *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)body, key, v)
    {
        const char *const *k = known;
        while (*k != NULL && strcmp(*k, key) != 0) {
            k++;
        }
        if (*k == NULL && strict) {
            return tt_json_refuse(e, "", key, "unsupported_parameter",
                                  "is not a parameter of this server");
        }
        if (*k == NULL) {
            tt_ignored_add(ignored, "", key);
        }
    }
    return true;
}

bool tt_session_read_common(const json_t *body, tt_buf *metadata, double *ttl, tt_http_error *e)
{
    if (tt_json_get(body, "metadata") != NULL &&
        !tt_metadata_parse(tt_json_get(body, "metadata"), metadata, e)) {
        return false;
    }
    return tt_json_get_number(body, "", "ttl_seconds", 0, 1e8, ttl, e);
}

static bool read_qttt(tt_session_work *w)
{
    bool alias;
    tt_http_error *e = &w->error;
    if (!tt_request_model(w->body, &w->limits, &alias, e) ||
        !tt_qttt_parse(json_object_get(w->body, "qttt"), alias, &w->limits.caps, w->limits.n_layers,
                       &w->qttt, &w->ignored, e)) {
        return false;
    }
    w->alias = alias;
    w->have_qttt = alias || tt_json_get(w->body, "qttt") != NULL;
    if (w->qttt.generation > 0) {
        return tt_json_refuse(e, "qttt.", "generation", NULL, "is %lld; a new session has only 0",
                              (long long)w->qttt.generation);
    }
    if (w->qttt.context != TT_CONTEXT_RULE) {
        return tt_json_refuse(e, "qttt.", "context", NULL,
                              "cannot be chosen here: all of the messages are the session's");
    }
    return true;
}

static bool read_messages(tt_session_work *w)
{
    const json_t *v = tt_json_get(w->body, "messages");
    const json_t *kwargs = tt_json_get(w->body, "chat_template_kwargs");
    if (kwargs != NULL && !json_is_object(kwargs)) {
        return tt_json_refuse(&w->error, "", "chat_template_kwargs", NULL,
                              "must be an object, not %s", tt_json_type_name(kwargs));
    }
    w->messages = tt_messages_normalise(v, &w->ignored, &w->error);
    return w->messages != NULL;
}

/* ---- tokens ---- */

static void fail(tt_session_work *w, const tt_err *err, const char *param)
{
    tt_error_from_code(&w->error, err);
    strncpy(w->error.param, param, sizeof w->error.param - 1);
}

/* Without the tokens at the end that another message behind them changes. */
static size_t firm_tokens(const tt_session_work *w, const tt_chat_prompt *chat)
{
    const json_t *last = json_array_get(w->messages, json_array_size(w->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    bool after_user = role != NULL && strcmp(role, "user") == 0;
    json_t *longer = json_copy(w->messages);
    json_t *message =
        json_pack("{s:s, s:s}", "role", after_user ? "assistant" : "user", "content", "1");
    int64_t same = -1;
    if (longer != NULL && json_array_append(longer, message) == 0) {
        tt_chat_prompt probe = {.messages = longer, .kwargs = chat->kwargs};
        same = tt_prompt_common(w->served, &probe, w->ids, w->n_ids);
    }
    json_decref(message);
    json_decref(longer);
    return same > 0 && (int64_t)w->n_ids - same <= MAX_LOOSE_END ? (size_t)same : w->n_ids;
}

static void tokenise_messages(tt_session_work *w)
{
    tt_chat_prompt chat = {.messages = w->messages,
                           .kwargs = tt_json_get(w->body, "chat_template_kwargs")};
    tt_rendered text = {0};
    tt_err err = {0};
    if (chat.kwargs == NULL && w->old != NULL) {
        chat.kwargs = tt_session_text_kwargs(w->old);
    }
    if (tt_prompt_render(w->served, &chat, &text, &err) < 0) {
        fail(w, &err, "messages");
        return;
    }
    tt_code rc = tt_prompt_tokens(w->served, text.pieces, text.n_pieces, &w->ids, &w->n_ids, &err);
    if (rc == TT_OK) {
        w->n_context = firm_tokens(w, &chat);
        rc = tt_session_text_create(&(tt_session_text_options){.messages = w->messages,
                                                               .kwargs = chat.kwargs,
                                                               .text = text.text,
                                                               .n = text.n,
                                                               .ids = w->ids,
                                                               .n_ids = (int32_t)w->n_ids,
                                                               .tokenizer = w->served->tokenizer},
                                    &w->text, &err);
    }
    tt_rendered_finish(&text);
    if (rc < 0) {
        fail(w, &err, "messages");
    }
}

static void tokenise_prompt(tt_session_work *w)
{
    const json_t *v = tt_json_get(w->body, "prompt"), *item;
    bool add_special = true;
    tt_err err = {.code = TT_E_NOMEM};
    if (!tt_json_get_bool(w->body, "", "add_special_tokens", &add_special, &w->error)) {
        return;
    }
    if (json_is_string(v)) {
        const char *text = json_string_value(v);
        size_t n = json_string_length(v);
        if (tt_prompt_may_fit(w->served, n, &err) < 0 ||
            tt_prompt_text(w->served, text, n, add_special, false, &w->ids, &w->n_ids, &err) < 0) {
            fail(w, &err, "prompt");
        }
        w->n_context = w->n_ids;
        return;
    }
    size_t n = json_array_size(v);
    w->ids = malloc((n + 1) * sizeof *w->ids);
    if (w->ids == NULL) {
        fail(w, &err, "prompt");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        item = json_array_get(v, i);
        int64_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id >= w->limits.n_vocab) {
            tt_json_refuse(&w->error, "", "prompt", NULL,
                           "must be a string or a list of token ids, integers from 0 to %d (entry "
                           "%zu)",
                           (int)w->limits.n_vocab - 1, i);
            return;
        }
        w->ids[i] = (int32_t)id;
    }
    w->n_ids = w->n_context = n;
}

static void check_length(tt_session_work *w, const char *param)
{
    if (w->n_ids == 0) {
        tt_json_refuse(&w->error, "", param, NULL, "is empty");
    } else if (w->n_ids >= (size_t)w->served->max_context) {
        tt_error_set(&w->error, 400, param, "context_length_exceeded",
                     "this model's context is %d tokens; the session's would be %zu",
                     (int)w->served->max_context, w->n_ids);
    }
}

static void make_new(tt_session_work *w)
{
    static const char *const known[] = {"model",       "messages", "prompt", "chat_template_kwargs",
                                        "ttl_seconds", "metadata", "qttt",   "add_special_tokens",
                                        NULL};
    const json_t *prompt = tt_json_get(w->body, "prompt");
    bool messages = tt_json_get(w->body, "messages") != NULL;
    if (!tt_session_check_names(w->body, known, w->limits.strict, &w->ignored, &w->error) ||
        !read_qttt(w) ||
        !tt_session_read_common(w->body, &w->metadata, &w->ttl_seconds, &w->error)) {
        return;
    }
    if (messages == (prompt != NULL) ||
        (prompt != NULL && !json_is_string(prompt) && !json_is_array(prompt))) {
        tt_json_refuse(&w->error, "", prompt != NULL ? "prompt" : "messages", NULL,
                       "is required: either messages, or prompt as a string or token ids");
    } else if (prompt != NULL) {
        tokenise_prompt(w);
    } else if (read_messages(w)) {
        tokenise_messages(w);
    }
    if (w->error.status == 0) {
        check_length(w, messages ? "messages" : "prompt");
    }
}

static void make_extended(tt_session_work *w)
{
    static const char *const known[] = {"model", "messages", "chat_template_kwargs", NULL};
    bool alias;
    if (!tt_session_check_names(w->body, known, w->limits.strict, &w->ignored, &w->error) ||
        !tt_request_model(w->body, &w->limits, &alias, &w->error) || !read_messages(w)) {
        return;
    }
    json_t *all = json_copy((json_t *)tt_session_text_messages(w->old));
    if (all == NULL || json_array_extend(all, w->messages) != 0) {
        json_decref(all);
        fail(w, &(tt_err){.code = TT_E_NOMEM}, "messages");
        return;
    }
    json_decref(w->messages);
    w->messages = all;
    tokenise_messages(w);
    if (w->error.status == 0) {
        check_length(w, "messages");
    }
}

/* ---- the worker ---- */

static void run(tt_work *work)
{
    tt_session_work *w = (tt_session_work *)(void *)work;
    const tt_buf *b = &w->http->body;
    w->body = tt_json_parse(b->n > 0 ? b->p : "", b->n, w->limits.json_memory, &w->error);
    if (w->body == NULL) {
        return;
    }
    if (w->record != NULL) {
        make_extended(w);
    } else {
        make_new(w);
    }
}

static bool wanted(tt_work *work)
{
    return !((tt_session_work *)(void *)work)->http->gone;
}

static void done(tt_work *work)
{
    tt_session_work *w = (tt_session_work *)(void *)work;
    tt_http_release_body(w->http);
    if (w->ignored.n > 0 && !w->ignored.failed) {
        tt_buf_putc(&w->ignored, '\0');
        if (!w->ignored.failed) {
            tt_http_header(w->http, "X-Qttt-Ignored-Params", w->ignored.p);
        }
    }
    w->finish(w);
    tt_session_work_destroy(&w);
}

void tt_session_work_submit(tt_session_work *w)
{
    w->work.wanted = wanted;
    w->work.run = run;
    w->work.done = done;
    w->http->body_busy = true;
    tt_work_submit(w->http->server, &w->work);
}
