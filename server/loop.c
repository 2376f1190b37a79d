/* loop.c - see loop.h. Phases: server.h. The engine thread reports through one uv_async; the
 * model's load ends in a worker that compiles the chat template. */
#include "server/loop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/diagnostics.h"
#include "server/engine_options.h"
#include "server/generation.h"
#include "server/health.h"
#include "server/http.h"
#include "server/idempotency_state.h"
#include "server/job_setup.h"
#include "server/job_state.h"
#include "server/job_stream.h"
#include "server/job_table.h"
#include "server/listen.h"
#include "server/log.h"
#include "server/reload.h"
#include "server/session_setup.h"
#include "server/state_setup.h"
#include "server/work.h"

enum { CLOSE_WAIT_MS = 200, LOST_WAIT_MS = 100 };
#define LOST_SECONDS 5.0 /* for answers under way, and for probes, when the device has failed */

double tt_now(void)
{
    return (double)uv_hrtime() * 1e-9;
}

double tt_unix_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void on_tick(uv_timer_t *t)
{
    tt_server *s = t->data;
    uint64_t ms = tt_generations_tick(s), other = tt_job_streams_tick(s);
    ms = ms == 0 || (other > 0 && other < ms) ? other : ms;
    if (ms > 0) {
        uv_timer_start(&s->tick, on_tick, ms, 0);
    }
}

void tt_server_arm_tick(tt_server *s)
{
    uv_timer_start(&s->tick, on_tick, 1, 0); /* it finds the next due time itself */
}

/* ---- loading ---- */

typedef struct serve_work {
    tt_work work;
    tt_served *served;
    tt_err err;
} serve_work;

static void compile_in_pool(tt_work *w)
{
    serve_work *sw = (serve_work *)(void *)w;
    const tt_settings *set = w->server->settings;
    tt_code rc = tt_served_create(w->server->engine, set->model_name, set->qttt_alias, &sw->served,
                                  &sw->err);
    if (rc == TT_OK) {
        sw->served->parse_special = set->parse_special;
    }
}

static void stop_loop(tt_server *s, int status)
{
    s->exit_status = status;
    s->phase = TT_PHASE_STOPPING;
    uv_stop(&s->loop);
}

static void on_compiled(tt_work *w)
{
    serve_work *sw = (serve_work *)(void *)w;
    tt_server *s = w->server;
    if (sw->served == NULL) {
        tt_log(TT_LOG_ERROR, "%s", sw->err.msg);
        stop_loop(s, 1);
    } else {
        s->served = sw->served;
        tt_sessions_ready(s);
        if (s->served->template_report[0] != '\0') {
            tt_log(TT_LOG_WARN, "%s", s->served->template_report);
        }
        if (s->phase == TT_PHASE_LOADING) {
            s->phase = TT_PHASE_READY;
            tt_health_tell_phase(s);
        }
        tt_log(TT_LOG_INFO, "ready: %s (%s, %s), context %d, %s, kernels %s, %d threads, %.2f s",
               s->served->name, s->served->model->arch, s->served->model->quant,
               (int)s->served->max_context, tt_engine_device(s->engine), tt_engine_isa(s->engine),
               tt_engine_threads(s->engine), tt_now() - s->started);
        tt_job_state_resume(s);
    }
    free(sw);
}

/* Engine thread. */
static void on_engine_state(void *arg, tt_engine_state state, const tt_err *err)
{
    tt_server *s = arg;
    if (err != NULL) {
        s->engine_error = *err;
    }
    atomic_store(&s->engine_state, (int)state);
    uv_async_send(&s->wake);
}

static void watch_drain(uv_timer_t *t);

/* Requests have their errors by now. They get a moment to be read, then the process ends, so that
 * its supervisor starts another. */
static void lose_device(tt_server *s)
{
    tt_log(TT_LOG_ERROR, "the device has failed, the process ends: %s", s->engine_error.msg);
    s->exit_status = TT_EXIT_LOST;
    double until = tt_now() + LOST_SECONDS;
    if (s->phase < TT_PHASE_DRAINING || s->drain_deadline > until) {
        s->phase = TT_PHASE_DRAINING;
        s->drain_deadline = until;
    }
    tt_health_tell_phase(s);
    uv_timer_start(&s->drain_timer, watch_drain, LOST_WAIT_MS, 0);
}

static void follow_engine(tt_server *s)
{
    int state = atomic_load(&s->engine_state);
    if (state == s->engine_seen) {
        return;
    }
    s->engine_seen = state;
    if (state == TT_ENGINE_FAILED) {
        tt_code rc = s->engine_error.code;
        fprintf(stderr, "qttt: %s\n", s->engine_error.msg);
        stop_loop(s, rc == TT_E_CAPACITY ? TT_EXIT_USAGE : tt_exit_status(rc));
    } else if (state == TT_ENGINE_LOST) {
        lose_device(s);
    } else if (state == TT_ENGINE_READY) {
        serve_work *sw = calloc(1, sizeof *sw);
        if (sw == NULL) {
            stop_loop(s, 1);
            return;
        }
        sw->work.run = compile_in_pool;
        sw->work.done = on_compiled;
        tt_work_submit(s, &sw->work);
    }
}

