/* error_map.h - the one place where a failure becomes HTTP: status, and the "error" object of
 * docs/api.md. Thread: any, constant data. */
#ifndef TT_ERROR_MAP_H
#define TT_ERROR_MAP_H

#include "kernels/err.h"
#include "server/buf.h"

/* What an answer says of a failure. */
typedef struct tt_http_error {
    int status;       /* 0 = none */
    const char *type; /* static */
    const char *code; /* static; NULL = null */
    int retry_after;  /* seconds; 0 = no header */
    char param[96];   /* the request's field: "messages[0].role"; "" = null */
    char message[320];
} tt_http_error;

/* Status, type, code and Retry-After of err->code; message from err->msg, or the code's text when
 * that is empty. */
void tt_error_from_code(tt_http_error *e, const tt_err *err);

/* A failure that only HTTP knows, its type chosen by the status. param, code: NULL = null; code is
 * static. */
void tt_error_set(tt_http_error *e, int status, const char *param, const char *code,
                  const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* {"error":{"message","type","param","code"}}, always these four keys. */
void tt_error_write(tt_buf *b, const tt_http_error *e);

#endif
