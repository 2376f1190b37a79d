/* job_table.c - see job_table.h. One list, newest first: a tenant has hundreds of jobs at most, and
 * nobody asks for them a thousand times a second. */
#include "server/job_table.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine.h"
#include "server/hex.h"

struct tt_job_table {
    tt_job_table_options opt;
    tt_job_record *first, *last; /* newest, oldest */
    tt_job_record *live;         /* whose engine's jobs this table reads; each with a reference */
};

tt_code tt_job_table_create(const tt_job_table_options *opt, tt_job_table **ret_table,
                            tt_err *reterr)
{
    assert(opt->now != NULL);
    tt_job_table *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    t->opt = *opt;
    t->opt.max_events = opt->max_events > 0 ? opt->max_events : 512;
    t->opt.retention_seconds = opt->retention_seconds > 0 ? opt->retention_seconds : 86400;
    t->opt.max_finished = opt->max_finished > 0 ? opt->max_finished : 500;
    *ret_table = t;
    return TT_OK;
}

/* Takes a record out of the list; its reference goes with it. */
static void forget(tt_job_table *t, tt_job_record *r)
{
    *(r->prev != NULL ? &r->prev->next : &t->first) = r->next;
    *(r->next != NULL ? &r->next->prev : &t->last) = r->prev;
    r->prev = r->next = NULL;
    r->table = NULL;
    if (t->opt.gone != NULL) {
        t->opt.gone(t->opt.arg, r);
    }
    tt_job_record_unref(&r);
}

void tt_job_table_destroy(tt_job_table **table)
{
    tt_job_table *t = *table;
    if (t == NULL) {
        return;
    }
    t->opt.gone = NULL; /* their rows stay */
    while (t->live != NULL) {
        tt_job_record *r = t->live;
        t->live = r->live_next;
        r->live = false;
        tt_job_record_unref(&r);
    }
    while (t->first != NULL) {
        forget(t, t->first);
    }
    free(t);
    *table = NULL;
}

/* What has been over for too long. */
static void expire(tt_job_table *t)
{
    double limit = t->opt.now() - t->opt.retention_seconds;
    for (tt_job_record *r = t->last, *prev; r != NULL; r = prev) {
        prev = r->prev;
        if (tt_job_record_ended(r) && r->finished_at <= limit) {
            forget(t, r);
        }
    }
}

double tt_job_table_now(const tt_job_table *t)
{
    return t->opt.now();
}

bool tt_job_table_durable(const tt_job_table *t)
{
    return t->opt.durable != NULL && t->opt.durable(t->opt.arg);
}

tt_job_record *tt_job_table_first(const tt_job_table *t)
{
    return t->first;
}

void tt_job_table_changed(tt_job_table *t, tt_job_record *r)
{
    if (t->opt.changed != NULL) {
        t->opt.changed(t->opt.arg, r);
    }
}

static tt_job_record *oldest_finished(const tt_job_table *t, const char *scope, int32_t *ret_n)
{
    tt_job_record *oldest = NULL;
    *ret_n = 0;
    for (tt_job_record *r = t->first; r != NULL; r = r->next) {
        if (tt_job_record_ended(r) && strcmp(r->scope, scope) == 0) {
            ++*ret_n;
            oldest = oldest == NULL || r->finished_at <= oldest->finished_at ? r : oldest;
        }
    }
    return oldest;
}

/* One has been added to the finished ones of its tenant, and may go at once: the oldest are too
 * many. */
static void bound_finished(tt_job_table *t, const tt_job_record *ended)
{
    char scope[TT_SCOPE_BYTES];
    int32_t n;
    strcpy(scope, ended->scope);
    for (tt_job_record *r;
         (r = oldest_finished(t, scope, &n)) != NULL && n > t->opt.max_finished;) {
        forget(t, r);
    }
}

void tt_job_table_ended(tt_job_table *t, const tt_job_record *ended)
{
    if (t->opt.on_ended != NULL) {
        t->opt.on_ended(t->opt.arg, ended);
    }
    bound_finished(t, ended);
}

/* ---- opening ---- */

