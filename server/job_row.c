/* job_row.c - see job_row.h. Tables say which members a row has, so that writing and reading cannot
 * disagree. Numbers read back to the same bits; a number that is not finite is null, and NaN after.
 */
#include "server/job_row.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "server/api_json.h"
#include "server/hex.h"

enum { VERSION = 1 };

typedef enum kind {
    BOOL,
    INT32, /* enumerations too */
    INT64,
    ID, /* uint64_t, in hexadecimal */
    FLOAT,
    DOUBLE,
    TEXT, /* char[size] */
    WORD, /* const char *: read into one of the record's words */
    BITS  /* uint8_t[size], in hexadecimal */
} kind;

typedef struct member {
    const char *key;
    kind kind;
    size_t offset, size;
} member;

#define IN(type, name, kind)                                                                       \
    {                                                                                              \
#name, kind, offsetof(type, name), sizeof(((type *)0)->name)                               \
    }

static const member record_members[] = {
    IN(tt_job_record, key, TEXT),
    IN(tt_job_record, session_id, TEXT),
    IN(tt_job_record, n, INT32),
    IN(tt_job_record, in_request, BOOL),
    IN(tt_job_record, n_context, INT32),
    IN(tt_job_record, context_hash, ID),
    IN(tt_job_record, status, INT32),
    IN(tt_job_record, created_at, DOUBLE),
    IN(tt_job_record, started_at, DOUBLE),
    IN(tt_job_record, finished_at, DOUBLE),
    IN(tt_job_record, have_result, BOOL),
    IN(tt_job_record, generation_before, INT32),
    IN(tt_job_record, generation_after, INT32),
    IN(tt_job_record, error_code, TEXT),
    IN(tt_job_record, error_message, TEXT),
    IN(tt_job_record, steps_done, INT32),
    IN(tt_job_record, cancel_asked, BOOL),
    IN(tt_job_record, pause_asked, BOOL),
};

static const member log_members[] = {
    IN(tt_job_log, last, INT64),
    IN(tt_job_log, lost, INT64),
};

static const member params_members[] = {
    IN(tt_qttt_params, mode, INT32),
    IN(tt_qttt_params, lora, BOOL),
    IN(tt_qttt_params, sgd, BOOL),
    IN(tt_qttt_params, guard, BOOL),
    IN(tt_qttt_params, objective, INT32),
    IN(tt_qttt_params, steps, INT32),
    IN(tt_qttt_params, span_tokens, INT32),
    IN(tt_qttt_params, rank, INT32),
    IN(tt_qttt_params, lora_alpha, FLOAT),
    IN(tt_qttt_params, learning_rate, DOUBLE),
    IN(tt_qttt_params, weight_decay, FLOAT),
    IN(tt_qttt_params, grad_clip, FLOAT),
    IN(tt_qttt_params, beta1, FLOAT),
    IN(tt_qttt_params, beta2, FLOAT),
    IN(tt_qttt_params, adam_eps, FLOAT),
    IN(tt_qttt_params, seed, ID),
    IN(tt_qttt_params, layers, BITS),
    IN(tt_qttt_params, max_seconds, DOUBLE),
    IN(tt_qttt_params, max_span_tokens, INT64),
    IN(tt_qttt_params, context_tokens, INT32),
    IN(tt_qttt_params, start_adapter, ID),
};

