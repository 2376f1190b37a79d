/* state_sql.c - see state_sql.h. One table a kind of row, all of one shape:
 *   scope, id (the key), created_at, expires_at, json, blob
 * in the order of first insertion (rowid, which a later put of the same key keeps). Statements are
 * prepared when first used and kept. */
#include "server/state_sql.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    APPLICATION_ID = 0x71747474, /* "qttt" */
    BUSY_MS = 5000,              /* somebody copies the file */
    MAX_CHECKED = 256 << 20      /* bytes of a file that is read from end to end at start */
};

typedef enum verb { PUT, DELETE, GET, VERBS } verb;

struct tt_state_sql {
    sqlite3 *db;
    sqlite3_stmt *cached[TT_STATE_TABLES][VERBS];
};

static const char *const table_name[TT_STATE_TABLES] = {[TT_STATE_CONTEXT] = "context",
                                                        [TT_STATE_SESSION] = "session",
                                                        [TT_STATE_JOB] = "job",
                                                        [TT_STATE_IDEMPOTENCY] = "idempotency",
                                                        [TT_STATE_ADAPTER] = "adapter"};

/* migrations[v] brings a file of version v to v + 1. Those that are released never change. */
#define TABLE(name)                                                                                \
    "CREATE TABLE " name " (number INTEGER PRIMARY KEY, scope TEXT NOT NULL, id TEXT NOT NULL,"    \
    " created_at REAL NOT NULL, expires_at REAL NOT NULL, json TEXT NOT NULL, blob BLOB,"          \
    " UNIQUE (scope, id));"
static const char *const migrations[TT_STATE_VERSION] = {
    TABLE("context") TABLE("session") TABLE("job") TABLE("idempotency") TABLE("adapter")};

/* What an extended result code means to the server. */
static tt_code code_of(int sqlite_code)
{
    switch (sqlite_code & 0xFF) {
    case SQLITE_NOMEM:
        return TT_E_NOMEM;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return TT_E_MODEL;
    case SQLITE_TOOBIG:
        return TT_E_INVALID;
    default:
        return TT_E_IO;
    }
}

static tt_code fail(const tt_state_sql *s, int code, tt_err *reterr)
{
    const char *what = s->db != NULL ? sqlite3_errmsg(s->db) : sqlite3_errstr(code);
    return tt_fail(reterr, code_of(code), "state.db: %.180s", what);
}

static tt_code run(tt_state_sql *s, const char *sql, tt_err *reterr)
{
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? TT_OK : fail(s, rc, reterr);
}

/* ---- open ---- */

/* The one value of a query; text that is not "ok" of a check comes back as a failure. */
static tt_code read_int(tt_state_sql *s, const char *sql, int *ret, tt_err *reterr)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(st);
    }
    if (rc == SQLITE_ROW) {
        *ret = sqlite3_column_int(st, 0);
    }
    sqlite3_finalize(st);
    return rc == SQLITE_ROW ? TT_OK : fail(s, rc, reterr);
}

static tt_code migrate(tt_state_sql *s, tt_err *reterr)
{
    char sql[96];
    int version = 0, application = 0;
    tt_code rc = read_int(s, "PRAGMA user_version", &version, reterr);
    if (rc == TT_OK) {
        rc = read_int(s, "PRAGMA application_id", &application, reterr);
    }
    if (rc < 0) {
        return rc;
    }
    if (version > 0 && application != APPLICATION_ID) {
        return tt_fail(reterr, TT_E_MODEL, "state.db: is another program's database");
    }
    if (version > TT_STATE_VERSION) {
        return tt_fail(reterr, TT_E_UNSUPPORTED,
                       "state.db: was written by a newer version of qttt (schema %d, this one "
                       "knows %d)",
                       version, TT_STATE_VERSION);
    }
    for (; rc == TT_OK && version < TT_STATE_VERSION; version++) {
        snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                 APPLICATION_ID, version + 1);
        rc = run(s, "BEGIN IMMEDIATE", reterr);
        if (rc == TT_OK) {
            rc = run(s, migrations[version], reterr);
        }
        if (rc == TT_OK) {
            rc = run(s, sql, reterr);
        }
        if (rc == TT_OK) {
            rc = run(s, "COMMIT", reterr);
        }
        if (rc < 0) {
            tt_state_sql_rollback(s);
        }
    }
    return rc;
}

/* What the check found: damage, or (its text ends with the code) a page that could not be read,
 * which is no reason to put the file aside. */
static tt_code code_of_check(const char *text)
{
    static const char mark[] = "error code=";
    const char *at = text != NULL ? strstr(text, mark) : NULL;
    if (text == NULL) {
        return TT_E_NOMEM;
    }
    return at == NULL ? TT_E_MODEL : code_of((int)strtol(at + sizeof mark - 1, NULL, 10));
}