static void name(const tt_job_table *t, const tt_job_open *o, tt_job_record *r)
{
    if (o->key != NULL) {
        snprintf(r->key, sizeof r->key, "%s", o->key);
    } else {
        tt_hex_random(12, r->key);
    }
    r->n = o->after_n;
    for (const tt_job_record *other = t->first; other != NULL; other = other->next) {
        if (other->n > r->n && strcmp(other->scope, r->scope) == 0 &&
            strcmp(other->key, r->key) == 0) {
            r->n = other->n;
        }
    }
    r->n++;
    snprintf(r->id, sizeof r->id, "qttt_%.70s_%d", r->key, (int)r->n);
}

/* In front of `next` (NULL: behind all). The table's reference is the caller's to give. */
static void link_before(tt_job_table *t, tt_job_record *r, tt_job_record *next)
{
    r->table = t;
    r->next = next;
    r->prev = next != NULL ? next->prev : t->last;
    *(r->prev != NULL ? &r->prev->next : &t->first) = r;
    *(next != NULL ? &next->prev : &t->last) = r;
}

static void make_live(tt_job_table *t, tt_job_record *r)
{
    r->live = true;
    r->live_next = t->live;
    t->live = r;
    tt_job_record_ref(r);
}

static void insert(tt_job_table *t, tt_job_record *r)
{
    tt_job_record_ref(r);
    link_before(t, r, t->first);
    if (!r->in_request) {
        make_live(t, r);
    }
}

void tt_job_table_restore(tt_job_table *t, tt_job_record **record)
{
    tt_job_record *r = *record, *next = t->first;
    *record = NULL;
    while (next != NULL && (next->created_at > r->created_at ||
                            (next->created_at == r->created_at && next->n > r->n))) {
        next = next->next;
    }
    link_before(t, r, next);
    if (tt_job_record_ended(r)) { /* it was told when it ended */
        bound_finished(t, r);
    }
}

tt_code tt_job_table_attach(tt_job_table *t, tt_job_record *r, tt_job *job, tt_err *reterr)
{
    tt_code rc = tt_job_record_attach(r, &job, 1, reterr);
    if (rc == TT_OK) {
        make_live(t, r);
    }
    return rc;
}

tt_code tt_job_table_open(tt_job_table *t, const tt_job_open *o, tt_job_record **ret_record,
                          tt_err *reterr)
{
    tt_job_record *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a job");
    }
    expire(t);
    r->refs = 1;
    tt_job_log_init(&r->log, t->opt.max_events);
    r->model = strdup(o->model);
    r->metadata = strdup(o->metadata != NULL ? o->metadata : "{}");
    r->jobs = calloc((size_t)o->n_jobs, sizeof *r->jobs);
    if (r->model == NULL || r->metadata == NULL || r->jobs == NULL) {
        tt_job_record_unref(&r);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a job");
    }
    snprintf(r->scope, sizeof r->scope, "%s", o->scope);
    snprintf(r->session_id, sizeof r->session_id, "%s", o->session_id != NULL ? o->session_id : "");
    name(t, o, r);
    r->in_request = o->in_request;
    r->generation_before = r->generation_after = o->generation;
    r->publish = o->publish;
    r->release = o->release;
    r->arg = o->arg;
    r->params = tt_job_get_params(o->jobs[0])->qttt;
    r->n_context = r->params.context_tokens;
    assert(r->n_context <= tt_job_get_params(o->jobs[0])->n_prompt);
    r->context_hash = tt_job_context_hash(tt_job_get_params(o->jobs[0])->prompt, r->n_context);
    tt_qttt_resolve(&r->params);
    r->created_at = t->opt.now();
    for (; r->n_jobs < o->n_jobs; r->n_jobs++) {
        r->jobs[r->n_jobs] = o->jobs[r->n_jobs];
        tt_job_ref(r->jobs[r->n_jobs]);
    }
    insert(t, r);
    *ret_record = r;
    return TT_OK;
}

void tt_job_table_discard(tt_job_table *t, tt_job_record *r)
{
    tt_job_record_ref(r);
    if (r->table != NULL) {
        forget(t, r);
    }
    tt_job_record_close(r, t->opt.now());
    tt_job_record_unref(&r);
}

/* ---- finding ---- */

tt_job_record *tt_job_table_find(tt_job_table *t, const char *scope, const char *id)
{
    expire(t);
    tt_job_record *r = t->first;
    while (r != NULL && (strcmp(r->id, id) != 0 || strcmp(r->scope, scope) != 0)) {
        r = r->next;
    }
    return r;
}