static const member result_members[] = {
    IN(tt_qttt_result, status, WORD),
    IN(tt_qttt_result, reason, WORD),
    IN(tt_qttt_result, stop_reason, WORD),
    IN(tt_qttt_result, kept, BOOL),
    IN(tt_qttt_result, cached, BOOL),
    IN(tt_qttt_result, adapter_id, ID),
    IN(tt_qttt_result, generation, INT32),
    IN(tt_qttt_result, steps_done, INT32),
    IN(tt_qttt_result, n_dropped, INT32),
    IN(tt_qttt_result, trained_tokens, INT64),
    IN(tt_qttt_result, have_recall, BOOL),
    IN(tt_qttt_result, recall_before, DOUBLE),
    IN(tt_qttt_result, recall_after, DOUBLE),
    IN(tt_qttt_result, recall_se, DOUBLE),
    IN(tt_qttt_result, recall_segments, INT32),
    IN(tt_qttt_result, span_loss_before, DOUBLE),
    IN(tt_qttt_result, span_loss_after, DOUBLE),
    IN(tt_qttt_result, loss_first, DOUBLE),
    IN(tt_qttt_result, loss_last, DOUBLE),
    IN(tt_qttt_result, delta_norm_relative, DOUBLE),
    IN(tt_qttt_result, flops, DOUBLE),
    IN(tt_qttt_result, equal_cost_tokens, DOUBLE),
    IN(tt_qttt_result, adapt_seconds, DOUBLE),
    IN(tt_qttt_result, adapter_bytes, INT64),
    IN(tt_qttt_result, durable, BOOL),
    IN(tt_qttt_result, not_durable, TEXT),
};

#define COUNT(table) (sizeof(table) / sizeof *(table))

_Static_assert(sizeof(tt_job_status) == sizeof(int32_t), "an enumeration is written as INT32");
_Static_assert(sizeof(tt_qttt_mode) == sizeof(int32_t), "an enumeration is written as INT32");
_Static_assert(sizeof(tt_objective) == sizeof(int32_t), "an enumeration is written as INT32");

/* ---- writing ---- */

static void put_bits(tt_buf *b, const uint8_t *p, size_t n)
{
    char text[65];
    assert(2 * n < sizeof text);
    tt_hex_write(p, n, text);
    tt_buf_printf(b, "\"%s\"", text);
}

static void put_value(tt_buf *b, const member *m, const char *at)
{
    switch (m->kind) {
    case BOOL:
        tt_buf_puts(b, *(const bool *)at ? "true" : "false");
        break;
    case INT32:
        tt_buf_printf(b, "%ld", (long)*(const int32_t *)(const void *)at);
        break;
    case INT64:
        tt_buf_printf(b, "%lld", (long long)*(const int64_t *)(const void *)at);
        break;
    case ID:
        tt_buf_printf(b, "\"%016llx\"", (unsigned long long)*(const uint64_t *)(const void *)at);
        break;
    case FLOAT:
        tt_buf_put_float(b, *(const float *)(const void *)at);
        break;
    case DOUBLE:
        tt_buf_put_double(b, *(const double *)(const void *)at);
        break;
    case TEXT:
        tt_buf_puts_json(b, at);
        break;
    case WORD: {
        const char *word = *(const char *const *)(const void *)at;
        if (word != NULL) {
            tt_buf_puts_json(b, word);
        } else {
            tt_buf_puts(b, "null");
        }
        break;
    }
    case BITS:
        put_bits(b, (const uint8_t *)at, m->size);
        break;
    }
}

static void put_members(tt_buf *b, const member *table, size_t n, const void *of)
{
    for (size_t i = 0; i < n; i++) {
        tt_buf_printf(b, "%s\"%s\":", i > 0 ? "," : "", table[i].key);
        put_value(b, &table[i], (const char *)of + table[i].offset);
    }
}

void tt_job_row_write(tt_buf *b, const tt_job_record *r)
{
    tt_buf_printf(b, "{\"version\":%d,", VERSION);
    put_members(b, record_members, COUNT(record_members), r);
    tt_buf_puts(b, ",\"model\":");
    tt_buf_puts_json(b, r->model);
    tt_buf_printf(b, ",\"metadata\":%s,\"log\":{", r->metadata);
    put_members(b, log_members, COUNT(log_members), &r->log);
    tt_buf_puts(b, "},\"params\":{");
    put_members(b, params_members, COUNT(params_members), &r->params);
    if (r->have_result) {
        tt_buf_puts(b, "},\"result\":{");
        put_members(b, result_members, COUNT(result_members), &r->result);
    }
    tt_buf_puts(b, "}}");
    tt_buf_putc(b, '\0');
}