static void on_wake(uv_async_t *a)
{
    tt_server *s = a->data;
    follow_engine(s);
    tt_server_poll_state(s);
    tt_generations_poll(s);
    tt_diagnostics_poll(s);
    tt_session_store_poll(s->sessions);
    tt_job_table_poll(s->jobs);
    tt_job_state_resume(s);
}

/* ---- draining ---- */

static void stop_now(uv_timer_t *t)
{
    tt_server *s = t->data;
    stop_loop(s, s->exit_status);
}

/* The bound has passed, or there was a second signal: streams are told, and get a moment to hear
 * it. */
static void cut_short(uv_timer_t *t)
{
    tt_server *s = t->data;
    if (s->n_generations > 0) {
        tt_log(TT_LOG_WARN, "drain: %d requests cut short", (int)s->n_generations);
    }
    tt_job_state_freeze(s);
    tt_generations_cut(s);
    tt_diagnostics_cut(s);
    tt_job_streams_cut(s);
    uv_timer_start(&s->drain_timer, stop_now, CLOSE_WAIT_MS, 0);
}

static void watch_drain(uv_timer_t *t)
{
    tt_server *s = t->data;
    double left = s->drain_deadline - tt_now();
    if (tt_http_active(s->http) == 0 && s->n_generations == 0) {
        stop_now(t);
    } else if (left <= 0) {
        cut_short(t);
    } else {
        uv_timer_start(t, watch_drain, 20, 0);
    }
}

static void begin_drain(uv_timer_t *t)
{
    tt_server *s = t->data;
    s->phase = TT_PHASE_DRAINING;
    s->drain_deadline = tt_now() + s->settings->drain_timeout;
    tt_log(TT_LOG_INFO, "drain: %d requests are finishing", tt_http_active(s->http));
    watch_drain(t);
}

static void on_signal(uv_signal_t *sig, int number)
{
    tt_server *s = sig->data;
    if (s->phase >= TT_PHASE_STOPPING) {
        return;
    }
    if (s->phase >= TT_PHASE_LEAVING) {
        tt_log(TT_LOG_INFO, "second signal: stopping now");
        s->phase = TT_PHASE_DRAINING;
        cut_short(&s->drain_timer);
        return;
    }
    tt_log(TT_LOG_INFO, "%s: stopping", number == SIGTERM ? "SIGTERM" : "SIGINT");
    s->phase = TT_PHASE_LEAVING;
    tt_health_tell_phase(s);
    uint64_t delay = (uint64_t)(s->settings->drain_delay * 1000);
    uv_timer_start(&s->drain_timer, begin_drain, delay, 0);
}

/* ---- life ---- */

static int init_handles(tt_server *s)
{
    if (uv_loop_init(&s->loop) != 0) {
        return -1;
    }
    if (uv_async_init(&s->loop, &s->wake, on_wake) != 0) {
        uv_loop_close(&s->loop);
        return -1;
    }
    uv_timer_init(&s->loop, &s->tick);
    uv_timer_init(&s->loop, &s->session_timer);
    uv_timer_init(&s->loop, &s->flush_timer);
    uv_timer_init(&s->loop, &s->job_timer);
    uv_timer_init(&s->loop, &s->drain_timer);
    uv_signal_init(&s->loop, &s->sigterm);
    uv_signal_init(&s->loop, &s->sigint);
    s->wake.data = s->tick.data = s->session_timer.data = s->flush_timer.data = s->job_timer.data =
        s->drain_timer.data = s->sigterm.data = s->sigint.data = s;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN); /* until reload.c listens for it */
    if (uv_signal_start(&s->sigterm, on_signal, SIGTERM) != 0 ||
        uv_signal_start(&s->sigint, on_signal, SIGINT) != 0) {
        return -1;
    }
    return 0;
}

static void close_handles(tt_server *s)
{
    tt_health_stop(&s->health);
    tt_reload_stop(&s->reload);
    uv_close((uv_handle_t *)&s->wake, NULL);
    uv_close((uv_handle_t *)&s->tick, NULL);
    uv_close((uv_handle_t *)&s->session_timer, NULL);
    uv_close((uv_handle_t *)&s->flush_timer, NULL);
    uv_close((uv_handle_t *)&s->job_timer, NULL);
    uv_close((uv_handle_t *)&s->drain_timer, NULL);
    uv_close((uv_handle_t *)&s->sigterm, NULL);
    uv_close((uv_handle_t *)&s->sigint, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT); /* close callbacks, and workers that still run */
    uv_loop_close(&s->loop);
}

static tt_code announce(const tt_server *s, tt_err *reterr)
{
    const tt_settings *set = s->settings;
    int port = tt_http_port(s->http);
    if (set->unix_socket[0] != '\0') {
        printf("listening on unix:%s\n", set->unix_socket);
    } else {
        bool v6 = set->host[0] != '\0' && strchr(set->host, ':') != NULL;
        printf("listening on http://%s%s%s:%d\n", v6 ? "[" : "", set->host, v6 ? "]" : "", port);
    }
    fflush(stdout);
    return set->port_file[0] != '\0' ? tt_listen_write_port(set->port_file, port, reterr) : TT_OK;
}