static bool listed(const tt_job_list *q, const tt_job_record *r)
{
    return strcmp(r->scope, q->scope) == 0 &&
           (q->session_id == NULL || strcmp(r->session_id, q->session_id) == 0);
}

bool tt_job_table_list(tt_job_table *t, const tt_job_list *q, tt_job_record **v, int32_t *ret_n,
                       bool *ret_more)
{
    expire(t);
    tt_job_record *r = q->ascending ? t->last : t->first;
    bool started = q->after[0] == '\0', more = false;
    int32_t n = 0;
    for (; r != NULL && !more; r = q->ascending ? r->prev : r->next) {
        if (!listed(q, r)) {
            continue;
        }
        if (!started) {
            started = strcmp(r->id, q->after) == 0;
        } else if (n == q->limit) {
            more = true;
        } else {
            v[n++] = r;
        }
    }
    if (started) {
        *ret_n = n;
        *ret_more = more;
    }
    return started;
}

/* ---- jobs that run ---- */

/* Takes the event over. */
static void take_event(tt_job_record *r, tt_event *ev, double now)
{
    bool over = ev->type == TT_EV_DONE || ev->type == TT_EV_ERROR;
    tt_job_record_feed(r, ev, now);
    tt_event_free(ev);
    if (over) {
        tt_job_record_close(r, now);
    }
}

static void read_events(tt_job_table *t, tt_job_record *r)
{
    tt_event *ev;
    while (r->held == NULL && r->n_jobs > 0 && (ev = tt_job_next(r->jobs[0])) != NULL) {
        if (t->opt.watch != NULL) {
            t->opt.watch(t->opt.arg, ev);
        }
        if (t->opt.hold != NULL && tt_job_record_ends(r, ev)) {
            r->held = ev;
            r->held_at = t->opt.now();
            if (t->opt.hold(t->opt.arg, r, ev)) {
                return;
            }
            r->held = NULL;
        }
        take_event(r, ev, t->opt.now());
    }
}

void tt_job_table_release(tt_job_table *t, tt_job_record *r)
{
    tt_event *ev = r->held;
    r->held = NULL;
    tt_job_record_ref(r);
    if (ev != NULL) {
        take_event(r, ev, r->held_at);
    }
    read_events(t, r);
    tt_job_record_unref(&r);
}

void tt_job_table_poll(tt_job_table *t)
{
    for (tt_job_record **at = &t->live; *at != NULL;) {
        tt_job_record *r = *at;
        read_events(t, r);
        if (r->n_jobs > 0) {
            at = &r->live_next;
            continue;
        }
        /* What a callback has opened meanwhile stands at the head: the place is looked for anew. */
        for (at = &t->live; *at != r; at = &(*at)->live_next) {
        }
        *at = r->live_next;
        r->live = false;
        tt_job_record_unref(&r);
    }
}

void tt_job_table_cancel_session(tt_job_table *t, const char *scope, const char *session_id)
{
    tt_job_record *r = t->first;
    while (r != NULL) {
        if (strcmp(r->session_id, session_id) == 0 && strcmp(r->scope, scope) == 0 &&
            !tt_job_record_ended(r) && !r->cancel_asked) {
            tt_job_record_cancel(r);
            tt_job_table_changed(t, r);
            r = t->first; /* one that ends at once may take others out of the list */
        } else {
            r = r->next;
        }
    }
}

int32_t tt_job_table_live(const tt_job_table *t, const char *scope, const char *session_id)
{
    int32_t n = 0;
    for (const tt_job_record *r = t->first; r != NULL; r = r->next) {
        n += !tt_job_record_ended(r) &&
             (session_id == NULL ||
              (strcmp(r->session_id, session_id) == 0 && strcmp(r->scope, scope) == 0));
    }
    return n;
}

void tt_job_table_each_live(const tt_job_table *t, void (*each)(void *arg, const tt_job_record *r),
                            void *arg)
{
    for (const tt_job_record *r = t->first; r != NULL; r = r->next) {
        if (!tt_job_record_ended(r)) {
            each(arg, r);
        }
    }
}

void tt_job_table_set_retention(tt_job_table *t, double retention_seconds, int32_t max_finished)
{
    t->opt.retention_seconds = retention_seconds;
    t->opt.max_finished = max_finished;
}
