/* job_json.c - see job_json.h. */
#include "server/job_json.h"

#include "server/api_qttt.h"

static void put_time(tt_buf *b, const char *key, double seconds)
{
    if (seconds > 0) {
        tt_buf_printf(b, ",\"%s\":%lld", key, (long long)seconds);
    } else {
        tt_buf_printf(b, ",\"%s\":null", key);
    }
}

static void put_result(tt_buf *b, const tt_job_record *r)
{
    const tt_qttt_result *q = &r->result;
    if (!r->have_result) {
        tt_buf_puts(b, "null");
        return;
    }
    tt_buf_printf(b, "{\"trained_tokens\":%lld,\"steps_done\":%d,\"steps_dropped\":%d",
                  (long long)q->trained_tokens, (int)q->steps_done, (int)q->n_dropped);
    tt_buf_member_double(b, "loss_first", q->loss_first);
    tt_buf_member_double(b, "loss_last", q->loss_last);
    tt_buf_puts(b, ",\"recall\":");
    tt_qttt_write_recall(b, q);
    tt_buf_member_double(b, "span_loss_before", q->span_loss_before);
    tt_buf_member_double(b, "span_loss_after", q->span_loss_after);
    tt_buf_printf(b, ",\"kept\":%s,\"cached\":%s", q->kept ? "true" : "false",
                  q->cached ? "true" : "false");
    tt_qttt_write_durable(b, q);
    tt_buf_member_double(b, "delta_norm_relative", q->delta_norm_relative);
    tt_buf_printf(b, ",\"generation_before\":%d,\"generation_after\":%d,\"adapter_bytes\":%lld",
                  (int)r->generation_before, (int)r->generation_after, (long long)q->adapter_bytes);
    tt_buf_member_double(b, "flops", q->flops);
    tt_buf_member_double(b, "equal_cost_tokens", q->equal_cost_tokens);
    tt_buf_member_double(b, "seconds", q->adapt_seconds);
    tt_buf_putc(b, '}');
}

static void put_queue(tt_buf *b, const tt_job_record *r)
{
    const char *reason;
    int32_t position = tt_job_record_position(r, &reason);
    if (position < 0) {
        tt_buf_puts(b, "null");
        return;
    }
    tt_buf_printf(b, "{\"position\":%d", (int)position);
    tt_buf_member_text(b, "reason", reason);
    tt_buf_putc(b, '}');
}

void tt_job_json_write(tt_buf *b, const tt_job_record *r, double now)
{
    tt_buf_puts(b, "{\"id\":");
    tt_buf_puts_json(b, r->id);
    tt_buf_puts(b, ",\"object\":\"qttt.job\"");
    put_time(b, "created_at", r->created_at);
    put_time(b, "started_at", r->started_at);
    put_time(b, "finished_at", r->finished_at);
    put_time(b, "estimated_finish", tt_job_record_estimate(r, now));
    tt_buf_member_text(b, "status", tt_job_status_text(r->status));
    tt_buf_puts(b, ",\"error\":");
    if (r->status == TT_JOB_FAILED) {
        tt_buf_puts(b, "{\"code\":");
        tt_buf_puts_json(b, r->error_code);
        tt_buf_member_text(b, "message", r->error_message);
        tt_buf_putc(b, '}');
    } else {
        tt_buf_puts(b, "null");
    }
    tt_buf_member_text(b, "model", r->model);
    tt_buf_member_text(b, "session_id", r->session_id);
    tt_buf_printf(b, ",\"seed\":%llu,\"hyperparameters\":", (unsigned long long)r->params.seed);
    tt_qttt_write_params(b, &r->params);
    tt_buf_puts(b, ",\"budget\":");
    tt_qttt_write_budget(b, &r->params);
    tt_buf_printf(b, ",\"steps_done\":%d", (int)r->steps_done);
    tt_buf_member_text(b, "stop_reason", r->have_result ? r->result.stop_reason : NULL);
    tt_buf_puts(b, ",\"result\":");
    put_result(b, r);
    tt_buf_puts(b, ",\"queue\":");
    put_queue(b, r);
    tt_buf_printf(b, ",\"durable\":%s,\"metadata\":", tt_job_record_durable(r) ? "true" : "false");
    tt_buf_puts(b, r->metadata);
    tt_buf_putc(b, '}');
}

static void put_data(tt_buf *b, const tt_job_event *ev)
{
    switch (ev->type) {
    case TT_JOB_EVENT_STEP:
        tt_buf_printf(b, "{\"step\":%d,\"span_start\":%d,\"span_tokens\":%d", (int)ev->u.step.step,
                      (int)ev->u.step.span_start, (int)ev->u.step.span_tokens);
        tt_buf_member_double(b, "loss", ev->u.step.loss);
        tt_buf_member_double(b, "grad_norm", ev->u.step.grad_norm);
        tt_buf_member_double(b, "learning_rate", ev->u.step.learning_rate);
        tt_buf_member_double(b, "seconds", ev->u.step.seconds);
        break;
    case TT_JOB_EVENT_PROBE:
        tt_buf_printf(b, "{\"phase\":\"%s\"", ev->u.probe.after ? "after" : "before");
        tt_buf_member_double(b, "recall", ev->u.probe.recall);
        tt_buf_member_double(b, "span_loss", ev->u.probe.span);
        break;
    case TT_JOB_EVENT_STATUS:
        tt_buf_printf(b, "{\"status\":\"%s\"", ev->u.status.status);
        tt_buf_member_text(b, "reason", ev->u.status.reason);
        break;
    }
    tt_buf_putc(b, '}');
}

void tt_job_json_event(tt_buf *b, const tt_job_event *ev)
{
    static const char *const types[] = {[TT_JOB_EVENT_STEP] = "step",
                                        [TT_JOB_EVENT_PROBE] = "probe",
                                        [TT_JOB_EVENT_STATUS] = "status"};
    static const char *const levels[] = {
        [TT_JOB_INFO] = "info", [TT_JOB_WARN] = "warn", [TT_JOB_ERROR] = "error"};
    tt_buf_printf(b,
                  "{\"sequence_number\":%lld,\"object\":\"qttt.job.event\",\"created_at\":%lld,"
                  "\"level\":\"%s\",\"type\":\"%s\",\"data\":",
                  (long long)ev->number, (long long)ev->created_at, levels[ev->level],
                  types[ev->type]);
    put_data(b, ev);
    tt_buf_putc(b, '}');
}
