/* session_row.c - see session_row.h. Numbers of 64 bits are strings: JSON's are signed. */
#include "server/session_row.h"

#include <stdlib.h>
#include <string.h>

#include "server/api_json.h"

enum { VERSION = 1 };

/* ---- write ---- */

static void put_parts(tt_buf *b, const tt_session *s)
{
    tt_session_part p;
    tt_buf_puts(b, ",\"parts\":[");
    for (int32_t i = 0; tt_session_part_at(s, i, &p); i++) {
        tt_buf_printf(b, "%s{\"key\":\"%s\",\"tokens\":%d,\"adapter\":\"%016llx\"}",
                      i > 0 ? "," : "", p.key, (int)p.n, (unsigned long long)p.adapter_id);
    }
    tt_buf_putc(b, ']');
}

static void put_generations(tt_buf *b, const tt_session *s)
{
    tt_session_generation g;
    tt_buf_printf(b, ",\"last_generation\":%d,\"generations\":[", (int)tt_session_last_number(s));
    for (int32_t i = 0; tt_session_generation_at(s, i, &g); i++) {
        tt_buf_printf(
            b, "%s{\"number\":%d,\"adapter\":\"%016llx\",\"bytes\":%lld,\"job\":", i > 0 ? "," : "",
            (int)g.number, (unsigned long long)g.adapter_id, (long long)g.adapter_bytes);
        tt_buf_puts_json(b, g.job_id);
        tt_buf_putc(b, '}');
    }
    tt_buf_putc(b, ']');
}

void tt_session_row_write(tt_buf *b, const tt_session_record *r)
{
    char *qttt = r->qttt != NULL ? json_dumps(r->qttt, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    if (r->qttt != NULL && qttt == NULL) {
        b->failed = true;
    }
    tt_buf_printf(b, "{\"version\":%d,\"model\":", VERSION);
    tt_buf_puts_json(b, r->model);
    tt_buf_printf(b, ",\"created_at\":%lld,\"last_used\":%lld,\"ttl_seconds\":",
                  (long long)r->created_at, (long long)tt_session_last_used_at(r));
    tt_buf_put_double(b, r->ttl_seconds);
    tt_buf_printf(b, ",\"implicit\":%s,\"answered\":%s,\"have_qttt\":%s,\"alias\":%s,\"jobs\":%lld",
                  r->implicit ? "true" : "false", r->answered ? "true" : "false",
                  r->have_qttt ? "true" : "false", r->alias ? "true" : "false",
                  (long long)r->n_jobs);
    tt_buf_printf(b, ",\"text\":\"%s\",\"context_text\":\"%s\"", r->text_key, r->context_text_key);
    tt_buf_puts(b, ",\"metadata\":");
    tt_buf_puts(b, r->metadata);
    tt_buf_puts(b, ",\"qttt\":");
    tt_buf_puts(b, qttt != NULL ? qttt : "null");
    put_parts(b, r->data);
    put_generations(b, r->data);
    tt_buf_putc(b, '}');
    free(qttt);
}

/* ---- read ---- */

static bool get_key(const json_t *o, const char *name, char *ret)
{
    const char *v = json_string_value(json_object_get(o, name));
    if (v == NULL || strlen(v) >= TT_SESSION_PART_KEY ||
        strspn(v, "0123456789abcdef") != strlen(v)) {
        return false;
    }
    strcpy(ret, v);
    return true;
}

static bool get_id64(const json_t *o, const char *name, uint64_t *ret)
{
    const char *v = json_string_value(json_object_get(o, name));
    char *end = NULL;
    if (v == NULL || v[0] == '\0') {
        return false;
    }
    *ret = strtoull(v, &end, 16);
    return *end == '\0';
}

static bool get_int(const json_t *o, const char *name, int64_t min, int64_t max, int64_t *ret)
{
    const json_t *v = json_object_get(o, name);
    *ret = json_integer_value(v);
    return json_is_integer(v) && *ret >= min && *ret <= max;
}

static bool get_bool(const json_t *o, const char *name, bool *ret)
{
    const json_t *v = json_object_get(o, name);
    *ret = json_is_true(v);
    return json_is_boolean(v);
}

static bool get_number(const json_t *o, const char *name, double *ret)
{
    const json_t *v = json_object_get(o, name);
    *ret = json_number_value(v);
    return json_is_number(v) && *ret >= 0;
}

static bool read_parts(const json_t *o, tt_session_row *r)
{
    const json_t *list = json_object_get(o, "parts");
    size_t n = json_array_size(list);
    int64_t total = 0, tokens;
    if (n < 1 || n > 1 + TT_SESSION_BRANCHES) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *p = json_array_get(list, i);
        if (!get_key(p, "key", r->image.parts[i].key) ||
            !get_id64(p, "adapter", &r->image.parts[i].adapter_id) ||
            !get_int(p, "tokens", 0, INT32_MAX, &tokens)) {
            return false;
        }
        r->image.parts[i].n = (int32_t)tokens;
        total = i == 0 ? tokens : total;
        if (total + tokens > INT32_MAX) {
            return false;
        }
    }
    r->image.n_parts = (int32_t)n;
    return true;
}

