/* job_setup.c - see job_setup.h. */
#include "server/job_setup.h"

#include <stdio.h>

#include "server/job_state.h"
#include "server/job_table.h"
#include "server/log.h"
#include "server/quota.h"
#include "server/session_load.h"

/* Every event of a job that the table reads. */
static void watch(void *arg, const tt_event *ev)
{
    tt_server *s = arg;
    if (ev->type == TT_EV_ADAPT) {
        tt_histogram_add(&s->metrics.qttt_step, ev->u.adapt.seconds);
    } else if (ev->type == TT_EV_ADAPTED) {
        tt_metrics_qttt(&s->metrics, ev->u.adapted.status);
    } else if (ev->type == TT_EV_ERROR) { /* ended without a result */
        tt_metrics_qttt(&s->metrics, ev->u.error.code == TT_E_CANCELLED ? "cancelled" : "failed");
    }
}

static bool durable(void *arg)
{
    const tt_server *s = arg;
    return tt_state_durable(s->state);
}

/* The log's line of a job, also of a request's training. */
static void on_ended(void *arg, const tt_job_record *r)
{
    tt_server *s = arg;
    tt_log_record l;
    tt_tenant *tenant = tt_tenants_of_scope(&s->tenants, r->scope);
    double from = r->started_at > 0 ? r->started_at : r->finished_at;
    if (tenant != NULL && r->have_result) {
        tenant->trained_tokens += (uint64_t)r->result.trained_tokens;
    }
    if (!tt_log_begin(&l, r->status == TT_JOB_FAILED ? TT_LOG_WARN : TT_LOG_INFO, "job")) {
        return;
    }
    tt_log_text(&l, "job", r->id);
    tt_log_text(&l, "key", tt_tenant_name(tenant));
    tt_log_text(&l, "model", r->model);
    tt_log_text(&l, "session", r->session_id);
    tt_log_text(&l, "status", tt_job_status_text(r->status));
    tt_log_text(&l, "outcome",
                r->status == TT_JOB_FAILED ? r->error_code
                : r->have_result           ? r->result.stop_reason
                                           : NULL);
    tt_log_int(&l, "steps", r->steps_done);
    tt_log_int(&l, "context_tokens", r->n_context);
    tt_log_int(&l, "trained_tokens", r->have_result ? r->result.trained_tokens : 0);
    if (r->have_result) {
        tt_log_text(&l, "kept", r->result.kept ? "true" : "false");
    }
    tt_log_ms(&l, "queue_ms", from - r->created_at);
    tt_log_ms(&l, "total_ms", r->finished_at - r->created_at);
    tt_log_end(&l);
}

tt_code tt_jobs_start(tt_server *s, tt_err *reterr)
{
    const tt_settings *set = s->settings;
    return tt_job_table_create(
        &(tt_job_table_options){.max_events = (int32_t)set->jobs_max_events,
                                .retention_seconds = set->jobs_retention,
                                .max_finished = (int32_t)set->jobs_max_finished,
                                .now = tt_unix_now,
                                .watch = watch,
                                .changed = tt_job_state_changed,
                                .gone = tt_job_state_gone,
                                .hold = tt_job_state_hold,
                                .durable = durable,
                                .on_ended = on_ended,
                                .arg = s},
        &s->jobs, reterr);
}

/* Requests that run keep the generation that they began with: the engine holds its adapter. */
static void publish(tt_job_record *r, void *arg)
{
    tt_session_adopt(arg, &r->result, r->id, &r->generation_after);
}

static void release(void *arg)
{
    tt_session_record *ses = arg;
    tt_session_unref(&ses);
}

