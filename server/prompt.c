/* prompt.c - see prompt.h. */
#include "server/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The rule's numbers (docs/api.md): a shared prefix shorter than this is no context; the tail that
 * is never adapted to. */
enum { MIN_CONTEXT_TOKENS = 512, TAIL_TOKENS = 256, MAX_RENDERED_BYTES = 64 << 20 };

static void copy_text(char *out, size_t cap, tt_str s)
{
    snprintf(out, cap, "%.*s", s.p != NULL ? (int)s.n : 0, s.p != NULL ? s.p : "");
}

static size_t longest_token(const tt_vocab *v)
{
    size_t n = 1;
    for (int32_t i = 0; i < v->n_tokens; i++) {
        n = v->tokens[i].n > n ? v->tokens[i].n : n;
    }
    return n;
}

/* The factor 4 leaves room for normalisation, which may shorten text. */
tt_code tt_prompt_may_fit(const tt_served *sv, size_t n_bytes, tt_err *reterr)
{
    size_t at_least = n_bytes / sv->longest_token;
    if (at_least / 4 <= (size_t)sv->max_context) {
        return TT_OK;
    }
    return tt_fail(
        reterr, TT_E_CONTEXT_LENGTH,
        "this model's context is %d tokens; the prompt's %zu bytes are at least %zu tokens",
        (int)sv->max_context, n_bytes, at_least / 4);
}

static tt_code compile_template(tt_served *sv, tt_err *reterr)
{
    tt_str src = sv->model->chat_template;
    tt_err why = {0};
    if (src.p == NULL || src.n == 0) {
        snprintf(sv->template_report, sizeof sv->template_report,
                 "the model has no chat template: ChatML is used");
    } else if (tt_template_create(src.p, src.n, &sv->chat_template, &why) == TT_OK) {
        return TT_OK;
    } else {
        snprintf(sv->template_report, sizeof sv->template_report,
                 "the chat template is not used, ChatML instead: %.190s", why.msg);
    }
    sv->template_fallback = true;
    return tt_template_create(tt_template_chatml, strlen(tt_template_chatml), &sv->chat_template,
                              reterr);
}