/* [number, created_at, level, type, what belongs to the type] */
static void put_event(tt_buf *b, const tt_job_event *ev)
{
    tt_buf_printf(b, "[%lld,%lld,%d,%d,", (long long)ev->number, (long long)ev->created_at,
                  (int)ev->level, (int)ev->type);
    switch (ev->type) {
    case TT_JOB_EVENT_STEP:
        tt_buf_printf(b, "%d,%d,%d,", (int)ev->u.step.step, (int)ev->u.step.span_start,
                      (int)ev->u.step.span_tokens);
        tt_buf_put_double(b, ev->u.step.loss);
        tt_buf_putc(b, ',');
        tt_buf_put_double(b, ev->u.step.grad_norm);
        tt_buf_putc(b, ',');
        tt_buf_put_double(b, ev->u.step.learning_rate);
        tt_buf_putc(b, ',');
        tt_buf_put_double(b, ev->u.step.seconds);
        break;
    case TT_JOB_EVENT_PROBE:
        tt_buf_printf(b, "%d,", (int)ev->u.probe.after);
        tt_buf_put_double(b, ev->u.probe.recall);
        tt_buf_putc(b, ',');
        tt_buf_put_double(b, ev->u.probe.span);
        break;
    case TT_JOB_EVENT_STATUS:
        tt_buf_puts_json(b, ev->u.status.status);
        tt_buf_putc(b, ',');
        tt_buf_puts_json(b, ev->u.status.reason);
        break;
    }
    tt_buf_putc(b, ']');
}

void tt_job_row_write_events(tt_buf *b, const tt_job_log *log)
{
    tt_buf_putc(b, '[');
    for (int32_t i = 0; i < log->n; i++) {
        tt_buf_puts(b, i > 0 ? ",\n" : "");
        put_event(b, &log->v[i]);
    }
    tt_buf_putc(b, ']');
}

/* ---- reading ---- */

static bool read_id(const char *text, uint64_t *ret)
{
    size_t n = strspn(text, "0123456789abcdef");
    if (n == 0 || n > 16 || text[n] != '\0') {
        return false;
    }
    *ret = strtoull(text, NULL, 16);
    return true;
}

static bool read_double(const json_t *v, double *ret)
{
    *ret = json_is_number(v) ? json_number_value(v) : NAN;
    return json_is_number(v) || json_is_null(v);
}

static bool read_int(const json_t *v, int64_t min, int64_t max, int64_t *ret)
{
    *ret = json_integer_value(v);
    return json_is_integer(v) && *ret >= min && *ret <= max;
}

/* words: where WORDs go, the next free one; moved on. */
static bool read_value(const json_t *v, const member *m, char *at,
                       char (**words)[TT_JOB_WORD_BYTES])
{
    const char *text = json_is_string(v) ? json_string_value(v) : NULL;
    int64_t i = 0;
    double d = 0;
    bool ok = true;
    switch (m->kind) {
    case BOOL:
        *(bool *)at = json_is_true(v);
        return json_is_boolean(v);
    case INT32:
        ok = read_int(v, INT32_MIN, INT32_MAX, &i);
        *(int32_t *)(void *)at = (int32_t)i;
        return ok;
    case INT64:
        ok = read_int(v, INT64_MIN, INT64_MAX, &i);
        *(int64_t *)(void *)at = i;
        return ok;
    case ID:
        return text != NULL && read_id(text, (uint64_t *)(void *)at);
    case FLOAT:
        ok = read_double(v, &d);
        *(float *)(void *)at = (float)d;
        return ok;
    case DOUBLE:
        return read_double(v, (double *)(void *)at);
    case TEXT:
        return text != NULL && strlen(text) < m->size && strcpy(at, text) == at;
    case WORD:
        *(const char **)(void *)at = text != NULL ? **words : NULL;
        snprintf(*(*words)++, TT_JOB_WORD_BYTES, "%s", text != NULL ? text : "");
        return text != NULL ? strlen(text) < TT_JOB_WORD_BYTES : json_is_null(v);
    case BITS:
        return tt_hex_read(text, (uint8_t *)at, m->size);
    }
    return false;
}