static tt_code create_job(tt_server *s, tt_session_record *ses, const tt_qttt_params *q,
                          tt_job **ret_job, tt_err *reterr)
{
    tt_job_params p = {.kind = TT_JOB_TRAIN,
                       .n_logprobs = -1,
                       .n_prompt_logprobs = -1,
                       .qttt = *q,
                       .session_tag = ses->tag,
                       .pin_adapter = true};
    tt_code rc = tt_session_load_now(ses, reterr); /* is in memory already, but after a restart */
    if (rc < 0) {
        return rc;
    }
    p.prompt = tt_session_context(ses->data, &p.n_prompt);
    p.qttt.mode = TT_QTTT_ON;
    p.qttt.context_tokens = p.n_prompt;
    snprintf(p.adapter_scope, sizeof p.adapter_scope, "%s", ses->scope);
    return tt_job_create(&p, tt_server_wake, &s->wake, ret_job, reterr);
}

tt_code tt_jobs_train(tt_server *s, tt_session_record *ses, const tt_qttt_request *q,
                      const char *metadata, tt_job_record **ret_record, tt_err *reterr)
{
    tt_job *job = NULL;
    tt_job_record *r = NULL;
    tt_session_generation latest = {0};
    tt_qttt_params params = q->params;
    if (q->from_latest && tt_session_choose(ses->data, -1, &latest) == TT_OK) {
        params.start_adapter = latest.adapter_id;
    }
    tt_code rc = tt_quota_job(s, ses->scope, reterr);
    rc = rc == TT_OK ? create_job(s, ses, &params, &job, reterr) : rc;
    if (rc < 0) {
        return rc;
    }
    rc = tt_job_table_open(s->jobs,
                           &(tt_job_open){.scope = ses->scope,
                                          .key = ses->id + 4,
                                          .session_id = ses->id,
                                          .model = s->served->name,
                                          .metadata = metadata,
                                          .after_n = (int32_t)ses->n_jobs,
                                          .generation = tt_session_latest(ses->data),
                                          .jobs = &job,
                                          .n_jobs = 1,
                                          .publish = publish,
                                          .release = release,
                                          .arg = ses},
                           &r, reterr);
    if (rc == TT_OK) {
        tt_session_ref(ses); /* the record's */
        rc = tt_engine_submit(s->engine, job, reterr);
    }
    tt_job_unref(&job);
    if (rc < 0) {
        if (r != NULL) {
            tt_job_table_discard(s->jobs, r);
        }
        tt_job_record_unref(&r);
        return rc;
    }
    ses->n_jobs = r->n;
    tt_session_touch(ses);
    *ret_record = r;
    return TT_OK;
}

tt_code tt_jobs_go_on(tt_server *s, tt_job_record *r, tt_err *reterr)
{
    tt_session_record *ses = tt_session_store_find(s->sessions, r->scope, r->session_id);
    tt_job *job = NULL;
    if (ses == NULL) {
        return tt_fail(reterr, TT_E_INVALID, "the session is gone");
    }
    tt_code rc = create_job(s, ses, &r->params, &job, reterr);
    if (rc < 0) {
        return rc;
    }
    tt_job_pause(job, r->pause_asked);
    rc = tt_engine_submit(s->engine, job, reterr);
    if (rc == TT_OK) {
        rc = tt_job_table_attach(s->jobs, r, job, reterr);
        if (rc < 0) {
            tt_job_cancel(job, false);
        }
    }
    if (rc == TT_OK) {
        r->publish = publish;
        r->release = release;
        r->arg = ses;
        tt_session_ref(ses);
    }
    tt_job_unref(&job);
    return rc;
}

void tt_jobs_session_prefilled(tt_server *s, tt_session_record *ses)
{
    tt_job_record *r = NULL;
    tt_err err = {0};
    if (ses->n_jobs > 0 || ses->qttt_parsed.params.mode != TT_QTTT_ON) {
        return;
    }
    if (tt_jobs_train(s, ses, &ses->qttt_parsed, NULL, &r, &err) < 0) {
        tt_log(TT_LOG_WARN, "session %s: its job is not accepted: %s", ses->id, err.msg);
    } else {
        tt_job_state_changed(s, r);
    }
    tt_job_record_unref(&r);
}
