/* health.c - see health.h. */
#include "server/health.h"

#include <inttypes.h>
#include <stdlib.h>

#include "server/log.h"
#include "server/notify.h"
#include "server/server.h"

struct tt_health {
    tt_server *server;
    tt_notify notify;
    uv_timer_t timer;
    uint64_t stalls;
    bool stalled; /* as last seen by the timer */
};

static void on_timer(uv_timer_t *t)
{
    tt_health *h = t->data;
    tt_server *s = h->server;
    double seconds = tt_health_stalled(s);
    bool alive = tt_health_alive(s), lost = tt_health_lost(s);
    if (!alive && !h->stalled && !lost) {
        h->stalls++;
        tt_log(TT_LOG_ERROR, "watchdog: work is pending and nothing has moved for %.0f s", seconds);
    } else if (alive && h->stalled) {
        tt_log(TT_LOG_WARN, "watchdog: the engine moves again");
    }
    h->stalled = !alive && !lost;
    if (alive && h->notify.watchdog_seconds > 0) {
        tt_notify_send(&h->notify, "WATCHDOG=1");
    }
}

/* Twice within the manager's patience, four times within our own. */
static uint64_t interval_ms(const tt_health *h)
{
    double seconds = h->server->settings->watchdog_seconds / 4;
    if (h->notify.watchdog_seconds > 0 && h->notify.watchdog_seconds / 2 < seconds) {
        seconds = h->notify.watchdog_seconds / 2;
    }
    return seconds < 0.001 ? 1 : (uint64_t)(seconds * 1000);
}

tt_code tt_health_start(tt_server *s, tt_health **ret, tt_err *reterr)
{
    tt_err err;
    tt_health *h = calloc(1, sizeof *h);
    if (h == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    h->server = s;
    if (tt_notify_init(&h->notify, &err) < 0) {
        tt_log(TT_LOG_WARN, "%s", err.msg);
    }
    uv_timer_init(&s->loop, &h->timer);
    h->timer.data = h;
    uint64_t ms = interval_ms(h);
    uv_timer_start(&h->timer, on_timer, ms, ms);
    *ret = h;
    return TT_OK;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void tt_health_stop(tt_health **health)
{
    tt_health *h = *health;
    *health = NULL;
    if (h != NULL) {
        tt_notify_finish(&h->notify);
        uv_close((uv_handle_t *)&h->timer, on_closed);
    }
}

double tt_health_stalled(const tt_server *s)
{
    tt_engine_stats st = {0};
    if (s->engine != NULL && s->served != NULL) {
        tt_engine_get_stats(s->engine, &st);
    }
    double seconds = st.pending ? tt_now() - st.last_progress_seconds : 0;
    return seconds > 0 ? seconds : 0;
}

bool tt_health_lost(const tt_server *s)
{
    return s->engine_seen == TT_ENGINE_LOST;
}

bool tt_health_alive(const tt_server *s)
{
    return !tt_health_lost(s) && tt_health_stalled(s) <= s->settings->watchdog_seconds;
}

uint64_t tt_health_stalls(const tt_server *s)
{
    return s->health != NULL ? s->health->stalls : 0;
}

void tt_health_tell_phase(tt_server *s)
{
    if (s->health == NULL) {
        return;
    }
    const tt_notify *n = &s->health->notify;
    if (s->phase == TT_PHASE_READY) {
        tt_notify_send(n, "READY=1\nSTATUS=serving %.100s", s->served->name);
    } else if (s->phase == TT_PHASE_LEAVING) {
        tt_notify_send(n, "STOPPING=1\nSTATUS=draining");
    }
}

void tt_health_tell_reload(tt_server *s, bool ended)
{
    if (s->health == NULL || s->phase != TT_PHASE_READY) {
        return;
    }
    if (ended) {
        tt_health_tell_phase(s);
    } else {
        tt_notify_send(&s->health->notify,
                       "RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\nSTATUS=reloading",
                       (uint64_t)(tt_now() * 1e6));
    }
}
