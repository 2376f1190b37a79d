/* chat_template_json.c - see chat_template_json.h. */
#include "core/chat_template_json.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <string.h>

#include "core/file_map.h"

#define MAX_BYTES ((uint64_t)16 << 20)

static tt_code copy_text(const char *p, size_t n, tt_arena *arena, tt_str *ret, tt_err *reterr)
{
    char *copy = tt_arena_strndup(arena, p, n);
    if (copy == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the chat template");
    }
    *ret = (tt_str){.p = copy, .n = (uint32_t)n};
    return TT_OK;
}

/* The template in the value of "chat_template"; NULL = none. */
static const json_t *default_template(const json_t *v)
{
    size_t i;
    json_t *entry;
    if (json_is_string(v)) {
        return v;
    }
    json_array_foreach((json_t *)v, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        const json_t *text = json_object_get(entry, "template");
        if (name != NULL && strcmp(name, "default") == 0 && json_is_string(text)) {
            return text;
        }
    }
    return NULL;
}

static tt_code from_json(const tt_file_map *map, const char *file, tt_arena *arena, tt_str *ret,
                         tt_err *reterr)
{
    json_error_t e;
    json_t *root = json_loadb((const char *)map->p, (size_t)map->n, 0, &e);
    if (root == NULL && json_error_code(&e) == json_error_out_of_memory) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %s", file);
    }
    if (root == NULL) {
        return tt_fail(reterr, TT_E_MODEL, "%s: JSON error in line %d: %s", file, e.line, e.text);
    }
    const json_t *text = default_template(json_object_get(root, "chat_template"));
    tt_code rc = TT_OK;
    if (text != NULL) {
        rc = copy_text(json_string_value(text), json_string_length(text), arena, ret, reterr);
    }
    json_decref(root);
    return rc;
}

tt_code tt_chat_template_read(const char *folder, tt_arena *arena, tt_str *ret_template,
                              tt_err *reterr)
{
    static const char *const files[] = {"chat_template.jinja", "tokenizer_config.json",
                                        "chat_template.json"};
    tt_str found = {0};
    for (size_t i = 0; i < sizeof files / sizeof files[0] && found.p == NULL; i++) {
        tt_file_map map = {0};
        bool exists = false;
        tt_err err = {.code = TT_OK};
        tt_code rc = tt_file_map_open_in(folder, files[i], &map, &exists, &err);
        if (rc == TT_OK && exists && map.n > MAX_BYTES) {
            rc = tt_fail(&err, TT_E_MODEL, "%" PRIu64 " bytes, at most %" PRIu64, map.n, MAX_BYTES);
        }
        if (rc != TT_OK) {
            tt_file_map_close(&map);
            return tt_fail(reterr, rc, "%s: %s", files[i], err.msg);
        }
        if (exists) {
            rc = i == 0 ? copy_text((const char *)map.p, (size_t)map.n, arena, &found, reterr)
                        : from_json(&map, files[i], arena, &found, reterr);
        }
        tt_file_map_close(&map);
        if (rc != TT_OK) {
            return rc;
        }
    }
    *ret_template = found;
    return TT_OK;
}
