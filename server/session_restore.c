/* session_restore.c - sessions of an earlier process (session_state.h): their rows are read before
 * the server is ready, their tokens and texts when a request needs them. A record that is not used
 * costs about two kilobytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/session_row.h"
#include "server/session_state.h"
#include "server/session_store_priv.h"

typedef struct restoring {
    tt_session_store *st;
    tt_session_restored n;
    double now, now_unix;
    tt_state_txn *x; /* rows that go */
} restoring;

/* What the record takes over. */
static void fill_record(restoring *t, tt_session_record *r, tt_session_row *row)
{
    double idle = t->now_unix - row->last_used;
    r->created_at = row->created_at;
    r->ttl_seconds = row->ttl_seconds;
    r->answered = row->answered;
    r->have_qttt = row->have_qttt;
    r->alias = row->alias;
    r->n_jobs = row->n_jobs;
    r->qttt = json_incref(row->qttt);
    free(r->metadata);
    r->metadata = row->metadata;
    row->metadata = NULL;
    strcpy(r->model, row->model);
    strcpy(r->text_key, row->text_key);
    strcpy(r->context_text_key, row->context_text_key);
    r->last_used = r->saved_used = t->now - (idle > 0 ? idle : 0);
    r->in_db = true;
    for (int32_t i = 0; i < row->image.n_parts; i++) {
        strcpy(r->saved[r->n_saved++], row->image.parts[i].key);
    }
    if (r->text_key[0] != '\0') {
        strcpy(r->saved[r->n_saved++], r->text_key);
    }
    if (r->context_text_key[0] != '\0') {
        strcpy(r->saved[r->n_saved++], r->context_text_key);
    }
    for (int32_t i = 0; i < r->n_saved; i++) {
        (void)tt_content_ref(t->st->contents, r->saved[i]);
    }
}

/* A row that cannot be read stays: another version may be able to. */
static tt_code restore_row(void *arg, const tt_state_row *state_row)
{
    restoring *t = arg;
    tt_session_row row;
    tt_session *data = NULL;
    tt_session_record *r = NULL;
    tt_err err;
    tt_code rc = tt_session_row_read(state_row, &row, &err);
    if (rc < 0) {
        t->n.unreadable += rc != TT_E_NOMEM;
        return rc == TT_E_NOMEM ? rc : TT_OK;
    }
    rc = tt_session_restore(&row.image, t->st->opt.max_generations, &data, &err);
    if (rc == TT_OK) {
        rc = tt_session_store_restore(t->st, row.scope, row.id, row.implicit, data, &r, &err);
    }
    if (rc == TT_OK) {
        fill_record(t, r, &row);
        tt_session_recount(r);
        t->n.n++;
    } else {
        tt_session_destroy(&data);
    }
    tt_session_row_finish(&row);
    return rc == TT_E_NOMEM ? rc : TT_OK;
}

static tt_code sweep_content(void *arg, const tt_state_row *row)
{
    restoring *t = arg;
    if (!tt_content_known(t->st->contents, row->id)) {
        (void)tt_state_delete(t->x, TT_STATE_CONTEXT, row->scope, row->id);
    }
    return TT_OK;
}

tt_code tt_session_state_restore(tt_session_store *st, tt_session_restored *ret, tt_err *reterr)
{
    tt_state_db *db = tt_session_state_of(st);
    restoring t = {.st = st, .now = tt_session_clock(), .now_unix = (double)time(NULL)};
    tt_code rc = tt_state_each(db, TT_STATE_SESSION, restore_row, &t, reterr);
    st->unreadable = t.n.unreadable > 0;
    if (rc == TT_OK && !st->unreadable && db != NULL) {
        t.x = tt_state_begin(db);
        rc = tt_state_each_key(db, TT_STATE_CONTEXT, sweep_content, &t, reterr);
        tt_state_commit(t.x, NULL, NULL);
    }
    if (rc == TT_OK) {
        *ret = t.n;
    }
    return rc;
}

void tt_session_store_set_model(tt_session_store *st, const char *model)
{
    snprintf(st->model, sizeof st->model, "%s", model);
    for (tt_session_record *r = st->first; r != NULL; r = r->next) {
        r->foreign = strcmp(r->model, st->model) != 0;
        if (r->foreign) {
            r->status = TT_SESSION_FAILED;
            (void)tt_fail(&r->error, TT_E_STATE,
                          "the session was made with another model; serve that one, or delete the "
                          "session and make it anew");
        }
    }
}
