/* api_tokens.c - POST /tokenize, POST /detokenize, GET /tokenizer_info, with the shapes that
 * evaluation harnesses expect. Thread: handlers on the loop thread, the work in a worker. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/api_json.h"
#include "server/api_request.h"
#include "server/prepare.h"
#include "server/server.h"

typedef struct tokens_work {
    tt_work work;
    tt_http_request *http; /* a reference */
    const tt_served *served;
    tt_request_limits limits;
    bool encode;
    tt_buf out;
    tt_http_error error;
} tokens_work;

static void fail(tokens_work *t, const tt_err *err, const char *param)
{
    tt_error_from_code(&t->error, err);
    strncpy(t->error.param, param, sizeof t->error.param - 1);
}

static void encode_messages(tokens_work *t, const json_t *body, int32_t **ids, size_t *n)
{
    bool generation = true;
    tt_err err = {0};
    tt_buf ignored = {0};
    json_t *messages = tt_messages_normalise(tt_json_get(body, "messages"), &ignored, &t->error);
    const json_t *kwargs = tt_json_get(body, "chat_template_kwargs");
    if (messages != NULL && kwargs != NULL && !json_is_object(kwargs)) {
        tt_json_refuse(&t->error, "", "chat_template_kwargs", NULL, "must be an object");
    } else if (messages != NULL &&
               tt_json_get_bool(body, "", "add_generation_prompt", &generation, &t->error)) {
        tt_chat_prompt chat = {
            .messages = messages, .kwargs = kwargs, .add_generation_prompt = generation};
        if (tt_prompt_chat(t->served, &chat, ids, n, &err) < 0) {
            fail(t, &err, "messages");
        }
    }
    json_decref(messages);
    tt_buf_finish(&ignored);
}

static void encode_prompt(tokens_work *t, const json_t *body, int32_t **ids, size_t *n)
{
    bool add_special = true, parse_special = false;
    const json_t *prompt = tt_json_get(body, "prompt");
    tt_err err = {0};
    if (!json_is_string(prompt)) {
        tt_json_refuse(&t->error, "", "prompt", NULL, "is required and must be a string, not %s",
                       tt_json_type_name(prompt));
        return;
    }
    if (!tt_json_get_bool(body, "", "add_special_tokens", &add_special, &t->error) ||
        !tt_json_get_bool(body, "", "parse_special", &parse_special, &t->error)) {
        return;
    }
    if (tt_prompt_text(t->served, json_string_value(prompt), json_string_length(prompt),
                       add_special, parse_special, ids, n, &err) < 0) {
        fail(t, &err, "prompt");
    }
}

static void encode(tokens_work *t, const json_t *body)
{
    int32_t *ids = NULL;
    size_t n = 0;
    if (tt_json_get(body, "messages") != NULL && tt_json_get(body, "prompt") == NULL) {
        encode_messages(t, body, &ids, &n);
    } else {
        encode_prompt(t, body, &ids, &n);
    }
    if (t->error.status == 0) {
        tt_buf_printf(&t->out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", n,
                      (int)t->served->max_context);
        for (size_t i = 0; i < n; i++) {
            tt_buf_printf(&t->out, "%s%d", i > 0 ? "," : "", (int)ids[i]);
        }
        tt_buf_puts(&t->out, "]}");
    }
    free(ids);
}

static void decode(tokens_work *t, const json_t *body)
{
    const json_t *list = tt_json_get(body, "tokens");
    size_t n = json_array_size(list), i;
    json_t *item;
    if (!json_is_array(list)) {
        tt_json_refuse(&t->error, "", "tokens", NULL, "is required: a list of token ids");
        return;
    }
    int32_t *ids = tt_arena_calloc(&t->http->arena, n, sizeof *ids);
    char *text = NULL;
    size_t n_text = 0;
    tt_err err = {.code = TT_E_NOMEM};
    if (ids == NULL) {
        fail(t, &err, "tokens");
        return;
    }
    json_array_foreach((json_t *)list, i, item)
    {
        int64_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id >= t->limits.n_vocab) {
            tt_json_refuse(&t->error, "", "tokens", NULL,
                           "holds token ids, integers from 0 to %d (entry %zu)",
                           (int)t->limits.n_vocab - 1, i);
            return;
        }
        ids[i] = (int32_t)id;
    }
    if (tt_tokenizer_decode(t->served->tokenizer, ids, n, true, &text, &n_text, &err) < 0) {
        fail(t, &err, "tokens");
        return;
    }
    tt_buf_puts(&t->out, "{\"prompt\":");
    tt_buf_put_json(&t->out, text, n_text);
    tt_buf_putc(&t->out, '}');
    free(text);
}

