/* idempotency.h - what was asked under an Idempotency-Key and what was answered: one key runs once.
 * Pure: no HTTP, no clock; http_once.c connects it to requests. Thread: one at a time (the loop
 * thread).
 *
 * An entry is running from begin until finish or abandon, then kept until it is ttl_seconds old.
 * When there is no room, the oldest finished entries go first; running ones never do. */
#ifndef TT_IDEMPOTENCY_H
#define TT_IDEMPOTENCY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"

enum { TT_IDEM_MAX_KEY = 255, TT_IDEM_MAX_HEADERS = 8 };

typedef struct tt_idem tt_idem;             /* the store */
typedef struct tt_idem_entry tt_idem_entry; /* of one key; owned by the store */

struct tt_idem_image;

typedef struct tt_idem_options {
    double ttl_seconds;  /* from the first request under the key; 0 = 86,400 */
    int32_t max_entries; /* 0 = 4,096 */
    size_t max_bytes; /* of keys and results together; 0 = 16 MiB. One result may take a quarter */
    /* A finished entry is gone: of age, or for another. May be NULL. */
    void (*dropped)(void *arg, const struct tt_idem_image *im);
    void *arg;
} tt_idem_options;

/* All but body: NUL-terminated. Borrowed for the call. */
typedef struct tt_idem_request {
    const char *scope;  /* hash of the API key */
    const char *method; /* with path: the route, ids included */
    const char *path;
    const char *of;  /* what the headers say it is about, "" = nothing */
    const char *key; /* at most TT_IDEM_MAX_KEY bytes */
    const char *body;
    size_t n_body;
} tt_idem_request;

/* An answer. All that it points to is borrowed: by tt_idem_finish() for the call, from
 * tt_idem_begin() while the entry lives and no other call is made. */
typedef struct tt_idem_result {
    int status; /* 0: it was too large to be kept */
    const char *content_type;
    struct {
        const char *name, *value;
    } headers[TT_IDEM_MAX_HEADERS];
    int n_headers;
    const char *body;
    size_t n_body;
} tt_idem_result;

enum {
    TT_IDEM_NEW = 1,    /* *ret_entry is running now: end it with finish or abandon */
    TT_IDEM_STORED,     /* *ret_result is the answer */
    TT_IDEM_RUNNING,    /* the same request has not ended yet */
    TT_IDEM_OTHER_BODY, /* the key belongs to another request */
};

tt_code tt_idem_create(const tt_idem_options *opt, tt_idem **ret_store, tt_err *reterr);
void tt_idem_destroy(tt_idem **store);

/* One of the outcomes above; TT_E_BUSY: every entry is running; TT_E_NOMEM. now: seconds, rising.
 */
tt_code tt_idem_begin(tt_idem *s, const tt_idem_request *r, double now, tt_idem_entry **ret_entry,
                      tt_idem_result *ret_result, tt_err *reterr);
/* The answer is known: copied. One that is larger than there is room for, or that memory fails for,
 * is not kept, but the key stays taken: the request must not run twice. */
void tt_idem_finish(tt_idem *s, tt_idem_entry *e, const tt_idem_result *result);
/* Nothing was done: the key is free again. */
void tt_idem_abandon(tt_idem *s, tt_idem_entry *e);

/* An entry as it is kept outside of the store: idempotency_row.h. Borrowed while the entry lives
 * and no other call is made. */
typedef struct tt_idem_image {
    char id[33];       /* of the name: hexadecimal */
    const char *scope; /* the name's first part */
    const char *name;  /* [n_name] */
    size_t n_name;
    unsigned char body[16]; /* hash of the request's */
    double begun;           /* by tt_idem_begin's clock */
    tt_idem_result result;
} tt_idem_image;
/* The entry, whatever its state, as it is with this result. */
void tt_idem_get_image(const tt_idem *s, const tt_idem_entry *e, const tt_idem_result *result,
                       tt_idem_image *ret);
/* A finished entry comes back, in its place by age. TT_E_CAPACITY: there is no room, or one of the
 * name; TT_E_INVALID: it is none; TT_E_NOMEM. */
tt_code tt_idem_restore(tt_idem *s, const tt_idem_image *im, tt_err *reterr);

typedef struct tt_idem_stats {
    int32_t entries, running;
    size_t bytes;
} tt_idem_stats;
tt_idem_stats tt_idem_get_stats(const tt_idem *s);

#endif