tt_code tt_served_create(tt_engine *engine, const char *model_name, bool with_alias,
                         tt_served **ret_served, tt_err *reterr)
{
    tt_served *sv = calloc(1, sizeof *sv);
    if (sv == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    sv->model = tt_engine_model(engine);
    sv->tokenizer = tt_engine_tokenizer(engine);
    sv->max_context = tt_engine_max_context(engine);
    sv->created = (int64_t)time(NULL);
    sv->longest_token = longest_token(tt_tokenizer_vocab(sv->tokenizer));
    const char *name = model_name[0] != '\0' ? model_name : sv->model->name;
    snprintf(sv->name, sizeof sv->name, "%s", name[0] != '\0' ? name : "model");
    if (with_alias) {
        snprintf(sv->alias, sizeof sv->alias, "%s-qttt", sv->name);
    }
    copy_text(sv->bos, sizeof sv->bos, sv->model->bos_text);
    copy_text(sv->eos, sizeof sv->eos, sv->model->eos_text);
    tt_code rc = compile_template(sv, reterr);
    if (rc < 0) {
        tt_served_destroy(&sv);
        return rc;
    }
    *ret_served = sv;
    return TT_OK;
}

void tt_served_destroy(tt_served **served)
{
    if (*served != NULL) {
        tt_template_destroy(&(*served)->chat_template);
        free(*served);
        *served = NULL;
    }
}

/* Puts BOS in front of *ids where the model wants one and there is none yet. Never EOS at the end:
 * a prompt goes on. */
static tt_code add_bos(const tt_served *sv, int32_t **ids, size_t *n, tt_err *reterr)
{
    const tt_vocab *v = tt_tokenizer_vocab(sv->tokenizer);
    if (!v->add_bos || v->bos < 0 || (*n > 0 && (*ids)[0] == v->bos)) {
        return TT_OK;
    }
    int32_t *more = realloc(*ids, (*n + 1) * sizeof **ids);
    if (more == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    memmove(more + 1, more, *n * sizeof *more);
    more[0] = v->bos;
    *ids = more;
    ++*n;
    return TT_OK;
}

tt_code tt_prompt_render(const tt_served *sv, const tt_chat_prompt *p, tt_rendered *ret,
                         tt_err *reterr)
{
    tt_rendered text = {0};
    tt_render_options opt = {.messages = p->messages,
                             .kwargs = p->kwargs,
                             .add_generation_prompt = p->add_generation_prompt,
                             .bos_token = sv->bos,
                             .eos_token = sv->eos,
                             .now = time(NULL),
                             .max_output_bytes = MAX_RENDERED_BYTES};
    tt_code rc = tt_template_render(sv->chat_template, &opt, &text, reterr);
    if (rc < 0) {
        return rc;
    }
    rc = tt_prompt_may_fit(sv, text.n, reterr);
    if (rc < 0) {
        tt_rendered_finish(&text);
        return rc;
    }
    for (size_t i = 0; sv->parse_special && i < text.n_pieces; i++) {
        text.pieces[i].trusted = true;
    }
    *ret = text;
    return TT_OK;
}

tt_code tt_prompt_tokens(const tt_served *sv, const tt_text_piece *pieces, size_t n_pieces,
                         int32_t **ret_ids, size_t *ret_n, tt_err *reterr)
{
    int32_t *ids = NULL;
    size_t n = 0;
    tt_code rc =
        tt_tokenizer_encode_pieces(sv->tokenizer, pieces, n_pieces, false, &ids, &n, reterr);
    if (rc == TT_OK) {
        rc = add_bos(sv, &ids, &n, reterr);
    }
    if (rc < 0) {
        free(ids);
        return rc;
    }
    *ret_ids = ids;
    *ret_n = n;
    return TT_OK;
}

tt_code tt_prompt_more_tokens(const tt_served *sv, int32_t before, const tt_text_piece *pieces,
                              size_t n_pieces, int32_t **ret_ids, size_t *ret_n, tt_err *reterr)
{
    return tt_tokenizer_encode_more(sv->tokenizer, before, pieces, n_pieces, ret_ids, ret_n,
                                    reterr);
}

tt_code tt_prompt_chat(const tt_served *sv, const tt_chat_prompt *p, int32_t **ret_ids,
                       size_t *ret_n, tt_err *reterr)
{
    tt_rendered text = {0};
    tt_code rc = tt_prompt_render(sv, p, &text, reterr);
    if (rc == TT_OK) {
        rc = tt_prompt_tokens(sv, text.pieces, text.n_pieces, ret_ids, ret_n, reterr);
        tt_rendered_finish(&text);
    }
    return rc;
}

tt_code tt_prompt_text(const tt_served *sv, const char *text, size_t n, bool add_special,
                       bool parse_special, int32_t **ret_ids, size_t *ret_n, tt_err *reterr)
{
    tt_encode_options opt = {.parse_special = parse_special || sv->parse_special};
    int32_t *ids = NULL;
    size_t k = 0;
    tt_code rc = tt_tokenizer_encode(sv->tokenizer, text, n, &opt, &ids, &k, reterr);
    if (rc == TT_OK && add_special) {
        rc = add_bos(sv, &ids, &k, reterr);
    }
    if (rc < 0) {
        free(ids);
        return rc;
    }
    *ret_ids = ids;
    *ret_n = k;
    return TT_OK;
}

static json_t *first_messages(const json_t *messages, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; list != NULL && i < n; i++) {
        if (json_array_append(list, json_array_get(messages, i)) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

int64_t tt_prompt_common(const tt_served *sv, const tt_chat_prompt *chat, const int32_t *ids,
                         size_t n)
{
    int32_t *other = NULL;
    size_t n_other = 0, same = 0;
    tt_err err;
    if (json_array_size(chat->messages) == 0) {
        return 0;
    }
    tt_code rc = tt_prompt_chat(sv, chat, &other, &n_other, &err);
    if (rc == TT_E_NOMEM) {
        return rc;
    }
    while (rc == TT_OK && same < n && same < n_other && ids[same] == other[same]) {
        same++;
    }
    free(other);
    return (int64_t)same;
}

/* What the first messages alone and the whole prompt have in common. */
static int64_t common_prefix(const tt_served *sv, const tt_chat_prompt *chat, size_t n_messages,
                             const int32_t *ids, size_t n)
{
    json_t *list = first_messages(chat->messages, n_messages);
    if (list == NULL) {
        return TT_E_NOMEM;
    }
    tt_chat_prompt part = {.messages = list, .kwargs = chat->kwargs};
    int64_t same = tt_prompt_common(sv, &part, ids, n);
    json_decref(list);
    return same;
}

static size_t before_last_user(const json_t *messages)
{
    for (size_t i = json_array_size(messages); i > 0; i--) {
        const char *role =
            json_string_value(json_object_get(json_array_get(messages, i - 1), "role"));
        if (role != NULL && strcmp(role, "user") == 0) {
            return i - 1;
        }
    }
    return 0;
}

tt_code tt_prompt_context(const tt_served *sv, const tt_chat_prompt *chat, const int32_t *ids,
                          size_t n, const tt_qttt_request *q, int32_t *ret_tokens, tt_err *reterr)
{
    int64_t tokens = 0;
    if (q->context == TT_CONTEXT_TOKENS) {
        if (q->context_n > (int64_t)n) {
            return tt_fail(reterr, TT_E_INVALID,
                           "qttt.context.tokens is %lld; the prompt has %zu tokens",
                           (long long)q->context_n, n);
        }
        tokens = q->context_n;
    } else if (q->context == TT_CONTEXT_MESSAGES) {
        size_t have = chat != NULL ? json_array_size(chat->messages) : 0;
        if (q->context_n > (int64_t)have) {
            return tt_fail(reterr, TT_E_INVALID,
                           "qttt.context.messages is %lld; the request has %zu messages",
                           (long long)q->context_n, have);
        }
        tokens = common_prefix(sv, chat, (size_t)q->context_n, ids, n);
    } else {
        tt_qttt_params resolved = q->params;
        tt_qttt_resolve(&resolved);
        int64_t least = resolved.span_tokens * 2;
        least = least > MIN_CONTEXT_TOKENS ? least : MIN_CONTEXT_TOKENS;
        tokens =
            chat != NULL ? common_prefix(sv, chat, before_last_user(chat->messages), ids, n) : 0;
        if (tokens >= 0 && tokens < least) {
            tokens = n > TAIL_TOKENS ? (int64_t)n - TAIL_TOKENS : 0;
        }
    }
    if (tokens < 0) {
        return tt_fail(reterr, (tt_code)tokens, "out of memory");
    }
    *ret_tokens = (int32_t)tokens;
    return TT_OK;
}
