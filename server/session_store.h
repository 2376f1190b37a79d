/* session_store.h - the sessions that can be found: by tenant and id, in lists, how long and how
 * many. A record is core/session.h's session and what only the server knows of it. Thread: the loop
 * thread.
 * The store outlives every record.
 *
 * A record is reference-counted: the store holds one reference while it can be found, each request
 * that runs in it one. What the adapters of a session are worth to the engine ends with the
 * record's place in the store: its pins are given back then. */
#ifndef TT_SESSION_STORE_H
#define TT_SESSION_STORE_H

#include <jansson.h>

#include "core/engine.h"
#include "core/session.h"
#include "server/api_qttt.h"
#include "server/session_text.h"

enum { TT_SESSION_PREFIX = 4 /* "ses_" */, TT_SESSION_KEY_BYTES = 65, TT_SESSION_ID_BYTES = 72 };
enum { TT_SESSION_MODEL = 40, TT_SESSION_SAVED = 3 + TT_SESSION_BRANCHES };

typedef struct tt_session_store tt_session_store;

typedef enum tt_session_status {
    TT_SESSION_QUEUED,
    TT_SESSION_PREFILLING,
    TT_SESSION_READY,
    TT_SESSION_FAILED
} tt_session_status;

/* A request that runs in a session and has to end when the session is deleted. */
typedef struct tt_session_user {
    void (*on_deleted)(struct tt_session_user *u); /* it takes itself off the list */
    struct tt_session_user *prev, *next;
} tt_session_user;

/* An append that waits for another. */
typedef struct tt_session_waiter {
    void (*go)(struct tt_session_waiter *w); /* it has been taken off the list */
    struct tt_session_waiter *next;
} tt_session_waiter;

/* A request that waits for a session's tokens to be read from the disk. */
typedef struct tt_session_loader {
    /* It has been taken off the list; err NULL: they are in memory, until this returns at least. */
    void (*go)(struct tt_session_loader *l, const tt_err *err);
    struct tt_session_loader *next;
} tt_session_loader;

typedef struct tt_session_record {
    /* ---- constant ---- */
    char id[TT_SESSION_ID_BYTES]; /* ses_<key> */
    char scope[40];               /* tenant */
    uint64_t tag;                 /* tt_job_params.session_tag */
    int64_t created_at;           /* Unix seconds */
    bool implicit;                /* made by a chat request with a key that was not known */
    /* ---- the owner's to change ---- */
    tt_session *data; /* owned */
    tt_session_text
        *text; /* what an append goes on from; NULL: a session of raw tokens, or none yet */
    tt_session_text *context_text; /* of the context alone, for forks without the transcript */
    tt_session_status status;
    tt_err error;                /* of FAILED */
    int32_t done, total;         /* tokens of the prefill */
    char *metadata;              /* owned: JSON text of an object */
    json_t *qttt;                /* owned: default of requests as it was given, or NULL */
    bool have_qttt;              /* its requests have a default */
    bool alias;                  /* which is the model's alias */
    tt_qttt_request qttt_parsed; /* the same, read; with generation and start */
    double ttl_seconds;          /* idle time; 0 = for ever */
    int64_t n_jobs;              /* ever numbered */
    bool answered;               /* a request has finished in it */
    /* ---- session_state.c's and session_load.c's ---- */
    char model[TT_SESSION_MODEL]; /* whose token ids these are: tt_session_store_set_model() */
    bool foreign;                 /* another model's than the one that is served */
    bool in_db, deleting;         /* it has a row; that goes with a transaction that waits */
    bool dirty;                   /* the row says less than the record */
    bool suspect; /* a write failed that may have been its; what it refers to is put again */
    char text_key[TT_SESSION_PART_KEY], context_text_key[TT_SESSION_PART_KEY];
    char saved[TT_SESSION_SAVED][TT_SESSION_PART_KEY]; /* [n_saved] what the row refers to */
    int32_t n_saved;
    double saved_at, saved_used; /* monotonic */
    bool loading;
    tt_session_loader *load_first, *load_last;
    /* ---- private ---- */
    tt_session_store *store;
    bool deleted;
    tt_job *prefill; /* a reference, or NULL */
    bool job_after_prefill;
    int refs;
    double last_used; /* monotonic */
    size_t bytes;     /* as counted in the store */
    tt_session_user *users;
    tt_session_waiter *waiting_first, *waiting_last;
    struct tt_session_record *prev, *next; /* newest first */
    struct tt_session_record *chain;       /* of the table */
} tt_session_record;

typedef struct tt_session_store_options {
    int32_t max_sessions;
    size_t max_bytes; /* host memory of all of them: ids, messages, text */
    double ttl_seconds;
    int32_t max_generations;
    tt_engine *(*engine)(void *arg); /* to pin adapters and to submit; NULL while loading */
    /* One more for this tenant, of n bytes: TT_OK, or why not. May be NULL. */
    tt_code (*may_add)(void *arg, const char *scope, size_t n_bytes, tt_err *reterr);
    struct tt_state_db *(*state)(void *arg); /* may be NULL, and return it: in memory only */
    /* The prefill of a session whose default is mode on has ended. May be NULL. */
    void (*on_prefilled)(void *arg, tt_session_record *r);
    /* The record has just left the store. May be NULL. */
    void (*on_deleted)(void *arg, tt_session_record *r);
    void (*wake)(void *arg); /* for the prefill's job: any thread */
    void *arg, *wake_arg;
} tt_session_store_options;

tt_code tt_session_store_create(const tt_session_store_options *opt, tt_session_store **ret,
                                tt_err *reterr);
/* Every record that nobody else refers to is freed. */
void tt_session_store_destroy(tt_session_store **store);