static tt_code check_pages(tt_state_sql *s, tt_err *reterr)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(st);
    }
    const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : "";
    bool ok = rc == SQLITE_ROW && text != NULL && strcmp(text, "ok") == 0;
    tt_code code = ok                 ? TT_OK
                   : rc == SQLITE_ROW ? tt_fail(reterr, code_of_check(text), "state.db: %.180s",
                                                text != NULL ? text : "no memory to check it")
                                      : fail(s, rc, reterr);
    sqlite3_finalize(st);
    return code;
}

tt_code tt_state_sql_open(const char *path, bool check, tt_state_sql **ret, tt_err *reterr)
{
    struct stat sb = {0};
    tt_state_sql *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    bool there = stat(path, &sb) == 0 && sb.st_size > 0;
    int rc = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    tt_code code = rc == SQLITE_OK ? TT_OK : fail(s, rc, reterr);
    if (code == TT_OK) {
        sqlite3_extended_result_codes(s->db, 1);
        sqlite3_busy_timeout(s->db, BUSY_MS);
        code = run(s,
                   "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                   "PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -8192",
                   reterr);
    }
    if (code == TT_OK && check && there && sb.st_size <= MAX_CHECKED) {
        code = check_pages(s, reterr);
    }
    if (code == TT_OK) {
        code = migrate(s, reterr);
    }
    if (code < 0) {
        tt_state_sql_close(&s);
        return code;
    }
    *ret = s;
    return TT_OK;
}

void tt_state_sql_close(tt_state_sql **sql)
{
    tt_state_sql *s = *sql;
    if (s != NULL) {
        for (int t = 0; t < TT_STATE_TABLES; t++) {
            for (int v = 0; v < VERBS; v++) {
                sqlite3_finalize(s->cached[t][v]);
            }
        }
        if (s->db != NULL) {
            sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        }
        sqlite3_close(s->db);
        free(s);
        *sql = NULL;
    }
}

/* ---- write ---- */

tt_code tt_state_sql_begin(tt_state_sql *s, tt_err *reterr)
{
    return run(s, "BEGIN IMMEDIATE", reterr);
}

tt_code tt_state_sql_touch(tt_state_sql *s, tt_err *reterr)
{
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", TT_STATE_VERSION);
    return run(s, sql, reterr);
}

tt_code tt_state_sql_commit(tt_state_sql *s, tt_err *reterr)
{
    return run(s, "COMMIT", reterr);
}

void tt_state_sql_rollback(tt_state_sql *s)
{
    if (!sqlite3_get_autocommit(s->db)) { /* some failures have rolled back already */
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    }
}

/* A statement with its key bound: parameters 1 and 2. */
static tt_code statement(tt_state_sql *s, tt_state_table t, verb v, const tt_state_row *key,
                         sqlite3_stmt **ret, tt_err *reterr)
{
    static const char *const text[VERBS] = {
        [PUT] = ("INSERT INTO %s (scope, id, created_at, expires_at, json, blob) VALUES (?1, ?2, "
                 "?3, ?4, ?5, ?6) ON CONFLICT (scope, id) DO UPDATE SET created_at = ?3, "
                 "expires_at = ?4, json = ?5, blob = ?6"),
        [DELETE] = "DELETE FROM %s WHERE scope = ?1 AND id = ?2",
        [GET] = ("SELECT scope, id, created_at, expires_at, json, blob FROM %s WHERE scope = ?1 "
                 "AND id = ?2")};
    char sql[400];
    sqlite3_stmt **st = &s->cached[t][v];
    int rc = SQLITE_OK;
    if (*st == NULL) {
        snprintf(sql, sizeof sql, text[v], table_name[t]);
        rc = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, st, NULL);
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_bind_text(*st, 1, key->scope, -1, SQLITE_STATIC);
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_bind_text(*st, 2, key->id, -1, SQLITE_STATIC);
    }
    if (rc != SQLITE_OK) {
        return fail(s, rc, reterr);
    }
    *ret = *st;
    return TT_OK;
}

/* Runs it to its end and makes it ready for the next time. */
static tt_code finish(tt_state_sql *s, sqlite3_stmt *st, int rc, tt_err *reterr)
{
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(st);
    }
    tt_code code = rc == SQLITE_DONE ? TT_OK : fail(s, rc, reterr);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return code;
}