static tt_code read_members(const json_t *o, const member *table, size_t n, void *of,
                            char (*words)[TT_JOB_WORD_BYTES], tt_err *reterr)
{
    for (size_t i = 0; i < n; i++) {
        const member *m = &table[i];
        if (!read_value(json_object_get(o, m->key), m, (char *)of + m->offset, &words)) {
            return tt_fail(reterr, TT_E_INVALID, "its '%s' is missing or wrong", m->key);
        }
    }
    return TT_OK;
}

static const char *status_word(const char *text)
{
    for (int i = TT_JOB_QUEUED; text != NULL && i <= TT_JOB_CANCELLED; i++) {
        const char *word = tt_job_status_text((tt_job_status)i);
        if (strcmp(word, text) == 0) {
            return word;
        }
    }
    return NULL;
}

static bool read_step(const json_t *v, tt_job_event *ev)
{
    int64_t step, start, n;
    if (!read_int(json_array_get(v, 4), 0, INT32_MAX, &step) ||
        !read_int(json_array_get(v, 5), 0, INT32_MAX, &start) ||
        !read_int(json_array_get(v, 6), 0, INT32_MAX, &n)) {
        return false;
    }
    ev->u.step.step = (int32_t)step;
    ev->u.step.span_start = (int32_t)start;
    ev->u.step.span_tokens = (int32_t)n;
    return read_double(json_array_get(v, 7), &ev->u.step.loss) &&
           read_double(json_array_get(v, 8), &ev->u.step.grad_norm) &&
           read_double(json_array_get(v, 9), &ev->u.step.learning_rate) &&
           read_double(json_array_get(v, 10), &ev->u.step.seconds);
}

static bool read_event(const json_t *v, tt_job_event *ev)
{
    int64_t level, type, after;
    const char *reason;
    *ev = (tt_job_event){0};
    if (!read_int(json_array_get(v, 0), 1, INT64_MAX, &ev->number) ||
        !read_int(json_array_get(v, 1), 0, INT64_MAX, &ev->created_at) ||
        !read_int(json_array_get(v, 2), TT_JOB_INFO, TT_JOB_ERROR, &level) ||
        !read_int(json_array_get(v, 3), TT_JOB_EVENT_STEP, TT_JOB_EVENT_STATUS, &type)) {
        return false;
    }
    ev->level = (tt_job_level)level;
    ev->type = (tt_job_event_type)type;
    switch (ev->type) {
    case TT_JOB_EVENT_STEP:
        return read_step(v, ev);
    case TT_JOB_EVENT_PROBE:
        if (!read_int(json_array_get(v, 4), 0, 1, &after)) {
            return false;
        }
        ev->u.probe.after = after != 0;
        return read_double(json_array_get(v, 5), &ev->u.probe.recall) &&
               read_double(json_array_get(v, 6), &ev->u.probe.span);
    case TT_JOB_EVENT_STATUS:
        ev->u.status.status = status_word(json_string_value(json_array_get(v, 4)));
        reason = json_string_value(json_array_get(v, 5));
        snprintf(ev->u.status.reason, sizeof ev->u.status.reason, "%s",
                 reason != NULL ? reason : "");
        return ev->u.status.status != NULL && reason != NULL;
    }
    return false;
}