/* In the pool. */
static void run(tt_work *w)
{
    tokens_work *t = (tokens_work *)(void *)w;
    tt_buf *body = &t->http->body;
    bool alias;
    json_t *root =
        tt_json_parse(body->n > 0 ? body->p : "", body->n, t->limits.json_memory, &t->error);
    tt_buf_finish(body); /* its strings are the tree's now */
    if (root != NULL && tt_request_model(root, &t->limits, &alias, &t->error)) {
        if (t->encode) {
            encode(t, root);
        } else {
            decode(t, root);
        }
    }
    json_decref(root);
}

static bool wanted(tt_work *w)
{
    return !((tokens_work *)(void *)w)->http->gone;
}

static void done(tt_work *w)
{
    tokens_work *t = (tokens_work *)(void *)w;
    tt_http_release_body(t->http);
    if (t->error.status != 0) {
        tt_http_reply_error(t->http, &t->error);
    } else {
        tt_http_reply_json(t->http, &t->out);
    }
    tt_buf_finish(&t->out);
    tt_http_unref(t->http);
    free(t);
}

static void start(tt_http_request *req, bool encode_text)
{
    tokens_work *t = calloc(1, sizeof *t);
    if (t == NULL) {
        tt_http_reply_no_memory(req);
        return;
    }
    t->work.wanted = wanted;
    t->work.run = run;
    t->work.done = done;
    t->http = req;
    t->served = req->server->served;
    t->limits = tt_limits_of(req->server->settings, t->served);
    t->encode = encode_text;
    tt_http_ref(req);
    req->body_busy = true;
    tt_work_submit(req->server, &t->work);
}

void tt_api_tokenize(tt_http_request *req)
{
    start(req, true);
}

void tt_api_detokenize(tt_http_request *req)
{
    start(req, false);
}

static void put_token(tt_buf *b, const tt_served *sv, const char *name, int32_t id)
{
    size_t n = 0;
    const char *piece = id >= 0 ? tt_tokenizer_piece(sv->tokenizer, id, true, &n) : NULL;
    tt_buf_printf(b, ",\"%s_token\":", name);
    if (piece != NULL) {
        tt_buf_put_json(b, piece, n);
        tt_buf_printf(b, ",\"%s_token_id\":%d", name, (int)id);
    } else {
        tt_buf_printf(b, "null,\"%s_token_id\":null", name);
    }
}

void tt_api_tokenizer_info(tt_http_request *req)
{
    const tt_served *sv = req->server->served;
    const tt_vocab *v = tt_tokenizer_vocab(sv->tokenizer);
    static const char *const kinds[] = {[TT_VOCAB_BPE] = "BPE",
                                        [TT_VOCAB_SPM] = "SentencePieceBPE",
                                        [TT_VOCAB_UNIGRAM] = "SentencePieceUnigram"};
    tt_buf b = {0};
    tt_buf_printf(&b, "{\"tokenizer_class\":\"%s\",\"name_or_path\":", kinds[v->kind]);
    tt_buf_puts_json(&b, sv->name);
    tt_buf_printf(&b, ",\"vocab_size\":%d,\"model_max_length\":%d", (int)v->n_tokens,
                  (int)sv->max_context);
    put_token(&b, sv, "bos", v->bos);
    put_token(&b, sv, "eos", v->eos);
    put_token(&b, sv, "unk", v->unk);
    put_token(&b, sv, "pad", v->pad);
    tt_buf_printf(&b, ",\"add_bos_token\":%s,\"add_eos_token\":%s,\"chat_template\":",
                  v->add_bos ? "true" : "false", v->add_eos ? "true" : "false");
    if (sv->template_fallback) {
        tt_buf_puts_json(&b, tt_template_chatml);
    } else {
        tt_buf_put_json(&b, sv->model->chat_template.p, sv->model->chat_template.n);
    }
    tt_buf_putc(&b, '}');
    tt_http_reply_json(req, &b);
}
