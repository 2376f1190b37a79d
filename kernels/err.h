/* err.h - the failure type of the whole program; it lies in the lowest layer because all three use
 * it. Thread: none, plain data.
 *
 * A function that can fail returns tt_code: 0 = done; negative = a failure that the caller passes
 * up unchanged (or answers for); positive = an outcome of that one function, named in its header.
 * The text of a failure is written once, where it happened, into the caller's tt_err. */
#ifndef TT_ERR_H
#define TT_ERR_H

#include <stdarg.h>

/* X(name, value, text). server/error_map.c turns these into HTTP; nothing below it knows HTTP. */
#define TT_CODES(X)                                                                                \
    X(TT_E_INVALID, -1, "invalid input")   /* the caller's value is wrong */                       \
    X(TT_E_MODEL, -2, "bad model file")    /* truncated, corrupt or hostile file */                \
    X(TT_E_UNSUPPORTED, -3, "unsupported") /* well-formed, but not implemented */                  \
    X(TT_E_NOMEM, -4, "out of memory")     /* host memory */                                       \
    X(TT_E_CAPACITY, -5, "no capacity")    /* K/V, adapter or queue budget is full */              \
    X(TT_E_BUSY, -6, "queue full")         /* try again later */                                   \
    X(TT_E_UNAVAILABLE, -7, "unavailable") /* loading or draining */                               \
    X(TT_E_CANCELLED, -8, "cancelled")                                                             \
    X(TT_E_DEVICE, -9, "device failure") /* sticky: the lane is lost */                            \
    X(TT_E_IO, -10, "input/output error")                                                          \
    X(TT_E_CONTEXT_LENGTH, -11, "context too long")                                                \
    X(TT_E_DIVERGED, -12, "training diverged")                                                     \
    X(TT_E_TIMEOUT, -13, "deadline passed")                                                        \
    X(TT_E_INTERNAL, -14, "internal error")                                                        \
    X(TT_E_STATE, -15, "state unavailable")   /* what was asked for could not be kept on disk */   \
    X(TT_E_ADAPTER_LOST, -16, "adapter lost") /* its file is gone or corrupt */

#define TT_CODE_ENUM(name, value, text) name = value,
typedef enum tt_code { TT_CODES(TT_CODE_ENUM) TT_OK = 0, TT_OUTCOME_MAX = 1000 } tt_code;
#undef TT_CODE_ENUM

typedef struct tt_err {
    tt_code code;
    char msg[256]; /* one sentence, UTF-8, no newline, no full stop */
} tt_err;

/* Fills `err` (NULL is valid) and returns `code`, so that a failing function reads `return
 * tt_fail(err, ...)`. The text is cut, never inside a UTF-8 code point; control characters become
 * '?'. */
tt_code tt_fail(tt_err *err, tt_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The X-list's text of a code; "unknown" for anything else. Never NULL. */
const char *tt_code_text(tt_code code);

#endif