static bool read_generation(const json_t *o, tt_session_generation *g)
{
    int64_t number;
    const char *job = json_string_value(json_object_get(o, "job"));
    if (!get_int(o, "number", 1, INT32_MAX, &number) || !get_id64(o, "adapter", &g->adapter_id) ||
        !get_int(o, "bytes", 0, INT64_MAX, &g->adapter_bytes) || job == NULL ||
        strlen(job) >= sizeof g->job_id) {
        return false;
    }
    g->number = (int32_t)number;
    strcpy(g->job_id, job);
    return true;
}

/* TT_E_INVALID is told by false with *ret_memory false. */
static bool read_generations(const json_t *o, tt_session_row *r, bool *ret_memory)
{
    const json_t *list = json_object_get(o, "generations");
    size_t n = json_array_size(list);
    int64_t last;
    if (!json_is_array(list) || n > 1000 || !get_int(o, "last_generation", 0, INT32_MAX, &last)) {
        return false;
    }
    r->generations = calloc(n + 1, sizeof *r->generations);
    *ret_memory = r->generations == NULL;
    for (size_t i = 0; r->generations != NULL && i < n; i++) {
        if (!read_generation(json_array_get(list, i), &r->generations[i]) ||
            r->generations[i].number > last) {
            return false;
        }
    }
    r->image.generations = r->generations;
    r->image.n_generations = (int32_t)n;
    r->image.last_number = (int32_t)last;
    return r->generations != NULL;
}

static bool read_object(const json_t *o, tt_session_row *r, bool *ret_memory)
{
    const json_t *metadata = json_object_get(o, "metadata"), *qttt = json_object_get(o, "qttt");
    const char *model = json_string_value(json_object_get(o, "model"));
    int64_t version;
    if (!get_int(o, "version", VERSION, VERSION, &version) || model == NULL ||
        strlen(model) >= sizeof r->model || !json_is_object(metadata) ||
        !get_int(o, "created_at", 0, INT64_MAX, &r->created_at) ||
        !get_number(o, "last_used", &r->last_used) ||
        !get_number(o, "ttl_seconds", &r->ttl_seconds) || !get_bool(o, "implicit", &r->implicit) ||
        !get_bool(o, "answered", &r->answered) || !get_bool(o, "have_qttt", &r->have_qttt) ||
        !get_bool(o, "alias", &r->alias) || !get_int(o, "jobs", 0, INT32_MAX, &r->n_jobs) ||
        !get_key(o, "text", r->text_key) || !get_key(o, "context_text", r->context_text_key) ||
        !read_parts(o, r)) {
        return false;
    }
    strcpy(r->model, model);
    r->qttt = qttt != NULL && !json_is_null(qttt) ? json_incref((json_t *)qttt) : NULL;
    r->metadata = json_dumps(metadata, JSON_COMPACT);
    *ret_memory = r->metadata == NULL;
    return r->metadata != NULL && read_generations(o, r, ret_memory);
}

tt_code tt_session_row_read(const tt_state_row *row, tt_session_row *ret, tt_err *reterr)
{
    tt_session_row r = {0};
    bool memory = false, no_json;
    json_t *o = tt_json_load(row->json, strlen(row->json), 0, NULL, &no_json);
    bool ok = strlen(row->id) < sizeof r.id && strlen(row->scope) < sizeof r.scope &&
              strncmp(row->id, "ses_", TT_SESSION_PREFIX) == 0 && read_object(o, &r, &memory);
    json_decref(o);
    if (!ok) {
        tt_session_row_finish(&r);
        return memory || no_json
                   ? tt_fail(reterr, TT_E_NOMEM, "out of memory for a session")
                   : tt_fail(reterr, TT_E_INVALID, "the row of a session cannot be read");
    }
    strcpy(r.id, row->id);
    strcpy(r.scope, row->scope);
    *ret = r;
    return TT_OK;
}

void tt_session_row_finish(tt_session_row *row)
{
    free(row->metadata);
    free(row->generations);
    json_decref(row->qttt);
    *row = (tt_session_row){0};
}
