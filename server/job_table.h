/* job_table.h - all qTTT jobs that can be found: by id, in lists, and how long finished ones are
 * kept. What is too old goes when somebody next looks. Thread: the loop thread. */
#ifndef TT_JOB_TABLE_H
#define TT_JOB_TABLE_H

#include "server/job_record.h"

typedef struct tt_job_table_options {
    int32_t max_events;                           /* of one job; 0 = 512 */
    double retention_seconds;                     /* of a finished job; 0 = 86,400 */
    int32_t max_finished;                         /* finished jobs kept for one API key; 0 = 500 */
    double (*now)(void);                          /* Unix seconds */
    void (*watch)(void *arg, const tt_event *ev); /* each event that the table reads; may be NULL */
    /* ---- rows (job_state.h); each may be NULL ---- */
    void (*changed)(void *arg, tt_job_record *r); /* events were added, or it has ended */
    void (*gone)(void *arg, tt_job_record *r);    /* it can no longer be found */
    /* An event that ends a job whose events the table reads. True: it is kept back, and with it all
     * that follow, until tt_job_table_release(). */
    bool (*hold)(void *arg, tt_job_record *r, const tt_event *ev);
    bool (*durable)(void *arg); /* rows survive the process; NULL: they do not */
    void (*on_ended)(void *arg, const tt_job_record *r); /* just now; may be NULL */
    void *arg;
} tt_job_table_options;

tt_code tt_job_table_create(const tt_job_table_options *opt, tt_job_table **ret_table,
                            tt_err *reterr);
/* Records that others refer to stay theirs. */
void tt_job_table_destroy(tt_job_table **table);

/* Strings are copied. */
typedef struct tt_job_open {
    const char *scope;      /* tenant */
    const char *key;        /* of the session; NULL: a random one */
    const char *session_id; /* NULL = none */
    const char *model;
    const char *metadata; /* JSON text of an object; NULL = {} */
    int32_t after_n;      /* jobs that the session has had: the new one's n is larger */
    int32_t generation;   /* of the session, before it */
    tt_job *const *jobs;  /* [n_jobs] referenced; the first one's parameters become the record's,
                             resolved */
    int32_t n_jobs;       /* 1, or those of a request that share the training */
    bool in_request;      /* its events are fed by the opener; else the table reads them */
    /* The training has ended and its adapter is kept: adds it to the session and sets
     * generation_after, before anybody is told. NULL = nothing. */
    void (*publish)(tt_job_record *r, void *arg);
    void (*release)(
        void *arg); /* arg is not used any more. NULL = nothing; not called on failure */
    void *arg;
} tt_job_open;

/* A new record, queued, before its job is submitted. *ret_record: a reference for the caller.
 * TT_E_NOMEM. */
tt_code tt_job_table_open(tt_job_table *t, const tt_job_open *o, tt_job_record **ret_record,
                          tt_err *reterr);
/* A record read from a row, in its place by age; *r: the caller's reference becomes the table's.
 * One that has ended may be, or make another, too many: that is gone then. */
void tt_job_table_restore(tt_job_table *t, tt_job_record **r);
/* The engine's job goes on with it: the table reads its events. TT_E_NOMEM. */
tt_code tt_job_table_attach(tt_job_table *t, tt_job_record *r, tt_job *job, tt_err *reterr);
/* What was kept back of it takes effect, and what follows is read. */
void tt_job_table_release(tt_job_table *t, tt_job_record *r);
/* As if it had never been there: its job was not accepted, or adapted nothing. Followers are told
 * that it was cancelled. */
void tt_job_table_discard(tt_job_table *t, tt_job_record *r);

/* Borrowed; NULL when this tenant has none of this id. */
tt_job_record *tt_job_table_find(tt_job_table *t, const char *scope, const char *id);

typedef struct tt_job_list {
    const char *scope;
    const char *session_id; /* NULL = all */
    const char *after;      /* the id before the first; "" = from the beginning */
    int32_t limit;
    bool ascending; /* oldest first */
} tt_job_list;

/* Fills v[limit] (borrowed records). False: there is no job `after`. */
bool tt_job_table_list(tt_job_table *t, const tt_job_list *q, tt_job_record **v, int32_t *ret_n,
                       bool *ret_more);

/* Of a table: the newest record, and what follows it; NULL = there is none. */
tt_job_record *tt_job_table_first(const tt_job_table *t);
/* Reads the events of all jobs that the table drains; called when the engine has woken the loop. */
void tt_job_table_poll(tt_job_table *t);
/* A session is deleted: asks to cancel its jobs. Their records stay. */
void tt_job_table_cancel_session(tt_job_table *t, const char *scope, const char *session_id);
/* Jobs that have not ended; of a session unless session_id is NULL (and then of all tenants). */
int32_t tt_job_table_live(const tt_job_table *t, const char *scope, const char *session_id);

/* Every job that has not ended, newest first; the function changes nothing in the table. */
void tt_job_table_each_live(const tt_job_table *t, void (*each)(void *arg, const tt_job_record *r),
                            void *arg);
/* Other values of the options of these names, above 0. */
void tt_job_table_set_retention(tt_job_table *t, double retention_seconds, int32_t max_finished);

/* ---- job_record.c ---- */

double tt_job_table_now(const tt_job_table *t);
bool tt_job_table_durable(const tt_job_table *t);
void tt_job_table_changed(tt_job_table *t, tt_job_record *r);
/* r has ended: old ones of its tenant may have to go. */
void tt_job_table_ended(tt_job_table *t, const tt_job_record *r);

#endif
