/* template_json.c - the door of the chat template interpreter: JSON in, text and its pieces out.
 * Thread: a compiled template is immutable; one rendering is one thread's. */
#include "core/template_json.h"

#include <stdlib.h>
#include <string.h>

#include "core/template_eval.h"

enum {
    max_source_bytes = 1024 * 1024,
    default_max_steps = 10 * 1000 * 1000,
    default_max_output = 64 * 1024 * 1024
};

/* Intermediate values: the strings a template builds, and JSON turned into values. */
enum { memory_floor_bytes = 64 * 1024 * 1024, memory_per_output_byte = 4 };

struct tt_template {
    tt_ast ast;
};

const char tt_template_chatml[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

tt_code tt_template_create(const char *src, size_t n_bytes, tt_template **ret_template,
                           tt_err *reterr)
{
    if (n_bytes > max_source_bytes) {
        return tt_fail(reterr, TT_E_UNSUPPORTED, "a chat template of %zu bytes, more than %d",
                       n_bytes, max_source_bytes);
    }
    tt_template *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a chat template");
    }
    tt_code rc = tt_ast_parse(src, n_bytes, &t->ast, reterr);
    if (rc != TT_OK) {
        free(t);
        return rc;
    }
    *ret_template = t;
    return TT_OK;
}

void tt_template_destroy(tt_template **t)
{
    if (*t != NULL) {
        tt_ast_finish(&(*t)->ast);
        free(*t);
        *t = NULL;
    }
}

/* -- JSON to values ------------------------------------------------------------------------ */

static bool from_json(tt_run *r, const json_t *j, tt_val *ret);

static bool from_array(tt_run *r, const json_t *j, tt_val *ret)
{
    tt_val v;
    if (!tt_val_list(r, TT_V_LIST, json_array_size(j), &v)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(j); i++) {
        tt_val item;
        if (!from_json(r, json_array_get(j, i), &item) || !tt_list_add(r, v.u.list, item)) {
            return false;
        }
    }
    *ret = v;
    return true;
}

static bool from_object(tt_run *r, const json_t *j, tt_val *ret)
{
    tt_val v;
    const char *key;
    json_t *member;
    if (!tt_val_dict(r, &v)) {
        return false;
    }
    void *iter = json_object_iter((json_t *)j);
    for (; iter != NULL; iter = json_object_iter_next((json_t *)j, iter)) {
        tt_val item, k;
        key = json_object_iter_key(iter);
        member = json_object_iter_value(iter);
        if (!tt_val_set_text(tt_text_new(r, key, json_object_iter_key_len(iter), false), &k) ||
            !from_json(r, member, &item) || !tt_dict_set(r, v.u.dict, k, item)) {
            return false;
        }
    }
    *ret = v;
    return true;
}

static bool from_json(tt_run *r, const json_t *j, tt_val *ret)
{
    bool ok = tt_run_enter(r);
    if (!ok) {
        return false;
    }
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        ok = from_object(r, j, ret);
        break;
    case JSON_ARRAY:
        ok = from_array(r, j, ret);
        break;
    case JSON_STRING:
        ok = tt_val_set_text(tt_text_new(r, json_string_value(j), json_string_length(j), false),
                             ret);
        break;
    case JSON_INTEGER:
        *ret = tt_val_int(json_integer_value(j));
        ret->trusted = false;
        break;
    case JSON_REAL:
        *ret = tt_val_float(json_real_value(j));
        ret->trusted = false;
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        *ret = tt_val_bool(json_is_true(j));
        break;
    default:
        *ret = tt_val_none();
        break;
    }
    tt_run_leave(r);
    return ok;
}

/* -- The variables of a template ----------------------------------------------------------- */

/* A name that the template never mentions needs no value. */
static bool set_global(tt_run *r, const char *name, tt_val v)
{
    uint32_t at = tt_ast_name(r->ast, name, strlen(name));
    return at == UINT32_MAX || tt_scope_set(r, r->scope, at, v);
}

