/* error_map.c - see error_map.h. Two tables: our codes to HTTP, and HTTP statuses to the type that
 * OpenAI's clients expect. */
#include "server/error_map.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct code_row {
    int status;
    const char *code;
    int retry_after;
};

static const struct code_row code_rows[] = {
    [-TT_E_INVALID] = {400, NULL, 0},
    [-TT_E_MODEL] = {500, "model", 0},
    [-TT_E_UNSUPPORTED] = {400, "unsupported_parameter", 0},
    [-TT_E_NOMEM] = {429, "capacity", 5},
    [-TT_E_CAPACITY] = {429, "capacity", 5},
    [-TT_E_BUSY] = {429, "queue_full", 1},
    [-TT_E_UNAVAILABLE] = {503, "loading", 2},
    [-TT_E_CANCELLED] = {500, "cancelled", 0},
    [-TT_E_DEVICE] = {500, "device_failure", 0},
    [-TT_E_IO] = {500, "io", 0},
    [-TT_E_CONTEXT_LENGTH] = {400, "context_length_exceeded", 0},
    [-TT_E_DIVERGED] = {500, "diverged", 0},
    [-TT_E_TIMEOUT] = {408, "timeout", 0},
    [-TT_E_INTERNAL] = {500, "internal", 0},
    [-TT_E_STATE] = {500, "state_unavailable", 0},
    [-TT_E_ADAPTER_LOST] = {409, "adapter_lost", 0},
};

static const struct {
    int status;
    const char *type;
} type_rows[] = {
    {400, "invalid_request_error"}, {401, "authentication_error"},  {403, "permission_error"},
    {404, "not_found_error"},       {405, "invalid_request_error"}, {408, "timeout_error"},
    {409, "conflict_error"},        {413, "invalid_request_error"}, {415, "invalid_request_error"},
    {429, "rate_limit_error"},      {503, "service_unavailable"},
};

static const char *type_of(int status)
{
    for (size_t i = 0; i < sizeof type_rows / sizeof *type_rows; i++) {
        if (type_rows[i].status == status) {
            return type_rows[i].type;
        }
    }
    return "server_error";
}

void tt_error_from_code(tt_http_error *e, const tt_err *err)
{
    struct code_row row = {500, "internal", 0};
    size_t i = err->code < 0 ? (size_t) - (long)err->code : 0;
    if (i < sizeof code_rows / sizeof *code_rows && code_rows[i].status != 0) {
        row = code_rows[i];
    }
    *e = (tt_http_error){.status = row.status,
                         .type = type_of(row.status),
                         .code = row.code,
                         .retry_after = row.retry_after};
    snprintf(e->message, sizeof e->message, "%s",
             err->msg[0] != '\0' ? err->msg : tt_code_text(err->code));
}

void tt_error_set(tt_http_error *e, int status, const char *param, const char *code,
                  const char *fmt, ...)
{
    *e = (tt_http_error){.status = status, .type = type_of(status), .code = code};
    snprintf(e->param, sizeof e->param, "%s", param != NULL ? param : "");
    e->retry_after = status == 503 ? 2 : status == 429 ? 1 : 0;
    va_list ap;
    va_start(ap, fmt);
    if (vsnprintf(e->message, sizeof e->message, fmt, ap) < 0) {
        e->message[0] = '\0';
    }
    va_end(ap);
}

void tt_error_write(tt_buf *b, const tt_http_error *e)
{
    tt_buf_puts(b, "{\"error\":{\"message\":");
    tt_buf_puts_json(b, e->message);
    tt_buf_puts(b, ",\"type\":");
    tt_buf_puts_json(b, e->type);
    tt_buf_puts(b, ",\"param\":");
    if (e->param[0] != '\0') {
        tt_buf_puts_json(b, e->param);
    } else {
        tt_buf_puts(b, "null");
    }
    tt_buf_puts(b, ",\"code\":");
    if (e->code != NULL) {
        tt_buf_puts_json(b, e->code);
    } else {
        tt_buf_puts(b, "null");
    }
    tt_buf_puts(b, "}}");
}
