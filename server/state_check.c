/* state_check.c - see state_check.h. */
#include "server/state_check.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "core/state_file.h"
#include "server/idempotency_state.h"
#include "server/job_row.h"
#include "server/state_sql.h"

enum { MAX_DEPTH = 4, MAX_EVENTS = 1000000 };

typedef struct check {
    const char *dir;
    void (*tell)(void *arg, const char *fault);
    void *arg;
    tt_state_report report;
    tt_state_table table;
} check;

static void fault(check *c, const char *what, const char *name, const char *why)
{
    char text[PATH_MAX + 400];
    c->report.faults++;
    snprintf(text, sizeof text, "%s %s: %s", what, name, why);
    c->tell(c->arg, text);
}

/* ---- rows ---- */

static const char *const table_names[TT_STATE_TABLES] = {[TT_STATE_CONTEXT] = "context",
                                                         [TT_STATE_SESSION] = "session",
                                                         [TT_STATE_JOB] = "job",
                                                         [TT_STATE_IDEMPOTENCY] = "answer",
                                                         [TT_STATE_ADAPTER] = "adapter"};

static tt_code check_job(const tt_state_row *row, tt_err *reterr)
{
    tt_job_record *r = NULL;
    tt_code rc = tt_job_row_read(row, MAX_EVENTS, &r, reterr);
    tt_job_record_unref(&r);
    return rc;
}

static tt_code check_answer(const tt_state_row *row, tt_err *reterr)
{
    tt_idem_image im;
    json_t *keep = NULL;
    tt_code rc = tt_idem_row_read(row, &keep, &im, reterr);
    json_decref(keep);
    return rc;
}

static tt_code check_json(const tt_state_row *row, tt_err *reterr)
{
    json_t *o = json_loads(row->json, 0, NULL);
    bool ok = json_is_object(o);
    json_decref(o);
    return ok ? TT_OK : tt_fail(reterr, TT_E_INVALID, "its text is no JSON object");
}

/* An adapter that could not be written before the server ended is no fault of what was. */
static void look_for_adapters(check *c, const tt_state_row *row)
{
    json_t *o = json_loads(row->json, 0, NULL);
    const json_t *list = json_object_get(o, "generations"), *g;
    size_t i;
    json_array_foreach(list, i, g)
    {
        char path[PATH_MAX], text[PATH_MAX];
        struct stat sb;
        const char *id = json_string_value(json_object_get(g, "adapter"));
        snprintf(path, sizeof path, "%s/adapters/%.16s.qa", c->dir, id != NULL ? id : "");
        if (id != NULL && stat(path, &sb) != 0 && errno == ENOENT) {
            c->report.lost++;
            snprintf(text, sizeof text,
                     "session %.100s: the adapter of generation %d was not saved", row->id,
                     (int)json_integer_value(json_object_get(g, "number")));
            c->tell(c->arg, text);
        }
    }
    json_decref(o);
}

static tt_code check_row(void *arg, const tt_state_row *row)
{
    check *c = arg;
    tt_err err = {0};
    c->report.rows[c->table]++;
    tt_code rc = c->table == TT_STATE_JOB           ? check_job(row, &err)
                 : c->table == TT_STATE_IDEMPOTENCY ? check_answer(row, &err)
                                                    : check_json(row, &err);
    if (rc == TT_E_NOMEM) { /* the row may be well */
        return rc;
    }
    if (rc < 0) {
        fault(c, table_names[c->table], row->id, err.msg);
    } else if (c->table == TT_STATE_SESSION) {
        look_for_adapters(c, row);
    }
    return TT_OK;
}

static tt_code check_database(check *c, const char *dir, tt_err *reterr)
{
    char path[PATH_MAX];
    struct stat sb;
    tt_state_sql *sql = NULL;
    if (snprintf(path, sizeof path, "%s/state.db", dir) >= (int)sizeof path ||
        stat(path, &sb) != 0) {
        return tt_fail(reterr, TT_E_IO, "there is no state.db in '%.200s'", dir);
    }
    tt_code rc = tt_state_sql_open(path, true, &sql, reterr);
    if (rc == TT_E_MODEL) {
        fault(c, "file", "state.db", reterr->msg);
        return TT_OK;
    }
    for (c->table = 0; rc == TT_OK && c->table < TT_STATE_TABLES; c->table++) {
        rc = tt_state_sql_each(sql, c->table, false, check_row, c, reterr);
    }
    tt_state_sql_close(&sql);
    return rc;
}

/* ---- files ---- */

static tt_code check_folder(check *c, const char *folder, int depth, tt_err *reterr);

static tt_code check_entry(check *c, const char *folder, const char *name, int depth,
                           tt_err *reterr)
{
    char path[PATH_MAX];
    struct stat sb;
    tt_state_kind kind;
    uint64_t bytes = 0;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path ||
        lstat(path, &sb) != 0) {
        return TT_OK; /* gone meanwhile */
    }
    if (S_ISDIR(sb.st_mode)) {
        return depth < MAX_DEPTH ? check_folder(c, path, depth + 1, reterr) : TT_OK;
    }
    if (depth == 0) { /* the database's own */
        return TT_OK;
    }
    if (tt_state_is_temporary(name)) {
        c->report.unfinished++;
        return TT_OK;
    }
    tt_err err = {0};
    tt_code rc = tt_state_file_check(folder, name, &kind, &bytes, &err);
    if (rc < 0 && (rc != TT_E_IO || lstat(path, &sb) == 0)) {
        fault(c, "file", path, err.msg);
    }
    c->report.files++;
    c->report.file_bytes += (int64_t)bytes;
    return TT_OK;
}

static tt_code check_folder(check *c, const char *folder, int depth, tt_err *reterr)
{
    DIR *d = opendir(folder);
    const struct dirent *e;
    tt_code rc = TT_OK;
    if (d == NULL) {
        return tt_fail(reterr, TT_E_IO, "cannot read the folder '%.200s'", folder);
    }
    while (rc == TT_OK && (e = readdir(d)) != NULL) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            rc = check_entry(c, folder, e->d_name, depth, reterr);
        }
    }
    closedir(d);
    return rc;
}

tt_code tt_state_check(const char *dir, void (*tell)(void *arg, const char *what), void *arg,
                       tt_state_report *ret, tt_err *reterr)
{
    check c = {.dir = dir, .tell = tell, .arg = arg};
    tt_code rc = check_database(&c, dir, reterr);
    if (rc == TT_OK) {
        rc = check_folder(&c, dir, 0, reterr);
    }
    if (rc == TT_OK) {
        *ret = c.report;
    }
    return rc;
}
