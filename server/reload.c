/* reload.c - see reload.h. */
#include "server/reload.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "server/health.h"
#include "server/job_table.h"
#include "server/log.h"
#include "server/session_store.h"
#include "server/work.h"

enum { VALUE_BYTES = 120 };

struct tt_reload {
    uv_signal_t sighup;
    tt_server *server;
    tt_settings *settings; /* borrowed: in force */
    tt_settings last;      /* of the last time: owns what `settings` has taken of it */
    bool reading, again;   /* again: a signal came meanwhile */
};

/* One reading. */
typedef struct reload_work {
    tt_work work;
    tt_reload *reload;
    char **args; /* owned */
    int n_args;
    tt_settings next;
    tt_key_list keys;
    tt_code rc;
    tt_err err;
} reload_work;

/* In the pool. */
static void read_files(tt_work *work)
{
    reload_work *w = (reload_work *)(void *)work;
    w->rc = tt_settings_init(&w->next, &w->err);
    if (w->rc == TT_OK) {
        w->rc = tt_settings_parse_flags(&w->next, &w->n_args, w->args, &w->err);
    }
    if (w->rc == TT_OK) {
        w->rc = tt_settings_check(&w->next, &w->err);
    }
    if (w->rc == TT_OK) {
        w->rc = tt_tenants_read(&w->next, &w->keys, &w->err);
    }
}

/* What will be in force has to be consistent too: address and keys, of which one cannot change. */
static tt_code check_together(const tt_settings *now, const tt_settings *next, tt_err *reterr)
{
    tt_settings both = *now; /* borrows from the two */
    for (int i = 0; i < tt_n_settings; i++) {
        if (tt_setting_reloads(&tt_setting_table[i])) {
            tt_settings_take(&both, next, &tt_setting_table[i]);
        }
    }
    return tt_settings_check(&both, reterr);
}

static void tell_row(const tt_settings *now, const tt_settings *next, const tt_setting *row)
{
    char from[VALUE_BYTES] = "(not shown)", to[VALUE_BYTES] = "(not shown)";
    bool reloads = tt_setting_reloads(row);
    tt_log_record r;
    if (!tt_setting_secret(row)) {
        tt_settings_text(now, row, from, sizeof from);
        tt_settings_text(next, row, to, sizeof to);
    }
    if (tt_log_begin(&r, reloads ? TT_LOG_INFO : TT_LOG_WARN,
                     reloads ? "reload: changed" : "reload: needs a restart")) {
        tt_log_text(&r, "setting", row->key);
        tt_log_bytes(&r, "from", from, strlen(from));
        tt_log_bytes(&r, "to", to, strlen(to));
        tt_log_end(&r);
    }
}

/* What was copied out of the settings at the start. */
static void apply(tt_server *s)
{
    const tt_settings *set = s->settings;
    tt_log_configure((tt_log_level)set->log_level, set->log_format == 1);
    tt_session_store_set_ttl(s->sessions, set->session_ttl);
    tt_job_table_set_retention(s->jobs, set->jobs_retention, (int32_t)set->jobs_max_finished);
    s->keyed = tt_settings_keyed(set);
}

static tt_code take_over(reload_work *w, tt_err *err)
{
    tt_reload *r = w->reload;
    tt_server *s = r->server;
    tt_buf what = {0};
    int n_changed = 0, n_waiting = 0;
    tt_code rc = check_together(r->settings, &w->next, err);
    if (rc == TT_OK) {
        rc = tt_tenants_update(&s->tenants, &w->keys, tt_now(), &what, err);
    }
    if (rc < 0) {
        tt_buf_finish(&what);
        return rc;
    }
    for (int i = 0; i < tt_n_settings; i++) {
        const tt_setting *row = &tt_setting_table[i];
        bool reloads = tt_setting_reloads(row);
        if (!tt_settings_same(r->settings, &w->next, row)) {
            n_changed += reloads;
            n_waiting += !reloads;
            tell_row(r->settings, &w->next, row);
        }
        if (reloads) {
            tt_settings_take(r->settings, &w->next, row);
        }
    }
    tt_settings_finish(&r->last); /* nothing points into it any more */
    r->last = w->next;
    w->next = (tt_settings){0};
    apply(s);
    tt_buf_putc(&what, '\0');
    tt_log(TT_LOG_INFO, "reload: done: %d settings changed, %d need a restart, keys: %s", n_changed,
           n_waiting,
           what.failed  ? "changed"
           : what.n > 1 ? what.p
                        : "as before");
    tt_buf_finish(&what);
    return TT_OK;
}

static void on_read(tt_work *work)
{
    reload_work *w = (reload_work *)(void *)work;
    tt_reload *r = w->reload;
    if (w->rc == TT_OK) {
        w->rc = take_over(w, &w->err);
    }
    if (w->rc < 0) {
        tt_log(TT_LOG_ERROR, "reload: failed, everything stays as it was: %s", w->err.msg);
        r->server->metrics.reloads_failed++;
    } else {
        r->server->metrics.reloads++;
    }
    tt_key_list_finish(&w->keys);
    tt_settings_finish(&w->next);
    free(w->args);
    free(w);
    r->reading = false;
    if (r->again) {
        r->again = false;
        tt_reload_now(r);
    } else {
        tt_health_tell_reload(r->server, true);
    }
}

void tt_reload_now(tt_reload *r)
{
    if (r->reading || r->settings->argv == NULL) {
        r->again = r->reading;
        return;
    }
    int n = r->settings->argc;
    reload_work *w = calloc(1, sizeof *w);
    char **args = calloc((size_t)n + 1, sizeof(char *));
    if (w == NULL || args == NULL) {
        tt_log(TT_LOG_ERROR, "reload: failed, everything stays as it was: out of memory");
        free(w);
        free(args);
        return;
    }
    memcpy(args, r->settings->argv, (size_t)n * sizeof(char *));
    w->work.run = read_files;
    w->work.done = on_read;
    w->reload = r;
    w->args = args;
    w->n_args = n;
    r->reading = true;
    tt_health_tell_reload(r->server, false);
    tt_work_submit(r->server, &w->work);
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)number;
    tt_reload_now(handle->data);
}

static void on_closed(uv_handle_t *handle)
{
    tt_reload *r = handle->data;
    tt_settings_finish(&r->last);
    free(r);
}

tt_code tt_reload_start(tt_server *s, tt_settings *settings, tt_reload **ret, tt_err *reterr)
{
    tt_reload *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    *r = (tt_reload){.server = s, .settings = settings};
    uv_signal_init(&s->loop, &r->sighup);
    r->sighup.data = r;
    *ret = r; /* closed by tt_reload_stop() in any case */
    return uv_signal_start(&r->sighup, on_signal, SIGHUP) == 0
               ? TT_OK
               : tt_fail(reterr, TT_E_IO, "cannot listen for SIGHUP");
}

void tt_reload_stop(tt_reload **reload)
{
    if (*reload != NULL) {
        uv_close((uv_handle_t *)&(*reload)->sighup, on_closed);
        *reload = NULL;
    }
}
