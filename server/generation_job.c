/* generation_job.c - the job record of a request's training (job_record.h): what /v1/qttt/jobs
 * tells of it, and what cancels it while the request goes on. Thread: the loop thread. */
#include <string.h>

#include "server/generation_priv.h"
#include "server/job_table.h"
#include "server/quota.h"
#include "server/session_turn.h"

/* The session has taken the adapter already, and given it its number. */
static void published(tt_job_record *r, void *arg)
{
    const tt_generation *g = arg;
    r->generation_after = tt_session_turn_generation(g->prepared->turn);
}

tt_code tt_generation_open_record(tt_generation *g, tt_job *const *jobs, tt_err *reterr)
{
    tt_session_record *s =
        g->prepared->turn != NULL ? tt_session_turn_record(g->prepared->turn) : NULL;
    tt_job_open open = {.scope = g->http->scope,
                        .model = g->prepared->served->name,
                        .jobs = jobs,
                        .n_jobs = g->n_choices,
                        .in_request = true};
    tt_qttt_mode mode = tt_job_get_params(jobs[0])->qttt.mode;
    if (mode == TT_QTTT_OFF) {
        return TT_OK;
    }
    tt_code rc = mode == TT_QTTT_ON ? tt_quota_job(g->server, g->http->scope, reterr) : TT_OK;
    if (rc < 0) {
        return rc;
    }
    if (s != NULL) {
        open.key = s->id + TT_SESSION_PREFIX;
        open.session_id = s->id;
        open.after_n = (int32_t)s->n_jobs;
        open.generation = tt_session_latest(s->data);
        open.publish = published;
        open.arg = g;
    } else if (tt_session_is_key(g->http->id)) {
        open.key = g->http->id; /* by which a proxy has chosen this server */
    }
    rc = tt_job_table_open(g->server->jobs, &open, &g->record, reterr);
    if (rc == TT_OK && s != NULL) {
        s->n_jobs = g->record->n;
    }
    return rc;
}

static bool trained(const tt_qttt_result *q)
{
    return !q->cached && strcmp(q->status, "skipped") != 0;
}

void tt_generation_tell_record(tt_generation *g, const tt_event *ev)
{
    bool told = false;
    switch (ev->type) {
    case TT_EV_STARTED:
    case TT_EV_ADAPT:
    case TT_EV_PROBE:
    case TT_EV_STATUS:
    case TT_EV_ERROR:
        told = true;
        break;
    case TT_EV_ADAPTED: /* another sample may be training what this one has found nothing of */
        told = trained(&ev->u.adapted) ||
               (g->n_choices == 1 && strcmp(ev->u.adapted.status, "skipped") != 0);
        break;
    case TT_EV_PREFILL:
    case TT_EV_PROMPT_LOGPROBS:
    case TT_EV_TOKEN:
    case TT_EV_DIAGNOSIS:
    case TT_EV_DONE:
        break;
    }
    if (told && g->record != NULL) {
        tt_job_record_feed(g->record, ev, tt_unix_now());
    }
}

const char *tt_generation_record_id(const tt_generation *g)
{
    return g->record != NULL ? g->record->id : NULL;
}

const char *tt_generation_settle_record(tt_generation *g)
{
    if (g->record == NULL || g->adapted == NULL) {
        return NULL;
    }
    if (strcmp(g->adapted->qttt.status, "skipped") == 0) { /* there was no job */
        tt_job_table_discard(g->server->jobs, g->record);
        return NULL;
    }
    tt_event ev = {.type = TT_EV_ADAPTED, .u.adapted = g->adapted->qttt};
    tt_job_record_feed(g->record, &ev, tt_unix_now()); /* without effect when it was told */
    return g->record->id;
}

void tt_generation_close_record(tt_generation *g)
{
    if (g->record != NULL) {
        tt_job_record_close(g->record, tt_unix_now());
        tt_job_record_unref(&g->record);
    }
}
