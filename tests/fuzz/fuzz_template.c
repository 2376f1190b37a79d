/* fuzz_template.c - a chat template and the variables it is rendered with. Input: the template, a
 * NUL, a JSON object
 * {"messages": [...], "tools": ..., ...} (without it, or when it is broken, one question is
 * rendered). Thread: main. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/template_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *context_of(const char *text, size_t n)
{
    json_error_t error;
    json_t *j = n == 0 ? NULL : json_loadb(text, n, JSON_ALLOW_NUL, &error);
    if (!json_is_object(j)) {
        json_decref(j);
        j = json_object();
    }
    if (!json_is_array(json_object_get(j, "messages"))) {
        json_object_set_new(j, "messages",
                            json_pack("[{s:s, s:s}]", "role", "user", "content", "Hi <|x|>"));
    }
    return j;
}

/* Pieces cover the text in order; the text ends with a NUL. */
static void check(const tt_rendered *r)
{
    const char *at = r->text;
    for (size_t i = 0; i < r->n_pieces; i++) {
        assert(r->pieces[i].p == at && r->pieces[i].n != 0);
        assert(i == 0 || r->pieces[i].trusted != r->pieces[i - 1].trusted);
        at += r->pieces[i].n;
    }
    assert(at == r->text + r->n && *at == '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *src = (const char *)data;
    const char *end = size == 0 ? NULL : memchr(src, '\0', size);
    size_t n = end == NULL ? size : (size_t)(end - src);
    tt_err err = {0};
    tt_template *t = NULL;
    if (tt_template_create(src, n, &t, &err) != TT_OK) {
        assert(err.code < 0 && err.msg[0] != '\0' && t == NULL);
        return 0;
    }
    json_t *context = end == NULL ? context_of(NULL, 0) : context_of(end + 1, size - n - 1);
    const json_t *tools = json_object_get(context, "tools");
    /* Small bounds, so that an input costs milliseconds. */
    tt_render_options opt = {.messages = json_object_get(context, "messages"),
                             .tools = json_is_array(tools) ? tools : NULL,
                             .kwargs = context,
                             .bos_token = "<s>",
                             .eos_token = NULL,
                             .add_generation_prompt = true,
                             .now = 1000000000,
                             .max_steps = 50000,
                             .max_output_bytes = 256 * 1024};
    tt_rendered out = {0};
    if (tt_template_render(t, &opt, &out, &err) == TT_OK) {
        check(&out);
        tt_rendered_finish(&out);
    } else {
        assert(err.code < 0 && err.msg[0] != '\0' && out.text == NULL);
    }
    json_decref(context);
    tt_template_destroy(&t);
    return 0;
}