/* The key of a request (docs/api.md): `given` itself when it is 1-64 of [A-Za-z0-9_-] (without a
 * leading "ses_"), else a hash of it; NULL or "": a random one. */
void tt_session_key(const char *given, char ret[TT_SESSION_KEY_BYTES]);

/* A fresh key that proxies route like `key` (docs/operations.md): what stands before its first
 * "--", that mark, and something random; wholly random when `key` is too long for that. */
void tt_session_key_beside(const char *key, char ret[TT_SESSION_KEY_BYTES]);

/* Whether `s` can be a key as it is. */
bool tt_session_is_key(const char *s);

/* Borrowed; NULL = this tenant has none of this id ("ses_..."). */
tt_session_record *tt_session_store_find(tt_session_store *st, const char *scope, const char *id);

/* A new record around `data`, which it takes over on success; text NULL or a reference, taken over.
 * Makes room among idle implicit sessions when there is none: TT_E_CAPACITY when that is not
 * enough. TT_E_BUSY: the id is taken. *ret: borrowed from the store. */
tt_code tt_session_store_add(tt_session_store *st, const char *scope, const char *key,
                             bool implicit, tt_session *data, tt_session_text *text,
                             tt_session_record **ret, tt_err *reterr);
/* Deletes idle implicit sessions, the least recently used first, while all together take more
 * memory than they may. */
void tt_session_store_trim(tt_session_store *st);
/* Takes it out: users are told, its prefill is cancelled, its adapters are unpinned. */
void tt_session_store_delete(tt_session_record *r);

void tt_session_ref(tt_session_record *r);
/* *r may be NULL and becomes it. */
void tt_session_unref(tt_session_record **r);
void tt_session_add_user(tt_session_record *r, tt_session_user *u);
void tt_session_remove_user(tt_session_record *r, tt_session_user *u);

/* It was used now; also counts its memory anew. */
void tt_session_touch(tt_session_record *r);
/* Unix seconds; 0 = never. */
int64_t tt_session_last_used_at(const tt_session_record *r);
int64_t tt_session_expires_at(const tt_session_record *r);

/* The context is another, and its text with it: taken over. */
void tt_session_set_context_text(tt_session_record *r, tt_session_text *text);
/* An append, or what excludes one, has ended: the next that waits goes on. When the session is
 * deleted, all do. */
void tt_session_append_ended(tt_session_record *r);
void tt_session_wait(tt_session_record *r, tt_session_waiter *w);
/* Legal for one that does not wait. */
void tt_session_stop_waiting(tt_session_record *r, tt_session_waiter *w);

/* Puts the prefill of its context into the queue; status follows from its events. An empty context
 * is ready at once. Errors are those of tt_engine_submit(). */
tt_code tt_session_start_prefill(tt_session_record *r, tt_err *reterr);

/* An adapter that was trained for it and that the engine has pinned once becomes its latest
 * generation; *ret_number: its number. Of a deleted session, or when it is a generation already,
 * the pin is given back. */
void tt_session_adopt(tt_session_record *r, const tt_qttt_result *result, const char *job_id,
                      int32_t *ret_number);
/* Back to the base: DELETE /v1/sessions/{id}/adapter. */
void tt_session_drop_adapters(tt_session_record *r);

/* A record as it was in an earlier process: its id may not be taken. data, text keys and the like
 * are the caller's to set. *ret: borrowed. TT_E_NOMEM, TT_E_BUSY. */
tt_code tt_session_store_restore(tt_session_store *st, const char *scope, const char *id,
                                 bool implicit, tt_session *data, tt_session_record **ret,
                                 tt_err *reterr);
/* Pins every generation's adapter once. TT_E_NOMEM: none is pinned, and s has no generations. */
tt_code tt_session_pin_adapters(tt_engine *e, tt_session *s, tt_err *reterr);
/* The engine is there: the adapters of all sessions are pinned in it. `all`: there are no others,
 * files of adapters that none of them has are removed. TT_E_NOMEM: files stay. */
tt_code tt_session_store_pin(tt_session_store *st, bool all, tt_err *reterr);
/* Newest first; NULL = there is none. */
tt_session_record *tt_session_store_first(tt_session_store *st);
/* Counts its memory anew. */
void tt_session_recount(tt_session_record *r);

typedef struct tt_session_list {
    const char *scope;
    const char *after; /* "" = from the beginning */
    int32_t limit;
    bool ascending; /* oldest first */
} tt_session_list;
/* Fills v[limit]. False: there is no session `after`. */
bool tt_session_store_list(tt_session_store *st, const tt_session_list *q, tt_session_record **v,
                           int32_t *ret_n, bool *ret_more);

/* A job that pins what it trains has lost its reader: its events are read to the end, and what it
 * pins is unpinned. Takes the reference over. */
void tt_session_store_reap(tt_session_store *st, tt_job *job);

/* Reads the events of prefills and of such jobs; called when the engine has woken the loop. */
void tt_session_store_poll(tt_session_store *st);
/* Deletes what has been idle too long; seconds until the next can be due, INFINITY = none. */
double tt_session_store_sweep(tt_session_store *st);

/* Every session, newest first; the function changes nothing in the store. */
void tt_session_store_each(const tt_session_store *st,
                           void (*each)(void *arg, const tt_session_record *r), void *arg);
/* Deletes the idle implicit session of a tenant that was used least recently; false: there is none.
 */
bool tt_session_store_shed(tt_session_store *st, const char *scope);
/* Of sessions that are made from now on. */
void tt_session_store_set_ttl(tt_session_store *st, double seconds);

typedef struct tt_session_counts {
    int32_t sessions;
    size_t bytes;
} tt_session_counts;
tt_session_counts tt_session_store_counts(const tt_session_store *st);

#endif