static void shut_down(tt_server *s)
{
    bool listened = s->http != NULL; /* else the files below are another process's */
    tt_job_state_freeze(s);
    tt_generations_cut(s);
    tt_diagnostics_cut(s);
    tt_job_streams_cut(s);
    tt_http_stop(&s->http);
    while (s->n_working > 0 || s->work_first != NULL) { /* workers use the engine's tokenizer */
        uv_run(&s->loop, UV_RUN_ONCE);
    }
    tt_engine_destroy(&s->engine); /* jobs' last wakes still find s->wake */
    tt_sessions_flush(s);
    tt_server_close_state(s);
    close_handles(s);
    tt_sessions_end(s);
    tt_job_table_destroy(&s->jobs);
    tt_idem_destroy(&s->idempotency);
    tt_tenants_finish(&s->tenants);
    tt_served_destroy(&s->served);
    if (listened && s->settings->unix_socket[0] != '\0') {
        remove(s->settings->unix_socket);
    }
    if (listened && s->settings->port_file[0] != '\0') {
        remove(s->settings->port_file);
    }
}

/* One of the engine's threads. */
static void on_engine_warning(void *arg, const char *text)
{
    tt_log(TT_LOG_WARN, "%s", text);
}

/* What the loop thread keeps between requests. */
static tt_code create_tables(tt_server *s, tt_err *reterr)
{
    tt_code rc = tt_idem_state_start(s, reterr);
    if (rc == TT_OK) {
        rc = tt_jobs_start(s, reterr);
    }
    if (rc == TT_OK) {
        rc = tt_sessions_start(s, reterr);
    }
    return rc < 0 ? rc : tt_job_state_restore(s, reterr);
}

static tt_code read_keys(tt_server *s, tt_err *reterr)
{
    tt_key_list keys = {0};
    tt_code rc = tt_tenants_read(s->settings, &keys, reterr);
    if (rc == TT_OK) {
        rc = tt_tenants_update(&s->tenants, &keys, tt_now(), NULL, reterr);
    }
    s->keyed = tt_settings_keyed(s->settings);
    tt_key_list_finish(&keys);
    return rc;
}

int tt_serve(tt_settings *settings)
{
    tt_err err = {0};
    tt_engine_options options;
    tt_server *s = calloc(1, sizeof *s);
    if (s == NULL || init_handles(s) != 0) {
        fprintf(stderr, "qttt: cannot start the event loop\n");
        free(s);
        return 1;
    }
    s->settings = settings;
    s->started = tt_now();
    s->started_unix = (int64_t)time(NULL);
    s->engine_seen = TT_ENGINE_LOADING;
    atomic_init(&s->engine_state, TT_ENGINE_LOADING);
    tt_code rc = tt_engine_options_from(settings, &options, &s->device, &err);
    if (rc != TT_OK) {
        s->exit_status = tt_exit_status(rc);
    }
    if (rc == TT_OK) {
        rc = read_keys(s, &err);
    }
    if (rc == TT_OK) {
        rc = tt_server_open_state(s, &err);
    }
    if (rc == TT_OK) {
        rc = create_tables(s, &err);
    }
    if (rc == TT_OK) {
        rc = tt_health_start(s, &s->health, &err);
    }
    if (rc == TT_OK) {
        rc = tt_reload_start(s, settings, &s->reload, &err);
    }
    if (rc == TT_OK) {
        rc = tt_http_start(s, &s->http, &err);
    }
    if (rc == TT_OK) {
        rc = announce(s, &err);
    }
    if (rc == TT_OK && s->state_dir[0] != '\0') {
        snprintf(s->page_folder, sizeof s->page_folder, "%s/pages", s->state_dir);
        options.page_folder = s->page_folder;
        snprintf(s->adapter_folder, sizeof s->adapter_folder, "%s/adapters", s->state_dir);
        options.adapter_folder = s->adapter_folder;
        options.page_store_bytes = (uint64_t)settings->state_max_bytes;
    }
    if (rc == TT_OK) {
        tt_log(s->device.wanted ? TT_LOG_WARN : TT_LOG_INFO, "%s", s->device.why);
        options.on_warning = on_engine_warning;
        options.on_state = on_engine_state;
        options.on_state_arg = s;
        rc = tt_engine_create(&options, &s->engine, &err);
    }
    if (rc < 0) {
        fprintf(stderr, "qttt: %s\n", err.msg);
        s->exit_status = s->exit_status != 0  ? s->exit_status
                         : rc == TT_E_INVALID ? TT_EXIT_USAGE
                                              : TT_EXIT_FAILED;
    } else {
        uv_run(&s->loop, UV_RUN_DEFAULT);
    }
    int status = s->exit_status;
    shut_down(s);
    free(s);
    return status;
}