static bool set_json(tt_run *r, const char *name, const json_t *j)
{
    tt_val v = tt_val_none();
    if (tt_ast_name(r->ast, name, strlen(name)) == UINT32_MAX) {
        return true;
    }
    return (j == NULL || from_json(r, j, &v)) && set_global(r, name, v);
}

static bool set_token(tt_run *r, const char *name, const char *token)
{
    tt_val v;
    return token == NULL || (tt_val_set_text(tt_text_cstr(r, token), &v) && set_global(r, name, v));
}

static bool set_globals(tt_run *r, const tt_render_options *opt)
{
    if (!set_json(r, "messages", opt->messages) || !set_json(r, "tools", opt->tools) ||
        !set_json(r, "documents", NULL) || !set_token(r, "bos_token", opt->bos_token) ||
        !set_token(r, "eos_token", opt->eos_token) ||
        !set_global(r, "add_generation_prompt", tt_val_bool(opt->add_generation_prompt))) {
        return false;
    }
    /* By the names of the template: they are few, a request may bring any number. */
    for (uint32_t i = 0; opt->kwargs != NULL && i < r->ast->n_names; i++) {
        const tt_text *name = r->ast->names[i];
        const json_t *j = json_object_getn(opt->kwargs, name->p, name->n);
        tt_val v;
        if (j != NULL && (!from_json(r, j, &v) || !tt_scope_set(r, r->scope, i, v))) {
            return false;
        }
    }
    return true;
}

/* -- The result ---------------------------------------------------------------------------- */

/* The text itself goes over, not a copy. */
static tt_code give_rendered(tt_textbuf *out, tt_rendered *ret, tt_err *reterr)
{
    tt_rendered done = {.n = out->n, .n_pieces = out->n_runs};
    done.text = realloc(out->data, out->n + 1);
    out->data = done.text != NULL ? NULL : out->data;
    done.pieces = malloc((out->n_runs + 1) * sizeof *done.pieces);
    if (done.text == NULL || done.pieces == NULL) {
        tt_rendered_finish(&done);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a rendered prompt of %zu bytes", out->n);
    }
    done.text[out->n] = '\0';
    for (size_t i = 0, from = 0; i < out->n_runs; i++) {
        size_t end = out->runs[i].end;
        done.pieces[i] = (tt_text_piece){
            .p = done.text + from, .n = end - from, .trusted = out->runs[i].trusted};
        from = end;
    }
    *ret = done;
    return TT_OK;
}

tt_code tt_template_render(const tt_template *t, const tt_render_options *opt,
                           tt_rendered *ret_rendered, tt_err *reterr)
{
    tt_err scratch;
    tt_run r = {
        .err = reterr != NULL ? reterr : &scratch, .ast = &t->ast, .now = opt->now, .line = 1};
    r.max_steps = opt->max_steps != 0 ? opt->max_steps : default_max_steps;
    r.max_text_bytes = opt->max_output_bytes != 0 ? opt->max_output_bytes : default_max_output;
    size_t memory;
    if (__builtin_mul_overflow(r.max_text_bytes, memory_per_output_byte, &memory) ||
        __builtin_add_overflow(memory, memory_floor_bytes, &memory)) {
        memory = SIZE_MAX / 2;
    }
    r.hash_seed = (uint64_t)(uintptr_t)&r ^ (uint64_t)opt->now << 32;
    tt_arena_init(&r.arena, memory);
    r.scope = tt_scope_push(&r, NULL);
    r.out = tt_textbuf_new(&r);
    if (r.out != NULL) {
        r.out->heap = true;
    }
    tt_textbuf *out = r.out;
    if (r.scope != NULL && out != NULL && set_globals(&r, opt)) {
        tt_exec_body(&r, t->ast.root);
    }
    tt_code rc = r.code != TT_OK ? r.code : give_rendered(out, ret_rendered, r.err);
    if (out != NULL) {
        free(out->data);
    }
    tt_arena_finish(&r.arena);
    return rc;
}

void tt_rendered_finish(tt_rendered *r)
{
    free(r->text);
    free(r->pieces);
    *r = (tt_rendered){0};
}