/* An event that cannot be read ends the list: the log is what lies before it. */
static tt_code read_events(const tt_state_row *row, tt_job_log *log, tt_err *reterr)
{
    bool no_memory = false;
    json_t *list =
        row->n_blob > 0 ? tt_json_load(row->blob, row->n_blob, 0, NULL, &no_memory) : NULL;
    size_t n = json_array_size(list), skip = n > (size_t)log->max ? n - (size_t)log->max : 0;
    int64_t before = 0;
    if (no_memory || (n > skip && (log->v = calloc(n - skip, sizeof *log->v)) == NULL)) {
        json_decref(list);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a job's events");
    }
    for (size_t i = skip; i < n; i++) {
        tt_job_event *ev = &log->v[log->n];
        if (!read_event(json_array_get(list, i), ev) || ev->number <= before) {
            break;
        }
        before = ev->number;
        log->n++;
    }
    log->cap = (int32_t)(n - skip);
    log->lost += (int64_t)skip;
    log->last = log->last > before ? log->last : before;
    json_decref(list);
    return TT_OK;
}

static tt_code read_record(const json_t *o, tt_job_record *r, tt_err *reterr)
{
    const json_t *result = json_object_get(o, "result");
    const char *model = json_string_value(json_object_get(o, "model"));
    const json_t *metadata = json_object_get(o, "metadata");
    tt_code rc = read_members(o, record_members, COUNT(record_members), r, NULL, reterr);
    if (rc == TT_OK) {
        rc = read_members(json_object_get(o, "log"), log_members, COUNT(log_members), &r->log, NULL,
                          reterr);
    }
    if (rc == TT_OK) {
        rc = read_members(json_object_get(o, "params"), params_members, COUNT(params_members),
                          &r->params, NULL, reterr);
    }
    if (rc == TT_OK && r->have_result) {
        rc = read_members(result, result_members, COUNT(result_members), &r->result, r->words,
                          reterr);
        r->result.params = r->params;
    }
    if (rc < 0) {
        return rc;
    }
    if (model == NULL || !json_is_object(metadata) || (int)r->status < TT_JOB_QUEUED ||
        (int)r->status > TT_JOB_CANCELLED || r->log.last < 0 ||
        (r->have_result && r->result.status == NULL)) {
        return tt_fail(reterr, TT_E_INVALID, "its model, metadata, status or log is wrong");
    }
    r->model = strdup(model);
    r->metadata = json_dumps(metadata, JSON_COMPACT);
    return r->model != NULL && r->metadata != NULL ? TT_OK
                                                   : tt_fail(reterr, TT_E_NOMEM, "out of memory");
}

tt_code tt_job_row_read(const tt_state_row *row, int32_t max_events, tt_job_record **ret_record,
                        tt_err *reterr)
{
    tt_job_record *r = calloc(1, sizeof *r);
    bool no_memory;
    json_t *o = tt_json_load(row->json, strlen(row->json), 0, NULL, &no_memory);
    int64_t version = 0;
    tt_code rc = TT_OK;
    if (r == NULL || no_memory) {
        json_decref(o);
        free(r);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a job");
    }
    r->refs = 1;
    tt_job_log_init(&r->log, max_events);
    if (!read_int(json_object_get(o, "version"), 1, INT64_MAX, &version)) {
        rc = tt_fail(reterr, TT_E_INVALID, "it is no job");
    } else if (version > VERSION) {
        rc = tt_fail(reterr, TT_E_UNSUPPORTED, "its version is %lld", (long long)version);
    } else if (strlen(row->id) >= sizeof r->id || strlen(row->scope) >= sizeof r->scope) {
        rc = tt_fail(reterr, TT_E_INVALID, "its id is too long");
    } else {
        strcpy(r->id, row->id);
        strcpy(r->scope, row->scope);
        rc = read_record(o, r, reterr);
    }
    if (rc == TT_OK) {
        rc = read_events(row, &r->log, reterr);
    }
    json_decref(o);
    if (rc < 0) {
        tt_job_record_unref(&r);
        return rc;
    }
    *ret_record = r;
    return TT_OK;
}
