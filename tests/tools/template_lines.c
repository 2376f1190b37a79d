/* template_lines.c - renders chat templates for check_template.py: one JSON object a line in, one a
 * line out. In: {"template": TEXT, "context": {"messages": [...], ...}, "now": SECONDS}. Out:
 * {"text": TEXT, "untrusted": [[from, to],
 * ...]} or {"error": CODE, "message": TEXT, "stage": "create" | "render"}. With --chatml: prints
 * the fallback template. Thread: one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/template_json.h"

static json_t *error_object(const tt_err *err, const char *stage)
{
    json_t *message = json_string(err->msg);
    return json_pack("{s:s, s:o, s:s}", "error", tt_code_text(err->code), "message",
                     message != NULL ? message : json_string("?"), "stage", stage);
}

static json_t *result_object(const tt_rendered *r)
{
    json_t *untrusted = json_array();
    for (size_t i = 0; i < r->n_pieces; i++) {
        if (!r->pieces[i].trusted) {
            json_int_t from = r->pieces[i].p - r->text;
            json_array_append_new(untrusted,
                                  json_pack("[I, I]", from, from + (json_int_t)r->pieces[i].n));
        }
    }
    json_t *text = json_stringn(r->text, r->n);
    return json_pack("{s:o, s:o}", "text", text != NULL ? text : json_string("not UTF-8"),
                     "untrusted", untrusted);
}

static json_t *render_line(const json_t *line)
{
    const json_t *src = json_object_get(line, "template"),
                 *context = json_object_get(line, "context");
    tt_err err = {0};
    tt_template *t = NULL;
    tt_rendered out = {0};
    json_t *kwargs = json_copy((json_t *)context);
    static const char *const own[] = {"messages", "tools", "bos_token", "eos_token",
                                      "add_generation_prompt"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        json_object_del(kwargs, own[i]);
    }
    tt_render_options opt = {
        .messages = json_object_get(context, "messages"),
        .tools = json_object_get(context, "tools"),
        .kwargs = kwargs,
        .add_generation_prompt = json_is_true(json_object_get(context, "add_generation_prompt")),
        .bos_token = json_string_value(json_object_get(context, "bos_token")),
        .eos_token = json_string_value(json_object_get(context, "eos_token")),
        .now = (time_t)json_integer_value(json_object_get(line, "now")),
    };
    json_t *ret;
    if (tt_template_create(json_string_value(src), json_string_length(src), &t, &err) != TT_OK) {
        ret = error_object(&err, "create");
    } else if (tt_template_render(t, &opt, &out, &err) != TT_OK) {
        ret = error_object(&err, "render");
    } else {
        ret = result_object(&out);
        tt_rendered_finish(&out);
    }
    tt_template_destroy(&t);
    json_decref(kwargs);
    return ret;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--chatml") == 0) {
        fputs(tt_template_chatml, stdout);
        return 0;
    }
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) > 0) {
        json_error_t error;
        json_t *in = json_loads(line, JSON_ALLOW_NUL, &error);
        if (in == NULL) {
            fprintf(stderr, "template_lines: %s\n", error.text);
            free(line);
            return 2;
        }
        json_t *out = render_line(in);
        char *text = json_dumps(out, JSON_COMPACT);
        printf("%s\n", text);
        fflush(stdout);
        free(text);
        json_decref(out);
        json_decref(in);
    }
    free(line);
    return 0;
}
