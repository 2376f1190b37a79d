/* api_ops.c - what operators and orchestrators ask: health probes and metrics. Thread: the loop
 * thread; nothing here waits for the engine. */
#include <stdio.h>

#include "server/api.h"
#include "server/health.h"
#include "server/server.h"
#include "server/session_store.h"
#include "server/state_db.h"

static void probe(tt_http_request *req, int status, const char *text, bool with_state)
{
    tt_buf b = {0};
    const tt_served *sv = req->server->served;
    tt_buf_puts(&b, "{\"status\":");
    tt_buf_puts_json(&b, text);
    if (sv != NULL) {
        tt_buf_puts(&b, ",\"model\":");
        tt_buf_puts_json(&b, sv->name);
    }
    if (with_state) { /* degraded: it serves, but what it says is done is in memory only */
        const tt_server *s = req->server;
        tt_buf_puts(&b, ",\"state\":");
        tt_buf_puts_json(&b, s->state == NULL                    ? "off"
                             : tt_state_degraded(s->state, NULL) ? "degraded"
                                                                 : "durable");
        tt_err why = {0};
        bool degraded = tt_state_degraded(s->state, &why);
        tt_buf_member_text(&b, "state_message", degraded ? why.msg : tt_state_note(s->state));
    }
    tt_buf_putc(&b, '}');
    if (status == 503) {
        tt_http_header(req, "Retry-After", "1");
    }
    tt_http_reply(req, status, "application/json", &b);
}

/* The loop lives, or nobody would answer; the engine's watchdog may say otherwise. */
void tt_api_livez(tt_http_request *req)
{
    const tt_server *s = req->server;
    bool alive = tt_health_alive(s);
    char lost[sizeof s->engine_error.msg + 32];
    snprintf(lost, sizeof lost, "the device has failed: %s", s->engine_error.msg);
    probe(req, alive ? 200 : 503,
          alive               ? "ok"
          : tt_health_lost(s) ? lost
                              : "the engine makes no progress",
          false);
}

void tt_api_readyz(tt_http_request *req)
{
    tt_server *s = req->server;
    if (s->phase >= TT_PHASE_LEAVING) {
        probe(req, 503, "draining", true);
    } else if (s->served == NULL) {
        probe(req, 503, "loading", true);
    } else {
        probe(req, 200, "ok", true);
    }
}

void tt_api_startupz(tt_http_request *req)
{
    bool started = req->server->served != NULL;
    probe(req, started ? 200 : 503, started ? "ok" : "loading", false);
}

void tt_api_metrics(tt_http_request *req)
{
    tt_server *s = req->server;
    tt_engine_stats st = {0};
    if (s->engine != NULL && s->served != NULL) {
        tt_engine_get_stats(s->engine, &st);
    }
    tt_buf b = {0};
    tt_session_counts sessions = tt_session_store_counts(s->sessions);
    tt_metrics_write(
        &b, &s->metrics, &st,
        &(tt_metrics_page){.model_name = s->served != NULL ? s->served->name : NULL,
                           .uptime_seconds = tt_now() - s->started,
                           .started_unix = (double)s->started_unix,
                           .ready = s->served != NULL && s->phase < TT_PHASE_LEAVING,
                           .draining = s->phase >= TT_PHASE_LEAVING,
                           .alive = tt_health_alive(s),
                           .stalled_seconds = tt_health_stalled(s),
                           .stalls = tt_health_stalls(s),
                           .open_requests = tt_http_active(s->http),
                           .max_requests = s->settings->max_requests,
                           .max_queued_jobs = s->settings->qttt_max_queued_jobs,
                           .max_sessions = s->settings->max_sessions,
                           .adapter_bytes_limit = s->settings->adapter_cache,
                           .state_on = s->state != NULL,
                           .state_degraded = tt_state_degraded(s->state, NULL),
                           .state = tt_state_get_counts(s->state),
                           .sessions = sessions.sessions,
                           .session_bytes = (int64_t)sessions.bytes,
                           .device = s->served != NULL ? tt_engine_device(s->engine) : NULL,
                           .kernels = s->served != NULL ? tt_engine_isa(s->engine) : NULL,
                           .gpu = s->device.info,
                           .max_context = s->served != NULL ? s->served->max_context : 0});
    tt_tenants_metrics(&s->tenants, &b);
    tt_http_reply(req, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}