tt_code tt_state_sql_put(tt_state_sql *s, tt_state_table t, const tt_state_row *row, tt_err *reterr)
{
    sqlite3_stmt *st = NULL;
    tt_code code = statement(s, t, PUT, row, &st, reterr);
    if (code < 0) {
        return code;
    }
    int rc = sqlite3_bind_double(st, 3, row->created_at);
    if (rc == SQLITE_OK) {
        rc = sqlite3_bind_double(st, 4, row->expires_at);
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_bind_text(st, 5, row->json != NULL ? row->json : "{}", -1, SQLITE_STATIC);
    }
    if (rc == SQLITE_OK && row->blob != NULL) {
        rc = sqlite3_bind_blob64(st, 6, row->blob, row->n_blob, SQLITE_STATIC);
    }
    return finish(s, st, rc, reterr);
}

tt_code tt_state_sql_delete(tt_state_sql *s, tt_state_table t, const tt_state_row *key,
                            tt_err *reterr)
{
    sqlite3_stmt *st = NULL;
    tt_code code = statement(s, t, DELETE, key, &st, reterr);
    return code < 0 ? code : finish(s, st, SQLITE_OK, reterr);
}

/* ---- read ---- */

/* Borrowed until the next step. */
static tt_state_row row_of(sqlite3_stmt *st)
{
    tt_state_row r = {.scope = (const char *)sqlite3_column_text(st, 0),
                      .id = (const char *)sqlite3_column_text(st, 1),
                      .created_at = sqlite3_column_double(st, 2),
                      .expires_at = sqlite3_column_double(st, 3),
                      .json = (const char *)sqlite3_column_text(st, 4)};
    r.blob = sqlite3_column_blob(st, 5);
    r.n_blob = (size_t)sqlite3_column_bytes(st, 5);
    return r;
}

static tt_state_found *copy_row(const tt_state_row *r)
{
    size_t scope = strlen(r->scope) + 1, id = strlen(r->id) + 1, json = strlen(r->json) + 1;
    tt_state_found *f = malloc(sizeof *f + r->n_blob + scope + id + json);
    if (f == NULL) {
        return NULL;
    }
    char *p = (char *)(f + 1);
    f->row = *r;
    f->row.blob = r->blob != NULL ? p : NULL;
    if (r->n_blob > 0) {
        memcpy(p, r->blob, r->n_blob);
    }
    p += r->n_blob;
    f->row.scope = memcpy(p, r->scope, scope);
    f->row.id = memcpy(p + scope, r->id, id);
    f->row.json = memcpy(p + scope + id, r->json, json);
    return f;
}

tt_code tt_state_sql_get(tt_state_sql *s, tt_state_table t, const tt_state_row *key,
                         tt_state_found **ret, tt_err *reterr)
{
    sqlite3_stmt *st = NULL;
    tt_code code = statement(s, t, GET, key, &st, reterr);
    if (code < 0) {
        return code;
    }
    int rc = sqlite3_step(st);
    tt_state_found *found = NULL;
    if (rc == SQLITE_ROW) {
        tt_state_row r = row_of(st);
        bool whole = r.scope != NULL && r.id != NULL && r.json != NULL;
        found = whole ? copy_row(&r) : NULL;
        code = found != NULL ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "out of memory for a row");
    } else if (rc != SQLITE_DONE) {
        code = fail(s, rc, reterr);
    }
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    if (code == TT_OK) {
        *ret = found;
    }
    return code;
}

tt_code tt_state_sql_each(tt_state_sql *s, tt_state_table t, bool keys_only,
                          tt_code (*row)(void *arg, const tt_state_row *r), void *arg,
                          tt_err *reterr)
{
    char sql[160];
    sqlite3_stmt *st = NULL;
    snprintf(sql, sizeof sql, "SELECT %s FROM %s ORDER BY %s",
             keys_only ? "scope, id, 0, 0, '{}', NULL"
                       : "scope, id, created_at, expires_at, json, blob",
             table_name[t], keys_only ? "scope, id" : "number");
    tt_code code = TT_OK;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &st, NULL);
    while (rc == SQLITE_OK && code == TT_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        tt_state_row r = row_of(st);
        if (r.scope == NULL || r.id == NULL || r.json == NULL) {
            code = tt_fail(reterr, TT_E_NOMEM, "out of memory for a row");
        } else {
            code = row(arg, &r);
            code = code < 0 ? tt_fail(reterr, code, "state.db: %s", tt_code_text(code)) : code;
        }
        rc = SQLITE_OK;
    }
    if (code == TT_OK && rc != SQLITE_DONE) {
        code = fail(s, rc, reterr);
    }
    sqlite3_finalize(st);
    return code;
}

int64_t tt_state_sql_file_bytes(tt_state_sql *s)
{
    int pages = 0, page = 0;
    tt_err err;
    return read_int(s, "PRAGMA page_count", &pages, &err) == TT_OK &&
                   read_int(s, "PRAGMA page_size", &page, &err) == TT_OK
               ? (int64_t)pages * page
               : 0;
}
