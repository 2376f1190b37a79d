/* api_messages.c - the messages of a chat request, checked and brought to the one form that
 * templates get. */
#include <stdio.h>
#include <string.h>

#include "server/api_json.h"
#include "server/api_request.h"

static json_t *out_of_memory(tt_http_error *e)
{
    tt_err err = {.code = TT_E_NOMEM};
    tt_error_from_code(e, &err);
    return NULL;
}

static const char *check_role(const json_t *message, const char *prefix, tt_http_error *e)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant",
                                        "tool",   "function",  NULL};
    int role = -1;
    if (!tt_json_get_choice(message, prefix, "role", roles, &role, e)) {
        return NULL;
    }
    if (role < 0) {
        tt_json_refuse(e, prefix, "role", NULL, "is required");
        return NULL;
    }
    if (role >= 4) {
        tt_json_refuse(e, prefix, "role", "unsupported_parameter", "\"%s\" is not supported",
                       roles[role]);
        return NULL;
    }
    return role == 1 ? roles[0] : roles[role];
}

/* The text of a list of parts, joined by line feeds. New reference. */
static json_t *join_parts(const json_t *parts, const char *prefix, tt_http_error *e)
{
    size_t i;
    json_t *part;
    tt_buf b;
    char path[96];
    tt_buf_init(&b, 0);
    json_array_foreach((json_t *)parts, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        snprintf(path, sizeof path, "%scontent[%zu].", prefix, i);
        if (type == NULL) {
            tt_json_refuse(e, path, "type", NULL, "is required and must be a string");
            goto fail;
        }
        if (strcmp(type, "text") != 0) {
            tt_json_refuse(e, path, "type", "unsupported_parameter",
                           "\"%.40s\" is not supported, only \"text\"", type);
            goto fail;
        }
        if (!json_is_string(text)) {
            tt_json_refuse(e, path, "text", NULL, "must be a string, not %s",
                           tt_json_type_name(text));
            goto fail;
        }
        if (i > 0) {
            tt_buf_putc(&b, '\n');
        }
        tt_buf_put(&b, json_string_value(text), json_string_length(text));
    }
    json_t *s = b.failed ? NULL : json_stringn(b.n > 0 ? b.p : "", b.n);
    tt_buf_finish(&b);
    return s != NULL ? s : out_of_memory(e);
fail:
    tt_buf_finish(&b);
    return NULL;
}

static json_t *check_content(const json_t *message, const char *prefix, const char *role,
                             tt_http_error *e)
{
    json_t *content = (json_t *)tt_json_get(message, "content");
    if (content == NULL && strcmp(role, "assistant") == 0) {
        json_t *empty = json_string("");
        return empty != NULL ? empty : out_of_memory(e);
    }
    if (json_is_string(content)) {
        return json_incref(content);
    }
    if (json_is_array(content)) {
        return join_parts(content, prefix, e);
    }
    tt_json_refuse(e, prefix, "content", NULL, "must be a string or a list of text parts, not %s",
                   tt_json_type_name(content));
    return NULL;
}

/* Keys besides role and content: refused, passed to the template, inert, or reported. */
static bool check_keys(const json_t *message, const char *prefix, json_t *out, tt_buf *ignored,
                       tt_http_error *e)
{
    static const char *const refused[] = {"tool_calls", "tool_call_id", "function_call", "audio",
                                          "prefix"};
    static const char *const passed[] = {"name", "reasoning_content"};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)message, key, v)
    {
        bool known = strcmp(key, "role") == 0 || strcmp(key, "content") == 0 ||
                     strcmp(key, "refusal") == 0 || strcmp(key, "annotations") == 0;
        bool empty =
            json_is_null(v) || json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0);
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
            if (strcmp(key, refused[i]) == 0) {
                known = true;
                if (!empty) {
                    return tt_json_refuse(e, prefix, key, "unsupported_parameter",
                                          "is not supported by this server");
                }
            }
        }
        for (size_t i = 0; i < sizeof passed / sizeof *passed; i++) {
            if (strcmp(key, passed[i]) == 0) {
                known = true;
                if (!empty && !json_is_string(v)) {
                    return tt_json_refuse(e, prefix, key, NULL, "must be a string, not %s",
                                          tt_json_type_name(v));
                }
                if (!empty && json_object_set(out, key, v) != 0) {
                    out_of_memory(e);
                    return false;
                }
            }
        }
        if (!known) {
            tt_ignored_add(ignored, "messages.", key);
        }
    }
    return true;
}

static json_t *normalise_one(const json_t *message, size_t i, tt_buf *ignored, tt_http_error *e)
{
    char prefix[40];
    snprintf(prefix, sizeof prefix, "messages[%zu].", i);
    if (!json_is_object(message)) {
        prefix[strlen(prefix) - 1] = '\0';
        tt_json_refuse(e, prefix, "", NULL, "must be an object, not %s",
                       tt_json_type_name(message));
        return NULL;
    }
    const char *role = check_role(message, prefix, e);
    json_t *content = role != NULL ? check_content(message, prefix, role, e) : NULL;
    if (content == NULL) {
        return NULL;
    }
    json_t *out = json_pack("{s:s, s:o}", "role", role, "content", content);
    if (out == NULL) {
        return out_of_memory(e);
    }
    if (!check_keys(message, prefix, out, ignored, e)) {
        json_decref(out);
        return NULL;
    }
    return out;
}

json_t *tt_messages_normalise(const json_t *messages, tt_buf *ignored, tt_http_error *e)
{
    size_t i;
    json_t *message;
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        tt_json_refuse(e, "", "messages", NULL, "is required: a list of at least one message");
        return NULL;
    }
    json_t *list = json_array();
    if (list == NULL) {
        return out_of_memory(e);
    }
    json_array_foreach((json_t *)messages, i, message)
    {
        json_t *one = normalise_one(message, i, ignored, e);
        if (one == NULL) {
            json_decref(list);
            return NULL;
        }
        if (json_array_append_new(list, one) != 0) {
            json_decref(list);
            return out_of_memory(e);
        }
    }
    return list;
}
